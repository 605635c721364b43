//! One process at a time on a folder that this program makes.

use super::folder::{Found, look};
use crate::files::{create_folder, is_at};
use crate::{Error, Result};
use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The file in a folder that is locked. It holds nothing; it stays in a run, and goes from other folders with the lock.
pub(crate) const NAME: &str = ".lock";

/// Held while a process works on a folder. The system lets go of it when the process ends, however that is.
#[derive(Debug)]
pub(crate) struct Lock {
    /// Locked as long as it is open; `None` where the file system knows no locks.
    _file: Option<File>,
    /// The file's path, where it goes with the lock.
    passing: Option<PathBuf>,
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

    /// Takes the lock of `folder`, which has to be there. [`Error::Locked`] where another process holds it.
    pub fn take(folder: &Path) -> Result<Self> {
        let path = folder.join(NAME);
        loop {
            let file = File::options().create(true).truncate(false).write(true).open(&path);
            let file = file.map_err(Error::io("write", &path))?;
            match file.try_lock() {
                // Who held it before may have taken the file away since it was opened.
                Ok(()) if !is_at(&file, &path) => {}
                Ok(()) => return Ok(Self { _file: Some(file), passing: None }),
                Err(TryLockError::WouldBlock) => return Err(Error::Locked { path: folder.to_owned() }),
                Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {
                    return Ok(Self { _file: None, passing: None });
                }
                Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path)(error)),
            }
        }
    }

    /// Makes `folder` where it is not there and takes its lock, with what `check` finds in it. It is asked before, so that
    /// nothing changes where it refuses, and again behind the lock, since another process may have been faster.
    pub fn claim<T>(folder: &Path, check: impl Fn() -> Result<T>) -> Result<(Self, T)> {
        check()?;
        create_folder(folder)?;
        let lock = Self::take(folder)?;
        let found = check()?;
        Ok((lock, found))
    }

    /// The lock, whose file goes with it.
    pub fn passing(mut self, folder: &Path) -> Self {
        // Elsewhere than on Unix nothing could tell that the file has gone.
        self.passing = cfg!(unix).then(|| folder.join(NAME));
        self
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(path) = &self.passing {
            let _ = std::fs::remove_file(path);
        }
    }
}
