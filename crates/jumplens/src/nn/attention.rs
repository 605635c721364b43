//! Softmax attention over packed sequences.

use super::{is_fusable, simd, values};
use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// The rows of a packed batch that ask: for each, its place in its sequence and the rows it may look at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueryRows {
    /// Place in the sequence, from 0.
    pub positions: Vec<u32>,
    /// First row that may be looked at.
    pub starts: Vec<u32>,
    /// One past the last row that may be looked at.
    pub ends: Vec<u32>,
}

/// Multi-head scaled dot-product attention (Vaswani et al., arXiv 1706.03762, equation 1) in which each query row
/// looks at one run of key rows: no padding, and no mask matrix.
#[derive(Debug, Clone, Copy)]
pub struct PackedAttention<'a> {
    /// Heads; the width of a row is `n_heads` times the width of a head.
    pub n_heads: usize,
    /// What scores are multiplied by, usually 1 / √d_head.
    pub scale: f32,
    /// The rows that ask.
    pub rows: &'a QueryRows,
}

impl PackedAttention<'_> {
    /// `queries` `[rows, d]`, `keys` and `values` `[tokens, d]` → `[rows, d]`.
    pub fn forward(&self, queries: &Tensor, keys: &Tensor, values: &Tensor) -> Result<Tensor> {
        if is_fusable(queries) && is_fusable(keys) && is_fusable(values) {
            queries.apply_op3_no_bwd(keys, values, self)
        } else {
            self.forward_plain(queries, keys, values)
        }
    }

    /// The plain twin of [`PackedAttention::forward`]: one masked score matrix over the whole batch.
    pub fn forward_plain(&self, queries: &Tensor, keys: &Tensor, values: &Tensor) -> Result<Tensor> {
        let (n, d) = queries.dims2()?;
        let tokens = keys.dim(0)?;
        let split = |x: &Tensor, n: usize| -> Result<Tensor> {
            x.reshape((n, self.n_heads, d / self.n_heads))?.transpose(0, 1)?.contiguous()
        };
        let scores = (split(queries, n)?.matmul(&split(keys, tokens)?.t()?)? * f64::from(self.scale))?;
        let mask: Vec<f32> = (0..n)
            .flat_map(|i| {
                let seen = self.rows.starts[i] as usize..self.rows.ends[i] as usize;
                (0..tokens).map(move |t| if seen.contains(&t) { 0.0 } else { f32::NEG_INFINITY })
            })
            .collect();
        let scores = scores.broadcast_add(
            &Tensor::from_vec(mask, (n, tokens), queries.device())?.to_dtype(scores.dtype())?,
        )?;
        let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
        let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
        weights.matmul(&split(values, tokens)?)?.transpose(0, 1)?.reshape((n, d))
    }
}

impl CustomOp3 for PackedAttention<'_> {
    fn name(&self) -> &'static str {
        "packed-attention"
    }

    fn cpu_fwd(
        &self,
        queries: &CpuStorage,
        lq: &Layout,
        keys: &CpuStorage,
        lk: &Layout,
        v: &CpuStorage,
        lv: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (n, d) = lq.shape().dims2()?;
        let (tokens, _) = lk.shape().dims2()?;
        let rows = self.rows;
        if rows.starts.len() != n
            || rows.ends.len() != n
            || rows.ends.iter().any(|&end| end as usize > tokens)
        {
            candle_core::bail!("attention: query rows do not fit {n} queries and {tokens} keys");
        }
        let (queries, keys, v) = (values(queries, lq)?, values(keys, lk)?, values(v, lv)?);
        let mut out = vec![0f32; n * d];
        const BLOCK: usize = 8;
        out.par_chunks_mut(d * BLOCK).enumerate().for_each_init(Vec::new, |weights, (block, out)| {
            simd::dispatch(|| {
                for (i, out) in out.chunks_exact_mut(d).enumerate() {
                    let row = block * BLOCK + i;
                    let seen = rows.starts[row] as usize * d..rows.ends[row] as usize * d;
                    let query = &queries[row * d..][..d];
                    attend(self.n_heads, self.scale, query, &keys[seen.clone()], &v[seen], weights, out);
                }
            });
        });
        Ok((CpuStorage::F32(out), lq.shape().clone()))
    }
}

/// One query row over its key and value rows; `out` holds zeros. `weights` is scratch.
#[inline(always)]
fn attend(
    n_heads: usize,
    scale: f32,
    query: &[f32],
    keys: &[f32],
    values: &[f32],
    weights: &mut Vec<f32>,
    out: &mut [f32],
) {
    let d = query.len();
    let d_head = d / n_heads;
    for head in 0..n_heads {
        let columns = head * d_head..(head + 1) * d_head;
        let query = &query[columns.clone()];
        weights.clear();
        weights.extend(keys.chunks_exact(d).map(|key| simd::dot(query, &key[columns.clone()]) * scale));
        let top = simd::max(weights);
        weights.iter_mut().for_each(|w| *w = simd::exp(*w - top));
        let normaliser = 1.0 / simd::sum(weights);
        let out = &mut out[columns.clone()];
        for (value, weight) in values.chunks_exact(d).zip(weights.iter()) {
            simd::axpy(weight * normaliser, &value[columns.clone()], out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, random};
    use super::*;

    #[test]
    fn fused_equals_plain_over_packed_causal_sequences() {
        let (n_heads, d) = (3, 36);
        let mut rows = QueryRows::default();
        let mut start = 0;
        for length in [1u32, 7, 40, 2] {
            for position in 0..length {
                rows.positions.push(position);
                rows.starts.push(start);
                rows.ends.push(start + position + 1);
            }
            start += length;
        }
        let tokens = start as usize;
        let attention = PackedAttention { n_heads, scale: 0.3, rows: &rows };
        let [q, k, v] = [1, 2, 3].map(|seed| (random(&[tokens, d], seed) * 4.0).unwrap());
        assert_close(
            &attention.forward(&q, &k, &v).unwrap(),
            &attention.forward_plain(&q, &k, &v).unwrap(),
            2e-6,
        );
    }

    #[test]
    fn rows_beyond_the_keys_are_refused() {
        let rows = QueryRows { positions: vec![0], starts: vec![0], ends: vec![9] };
        let attention = PackedAttention { n_heads: 1, scale: 1.0, rows: &rows };
        assert!(attention.forward(&random(&[1, 4], 1), &random(&[3, 4], 2), &random(&[3, 4], 3)).is_err());
    }
}
