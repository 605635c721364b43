//! From prepared states to figures about their logits, one tile of the vocabulary at a time: the logits of all rows
//! over the whole vocabulary are never held.

use crate::linalg::Precision;
use crate::linalg::matmul::{Matrix, Packed, PackedRows, PackedWeights, Write, product};
use crate::linalg::simd;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::sync::Arc;

/// Vocabulary entries whose logits exist at one time.
const TILE: usize = 512;
/// Terms that are added up in f32 before the sum goes on in f64.
const BLOCK: usize = 256;

/// What is known of one row's logits.
#[derive(Debug, Clone, PartialEq)]
pub struct RowScan {
    /// The largest logits with their token ids, largest first; of equal logits the lower id comes first.
    pub top: Vec<(f32, u32)>,
    /// ln Σ exp(logit).
    pub log_sum_exp: f64,
    /// The logit of the sample's target token, where it has one.
    pub target_logit: Option<f32>,
    /// KL(the sample's first row ‖ this row) in nats; 0 for the first row itself.
    pub kl: f64,
    /// Place of the top token of the sample's first row in the order of this row's logits, from 1.
    pub rank: usize,
    /// What [`scan_closely`] sees beside that.
    pub closer: Option<Closer>,
}

/// What is known of one row's distribution as a whole, and of the tokens that were asked about.
#[derive(Debug, Clone, PartialEq)]
pub struct Closer {
    /// −Σ p·ln p, nats.
    pub entropy: f64,
    /// A token each, in the order asked.
    pub tokens: Vec<Standing>,
}

/// Where one token stands in a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standing {
    /// Its logit.
    pub logit: f32,
    /// Its place in the order of the row's logits, from 1; of equal logits the lower id comes first.
    pub rank: usize,
}

impl RowScan {
    /// Difference of the largest two probabilities.
    pub fn confidence(&self) -> f64 {
        let probability =
            |i: usize| self.top.get(i).map_or(0.0, |(z, _)| (f64::from(*z) - self.log_sum_exp).exp());
        probability(0) - probability(1)
    }
}

/// The running figures of one row.
#[derive(Clone)]
struct Running {
    top: Vec<(f32, u32)>,
    largest: f32,
    sum_exp: f64,
    target_logit: Option<f32>,
    /// Σ exp(z_first − largest_first)·(z_first − z), z_first the logits of the sample's first row.
    cross: f64,
    /// The logit of the top token of the sample's first row, and how many logits are above it.
    mark: f32,
    above: u32,
    /// Σ exp(z − largest)·(largest − z), where the entropy is asked for.
    spread: f64,
    /// The tokens that are asked about; `rank` counts those before them.
    asked: Vec<Standing>,
}

impl Running {
    /// Of a row of whose logits none has been seen, with room for the `k` largest.
    fn new(k: usize) -> Self {
        Self {
            top: Vec::with_capacity(k + 1),
            largest: f32::NEG_INFINITY,
            sum_exp: 0.0,
            target_logit: None,
            cross: 0.0,
            mark: 0.0,
            above: 0,
            spread: 0.0,
            asked: Vec::new(),
        }
    }

    /// ln Σ exp(logit).
    fn log_sum_exp(&self) -> f64 {
        f64::from(self.largest) + self.sum_exp.ln()
    }
}

/// What turns prepared states into logits: `rows·weightᵀ`, plus the bias, within the soft cap.
#[derive(Debug, Clone)]
pub struct Unembedding<'a> {
    /// W, row-major `[vocab, d]`.
    weight: &'a [f32],
    /// The same, as products read it.
    packed: Arc<PackedWeights>,
    bias: Option<Vec<f32>>,
    soft_cap: Option<f32>,
    d: usize,
}

impl<'a> Unembedding<'a> {
    /// `weight` W, row-major `[vocab, d]`, multiplied in `precision`, and `bias` `[vocab]`; with a soft cap, a logit z becomes
    /// cap·tanh(z / cap).
    pub fn new(
        weight: &'a [f32],
        d: usize,
        bias: Option<Vec<f32>>,
        soft_cap: Option<f32>,
        precision: Precision,
    ) -> Self {
        let packed = Packed::pack(Matrix::new(weight, weight.len() / d, d), precision);
        Self::packed(weight, Arc::new(packed), bias, soft_cap)
    }

    /// As [`Unembedding::new`], where `weight` has been packed before: `packed` has a lane for each token.
    pub fn packed(
        weight: &'a [f32],
        packed: Arc<PackedWeights>,
        bias: Option<Vec<f32>>,
        soft_cap: Option<f32>,
    ) -> Self {
        let d = packed.depth();
        Self { weight, packed, bias, soft_cap, d }
    }

    /// Width of a prepared state.
    pub fn d(&self) -> usize {
        self.d
    }

    /// Tokens in the vocabulary.
    pub fn vocab(&self) -> usize {
        self.weight.len() / self.d
    }

    /// The logit of `token` for a prepared state `[d]`, summed in f64.
    pub fn logit(&self, token: u32, state: &[f32]) -> f64 {
        let weight = &self.weight[token as usize * self.d..][..self.d];
        let product: f64 = weight.iter().zip(state).map(|(w, h)| f64::from(*w) * f64::from(*h)).sum();
        self.capped(token, product)
    }

    /// As [`Unembedding::logit`], with the factors as products have them.
    fn rounded_logit(&self, token: u32, state: &[f32]) -> f64 {
        let weight = &self.weight[token as usize * self.d..][..self.d];
        match self.packed.precision() {
            Precision::F32 => self.logit(token, state),
            Precision::Bf16 => {
                let round = |x: &f32| f64::from(half::bf16::from_f32(*x));
                let product = weight.iter().zip(state).map(|(w, h)| round(w) * round(h)).sum();
                self.capped(token, product)
            }
        }
    }

    /// The logit of `token` from the product of its weight and a state.
    fn capped(&self, token: u32, product: f64) -> f64 {
        let logit = product + self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[token as usize]));
        self.soft_cap.map_or(logit, |cap| f64::from(cap) * (logit / f64::from(cap)).tanh())
    }

    /// The token with the largest logit for each of some rows; of equal ones the lowest.
    fn top_tokens(&self, rows: &[f32]) -> Vec<u32> {
        let n = rows.len() / self.d;
        let packed = Packed::pack(Matrix::new(rows, n, self.d), self.packed.precision());
        let mut best = vec![Vec::with_capacity(2); n];
        let mut logits = vec![0f32; n * TILE.min(self.vocab())];
        for first in (0..self.vocab()).step_by(TILE) {
            let width = TILE.min(self.vocab() - first);
            let logits = &mut logits[..n * width];
            self.tile(&packed, first..first + width, logits);
            let rows = best.par_iter_mut().zip(logits.par_chunks(width)).with_min_len(8);
            rows.for_each(|(best, logits)| add_top(best, 1, logits, first));
        }
        best.iter().map(|best| best.first().map_or(0, |(_, token)| *token)).collect()
    }

    /// The logits of some rows for a run of tokens: `out` `[n, tokens]`.
    fn tile(&self, rows: &PackedRows, tokens: std::ops::Range<usize>, out: &mut [f32]) {
        if let Some(bias) = &self.bias {
            out.chunks_exact_mut(tokens.len()).for_each(|row| row.copy_from_slice(&bias[tokens.clone()]));
        }
        let write = if self.bias.is_some() { Write::Add } else { Write::Replace };
        product(out, write, rows, &self.packed, tokens);
        if let Some(cap) = self.soft_cap {
            out.par_chunks_mut(TILE * 8).for_each(|logits| simd::dispatch(SoftCap { cap, logits }));
        }
    }
}

struct SoftCap<'a> {
    cap: f32,
    logits: &'a mut [f32],
}

impl WithSimd for SoftCap<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for logit in self.logits {
            *logit = simd::soft_cap(*logit, self.cap);
        }
    }
}

/// Scans the logits of `rows`, keeping the `k` largest. `rows` is
/// `[variants · samples, d]`: one prepared state of every sample, then another one of every sample, and so on; the first
/// are those that the others' distributions are compared with. `targets` has a token a sample, or none.
pub fn scan(rows: &[f32], unembedding: &Unembedding, k: usize, targets: &[Option<u32>]) -> Vec<RowScan> {
    scanned(rows, unembedding, k, targets, None)
}

/// As [`scan`], and each row's entropy, and where the tokens `asked` stand in it.
pub fn scan_closely(
    rows: &[f32],
    unembedding: &Unembedding,
    k: usize,
    targets: &[Option<u32>],
    asked: &[u32],
) -> Vec<RowScan> {
    scanned(rows, unembedding, k, targets, Some(asked))
}

fn scanned(
    rows: &[f32],
    unembedding: &Unembedding,
    k: usize,
    targets: &[Option<u32>],
    asked: Option<&[u32]>,
) -> Vec<RowScan> {
    let n = rows.len() / unembedding.d;
    let samples = targets.len();
    let vocab = unembedding.vocab();
    let packed = Packed::pack(Matrix::new(rows, n, unembedding.d), unembedding.packed.precision());
    let mut running = vec![Running::new(k); n];
    let top_tokens = unembedding.top_tokens(&rows[..samples * unembedding.d]);
    running.par_iter_mut().zip(rows.par_chunks(unembedding.d)).enumerate().for_each(
        |(row, (running, state))| {
            running.mark = unembedding.rounded_logit(top_tokens[row % samples], state) as f32;
        },
    );
    let mut logits = vec![0f32; n * TILE.min(vocab)];
    for &token in asked.unwrap_or_default() {
        // The tile that it is met in again, so that its logit is the same to the last bit.
        let first = token as usize / TILE * TILE;
        let width = TILE.min(vocab - first);
        let logits = &mut logits[..n * width];
        unembedding.tile(&packed, first..first + width, logits);
        for (running, logits) in running.iter_mut().zip(logits.chunks_exact(width)) {
            running.asked.push(Standing { logit: logits[token as usize - first], rank: 0 });
        }
    }
    // For the first rows: exp(z − largest) over the tile, and what the terms of earlier tiles have to be scaled by.
    let mut weights = vec![0f32; samples * TILE.min(vocab)];
    let mut rescale = vec![1f64; samples];
    for first in (0..vocab).step_by(TILE) {
        let width = TILE.min(vocab - first);
        let logits = &mut logits[..n * width];
        unembedding.tile(&packed, first..first + width, logits);
        let row_of = |row: usize| &logits[row * width..][..width];
        let weights = &mut weights[..samples * width];
        let own = running[..samples].par_iter().zip(weights.par_chunks_mut(width)).zip(&mut rescale);
        own.with_min_len(8).enumerate().for_each(|(sample, ((running, weights), rescale))| {
            *rescale =
                simd::dispatch(WeighFirst { largest: running.largest, logits: row_of(sample), weights });
        });
        let (weights, rescale) = (&*weights, &rescale);
        running.par_iter_mut().with_min_len(8).enumerate().for_each(|(row, running)| {
            let sample = row % samples;
            simd::dispatch(AddTile {
                running,
                k,
                asked,
                first_token: first,
                logits: row_of(row),
                first_logits: row_of(sample),
                weights: &weights[sample * width..][..width],
                rescale: rescale[sample],
            });
            // Rounding may have put the marked token itself above its mark.
            let marked = top_tokens[sample] as usize;
            if (first..first + width).contains(&marked) && row_of(row)[marked - first] > running.mark {
                running.above -= 1;
            }
            let in_tile = |target: &u32| (first..first + width).contains(&(*target as usize));
            if let Some(target) = targets[sample].filter(in_tile) {
                running.target_logit = Some(row_of(row)[target as usize - first]);
            }
        });
    }
    let finish = |(row, own): (usize, &Running)| {
        let first = &running[row % samples];
        // Rounding can leave a distance of nothing a hair below zero.
        let kl = (own.cross / first.sum_exp - first.log_sum_exp() + own.log_sum_exp()).max(0.0);
        // The count can be off by the rounding of the mark; the places of the top tokens are exact.
        let place = own.top.iter().position(|(_, token)| *token == top_tokens[row % samples]);
        let rank = 1 + place.unwrap_or((own.above as usize).max(own.top.len()));
        RowScan {
            top: own.top.clone(),
            log_sum_exp: own.log_sum_exp(),
            target_logit: own.target_logit,
            kl,
            rank,
            closer: asked.map(|_| Closer {
                entropy: (own.sum_exp.ln() + own.spread / own.sum_exp).max(0.0),
                tokens: own.asked.iter().map(|token| Standing { rank: token.rank + 1, ..*token }).collect(),
            }),
        }
    };
    running.iter().enumerate().map(finish).collect()
}

/// −ln p of `targets` `[n]` by the distributions of `rows`, prepared states `[n, d]`, in nats; NaN where a state is not
/// finite.
pub fn target_losses(rows: &[f32], unembedding: &Unembedding, targets: &[u32]) -> Vec<f64> {
    let (n, vocab) = (targets.len(), unembedding.vocab());
    let packed = Packed::pack(Matrix::new(rows, n, unembedding.d), unembedding.packed.precision());
    let mut running = vec![Running::new(0); n];
    let mut logits = vec![0f32; n * TILE.min(vocab)];
    for first in (0..vocab).step_by(TILE) {
        let width = TILE.min(vocab - first);
        let logits = &mut logits[..n * width];
        unembedding.tile(&packed, first..first + width, logits);
        let rows = running.par_iter_mut().zip(logits.par_chunks(width)).zip(targets).with_min_len(8);
        rows.for_each(|((running, logits), target)| {
            let target = *target as usize;
            if (first..first + width).contains(&target) {
                running.target_logit = Some(logits[target - first]);
            }
            simd::dispatch(AddExponentials { running, logits });
        });
    }
    let loss = |row: &Running| row.log_sum_exp() - row.target_logit.map_or(f64::NAN, f64::from);
    running.iter().map(loss).collect()
}

/// Adds the exponentials of one tile of a row's logits to their sum.
struct AddExponentials<'a> {
    running: &'a mut Running,
    logits: &'a [f32],
}

impl WithSimd for AddExponentials<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        add_exponentials(self.running, self.logits, false);
    }
}

/// `weights = exp(logits − largest)`, the largest so far with this tile; returns what sums of earlier weights have to be
/// scaled by.
struct WeighFirst<'a> {
    /// The largest logit of the earlier tiles.
    largest: f32,
    logits: &'a [f32],
    weights: &'a mut [f32],
}

impl WithSimd for WeighFirst<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f64 {
        let largest = simd::max(self.logits).max(self.largest);
        simd::exp_all(self.logits, largest, self.weights);
        f64::from(self.largest - largest).exp()
    }
}

/// Adds one tile of a row's logits to its running figures.
struct AddTile<'a> {
    running: &'a mut Running,
    k: usize,
    /// As of [`scan_closely`].
    asked: Option<&'a [u32]>,
    first_token: usize,
    logits: &'a [f32],
    /// The tile of the sample's first row.
    first_logits: &'a [f32],
    /// What [`WeighFirst`] made of it.
    weights: &'a [f32],
    rescale: f64,
}

impl WithSimd for AddTile<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let running = self.running;
        add_top(&mut running.top, self.k, self.logits, self.first_token);
        add_exponentials(running, self.logits, self.asked.is_some());
        for (standing, token) in running.asked.iter_mut().zip(self.asked.unwrap_or_default()) {
            let before = (*token as usize).saturating_sub(self.first_token).min(self.logits.len());
            let mark = standing.logit;
            let above = self.logits.iter().map(|logit| u32::from(*logit > mark)).sum::<u32>();
            let equal = self.logits[..before].iter().map(|logit| u32::from(*logit == mark)).sum::<u32>();
            standing.rank += (above + equal) as usize;
        }
        let mark = running.mark;
        running.above += self.logits.iter().map(|logit| u32::from(*logit > mark)).sum::<u32>();
        running.cross = running.cross * self.rescale + cross(self.weights, self.first_logits, self.logits);
    }
}

#[inline(always)]
fn add_top(top: &mut Vec<(f32, u32)>, k: usize, logits: &[f32], first: usize) {
    for (block, values) in logits.chunks(64).enumerate() {
        let smallest = if top.len() < k { f32::NEG_INFINITY } else { top[k - 1].0 };
        if top.len() == k && simd::max(values) <= smallest {
            continue;
        }
        for (i, &value) in values.iter().enumerate() {
            if top.len() == k && value <= top[k - 1].0 {
                continue;
            }
            let place = top.partition_point(|(kept, _)| *kept >= value);
            top.insert(place, (value, (first + block * 64 + i) as u32));
            top.truncate(k);
        }
    }
}

#[inline(always)]
fn add_exponentials(running: &mut Running, logits: &[f32], and_spread: bool) {
    let largest = simd::max(logits);
    if largest > running.largest {
        let further = f64::from(largest - running.largest);
        let scale = (-further).exp();
        if running.sum_exp > 0.0 {
            running.spread = scale * (running.spread + further * running.sum_exp);
        }
        running.sum_exp *= scale;
        running.largest = largest;
    }
    let mut terms = [0f32; BLOCK];
    let ends = [running.largest; BLOCK];
    for block in logits.chunks(BLOCK) {
        let terms = &mut terms[..block.len()];
        simd::exp_all(block, running.largest, terms);
        running.sum_exp += f64::from(simd::sum(terms));
        if and_spread {
            running.spread += f64::from(simd::dot_difference(terms, &ends[..block.len()], block));
        }
    }
}

/// Σ weight·(first − z) over a tile.
#[inline(always)]
fn cross(weights: &[f32], first: &[f32], logits: &[f32]) -> f64 {
    let mut total = 0.0;
    for ((weights, first), logits) in weights.chunks(BLOCK).zip(first.chunks(BLOCK)).zip(logits.chunks(BLOCK))
    {
        total += f64::from(simd::dot_difference(weights, first, logits));
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};

    #[test]
    fn agrees_with_sums_over_the_whole_vocabulary() {
        crate::linalg::isa::testing::on_every(whole_vocabulary);
    }

    fn whole_vocabulary() {
        let (n, d, vocab, k) = (9, 16, 2 * TILE + 77, 10);
        let take = |shape: &[usize], seed| -> Vec<f32> {
            let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            (0..shape.iter().product()).map(|_| rng.random_range(-1.0..1.0)).collect()
        };
        let (rows, model, unembedding) = (take(&[n, d], 1), take(&[n, d], 2), take(&[vocab, d], 3));
        let rows: Vec<f32> = rows.iter().map(|x| x * 5.0).collect();
        let targets: Vec<Option<u32>> = (0..n).map(|i| (i % 3 != 0).then_some((i * 130) as u32)).collect();
        let bias = take(&[vocab], 4);
        for soft_cap in [None, Some(30.0)] {
            let head = Unembedding::new(&unembedding, d, Some(bias.clone()), soft_cap, Precision::F32);
            let asked = [0, 5, TILE as u32, (vocab - 1) as u32];
            let stacked = [model.clone(), rows.clone()].concat();
            let both = scan_closely(&stacked, &head, k, &targets, &asked);
            let plain = scan(&stacked, &head, k, &targets);
            assert!(both.iter().zip(&plain).all(|(closely, plain)| {
                RowScan { closer: None, ..closely.clone() } == *plain && closely.closer.is_some()
            }));
            assert!(both[..n].iter().all(|own| own.kl < 1e-6 && own.rank == 1));
            let scans = &both[n..];
            let cap = |z: f64| soft_cap.map_or(z, |cap| f64::from(cap) * (z / f64::from(cap)).tanh());
            let logits = |rows: &[f32], i: usize| -> Vec<f64> {
                let dot = |w: &[f32]| {
                    w.iter().zip(&rows[i * d..]).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
                };
                unembedding
                    .chunks(d)
                    .map(dot)
                    .zip(&bias)
                    .map(|(z, b): (f64, _)| cap(z + f64::from(*b)))
                    .collect()
            };
            let log_sum_exp = |z: &[f64]| z.iter().map(|z| z.exp()).sum::<f64>().ln();
            for (i, scan) in scans.iter().enumerate() {
                let (z, m) = (logits(&rows, i), logits(&model, i));
                let (lse, lse_m) = (log_sum_exp(&z), log_sum_exp(&m));
                assert!((scan.log_sum_exp - lse).abs() < 1e-5);
                let kl: f64 = m.iter().zip(&z).map(|(m, z)| (m - lse_m).exp() * (m - lse_m - z + lse)).sum();
                assert!((scan.kl - kl).abs() < 1e-5, "{} against {kl}", scan.kl);
                let mut order: Vec<usize> = (0..vocab).collect();
                order.sort_by(|a, b| z[*b].total_cmp(&z[*a]));
                let top: Vec<usize> = scan.top.iter().map(|(_, token)| *token as usize).collect();
                assert_eq!(top, order[..k]);
                let closer = scan.closer.as_ref().unwrap();
                let entropy: f64 = z.iter().map(|z| (z - lse).exp() * (lse - z)).sum();
                assert!((closer.entropy - entropy).abs() < 1e-5, "{} against {entropy}", closer.entropy);
                for (standing, token) in closer.tokens.iter().zip(asked) {
                    let rank = 1 + order.iter().position(|other| *other == token as usize).unwrap();
                    assert_eq!(standing.rank, rank, "token {token}");
                    assert!((f64::from(standing.logit) - z[token as usize]).abs() < 1e-5);
                }
                let model_top = (0..vocab).max_by(|a, b| m[*a].total_cmp(&m[*b])).unwrap();
                assert_eq!(scan.rank, 1 + order.iter().position(|token| *token == model_top).unwrap());
                let logit = head.logit(order[0] as u32, &rows[i * d..][..d]);
                assert!((logit - z[order[0]]).abs() < 1e-12, "{logit} against {}", z[order[0]]);
                assert_eq!(scan.target_logit.is_some(), targets[i].is_some());
                if let (Some(got), Some(target)) = (scan.target_logit, targets[i]) {
                    assert!((f64::from(got) - z[target as usize]).abs() < 1e-5);
                }
                if let Some(target) = targets[i] {
                    let loss = target_losses(&rows[i * d..][..d], &head, &[target])[0];
                    assert!((loss - (lse - z[target as usize])).abs() < 1e-5);
                }
                let confidence = (z[order[0]] - lse).exp() - (z[order[1]] - lse).exp();
                assert!((scan.confidence() - confidence).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn equal_logits_go_to_the_lower_id() {
        let unembedding = Unembedding::new(&[1.0; 40], 2, None, None, Precision::F32);
        let scans = scan(&[0.5, 0.25], &unembedding, 3, &[None]);
        assert_eq!(scans[0].top.iter().map(|(_, token)| *token).collect::<Vec<_>>(), [0, 1, 2]);
        let scans = scan_closely(&[0.5, 0.25], &unembedding, 3, &[None], &[0, 19, 7]);
        let closer = scans[0].closer.as_ref().unwrap();
        assert_eq!(closer.tokens.iter().map(|standing| standing.rank).collect::<Vec<_>>(), [1, 20, 8]);
        assert!((closer.entropy - 20f64.ln()).abs() < 1e-6);
    }
}
