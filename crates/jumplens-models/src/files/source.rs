//! A file that has been opened, wherever it came from.

use super::{Mapped, sha256};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// A file that has been opened, wherever it came from. Clones share the file and its digest.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// Its path, or for a bundled file its name in the bundle.
    pub path: PathBuf,
    bytes: Bytes,
    sha256: Arc<OnceLock<String>>,
}

#[derive(Debug, Clone)]
enum Bytes {
    Static(&'static [u8]),
    Mapped(Arc<Mapped>),
}

impl SourceFile {
    /// Opens a file on disk. [`Error::Pointer`] where a pointer of Git LFS or git-annex stands for it.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = Bytes::Mapped(Arc::new(Mapped::open(path)?));
        Ok(Self { path: path.to_owned(), bytes, sha256: Arc::default() })
    }

    /// A bundled file.
    pub fn bundled(path: impl Into<PathBuf>, bytes: &'static [u8]) -> Self {
        Self { path: path.into(), bytes: Bytes::Static(bytes), sha256: Arc::default() }
    }

    /// True where it is compiled into the program.
    pub fn is_bundled(&self) -> bool {
        matches!(self.bytes, Bytes::Static(_))
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Static(bytes) => bytes,
            Bytes::Mapped(map) => map,
        }
    }

    /// Gives back the memory of what has been read of it; it is read from the file again where it is wanted again.
    pub fn let_go(&self) {
        if let Bytes::Mapped(mapped) = &self.bytes {
            mapped.let_go();
        }
    }

    /// Sees that what was read of it is what it held when it was opened: [`Error::ChangedMeanwhile`].
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        match &self.bytes {
            Bytes::Mapped(mapped) if !mapped.is_as_opened() => {
                Err(Error::ChangedMeanwhile { path: self.path.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Lower-case hexadecimal SHA-256 of all of it, computed once.
    pub fn sha256(&self) -> String {
        self.sha256.get_or_init(|| sha256(self.bytes())).clone()
    }
}
