//! One source layer factored: every kind of map comes from the same factorisation.

use super::least_squares::{BLOCK, Coordinates, Factoring, Outcome, Solving, Whitening};
use super::low_rank::low_rank;
use super::ridge::Spectrum;
use super::sums::PairSums;
use crate::cast::{Kind, Ridge};
use crate::error::{Error, Result};
use crate::map::LinearMap;
use crate::spread::Spread;
use std::borrow::Cow;

/// The factorisation of a source layer, and its targets in its coordinates.
pub struct Fitted {
    /// Whether both are about their means.
    intercept: bool,
    whitening: Whitening,
    /// One a target.
    coordinates: Vec<Coordinates>,
    /// Needed for maps with a bias.
    source: Option<Spread>,
    /// One a target; needed for maps with a bias, and to find λ.
    targets: Vec<Option<Spread>>,
}

/// The maps of one kind from a source layer, one a target.
pub struct Maps {
    /// In the order of the targets.
    pub maps: Vec<LinearMap>,
    /// Of ridge regression: each map's λ.
    pub lambdas: Vec<f64>,
}

/// The states of one layer, gone through block by block.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// Row-major `[n, d]`, all finite.
    pub values: &'a [f32],
    /// Width of a row.
    pub d: usize,
    /// Needed for maps with a bias and, of a target, to find λ.
    pub spread: Option<&'a Spread>,
}

impl<'a> Rows<'a> {
    /// Blocks of at most [`BLOCK`] rows; about their mean where that is asked for.
    fn blocks(self, about_mean: bool) -> impl Iterator<Item = Cow<'a, [f32]>> + use<'a> {
        let mean = self.spread.filter(|_| about_mean).map(|spread| &spread.mean);
        self.values.chunks(BLOCK * self.d).map(move |block| match mean {
            None => Cow::Borrowed(block),
            Some(mean) => {
                let centred = |(value, mean): (&f32, &f64)| (f64::from(*value) - mean) as f32;
                Cow::Owned(block.chunks(self.d).flat_map(|row| row.iter().zip(mean).map(centred)).collect())
            }
        })
    }
}

impl Fitted {
    /// From rows, in two to four passes over them, for maps with a bias where `intercept` says so. Memory does not grow with
    /// the number of rows. Targets have as many rows as the source, and all the same width.
    /// [`Error::NoSpread`] where a bias is wanted and a spread is missing.
    pub fn of_rows(source: Rows, targets: &[Rows], intercept: bool) -> Result<Self> {
        Self::of_rows_unless(source, targets, intercept, &|| false)
    }

    /// As [`Fitted::of_rows`], and [`Error::Interrupted`] soon after `is_unwanted` is true: after the block of rows, the target or
    /// the decomposition that is being worked on.
    pub fn of_rows_unless(
        source: Rows,
        targets: &[Rows],
        intercept: bool,
        is_unwanted: &dyn Fn() -> bool,
    ) -> Result<Self> {
        if intercept && (source.spread.is_none() || targets.iter().any(|target| target.spread.is_none())) {
            return Err(Error::NoSpread);
        }
        let check = || if is_unwanted() { Err(Error::Interrupted) } else { Ok(()) };
        let mut factoring = Factoring::new(source.d);
        let whitening = loop {
            source.blocks(intercept).try_for_each(|block| {
                check()?;
                factoring.add(&block)
            })?;
            factoring = match factoring.finish_pass()? {
                Outcome::AnotherPass(factoring) => factoring,
                Outcome::Whitening(whitening) => break whitening,
            }
        };
        let d_out = targets.first().map_or(source.d, |target| target.d);
        let mut solving = Solving::new(&whitening, targets.len(), d_out);
        let mut blocks: Vec<_> = targets.iter().map(|target| target.blocks(intercept)).collect();
        for x in source.blocks(intercept) {
            check()?;
            // One target's block at a time.
            let targets = blocks.iter_mut().filter_map(Iterator::next);
            solving.add(&x, targets.take_while(|_| !is_unwanted()));
        }
        check()?;
        drop(blocks);
        let coordinates = solving.finish();
        let spreads = targets.iter().map(|target| target.spread.cloned()).collect();
        Ok(Self { intercept, whitening, coordinates, source: source.spread.cloned(), targets: spreads })
    }

    /// From states in memory: a source and its targets, row-major with `n` rows each, for maps with a bias where `intercept`
    /// says so. [`Error::Shape`] where there are no such rows, [`Error::Width`] for targets of several widths, [`Error::NotFinite`] for what is infinite or no number.
    pub fn of_states(source: &[f32], targets: &[&[f32]], n: usize, intercept: bool) -> Result<Self> {
        let checked = |what: &'static str, values: &[f32]| -> Result<(usize, Spread)> {
            let d = values.len().checked_div(n).unwrap_or(0);
            if d == 0 || d * n != values.len() {
                return Err(Error::Shape { what, values: values.len(), rows: n });
            }
            match values.iter().position(|value| !value.is_finite()) {
                Some(place) => Err(Error::NotFinite { what, row: place / d }),
                None => Ok((d, Spread::of(values, d))),
            }
        };
        let (d, spread) = checked("x", source)?;
        let spreads = targets.iter().map(|target| checked("y", target)).collect::<Result<Vec<_>>>()?;
        if let Some(other) = spreads.iter().position(|(width, _)| *width != spreads[0].0) {
            return Err(Error::Width { what: "y", width: spreads[other].0, expected: spreads[0].0 });
        }
        let rows = |(values, (d, spread))| Rows { values, d, spread: Some(spread) };
        let targets: Vec<Rows> =
            targets.iter().zip(&spreads).map(|(values, (d, spread))| rows((*values, (*d, spread)))).collect();
        Self::of_rows(rows((source, (d, &spread))), &targets, intercept)
    }

    /// From sums, for maps with a bias where `intercept` says so.
    pub fn of_sums(sums: &PairSums, intercept: bool) -> Result<Self> {
        let (whitening, coordinates) =
            if intercept { sums.about_mean().factored()? } else { sums.factored()? };
        let targets = (0..sums.targets.len()).map(|target| Some(sums.target_spread(target))).collect();
        Ok(Self { intercept, whitening, coordinates, source: Some(sums.source_spread()), targets })
    }

    /// The singular values of the source that count, largest first.
    pub fn singular_values(&self) -> Result<Vec<f64>> {
        Ok(Spectrum::of(&self.whitening)?.sigma)
    }

    /// The maps to the targets. [`Error::Lambda`] where a penalty is no number of 0 or more; [`Error::NoSpread`] where one is to
    /// be found, and a target's spread is missing.
    pub fn maps(&self, kind: Kind) -> Result<Maps> {
        if let Kind::Ridge(Ridge::Fixed(lambda)) = kind
            && !(lambda >= 0.0 && lambda.is_finite())
        {
            return Err(Error::Lambda { lambda: lambda.to_string() });
        }
        let mut lambdas = Vec::new();
        let coordinates = self.coordinates.iter();
        let fitted: Vec<Coordinates> = match kind {
            Kind::Plain => self.coordinates.clone(),
            Kind::Rank(rank) => coordinates.map(|c| low_rank(c, rank)).collect::<Result<_>>()?,
            Kind::Ridge(ridge) => {
                let spectrum = Spectrum::of(&self.whitening)?;
                let shrink = |(coordinates, spread): (&Coordinates, &Option<Spread>)| {
                    let turned = spectrum.turn(coordinates);
                    let lambda = match (ridge, spread) {
                        (Ridge::Fixed(lambda), _) => lambda,
                        (Ridge::Auto, Some(spread)) => spectrum.best_lambda(&turned, spread, self.intercept),
                        (Ridge::Auto, None) => return Err(Error::NoSpread),
                    };
                    lambdas.push(lambda);
                    Ok(spectrum.shrunk(turned, lambda))
                };
                coordinates.zip(&self.targets).map(shrink).collect::<Result<_>>()?
            }
        };
        let map = |(coordinates, target): (&Coordinates, &Option<Spread>)| {
            self.with_bias(self.whitening.map(coordinates.as_ref())?, target.as_ref())
        };
        Ok(Maps { maps: fitted.iter().zip(&self.targets).map(map).collect::<Result<_>>()?, lambdas })
    }

    /// With the bias that takes the source's mean to the target's, where there is to be one.
    fn with_bias(&self, map: LinearMap, target: Option<&Spread>) -> Result<LinearMap> {
        let (true, Some(source), Some(target)) = (self.intercept, &self.source, target) else {
            return Ok(map);
        };
        let image = map
            .weight()
            .chunks(source.mean.len())
            .map(|row| row.iter().zip(&source.mean).map(|(a, x)| f64::from(*a) * x).sum::<f64>());
        let bias = image.zip(&target.mean).map(|(image, mean)| (mean - image) as f32).collect();
        map.with_bias(bias)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use faer::linalg::solvers::Solve;
    use faer::{Mat, MatRef, Side};
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn of_states(x: &[f32], y: &[f32], d: usize, intercept: bool) -> Fitted {
        Fitted::of_states(x, &[y], x.len() / d, intercept).unwrap()
    }

    fn of_sums(x: &[f32], y: &[f32], d: usize, intercept: bool) -> Fitted {
        let mut sums = PairSums::new(d, 1);
        sums.add(x, [y]);
        Fitted::of_sums(&sums, intercept).unwrap()
    }

    /// What a map makes of a state, in f64.
    fn image(map: &LinearMap, state: &[f64]) -> Vec<f64> {
        let weight = map.weight();
        let bias = map.bias().map_or(vec![0.0; state.len()], <[f32]>::to_vec);
        let row = |(row, bias): (&[f32], &f32)| {
            row.iter().zip(state).map(|(a, x)| f64::from(*a) * x).sum::<f64>() + f64::from(*bias)
        };
        weight.chunks(state.len()).zip(&bias).map(row).collect()
    }

    /// 40 states of width 5, and targets that depend on them; the numbers below are scikit-learn's and NumPy's for these.
    fn sines() -> (Vec<f32>, Vec<f32>) {
        const D: usize = 5;
        let x = |i: usize, j: usize| {
            (1.3 * (i * (j + 1)) as f64 + j as f64).sin() + if j == 0 { 0.5 } else { 0.0 }
        };
        let y = |i: usize, j: usize| match j {
            0..3 => {
                let along: f64 = (0..D).map(|k| x(i, k) * (k + 1) as f64 * 0.1 * (j + 1) as f64).sum();
                (0.7 * (i * (j + 1)) as f64).cos() + along + 2.0
            }
            _ => 0.0,
        };
        let all = |f: &dyn Fn(usize, usize) -> f64| (0..40 * D).map(|at| f(at / D, at % D) as f32).collect();
        (all(&x), all(&y))
    }

    #[test]
    fn agrees_with_scikit_learn() {
        let (x, y) = sines();
        let cases = [
            // Ridge(alpha=0.7, solver="svd"), without and with fit_intercept.
            (Kind::Ridge(Ridge::Fixed(0.7)), false, [0.605_974_07, 0.481_104_56, 0.500_691_7]),
            (Kind::Ridge(Ridge::Fixed(0.7)), true, [2.034_548_17, 2.049_245_28, 1.931_574_75]),
            // LinearRegression, and its fitted values' leading singular vector.
            (Kind::Rank(1), false, [0.443_765_82, 0.464_089_57, 0.650_368_85]),
            (Kind::Rank(1), true, [2.025_624_64, 1.971_301_73, 1.991_263_34]),
        ];
        for (kind, intercept, expected) in cases {
            for fitted in [of_states(&x, &y, 5, intercept), of_sums(&x, &y, 5, intercept)] {
                let map = fitted.maps(kind).unwrap().maps.remove(0);
                let got = image(&map, &[0.3, -0.2, 0.5, 0.1, -0.4]);
                for (got, expected) in got.iter().zip(expected) {
                    assert!((got - expected).abs() < 1e-6, "{kind:?}, {intercept}: {got} against {expected}");
                }
            }
        }
    }

    #[test]
    fn lambda_is_where_generalised_cross_validation_from_the_hat_matrix_is_least() {
        let (x, y) = sines();
        for (intercept, expected) in [(false, 7.649_549_920_776_922), (true, 1.712_005_035_679_352)] {
            for fitted in [of_states(&x, &y, 5, intercept), of_sums(&x, &y, 5, intercept)] {
                let got = fitted.maps(Kind::Ridge(Ridge::Auto)).unwrap().lambdas[0];
                assert!((got / expected - 1.0).abs() < 1e-6, "{intercept}: {got} against {expected}");
            }
        }
    }

    /// Row-major f32 as a matrix, less its means where `intercept` says so.
    fn matrix(values: &[f32], d: usize, intercept: bool) -> Mat<f64> {
        let spread = Spread::of(values, d);
        let mean = |j: usize| if intercept { spread.mean[j] } else { 0.0 };
        Mat::from_fn(values.len() / d, d, |i, j| f64::from(values[i * d + j]) - mean(j))
    }

    #[test]
    fn what_is_no_longer_wanted_ends_wherever_it_is() {
        let (x, y) = sines();
        let (of_x, of_y) = (Spread::of(&x, 5), Spread::of(&y, 5));
        let rows = |values, spread| Rows { values, d: 5, spread: Some(spread) };
        let asked = std::cell::Cell::new(0);
        let fit = |last: usize| {
            asked.set(0);
            let is_unwanted = || {
                asked.set(asked.get() + 1);
                asked.get() > last
            };
            let targets = [rows(&y, &of_y), rows(&x, &of_x)];
            Fitted::of_rows_unless(rows(&x, &of_x), &targets, true, &is_unwanted)
        };
        assert!(fit(usize::MAX).is_ok());
        let times = asked.get();
        // A block to factor, one to solve, each of its targets, and the end.
        assert!(times >= 5, "{times}");
        for last in 0..times {
            assert!(matches!(fit(last), Err(Error::Interrupted)), "{last}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]
        #[test]
        fn ridge_and_low_rank_equal_their_closed_forms(
            seed in 0..1000u64, d in 2..16usize, few in any::<bool>(), intercept in any::<bool>(),
            strength in -4..2i32, rank in 1..16usize,
        ) {
            let n = if few { d.div_ceil(2) + 2 } else { 5 * d };
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut random = |shift: f32| -> Vec<f32> {
                (0..n * d).map(|i| rng.random_range(-1.0f32..1.0) * (1 + i % d) as f32 + shift).collect()
            };
            let (x, y) = (random(0.3), random(-2.0));
            let (a, b) = (matrix(&x, d, intercept), matrix(&y, d, intercept));
            let lambda = 10f64.powi(strength);
            let gram = a.transpose() * &a + Mat::from_fn(d, d, |i, j| if i == j { lambda } else { 0.0 });
            let ridge = gram.llt(Side::Lower).unwrap().solve(a.transpose() * &b);
            let svd = a.thin_svd().unwrap();
            let sigma = svd.S().column_vector();
            let counts = |k: &usize| sigma[*k] > 1e-6 * sigma[0];
            let kept: Vec<usize> = (0..sigma.nrows()).filter(counts).collect();
            // Maps are rounded to f32, which the condition of the source magnifies.
            let rounding = 4.0 * f64::from(f32::EPSILON) * sigma[0] / sigma[kept[kept.len() - 1]];
            let u = Mat::from_fn(n, kept.len(), |i, k| svd.U()[(i, kept[k])]);
            let predicted = &u * (u.transpose() * &b);
            let right = predicted.thin_svd().unwrap();
            let rank = rank.min(d);
            let leading = Mat::from_fn(d, rank.min(right.V().ncols()), |i, k| right.V()[(i, k)]);
            let low = &predicted * &leading * leading.transpose();
            for fitted in [of_states(&x, &y, d, intercept), of_sums(&x, &y, d, intercept)] {
                for (kind, expected) in [(Kind::Ridge(Ridge::Fixed(lambda)), &a * &ridge), (Kind::Rank(rank), low.clone())] {
                    let map = fitted.maps(kind).unwrap().maps.remove(0);
                    let weight: Vec<f64> = map.weight().iter().copied().map(f64::from).collect();
                    let got = &a * MatRef::from_row_major_slice(&weight, d, d).transpose();
                    // Which map of a rank is best is up to rounding where singular values are close: how well it fits is not.
                    let distance = match kind {
                        Kind::Rank(_) => ((&got - &b).norm_l2() - (&expected - &b).norm_l2()).abs(),
                        _ => (&got - &expected).norm_l2(),
                    };
                    prop_assert!(distance <= (2e-6 + rounding) * b.norm_l2(), "{kind:?}: {distance} of {}", b.norm_l2());
                    if let Kind::Rank(rank) = kind {
                        let sigma = got.thin_svd().unwrap().S().column_vector().to_owned();
                        let beyond = (rank..sigma.nrows()).map(|k| sigma[k]).fold(0.0, f64::max);
                        prop_assert!(beyond <= (1e-5 + rounding) * sigma[0], "a map of rank {rank} has {beyond} beyond it");
                    }
                }
            }
        }
    }
}
