//! A linear map.

use crate::error::of_core;
use crate::matrix::{Matrix, as_array};
use crate::threads::detached;
use jumplens_core::LinearMap;
use jumplens_core::metrics::{Source, Target, inspect};
use numpy::ndarray::{ArrayView1, ArrayView2};
use numpy::{PyArray1, PyArray2, PyUntypedArrayMethods, ToPyArray};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};
use std::sync::Arc;

/// A linear map ``y = A·x + b``.
///
/// Parameters
/// ----------
/// weight : array, ``[d_out, d_in]``
/// bias : array, ``[d_out]``, optional
#[pyclass(frozen, module = "jumplens")]
pub struct Map(pub Arc<LinearMap>);

impl From<LinearMap> for Map {
    fn from(map: LinearMap) -> Self {
        Self(Arc::new(map))
    }
}

#[pymethods]
impl Map {
    #[new]
    #[pyo3(signature = (weight, bias = None))]
    fn new(py: Python, weight: &Bound<PyAny>, bias: Option<&Bound<PyAny>>) -> PyResult<Self> {
        let weight = Matrix::of("weight", weight)?;
        let bias =
            bias.map(|bias| Matrix::of("bias", &as_array("bias", bias)?.call_method1("reshape", (1, -1))?));
        let bias = bias.transpose()?;
        detached(py, || {
            weight.expect_finite("weight")?;
            let map = LinearMap::from_rows(weight.values().to_vec(), weight.rows(), weight.columns());
            let map = map.map_err(of_core)?;
            let Some(bias) = bias else { return Ok(map.into()) };
            bias.expect_finite("bias")?;
            Ok(map.with_bias(bias.values().to_vec()).map_err(of_core)?.into())
        })?
    }

    /// ``A``, ``[d_out, d_in]``: rows are outputs. A view that cannot be written into.
    #[getter]
    fn weight<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let map = &slf.get().0;
        let view = ArrayView2::from_shape((map.d_out(), map.d_in()), map.weight());
        let view = view.map_err(|error| PyValueError::new_err(error.to_string()))?;
        // SAFETY: the values do not move, and live as long as this object, which the array holds; nobody may write into them.
        let array = unsafe { PyArray2::borrow_from_array(&view, slf.clone().into_any()) };
        read_only(array)
    }

    /// ``b``, ``[d_out]``, where there is one. A view that cannot be written into.
    #[getter]
    fn bias<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyArray1<f32>>>> {
        let view = slf.get().0.bias().map(ArrayView1::from);
        // SAFETY: as above.
        let array = |view| unsafe { PyArray1::borrow_from_array(&view, slf.clone().into_any()) };
        view.map(|view| read_only(array(view))).transpose()
    }

    /// Width of what it maps.
    #[getter]
    fn d_in(&self) -> usize {
        self.0.d_in()
    }

    /// Width of what it maps to.
    #[getter]
    fn d_out(&self) -> usize {
        self.0.d_out()
    }

    fn __call__<'py>(&self, py: Python<'py>, x: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let array = as_array("x", x)?;
        let Some((width, outer)) = array.shape().split_last() else {
            return Err(PyValueError::new_err("x is a number, where states are expected"));
        };
        if *width != self.0.d_in() {
            let message = format!("x is {width} wide, where {} is expected", self.0.d_in());
            return Err(PyValueError::new_err(message));
        }
        let shape = PyTuple::new(py, [outer, &[self.0.d_out()]].concat())?;
        if array.len() == 0 {
            return py.import("numpy")?.call_method1("zeros", (shape, "float32"));
        }
        let rows = Matrix::of("x", &array.call_method1("reshape", (-1, self.0.d_in()))?)?;
        let out = detached(py, || self.0.apply(rows.values()))?;
        PyArray1::from_vec(py, out).call_method1("reshape", (shape,))
    }

    /// r² on states `x` ``[n, d_in]`` and `y` ``[n, d_out]``: per coordinate, then the mean, as scikit-learn's ``r2_score`` has it.
    fn r2(&self, py: Python, x: &Bound<PyAny>, y: &Bound<PyAny>) -> PyResult<f64> {
        let (x, y) = (Matrix::of("x", x)?, Matrix::of("y", y)?);
        x.expect("x", None, self.0.d_in())?;
        y.expect("y", Some(x.rows()), self.0.d_out())?;
        detached(py, || {
            x.expect_finite("x")?;
            y.expect_finite("y")?;
            let source = Source::of(x.values(), x.columns());
            Ok(Target::of(y.values(), y.columns()).score_of_map(&source, &self.0))
        })?
    }

    /// The singular values of ``A``, largest first.
    fn spectrum<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        Ok(detached(py, || self.0.singular_values())?.map_err(of_core)?.to_pyarray(py))
    }

    /// Norms, the largest singular values, effective rank (Roy and Vetterli 2007), and the distance from the identity.
    fn inspect<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let found = detached(py, || inspect(&self.0))?.map_err(of_core)?;
        Ok(pythonize::pythonize(py, &found)?)
    }

    /// `next` after this map, as one.
    fn then(&self, py: Python, next: &Self) -> PyResult<Self> {
        Ok(detached(py, || self.0.compose(&next.0))?.map_err(of_core)?.into())
    }

    /// A ``torch.nn.Linear`` with these weights, in float32 on the CPU. Needs PyTorch.
    fn to_torch<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.py().import("jumplens.torch")?.call_method1("linear", (slf,))
    }

    /// The map that leaves states of width `d` as they are.
    #[staticmethod]
    fn identity(d: usize) -> PyResult<Self> {
        if d == 0 {
            return Err(PyValueError::new_err("d is 0, where a width of 1 or more is expected"));
        }
        Ok(LinearMap::identity(d).into())
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyType>, Bound<'py, PyTuple>)> {
        let parts = (Self::weight(slf)?, Self::bias(slf)?);
        Ok((slf.get_type(), parts.into_pyobject(slf.py())?))
    }

    fn __repr__(&self) -> String {
        let bias = if self.0.bias().is_some() { " with a bias" } else { "" };
        format!("<jumplens.Map {} → {}{bias}>", self.0.d_in(), self.0.d_out())
    }
}

fn read_only<T>(array: Bound<T>) -> PyResult<Bound<T>> {
    array.as_any().getattr("flags")?.setattr("writeable", false)?;
    Ok(array)
}
