//! What a model is run on.

use super::Kind;
use serde::{Deserialize, Serialize};

/// One tokenised sentence with one chosen position: a line of `samples/*.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Token ids of the whole sentence as the model gets them: for masked models, `[MASK]` in its place.
    pub ids: Vec<u32>,
    /// The chosen position, from 0.
    pub position: usize,
    /// The true token: for causal models the one after the position, where the sentence has one; for masked models the
    /// one that was there before `[MASK]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<u32>,
    /// The sentence, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl Sample {
    /// The ids that have to be run for the state at the chosen position.
    pub fn ids_to_run(&self, kind: Kind) -> &[u32] {
        match kind {
            Kind::Causal => &self.ids[..=self.position],
            Kind::Masked => &self.ids,
        }
    }

    /// True where `other`, a sample next to this one, is of the same sentence: the two have the same tokens, in masked
    /// models but for `[MASK]` in the place of their targets.
    pub fn is_of_the_same_sentence(&self, other: &Self, kind: Kind) -> bool {
        let token = |sample: &Self, at: usize| match sample.target {
            Some(target) if kind == Kind::Masked && at == sample.position => target,
            _ => sample.ids[at],
        };
        self.ids.len() == other.ids.len() && (0..self.ids.len()).all(|at| token(self, at) == token(other, at))
    }
}
