//! What `jumplens.torch` shares with `jumplens run`: positions, and means with their intervals.

use crate::error::of_library;
use crate::run::table;
use crate::threads::detached;
use jumplens::corpus::HowMany;
use jumplens::eval::{CastPredictions, Evaluation, NO_TOKEN, Prediction, TOP_K, layer_rows};
use jumplens::tokenize::Positions;
use numpy::PyArrayLike2;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::ops::Range;

/// The positions that are chosen of sentence number `index` with so many tokens; of all where `number` is `None`.
#[pyfunction]
#[pyo3(signature = (tokens, index, seed, number, skip_first))]
pub fn positions(
    tokens: usize,
    index: u64,
    seed: u64,
    number: Option<usize>,
    skip_first: usize,
) -> PyResult<Vec<usize>> {
    let how_many = match number {
        Some(0) => {
            return Err(PyValueError::new_err("positions is 0, where a number of 1 or more is expected"));
        }
        Some(number) => HowMany::Number(number),
        None => HowMany::All,
    };
    Positions { how_many, skip_first }.chosen(tokens, index, seed).map_err(of_library)
}

/// What one cast predicts: its name; and `[layers, samples]` each, the place of its token among the model's ten best (−1 where
/// it is not there), surprisal, KL, and loss (NaN where the true token is not known).
type Cast<'py> =
    (String, PyArrayLike2<'py, i64>, PyArrayLike2<'py, f64>, PyArrayLike2<'py, f64>, PyArrayLike2<'py, f64>);

/// The table `layers.csv` of predictions on samples, of which `sentences` says how many each sentence has.
#[pyfunction]
pub fn layer_table<'py>(
    py: Python<'py>,
    casts: Vec<Cast<'py>>,
    sentences: Vec<usize>,
    seed: u64,
) -> PyResult<Bound<'py, PyAny>> {
    let n: usize = sentences.iter().sum();
    let mut all = Vec::new();
    for (name, places, surprisals, kls, losses) in &casts {
        let shapes = [surprisals.as_array().dim(), kls.as_array().dim(), losses.as_array().dim()];
        let (layers, samples) = places.as_array().dim();
        if samples != n || shapes.iter().any(|shape| *shape != (layers, n)) {
            return Err(PyValueError::new_err(format!("what `{name}` predicts is not of {n} samples")));
        }
        let prediction = |layer: usize, i: usize| {
            let at = (layer, i);
            let (surprisal, kl) = (surprisals.as_array()[at], kls.as_array()[at]);
            let loss = Some(losses.as_array()[at]).filter(|loss| !loss.is_nan());
            // Of its tokens and their probabilities nothing is told here.
            Prediction {
                top: [NO_TOKEN; TOP_K],
                surprisal,
                confidence: f64::NAN,
                kl,
                loss,
                model_rank: usize::try_from(places.as_array()[at]).ok(),
                rank: 0,
            }
        };
        let layers = (0..layers).map(|layer| (0..n).map(|i| prediction(layer, i)).collect()).collect();
        all.push(CastPredictions { mapping: name.as_str().into(), layers });
    }
    let mut start = 0;
    let ranges: Vec<Range<usize>> = sentences
        .iter()
        .map(|samples| {
            start += samples;
            start - samples..start
        })
        .collect();
    let rows = detached(py, || layer_rows(&Evaluation { casts: all }, &ranges, seed))?;
    table(py, &rows)
}
