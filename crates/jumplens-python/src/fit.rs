//! Maps from arrays.

use crate::call::{Stop, call};
use crate::error::of_core;
use crate::map::Map;
use crate::maps::{Fitting, Maps};
use crate::matrix::Matrix;
use jumplens_core::Error;
use jumplens_core::cast::{Cast, Fits, Kind, MapCast, Pairs, Ridge};
use jumplens_core::linalg::parallel;
use jumplens_core::solver::{self, Fitted, Rows};
use jumplens_core::spread::Spread;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use std::collections::BTreeMap;

/// Source layers that are worked on at one time, where there are threads for them.
const LANES: usize = 8;

/// What `intercept`, `ridge` and `rank` of a call say.
#[derive(Clone, Copy)]
pub struct Wanted {
    pub intercept: bool,
    pub ridge: Option<Ridge>,
    pub rank: Option<usize>,
}

impl Wanted {
    /// `ValueError` where `rank` is 0, or `ridge` no λ.
    pub fn new(intercept: bool, ridge: Option<&Bound<PyAny>>, rank: Option<usize>) -> PyResult<Self> {
        if rank == Some(0) {
            return Err(PyValueError::new_err("rank is 0, where a number of 1 or more is expected"));
        }
        Ok(Self { intercept, ridge: ridge.map(ridge_of).transpose()?, rank })
    }

    /// The one map that is meant. `ValueError` where a penalty and a rank are given.
    fn one(self) -> PyResult<MapCast> {
        let kind = match (self.ridge, self.rank) {
            (None, None) => Kind::Plain,
            (Some(ridge), None) => Kind::Ridge(ridge),
            (None, Some(rank)) => Kind::Rank(rank),
            (Some(_), Some(_)) => {
                return Err(PyValueError::new_err("a map has a penalty or a rank: give `ridge` or `rank`"));
            }
        };
        Ok(MapCast { intercept: self.intercept, kind })
    }

    /// All that are meant, as `jumplens fit` has them: plain, and beside it by ridge regression and of low rank; each with a
    /// bias too where there is an intercept.
    pub fn casts(self) -> Vec<MapCast> {
        let fits = Fits { intercept: self.intercept, ridge: self.ridge, ..Fits::plain(Pairs::All) };
        Fits { ranks: self.rank.into_iter().collect(), ..fits }.least_squares()
    }
}

/// True where the means and the spread of states are needed: for a bias, and to find λ.
fn needs_spread(casts: &[MapCast]) -> bool {
    casts.iter().any(|cast| cast.intercept || cast.kind == Kind::Ridge(Ridge::Auto))
}

/// The maps of all `casts`, from what `factored` makes for those with a bias and those without.
pub fn maps_of(
    casts: &[MapCast],
    stop: &Stop,
    factored: impl Fn(bool) -> jumplens_core::Result<Fitted>,
) -> PyResult<Vec<(Cast, solver::Maps)>> {
    let mut maps = Vec::new();
    for casts in casts.chunk_by(|one, next| one.intercept == next.intercept) {
        let fitted = factored(casts[0].intercept).map_err(of_core)?;
        for cast in casts {
            stop.check()?;
            maps.push((cast.cast(), fitted.maps(cast.kind).map_err(of_core)?));
        }
    }
    Ok(maps)
}

fn ridge_of(ridge: &Bound<PyAny>) -> PyResult<Ridge> {
    if ridge.extract::<String>().is_ok_and(|text| text == "auto") {
        return Ok(Ridge::Auto);
    }
    let lambda: f64 = ridge.extract().map_err(|_| {
        PyTypeError::new_err(format!("ridge is {ridge}, where `None`, \"auto\" or a number is expected"))
    })?;
    match lambda >= 0.0 && lambda.is_finite() {
        true => Ok(Ridge::Fixed(lambda)),
        false => Err(of_core(Error::Lambda { lambda: lambda.to_string() })),
    }
}

/// `"to-final"` or `"all"`.
pub fn pairs_of(pairs: &str) -> PyResult<Pairs> {
    match pairs {
        "to-final" => Ok(Pairs::ToFinal),
        "all" => Ok(Pairs::All),
        _ => Err(PyValueError::new_err(format!(
            "pairs is \"{pairs}\", where \"to-final\" or \"all\" is expected"
        ))),
    }
}

/// The targets of each of the `layers`, which rise.
pub fn targets(layers: &[usize], pairs: Pairs) -> BTreeMap<usize, Vec<usize>> {
    let Some((last, sources)) = layers.split_last() else { return BTreeMap::new() };
    let of = |(place, from): (usize, &usize)| {
        let to = if pairs == Pairs::All { layers[place + 1..].to_vec() } else { vec![*last] };
        (*from, to)
    };
    sources.iter().enumerate().map(of).collect()
}

/// The states of layers: a dictionary by layer, or a sequence from layer 0 on.
pub fn states_of(states: &Bound<PyAny>) -> PyResult<BTreeMap<usize, Matrix>> {
    let by_layer: BTreeMap<usize, Bound<PyAny>> = match states.extract() {
        Ok(by_layer) => by_layer,
        Err(_) => states
            .extract::<Vec<Bound<PyAny>>>()
            .map_err(|_| {
                PyTypeError::new_err(
                    "states are a dictionary of arrays by layer, or a list of them from layer 0 on",
                )
            })?
            .into_iter()
            .enumerate()
            .collect(),
    };
    let matrix = |(layer, states): (usize, Bound<PyAny>)| Ok((layer, Matrix::of(&name(layer), &states)?));
    by_layer.into_iter().map(matrix).collect()
}

/// What the states of a layer are called in messages.
pub fn name(layer: usize) -> String {
    format!("states[{layer}]")
}

/// The linear map with the least ``‖x·Aᵀ + b − y‖²``.
///
/// Parameters
/// ----------
/// x : array, ``[n, d_in]``
///     Source states: NumPy, or a tensor of PyTorch on the CPU; float32 or float64. Contiguous float32 is not copied, anything else
///     once.
/// y : array, ``[n, d_out]``
///     Target states, as `x`.
/// intercept : bool
///     With a bias, which takes the mean of `x` to that of `y`.
/// ridge : None, "auto" or float
///     λ of ``‖x·Aᵀ − y‖² + λ‖A‖²``, as scikit-learn's ``Ridge(alpha=λ)`` has it; ``"auto"`` finds it by generalised
///     cross-validation.
/// rank : int, optional
///     The best map of that rank on these states (reduced-rank regression).
///
/// Returns
/// -------
/// Map
///
/// Raises
/// ------
/// TypeError
///     Where `x` or `y` is neither float32 nor float64.
/// ValueError
///     Where they have no two dimensions, are empty, of different lengths, or not finite; where both `ridge` and `rank` are given.
///
/// Notes
/// -----
/// Least squares as if by f64 SVD of `x`: singular values at or below 1e-6 of the largest count as zero, and of several maps the one of
/// minimum norm is taken. Products are in f32. The same bits on any number of threads (``RAYON_NUM_THREADS``). The GIL is released;
/// Ctrl-C ends the call at once, and what it computes a moment later, at the end of a product or of a decomposition. Do not write into
/// the arrays meanwhile.
///
/// The method is that of arXiv 2303.09435, section 3.
///
/// Examples
/// --------
/// >>> import numpy as np, jumplens as jl
/// >>> x = np.eye(3, dtype="float32")
/// >>> jl.fit(x, 2 * x).weight.round(3).tolist()
/// [[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0]]
#[pyfunction]
#[pyo3(signature = (x, y, *, intercept = false, ridge = None, rank = None))]
pub fn fit(
    py: Python,
    x: &Bound<PyAny>,
    y: &Bound<PyAny>,
    intercept: bool,
    ridge: Option<&Bound<PyAny>>,
    rank: Option<usize>,
) -> PyResult<Map> {
    let options = Wanted::new(intercept, ridge, rank)?.one()?;
    let (x, y) = (Matrix::of("x", x)?, Matrix::of("y", y)?);
    y.expect("y", Some(x.rows()), y.columns())?;
    let work = move |stop: &Stop| {
        x.expect_finite("x")?;
        y.expect_finite("y")?;
        let needs_spread = needs_spread(&[options]);
        let (of_x, of_y) = (x.spread(needs_spread), y.spread(needs_spread));
        let targets = [y.with(&of_y)];
        let is_unwanted = || stop.is_wanted();
        let fitted = Fitted::of_rows_unless(x.with(&of_x), &targets, options.intercept, &is_unwanted);
        let fitted = fitted.map_err(of_core)?;
        Ok(fitted.maps(options.kind).map_err(of_core)?.maps.remove(0))
    };
    Ok(call(py, work)?.into())
}

/// All maps between the layers of a model, each source factored once.
///
/// Parameters
/// ----------
/// states : dict of arrays by layer, or a list of them from layer 0 on
///     ``[n, d]`` each, as in `fit`.
/// pairs : "to-final" or "all"
///     From every layer to the last, or to every later one.
/// intercept, ridge, rank
///     As in `fit`; what they ask for is fitted beside the plain maps, each a cast of its own: ``mat``, ``mat+b``, ``mat_ridge``,
///     ``mat_r64``, ``mat+b_ridge`` …
///
/// Returns
/// -------
/// Maps
#[pyfunction]
#[pyo3(signature = (states, *, pairs = "to-final", intercept = false, ridge = None, rank = None))]
pub fn fit_layers(
    py: Python,
    states: &Bound<PyAny>,
    pairs: &str,
    intercept: bool,
    ridge: Option<&Bound<PyAny>>,
    rank: Option<usize>,
) -> PyResult<Maps> {
    let (wanted, pairs) = (Wanted::new(intercept, ridge, rank)?, pairs_of(pairs)?);
    let states = states_of(states)?;
    let layers: Vec<usize> = states.keys().copied().collect();
    let &[first, _, ..] = &layers[..] else {
        return Err(PyValueError::new_err("there are maps between two layers or more"));
    };
    let (rows, d) = (states[&first].rows(), states[&first].columns());
    for (layer, states) in &states {
        states.expect(&name(*layer), Some(rows), d)?;
    }
    let work = move |stop: &Stop| {
        for (layer, states) in &states {
            states.expect_finite(&name(*layer))?;
        }
        let sources: Vec<(usize, Vec<usize>)> = targets(&layers, pairs).into_iter().collect();
        let casts = wanted.casts();
        let needs_spread = needs_spread(&casts);
        let spreads: BTreeMap<usize, Option<Spread>> =
            states.iter().map(|(layer, states)| (*layer, states.spread(needs_spread))).collect();
        let rows_of = |layer: &usize| states[layer].with(&spreads[layer]);
        let mut fitting = Fitting::new(d, layers.last().copied().unwrap_or(0), rows);
        let fit = |(from, to): &(usize, Vec<usize>)| {
            let y: Vec<Rows> = to.iter().map(rows_of).collect();
            let is_unwanted = || stop.is_wanted();
            let factored = |intercept| Fitted::of_rows_unless(rows_of(from), &y, intercept, &is_unwanted);
            maps_of(&casts, stop, factored).map_err(Failure)
        };
        let outcome = parallel::for_each(&sources, LANES, fit, |index, maps| {
            let (from, to) = &sources[index];
            maps.into_iter().for_each(|(cast, maps)| fitting.take(cast, *from, to, maps));
            Ok(())
        });
        outcome.map_err(|failure| failure.0)?;
        Ok(fitting)
    };
    Ok(call(py, work)?.into())
}

/// An exception that may be one of the library's errors.
struct Failure(PyErr);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(of_core(error))
    }
}
