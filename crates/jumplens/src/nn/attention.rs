//! Softmax attention over packed sequences.

use super::{is_fusable, simd, values};
use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use std::ops::Range;

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
        let mut blocks = Vec::new();
        let mut left = out.as_mut_slice();
        for block in query_blocks(rows) {
            let (block_out, rest) = left.split_at_mut(block.len() * d);
            left = rest;
            blocks.push((block, block_out));
        }
        blocks.into_par_iter().for_each_init(Scratch::default, |scratch, (block, out)| {
            simd::dispatch(|| {
                for head in 0..self.n_heads {
                    self.attend(block.clone(), head, d, queries, keys, v, scratch, out);
                }
            });
        });
        Ok((CpuStorage::F32(out), lq.shape().clone()))
    }
}

/// Runs of at most [`QUERIES`] query rows that look at key rows from the same one on.
fn query_blocks(rows: &QueryRows) -> Vec<Range<usize>> {
    let mut blocks: Vec<Range<usize>> = Vec::new();
    for (row, start) in rows.starts.iter().enumerate() {
        match blocks.last_mut() {
            Some(block) if rows.starts[block.start] == *start && block.len() < QUERIES => block.end = row + 1,
            _ => blocks.push(row..row + 1),
        }
    }
    blocks
}

/// Query rows that share one transposed copy of their keys.
const QUERIES: usize = 64;
/// Keys, and columns of a head, that are worked on at one time: a whole number of vector registers.
const LANES: usize = 16;

#[derive(Default)]
struct Scratch {
    /// One head's keys `[d_head, keys]`, the number of keys rounded up to a multiple of [`LANES`].
    keys: Vec<f32>,
    /// One query's scores, then weights.
    weights: Vec<f32>,
}

impl PackedAttention<'_> {
    /// One head of a block of query rows; `out` `[block, d]`.
    #[inline(always)]
    fn attend(
        &self,
        block: Range<usize>,
        head: usize,
        d: usize,
        queries: &[f32],
        keys: &[f32],
        values: &[f32],
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        let d_head = d / self.n_heads;
        let first = head * d_head;
        let start = self.rows.starts[block.start] as usize;
        let seen = block.clone().map(|row| self.rows.ends[row] as usize - start).max().unwrap_or(0);
        let padded = seen.next_multiple_of(LANES);
        scratch.keys.clear();
        scratch.keys.resize(d_head * padded, 0.0);
        for (t, key) in keys[start * d..(start + seen) * d].chunks_exact(d).enumerate() {
            for (j, value) in key[first..first + d_head].iter().enumerate() {
                scratch.keys[j * padded + t] = *value;
            }
        }
        scratch.weights.clear();
        scratch.weights.resize(padded, 0.0);
        for (row, out) in block.zip(out.chunks_exact_mut(d)) {
            let query = &queries[row * d + first..][..d_head];
            let n = self.rows.ends[row] as usize - start;
            let weights = &mut scratch.weights[..n.next_multiple_of(LANES)];
            for (chunk, weights) in weights.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                let mut sums = [0f32; LANES];
                for (q, keys) in query.iter().zip(scratch.keys.chunks_exact(padded)) {
                    for (sum, key) in sums.iter_mut().zip(&keys[chunk * LANES..][..LANES]) {
                        *sum += q * key;
                    }
                }
                weights.iter_mut().zip(sums).for_each(|(weight, sum)| *weight = sum * self.scale);
            }
            // The padding weighs nothing: e to the power of it is below what a sum of weights can resolve.
            weights[n..].fill(f32::NEG_INFINITY);
            let largest = simd::max(weights);
            weights.iter_mut().for_each(|weight| *weight = simd::exp(*weight - largest));
            let normaliser = 1.0 / simd::sum(weights);
            let seen = values[start * d..(start + n) * d].chunks_exact(d);
            let (chunks, rest) = out[first..first + d_head].as_chunks_mut::<LANES>();
            for (chunk, out) in chunks.iter_mut().enumerate() {
                let mut sums = [0f32; LANES];
                for (weight, value) in weights.iter().zip(seen.clone()) {
                    for (sum, value) in sums.iter_mut().zip(&value[first + chunk * LANES..][..LANES]) {
                        *sum += weight * value;
                    }
                }
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum * normaliser);
            }
            let first_of_rest = first + d_head - rest.len();
            for (weight, value) in weights.iter().zip(seen) {
                simd::axpy(weight * normaliser, &value[first_of_rest..][..rest.len()], rest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, random};
    use super::*;

    #[test]
    fn fused_equals_plain_over_packed_causal_sequences() {
        let mut rows = QueryRows::default();
        let mut start = 0;
        for length in [1u32, 7, 140, 2] {
            for position in 0..length {
                rows.positions.push(position);
                rows.starts.push(start);
                rows.ends.push(start + position + 1);
            }
            start += length;
        }
        let tokens = start as usize;
        for (n_heads, d) in [(3, 36), (2, 96)] {
            let attention = PackedAttention { n_heads, scale: 1.0 / ((d / n_heads) as f32).sqrt(), rows: &rows };
            let [q, k, v] = [1, 2, 3].map(|seed| (random(&[tokens, d], seed) * 4.0).unwrap());
            let plain = attention.forward_plain(&q, &k, &v).unwrap();
            assert_close(&attention.forward(&q, &k, &v).unwrap(), &plain, 2e-6);
        }
    }

    #[test]
    fn rows_beyond_the_keys_are_refused() {
        let rows = QueryRows { positions: vec![0], starts: vec![0], ends: vec![9] };
        let attention = PackedAttention { n_heads: 1, scale: 1.0, rows: &rows };
        assert!(attention.forward(&random(&[1, 4], 1), &random(&[3, 4], 2), &random(&[3, 4], 3)).is_err());
    }
}
