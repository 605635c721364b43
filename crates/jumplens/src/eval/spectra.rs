//! Singular values of the maps to the last layer.

use super::tables::SpectrumRow;
use crate::Result;
use crate::models::Sizes;
use crate::progress::{Observer, check};
use crate::shortcut::MapStore;
use crate::words::Cast;

/// The rows of `spectra.csv`: the singular values of the maps `mat` from every layer to the last one, where `mat` is
/// among `casts`.
pub fn spectra(
    sizes: Sizes,
    shortcuts: &dyn MapStore,
    casts: &[Cast],
    observer: &dyn Observer,
) -> Result<Vec<SpectrumRow>> {
    let to = sizes.n_layers;
    let mut rows = Vec::new();
    let from = if casts.contains(&Cast::MAT) { 0..to } else { 0..0 };
    for from in from {
        check(observer)?;
        if !shortcuts.targets(&Cast::MAT, from)?.contains(&to) {
            continue;
        }
        if let Some(map) = shortcuts.load(&Cast::MAT, from, &[to], sizes.d_model)?.get(&to) {
            let values = map.singular_values()?.into_iter().enumerate();
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
