//! Linear least squares without intercept: one factorisation of the source states, any number of targets.
//!
//! The solution is the one of a singular value decomposition of the source in f64 with singular values at or below
//! 10⁻⁶·σ₁ taken as zero, and of minimum norm. Where the source has full rank by a clear margin it is found faster,
//! by Cholesky-QR: `XᵀX = RᵀR` of the column-scaled source in f64, `Q = X·R⁻¹`, and then for every target
//! `Aᵀ = R⁻¹·(QᵀY)`, whose one large product is done in f32, which `Q`'s orthonormal columns allow.

use super::LinearMap;
use crate::error::{Error, Result};
use crate::nn::matmul::{Matrix, Write, matmul};
use crate::parallel::column_sums;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, Mat, MatMut, MatRef, Par, Side};
use rayon::prelude::*;

/// Singular values at or below this share of the largest count as zero.
const CUTOFF: f64 = 1e-6;
/// The Cholesky route is taken where σ_min / σ_max is above this: clear of [`CUTOFF`], whatever the estimate's error.
const CLEAR_OF_CUTOFF: f64 = 4.0 * CUTOFF;
/// Above this condition of the scaled source, `Q` is orthonormalised a second time.
const WELL_CONDITIONED: f64 = 1e3;

/// A factored source: `X ≈ basis · …`, ready to be solved for any target.
#[derive(Debug)]
pub struct LeastSquares {
    /// Orthonormal columns spanning the source's, row-major `[n, rank]`.
    basis: Vec<f32>,
    /// `Aᵀ = left · (basisᵀ·Y)`, `[d, rank]`.
    left: Mat<f64>,
    n: usize,
}

impl LeastSquares {
    /// Factors the source states `x`, row-major `[n, d]`, all finite.
    pub fn factor(x: &[f32], d: usize) -> Result<Self> {
        match cholesky_qr(x, d) {
            Some(factored) => Ok(factored),
            None => Self::factor_by_svd(x, d),
        }
    }

    /// Factors by singular value decomposition in f64, whatever the rank.
    pub fn factor_by_svd(x: &[f32], d: usize) -> Result<Self> {
        let n = x.len() / d;
        let x = Mat::from_fn(n, d, |i, j| f64::from(x[i * d + j]));
        let failed = |error| Error::Internal(format!("singular value decomposition: {error:?}"));
        // With more rows than columns the decomposition of R is that of X, and much smaller.
        let (q, svd) = if n > d {
            let qr = x.qr();
            (Some(qr.compute_thin_Q()), qr.thin_R().thin_svd().map_err(failed)?)
        } else {
            (None, x.thin_svd().map_err(failed)?)
        };
        let sigma: Vec<f64> = svd.S().column_vector().iter().copied().collect();
        let largest = sigma.first().copied().unwrap_or(0.0);
        let rank = sigma.iter().take_while(|s| **s > CUTOFF * largest).count();
        let u = svd.U().subcols(0, rank);
        let basis = match &q {
            Some(q) => q * u,
            None => u.to_owned(),
        };
        let left = Mat::from_fn(d, rank, |i, j| svd.V()[(i, j)] / sigma[j]);
        Ok(Self { basis: to_rows(basis.as_ref()), left, n })
    }

    /// How many singular values of the source count.
    pub fn rank(&self) -> usize {
        self.left.ncols()
    }

    /// The map `A` `[d_out, d]` that minimises `‖X·Aᵀ − Y‖` for the target states `y`, row-major `[n, d_out]`.
    pub fn solve(&self, y: &[f32], d_out: usize) -> Result<LinearMap> {
        let (d, rank) = (self.left.nrows(), self.rank());
        let mut coordinates = vec![0f32; rank * d_out];
        matmul(
            &mut coordinates,
            Write::Replace,
            Matrix::new(&self.basis, self.n, rank).t(),
            Matrix::new(y, self.n, d_out),
        );
        let coordinates = Mat::from_fn(rank, d_out, |i, j| f64::from(coordinates[i * d_out + j]));
        let mut map = Mat::zeros(d_out, d);
        faer::linalg::matmul::matmul(
            map.as_mut(),
            Accum::Replace,
            coordinates.transpose(),
            self.left.transpose(),
            1.0,
            Par::rayon(0),
        );
        LinearMap::from_rows(to_rows(map.as_ref()), d_out, d)
    }
}

/// The fast route; `None` where the rank is not full by a clear margin.
fn cholesky_qr(x: &[f32], d: usize) -> Option<LeastSquares> {
    let n = x.len() / d;
    if n < d {
        return None;
    }
    let squares = column_sums(x, d, |_, row, sums| {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x).powi(2));
    });
    let norms: Vec<f64> = squares.into_iter().map(f64::sqrt).collect();
    if norms.contains(&0.0) {
        return None;
    }
    let mut q: Vec<f64> = vec![0.0; x.len()];
    q.par_chunks_mut(d).zip(x.par_chunks(d)).for_each(|(q, x)| {
        q.iter_mut().zip(x).zip(&norms).for_each(|((q, x), norm)| *q = f64::from(*x) / norm);
    });
    let gram = gram(MatRef::from_row_major_slice(&q, n, d));
    let mut inverse = inverse_factor(&gram)?;

    // X = Q·R·D, so the singular values of X are those of R·D, and R⁻¹ scaled by D⁻¹ has their reciprocals.
    let unscaled = Mat::from_fn(d, d, |i, j| inverse[(i, j)] / norms[i]);
    let sigma_min = 1.0 / spectral_norm(unscaled.as_ref());
    let weighted = Mat::from_fn(d, d, |i, j| gram[(i.max(j), i.min(j))] * norms[i] * norms[j]);
    let sigma_max = spectral_norm(weighted.as_ref()).sqrt();
    // Written so that NaN takes the slow route too.
    let clear = sigma_min > CLEAR_OF_CUTOFF * sigma_max;
    if !clear {
        return None;
    }
    let scaled_condition = spectral_norm(inverse.as_ref()) * (d as f64).sqrt();
    q = times(&q, &inverse);
    if scaled_condition > WELL_CONDITIONED {
        let second = inverse_factor(&self::gram(MatRef::from_row_major_slice(&q, n, d)))?;
        q = times(&q, &second);
        inverse = &inverse * &second;
    }
    let left = Mat::from_fn(d, d, |i, j| inverse[(i, j)] / norms[i]);
    Some(LeastSquares { basis: q.par_iter().map(|value| *value as f32).collect(), left, n })
}

/// The lower triangle of `XᵀX`.
fn gram(x: MatRef<f64>) -> Mat<f64> {
    let mut gram = Mat::zeros(x.ncols(), x.ncols());
    triangular::matmul(
        gram.as_mut(),
        BlockStructure::TriangularLower,
        Accum::Replace,
        x.transpose(),
        BlockStructure::Rectangular,
        x,
        BlockStructure::Rectangular,
        1.0,
        Par::rayon(0),
    );
    gram
}

/// `R⁻¹`, upper triangular, for `gram = RᵀR`; `None` where it is not positive definite.
fn inverse_factor(gram: &Mat<f64>) -> Option<Mat<f64>> {
    let d = gram.nrows();
    let factor = gram.llt(Side::Lower).ok()?;
    let mut inverse = Mat::<f64>::identity(d, d);
    factor.L().transpose().solve_upper_triangular_in_place(inverse.as_mut());
    Some(inverse)
}

/// `q·r` for row-major `q` `[n, d]`.
fn times(q: &[f64], r: &Mat<f64>) -> Vec<f64> {
    let d = r.nrows();
    let n = q.len() / d;
    let mut out = vec![0.0; q.len()];
    triangular::matmul(
        MatMut::from_row_major_slice_mut(&mut out, n, d),
        BlockStructure::Rectangular,
        Accum::Replace,
        MatRef::from_row_major_slice(q, n, d),
        BlockStructure::Rectangular,
        r.as_ref(),
        BlockStructure::TriangularUpper,
        1.0,
        Par::rayon(0),
    );
    out
}

/// The largest singular value to within a few parts in a hundred, from below: power iteration on `MᵀM`.
fn spectral_norm(m: MatRef<f64>) -> f64 {
    let d = m.ncols();
    // A start that is not orthogonal to anything by accident.
    let mut v = faer::Col::from_fn(d, |i| 1.0 + ((i * 7919) % 101) as f64 / 101.0);
    let mut norm = 0.0;
    for _ in 0..40 {
        v /= faer::Scale(v.norm_l2());
        let image = m * &v;
        norm = image.norm_l2();
        v = m.transpose() * &image;
        if norm == 0.0 {
            break;
        }
    }
    norm
}

fn to_rows(m: MatRef<f64>) -> Vec<f32> {
    (0..m.nrows()).flat_map(|i| (0..m.ncols()).map(move |j| m[(i, j)] as f32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn random(n: usize, d: usize, seed: u64) -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..n * d).map(|_| rng.random_range(-1.0f32..1.0)).collect()
    }

    fn weights(map: &LinearMap) -> Vec<f32> {
        map.weight().flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Residual sums of squares, in f64.
    fn residual(x: &[f32], y: &[f32], d: usize, map: &[f32], d_out: usize) -> f64 {
        let mut total = 0.0;
        for (x, y) in x.chunks(d).zip(y.chunks(d_out)) {
            for (j, y) in y.iter().enumerate() {
                let row = &map[j * d..][..d];
                let got: f64 = x.iter().zip(row).map(|(x, a)| f64::from(*x) * f64::from(*a)).sum();
                total += (f64::from(*y) - got).powi(2);
            }
        }
        total
    }

    #[test]
    fn recovers_the_map_that_made_the_targets() {
        let (n, d, d_out) = (200, 12, 5);
        let x = random(n, d, 1);
        let truth = random(d_out, d, 2);
        let mut y = vec![0f32; n * d_out];
        matmul(&mut y, Write::Replace, Matrix::new(&x, n, d), Matrix::new(&truth, d_out, d).t());
        let solver = LeastSquares::factor(&x, d).unwrap();
        assert_eq!(solver.rank(), d);
        for (got, want) in weights(&solver.solve(&y, d_out).unwrap()).iter().zip(&truth) {
            assert!((got - want).abs() < 2e-6, "{got} against {want}");
        }
    }

    #[test]
    fn rank_deficient_source_gives_the_minimum_norm_solution() {
        // Columns 0 and 1 are the same, so the minimum-norm map shares the weight between them.
        let (n, d) = (50, 3);
        let base = random(n, 2, 3);
        let x: Vec<f32> = base.chunks(2).flat_map(|row| [row[0], row[0], row[1]]).collect();
        let y: Vec<f32> = base.chunks(2).map(|row| 4.0 * row[0] - row[1]).collect();
        let solver = LeastSquares::factor(&x, d).unwrap();
        assert_eq!(solver.rank(), 2);
        for (got, want) in weights(&solver.solve(&y, 1).unwrap()).iter().zip([2.0, 2.0, -1.0]) {
            assert!((got - want).abs() < 1e-5, "{got} against {want}");
        }
    }

    #[test]
    fn fewer_samples_than_coordinates_interpolates() {
        let (n, d) = (7, 20);
        let (x, y) = (random(n, d, 4), random(n, 2, 5));
        let solver = LeastSquares::factor(&x, d).unwrap();
        assert_eq!(solver.rank(), n);
        assert!(residual(&x, &y, d, &weights(&solver.solve(&y, 2).unwrap()), 2) < 1e-9);
    }

    #[test]
    fn zero_source_gives_the_zero_map() {
        let solver = LeastSquares::factor(&[0.0; 40], 4).unwrap();
        assert_eq!(solver.rank(), 0);
        assert!(weights(&solver.solve(&random(10, 2, 6), 2).unwrap()).iter().all(|w| *w == 0.0));
    }

    #[test]
    fn singular_values_below_the_cutoff_are_left_out() {
        for (smallest, rank) in [(1e-3f32, 6), (2e-6, 6), (5e-7, 5)] {
            // An orthogonal design: columns of a Hadamard matrix, the last one scaled down.
            let x: Vec<f32> = (0..64u32)
                .flat_map(|i| {
                    (1..7u32).map(move |j| {
                        let sign = if (i & j).count_ones() % 2 == 0 { 1.0 } else { -1.0 };
                        if j == 6 { sign * smallest } else { sign }
                    })
                })
                .collect();
            assert_eq!(LeastSquares::factor(&x, 6).unwrap().rank(), rank, "smallest {smallest}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn the_fast_route_fits_as_well_as_the_decomposition(
            seed in 0..1000u64, d in 1..24usize, spread in 0..4i32, mixing in 0.0..1.0f32,
        ) {
            let n = 8 * d + 5;
            let mut x = random(n, d, seed);
            // Columns of very different size, and partly copies of one another, as in real models.
            for row in x.chunks_mut(d) {
                for j in 1..d {
                    row[j] = row[j] * (1.0 - mixing * 0.999) + mixing * row[j - 1];
                }
                for (j, value) in row.iter_mut().enumerate() {
                    *value *= 10f32.powi((j as i32 % 3 - 1) * spread / 2);
                }
            }
            let y = random(n, 3, seed + 1);
            let total: f64 = y.iter().map(|y| f64::from(*y).powi(2)).sum();
            let fast = LeastSquares::factor(&x, d).unwrap();
            let slow = LeastSquares::factor_by_svd(&x, d).unwrap();
            prop_assert_eq!(fast.rank(), slow.rank());
            let fit = |solver: &LeastSquares| residual(&x, &y, d, &weights(&solver.solve(&y, 3).unwrap()), 3);
            prop_assert!((fit(&fast) - fit(&slow)).abs() <= 1e-6 * total, "{} against {}", fit(&fast), fit(&slow));
        }
    }
}
