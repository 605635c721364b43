//! Files that are either whole or not there: written under a temporary name, then renamed.

use crate::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{Read, Write};
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
    let read = || {
        let (mut file, mut digest) = (fs::File::open(path)?, Sha256::new());
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
