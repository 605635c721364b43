//! A measure of `layers.csv` against the layer: what precision, surprisal and sub-module figures are made of.

use super::canvas::{Canvas, Frame};
use super::panel::Panel;
use super::scale::{Scale, extent, layer_step};
use super::series::Series;
use crate::error::Result;
use crate::eval::tables::LayerRow;

/// A column of [`LayerRow`] with its interval.
#[derive(Clone, Copy)]
pub(super) struct Measure {
    label: &'static str,
    is_share: bool,
    value: fn(&LayerRow) -> f64,
    bounds: fn(&LayerRow) -> (f64, f64),
}

impl Measure {
    /// A scale for the values of `series`: for shares one that ends at 1; for others, where layer 0 would take two
    /// thirds of it or more, one for the layers after it with room for arrows.
    pub fn scale(&self, rows: &[LayerRow], series: &[Series]) -> Scale {
        let values = |from: usize| {
            let rows = rows.iter().filter(move |row| row.layer >= from);
            let rows = rows.filter(|row| series.iter().any(|series| series.mapping == row.mapping));
            let rows = rows.filter(|row| (self.value)(row).is_finite());
            rows.flat_map(|row| {
                let (lo, hi) = (self.bounds)(row);
                [(self.value)(row), lo, hi]
            })
        };
        if self.is_share {
            return Scale::shares(extent(values(0)).map_or(0.0, |(least, _)| least));
        }
        let span = |from| extent(values(from)).map_or(0.0, |(lo, hi)| hi - lo);
        let dwarfs = last_layer(rows) > 2 && span(1) > 0.0 && span(0) >= 3.0 * span(1);
        if !dwarfs {
            return Scale::fitting(values(0));
        }
        let later = Scale::fitting(values(1));
        let drawn = series.iter().flat_map(|series| of_mapping(rows, series.mapping, *self));
        let arrows = drawn.filter(|row| row.layer == 0 && (self.value)(row) > later.hi).count();
        Scale { hi: later.hi + 0.08 * arrows as f64 * (later.hi - later.lo), ..later }
    }
}

pub(super) const PRECISION_1: Measure = Measure {
    label: "Precision@1",
    is_share: true,
    value: |row| row.precision_1,
    bounds: |row| (row.precision_1_lo, row.precision_1_hi),
};
pub(super) const PRECISION_5: Measure = Measure {
    label: "Precision@5",
    is_share: true,
    value: |row| row.precision_5,
    bounds: |row| (row.precision_5_lo, row.precision_5_hi),
};
pub(super) const PRECISION_10: Measure = Measure {
    label: "Precision@10",
    is_share: true,
    value: |row| row.precision_10,
    bounds: |row| (row.precision_10_lo, row.precision_10_hi),
};
pub(super) const SURPRISAL: Measure = Measure {
    label: "surprisal (nats)",
    is_share: false,
    value: |row| row.surprisal,
    bounds: |row| (row.surprisal_lo, row.surprisal_hi),
};

/// The rows of one mapping that have a value, by layer.
pub(super) fn of_mapping<'r>(rows: &'r [LayerRow], mapping: &str, measure: Measure) -> Vec<&'r LayerRow> {
    let rows = rows.iter().filter(|row| row.mapping == mapping && (measure.value)(row).is_finite());
    let mut rows: Vec<_> = rows.collect();
    rows.sort_by_key(|row| row.layer);
    rows
}

/// The last layer that a row is about.
pub(super) fn last_layer(rows: &[LayerRow]) -> usize {
    rows.iter().map(|row| row.layer).max().unwrap_or(0)
}

/// Those of `series` that `rows` hold.
pub(super) fn present(rows: &[LayerRow], series: &[Series]) -> Vec<Series> {
    let held = series.iter().filter(|series| rows.iter().any(|row| row.mapping == series.mapping));
    held.copied().collect()
}

/// Draws `measure` for each of `series` against the layer, with bands for the intervals.
pub(super) fn draw(
    canvas: &Canvas<'_>,
    frame: Frame,
    rows: &[LayerRow],
    series: &[Series],
    measure: Measure,
    y: Scale,
) -> Result<()> {
    let last = last_layer(rows);
    let panel = Panel { canvas, frame, x: Scale::layers(last, 8), y };
    panel.axes("layer ℓ", measure.label)?;
    for series in series {
        let rows = of_mapping(rows, series.mapping, measure).into_iter();
        let bounds = rows.map(|row| (row, (measure.bounds)(row)));
        let bounds: Vec<_> = bounds.map(|(row, (lo, hi))| (row.layer as f64, lo, hi)).collect();
        panel.band(series, &bounds)?;
    }
    let mut arrows = 0;
    for series in series.iter().rev() {
        let points = of_mapping(rows, series.mapping, measure).into_iter();
        let points: Vec<_> = points.map(|row| (row.layer as f64, (measure.value)(row))).collect();
        panel.curve(series, &points, layer_step(last, 16))?;
        arrows = panel.arrows(series, &points, arrows)?;
    }
    Ok(())
}
