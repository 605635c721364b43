//! Where a token that was asked about stands, from layer to layer, and what can be said of that in a sentence.

use super::{Cell, Token, shown};
use serde::{Deserialize, Serialize};

/// A token that is looked for in every prediction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// What was asked for.
    pub text: String,
    /// The token that is looked for: the first of the text's.
    pub token: Token,
    /// All tokens of the text, where it has several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<Token>,
}

impl Target {
    /// What has to be said of a text of several tokens.
    pub fn note(&self) -> Option<String> {
        let spelled: Vec<String> =
            self.tokens.iter().map(|token| format!("`{}`", shown(&token.text))).collect();
        (spelled.len() > 1).then(|| {
            format!(
                "`{}` is {} tokens, {}: the first is looked for",
                shown(&self.text),
                spelled.len(),
                spelled.join(" ")
            )
        })
    }
}

/// Where a target stands in one prediction; nothing is known where the state is not finite.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TargetCell {
    /// Its probability.
    pub probability: Option<f32>,
    /// Its place among all tokens, from 1.
    pub rank: Option<usize>,
}

/// What becomes of a target at one position by one cast, over all layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The first layer from which it is the most probable token up to the last one.
    pub top_1_from: Option<usize>,
    /// All layers at which it is the most probable token, rising.
    pub top_1_layers: Vec<usize>,
    /// The best rank that it has, and the first layer at which it has it.
    pub best_rank: Option<usize>,
    /// See `best_rank`.
    pub best_layer: Option<usize>,
    /// Its rank at the last layer, which is the model's own.
    pub model_rank: Option<usize>,
}

impl Answer {
    /// Of the target number `target` in `column`, its cells at the layers 0…L.
    pub(super) fn of<'a>(target: usize, column: impl Iterator<Item = &'a Cell>) -> Self {
        let ranks: Vec<Option<usize>> = column.map(|cell| cell.targets[target].rank).collect();
        let top_1_layers: Vec<usize> = (0..ranks.len()).filter(|layer| ranks[*layer] == Some(1)).collect();
        let stays = ranks.iter().rev().take_while(|rank| **rank == Some(1)).count();
        let best = ranks.iter().enumerate().filter_map(|(layer, rank)| Some(((*rank)?, layer))).min();
        Self {
            top_1_from: (stays > 0).then(|| ranks.len() - stays),
            top_1_layers,
            best_rank: best.map(|(rank, _)| rank),
            best_layer: best.map(|(_, layer)| layer),
            model_rank: ranks.last().copied().flatten(),
        }
    }

    /// From which layer on it is the most probable token, and what else there is to say where that is not all.
    pub fn sentence(&self) -> String {
        let layers = |layers: &[usize]| {
            let word = if layers.len() == 1 { "layer" } else { "layers" };
            format!("{word} {}", runs(layers))
        };
        let model_rank = self.model_rank.map_or("unknown".to_owned(), |rank| rank.to_string());
        match (self.top_1_from, self.best_rank, self.best_layer) {
            (Some(0), ..) => "top 1 at every layer".to_owned(),
            (Some(from), ..) => {
                let before = &self.top_1_layers[..self.top_1_layers.partition_point(|layer| *layer < from)];
                let earlier = match before {
                    [] => String::new(),
                    _ => format!(", and before that at {}", layers(before)),
                };
                // Top 1 at the end it is at the last layer, which ends the list.
                match self.top_1_layers.last() == Some(&from) {
                    true => format!("top 1 at the last layer, {from}{earlier}"),
                    false => format!("top 1 from layer {from} on{earlier}"),
                }
            }
            (None, Some(1), _) => {
                format!(
                    "top 1 at {} but not at the end: rank {model_rank} at the last",
                    layers(&self.top_1_layers)
                )
            }
            (None, Some(rank), Some(layer)) => {
                format!("never top 1: at best rank {rank}, at layer {layer}; rank {model_rank} at the last")
            }
            _ => "no prediction: no state is finite".to_owned(),
        }
    }
}

/// Rising numbers with their runs drawn together: `3, 5–7`.
fn runs(numbers: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for &number in numbers {
        match parts.last_mut().filter(|(_, last)| last + 1 == number) {
            Some((_, last)) => *last = number,
            None => parts.push((number, number)),
        }
    }
    let part = |(first, last): (usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first}–{last}"),
    };
    parts.into_iter().map(part).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(ranks: &[usize]) -> String {
        let cell = |rank: &usize| Cell {
            targets: vec![TargetCell { probability: None, rank: (*rank > 0).then_some(*rank) }],
            ..Cell::default()
        };
        let cells: Vec<Cell> = ranks.iter().map(cell).collect();
        Answer::of(0, cells.iter()).sentence()
    }

    #[test]
    fn a_sentence_says_no_more_than_is_so() {
        assert_eq!(said(&[9, 4, 1, 1]), "top 1 from layer 2 on");
        assert_eq!(said(&[1, 1]), "top 1 at every layer");
        assert_eq!(
            said(&[9, 1, 1, 2, 1, 3, 1]),
            "top 1 at the last layer, 6, and before that at layers 1–2, 4"
        );
        assert_eq!(said(&[9, 1, 2]), "top 1 at layer 1 but not at the end: rank 2 at the last");
        assert_eq!(said(&[9, 3, 3, 5]), "never top 1: at best rank 3, at layer 1; rank 5 at the last");
        assert_eq!(said(&[0, 0, 1]), "top 1 at the last layer, 2");
        assert_eq!(said(&[1, 2, 1, 1]), "top 1 from layer 2 on, and before that at layer 0");
        assert_eq!(said(&[0, 0]), "no prediction: no state is finite");
    }
}
