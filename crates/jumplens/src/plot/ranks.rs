//! `rank`: how far down a cast's order the model's token stands.

use super::panel::{Facet, Facets};
use super::scale::{Scale, layer_step};
use super::series::{Curve, Mark, PAIR, present};
use crate::eval::tables::RankRow;
use crate::words::Cast;

/// The rank of the model's token among a cast's, median and quartiles by layer, `mat` against `id`.
pub(super) fn ranks(rows: &[RankRow]) -> Option<Facets> {
    let mappings = present(&PAIR, rows.iter().map(|row| &row.mapping));
    let last = rows.iter().map(|row| row.layer).max().unwrap_or(0);
    let curves = Curve::of_mappings(&mappings, |mapping| marks(rows, mapping, |layer| layer as f64));
    (!mappings.is_empty()).then(|| Facets {
        facets: vec![Facet {
            x: Scale::layers(last, 8),
            x_label: "layer ℓ".to_owned(),
            every: layer_step(last, 16),
            ..facet(curves)
        }],
        columns: 1,
        height: 400.0,
        shared_y: false,
        shade: Some("quartiles"),
    })
}

/// The marks of one mapping by layer, at `x(layer)`.
pub(super) fn marks(rows: &[RankRow], mapping: &Cast, x: impl Fn(usize) -> f64) -> Vec<Mark> {
    let mut rows: Vec<_> = rows.iter().filter(|row| row.mapping == *mapping).collect();
    rows.sort_by_key(|row| row.layer);
    let mark = |row: &RankRow| {
        let RankRow { median, lower_quartile, upper_quartile, .. } = *row;
        Mark { x: x(row.layer), y: median, lo: lower_quartile, hi: upper_quartile }
    };
    rows.into_iter().map(mark).collect()
}

/// A panel of ranks, without a scale along x.
pub(super) fn facet(curves: Vec<Curve>) -> Facet {
    let values =
        curves.iter().flat_map(|curve| &curve.marks).flat_map(|mark| [mark.y, mark.lo, mark.hi, 1.0]);
    Facet {
        id: "rank".to_owned(),
        caption: String::new(),
        x: Scale::layers(0, 1),
        x_label: String::new(),
        y: Scale::powers(values, 12),
        y_label: "rank of the model's token".to_owned(),
        curves,
        every: 1,
        clip: None,
    }
}
