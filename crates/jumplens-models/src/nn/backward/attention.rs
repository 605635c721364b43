//! Back through causal self-attention.
//!
//! With weights `p = softmax(s)` of a query over its keys, and cotangents `g` of what it gets, those of the scores are
//! `p·(g·v − Σ p·g·v)`, which queries and keys are multiplied with; those of the values are `p·g`. Keys, values, queries and
//! weights are the same for all cotangents, and are packed once: cotangents are the rows of the products, [`TILE_ROWS`] at a
//! time, each from the first key that a query sees to the last.

use super::super::{QueryRows, SelfAttention, with_values};
use super::feed_forward::turned_linear;
use super::{BackNorm, NormTrace, Rule, with_work};
use candle_core::{Result, Tensor};
use jumplens_core::linalg::matmul::{
    Form, Matrix, Packed, PackedRows, PackedWeights, Precision, TILE_COLS, TILE_ROWS, Tiles, Write,
    pack_lanes, tiles_within, write_tiles,
};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// A [`SelfAttention`], to go back through.
pub(crate) struct BackAttention {
    layer: SelfAttention,
    query_norm: Option<BackNorm>,
    key_norm: Option<BackNorm>,
    /// Its lanes are the columns of all heads.
    output: PackedWeights,
    /// Lanes are inputs; along the inner dimension, for each key head its query heads, its key and its value.
    input: PackedWeights,
}

/// Rows that an attention was given, of which those at `targets` have cotangents.
pub(crate) struct AttentionTrace {
    targets: Range<usize>,
    /// The first row that each target sees.
    starts: Vec<usize>,
    heads: Vec<HeadTrace>,
    kv_heads: Vec<KvTrace>,
    /// Cosines and sines of the targets, `[targets, rotated columns / 2]`.
    turns: Vec<(f32, f32)>,
    /// Of each head of each target.
    query_norm: Option<NormTrace>,
    key_norm: Option<NormTrace>,
}

struct HeadTrace {
    /// Of each target for every row, `[targets, rows]`; 0 for those that it does not see.
    weights: Vec<f32>,
    /// The slopes of the soft cap, where there is one.
    slopes: Option<Vec<f32>>,
    /// The weights with the targets along the inner dimension: lanes are targets as what is seen.
    seen: PackedRows,
    /// The targets' queries, `[targets, d_head]`; the same with their columns as lanes.
    queries: Vec<f32>,
    packed: PackedWeights,
}

struct KvTrace {
    /// Lanes are a head's columns.
    keys: PackedWeights,
    /// Lanes are rows.
    values: PackedWeights,
}

/// What a thread keeps between its shares.
#[derive(Default)]
struct Scratch {
    /// One target's cotangents, or those of its scores.
    rows: PackedRows,
    /// Cotangents of scores, `[TILE_ROWS, rows]`.
    scores: Vec<f32>,
    /// For each row that is seen, a panel of the cotangents of the scores of those that see it.
    seen: PackedRows,
    /// The cotangents of all targets: lanes are a head's columns, cotangent by cotangent.
    outputs: PackedWeights,
    tiles: Tiles,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl BackAttention {
    pub fn new(layer: &SelfAttention) -> Result<Self> {
        let norm = |norm: &Option<super::super::Norm>| norm.as_ref().map(BackNorm::new).transpose();
        let SelfAttention { n_heads, n_kv_heads, d_head, .. } = *layer;
        let d = layer.query.in_features();
        let [query, key, value] = [&layer.query, &layer.key, &layer.value].map(|it| it.weight().unpack());
        let of_heads = |weight: &[f32], heads: Range<usize>| {
            weight[heads.start * d_head * d..heads.end * d_head * d].to_vec()
        };
        let group = n_heads / n_kv_heads;
        let together = (0..n_kv_heads).flat_map(|kv| {
            let queries = of_heads(&query, kv * group..(kv + 1) * group);
            [queries, of_heads(&key, kv..kv + 1), of_heads(&value, kv..kv + 1)].concat()
        });
        let together: Vec<f32> = together.collect();
        let input = Packed::pack(Matrix::new(&together, together.len() / d, d).t(), Precision::F32);
        Ok(Self {
            query_norm: norm(&layer.query_norm)?,
            key_norm: norm(&layer.key_norm)?,
            output: turned_linear(&layer.output),
            input,
            layer: layer.clone(),
        })
    }

    /// Width of what the heads give together.
    pub fn width(&self) -> usize {
        self.output.lanes()
    }

    fn group(&self) -> usize {
        self.layer.n_heads / self.layer.n_kv_heads
    }

    /// Columns that a key head has in a share: its query heads', its own, those of its values.
    fn share_width(&self) -> usize {
        (self.group() + 2) * self.layer.d_head
    }

    /// Of the rows `x` `[n, d]` of one sequence, from its first on; there are cotangents at `targets`.
    pub fn trace(&self, x: &Tensor, rows: &QueryRows, targets: Range<usize>) -> Result<AttentionTrace> {
        let layer = &self.layer;
        let SelfAttention { n_heads, n_kv_heads, d_head, .. } = *layer;
        let n = x.dim(0)?;
        let flat = |x: &Tensor| with_values(x, <[f32]>::to_vec);
        let (raw_queries, raw_keys) = (layer.query.forward(x)?, layer.key.forward(x)?);
        let of_targets = |x: &Tensor, heads: usize| -> Result<Vec<f32>> {
            let width = heads * d_head;
            with_values(x, |values| values[targets.start * width..targets.end * width].to_vec())
        };
        let trace = |norm: &Option<BackNorm>, x: &Tensor, heads: usize| -> Result<Option<NormTrace>> {
            norm.as_ref().map(|norm| Ok(norm.trace(&of_targets(x, heads)?))).transpose()
        };
        let query_norm = trace(&self.query_norm, &raw_queries, n_heads)?;
        let key_norm = trace(&self.key_norm, &raw_keys, n_kv_heads)?;
        let queries = flat(&layer.place(raw_queries, layer.query_norm.as_ref(), rows)?)?;
        let keys = flat(&layer.place(raw_keys, layer.key_norm.as_ref(), rows)?)?;
        let values = flat(&layer.value.forward(x)?)?;

        let window = layer.window.map_or(n, |window| window as usize);
        let starts: Vec<usize> = targets.clone().map(|row| (row + 1).saturating_sub(window)).collect();
        let group = self.group();
        let head = |index: usize| {
            let kv = index / group;
            let (mut weights, mut slopes) = (vec![0f32; targets.len() * n], None);
            if layer.soft_cap.is_some() {
                slopes = Some(vec![0f32; targets.len() * n]);
            }
            let column = |x: &[f32], heads: usize, head: usize, rows: Range<usize>| -> Vec<f32> {
                let row = |row: usize| &x[(row * heads + head) * d_head..][..d_head];
                rows.flat_map(row).copied().collect()
            };
            let own = column(&queries, n_heads, index, targets.clone());
            let keys = column(&keys, n_kv_heads, kv, 0..n);
            for (at, row) in targets.clone().enumerate() {
                let query = &own[at * d_head..][..d_head];
                let scores: Vec<f64> = keys[starts[at] * d_head..(row + 1) * d_head]
                    .chunks_exact(d_head)
                    .map(|key| {
                        let products = query.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k));
                        let score = products.sum::<f64>() * f64::from(layer.scale);
                        layer.soft_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
                    })
                    .collect();
                let seen = at * n + starts[at]..at * n + row + 1;
                let largest = scores.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
                let total: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
                for (weight, score) in weights[seen.clone()].iter_mut().zip(&scores) {
                    *weight = ((score - largest).exp() / total) as f32;
                }
                if let (Some(slopes), Some(cap)) = (&mut slopes, layer.soft_cap) {
                    for (slope, score) in slopes[seen].iter_mut().zip(&scores) {
                        *slope = (1.0 - (score / f64::from(cap)).powi(2)) as f32;
                    }
                }
            }
            let of_targets: Vec<f32> =
                weights.chunks_exact(n).flat_map(|row| &row[targets.clone()]).copied().collect();
            let m = targets.len();
            HeadTrace {
                seen: Packed::pack(Matrix::new(&of_targets, m, m).t(), Precision::F32),
                packed: Packed::pack(Matrix::new(&own, m, d_head).t(), Precision::F32),
                queries: own,
                weights,
                slopes,
            }
        };
        let kv_head = |kv: usize| {
            let column = |x: &[f32]| -> Vec<f32> {
                (0..n).flat_map(|row| &x[(row * n_kv_heads + kv) * d_head..][..d_head]).copied().collect()
            };
            KvTrace {
                keys: Packed::pack(Matrix::new(&column(&keys), n, d_head).t(), Precision::F32),
                values: Packed::pack(Matrix::new(&column(&values), n, d_head), Precision::F32),
            }
        };
        let turns = layer.rope.as_ref().map_or_else(Vec::new, |rope| {
            let half = rope.turns(1).len();
            rope.turns(targets.end).split_off(targets.start * half)
        });
        let heads = (0..n_heads).into_par_iter().map(head).collect();
        Ok(AttentionTrace {
            starts,
            heads,
            kv_heads: (0..n_kv_heads).map(kv_head).collect(),
            turns,
            query_norm,
            key_norm,
            targets,
        })
    }

    /// From the cotangents `[n, d]` of the output of one row, to those of what its heads give, `[n, width]`. On one thread.
    pub fn to_heads(&self, from: &[f32], to: &mut [f32]) {
        let depth = self.output.depth();
        with_work(|work| {
            let n = from.len() / depth;
            work.rows.repack(Matrix::new(from, n, depth), Precision::F32);
            let lanes = 0..self.output.lanes();
            write_tiles(to, Write::Replace, &work.rows, 0..n, &self.output, lanes, &mut work.tiles);
        });
    }

    /// From the cotangents `from` `[targets, n, width]` of what the heads give, to those of queries, keys and values before
    /// they were placed: a share for every [`TILE_ROWS`] cotangents and every key head, in this order,
    /// `[targets, TILE_ROWS, columns]` each.
    pub fn between(&self, trace: &AttentionTrace, rule: Rule, from: &[f32]) -> Vec<Vec<f32>> {
        let n = from.len() / (trace.targets.len() * self.width());
        let kv_heads = self.layer.n_kv_heads;
        (0..n.div_ceil(TILE_ROWS) * kv_heads)
            .into_par_iter()
            .map(|share| {
                let first = share / kv_heads * TILE_ROWS;
                let rows = first..(first + TILE_ROWS).min(n);
                SCRATCH.with_borrow_mut(|scratch| {
                    self.share(trace, rule, from, n, rows, share % kv_heads, scratch)
                })
            })
            .collect()
    }

    /// One of the shares: the cotangents `rows` of the `n` that there are, for a key head.
    fn share(
        &self,
        trace: &AttentionTrace,
        rule: Rule,
        from: &[f32],
        n: usize,
        rows: Range<usize>,
        kv: usize,
        scratch: &mut Scratch,
    ) -> Vec<f32> {
        let (d_head, m) = (self.layer.d_head, trace.targets.len());
        let nothing = vec![0f32; d_head];
        let mut out = vec![0f32; m * TILE_ROWS * self.share_width()];
        for of_group in 0..self.group() {
            let head = kv * self.group() + of_group;
            let cotangents = |at: usize| -> [&[f32]; TILE_ROWS] {
                std::array::from_fn(|i| match rows.start + i < rows.end {
                    true => &from[(at * n + rows.start + i) * self.width() + head * d_head..][..d_head],
                    false => &nothing,
                })
            };
            let head = Head { layer: &self.layer, trace, own: &trace.heads[head], kv: &trace.kv_heads[kv] };
            scratch.seen.reshape(m * TILE_ROWS, m, Precision::F32);
            for (at, out) in out.chunks_exact_mut(TILE_ROWS * self.share_width()).enumerate() {
                head.scores(at, cotangents(at), scratch);
                head.to_query(at, of_group, out, scratch);
                match rule {
                    Rule::SamePosition => head.to_same_position(at, cotangents(at), out, scratch),
                    Rule::Whole | Rule::HeldScales => head.keep_scores(at, scratch),
                }
            }
            if rule != Rule::SamePosition {
                head.to_keys(&mut out, scratch);
                head.to_values(cotangents, &mut out, scratch);
            }
        }
        self.unplace(trace, rule, kv, &mut out);
        out
    }

    /// Turns the cotangents of a share's queries and keys back, and takes them through their norms.
    fn unplace(&self, trace: &AttentionTrace, rule: Rule, kv: usize, share: &mut [f32]) {
        let (d_head, group, width) = (self.layer.d_head, self.group(), self.share_width());
        let (n_heads, n_kv_heads) = (self.layer.n_heads, self.layer.n_kv_heads);
        let half = trace.turns.len() / trace.targets.len();
        let mut turned = vec![0f32; d_head];
        for (at, rows) in share.chunks_exact_mut(TILE_ROWS * width).enumerate() {
            for row in rows.chunks_exact_mut(width) {
                for (index, head) in row[..(group + 1) * d_head].chunks_exact_mut(d_head).enumerate() {
                    let (first, second) = head.split_at_mut(half);
                    let turns = &trace.turns[at * half..][..half];
                    for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(turns) {
                        (*a, *b) = (*a * cos + *b * sin, *b * cos - *a * sin);
                    }
                    let (norm, of_norm, place) = match index < group {
                        true => (&self.query_norm, &trace.query_norm, at * n_heads + kv * group + index),
                        false => (&self.key_norm, &trace.key_norm, at * n_kv_heads + kv),
                    };
                    if let (Some(norm), Some(of_norm)) = (norm, of_norm) {
                        turned.copy_from_slice(head);
                        norm.back(of_norm, place, rule, &turned, head, Write::Replace);
                    }
                }
            }
        }
    }

    /// From the shares of [`between`](Self::between), to the cotangents `[n, d]` of the input of target `at`, which `to`
    /// becomes or is added. On one thread.
    pub fn to_input(&self, shares: &[Vec<f32>], at: usize, to: &mut [f32], write: Write) {
        let (d, width, kv_heads) = (self.input.lanes(), self.share_width(), self.layer.n_kv_heads);
        let n = to.len() / d;
        with_work(|work| {
            work.rows.reshape(n, self.input.depth(), Precision::F32);
            for (index, share) in shares.iter().enumerate() {
                let rows = &share[at * TILE_ROWS * width..][..TILE_ROWS * width];
                let lanes = std::array::from_fn(|i| &rows[i * width..][..width]);
                let panel = work.rows.panel_mut(index / kv_heads);
                pack_lanes(
                    lanes,
                    &mut panel[index % kv_heads * width * TILE_ROWS..],
                    TILE_ROWS,
                    Form::Single,
                );
            }
            write_tiles(to, write, &work.rows, 0..n, &self.input, 0..d, &mut work.tiles);
        });
    }
}

/// A query head at work on [`TILE_ROWS`] cotangents of what it gives. Outputs are shares: at each target, for each cotangent, the
/// columns of the query heads of the group, of their key and of their value.
struct Head<'a> {
    layer: &'a SelfAttention,
    trace: &'a AttentionTrace,
    own: &'a HeadTrace,
    kv: &'a KvTrace,
}

impl Head<'_> {
    /// Rows that are seen by the last target.
    fn total(&self) -> usize {
        self.trace.targets.end
    }

    /// The rows that a target sees.
    fn seen(&self, at: usize) -> Range<usize> {
        self.trace.starts[at]..self.trace.targets.start + at + 1
    }

    /// Columns of a cotangent in a share.
    fn width(&self) -> usize {
        (self.key_column() / self.layer.d_head + 2) * self.layer.d_head
    }

    /// Where the columns of the key are, behind those of the query heads; those of the value follow.
    fn key_column(&self) -> usize {
        self.layer.n_heads / self.layer.n_kv_heads * self.layer.d_head
    }

    /// Leaves in the scratch the cotangents of a target's scores, `[TILE_ROWS, total]`: 0 for rows before those that it sees.
    fn scores(&self, at: usize, g: [&[f32]; TILE_ROWS], scratch: &mut Scratch) {
        let (total, seen, d_head) = (self.total(), self.seen(at), self.layer.d_head);
        let Scratch { rows, scores, tiles, .. } = scratch;
        scores.resize(TILE_ROWS * total, 0.0);
        rows.reshape(TILE_ROWS, d_head, Precision::F32);
        pack_lanes(g, rows.panel_mut(0), TILE_ROWS, Form::Single);
        let first = seen.start / TILE_COLS * TILE_COLS;
        tiles_within(
            rows,
            0..TILE_ROWS,
            &self.kv.values,
            first..seen.end,
            0..d_head,
            tiles,
            |place, tile| {
                for (scores, tile) in scores.chunks_exact_mut(total).zip(tile.rows(place.rows)) {
                    scores[first + place.col..][..place.cols].copy_from_slice(&tile[..place.cols]);
                }
            },
        );
        let weights = &self.own.weights[at * total..][seen.clone()];
        let slopes = self.own.slopes.as_ref().map(|slopes| &slopes[at * total..][seen.clone()]);
        for scores in scores.chunks_exact_mut(total) {
            scores[..seen.start].fill(0.0);
            let scores = &mut scores[seen.clone()];
            let mean: f32 = scores.iter().zip(weights).map(|(score, weight)| score * weight).sum();
            for (score, weight) in scores.iter_mut().zip(weights) {
                *score = (*score - mean) * weight * self.layer.scale;
            }
            if let Some(slopes) = slopes {
                scores.iter_mut().zip(slopes).for_each(|(score, slope)| *score *= slope);
            }
        }
    }

    /// From the scores of a target to its query.
    fn to_query(&self, at: usize, of_group: usize, out: &mut [f32], scratch: &mut Scratch) {
        let (total, seen, d_head, width) = (self.total(), self.seen(at), self.layer.d_head, self.width());
        let Scratch { rows, scores, tiles, .. } = scratch;
        let lanes: [&[f32]; TILE_ROWS] = std::array::from_fn(|i| &scores[i * total..][..seen.end]);
        rows.reshape(TILE_ROWS, total, Precision::F32);
        pack_lanes(lanes, rows.panel_mut(0), TILE_ROWS, Form::Single);
        tiles_within(rows, 0..TILE_ROWS, &self.kv.keys, 0..d_head, seen, tiles, |place, tile| {
            for (out, tile) in out.chunks_exact_mut(width).zip(tile.rows(place.rows)) {
                out[of_group * d_head + place.col..][..place.cols].copy_from_slice(&tile[..place.cols]);
            }
        });
    }

    /// From a target to its own key and value alone.
    fn to_same_position(&self, at: usize, g: [&[f32]; TILE_ROWS], out: &mut [f32], scratch: &Scratch) {
        let (total, seen, d_head) = (self.total(), self.seen(at), self.layer.d_head);
        let query = &self.own.queries[at * d_head..][..d_head];
        let weight = self.own.weights[at * total + seen.end - 1];
        let scores = scratch.scores.chunks_exact(total);
        for ((out, scores), g) in out.chunks_exact_mut(self.width()).zip(scores).zip(g) {
            let (key, value) = out[self.key_column()..].split_at_mut(d_head);
            key.iter_mut().zip(query).for_each(|(out, query)| *out += scores[seen.end - 1] * query);
            value.iter_mut().zip(g).for_each(|(out, g)| *out += weight * g);
        }
    }

    /// Keeps the scores of a target among those of all that see a row.
    fn keep_scores(&self, at: usize, scratch: &mut Scratch) {
        let (total, seen, m) = (self.total(), self.seen(at), self.trace.targets.len());
        let Scratch { seen: panels, scores, .. } = scratch;
        let first = self.trace.targets.start;
        let lanes = std::array::from_fn(|i| &scores[i * total..][first..seen.end]);
        pack_lanes(lanes, &mut panels.panels_mut(0)[at * TILE_ROWS..], m * TILE_ROWS, Form::Single);
    }

    /// From the scores of all targets to the keys that they see.
    fn to_keys(&self, out: &mut [f32], scratch: &mut Scratch) {
        let (m, d_head, width, column) =
            (self.trace.targets.len(), self.layer.d_head, self.width(), self.key_column());
        let Scratch { seen, tiles, .. } = scratch;
        for (at, out) in out.chunks_exact_mut(TILE_ROWS * width).enumerate() {
            let block = at * TILE_ROWS..(at + 1) * TILE_ROWS;
            tiles_within(seen, block, &self.own.packed, 0..d_head, at..m, tiles, |place, tile| {
                for (out, tile) in out.chunks_exact_mut(width).zip(tile.rows(place.rows)) {
                    let out = &mut out[column + place.col..][..place.cols];
                    out.iter_mut().zip(tile).for_each(|(out, sum)| *out += sum);
                }
            });
        }
    }

    /// From the cotangents of all targets to the values that they see.
    fn to_values<'g>(
        &self,
        cotangents: impl Fn(usize) -> [&'g [f32]; TILE_ROWS],
        out: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let (m, d_head, width) = (self.trace.targets.len(), self.layer.d_head, self.width());
        let column = self.key_column() + d_head;
        let Scratch { outputs, tiles, .. } = scratch;
        outputs.reshape(TILE_ROWS * d_head, m, Precision::F32);
        for at in 0..m {
            for (lane, value) in cotangents(at).into_iter().flatten().enumerate() {
                let panel = outputs.panel_mut(lane / TILE_COLS);
                panel[at * TILE_COLS + lane % TILE_COLS] = value.to_bits();
            }
        }
        for begin in (0..m).step_by(TILE_ROWS) {
            let block = begin..(begin + TILE_ROWS).min(m);
            let lanes = 0..TILE_ROWS * d_head;
            tiles_within(&self.own.seen, block, outputs, lanes, begin..m, tiles, |place, tile| {
                for (row, tile) in tile.rows(place.rows).enumerate() {
                    for (lane, sum) in (place.col..place.col + place.cols).zip(tile) {
                        let row = (begin + row) * TILE_ROWS + lane / d_head;
                        out[row * width + column + lane % d_head] += sum;
                    }
                }
            });
        }
    }
}
