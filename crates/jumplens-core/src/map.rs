//! A linear map of rows.

use crate::error::{Error, Result};
use crate::linalg::dense;
use crate::linalg::matmul::{Matrix, Write, matmul};
use crate::linalg::parallel::widened;
use faer::MatRef;

/// `y = A·x + b`; without `b`, `y = A·x`.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearMap {
    /// `A`, row-major `[d_out, d_in]`.
    weight: Vec<f32>,
    d_out: usize,
    d_in: usize,
    bias: Option<Vec<f32>>,
}

impl LinearMap {
    /// From `A`, row-major `[d_out, d_in]`: rows are outputs. [`Error::Width`] where there are not so many values, or none.
    pub fn from_rows(weight: Vec<f32>, d_out: usize, d_in: usize) -> Result<Self> {
        if weight.len() != d_out * d_in || weight.is_empty() {
            let (width, expected) = (weight.len(), (d_out * d_in).max(1));
            return Err(Error::Width { what: "a map's weight, row by row,", width, expected });
        }
        Ok(Self { weight, d_out, d_in, bias: None })
    }

    /// The map that leaves rows of width `d` as they are.
    pub fn identity(d: usize) -> Self {
        let weight = (0..d * d).map(|i| if i / d == i % d { 1.0 } else { 0.0 }).collect();
        Self { weight, d_out: d, d_in: d, bias: None }
    }

    /// The same map with `b` `[d_out]` in the place of its own. [`Error::Width`] where there are not so many values.
    pub fn with_bias(self, bias: Vec<f32>) -> Result<Self> {
        if bias.len() != self.d_out {
            return Err(Error::Width { what: "a map's bias", width: bias.len(), expected: self.d_out });
        }
        Ok(Self { bias: Some(bias), ..self })
    }

    /// `A`, row-major `[d_out, d_in]`.
    pub fn weight(&self) -> &[f32] {
        &self.weight
    }

    /// `A`, `[d_out, d_in]`, without a copy.
    pub fn weight_matrix(&self) -> MatRef<'_, f32> {
        MatRef::from_row_major_slice(&self.weight, self.d_out, self.d_in)
    }

    /// `b`, `[d_out]`, where there is one.
    pub fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }

    /// Width of what it maps.
    pub fn d_in(&self) -> usize {
        self.d_in
    }

    /// Width of what it maps to.
    pub fn d_out(&self) -> usize {
        self.d_out
    }

    /// `A·x + b` for each row of `x`, row-major `[n, d_in]`: row-major `[n, d_out]`, in f32.
    ///
    /// # Panics
    /// Where `x` is not of whole rows.
    pub fn apply(&self, x: &[f32]) -> Vec<f32> {
        assert!(x.len().is_multiple_of(self.d_in), "{} values are no rows of {}", x.len(), self.d_in);
        let n = x.len() / self.d_in;
        let mut out = vec![0f32; n * self.d_out];
        matmul(&mut out, Write::Replace, Matrix::new(x, n, self.d_in), self.matrix().t());
        if let Some(bias) = &self.bias {
            for row in out.chunks_exact_mut(self.d_out) {
                row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            }
        }
        out
    }

    /// `A`, as products take it.
    fn matrix(&self) -> Matrix<'_> {
        Matrix::new(&self.weight, self.d_out, self.d_in)
    }

    /// `next` after this map, as one: `A₂·(A₁·x + b₁) + b₂`. [`Error::Width`] where it is for others than this one's.
    pub fn compose(&self, next: &LinearMap) -> Result<LinearMap> {
        if next.d_in != self.d_out {
            return Err(Error::Width {
                what: "the next map's source",
                width: next.d_in,
                expected: self.d_out,
            });
        }
        let mut weight = vec![0f32; next.d_out * self.d_in];
        matmul(&mut weight, Write::Replace, next.matrix(), self.matrix());
        let bias = match (&self.bias, &next.bias) {
            (None, None) => None,
            (None, Some(bias)) => Some(bias.clone()),
            (Some(bias), _) => Some(next.apply(bias)),
        };
        Ok(LinearMap { weight, d_out: next.d_out, d_in: self.d_in, bias })
    }

    /// How many singular values of `A` are above `share` of the largest.
    pub fn rank(&self, share: f64) -> Result<usize> {
        let sigma = self.singular_values()?;
        let largest = sigma.first().copied().unwrap_or(0.0);
        Ok(sigma.iter().filter(|sigma| **sigma > share * largest).count())
    }

    /// The singular values of `A` in f64, by falling size.
    pub fn singular_values(&self) -> Result<Vec<f64>> {
        let weight = widened(&self.weight);
        dense::singular_values(MatRef::from_row_major_slice(&weight, self.d_out, self.d_in))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(weight: &[f32], d_out: usize, bias: Option<&[f32]>) -> LinearMap {
        let map = LinearMap::from_rows(weight.to_vec(), d_out, weight.len() / d_out).unwrap();
        bias.map_or(map.clone(), |bias| map.with_bias(bias.to_vec()).unwrap())
    }

    #[test]
    fn applies_to_rows_and_composes() {
        let first = map(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3, Some(&[0.5, 0.0, -0.5]));
        let next = map(&[1.0, 0.0, -1.0, 0.0, 2.0, 1.0], 2, Some(&[10.0, 20.0]));
        let x = [1.0, -1.0, 2.0, 0.0];
        assert_eq!(first.apply(&x), [-0.5, -1.0, -1.5, 2.5, 6.0, 9.5]);
        let both = first.compose(&next).unwrap();
        assert_eq!((both.d_in(), both.d_out()), (2, 2));
        assert_eq!(both.apply(&x), next.apply(&first.apply(&x)));
        assert_eq!(
            first.compose(&first),
            Err(Error::Width { what: "the next map's source", width: 2, expected: 3 })
        );
        assert_eq!(LinearMap::identity(2).apply(&x), x);
        assert!(first.apply(&[]).is_empty());
    }

    #[test]
    fn rank_counts_what_is_above_the_share() {
        let diagonal = map(&[4.0, 0.0, 0.0, 0.0, 1e-3, 0.0, 0.0, 0.0, 0.0], 3, None);
        assert_eq!((diagonal.rank(1e-6).unwrap(), diagonal.rank(1e-2).unwrap()), (2, 1));
        assert_eq!(diagonal.weight_matrix()[(1, 1)], 1e-3);
    }

    #[test]
    fn singular_values_of_a_scaled_rotation_are_its_scales() {
        let (s, c) = 0.3f64.sin_cos();
        // diag(3, 0.5) · rotation
        let rows = [3.0 * c, -3.0 * s, 0.5 * s, 0.5 * c].map(|value| value as f32);
        let values = map(&rows, 2, None).singular_values().unwrap();
        assert!((values[0] - 3.0).abs() < 1e-6 && (values[1] - 0.5).abs() < 1e-6, "{values:?}");
    }

    #[test]
    fn what_is_no_matrix_is_refused() {
        assert!(matches!(LinearMap::from_rows(vec![1.0; 5], 2, 3), Err(Error::Width { .. })));
        assert!(matches!(map(&[1.0; 6], 2, None).with_bias(vec![0.0; 3]), Err(Error::Width { .. })));
    }
}
