//! The two-layer feed-forward part of a block.

use super::activation::AddBiasAndApply;
use super::hidden::feed_forward;
use super::{Activation, Linear, is_fusable, values};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use jumplens_core::LinearMap;
use jumplens_core::linalg::matmul::Matrix;
use jumplens_core::linalg::simd;

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
    /// The same part on `map·x` in the place of x: `map` `[d, d]`, rows are outputs.
    pub fn after(&self, map: &LinearMap) -> Result<Self> {
        Ok(Self { fc: self.fc.after(map)?, ..self.clone() })
    }

    /// `[n, d]` → `[n, d]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if is_fusable(x) { x.apply_op1_no_bwd(self) } else { self.forward_plain(x) }
    }

    /// What the contracting layer reads for the rows `x` `[n, d]`: `[n, d_hidden]`.
    pub fn hidden(&self, x: &Tensor) -> Result<Tensor> {
        self.activation.forward(&self.fc.forward(x)?)
    }

    /// The plain twin of [`FeedForward::forward`].
    pub fn forward_plain(&self, x: &Tensor) -> Result<Tensor> {
        self.proj.forward_plain(&self.activation.forward_plain(&self.fc.forward_plain(x)?)?)
    }
}

impl CustomOp1 for FeedForward {
    fn name(&self) -> &'static str {
        "feed-forward"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, width) = layout.shape().dims2()?;
        let x = Matrix::new(values(x, layout)?, n, width);
        let activation = self.activation;
        let out = feed_forward::<1>(x, &self.fc, &self.proj, |bias, x| {
            simd::dispatch(AddBiasAndApply { activation, bias, x });
        });
        Ok((CpuStorage::F32(out), (n, self.proj.out_features()).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, random};
    use super::super::{Precision, WeightLayout};
    use super::*;

    #[test]
    fn fused_equals_plain_over_several_row_blocks() {
        crate::nn::testing::on_every(twins);
    }

    fn twins() {
        for (precision, tolerance) in [(Precision::F32, 1e-6), (Precision::Bf16, 8e-3)] {
            for d_hidden in [96, 51] {
                let linear = |weight: &Tensor, bias: usize, layout| {
                    Linear::new(weight, Some(&random(&[bias], 2)), layout, precision).unwrap()
                };
                let layer = FeedForward {
                    fc: linear(&random(&[24, d_hidden], 1), d_hidden, WeightLayout::InOut),
                    activation: Activation::GeluNew,
                    proj: linear(&random(&[24, d_hidden], 3), 24, WeightLayout::OutIn),
                };
                let x = random(&[205, 24], 5);
                assert_close(&layer.forward(&x).unwrap(), &layer.forward_plain(&x).unwrap(), tolerance);
            }
        }
    }
}
