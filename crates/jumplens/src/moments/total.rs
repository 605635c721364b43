//! Sums that come out the same in whatever order their terms are added.

use faer::Mat;
use jumplens_core::linalg::simd::dispatch;
use rayon::prelude::*;

/// Sums of many f64 terms each, to twice an f64's digits: `value + rest`, where `value` is the sum's nearest f64. Rounding
/// is so far below `value` that it is the same bits in any order of the terms. The additions are those of Knuth's two-sum,
/// with both parts carried (Dekker 1971, as `AccurateDWPlusDW` in Joldes, Muller and Popescu 2017).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Total {
    /// The sums.
    pub value: Vec<f64>,
    /// What they lack.
    pub rest: Vec<f64>,
}

/// Sums that a thread takes at a time, at least.
const SHARE: usize = 1 << 14;

impl Total {
    pub fn zeros(n: usize) -> Self {
        Self { value: vec![0.0; n], rest: vec![0.0; n] }
    }

    /// Begins again.
    pub fn clear(&mut self) {
        self.value.fill(0.0);
        self.rest.fill(0.0);
    }

    /// Adds a term to each.
    pub fn add(&mut self, terms: &[f64]) {
        let Self { value, rest } = self;
        dispatch(Add { value, rest, terms, rests: None });
    }

    /// Adds a matrix of terms, column by column.
    pub fn add_columns(&mut self, terms: &Mat<f64>) {
        let d = terms.nrows().max(1);
        let sums = self.value.par_chunks_mut(d).zip(self.rest.par_chunks_mut(d));
        sums.enumerate().with_min_len(SHARE / d).for_each(|(j, (value, rest))| {
            dispatch(Add { value, rest, terms: terms.col_as_slice(j), rests: None });
        });
    }

    /// Adds sums of other terms.
    pub fn add_total(&mut self, other: &Self) {
        let sums = self.value.par_chunks_mut(SHARE).zip(self.rest.par_chunks_mut(SHARE));
        let others = other.value.par_chunks(SHARE).zip(other.rest.par_chunks(SHARE));
        sums.zip(others).for_each(|((value, rest), (terms, rests))| {
            dispatch(Add { value, rest, terms, rests: Some(rests) });
        });
    }

    /// A matrix of `d` columns given column by column, row by row.
    pub fn transposed(&self, d: usize) -> Self {
        let turn = |values: &[f64]| -> Vec<f64> {
            (0..values.len()).map(|at| values[at % d * d + at / d]).collect()
        };
        Self { value: turn(&self.value), rest: turn(&self.rest) }
    }

    /// Copies the lower triangle of a symmetric matrix of `d` columns, given column by column, to the upper one.
    pub fn symmetric(&self, d: usize) -> Self {
        let whole = |values: &[f64]| -> Vec<f64> {
            let at = |at: usize| (at / d, at % d);
            (0..values.len()).map(at).map(|(j, i)| values[j.min(i) * d + j.max(i)]).collect()
        };
        Self { value: whole(&self.value), rest: whole(&self.rest) }
    }
}

/// Adds to sums `value + rest` terms of one f64, or `terms + rests`.
struct Add<'a> {
    value: &'a mut [f64],
    rest: &'a mut [f64],
    terms: &'a [f64],
    rests: Option<&'a [f64]>,
}

impl pulp::WithSimd for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _simd: S) {
        let Self { value, rest, terms, rests } = self;
        let sums = value.iter_mut().zip(rest).zip(terms);
        match rests {
            None => {
                sums.for_each(|((value, rest), term)| (*value, *rest) = sum((*value, *rest), (*term, 0.0)))
            }
            Some(rests) => sums.zip(rests).for_each(|(((value, rest), term), of_term)| {
                (*value, *rest) = sum((*value, *rest), (*term, *of_term));
            }),
        }
    }
}

/// a + b, each given as value and rest.
#[inline(always)]
fn sum(a: (f64, f64), b: (f64, f64)) -> (f64, f64) {
    let (value, missed) = two_sum(a.0, b.0);
    let (rest, lost) = two_sum(a.1, b.1);
    let (value, rest) = fast_two_sum(value, missed + rest);
    fast_two_sum(value, rest + lost)
}

/// The nearest f64 to a + b, and what it lacks, exactly.
#[inline(always)]
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let of_b = sum - a;
    (sum, (a - (sum - of_b)) + (b - of_b))
}

/// The same for |a| ≥ |b|.
#[inline(always)]
fn fast_two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    (sum, b - (sum - a))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::seq::SliceRandom;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// An exact sum of multiples of 2⁻⁶⁰.
    fn exact(terms: &[f64]) -> i128 {
        terms.iter().map(|term| (term * 2f64.powi(60)) as i128).sum()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        /// Terms of either sign over 40 powers of two, which cancel to nearly nothing; in two orders and two groupings.
        #[test]
        fn order_does_not_matter_and_nothing_is_lost(seed in any::<u64>(), n in 1..300usize) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let term = |rng: &mut ChaCha8Rng| {
                let whole = rng.random_range(-(1i64 << 52)..1 << 52) as f64;
                whole * 2f64.powi(rng.random_range(-60..-20))
            };
            let mut terms: Vec<f64> = (0..n).map(|_| term(&mut rng)).collect();
            let back: Vec<f64> = terms.iter().map(|term| -term).take(n - 1).collect();
            terms.extend(back);
            let expected = exact(&terms);

            let add_up = |terms: &[f64]| {
                let mut total = Total::zeros(1);
                terms.iter().for_each(|term| total.add(&[*term]));
                total
            };
            let forwards = add_up(&terms);
            terms.shuffle(&mut rng);
            let shuffled = add_up(&terms);
            let (left, right) = terms.split_at(rng.random_range(0..=terms.len()));
            let mut grouped = add_up(right);
            grouped.add_total(&add_up(left));
            prop_assert_eq!(&forwards, &shuffled);
            prop_assert_eq!(&forwards, &grouped);
            prop_assert_eq!(exact(&[forwards.value[0], forwards.rest[0]]), expected);
            prop_assert_eq!(forwards.value[0] + forwards.rest[0], forwards.value[0]);
        }
    }
}
