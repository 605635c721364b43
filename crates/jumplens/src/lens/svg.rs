//! Readings as a grid: layers by positions, a token a cell.

use super::html::{css, details};
use super::{CastReading, Coloring, Reading, clipped, color, shown, spelled, width};
use crate::markup::escaped;
use crate::plot::{FONT, font_face, in_font, text_width};
use std::cell::Cell;
use std::fmt::Write;
use std::ops::Range;

/// Positions side by side before the next ones go below; half as many of each of two texts.
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
const FONT_SIZE: usize = 12;
/// Steps of the scale of colours.
const STEPS: usize = 32;

/// Which letters a figure has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lettering {
    /// The monospaced ones of whoever looks at it: tokens are of any script.
    Readers,
    /// Those of the other figures, for formats that have to bring them along.
    Figures,
}

/// What puts text on the page.
struct Pen {
    lettering: Lettering,
    /// Characters that could not be drawn.
    replaced: Cell<usize>,
}

impl Pen {
    /// `text` in the letters there are, escaped.
    fn letters(&self, text: &str) -> String {
        if self.lettering == Lettering::Readers {
            return escaped(text);
        }
        let drawn = in_font(text);
        let lost = drawn.chars().zip(text.chars()).filter(|(drawn, char)| drawn != char).count();
        self.replaced.set(self.replaced.get() + lost);
        escaped(&drawn)
    }

    /// As much of `text` as a cell has room for.
    fn in_cell(&self, text: &str) -> String {
        if self.lettering == Lettering::Readers {
            return clipped(text, COLUMNS);
        }
        let room = (CELL.0 - 10) as f64;
        let fits = |text: &str| text_width(text, FONT_SIZE as f64) <= room;
        if fits(text) {
            return text.to_owned();
        }
        let mut kept: String = text.to_owned();
        while !kept.is_empty() && !fits(&format!("{kept}…")) {
            kept.pop();
        }
        kept + "…"
    }
}

/// The figure of one reading, or of two side by side: for each cast the layers by positions. And how many characters were
/// drawn as `?`.
pub(super) fn svg(readings: &[Reading], coloring: &Coloring, lettering: Lettering) -> (String, usize) {
    let pen = Pen { lettering, replaced: Cell::new(0) };
    let across = ACROSS / readings.len().max(1);
    // Of each reading its casts, each in panels of so many positions; the readings are columns of panels.
    let panels: Vec<Vec<(usize, Range<usize>)>> = readings
        .iter()
        .map(|reading| {
            let n = reading.positions.len();
            let of_cast =
                |cast| (0..n).step_by(across).map(move |first| (cast, first..n.min(first + across)));
            (0..reading.casts.len()).flat_map(of_cast).collect()
        })
        .collect();
    let rows =
        readings.iter().flat_map(|reading| &reading.casts).map(|cast| cast.layers.len()).max().unwrap_or(0);
    let panel_height = HEAD + rows * CELL.1 + GAP;
    let letter = |number: usize| ["A", "B"][number.min(1)];
    let mut said: Vec<String> = Vec::new();
    for (number, reading) in readings.iter().enumerate() {
        if readings.len() > 1 {
            said.push(format!("{}: {}", letter(number), reading.text));
        }
        said.extend(reading.choice().filter(|_| number == 0));
        let notes = reading.notes().into_iter().map(|note| format!("note: {note}"));
        for note in notes {
            if !said.contains(&note) {
                said.push(note);
            }
        }
    }
    let widths: Vec<usize> =
        readings.iter().map(|reading| LEFT + across.min(reading.positions.len()) * CELL.0 + GAP).collect();
    let least = if said.is_empty() { LEFT + 4 * CELL.0 + GAP } else { NARROWEST };
    let wide = widths.iter().sum::<usize>().max(least);
    let lines: Vec<String> =
        said.iter().flat_map(|line| wrapped(&spelled(line), (wide - GAP) / CHARACTER)).collect();
    let top = GAP + lines.len() * CELL.1;
    let below = panels.iter().map(Vec::len).max().unwrap_or(0) * panel_height;
    let high = top + below + CELL.1 + GAP;
    let (family, style) = match lettering {
        Lettering::Readers => ("ui-monospace, 'DejaVu Sans Mono', monospace", String::new()),
        Lettering::Figures => (FONT, format!("<style>{}</style>\n", font_face())),
    };
    let title: Vec<String> = readings.iter().map(|reading| escaped(&spelled(&reading.text))).collect();
    let mut figure = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{wide}\" height=\"{high}\" viewBox=\"0 0 {wide} {high}\" \
         font-family=\"{family}\" font-size=\"{FONT_SIZE}\">\n{style}\
         <title>{}</title>\n<rect width=\"{wide}\" height=\"{high}\" fill=\"#ffffff\"/>\n",
        title.join(" | ")
    );
    for (number, line) in lines.iter().enumerate() {
        let y = GAP + number * CELL.1 + 14;
        let _ = writeln!(figure, "<text x=\"4\" y=\"{y}\">{}</text>", pen.letters(line));
    }
    let mut left = 0;
    for (number, (reading, panels)) in readings.iter().zip(panels).enumerate() {
        for (row, (cast, places)) in panels.into_iter().enumerate() {
            let cast = &reading.casts[cast];
            let name = spelled(&cast.cast.name());
            let name = if readings.len() > 1 { format!("{}  {name}", letter(number)) } else { name };
            let at = (left, top + row * panel_height);
            panel(&mut figure, &pen, coloring, reading, cast, &name, places, at);
        }
        left += widths[number];
    }
    scale(&mut figure, &pen, coloring, &readings[0], top + below);
    figure += "</svg>\n";
    (figure, pen.replaced.get())
}

/// What the colours say.
fn scale(figure: &mut String, pen: &Pen, coloring: &Coloring, reading: &Reading, y: usize) {
    let (what, worst, best) = coloring.legend(reading);
    let room = |text: &str| match pen.lettering {
        Lettering::Readers => width(text) * CHARACTER + 8,
        Lettering::Figures => text_width(text, FONT_SIZE as f64) as usize + 8,
    };
    let mut x = 4;
    let mut text = |x: usize, text: &str| {
        let _ = writeln!(figure, "<text x=\"{x}\" y=\"{}\">{}</text>", y + 14, pen.letters(text));
    };
    let from = format!("{what} {worst}");
    text(x, &from);
    x += room(&from);
    text(x + STEPS * 4 + 8, &best);
    for step in 0..STEPS {
        let (fill, _) = color(step as f32 / (STEPS - 1) as f32);
        let x = x + step * 4;
        let _ = writeln!(
            figure,
            "<rect x=\"{x}\" y=\"{}\" width=\"5\" height=\"12\" fill=\"{}\"/>",
            y + 4,
            css(fill)
        );
    }
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
    pen: &Pen,
    coloring: &Coloring,
    reading: &Reading,
    cast: &CastReading,
    name: &str,
    places: Range<usize>,
    (left, top): (usize, usize),
) {
    let baseline = |y: usize| y + 14;
    let mut text = |x: usize, y: usize, style: &str, content: &str| {
        let y = baseline(y);
        let _ = writeln!(figure, "<text x=\"{x}\" y=\"{y}\" {style}>{}</text>", pen.letters(content));
    };
    text(left + 4, top, "font-weight=\"700\"", name);
    let cells_left = left + LEFT;
    for (column, place) in places.clone().enumerate() {
        let token = pen.in_cell(&shown(&reading.tokens[reading.positions[place]].text));
        text(cells_left + column * CELL.0 + 4, top + HEAD - CELL.1, "font-weight=\"700\"", &token);
    }
    for (row, layer) in cast.layers.iter().enumerate() {
        text(cells_left - 6, top + HEAD + row * CELL.1, "text-anchor=\"end\"", &layer.to_string());
    }
    for (row, (&layer, cells)) in cast.layers.iter().zip(&cast.cells).enumerate() {
        for (column, place) in places.clone().enumerate() {
            let cell = &cells[place];
            let (background, ink) = color(coloring.share(cell));
            let (x, y) = (cells_left + column * CELL.0, top + HEAD + row * CELL.1);
            let exit = cast.exit_layer.as_ref().map(|exits| exits[place]);
            let frame = match exit == Some(layer) {
                true => " stroke=\"#000000\" stroke-width=\"2\"",
                false => "",
            };
            let token = cell.top.first().map_or(String::new(), |guess| pen.in_cell(&shown(&guess.text)));
            let _ = writeln!(
                figure,
                "<g><title>{}</title><rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{}\"{frame}/>\
                 <text x=\"{}\" y=\"{}\" fill=\"{}\">{}</text></g>",
                escaped(&details(reading, cell)),
                x + 1,
                y + 1,
                CELL.0 - 2,
                CELL.1 - 2,
                css(background),
                x + 4,
                baseline(y),
                css(ink),
                pen.letters(&token),
            );
        }
    }
}
