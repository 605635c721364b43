//! `r2`: how well one layer's state gives another's.

use super::canvas::{Align, BLACK, Canvas, Frame, GREY, LABEL, Stroke, TICK, numbers};
use super::colors::{color_bar, shade};
use super::panel::{Facet, Facets};
use super::scale::{Scale, layer_step};
use super::series::{Curve, Mark, PAIR, present};
use crate::eval::tables::R2Row;
use crate::words::Cast;

/// r² between layers: heat maps of `mat` and `id` over source and target layer, on one colour scale that is clipped to
/// [0, 1] (a NaN is grey); or, where the last layer is every cast's target, curves over the source layer with the baseline
/// `mean`.
pub(super) fn r2(rows: &[R2Row], page: f64) -> Option<Canvas> {
    let last = last_layer(rows);
    let casts = present(&PAIR, rows.iter().map(|row| &row.mapping));
    if casts.is_empty() {
        return None;
    }
    let to_last = rows.iter().filter(|row| casts.contains(&row.mapping)).all(|row| row.to == last);
    // One layer makes one pair: a heat map all the same.
    Some(if to_last && last > 1 {
        curves_to_last(rows, last, page)
    } else {
        between(rows, &casts, last, page)
    })
}

pub(super) fn last_layer(rows: &[R2Row]) -> usize {
    rows.iter().map(|row| row.to).max().unwrap_or(0)
}

fn curves_to_last(rows: &[R2Row], last: usize, page: f64) -> Canvas {
    let mappings = present(&[Cast::MAT, Cast::Id, Cast::Mean], rows.iter().map(|row| &row.mapping));
    let curves = Curve::of_mappings(&mappings, |mapping| marks_to_last(rows, mapping, |from| from as f64));
    let facet = Facet {
        x: Scale::layers(last, 8),
        x_label: "layer ℓ".to_owned(),
        y_label: format!("r² to layer {last}"),
        every: layer_step(last, 16),
        ..facet(curves)
    };
    Facets { facets: vec![facet], columns: 1, height: 400.0, shared_y: false, shade: None }.draw(page)
}

/// The marks of one mapping to the last layer, at `x(source layer)`.
pub(super) fn marks_to_last(rows: &[R2Row], mapping: &Cast, x: impl Fn(usize) -> f64) -> Vec<Mark> {
    let last = last_layer(rows);
    let mut rows: Vec<_> = rows.iter().filter(|row| row.mapping == *mapping && row.to == last).collect();
    rows.sort_by_key(|row| row.from);
    rows.into_iter().map(|row| Mark::bare(x(row.from), row.r2)).collect()
}

/// A panel of r² from 0 to 1, without a scale along x.
pub(super) fn facet(curves: Vec<Curve>) -> Facet {
    let mut y = Scale::shares(0.0);
    y.ticks[0].1 = "≤ 0".to_owned();
    Facet {
        id: "r2".to_owned(),
        caption: String::new(),
        x: Scale::layers(0, 1),
        x_label: String::new(),
        y,
        y_label: String::new(),
        curves,
        every: 1,
        clip: Some((0.0, 1.0)),
    }
}

fn between(rows: &[R2Row], casts: &[Cast], last: usize, page: f64) -> Canvas {
    const TOP: f64 = 44.0;
    let side = (page - 236.0) / 2.0;
    let mut canvas = Canvas::new(page, TOP + side + 78.0);
    for (column, mapping) in casts.iter().enumerate() {
        let left = 88.0 + (side + 36.0) * column as f64;
        let frame = Frame { left, top: TOP, right: left + side, bottom: TOP + side };
        canvas.text(&mapping.name(), (left + side / 2.0, TOP - 22.0), Align::Centre, LABEL, BLACK);
        heat_map(&mut canvas, frame, rows, mapping, last, column == 0);
    }
    canvas.text_upwards("source layer ℓ", (18.0, TOP + side / 2.0), LABEL);
    let bar = Frame { left: page - 84.0, top: TOP, right: page - 58.0, bottom: TOP + side };
    color_bar(&mut canvas, bar, "≤ 0", "r²");
    canvas
}

/// Source layers `0..last` down, target layers `1..=last` across.
fn heat_map(canvas: &mut Canvas, frame: Frame, rows: &[R2Row], mapping: &Cast, last: usize, labelled: bool) {
    let Frame { left, top, right, bottom } = frame;
    let edge = |start: f64, index: usize| start + (right - left) * index as f64 / last as f64;
    let data = [
        ("heat-map", mapping.to_string()),
        ("frame", numbers([left, top, right, bottom])),
        ("layers", last.to_string()),
    ];
    canvas.marks(&data, |canvas| {
        for from in 0..last {
            let mut cells: Vec<_> = rows
                .iter()
                .filter(|row| row.mapping == *mapping && row.from == from && row.from < row.to)
                .collect();
            if cells.is_empty() {
                continue;
            }
            cells.sort_by_key(|row| row.to);
            let data = [
                ("from", from.to_string()),
                ("to", numbers(cells.iter().map(|row| row.to as f64))),
                ("r2", numbers(cells.iter().map(|row| row.r2))),
            ];
            canvas.marks(&data, |canvas| {
                for row in cells {
                    // A cell reaches under its neighbours to the right and below, so that no seam shows between them.
                    let under = |has_neighbour| if has_neighbour { 0.8 } else { 0.0 };
                    let cell = Frame {
                        left: edge(left, row.to - 1),
                        top: edge(top, row.from),
                        right: edge(left, row.to) + under(row.to < last),
                        bottom: edge(top, row.from + 1) + under(row.from + 1 < row.to),
                    };
                    canvas.rectangle(cell, if row.r2.is_nan() { GREY } else { shade(row.r2) });
                }
            });
        }
    });
    let axis = Stroke::plain(BLACK, 2.0);
    canvas.line(&[(left, top), (left, bottom), (right, bottom)], axis);
    let step = layer_step(last, 6);
    let centre = |start, index| (edge(start, index) + edge(start, index + 1)) / 2.0;
    for from in (0..last).step_by(step) {
        let y = centre(top, from);
        canvas.line(&[(left - 6.0, y), (left, y)], axis);
        if labelled {
            canvas.text(&from.to_string(), (left - 11.0, y), Align::Right, TICK, BLACK);
        }
    }
    for to in (0..=last).step_by(step).filter(|to| *to > 0) {
        let x = centre(left, to - 1);
        canvas.line(&[(x, bottom), (x, bottom + 6.0)], axis);
        canvas.text(&to.to_string(), (x, bottom + 23.0), Align::Centre, TICK, BLACK);
    }
    canvas.text("target layer ℓ′", ((left + right) / 2.0, bottom + 58.0), Align::Centre, LABEL, BLACK);
}
