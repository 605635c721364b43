//! The allocator, and one line where memory runs out, or a file that is mapped into it does.

use crate::interrupt::{Begun, GoesOn};
use std::alloc::{GlobalAlloc, Layout};
use std::io::Write;
#[cfg(unix)]
use std::mem::MaybeUninit;
#[cfg(unix)]
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Batches come and go by the thousand: an allocator that keeps their pages saves the system from clearing them anew.
/// Where there is no more memory the program ends with one line and exit code 1; the standard library would abort.
pub struct Allocator;

// SAFETY: hands every call on to an allocator that keeps the contract, and gives back what that gives, unless it is null.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's own promises.
        there(unsafe { mimalloc::MiMalloc.alloc(layout) }, layout.size())
    }

    #[inline]
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's own promises.
        unsafe { mimalloc::MiMalloc.dealloc(memory, layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's own promises.
        there(unsafe { mimalloc::MiMalloc.alloc_zeroed(layout) }, layout.size())
    }

    #[inline]
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's own promises.
        there(unsafe { mimalloc::MiMalloc.realloc(memory, layout, size) }, size)
    }
}

#[inline]
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
    let go_on = match Begun::goes_on() {
        GoesOn::ByResume => "go on by `--resume`",
        _ => "give the command again",
    };
    let _ = writeln!(
        left,
        "error: out of memory: {size} bytes more cannot be had; what is finished is kept: free some memory, take fewer \
         `--threads`, or a smaller model, and {go_on}"
    );
    let unused = left.len();
    end_with(&line[..line.len() - unused])
}

/// Writes a line to standard error, and ends the process. Takes neither a lock nor memory.
fn end_with(line: &[u8]) -> ! {
    // SAFETY: writes initialised bytes to standard error, then ends the process without running anything else.
    unsafe {
        // The system's own type, which is not the same everywhere.
        libc::write(2, line.as_ptr().cast(), line.len() as _);
        libc::_exit(crate::USER.into())
    }
}

/// Has a mapped file named that is cut short while it is read, for which the system would end the program without a word.
#[cfg(unix)]
pub fn name_files_cut_short() {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: zeros are a signal action, which is filled in; the handler does only what a handler may.
    unsafe {
        let action = action.assume_init_mut();
        action.sa_sigaction = cut_short as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        let mut before = MaybeUninit::<libc::sigaction>::zeroed();
        if libc::sigaction(libc::SIGBUS, action, before.as_mut_ptr()) == 0 {
            let _ = BEFORE.set(before.assume_init());
        }
    }
}

/// What SIGBUS did before: the standard library finds overflows of the stack by it, on some systems.
#[cfg(unix)]
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

#[cfg(unix)]
extern "C" fn cut_short(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    use std::os::unix::ffi::OsStrExt;
    // SAFETY: the system hands over what it knows of the signal.
    let address = unsafe { (*info).si_addr() } as usize;
    if let Some(path) = jumplens::files::mapped_at(address) {
        let advice = "` was cut short while it was read; wait until it is whole, then give the command again";
        let parts = ["error: `".as_bytes(), path.as_os_str().as_bytes(), advice.as_bytes()];
        let mut line = [b'\n'; 1 << 11];
        let most = line.len() - 1;
        let bytes = parts.iter().flat_map(|part| part.iter());
        // Nothing of a name acts on the terminal.
        let shown = bytes.map(|byte| if byte.is_ascii_control() { b'?' } else { *byte });
        let length = parts.iter().map(|part| part.len()).sum::<usize>().min(most);
        for (place, byte) in line[..length].iter_mut().zip(shown) {
            *place = byte;
        }
        end_with(&line[..=length]);
    }
    // No file's: it comes again when this returns, and does what it did.
    if let Some(before) = BEFORE.get() {
        // SAFETY: the action that was there.
        unsafe { libc::sigaction(signal, before, std::ptr::null_mut()) };
    }
}

/// Has the allocator keep freed pages for good, where it would hand them back after 10 ms: a batch takes longer than that.
pub fn keep_freed_pages() {
    /// `mi_option_purge_delay`, milliseconds.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    // SAFETY: an option of the allocator, set before there are other threads.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) };
}
