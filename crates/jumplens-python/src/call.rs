//! Long calls: without the GIL, and stopped by Ctrl-C.

use crate::threads::on_threads;
use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError};
use pyo3::{PyResult, Python};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

/// How long a signal may wait.
const PATIENCE: Duration = Duration::from_millis(50);

/// Says to work on another thread that nobody waits for it any more.
#[derive(Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// True once that is so.
    pub fn is_wanted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error once that is so.
    pub fn check(&self) -> PyResult<()> {
        if self.is_wanted() { Err(PyKeyboardInterrupt::new_err(())) } else { Ok(()) }
    }
}

/// Does `work` on a thread of its own, with the GIL released. A signal whose handler raises, as that of Ctrl-C does, ends the call at once:
/// the thread goes on to where it next looks at [`Stop`], and what it makes is dropped.
pub fn call<T: Send + 'static>(
    py: Python,
    work: impl FnOnce(&Stop) -> PyResult<T> + Send + 'static,
) -> PyResult<T> {
    let (sender, mut receiver) = sync_channel(1);
    let stop = Stop::default();
    let its_stop = stop.clone();
    let worker = std::thread::Builder::new().name("jumplens".into()).spawn(move || {
        let _ = sender.send(on_threads(|| work(&its_stop)).flatten());
    })?;
    loop {
        let outcome;
        (outcome, receiver) = py.detach(move || (receiver.recv_timeout(PATIENCE), receiver));
        match outcome {
            Ok(outcome) => return outcome,
            Err(RecvTimeoutError::Timeout) => py.check_signals().inspect_err(|_| {
                stop.0.store(true, Ordering::Relaxed);
            })?,
            Err(RecvTimeoutError::Disconnected) => {
                let panic = worker.join().err().and_then(|panic| panic.downcast::<String>().ok());
                let said = panic.map_or_else(|| "a thread ended".to_owned(), |panic| *panic);
                return Err(PyRuntimeError::new_err(format!(
                    "{said}; this is a bug in jumplens, please report it"
                )));
            }
        }
    }
}
