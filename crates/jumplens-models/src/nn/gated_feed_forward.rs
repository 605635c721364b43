//! The feed-forward part with a gate (Shazeer, arXiv 2002.05202).

use super::hidden::feed_forward;
use super::{Activation, Linear, is_fusable, values, with_values};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use jumplens_core::LinearMap;
use jumplens_core::linalg::matmul::{Matrix, TILE_COLS};
use jumplens_core::linalg::simd;
use pulp::{Simd, WithSimd};

/// Gates, and as many of what they are multiplied with, in a tile of the first product.
const HALF: usize = TILE_COLS / 2;

/// `down(activation(gate(x)) · up(x))`.
#[derive(Debug, Clone)]
pub struct GatedFeedForward {
    /// The layers `gate` and `up`, [`HALF`] outputs of each in turn.
    gate_up: Linear,
    activation: Activation,
    down: Linear,
}

impl GatedFeedForward {
    /// `gate` and `up` `[n, d]` → `[n, d_hidden]`, `down` `[n, d_hidden]` → `[n, d]`.
    pub fn new(gate: &Linear, up: &Linear, activation: Activation, down: Linear) -> Result<Self> {
        if gate.out_features() != down.in_features() {
            candle_core::bail!("gate of {} before {} inputs", gate.out_features(), down.in_features());
        }
        Ok(Self { gate_up: Linear::interleave(&[gate, up], HALF)?, activation, down })
    }

    /// The same part on `map·x` in the place of x: `map` `[d, d]`, rows are outputs.
    pub fn after(&self, map: &LinearMap) -> Result<Self> {
        Ok(Self { gate_up: self.gate_up.after(map)?, ..self.clone() })
    }

    /// Which output of [`gate_up`](Self::gate_up) is that of a hidden unit: of the gate (0), or of what it gates (1).
    pub(super) fn lane(half: usize, unit: usize) -> usize {
        unit / HALF * TILE_COLS + half * HALF + unit % HALF
    }

    /// Both layers of the input as one.
    pub(super) fn gate_up(&self) -> &Linear {
        &self.gate_up
    }

    /// That of the gate.
    pub(super) fn activation(&self) -> Activation {
        self.activation
    }

    /// `[n, d]` → `[n, d]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if is_fusable(x) { x.apply_op1_no_bwd(self) } else { self.forward_plain(x) }
    }

    /// The contracting layer.
    pub fn down(&self) -> &Linear {
        &self.down
    }

    /// The same part with another contracting layer.
    pub fn with_down(&self, down: Linear) -> Self {
        Self { down, ..self.clone() }
    }

    /// What the contracting layer reads for the rows `x` `[n, d]`: `[n, d_hidden]`.
    pub fn hidden(&self, x: &Tensor) -> Result<Tensor> {
        let (n, d_hidden) = (x.dim(0)?, self.down.in_features());
        let both = self.gate_up.forward(x)?;
        let mut units = vec![0f32; n * d_hidden];
        with_values(&both, |both| self.deal(both, 0, &mut units, |unit, gate| *unit = gate))?;
        let gates = Tensor::from_vec(units, (n, d_hidden), x.device())?;
        let mut units = with_values(&self.activation.forward(&gates)?, <[f32]>::to_vec)?;
        with_values(&both, |both| self.deal(both, HALF, &mut units, |unit, up| *unit *= up))?;
        Tensor::from_vec(units, (n, d_hidden), x.device())
    }

    /// Puts the gates (`from` 0) or what they are multiplied with (`from` [`HALF`]) in `both`, rows of the first layer's outputs,
    /// to the hidden `units`.
    fn deal(&self, both: &[f32], from: usize, units: &mut [f32], put: impl Fn(&mut f32, f32)) {
        let (width, d_hidden) = (self.gate_up.out_features(), self.down.in_features());
        for (row, units) in both.chunks_exact(width).zip(units.chunks_exact_mut(d_hidden)) {
            for (pair, units) in row.chunks_exact(TILE_COLS).zip(units.chunks_mut(HALF)) {
                units.iter_mut().zip(&pair[from..]).for_each(|(unit, value)| put(unit, *value));
            }
        }
    }

    /// The plain twin of [`GatedFeedForward::forward`].
    pub fn forward_plain(&self, x: &Tensor) -> Result<Tensor> {
        let both = self.gate_up.forward_plain(x)?.reshape((x.dim(0)?, (), 2, HALF))?;
        let half = |i: usize| -> Result<Tensor> {
            let units = both.narrow(2, i, 1)?.contiguous()?.reshape((x.dim(0)?, ()))?;
            units.narrow(1, 0, self.down.in_features())?.contiguous()
        };
        self.down.forward_plain(&(self.activation.forward_plain(&half(0)?)? * half(1)?)?)
    }
}

impl CustomOp1 for GatedFeedForward {
    fn name(&self) -> &'static str {
        "gated-feed-forward"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, width) = layout.shape().dims2()?;
        let x = Matrix::new(values(x, layout)?, n, width);
        let activation = self.activation;
        let out = feed_forward::<2>(x, &self.gate_up, &self.down, |bias, x| {
            simd::dispatch(ApplyGate { activation, bias, x });
        });
        Ok((CpuStorage::F32(out), (n, self.down.out_features()).into()))
    }
}

/// `gate = activation(gate + bias) · (up + bias)` in rows of [`HALF`] gates and as many of `up`.
struct ApplyGate<'a> {
    activation: Activation,
    bias: &'a [f32; TILE_COLS],
    x: &'a mut [f32],
}

impl WithSimd for ApplyGate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let (gate_bias, up_bias) = self.bias.split_at(HALF);
        for row in self.x.chunks_exact_mut(TILE_COLS) {
            let (gate, up) = row.split_at_mut(HALF);
            self.activation.add_bias_and_apply(gate, gate_bias);
            for ((gate, up), bias) in gate.iter_mut().zip(up).zip(up_bias) {
                *gate *= *up + bias;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::WeightLayout::OutIn;
    use super::super::testing::{assert_close, random};
    use super::super::{Linear, Precision};
    use super::*;

    #[test]
    fn fused_equals_plain_equals_the_layers_apart() {
        crate::nn::testing::on_every(twins);
    }

    fn twins() {
        for (precision, tolerance) in [(Precision::F32, 1e-6), (Precision::Bf16, 1e-2)] {
            for (d_hidden, has_bias) in [(96, false), (51, true)] {
                let bias = has_bias.then(|| random(&[d_hidden], 2));
                let linear = |seed| {
                    Linear::new(&random(&[d_hidden, 24], seed), bias.as_ref(), OutIn, precision).unwrap()
                };
                let (gate, up) = (linear(1), linear(3));
                let down = Linear::new(&random(&[24, d_hidden], 4), None, OutIn, precision).unwrap();
                let layer = GatedFeedForward::new(&gate, &up, Activation::Silu, down.clone()).unwrap();
                let x = random(&[205, 24], 5);
                let plain = layer.forward_plain(&x).unwrap();
                assert_close(&layer.forward(&x).unwrap(), &plain, tolerance);
                let gate = Activation::Silu.forward_plain(&gate.forward_plain(&x).unwrap()).unwrap();
                let apart = down.forward_plain(&(gate * up.forward_plain(&x).unwrap()).unwrap()).unwrap();
                assert_close(&plain, &apart, 1e-6);
            }
        }
    }
}
