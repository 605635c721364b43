//! A reading as a figure.

use super::html::{css, details};
use super::{CastReading, Reading, clipped, color, shown, spelled, width};
use crate::markup::escaped;
use std::fmt::Write;

/// Positions side by side before the next ones go below.
const ACROSS: usize = 12;
const CELL: (usize, usize) = (84, 20);
/// Room for the numbers of layers.
const LEFT: usize = 44;
/// Room for a cast's name and the tokens of the text.
const HEAD: usize = 44;
const GAP: usize = 14;
/// The least width of a figure in which something is said in lines.
const NARROWEST: usize = 640;
/// How wide a character is, at most.
const CHARACTER: usize = 8;
/// Columns of text that a cell takes at its font size.
const COLUMNS: usize = 11;

/// The figure: for each cast the layers by positions, at most twelve positions side by side.
pub fn svg(reading: &Reading) -> String {
    let panels: Vec<(usize, std::ops::Range<usize>)> = (0..reading.casts.len())
        .flat_map(|cast| {
            let n = reading.positions.len();
            (0..n).step_by(ACROSS).map(move |first| (cast, first..n.min(first + ACROSS)))
        })
        .collect();
    let rows = reading.casts.first().map_or(0, |cast| cast.layers.len());
    let panel_height = HEAD + rows * CELL.1 + GAP;
    let said = reading.choice().is_some() || !reading.notes().is_empty();
    let wide = LEFT + ACROSS.min(reading.positions.len()) * CELL.0 + GAP;
    let wide = wide.max(if said { NARROWEST } else { 0 });
    let lines: Vec<String> = reading
        .choice()
        .into_iter()
        .chain(reading.notes().into_iter().map(|note| format!("note: {note}")))
        .flat_map(|line| wrapped(&spelled(&line), (wide - GAP) / CHARACTER))
        .collect();
    let top = GAP + lines.len() * CELL.1;
    let high = top + panels.len() * panel_height;
    let mut figure = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{wide}\" height=\"{high}\" viewBox=\"0 0 {wide} {high}\" \
         font-family=\"ui-monospace, 'DejaVu Sans Mono', monospace\" font-size=\"12\">\n\
         <title>{}</title>\n<rect width=\"{wide}\" height=\"{high}\" fill=\"#ffffff\"/>\n",
        escaped(&spelled(&reading.text))
    );
    for (number, line) in lines.iter().enumerate() {
        let y = GAP + number * CELL.1 + 14;
        let _ = writeln!(figure, "<text x=\"4\" y=\"{y}\">{}</text>", escaped(line));
    }
    for (number, (cast, places)) in panels.into_iter().enumerate() {
        panel(&mut figure, reading, &reading.casts[cast], places, top + number * panel_height);
    }
    figure += "</svg>\n";
    figure
}

/// `text` in lines of at most `columns` characters, but for words that are longer.
fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line =
            lines.last_mut().filter(|line| line.is_empty() || width(line) + 1 + width(word) <= columns);
        match line {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) => *line += &format!(" {word}"),
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

fn panel(
    figure: &mut String,
    reading: &Reading,
    cast: &CastReading,
    places: std::ops::Range<usize>,
    top: usize,
) {
    let baseline = |y: usize| y + 14;
    let mut text = |x: usize, y: usize, style: &str, content: &str| {
        let _ = writeln!(figure, "<text x=\"{x}\" y=\"{}\" {style}>{}</text>", baseline(y), escaped(content));
    };
    text(4, top, "font-weight=\"700\"", &spelled(&cast.cast.name()));
    for (column, place) in places.clone().enumerate() {
        let token = shown(&reading.tokens[reading.positions[place]].text);
        text(
            LEFT + column * CELL.0 + 4,
            top + HEAD - CELL.1,
            "font-weight=\"700\"",
            &clipped(&token, COLUMNS),
        );
    }
    for (row, layer) in cast.layers.iter().enumerate() {
        text(LEFT - 6, top + HEAD + row * CELL.1, "text-anchor=\"end\"", &layer.to_string());
    }
    for (row, (&layer, cells)) in cast.layers.iter().zip(&cast.cells).enumerate() {
        for (column, place) in places.clone().enumerate() {
            let cell = &cells[place];
            let best = cell.top.first();
            let (background, ink) = color(best.map_or(0.0, |guess| guess.probability));
            let (x, y) = (LEFT + column * CELL.0, top + HEAD + row * CELL.1);
            let exit = cast.exit_layer.as_ref().map(|exits| exits[place]);
            let frame = match exit == Some(layer) {
                true => " stroke=\"#000000\" stroke-width=\"2\"",
                false => "",
            };
            let token = best.map_or(String::new(), |guess| clipped(&shown(&guess.text), COLUMNS));
            let _ = writeln!(
                figure,
                "<g><title>{}</title><rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{}\"{frame}/>\
                 <text x=\"{}\" y=\"{}\" fill=\"{}\">{}</text></g>",
                escaped(&details(cell)),
                x + 1,
                y + 1,
                CELL.0 - 2,
                CELL.1 - 2,
                css(background),
                x + 4,
                baseline(y),
                css(ink),
                escaped(&token),
            );
        }
    }
}
