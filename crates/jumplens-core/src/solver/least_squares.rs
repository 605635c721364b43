//! Linear least squares without intercept, in passes over blocks of rows: one factorisation of the source states, any
//! number of targets, and memory that does not grow with the number of rows.
//!
//! The solution is the one of a singular value decomposition of the source in f64 with singular values at or below
//! 10⁻⁶·σ₁ taken as zero, and of minimum norm. Either route to it ends in a whitening `T` such that the columns of `X·T` are
//! orthonormal and span those of `X` that count; then `Aᵀ = T·((X·T)ᵀ·Y)` for every target, whose one large product is done
//! in f32, which orthonormal columns allow. Where the source has full rank by a clear margin, `T = D⁻¹·R⁻¹` by Cholesky-QR
//! of the column-scaled source (`D⁻¹XᵀXD⁻¹ = RᵀR` in f64); elsewhere `T = V·Σ⁻¹`, from the decomposition of the triangular
//! factor of `X`.

use crate::error::Result;
use crate::linalg::Precision;
use crate::linalg::dense::{
    Eigen, PAR, Svd, cholesky, inverse_of_upper, symmetric_eigen, thin_svd, triangle_of,
};
use crate::linalg::matmul::{Matrix, Packed, PackedRows, PackedWeights, Write, product};
use crate::linalg::parallel::widened;
use crate::map::LinearMap;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, Mat, MatMut, MatRef};
use rayon::prelude::*;

/// Rows in a block: enough for the sums over one to be worth adding up in f64.
pub const BLOCK: usize = 4096;

/// Singular values at or below this share of the largest count as zero.
const CUTOFF: f64 = 1e-6;
/// The Cholesky route is taken where σ_min / σ_max is above this: clear of [`CUTOFF`], whatever the estimate's error.
const CLEAR_OF_CUTOFF: f64 = 4.0 * CUTOFF;
/// Above this condition κ of the scaled source, `X·T` is orthonormalised a second time: rounding leaves its columns off by
/// some 10⁻¹⁶·κ², which is to be no more than what f32 products bring in.
const WELL_CONDITIONED: f64 = 1e4;

/// A factorisation in the making: it takes one to three passes over the source.
#[derive(Debug)]
pub struct Factoring {
    d: usize,
    pass: Pass,
}

/// What a pass adds up, in f64.
#[derive(Debug)]
enum Pass {
    /// The lower triangle of `XᵀX`.
    Gram(Mat<f64>),
    /// The lower triangle of `(X·T)ᵀ(X·T)`, for a `T` that rounding has kept from whitening well enough.
    Again(Whitening, Mat<f64>),
    /// The triangular factor of `X`.
    Triangle(Mat<f64>),
}

/// What a pass leads to.
#[derive(Debug)]
pub enum Outcome {
    /// The source has to be gone through again.
    AnotherPass(Factoring),
    /// That was the last pass.
    Whitening(Whitening),
}

impl Factoring {
    /// Of sources of `d` columns.
    pub fn new(d: usize) -> Self {
        Self { d, pass: Pass::Gram(Mat::zeros(d, d)) }
    }

    /// Factors a source that is in memory, row-major `[n, d]`, all finite.
    pub fn of(x: &[f32], d: usize) -> Result<Whitening> {
        let mut factoring = Self::new(d);
        loop {
            x.chunks(BLOCK * d).try_for_each(|block| factoring.add(block))?;
            factoring = match factoring.finish_pass()? {
                Outcome::AnotherPass(factoring) => factoring,
                Outcome::Whitening(whitening) => return Ok(whitening),
            }
        }
    }

    /// Takes a block of rows into the pass, row-major `[n, d]`, all finite.
    pub fn add(&mut self, x: &[f32]) -> Result<()> {
        let d = self.d;
        match &mut self.pass {
            Pass::Gram(gram) => add_gram(gram, Accum::Add, &widened(x)),
            Pass::Again(whitening, gram) => add_gram(gram, Accum::Add, &whitening.apply(x)),
            Pass::Triangle(r) => {
                let above = r.nrows();
                let stacked = Mat::from_fn(above + x.len() / d, d, |i, j| {
                    if i < above { r[(i, j)] } else { f64::from(x[(i - above) * d + j]) }
                });
                *r = triangle_of(stacked);
            }
        }
        Ok(())
    }

    /// Ends the pass: every block has been added once.
    pub fn finish_pass(self) -> Result<Outcome> {
        let d = self.d;
        let pass = match self.pass {
            Pass::Gram(gram) => match by_cholesky(&gram) {
                Some((whitening, true)) => return Ok(Outcome::Whitening(whitening)),
                Some((whitening, false)) => Pass::Again(whitening, Mat::zeros(d, d)),
                None => Pass::Triangle(Mat::zeros(0, d)),
            },
            Pass::Again(whitening, gram) => match inverse_factor(&gram) {
                Some(again) => {
                    let t = times(whitening.t.as_ref(), &again);
                    return Ok(Outcome::Whitening(Whitening { t, is_triangular: true }));
                }
                None => Pass::Triangle(Mat::zeros(0, d)),
            },
            Pass::Triangle(r) => return Ok(Outcome::Whitening(by_decomposition(&r)?)),
        };
        Ok(Outcome::AnotherPass(Self { d, pass }))
    }
}

/// `T` `[d, rank]`: the columns of `X·T` are orthonormal and span those of the source `X` that count.
#[derive(Debug, Clone)]
pub struct Whitening {
    t: Mat<f64>,
    /// True where the entries below the diagonal are zero.
    is_triangular: bool,
}

impl Whitening {
    /// Of a source known by the lower triangle of `XᵀX` alone: by Cholesky where the rank is full by a clear margin, and
    /// from the eigenvalues of the column-scaled sums elsewhere. Squaring has lost what lies below some 10⁻⁷ of the scaled
    /// source's largest singular value, and that counts as zero.
    pub fn of_gram(gram: &Mat<f64>) -> Result<Self> {
        if let Some((whitening, _)) = by_cholesky(gram) {
            return Ok(whitening);
        }
        let d = gram.nrows();
        let norms: Vec<f64> = (0..d).map(|i| gram[(i, i)].sqrt()).collect();
        let scaled = Mat::from_fn(d, d, |i, j| match norms[i] * norms[j] {
            0.0 => 0.0,
            both => gram[(i.max(j), i.min(j))] / both,
        });
        let Eigen { values, vectors } = symmetric_eigen(scaled.as_ref())?;
        let noise = d as f64 * 16.0 * f64::EPSILON * values[d - 1].max(0.0);
        let kept: Vec<usize> = (0..d).filter(|i| values[*i] > noise).collect();
        // D⁻¹XᵀXD⁻¹ = W·Λ·Wᵀ, so that Λ^½·Wᵀ·D has the singular values and right vectors of X.
        let root =
            Mat::from_fn(kept.len(), d, |i, j| values[kept[i]].sqrt() * vectors[(j, kept[i])] * norms[j]);
        by_decomposition(&root)
    }

    /// How many singular values of the source count.
    pub fn rank(&self) -> usize {
        self.t.ncols()
    }

    /// The map `A` `[d_out, d]` with `X·Aᵀ = (X·T)·C`, for `C` `[rank, d_out]`: where `C` are a target's coordinates, the one
    /// that minimises `‖X·Aᵀ − Y‖`.
    pub fn map(&self, coordinates: MatRef<f64>) -> Result<LinearMap> {
        let (d, d_out) = (self.t.nrows(), coordinates.ncols());
        let mut map = vec![0.0; d_out * d];
        faer::linalg::matmul::matmul(
            MatMut::from_row_major_slice_mut(&mut map, d_out, d),
            Accum::Replace,
            coordinates.transpose(),
            self.t.transpose(),
            1.0,
            PAR,
        );
        LinearMap::from_rows(map.into_iter().map(|value| value as f32).collect(), d_out, d)
    }

    /// `T` `[d, rank]`, and whether the entries below its diagonal are zero.
    pub(super) fn t(&self) -> (MatRef<'_, f64>, bool) {
        (self.t.as_ref(), self.is_triangular)
    }

    /// `x·T` for rows of the source, row-major.
    fn apply(&self, x: &[f32]) -> Vec<f64> {
        let (d, rank) = (self.t.nrows(), self.rank());
        let n = x.len() / d;
        let x = widened(x);
        let mut out = vec![0.0; n * rank];
        let structure = match self.is_triangular {
            true => BlockStructure::TriangularUpper,
            false => BlockStructure::Rectangular,
        };
        triangular::matmul(
            MatMut::from_row_major_slice_mut(&mut out, n, rank),
            BlockStructure::Rectangular,
            Accum::Replace,
            MatRef::from_row_major_slice(&x, n, d),
            BlockStructure::Rectangular,
            self.t.as_ref(),
            structure,
            1.0,
            PAR,
        );
        out
    }
}

/// A target `Y` `[n, d_out]` in the coordinates of the whitened source: `(X·T)ᵀ·Y`, `[rank, d_out]`.
pub type Coordinates = Mat<f64>;

/// Maps in the making, from one source to several targets: one more pass.
#[derive(Debug)]
pub struct Solving<'a> {
    whitening: &'a Whitening,
    /// `(X·T)ᵀ·Y` of each target, row-major `[rank, d_out]`.
    coordinates: Vec<Vec<f64>>,
    d_out: usize,
    /// The same over one block, for one target.
    block: Vec<f32>,
}

impl<'a> Solving<'a> {
    /// For so many targets of width `d_out`.
    pub fn new(whitening: &'a Whitening, targets: usize, d_out: usize) -> Self {
        let size = whitening.rank() * d_out;
        Self { whitening, coordinates: vec![vec![0.0; size]; targets], d_out, block: vec![0.0; size] }
    }

    /// Takes a block of rows: the source's `x` `[n, d]`, and every target's `[n, d_out]`, all row-major.
    pub fn add<Y: AsRef<[f32]>>(&mut self, x: &[f32], targets: impl IntoIterator<Item = Y>) {
        let (n, rank) = (x.len() / self.whitening.t.nrows(), self.whitening.rank());
        let basis: Vec<f32> = self.whitening.apply(x).into_par_iter().map(|value| value as f32).collect();
        let basis: PackedRows = Packed::pack(Matrix::new(&basis, n, rank).t(), Precision::F32);
        for (coordinates, y) in self.coordinates.iter_mut().zip(targets) {
            let y: PackedWeights = Packed::pack(Matrix::new(y.as_ref(), n, self.d_out).t(), Precision::F32);
            product(&mut self.block, Write::Replace, &basis, &y, 0..self.d_out);
            coordinates.par_iter_mut().zip(&self.block).with_min_len(1 << 12).for_each(|(sum, value)| {
                *sum += f64::from(*value);
            });
        }
    }

    /// `(X·T)ᵀ·Y`, target by target.
    pub fn finish(self) -> Vec<Coordinates> {
        let (rank, d_out) = (self.whitening.rank(), self.d_out);
        let mat = |values: Vec<f64>| MatRef::from_row_major_slice(&values, rank, d_out).to_owned();
        self.coordinates.into_iter().map(mat).collect()
    }
}

/// The fast route, and whether it needs no second pass; `None` where the rank is not full by a clear margin.
fn by_cholesky(gram: &Mat<f64>) -> Option<(Whitening, bool)> {
    let d = gram.nrows();
    let norms: Vec<f64> = (0..d).map(|i| gram[(i, i)].sqrt()).collect();
    if norms.contains(&0.0) {
        return None;
    }
    let scaled = Mat::from_fn(d, d, |i, j| if i < j { 0.0 } else { gram[(i, j)] / (norms[i] * norms[j]) });
    let inverse = inverse_factor(&scaled)?;
    let t = Mat::from_fn(d, d, |i, j| inverse[(i, j)] / norms[i]);

    // X = (X·T)·T⁻¹, so the singular values of X are those of T⁻¹. Frobenius norms bound both ends from the safe side, and
    // often suffice.
    let total = norms.iter().map(|norm| norm * norm).sum::<f64>().sqrt();
    if 1.0 / t.norm_l2() <= CLEAR_OF_CUTOFF * total {
        let sigma_min = 1.0 / spectral_norm(t.as_ref());
        let whole = Mat::from_fn(d, d, |i, j| gram[(i.max(j), i.min(j))]);
        let sigma_max = spectral_norm(whole.as_ref()).sqrt();
        // Written so that NaN takes the slow route too.
        let clear = sigma_min > CLEAR_OF_CUTOFF * sigma_max;
        if !clear {
            return None;
        }
    }
    let root = (d as f64).sqrt();
    let is_well_conditioned = inverse.norm_l2() * root <= WELL_CONDITIONED
        || spectral_norm(inverse.as_ref()) * root <= WELL_CONDITIONED;
    Some((Whitening { t, is_triangular: true }, is_well_conditioned))
}

/// The route that any rank can take, from the triangular factor of the source.
fn by_decomposition(r: &Mat<f64>) -> Result<Whitening> {
    let Svd { sigma, v, .. } = thin_svd(r.as_ref())?;
    let largest = sigma.first().copied().unwrap_or(0.0);
    let rank = sigma.iter().take_while(|s| **s > CUTOFF * largest).count();
    let t = Mat::from_fn(r.ncols(), rank, |i, j| v[(i, j)] / sigma[j]);
    Ok(Whitening { t, is_triangular: false })
}

/// Adds the lower triangle of `xᵀx`, or puts it in the place, for row-major `x`.
pub(super) fn add_gram(gram: &mut Mat<f64>, accum: Accum, x: &[f64]) {
    let d = gram.ncols();
    let x = MatRef::from_row_major_slice(x, x.len() / d, d);
    triangular::matmul(
        gram.as_mut(),
        BlockStructure::TriangularLower,
        accum,
        x.transpose(),
        BlockStructure::Rectangular,
        x,
        BlockStructure::Rectangular,
        1.0,
        PAR,
    );
}

/// `R⁻¹`, upper triangular, for `gram = RᵀR` given by its lower triangle; `None` where it is not positive definite.
fn inverse_factor(gram: &Mat<f64>) -> Option<Mat<f64>> {
    Some(inverse_of_upper(cholesky(gram.as_ref())?.transpose()))
}

/// The product of two upper triangles.
fn times(a: MatRef<f64>, b: &Mat<f64>) -> Mat<f64> {
    let mut out = Mat::zeros(a.nrows(), b.ncols());
    triangular::matmul(
        out.as_mut(),
        BlockStructure::TriangularUpper,
        Accum::Replace,
        a,
        BlockStructure::TriangularUpper,
        b.as_ref(),
        BlockStructure::TriangularUpper,
        1.0,
        PAR,
    );
    out
}

/// The largest singular value to within a third, and mostly much closer, from below: power iteration on `MᵀM`.
fn spectral_norm(m: MatRef<f64>) -> f64 {
    let d = m.ncols();
    // A start that is not orthogonal to anything by accident.
    let mut v = faer::Col::from_fn(d, |i| 1.0 + ((i * 7919) % 101) as f64 / 101.0);
    let mut norm = 0.0;
    for _ in 0..16 {
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

    fn solve(whitening: &Whitening, x: &[f32], y: &[f32], d_out: usize) -> LinearMap {
        let d = x.len() / (y.len() / d_out);
        let mut solving = Solving::new(whitening, 1, d_out);
        for (x, y) in x.chunks(BLOCK * d).zip(y.chunks(BLOCK * d_out)) {
            solving.add(x, [y]);
        }
        whitening.map(solving.finish()[0].as_ref()).unwrap()
    }

    /// By decomposition, whatever the rank.
    fn factor_slowly(x: &[f32], d: usize) -> Whitening {
        let mut factoring = Factoring { d, pass: Pass::Triangle(Mat::zeros(0, d)) };
        x.chunks(29 * d).for_each(|block| factoring.add(block).unwrap());
        match factoring.finish_pass().unwrap() {
            Outcome::Whitening(whitening) => whitening,
            Outcome::AnotherPass(_) => panic!("a decomposition takes one pass"),
        }
    }

    fn weights(map: &LinearMap) -> Vec<f32> {
        map.weight().to_vec()
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
        crate::linalg::matmul::matmul(
            &mut y,
            Write::Replace,
            Matrix::new(&x, n, d),
            Matrix::new(&truth, d_out, d).t(),
        );
        let solver = Factoring::of(&x, d).unwrap();
        assert_eq!(solver.rank(), d);
        for (got, want) in weights(&solve(&solver, &x, &y, d_out)).iter().zip(&truth) {
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
        let solver = Factoring::of(&x, d).unwrap();
        assert_eq!(solver.rank(), 2);
        for (got, want) in weights(&solve(&solver, &x, &y, 1)).iter().zip([2.0, 2.0, -1.0]) {
            assert!((got - want).abs() < 1e-5, "{got} against {want}");
        }
    }

    #[test]
    fn fewer_samples_than_coordinates_interpolates() {
        let (n, d) = (7, 20);
        let (x, y) = (random(n, d, 4), random(n, 2, 5));
        let solver = Factoring::of(&x, d).unwrap();
        assert_eq!(solver.rank(), n);
        assert!(residual(&x, &y, d, &weights(&solve(&solver, &x, &y, 2)), 2) < 1e-9);
    }

    #[test]
    fn zero_source_gives_the_zero_map() {
        let solver = Factoring::of(&[0.0; 40], 4).unwrap();
        assert_eq!(solver.rank(), 0);
        assert!(weights(&solve(&solver, &[0.0; 40], &random(10, 2, 6), 2)).iter().all(|w| *w == 0.0));
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
            assert_eq!(Factoring::of(&x, 6).unwrap().rank(), rank, "smallest {smallest}");
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
            let fast = Factoring::of(&x, d).unwrap();
            let slow = factor_slowly(&x, d);
            prop_assert_eq!(fast.rank(), slow.rank());
            let fit = |solver: &Whitening| residual(&x, &y, d, &weights(&solve(solver, &x, &y, 3)), 3);
            prop_assert!((fit(&fast) - fit(&slow)).abs() <= 1e-6 * total, "{} against {}", fit(&fast), fit(&slow));
        }
    }
    /// Sources as models make them, and worse.
    #[derive(Debug, Clone, Copy)]
    enum Source {
        Random,
        /// A product of two thin factors.
        RankDeficient,
        /// Columns of scales over twelve decades.
        BadlyScaled,
        /// A few coordinates 10⁴ times the others.
        Outliers,
        /// Singular values over five decades, in directions of no coordinate's own.
        IllConditioned,
        /// One to three rows and columns.
        Tiny,
    }

    fn source(kind: Source, seed: u64) -> (Vec<f32>, usize) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let d = match kind {
            Source::Tiny => rng.random_range(1..4u64) as usize,
            _ => rng.random_range(4..24u64) as usize,
        };
        let n = match kind {
            Source::Tiny => rng.random_range(1..4u64) as usize,
            _ => rng.random_range(2..9u64) as usize * d / 2,
        };
        let mut x = random(n, d, seed + 1);
        match kind {
            Source::Random | Source::Tiny => {}
            Source::RankDeficient => {
                let rank = d.div_ceil(3);
                let (left, right) = (random(n, rank, seed + 2), random(rank, d, seed + 3));
                let product =
                    |i: usize, j: usize| (0..rank).map(|k| left[i * rank + k] * right[k * d + j]).sum();
                x = (0..n * d).map(|at| product(at / d, at % d)).collect();
            }
            Source::BadlyScaled => {
                let scales: Vec<f32> = (0..d).map(|_| 10f32.powf(rng.random_range(-6.0..6.0))).collect();
                x.iter_mut().enumerate().for_each(|(at, value)| *value *= scales[at % d]);
            }
            Source::Outliers => {
                x.iter_mut().enumerate().filter(|(at, _)| at % d < 2).for_each(|(_, value)| *value *= 1e4);
            }
            Source::IllConditioned => {
                let wide = Mat::from_fn(n, d, |i, j| f64::from(x[i * d + j]));
                let svd = wide.thin_svd().unwrap();
                let rank = svd.S().column_vector().nrows();
                let sigma = |k: usize| 10f64.powf(-5.0 * k as f64 / (rank - 1).max(1) as f64);
                let scaled = Mat::from_fn(n, rank, |i, k| svd.U()[(i, k)] * sigma(k));
                let product = scaled * svd.V().transpose();
                x = (0..n * d).map(|at| product[(at / d, at % d)] as f32).collect();
            }
        }
        (x, d)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn any_source_fits_as_by_the_decomposition_of_the_whole(
            kind in prop::sample::select(vec![
                Source::Random, Source::RankDeficient, Source::BadlyScaled, Source::Outliers, Source::IllConditioned,
                Source::Tiny,
            ]),
            seed in 0..1_000_000u64,
        ) {
            const D_OUT: usize = 3;
            let (x, d) = source(kind, seed);
            let n = x.len() / d;
            let y = random(n, D_OUT, seed + 9);
            let wide = Mat::from_fn(n, d, |i, j| f64::from(x[i * d + j]));
            let svd = wide.thin_svd().unwrap();
            let sigma: Vec<f64> = svd.S().column_vector().iter().copied().collect();
            // Whether a singular value next to the cutoff counts is up to rounding.
            let share = |s: &f64| s / sigma[0];
            prop_assume!(sigma.iter().all(|s| !(0.9e-6..1.1e-6).contains(&share(s))));
            let kept: Vec<usize> = (0..sigma.len()).filter(|k| share(&sigma[*k]) > CUTOFF).collect();
            let u = Mat::from_fn(n, kept.len(), |i, k| svd.U()[(i, kept[k])]);
            let target = Mat::from_fn(n, D_OUT, |i, j| f64::from(y[i * D_OUT + j]));
            let expected = &u * (u.transpose() * &target);

            let whitening = Factoring::of(&x, d).unwrap();
            prop_assert_eq!(whitening.rank(), kept.len(), "{:?}: {:?}", kind, sigma);
            let mut solving = Solving::new(&whitening, 1, D_OUT);
            solving.add(&x, [&y]);
            let coordinates = solving.finish().remove(0);
            let basis = whitening.apply(&x);
            let got = MatRef::from_row_major_slice(&basis, n, whitening.rank()) * &coordinates;
            let scale = target.norm_l2();
            let miss = |predicted: &Mat<f64>| (predicted - &expected).norm_l2() / scale;
            // Squared, this is what r² is off by.
            prop_assert!(miss(&got) < 1e-6, "{kind:?}: {}", miss(&got));

            // As f32 the map's entries lose digits that the condition of the source makes up for in size.
            let map = whitening.map(coordinates.as_ref()).unwrap();
            let weight = weights(&map);
            let condition = sigma[0] / kept.last().map_or(sigma[0], |k| sigma[*k]);
            let image = |i: usize, j: usize| -> f64 {
                (0..d).map(|k| f64::from(x[i * d + k]) * f64::from(weight[j * d + k])).sum()
            };
            let rounded = Mat::from_fn(n, D_OUT, image);
            let bound = 1e-6 + f64::from(f32::EPSILON) * condition.min(1e5);
            prop_assert!(miss(&rounded) < bound, "{kind:?}: {} with condition {condition}", miss(&rounded));
        }
    }
}
