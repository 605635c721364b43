//! How the library tells its caller what it is doing: it prints nothing itself.

use crate::words::Note;

/// Told of the work as it goes on; every method may be left as it is. Called from one thread.
pub trait Observer {
    /// A stage begins that will [`advance`](Observer::advance) by `total` in all; `unit` is a plural noun.
    fn begin(&self, stage: &'static str, total: u64, unit: &'static str) {
        let _ = (stage, total, unit);
    }

    /// That much more of the stage is done.
    fn advance(&self, amount: u64) {
        let _ = amount;
    }

    /// The stage is done.
    fn end(&self) {}

    /// One line that the user should see.
    fn note(&self, line: &str) {
        let _ = line;
    }

    /// A line that the user should see, and how to mend it, as far as the program has a way.
    fn advise(&self, note: &Note) {
        self.note(&note.to_string());
    }

    /// One line that the user must not miss: results are likely not what they are taken for.
    fn warning(&self, line: &str) {
        self.note(line);
    }

    /// True once the user wants to stop: the library then returns [`Error::Interrupted`](crate::Error::Interrupted)
    /// at the next place where nothing is lost.
    fn cancelled(&self) -> bool {
        false
    }
}

/// An observer that looks away.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {}

/// [`Error::Interrupted`](crate::Error::Interrupted) once the observer wants to stop.
pub fn check(observer: &dyn Observer) -> crate::Result<()> {
    if observer.cancelled() { Err(crate::Error::Interrupted) } else { Ok(()) }
}
