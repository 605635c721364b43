//! The non-linearities of feed-forward layers.

use super::{is_fusable, values};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use jumplens_core::linalg::simd;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

/// A non-linearity, named as `config.json` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `gelu`: x·Φ(x), with the exact Φ of the normal distribution.
    Gelu,
    /// The tanh approximation of GELU, `gelu_new` (Hendrycks and Gimpel, arXiv 1606.08415).
    GeluNew,
    /// `relu`.
    Relu,
    /// `silu`: x·σ(x).
    Silu,
}

impl Activation {
    /// What a `config.json` calls them; some are one formula in several spellings.
    pub const NAMES: [(&'static str, Self); 10] = [
        ("gelu", Self::Gelu),
        ("gelu_python", Self::Gelu),
        ("gelu_new", Self::GeluNew),
        ("gelu_pytorch_tanh", Self::GeluNew),
        ("gelu_python_tanh", Self::GeluNew),
        ("gelu_fast", Self::GeluNew),
        ("gelu_accurate", Self::GeluNew),
        ("relu", Self::Relu),
        ("silu", Self::Silu),
        ("swish", Self::Silu),
    ];

    /// The activation that a `config.json` calls `name`, where it is one of ours.
    pub fn from_config(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, activation)| *activation)
    }

    /// Of each element, of any shape.
    pub fn forward(self, x: &Tensor) -> Result<Tensor> {
        if is_fusable(x) { x.apply_op1_no_bwd(&self) } else { self.forward_plain(x) }
    }

    /// The plain twin of [`Activation::forward`].
    pub fn forward_plain(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Gelu => x.gelu_erf(),
            Self::GeluNew => x.gelu(),
            Self::Relu => x.relu(),
            Self::Silu => x.silu(),
        }
    }

    /// `x = activation(x + bias)`, for one row; `bias` is as long as the row.
    #[inline(always)]
    pub(super) fn add_bias_and_apply(self, x: &mut [f32], bias: &[f32]) {
        // Loops, since a closure might not be inlined and would then miss the vector instructions.
        match self {
            Self::Gelu => {
                for (x, b) in x.iter_mut().zip(bias) {
                    *x = gelu(*x + b);
                }
            }
            Self::GeluNew => {
                for (x, b) in x.iter_mut().zip(bias) {
                    *x = gelu_new(*x + b);
                }
            }
            Self::Relu => {
                for (x, b) in x.iter_mut().zip(bias) {
                    *x = (*x + b).max(0.0);
                }
            }
            Self::Silu => {
                for (x, b) in x.iter_mut().zip(bias) {
                    let sum = *x + b;
                    *x = sum / (1.0 + simd::exp(-sum));
                }
            }
        }
    }
}

impl CustomOp1 for Activation {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        const BLOCK: usize = 1 << 12;
        let mut out = values(x, layout)?.to_vec();
        let zeros = [0f32; BLOCK];
        out.par_chunks_mut(BLOCK).for_each(|x| {
            let bias = &zeros[..x.len()];
            simd::dispatch(AddBiasAndApply { activation: *self, bias, x });
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

/// The activation of the rows `x` `[n, bias.len()]` after the bias is added.
pub(super) struct AddBiasAndApply<'a> {
    pub activation: Activation,
    pub bias: &'a [f32],
    pub x: &'a mut [f32],
}

impl WithSimd for AddBiasAndApply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for row in self.x.chunks_exact_mut(self.bias.len()) {
            self.activation.add_bias_and_apply(row, self.bias);
        }
    }
}

/// x·Φ(x), to 1e-7 of x: Φ(−|x|) = ½·erfc(z), z = |x| / √2. The polynomials are Chebyshev fits in double precision, of
/// erf(z) / z in z² up to 0.9 and of −ln erfc(z) from there to 4, where erfc is 1.5e-8 and stays.
#[inline(always)]
fn gelu(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let z = if z > 4.0 { 4.0 } else { z };
    let u = z * z;
    let p = -5.896_091_4e-4;
    let p = p * u + 0.004_969_173;
    let p = p * u - 2.674_458_7e-2;
    let p = p * u + 0.112_809_34;
    let p = p * u - 0.376_123_5;
    let p = p * u + std::f32::consts::FRAC_2_SQRT_PI;
    let q = -1.981_660_7e-4;
    let q = q * z + 3.065_194_2e-3;
    let q = q * z - 2.231_500_1e-2;
    let q = q * z + 0.104_115_33;
    let q = q * z + 0.636_971_8;
    let q = q * z + 1.127_801_3;
    let q = q * z + 1.651_185_8e-4;
    let near = 0.5 - 0.5 * z * p;
    let far = 0.5 * simd::exp(-q);
    let below = if z < 0.9 { near } else { far };
    x * if x < 0.0 { below } else { 1.0 - below }
}

/// ½x·(1 + tanh u) = x·σ(2u), u = √(2/π)·(x + 0.044715·x³)
#[inline(always)]
fn gelu_new(x: f32) -> f32 {
    const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769;
    x / (1.0 + simd::exp(-TWICE_SQRT_2_OVER_PI * (x + 0.044715 * x * x * x)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn kernels_equal_plain_twins() {
        let x: Vec<f32> = (-3000..3000).map(|i| i as f32 * 0.01).collect();
        let tensor = Tensor::new(x.as_slice(), &Device::Cpu).unwrap();
        for activation in [Activation::Gelu, Activation::GeluNew, Activation::Relu, Activation::Silu] {
            let want = activation.forward_plain(&tensor).unwrap().to_vec1::<f32>().unwrap();
            let alone = activation.forward(&tensor).unwrap().to_vec1::<f32>().unwrap();
            let mut got = x.clone();
            let half: Vec<f32> = x.iter().map(|x| x / 2.0).collect();
            got.copy_from_slice(&half);
            activation.add_bias_and_apply(&mut got, &half);
            for (i, x) in x.iter().enumerate() {
                for got in [got[i], alone[i]] {
                    assert!(
                        (got - want[i]).abs() <= 5e-7 * x.abs().max(1.0),
                        "{activation:?}({x}): {got} against {}",
                        want[i]
                    );
                }
            }
        }
    }
}
