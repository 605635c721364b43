//! How the mappings look, and the legend that says so.

use super::canvas::{Align, BLACK, Canvas, Frame, GREY, LABEL, Marker, PALE, Point, Stroke, text_width};
use crate::error::Result;
use plotters::style::RGBColor;

/// How one mapping looks in every figure. Colours are from Okabe and Ito's palette; dashes and markers tell the
/// mappings apart without them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Series {
    pub mapping: &'static str,
    pub color: RGBColor,
    pub dash: Option<(i32, i32)>,
    pub marker: Marker,
}

pub(super) const MAT: Series =
    Series { mapping: "mat", color: RGBColor(0, 114, 178), dash: None, marker: Marker::Disc };
pub(super) const ID: Series =
    Series { mapping: "id", color: RGBColor(213, 94, 0), dash: Some((16, 8)), marker: Marker::Square };
pub(super) const MEAN: Series =
    Series { mapping: "mean", color: GREY, dash: Some((5, 7)), marker: Marker::None };
pub(super) const MAT_ATTN: Series = Series {
    mapping: "mat_attn",
    color: RGBColor(0, 158, 115),
    dash: Some((24, 8)),
    marker: Marker::Triangle,
};
pub(super) const MAT_FFN: Series = Series {
    mapping: "mat_ffn",
    color: RGBColor(204, 121, 167),
    dash: Some((8, 6)),
    marker: Marker::Diamond,
};
pub(super) const MAT_LN: Series =
    Series { mapping: "mat_ln1_ln2", color: BLACK, dash: Some((16, 6)), marker: Marker::Ring };

impl Series {
    pub fn stroke(&self) -> Stroke {
        Stroke { color: self.color, width: 4, dash: self.dash }
    }
}

/// What a legend explains.
pub(super) enum Entry<'a> {
    /// A curve, under a name.
    Curve(&'a Series, &'a str),
    /// The shading around the curves.
    Interval,
}

impl<'a> Entry<'a> {
    /// The curves of `series` under their mappings' names, and the shading.
    pub fn mappings(series: &'a [Series]) -> Vec<Entry<'a>> {
        let curves = series.iter().map(|series| Entry::Curve(series, series.mapping));
        curves.chain([Entry::Interval]).collect()
    }
}

/// Draws a legend in one row that begins at `at`.
pub(super) fn legend(canvas: &Canvas<'_>, at: Point, entries: &[Entry<'_>]) -> Result<()> {
    let (mut x, y) = at;
    for entry in entries {
        let name = match entry {
            Entry::Curve(series, name) => {
                canvas.line(&[(x, y), (x + 72.0, y)], series.stroke())?;
                canvas.marker(series.marker, (x + 36.0, y), series.color)?;
                name
            }
            Entry::Interval => {
                canvas
                    .rectangle(Frame { left: x, top: y - 12.0, right: x + 72.0, bottom: y + 12.0 }, PALE)?;
                "95 % interval"
            }
        };
        canvas.text(name, (x + 84.0, y), Align::Left, LABEL, BLACK)?;
        x += 84.0 + text_width(name, LABEL) + 36.0;
    }
    Ok(())
}
