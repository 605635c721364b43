//! Some rows of a matrix, replaced.

use super::{is_fusable, values};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

/// `x` `[n, d]` with row `rows[i]` replaced by row `i` of `new` `[rows, d]`.
pub fn put_rows(x: &Tensor, rows: &[u32], new: &Tensor) -> Result<Tensor> {
    if is_fusable(x) && is_fusable(new) {
        x.apply_op2_no_bwd(new, &PutRows { rows })
    } else {
        put_rows_plain(x, rows, new)
    }
}

/// The plain twin of [`put_rows`].
fn put_rows_plain(x: &Tensor, rows: &[u32], new: &Tensor) -> Result<Tensor> {
    let index = Tensor::new(rows, x.device())?.unsqueeze(1)?.broadcast_as(new.shape())?.contiguous()?;
    x.scatter(&index, new, 0)
}

struct PutRows<'a> {
    rows: &'a [u32],
}

impl CustomOp2 for PutRows<'_> {
    fn name(&self) -> &'static str {
        "put-rows"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        new: &CpuStorage,
        ln: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (n, d) = lx.shape().dims2()?;
        if ln.shape().dims2()? != (self.rows.len(), d) || self.rows.iter().any(|row| *row as usize >= n) {
            candle_core::bail!("put rows: {:?} at {} rows of {:?}", ln.shape(), self.rows.len(), lx.shape());
        }
        let mut out = values(x, lx)?.to_vec();
        for (row, new) in self.rows.iter().zip(values(new, ln)?.chunks_exact(d)) {
            out[*row as usize * d..][..d].copy_from_slice(new);
        }
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, random};
    use super::*;

    #[test]
    fn fused_equals_plain_and_rows_beyond_the_end_are_refused() {
        let (x, new) = (random(&[40, 7], 1), random(&[3, 7], 2));
        let rows = [39, 0, 11];
        let got = put_rows(&x, &rows, &new).unwrap();
        assert_close(&got, &put_rows_plain(&x, &rows, &new).unwrap(), 0.0);
        assert_eq!(
            got.get(39).unwrap().to_vec1::<f32>().unwrap(),
            new.get(0).unwrap().to_vec1::<f32>().unwrap()
        );
        assert_eq!(
            got.get(1).unwrap().to_vec1::<f32>().unwrap(),
            x.get(1).unwrap().to_vec1::<f32>().unwrap()
        );
        assert!(put_rows(&x, &[40, 0, 1], &new).is_err());
        assert!(put_rows(&x, &[0, 1], &new).is_err());
    }
}
