//! Means over the validation samples with 95 % intervals from a seeded bootstrap by sentence: the positions of one
//! sentence, which know of one another, are drawn together. Every figure of every cast and layer is resampled with the same
//! draws, so that differences between rows may be judged too.

use super::predictions::{Evaluation, Prediction};
use super::ranks::quantile;
use super::tables::LayerRow;
use crate::models::Kind;
use crate::tokenize::Sample;
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef};
use jumplens_core::linalg::dense::PAR;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use std::ops::Range;

/// Bootstrap resamples.
pub const RESAMPLES: usize = 1000;

/// Figures of a prediction that are averaged: Precision@1, @5, @10, surprisal, KL, and loss with its count.
const FIGURES: usize = 7;

fn figures(p: &Prediction) -> [f64; FIGURES] {
    let share = |hit: bool| f64::from(u8::from(hit));
    let known = share(p.loss.is_some());
    [share(p.hit(1)), share(p.hit(5)), share(p.hit(10)), p.surprisal, p.kl, p.loss.unwrap_or(0.0), known]
}

/// Which of the samples are of one sentence: one range a sentence, in order.
pub fn sentences(samples: &[Sample], kind: Kind) -> Vec<Range<usize>> {
    let mut start = 0;
    let ranges = samples.chunk_by(|one, other| one.is_of_the_same_sentence(other, kind)).map(|sentence| {
        start += sentence.len();
        start - sentence.len()..start
    });
    ranges.collect()
}

/// Which samples are drawn how often.
pub(crate) struct Draws {
    /// `[resamples, n]`.
    counts: Mat<f64>,
    /// Samples of each resample, which are as many as sentences only where each has one position.
    pub totals: Vec<f64>,
}

impl Draws {
    /// As many sentences as there are, with all their samples, in each resample.
    pub fn new(sentences: &[Range<usize>], seed: u64) -> Self {
        let n = sentences.last().map_or(0, |sentence| sentence.end);
        let counts: Vec<Vec<f64>> = (0..RESAMPLES as u64)
            .into_par_iter()
            .map(|resample| {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                rng.set_stream(resample);
                let mut counts = vec![0.0; n];
                for _ in sentences {
                    let sentence = &sentences[rng.random_range(0..sentences.len() as u64) as usize];
                    counts[sentence.clone()].iter_mut().for_each(|count| *count += 1.0);
                }
                counts
            })
            .collect();
        Self {
            totals: counts.iter().map(|counts| counts.iter().sum()).collect(),
            counts: Mat::from_fn(RESAMPLES, n, |i, j| counts[i][j]),
        }
    }

    /// Sums over each resample of figures of the samples, `[n, figures]`: `[resamples, figures]`.
    pub fn sums(&self, figures: MatRef<f64>) -> Mat<f64> {
        let mut sums = Mat::zeros(RESAMPLES, figures.ncols());
        matmul(sums.as_mut(), Accum::Replace, self.counts.as_ref(), figures, 1.0, PAR);
        sums
    }
}

/// A mean and the bounds of its interval.
#[derive(Clone, Copy)]
struct Estimate {
    mean: f64,
    low: f64,
    high: f64,
}

/// The 2.5 % and 97.5 % quantiles, interpolated linearly.
pub(crate) fn interval(mut values: Vec<f64>) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    (quantile(&values, 0.025), quantile(&values, 0.975))
}

/// The rows of `layers.csv`, cast by cast and layer by layer; `sentences` says which samples are of one sentence.
pub fn layer_rows(evaluation: &Evaluation, sentences: &[Range<usize>], seed: u64) -> Vec<LayerRow> {
    let n = evaluation.casts.first().map_or(0, |cast| cast.layers[0].len());
    let draws = Draws::new(sentences, seed);
    let mut rows = Vec::new();
    for cast in &evaluation.casts {
        for (layer, predictions) in cast.layers.iter().enumerate() {
            let values: Vec<[f64; FIGURES]> = predictions.iter().map(figures).collect();
            let matrix = Mat::from_fn(n, FIGURES, |i, j| values[i][j]);
            let resampled = draws.sums(matrix.as_ref());
            let total = |j: usize| values.iter().map(|v| v[j]).sum::<f64>();
            let mean = |j: usize| {
                let values = (0..RESAMPLES).map(|i| resampled[(i, j)] / draws.totals[i]).collect();
                let (low, high) = interval(values);
                Estimate { mean: total(j) / n as f64, low, high }
            };
            let [p1, p5, p10, surprisal, kl] = [0, 1, 2, 3, 4].map(mean);
            let loss = (total(6) > 0.0).then(|| {
                // A resample without any known token has no loss.
                let drawn = (0..RESAMPLES).filter(|i| resampled[(*i, 6)] > 0.0);
                let (low, high) = interval(drawn.map(|i| resampled[(i, 5)] / resampled[(i, 6)]).collect());
                Estimate { mean: total(5) / total(6), low, high }
            });
            rows.push(LayerRow {
                mapping: cast.mapping.clone(),
                layer,
                precision_1: p1.mean,
                precision_5: p5.mean,
                precision_10: p10.mean,
                surprisal: surprisal.mean,
                kl: kl.mean,
                loss: loss.map(|l| l.mean),
                precision_1_lo: p1.low,
                precision_1_hi: p1.high,
                precision_5_lo: p5.low,
                precision_5_hi: p5.high,
                precision_10_lo: p10.low,
                precision_10_hi: p10.high,
                surprisal_lo: surprisal.low,
                surprisal_hi: surprisal.high,
                kl_lo: kl.low,
                kl_hi: kl.high,
                loss_lo: loss.map(|l| l.low),
                loss_hi: loss.map(|l| l.high),
            });
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::super::predictions::{CastPredictions, TOP_K};
    use super::*;
    use crate::words::Cast;

    #[test]
    fn interval_of_a_mean_is_what_the_normal_law_says() {
        let n = 2000;
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let predictions: Vec<Prediction> = (0..n)
            .map(|i| Prediction {
                top: [0; TOP_K],
                surprisal: rng.random_range(0.0..1.0),
                confidence: 0.0,
                kl: 0.5,
                loss: (i % 2 == 0).then_some(3.0),
                model_rank: (i % 4 == 0).then_some(7),
                rank: 1,
            })
            .collect();
        let evaluation =
            Evaluation { casts: vec![CastPredictions { mapping: Cast::Id, layers: vec![predictions] }] };
        let one_each: Vec<Range<usize>> = (0..n).map(|i| i..i + 1).collect();
        let row = &layer_rows(&evaluation, &one_each, 5)[0];
        assert_eq!((row.precision_5, row.precision_10, row.kl, row.loss), (0.0, 0.25, 0.5, Some(3.0)));
        assert!((row.kl_lo - 0.5).abs() < 1e-12 && (row.loss_hi.unwrap() - 3.0).abs() < 1e-12);
        // The standard error of a uniform mean is 1 / √(12 n).
        let half_width = 1.96 / (12.0 * n as f64).sqrt();
        assert!(((row.surprisal_hi - row.surprisal_lo) / (2.0 * half_width) - 1.0).abs() < 0.1);
        assert!(row.surprisal_lo < row.surprisal && row.surprisal < row.surprisal_hi);
        assert_eq!(layer_rows(&evaluation, &one_each, 5)[0], *row);
        assert_ne!(layer_rows(&evaluation, &one_each, 6)[0].surprisal_lo, row.surprisal_lo);
    }

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(interval((0..=40).map(f64::from).collect()), (1.0, 39.0));
        assert_eq!(interval(vec![2.0]), (2.0, 2.0));
    }

    #[test]
    fn positions_of_one_sentence_are_drawn_together() {
        // A sentence's positions are all alike: as many numbers as sentences, however many positions there are.
        let (n, each) = (500, 4);
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let values: Vec<f64> = (0..n).map(|_| rng.random_range(0.0..1.0)).collect();
        let predictions: Vec<Prediction> = (0..n * each)
            .map(|i| Prediction {
                top: [0; TOP_K],
                surprisal: values[i / each],
                confidence: 0.0,
                kl: 0.5,
                loss: None,
                model_rank: None,
                rank: 1,
            })
            .collect();
        let evaluation =
            Evaluation { casts: vec![CastPredictions { mapping: Cast::Id, layers: vec![predictions] }] };
        let together: Vec<Range<usize>> = (0..n).map(|i| i * each..(i + 1) * each).collect();
        let alone: Vec<Range<usize>> = (0..n * each).map(|i| i..i + 1).collect();
        let width = |sentences: &[Range<usize>]| {
            let row = &layer_rows(&evaluation, sentences, 5)[0];
            assert!((row.kl_lo - 0.5).abs() < 1e-12 && (row.kl_hi - 0.5).abs() < 1e-12);
            row.surprisal_hi - row.surprisal_lo
        };
        let expected = 2.0 * 1.96 / (12.0 * n as f64).sqrt();
        assert!((width(&together) / expected - 1.0).abs() < 0.1, "{} for {expected}", width(&together));
        assert!((width(&alone) / expected * (each as f64).sqrt() - 1.0).abs() < 0.1);
    }

    #[test]
    fn samples_next_to_one_another_with_the_same_tokens_are_of_one_sentence() {
        let sample =
            |ids: &[u32], position: usize, target| Sample { ids: ids.to_vec(), position, target, text: None };
        let causal =
            [sample(&[1, 2, 3], 0, Some(2)), sample(&[1, 2, 3], 2, None), sample(&[1, 2], 0, Some(2))];
        assert_eq!(sentences(&causal, Kind::Causal), [0..2, 2..3]);
        // 9 stands for `[MASK]`.
        let masked = [
            sample(&[9, 2, 3], 0, Some(1)),
            sample(&[1, 9, 3], 1, Some(2)),
            sample(&[1, 9, 3], 1, Some(7)),
            sample(&[9, 7, 3], 0, Some(1)),
        ];
        assert_eq!(sentences(&masked, Kind::Masked), [0..2, 2..4]);
    }
}
