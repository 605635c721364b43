//! Whether the maps can be trusted, and why not: how well the sources of the maps are conditioned, how r² to the last layer
//! grows with the number of samples, and what in the states stands in its way.

use super::tables::{CurveRow, R2Row, SourceRow};
use crate::Result;
use crate::models::Sizes;
use crate::moments::Section;
use crate::progress::{Observer, check};
use crate::shortcut::{Fitted, Kind, LinearMap, PairSums};
use crate::states::{LayerStates, States};
use crate::tokenize::Sample;
use crate::words::{Cast, LEARNING_CURVE, Note, piece, segment};
use jumplens_core::cast::Form;
use jumplens_core::metrics::{effective_rank, score};
use jumplens_core::spread::Spread;
use std::collections::BTreeSet;
use std::ops::Range;

/// Samples for each coordinate of a state below which least squares is warned of where validation bears it out.
const FEW_SAMPLES: f64 = 10.0;
/// By how much r² on the train samples is above that on validation ones where maps fit noise.
const GAP: f64 = 0.1;
/// Share of the spread that a coordinate, or the samples at the first position, has to hold to be named.
const DOMINATES: f64 = 0.5;

/// The rows of `sources.csv` and of `learning_curve.csv`; `samples` are those of the training states, where they are known. Advances by one a source layer.
pub fn diagnose(
    sizes: Sizes,
    train: &dyn States,
    val: &dyn States,
    samples: Option<&[Sample]>,
    observer: &dyn Observer,
) -> Result<(Vec<SourceRow>, Vec<CurveRow>)> {
    let last = sizes.n_layers;
    let (train_last, val_last) = (train.layer(last)?, val.layer(last)?);
    let (mut sources, mut curve) = (Vec::new(), Vec::new());
    for layer in 0..last {
        check(observer)?;
        let (source, held_out) = (train.layer(layer)?, val.layer(layer)?);
        let sums = |files: [&LayerStates; 2], rows: Range<usize>, n: usize| {
            let mut section = Section::new(sizes.d_model, 1);
            section.add(&files, rows, piece(n));
            section.sums()
        };
        let held_out = sums([&held_out, &val_last], 0..held_out.n, held_out.n);
        let segment = |number| Ok(sums([&source, &train_last], segment(source.n, number), source.n));
        let (rows, fitted) = learning_curve([layer, last], &held_out, segment)?;
        curve.extend(rows);
        if let Some(fitted) = fitted {
            sources.push(source_row(layer, &source, samples, &fitted.singular_values()?));
        }
        observer.advance(1);
    }
    Ok((sources, curve))
}

/// r² of `mat` between two layers as the training samples grow, by the sums over each of their segments, and over the
/// validation samples. Beside the rows, what is fitted on all samples, where there are any.
pub(crate) fn learning_curve(
    [from, to]: [usize; 2],
    val: &PairSums,
    segment: impl Fn(usize) -> Result<PairSums>,
) -> Result<(Vec<CurveRow>, Option<Fitted>)> {
    let mut so_far = PairSums::new(val.sum.len(), 1);
    let (mut rows, mut fitted) = (Vec::new(), None);
    for number in 0..LEARNING_CURVE.len() {
        let sums = segment(number)?;
        if sums.n == 0 {
            continue;
        }
        // It makes room for the next.
        drop(fitted.take());
        so_far.merge(&sums);
        drop(sums);
        let map = fitted.insert(Fitted::of_sums(&so_far, false)?).maps(Kind::Plain)?.maps.remove(0);
        let (r2, r2_train) = (r2_of_sums(val, 0, &map), r2_of_sums(&so_far, 0, &map));
        rows.push(CurveRow { mapping: Cast::MAT, from, to, samples: so_far.n, r2, r2_train });
    }
    Ok((rows, fitted))
}

/// r² of a map from the sums of the samples that it is to be judged by.
pub(crate) fn r2_of_sums(sums: &PairSums, target: usize, map: &LinearMap) -> f64 {
    score(&sums.squared_errors(target, map), &sums.target_spread(target).about_mean)
}

fn source_row(layer: usize, source: &LayerStates, samples: Option<&[Sample]>, sigma: &[f64]) -> SourceRow {
    let spread = Spread::of(source.values(), source.d);
    let total: f64 = spread.about_mean.iter().sum();
    let share = |part: f64| if total > 0.0 { part / total } else { 0.0 };
    let at = |j: &usize| spread.about_mean[*j];
    let top = (0..source.d).max_by(|a, b| at(a).total_cmp(&at(b))).unwrap_or(0);
    let first =
        samples.map(|samples| (0..source.n).filter(|i| samples[*i].position == 0).collect::<Vec<usize>>());
    let distance = |i: &usize| -> f64 {
        let row = &source.values()[i * source.d..][..source.d];
        row.iter().zip(&spread.mean).map(|(x, mean)| (f64::from(*x) - mean).powi(2)).sum()
    };
    let largest = sigma.first().copied().unwrap_or(0.0);
    SourceRow {
        layer,
        samples: source.n,
        width: source.d,
        rank: sigma.len(),
        effective_rank: effective_rank(sigma),
        condition: sigma.last().map_or(f64::NAN, |smallest| largest / smallest),
        top_coordinate: top,
        top_coordinate_share: share(at(&top)),
        first_positions: first.as_ref().map(Vec::len),
        // `sum` of nothing is −0.
        first_position_share: first
            .map(|first| share(first.iter().map(distance).fold(0.0, |sum, part| sum + part))),
    }
}

/// Says where the maps of `mat` to the last layer fit noise, and what stands in the way of least squares, one line a
/// cause.
pub(crate) fn advise(r2: &[R2Row], sources: &[SourceRow], observer: &dyn Observer) {
    let Some(first) = sources.first() else { return };
    let (n, d, last) = (first.samples, first.width, sources.len());
    let to_last = |mapping: Cast, from: usize| {
        r2.iter().find(|row| row.mapping == mapping && row.from == from && row.to == last)
    };
    let gap = |row: &R2Row| row.r2_train - row.r2;
    let noisy: Vec<&R2Row> =
        (0..last).filter_map(|from| to_last(Cast::MAT, from)).filter(|row| gap(row) > GAP).collect();
    if let Some(worst) = noisy.iter().max_by(|a, b| gap(a).total_cmp(&gap(b)))
        && (n as f64 / d as f64) < FEW_SAMPLES
    {
        let ridge = to_last(Cast::Map { intercept: false, form: Form::Ridge }, worst.from);
        observer.advise(&Note::FitsNoise {
            layers: noisy.len(),
            from: worst.from,
            last,
            r2_train: worst.r2_train,
            r2: worst.r2,
            ridge: ridge.map(|row| row.r2),
            samples: n,
            width: d,
        });
    }
    let sinks = Dominated::by(sources, |source| source.first_position_share.unwrap_or(0.0));
    if let (Some(Dominated { layers, most, .. }), Some(first_positions)) = (sinks, first.first_positions) {
        observer.advise(&Note::AttentionSink { first_positions, samples: n, share: most, layers });
    }
    let outliers = Dominated::by(sources, |source| source.top_coordinate_share);
    if let Some(Dominated { layers: [from, to], most, coordinates }) = outliers {
        let names: Vec<String> = coordinates.iter().map(usize::to_string).collect();
        observer.note(&format!(
            "coordinate {} alone holds up to {:.0} % of the spread of the states of layers {from} to {to}",
            names.join(" or "),
            100.0 * most,
        ));
    }
}

/// The layers where one thing holds most of the spread.
struct Dominated {
    /// The first of them, and the last.
    layers: [usize; 2],
    /// The largest share among them.
    most: f64,
    /// Their largest coordinates.
    coordinates: BTreeSet<usize>,
}

impl Dominated {
    fn by(sources: &[SourceRow], share: impl Fn(&SourceRow) -> f64) -> Option<Self> {
        let held: Vec<&SourceRow> = sources.iter().filter(|source| share(source) > DOMINATES).collect();
        Some(Self {
            layers: [held.first()?.layer, held.last()?.layer],
            most: held.iter().map(|source| share(source)).fold(0.0, f64::max),
            coordinates: held.iter().map(|source| source.top_coordinate).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_rank_counts_equal_values_and_little_of_small_ones() {
        assert!((effective_rank(&[2.0; 7]) - 7.0).abs() < 1e-12);
        assert_eq!(effective_rank(&[3.0]), 1.0);
        // Shares 3/4 and 1/4: exp(−¾·ln ¾ − ¼·ln ¼).
        assert!((effective_rank(&[3.0, 1.0]) - 4.0 / 27f64.sqrt().sqrt()).abs() < 1e-12);
    }
}
