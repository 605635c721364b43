//! `submodules.svg`: casts that replace one kind of sub-module, against the cast that skips the blocks.

use super::by_layer::{self, PRECISION_1, PRECISION_5, PRECISION_10, SURPRISAL};
use super::canvas::{Frame, PAGE, render};
use super::series::{Entry, MAT, MAT_ATTN, MAT_FFN, MAT_LN, legend};
use crate::error::Result;
use crate::eval::tables::LayerRow;

/// Precision@1, @5, @10 and surprisal by layer for `mat_attn`, `mat_ffn`, `mat_ln1_ln2` and `mat`, with their 95 %
/// intervals, as SVG.
pub fn submodules(rows: &[LayerRow]) -> Result<String> {
    let series = by_layer::present(rows, &[MAT_LN, MAT_ATTN, MAT_FFN, MAT]);
    render(PAGE, 1100, |canvas| {
        legend(canvas, (120.0, 28.0), &Entry::mappings(&series))?;
        for (place, measure) in [PRECISION_1, PRECISION_5, PRECISION_10, SURPRISAL].into_iter().enumerate() {
            let left = 120.0 + 860.0 * (place % 2) as f64;
            let top = 66.0 + 530.0 * (place / 2) as f64;
            let frame = Frame { left, top, right: left + 700.0, bottom: top + 420.0 };
            by_layer::draw(canvas, frame, rows, &series, measure, measure.scale(rows, &series))?;
        }
        Ok(())
    })
}

/// Whether `rows` hold a cast that [`submodules`] is about.
pub(super) fn has_submodules(rows: &[LayerRow]) -> bool {
    rows.iter().any(|row| [MAT_ATTN, MAT_FFN, MAT_LN].iter().any(|series| series.mapping == row.mapping))
}
