//! Readings as lines for people, fitted to the terminal.

use super::targets;
use jumplens::lens::{CastReading, Coloring, Measure, Reading, clipped, color, shown, spelled, width};
use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::ops::Range;

/// Columns where nothing says how many there are.
const WIDTH: usize = 100;
/// Columns that a token takes at most.
const LONGEST: usize = 14;
/// In front of the token at which the exit rule stops.
const EXIT: &str = "▸";
/// Probabilities, where there are no colours.
const BARS: [&str; 8] = ["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];

/// How shares are shown, from the worst, 0, to the best, 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ink {
    /// By a bar behind the token.
    Bars,
    /// By the nearest of 256 colours.
    Palette,
    /// By the colour itself.
    True,
}

impl Ink {
    /// What standard output can show, and the user wants to see.
    fn of_stdout() -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let forced = variable("CLICOLOR_FORCE").is_some_and(|value| value != "0");
        let term = variable("TERM").unwrap_or_default();
        let unwanted =
            variable("NO_COLOR").is_some() || variable("CLICOLOR").is_some_and(|value| value == "0");
        if variable("NO_COLOR").is_some() || (!forced && (unwanted || !io::stdout().is_terminal())) {
            return Self::Bars;
        }
        match variable("COLORTERM").as_deref() {
            Some("truecolor" | "24bit") => Self::True,
            _ if term.contains("256color") => Self::Palette,
            _ if forced => Self::Palette,
            _ => Self::Bars,
        }
    }

    /// The bar of a share, where there are no colours.
    pub fn bar(self, share: f32) -> &'static str {
        if self == Self::Bars { BARS[((share * 8.0) as usize).min(7)] } else { "" }
    }

    /// Columns of a bar.
    pub fn bar_width(self) -> usize {
        usize::from(self == Self::Bars)
    }

    /// `text` on the colour of that share.
    pub fn paint(self, text: &str, share: f32, exits: bool) -> String {
        let ([r, g, b], [tr, tg, tb]) = color(share);
        let bold = if exits { "\x1b[1;4m" } else { "" };
        match self {
            Self::Bars => text.to_owned(),
            Self::True => format!("{bold}\x1b[48;2;{r};{g};{b}m\x1b[38;2;{tr};{tg};{tb}m{text}\x1b[0m"),
            Self::Palette => {
                // The cube of 6 × 6 × 6 colours.
                let level = |c: u8| match c {
                    0..48 => 0,
                    48..115 => 1,
                    c => (u16::from(c) - 35) / 40,
                };
                let nearest = |r, g, b| 16 + 36 * level(r) + 6 * level(g) + level(b);
                format!(
                    "{bold}\x1b[48;5;{}m\x1b[38;5;{}m{text}\x1b[0m",
                    nearest(r, g, b),
                    nearest(tr, tg, tb)
                )
            }
        }
    }
}

/// Columns of standard output.
fn columns() -> usize {
    let set = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()).filter(|n| *n >= 20);
    let terminal = || terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| usize::from(width.0));
    set.or_else(terminal).unwrap_or(WIDTH)
}

/// Where tokens are looked for, where they stand; else layers down, positions across, in as many panels below one another as it
/// takes, two readings side by side; for one position of one reading the tokens of each prediction across instead.
pub fn render(readings: &[Reading], width: Option<usize>, measure: Measure) -> String {
    draw(readings, width.unwrap_or_else(columns), Ink::of_stdout(), &Coloring::of(measure, readings))
}

fn draw(readings: &[Reading], columns: usize, ink: Ink, coloring: &Coloring) -> String {
    let reading = &readings[0];
    let most =
        reading.casts.iter().flat_map(|cast| cast.cells.iter().flatten()).map(|cell| cell.top.len()).max();
    let targeted = !reading.targets.is_empty();
    let ranked = most > Some(1) && reading.positions.len() == 1 && readings.len() == 1 && !targeted;
    let mut text = reading.choice().map_or(String::new(), |choice| format!("{}\n\n", spelled(&choice)));
    let mut left_out = None;
    text += &match (targeted, ranked) {
        (true, _) => targets::render(readings, columns, ink),
        (_, true) => ranking(reading, columns, ink, &mut left_out),
        _ if readings.len() > 1 => compared(readings, columns, ink, coloring),
        _ => {
            let sides: Vec<Side> =
                reading.casts.iter().map(|cast| (reading, cast, spelled(&cast.cast.name()))).collect();
            grid(&sides, columns, ink, coloring)
        }
    };
    let mut legend = vec!["layer 0 is the embedding".to_owned()];
    if let Some(lambda) = reading.lambda.filter(|_| !targeted) {
        legend.push(format!("{EXIT} early exit at λ = {lambda}"));
    }
    if targeted {
        legend.push("p is the probability".to_owned());
    } else if ranked {
        legend.push("probability behind each token".to_owned());
    } else {
        let (what, worst, best) = coloring.legend(reading);
        let what = spelled(&what);
        if ink == Ink::Bars {
            legend.push(format!("{} to {} {what} {worst} to {best}", BARS[0], BARS[7]));
        } else {
            let scale: String = (0..=10).map(|i| ink.paint(" ", i as f32 / 10.0, false)).collect();
            legend.push(format!("{what} {worst} {scale} {best}"));
        }
    }
    if let Some((shown, asked)) = left_out {
        legend.push(format!("{shown} of {asked} tokens fit in {columns} columns, more with `--width`"));
    }
    let _ = writeln!(text, "{}", legend.join("; "));
    let mut notes: Vec<String> = Vec::new();
    for note in readings.iter().flat_map(Reading::notes) {
        if !notes.contains(&note) {
            let _ = writeln!(text, "note: {}", spelled(&note));
            notes.push(note);
        }
    }
    text
}

/// Cast by cast, two texts side by side.
fn compared(readings: &[Reading], columns: usize, ink: Ink, coloring: &Coloring) -> String {
    let mut text = String::new();
    for (letter, reading) in ["A", "B"].iter().zip(readings) {
        let said = spelled(reading.chat.as_ref().unwrap_or(&reading.text));
        let _ = writeln!(text, "{letter}: {}", clipped(&said, columns.saturating_sub(3)));
    }
    text.push('\n');
    for cast in 0..readings[0].casts.len() {
        let side = |(number, reading): (usize, &'_ Reading)| {
            format!("{}  {}", ["A", "B"][number.min(1)], spelled(&reading.casts[cast].cast.name()))
        };
        let sides: Vec<Side> = readings
            .iter()
            .enumerate()
            .map(|(number, reading)| (reading, &reading.casts[cast], side((number, reading))))
            .collect();
        text += &grid(&sides, columns, ink, coloring);
    }
    text
}

/// What stands side by side: a cast of a reading, under a name.
type Side<'a> = (&'a Reading, &'a CastReading, String);

pub fn padded(text: &str, columns: usize) -> String {
    let text = clipped(text, columns);
    let spaces = columns - width(&text);
    text + &" ".repeat(spaces)
}

/// A cell in `columns` columns.
fn cell(
    cast: &CastReading,
    row: usize,
    place: usize,
    columns: usize,
    ink: Ink,
    coloring: &Coloring,
) -> String {
    let cell = &cast.cells[row][place];
    let exits = cast.exit_layer.as_ref().is_some_and(|exits| exits[place] == cast.layers[row]);
    let token = cell.top.first().map_or("—".to_owned(), |guess| shown(&guess.text));
    let share = coloring.share(cell);
    let mark = if exits { EXIT } else { " " };
    let bar = ink.bar(share);
    let token = padded(&token, columns - 1 - width(bar));
    ink.paint(&format!("{mark}{token}{bar}"), share, exits)
}

fn grid(sides: &[Side], columns: usize, ink: Ink, coloring: &Coloring) -> String {
    let extra = 1 + ink.bar_width();
    // The number of the layer takes seven columns, and what is between two sides two.
    let room = columns.saturating_sub(5 + 2 * sides.len()) / sides.len().max(1);
    let room = room.max(extra + 3);
    // The same for every cast of a reading, so that a token stands in the same place of each.
    let wide = |reading: &Reading, place: usize| {
        let casts = sides.iter().filter(|(other, ..)| std::ptr::eq(*other, reading)).map(|(_, cast, _)| cast);
        let cells = casts.flat_map(|cast| cast.cells.iter().map(|row| &row[place]));
        let tokens = cells.filter_map(|cell| Some(width(&shown(&cell.top.first()?.text))));
        let own = width(&shown(&reading.tokens[reading.positions[place]].text));
        (extra + tokens.chain([own]).max().unwrap_or(0).clamp(3, LONGEST)).min(room)
    };
    let wides: Vec<Vec<usize>> = sides
        .iter()
        .map(|(reading, ..)| (0..reading.positions.len()).map(|place| wide(reading, place)).collect())
        .collect();
    let panels: Vec<Vec<Range<usize>>> = wides.iter().map(|wides| panels(wides, room)).collect();
    let mut text = String::new();
    for number in 0..panels.iter().map(Vec::len).max().unwrap_or(0) {
        // A text that has ended leaves its place free.
        let places: Vec<Range<usize>> =
            panels.iter().map(|panels| panels.get(number).cloned().unwrap_or(0..0)).collect();
        let across = |side: usize| {
            // As wide as it was where it began.
            let first = panels[side].first().cloned().unwrap_or(0..0);
            let range = if places[side].is_empty() { first } else { places[side].clone() };
            let cells = wides[side][range].iter().map(|wide| wide + 1).sum::<usize>().saturating_sub(1);
            cells.max(if sides.len() > 1 && side + 1 < sides.len() { 1 + width(&sides[side].2) } else { 0 })
        };
        let mut line = |start: &str, part: &dyn Fn(usize, usize) -> String, name: bool| {
            let parts: Vec<String> = (0..sides.len())
                .map(|side| {
                    let cells: Vec<String> = places[side].clone().map(|place| part(side, place)).collect();
                    let last = side + 1 == sides.len();
                    if name {
                        let name =
                            if cells.is_empty() { String::new() } else { format!(" {}", sides[side].2) };
                        return if last { name } else { padded(&name, across(side)) };
                    }
                    // What is painted fills its columns, though it has more characters.
                    let filled = wides[side][places[side].clone()].iter().map(|wide| wide + 1).sum::<usize>();
                    let rest = if last { 0 } else { across(side).saturating_sub(filled.saturating_sub(1)) };
                    cells.join(" ") + &" ".repeat(rest)
                })
                .collect();
            let line = format!("{start:>5} │{}", parts.join(" │"));
            text.push_str(line.trim_end());
            text.push('\n');
        };
        let of = |side: usize, place: usize, what: String| padded(&format!(" {what}"), wides[side][place]);
        line("", &|_, _| String::new(), true);
        line("", &|side, place| of(side, place, sides[side].0.positions[place].to_string()), false);
        let token = |side: usize, place: usize| {
            let reading = sides[side].0;
            of(side, place, shown(&reading.tokens[reading.positions[place]].text))
        };
        line("layer", &token, false);
        for (row, layer) in sides.first().map_or(&[][..], |(_, cast, _)| &cast.layers).iter().enumerate() {
            let cells = |side: usize, place: usize| {
                cell(sides[side].1, row, place, wides[side][place], ink, coloring)
            };
            line(&layer.to_string(), &cells, false);
        }
        text.push('\n');
    }
    text
}

/// Which positions stand side by side in `room` columns.
fn panels(wides: &[usize], room: usize) -> Vec<Range<usize>> {
    let mut panels = Vec::new();
    let mut first = 0;
    while first < wides.len() {
        let mut end = first;
        let mut taken = 0;
        while end < wides.len() && (end == first || taken + wides[end] <= room) {
            taken += wides[end] + 1;
            end += 1;
        }
        panels.push(first..end);
        first = end;
    }
    panels
}

/// Layer by layer the most probable tokens at one position. Where not all of them have room, `left_out` says how many have, and of
/// how many.
fn ranking(reading: &Reading, columns: usize, ink: Ink, left_out: &mut Option<(usize, usize)>) -> String {
    let position = reading.positions[0];
    let mut text = format!("position {position}, {}\n", shown(&reading.tokens[position].text));
    for cast in &reading.casts {
        let _ = writeln!(text, "\n{:>5} │ {}", "layer", spelled(&cast.cast.name()));
        for (row, layer) in cast.layers.iter().enumerate() {
            let exits = cast.exit_layer.as_ref().is_some_and(|exits| exits[0] == *layer);
            let mut line = format!("{layer:>5} │{}", if exits { EXIT } else { " " });
            let mut taken = 8;
            let top = &cast.cells[row][0].top;
            for (place, guess) in top.iter().enumerate() {
                let token = format!("{} {:.3} ", padded(&shown(&guess.text), LONGEST), guess.probability);
                taken += width(&token);
                if taken > columns && taken > 8 + LONGEST + 7 {
                    let fewest = left_out.map_or(place, |(shown, _)| shown.min(place));
                    *left_out = Some((fewest, top.len()));
                    break;
                }
                line += &ink.paint(&token, guess.probability, false);
            }
            let _ = writeln!(text, "{}", line.trim_end());
        }
    }
    text.push('\n');
    text
}
