//! Lenses that are fitted through the head, to what the model predicts in place of its last state: `tuned` (the affine map of
//! Belrose et al., arXiv 2303.08112, by another recipe) and `mat_fisher`.

use super::newton::{Whitened, Whitening, step};
use super::readout::{DRAWS, Readout, mean_information};
use super::{Fit, Source};
use crate::progress::Observer;
use crate::{Error, Result};
use jumplens_core::cast::Cast;
use jumplens_core::linalg::add_outer;
use jumplens_core::solver::Maps;
use rayon::prelude::*;

/// One training row in so many, the last ones, is held out: what is chosen is chosen by them.
const HELD_OUT: usize = 10;

/// λ in units of a coordinate's mean Fisher information that [`Fisher`] chooses among.
const LAMBDAS: [f64; 5] = [1.0, 3.0, 10.0, 30.0, 100.0];

/// The λ that [`Tuned`] begins with, and the least it falls to.
const FIRST_LAMBDA: f64 = 10.0;
const LEAST_LAMBDA: f64 = 0.1;
/// Steps it takes at most.
const MOST_STEPS: usize = 12;
/// A step that lowers the KL of what is held out by a smaller share is the last.
const WORTH_IT: f64 = 2e-3;
/// Steps that may fail one after another.
const MOST_FAILURES: usize = 2;

/// Least squares in the metric of the output: what is least is the mean of `eᵀ·(F + λ)·e`, e what the map misses h_L by, and F
/// the Fisher information of the model's distribution about h_L, row by row. λ draws towards plain least squares, and is
/// chosen by the KL of rows that are held out. With a bias.
pub(super) struct Fisher;

/// Least KL(model ‖ cast), from least squares on by damped Gauss–Newton steps for as long as rows that are held out gain. With a
/// bias.
pub(super) struct Tuned;

/// Training states of a layer in two parts: those that maps are fitted on, and those that are held out.
struct Split<'a> {
    readout: &'a Readout<'a>,
    observer: &'a dyn Observer,
    whitening: Whitening,
    fitted: Whitened,
    held: Whitened,
    /// How many are fitted on.
    n: usize,
}

impl<'a> Split<'a> {
    fn new(source: &'a Source) -> Result<Self> {
        let ((states, _), (readout, observer)) = source.states().zip(source.readout()).ok_or_else(|| {
            Error::Internal("a lens that needs states and the head was given neither".into())
        })?;
        let n = readout.rows() - readout.rows().div_ceil(HELD_OUT).min(readout.rows() - 1);
        let (own, others) = states.values.split_at(n * states.d);
        let whitening = Whitening::of(own, states.d)?;
        let (fitted, held) = (whitening.apply(own), whitening.apply(others));
        Ok(Self { readout, observer, whitening, fitted, held, n })
    }

    /// Mean KL of what is held out.
    fn kl(&self, map: &[f32]) -> Result<f64> {
        let rows = self.n..self.readout.rows();
        let kl = self.readout.kl(&self.held.image(map), rows, self.observer)?;
        Ok(kl.iter().sum::<f64>() / kl.len().max(1) as f64)
    }

    /// The least squares map.
    fn least_squares(&self) -> Vec<f32> {
        self.fitted.mean_products(&self.readout.last()[..self.n * self.readout.d()])
    }
}

impl Fit for Fisher {
    fn cast(&self) -> Cast {
        Cast::from("mat_fisher")
    }

    fn needs_head(&self) -> bool {
        true
    }

    fn fit(&self, source: &Source) -> Result<Maps> {
        let split = Split::new(source)?;
        let Split { readout, observer, n, .. } = split;
        let (d, unit) = (readout.d(), mean_information(readout.factors(), readout.d()));
        let plain = split.least_squares();
        let (y, factors) = (&readout.last()[..n * d], &readout.factors()[..n * DRAWS * d]);
        let gradient = missed(&split.fitted.image(&plain), y, factors, d);
        let mut best: Option<(f64, f64)> = None;
        for lambda in LAMBDAS {
            let change = step(&split.fitted, &gradient, factors, lambda * unit, observer)?;
            let kl = split.kl(&sum(&plain, &change, 1.0))?;
            if best.is_none_or(|(least, _)| kl < least) {
                best = Some((kl, lambda));
            }
        }
        let lambda = best.map_or(FIRST_LAMBDA, |(_, lambda)| lambda);
        // On all rows.
        let (states, _) = source.states().ok_or_else(|| Error::Internal("states were there".into()))?;
        let whitening = Whitening::of(states.values, states.d)?;
        let all = whitening.apply(states.values);
        let plain = all.mean_products(readout.last());
        let gradient = missed(&all.image(&plain), readout.last(), readout.factors(), d);
        let change = step(&all, &gradient, readout.factors(), lambda * unit, observer)?;
        Ok(Maps { maps: vec![whitening.map(&sum(&plain, &change, 1.0))?], lambdas: vec![lambda] })
    }
}

impl Fit for Tuned {
    fn cast(&self) -> Cast {
        Cast::Tuned
    }

    fn needs_head(&self) -> bool {
        true
    }

    fn fit(&self, source: &Source) -> Result<Maps> {
        let split = Split::new(source)?;
        let Split { readout, observer, n, .. } = split;
        let mut map = split.least_squares();
        let mut least = split.kl(&map)?;
        let (mut lambda, mut failures) = (FIRST_LAMBDA, 0);
        for _ in 0..MOST_STEPS {
            let slopes = readout.slopes(&split.fitted.image(&map), 0..n, observer)?;
            let unit = mean_information(&slopes.factors, readout.d());
            let before = least;
            // A step that helps no one is taken shorter, then with more damping.
            while least == before && failures < MOST_FAILURES {
                let change = step(&split.fitted, &slopes.gradient, &slopes.factors, lambda * unit, observer)?;
                for share in [1.0, 0.5] {
                    let moved = sum(&map, &change, share);
                    let kl = split.kl(&moved)?;
                    if kl < least {
                        (map, least) = (moved, kl);
                        break;
                    }
                }
                match least < before {
                    true => (lambda, failures) = ((lambda / 3.0).max(LEAST_LAMBDA), 0),
                    false => (lambda, failures) = (4.0 * lambda, failures + 1),
                }
            }
            if before - least < WORTH_IT * before {
                break;
            }
        }
        Ok(Maps { maps: vec![split.whitening.map(&map)?], lambdas: Vec::new() })
    }
}

fn sum(map: &[f32], change: &[f32], share: f32) -> Vec<f32> {
    map.iter().zip(change).map(|(map, change)| map + share * change).collect()
}

/// F·(u − y), row by row.
fn missed(u: &[f32], y: &[f32], factors: &[f32], d: usize) -> Vec<f32> {
    let far: Vec<f32> = u.iter().zip(y).map(|(u, y)| u - y).collect();
    let mut out = vec![0f32; u.len()];
    let rows = out.par_chunks_mut(d).zip(far.par_chunks(d)).zip(factors.par_chunks(DRAWS * d));
    rows.for_each(|((out, far), factors)| add_outer(far, factors, 0.0, out));
    out
}
