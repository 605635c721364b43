//! Files as streams of bytes: decompressed by what their names end in, and hashed as they are read.

use super::FileRecord;
use super::bz2::ParallelReader;
use crate::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Bytes buffered of a file that is decoded by one thread.
const BUFFER: usize = 1 << 18;

/// Damage within a compressed file, as the payload of an [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[error("byte {offset}: {message}")]
pub(super) struct Damage {
    /// Byte of the file.
    pub offset: u64,
    pub message: String,
}

impl Damage {
    pub(super) fn at(offset: u64, message: impl Into<String>) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, Self { offset, message: message.into() })
    }
}

/// What is known of a file while it is read.
#[derive(Debug, Default)]
pub(super) struct Tally {
    bytes: AtomicU64,
    /// Once the file's end has been seen.
    sha256: OnceLock<String>,
}

/// A file that counts and hashes what is read of it.
pub(super) struct TalliedFile {
    file: File,
    hash: Sha256,
    tally: Arc<Tally>,
}

impl TalliedFile {
    pub(super) fn new(file: File) -> (Self, Arc<Tally>) {
        let tally = Arc::new(Tally::default());
        (Self { file, hash: Sha256::new(), tally: Arc::clone(&tally) }, tally)
    }
}

impl Read for TalliedFile {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(into)?;
        self.hash.update(&into[..n]);
        self.tally.bytes.fetch_add(n as u64, Ordering::Relaxed);
        if n == 0 && !into.is_empty() {
            self.tally.sha256.get_or_init(|| crate::files::hexadecimal(&self.hash.clone().finalize()));
        }
        Ok(n)
    }
}

/// A file's contents without its compression.
pub(super) struct Stream {
    path: PathBuf,
    tally: Arc<Tally>,
    inner: Box<dyn BufRead>,
}

impl Stream {
    /// Opens a file that may end in `.bz2` (decoded on `threads` threads), `.gz` or `.zst`.
    pub(super) fn open(path: &Path, threads: usize) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("read", path))?;
        let (file, tally) = TalliedFile::new(file);
        let inner: Box<dyn BufRead> = match path.extension().and_then(|extension| extension.to_str()) {
            Some("bz2") => Box::new(ParallelReader::new(file, threads)),
            Some("gz") => {
                let plain = flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(BUFFER, file));
                Box::new(BufReader::with_capacity(BUFFER, plain))
            }
            Some("zst") => {
                let decoder = zstd::Decoder::with_buffer(BufReader::with_capacity(BUFFER, file));
                Box::new(BufReader::with_capacity(BUFFER, decoder.map_err(Error::io("read", path))?))
            }
            _ => Box::new(BufReader::with_capacity(BUFFER, file)),
        };
        Ok(Self { path: path.to_owned(), tally, inner })
    }

    /// Bytes of the file that have been read so far.
    pub(super) fn bytes_read(&self) -> u64 {
        self.tally.bytes.load(Ordering::Relaxed)
    }

    /// What an error of reading means for this file.
    pub(super) fn error(&self, error: io::Error) -> Error {
        let path = self.path.clone();
        let damage = error.get_ref().and_then(|inner| inner.downcast_ref::<Damage>());
        match (damage, error.kind()) {
            (Some(Damage { offset, message }), _) => {
                Error::Damaged { path, offset: *offset, message: message.clone() }
            }
            // What the decoders of gzip and Zstandard say.
            (
                None,
                io::ErrorKind::InvalidData
                | io::ErrorKind::InvalidInput
                | io::ErrorKind::UnexpectedEof
                | io::ErrorKind::Other,
            ) => Error::Damaged { path, offset: self.bytes_read(), message: error.to_string() },
            _ => Error::io("read", &path)(error),
        }
    }

    /// Reads what is left, and gives what is to be recorded of the file.
    pub(super) fn finish(mut self) -> Result<FileRecord> {
        loop {
            let left = self.inner.fill_buf().map(<[u8]>::len);
            match left {
                Ok(0) => break,
                Ok(n) => self.inner.consume(n),
                Err(error) => return Err(self.error(error)),
            }
        }
        let unread = || Error::Internal(format!("`{}` was not read to its end", self.path.display()));
        Ok(FileRecord {
            name: self.path.display().to_string(),
            bytes: self.bytes_read(),
            sha256: self.tally.sha256.get().ok_or_else(unread)?.clone(),
        })
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.inner.read(into)
    }
}

impl BufRead for Stream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.inner.consume(amount);
    }
}
