//! From prepared states to figures about their logits, one tile of the vocabulary at a time: the logits of all rows
//! over the whole vocabulary are never held.

use crate::nn::matmul::{Matrix, Write, matmul};
use crate::nn::simd;
use rayon::prelude::*;

/// Vocabulary entries whose logits exist at one time.
const TILE: usize = 1024;
/// Terms that are added up in f32 before the sum goes on in f64.
const BLOCK: usize = 256;

/// What is known of one row's logits.
#[derive(Debug, Clone, PartialEq)]
pub struct RowScan {
    /// The largest logits with their token ids, largest first; of equal logits the lower id comes first.
    pub top: Vec<(f32, u32)>,
    /// ln Σ exp(logit).
    pub log_sum_exp: f64,
    /// The logit of the row's target token, where it has one.
    pub target_logit: Option<f32>,
    /// KL(reference ‖ row) in nats, where the scan was given a reference.
    pub kl: f64,
}

impl RowScan {
    /// Difference of the largest two probabilities.
    pub fn confidence(&self) -> f64 {
        let probability =
            |i: usize| self.top.get(i).map_or(0.0, |(z, _)| (f64::from(*z) - self.log_sum_exp).exp());
        probability(0) - probability(1)
    }
}

/// The rows whose distribution others are compared with: as many as the scanned rows, in the same order.
#[derive(Debug, Clone, Copy)]
pub struct Reference<'a> {
    /// Prepared states, row-major `[n, d]`.
    pub rows: &'a [f32],
    /// What a scan of them gave.
    pub scans: &'a [RowScan],
}

/// The running figures of one row.
struct Running {
    top: Vec<(f32, u32)>,
    largest: f32,
    sum_exp: f64,
    target_logit: Option<f32>,
    /// Σ p_reference · (z_reference − z)
    cross: f64,
}

/// Scans the logits `rows · unembeddingᵀ`: `rows` `[n, d]`, `unembedding` `[vocab, d]`, both row-major; the `k` largest
/// are kept. `targets` has a token a row, or none.
pub fn scan(
    rows: &[f32],
    unembedding: &[f32],
    d: usize,
    k: usize,
    targets: &[Option<u32>],
    reference: Option<Reference>,
) -> Vec<RowScan> {
    let n = rows.len() / d;
    let vocab = unembedding.len() / d;
    let mut running: Vec<Running> = (0..n)
        .map(|_| Running {
            top: Vec::with_capacity(k + 1),
            largest: f32::NEG_INFINITY,
            sum_exp: 0.0,
            target_logit: None,
            cross: 0.0,
        })
        .collect();
    let mut logits = vec![0f32; n * TILE.min(vocab)];
    let mut reference_logits = vec![0f32; if reference.is_some() { logits.len() } else { 0 }];
    for first in (0..vocab).step_by(TILE) {
        let width = TILE.min(vocab - first);
        let tile = Matrix::new(&unembedding[first * d..(first + width) * d], width, d).t();
        let logits = &mut logits[..n * width];
        matmul(logits, Write::Replace, Matrix::new(rows, n, d), tile);
        if let Some(reference) = reference {
            let reference_logits = &mut reference_logits[..n * width];
            matmul(reference_logits, Write::Replace, Matrix::new(reference.rows, n, d), tile);
        }
        running.par_iter_mut().with_min_len(8).enumerate().for_each(|(row, running)| {
            let logits = &logits[row * width..][..width];
            simd::dispatch(|| {
                add_top(&mut running.top, k, logits, first);
                add_exponentials(running, logits);
                if let Some(reference) = reference {
                    let log_sum_exp = reference.scans[row].log_sum_exp as f32;
                    running.cross += cross(&reference_logits[row * width..][..width], log_sum_exp, logits);
                }
            });
            if let Some(target) =
                targets[row].filter(|target| (first..first + width).contains(&(*target as usize)))
            {
                running.target_logit = Some(logits[target as usize - first]);
            }
        });
    }
    let finish = |(row, running): (usize, Running)| {
        let log_sum_exp = f64::from(running.largest) + running.sum_exp.ln();
        let kl = reference.map_or(0.0, |reference| {
            // Rounding can leave a distance of nothing a hair below zero.
            (running.cross - reference.scans[row].log_sum_exp + log_sum_exp).max(0.0)
        });
        RowScan { top: running.top, log_sum_exp, target_logit: running.target_logit, kl }
    };
    running.into_iter().enumerate().map(finish).collect()
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
fn add_exponentials(running: &mut Running, logits: &[f32]) {
    let largest = simd::max(logits);
    if largest > running.largest {
        running.sum_exp *= f64::from(running.largest - largest).exp();
        running.largest = largest;
    }
    let mut terms = [0f32; BLOCK];
    for block in logits.chunks(BLOCK) {
        let terms = &mut terms[..block.len()];
        terms.iter_mut().zip(block).for_each(|(term, z)| *term = simd::exp(z - running.largest));
        running.sum_exp += f64::from(simd::sum(terms));
    }
}

/// Σ p·(z_reference − z) over a tile, p the reference's probabilities.
#[inline(always)]
fn cross(reference: &[f32], log_sum_exp: f32, logits: &[f32]) -> f64 {
    let mut terms = [0f32; BLOCK];
    let mut total = 0.0;
    for (reference, logits) in reference.chunks(BLOCK).zip(logits.chunks(BLOCK)) {
        let terms = &mut terms[..logits.len()];
        for ((term, reference), z) in terms.iter_mut().zip(reference).zip(logits) {
            *term = simd::exp(reference - log_sum_exp) * (reference - z);
        }
        total += f64::from(simd::sum(terms));
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::testing::random;

    #[test]
    fn agrees_with_sums_over_the_whole_vocabulary() {
        let (n, d, vocab, k) = (9, 16, 2 * TILE + 77, 10);
        let take =
            |shape: &[usize], seed| random(shape, seed).flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (rows, model, unembedding) = (take(&[n, d], 1), take(&[n, d], 2), take(&[vocab, d], 3));
        let rows: Vec<f32> = rows.iter().map(|x| x * 5.0).collect();
        let targets: Vec<Option<u32>> = (0..n).map(|i| (i % 3 != 0).then_some((i * 250) as u32)).collect();
        let model_scans = scan(&model, &unembedding, d, k, &targets, None);
        let scans =
            scan(&rows, &unembedding, d, k, &targets, Some(Reference { rows: &model, scans: &model_scans }));
        let logits = |rows: &[f32], i: usize| -> Vec<f64> {
            let dot =
                |w: &[f32]| w.iter().zip(&rows[i * d..]).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            unembedding.chunks(d).map(dot).collect()
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
            assert_eq!(scan.target_logit.is_some(), targets[i].is_some());
            if let (Some(got), Some(target)) = (scan.target_logit, targets[i]) {
                assert!((f64::from(got) - z[target as usize]).abs() < 1e-5);
            }
            let confidence = (z[order[0]] - lse).exp() - (z[order[1]] - lse).exp();
            assert!((scan.confidence() - confidence).abs() < 1e-5);
        }
    }

    #[test]
    fn equal_logits_go_to_the_lower_id_and_a_row_is_at_no_distance_from_itself() {
        let unembedding = vec![1.0; 40];
        let row = [0.5, 0.25];
        let first = scan(&row, &unembedding, 2, 3, &[None], None);
        assert_eq!(first[0].top.iter().map(|(_, token)| *token).collect::<Vec<_>>(), [0, 1, 2]);
        let again = scan(&row, &unembedding, 2, 3, &[None], Some(Reference { rows: &row, scans: &first }));
        assert_eq!(again[0].kl, 0.0);
    }
}
