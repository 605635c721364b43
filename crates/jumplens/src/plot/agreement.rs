//! `agreement`: at which layers samples exit, and how many of them with the model's own token.

use super::canvas::{Align, BLACK, Canvas, Frame, LABEL, PALE, Stroke, TICK, numbers};
use super::colors::{color_bar, shade};
use super::scale::{Scale, plain};
use super::series::{PAIR, present};
use crate::eval::tables::ExitLayerRow;
use crate::words::Cast;

/// The λ that are drawn, where the table has them.
const CHOSEN: [f64; 6] = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0];
const ROW: f64 = 58.0;

/// For some λ a ribbon along the layers, `mat` beside `id`: the higher the more of the samples exit there, in the
/// colour of the share of these whose token is the model's own.
pub(super) fn agreement(rows: &[ExitLayerRow], page: f64) -> Option<Canvas> {
    let mappings = present(&PAIR, rows.iter().map(|row| &row.mapping));
    let has = |lambda: f64| rows.iter().any(|row| is(row.lambda, lambda));
    let lambdas: Vec<f64> = CHOSEN.into_iter().filter(|lambda| has(*lambda)).collect();
    if mappings.is_empty() || lambdas.is_empty() {
        return None;
    }
    let last = rows.iter().map(|row| row.layer).max().unwrap_or(1);
    const TOP: f64 = 44.0;
    let height = ROW * lambdas.len() as f64;
    let mut canvas = Canvas::new(page, TOP + height + 136.0);
    let width = (page - 88.0 - 104.0 - 30.0) / 2.0;
    for (column, mapping) in mappings.iter().enumerate() {
        let left = 88.0 + (width + 30.0) * column as f64;
        let frame = Frame { left, top: TOP, right: left + width, bottom: TOP + height };
        canvas.text(&mapping.name(), (left + width / 2.0, TOP - 22.0), Align::Centre, LABEL, BLACK);
        panel(&mut canvas, frame, rows, mapping, &lambdas, last, column == 0);
    }
    canvas.text_upwards("λ", (18.0, TOP + height / 2.0), LABEL);
    let bar = Frame { left: page - 88.0, top: TOP, right: page - 62.0, bottom: TOP + height };
    color_bar(&mut canvas, bar, "0.0", "agree");
    key(&mut canvas, TOP + height + 104.0);
    Some(canvas)
}

/// Height of a ribbon where every sample exits.
const HIGHEST: f64 = 0.94 * ROW;

/// The height of a ribbon where `share` of the samples exit: by its root, so that a few can be seen beside many.
fn ribbon_height(share: f64) -> f64 {
    HIGHEST * share.sqrt()
}

/// Says how high ribbons are, around the line `y`.
fn key(canvas: &mut Canvas, y: f64) {
    canvas.text("samples:", (88.0, y), Align::Left, TICK, BLACK);
    let mut left = 196.0;
    for percent in [1, 10, 50, 100] {
        let half = ribbon_height(f64::from(percent) / 100.0) / 2.0;
        canvas.rectangle(Frame { left, top: y - half, right: left + 16.0, bottom: y + half }, shade(0.3));
        canvas.text(&format!("{percent} %"), (left + 26.0, y), Align::Left, TICK, BLACK);
        left += 118.0;
    }
}

fn is(lambda: f64, other: f64) -> bool {
    (lambda - other).abs() < 1e-9
}

fn panel(
    canvas: &mut Canvas,
    frame: Frame,
    rows: &[ExitLayerRow],
    mapping: &Cast,
    lambdas: &[f64],
    last: usize,
    labelled: bool,
) {
    let Frame { left, top, right, bottom } = frame;
    let x = Scale { lo: 0.5, hi: last as f64 + 0.5, ..Scale::layers(last, 6) };
    let axis = Stroke::plain(BLACK, 2.0);
    for (value, label) in x.ticks.iter().filter(|(value, _)| x.holds(*value)) {
        let at = x.position(*value, left, right);
        canvas.line(&[(at, bottom), (at, bottom + 6.0)], axis);
        canvas.text(label, (at, bottom + 23.0), Align::Centre, TICK, BLACK);
    }
    for (row, lambda) in lambdas.iter().enumerate() {
        let middle = top + ROW * (row as f64 + 0.5);
        canvas.line(&[(left, middle), (right, middle)], Stroke::plain(PALE, 1.5));
        canvas.line(&[(left - 6.0, middle), (left, middle)], axis);
        if labelled {
            canvas.text(&plain(*lambda, 1), (left - 11.0, middle), Align::Right, TICK, BLACK);
        }
        let mut exits: Vec<_> = rows
            .iter()
            .filter(|row| row.mapping == *mapping && is(row.lambda, *lambda) && row.share > 0.0)
            .collect();
        exits.sort_by_key(|row| row.layer);
        let agreement = |row: &ExitLayerRow| row.precision_1.unwrap_or(f64::NAN);
        let data = [
            ("ribbon", mapping.to_string()),
            ("frame", numbers([left, right, middle, HIGHEST])),
            ("x-scale", numbers([x.lo, x.hi])),
            ("lambda", lambda.to_string()),
            ("layer", numbers(exits.iter().map(|row| row.layer as f64))),
            ("share", numbers(exits.iter().map(|row| row.share))),
            ("precision-1", numbers(exits.iter().map(|row| agreement(row)))),
        ];
        canvas.marks(&data, |canvas| {
            for row in exits {
                let edge = |side: f64| x.position(row.layer as f64 + side, left, right);
                let half = ribbon_height(row.share) / 2.0;
                let cell =
                    Frame { left: edge(-0.5), right: edge(0.5), top: middle - half, bottom: middle + half };
                canvas.rectangle(cell, shade(agreement(row)));
            }
        });
    }
    canvas.line(&[(left, top), (left, bottom), (right, bottom)], axis);
    canvas.text("exit layer", ((left + right) / 2.0, bottom + 58.0), Align::Centre, LABEL, BLACK);
}
