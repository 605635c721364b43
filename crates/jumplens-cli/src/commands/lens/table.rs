//! A reading as lines for people, fitted to the terminal.

use jumplens::lens::{CastReading, Cell, Reading, clipped, color, shown, spelled, width};
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

/// How probabilities are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ink {
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

    /// `text` on the colour of that probability.
    fn paint(self, text: &str, probability: f32, exits: bool) -> String {
        let ([r, g, b], [tr, tg, tb]) = color(probability);
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

/// Layers down, positions across, in as many panels below one another as it takes; for one position the tokens of each
/// prediction across instead.
pub fn render(reading: &Reading, width: Option<usize>) -> String {
    draw(reading, width.unwrap_or_else(columns), Ink::of_stdout())
}

fn draw(reading: &Reading, columns: usize, ink: Ink) -> String {
    let several =
        reading.casts.iter().flat_map(|cast| cast.cells.iter().flatten()).any(|cell| cell.top.len() > 1);
    let ranked = several && reading.positions.len() == 1;
    let mut text = reading.choice().map_or(String::new(), |choice| format!("{}\n\n", spelled(&choice)));
    text += &match ranked {
        true => ranking(reading, columns, ink),
        false => grid(reading, columns, ink),
    };
    let mut legend = vec!["layer 0 is the embedding".to_owned()];
    if let Some(lambda) = reading.lambda {
        legend.push(format!("{EXIT} early exit at λ = {lambda}"));
    }
    if ranked {
        legend.push("probability behind each token".to_owned());
        let (asked, room) =
            (reading.casts[0].cells[0][0].top.len(), columns.saturating_sub(8) / (LONGEST + 7));
        if asked > room.max(1) {
            legend.push(format!("{} of {asked} tokens fit into {columns} columns (`--width`)", room.max(1)));
        }
    } else if ink == Ink::Bars {
        legend.push(format!("{} to {} probability 0 to 1", BARS[0], BARS[7]));
    } else {
        let scale: String = (0..=10).map(|i| ink.paint(" ", i as f32 / 10.0, false)).collect();
        legend.push(format!("probability 0 {scale} 1"));
    }
    let _ = writeln!(text, "{}", legend.join("; "));
    for note in reading.notes() {
        let _ = writeln!(text, "note: {}", spelled(&note));
    }
    text
}

fn padded(text: &str, columns: usize) -> String {
    let text = clipped(text, columns);
    let spaces = columns - width(&text);
    text + &" ".repeat(spaces)
}

/// A cell in `columns` columns.
fn cell(cast: &CastReading, row: usize, place: usize, columns: usize, ink: Ink) -> String {
    let Cell { top, .. } = &cast.cells[row][place];
    let exits = cast.exit_layer.as_ref().is_some_and(|exits| exits[place] == cast.layers[row]);
    let (token, probability) =
        top.first().map_or(("—".to_owned(), 0.0), |guess| (shown(&guess.text), guess.probability));
    let mark = if exits { EXIT } else { " " };
    let bar = if ink == Ink::Bars { BARS[((probability * 8.0) as usize).min(7)] } else { "" };
    let token = padded(&token, columns - 1 - width(bar));
    ink.paint(&format!("{mark}{token}{bar}"), probability, exits)
}

fn grid(reading: &Reading, columns: usize, ink: Ink) -> String {
    let n = reading.positions.len();
    let casts = &reading.casts;
    let extra = if ink == Ink::Bars { 2 } else { 1 };
    // The same for every cast, so that a token stands in the same place of each.
    let wide = |place: usize| {
        let cells = casts.iter().flat_map(|cast| cast.cells.iter().map(move |row| &row[place]));
        let tokens = cells.filter_map(|cell| Some(width(&shown(&cell.top.first()?.text))));
        let own = width(&shown(&reading.tokens[reading.positions[place]].text));
        extra + tokens.chain([own]).max().unwrap_or(0).clamp(3, LONGEST)
    };
    // The number of the layer takes seven columns, and what is between two casts two.
    let room = columns.saturating_sub(5 + 2 * casts.len()) / casts.len().max(1);
    let room = room.max(extra + 3);
    let wides: Vec<usize> = (0..n).map(|place| wide(place).min(room)).collect();
    let mut panels: Vec<Range<usize>> = Vec::new();
    let mut first = 0;
    while first < n {
        let mut end = first;
        let mut taken = 0;
        while end < n && (end == first || taken + wides[end] <= room) {
            taken += wides[end] + 1;
            end += 1;
        }
        panels.push(first..end);
        first = end;
    }
    let mut text = String::new();
    for places in panels {
        let across = places.clone().map(|place| wides[place] + 1).sum::<usize>() - 1;
        let mut line = |start: &str, part: &dyn Fn(&CastReading) -> String| {
            let parts: Vec<String> = casts.iter().map(part).collect();
            let line = format!("{start:>5} │{}", parts.join(" │"));
            text.push_str(line.trim_end());
            text.push('\n');
        };
        line("", &|cast| padded(&format!(" {}", spelled(&cast.cast.name())), across));
        let each = |what: &dyn Fn(usize) -> String| {
            let cells: Vec<String> =
                places.clone().map(|place| padded(&format!(" {}", what(place)), wides[place])).collect();
            cells.join(" ")
        };
        line("", &|_| each(&|place| reading.positions[place].to_string()));
        line("layer", &|_| each(&|place| shown(&reading.tokens[reading.positions[place]].text)));
        for (row, layer) in casts.first().map_or(&[][..], |cast| &cast.layers).iter().enumerate() {
            line(&layer.to_string(), &|cast| {
                let cells: Vec<String> =
                    places.clone().map(|place| cell(cast, row, place, wides[place], ink)).collect();
                cells.join(" ")
            });
        }
        text.push('\n');
    }
    text
}

/// Layer by layer the most probable tokens at one position.
fn ranking(reading: &Reading, columns: usize, ink: Ink) -> String {
    let position = reading.positions[0];
    let mut text = format!("position {position}, {}\n", shown(&reading.tokens[position].text));
    for cast in &reading.casts {
        let _ = writeln!(text, "\n{:>5} │ {}", "layer", spelled(&cast.cast.name()));
        for (row, layer) in cast.layers.iter().enumerate() {
            let exits = cast.exit_layer.as_ref().is_some_and(|exits| exits[0] == *layer);
            let mut line = format!("{layer:>5} │{}", if exits { EXIT } else { " " });
            let mut taken = 8;
            for guess in &cast.cells[row][0].top {
                let token = format!("{} {:.3} ", padded(&shown(&guess.text), LONGEST), guess.probability);
                taken += width(&token);
                if taken > columns && taken > 8 + LONGEST + 7 {
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
