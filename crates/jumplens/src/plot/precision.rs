//! `precision.svg`: Precision@1, @5 and @10 by layer.

use super::by_layer::{self, PRECISION_1, PRECISION_5, PRECISION_10};
use super::canvas::{Frame, PAGE, render};
use super::series::{Entry, ID, MAT, legend};
use crate::error::Result;
use crate::eval::tables::LayerRow;

/// Precision@1, @5 and @10 by layer, `mat` against `id`, with their 95 % intervals, as SVG.
pub fn precision(rows: &[LayerRow]) -> Result<String> {
    let series = by_layer::present(rows, &[MAT, ID]);
    render(PAGE, 550, |canvas| {
        legend(canvas, (110.0, 28.0), &Entry::mappings(&series))?;
        let y = PRECISION_1.scale(rows, &series);
        for (column, measure) in [PRECISION_1, PRECISION_5, PRECISION_10].into_iter().enumerate() {
            let left = 110.0 + 570.0 * column as f64;
            let frame = Frame { left, top: 66.0, right: left + 440.0, bottom: 466.0 };
            by_layer::draw(canvas, frame, rows, &series, measure, y.clone())?;
        }
        Ok(())
    })
}
