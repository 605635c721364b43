//! bzip2 files, decoded block by block on several threads.
//!
//! A bzip2 stream is a row of blocks of up to 900 kB that need nothing of one another, each behind a mark of 48 bits that
//! may begin at any bit. A thread reads the file and looks for the marks; others get the blocks, each made a stream of its
//! own (as `bzip2recover` does), and the caller reads what comes out in order. Few blocks are under way at one time, so
//! memory does not depend on the file. The blocks are decoded by the crate `bzip2`; it, like the others, reads a file from
//! one end to the other on one thread.

use super::stream::{Damage, TalliedFile, trailing};
use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Begins a block: the digits of π.
const BLOCK: u64 = 0x3141_5926_5359;
/// Ends a stream: the digits of √π.
const END: u64 = 0x1772_4538_5090;
const MARK_BITS: u64 = 48;
const CRC_BITS: u64 = 32;
/// No block is longer than this when compressed: 900,000 symbols of at most 20 bits.
const LONGEST_BLOCK: usize = 4 << 20;
/// Bytes read at a time.
const CHUNK: usize = 1 << 20;
/// Bytes of a decoded block that are asked for at a time.
const PIECE: usize = 1 << 20;

/// One block of the file.
struct Block {
    /// Byte of the file that the block begins in.
    offset: u64,
    /// `1` to `9`, from the stream's header.
    level: u8,
    /// The block's bits from its mark on, moved to the beginning of the first byte.
    bits: Vec<u8>,
    /// How many of them there are.
    length: u64,
}

impl Block {
    fn crc(&self) -> u32 {
        u32::from_be_bytes(std::array::from_fn(|i| self.bits.get(6 + i).copied().unwrap_or(0)))
    }

    /// A whole stream that has this block alone. Its checksum is the block's own.
    fn stream(&self) -> Vec<u8> {
        let mut bytes = vec![b'B', b'Z', b'h', self.level];
        bytes.extend_from_slice(&self.bits);
        let mut writer = BitWriter { at: self.length + 32, bytes };
        writer.put(END, MARK_BITS);
        writer.put(u64::from(self.crc()), CRC_BITS);
        writer.bytes
    }

    fn decode(&self) -> io::Result<Vec<u8>> {
        let mut decoded = Vec::with_capacity(PIECE);
        bzip2::read::BzDecoder::new(&self.stream()[..]).read_to_end(&mut decoded)?;
        Ok(decoded)
    }

    /// This block with the next one's bits behind it: what stood between them was no mark.
    fn joined(mut self, next: Self) -> Self {
        let mut writer = BitWriter { at: self.length, bytes: self.bits };
        writer.bytes.truncate(self.length.div_ceil(8) as usize);
        for (index, byte) in next.bits.iter().enumerate() {
            let left = next.length.saturating_sub(index as u64 * 8).min(8);
            writer.put(u64::from(byte >> (8 - left.max(1))), left);
        }
        self.length = writer.at;
        self.bits = writer.bytes;
        self
    }
}

/// Puts bits behind one another, the highest first.
struct BitWriter {
    /// Bits written.
    at: u64,
    bytes: Vec<u8>,
}

impl BitWriter {
    fn put(&mut self, value: u64, bits: u64) {
        self.bytes.resize((self.at + bits).div_ceil(8) as usize, 0);
        for bit in (0..bits).rev() {
            let (byte, shift) = ((self.at / 8) as usize, 7 - self.at % 8);
            let mask = 1 << shift;
            if value >> bit & 1 == 1 {
                self.bytes[byte] |= mask
            } else {
                self.bytes[byte] &= !mask
            }
            self.at += 1;
        }
    }
}

/// What the reading thread passes on, in the file's order.
enum Item {
    Block(Receiver<(Block, io::Result<Vec<u8>>)>),
    /// The stream ends; its checksum.
    End {
        offset: u64,
        crc: u32,
    },
    Failed(io::Error),
}

type Job = (Block, SyncSender<(Block, io::Result<Vec<u8>>)>);

/// Reads a bzip2 file on `threads` threads and two more that mostly wait.
pub(super) struct ParallelReader {
    items: Option<Receiver<Item>>,
    threads: Vec<JoinHandle<()>>,
    /// What has been decoded and not been read yet.
    decoded: Vec<u8>,
    read: usize,
    /// Of the blocks of this stream so far.
    crc: u32,
    ended: bool,
}

impl ParallelReader {
    /// An error where the system starts no thread to split the file, or none to decode its blocks.
    pub(super) fn new(file: TalliedFile, threads: usize) -> io::Result<Self> {
        let (jobs, waiting) = sync_channel::<Job>(1);
        let (ordered, items) = sync_channel(threads + 1);
        let waiting = Arc::new(Mutex::new(waiting));
        let mut handles = vec![std::thread::Builder::new().spawn(move || {
            let mut splitter = Splitter::new(file, &ordered, &jobs);
            if let Err(Stop::Failed(error)) = splitter.split() {
                let _ = ordered.send(Item::Failed(error));
            }
        })?];
        for _ in 0..threads.max(1) {
            let waiting = Arc::clone(&waiting);
            let started = std::thread::Builder::new().spawn(move || {
                loop {
                    let job = waiting.lock().map(|waiting| waiting.recv());
                    let Ok(Ok((block, result))) = job else { break };
                    let decoded = block.decode();
                    // Whoever waited for it may have gone.
                    let _ = result.send((block, decoded));
                }
            });
            match started {
                Ok(handle) => handles.push(handle),
                // Fewer will do.
                Err(_) if handles.len() > 1 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(Self { items: Some(items), threads: handles, decoded: Vec::new(), read: 0, crc: 0, ended: false })
    }

    fn next_item(&self) -> Option<Item> {
        self.items.as_ref()?.recv().ok()
    }

    /// Decodes until there is something to read, or nothing left.
    fn advance(&mut self) -> io::Result<()> {
        while self.read == self.decoded.len() && !self.ended {
            match self.next_item() {
                None => self.ended = true,
                Some(Item::Failed(error)) => return Err(error),
                Some(Item::End { offset, crc }) => {
                    if crc != self.crc {
                        let message = "the checksum of the stream that ends here does not fit its blocks";
                        return Err(Damage::at(offset, message));
                    }
                    self.crc = 0;
                }
                Some(Item::Block(result)) => {
                    let gone = |_| io::Error::other("a decoding thread ended");
                    let (mut block, mut decoded) = result.recv().map_err(gone)?;
                    // By chance, once in some thousand dumps, what looks like a mark is a part of a block.
                    while let Err(error) = &decoded {
                        let damage = Damage::at(block.offset, format!("damaged bzip2 block: {error}"));
                        let Some(Item::Block(next)) = self.next_item() else { return Err(damage) };
                        let (next, _) = next.recv().map_err(gone)?;
                        if block.bits.len() + next.bits.len() > LONGEST_BLOCK {
                            return Err(damage);
                        }
                        block = block.joined(next);
                        decoded = Ok(block.decode().map_err(|_| damage)?);
                    }
                    self.crc = self.crc.rotate_left(1) ^ block.crc();
                    self.decoded = decoded?;
                    self.read = 0;
                }
            }
        }
        Ok(())
    }
}

impl BufRead for ParallelReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.advance()?;
        Ok(&self.decoded[self.read..])
    }

    fn consume(&mut self, amount: usize) {
        self.read += amount;
    }
}

impl Read for ParallelReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let have = self.fill_buf()?;
        let n = have.len().min(into.len());
        into[..n].copy_from_slice(&have[..n]);
        self.consume(n);
        Ok(n)
    }
}

impl Drop for ParallelReader {
    fn drop(&mut self) {
        // Without a receiver the reading thread stops, and without jobs the others do.
        self.items = None;
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// What stands behind a mark that may end a stream.
enum Behind {
    /// Not even the checksum.
    Missing,
    /// Nothing, zeros, or another stream, at this bit; and the checksum.
    Allowed(u64, u32),
    /// Anything else, at this bit.
    Other(u64),
}

/// Why the reading thread stops early.
enum Stop {
    /// Nobody wants more.
    Unwanted,
    Failed(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// Cuts the file at the marks.
struct Splitter<'a, R> {
    file: R,
    ordered: &'a SyncSender<Item>,
    jobs: &'a SyncSender<Job>,
    /// Bytes of the file from `start` on.
    buffer: VecBuffer,
}

/// Bytes of a file that are not done with.
#[derive(Default)]
struct VecBuffer {
    bytes: Vec<u8>,
    /// Where in the file the first one is.
    start: u64,
}

impl VecBuffer {
    fn bit(&self, position: u64, bits: u64) -> Option<u64> {
        let mut value = 0u64;
        let first = position.checked_sub(self.start * 8)?;
        let last = (first + bits).div_ceil(8) as usize;
        let bytes = self.bytes.get((first / 8) as usize..last)?;
        for byte in bytes {
            value = value << 8 | u64::from(*byte);
        }
        let behind = last as u64 * 8 - (first + bits);
        Some(value >> behind & ((1 << bits) - 1))
    }

    /// The bits from `from` up to `to`, moved to the beginning of a byte.
    fn bits(&self, from: u64, to: u64) -> Vec<u8> {
        let (from, to) = (from - self.start * 8, to - self.start * 8);
        let shift = from % 8;
        let bytes = &self.bytes[(from / 8) as usize..to.div_ceil(8) as usize];
        if shift == 0 {
            return bytes.to_vec();
        }
        let next = bytes[1..].iter().copied().chain([0]);
        bytes.iter().zip(next).map(|(high, low)| high << shift | low >> (8 - shift)).collect()
    }
}

/// Of every byte, whether it may be the first whole byte inside a mark.
fn may_be_in_a_mark() -> [bool; 256] {
    let mut may = [false; 256];
    for mark in [BLOCK, END] {
        for shift in 0..8 {
            may[(mark >> (MARK_BITS - 8 - shift) & 0xff) as usize] = true;
        }
    }
    may
}

impl<'a, R: Read> Splitter<'a, R> {
    fn new(file: R, ordered: &'a SyncSender<Item>, jobs: &'a SyncSender<Job>) -> Self {
        Self { file, ordered, jobs, buffer: VecBuffer::default() }
    }

    /// Reads on; false at the end of the file.
    fn read(&mut self) -> io::Result<bool> {
        let bytes = &mut self.buffer.bytes;
        let have = bytes.len();
        bytes.resize(have + CHUNK, 0);
        let mut came = 0;
        while came < CHUNK {
            match self.file.read(&mut bytes[have + came..]) {
                Ok(0) => break,
                Ok(n) => came += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(have + came);
        Ok(came > 0)
    }

    fn send(&self, item: Item) -> Result<(), Stop> {
        self.ordered.send(item).map_err(|_| Stop::Unwanted)
    }

    fn split(&mut self) -> Result<(), Stop> {
        let may = may_be_in_a_mark();
        let mut whole = self.read()?;
        // Bits of the file, as everything below.
        let mut stream_start = 0;
        loop {
            if stream_start > 0 {
                stream_start = self.pass_zeros(&mut whole)?;
            }
            while whole && self.buffer.bytes.len() < 32 {
                whole = self.read()?;
            }
            if stream_start > 0 && self.buffer.bytes.is_empty() {
                return Ok(());
            }
            let header = self.buffer.bit(stream_start, 32).unwrap_or(0).to_be_bytes();
            let [.., b'B', b'Z', b'h', level @ b'1'..=b'9'] = header else {
                return Err(match stream_start {
                    0 => Damage::at(0, "no bzip2 stream begins here"),
                    behind => trailing(behind / 8, "bzip2", &self.buffer.bytes),
                }
                .into());
            };
            let mut block_start = None;
            // Where a stream may have ended, with nothing behind it that may stand there.
            let mut ended = None;
            let mut at = stream_start + 32;
            stream_start = loop {
                let Some((position, mark)) = self.find_mark(at, &may) else {
                    // A mark may lie across the end of what has been read.
                    let read = self.buffer.start + self.buffer.bytes.len() as u64;
                    let begun = block_start.unwrap_or(stream_start + 32);
                    at = at.max((read * 8).saturating_sub(MARK_BITS + 8)).max(begun);
                    let too_long = self.buffer.bytes.len() > LONGEST_BLOCK + CHUNK;
                    if let Some(end) = ended.filter(|_| too_long || !whole) {
                        let rest = &self.buffer.bytes[(end / 8 - self.buffer.start) as usize..];
                        let zeros = rest.iter().take_while(|byte| **byte == 0).count();
                        return Err(trailing(end / 8 + zeros as u64, "bzip2", &rest[zeros..]).into());
                    }
                    if too_long {
                        let message = "no end of a bzip2 block where there has to be one";
                        return Err(Damage::at(begun / 8, message).into());
                    }
                    whole = self.read()?;
                    if !whole && ended.is_none() {
                        let message = "the file ends in the middle of a bzip2 block that begins here";
                        return Err(Damage::at(begun / 8, message).into());
                    }
                    continue;
                };
                let next = match mark {
                    BLOCK => None,
                    _ => match self.end_of_stream(position, &mut whole)? {
                        Behind::Allowed(end, crc) => Some((end, crc)),
                        // By chance, or there is something behind the end of the last stream: if no block follows, it is so.
                        Behind::Other(end) => {
                            ended = Some(end);
                            at = position + 1;
                            continue;
                        }
                        Behind::Missing => {
                            at = position + 1;
                            continue;
                        }
                    },
                };
                ended = None;
                if block_start.is_none() && position != stream_start + 32 {
                    return Err(Damage::at(stream_start / 8 + 4, "no bzip2 block begins here").into());
                }
                if let Some(start) = block_start {
                    let block = Block {
                        offset: start / 8,
                        level,
                        bits: self.buffer.bits(start, position),
                        length: position - start,
                    };
                    let (result, decoded) = sync_channel(1);
                    self.send(Item::Block(decoded))?;
                    self.jobs.send((block, result)).map_err(|_| Stop::Unwanted)?;
                }
                if let Some((end, crc)) = next {
                    self.send(Item::End { offset: position / 8, crc })?;
                    self.forget_before(end);
                    break end;
                }
                self.forget_before(position);
                block_start = Some(position);
                at = position + MARK_BITS;
            };
        }
    }

    /// Drops the bytes before the one that the bit `position` is in.
    fn forget_before(&mut self, position: u64) {
        let done = (position / 8 - self.buffer.start) as usize;
        self.buffer.bytes.drain(..done.min(self.buffer.bytes.len()));
        self.buffer.start = position / 8;
    }

    /// Passes over the zeros behind a stream. Gives the bit at which something else stands, or the file ends.
    fn pass_zeros(&mut self, whole: &mut bool) -> Result<u64, Stop> {
        loop {
            let bytes = &mut self.buffer.bytes;
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            bytes.drain(..zeros);
            self.buffer.start += zeros as u64;
            if !self.buffer.bytes.is_empty() || !*whole {
                return Ok(self.buffer.start * 8);
            }
            *whole = self.read()?;
        }
    }

    /// What stands behind the mark at `position`, if it ends a stream.
    fn end_of_stream(&mut self, position: u64, whole: &mut bool) -> Result<Behind, Stop> {
        let end = (position + MARK_BITS + CRC_BITS).next_multiple_of(8);
        while *whole && self.buffer.start + (self.buffer.bytes.len() as u64) < end / 8 + 3 {
            *whole = self.read()?;
        }
        let Some(crc) = self.buffer.bit(position + MARK_BITS, CRC_BITS) else { return Ok(Behind::Missing) };
        let behind =
            &self.buffer.bytes[((end / 8 - self.buffer.start) as usize).min(self.buffer.bytes.len())..];
        // As far as it is looked at, zeros and the beginning of a header.
        let begin = &behind[..behind.len().min(3)];
        let zeros = begin.iter().take_while(|byte| **byte == 0).count();
        Ok(match b"BZh".starts_with(&begin[zeros..]) {
            true => Behind::Allowed(end, crc as u32),
            false => Behind::Other(end),
        })
    }

    /// The first mark at or after the bit `from`.
    fn find_mark(&self, from: u64, may: &[bool; 256]) -> Option<(u64, u64)> {
        let bytes = &self.buffer.bytes;
        let first = (from / 8 - self.buffer.start) as usize;
        // `index` is the first whole byte inside the mark, which begins up to 7 bits before it.
        (first..bytes.len().saturating_sub(5)).find_map(|index| {
            if !may[bytes[index] as usize] {
                return None;
            }
            let whole = (self.buffer.start + index as u64) * 8;
            (0..8).rev().find_map(|before| {
                let position = whole.checked_sub(before).filter(|position| *position >= from)?;
                let mark = self.buffer.bit(position, MARK_BITS)?;
                (mark == BLOCK || mark == END).then_some((position, mark))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bzip2::Compression;
    use proptest::prelude::*;
    use std::fs::File;

    /// Bytes that compress to several blocks.
    fn bytes(n: usize, seed: u64) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        (0..n).map(|i| if i % 7 < 3 { (next() >> 40) as u8 } else { b'a' + (i % 5) as u8 }).collect()
    }

    fn compress(bytes: &[u8], level: u32) -> Vec<u8> {
        let mut compressed = Vec::new();
        bzip2::read::BzEncoder::new(bytes, Compression::new(level)).read_to_end(&mut compressed).unwrap();
        compressed
    }

    fn decode(compressed: &[u8], threads: usize) -> io::Result<Vec<u8>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.bz2");
        std::fs::write(&path, compressed).unwrap();
        let mut decoded = Vec::new();
        let mut reader =
            ParallelReader::new(TalliedFile::new(File::open(&path).unwrap()).0, threads).unwrap();
        reader.read_to_end(&mut decoded).map(|_| decoded)
    }

    fn offset(error: &io::Error) -> u64 {
        error.get_ref().unwrap().downcast_ref::<Damage>().unwrap_or_else(|| panic!("{error}")).offset
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn what_was_compressed_comes_back(
            sizes in prop::collection::vec(0usize..450_000, 1..4), level in 1u32..=9, threads in 1usize..4,
        ) {
            let parts: Vec<Vec<u8>> = sizes.iter().map(|size| bytes(*size, *size as u64)).collect();
            let streams: Vec<u8> = parts.iter().flat_map(|part| compress(part, level)).collect();
            prop_assert!(decode(&streams, threads).unwrap() == parts.concat());
        }
    }

    #[test]
    fn damage_is_named_with_the_byte_its_block_begins_at() {
        let plain = bytes(500_000, 1);
        let good = compress(&plain, 1);
        // The blocks of level 1 hold 100,000 bytes each.
        let mut starts = Vec::new();
        for at in 0..good.len() * 8 - 48 {
            let bit = |i: usize| u64::from(good[i / 8] >> (7 - i % 8) & 1);
            if (at..at + 48).fold(0, |mark, i| mark << 1 | bit(i)) == BLOCK {
                starts.push(at as u64 / 8);
            }
        }
        assert!(starts.len() >= 5, "{starts:?}");
        for (block, start) in starts.iter().enumerate() {
            let mut bad = good.clone();
            let end = starts.get(block + 1).map_or(good.len(), |next| *next as usize);
            bad[usize::midpoint(*start as usize, end)] ^= 0x10;
            let error = decode(&bad, 2).unwrap_err();
            assert_eq!(offset(&error), *start, "block {block}: {error}");
        }
        for cut in [3, 10, 1000, good.len() / 2, good.len() - 12, good.len() - 1] {
            let error = decode(&good[..cut], 2).unwrap_err();
            assert!(offset(&error) <= cut as u64, "{cut}: {error}");
        }
        // Blocks that are whole, and a checksum that is not theirs.
        let mut bad = good.clone();
        let last = bad.len() - 3;
        bad[last] ^= 0xff;
        assert!(decode(&bad, 2).unwrap_err().to_string().contains("checksum"));
        assert!(decode(b"<mediawiki>", 2).unwrap_err().to_string().contains("no bzip2 stream"));
        // What is behind the last stream, however long, and where its header is damaged.
        for (rest, byte) in [(&b"garbage"[..], 0), (b"\0\0garbage", 2), (b"\0garbage", 1), (b"BZx9", 0)] {
            let error = decode(&[&good[..], rest].concat(), 2).unwrap_err();
            assert_eq!(offset(&error), good.len() as u64 + byte, "{error}");
            assert!(error.to_string().contains("after the end of a bzip2 stream"), "{error}");
        }
        let long = vec![b'g'; LONGEST_BLOCK + 2 * CHUNK];
        let error = decode(&[&good[..], &long].concat(), 2).unwrap_err();
        assert_eq!(offset(&error), good.len() as u64, "{error}");
        let mut second = good.clone();
        second[2] = b'x';
        assert!(decode(&[&good[..], &second].concat(), 2).is_err());
    }

    #[test]
    fn a_block_that_was_cut_at_something_like_a_mark_is_put_together_again() {
        let plain = bytes(60_000, 3);
        let compressed = compress(&plain, 9);
        let buffer = VecBuffer { bytes: compressed.clone(), start: 0 };
        let end = (32..compressed.len() as u64 * 8 - 48).find(|at| buffer.bit(*at, 48) == Some(END)).unwrap();
        for cut in [100, 1000, 1001, 77_777, end - 1] {
            let part = |from: u64, to: u64| Block {
                offset: 4,
                level: b'9',
                bits: buffer.bits(from, to),
                length: to - from,
            };
            assert!(part(32, cut).decode().is_err());
            assert_eq!(part(32, cut).joined(part(cut, end)).decode().unwrap(), plain, "cut at bit {cut}");
        }
    }
}
