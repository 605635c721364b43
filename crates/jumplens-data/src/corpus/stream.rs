//! Files as streams of bytes: decompressed by what their names end in, hashed as they are read, and interrupted between one
//! piece and the next, whatever is looked for in them.
//!
//! A compressed file is a row of streams (members of gzip, frames of Zstandard) that are decoded one after another. Zeros
//! behind one are passed over: tapes and downloads leave them. Anything else there is an error, since it may be the rest
//! of the file, damaged.

use super::FileRecord;
use super::bz2::ParallelReader;
use crate::progress::{Observer, check};
use crate::{Error, Result};
use jumplens_core::Error as CoreError;
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

/// The error for what stands at the byte `offset` of a file, behind a whole stream of the format `name`: `rest`, or the
/// beginning of it.
pub(super) fn trailing(offset: u64, name: &str, rest: &[u8]) -> io::Error {
    let begin = rest[..rest.len().min(24)].escape_ascii();
    let message = format!(
        "after the end of a {name} stream there is neither another one nor padding zeros, but bytes that begin with \
         \"{begin}\""
    );
    Damage::at(offset, message)
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

/// Decodes one stream of a compressed file, and no byte beyond it.
trait Decoder: Read + Sized {
    /// What a message calls the format.
    const NAME: &'static str;
    fn begin(file: BufReader<TalliedFile>) -> io::Result<Self>;
    fn end(self) -> BufReader<TalliedFile>;
    /// Whether these may be the first bytes of a stream, of which there may be no more than one.
    fn begins(bytes: &[u8]) -> bool;
}

impl Decoder for flate2::bufread::GzDecoder<BufReader<TalliedFile>> {
    const NAME: &'static str = "gzip";

    fn begin(file: BufReader<TalliedFile>) -> io::Result<Self> {
        Ok(Self::new(file))
    }

    fn end(self) -> BufReader<TalliedFile> {
        self.into_inner()
    }

    fn begins(bytes: &[u8]) -> bool {
        [0x1f, 0x8b].starts_with(&bytes[..bytes.len().min(2)])
    }
}

impl Decoder for zstd::Decoder<'static, BufReader<TalliedFile>> {
    const NAME: &'static str = "Zstandard";

    fn begin(file: BufReader<TalliedFile>) -> io::Result<Self> {
        Ok(Self::with_buffer(file)?.single_frame())
    }

    fn end(self) -> BufReader<TalliedFile> {
        self.finish()
    }

    /// A frame, or one to be skipped.
    fn begins(bytes: &[u8]) -> bool {
        let (first, rest) =
            (bytes.first().copied().unwrap_or(0), bytes.get(1..bytes.len().min(4)).unwrap_or_default());
        (first == 0x28 && [0xb5, 0x2f, 0xfd].starts_with(rest))
            || ((0x50..=0x5f).contains(&first) && [0x2a, 0x4d, 0x18].starts_with(rest))
    }
}

/// Where in a file of streams a reader is.
enum Streams<D> {
    /// At the beginning of a stream.
    Before(BufReader<TalliedFile>),
    Within(D),
    /// An error has been given, or the end of the file.
    Over,
}

impl<D: Decoder> Streams<D> {
    fn new(file: TalliedFile) -> Self {
        Self::Before(BufReader::with_capacity(BUFFER, file))
    }

    /// Behind a stream: at the next one, or over where there is none.
    fn after(mut file: BufReader<TalliedFile>) -> io::Result<Self> {
        loop {
            let bytes = file.fill_buf()?;
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            match bytes.len() {
                0 => return Ok(Self::Over),
                n if zeros == n => file.consume(n),
                _ => break file.consume(zeros),
            }
        }
        let offset = file.get_ref().tally.bytes.load(Ordering::Relaxed) - file.buffer().len() as u64;
        if !D::begins(file.buffer()) {
            return Err(trailing(offset, D::NAME, file.buffer()));
        }
        Ok(Self::Before(file))
    }
}

impl<D: Decoder> Read for Streams<D> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            *self = match std::mem::replace(self, Self::Over) {
                Self::Over => return Ok(0),
                Self::Before(file) => Self::Within(D::begin(file)?),
                Self::Within(mut decoder) => {
                    let n = decoder.read(into)?;
                    if n > 0 || into.is_empty() {
                        *self = Self::Within(decoder);
                        return Ok(n);
                    }
                    Self::after(decoder.end())?
                }
            }
        }
    }
}

/// A file's contents without its compression.
pub(super) struct Stream<'a> {
    path: PathBuf,
    tally: Arc<Tally>,
    inner: Box<dyn BufRead>,
    observer: &'a dyn Observer,
}

impl<'a> Stream<'a> {
    /// Opens a file that may end in `.bz2` (decoded on `threads` threads), `.gz` or `.zst`.
    pub(super) fn open(path: &Path, threads: usize, observer: &'a dyn Observer) -> Result<Self> {
        let (file, tally) = TalliedFile::new(crate::files::open_stream(path)?);
        let inner: Box<dyn BufRead> = match path.extension().and_then(|extension| extension.to_str()) {
            Some("bz2") => Box::new(
                ParallelReader::new(file, threads)
                    .map_err(|error| CoreError::Threads { threads, reason: error.to_string() })?,
            ),
            Some("gz") => Box::new(BufReader::with_capacity(
                BUFFER,
                Streams::<flate2::bufread::GzDecoder<_>>::new(file),
            )),
            Some("zst") => {
                Box::new(BufReader::with_capacity(BUFFER, Streams::<zstd::Decoder<'static, _>>::new(file)))
            }
            _ => Box::new(BufReader::with_capacity(BUFFER, file)),
        };
        Ok(Self { path: path.to_owned(), tally, inner, observer })
    }

    /// Bytes of the file that have been read so far.
    pub(super) fn bytes_read(&self) -> u64 {
        self.tally.bytes.load(Ordering::Relaxed)
    }

    /// What an error of reading means for this file.
    pub(super) fn error(&self, error: io::Error) -> Error {
        let path = self.path.clone();
        if let Some(Error::Interrupted) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
            return Error::Interrupted;
        }
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
            let left = self.fill_buf().map(<[u8]>::len);
            match left {
                Ok(0) => break,
                Ok(n) => self.consume(n),
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

impl Read for Stream<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        check(self.observer).map_err(io::Error::other)?;
        self.inner.read(into)
    }
}

impl BufRead for Stream<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        check(self.observer).map_err(io::Error::other)?;
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.inner.consume(amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use std::io::Write;

    fn compressed(ending: &str, text: &[u8]) -> Vec<u8> {
        match ending {
            "gz" => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(text).unwrap();
                encoder.finish().unwrap()
            }
            "bz2" => {
                let mut compressed = Vec::new();
                let mut encoder = bzip2::read::BzEncoder::new(text, bzip2::Compression::fast());
                encoder.read_to_end(&mut compressed).unwrap();
                compressed
            }
            _ => zstd::encode_all(text, 3).unwrap(),
        }
    }

    /// What a file of these bytes holds, and how much of it was read.
    fn read(ending: &str, bytes: &[u8]) -> Result<(Vec<u8>, FileRecord)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(format!("file.{ending}"));
        std::fs::write(&path, bytes).unwrap();
        let mut stream = Stream::open(&path, 2, &Silent)?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text).map_err(|error| stream.error(error))?;
        Ok((text, stream.finish()?))
    }

    #[test]
    fn streams_follow_one_another_and_zeros_are_passed_over() {
        for ending in ["gz", "bz2", "zst"] {
            let [one, two] = [&b"one text "[..], b"and another"].map(|text| compressed(ending, text));
            for zeros in [0, 1, 2, 3, 4, 7, 512, BUFFER - 3, BUFFER, BUFFER + 5] {
                let zeros = vec![0; zeros];
                for (bytes, expected) in [
                    ([&one[..], &zeros].concat(), "one text "),
                    ([&one[..], &two, &zeros].concat(), "one text and another"),
                    ([&one[..], &zeros, &two, &zeros].concat(), "one text and another"),
                ] {
                    let (text, record) = read(ending, &bytes).unwrap();
                    assert_eq!(String::from_utf8_lossy(&text), expected, "{ending}, {} zeros", zeros.len());
                    assert_eq!(record.bytes, bytes.len() as u64);
                    assert_eq!(record.sha256, crate::files::sha256(&bytes));
                }
            }
        }
    }

    #[test]
    fn what_is_behind_the_end_is_said_with_its_byte() {
        for (ending, name) in [("gz", "gzip"), ("bz2", "bzip2"), ("zst", "Zstandard")] {
            let whole = compressed(ending, b"one text");
            for (zeros, rest) in
                [(0, "x"), (0, "garbage"), (1, "garbage"), (600, "BZ"), (0, "\u{1f}no"), (2, "(no")]
            {
                let bytes = [&whole[..], &vec![0; zeros], rest.as_bytes()].concat();
                let error = read(ending, &bytes).unwrap_err();
                let Error::Damaged { offset, message, .. } = &error else { panic!("{error}") };
                assert_eq!(*offset, (whole.len() + zeros) as u64, "{ending}: {error}");
                let begin = rest.as_bytes().escape_ascii().to_string();
                assert!(message.contains(&format!("end of a {name} stream")), "{message}");
                assert!(message.ends_with(&format!("begin with \"{begin}\"")), "{message}");
            }
            // A stream that is cut short is damage within it.
            let error = read(ending, &whole[..whole.len() - 3]).unwrap_err().to_string();
            assert!(error.contains("is damaged at byte") && !error.contains("behind the end"), "{error}");
        }
    }

    #[test]
    fn frames_to_be_skipped_are_passed_over() {
        let skipped = [&[0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        let bytes = [&skipped[..], &compressed("zst", b"text"), &skipped].concat();
        assert_eq!(read("zst", &bytes).unwrap().0, b"text");
    }
}
