//! Weighted least squares of the changes that a layer has to make, from sums: `Δ = argmin Σ w·‖t − Δ·x‖² + λ·‖Δ‖²`. What is
//! solved for is a change of what is there, so that λ draws towards the model as it is.

use crate::Result;
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef};
use jumplens_core::linalg::dense::{self, Eigen, PAR};
use jumplens_core::linalg::parallel::widened;

/// Sums over rows x of one source and rows t of what is missing, in f64. With an intercept, x has a coordinate 1 at the end.
pub(super) struct Sums {
    /// Σ w·x·xᵀ: the lower triangle.
    pub gram: Mat<f64>,
    /// Σ w·x·tᵀ, `[x, t]`.
    pub cross: Mat<f64>,
    /// Σ w·‖t‖².
    pub squares: f64,
    intercept: bool,
}

impl Sums {
    /// Of no rows yet: x of width `d_in`, t of width `d_out`.
    pub fn new(d_in: usize, d_out: usize, intercept: bool) -> Self {
        let width = d_in + usize::from(intercept);
        Self { gram: Mat::zeros(width, width), cross: Mat::zeros(width, d_out), squares: 0.0, intercept }
    }

    /// Takes in rows: `x` `[n, d_in]` and `t` `[n, d_out]`, row-major, each with its weight.
    pub fn add(&mut self, x: &[f32], t: &[f32], weights: &[f64]) {
        let n = weights.len();
        if n == 0 {
            return;
        }
        let (x, t) = (scaled(x, weights, self.intercept), scaled(t, weights, false));
        self.squares += t.iter().map(|t| t * t).sum::<f64>();
        let x = MatRef::from_row_major_slice(&x, n, self.gram.nrows());
        let t = MatRef::from_row_major_slice(&t, n, self.cross.ncols());
        add_gram(&mut self.gram, x);
        matmul(self.cross.as_mut(), Accum::Add, x.transpose(), t, 1.0, PAR);
    }

    /// Σ w·‖t − Δ·x‖², for `Δᵀ`.
    fn missed(&self, change: &Mat<f64>) -> f64 {
        let width = self.gram.nrows();
        let gram = Mat::from_fn(width, width, |i, j| self.gram[(i.max(j), i.min(j))]);
        let image = dense::product(gram.as_ref(), change.as_ref());
        let dot = |a: &Mat<f64>, b: &Mat<f64>| -> f64 {
            (0..a.ncols()).map(|j| (0..a.nrows()).map(|i| a[(i, j)] * b[(i, j)]).sum::<f64>()).sum()
        };
        self.squares - 2.0 * dot(change, &self.cross) + dot(change, &image)
    }
}

/// Adds the lower triangle of `xᵀx`.
fn add_gram(gram: &mut Mat<f64>, x: MatRef<f64>) {
    use faer::linalg::matmul::triangular::{self, BlockStructure};
    triangular::matmul(
        gram.as_mut(),
        BlockStructure::TriangularLower,
        Accum::Add,
        x.transpose(),
        BlockStructure::Rectangular,
        x,
        BlockStructure::Rectangular,
        1.0,
        PAR,
    );
}

/// Rows times the roots of their weights, with a coordinate 1 at the end where there is an `intercept`.
fn scaled(rows: &[f32], weights: &[f64], intercept: bool) -> Vec<f64> {
    let d = rows.len() / weights.len();
    let mut out = Vec::with_capacity(weights.len() * (d + usize::from(intercept)));
    let wide = widened(rows);
    for (row, weight) in wide.chunks_exact(d).zip(weights) {
        let root = weight.sqrt();
        out.extend(row.iter().map(|x| x * root));
        out.extend(intercept.then_some(root));
    }
    out
}

/// The shares of the mean square of a coordinate of x that λ is looked for among.
const SHARES: [f64; 8] = [0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];

/// `Δᵀ` `[x, t]`, with the intercept in the last row where there is one, for λ that share of the mean square of a coordinate of
/// x.
pub(super) fn solve(sums: &Sums, share: f64) -> Result<Mat<f64>> {
    let width = sums.gram.nrows();
    let lambda = share * (0..width).map(|i| sums.gram[(i, i)]).sum::<f64>() / width as f64;
    let mut gram = sums.gram.clone();
    (0..width).for_each(|i| gram[(i, i)] += lambda);
    if let Some(l) = dense::cholesky(gram.as_ref()).filter(is_clear) {
        let mut change = sums.cross.clone();
        faer::linalg::triangular_solve::solve_lower_triangular_in_place(l.as_ref(), change.as_mut(), PAR);
        faer::linalg::triangular_solve::solve_upper_triangular_in_place(l.transpose(), change.as_mut(), PAR);
        return Ok(change);
    }
    let eigen = dense::symmetric_eigen(sums.gram.as_ref())?;
    let along = dense::product(eigen.vectors.transpose(), sums.cross.as_ref());
    Ok(by_eigen(&eigen, along.as_ref(), lambda))
}

/// Whether a triangle is far enough from singular for its solution to be worth its digits.
fn is_clear(l: &Mat<f64>) -> bool {
    let diagonal = (0..l.nrows()).map(|i| l[(i, i)].abs());
    let (low, high) = diagonal.fold((f64::INFINITY, 0.0f64), |(low, high), x| (low.min(x), high.max(x)));
    low > 1e-7 * high
}

/// `V·(Λ + λ)⁻¹·along`, directions of nothing left out.
fn by_eigen(eigen: &Eigen, along: MatRef<f64>, lambda: f64) -> Mat<f64> {
    let n = eigen.values.len();
    let noise = n as f64 * 16.0 * f64::EPSILON * eigen.values.last().copied().unwrap_or_default().max(0.0);
    let shrunk = Mat::from_fn(n, along.ncols(), |i, j| match eigen.values[i] > noise {
        true => along[(i, j)] / (eigen.values[i] + lambda),
        false => 0.0,
    });
    dense::product(eigen.vectors.as_ref(), shrunk.as_ref())
}

/// With the λ whose Δ misses least of `held`, sums over other rows.
pub(super) fn solve_held(sums: &Sums, held: &Sums) -> Result<Mat<f64>> {
    let width = sums.gram.nrows();
    let mean = (0..width).map(|i| sums.gram[(i, i)]).sum::<f64>() / width as f64;
    let eigen = dense::symmetric_eigen(sums.gram.as_ref())?;
    let along = dense::product(eigen.vectors.transpose(), sums.cross.as_ref());
    let mut best: Option<(f64, Mat<f64>)> = None;
    for share in SHARES {
        let change = by_eigen(&eigen, along.as_ref(), share * mean);
        let miss = held.missed(&change);
        if best.as_ref().is_none_or(|(least, _)| miss < *least) {
            best = Some((miss, change));
        }
    }
    best.map(|(_, change)| change).ok_or_else(|| crate::Error::Internal("no λ was tried".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn random(n: usize, seed: u64) -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..n).map(|_| rng.random_range(-1.0f32..1.0)).collect()
    }

    /// The gradient of what is minimised is nothing at the solution.
    #[test]
    fn solutions_have_no_gradient() {
        let (n, d, e) = (60, 7, 4);
        let (x, t) = (random(n * d, 1), random(n * e, 2));
        let weights: Vec<f64> = random(n, 3).iter().map(|w| f64::from(w + 1.5)).collect();
        let mut sums = Sums::new(d, e, true);
        sums.add(&x[..20 * d], &t[..20 * e], &weights[..20]);
        sums.add(&x[20 * d..], &t[20 * e..], &weights[20..]);
        let mean = (0..=d).map(|i| sums.gram[(i, i)]).sum::<f64>() / (d + 1) as f64;
        for share in [0.0, 0.1] {
            let change = solve(&sums, share).unwrap();
            let mut gradient = Mat::<f64>::zeros(d + 1, e);
            let mut missed = 0.0;
            for row in 0..n {
                let at = |i: usize| if i == d { 1.0 } else { f64::from(x[row * d + i]) };
                for j in 0..e {
                    let predicted: f64 = (0..=d).map(|i| at(i) * change[(i, j)]).sum();
                    let miss = predicted - f64::from(t[row * e + j]);
                    missed += weights[row] * miss * miss;
                    (0..=d).for_each(|i| gradient[(i, j)] += weights[row] * at(i) * miss);
                }
            }
            assert!((sums.missed(&change) - missed).abs() < 1e-9 * missed);
            for i in 0..=d {
                for j in 0..e {
                    let whole = gradient[(i, j)] + share * mean * change[(i, j)];
                    assert!(whole.abs() < 1e-9, "{whole}");
                }
            }
        }
    }

    #[test]
    fn the_lambda_is_the_one_that_misses_least_of_others() {
        let (n, d) = (30, 12);
        let of = |seed| {
            let mut sums = Sums::new(d, d, false);
            sums.add(&random(n * d, seed), &random(n * d, seed + 1), &vec![1.0; n]);
            sums
        };
        let (sums, held) = (of(1), of(3));
        let chosen = held.missed(&solve_held(&sums, &held).unwrap());
        let all = SHARES.map(|share| held.missed(&solve(&sums, share).unwrap()));
        assert!(all.iter().all(|miss| chosen <= miss * (1.0 + 1e-9)), "{chosen} of {all:?}");
        assert!(all.iter().any(|miss| *miss > 1.1 * chosen), "{chosen} of {all:?}");
    }

    /// `T* = (XᵀX)⁻¹·Xᵀ·Y` with Y the output f of the last block that is kept, less its state, plus that behind the gap (ReplaceMe,
    /// arXiv 2505.02819, equation 5): by elimination, from states of no particular kind.
    #[test]
    fn the_map_is_replacemes() {
        let (n, d) = (200, 9);
        let (f, before, behind) = (random(n * d, 6), random(n * d, 7), random(n * d, 8));
        let gap: Vec<f32> = behind.iter().zip(&before).map(|(behind, before)| behind - before).collect();
        let mut sums = Sums::new(d, d, false);
        sums.add(&f, &gap, &vec![1.0; n]);
        let change = solve(&sums, 0.0).unwrap();
        let mut rows: Vec<Vec<f64>> = (0..d)
            .map(|i| {
                let along = |of: &dyn Fn(usize, usize) -> f64, j: usize| -> f64 {
                    (0..n).map(|row| f64::from(f[row * d + i]) * of(row, j)).sum()
                };
                let x = |row: usize, j: usize| f64::from(f[row * d + j]);
                let y = |row: usize, j: usize| f64::from(f[row * d + j]) + f64::from(gap[row * d + j]);
                (0..d).map(|j| along(&x, j)).chain((0..d).map(|j| along(&y, j))).collect()
            })
            .collect();
        for i in 0..d {
            let pivot = rows[i][i];
            rows[i].iter_mut().for_each(|x| *x /= pivot);
            let own = rows[i].clone();
            for (other, row) in rows.iter_mut().enumerate().filter(|(other, _)| *other != i) {
                let factor = row[i];
                assert_ne!(other, i);
                row.iter_mut().zip(&own).for_each(|(x, own)| *x -= factor * own);
            }
        }
        for i in 0..d {
            for j in 0..d {
                let ours = change[(i, j)] + f64::from(u8::from(i == j));
                assert!((ours - rows[i][d + j]).abs() < 1e-6 * rows[i][d + j].abs().max(1e-3), "{i} {j}");
            }
        }
    }

    #[test]
    fn a_source_without_full_rank_gets_a_finite_answer() {
        let (n, d) = (40, 5);
        let mut x = random(n * d, 4);
        x.chunks_mut(d).for_each(|row| row[4] = 2.0 * row[0]);
        let t = random(n * d, 5);
        let mut sums = Sums::new(d, d, false);
        sums.add(&x, &t, &vec![1.0; n]);
        let change = solve(&sums, 0.0).unwrap();
        assert!(change.norm_max() < 100.0, "{}", change.norm_max());
    }
}
