//! What version control leaves in the place of large files.

use std::fmt;

/// What stands for a large file in a clone of a repository that has not fetched it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pointer {
    /// Three lines of text that Git LFS replaces by the file: <https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md>.
    GitLfs {
        /// The size of the file in bytes, where the pointer has it.
        bytes: Option<u64>,
    },
    /// A line of text, or a link to nowhere, that git-annex replaces: <https://git-annex.branchable.com/internals/pointer_file/>.
    GitAnnex,
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::GitLfs { bytes: Some(bytes) } => write!(f, "a Git LFS pointer (to {bytes} bytes)"),
            Self::GitLfs { bytes: None } => f.write_str("a Git LFS pointer"),
            Self::GitAnnex => f.write_str("a git-annex pointer"),
        }
    }
}
