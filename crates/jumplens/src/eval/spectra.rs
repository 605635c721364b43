//! Singular values of the maps to the last layer.

use super::tables::SpectrumRow;
use crate::error::Result;
use crate::linalg;
use crate::models::Spec;
use crate::nn::with_values;
use crate::progress::{Observer, check};
use crate::shortcut::{LinearMap, MAT, Shortcuts};
use faer::MatRef;

/// The rows of `spectra.csv`: the singular values of the maps `mat` from every layer to the last one, where `mat` is
/// among `casts`.
pub fn spectra(
    spec: &Spec,
    shortcuts: &Shortcuts,
    casts: &[String],
    observer: &dyn Observer,
) -> Result<Vec<SpectrumRow>> {
    let to = spec.n_layers;
    let mut rows = Vec::new();
    let from = if casts.iter().any(|cast| cast == MAT) { 0..to } else { 0..0 };
    for from in from {
        check(observer)?;
        if !shortcuts.targets(from)?.contains(&to) {
            continue;
        }
        if let Some(map) = shortcuts.load_pairs(from, &[to], spec.d_model)?.get(&to) {
            let values = singular_values(map)?.into_iter().enumerate();
            rows.extend(values.map(|(place, value)| SpectrumRow {
                from,
                to,
                index: place + 1,
                singular_value: value,
            }));
        }
    }
    Ok(rows)
}

/// By falling size, computed in f64.
pub(super) fn singular_values(map: &LinearMap) -> Result<Vec<f64>> {
    let weight: Vec<f64> =
        with_values(map.weight(), |weight| weight.iter().map(|value| f64::from(*value)).collect())?;
    let (d_out, d_in) = map.weight().dims2()?;
    let weight = MatRef::from_row_major_slice(&weight, d_out, d_in);
    linalg::singular_values(weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn singular_values_of_a_scaled_rotation_are_its_scales() {
        let (s, c) = 0.3f64.sin_cos();
        // diag(3, 0.5) · rotation
        let rows = [3.0 * c, -3.0 * s, 0.5 * s, 0.5 * c].map(|value| value as f32);
        let map = LinearMap::from_rows(rows.to_vec(), 2, 2).unwrap();
        let values = singular_values(&map).unwrap();
        assert!((values[0] - 3.0).abs() < 1e-6 && (values[1] - 0.5).abs() < 1e-6, "{values:?}");
    }
}
