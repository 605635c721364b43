//! How far states spread, coordinate by coordinate.

use crate::linalg::parallel::column_sums;

/// Means and sums of squares of the states of some samples, in f64.
#[derive(Debug, Clone, PartialEq)]
pub struct Spread {
    /// Samples.
    pub n: usize,
    /// Mean by coordinate, `[d]`.
    pub mean: Vec<f64>,
    /// Σ (y − mean)² by coordinate, `[d]`.
    pub about_mean: Vec<f64>,
}

impl Spread {
    /// Of states, row-major `[n, d]`.
    pub fn of(values: &[f32], d: usize) -> Self {
        let n = values.len() / d;
        let mut mean = column_sums(values, d, |_, row, sums| {
            sums.iter_mut().zip(row).for_each(|(sum, y)| *sum += f64::from(*y));
        });
        mean.iter_mut().for_each(|sum| *sum /= n as f64);
        let about_mean = squared_distances(values, &mean);
        Self { n, mean, about_mean }
    }

    /// Σ y² by coordinate, `[d]`.
    pub fn about_zero(&self) -> Vec<f64> {
        let both = self.about_mean.iter().zip(&self.mean);
        both.map(|(about_mean, mean)| about_mean + self.n as f64 * mean * mean).collect()
    }
}

/// Σ (y − centre)² by coordinate, for states row-major `[n, d]` and `centre` `[d]`.
pub fn squared_distances(values: &[f32], centre: &[f64]) -> Vec<f64> {
    column_sums(values, centre.len(), |_, row, sums| {
        for ((sum, y), centre) in sums.iter_mut().zip(row).zip(centre) {
            *sum += (f64::from(*y) - centre).powi(2);
        }
    })
}
