//! The maps between layers, of one cast or several.

use crate::error::{of_io, of_library};
use crate::map::Map;
use crate::path::FilePath;
use crate::threads::detached;
use jumplens::shortcut::{Foreign, Format, LastState, Notes, Origin, Shortcuts, chosen_pairs, export};
use jumplens::store::check_outside;
use jumplens_core::LinearMap;
use jumplens_core::cast::{Cast, Pairs};
use jumplens_core::solver;
use pyo3::exceptions::{PyFileExistsError, PyKeyError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// By source and target layer.
type ByPair = BTreeMap<(usize, usize), Arc<LinearMap>>;

/// Where maps lie.
enum Place {
    Memory { casts: BTreeMap<Cast, ByPair>, notes: BTreeMap<(Cast, usize), Notes> },
    Files(Box<Shortcuts>),
}

/// What all views of the same maps share.
struct Whole {
    place: Place,
    casts: Vec<Cast>,
    d: usize,
    origin: Origin,
}

/// The maps between layers: of one cast (``mat``, ``mat+b``, ``tuned`` …), while `cast` gives those of another.
///
/// Maps in files are read when they are asked for. Iterating gives the pairs of layers.
#[pyclass(frozen, module = "jumplens", mapping)]
pub struct Maps {
    whole: Arc<Whole>,
    cast: Cast,
    pairs: Vec<(usize, usize)>,
    r2: PyOnceLock<Py<PyAny>>,
}

/// Maps that are being fitted.
pub struct Fitting {
    casts: BTreeMap<Cast, ByPair>,
    notes: BTreeMap<(Cast, usize), Notes>,
    d: usize,
    origin: Origin,
}

impl Fitting {
    /// Between layers up to `last` of states of width `d`, on so many samples.
    pub fn new(d: usize, last: usize, samples: usize) -> Self {
        let origin = Origin {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            n_layers: Some(last),
            d_model: Some(d),
            last_state: Some(LastState::BlockOutput),
            train: Some(samples),
            solver: Some("least squares, singular values above 1e-6 of the largest".to_owned()),
            ..Origin::default()
        };
        Self { casts: BTreeMap::new(), notes: BTreeMap::new(), d, origin }
    }

    /// Takes the maps of a cast from one layer to the layers `to`.
    pub fn take(&mut self, cast: Cast, from: usize, to: &[usize], maps: solver::Maps) {
        let lambdas: BTreeMap<String, f64> =
            to.iter().map(|to| format!("{to:02}")).zip(maps.lambdas).collect();
        if !lambdas.is_empty() {
            let notes = self.notes.entry((cast.clone(), from)).or_default();
            notes.insert("ridge_lambda".to_owned(), serde_json::json!(lambdas));
        }
        let by_pair = to.iter().map(|to| (from, *to)).zip(maps.maps.into_iter().map(Arc::new));
        self.casts.entry(cast).or_default().extend(by_pair);
    }
}

impl From<Fitting> for Maps {
    fn from(Fitting { casts, notes, d, origin }: Fitting) -> Self {
        let names = casts.keys().cloned().collect();
        let whole = Whole { place: Place::Memory { casts, notes }, casts: names, d, origin };
        Self::of_first(whole)
    }
}

impl Whole {
    /// The layers that maps of `cast` lead from and to.
    fn pairs(&self, cast: &Cast) -> PyResult<Vec<(usize, usize)>> {
        match &self.place {
            Place::Memory { casts, .. } => Ok(casts[cast].keys().copied().collect()),
            Place::Files(files) => chosen_pairs(&files.cast(cast), Pairs::All).map_err(of_library),
        }
    }

    fn map(&self, cast: &Cast, from: usize, to: usize) -> PyResult<Option<Arc<LinearMap>>> {
        match &self.place {
            Place::Memory { casts, .. } => Ok(casts[cast].get(&(from, to)).cloned()),
            Place::Files(files) => {
                let mut maps = files.cast(cast).load_pairs(from, &[to], self.d).map_err(of_library)?;
                Ok(maps.remove(&to).map(Arc::new))
            }
        }
    }

    /// What is known of the maps of `cast` from one layer, but for what is known of all.
    fn notes(&self, cast: &Cast, from: usize) -> PyResult<Notes> {
        match &self.place {
            Place::Memory { notes, .. } => Ok(notes.get(&(cast.clone(), from)).cloned().unwrap_or_default()),
            Place::Files(files) => {
                let mut notes = files.cast(cast).notes(from).map_err(of_library)?;
                notes.retain(|name, _| name != "origin" && name != "cast");
                Ok(notes)
            }
        }
    }

    /// Writes the maps of `casts` to the folder `folder`.
    fn write(&self, casts: &[Cast], folder: &Path) -> PyResult<()> {
        let out = Shortcuts::new(folder).with_origin(self.origin.clone());
        for cast in casts {
            let pairs = self.pairs(cast)?;
            for pairs in pairs.chunk_by(|one, next| one.0 == next.0) {
                let from = pairs[0].0;
                let mut maps = BTreeMap::new();
                for (_, to) in pairs {
                    let map = self.map(cast, from, *to)?;
                    maps.extend(map.map(|map| (*to, Arc::unwrap_or_clone(map))));
                }
                let notes = self.notes(cast, from)?;
                out.cast(cast).save_pairs(from, &maps, &notes).map_err(of_library)?;
            }
        }
        Ok(())
    }
}

impl Maps {
    /// The maps of the first cast.
    fn of_first(whole: Whole) -> Self {
        let cast = whole.casts.first().cloned().unwrap_or(Cast::MAT);
        let pairs = match &whole.place {
            Place::Memory { casts, .. } => {
                casts.get(&cast).map_or(Vec::new(), |maps| maps.keys().copied().collect())
            }
            Place::Files(_) => Vec::new(),
        };
        Self { whole: Arc::new(whole), cast, pairs, r2: PyOnceLock::new() }
    }

    fn of_cast(whole: Arc<Whole>, cast: Cast) -> PyResult<Self> {
        let pairs = whole.pairs(&cast)?;
        Ok(Self { whole, cast, pairs, r2: PyOnceLock::new() })
    }

    /// Those of a run, of a folder or file of maps, or of another program.
    pub fn open(path: &Path) -> PyResult<Self> {
        let found = std::fs::metadata(path).map_err(|error| of_io("read", path, error))?;
        let is_maps = path.extension().is_some_and(|ending| ending == "safetensors");
        if found.is_dir() || is_maps {
            let files = Shortcuts::open(path).map_err(of_library)?;
            let casts = files.casts().map_err(of_library)?;
            if let Some(first) = casts.first() {
                let of_first = files.cast(first);
                let from = of_first.sources().map_err(of_library)?;
                let from = from.first().ok_or_else(|| PyValueError::new_err("there are no maps"))?;
                let d = of_first.width(*from).map_err(of_library)?;
                let origins = files.origins().map_err(of_library)?;
                let origin = origins.into_iter().find_map(|(_, origin)| origin).unwrap_or_default();
                let first = first.clone();
                let whole = Whole { place: Place::Files(Box::new(files)), casts, d, origin };
                return Self::of_cast(Arc::new(whole), first);
            }
        }
        Ok(Self::of_foreign(Foreign::read(path).map_err(of_library)?))
    }

    fn of_foreign(foreign: Foreign) -> Self {
        let d = foreign.width();
        let mut casts: BTreeMap<Cast, ByPair> = BTreeMap::new();
        for (pair, map) in &foreign.pairs {
            casts.entry(foreign.cast_of(map)).or_default().insert(*pair, Arc::new(map.clone()));
        }
        let origin = Origin { imported_from: Some(foreign.format.to_owned()), ..foreign.origin };
        Fitting { casts, notes: BTreeMap::new(), d, origin }.into()
    }

    /// The map between two layers, and of which cast. `KeyError` where there is none.
    pub fn get(&self, from: usize, to: usize) -> PyResult<Arc<LinearMap>> {
        let map = match self.pairs.binary_search(&(from, to)) {
            Ok(_) => self.whole.map(&self.cast, from, to)?,
            Err(_) => None,
        };
        map.ok_or_else(|| {
            let targets =
                |from: usize| self.pairs.iter().filter(move |pair| pair.0 == from).map(|pair| pair.1);
            let there = match (targets(from).next(), self.pairs.first(), self.pairs.last()) {
                (Some(_), ..) => format!("from layer {from} they lead to {}", listed(targets(from))),
                (None, Some(first), Some(last)) => {
                    format!("they lead from the layers {} to {}", first.0, last.0)
                }
                _ => "there are none at all".to_owned(),
            };
            PyKeyError::new_err(format!(
                "there is no map of `{}` from layer {from} to {to}: {there}",
                self.cast
            ))
        })
    }

    /// Width of the states.
    pub fn width(&self) -> usize {
        self.whole.d
    }

    /// Of every cast, with its pairs of layers.
    pub fn each_cast(&self) -> PyResult<Vec<Self>> {
        let casts = self.whole.casts.iter();
        casts.map(|cast| Self::of_cast(self.whole.clone(), cast.clone())).collect()
    }

    /// What the maps are called.
    pub fn name(&self) -> &Cast {
        &self.cast
    }

    /// The layers that they lead from and to.
    pub fn between(&self) -> &[(usize, usize)] {
        &self.pairs
    }
}

fn listed(numbers: impl Iterator<Item = usize>) -> String {
    numbers.map(|number| number.to_string()).collect::<Vec<_>>().join(", ")
}

#[pymethods]
impl Maps {
    /// The maps of a run folder, a folder or file of maps (safetensors, ``.npz``, the reference's pickles), or a tuned lens.
    ///
    /// Raises
    /// ------
    /// FileNotFoundError
    ///     Where nothing is there.
    /// ValueError
    ///     Where there are no maps, or a file is not as it was written.
    #[staticmethod]
    fn load(py: Python, path: FilePath) -> PyResult<Self> {
        detached(py, || Self::open(&path.0))?
    }

    fn __getitem__(&self, py: Python, layers: &Bound<PyAny>) -> PyResult<Map> {
        let (from, to) = layers.extract().map_err(|_| {
            PyTypeError::new_err(
                "maps are chosen by two layers: `maps[3, 12]`; casts by `maps.cast(\"mat+b\")`",
            )
        })?;
        Ok(Map(detached(py, || self.get(from, to))??))
    }

    fn __contains__(&self, layers: &Bound<PyAny>) -> bool {
        layers.extract().is_ok_and(|pair| self.pairs.binary_search(&pair).is_ok())
    }

    fn __len__(&self) -> usize {
        self.pairs.len()
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        PyTuple::new(py, &self.pairs)?.call_method0("__iter__")
    }

    /// The layers that the maps lead from and to.
    #[getter]
    fn pairs(&self) -> Vec<(usize, usize)> {
        self.pairs.clone()
    }

    /// Width of the states.
    #[getter]
    fn d(&self) -> usize {
        self.whole.d
    }

    /// The casts that there are maps of.
    #[getter]
    fn casts(&self) -> Vec<String> {
        self.whole.casts.iter().map(Cast::to_string).collect()
    }

    /// The maps of the cast `name`. `KeyError` where there are none.
    #[pyo3(signature = (name = None))]
    fn cast(&self, py: Python, name: Option<&str>) -> PyResult<Self> {
        let cast = name.map_or(self.cast.clone(), Cast::from);
        if !self.whole.casts.contains(&cast) {
            let there = self.casts().join("`, `");
            return Err(PyKeyError::new_err(format!(
                "there are no maps of `{cast}`: there are those of `{there}`"
            )));
        }
        detached(py, || Self::of_cast(self.whole.clone(), cast))?
    }

    /// Writes the maps: all casts to a folder, or those of this cast to one file that ends in ``.npz`` or ``.safetensors``.
    ///
    /// Raises
    /// ------
    /// FileExistsError
    ///     Where something is there, and `overwrite` does not allow it to be replaced.
    #[pyo3(signature = (path, *, overwrite = false))]
    fn save(&self, py: Python, path: FilePath, overwrite: bool) -> PyResult<()> {
        let path = path.0;
        let format = match path.extension().and_then(|ending| ending.to_str()) {
            Some("npz") => Some(Format::Npz),
            Some("safetensors") => Some(Format::Safetensors),
            _ => None,
        };
        detached(py, || {
            let is_there = may_write(&path, overwrite)?;
            match format {
                None => {
                    if is_there {
                        remove_maps(&path)?;
                    }
                    self.whole.write(&self.whole.casts, &path)
                }
                Some(format) => {
                    let folder = tempfile::tempdir()?;
                    self.whole.write(std::slice::from_ref(&self.cast), folder.path())?;
                    let maps = Shortcuts::new(folder.path()).cast(&self.cast);
                    export(&maps, Pairs::All, format, &path).map(drop).map_err(of_library)
                }
            }
        })?
    }

    /// What is known of them: casts, width, pairs of layers, origin (model, samples, seed …) and notes.
    fn info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let info = PyDict::new(py);
        info.set_item("cast", self.cast.to_string())?;
        info.set_item("casts", self.casts())?;
        info.set_item("d", self.whole.d)?;
        info.set_item("pairs", &self.pairs)?;
        info.set_item("origin", pythonize::pythonize(py, &self.whole.origin)?)?;
        let notes = match self.pairs.first() {
            Some((from, _)) => detached(py, || self.whole.notes(&self.cast, *from))??,
            None => Notes::new(),
        };
        info.set_item("notes", pythonize::pythonize(py, &notes)?)?;
        Ok(info)
    }

    /// A table of r² on validation samples, with the columns of ``r2.csv``, where they come from a fit that had some; else `None`.
    #[getter]
    fn r2(&self, py: Python) -> Option<Py<PyAny>> {
        self.r2.get(py).map(|table| table.clone_ref(py))
    }

    /// The same, with what a fit of a model's states knows: `notes` of all maps (JSON), the model's name, and a table of r².
    fn _with(&self, py: Python, notes: &str, model: Option<String>, r2: Option<Py<PyAny>>) -> PyResult<Self> {
        let Place::Memory { casts, notes: own } = &self.whole.place else {
            return Err(PyTypeError::new_err("these maps lie in files"));
        };
        let added: Notes =
            serde_json::from_str(notes).map_err(|error| PyValueError::new_err(error.to_string()))?;
        let mut notes = own.clone();
        for (cast, maps) in casts {
            for (from, _) in maps.keys() {
                notes.entry((cast.clone(), *from)).or_default().extend(added.clone());
            }
        }
        let origin = Origin { model, ..self.whole.origin.clone() };
        let place = Place::Memory { casts: casts.clone(), notes };
        let maps = Self::of_first(Whole { place, casts: self.whole.casts.clone(), d: self.whole.d, origin });
        if let Some(r2) = r2 {
            maps.r2.get_or_init(py, || r2);
        }
        Ok(maps)
    }

    fn __repr__(&self) -> String {
        let others = if self.whole.casts.len() > 1 {
            format!(" of {}", self.casts().join(", "))
        } else {
            String::new()
        };
        format!("<jumplens.Maps `{}`: {} of width {}{others}>", self.cast, self.pairs.len(), self.whole.d)
    }
}

/// True where something is at `path` that may be replaced. `FileExistsError` where it may not, `ValueError` where `path` is in a
/// folder that the program made.
pub fn may_write(path: &Path, overwrite: bool) -> PyResult<bool> {
    // A folder's own manifest counts as one above what is written into it.
    check_outside(&path.join("maps")).map_err(of_library)?;
    let is_there = match std::fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => path.exists(),
    };
    match is_there && !overwrite {
        true => Err(PyFileExistsError::new_err(format!(
            "`{}` is there already; choose another place, or pass `overwrite=True`",
            path.display()
        ))),
        false => Ok(is_there),
    }
}

/// Removes the maps in a folder, and nothing else.
fn remove_maps(folder: &Path) -> PyResult<()> {
    let files = Shortcuts::new(folder);
    for cast in files.casts().map_err(of_library)? {
        let of_cast = files.cast(&cast);
        for from in of_cast.sources().map_err(of_library)? {
            if let Some(folder) = of_cast.folder() {
                std::fs::remove_file(folder.join(format!("{from:02}.safetensors")))?;
            }
        }
    }
    Ok(())
}
