//! Self-attention with its four projections.

use super::{Linear, PackedAttention, QueryRows};
use candle_core::{Result, Tensor};

/// Queries, keys and values from the same rows, softmax attention, output projection.
#[derive(Debug, Clone)]
pub struct SelfAttention {
    /// Heads; the width of a row is `n_heads` times the width of a head.
    pub n_heads: usize,
    /// What scores are multiplied by, usually 1 / √d_head.
    pub scale: f32,
    /// `[n, d]` → `[n, d]`.
    pub query: Linear,
    /// `[n, d]` → `[n, d]`.
    pub key: Linear,
    /// `[n, d]` → `[n, d]`.
    pub value: Linear,
    /// The output projection, `[n, d]` → `[n, d]`.
    pub output: Linear,
}

impl SelfAttention {
    /// The same attention on `map·x` in the place of x: `map` `[d, d]`, rows are outputs.
    pub fn after(&self, map: &Tensor) -> Result<Self> {
        Ok(Self {
            query: self.query.after(map)?,
            key: self.key.after(map)?,
            value: self.value.after(map)?,
            ..self.clone()
        })
    }

    /// Keys and values of the rows `x` `[tokens, d]`, `[tokens, d]` each.
    pub fn keys_values(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        Ok((self.key.forward(x)?, self.value.forward(x)?))
    }

    /// What the rows `x` `[rows, d]` get from `keys` and `values` `[tokens, d]`: `[rows, d]`.
    pub fn attend(&self, x: &Tensor, rows: &QueryRows, keys: &Tensor, values: &Tensor) -> Result<Tensor> {
        let attention = PackedAttention { n_heads: self.n_heads, scale: self.scale, rows };
        self.output.forward(&attention.forward(&self.query.forward(x)?, keys, values)?)
    }
}
