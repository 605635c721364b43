//! How far each run is from the first, with intervals.

use super::ComparedRun;
use super::predictions::{self, MEASURES, Measured};
use crate::eval::tables::LayerRow;
use crate::eval::{Draws, RESAMPLES, interval};
use crate::models::Kind;
use crate::tokenize::Sample;
use crate::words::{Cast, RESULTS, samples_file};
use crate::{Error, Result};
use faer::Mat;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::path::Path;

/// How an interval was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Both runs have the same validation samples: the difference of each sample, sentences resampled 1,000 times.
    Paired,
    /// They have not, or a run has no `predictions.parquet`: from the two intervals, as of independent estimates.
    Independent,
}

/// A row of `differences.csv`: one run beside the first at one layer of a cast.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DifferenceRow {
    /// The first run's name.
    pub reference: String,
    /// The other run's name.
    pub run: String,
    /// Cast.
    pub mapping: Cast,
    /// Column of `layers.csv`.
    pub measure: String,
    /// Layer of the first run.
    pub reference_layer: usize,
    /// The other run's layer at the nearest share of its depth.
    pub layer: usize,
    /// The first run's figure.
    pub reference_value: f64,
    /// The other run's figure.
    pub value: f64,
    /// `value` − `reference_value`.
    pub difference: f64,
    /// Lower bound of the difference's 95 % interval.
    pub lo: f64,
    /// Upper bound.
    pub hi: f64,
    /// How the bounds were found.
    pub method: Method,
}

/// A figure with its interval.
#[derive(Debug, Clone, Copy)]
struct Estimate {
    value: f64,
    lo: f64,
    hi: f64,
}

fn estimate(row: &LayerRow, measure: usize) -> Estimate {
    let (value, lo, hi) = match measure {
        0 => (row.precision_1, row.precision_1_lo, row.precision_1_hi),
        1 => (row.precision_5, row.precision_5_lo, row.precision_5_hi),
        2 => (row.precision_10, row.precision_10_lo, row.precision_10_hi),
        _ => (row.surprisal, row.surprisal_lo, row.surprisal_hi),
    };
    Estimate { value, lo, hi }
}

/// The differences of each run from the first: Precision@1, @5, @10 and surprisal of every cast that both have, at every
/// layer of the first.
///
/// # Errors
/// [`Error::Io`] or [`Error::Format`] when the samples or predictions of a run cannot be read.
pub fn differences(runs: &[ComparedRun]) -> Result<Vec<DifferenceRow>> {
    let Some((reference, others)) = runs.split_first() else { return Ok(Vec::new()) };
    let own = PerSample::read(reference)?;
    let mut rows = Vec::new();
    for other in others {
        let theirs = PerSample::read(other)?;
        let both = own
            .as_ref()
            .zip(theirs.as_ref())
            .filter(|(own, theirs)| same_samples(&own.samples, &theirs.samples));
        let paired = both.map(|(own, theirs)| (&own.measured, &theirs.measured, sentences(&own.samples)));
        rows.extend(difference_rows(reference, other, paired));
    }
    Ok(rows)
}

/// What is known of each validation sample of a run.
struct PerSample {
    samples: Vec<Sample>,
    measured: Measured,
}

impl PerSample {
    /// `None` where the run has no predictions, or no samples.
    fn read(run: &ComparedRun) -> Result<Option<Self>> {
        if run.tables.layers.is_empty() {
            return Ok(None);
        }
        let last = run.tables.last_layer();
        let measured = predictions::read(&run.folder.join(RESULTS).join("predictions.parquet"), last)?;
        let samples = samples(&run.folder.join(samples_file("val")))?;
        Ok(measured.zip(samples).map(|(measured, samples)| Self { samples, measured }))
    }
}

fn samples(path: &Path) -> Result<Option<Vec<Sample>>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", path)(error)),
    };
    text.lines().map(serde_json::from_str).collect::<Result<_, _>>().map(Some).map_err(Error::format(path))
}

/// Which of the samples are of one sentence, whichever kind the model is of.
fn sentences(samples: &[Sample]) -> Vec<Range<usize>> {
    let same = |one: &Sample, other: &Sample| {
        [Kind::Causal, Kind::Masked].into_iter().any(|kind| one.is_of_the_same_sentence(other, kind))
    };
    let mut start = 0;
    let ranges = samples.chunk_by(same).map(|sentence| {
        start += sentence.len();
        start - sentence.len()..start
    });
    ranges.collect()
}

/// Whether two runs have the same validation samples.
fn same_samples(a: &[Sample], b: &[Sample]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.ids == b.ids && a.position == b.position)
}

/// The layer of a model of `to` layers at the share of depth nearest to that of layer `layer` of `from`.
fn same_depth(layer: usize, from: usize, to: usize) -> usize {
    if from == 0 { 0 } else { (layer as f64 * to as f64 / from as f64).round() as usize }
}

fn difference_rows(
    reference: &ComparedRun,
    other: &ComparedRun,
    paired: Option<(&Measured, &Measured, Vec<Range<usize>>)>,
) -> Vec<DifferenceRow> {
    let (from, to) = (reference.tables.last_layer(), other.tables.last_layer());
    let of = |row: &LayerRow| {
        let layer = same_depth(row.layer, from, to);
        let found =
            other.tables.layers.iter().find(|other| other.mapping == row.mapping && other.layer == layer);
        found.map(|other| (row.clone(), other.clone()))
    };
    let pairs: Vec<(LayerRow, LayerRow)> = reference.tables.layers.iter().filter_map(of).collect();
    let bounds = paired.and_then(|(own, theirs, sentences)| paired_bounds(&pairs, own, theirs, &sentences));
    let method = if bounds.is_some() { Method::Paired } else { Method::Independent };
    let mut rows = Vec::new();
    for (place, (row, other_row)) in pairs.iter().enumerate() {
        for (measure, name) in MEASURES.into_iter().enumerate() {
            let (a, b) = (estimate(row, measure), estimate(other_row, measure));
            let (lo, hi) = match &bounds {
                Some(bounds) => bounds[place][measure],
                None => independent_bounds(a, b),
            };
            rows.push(DifferenceRow {
                reference: reference.name.clone(),
                run: other.name.clone(),
                mapping: row.mapping.clone(),
                measure: name.to_owned(),
                reference_layer: row.layer,
                layer: other_row.layer,
                reference_value: a.value,
                value: b.value,
                difference: b.value - a.value,
                lo,
                hi,
                method,
            });
        }
    }
    rows
}

/// Bounds of `b` − `a` for independent estimates, from the distances of each to its own bounds (Zou and Donner 2008).
fn independent_bounds(a: Estimate, b: Estimate) -> (f64, f64) {
    let difference = b.value - a.value;
    let lower = (b.value - b.lo).hypot(a.hi - a.value);
    let upper = (b.hi - b.value).hypot(a.value - a.lo);
    (difference - lower, difference + upper)
}

/// By pair of rows and measure, the bounds of the mean difference over the samples; `None` where the predictions lack a row.
fn paired_bounds(
    pairs: &[(LayerRow, LayerRow)],
    own: &Measured,
    theirs: &Measured,
    sentences: &[Range<usize>],
) -> Option<Vec<[(f64, f64); MEASURES.len()]>> {
    let mut n = None;
    let mut columns: Vec<Vec<[f64; MEASURES.len()]>> = Vec::new();
    for (a, b) in pairs {
        let a = own.get(&(a.mapping.clone(), a.layer))?;
        let b = theirs.get(&(b.mapping.clone(), b.layer))?;
        if a.len() != b.len() || *n.get_or_insert(a.len()) != a.len() {
            return None;
        }
        columns.push(
            a.iter().zip(b).map(|(a, b)| std::array::from_fn(|measure| b[measure] - a[measure])).collect(),
        );
    }
    let n = n.filter(|n| *n > 0 && sentences.last().is_some_and(|sentence| sentence.end == *n))?;
    let draws = Draws::new(sentences, 0);
    let values = Mat::from_fn(n, columns.len() * MEASURES.len(), |sample, column| {
        columns[column / MEASURES.len()][sample][column % MEASURES.len()]
    });
    let resampled = draws.sums(values.as_ref());
    let bounds = |column: usize| {
        let means: Vec<f64> = (0..RESAMPLES).map(|i| resampled[(i, column)] / draws.totals[i]).collect();
        // A sample without a figure leaves the whole without bounds.
        if means.iter().any(|mean| mean.is_nan()) { (f64::NAN, f64::NAN) } else { interval(means) }
    };
    let row = |place: usize| std::array::from_fn(|measure| bounds(place * MEASURES.len() + measure));
    Some((0..pairs.len()).map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depths_are_matched_to_the_nearest_layer() {
        assert_eq!(
            (0..=6).map(|layer| same_depth(layer, 6, 12)).collect::<Vec<_>>(),
            [0, 2, 4, 6, 8, 10, 12]
        );
        assert_eq!((0..=4).map(|layer| same_depth(layer, 4, 6)).collect::<Vec<_>>(), [0, 2, 3, 5, 6]);
        assert_eq!((0..=3).map(|layer| same_depth(layer, 3, 3)).collect::<Vec<_>>(), [0, 1, 2, 3]);
    }

    #[test]
    fn independent_intervals_add_in_squares() {
        let a = Estimate { value: 0.5, lo: 0.46, hi: 0.53 };
        let b = Estimate { value: 0.7, lo: 0.66, hi: 0.73 };
        let (lo, hi) = independent_bounds(a, b);
        assert!((lo - (0.2 - 0.05)).abs() < 1e-12 && (hi - (0.2 + 0.05)).abs() < 1e-12, "{lo} {hi}");
    }

    #[test]
    fn paired_intervals_are_those_of_the_differences() {
        // Two runs that go up and down together: each mean has a wide interval, their difference a narrow one.
        let n = 4000;
        let noise = |sample: usize| (sample as f64 * 0.754_877_666).fract();
        let shift = |sample: usize| 0.2 + 0.1 * ((sample as f64 * 0.569_840_291).fract() - 0.5);
        let each: Vec<Range<usize>> = (0..n).map(|sample| sample..sample + 1).collect();
        let key = (Cast::MAT, 3);
        let of = |value: &dyn Fn(usize) -> f64| -> Measured {
            [(key.clone(), (0..n).map(|sample| [value(sample); 4]).collect())].into()
        };
        let own = of(&|sample| 10.0 * noise(sample));
        let theirs = of(&|sample| 10.0 * noise(sample) + shift(sample));
        let row = LayerRow {
            mapping: Cast::MAT,
            layer: 3,
            precision_1: 0.0,
            precision_5: 0.0,
            precision_10: 0.0,
            surprisal: 0.0,
            kl: 0.0,
            loss: None,
            precision_1_lo: 0.0,
            precision_1_hi: 0.0,
            precision_5_lo: 0.0,
            precision_5_hi: 0.0,
            precision_10_lo: 0.0,
            precision_10_hi: 0.0,
            surprisal_lo: 0.0,
            surprisal_hi: 0.0,
            kl_lo: 0.0,
            kl_hi: 0.0,
            loss_lo: None,
            loss_hi: None,
        };
        let bounds = paired_bounds(&[(row.clone(), row.clone())], &own, &theirs, &each).unwrap();
        let (lo, hi) = bounds[0][3];
        // The difference is uniform over a tenth: its mean has the standard error 0.1 / √(12 n).
        let half_width = 1.96 * 0.1 / (12.0 * n as f64).sqrt();
        assert!(((hi - lo) / (2.0 * half_width) - 1.0).abs() < 0.1, "{lo} {hi}");
        assert!(lo < 0.2 && 0.2 < hi);
        let same = paired_bounds(&[(row.clone(), row.clone())], &own, &own, &each).unwrap();
        assert_eq!(same[0], [(0.0, 0.0); 4]);
        let fewer: Measured = [(key.clone(), vec![[0.0; 4]; n - 1])].into();
        assert!(paired_bounds(&[(row.clone(), row)], &own, &fewer, &each).is_none());
    }
}
