//! `surprisal.svg`: surprisal by layer.

use super::by_layer::{self, SURPRISAL};
use super::canvas::{COLUMN, Frame, render};
use super::series::{Entry, ID, MAT, legend};
use crate::error::Result;
use crate::eval::tables::LayerRow;

/// Mean surprisal by layer, `mat` against `id`, with its 95 % interval, as SVG. Where layer 0 would take two thirds
/// of the scale or more, its point is an arrow at the upper edge with the value beside it.
pub fn surprisal(rows: &[LayerRow]) -> Result<String> {
    let series = by_layer::present(rows, &[MAT, ID]);
    render(COLUMN, 610, |canvas| {
        legend(canvas, (120.0, 28.0), &Entry::mappings(&series))?;
        let frame = Frame { left: 120.0, top: 66.0, right: 830.0, bottom: 526.0 };
        by_layer::draw(canvas, frame, rows, &series, SURPRISAL, SURPRISAL.scale(rows, &series))
    })
}
