//! The two-layer feed-forward part of a block.

use super::activation::AddBiasAndApply;
use super::matmul::{Matrix, Write};
use super::{Activation, Linear, RowPart, is_fusable, simd, values, with_values};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// Rows whose hidden activations exist at one time: enough for the product to be fast, few enough to stay in cache.
const ROWS: usize = 256;

/// `proj(activation(fc(x)))`.
#[derive(Debug, Clone)]
pub struct FeedForward {
    /// The expanding layer.
    pub fc: Linear,
    /// Applied to each hidden unit.
    pub activation: Activation,
    /// The contracting layer.
    pub proj: Linear,
}

impl FeedForward {
    /// `[n, d]` → `[n, d]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if is_fusable(x) { x.apply_op1_no_bwd(self) } else { self.forward_plain(x) }
    }

    /// The plain twin of [`FeedForward::forward`].
    pub fn forward_plain(&self, x: &Tensor) -> Result<Tensor> {
        self.proj.forward_plain(&self.activation.forward_plain(&self.fc.forward_plain(x)?)?)
    }
}

impl RowPart for FeedForward {
    fn after(&self, map: &Tensor) -> Result<Self> {
        Ok(Self { fc: self.fc.after(map)?, ..self.clone() })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward(x)
    }
}

impl CustomOp1 for FeedForward {
    fn name(&self) -> &'static str {
        "feed-forward"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, width) = layout.shape().dims2()?;
        let x = values(x, layout)?;
        let (d_hidden, d_out) = (self.fc.out_features(), self.proj.out_features());
        let bias = match self.fc.bias() {
            Some(bias) => with_values(bias, <[f32]>::to_vec)?,
            None => vec![0.0; d_hidden],
        };
        let mut out = Vec::with_capacity(n * d_out);
        let mut hidden = vec![0f32; ROWS.min(n) * d_hidden];
        for x in x.chunks(ROWS * width) {
            let rows = x.len() / width;
            let hidden = &mut hidden[..rows * d_hidden];
            self.fc.product(Matrix::new(x, rows, width), hidden, Write::Replace)?;
            hidden.par_chunks_mut(d_hidden * 16).for_each(|block| {
                simd::dispatch(AddBiasAndApply { activation: self.activation, bias: &bias, x: block });
            });
            self.proj.append(Matrix::new(hidden, rows, d_hidden), &mut out)?;
        }
        Ok((CpuStorage::F32(out), (n, d_out).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::WeightLayout;
    use super::super::testing::{assert_close, random};
    use super::*;

    #[test]
    fn fused_equals_plain_over_several_row_blocks() {
        let layer = FeedForward {
            fc: Linear::new(random(&[24, 96], 1), Some(random(&[96], 2)), WeightLayout::InOut),
            activation: Activation::GeluNew,
            proj: Linear::new(random(&[24, 96], 3), Some(random(&[24], 4)), WeightLayout::OutIn),
        };
        let x = random(&[2 * ROWS + 13, 24], 5);
        assert_close(&layer.forward(&x).unwrap(), &layer.forward_plain(&x).unwrap(), 1e-6);
    }
}
