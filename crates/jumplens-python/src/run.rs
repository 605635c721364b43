//! Run folders.

use crate::error::of_library;
use crate::maps::Maps;
use crate::path::FilePath;
use crate::threads::detached;
use jumplens::eval::tables::Tables;
use jumplens::manifest::Manifest;
use jumplens::states::{StateFiles, States};
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

/// What `jumplens run`, or some of its stages, left in a folder.
///
/// Tables are DataFrames of pandas or polars, whichever is there, or tables of pyarrow, or dictionaries of NumPy arrays; ``docs/files.md``
/// describes their columns. Files that were changed since are an error.
///
/// Raises
/// ------
/// FileNotFoundError
///     Where there is no run.
/// ValueError
///     From its methods, where the stage that writes the table is not done, or a file was changed.
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
    fn table_of<'py, T: Serialize + Send>(
        &self,
        py: Python<'py>,
        stage: Stage,
        choose: impl FnOnce(Tables) -> Vec<T> + Send,
    ) -> PyResult<Bound<'py, PyAny>> {
        let rows = detached(py, || {
            self.needs(stage)?;
            jumplens::tables(&self.folder).map(choose).map_err(of_library)
        })??;
        table(py, &rows)
    }
}

#[pymethods]
impl Run {
    #[new]
    fn new(folder: FilePath) -> PyResult<Self> {
        let run = Self { folder: folder.0 };
        run.read_manifest()?;
        Ok(run)
    }

    /// The folder, a ``pathlib.Path``.
    #[getter]
    fn folder(&self) -> PathBuf {
        self.folder.clone()
    }

    /// What the run was made from, and how far it is.
    #[getter]
    fn manifest<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(pythonize::pythonize(py, &self.read_manifest()?)?)
    }

    /// ``r2.csv``: r² of every cast between every pair of layers.
    fn r2<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.table_of(py, Stage::R2, |tables| tables.r2)
    }

    /// ``layers.csv``: Precision@k, surprisal, KL and loss of every cast from every layer, with 95 % intervals.
    fn layers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.table_of(py, Stage::Evaluate, |tables| tables.layers)
    }

    /// ``early_exit.csv``.
    fn early_exit<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.table_of(py, Stage::Evaluate, |tables| tables.early_exit)
    }

    /// ``exits.csv``: at which layers samples exit.
    fn exits<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.table_of(py, Stage::Evaluate, |tables| tables.exits)
    }

    /// ``ranks.csv``: where the model's token stands in the casts' order.
    fn ranks<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.table_of(py, Stage::Evaluate, |tables| tables.ranks)
    }

    /// ``spectra.csv``: singular values of the maps to the last layer.
    fn spectra<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.table_of(py, Stage::R2, |tables| tables.spectra)
    }

    /// ``predictions.parquet``. `ImportError` where no library is there that reads it.
    fn predictions<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        // Sees that the file is as it was left.
        detached(py, || {
            self.needs(Stage::Evaluate)?;
            jumplens::tables(&self.folder).map_err(of_library)
        })??;
        let path = self.folder.join("results").join("predictions.parquet");
        py.import("jumplens._tables")?.call_method1("of_parquet", (path,))
    }

    /// The run's maps.
    fn maps(&self, py: Python) -> PyResult<Maps> {
        detached(py, || Maps::open(&self.folder))?
    }

    /// The states of a layer at the chosen positions, ``[n, d]``, as a copy.
    #[pyo3(signature = (layer, split = "val"))]
    fn states<'py>(&self, py: Python<'py>, layer: usize, split: &str) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let split = match split {
            "train" => "train",
            "val" => "val",
            _ => {
                let message = format!("split is \"{split}\", where \"train\" or \"val\" is expected");
                return Err(PyValueError::new_err(message));
            }
        };
        let files = StateFiles::new(&self.folder, split);
        let file = detached(py, || {
            self.needs(Stage::States)?;
            files.layer(layer).map_err(of_library)
        })??;
        file.values().to_pyarray(py).reshape([file.n, file.d])
    }

    fn __repr__(&self) -> String {
        format!("<jumplens.Run `{}`>", self.folder.display())
    }
}
