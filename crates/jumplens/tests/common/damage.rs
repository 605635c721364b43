//! Damaged copies of files, what has to come of reading them, and how much memory that may ask for at once.
#![allow(dead_code, reason = "each test file uses some of it")]

use jumplens::Result;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Notes the largest allocation that was asked for.
struct Watched;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

/// Much more than any of the tests' files is worth.
static LIMIT: AtomicUsize = AtomicUsize::new(16 << 20);

/// Whatever has been asked for so far may be asked for: products take buffers of a size that is the machine's.
pub fn allow_as_much_again() {
    LIMIT.fetch_max(LARGEST.load(Ordering::Relaxed), Ordering::Relaxed);
}

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps to the same contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps to the same contract.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// What was read, or an error that is not a bug, without a large allocation. True where it was read.
#[track_caller]
pub fn read_or_refused<T>(result: &Result<T>, what: &str) -> bool {
    if let Err(error) = result {
        assert!(!error.is_bug(), "{what}: {error}");
    }
    let largest = LARGEST.load(Ordering::Relaxed);
    assert!(largest <= LIMIT.load(Ordering::Relaxed), "{what}: {largest} bytes were allocated at once");
    result.is_ok()
}

/// Writes a file anew.
pub fn write(path: &Path, bytes: &[u8]) {
    // Some file systems go to the disk for a file that is written over, but not for a new one.
    let _ = fs::remove_file(path);
    fs::write(path, bytes).unwrap();
}

/// No damaged copy takes longer to read.
const LONGEST: Duration = Duration::from_secs(10);

/// Gives `times` damaged copies of `file` to `read`. Some have to be refused.
pub fn read_damaged<T>(what: &str, file: &[u8], times: u64, mut read: impl FnMut(&[u8]) -> Result<T>) {
    let whole = read(file);
    assert!(read_or_refused(&whole, what), "{what}: {}", whole.err().unwrap());
    let mut refused = 0;
    for number in 0..times {
        let damaged = damaged(file, number);
        let started = Instant::now();
        let what = format!("{what}, damaged copy {number}");
        refused += u64::from(!read_or_refused(&read(&damaged), &what));
        assert!(started.elapsed() < LONGEST, "{what}: {:?}", started.elapsed());
    }
    assert!(refused > 0, "{what}: {times} damaged copies were all read");
}

/// What may stand where there was something else.
const ODD: [&[u8]; 20] = [
    b"",
    b"0",
    b"-1",
    b"0.5",
    b"1e999",
    b"4294967296",
    b"1152921504606846976",
    b"9223372036854775808",
    b"18446744073709551615",
    b"18446744073709551616",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b"\"\"",
    b"\0",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xed\xa0\x80",
    b"\r\n",
    b"<",
];

/// Copy number `number`: one to three times bytes are replaced, left out or put in twice, the file is cut short, or a number
/// or a word gives way to something odd.
fn damaged(file: &[u8], number: u64) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(number);
    let mut bytes = file.to_vec();
    for _ in 0..rng.random_range(1..=3) {
        if bytes.is_empty() {
            break;
        }
        // Much of a file with a header is in the header.
        let reach = if rng.random_bool(0.5) { bytes.len() } else { bytes.len().min(1000) };
        let at = rng.random_range(0..reach as u64) as usize;
        let end = (at + rng.random_range(1..=24)).min(bytes.len());
        match rng.random_range(0..10) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let twice = bytes[at..end].to_vec();
                let to = rng.random_range(0..=bytes.len() as u64) as usize;
                bytes.splice(to..to, twice);
            }
            3..6 => bytes[at] = rng.random(),
            _ => {
                let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.\"".contains(byte);
                let before = bytes[..at].iter().rev().take_while(|byte| is_word(byte)).count();
                let behind = bytes[at..].iter().take_while(|byte| is_word(byte)).count();
                let odd = ODD[rng.random_range(0..ODD.len() as u64) as usize];
                bytes.splice(at - before..at + behind, odd.iter().copied());
            }
        }
    }
    bytes
}
