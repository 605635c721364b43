//! `precision`: Precision@1, @5 and @10 by layer.

use super::measure::{PRECISION_1, PRECISION_5, PRECISION_10};
use super::panel::{Facet, Facets};
use super::scale::Scale;
use super::series::{PAIR, present};
use crate::eval::tables::LayerRow;

/// Precision@1, @5 and @10 by layer, `mat` against `id`, with their 95 % intervals.
pub(super) fn precision(rows: &[LayerRow]) -> Option<Facets> {
    let mappings = present(&PAIR, rows.iter().map(|row| &row.mapping));
    let measures = [PRECISION_1, PRECISION_5, PRECISION_10];
    let facets = measures.map(|measure| measure.facet(rows, &mappings)).to_vec();
    (!mappings.is_empty()).then(|| row_of_shares(facets))
}

/// Panels of shares side by side on one scale.
pub(super) fn row_of_shares(mut facets: Vec<Facet>) -> Facets {
    let least = facets.iter().map(|facet| facet.y.ticks.first().map_or(0.0, |(least, _)| *least));
    let y = Scale::shares(least.fold(1.0, f64::min));
    facets.iter_mut().for_each(|facet| facet.y = y.clone());
    Facets { columns: facets.len(), facets, height: 250.0, shared_y: true, shade: Some("95 % interval") }
}
