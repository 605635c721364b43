//! Columns of `layers.csv` against the layer: what precision, surprisal and sub-module figures are made of.

use super::panel::Facet;
use super::scale::{Scale, extent, layer_step};
use super::series::{Curve, Mark};
use crate::eval::tables::LayerRow;
use crate::words::Cast;

/// A column of [`LayerRow`] with its interval.
#[derive(Clone, Copy)]
pub(super) struct Measure {
    /// The column's name.
    pub id: &'static str,
    pub label: &'static str,
    pub is_share: bool,
    pub value: fn(&LayerRow) -> f64,
    pub bounds: fn(&LayerRow) -> (f64, f64),
}

pub(super) const PRECISION_1: Measure = Measure {
    id: "precision_1",
    label: "Precision@1",
    is_share: true,
    value: |row| row.precision_1,
    bounds: |row| (row.precision_1_lo, row.precision_1_hi),
};
pub(super) const PRECISION_5: Measure = Measure {
    id: "precision_5",
    label: "Precision@5",
    is_share: true,
    value: |row| row.precision_5,
    bounds: |row| (row.precision_5_lo, row.precision_5_hi),
};
pub(super) const PRECISION_10: Measure = Measure {
    id: "precision_10",
    label: "Precision@10",
    is_share: true,
    value: |row| row.precision_10,
    bounds: |row| (row.precision_10_lo, row.precision_10_hi),
};
pub(super) const SURPRISAL: Measure = Measure {
    id: "surprisal",
    label: "Surprisal (nats)",
    is_share: false,
    value: |row| row.surprisal,
    bounds: |row| (row.surprisal_lo, row.surprisal_hi),
};

/// The measures of the sub-module figures.
pub(super) const FOUR: [Measure; 4] = [PRECISION_1, PRECISION_5, PRECISION_10, SURPRISAL];

/// The last layer that a row is about.
pub(super) fn last_layer(rows: &[LayerRow]) -> usize {
    rows.iter().map(|row| row.layer).max().unwrap_or(0)
}

impl Measure {
    /// The marks of one mapping by layer, at `x(layer)`.
    pub fn marks(&self, rows: &[LayerRow], mapping: &Cast, x: impl Fn(usize) -> f64) -> Vec<Mark> {
        let mut rows: Vec<_> = rows.iter().filter(|row| row.mapping == *mapping).collect();
        rows.sort_by_key(|row| row.layer);
        let mark = |row: &LayerRow| {
            let (lo, hi) = (self.bounds)(row);
            Mark { x: x(row.layer), y: (self.value)(row), lo, hi }
        };
        rows.into_iter().map(mark).collect()
    }

    /// A panel of the casts `mappings` over the layers.
    pub fn facet(&self, rows: &[LayerRow], mappings: &[Cast]) -> Facet {
        let last = last_layer(rows);
        let curves = Curve::of_mappings(mappings, |mapping| self.marks(rows, mapping, |layer| layer as f64));
        Facet {
            id: self.id.to_owned(),
            caption: self.label.to_owned(),
            x: Scale::layers(last, 6),
            x_label: "layer ℓ".to_owned(),
            y: self.scale(&curves),
            y_label: String::new(),
            curves,
            every: layer_step(last, 12),
            clip: None,
        }
    }

    /// A scale for `curves`: for shares one that ends at 1; for others, where the first mark would take two thirds of it or
    /// more, one for the marks after it with room for arrows.
    pub fn scale(&self, curves: &[Curve]) -> Scale {
        let values = |after: f64| {
            let marks = curves.iter().flat_map(|curve| &curve.marks);
            let marks = marks.filter(move |mark| mark.x > after && mark.y.is_finite());
            marks.flat_map(|mark| [mark.y, mark.lo, mark.hi])
        };
        if self.is_share {
            return Scale::shares(extent(values(-1.0)).map_or(0.0, |(least, _)| least));
        }
        let span = |after| extent(values(after)).map_or(0.0, |(lo, hi)| hi - lo);
        let marks = curves.iter().map(|curve| curve.marks.len()).max().unwrap_or(0);
        let dwarfs = marks > 3 && span(0.0) > 0.0 && span(-1.0) >= 3.0 * span(0.0);
        if !dwarfs {
            return Scale::fitting(values(-1.0));
        }
        let later = Scale::fitting(values(0.0));
        let first = curves.iter().flat_map(|curve| &curve.marks).filter(|mark| mark.x == 0.0);
        let arrows = first.filter(|mark| mark.y > later.hi).count();
        Scale { hi: later.hi + 0.09 * arrows as f64 * (later.hi - later.lo), ..later }
    }
}
