//! Ridge regression from the factorisation that least squares has made already, and λ by generalised cross-validation.
//!
//! With `X = U·Σ·Vᵀ` the map that minimises `‖X·Aᵀ − Y‖² + λ‖A‖²` is `Aᵀ = V·Σ·(Σ² + λ)⁻¹·Uᵀ·Y`. The whitened source `X·T` is
//! orthonormal too, so that `X = (X·T)·R` with `R = P·Σ·Vᵀ` of its size alone, `U = X·T·P`, and the ridge map is the one of
//! the coordinates `C = (X·T)ᵀ·Y` shrunk in the directions of `P`: `Aᵀ = T·P·Σ²·(Σ² + λ)⁻¹·Pᵀ·C`.

use super::least_squares::{Coordinates, Whitening};
use crate::error::Result;
use crate::linalg::dense::{Svd, inverse_of_upper, product, thin_svd};
use crate::spread::Spread;
use faer::Mat;

/// The singular values of a source, and their directions in its whitened form.
#[derive(Debug, Clone)]
pub(super) struct Spectrum {
    /// Σ, those that count, largest first.
    pub(super) sigma: Vec<f64>,
    /// P `[rank, rank]`; `None` where it is the identity.
    turn: Option<Mat<f64>>,
}

/// The grid of λ for generalised cross-validation, as shares of σ₁²: eight a decade.
const LAMBDAS_A_DECADE: i32 = 8;
const LAMBDA_DECADES: std::ops::RangeInclusive<i32> = -12..=2;

impl Spectrum {
    /// Of the source that `whitening` was made from.
    pub(super) fn of(whitening: &Whitening) -> Result<Self> {
        let (t, is_triangular) = whitening.t();
        if !is_triangular {
            // T = V·Σ⁻¹.
            let sigma = (0..t.ncols()).map(|j| 1.0 / t.col(j).norm_l2()).collect();
            return Ok(Self { sigma, turn: None });
        }
        let Svd { u, sigma, .. } = thin_svd(inverse_of_upper(t).as_ref())?;
        Ok(Self { sigma, turn: Some(u) })
    }

    /// `Pᵀ·C`: row i belongs to singular value i.
    pub(super) fn turn(&self, coordinates: &Coordinates) -> Coordinates {
        match &self.turn {
            Some(turn) => product(turn.transpose(), coordinates.as_ref()),
            None => coordinates.clone(),
        }
    }

    /// The coordinates that [`Whitening::map`] makes the ridge map of, from those that were [turned](Self::turn).
    pub(super) fn shrunk(&self, mut turned: Coordinates, lambda: f64) -> Coordinates {
        for (i, sigma) in self.sigma.iter().enumerate() {
            let kept = sigma * sigma / (sigma * sigma + lambda);
            turned.row_mut(i).iter_mut().for_each(|value| *value *= kept);
        }
        match &self.turn {
            Some(turn) => product(turn.as_ref(), turned.as_ref()),
            None => turned,
        }
    }

    /// Mean over the target's coordinates of the share of their variance that generalised cross-validation (Golub, Heath
    /// and Wahba 1979) expects a ridge map to miss: `n·Σ(y − ŷ)² / (n − df)²`, against `Σ(y − ȳ)² / n`. One minus it is r² as
    /// expected on new samples. Coordinates that do not vary are left out.
    fn expected_miss(&self, shares: &Shares, lambda: f64, n: usize, intercept: bool) -> f64 {
        let missed = |sigma: &f64| lambda / (sigma * sigma + lambda);
        let freedom: f64 = self.sigma.iter().map(|sigma| 1.0 - missed(sigma)).sum();
        let left = n as f64 - freedom - f64::from(u8::from(intercept));
        if left <= 0.0 {
            return f64::INFINITY;
        }
        let residual: f64 = self
            .sigma
            .iter()
            .zip(&shares.by_direction)
            .map(|(sigma, share)| missed(sigma).powi(2) * share)
            .sum();
        (shares.out_of_reach + residual) * (n as f64 / left).powi(2)
    }

    /// The λ that generalised cross-validation finds best for r², from [turned](Self::turn) coordinates of a target of that
    /// spread, which are about its mean where there is an `intercept`.
    pub(super) fn best_lambda(&self, turned: &Coordinates, spread: &Spread, intercept: bool) -> f64 {
        let shares = Shares::of(turned, spread, intercept);
        let scale = self.sigma.first().copied().unwrap_or(1.0).powi(2);
        let steps = LAMBDA_DECADES.start() * LAMBDAS_A_DECADE..=LAMBDA_DECADES.end() * LAMBDAS_A_DECADE;
        let lambda = |step: i32| scale * 10f64.powf(f64::from(step) / f64::from(LAMBDAS_A_DECADE));
        let miss = |lambda: &f64| self.expected_miss(&shares, *lambda, spread.n, intercept);
        steps.map(lambda).min_by(|a, b| miss(a).total_cmp(&miss(b))).unwrap_or(scale)
    }
}

/// Where a target's squares lie, each coordinate's as shares of its squares about its mean, averaged over the coordinates
/// that vary.
struct Shares {
    /// By direction of the source.
    by_direction: Vec<f64>,
    /// In no direction of the source.
    out_of_reach: f64,
}

impl Shares {
    fn of(turned: &Coordinates, spread: &Spread, intercept: bool) -> Self {
        let varying = spread.about_mean.iter().filter(|total| **total > 0.0).count().max(1) as f64;
        let weight = |j: usize| match spread.about_mean[j] {
            0.0 => 0.0,
            total => 1.0 / (total * varying),
        };
        let weights: Vec<f64> = (0..turned.ncols()).map(weight).collect();
        let squares = |i: usize| -> f64 {
            turned.row(i).iter().zip(&weights).map(|(value, weight)| value * value * weight).sum()
        };
        let by_direction: Vec<f64> = (0..turned.nrows()).map(squares).collect();
        let totals = if intercept { spread.about_mean.clone() } else { spread.about_zero() };
        let total: f64 = totals.iter().zip(&weights).map(|(total, weight)| total * weight).sum();
        let out_of_reach = (total - by_direction.iter().sum::<f64>()).max(0.0);
        Self { by_direction, out_of_reach }
    }
}
