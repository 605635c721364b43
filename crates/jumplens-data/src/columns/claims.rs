//! What a Parquet file claims of its pages, held against what they are before memory of that size is asked for: the crate
//! `parquet` takes as much as a page says that it needs, and as much as comes out of gzip, Brotli and LZ4.

use flate2::read::MultiGzDecoder;
use parquet::basic::{Compression, Encoding};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::data_type::ByteArray;
use parquet::errors::{ParquetError, Result};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Values that a page may have in an encoding that counts them by itself: one that needs no byte for each.
const MOST_VALUES: u64 = 1 << 22;
/// Nested structs in a page's header are no deeper.
const DEPTH: usize = 8;

/// Bytes that a page of a file of so many may have when it is decoded, and its dictionary in memory.
pub(crate) fn most(bytes: u64) -> u64 {
    (64 << 20) + bytes.saturating_mul(16)
}

/// Looks at the pages of a chunk that is `length` bytes of `file` from `start` on.
pub(crate) fn check_pages(
    file: &File,
    compression: Compression,
    (start, length): (u64, u64),
) -> io::Result<Result<(), String>> {
    let bytes = file.metadata()?.len();
    let Some(end) = start.checked_add(length).filter(|end| *end <= bytes) else {
        return Ok(Err(format!("a column of {length} bytes from byte {start} on, in a file of {bytes}")));
    };
    let (most, mut at) = (most(bytes), start);
    while at < end {
        let mut file = file;
        file.seek(SeekFrom::Start(at))?;
        let mut reader = Counted { inner: BufReader::new(file.take(end - at)), bytes: 0 };
        // What is no header to this reader is none to the crate, which will say so.
        let Some(header) = Header::read(&mut reader).ok().flatten() else { break };
        let begin = at + reader.bytes;
        let (Ok(compressed), Ok(decoded)) = (u64::try_from(header.compressed), u64::try_from(header.decoded))
        else {
            return Ok(Err(format!("the page at byte {at} has less than no bytes")));
        };
        if compressed > end - begin {
            return Ok(Err(format!(
                "the page at byte {at} has {compressed} bytes, and {} are left",
                end - begin
            )));
        }
        if decoded > most {
            return Ok(Err(format!(
                "the page at byte {at} has {decoded} bytes decoded, where {most} are the most in a file of {bytes}"
            )));
        }
        if header.is_compressed && header.levels <= compressed {
            file.seek(SeekFrom::Start(begin + header.levels))?;
            let packed = BufReader::new(file.take(compressed - header.levels));
            let wanted = decoded.saturating_sub(header.levels);
            if !is_no_larger(compression, packed, wanted) {
                return Ok(Err(format!(
                    "the page at byte {at} says that it has {decoded} bytes, and has more"
                )));
            }
        }
        at = begin + compressed;
    }
    Ok(Ok(()))
}

/// Whether no more than `wanted` bytes come out of what is compressed in a way that does not end there by itself.
fn is_no_larger(compression: Compression, packed: impl Read, wanted: u64) -> bool {
    let more = |decoded: &mut dyn Read| {
        // What cannot be decoded ends there.
        let _ = io::copy(&mut Read::take(&mut *decoded, wanted), &mut io::sink());
        matches!(decoded.read(&mut [0]), Ok(1))
    };
    !match compression {
        Compression::GZIP(_) => more(&mut MultiGzDecoder::new(packed)),
        Compression::BROTLI(_) => more(&mut brotli::Decompressor::new(packed, 1 << 12)),
        // An older program may have put frames where this should be a block that says its size.
        Compression::LZ4 => more(&mut lz4_flex::frame::FrameDecoder::new(packed)),
        _ => false,
    }
}

struct Counted<R> {
    inner: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(into)?;
        self.bytes += n as u64;
        Ok(n)
    }
}

/// What the header of a page says of its sizes: <https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift>,
/// in Thrift's compact protocol.
#[derive(Debug, Default, PartialEq)]
struct Header {
    decoded: i64,
    compressed: i64,
    /// Of them, what stands before what is compressed.
    levels: u64,
    is_compressed: bool,
}

impl Header {
    fn read(reader: &mut impl Read) -> io::Result<Option<Self>> {
        let mut header = Self { is_compressed: true, ..Self::default() };
        let mut id = 0;
        while let Some((next, kind)) = field(reader, id)? {
            id = next;
            match id {
                2 => header.decoded = zigzag(reader)?,
                3 => header.compressed = zigzag(reader)?,
                8 => {
                    let (mut id, mut levels) = (0, 0);
                    while let Some((next, kind)) = field(reader, id)? {
                        id = next;
                        match id {
                            5 | 6 => levels += zigzag(reader)?.max(0) as u64,
                            7 => header.is_compressed = kind == TRUE,
                            _ => skip(reader, kind, DEPTH)?,
                        }
                    }
                    header.levels = levels;
                }
                _ => skip(reader, kind, DEPTH)?,
            }
        }
        Ok(Some(header))
    }
}

/// The type of a field that is true by being there.
const TRUE: u8 = 1;

fn byte(reader: &mut impl Read) -> io::Result<u8> {
    let mut byte = [0];
    reader.read_exact(&mut byte)?;
    Ok(byte[0])
}

fn varint(reader: &mut impl Read) -> io::Result<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = byte(reader)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

fn zigzag(reader: &mut impl Read) -> io::Result<i64> {
    let value = varint(reader)?;
    Ok((value >> 1) as i64 ^ -((value & 1) as i64))
}

/// Number and type of the next field of a struct; `None` behind the last.
fn field(reader: &mut impl Read, last: i64) -> io::Result<Option<(i64, u8)>> {
    let header = byte(reader)?;
    Ok(match (header >> 4, header & 0x0f) {
        (_, 0) => None,
        (0, kind) => Some((zigzag(reader)?, kind)),
        (step, kind) => Some((last.wrapping_add(i64::from(step)), kind)),
    })
}

fn pass(reader: &mut impl Read, bytes: u64) -> io::Result<()> {
    io::copy(&mut reader.take(bytes), &mut io::sink()).map(|_| ())
}

fn skip(reader: &mut impl Read, kind: u8, depth: usize) -> io::Result<()> {
    let deeper = || depth.checked_sub(1).ok_or(io::Error::from(io::ErrorKind::InvalidData));
    match kind {
        1 | 2 => Ok(()),
        3 => pass(reader, 1),
        4..=6 => varint(reader).map(|_| ()),
        7 => pass(reader, 8),
        8 => {
            let length = varint(reader)?;
            pass(reader, length)
        }
        9 | 10 => {
            let depth = deeper()?;
            let header = byte(reader)?;
            let n = if header >> 4 == 15 { varint(reader)? } else { u64::from(header >> 4) };
            // Truth values take a byte each in a list.
            let kind = if header & 0x0f <= 2 { 3 } else { header & 0x0f };
            (0..n).try_for_each(|_| skip(&mut *reader, kind, depth))
        }
        12 => {
            let depth = deeper()?;
            let mut id = 0;
            while let Some((next, kind)) = field(reader, id)? {
                id = next;
                skip(reader, kind, depth)?;
            }
            Ok(())
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// How many values may be decoded at one time, and how many are left of the page that they are from.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    at_a_time: AtomicU64,
    left: AtomicU64,
    /// Values of the pages since rows were taken last.
    since: AtomicU64,
}

impl Pace {
    /// How many rows to ask for, `most` or fewer: one where a page begins that has not been seen.
    pub(crate) fn rows(&self, most: usize) -> usize {
        let left = self.left.load(Ordering::Relaxed).min(self.at_a_time.load(Ordering::Relaxed));
        left.clamp(1, most as u64) as usize
    }

    pub(crate) fn took(&self, rows: usize) {
        self.since.store(0, Ordering::Relaxed);
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            Some(left.saturating_sub(rows as u64))
        });
    }
}

/// Pages, each held against what it says of its values before these are decoded.
pub(crate) struct CheckedPages {
    pub inner: Box<dyn PageReader>,
    /// The largest level that stands before the values; 0 where none does.
    pub full: i16,
    /// What [`most`] says.
    pub most: u64,
    /// Bytes that an entry of a dictionary has at least.
    pub entry: u64,
    /// Whether a row may have any number of values.
    pub lists: bool,
    pub pace: Arc<Pace>,
}

impl CheckedPages {
    fn check(&self, page: &Page) -> Result<()> {
        let fail = |message: String| Err(ParquetError::General(message));
        let bytes = page.buffer().len() as u64;
        if let Page::DictionaryPage { num_values, .. } = page {
            let n = u64::from(*num_values);
            if n > bytes / self.entry || n.saturating_mul(size_of::<ByteArray>() as u64) > self.most {
                return fail(format!("a dictionary of {n} values in {bytes} bytes"));
            }
            return Ok(());
        }
        let since = self.pace.since.fetch_add(page.num_values().into(), Ordering::Relaxed);
        if self.lists && since.saturating_add(page.num_values().into()) > self.most / 4 {
            return fail(format!("a row, or a page, of more than {} values", self.most / 4));
        }
        let mut at_a_time = u64::MAX;
        if let Some(values) = self.values(page) {
            let counts = match page.encoding() {
                Encoding::DELTA_LENGTH_BYTE_ARRAY => [delta(values).map(|(n, _)| n), Some(0)],
                Encoding::DELTA_BYTE_ARRAY => {
                    // Each may be as long as all of it, since it may begin as the one before does.
                    at_a_time = (self.most / 4) / bytes.max(1);
                    let prefixes = delta(values);
                    let suffixes = prefixes.and_then(|(_, end)| delta(values.get(end..)?));
                    [prefixes.map(|(n, _)| n), suffixes.map(|(n, _)| n)]
                }
                _ => [Some(0); 2],
            };
            for n in counts {
                match n {
                    Some(n) if n <= MOST_VALUES => {}
                    Some(n) => {
                        return fail(format!("a page of {n} strings, where {MOST_VALUES} are the most"));
                    }
                    None => return fail("a page whose lengths do not fit together".to_owned()),
                }
            }
        }
        self.pace.at_a_time.store(at_a_time, Ordering::Relaxed);
        self.pace.left.store(page.num_values().into(), Ordering::Relaxed);
        Ok(())
    }

    /// What a data page holds behind its levels.
    fn values<'a>(&self, page: &'a Page) -> Option<&'a [u8]> {
        let bytes = &page.buffer()[..];
        match page {
            Page::DataPageV2 { def_levels_byte_len, rep_levels_byte_len, .. } => {
                bytes.get(*def_levels_byte_len as usize..)?.get(*rep_levels_byte_len as usize..)
            }
            Page::DataPage { def_level_encoding: Encoding::RLE, .. } if self.full > 0 => {
                let (length, rest) = bytes.split_first_chunk::<4>()?;
                rest.get(u32::from_le_bytes(*length) as usize..)
            }
            Page::DataPage { num_values, .. } if self.full > 0 => {
                let bits = u64::from(*num_values) * u64::from(self.full.ilog2() + 1);
                bytes.get(usize::try_from(bits.div_ceil(8)).ok()?..)
            }
            _ => Some(bytes),
        }
    }
}

/// How many numbers a run of packed differences has, and where it ends:
/// <https://github.com/apache/parquet-format/blob/master/Encodings.md#delta-encoding-delta_binary_packed--5>.
fn delta(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut reader = bytes;
    let at = |reader: &[u8]| bytes.len() - reader.len();
    let [block, parts, n] = [(); 3].map(|()| varint(&mut reader).ok());
    let (block, parts, n) = (block?, parts?, n?);
    zigzag(&mut reader).ok()?;
    let in_part = block.checked_div(parts)?;
    if n > MOST_VALUES || parts > bytes.len() as u64 {
        return Some((n.max(parts), at(reader)));
    }
    let mut left = n.saturating_sub(1);
    while left > 0 {
        zigzag(&mut reader).ok()?;
        let (widths, rest) = reader.split_at_checked(parts as usize)?;
        reader = rest;
        for width in widths {
            if left == 0 {
                break;
            }
            let packed = in_part.checked_mul(u64::from(*width))?.div_ceil(8);
            reader = reader.get(usize::try_from(packed).ok()?..)?;
            left = left.saturating_sub(in_part.max(1));
        }
    }
    Some((n, at(reader)))
}

impl Iterator for CheckedPages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for CheckedPages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.inner.get_next_page()?;
        page.iter().try_for_each(|page| self.check(page))?;
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.inner.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.inner.skip_next_page()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_to_its_end() {
        // Type, sizes 300 and 200, a check sum, then a data page header of version 2 with statistics and a list in an
        // unknown field; what stands behind is not touched.
        let header = [
            0x15, 0x06, 0x15, 0xd8, 0x04, 0x15, 0x90, 0x03, 0x15, 0x01, 0x4c, 0x15, 0x02, 0x15, 0x00, 0x15,
            0x02, 0x15, 0x00, 0x15, 0x0a, 0x15, 0x04, 0x12, 0x1c, 0x18, 0x02, 0x61, 0x62, 0x00, 0x39, 0x35,
            0x02, 0x04, 0x06, 0x00, 0x00, 0xff,
        ];
        let mut reader = &header[..];
        let found = Header::read(&mut reader).unwrap().unwrap();
        let expected = Header { decoded: 300, compressed: 200, levels: 7, is_compressed: false };
        assert_eq!((found, reader), (expected, &[0xff][..]));
        for length in 0..header.len() - 1 {
            assert!(Header::read(&mut &header[..length]).is_err(), "{length}");
        }
    }
}
