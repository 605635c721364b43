//! Errors of the libraries as exceptions of the fitting kind, with the same words.

use jumplens::Error;
use jumplens::words::Stage;
use jumplens_core::Error as CoreError;
use pyo3::PyErr;
use pyo3::exceptions::{
    PyFileExistsError, PyFileNotFoundError, PyKeyboardInterrupt, PyOSError, PyPermissionError,
    PyRuntimeError, PyValueError,
};
use std::io::ErrorKind;
use std::path::Path;

/// `RuntimeError` for what no other input would mend, else `ValueError`.
pub fn of_core(error: CoreError) -> PyErr {
    match error {
        CoreError::Threads { .. } | CoreError::Decomposition { .. } | CoreError::NoSpread => {
            PyRuntimeError::new_err(error.to_string())
        }
        CoreError::Interrupted => PyKeyboardInterrupt::new_err(()),
        CoreError::NotFinite { .. } => PyValueError::new_err(format!("{error}; leave such rows out")),
        _ => PyValueError::new_err(error.to_string()),
    }
}

/// What the system said of a file.
pub fn of_io(action: &'static str, path: &Path, source: std::io::Error) -> PyErr {
    of_library(Error::Io { action, path: path.to_owned(), source })
}

/// As [`of_core`]; and for files `FileNotFoundError`, `FileExistsError`, `PermissionError` or `OSError`.
pub fn of_library(error: Error) -> PyErr {
    let text = error.to_string();
    match error {
        Error::Core(error) => of_core(error),
        Error::Interrupted => PyKeyboardInterrupt::new_err(()),
        Error::Io { source, .. } => match source.kind() {
            ErrorKind::NotFound => PyFileNotFoundError::new_err(format!("{text}; check the path")),
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => PyPermissionError::new_err(text),
            ErrorKind::AlreadyExists => PyFileExistsError::new_err(text),
            _ => PyOSError::new_err(text),
        },
        Error::NoFolder { .. } => PyFileNotFoundError::new_err(format!("{text}; check the path")),
        Error::Occupied { .. } => PyFileExistsError::new_err(text),
        Error::StageMissing { stage, path, .. } => {
            let command = if stage == Stage::Samples { "run" } else { stage.name() };
            PyValueError::new_err(format!("{text}; `jumplens {command} --out {}` does it", path.display()))
        }
        error if error.is_bug() => {
            PyRuntimeError::new_err(format!("{text}; this is a bug in jumplens, please report it"))
        }
        _ => PyValueError::new_err(text),
    }
}
