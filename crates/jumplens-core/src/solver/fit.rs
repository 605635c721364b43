//! The method as a function.

use super::fitted::Fitted;
use crate::cast::Kind;
use crate::error::{Error, Result};
use crate::map::LinearMap;
use faer::MatRef;

/// Which map is fitted. By default the plain least squares of the paper (arXiv 2303.09435, section 3): no intercept, no penalty.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// With a bias, which takes the mean of x to that of y.
    pub intercept: bool,
    /// Plain, with a penalty, or of low rank.
    pub kind: Kind,
}

impl Default for Options {
    fn default() -> Self {
        Self { intercept: false, kind: Kind::Plain }
    }
}

/// The map with the least `‖X·Aᵀ + b − Y‖²` under `options`, of minimum norm where several are: `x` row-major `[n, d_in]`, `y`
/// row-major `[n, d_out]`. Singular values of `x` at or below 10⁻⁶ of the largest count as zero. Factors in f64, products in
/// f32, the same bits on any number of threads.
///
/// [`Error::Shape`] where they have no `n` rows, [`Error::NotFinite`] for what is infinite or no number, [`Error::Lambda`] for
/// a penalty that is none.
///
/// ```
/// use jumplens_core::{Options, fit, r2};
/// // Four states of width 2, and twice their second coordinate.
/// let (x, y) = ([1.0, 2.0, 0.0, 1.0, 3.0, -1.0, 2.0, 2.0], [4.0, 2.0, -2.0, 4.0]);
/// let map = fit(&x, &y, 4, &Options::default())?;
/// let predicted = map.apply(&x);
/// assert!(map.weight().iter().zip([0.0, 2.0]).all(|(a, b)| (a - b).abs() < 1e-6));
/// assert!(r2(&y, &predicted, 4)? > 0.999);
/// # Ok::<(), jumplens_core::Error>(())
/// ```
pub fn fit(x: &[f32], y: &[f32], n: usize, options: &Options) -> Result<LinearMap> {
    let fitted = Fitted::of_states(x, &[y], n, options.intercept)?;
    Ok(fitted.maps(options.kind)?.maps.remove(0))
}

/// As [`fit`], of matrices in whatever order: `x` `[n, d_in]`, `y` `[n, d_out]`. Both are copied.
pub fn fit_matrices(x: MatRef<'_, f32>, y: MatRef<'_, f32>, options: &Options) -> Result<LinearMap> {
    if x.nrows() != y.nrows() {
        return Err(Error::Shape { what: "y", values: y.nrows() * y.ncols(), rows: x.nrows() });
    }
    fit(&row_major(x), &row_major(y), x.nrows(), options)
}

fn row_major(x: MatRef<'_, f32>) -> Vec<f32> {
    (0..x.nrows()).flat_map(|i| (0..x.ncols()).map(move |j| x[(i, j)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cast::Ridge;
    use faer::Mat;
    use faer::linalg::solvers::SolveLstsq;

    fn values(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729) as f32 * 0.37).sin()).collect()
    }

    /// Widths that differ, against faer's own least squares in f64.
    #[test]
    fn a_rectangular_map_is_that_of_a_qr_decomposition() {
        let (n, d_in, d_out) = (300, 11, 4);
        let (x, y) = (values(n * d_in, 1), values(n * d_out, 2));
        let wide = |x: &[f32], d: usize, ones: bool| {
            Mat::from_fn(n, d + usize::from(ones), |i, j| if j < d { f64::from(x[i * d + j]) } else { 1.0 })
        };
        for intercept in [false, true] {
            let map = fit(&x, &y, n, &Options { intercept, ..Options::default() }).unwrap();
            assert_eq!((map.d_in(), map.d_out(), map.bias().is_some()), (d_in, d_out, intercept));
            let expected = wide(&x, d_in, intercept).qr().solve_lstsq(wide(&y, d_out, false));
            for o in 0..d_out {
                for i in 0..d_in {
                    assert!((f64::from(map.weight()[o * d_in + i]) - expected[(i, o)]).abs() < 1e-6);
                }
                if let Some(bias) = map.bias() {
                    assert!((f64::from(bias[o]) - expected[(d_in, o)]).abs() < 1e-6);
                }
            }
        }
    }

    #[test]
    fn matrices_give_the_map_of_their_rows() {
        let (n, d) = (40, 3);
        let (x, y) = (values(n * d, 3), values(n * d, 4));
        let matrix = |x: &[f32]| Mat::from_fn(n, d, |i, j| x[i * d + j]);
        for kind in [Kind::Plain, Kind::Rank(2), Kind::Ridge(Ridge::Auto), Kind::Ridge(Ridge::Fixed(0.5))] {
            let options = Options { intercept: true, kind };
            let of_rows = fit(&x, &y, n, &options).unwrap();
            let (x, y) = (matrix(&x), matrix(&y));
            assert_eq!(fit_matrices(x.as_ref(), y.as_ref(), &options).unwrap(), of_rows);
        }
    }

    #[test]
    fn what_cannot_be_fitted_is_refused() {
        let options = Options::default();
        let shape = |what, values, rows| Err(Error::Shape { what, values, rows });
        assert_eq!(fit(&[], &[], 0, &options), shape("x", 0, 0));
        assert_eq!(fit(&[1.0; 6], &[1.0; 5], 3, &options), shape("y", 5, 3));
        assert_eq!(fit(&[1.0; 5], &[1.0; 6], 3, &options), shape("x", 5, 3));
        let hole = [1.0, 2.0, f32::NAN, 4.0];
        assert_eq!(fit(&[1.0; 4], &hole, 2, &options), Err(Error::NotFinite { what: "y", row: 1 }));
        for lambda in [-1.0, f64::NAN, f64::INFINITY] {
            let options = Options { kind: Kind::Ridge(Ridge::Fixed(lambda)), ..options };
            assert!(matches!(fit(&[1.0; 4], &[1.0; 4], 2, &options), Err(Error::Lambda { .. })));
        }
        // Nothing to see is the map to nothing.
        assert_eq!(fit(&[0.0; 4], &[1.0; 4], 2, &options).unwrap().weight(), [0.0; 4]);
    }
}
