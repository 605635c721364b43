//! Maps that are moved step by step: by Newton's method with the Gauss–Newton matrix in the place of the Hessian, damped
//! (Levenberg–Marquardt), each step by conjugate gradients.

use super::readout::DRAWS;
use crate::nn::Precision;
use crate::progress::{Observer, check};
use crate::{Error, Result};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef};
use jumplens_core::LinearMap;
use jumplens_core::linalg::add_outer;
use jumplens_core::linalg::dense::{self, PAR};
use jumplens_core::linalg::matmul::{Matrix, Packed, PackedRows, PackedWeights, Write, product};
use jumplens_core::linalg::parallel::widened;
use rayon::prelude::*;

/// Rows that are widened at one time.
const BLOCK: usize = 4096;
/// What a coordinate's square is raised by, relative to it, so that states of lower rank are no trouble.
const JITTER: f64 = 1e-6;
/// Conjugate gradients end where the squared residual, by the preconditioner, has fallen to that share.
const SOLVED: f64 = 1e-4;
/// Or after so many products.
const MOST_PRODUCTS: usize = 30;

/// Turns rows with a 1 at the end, `[d + 1]`, so that their second moments are the identity.
pub(super) struct Whitening {
    /// L⁻ᵀ of the second moments L·Lᵀ.
    turn: Mat<f64>,
    d: usize,
}

/// Rows in coordinates of a [`Whitening`].
pub(super) struct Whitened {
    rows: PackedRows,
    /// Their coordinates as lanes.
    turned: PackedWeights,
}

impl Whitening {
    /// Of the rows `x` `[n, d]`.
    pub fn of(x: &[f32], d: usize) -> Result<Self> {
        let n = x.len() / d;
        let mut gram = Mat::<f64>::zeros(d + 1, d + 1);
        for block in x.chunks(BLOCK * d) {
            let rows = with_ones(block, d);
            let rows = MatRef::from_row_major_slice(&rows, block.len() / d, d + 1);
            matmul(gram.as_mut(), Accum::Add, rows.transpose(), rows, 1.0 / n as f64, PAR);
        }
        for i in 0..=d {
            gram[(i, i)] += JITTER * gram[(i, i)] + f64::MIN_POSITIVE.sqrt();
        }
        let l = dense::cholesky(gram.as_ref());
        let l = l.ok_or_else(|| Error::Internal("the second moments of states cannot be factored".into()))?;
        Ok(Self { turn: dense::inverse_of_upper(l.transpose()), d })
    }

    /// The rows `x` `[n, d]` in its coordinates.
    pub fn apply(&self, x: &[f32]) -> Whitened {
        let (n, width) = (x.len() / self.d, self.d + 1);
        let mut rows = Vec::with_capacity(n * width);
        for block in x.chunks(BLOCK * self.d) {
            let wide = with_ones(block, self.d);
            let wide = MatRef::from_row_major_slice(&wide, block.len() / self.d, width);
            let turned = dense::product(wide, self.turn.as_ref());
            rows.extend(
                (0..turned.nrows()).flat_map(|i| (0..width).map(move |j| (i, j))).map(|at| turned[at] as f32),
            );
        }
        let rows = Matrix::new(&rows, n, width);
        Whitened { rows: Packed::pack(rows, Precision::F32), turned: Packed::pack(rows.t(), Precision::F32) }
    }

    /// The map of states that `map` `[d_out, d + 1]` is in its coordinates.
    pub fn map(&self, map: &[f32]) -> Result<LinearMap> {
        let width = self.d + 1;
        let map = widened(map);
        let map = MatRef::from_row_major_slice(&map, map.len() / width, width);
        let map = dense::product(map, self.turn.transpose());
        let n = map.nrows();
        let weight = (0..n).flat_map(|i| (0..self.d).map(move |j| (i, j))).map(|at| map[at] as f32);
        let bias = (0..n).map(|i| map[(i, self.d)] as f32).collect();
        Ok(LinearMap::from_rows(weight.collect(), n, self.d)?.with_bias(bias)?)
    }
}

fn with_ones(x: &[f32], d: usize) -> Vec<f64> {
    x.chunks_exact(d).flat_map(|row| row.iter().map(|x| f64::from(*x)).chain([1.0])).collect()
}

impl Whitened {
    fn n(&self) -> usize {
        self.rows.lanes()
    }

    /// What `map` `[d_out, width]` makes of the rows, `[n, d_out]`.
    pub fn image(&self, map: &[f32]) -> Vec<f32> {
        let width = self.rows.depth();
        let map = Packed::pack(Matrix::new(map, map.len() / width, width), Precision::F32);
        let mut out = vec![0f32; self.n() * map.lanes()];
        product(&mut out, Write::Replace, &self.rows, &map, 0..map.lanes());
        out
    }

    /// Mean over the rows of t·xᵀ, for `t` `[n, d_out]`: `[d_out, width]`. Of targets it is their least squares map.
    pub fn mean_products(&self, t: &[f32]) -> Vec<f32> {
        let d = t.len() / self.n();
        let t = Packed::pack(Matrix::new(t, self.n(), d).t(), Precision::F32);
        let mut out = vec![0f32; d * self.turned.lanes()];
        product(&mut out, Write::Replace, &t, &self.turned, 0..self.turned.lanes());
        let n = self.n() as f32;
        out.iter_mut().for_each(|value| *value /= n);
        out
    }
}

/// The change Δ `[d, width]` that makes the mean over the rows of `g·Δx + ½·(Δx)ᵀ·(F + λ)·(Δx)` least: g a row's gradient, `[n, d]`
/// in all, and F the sum of its factors' outer products, `[n, DRAWS, d]` in all. Preconditioned by the mean of F.
pub(super) fn step(
    x: &Whitened,
    gradient: &[f32],
    factors: &[f32],
    lambda: f64,
    observer: &dyn Observer,
) -> Result<Vec<f32>> {
    let n = x.n();
    let d = gradient.len() / n;
    let precondition = inverse(factors, n, d, lambda)?;
    let bend = |u: &[f32]| -> Vec<f32> {
        let mut out = vec![0f32; u.len()];
        let rows = out.par_chunks_mut(d).zip(u.par_chunks(d)).zip(factors.par_chunks(DRAWS * d));
        rows.for_each(|((out, u), factors)| add_outer(u, factors, lambda as f32, out));
        x.mean_products(&out)
    };
    let conditioned = |r: &[f32]| -> Vec<f32> {
        let width = r.len() / d;
        let mut out = vec![0f32; r.len()];
        let r = Packed::pack(Matrix::new(r, d, width).t(), Precision::F32);
        product(&mut out, Write::Replace, &precondition, &r, 0..width);
        out
    };
    let mut r: Vec<f32> = x.mean_products(gradient).iter().map(|g| -g).collect();
    let mut change = vec![0f32; r.len()];
    let mut z = conditioned(&r);
    let mut direction = z.clone();
    let begin = dot(&r, &z);
    let mut left = begin;
    for _ in 0..MOST_PRODUCTS {
        check(observer)?;
        if left <= SOLVED * begin || left <= 0.0 {
            break;
        }
        let image = bend(&x.image(&direction));
        let bent = dot(&direction, &image);
        if bent <= 0.0 {
            break;
        }
        let far = (left / bent) as f32;
        change.iter_mut().zip(&direction).for_each(|(change, p)| *change += far * p);
        r.iter_mut().zip(&image).for_each(|(r, image)| *r -= far * image);
        z = conditioned(&r);
        let next = dot(&r, &z);
        let kept = (next / left) as f32;
        direction.iter_mut().zip(&z).for_each(|(p, z)| *p = z + kept * *p);
        left = next;
    }
    Ok(change)
}

/// (mean F + λ)⁻¹, its rows packed.
fn inverse(factors: &[f32], n: usize, d: usize, lambda: f64) -> Result<PackedRows> {
    let mut mean = Mat::<f64>::zeros(d, d);
    for block in factors.chunks(BLOCK * d) {
        let rows = widened(block);
        let rows = MatRef::from_row_major_slice(&rows, block.len() / d, d);
        matmul(mean.as_mut(), Accum::Add, rows.transpose(), rows, 1.0 / n as f64, PAR);
    }
    (0..d).for_each(|i| mean[(i, i)] += lambda);
    let l = dense::cholesky(mean.as_ref());
    let l = l.ok_or_else(|| Error::Internal("a mean Fisher information cannot be factored".into()))?;
    let upper = dense::inverse_of_upper(l.transpose());
    let inverse = dense::product(upper.as_ref(), upper.transpose());
    let rows: Vec<f32> =
        (0..d).flat_map(|i| (0..d).map(move |j| (i, j))).map(|at| inverse[at] as f32).collect();
    Ok(Packed::pack(Matrix::new(&rows, d, d), Precision::F32))
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.par_chunks(1 << 14)
        .zip(b.par_chunks(1 << 14))
        .map(|(a, b)| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>())
        .collect::<Vec<f64>>()
        .iter()
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn random(n: usize, seed: u64) -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..n).map(|_| rng.random_range(-1.0f32..1.0)).collect()
    }

    #[test]
    fn means_of_products_are_least_squares_maps() {
        let (n, d) = (300, 5);
        let x = random(n * d, 1);
        // y = 2x₀ − x₁ + 3, and x₂ − 1.
        let y: Vec<f32> = x.chunks_exact(d).flat_map(|x| [2.0 * x[0] - x[1] + 3.0, x[2] - 1.0]).collect();
        let whitening = Whitening::of(&x, d).unwrap();
        let map = whitening.map(&whitening.apply(&x).mean_products(&y)).unwrap();
        let want = [2.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0];
        let off = |(got, want): (&f32, &f32)| (got - want).abs();
        assert!(map.weight().iter().zip(&want).map(off).fold(0.0, f32::max) < 1e-4, "{map:?}");
        assert!(map.bias().unwrap().iter().zip(&[3.0, -1.0]).map(off).fold(0.0, f32::max) < 1e-4, "{map:?}");
    }

    /// Nothing is left of the gradient behind the step.
    #[test]
    fn a_step_goes_to_the_least() {
        let (n, d) = (400, 6);
        let (x, gradient, factors) = (random(n * d, 1), random(n * d, 2), random(n * DRAWS * d, 3));
        let x = Whitening::of(&x, d).unwrap().apply(&x);
        let lambda = 0.3;
        let change = step(&x, &gradient, &factors, lambda, &Silent).unwrap();
        let moved = x.image(&change);
        let mut slope = gradient.clone();
        for (row, (slope, moved)) in slope.chunks_exact_mut(d).zip(moved.chunks_exact(d)).enumerate() {
            let mut bent = vec![0f32; d];
            add_outer(moved, &factors[row * DRAWS * d..][..DRAWS * d], lambda as f32, &mut bent);
            slope.iter_mut().zip(bent).for_each(|(slope, bent)| *slope += bent);
        }
        let norm = |values: &[f32]| dot(values, values).sqrt();
        let (left, begin) = (norm(&x.mean_products(&slope)), norm(&x.mean_products(&gradient)));
        assert!(left < 0.02 * begin, "{left} of {begin}");
    }
}
