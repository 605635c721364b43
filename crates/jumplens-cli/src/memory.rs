//! The allocator, and one line where memory runs out.

use std::alloc::{GlobalAlloc, Layout};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

/// Batches come and go by the thousand: an allocator that keeps their pages saves the system from clearing them anew.
/// Where there is no more memory the program ends with one line and exit code 1; the standard library would abort.
pub struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

// SAFETY: hands every call on to an allocator that keeps the contract, and gives back what that gives, unless it is null.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's own promises.
        there(unsafe { mimalloc::MiMalloc.alloc(layout) }, layout.size())
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's own promises.
        unsafe { mimalloc::MiMalloc.dealloc(memory, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's own promises.
        there(unsafe { mimalloc::MiMalloc.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's own promises.
        there(unsafe { mimalloc::MiMalloc.realloc(memory, layout, size) }, size)
    }
}

fn there(memory: *mut u8, size: usize) -> *mut u8 {
    if memory.is_null() {
        out_of_memory(size);
    }
    memory
}

/// Says so without allocating, and ends the program as it stands: files are renamed only when they are whole.
#[cold]
fn out_of_memory(size: usize) -> ! {
    static SAID: AtomicBool = AtomicBool::new(false);
    if SAID.swap(true, Ordering::Relaxed) {
        // Another thread is about to end it all.
        loop {
            std::thread::park();
        }
    }
    let mut line = [0u8; 256];
    let mut left = &mut line[..];
    let _ = writeln!(
        left,
        "error: out of memory: {size} bytes more cannot be had; what is finished is kept: free some memory, take fewer \
         `--threads`, or a smaller model, and go on by `--resume`"
    );
    let unused = left.len();
    let text = &line[..line.len() - unused];
    // SAFETY: writes initialised bytes to standard error, then ends the process without running anything else.
    unsafe {
        libc::write(2, text.as_ptr().cast(), text.len());
        libc::_exit(crate::USER.into())
    }
}

/// Has the allocator keep freed pages for good, where it would hand them back after 10 ms: a batch takes longer than that.
pub fn keep_freed_pages() {
    /// `mi_option_purge_delay`, milliseconds.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    // SAFETY: an option of the allocator, set before there are other threads.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) };
}
