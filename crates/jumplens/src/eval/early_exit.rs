//! Early exit by confidence, for a whole grid of λ from one pass: what the rule needs of each layer was recorded once.

use super::predictions::CastPredictions;
use super::tables::{ExitLayerRow, ExitRow};
use crate::models::Kind;
use crate::tokenize::Sample;
use crate::words::Cast;

/// The grid of λ: at −1.112 every sample exits at layer 1, at 1.112 at the last one.
pub const LAMBDAS: [f64; 13] = [-1.112, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.112];

/// The nine inner tenths between 1 and 1.112, for `id`, which goes on being sure of itself there.
pub const LAMBDA_INNER: [f64; 9] = [1.0112, 1.0224, 1.0336, 1.0448, 1.056, 1.0672, 1.0784, 1.0896, 1.1008];

/// Exit where confidence > 0.9·λ + 0.1·exp(−4·t/N) (section 5.2 of the paper, after CALM, arXiv 2207.07061).
#[derive(Debug, Clone, PartialEq)]
pub struct ExitRule {
    /// exp(−4·t/N) for each sample.
    decay: Vec<f64>,
}

impl ExitRule {
    /// For causal models t is the sample's position; for masked ones the reference experiment uses 3 throughout. N is
    /// the mean of (position + 1).
    pub fn new(samples: &[Sample], kind: Kind) -> Self {
        let positions = || samples.iter().map(|sample| sample.position);
        Self::at(positions(), mean_run(positions()), kind)
    }

    /// For samples at `positions`, where N is `mean`.
    pub fn at(positions: impl IntoIterator<Item = usize>, mean: f64, kind: Kind) -> Self {
        let t = |position: usize| match kind {
            Kind::Causal => position as f64,
            Kind::Masked => 3.0,
        };
        Self { decay: positions.into_iter().map(|position| (-4.0 * t(position) / mean).exp()).collect() }
    }

    /// The layer at which `sample` exits: from 1 on, and at the last one at the latest.
    pub fn exit_layer(&self, cast: &CastPredictions, sample: usize, lambda: f64) -> usize {
        let confidence = |layer: usize| cast.layers[layer][sample].confidence;
        self.first_sure(sample, lambda, cast.layers.len() - 1, confidence)
    }

    /// The same for a cast of that `confidence` by layer.
    pub fn first_sure(
        &self,
        sample: usize,
        lambda: f64,
        last: usize,
        confidence: impl Fn(usize) -> f64,
    ) -> usize {
        let threshold = 0.9 * lambda + 0.1 * self.decay[sample];
        (1..last).find(|&layer| confidence(layer) > threshold).unwrap_or(last)
    }
}

/// N of the exit rule: the mean of (position + 1).
pub fn mean_run(positions: impl ExactSizeIterator<Item = usize>) -> f64 {
    let n = positions.len() as f64;
    positions.map(|position| (position + 1) as f64).sum::<f64>() / n
}

/// The grid of λ for `mapping`, rising.
fn lambdas(mapping: &Cast) -> Vec<f64> {
    let mut lambdas = LAMBDAS.to_vec();
    if *mapping == Cast::Id {
        lambdas.extend(LAMBDA_INNER);
        lambdas.sort_by(f64::total_cmp);
    }
    lambdas
}

/// The rows of `exits.csv` for one cast, by rising λ and layer.
pub fn exit_layers(cast: &CastPredictions, rule: &ExitRule) -> Vec<ExitLayerRow> {
    let (n, last) = (rule.decay.len(), cast.layers.len() - 1);
    let of_lambda = |lambda| {
        let mut counts = vec![(0usize, 0usize); last + 1];
        for sample in 0..n {
            let layer = rule.exit_layer(cast, sample, lambda);
            counts[layer].0 += 1;
            counts[layer].1 += usize::from(cast.layers[layer][sample].hit(1));
        }
        (1..=last).map(move |layer| {
            let (exits, hits) = counts[layer];
            ExitLayerRow {
                mapping: cast.mapping.clone(),
                lambda,
                layer,
                share: exits as f64 / n as f64,
                precision_1: (exits > 0).then(|| hits as f64 / exits as f64),
            }
        })
    };
    lambdas(&cast.mapping).into_iter().flat_map(of_lambda).collect()
}

/// The rows of `early_exit.csv` for one cast, by rising λ.
pub fn early_exit(cast: &CastPredictions, rule: &ExitRule) -> Vec<ExitRow> {
    let n = rule.decay.len();
    lambdas(&cast.mapping)
        .into_iter()
        .map(|lambda| {
            let exits: Vec<usize> = (0..n).map(|sample| rule.exit_layer(cast, sample, lambda)).collect();
            let taken = || exits.iter().enumerate().map(|(sample, layer)| &cast.layers[*layer][sample]);
            let precision = |k| taken().filter(|prediction| prediction.hit(k)).count() as f64 / n as f64;
            ExitRow {
                mapping: cast.mapping.clone(),
                lambda,
                layers_processed: exits.iter().sum::<usize>() as f64 / n as f64,
                precision_1: precision(1),
                precision_5: precision(5),
                precision_10: precision(10),
                surprisal: taken().map(|prediction| prediction.surprisal).sum::<f64>() / n as f64,
            }
        })
        .collect()
}

/// The Precision@1 that layers saved are counted at.
pub const ENOUGH_PRECISION: f64 = 0.95;

/// The row of `mapping` with the fewest layers processed among those of enough Precision@1; no interpolation. `None`
/// where there is none.
pub fn cheapest_exit<'a>(rows: &'a [ExitRow], mapping: &Cast) -> Option<&'a ExitRow> {
    rows.iter()
        .filter(|row| row.mapping == *mapping && row.precision_1 >= ENOUGH_PRECISION)
        .min_by(|a, b| a.layers_processed.total_cmp(&b.layers_processed))
}

/// L minus the layers processed at the [`cheapest_exit`].
pub fn layers_saved(rows: &[ExitRow], mapping: &Cast, n_layers: usize) -> Option<f64> {
    cheapest_exit(rows, mapping).map(|row| n_layers as f64 - row.layers_processed)
}

#[cfg(test)]
mod tests {
    use super::super::predictions::{Prediction, TOP_K};
    use super::*;

    fn cast(confidence: &[&[f64]]) -> CastPredictions {
        let layers = confidence.iter().enumerate().map(|(layer, samples)| {
            let prediction = |confidence: &f64| Prediction {
                top: [layer as u32; TOP_K],
                surprisal: 1.0,
                confidence: *confidence,
                kl: 0.0,
                loss: None,
                model_rank: (layer == 3).then_some(0),
                rank: 1,
            };
            samples.iter().map(prediction).collect()
        });
        CastPredictions { mapping: Cast::MAT, layers: layers.collect() }
    }

    fn sample(position: usize) -> Sample {
        Sample { ids: vec![0; 10], position, target: None, text: None }
    }

    #[test]
    fn exits_at_the_first_layer_that_is_sure_but_never_at_the_embedding() {
        let cast = cast(&[&[1.0, 1.0], &[0.2, 0.5], &[0.6, 0.1], &[0.9, 0.0]]);
        let rule = ExitRule::new(&[sample(0), sample(9)], Kind::Causal);
        // Thresholds at λ = 0.5: 0.45 + 0.1 for position 0, and 0.45 + 0.1·exp(−36/5.5) for position 9.
        assert_eq!(rule.exit_layer(&cast, 0, 0.5), 2);
        assert_eq!(rule.exit_layer(&cast, 1, 0.5), 1);
        assert_eq!(rule.exit_layer(&cast, 0, -1.112), 1);
        assert_eq!(rule.exit_layer(&cast, 1, 1.112), 3);
        let rows = early_exit(&cast, &rule);
        assert_eq!(rows.len(), LAMBDAS.len());
        let last = rows.last().unwrap();
        assert_eq!((last.layers_processed, last.precision_1), (3.0, 1.0));
        assert_eq!(layers_saved(&rows, &Cast::MAT, 3), Some(0.0));
        assert_eq!(layers_saved(&rows, &Cast::Id, 3), None);
    }

    #[test]
    fn exit_layers_sum_up_to_the_means_of_early_exit() {
        let cast = cast(&[&[1.0, 1.0, 1.0], &[0.2, 0.5, 0.3], &[0.6, 0.1, 0.7], &[0.9, 0.0, 0.0]]);
        let rule = ExitRule::new(&[sample(0), sample(9), sample(4)], Kind::Causal);
        let layers = exit_layers(&cast, &rule);
        assert_eq!(layers.len(), 3 * LAMBDAS.len());
        for row in early_exit(&cast, &rule) {
            let of_lambda = || layers.iter().filter(|layer| layer.lambda == row.lambda);
            let total = |value: fn(&ExitLayerRow) -> f64| of_lambda().map(value).sum::<f64>();
            assert!((total(|row| row.share) - 1.0).abs() < 1e-12);
            assert!((total(|row| row.share * row.layer as f64) - row.layers_processed).abs() < 1e-12);
            let hits = total(|row| row.share * row.precision_1.unwrap_or(0.0));
            assert!((hits - row.precision_1).abs() < 1e-12);
            assert!(of_lambda().all(|row| row.precision_1.is_some() == (row.share > 0.0)));
        }
    }

    #[test]
    fn masked_models_use_the_same_t_for_every_sample() {
        let rule = ExitRule::new(&[sample(0), sample(9)], Kind::Masked);
        assert_eq!(rule.decay[0], rule.decay[1]);
        assert_eq!(rule.decay[0], (-4.0f64 * 3.0 / 5.5).exp());
    }
}
