//! The threads that everything is computed on: rayon's own, and in a process that was forked, where those are not, others.

use pyo3::exceptions::PyRuntimeError;
use pyo3::{PyResult, Python};
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

/// The process that loaded this module.
static LOADED_IN: AtomicU32 = AtomicU32::new(0);

/// The threads of a process that was forked.
struct Forked {
    process: u32,
    threads: ThreadPool,
}

/// The last that were started. Without a lock: another thread could hold that where the process is forked once more.
static FORKED: AtomicPtr<Forked> = AtomicPtr::new(null_mut());

/// Notes that rayon's own threads are, or will be, this process's.
pub fn loaded() {
    LOADED_IN.store(std::process::id(), Ordering::Relaxed);
}

/// Does `work` where there are threads for it: a process that was forked, as PyTorch's data loaders do, has none of its parent's,
/// and would wait for them for ever. `RuntimeError` where the system starts no more.
pub fn on_threads<T: Send>(work: impl FnOnce() -> T + Send) -> PyResult<T> {
    let process = std::process::id();
    match process == LOADED_IN.load(Ordering::Relaxed) {
        true => Ok(work()),
        false => Ok(of_forked(process)?.install(work)),
    }
}

/// As [`on_threads`], with the GIL released.
pub fn detached<T: Send>(py: Python, work: impl FnOnce() -> T + Send) -> PyResult<T> {
    py.detach(|| on_threads(work))
}

/// The threads of `process`, which is this one.
fn of_forked(process: u32) -> PyResult<&'static ThreadPool> {
    loop {
        let last = FORKED.load(Ordering::Acquire);
        // SAFETY: what was put there is never freed.
        if let Some(forked) = unsafe { last.as_ref() }.filter(|forked| forked.process == process) {
            return Ok(&forked.threads);
        }
        let threads = ThreadPoolBuilder::new().build().map_err(|error| {
            let message = format!("cannot start threads: {error}; ask for fewer by `RAYON_NUM_THREADS`");
            PyRuntimeError::new_err(message)
        })?;
        let made = Box::into_raw(Box::new(Forked { process, threads }));
        if FORKED.compare_exchange(last, made, Ordering::AcqRel, Ordering::Acquire).is_err() {
            // SAFETY: it was made above, and another thread, which was faster, has not seen it.
            drop(unsafe { Box::from_raw(made) });
        }
    }
}
