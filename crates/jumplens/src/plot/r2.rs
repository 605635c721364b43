//! `r2.svg`: how well one layer's state gives another's.

use super::canvas::{Align, BLACK, COLUMN, Canvas, Frame, GREY, LABEL, PAGE, Stroke, TICK, render};
use super::panel::Panel;
use super::scale::{Scale, layer_step};
use super::series::{Entry, ID, MAT, MEAN, Series, legend};
use crate::error::Result;
use crate::eval::tables::R2Row;
use plotters::style::RGBColor;

/// matplotlib's viridis at nine even steps.
const VIRIDIS: [RGBColor; 9] = [
    RGBColor(68, 1, 84),
    RGBColor(71, 45, 123),
    RGBColor(59, 82, 139),
    RGBColor(44, 114, 142),
    RGBColor(33, 145, 140),
    RGBColor(40, 174, 128),
    RGBColor(94, 201, 98),
    RGBColor(173, 220, 48),
    RGBColor(253, 231, 37),
];

/// r² between layers as SVG: heat maps of `mat` and `id` over source and target layer, on one colour scale that is
/// clipped to [0, 1] (a NaN is grey); or, where the last layer is every cast's target, curves over the source layer
/// with the baseline `mean`.
pub fn r2(rows: &[R2Row]) -> Result<String> {
    let last = last_layer(rows);
    let mut casts = rows.iter().filter(|row| row.mapping != MEAN.mapping);
    if casts.all(|row| row.to == last) { to_last(rows, last) } else { between(rows, last) }
}

fn last_layer(rows: &[R2Row]) -> usize {
    rows.iter().map(|row| row.to).max().unwrap_or(0)
}

fn to_last(rows: &[R2Row], last: usize) -> Result<String> {
    render(COLUMN, 610, |canvas| {
        legend(canvas, (120.0, 28.0), &[MAT, ID, MEAN].each_ref().map(|s| Entry::Curve(s, s.mapping)))?;
        let mut y = Scale::shares(0.0);
        y.ticks[0].1 = "≤ 0".to_owned();
        let frame = Frame { left: 120.0, top: 66.0, right: 830.0, bottom: 526.0 };
        let panel = Panel { canvas, frame, x: Scale::layers(last, 8), y };
        panel.axes("layer ℓ", &format!("r² to layer {last}"))?;
        for series in [MEAN, ID, MAT] {
            let mut rows: Vec<_> =
                rows.iter().filter(|row| row.mapping == series.mapping && row.to == last).collect();
            rows.sort_by_key(|row| row.from);
            let points: Vec<_> = rows.iter().map(|row| (row.from as f64, clipped(row.r2))).collect();
            match points.as_slice() {
                // The baseline does not depend on the source: one row stands for every layer.
                [(_, mean)] if series.mapping == MEAN.mapping => {
                    panel.curve(&series, &[(0.0, *mean), (last as f64, *mean)], 1)?;
                }
                points => panel.curve(&series, points, layer_step(last, 16))?,
            }
        }
        Ok(())
    })
}

fn between(rows: &[R2Row], last: usize) -> Result<String> {
    const SIDE: f64 = 620.0;
    render(PAGE, 724, |canvas| {
        for (column, series) in [MAT, ID].iter().enumerate() {
            let left = 120.0 + 700.0 * column as f64;
            let frame = Frame { left, top: 20.0, right: left + SIDE, bottom: 20.0 + SIDE };
            heat_map(canvas, frame, rows, series, last)?;
        }
        let middle = 20.0 + SIDE / 2.0;
        canvas.text_upwards("source layer ℓ", (40.0, middle), LABEL)?;
        color_bar(canvas, Frame { left: 1480.0, top: 20.0, right: 1520.0, bottom: 20.0 + SIDE })?;
        canvas.text_upwards("r²", (1622.0, middle), LABEL)
    })
}

/// Source layers `0..last` down, target layers `1..=last` across.
fn heat_map(canvas: &Canvas<'_>, frame: Frame, rows: &[R2Row], series: &Series, last: usize) -> Result<()> {
    let Frame { left, top, right, bottom } = frame;
    let edge = |start: f64, index: usize| (start + (right - left) * index as f64 / last as f64).round();
    let mut cells: Vec<_> =
        rows.iter().filter(|row| row.mapping == series.mapping && row.from < row.to).collect();
    cells.sort_by_key(|row| (row.from, row.to));
    for row in cells {
        // A cell reaches under its neighbours to the right and below, so that no seam shows between them.
        let under = |has_neighbour| if has_neighbour { 1.0 } else { 0.0 };
        let cell = Frame {
            left: edge(left, row.to - 1),
            top: edge(top, row.from),
            right: edge(left, row.to) + under(row.to < last),
            bottom: edge(top, row.from + 1) + under(row.from + 1 < row.to),
        };
        canvas.rectangle(cell, if row.r2.is_nan() { GREY } else { color(row.r2) })?;
    }
    let axis = Stroke { color: BLACK, width: 2, dash: None };
    canvas.line(&[(left, top), (left, bottom), (right, bottom)], axis)?;
    let step = layer_step(last, 12);
    let centre = |start, index| (edge(start, index) + edge(start, index + 1)) / 2.0;
    for from in (0..last).step_by(step) {
        let y = centre(top, from);
        canvas.line(&[(left - 8.0, y), (left, y)], axis)?;
        canvas.text(&from.to_string(), (left - 14.0, y), Align::Right, TICK, BLACK)?;
    }
    for to in (0..=last).step_by(step).filter(|to| *to > 0) {
        let x = centre(left, to - 1);
        canvas.line(&[(x, bottom), (x, bottom + 8.0)], axis)?;
        canvas.text(&to.to_string(), (x, bottom + 26.0), Align::Centre, TICK, BLACK)?;
    }
    canvas.text("target layer ℓ′", ((left + right) / 2.0, bottom + 64.0), Align::Centre, LABEL, BLACK)?;
    canvas.text(series.mapping, (left + 30.0, bottom - 40.0), Align::Left, 1.3 * LABEL, BLACK)
}

fn color_bar(canvas: &Canvas<'_>, frame: Frame) -> Result<()> {
    const STEPS: usize = 124;
    let height = (frame.bottom - frame.top) / STEPS as f64;
    for step in 0..STEPS {
        let bottom = frame.bottom - height * step as f64;
        let piece = Frame { top: (bottom - height - 1.0).max(frame.top), bottom, ..frame };
        canvas.rectangle(piece, color(step as f64 / (STEPS - 1) as f64))?;
    }
    for fifth in 0..=5 {
        let y = frame.bottom - (frame.bottom - frame.top) * f64::from(fifth) / 5.0;
        let label = if fifth == 0 { "≤ 0".to_owned() } else { format!("{:.1}", f64::from(fifth) / 5.0) };
        let tick = Stroke { color: BLACK, width: 2, dash: None };
        canvas.line(&[(frame.right, y), (frame.right + 8.0, y)], tick)?;
        canvas.text(&label, (frame.right + 16.0, y), Align::Left, TICK, BLACK)?;
    }
    Ok(())
}

/// `r2` on the scale from 0 to 1; NaN stays NaN.
fn clipped(r2: f64) -> f64 {
    r2.clamp(0.0, 1.0)
}

fn color(r2: f64) -> RGBColor {
    let place = clipped(r2) * (VIRIDIS.len() - 1) as f64;
    let index = (place as usize).min(VIRIDIS.len() - 2);
    let share = place - index as f64;
    let mix = |a: u8, b: u8| (f64::from(a) + share * (f64::from(b) - f64::from(a))).round() as u8;
    let (RGBColor(r, g, b), RGBColor(r1, g1, b1)) = (VIRIDIS[index], VIRIDIS[index + 1]);
    RGBColor(mix(r, r1), mix(g, g1), mix(b, b1))
}
