//! `examples.json`: the first validation samples with what every cast predicts for them, as texts, for the report, which is
//! made without the model.

use super::predictions::{Evaluation, NO_TOKEN};
use crate::tokenize::Sample;
use crate::words::Cast;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Samples at most.
const MOST: usize = 100;
/// Predictions at most, one a sample, cast and layer; but for one sample there are always all.
const CELLS: usize = 8000;
/// Tokens of each prediction.
const TOP: usize = 3;

/// What the file holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Examples {
    /// How many validation samples there are; those here are the first.
    pub of: usize,
    /// What the tokens stand for, by their ids.
    pub texts: BTreeMap<u32, String>,
    /// The samples.
    pub samples: Vec<Example>,
    /// One cast after another.
    pub casts: Vec<ExampleCast>,
}

/// A validation sample.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// The ids of its tokens.
    pub ids: Vec<u32>,
    /// The position that is predicted from.
    pub position: usize,
    /// The true token, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<u32>,
}

/// What a cast predicts for them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExampleCast {
    /// The cast.
    pub cast: Cast,
    /// `[sample][layer]`, layers 0…L.
    pub cells: Vec<Vec<ExampleCell>>,
}

/// What it predicts for one of them from one layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExampleCell {
    /// The most probable tokens, best first; none where the cast's state is not finite.
    pub top: Vec<u32>,
    /// −ln p_model(most probable token), nats.
    pub surprisal: Option<f32>,
    /// Difference of the largest two probabilities.
    pub confidence: Option<f32>,
    /// Place of the model's own token in the order of the cast's logits, from 1.
    pub rank: usize,
}

/// The first of `samples`, as many as there is room for. `text_of` says what a token stands for.
pub fn examples(evaluation: &Evaluation, samples: &[Sample], text_of: impl Fn(u32) -> String) -> Examples {
    let layers: usize = evaluation.casts.iter().map(|cast| cast.layers.len()).sum();
    let count = samples.len().min(MOST).min((CELLS / layers.max(1)).max(1));
    let finite = |value: f64| value.is_finite().then_some(value as f32);
    let casts: Vec<ExampleCast> = evaluation
        .casts
        .iter()
        .map(|cast| {
            let cell = |sample: usize, layer: usize| {
                let prediction = &cast.layers[layer][sample];
                ExampleCell {
                    top: prediction.top.into_iter().take(TOP).filter(|token| *token != NO_TOKEN).collect(),
                    surprisal: finite(prediction.surprisal),
                    confidence: finite(prediction.confidence),
                    rank: prediction.rank,
                }
            };
            let of_sample = |sample: usize| (0..cast.layers.len()).map(|layer| cell(sample, layer)).collect();
            ExampleCast { cast: cast.mapping.clone(), cells: (0..count).map(of_sample).collect() }
        })
        .collect();
    let shown: Vec<Example> = samples[..count]
        .iter()
        .map(|Sample { ids, position, target, .. }| Example {
            ids: ids.clone(),
            position: *position,
            target: *target,
        })
        .collect();
    let mut texts = BTreeMap::new();
    let predicted = casts.iter().flat_map(|cast| cast.cells.iter().flatten()).flat_map(|cell| &cell.top);
    let own = shown.iter().flat_map(|sample| sample.ids.iter().chain(&sample.target));
    for id in predicted.chain(own) {
        texts.entry(*id).or_insert_with(|| text_of(*id));
    }
    Examples { of: samples.len(), texts, samples: shown, casts }
}

#[cfg(test)]
mod tests {
    use super::super::predictions::{CastPredictions, Prediction, TOP_K};
    use super::*;

    fn prediction(first: u32) -> Prediction {
        let mut top = [NO_TOKEN; TOP_K];
        if first != NO_TOKEN {
            top.iter_mut().zip(first..).for_each(|(token, id)| *token = id);
        }
        Prediction {
            top,
            surprisal: if first == NO_TOKEN { f64::NAN } else { 0.5 },
            confidence: 0.25,
            kl: 0.0,
            loss: None,
            model_rank: None,
            rank: 7,
        }
    }

    fn evaluation(layers: usize, samples: usize) -> Evaluation {
        let cast = |mapping| CastPredictions {
            mapping,
            layers: (0..layers)
                .map(|layer| (0..samples).map(|sample| prediction((10 * layer + sample) as u32)).collect())
                .collect(),
        };
        Evaluation { casts: vec![cast(Cast::Id), cast(Cast::MAT)] }
    }

    fn samples(n: usize) -> Vec<Sample> {
        (0..n)
            .map(|i| Sample { ids: vec![900 + i as u32, 3], position: 0, target: None, text: None })
            .collect()
    }

    #[test]
    fn they_are_the_first_samples_as_predicted() {
        let mut evaluation = evaluation(3, 4);
        evaluation.casts[1].layers[2][3] = prediction(NO_TOKEN);
        let made = examples(&evaluation, &samples(4), |id| format!("<{id}>"));
        assert_eq!((made.of, made.samples.len(), made.casts.len()), (4, 4, 2));
        let cell = &made.casts[1].cells[3][1];
        assert_eq!((cell.top.clone(), cell.surprisal, cell.rank), (vec![13, 14, 15], Some(0.5), 7));
        assert!(made.casts[1].cells[3][2].top.is_empty());
        assert_eq!(made.casts[1].cells[3][2].surprisal, None);
        assert_eq!((&*made.texts[&13], &*made.texts[&903]), ("<13>", "<903>"));
        let json = serde_json::to_string(&made).unwrap();
        assert_eq!(serde_json::from_str::<Examples>(&json).unwrap(), made);
    }

    #[test]
    fn there_are_no_more_than_a_page_takes() {
        let count =
            |layers, n| examples(&evaluation(layers, n), &samples(n), |_| String::new()).samples.len();
        assert_eq!(count(13, 150), MOST);
        assert_eq!(count(100, 150), CELLS / 200);
        assert_eq!(count(5000, 3), 1);
    }
}
