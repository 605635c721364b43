//! What kind of map a shortcut is.

use crate::error::Result;
use crate::linalg::parallel::widened;
use crate::map::LinearMap;
use serde::Serialize;

/// Singular values that are told.
const TOLD: usize = 8;

/// A map by its size and spectrum.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// ‖A‖ by Frobenius.
    pub frobenius_norm: f64,
    /// The largest singular value.
    pub spectral_norm: f64,
    /// The largest singular values, falling.
    pub singular_values: Vec<f64>,
    /// The smallest singular value.
    pub smallest_singular_value: f64,
    /// exp of the entropy of the singular values' shares of their sum (Roy and Vetterli, 2007).
    pub effective_rank: f64,
    /// ‖A − I‖ ÷ ‖I‖ by Frobenius.
    pub distance_from_identity: f64,
    /// ‖b‖, where there is a bias.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bias_norm: Option<f64>,
}

/// Looks at a map `[d, d]`, in f64.
pub fn inspect(map: &LinearMap) -> Result<Inspection> {
    let (d, columns) = (map.d_out(), map.d_in());
    let weight = widened(map.weight());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let values = map.singular_values()?;
    let from_identity = weight
        .iter()
        .enumerate()
        .map(|(place, value)| if place % (columns + 1) == 0 { value - 1.0 } else { *value });
    let bias_norm = map.bias().map(|bias| norm(&mut bias.iter().map(|b| f64::from(*b))));
    Ok(Inspection {
        frobenius_norm: norm(&mut weight.iter().copied()),
        spectral_norm: values.first().copied().unwrap_or(0.0),
        smallest_singular_value: values.last().copied().unwrap_or(0.0),
        effective_rank: effective_rank(&values),
        distance_from_identity: norm(&mut from_identity.into_iter()) / (d as f64).sqrt(),
        singular_values: values.into_iter().take(TOLD).collect(),
        bias_norm,
    })
}

/// exp of the entropy of the singular values as shares of their sum (Roy and Vetterli 2007).
pub fn effective_rank(sigma: &[f64]) -> f64 {
    let total: f64 = sigma.iter().sum();
    let entropy = |p: f64| if p > 0.0 { -p * p.ln() } else { 0.0 };
    if total > 0.0 { sigma.iter().map(|s| entropy(s / total)).sum::<f64>().exp() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scaled_rotation_is_what_it_is() {
        // diag(3, 1) after a quarter turn.
        let map =
            LinearMap::from_rows(vec![0.0, -3.0, 1.0, 0.0], 2, 2).unwrap().with_bias(vec![3.0, 4.0]).unwrap();
        let found = inspect(&map).unwrap();
        let near = |got: f64, want: f64| assert!((got - want).abs() < 1e-12, "{got} {want}");
        near(found.frobenius_norm, 10f64.sqrt());
        near(found.spectral_norm, 3.0);
        near(found.smallest_singular_value, 1.0);
        // Shares of ¾ and ¼.
        near(found.effective_rank, (0.75 * (4f64 / 3.0).ln() + 0.25 * 4f64.ln()).exp());
        // ‖[−1, −3; 1, −1]‖ ÷ √2
        near(found.distance_from_identity, 6f64.sqrt());
        assert_eq!((found.singular_values.len(), found.bias_norm), (2, Some(5.0)));
    }

    #[test]
    fn the_identity_has_full_effective_rank_and_no_distance() {
        let identity = (0..25).map(|place| if place % 6 == 0 { 1.0 } else { 0.0 }).collect();
        let found = inspect(&LinearMap::from_rows(identity, 5, 5).unwrap()).unwrap();
        assert!((found.effective_rank - 5.0).abs() < 1e-9 && found.distance_from_identity == 0.0);
        assert_eq!(inspect(&LinearMap::from_rows(vec![0.0; 9], 3, 3).unwrap()).unwrap().spectral_norm, 0.0);
    }
}
