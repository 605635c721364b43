//! `early_exit`: exit by confidence against exit at a fixed layer.

use super::canvas::{Align, BLACK, Canvas, Frame, GREY, LABEL, Stroke, TICK};
use super::font::text_width;
use super::measure::{PRECISION_1, last_layer};
use super::panel::{AXIS_ROOM, Entry, Facet, Panel, legend, legend_height};
use super::scale::{Scale, layer_step};
use super::series::{Curve, Mark, PAIR, Style, present};
use crate::eval::tables::{ExitRow, LayerRow};
use crate::eval::{ENOUGH_PRECISION, cheapest_exit};
use crate::words::Cast;

/// Precision@1 over the layers processed, for exit by confidence and for exit at a fixed layer, `mat` against `id`. The
/// bars above the frame are the layers saved at 95 % precision.
pub(super) fn early_exit(exits: &[ExitRow], layers: &[LayerRow], page: f64) -> Option<Canvas> {
    let mappings = present(&PAIR, exits.iter().map(|row| &row.mapping));
    if mappings.is_empty() || layers.is_empty() {
        return None;
    }
    let last = last_layer(layers);
    let restyled = |curves: Vec<Curve>, dash, kind: &str| -> Vec<Curve> {
        let restyle = |curve: Curve| Curve {
            id: format!("{} {kind}", curve.id),
            name: format!("{}, {kind}", curve.name),
            style: Style { dash, ..curve.style },
            ..curve
        };
        curves.into_iter().map(restyle).collect()
    };
    let fixed = Curve::of_mappings(&mappings, |mapping| {
        PRECISION_1
            .marks(layers, mapping, |layer| layer as f64)
            .iter()
            .map(|m| Mark::bare(m.x, m.y))
            .collect()
    });
    let early = Curve::of_mappings(&mappings, |mapping| by_layers_processed(exits, mapping));
    // Each of them has a row, and so a curve.
    let saved = saved(mappings.iter().zip(&early), exits, last);
    let fixed = restyled(fixed, Some((9, 7)), "fixed");
    let early = restyled(early, None, "early");

    let both = early.iter().zip(&fixed).flat_map(|(early, fixed)| [early, fixed]);
    let entries: Vec<Entry> = both.map(|curve| Entry::Curve(curve.style, curve.name.clone())).collect();
    let top = legend_height(&entries, page) + 12.0 + 38.0 * saved.len() as f64 + 12.0;
    let frame = Frame { left: 92.0, top, right: page - 62.0, bottom: top + 420.0 };
    let mut canvas = Canvas::new(page, frame.bottom + AXIS_ROOM);
    legend(&mut canvas, &entries, page);
    let facet = Facet {
        id: "precision_1".to_owned(),
        caption: String::new(),
        x: Scale::layers(last, 8),
        x_label: "layers processed".to_owned(),
        y: Scale::shares(0.0),
        y_label: "Precision@1".to_owned(),
        curves: Vec::new(),
        every: 1,
        clip: None,
    };
    facet.draw(&mut canvas, frame, true);
    let panel = Panel { frame, x: &facet.x, y: &facet.y };
    if let (Some(start), Some(end)) =
        (panel.at(panel.x.lo, ENOUGH_PRECISION), panel.at(panel.x.hi, ENOUGH_PRECISION))
    {
        canvas.line(&[start, end], Stroke { color: GREY, width: 2.0, dash: Some((10, 6)) });
        canvas.text("0.95", (end.0 + 8.0, end.1), Align::Left, TICK, GREY);
    }
    canvas.marks(&panel.data("precision_1"), |canvas| {
        fixed.iter().rev().for_each(|curve| panel.curve(canvas, curve, layer_step(last, 16), None));
        early.iter().rev().for_each(|curve| panel.curve(canvas, curve, 1, None));
        for (row, saved) in saved.iter().enumerate() {
            saved.draw(canvas, &panel, last, 38.0 * row as f64 + 24.0);
        }
    });
    Some(canvas)
}

/// The points of one mapping in order of the layers processed.
pub(super) fn by_layers_processed(exits: &[ExitRow], mapping: &Cast) -> Vec<Mark> {
    let rows = exits.iter().filter(|row| row.mapping == *mapping);
    let mut marks: Vec<_> = rows.map(|row| Mark::bare(row.layers_processed, row.precision_1)).collect();
    marks.sort_by(|a, b| a.x.total_cmp(&b.x).then(a.y.total_cmp(&b.y)));
    marks
}

/// Layers saved at enough precision, and the point where.
struct Saved {
    mapping: Cast,
    style: Style,
    at: (f64, f64),
}

/// What each curve's mapping saves; the longest bar is first, nearest to the frame, so that no line to a point crosses a
/// label. A bar of no length is left out.
fn saved<'c>(
    early: impl Iterator<Item = (&'c Cast, &'c Curve)>,
    exits: &[ExitRow],
    last: usize,
) -> Vec<Saved> {
    let of = |(mapping, curve): (&Cast, &Curve)| {
        let row = cheapest_exit(exits, mapping).filter(|row| row.layers_processed.is_finite())?;
        let at = (row.layers_processed, row.precision_1);
        (at.0 < last as f64).then_some(Saved { mapping: mapping.clone(), style: curve.style, at })
    };
    let mut saved: Vec<Saved> = early.filter_map(of).collect();
    saved.sort_by(|a, b| a.at.0.total_cmp(&b.at.0));
    saved
}

impl Saved {
    /// Draws a bar, `height` above the frame, from the point to the last layer, with the layers saved beside it.
    fn draw(&self, canvas: &mut Canvas, panel: &Panel, last: usize, height: f64) {
        let (Some(point), Some(end)) = (panel.at(self.at.0, self.at.1), panel.at(last as f64, self.at.1))
        else {
            return;
        };
        let y = panel.frame.top - height;
        let thin = Stroke::plain(self.style.color, 2.0);
        let saved = last as f64 - self.at.0;
        canvas.marks(&[("saved", self.mapping.to_string()), ("layers", saved.to_string())], |canvas| {
            canvas.line(&[(point.0, y), point], thin);
            canvas.line(&[(end.0, y - 9.0), (end.0, y + 9.0)], thin);
            canvas.line(&[(point.0, y), (end.0, y)], Stroke { width: 7.0, ..thin });
        });
        let label = format!("{} saves {saved:.1} layers", self.mapping);
        let right = (point.0 - 16.0).max(panel.frame.left + text_width(&label, LABEL));
        canvas.text_on_white(&label, (right, y), Align::Right, LABEL, BLACK);
    }
}
