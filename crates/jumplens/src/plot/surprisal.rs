//! `surprisal`: surprisal by layer.

use super::measure::SURPRISAL;
use super::panel::Facets;
use super::series::{PAIR, present};
use crate::eval::tables::LayerRow;

/// Mean surprisal by layer, `mat` against `id`, with its 95 % interval. Where layer 0 would take two thirds of the scale or
/// more, its point is an arrow at the upper edge with the value beside it.
pub(super) fn surprisal(rows: &[LayerRow]) -> Option<Facets> {
    let mappings = present(&PAIR, rows.iter().map(|row| &row.mapping));
    let mut facet = SURPRISAL.facet(rows, &mappings);
    facet.y_label = std::mem::take(&mut facet.caption);
    (!mappings.is_empty()).then(|| Facets {
        facets: vec![facet],
        columns: 1,
        height: 400.0,
        shared_y: false,
        shade: Some("95 % interval"),
    })
}
