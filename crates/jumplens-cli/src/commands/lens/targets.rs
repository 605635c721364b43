//! Where tokens that were asked about stand, as lines for people.

use super::table::{Ink, padded};
use jumplens::lens::{CastReading, Reading, clipped, shown, spelled, width};
use std::fmt::Write;

/// Columns of a probability, a rank and the token that a cast predicts.
const PROBABILITY: usize = 7;
const RANK: usize = 7;
const TOKEN: usize = 11;
/// Between what is said of two casts.
const GAP: &str = " │";

/// A probability in seven columns, however small.
fn probability(value: f32) -> String {
    if value >= 0.001 || value == 0.0 { format!("{value:.4}") } else { format!("{value:.1e}") }
}

/// For each target, at each position: a sentence a cast, then probability and rank by layer beside what is predicted. Of two
/// readings the casts stand side by side, A's before B's.
pub fn render(readings: &[Reading], columns: usize, ink: Ink) -> String {
    let mut text = String::new();
    if readings.len() > 1 {
        for (letter, reading) in ["A", "B"].iter().zip(readings) {
            let said = spelled(reading.chat.as_ref().unwrap_or(&reading.text));
            let _ = writeln!(text, "{letter}: {}", clipped(&said, columns.saturating_sub(3)));
        }
        text.push('\n');
    }
    let first = &readings[0];
    let places = readings.iter().map(|reading| reading.positions.len()).max().unwrap_or(0);
    for index in 0..first.targets.len() {
        for place in 0..places {
            target(&mut text, readings, index, place, columns, ink);
        }
    }
    text
}

fn target(text: &mut String, readings: &[Reading], index: usize, place: usize, columns: usize, ink: Ink) {
    let target = &readings[0].targets[index];
    let at = |reading: &Reading| {
        let position = reading.positions.get(place)?;
        Some(format!("position {position}, {}", shown(&reading.tokens[*position].text)))
    };
    let wheres: Vec<String> = match readings {
        [reading] => at(reading).into_iter().collect(),
        _ => ["A", "B"]
            .iter()
            .zip(readings)
            .filter_map(|(letter, reading)| Some(format!("{letter} at {}", at(reading)?)))
            .collect(),
    };
    let head = if readings.len() > 1 { "" } else { "at " };
    let _ = writeln!(
        text,
        "{} (token {}), {head}{}",
        shown(&target.token.text),
        target.token.id,
        wheres.join("; ")
    );
    if let Some(note) = target.note() {
        let _ = writeln!(text, "{}", spelled(&note));
    }
    text.push('\n');
    // Of two texts the same cast of both stands together.
    let casts = readings.iter().map(|reading| reading.casts.len()).max().unwrap_or(0);
    let sides: Vec<(String, &CastReading)> = (0..casts)
        .flat_map(|cast| {
            readings.iter().enumerate().filter_map(move |(number, reading)| {
                let cast = reading.casts.get(cast).filter(|_| place < reading.positions.len())?;
                let name = spelled(&cast.cast.name());
                let name =
                    if readings.len() > 1 { format!("{} {name}", ["A", "B"][number.min(1)]) } else { name };
                Some((name, cast))
            })
        })
        .collect();
    let longest = sides.iter().map(|(name, _)| width(name)).max().unwrap_or(0);
    for (name, cast) in &sides {
        let _ = writeln!(text, "{}  {}", padded(name, longest), cast.answers[index][place].sentence());
    }
    text.push('\n');
    let bar = ink.bar_width();
    let side_width = 1 + PROBABILITY + bar + RANK + 1 + TOKEN;
    let across = (columns.saturating_sub(6) / (side_width + width(GAP))).max(1);
    for sides in sides.chunks(across) {
        let mut line = |start: &str, part: &dyn Fn(&(String, &CastReading)) -> String| {
            let parts: Vec<String> = sides.iter().map(part).collect();
            let line = format!("{start:>5} │{}", parts.join(GAP));
            let _ = writeln!(text, "{}", line.trim_end());
        };
        line("", &|(name, _)| padded(&format!(" {name}"), side_width));
        line("layer", &|_| {
            let top = padded("top token", TOKEN);
            format!(" {:>PROBABILITY$}{}{:>RANK$} {top}", "p", " ".repeat(bar), "rank")
        });
        let layers = sides.first().map_or(&[][..], |(_, cast)| &cast.layers);
        for (row, layer) in layers.iter().enumerate() {
            line(&layer.to_string(), &|(_, cast)| {
                let cell = &cast.cells[row][place];
                let standing = cell.targets[index];
                let probability = standing.probability.map_or("—".to_owned(), probability);
                let share = standing.probability.unwrap_or(0.0);
                let probability =
                    ink.paint(&format!("{probability:>PROBABILITY$}{}", ink.bar(share)), share, false);
                let rank = standing.rank.map_or("—".to_owned(), |rank| rank.to_string());
                let token = cell.top.first().map_or("—".to_owned(), |guess| shown(&guess.text));
                format!(" {probability}{rank:>RANK$} {}", padded(&token, TOKEN))
            });
        }
        text.push('\n');
    }
}
