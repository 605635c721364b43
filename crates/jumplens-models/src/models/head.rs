//! From the last hidden state to logits.

use crate::error::Result;
use crate::nn::{Activation, Linear, Norm, Precision, with_values};
use candle_core::Tensor;
use jumplens_core::linalg::matmul::{Matrix, Packed, PackedWeights};
use std::sync::{Arc, OnceLock};

/// From `h_L` to logits: the final norm, or an MLM transform, then the unembedding.
#[derive(Debug, Clone)]
pub struct Head {
    steps: Vec<Step>,
    unembedding: Tensor,
    bias: Option<Tensor>,
    soft_cap: Option<f32>,
    /// The unembedding as products in f32 and in bf16 read it, once they were asked for.
    packed: [OnceLock<Arc<PackedWeights>>; 2],
}

/// What is done to each row before the unembedding.
#[derive(Debug, Clone)]
pub enum Step {
    /// A normalisation.
    Norm(Norm),
    /// A product.
    Linear(Linear),
    /// A non-linearity.
    Activation(Activation),
}

impl Head {
    /// `unembedding` `[vocab, width]`, contiguous, of the width that the steps leave; `bias` `[vocab]`. Where `soft_cap` is
    /// given, a logit z becomes cap·tanh(z / cap).
    pub fn new(steps: Vec<Step>, unembedding: Tensor, bias: Option<Tensor>, soft_cap: Option<f32>) -> Self {
        Self { steps, unembedding, bias, soft_cap, packed: Default::default() }
    }

    /// What is done to each row before the unembedding, in order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The norm that comes first, where it does.
    pub fn final_norm(&self) -> Option<&Norm> {
        match self.steps.first() {
            Some(Step::Norm(norm)) => Some(norm),
            _ => None,
        }
    }

    /// What is done to `h_L` `[n, d]` before the unembedding, row by row: `[n, width]`.
    pub fn prepare(&self, h: &Tensor) -> Result<Tensor> {
        let mut x = h.clone();
        for step in &self.steps {
            x = match step {
                Step::Norm(norm) => norm.forward(&x)?,
                Step::Linear(linear) => linear.forward(&x)?,
                Step::Activation(activation) => activation.forward(&x)?,
            };
        }
        Ok(x)
    }

    /// The unembedding W `[vocab, width]`: logits are `prepare(h)·Wᵀ`, plus the bias, within the soft cap.
    pub fn unembedding(&self) -> &Tensor {
        &self.unembedding
    }

    /// The unembedding as products in `precision` read it. It is packed when it is asked for first, and kept.
    pub fn packed(&self, precision: Precision) -> Result<Arc<PackedWeights>> {
        let (vocab, width) = self.unembedding.dims2()?;
        let kept = &self.packed[usize::from(precision == Precision::Bf16)];
        if let Some(packed) = kept.get() {
            return Ok(Arc::clone(packed));
        }
        // Not within the cell: a thread that waits for others of its pool may come here again. Of two, one is kept.
        let pack = |weight: &[f32]| Packed::pack(Matrix::new(weight, vocab, width), precision);
        let packed = Arc::new(with_values(&self.unembedding, pack)?);
        Ok(Arc::clone(kept.get_or_init(|| packed)))
    }

    /// What is added to the logits, `[vocab]`.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// Where given, a logit z becomes cap·tanh(z / cap).
    pub fn soft_cap(&self) -> Option<f32> {
        self.soft_cap
    }

    /// The logits `[n, vocab]` of `h_L` `[n, d]`, all at once and in plain operations: for a few rows, and for gradients.
    pub fn logits(&self, h: &Tensor) -> Result<Tensor> {
        let mut logits = self.prepare(h)?.matmul(&self.unembedding.t()?)?;
        if let Some(bias) = &self.bias {
            logits = logits.broadcast_add(bias)?;
        }
        Ok(match self.soft_cap.map(f64::from) {
            Some(cap) => ((logits / cap)?.tanh()? * cap)?,
            None => logits,
        })
    }
}
