//! The rows of the arena's tables.

use super::Third;
use crate::words::Cast;
use serde::{Deserialize, Serialize};

/// A row of `arena.csv`: how good a lens is from one layer, means over the validation samples with 95 % intervals by sentence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FigureRow {
    /// The lens.
    pub mapping: Cast,
    /// The layer it casts from.
    pub layer: usize,
    /// Of the states it gives, against the last layer's; none for the layer itself.
    pub r2: Option<f64>,
    /// Share of the samples whose top token is the model's.
    pub precision_1: f64,
    /// Lower bound.
    pub precision_1_lo: f64,
    /// Upper bound.
    pub precision_1_hi: f64,
    /// Share whose top token is among the model's five.
    pub precision_5: f64,
    /// Lower bound.
    pub precision_5_lo: f64,
    /// Upper bound.
    pub precision_5_hi: f64,
    /// Share whose top token is among the model's ten.
    pub precision_10: f64,
    /// Lower bound.
    pub precision_10_lo: f64,
    /// Upper bound.
    pub precision_10_hi: f64,
    /// −ln p_model(top token), nats.
    pub surprisal: f64,
    /// Lower bound.
    pub surprisal_lo: f64,
    /// Upper bound.
    pub surprisal_hi: f64,
    /// KL(model ‖ cast), nats.
    pub kl: f64,
    /// Lower bound.
    pub kl_lo: f64,
    /// Upper bound.
    pub kl_hi: f64,
    /// −ln p_cast(true token), nats, where that is known.
    pub loss: Option<f64>,
    /// Lower bound.
    pub loss_lo: Option<f64>,
    /// Upper bound.
    pub loss_hi: Option<f64>,
    /// Mean of 1 / rank, the rank that of the model's top token in the cast's logits.
    pub mean_reciprocal_rank: f64,
    /// Lower bound.
    pub mean_reciprocal_rank_lo: f64,
    /// Upper bound.
    pub mean_reciprocal_rank_hi: f64,
}

/// A row of `arena_differences.csv`: a figure of a lens less that of another, from the same layer, on the same samples; the interval is
/// that of the difference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DifferenceRow {
    /// The lens.
    pub mapping: Cast,
    /// What it is held against: `mat`, and the lens with the least KL from that layer.
    pub against: Cast,
    /// The layer.
    pub layer: usize,
    /// Which figure: a column of `arena.csv`.
    pub figure: String,
    /// The difference.
    pub difference: f64,
    /// Lower bound.
    pub lo: f64,
    /// Upper bound.
    pub hi: f64,
}

/// A row of `arena_thirds.csv`: means over the layers of a third of the depth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ThirdRow {
    /// Which.
    pub third: Third,
    /// The lens.
    pub mapping: Cast,
    /// Its first layer.
    pub first: usize,
    /// Its last.
    pub last: usize,
    /// KL(model ‖ cast), nats.
    pub kl: f64,
    /// Lower bound.
    pub kl_lo: f64,
    /// Upper bound.
    pub kl_hi: f64,
    /// By how much that is above the least of all lenses.
    pub kl_beyond_best: f64,
    /// Lower bound.
    pub kl_beyond_best_lo: f64,
    /// Upper bound.
    pub kl_beyond_best_hi: f64,
    /// Precision@1.
    pub precision_1: f64,
    /// Lower bound.
    pub precision_1_lo: f64,
    /// Upper bound.
    pub precision_1_hi: f64,
    /// By how much that is below the highest of all lenses.
    pub precision_1_behind_best: f64,
    /// Lower bound.
    pub precision_1_behind_best_lo: f64,
    /// Upper bound.
    pub precision_1_behind_best_hi: f64,
}

/// A row of `arena_cost.csv`: what fitting a lens took, without the states of the training samples, which are had once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CostRow {
    /// The lens.
    pub mapping: Cast,
    /// By the clock; what several lenses share is counted to the first of them. `None` where it is not known.
    pub seconds: Option<f64>,
    /// Training samples.
    pub samples: usize,
    /// Prompts.
    pub prompts: usize,
    /// Tokens that the model ran for them.
    pub tokens: usize,
    /// Vector–Jacobian products through the model.
    pub backward_passes: usize,
    /// Layers that early exit saves at 95 % Precision@1.
    pub layers_saved: Option<f64>,
}

/// A row of `arena_maps.csv`: how a lens's map from a layer lies to another's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MapRow {
    /// The lens.
    pub mapping: Cast,
    /// The layer.
    pub layer: usize,
    /// Frobenius norm of the map.
    pub norm: f64,
    /// exp of the entropy of its singular values as shares of their sum (Roy and Vetterli 2007).
    pub effective_rank: f64,
    /// The other lens.
    pub against: Cast,
    /// ⟨A, B⟩ / (‖A‖·‖B‖).
    pub cosine: f64,
}
