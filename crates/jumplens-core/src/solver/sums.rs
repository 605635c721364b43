//! Second-moment sums of a source layer and its targets. They add up over any split of the samples, and are all that
//! least squares, ridge and reduced-rank regression and r² need: maps and scores come from them without the states.

use super::least_squares::{Coordinates, Whitening, add_gram};
use crate::error::Result;
use crate::linalg::dense::{self, PAR};
use crate::linalg::parallel::widened;
use crate::map::LinearMap;
use crate::spread::Spread;
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef};

/// Sums over samples of the states x of one layer and the states y of others, in f64.
#[derive(Debug, Clone, PartialEq)]
pub struct PairSums {
    /// Samples.
    pub n: usize,
    /// Σ x, `[d]`.
    pub sum: Vec<f64>,
    /// Σ x·xᵀ, `[d, d]`: the lower triangle.
    pub gram: Mat<f64>,
    /// One a target.
    pub targets: Vec<TargetSums>,
}

/// Sums of a target y beside its source x, in f64.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetSums {
    /// Σ y, `[d]`.
    pub sum: Vec<f64>,
    /// Σ y² by coordinate, `[d]`.
    pub squares: Vec<f64>,
    /// Σ x·yᵀ, `[d, d]`: rows are the source's coordinates.
    pub cross: Mat<f64>,
}

impl PairSums {
    /// Of no samples yet, for states of width `d` and so many targets.
    pub fn new(d: usize, targets: usize) -> Self {
        let target = TargetSums { sum: vec![0.0; d], squares: vec![0.0; d], cross: Mat::zeros(d, d) };
        Self { n: 0, sum: vec![0.0; d], gram: Mat::zeros(d, d), targets: vec![target; targets] }
    }

    /// Width of a state.
    pub fn d(&self) -> usize {
        self.sum.len()
    }

    /// Takes in some samples: the source's states `x`, and every target's, row-major `[n, d]` each.
    pub fn add<Y: AsRef<[f32]>>(&mut self, x: &[f32], targets: impl IntoIterator<Item = Y>) {
        self.take(Accum::Add, x, targets);
    }

    /// Takes some samples in the place of those so far.
    pub fn replace<Y: AsRef<[f32]>>(&mut self, x: &[f32], targets: impl IntoIterator<Item = Y>) {
        self.n = 0;
        self.sum.fill(0.0);
        for target in &mut self.targets {
            target.sum.fill(0.0);
            target.squares.fill(0.0);
        }
        self.take(Accum::Replace, x, targets);
    }

    fn take<Y: AsRef<[f32]>>(&mut self, accum: Accum, x: &[f32], targets: impl IntoIterator<Item = Y>) {
        let d = self.d();
        let n = x.len() / d;
        let x = widened(x);
        add_gram(&mut self.gram, accum, &x);
        add_rows(&mut self.sum, &x, |x| x);
        for (sums, y) in self.targets.iter_mut().zip(targets) {
            let y = widened(y.as_ref());
            add_rows(&mut sums.sum, &y, |y| y);
            add_rows(&mut sums.squares, &y, |y| y * y);
            matmul(
                sums.cross.as_mut(),
                accum,
                MatRef::from_row_major_slice(&x, n, d).transpose(),
                MatRef::from_row_major_slice(&y, n, d),
                1.0,
                PAR,
            );
        }
        self.n += n;
    }

    /// Adds the sums of other samples, of the same layers.
    pub fn merge(&mut self, other: &Self) {
        self.n += other.n;
        add_all(&mut self.sum, &other.sum);
        self.gram += &other.gram;
        for (sums, other) in self.targets.iter_mut().zip(&other.targets) {
            add_all(&mut sums.sum, &other.sum);
            add_all(&mut sums.squares, &other.squares);
            sums.cross += &other.cross;
        }
    }

    /// The same sums of the states less their means.
    pub fn about_mean(&self) -> Self {
        let n = self.n as f64;
        let mean = |sum: &[f64]| faer::Col::from_fn(sum.len(), |i| sum[i] / n);
        let x = mean(&self.sum);
        let less = |sums: &Mat<f64>, y: &faer::Col<f64>| {
            Mat::from_fn(sums.nrows(), sums.ncols(), |i, j| sums[(i, j)] - n * x[i] * y[j])
        };
        let target = |sums: &TargetSums| {
            let y = mean(&sums.sum);
            TargetSums {
                sum: vec![0.0; y.nrows()],
                squares: sums
                    .squares
                    .iter()
                    .enumerate()
                    .map(|(j, s)| (s - n * y[j] * y[j]).max(0.0))
                    .collect(),
                cross: less(&sums.cross, &y),
            }
        };
        Self {
            n: self.n,
            sum: vec![0.0; self.d()],
            gram: less(&self.gram, &x),
            targets: self.targets.iter().map(target).collect(),
        }
    }

    /// The factorisation that the maps are made of, and every target's coordinates in it.
    pub fn factored(&self) -> Result<(Whitening, Vec<Coordinates>)> {
        let whitening = Whitening::of_gram(&self.gram)?;
        let (t, _) = whitening.t();
        let coordinates =
            self.targets.iter().map(|sums| dense::product(t.transpose(), sums.cross.as_ref())).collect();
        Ok((whitening, coordinates))
    }

    /// Means and spread of the source's states.
    pub fn source_spread(&self) -> Spread {
        let squares: Vec<f64> = (0..self.d()).map(|i| self.gram[(i, i)]).collect();
        spread(self.n, &self.sum, &squares)
    }

    /// Means and spread of a target's states.
    pub fn target_spread(&self, target: usize) -> Spread {
        let sums = &self.targets[target];
        spread(self.n, &sums.sum, &sums.squares)
    }

    /// Σ (y − A·x − b)² by coordinate of a target, for `map` = (A, b).
    pub fn squared_errors(&self, target: usize, map: &LinearMap) -> Vec<f64> {
        let d = self.d();
        let sums = &self.targets[target];
        let weight = widened(map.weight());
        let weight = MatRef::from_row_major_slice(&weight, d, d);
        let gram = Mat::from_fn(d, d, |i, j| self.gram[(i.max(j), i.min(j))]);
        let mut image = Mat::<f64>::zeros(d, d);
        // A·G, row by row: its product with A is the sum of the squares of A·x.
        matmul(image.as_mut(), Accum::Replace, weight, gram.as_ref(), 1.0, PAR);
        let bias = map.bias().map_or(vec![0.0; d], widened);
        let errors = (0..d).map(|j| {
            let a = weight.row(j);
            let (along, predicted): (f64, f64) = (0..d).fold((0.0, 0.0), |(along, predicted), i| {
                (along + a[i] * (image[(j, i)] - 2.0 * sums.cross[(i, j)]), predicted + a[i] * self.sum[i])
            });
            let b = bias[j];
            sums.squares[j] + along + b * (2.0 * (predicted - sums.sum[j]) + self.n as f64 * b)
        });
        // Rounding may leave a perfect fit just below zero.
        errors.map(|error| error.max(0.0)).collect()
    }

    /// Σ (y − x)² by coordinate of a target: what using the source as it is misses.
    pub fn squared_distances_to_source(&self, target: usize) -> Vec<f64> {
        let sums = &self.targets[target];
        let miss = |j: usize| sums.squares[j] - 2.0 * sums.cross[(j, j)] + self.gram[(j, j)];
        (0..self.d()).map(|j| miss(j).max(0.0)).collect()
    }

    /// Σ (y − c)² by coordinate of a target, for `centre` = c.
    pub fn squared_distances_to(&self, target: usize, centre: &[f64]) -> Vec<f64> {
        let spread = self.target_spread(target);
        let miss = |j: usize| spread.about_mean[j] + self.n as f64 * (spread.mean[j] - centre[j]).powi(2);
        (0..self.d()).map(miss).collect()
    }
}

fn spread(n: usize, sum: &[f64], squares: &[f64]) -> Spread {
    let mean: Vec<f64> = sum.iter().map(|sum| sum / n as f64).collect();
    let about = |(square, mean): (&f64, &f64)| (square - n as f64 * mean * mean).max(0.0);
    let about_mean = squares.iter().zip(&mean).map(about).collect();
    Spread { n, mean, about_mean }
}

fn add_rows(sums: &mut [f64], rows: &[f64], term: impl Fn(f64) -> f64) {
    for row in rows.chunks(sums.len()) {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += term(*value));
    }
}

fn add_all(sums: &mut [f64], others: &[f64]) {
    sums.iter_mut().zip(others).for_each(|(sum, other)| *sum += other);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn random(n: usize, seed: u64) -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..n).map(|_| rng.random_range(-1.0f32..1.0) + 0.5).collect()
    }

    fn of(d: usize, x: &[f32], y: &[f32]) -> PairSums {
        let mut sums = PairSums::new(d, 1);
        sums.add(x, [y]);
        sums
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]
        #[test]
        fn parts_add_up_and_judge_maps_as_the_states_do(
            seed in 0..1000u64, d in 1..9usize, cuts in prop::collection::vec(0..60usize, 0..4), backwards in any::<bool>(),
            biased in any::<bool>(),
        ) {
            const N: usize = 60;
            let (x, y) = (random(N * d, seed), random(N * d, seed + 1));
            let whole = of(d, &x, &y);
            let mut cuts: Vec<usize> = cuts.into_iter().chain([0, N]).collect();
            cuts.sort_unstable();
            let mut parts: Vec<PairSums> = cuts
                .windows(2)
                .map(|cut| of(d, &x[cut[0] * d..cut[1] * d], &y[cut[0] * d..cut[1] * d]))
                .collect();
            if backwards {
                parts.reverse();
            }
            let mut merged = PairSums::new(d, 1);
            parts.iter().for_each(|part| merged.merge(part));
            prop_assert_eq!(merged.n, whole.n);
            prop_assert!((&merged.gram - &whole.gram).norm_max() < 1e-12 * whole.n as f64);
            prop_assert!((&merged.targets[0].cross - &whole.targets[0].cross).norm_max() < 1e-12 * whole.n as f64);

            let mut map = LinearMap::from_rows(random(d * d, seed + 2), d, d).unwrap();
            if biased {
                map = map.with_bias(random(d, seed + 3)).unwrap();
            }
            let weight = map.weight();
            let bias = map.bias().map_or(vec![0.0; d], <[f32]>::to_vec);
            for (j, got) in merged.squared_errors(0, &map).into_iter().enumerate() {
                let miss = |(x, y): (&[f32], &[f32])| {
                    let along: f64 =
                        x.iter().zip(&weight[j * d..]).map(|(x, a)| f64::from(*x) * f64::from(*a)).sum();
                    (f64::from(y[j]) - along - f64::from(bias[j])).powi(2)
                };
                let expected: f64 = x.chunks(d).zip(y.chunks(d)).map(miss).sum();
                prop_assert!((got - expected).abs() < 1e-11 * (1.0 + expected) * N as f64, "{got} against {expected}");
            }
            let spread = Spread::of(&y, d);
            for (got, expected) in merged.target_spread(0).about_mean.iter().zip(&spread.about_mean) {
                prop_assert!((got - expected).abs() < 1e-10);
            }
        }
    }
}
