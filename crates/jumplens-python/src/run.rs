//! Run folders.

use crate::error::of_library;
use crate::maps::Maps;
use jumplens::eval::tables::Tables;
use jumplens::manifest::Manifest;
use jumplens::states::StateFiles;
use jumplens::store::Stage;
use numpy::{PyArray2, PyArrayMethods, ToPyArray};
use pyo3::exceptions::{PyFileNotFoundError, PyValueError};
use pyo3::prelude::*;
use serde::Serialize;
use std::path::PathBuf;

/// Rows as a table of pandas, polars or pyarrow, whichever is there.
pub fn table<'py, T: Serialize>(py: Python<'py>, rows: &[T]) -> PyResult<Bound<'py, PyAny>> {
    let rows = pythonize::pythonize(py, rows)?;
    py.import("jumplens._tables")?.call_method1("of_rows", (rows,))
}

/// What `jumplens run`, or one of its stages, left in a folder.
#[pyclass(frozen, module = "jumplens")]
pub struct Run {
    folder: PathBuf,
}

impl Run {
    fn read_manifest(&self) -> PyResult<Manifest> {
        Manifest::read(&self.folder).map_err(of_library)?.ok_or_else(|| {
            PyFileNotFoundError::new_err(format!(
                "there is no run in `{}`; `jumplens run --out` makes one",
                self.folder.display()
            ))
        })
    }

    fn needs(&self, stage: Stage) -> PyResult<()> {
        match self.read_manifest()?.is_done(stage) {
            true => Ok(()),
            false => Err(of_library(jumplens::Error::StageMissing {
                path: self.folder.clone(),
                stage,
                needed_by: "reading what it writes",
            })),
        }
    }

    /// A table of `stage`, as it was left.
    fn table_of<'py, T: Serialize>(
        &self,
        py: Python<'py>,
        stage: Stage,
        choose: impl FnOnce(Tables) -> Vec<T>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.needs(stage)?;
        table(py, &choose(jumplens::tables(&self.folder).map_err(of_library)?))
    }
}

#[pymethods]
impl Run {
    #[new]
    fn new(folder: PathBuf) -> PyResult<Self> {
        let run = Self { folder };
        run.read_manifest()?;
        Ok(run)
    }

    #[getter]
    fn folder(&self) -> PathBuf {
        self.folder.clone()
    }

    #[getter]
    fn manifest<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(pythonize::pythonize(py, &self.read_manifest()?)?)
    }

    fn r2<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.table_of(py, Stage::R2, |tables| tables.r2)
    }

    fn layers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.table_of(py, Stage::Evaluate, |tables| tables.layers)
    }

    fn early_exit<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.table_of(py, Stage::Evaluate, |tables| tables.early_exit)
    }

    fn exits<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.table_of(py, Stage::Evaluate, |tables| tables.exits)
    }

    fn ranks<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.table_of(py, Stage::Evaluate, |tables| tables.ranks)
    }

    fn spectra<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.table_of(py, Stage::R2, |tables| tables.spectra)
    }

    fn predictions<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.needs(Stage::Evaluate)?;
        // Sees that the file is as it was left.
        jumplens::tables(&self.folder).map_err(of_library)?;
        let path = self.folder.join("results").join("predictions.parquet");
        py.import("jumplens._tables")?.call_method1("of_parquet", (path,))
    }

    fn maps(&self) -> PyResult<Maps> {
        Maps::open(&self.folder)
    }

    #[pyo3(signature = (layer, split = "val"))]
    fn states<'py>(&self, py: Python<'py>, layer: usize, split: &str) -> PyResult<Bound<'py, PyArray2<f32>>> {
        self.needs(Stage::States)?;
        let split = match split {
            "train" => "train",
            "val" => "val",
            _ => {
                let message = format!("split is \"{split}\", where \"train\" or \"val\" is expected");
                return Err(PyValueError::new_err(message));
            }
        };
        let file = StateFiles::new(&self.folder, split).layer(layer).map_err(of_library)?;
        file.values().to_pyarray(py).reshape([file.n, file.d])
    }

    fn __repr__(&self) -> String {
        format!("<jumplens.Run `{}`>", self.folder.display())
    }
}
