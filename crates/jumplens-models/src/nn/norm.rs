//! Normalisation of rows: LayerNorm (Ba et al., arXiv 1607.06450) and RMSNorm (Zhang and Sennrich, arXiv 1910.07467).

use super::{is_fusable, values, with_values};
use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor};
use jumplens_core::linalg::simd;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

/// Either of the two.
#[derive(Debug, Clone)]
pub enum Norm {
    /// LayerNorm.
    Layer(LayerNorm),
    /// RMSNorm.
    Rms(RmsNorm),
}

impl Norm {
    /// What each coordinate is multiplied with at the end, `[d]`.
    pub fn gain(&self) -> &Tensor {
        match self {
            Self::Layer(norm) => &norm.weight,
            Self::Rms(norm) => &norm.weight,
        }
    }

    /// `[n, d]` → `[n, d]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Layer(norm) => norm.forward(x),
            Self::Rms(norm) => norm.forward(x),
        }
    }

    /// Its ε, and whether it takes the mean away.
    pub(super) fn form(&self) -> (f64, bool) {
        match self {
            Self::Layer(norm) => (norm.eps, true),
            Self::Rms(norm) => (norm.eps, false),
        }
    }
}

/// `(x − mean) / √(variance + eps) · weight + bias`, row by row, with the biased variance.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// `weight` and `bias` `[d]`.
    pub fn new(weight: Tensor, bias: Tensor, eps: f64) -> Self {
        Self { weight, bias, eps }
    }

    /// `[n, d]` → `[n, d]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if is_fusable(x) { x.apply_op1_no_bwd(self) } else { self.forward_plain(x) }
    }

    /// The plain twin of [`LayerNorm::forward`].
    pub fn forward_plain(&self, x: &Tensor) -> Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let normed = centred.broadcast_div(&(variance + self.eps)?.sqrt()?)?;
        normed.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
    }
}

impl CustomOp1 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, d) = layout.shape().dims2()?;
        let x = values(x, layout)?;
        let eps = self.eps as f32;
        let mut out = vec![0f32; n * d];
        with_values(&self.weight, |weight| {
            with_values(&self.bias, |bias| {
                out.par_chunks_mut(d * 32).zip(x.par_chunks(d * 32)).for_each(|(out, x)| {
                    simd::dispatch(Normalise { x, weight, bias, eps, out });
                });
            })
        })??;
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

/// Normalises the rows of `x` into those of `out`, both `[n, weight.len()]`.
struct Normalise<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl WithSimd for Normalise<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let d = self.weight.len();
        for (out, x) in self.out.chunks_exact_mut(d).zip(self.x.chunks_exact(d)) {
            let mean = simd::sum(x) / d as f32;
            let scale = 1.0 / (simd::squared_deviations(x, mean) / d as f32 + self.eps).sqrt();
            for (((out, x), w), b) in out.iter_mut().zip(x).zip(self.weight).zip(self.bias) {
                *out = (x - mean) * scale * w + b;
            }
        }
    }
}

/// `x / √(mean(x²) + eps) · weight`, row by row.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    /// `weight` `[d]`.
    pub fn new(weight: Tensor, eps: f64) -> Self {
        Self { weight, eps }
    }

    /// `[n, d]` → `[n, d]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if is_fusable(x) { x.apply_op1_no_bwd(self) } else { self.forward_plain(x) }
    }

    /// The plain twin of [`RmsNorm::forward`].
    pub fn forward_plain(&self, x: &Tensor) -> Result<Tensor> {
        let size = (x.sqr()?.mean_keepdim(D::Minus1)? + self.eps)?.sqrt()?;
        x.broadcast_div(&size)?.broadcast_mul(&self.weight)
    }
}

impl CustomOp1 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, d) = layout.shape().dims2()?;
        let x = values(x, layout)?;
        let eps = self.eps as f32;
        let mut out = vec![0f32; n * d];
        with_values(&self.weight, |weight| {
            out.par_chunks_mut(d * 32).zip(x.par_chunks(d * 32)).for_each(|(out, x)| {
                simd::dispatch(Scale { x, weight, eps, out });
            });
        })?;
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

/// Scales the rows of `x` into those of `out`, both `[n, weight.len()]`.
struct Scale<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl WithSimd for Scale<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let d = self.weight.len();
        for (out, x) in self.out.chunks_exact_mut(d).zip(self.x.chunks_exact(d)) {
            let scale = 1.0 / (simd::squared_deviations(x, 0.0) / d as f32 + self.eps).sqrt();
            for ((out, x), w) in out.iter_mut().zip(x).zip(self.weight) {
                *out = x * scale * w;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, random};
    use super::*;

    #[test]
    fn fused_equals_plain() {
        crate::nn::testing::on_every(twins);
    }

    fn twins() {
        let norm = LayerNorm::new(random(&[77], 1), random(&[77], 2), 1e-5);
        let x = (random(&[100, 77], 3) * 30.0).unwrap();
        assert_close(&norm.forward(&x).unwrap(), &norm.forward_plain(&x).unwrap(), 2e-6);
        let norm = RmsNorm::new(random(&[77], 4), 1e-5);
        assert_close(&norm.forward(&x).unwrap(), &norm.forward_plain(&x).unwrap(), 2e-6);
    }
}
