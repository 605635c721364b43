//! Paths that Python gives.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use std::path::PathBuf;

/// A path, as text or as an object of `os.PathLike`.
pub struct FilePath(pub PathBuf);

impl<'py> FromPyObject<'_, 'py> for FilePath {
    type Error = PyErr;

    /// `TypeError` for anything else; of a file, open or closed, it says how to pass its path.
    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if !value.hasattr("read")? && !value.hasattr("write")? {
            return value.extract().map(Self);
        }
        let is_closed = value.getattr("closed").and_then(|closed| closed.is_truthy()).unwrap_or(false);
        Err(PyTypeError::new_err(format!(
            "{} file, where a path is expected: pass the path that it was opened by",
            if is_closed { "a closed" } else { "an open" }
        )))
    }
}
