//! One process at a time on a run folder.

use super::folder::{Found, look};
use crate::error::{Error, Result};
use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::Path;

/// The file in a run folder that is locked; it stays, and holds nothing.
pub(crate) const NAME: &str = ".lock";

/// Held while a process works on a run folder. The system lets go of it when the process ends, however that is.
#[derive(Debug)]
pub(crate) struct Lock {
    /// Locked as long as it is open; `None` where the file system knows no locks.
    _file: Option<File>,
}

impl Lock {
    /// Takes the lock of the run in `folder`, if there is one, also where its manifest is damaged; other folders are left as
    /// they are.
    pub fn of_run(folder: &Path) -> Result<Option<Self>> {
        match look(folder)? {
            Found::Run(_) | Found::Damaged { ours: true, .. } => Self::take(folder).map(Some),
            _ => Ok(None),
        }
    }

    /// Takes the lock of the folder `run`, which has to be there. [`Error::Locked`] where another process holds it.
    pub fn take(run: &Path) -> Result<Self> {
        let path = run.join(NAME);
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(Error::io("write", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: Some(file) }),
            Err(TryLockError::WouldBlock) => Err(Error::Locked { path: run.to_owned() }),
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {
                Ok(Self { _file: None })
            }
            Err(TryLockError::Error(error)) => Err(Error::io("lock", &path)(error)),
        }
    }
}
