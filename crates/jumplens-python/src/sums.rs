//! Second-moment sums of the states of layers.

use crate::call::{Stop, call};
use crate::error::of_io;
use crate::fit::{Wanted, maps_of, name, pairs_of, states_of, targets};
use crate::maps::{Fitting, Maps, may_write};
use crate::path::FilePath;
use crate::run::table;
use crate::threads::detached;
use jumplens::eval::tables::R2Row;
use jumplens_core::cast::{Cast, Pairs};
use jumplens_core::metrics::score;
use jumplens_core::solver::{Fitted, PairSums};
use numpy::{PyArrayLike1, PyArrayLike2};
use pyo3::exceptions::{PyKeyError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The metadata entry that says what the sums are of.
const RECORD: &str = "jumplens_sums";

/// The sums of a source layer, and which layers its targets are.
type Source = (Vec<usize>, PairSums);

/// Between which layers sums are.
#[derive(Clone, PartialEq)]
struct Layout {
    d: usize,
    /// Rising.
    layers: Vec<usize>,
    pairs: Pairs,
}

struct State {
    sources: BTreeMap<usize, Source>,
    /// False from where samples are begun to be taken in to where all sums have them.
    is_whole: bool,
}

/// Second-moment sums of the states of layers, in f64: all that the maps are made of.
///
/// They add up over any split of the samples, and take the same memory whatever their number.
///
/// Parameters
/// ----------
/// d : int
///     Width of a state.
/// layers : int or list of int
///     How many layers there are (13: layers 0 to 12), or which.
/// pairs : "to-final" or "all"
///     From every layer to the last, or to every later one.
///
/// Examples
/// --------
/// >>> import numpy as np, jumplens as jl
/// >>> h = np.random.default_rng(0).normal(size=(3, 200, 4)).astype("float32")
/// >>> sums = jl.Sums(4, layers=3)
/// >>> for part in (slice(0, 50), slice(50, 200)):
/// ...     sums.add([h_l[part] for h_l in h])
/// >>> sums.n, sums.fit().pairs
/// (200, [(0, 2), (1, 2)])
#[pyclass(frozen, module = "jumplens")]
pub struct Sums {
    layout: Layout,
    state: Arc<Mutex<State>>,
}

impl Layout {
    fn sources(&self) -> BTreeMap<usize, Source> {
        let sums = |(from, to): (usize, Vec<usize>)| {
            let sums = PairSums::new(self.d, to.len());
            (from, (to, sums))
        };
        targets(&self.layers, self.pairs).into_iter().map(sums).collect()
    }

    fn new(d: usize, layers: Vec<usize>, pairs: Pairs) -> PyResult<Self> {
        if d == 0 {
            return Err(PyValueError::new_err("d is 0, where a width of 1 or more is expected"));
        }
        if layers.len() < 2 || !layers.is_sorted_by(|one, next| one < next) {
            return Err(PyValueError::new_err(
                "layers are two or more, rising: `layers=13` for 0 to 12, or `layers=[0, 6, 12]`",
            ));
        }
        Ok(Self { d, layers, pairs })
    }
}

impl State {
    /// Its sums, once it is certain that all of them have the same samples.
    fn whole(&mut self) -> PyResult<&mut BTreeMap<usize, Source>> {
        match self.is_whole {
            true => Ok(&mut self.sources),
            false => Err(PyRuntimeError::new_err(
                "samples were being taken in when that was interrupted, and not all sums have them; make the sums again",
            )),
        }
    }

    /// Has `take` take in samples; the sums are of no use where that does not come to its end.
    fn taking(&mut self, take: impl FnOnce(&mut BTreeMap<usize, Source>) -> PyResult<()>) -> PyResult<()> {
        self.whole()?;
        self.is_whole = false;
        take(&mut self.sources)?;
        self.is_whole = true;
        Ok(())
    }

    fn n(&self) -> usize {
        self.sources.values().next().map_or(0, |(_, sums)| sums.n)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sums {
    fn with(layout: Layout, sources: BTreeMap<usize, Source>) -> Self {
        Self { layout, state: Arc::new(Mutex::new(State { sources, is_whole: true })) }
    }

    /// `ValueError` where there are no samples.
    fn samples(&self, py: Python) -> PyResult<usize> {
        match py.detach(|| lock(&self.state).n()) {
            0 => Err(PyValueError::new_err("the sums are of no samples yet; `add` some first")),
            n => Ok(n),
        }
    }

    fn plus(&self, py: Python, other: &Self) -> PyResult<Self> {
        if self.layout != other.layout {
            return Err(PyValueError::new_err(
                "sums of other layers, or of states of another width, do not add up",
            ));
        }
        let sources = |sums: &Self| py.detach(|| lock(&sums.state).whole().cloned());
        let (mut sources, others) = (sources(self)?, sources(other)?);
        for ((_, sums), (_, others)) in sources.values_mut().zip(others.values()) {
            sums.merge(others);
        }
        Ok(Self::with(self.layout.clone(), sources))
    }

    /// Of `id` and every map that there are sums for: how it does on these samples.
    fn scores(&self, py: Python, maps: &Maps) -> PyResult<Vec<(Cast, usize, usize, f64)>> {
        if maps.width() != self.layout.d {
            let message =
                format!("maps for states of width {} on sums of width {}", maps.width(), self.layout.d);
            return Err(PyValueError::new_err(message));
        }
        self.samples(py)?;
        detached(py, || {
            let casts = maps.each_cast()?;
            let mut state = lock(&self.state);
            let mut rows = Vec::new();
            for (from, (to, sums)) in &*state.whole()? {
                for (place, to) in to.iter().enumerate() {
                    let total = sums.target_spread(place).about_mean;
                    let mut row = |cast: &Cast, missed: &[f64]| {
                        rows.push((cast.clone(), *from, *to, score(missed, &total)))
                    };
                    row(&Cast::Id, &sums.squared_distances_to_source(place));
                    for maps in casts.iter().filter(|maps| maps.between().contains(&(*from, *to))) {
                        row(maps.name(), &sums.squared_errors(place, &*maps.get(*from, *to)?));
                    }
                }
            }
            Ok(rows)
        })?
    }
}

#[pymethods]
impl Sums {
    #[new]
    #[pyo3(signature = (d, layers, pairs = "to-final"))]
    fn new(d: usize, layers: &Bound<PyAny>, pairs: &str) -> PyResult<Self> {
        let layers = match layers.extract::<usize>() {
            Ok(number) => (0..number).collect(),
            Err(_) => layers.extract().map_err(|_| {
                PyTypeError::new_err(
                    "layers are how many there are, or their numbers: `layers=13`, `layers=[0, 6, 12]`",
                )
            })?,
        };
        let layout = Layout::new(d, layers, pairs_of(pairs)?)?;
        let sources = layout.sources();
        Ok(Self::with(layout, sources))
    }

    /// Width of a state.
    #[getter]
    fn d(&self) -> usize {
        self.layout.d
    }

    /// The layers.
    #[getter]
    fn layers(&self) -> Vec<usize> {
        self.layout.layers.clone()
    }

    /// Between which of them there are sums.
    #[getter]
    fn pairs(&self) -> String {
        self.layout.pairs.to_string()
    }

    /// Samples so far.
    #[getter]
    fn n(&self, py: Python) -> usize {
        py.detach(|| lock(&self.state).n())
    }

    /// Takes in samples: their states of every layer, ``[n, d]`` each; other layers are passed over.
    ///
    /// Raises
    /// ------
    /// KeyError
    ///     Where the states of a layer are missing.
    /// ValueError
    ///     Where they are of another width, of different lengths, or not finite.
    /// RuntimeError
    ///     Where an earlier call was interrupted half-way.
    fn add(&self, py: Python, states: &Bound<PyAny>) -> PyResult<()> {
        let mut states = states_of(states)?;
        states.retain(|layer, _| self.layout.layers.contains(layer));
        let first = self.layout.layers[0];
        for layer in &self.layout.layers {
            let rows = states.get(&first).map(|states| states.rows());
            match states.get(layer) {
                Some(states) => states.expect(&name(*layer), rows, self.layout.d)?,
                None => return Err(PyKeyError::new_err(format!("there are no states of layer {layer}"))),
            }
        }
        let state = self.state.clone();
        call(py, move |stop| {
            for (layer, states) in &states {
                states.expect_finite(&name(*layer))?;
            }
            lock(&state).taking(|sources| {
                sources.iter_mut().try_for_each(|(from, (to, sums))| {
                    stop.check()?;
                    sums.add(states[from].values(), to.iter().map(|to| states[to].values()));
                    Ok(())
                })
            })
        })
    }

    /// Takes in samples whose sums were made elsewhere, in f64: Σ h `[d]` and Σ h² `[d]` of every layer, Σ h·hᵀ of every source,
    /// Σ h·h′ᵀ of every pair.
    fn _add_moments(
        &self,
        n: usize,
        sums: HashMap<usize, PyArrayLike1<f64>>,
        squares: HashMap<usize, PyArrayLike1<f64>>,
        grams: HashMap<usize, PyArrayLike2<f64>>,
        crosses: HashMap<(usize, usize), PyArrayLike2<f64>>,
    ) -> PyResult<()> {
        let missing = || PyKeyError::new_err("not all sums are there");
        lock(&self.state).taking(|sources| {
            for (from, (to, own)) in sources {
                let gram = grams.get(from).ok_or_else(missing)?.as_array();
                let mut more = PairSums::new(self.layout.d, to.len());
                more.n = n;
                more.sum = sums.get(from).ok_or_else(missing)?.as_array().to_vec();
                let d = self.layout.d;
                (0..d).for_each(|i| (0..=i).for_each(|j| more.gram[(i, j)] = gram[(i, j)]));
                for (target, to) in more.targets.iter_mut().zip(to) {
                    target.sum = sums.get(to).ok_or_else(missing)?.as_array().to_vec();
                    target.squares = squares.get(to).ok_or_else(missing)?.as_array().to_vec();
                    let cross = crosses.get(&(*from, *to)).ok_or_else(missing)?.as_array();
                    (0..d).for_each(|i| (0..d).for_each(|j| target.cross[(i, j)] = cross[(i, j)]));
                }
                own.merge(&more);
            }
            Ok(())
        })
    }

    fn __add__(&self, py: Python, other: &Self) -> PyResult<Self> {
        self.plus(py, other)
    }

    /// The maps, as `fit_layers` gives them. `ValueError` where there are no samples.
    #[pyo3(signature = (*, intercept = false, ridge = None, rank = None))]
    fn fit(
        &self,
        py: Python,
        intercept: bool,
        ridge: Option<&Bound<PyAny>>,
        rank: Option<usize>,
    ) -> PyResult<Maps> {
        let casts = Wanted::new(intercept, ridge, rank)?.casts();
        let (n, d) = (self.samples(py)?, self.layout.d);
        let last = self.layout.layers.last().copied().unwrap_or(0);
        let state = self.state.clone();
        let work = move |stop: &Stop| {
            let mut fitting = Fitting::new(d, last, n);
            for (from, (to, sums)) in &*lock(&state).whole()? {
                stop.check()?;
                let maps = maps_of(&casts, stop, |intercept| Fitted::of_sums(sums, intercept))?;
                maps.into_iter().for_each(|(cast, maps)| fitting.take(cast, *from, to, maps));
            }
            Ok(fitting)
        };
        Ok(call(py, work)?.into())
    }

    /// A table of r² of `maps` and of ``id`` on these samples, in f64: ``mapping, from, to, r2, r2_train``, the last of them on the
    /// samples of `train`.
    #[pyo3(signature = (maps, *, train = None))]
    fn r2<'py>(&self, py: Python<'py>, maps: &Maps, train: Option<&Self>) -> PyResult<Bound<'py, PyAny>> {
        let rows = self.scores(py, maps)?;
        let of_train = match train {
            Some(train) if train.layout != self.layout => {
                return Err(PyValueError::new_err("the sums of the training samples are of other layers"));
            }
            Some(train) => train.scores(py, maps)?.into_iter().map(|row| row.3).collect(),
            None => vec![f64::NAN; rows.len()],
        };
        let rows = rows.into_iter().zip(of_train);
        let row = |((mapping, from, to, r2), r2_train)| R2Row { mapping, from, to, r2, r2_train };
        table(py, &rows.map(row).collect::<Vec<_>>())
    }

    /// Writes them to a safetensors file. `FileExistsError` where one is there, and `overwrite` does not allow it to be replaced.
    #[pyo3(signature = (path, *, overwrite = false))]
    fn save(&self, py: Python, path: FilePath, overwrite: bool) -> PyResult<()> {
        let record = serde_json::json!({
            "d": self.layout.d, "layers": self.layout.layers, "pairs": self.layout.pairs, "version": 1,
            "n": self.n(py),
        });
        detached(py, || {
            may_write(&path.0, overwrite)?;
            write(&path.0, record.to_string(), lock(&self.state).whole()?)
        })?
    }

    /// Those that `save` wrote. `ValueError` where the file is none.
    #[staticmethod]
    fn load(py: Python, path: FilePath) -> PyResult<Self> {
        py.detach(|| read(&path.0))
    }

    fn __repr__(&self, py: Python) -> String {
        let Layout { d, layers, pairs } = &self.layout;
        format!("<jumplens.Sums {pairs} of {} layers of width {d}: {} samples>", layers.len(), self.n(py))
    }
}

fn bytes(values: impl IntoIterator<Item = f64>) -> Vec<u8> {
    values.into_iter().flat_map(f64::to_le_bytes).collect()
}

/// Tensors in f64 by name: `LL.sum` `[d]` and `LL.gram` `[d, d]` (its lower triangle) of each source, `LL_MM.sum`, `LL_MM.squares` `[d]` and
/// `LL_MM.cross` `[d, d]` of each pair.
fn tensors(sources: &BTreeMap<usize, Source>) -> Vec<(String, Vec<usize>, Vec<u8>)> {
    let mut all = Vec::new();
    for (from, (to, sums)) in sources {
        let d = sums.d();
        let mut add =
            |name: String, shape: &[usize], values: Vec<u8>| all.push((name, shape.to_vec(), values));
        let square = |at: &dyn Fn(usize, usize) -> f64| bytes((0..d * d).map(|i| at(i / d, i % d)));
        add(format!("{from:02}.sum"), &[d], bytes(sums.sum.iter().copied()));
        let gram = |i: usize, j: usize| if j <= i { sums.gram[(i, j)] } else { 0.0 };
        add(format!("{from:02}.gram"), &[d, d], square(&gram));
        for (to, target) in to.iter().zip(&sums.targets) {
            add(format!("{from:02}_{to:02}.sum"), &[d], bytes(target.sum.iter().copied()));
            add(format!("{from:02}_{to:02}.squares"), &[d], bytes(target.squares.iter().copied()));
            add(format!("{from:02}_{to:02}.cross"), &[d, d], square(&|i, j| target.cross[(i, j)]));
        }
    }
    all
}

/// Writes a file, whole or not at all.
fn write(path: &Path, record: String, sources: &BTreeMap<usize, Source>) -> PyResult<()> {
    let tensors = tensors(sources);
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F64, shape.clone(), bytes);
        view.map(|view| (name, view)).map_err(|error| PyRuntimeError::new_err(error.to_string()))
    });
    let views = views.collect::<PyResult<Vec<_>>>()?;
    let mut part = path.to_owned().into_os_string();
    part.push(".part");
    let part = PathBuf::from(part);
    let metadata = HashMap::from([(RECORD.to_owned(), record)]);
    let written = safetensors::serialize_to_file(views, Some(metadata), &part);
    let written = written.map_err(|error| std::io::Error::other(error.to_string()));
    let renamed = written.and_then(|()| std::fs::rename(&part, path));
    renamed.map_err(|error| {
        let _ = std::fs::remove_file(&part);
        of_io("write", path, error)
    })
}

fn read(path: &Path) -> PyResult<Sums> {
    let fail = |what: String| PyValueError::new_err(format!("`{}`: {what}", path.display()));
    let file = std::fs::read(path).map_err(|error| of_io("read", path, error))?;
    let (_, metadata) = SafeTensors::read_metadata(&file).map_err(|error| fail(error.to_string()))?;
    let record = metadata.metadata().as_ref().and_then(|entries| entries.get(RECORD));
    let record = record.ok_or_else(|| fail("it holds no sums that `Sums.save` wrote".to_owned()))?;
    let record: serde_json::Value = serde_json::from_str(record).map_err(|error| fail(error.to_string()))?;
    let number = |name: &str| record[name].as_u64().map(|number| number as usize);
    let layers = record["layers"]
        .as_array()
        .map(|layers| layers.iter().filter_map(|layer| Some(layer.as_u64()? as usize)).collect::<Vec<_>>());
    let pairs = record["pairs"].as_str().map(pairs_of).transpose()?;
    let (Some(d), Some(n), Some(layers), Some(pairs)) = (number("d"), number("n"), layers, pairs) else {
        return Err(fail("what it says of its sums is not whole".to_owned()));
    };
    let layout = Layout::new(d, layers, pairs)?;
    let tensors = SafeTensors::deserialize(&file).map_err(|error| fail(error.to_string()))?;
    let values = |name: String, size: usize| -> PyResult<Vec<f64>> {
        let view = tensors.tensor(&name).map_err(|error| fail(error.to_string()))?;
        let values: Vec<f64> =
            view.data().as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
        match view.dtype() == Dtype::F64
            && values.len() == size
            && values.iter().all(|value| value.is_finite())
        {
            true => Ok(values),
            false => Err(fail(format!("tensor `{name}` is not {size} finite values in F64"))),
        }
    };
    // Nothing of that size is made before there are as many values.
    values(
        format!("{:02}.gram", layout.layers[0]),
        d.checked_mul(d).ok_or_else(|| fail("its width is no width".into()))?,
    )?;
    let mut sources = layout.sources();
    for (from, (to, sums)) in &mut sources {
        let fill = |into: &mut dyn FnMut(usize, usize, f64), values: Vec<f64>| {
            values.into_iter().enumerate().for_each(|(i, value)| into(i / d, i % d, value));
        };
        sums.n = n;
        sums.sum = values(format!("{from:02}.sum"), d)?;
        fill(&mut |i, j, value| sums.gram[(i, j)] = value, values(format!("{from:02}.gram"), d * d)?);
        for (to, target) in to.iter().zip(&mut sums.targets) {
            target.sum = values(format!("{from:02}_{to:02}.sum"), d)?;
            target.squares = values(format!("{from:02}_{to:02}.squares"), d)?;
            fill(
                &mut |i, j, value| target.cross[(i, j)] = value,
                values(format!("{from:02}_{to:02}.cross"), d * d)?,
            );
        }
    }
    Ok(Sums::with(layout, sources))
}
