//! Layer normalisation (Ba et al., arXiv 1607.06450).

use super::{is_fusable, simd, values, with_values};
use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

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
                    simd::dispatch(|| {
                        for (out, x) in out.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
                            normalise(x, weight, bias, eps, out);
                        }
                    });
                });
            })
        })??;
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

#[inline(always)]
fn normalise(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let mean = simd::sum(x) / x.len() as f32;
    let scale = 1.0 / (simd::squared_deviations(x, mean) / x.len() as f32 + eps).sqrt();
    for (((out, x), w), b) in out.iter_mut().zip(x).zip(weight).zip(bias) {
        *out = (x - mean) * scale * w + b;
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, random};
    use super::*;

    #[test]
    fn fused_equals_plain() {
        let norm = LayerNorm::new(random(&[77], 1), random(&[77], 2), 1e-5);
        let x = (random(&[100, 77], 3) * 30.0).unwrap();
        assert_close(&norm.forward(&x).unwrap(), &norm.forward_plain(&x).unwrap(), 2e-6);
    }
}
