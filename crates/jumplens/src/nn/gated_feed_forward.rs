//! The feed-forward part with a gate (Shazeer, arXiv 2002.05202).

use super::matmul::{Matrix, Write};
use super::{Activation, Linear, RowPart, is_fusable, simd, values, with_values};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

/// Rows whose hidden activations exist at one time.
const ROWS: usize = 256;

/// `down(activation(gate(x)) · up(x))`.
#[derive(Debug, Clone)]
pub struct GatedFeedForward {
    /// `[n, d]` → `[n, d_hidden]`, through the activation.
    pub gate: Linear,
    /// `[n, d]` → `[n, d_hidden]`, what the gate is multiplied with.
    pub up: Linear,
    /// Applied to each hidden unit of the gate.
    pub activation: Activation,
    /// The contracting layer, `[n, d_hidden]` → `[n, d]`.
    pub down: Linear,
}

impl GatedFeedForward {
    /// `[n, d]` → `[n, d]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if is_fusable(x) { x.apply_op1_no_bwd(self) } else { self.forward_plain(x) }
    }

    /// The plain twin of [`GatedFeedForward::forward`].
    pub fn forward_plain(&self, x: &Tensor) -> Result<Tensor> {
        let gate = self.activation.forward_plain(&self.gate.forward_plain(x)?)?;
        self.down.forward_plain(&(gate * self.up.forward_plain(x)?)?)
    }
}

impl RowPart for GatedFeedForward {
    fn after(&self, map: &Tensor) -> Result<Self> {
        Ok(Self { gate: self.gate.after(map)?, up: self.up.after(map)?, ..self.clone() })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward(x)
    }
}

impl CustomOp1 for GatedFeedForward {
    fn name(&self) -> &'static str {
        "gated-feed-forward"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, width) = layout.shape().dims2()?;
        let x = values(x, layout)?;
        let (d_hidden, d_out) = (self.gate.out_features(), self.down.out_features());
        let bias = |layer: &Linear| match layer.bias() {
            Some(bias) => with_values(bias, <[f32]>::to_vec),
            None => Ok(vec![0.0; d_hidden]),
        };
        let (gate_bias, up_bias) = (bias(&self.gate)?, bias(&self.up)?);
        let mut out = Vec::with_capacity(n * d_out);
        let mut gate = vec![0f32; ROWS.min(n) * d_hidden];
        let mut up = gate.clone();
        for x in x.chunks(ROWS * width) {
            let rows = x.len() / width;
            let (gate, up) = (&mut gate[..rows * d_hidden], &mut up[..rows * d_hidden]);
            self.gate.product(Matrix::new(x, rows, width), gate, Write::Replace)?;
            self.up.product(Matrix::new(x, rows, width), up, Write::Replace)?;
            let blocks = gate.par_chunks_mut(d_hidden * 16).zip(up.par_chunks(d_hidden * 16));
            blocks.for_each(|(gate, up)| {
                let (gate_bias, up_bias) = (&gate_bias, &up_bias);
                simd::dispatch(ApplyGate { activation: self.activation, gate_bias, up_bias, gate, up });
            });
            self.down.append(Matrix::new(gate, rows, d_hidden), &mut out)?;
        }
        Ok((CpuStorage::F32(out), (n, d_out).into()))
    }
}

/// `gate = activation(gate + gate_bias) · (up + up_bias)`, both `[n, d_hidden]`.
struct ApplyGate<'a> {
    activation: Activation,
    gate_bias: &'a [f32],
    up_bias: &'a [f32],
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl WithSimd for ApplyGate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let d = self.gate_bias.len();
        for (gate, up) in self.gate.chunks_exact_mut(d).zip(self.up.chunks_exact(d)) {
            self.activation.add_bias_and_apply(gate, self.gate_bias);
            for ((gate, up), bias) in gate.iter_mut().zip(up).zip(self.up_bias) {
                *gate *= up + bias;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::WeightLayout::OutIn;
    use super::super::testing::{assert_close, random};
    use super::*;

    #[test]
    fn fused_equals_plain_over_several_row_blocks() {
        for bias in [None, Some(random(&[96], 2))] {
            let layer = GatedFeedForward {
                gate: Linear::new(random(&[96, 24], 1), bias.clone(), OutIn),
                up: Linear::new(random(&[96, 24], 3), bias, OutIn),
                activation: Activation::Silu,
                down: Linear::new(random(&[24, 96], 4), None, OutIn),
            };
            let x = random(&[2 * ROWS + 13, 24], 5);
            assert_close(&layer.forward(&x).unwrap(), &layer.forward_plain(&x).unwrap(), 1e-6);
        }
    }
}
