//! The place of the model's top token among a cast's logits, layer by layer.

use super::predictions::{Evaluation, Prediction};
use super::tables::RankRow;
use crate::words::Cast;

/// The rows of `ranks.csv`, cast by cast and layer by layer.
pub fn rank_rows(evaluation: &Evaluation) -> Vec<RankRow> {
    let casts = evaluation.casts.iter();
    casts
        .flat_map(|cast| {
            let layers = cast.layers.iter().enumerate();
            layers.map(|(layer, predictions)| row(&cast.mapping, layer, predictions))
        })
        .collect()
}

fn row(mapping: &Cast, layer: usize, predictions: &[Prediction]) -> RankRow {
    let mut ranks: Vec<f64> = predictions.iter().map(|prediction| prediction.rank as f64).collect();
    ranks.sort_by(f64::total_cmp);
    RankRow {
        mapping: mapping.clone(),
        layer,
        median: quantile(&ranks, 0.5),
        lower_quartile: quantile(&ranks, 0.25),
        upper_quartile: quantile(&ranks, 0.75),
        mean_reciprocal: ranks.iter().map(|rank| rank.recip()).sum::<f64>() / ranks.len() as f64,
    }
}

/// The quantile `q` of sorted values, interpolated linearly; NaN where there is none.
pub(super) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = q * last as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::super::predictions::{CastPredictions, TOP_K};
    use super::*;

    #[test]
    fn quartiles_and_mean_reciprocal_of_the_ranks() {
        let prediction = |rank: usize| Prediction {
            top: [0; TOP_K],
            surprisal: 0.0,
            confidence: 0.0,
            kl: 0.0,
            loss: None,
            model_rank: None,
            rank,
        };
        let layers = vec![[8, 1, 2, 100, 4].map(prediction).to_vec(), [1, 2].map(prediction).to_vec()];
        let rows = rank_rows(&Evaluation { casts: vec![CastPredictions { mapping: Cast::MAT, layers }] });
        let figures = |row: &RankRow| (row.layer, row.lower_quartile, row.median, row.upper_quartile);
        // numpy.quantile([8, 1, 2, 100, 4], [.25, .5, .75]) = [2, 4, 8]
        assert_eq!(rows.iter().map(figures).collect::<Vec<_>>(), [(0, 2.0, 4.0, 8.0), (1, 1.25, 1.5, 1.75)]);
        assert!((rows[0].mean_reciprocal - 1.885 / 5.0).abs() < 1e-12);
    }
}
