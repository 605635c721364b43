//! Prompts whose derivatives dwarf those of the rest: a few of them can hold most of a mean.

use super::sums::Sums;
use crate::words::DerivativeCast;

/// A prompt is an outlier where the norm of its Jacobian is more than so many times the median of all prompts, at some layer.
pub const TIMES_MEDIAN: f64 = 4.0;

/// A prompt that is one.
#[derive(Debug, Clone, PartialEq)]
pub struct Outlier {
    /// Of which lens.
    pub cast: DerivativeCast,
    /// Its number among all prompts, from 0.
    pub prompt: usize,
    /// The layer where it stands out most.
    pub layer: usize,
    /// Its norm there, by the median.
    pub times_median: f64,
    /// The share of all squared norms there that it has.
    pub share: f64,
}

/// How far each prompt stands out, by its place in the sums.
pub(super) fn stand_out(sums: &Sums, of: usize) -> Vec<Outlier> {
    let layers = sums.record.n_layers;
    let norms = &sums.casts[of].norms;
    let (mut medians, mut squares) = (Vec::new(), Vec::new());
    for layer in 0..layers {
        let mut own: Vec<f64> = norms.iter().skip(layer).step_by(layers).copied().collect();
        squares.push(own.iter().map(|norm| norm * norm).sum::<f64>());
        own.sort_by(f64::total_cmp);
        let middle = own.len() / 2;
        medians.push(if own.len().is_multiple_of(2) {
            0.5 * (own[middle - 1] + own[middle])
        } else {
            own[middle]
        });
    }
    let prompts = sums.prompts.iter().zip(norms.chunks_exact(layers));
    prompts
        .map(|(prompt, norms)| {
            let times = |layer: &usize| norms[*layer] / medians[*layer].max(f64::MIN_POSITIVE);
            let layer = (0..layers).max_by(|a, b| times(a).total_cmp(&times(b))).unwrap_or(0);
            Outlier {
                cast: sums.record.casts[of],
                prompt: prompt.number,
                layer,
                times_median: times(&layer),
                share: norms[layer].powi(2) / squares[layer].max(f64::MIN_POSITIVE),
            }
        })
        .collect()
}
