//! Shortcuts: linear maps from one layer's states to another's, how they are fitted, and the files they are kept in.

mod casts;
mod export;
mod files;
mod fit;
mod fitted;
mod import;
mod least_squares;
mod low_rank;
mod origin;
mod ridge;
mod sums;

pub use casts::{Fits, Kind, MapCast, Pairs, Ridge};
pub use export::{Format, chosen_pairs, export};
pub use files::{MAT, Notes, Shortcuts, pair_name};
pub(crate) use fit::{KEPT, LANES, save_maps};
pub use fit::{fit_pairs, fit_parts};
pub use fitted::{Fitted, Maps};
pub use import::Foreign;
pub use least_squares::{BLOCK, Coordinates, Factoring, Outcome, Solving, Whitening};
pub use origin::{LastState, Origin};
pub use sums::{PairSums, TargetSums};

use crate::error::Result;
use crate::models::Spec;
use crate::nn::{Linear, Precision, WeightLayout};
use candle_core::{Device, Tensor};

/// Bytes that the maps of a run take on disk, but for the files' headers: those of the cast `mat` between `pairs`, and of
/// every part of every block.
pub fn disk_bytes(spec: &Spec, pairs: Pairs) -> u64 {
    let maps = pairs.count(spec.n_layers) + spec.n_layers * spec.parts.len();
    4 * (spec.d_model as u64).pow(2) * maps as u64
}

/// `y = A·x + b`; without `b`, `y = A·x`.
#[derive(Debug, Clone)]
pub struct LinearMap {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl LinearMap {
    /// From `A`, row-major `[d_out, d_in]`: rows are outputs.
    pub fn from_rows(weight: Vec<f32>, d_out: usize, d_in: usize) -> Result<Self> {
        Ok(Self { weight: Tensor::from_vec(weight, (d_out, d_in), &Device::Cpu)?, bias: None })
    }

    /// The same map with `b` `[d_out]` added.
    pub fn with_bias(self, bias: Vec<f32>) -> Result<Self> {
        let d_out = self.weight.dim(0)?;
        Ok(Self { bias: Some(Tensor::from_vec(bias, d_out, &Device::Cpu)?), ..self })
    }

    /// `A`, f32 `[d_out, d_in]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// `b`, f32 `[d_out]`, where there is one.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// The layer that applies it to rows, `[n, d_in]` → `[n, d_out]`, in f32 whatever the model's products are done in: the
    /// least squares of nearly dependent coordinates give maps whose large entries cancel, which rounding would undo.
    pub fn layer(&self) -> Result<Linear> {
        Ok(Linear::new(&self.weight, self.bias(), WeightLayout::OutIn, Precision::F32)?)
    }
}
