//! Dense linear algebra in f64 by faer, told how far to split its work, so that the results are the same bits on any
//! number of threads: what faer does by itself follows the size of the pool that it finds itself in.

use crate::error::{Error, Result};
use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{self, ComputeEigenvectors};
use faer::linalg::svd::{self, ComputeSvdVectors};
use faer::linalg::{cholesky, matmul, qr, triangular_solve};
use faer::{Accum, Mat, MatRef, Par};
use std::fmt::Debug;
use std::num::NonZeroUsize;

/// How many tasks a product is split into at most, whatever the number of threads that share them.
pub const PAR: Par = Par::Rayon(NonZeroUsize::new(8).unwrap());
/// Decompositions are not split: how they are shows in their last bits, which next to singular sources make much of.
const DECOMPOSING: Par = Par::Seq;

/// `A = U·Σ·Vᵀ`, singular values by falling size.
pub struct Svd {
    /// `[rows, min(rows, columns)]`.
    pub u: Mat<f64>,
    /// The singular values.
    pub sigma: Vec<f64>,
    /// `[columns, min(rows, columns)]`.
    pub v: Mat<f64>,
}

/// `A = U·Λ·Uᵀ`, eigenvalues in rising order.
pub struct Eigen {
    /// The eigenvalues.
    pub values: Vec<f64>,
    /// The eigenvectors, a column each.
    pub vectors: Mat<f64>,
}

fn failed<E: Debug>(what: &'static str) -> impl FnOnce(E) -> Error {
    move |error| Error::Decomposition { what, reason: format!("{error:?}") }
}

/// `a·b`.
pub fn product(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Mat<f64> {
    let mut out = Mat::zeros(a.nrows(), b.ncols());
    matmul::matmul(out.as_mut(), Accum::Replace, a, b, 1.0, PAR);
    out
}

/// The thin singular value decomposition.
pub fn thin_svd(a: MatRef<'_, f64>) -> Result<Svd> {
    let (m, n) = a.shape();
    let size = m.min(n);
    let (mut u, mut s, mut v) = (Mat::zeros(m, size), Diag::zeros(size), Mat::zeros(n, size));
    let thin = ComputeSvdVectors::Thin;
    let scratch = svd::svd_scratch::<f64>(m, n, thin, thin, DECOMPOSING, Default::default());
    let (mut memory, left, right) = (MemBuffer::new(scratch), u.as_mut(), v.as_mut());
    svd::svd(
        a,
        s.as_mut(),
        Some(left),
        Some(right),
        DECOMPOSING,
        MemStack::new(&mut memory),
        Default::default(),
    )
    .map_err(failed("a singular value decomposition"))?;
    Ok(Svd { u, sigma: s.column_vector().iter().copied().collect(), v })
}

/// The singular values alone, by falling size.
pub fn singular_values(a: MatRef<'_, f64>) -> Result<Vec<f64>> {
    let (m, n) = a.shape();
    let mut s = Diag::zeros(m.min(n));
    let none = ComputeSvdVectors::No;
    let mut memory =
        MemBuffer::new(svd::svd_scratch::<f64>(m, n, none, none, DECOMPOSING, Default::default()));
    svd::svd(a, s.as_mut(), None, None, DECOMPOSING, MemStack::new(&mut memory), Default::default())
        .map_err(failed("a decomposition for singular values"))?;
    Ok(s.column_vector().iter().copied().collect())
}

/// Of a symmetric matrix, given by its lower triangle.
pub fn symmetric_eigen(a: MatRef<'_, f64>) -> Result<Eigen> {
    let n = a.nrows();
    let (mut vectors, mut values) = (Mat::zeros(n, n), Diag::zeros(n));
    let scratch =
        evd::self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::Yes, DECOMPOSING, Default::default());
    let mut memory = MemBuffer::new(scratch);
    let (stack, columns) = (MemStack::new(&mut memory), Some(vectors.as_mut()));
    evd::self_adjoint_evd(a, values.as_mut(), columns, DECOMPOSING, stack, Default::default())
        .map_err(failed("an eigenvalue decomposition"))?;
    Ok(Eigen { values: values.column_vector().iter().copied().collect(), vectors })
}

/// `L` with `A = L·Lᵀ`, of a symmetric matrix given by its lower triangle; `None` where it is not positive definite.
pub fn cholesky(a: MatRef<'_, f64>) -> Option<Mat<f64>> {
    let n = a.nrows();
    let mut l = Mat::from_fn(n, n, |i, j| if i < j { 0.0 } else { a[(i, j)] });
    let scratch = cholesky::llt::factor::cholesky_in_place_scratch::<f64>(n, DECOMPOSING, Default::default());
    let mut memory = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut memory);
    cholesky::llt::factor::cholesky_in_place(
        l.as_mut(),
        Default::default(),
        DECOMPOSING,
        stack,
        Default::default(),
    )
    .ok()?;
    // The factorisation leaves work of its own above the diagonal.
    for j in 1..n {
        l.col_mut(j).iter_mut().take(j).for_each(|value| *value = 0.0);
    }
    Some(l)
}

/// The inverse of an upper triangle, which is one too.
pub fn inverse_of_upper(r: MatRef<'_, f64>) -> Mat<f64> {
    let mut inverse = Mat::identity(r.nrows(), r.nrows());
    triangular_solve::solve_upper_triangular_in_place(r, inverse.as_mut(), DECOMPOSING);
    inverse
}

/// `R` of `A = Q·R`, `[min(rows, columns), columns]`, upper triangular or trapezoidal.
pub fn triangle_of(mut a: Mat<f64>) -> Mat<f64> {
    let (m, n) = a.shape();
    let size = m.min(n);
    let block = qr::no_pivoting::factor::recommended_block_size::<f64>(m, n);
    let mut coefficients = Mat::zeros(block, size);
    let scratch =
        qr::no_pivoting::factor::qr_in_place_scratch::<f64>(m, n, block, DECOMPOSING, Default::default());
    let mut memory = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut memory);
    qr::no_pivoting::factor::qr_in_place(
        a.as_mut(),
        coefficients.as_mut(),
        DECOMPOSING,
        stack,
        Default::default(),
    );
    Mat::from_fn(size, n, |i, j| if i > j { 0.0 } else { a[(i, j)] })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(m: usize, n: usize) -> Mat<f64> {
        Mat::from_fn(m, n, |i, j| ((i * 37 + j * 101 + i * j) % 89) as f64 / 89.0 - 0.4)
    }

    fn close(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> bool {
        a.shape() == b.shape() && (a - b).norm_max() <= 1e-12 * (1.0 + b.norm_max()) * a.nrows() as f64
    }

    #[test]
    fn factors_give_back_the_matrix() {
        for (m, n) in [(1, 1), (70, 40), (40, 70), (130, 130)] {
            let a = matrix(m, n);
            let Svd { u, sigma, v } = thin_svd(a.as_ref()).unwrap();
            let scaled = Mat::from_fn(m, sigma.len(), |i, j| u[(i, j)] * sigma[j]);
            assert!(close(product(scaled.as_ref(), v.transpose()).as_ref(), a.as_ref()), "{m} × {n}");
            assert!(sigma.is_sorted_by(|a, b| a >= b));
            let alone = singular_values(a.as_ref()).unwrap();
            assert!(alone.iter().zip(&sigma).all(|(a, b)| (a - b).abs() <= 1e-12 * sigma[0]));

            let gram = product(a.transpose(), a.as_ref());
            let r = triangle_of(a);
            assert!(close(product(r.transpose(), r.as_ref()).as_ref(), gram.as_ref()), "{m} × {n}");
            let Eigen { values, vectors } = symmetric_eigen(gram.as_ref()).unwrap();
            let scaled = Mat::from_fn(n, n, |i, j| vectors[(i, j)] * values[j]);
            assert!(close(product(scaled.as_ref(), vectors.transpose()).as_ref(), gram.as_ref()));
            assert!(values.is_sorted());

            let definite = Mat::from_fn(n, n, |i, j| gram[(i, j)] + if i == j { 1.0 } else { 0.0 });
            let l = cholesky(definite.as_ref()).unwrap();
            assert!(close(product(l.as_ref(), l.transpose()).as_ref(), definite.as_ref()));
            let inverse = inverse_of_upper(l.transpose());
            let one = Mat::<f64>::identity(n, n);
            assert!(close(product(l.transpose(), inverse.as_ref()).as_ref(), one.as_ref()));
        }
        assert!(cholesky(Mat::from_fn(2, 2, |i, j| if i == j { -1.0 } else { 0.0 }).as_ref()).is_none());
    }

    #[test]
    fn threads_change_no_bit() {
        let a = matrix(400, 300);
        let all = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let gram = product(a.transpose(), a.as_ref());
                let definite = Mat::from_fn(300, 300, |i, j| gram[(i, j)] + if i == j { 1.0 } else { 0.0 });
                let Svd { u, sigma, v } = thin_svd(a.as_ref()).unwrap();
                let Eigen { values, vectors } = symmetric_eigen(gram.as_ref()).unwrap();
                let l = cholesky(definite.as_ref()).unwrap();
                let inverse = inverse_of_upper(l.transpose());
                let alone = singular_values(a.as_ref()).unwrap();
                (vec![gram, u, v, vectors, l, inverse, triangle_of(a.clone())], vec![sigma, values, alone])
            })
        };
        let one = all(1);
        for threads in [2, 3, 5, 16] {
            assert!(all(threads) == one, "{threads} threads");
        }
    }
}
