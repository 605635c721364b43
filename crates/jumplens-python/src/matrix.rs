//! Arrays of Python as rows of f32.

use jumplens_core::solver::Rows;
use jumplens_core::spread::Spread;
use numpy::{PyArray2, PyArrayDescrMethods, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rayon::prelude::*;

/// A matrix, row-major f32, that Python holds: what was passed where that is contiguous f32, else a copy of it.
pub struct Matrix {
    /// Keeps the values where they are.
    _array: Py<PyArray2<f32>>,
    start: *const f32,
    rows: usize,
    columns: usize,
}

// SAFETY: the array is not touched but for its values, which are only read; its count of references takes the GIL to change.
unsafe impl Send for Matrix {}
// SAFETY: as above.
unsafe impl Sync for Matrix {}

impl Matrix {
    /// Of a NumPy array or a tensor of PyTorch on the CPU `[rows, columns]` in f32 or f64; `what` it is called. `TypeError`
    /// for other types, `ValueError` where it is not of two dimensions or empty.
    pub fn of(what: &str, value: &Bound<PyAny>) -> PyResult<Self> {
        let py = value.py();
        let numpy = py.import("numpy")?;
        let array = as_array(what, value)?;
        if array.ndim() != 2 {
            return Err(PyValueError::new_err(format!(
                "{what} has shape {:?}, where two dimensions are expected: rows, and the width of a row",
                array.shape()
            )));
        }
        if array.len() == 0 {
            return Err(PyValueError::new_err(format!("{what} is empty: its shape is {:?}", array.shape())));
        }
        let options = PyDict::new(py);
        options.set_item("dtype", "float32")?;
        let rows = numpy.call_method("ascontiguousarray", (array,), Some(&options))?;
        let rows = rows.cast_into::<PyArray2<f32>>()?;
        let &[n, d] = rows.shape() else { unreachable!("two dimensions were seen to be there") };
        Ok(Self { start: rows.data(), rows: n, columns: d, _array: rows.unbind() })
    }

    /// The values, row-major.
    pub fn values(&self) -> &[f32] {
        // SAFETY: the array is contiguous, of so many values, and lives as long as this. As with every function that works on
        // an array without the GIL, whoever writes into it meanwhile gets what comes of it.
        unsafe { std::slice::from_raw_parts(self.start, self.rows * self.columns) }
    }

    /// Rows, n.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Width of a row, d.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Means and spread, where they are `needed`.
    pub fn spread(&self, needed: bool) -> Option<Spread> {
        needed.then(|| Spread::of(self.values(), self.columns))
    }

    /// As the solver takes it.
    pub fn with<'a>(&'a self, spread: &'a Option<Spread>) -> Rows<'a> {
        Rows { values: self.values(), d: self.columns, spread: spread.as_ref() }
    }

    /// `ValueError` where it is not as wide as it has to be, or not of as many rows; `what` it is called.
    pub fn expect(&self, what: &str, rows: Option<usize>, columns: usize) -> PyResult<()> {
        if self.columns != columns {
            let message = format!("{what} is {} wide, where {columns} is expected", self.columns);
            return Err(PyValueError::new_err(message));
        }
        match rows.filter(|rows| *rows != self.rows) {
            Some(rows) => {
                let message = format!("{what} has {} rows, where {rows} are expected", self.rows);
                Err(PyValueError::new_err(message))
            }
            None => Ok(()),
        }
    }

    /// `ValueError` where a value is infinite or no number.
    pub fn expect_finite(&self, what: &str) -> PyResult<()> {
        match self.values().par_iter().position_first(|value| !value.is_finite()) {
            Some(place) => Err(PyValueError::new_err(format!(
                "row {} of {what} holds a value that is not finite; leave such rows out",
                place / self.columns
            ))),
            None => Ok(()),
        }
    }
}

/// `value` as an array of f32 or f64, without a copy where it is one, or a tensor of PyTorch on the CPU.
pub fn as_array<'py>(what: &str, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyUntypedArray>> {
    let py = value.py();
    let is_tensor = value.hasattr("detach")?;
    let value = match is_tensor {
        // A tensor of PyTorch: with a gradient, or somewhere else than in the CPU's memory, it is no array.
        true => {
            let said = |error: PyErr| {
                PyTypeError::new_err(format!(
                    "{what} cannot be read as an array ({error}); pass it as `{what}.float().cpu()`"
                ))
            };
            value.call_method0("detach")?.call_method0("numpy").map_err(said)?
        }
        false => value.clone(),
    };
    let array = py.import("numpy")?.call_method1("asarray", (value,))?.cast_into::<PyUntypedArray>()?;
    let dtype = array.dtype();
    match (dtype.kind(), dtype.itemsize()) {
        (b'f', 4 | 8) => Ok(array),
        _ => Err(PyTypeError::new_err(format!(
            "{what} is of type {dtype}, where float32 or float64 is expected: pass it as `{what}.{}`",
            if is_tensor { "float()" } else { "astype(\"float32\")" }
        ))),
    }
}
