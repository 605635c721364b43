//! Files that are either whole or not there: written under a temporary name, then renamed. And files that are read, which
//! may be stood for by something else.

use crate::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::fmt;
use std::fs;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

/// Creates `path` and the folders above it.
pub(crate) fn create_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::io("create", path))
}

/// The name under which `path` is written before it is whole.
pub(crate) fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}

/// Writes a file through `write`, which gets a buffered writer on the temporary name; renames it when all went well,
/// removes it when not.
pub(crate) fn write_with(
    path: &Path,
    write: impl FnOnce(&mut std::io::BufWriter<fs::File>) -> std::io::Result<()>,
) -> Result<()> {
    replace_with(path, |part| {
        let mut writer = std::io::BufWriter::with_capacity(1 << 20, fs::File::create(part)?);
        write(&mut writer)?;
        writer.flush()
    })
}

/// As [`write_with`], for a `write` that opens the temporary name itself.
pub(crate) fn replace_with(path: &Path, write: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<()> {
    let part = temporary(path);
    write(&part).and_then(|()| fs::rename(&part, path)).map_err(|source| {
        let _ = fs::remove_file(&part);
        Error::Io { action: "write", path: path.to_owned(), source }
    })
}

/// Writes `bytes` to `path`, whole or not at all.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |writer| writer.write_all(bytes))
}

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

impl Pointer {
    /// Neither program writes a longer pointer, nor takes a longer file for one: 1,024 bytes, and 32 kB.
    const LONGEST: u64 = 32 << 10;

    /// The pointer that a file of these contents is.
    fn of(contents: &[u8]) -> Option<Self> {
        // The address of the version, with the two that pointers of Git LFS began with before it had a name.
        let begins = [
            "version https://git-lfs.github.com/spec/",
            "version https://hawser.github.com/spec/",
            "version http://git-media.io/v/",
        ];
        let contents = contents.strip_prefix(b"\xef\xbb\xbf").unwrap_or(contents);
        if contents.len() <= 1024 && begins.iter().any(|begin| contents.starts_with(begin.as_bytes())) {
            let text = String::from_utf8_lossy(contents);
            let size = text.lines().find_map(|line| line.strip_prefix("size "));
            return Some(Self::GitLfs { bytes: size.and_then(|size| size.trim().parse().ok()) });
        }
        let annexed = contents.starts_with(b"/annex/objects/") && contents.len() as u64 <= Self::LONGEST;
        annexed.then_some(Self::GitAnnex)
    }

    /// That of a link that leads nowhere.
    fn of_link(path: &Path) -> Option<Self> {
        let to = fs::read_link(path).ok()?;
        let mut parts = to.components().map(|part| part.as_os_str().to_owned());
        (parts.any(|part| part == "annex") && parts.next()? == "objects").then_some(Self::GitAnnex)
    }
}

/// Opens a file to read it. [`Error::Pointer`] where a pointer stands for it.
pub(crate) fn open(path: &Path) -> Result<fs::File> {
    let pointed = |pointer| Error::Pointer { path: path.to_owned(), pointer };
    let mut file = fs::File::open(path).map_err(|error| match Pointer::of_link(path) {
        Some(pointer) if error.kind() == std::io::ErrorKind::NotFound => pointed(pointer),
        _ => Error::io("read", path)(error),
    })?;
    let metadata = file.metadata().map_err(Error::io("read", path))?;
    // What is no plain file may not be read twice.
    if metadata.is_file() && metadata.len() <= Pointer::LONGEST {
        let mut begin = Vec::new();
        file.read_to_end(&mut begin).and_then(|_| file.rewind()).map_err(Error::io("read", path))?;
        if let Some(pointer) = Pointer::of(&begin) {
            return Err(pointed(pointer));
        }
    }
    Ok(file)
}

/// All that a file holds. [`Error::Pointer`] where a pointer stands for it.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    Ok(bytes)
}

/// As [`read`], of text in UTF-8.
pub(crate) fn read_to_string(path: &Path) -> Result<String> {
    let mut text = String::new();
    open(path)?.read_to_string(&mut text).map_err(Error::io("read", path))?;
    Ok(text)
}

/// The lines of a text, which end as Python has it: with a line feed, a carriage return, or both in this order.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = rest.find(['\n', '\r']).unwrap_or(rest.len());
        let (line, behind) = rest.split_at(end);
        rest = behind.strip_prefix("\r\n").unwrap_or(behind.get(1..).unwrap_or_default());
        Some(line)
    })
}

/// `name` as it can be found again from any folder.
pub(crate) fn absolute(name: &str) -> String {
    match std::path::absolute(name) {
        Ok(path) if path.exists() => path.display().to_string(),
        _ => name.to_owned(),
    }
}

/// Lower-case hexadecimal SHA-256.
pub fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// [`sha256`] of a file, read piece by piece.
pub(crate) fn sha256_of(path: &Path) -> Result<String> {
    let mut file = open(path)?;
    let mut read = || {
        let mut digest = Sha256::new();
        let mut piece = vec![0; 1 << 20];
        loop {
            match file.read(&mut piece)? {
                0 => return Ok(digest.finalize()),
                n => digest.update(&piece[..n]),
            }
        }
    };
    read().map(|digest| hexadecimal(&digest)).map_err(Error::io("read", path))
}

/// The name that git gives to a file of these contents: lower-case hexadecimal SHA-1 of them behind a header.
pub fn git_sha1(bytes: &[u8]) -> String {
    hexadecimal(
        &sha1::Sha1::new().chain_update(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize(),
    )
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LFS: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3353072\n";

    #[test]
    fn pointers_are_told_from_files() {
        let lfs = |bytes| Some(Pointer::GitLfs { bytes });
        let long = format!("{LFS}{}", "a sentence of a text\n".repeat(100));
        let cases = [
            (LFS, lfs(Some(3_353_072))),
            (&LFS.replace('\n', "\r\n"), lfs(Some(3_353_072))),
            ("version https://hawser.github.com/spec/v1\noid sha256:1\nsize 5\n", lfs(Some(5))),
            (
                "version https://git-lfs.github.com/spec/v1\next-0-foo sha256:1\noid sha256:2\nsize 7\n",
                lfs(Some(7)),
            ),
            ("version https://git-lfs.github.com/spec/v1\n", lfs(None)),
            ("/annex/objects/SHA256E-s3353072--4d7a.safetensors\n", Some(Pointer::GitAnnex)),
            ("", None),
            ("version 2 of it", None),
            ("A text on `version https://git-lfs.github.com/spec/v1`.", None),
            (&long, None),
        ];
        for (contents, expected) in cases {
            assert_eq!(Pointer::of(contents.as_bytes()), expected, "{contents}");
        }
    }

    #[test]
    fn lines_end_as_in_python() {
        let cases: [(&str, &[&str]); 5] = [
            ("a\rb\nc\r\nd", &["a", "b", "c", "d"]),
            ("a\r\n\rb\r", &["a", "", "b"]),
            ("\n\r", &["", ""]),
            ("é\u{2028}\u{85}", &["é\u{2028}\u{85}"]),
            ("", &[]),
        ];
        for (text, expected) in cases {
            assert_eq!(lines(text).collect::<Vec<_>>(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_file_is_read_whole_and_a_pointer_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("small"), "some text").unwrap();
        assert_eq!(read_to_string(&at("small")).unwrap(), "some text");
        fs::write(at("pointer"), LFS).unwrap();
        assert!(matches!(read(&at("pointer")), Err(Error::Pointer { .. })));
        assert!(matches!(read(&at("none")), Err(Error::Io { .. })));
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("../.git/annex/objects/Xz/1F/SHA256E-s5--a/SHA256E-s5--a", at("link"))
                .unwrap();
            std::os::unix::fs::symlink("nowhere/objects", at("broken")).unwrap();
            let annexed = read(&at("link"));
            assert!(matches!(annexed, Err(Error::Pointer { pointer: Pointer::GitAnnex, .. })), "{annexed:?}");
            assert!(matches!(read(&at("broken")), Err(Error::Io { .. })));
        }
    }
}
