//! Lenses held against one another on the same resamples.

use super::tables::{DifferenceRow, FigureRow, ThirdRow};
use crate::eval::{Draws, Evaluation, Prediction, RESAMPLES, interval, layer_rows};
use crate::words::Cast;
use faer::Mat;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// A third of the layers before the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Third {
    /// The first.
    Early,
    /// The second.
    Middle,
    /// The last.
    Late,
}

impl Third {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::Early, Self::Middle, Self::Late];

    /// Its layers, of a model of `n_layers` blocks.
    pub fn layers(self, n_layers: usize) -> Range<usize> {
        let cut = |third: usize| (third * n_layers).div_ceil(3);
        let at = self as usize;
        cut(at)..cut(at + 1)
    }
}

/// Figures that differences are taken of, in the order of [`values`].
const FIGURES: [&str; 5] = ["kl", "precision_1", "surprisal", "loss", "mean_reciprocal_rank"];
const KL: usize = 0;
const PRECISION: usize = 1;
const LOSS: usize = 3;
const RANK: usize = 4;

/// A sample's figures, and whether its true token is known.
fn values(prediction: &Prediction) -> [f64; FIGURES.len() + 1] {
    let hit = f64::from(u8::from(prediction.hit(1)));
    let (loss, known) = (prediction.loss.unwrap_or(0.0), f64::from(u8::from(prediction.loss.is_some())));
    [prediction.kl, hit, prediction.surprisal, loss, 1.0 / prediction.rank as f64, known]
}

/// Means of the figures over all samples, and over each resample.
struct Means {
    all: [f64; FIGURES.len()],
    drawn: Vec<[f64; FIGURES.len()]>,
}

impl Means {
    fn of(predictions: &[Prediction], draws: &Draws) -> Self {
        let rows: Vec<[f64; FIGURES.len() + 1]> = predictions.iter().map(values).collect();
        let sums = draws.sums(Mat::from_fn(rows.len(), FIGURES.len() + 1, |i, j| rows[i][j]).as_ref());
        let mean = |sums: &dyn Fn(usize) -> f64, n: f64| {
            std::array::from_fn(|j| sums(j) / if j == LOSS { sums(FIGURES.len()) } else { n })
        };
        let all = mean(&|j| rows.iter().map(|row| row[j]).sum(), rows.len() as f64);
        let drawn = (0..RESAMPLES).map(|i| mean(&|j| sums[(i, j)], draws.totals[i])).collect();
        Self { all, drawn }
    }

    /// Of several layers.
    fn mean(several: &[&Self]) -> Self {
        let n = several.len() as f64;
        let over = |of: &dyn Fn(&Self) -> [f64; FIGURES.len()]| {
            std::array::from_fn(|j| several.iter().map(|means| of(means)[j]).sum::<f64>() / n)
        };
        let drawn = (0..RESAMPLES).map(|i| over(&|means| means.drawn[i])).collect();
        Self { all: over(&|means| means.all), drawn }
    }

    fn interval(&self, j: usize) -> (f64, f64) {
        interval(self.drawn.iter().map(|drawn| drawn[j]).collect())
    }

    /// This less `other`, with the bounds of the difference.
    fn less(&self, other: &Self, j: usize) -> [f64; 3] {
        let drawn = self.drawn.iter().zip(&other.drawn).map(|(own, other)| own[j] - other[j]).collect();
        let (lo, hi) = interval(drawn);
        [self.all[j] - other.all[j], lo, hi]
    }
}

/// The rows of `arena.csv` (without r²), `arena_differences.csv` and `arena_thirds.csv`.
pub(super) fn tables(
    evaluation: &Evaluation,
    sentences: &[Range<usize>],
    seed: u64,
) -> (Vec<FigureRow>, Vec<DifferenceRow>, Vec<ThirdRow>) {
    let draws = Draws::new(sentences, seed);
    let means: Vec<(&Cast, Vec<Means>)> = evaluation
        .casts
        .iter()
        .map(|cast| (&cast.mapping, cast.layers.iter().map(|layer| Means::of(layer, &draws)).collect()))
        .collect();
    let rows = layer_rows(evaluation, sentences, seed);
    let all = means.iter().flat_map(|(_, layers)| layers);
    let figures = rows.into_iter().zip(all).map(|(row, means)| {
        let (lo, hi) = means.interval(RANK);
        FigureRow {
            mapping: row.mapping,
            layer: row.layer,
            r2: None,
            precision_1: row.precision_1,
            precision_1_lo: row.precision_1_lo,
            precision_1_hi: row.precision_1_hi,
            precision_5: row.precision_5,
            precision_5_lo: row.precision_5_lo,
            precision_5_hi: row.precision_5_hi,
            precision_10: row.precision_10,
            precision_10_lo: row.precision_10_lo,
            precision_10_hi: row.precision_10_hi,
            surprisal: row.surprisal,
            surprisal_lo: row.surprisal_lo,
            surprisal_hi: row.surprisal_hi,
            kl: row.kl,
            kl_lo: row.kl_lo,
            kl_hi: row.kl_hi,
            loss: row.loss,
            loss_lo: row.loss_lo,
            loss_hi: row.loss_hi,
            mean_reciprocal_rank: means.all[RANK],
            mean_reciprocal_rank_lo: lo,
            mean_reciprocal_rank_hi: hi,
        }
    });
    (figures.collect(), differences(&means), thirds(&means))
}

fn differences(means: &[(&Cast, Vec<Means>)]) -> Vec<DifferenceRow> {
    let last = means.first().map_or(0, |(_, layers)| layers.len().saturating_sub(1));
    let mut rows = Vec::new();
    for layer in 0..last {
        let mat = means.iter().find(|(cast, _)| **cast == Cast::MAT);
        let best = means.iter().min_by(|(_, a), (_, b)| a[layer].all[KL].total_cmp(&b[layer].all[KL]));
        let mut against: Vec<_> = mat.into_iter().chain(best).collect();
        against.dedup_by_key(|(cast, _)| *cast);
        for (other, others) in against {
            for (cast, own) in means.iter().filter(|(cast, _)| cast != other) {
                rows.extend(FIGURES.iter().enumerate().map(|(j, figure)| {
                    let [difference, lo, hi] = own[layer].less(&others[layer], j);
                    let (mapping, against) = ((*cast).clone(), (*other).clone());
                    DifferenceRow {
                        mapping,
                        against,
                        layer,
                        figure: (*figure).to_owned(),
                        difference,
                        lo,
                        hi,
                    }
                }));
            }
        }
    }
    rows
}

fn thirds(means: &[(&Cast, Vec<Means>)]) -> Vec<ThirdRow> {
    let last = means.first().map_or(0, |(_, layers)| layers.len().saturating_sub(1));
    let mut rows = Vec::new();
    for third in Third::ALL {
        let layers = third.layers(last);
        if layers.is_empty() {
            continue;
        }
        let own: Vec<(&Cast, Means)> = means
            .iter()
            .map(|(cast, all)| (*cast, Means::mean(&all[layers.clone()].iter().collect::<Vec<_>>())))
            .collect();
        let least = own.iter().min_by(|(_, a), (_, b)| a.all[KL].total_cmp(&b.all[KL]));
        let most = own.iter().max_by(|(_, a), (_, b)| a.all[PRECISION].total_cmp(&b.all[PRECISION]));
        let Some(((_, least), (_, most))) = least.zip(most) else { continue };
        for (cast, means) in &own {
            let ((kl_lo, kl_hi), (p_lo, p_hi)) = (means.interval(KL), means.interval(PRECISION));
            let [beyond, beyond_lo, beyond_hi] = means.less(least, KL);
            let [behind, behind_lo, behind_hi] = most.less(means, PRECISION);
            rows.push(ThirdRow {
                third,
                mapping: (*cast).clone(),
                first: layers.start,
                last: layers.end - 1,
                kl: means.all[KL],
                kl_lo,
                kl_hi,
                kl_beyond_best: beyond,
                kl_beyond_best_lo: beyond_lo,
                kl_beyond_best_hi: beyond_hi,
                precision_1: means.all[PRECISION],
                precision_1_lo: p_lo,
                precision_1_hi: p_hi,
                precision_1_behind_best: behind,
                precision_1_behind_best_lo: behind_lo,
                precision_1_behind_best_hi: behind_hi,
            });
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirds_share_out_all_layers() {
        for n in 1..40 {
            let layers: Vec<usize> = Third::ALL.into_iter().flat_map(|third| third.layers(n)).collect();
            assert_eq!(layers, (0..n).collect::<Vec<_>>());
        }
        assert_eq!(Third::ALL.map(|third| third.layers(12)), [0..4, 4..8, 8..12]);
    }
}
