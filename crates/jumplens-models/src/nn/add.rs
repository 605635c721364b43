//! Residual additions.

use super::{is_fusable, values};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// `a + b`, of the same shape, on all threads; candle's own addition elsewhere than on the CPU.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if is_fusable(a) && is_fusable(b) { a.apply_op2_no_bwd(b, &Add) } else { a + b }
}

struct Add;

impl CustomOp2 for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        la: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        if la.shape() != lb.shape() {
            candle_core::bail!("add: shapes {:?} and {:?} differ", la.shape(), lb.shape());
        }
        let (a, b) = (values(a, la)?, values(b, lb)?);
        let mut out = vec![0f32; a.len()];
        const BLOCK: usize = 1 << 15;
        out.par_chunks_mut(BLOCK).zip(a.par_chunks(BLOCK)).zip(b.par_chunks(BLOCK)).for_each(
            |((out, a), b)| {
                out.iter_mut().zip(a).zip(b).for_each(|((out, a), b)| *out = a + b);
            },
        );
        Ok((CpuStorage::F32(out), la.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::random;

    #[test]
    fn equals_candle_and_refuses_other_shapes() {
        let (a, b) = (random(&[300, 129], 1), random(&[300, 129], 2));
        let got = super::add(&a, &b).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(got, (a.clone() + b).unwrap().to_vec2::<f32>().unwrap());
        assert!(super::add(&a, &random(&[300, 128], 3)).is_err());
    }
}
