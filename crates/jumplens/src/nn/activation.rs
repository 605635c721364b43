//! The non-linearities of feed-forward layers.

use super::simd;
use candle_core::{Result, Tensor};

/// A non-linearity, named as `config.json` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// The tanh approximation of GELU, `gelu_new` (Hendrycks and Gimpel, arXiv 1606.08415).
    GeluNew,
    /// `relu`.
    Relu,
}

impl Activation {
    /// The activation that a `config.json` calls `name`, where it is one of ours.
    pub fn from_config(name: &str) -> Option<Self> {
        match name {
            "gelu_new" | "gelu_pytorch_tanh" => Some(Self::GeluNew),
            "relu" => Some(Self::Relu),
            _ => None,
        }
    }

    /// In plain candle operations, of any shape.
    pub fn forward_plain(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::GeluNew => x.gelu(),
            Self::Relu => x.relu(),
        }
    }

    /// `x = activation(x + bias)`, for one row; `bias` is as long as the row.
    #[inline(always)]
    pub(super) fn add_bias_and_apply(self, x: &mut [f32], bias: &[f32]) {
        match self {
            Self::GeluNew => x.iter_mut().zip(bias).for_each(|(x, b)| *x = gelu_new(*x + b)),
            Self::Relu => x.iter_mut().zip(bias).for_each(|(x, b)| *x = (*x + b).max(0.0)),
        }
    }
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
        for activation in [Activation::GeluNew, Activation::Relu] {
            let want = activation.forward_plain(&tensor).unwrap().to_vec1::<f32>().unwrap();
            let mut got = x.clone();
            let half: Vec<f32> = x.iter().map(|x| x / 2.0).collect();
            got.copy_from_slice(&half);
            activation.add_bias_and_apply(&mut got, &half);
            for ((x, got), want) in x.iter().zip(got).zip(want) {
                assert!(
                    (got - want).abs() <= 1e-6 * x.abs().max(1.0),
                    "{activation:?}({x}): {got} against {want}"
                );
            }
        }
    }
}
