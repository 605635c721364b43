//! Means over the validation samples with 95 % intervals from a seeded bootstrap by sentence. Every figure of every
//! cast and layer is resampled with the same draws, so that differences between rows may be judged too.

use super::predictions::{Evaluation, Prediction};
use super::ranks::quantile;
use super::tables::LayerRow;
use faer::{Mat, Par};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

/// Bootstrap resamples.
pub const RESAMPLES: usize = 1000;

/// Figures of a prediction that are averaged: Precision@1, @5, @10, surprisal, KL, and loss with its count.
const FIGURES: usize = 7;

fn figures(p: &Prediction) -> [f64; FIGURES] {
    let share = |hit: bool| f64::from(u8::from(hit));
    let known = share(p.loss.is_some());
    [share(p.hit(1)), share(p.hit(5)), share(p.hit(10)), p.surprisal, p.kl, p.loss.unwrap_or(0.0), known]
}

/// How often each resample draws each sample, `[resamples, n]`.
pub(crate) fn draws(n: usize, seed: u64) -> Mat<f64> {
    let counts: Vec<Vec<f64>> = (0..RESAMPLES as u64)
        .into_par_iter()
        .map(|resample| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(resample);
            let mut counts = vec![0.0; n];
            (0..n).for_each(|_| counts[rng.random_range(0..n as u64) as usize] += 1.0);
            counts
        })
        .collect();
    Mat::from_fn(RESAMPLES, n, |i, j| counts[i][j])
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

/// The rows of `layers.csv`, cast by cast and layer by layer.
pub fn layer_rows(evaluation: &Evaluation, seed: u64) -> Vec<LayerRow> {
    let n = evaluation.casts.first().map_or(0, |cast| cast.layers[0].len());
    let draws = draws(n, seed);
    let mut rows = Vec::new();
    for cast in &evaluation.casts {
        for (layer, predictions) in cast.layers.iter().enumerate() {
            let values: Vec<[f64; FIGURES]> = predictions.iter().map(figures).collect();
            let matrix = Mat::from_fn(n, FIGURES, |i, j| values[i][j]);
            let mut resampled = Mat::zeros(RESAMPLES, FIGURES);
            faer::linalg::matmul::matmul(
                resampled.as_mut(),
                faer::Accum::Replace,
                draws.as_ref(),
                matrix.as_ref(),
                1.0,
                Par::rayon(0),
            );
            let total = |j: usize| values.iter().map(|v| v[j]).sum::<f64>();
            let mean = |j: usize| {
                let values = (0..RESAMPLES).map(|i| resampled[(i, j)] / n as f64).collect();
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
        let evaluation = Evaluation {
            casts: vec![CastPredictions { mapping: "id".to_owned(), layers: vec![predictions] }],
        };
        let row = &layer_rows(&evaluation, 5)[0];
        assert_eq!((row.precision_5, row.precision_10, row.kl, row.loss), (0.0, 0.25, 0.5, Some(3.0)));
        assert!((row.kl_lo - 0.5).abs() < 1e-12 && (row.loss_hi.unwrap() - 3.0).abs() < 1e-12);
        // The standard error of a uniform mean is 1 / √(12 n).
        let half_width = 1.96 / (12.0 * n as f64).sqrt();
        assert!(((row.surprisal_hi - row.surprisal_lo) / (2.0 * half_width) - 1.0).abs() < 0.1);
        assert!(row.surprisal_lo < row.surprisal && row.surprisal < row.surprisal_hi);
        assert_eq!(layer_rows(&evaluation, 5)[0], *row);
        assert_ne!(layer_rows(&evaluation, 6)[0].surprisal_lo, row.surprisal_lo);
    }

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(interval((0..=40).map(f64::from).collect()), (1.0, 39.0));
        assert_eq!(interval(vec![2.0]), (2.0, 2.0));
    }
}
