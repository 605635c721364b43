//! Self-attention with its four projections.

use super::{Linear, Norm, PackedAttention, QueryRows, Rope};
use candle_core::{Result, Tensor};
use jumplens_core::LinearMap;

/// Queries, keys and values from the same rows, softmax attention, output projection.
#[derive(Debug, Clone)]
pub struct SelfAttention {
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads, each shared by `n_heads / n_kv_heads` query heads.
    pub n_kv_heads: usize,
    /// Width of a head, d_head.
    pub d_head: usize,
    /// What scores are multiplied by, usually 1 / √d_head.
    pub scale: f32,
    /// `[n, d]` → `[n, n_heads · d_head]`.
    pub query: Linear,
    /// `[n, d]` → `[n, n_kv_heads · d_head]`.
    pub key: Linear,
    /// `[n, d]` → `[n, n_kv_heads · d_head]`.
    pub value: Linear,
    /// The output projection, `[n, n_heads · d_head]` → `[n, d]`.
    pub output: Linear,
    /// Applied to each head's query, before the rotation.
    pub query_norm: Option<Norm>,
    /// Applied to each head's key, before the rotation.
    pub key_norm: Option<Norm>,
    /// Turns queries and keys by their positions.
    pub rope: Option<Rope>,
    /// A row looks at no more than this many rows, itself included.
    pub window: Option<u32>,
    /// Where given, a scaled score s becomes cap·tanh(s / cap).
    pub soft_cap: Option<f32>,
}

impl SelfAttention {
    /// As many key heads as query heads, scores over √d_head, and nothing that is optional.
    pub fn new(n_heads: usize, query: Linear, key: Linear, value: Linear, output: Linear) -> Self {
        let d_head = query.out_features() / n_heads;
        Self {
            n_heads,
            n_kv_heads: n_heads,
            d_head,
            scale: 1.0 / (d_head as f32).sqrt(),
            query,
            key,
            value,
            output,
            query_norm: None,
            key_norm: None,
            rope: None,
            window: None,
            soft_cap: None,
        }
    }

    /// The same attention on `map·x` in the place of x: `map` `[d, d]`, rows are outputs.
    pub fn after(&self, map: &LinearMap) -> Result<Self> {
        Ok(Self {
            query: self.query.after(map)?,
            key: self.key.after(map)?,
            value: self.value.after(map)?,
            ..self.clone()
        })
    }

    /// Keys and values of the rows `x` `[tokens, d]`, `[tokens, n_kv_heads · d_head]` each.
    pub fn keys_values(&self, x: &Tensor, rows: &QueryRows) -> Result<(Tensor, Tensor)> {
        Ok((self.place(self.key.forward(x)?, self.key_norm.as_ref(), rows)?, self.value.forward(x)?))
    }

    /// What the rows `x` `[rows, d]` get from keys and values: `[rows, d]`.
    pub fn attend(&self, x: &Tensor, rows: &QueryRows, (keys, values): (&Tensor, &Tensor)) -> Result<Tensor> {
        let queries = self.place(self.query.forward(x)?, self.query_norm.as_ref(), rows)?;
        let windowed = self.window.map(|window| rows.within(window));
        let attention = PackedAttention {
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            scale: self.scale,
            soft_cap: self.soft_cap,
            rows: windowed.as_ref().unwrap_or(rows),
        };
        self.output.forward(&attention.forward(&queries, keys, values)?)
    }

    /// Queries or keys `[n, heads · d_head]`, normalised head by head and turned by their positions.
    pub(super) fn place(&self, x: Tensor, norm: Option<&Norm>, rows: &QueryRows) -> Result<Tensor> {
        let x = match norm {
            Some(norm) => {
                let shape = x.shape().clone();
                norm.forward(&x.reshape(((), self.d_head))?)?.reshape(shape)?
            }
            None => x,
        };
        match &self.rope {
            Some(rope) => rope.forward(&x, &rows.positions),
            None => Ok(x),
        }
    }
}
