//! y = x·W + b.

use super::matmul::{Matrix, Write, matmul};
use super::{is_fusable, values, with_values};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

/// How a weight lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightLayout {
    /// `[in, out]`: GPT-2's `Conv1D`.
    InOut,
    /// `[out, in]`: `torch.nn.Linear`, and the linear maps of this crate.
    OutIn,
}

/// An affine map of rows, `[n, in]` → `[n, out]`.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    layout: WeightLayout,
}

impl Linear {
    /// `weight` as `layout` says, `bias` `[out]`; both f32 and contiguous for the fused kernel to apply.
    pub fn new(weight: Tensor, bias: Option<Tensor>, layout: WeightLayout) -> Self {
        Self { weight, bias, layout }
    }

    /// This layer on `map·x` in the place of x, as one layer: `map` `[in, in]`, rows are outputs.
    pub fn after(&self, map: &Tensor) -> Result<Self> {
        let weight = match self.layout {
            WeightLayout::InOut => map.t()?.contiguous()?.matmul(&self.weight)?,
            WeightLayout::OutIn => self.weight.matmul(map)?,
        };
        Ok(Self { weight, bias: self.bias.clone(), layout: self.layout })
    }

    /// The width of the output rows.
    pub fn out_features(&self) -> usize {
        self.weight.dims()[usize::from(self.layout == WeightLayout::InOut)]
    }

    /// The bias `[out]`.
    pub(super) fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// `[n, in]` → `[n, out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if is_fusable(x) { x.apply_op1_no_bwd(self) } else { self.forward_plain(x) }
    }

    /// The plain twin of [`Linear::forward`].
    pub fn forward_plain(&self, x: &Tensor) -> Result<Tensor> {
        let y = match self.layout {
            WeightLayout::InOut => x.matmul(&self.weight)?,
            WeightLayout::OutIn => x.matmul(&self.weight.t()?)?,
        };
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }

    /// `out (+)= x·W` on slices, without the bias; `x` `[n, in]`, `out` `[n, out]`.
    pub(super) fn product(&self, x: Matrix, out: &mut [f32], write: Write) -> Result<()> {
        let (rows, cols) = self.weight.dims2()?;
        with_values(&self.weight, |weight| {
            let weight = Matrix::new(weight, rows, cols);
            matmul(out, write, x, if self.layout == WeightLayout::InOut { weight } else { weight.t() });
        })
    }

    /// `x·W + b` on slices, appended to `out`.
    pub(super) fn append(&self, x: Matrix, out: &mut Vec<f32>) -> Result<()> {
        let (start, rows) = (out.len(), x.rows);
        match &self.bias {
            Some(bias) => with_values(bias, |bias| (0..rows).for_each(|_| out.extend_from_slice(bias)))?,
            None => out.resize(start + rows * self.out_features(), 0.0),
        }
        self.product(x, &mut out[start..], if self.bias.is_some() { Write::Add } else { Write::Replace })
    }
}

impl CustomOp1 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, width) = layout.shape().dims2()?;
        let mut out = Vec::with_capacity(n * self.out_features());
        self.append(Matrix::new(values(x, layout)?, n, width), &mut out)?;
        Ok((CpuStorage::F32(out), (n, self.out_features()).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, random};
    use super::*;

    #[test]
    fn fused_equals_plain_in_both_layouts() {
        let x = random(&[37, 24], 1);
        let bias = random(&[40], 2);
        for (weight, layout) in
            [(random(&[24, 40], 3), WeightLayout::InOut), (random(&[40, 24], 4), WeightLayout::OutIn)]
        {
            for bias in [None, Some(bias.clone())] {
                let linear = Linear::new(weight.clone(), bias, layout);
                assert_eq!(linear.out_features(), 40);
                assert_close(&linear.forward(&x).unwrap(), &linear.forward_plain(&x).unwrap(), 1e-6);
            }
        }
    }
}
