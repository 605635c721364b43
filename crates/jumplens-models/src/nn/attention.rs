//! Softmax attention over packed sequences.

use super::{is_fusable, values};
use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor};
use jumplens_core::linalg::simd;
use pulp::{Simd, WithSimd};
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

impl QueryRows {
    /// The same rows, each looking at no more than the last `window` rows up to the one it ends with.
    pub fn within(&self, window: u32) -> Self {
        let last = |(start, end): (&u32, &u32)| (*start).max(end.saturating_sub(window));
        Self { starts: self.starts.iter().zip(&self.ends).map(last).collect(), ..self.clone() }
    }
}

/// Multi-head scaled dot-product attention (Vaswani et al., arXiv 1706.03762, equation 1) in which each query row
/// looks at one run of key rows: no padding, and no mask matrix.
#[derive(Debug, Clone, Copy)]
pub struct PackedAttention<'a> {
    /// Query heads; the width of a query row is `n_heads` times the width of a head.
    pub n_heads: usize,
    /// Key and value heads, each shared by `n_heads / n_kv_heads` query heads next to one another (grouped-query
    /// attention, Ainslie et al., arXiv 2305.13245).
    pub n_kv_heads: usize,
    /// What scores are multiplied by, usually 1 / √d_head.
    pub scale: f32,
    /// Where given, a scaled score s becomes cap·tanh(s / cap).
    pub soft_cap: Option<f32>,
    /// The rows that ask.
    pub rows: &'a QueryRows,
}

impl PackedAttention<'_> {
    /// `queries` `[rows, n_heads · d_head]`, `keys` and `values` `[tokens, n_kv_heads · d_head]` →
    /// `[rows, n_heads · d_head]`.
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
        let (d_head, group) = (d / self.n_heads, self.n_heads / self.n_kv_heads);
        let shared = |x: &Tensor| -> Result<Tensor> {
            let heads = x.reshape((tokens, self.n_kv_heads, 1, d_head))?;
            let heads = heads.broadcast_as((tokens, self.n_kv_heads, group, d_head))?.contiguous()?;
            heads.reshape((tokens, self.n_heads, d_head))?.transpose(0, 1)?.contiguous()
        };
        let queries = queries.reshape((n, self.n_heads, d_head))?.transpose(0, 1)?.contiguous()?;
        let mut scores = (queries.matmul(&shared(keys)?.t()?)? * f64::from(self.scale))?;
        if let Some(cap) = self.soft_cap {
            scores = ((scores / f64::from(cap))?.tanh()? * f64::from(cap))?;
        }
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
        weights.matmul(&shared(values)?)?.transpose(0, 1)?.reshape((n, d))
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
        let (tokens, d_kv) = lk.shape().dims2()?;
        let heads_fit = self.n_heads.is_multiple_of(self.n_kv_heads) && d.is_multiple_of(self.n_heads);
        if !heads_fit || d / self.n_heads * self.n_kv_heads != d_kv || lv.shape() != lk.shape() {
            candle_core::bail!(
                "attention: {} and {} heads, rows of {d} and {d_kv}",
                self.n_heads,
                self.n_kv_heads
            );
        }
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
            simd::dispatch(AttendBlock {
                attention: self,
                block,
                d,
                d_kv,
                queries,
                keys,
                values: v,
                scratch,
                out,
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
/// Query rows that are worked on at one time, so that each key and value is loaded once for all of them.
const GROUP: usize = 4;
/// Vector registers of keys, or of a head's columns, that are worked on at one time.
const VECTORS: usize = 2;

#[derive(Default)]
struct Scratch {
    /// One head's keys `[d_head, padded]`, the number of keys rounded up to whole vectors.
    keys: Vec<f32>,
    /// The scores, then weights, of a group of queries `[GROUP, padded]`.
    weights: Vec<f32>,
}

/// All heads of a block of query rows; `out` `[block, d]`.
struct AttendBlock<'a> {
    attention: &'a PackedAttention<'a>,
    block: Range<usize>,
    /// Width of a query row.
    d: usize,
    /// Width of a key row.
    d_kv: usize,
    queries: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    scratch: &'a mut Scratch,
    out: &'a mut [f32],
}

impl WithSimd for AttendBlock<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { attention, block, d, d_kv, queries, keys, values, scratch, out } = self;
        let d_head = d / attention.n_heads;
        let rows = attention.rows;
        let lanes = VECTORS * S::F32_LANES;
        let start = rows.starts[block.start] as usize;
        let end = block.clone().map(|row| rows.ends[row] as usize).max().unwrap_or(start);
        let padded = (end - start).max(1).next_multiple_of(lanes);
        scratch.keys.clear();
        scratch.keys.resize(d_head * padded, 0.0);
        scratch.weights.clear();
        scratch.weights.resize(GROUP * padded, 0.0);
        let group_heads = attention.n_heads / attention.n_kv_heads;
        for head in 0..attention.n_heads {
            let columns = head * d_head..(head + 1) * d_head;
            let kv_head = head / group_heads;
            let kv_columns = kv_head * d_head..(kv_head + 1) * d_head;
            // Heads that share their keys come one after another.
            if head % group_heads == 0 {
                for (t, key) in keys[start * d_kv..end * d_kv].chunks_exact(d_kv).enumerate() {
                    for (row, value) in scratch.keys.chunks_exact_mut(padded).zip(&key[kv_columns.clone()]) {
                        row[t] = *value;
                    }
                }
            }
            for (group, out) in out.chunks_mut(GROUP * d).enumerate() {
                // A group that is not full works on its last row several times over.
                let row: [usize; GROUP] =
                    std::array::from_fn(|i| (block.start + group * GROUP + i).min(block.end - 1));
                let lengths = row.map(|row| rows.ends[row] as usize - start);
                let longest = lengths.into_iter().max().unwrap_or(0);
                let query = row.map(|row| &queries[row * d..][..d][columns.clone()]);
                scores(simd, query, &scratch.keys, &mut scratch.weights, padded, longest.div_ceil(lanes));
                let mut normalisers = [0f32; GROUP];
                for (i, weights) in scratch.weights.chunks_exact_mut(padded).enumerate() {
                    let weights = &mut weights[..lengths[i].next_multiple_of(lanes)];
                    for weight in weights.iter_mut() {
                        *weight *= attention.scale;
                    }
                    if let Some(cap) = attention.soft_cap {
                        for weight in weights.iter_mut() {
                            *weight = simd::soft_cap(*weight, cap);
                        }
                    }
                    weights[lengths[i]..].fill(f32::NEG_INFINITY);
                    let largest = simd::max(weights);
                    for weight in weights.iter_mut() {
                        *weight = simd::exp(*weight - largest);
                    }
                    weights[lengths[i]..].fill(0.0);
                    normalisers[i] = 1.0 / simd::sum(weights);
                }
                for (weights, length) in scratch.weights.chunks_exact_mut(padded).zip(lengths) {
                    weights[length..].fill(0.0);
                }
                let seen = Values {
                    rows: &values[start * d_kv..(start + longest) * d_kv],
                    d_kv,
                    columns: kv_columns.clone(),
                };
                mix(simd, &scratch.weights, padded, seen, normalisers, out, d, columns.start);
            }
        }
    }
}

/// One head's columns of some value rows `[keys, d_kv]`.
struct Values<'a> {
    rows: &'a [f32],
    d_kv: usize,
    columns: Range<usize>,
}

/// `weights[group][key] = query · key` for `chunks` times [`VECTORS`] registers of keys.
#[inline(always)]
fn scores<S: Simd>(
    simd: S,
    queries: [&[f32]; GROUP],
    keys: &[f32],
    weights: &mut [f32],
    padded: usize,
    chunks: usize,
) {
    let keys = S::as_simd_f32s(keys).0;
    let weights = S::as_mut_simd_f32s(weights).0;
    let stride = padded / S::F32_LANES;
    for chunk in 0..chunks {
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; GROUP];
        for (j, keys) in keys.chunks_exact(stride).enumerate() {
            let keys = &keys[chunk * VECTORS..][..VECTORS];
            for (sums, query) in sums.iter_mut().zip(queries) {
                let query = simd.splat_f32s(query[j]);
                for (sum, key) in sums.iter_mut().zip(keys) {
                    *sum = simd.mul_add_e_f32s(query, *key, *sum);
                }
            }
        }
        for (weights, sums) in weights.chunks_exact_mut(stride).zip(sums) {
            weights[chunk * VECTORS..][..VECTORS].copy_from_slice(&sums);
        }
    }
}

/// `out[group][column…] = Σ weight · value · normaliser`; `weights` `[GROUP, padded]`, `out` `[group, d]`.
#[inline(always)]
fn mix<S: Simd>(
    simd: S,
    weights: &[f32],
    padded: usize,
    values: Values,
    normalisers: [f32; GROUP],
    out: &mut [f32],
    d: usize,
    first: usize,
) {
    let weights: [&[f32]; GROUP] = std::array::from_fn(|i| &weights[i * padded..][..padded]);
    let Values { rows, d_kv, columns } = values;
    let lanes = VECTORS * S::F32_LANES;
    let whole = columns.len() / lanes * lanes;
    for column in (0..whole).step_by(lanes) {
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; GROUP];
        for (t, value) in rows.chunks_exact(d_kv).enumerate() {
            let value = S::as_simd_f32s(&value[columns.start + column..][..lanes]).0;
            for (sums, weights) in sums.iter_mut().zip(weights) {
                let weight = simd.splat_f32s(weights[t]);
                for (sum, value) in sums.iter_mut().zip(value) {
                    *sum = simd.mul_add_e_f32s(weight, *value, *sum);
                }
            }
        }
        for ((out, sums), normaliser) in out.chunks_exact_mut(d).zip(sums).zip(normalisers) {
            let out = S::as_mut_simd_f32s(&mut out[first + column..][..lanes]).0;
            let normaliser = simd.splat_f32s(normaliser);
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out = simd.mul_f32s(sum, normaliser));
        }
    }
    for column in whole..columns.len() {
        for ((out, weights), normaliser) in out.chunks_exact_mut(d).zip(weights).zip(normalisers) {
            let values = rows.chunks_exact(d_kv).map(|value| value[columns.start + column]);
            out[first + column] =
                values.zip(weights).map(|(value, weight)| weight * value).sum::<f32>() * normaliser;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, random};
    use super::*;

    #[test]
    fn fused_equals_plain_over_packed_causal_sequences() {
        crate::nn::testing::on_every(packed_causal_sequences);
    }

    fn packed_causal_sequences() {
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
        for (n_heads, n_kv_heads, d, soft_cap) in
            [(3, 3, 36, None), (2, 2, 96, None), (6, 2, 96, None), (4, 1, 160, Some(5.0))]
        {
            let scale = 1.0 / ((d / n_heads) as f32).sqrt();
            let attention = PackedAttention { n_heads, n_kv_heads, scale, soft_cap, rows: &rows };
            let values = |width, seed| (random(&[tokens, width], seed) * 4.0).unwrap();
            let d_kv = d / n_heads * n_kv_heads;
            let (q, k, v) = (values(d, 1), values(d_kv, 2), values(d_kv, 3));
            let plain = attention.forward_plain(&q, &k, &v).unwrap();
            assert_close(&attention.forward(&q, &k, &v).unwrap(), &plain, 2e-6);
        }
    }

    #[test]
    fn rows_beyond_the_keys_are_refused() {
        let rows = QueryRows { positions: vec![0], starts: vec![0], ends: vec![9] };
        let attention =
            PackedAttention { n_heads: 1, n_kv_heads: 1, scale: 1.0, soft_cap: None, rows: &rows };
        assert!(attention.forward(&random(&[1, 4], 1), &random(&[3, 4], 2), &random(&[3, 4], 3)).is_err());
    }
}
