//! An allocator that counts: what is held, what was held at most, and the end of a process that holds too much.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// To be made the global allocator.
pub struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);

/// What a reader may hold of an input of `bytes`, beside what was held before: a stated 64 MB, and 16 times the input.
pub const fn bound(bytes: usize) -> usize {
    (64 << 20) + 16 * bytes
}

/// The bytes that `work` held at most, beside those that were held when it began.
#[allow(dead_code, reason = "tests measure, fuzzing limits")]
pub fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = work();
    (result, PEAK.load(Relaxed).saturating_sub(before))
}

/// From now on the process aborts where it holds `bytes` more than at this moment.
#[allow(dead_code, reason = "tests measure, fuzzing limits")]
pub fn limit(bytes: usize) {
    LIMIT.store(HELD.load(Relaxed).saturating_add(bytes), Relaxed);
}

fn add(bytes: usize) {
    let held = HELD.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(held, Relaxed);
    let limit = LIMIT.load(Relaxed);
    if held > limit {
        LIMIT.store(usize::MAX, Relaxed);
        eprintln!("{bytes} bytes more make {held}, where {limit} are allowed");
        std::process::abort();
    }
}

// SAFETY: hands every call on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller's own promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's own promises.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller's own promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both are there while the one is copied to the other.
        add(size);
        // SAFETY: the caller's own promises.
        let moved = unsafe { System.realloc(memory, layout, size) };
        HELD.fetch_sub(layout.size(), Relaxed);
        moved
    }
}
