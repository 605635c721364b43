//! `early_exit.svg`: exit by confidence against exit at a fixed layer.

use super::by_layer::{PRECISION_1, last_layer, of_mapping};
use super::canvas::{Align, BLACK, COLUMN, Frame, GREY, LABEL, Stroke, TICK, WHITE, render, text_width};
use super::panel::Panel;
use super::scale::{Scale, layer_step};
use super::series::{Entry, ID, MAT, Series, legend};
use crate::error::Result;
use crate::eval::tables::{ExitRow, LayerRow};
use crate::eval::{ENOUGH_PRECISION, cheapest_exit};

/// Precision@1 over the layers processed, for exit by confidence and for exit at a fixed layer, `mat` against `id`,
/// as SVG. The bars above the frame are the layers saved at 95 % precision.
pub fn early_exit(exits: &[ExitRow], layers: &[LayerRow]) -> Result<String> {
    let last = last_layer(layers);
    render(COLUMN, 790, |canvas| {
        let early = [MAT, ID].map(|series| Series { dash: None, ..series });
        let fixed = [MAT, ID].map(|series| Series { dash: Some((10, 8)), ..series });
        for (row, (early, fixed)) in early.iter().zip(&fixed).enumerate() {
            let names = ["early", "fixed"].map(|kind| format!("{}, {kind} exit", early.mapping));
            let y = 28.0 + 40.0 * row as f64;
            legend(canvas, (120.0, y), &[Entry::Curve(early, &names[0])])?;
            legend(canvas, (480.0, y), &[Entry::Curve(fixed, &names[1])])?;
        }
        let frame = Frame { left: 120.0, top: 200.0, right: 770.0, bottom: 706.0 };
        let panel = Panel { canvas, frame, x: Scale::layers(last, 8), y: Scale::shares(0.0) };
        panel.axes("layers processed", "Precision@1")?;
        if let (Some(start), Some(end)) =
            (panel.at(panel.x.lo, ENOUGH_PRECISION), panel.at(panel.x.hi, ENOUGH_PRECISION))
        {
            canvas.line(&[start, end], Stroke { color: GREY, width: 2, dash: Some((10, 6)) })?;
            canvas.text("0.95", (end.0 + 8.0, end.1), Align::Left, TICK, GREY)?;
        }
        for series in fixed.iter().rev() {
            let rows = of_mapping(layers, series.mapping, PRECISION_1);
            let points: Vec<_> = rows.iter().map(|row| (row.layer as f64, row.precision_1)).collect();
            panel.curve(series, &points, layer_step(last, 16))?;
        }
        let mut saving = Vec::new();
        for series in early.iter().rev() {
            panel.curve(series, &by_layers_processed(exits, series.mapping), 1)?;
            let cheapest =
                cheapest_exit(exits, series.mapping).filter(|row| row.layers_processed.is_finite());
            saving.extend(cheapest.map(|row| (series, (row.layers_processed, row.precision_1))));
        }
        // The longest bar is nearest to the frame, so that no line to a point crosses a label.
        saving.sort_by(|(_, a), (_, b)| a.0.total_cmp(&b.0));
        for (row, (series, point)) in saving.into_iter().enumerate() {
            saved_bar(&panel, series, point, last, 40.0 * row as f64 + 46.0)?;
        }
        Ok(())
    })
}

/// The points of one mapping in order of the layers processed.
fn by_layers_processed(exits: &[ExitRow], mapping: &str) -> Vec<(f64, f64)> {
    let rows = exits.iter().filter(|row| row.mapping == mapping);
    let mut points: Vec<_> = rows.map(|row| (row.layers_processed, row.precision_1)).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    points
}

/// Draws a bar, `height` above the frame, from the cheapest point to the last layer, with the layers saved beside it.
fn saved_bar(panel: &Panel, series: &Series, cheapest: (f64, f64), last: usize, height: f64) -> Result<()> {
    let (Some(point), Some(end)) = (panel.at(cheapest.0, cheapest.1), panel.at(last as f64, cheapest.1))
    else {
        return Ok(());
    };
    let Panel { canvas, frame, .. } = panel;
    let y = frame.top - height;
    let thin = Stroke { color: series.color, width: 2, dash: None };
    canvas.line(&[(point.0, y), point], thin)?;
    canvas.line(&[(end.0, y - 9.0), (end.0, y + 9.0)], thin)?;
    canvas.line(&[(point.0, y), (end.0, y)], Stroke { width: 8, ..thin })?;
    let label = format!("{} saves {:.1} layers", series.mapping, last as f64 - cheapest.0);
    let width = text_width(&label, LABEL);
    let right = (point.0 - 16.0).max(frame.left + width);
    let behind = Frame { left: right - width, top: y - 17.0, right: right + 8.0, bottom: y + 17.0 };
    canvas.rectangle(behind, WHITE)?;
    canvas.text(&label, (right, y), Align::Right, LABEL, BLACK)
}
