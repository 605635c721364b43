//! The coefficient of determination, as scikit-learn's `r2_score` has it: per output coordinate, then the plain mean over
//! coordinates.

use crate::error::{Error, Result};
use crate::linalg::Precision;
use crate::linalg::dense::PAR;
use crate::linalg::matmul::{Matrix, Packed, PackedRows, PackedWeights, Write, product};
use crate::linalg::parallel::{column_sums, widened};
use crate::map::LinearMap;
use crate::spread::{Spread, squared_distances};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef};

/// Rows that are predicted at one time.
const ROWS: usize = 2048;

/// Up to this [cancellation](Target::cancellation) products are in f32: their errors are of the order of 10⁻⁵ of the target's spread.
const MOST_CANCELLATION: f64 = 64.0;

/// Below this share of the median coordinate's variance, a coordinate is next to constant.
const STILL: f64 = 1e-12;

/// Σ (y − p)² by coordinate.
fn squared_errors<P: Copy + Sync + Into<f64>>(target: &[f32], predicted: &[P], d: usize) -> Vec<f64> {
    column_sums(target, d, |i, row, sums| {
        for ((sum, y), p) in sums.iter_mut().zip(row).zip(&predicted[i * d..][..d]) {
            *sum += (f64::from(*y) - (*p).into()).powi(2);
        }
    })
}

/// States that are to be predicted.
#[derive(Debug, Clone)]
pub struct Target<'a> {
    values: &'a [f32],
    d: usize,
    spread: Spread,
}

impl<'a> Target<'a> {
    /// Row-major `[n, d]`, all finite.
    pub fn of(values: &'a [f32], d: usize) -> Self {
        Self { values, d, spread: Spread::of(values, d) }
    }

    /// The states, row-major `[n, d]`.
    pub fn values(&self) -> &'a [f32] {
        self.values
    }

    /// Width of a state.
    pub fn d(&self) -> usize {
        self.d
    }

    /// Means and spread of the states.
    pub fn spread(&self) -> &Spread {
        &self.spread
    }

    /// r² of what misses by Σ (y − p)² in each coordinate, `[d]`.
    pub fn score(&self, residual: &[f64]) -> f64 {
        score(residual, &self.spread.about_mean)
    }

    /// The coordinates that hardly vary: r² gives each the weight of any other, and a miss of nothing to speak of counts
    /// as a large one.
    pub fn still_coordinates(&self) -> Vec<usize> {
        let total = &self.spread.about_mean;
        let mut sorted = total.clone();
        sorted.sort_by(f64::total_cmp);
        let median = sorted[self.d / 2];
        (0..self.d).filter(|j| total[*j] < STILL * median).collect()
    }

    /// r² of `predicted`, row-major `[n, d]`.
    pub fn score_of(&self, predicted: &[f32]) -> f64 {
        self.score(&squared_errors(self.values, predicted, self.d))
    }

    /// r² of `map` on the source's states. In f64 where a map's entries cancel so far that f32 products would show: on a
    /// source that is next to singular.
    ///
    /// # Panics
    /// Where the map is not from the source's width to the target's, or the two have not as many states.
    pub fn score_of_map(&self, source: &Source, map: &LinearMap) -> f64 {
        assert_eq!((map.d_in(), map.d_out()), (source.squares.len(), self.d));
        assert_eq!(source.values.len() / map.d_in(), self.values.len() / self.d);
        let weight = widened(map.weight());
        let bias = map.bias().map_or(vec![0.0; self.d], widened);
        if self.cancellation(source, &weight) > MOST_CANCELLATION {
            return self.score_of_product(source, |x, predicted| product_f64(x, &weight, &bias, predicted));
        }
        let weight = Matrix::new(map.weight(), map.d_out(), map.d_in());
        let weight: PackedWeights = Packed::pack(weight, Precision::F32);
        self.score_of_product(source, |x, predicted| product_f32(x, &weight, &bias, predicted))
    }

    /// How large the terms of A·x are beside what they have to meet, by the coordinate where they are largest: the root
    /// of Σ_i a_i²·Σx_i² over Σ(y − ȳ)². For `weight` `[d, d_in]`, row-major.
    fn cancellation(&self, source: &Source, weight: &[f64]) -> f64 {
        let terms = |row: &[f64]| -> f64 { row.iter().zip(&source.squares).map(|(a, x)| a * a * x).sum() };
        let rows = weight
            .chunks(source.squares.len())
            .zip(&self.spread.about_mean)
            .filter(|(_, total)| **total > 0.0);
        rows.map(|(row, total)| (terms(row) / total).sqrt()).fold(0.0, f64::max)
    }

    /// r² of what `predict` gives for rows of the source, `[n, d_in]` → `[n, d]`.
    fn score_of_product<P: Copy + Default + Sync + Into<f64>>(
        &self,
        source: &Source,
        predict: impl Fn(&[f32], &mut [P]),
    ) -> f64 {
        let (d, d_in) = (self.d, source.squares.len());
        let mut residual = vec![0f64; d];
        let mut predicted = vec![P::default(); ROWS.min(self.values.len() / d) * d];
        for (x, y) in source.values.chunks(ROWS * d_in).zip(self.values.chunks(ROWS * d)) {
            let predicted = &mut predicted[..y.len()];
            predict(x, predicted);
            let sums = squared_errors(y, predicted, d);
            residual.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
        }
        self.score(&residual)
    }
}

/// States that are predicted from.
#[derive(Debug, Clone)]
pub struct Source<'a> {
    values: &'a [f32],
    /// Σ x² by coordinate.
    squares: Vec<f64>,
}

impl<'a> Source<'a> {
    /// Row-major `[n, d]`, all finite.
    pub fn of(values: &'a [f32], d: usize) -> Self {
        Self { values, squares: squared_distances(values, &vec![0.0; d]) }
    }
}

/// A·x + b for rows x `[n, d]`, in f32 but for the additions of b.
fn product_f32(x: &[f32], weight: &PackedWeights, bias: &[f64], predicted: &mut [f32]) {
    let (d, d_in) = (bias.len(), weight.depth());
    let x: PackedRows = Packed::pack(Matrix::new(x, x.len() / d_in, d_in), Precision::F32);
    product(predicted, Write::Replace, &x, weight, 0..d);
    for row in predicted.chunks_mut(d) {
        row.iter_mut().zip(bias).for_each(|(value, bias)| *value += *bias as f32);
    }
}

/// The same in f64, for `weight` `[d, d_in]`, row-major.
fn product_f64(x: &[f32], weight: &[f64], bias: &[f64], predicted: &mut [f64]) {
    let (d, d_in) = (bias.len(), weight.len() / bias.len());
    let n = x.len() / d_in;
    let x = widened(x);
    predicted.chunks_mut(d).for_each(|row| row.copy_from_slice(bias));
    matmul(
        MatMut::from_row_major_slice_mut(predicted, n, d),
        Accum::Add,
        MatRef::from_row_major_slice(&x, n, d_in),
        MatRef::from_row_major_slice(weight, d, d_in).transpose(),
        1.0,
        PAR,
    );
}

/// Mean over coordinates of 1 − residual / total. As with scikit-learn's `force_finite`, a constant coordinate scores 1
/// where it is met exactly and 0 where it is not.
pub fn score(residual: &[f64], total: &[f64]) -> f64 {
    let scores = residual.iter().zip(total).map(|(residual, total)| match (*residual, *total) {
        (0.0, _) => 1.0,
        (_, 0.0) => 0.0,
        (residual, total) => 1.0 - residual / total,
    });
    scores.sum::<f64>() / total.len() as f64
}

/// r² of `predicted` against `y`, row-major with `n` rows each. [`Error::Shape`] where they have not as many values, or no
/// such rows.
pub fn r2(y: &[f32], predicted: &[f32], n: usize) -> Result<f64> {
    if n == 0 || y.is_empty() || !y.len().is_multiple_of(n) {
        return Err(Error::Shape { what: "y", values: y.len(), rows: n });
    }
    if predicted.len() != y.len() {
        return Err(Error::Shape { what: "what is predicted", values: predicted.len(), rows: n });
    }
    Ok(Target::of(y, y.len() / n).score_of(predicted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_scikit_learn() {
        // sklearn.metrics.r2_score([[0.5, 1], [-1, 1], [7, -6]], [[0, 2], [-1, 2], [8, -5]]) = 0.9368005266622779
        let target = [0.5, 1.0, -1.0, 1.0, 7.0, -6.0];
        let predicted = [0.0, 2.0, -1.0, 2.0, 8.0, -5.0];
        assert!((r2(&target, &predicted, 3).unwrap() - 0.936_800_526_662_277_9).abs() < 1e-12);
    }

    #[test]
    fn maps_whose_entries_cancel_are_judged_in_f64() {
        const D: usize = 2;
        // The columns are next to one another, and the map makes a target of their difference, of which half is met.
        let values =
            (0..500).map(|i| (0.5 + ((i * 7919) % 1000) as f32 / 3000.0, ((i * 104_729) % 64) as f32));
        let x: Vec<f32> = values.flat_map(|(value, step)| [value, value + step / 1_048_576.0]).collect();
        let weight = [-98_765.43f32, 98_765.43, 1.0, 0.0];
        let predict = |row: &[f32]| {
            let terms = |j: usize| (0..D).map(move |i| f64::from(weight[j * D + i]) * f64::from(row[i]));
            [terms(0).sum::<f64>(), terms(1).sum()]
        };
        let y: Vec<f32> = x.chunks(D).flat_map(|row| predict(row).map(|value| 2.0 * value as f32)).collect();
        let predicted: Vec<f64> = x.chunks(D).flat_map(predict).collect();

        let (target, source) = (Target::of(&y, D), Source::of(&x, D));
        let expected = target.score(&squared_errors(&y, &predicted, D));
        let map = LinearMap::from_rows(weight.to_vec(), D, D).unwrap();
        assert!(target.cancellation(&source, &weight.map(f64::from)) > MOST_CANCELLATION);
        let got = target.score_of_map(&source, &map);
        assert!((got - expected).abs() < 1e-12, "{got} against {expected}");

        // In f32 it shows.
        let packed: PackedWeights = Packed::pack(Matrix::new(&weight, D, D), Precision::F32);
        let in_f32 = target.score_of_product(&source, |x, predicted| {
            product_f32(x, &packed, &[0.0; D], predicted);
        });
        assert!((in_f32 - expected).abs() > 1e-6, "{in_f32} against {expected}");
        // Where nothing cancels, f32 is enough.
        assert!(target.cancellation(&source, &[1.0, 0.0, 0.0, 1.0]) < MOST_CANCELLATION);
    }

    #[test]
    fn coordinates_that_hardly_vary_are_found() {
        let values: Vec<f32> =
            (0..40).flat_map(|i| [i as f32, 1e-20 * i as f32, -0.01 * i as f32, 7.0]).collect();
        assert_eq!(Target::of(&values, 4).still_coordinates(), [1, 3]);
    }

    #[test]
    fn constant_coordinates_count_as_scikit_learn_counts_them() {
        assert_eq!(r2(&[3.0, 3.0, 3.0], &[3.0, 3.0, 3.0], 3), Ok(1.0));
        assert_eq!(r2(&[3.0, 3.0, 3.0], &[3.0, 3.0, 3.5], 3), Ok(0.0));
    }
}
