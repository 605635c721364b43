//! Readings as one page that loads nothing.

use super::{CastReading, Cell, Coloring, Measure, Reading, color, shown, spelled};
use crate::markup::escaped;
use std::fmt::Write;

const STYLE: &str = "
:root { color-scheme: light dark; --line: #0003; --note: #b36b00; }
@media (prefers-color-scheme: dark) { :root { --line: #fff4; --note: #e0a040; } .figure svg { filter: invert(1) hue-rotate(180deg); mix-blend-mode: screen; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 1.5rem; }
h1 { font-size: 1.25rem; } h2 { font-size: 1.1rem; margin: 1.8rem 0 .4rem; } h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
h1, h2, p { overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 0 2rem; }
.pair > section { min-width: 0; }
table { border-collapse: separate; border-spacing: 1px; font: 13px/1.35 ui-monospace, monospace; }
th { font-weight: 600; text-align: left; padding: 1px 6px; white-space: pre; }
tbody th, thead th:first-child { position: sticky; left: 0; background: Canvas; text-align: right; }
td { padding: 1px 6px; max-width: 9rem; overflow: hidden; text-overflow: ellipsis; white-space: pre; unicode-bidi: isolate; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
td.exit { outline: 2px solid CanvasText; outline-offset: -1px; font-weight: 700; }
.answer { margin: .2rem 0; } .answer b { font-weight: 700; }
.figure svg { width: min(100%, 34rem); height: auto; }
.legend { white-space: nowrap; }
.note { max-width: 60rem; padding: .4rem .8rem; border-left: 4px solid var(--note); }
.scale { display: inline-block; width: 9rem; height: .8rem; vertical-align: middle; }
";

/// A sentence of a message: what it has in backticks as code.
fn sentence(text: &str) -> String {
    let text = escaped(&spelled(text));
    let parts: Vec<&str> = text.split('`').collect();
    // An odd one is no mark.
    let paired = parts.len() - 1 - (parts.len() - 1) % 2;
    let mut html = parts[0].to_owned();
    for (place, part) in parts.iter().enumerate().skip(1) {
        html.push_str(match place {
            place if place > paired => "`",
            place if place % 2 == 1 => "<code>",
            _ => "</code>",
        });
        html.push_str(part);
    }
    html
}

/// The tokens of a cell with their probabilities, a line each, and what else is known of it.
pub(super) fn details(reading: &Reading, cell: &Cell) -> String {
    if cell.top.is_empty() {
        return "the state is not finite".to_owned();
    }
    let mut lines: Vec<String> =
        cell.top.iter().map(|guess| format!("{:.4} {}", guess.probability, shown(&guess.text))).collect();
    for (target, standing) in reading.targets.iter().zip(&cell.targets) {
        if let (Some(probability), Some(rank)) = (standing.probability, standing.rank) {
            lines.push(format!("{}: {probability:.4}, rank {rank}", shown(&target.token.text)));
        }
    }
    lines.extend(cell.confidence.map(|value| format!("confidence {value:.4}")));
    lines.extend(cell.surprisal.map(|value| format!("surprisal {value:.3} nats")));
    lines.extend(cell.entropy.map(|value| format!("entropy {value:.3} nats")));
    lines.extend(cell.kl.map(|value| format!("KL(model ‖ cast) {value:.3} nats")));
    lines.extend(cell.rank.map(|rank| format!("rank of the model's token {rank}")));
    lines.join("\n")
}

pub(super) fn css(color: super::Rgb) -> String {
    let [red, green, blue] = color;
    format!("#{red:02x}{green:02x}{blue:02x}")
}

/// Readings as a page.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    /// One text after another, of one model.
    pub readings: &'a [Reading],
    /// The first two are to be compared: they stand side by side.
    pub beside: bool,
    /// What cells are coloured by.
    pub measure: Measure,
}

/// The page: of each text the answers where there are targets, and for each cast a table of layers by positions, the tokens and
/// figures of a cell in its tooltip.
pub fn html(page: &Page) -> String {
    let Page { readings, beside, measure } = *page;
    let coloring = Coloring::of(measure, readings);
    let Some(first) = readings.first() else { return String::new() };
    let model = escaped(&spelled(&first.model));
    let title = match readings {
        [reading] => format!("{model} · {}", escaped(&spelled(&reading.text))),
        _ => format!("{model} · {} texts", readings.len()),
    };
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n<h1>{title}</h1>\n"
    );
    let stops: Vec<String> = (0..=8).map(|i| css(color(i as f32 / 8.0).0)).collect();
    let (what, worst, best) = coloring.legend(first);
    let _ = writeln!(
        html,
        "<p>The most probable token at each position by each cast, from layer 0, the embedding, down to the last. Colour: {} \
         <span class=\"legend\">{worst} <span class=\"scale\" style=\"background: linear-gradient(to right, {})\"></span> {best}</span>.{} A space is shown as ·.</p>",
        escaped(&what),
        stops.join(", "),
        first.lambda.map_or(String::new(), |lambda| format!(
            " A frame marks the layer of early exit at λ = {lambda}."
        )),
    );
    let mut notes: Vec<String> = Vec::new();
    for note in readings.iter().filter(|_| readings.len() == 1 || beside).flat_map(Reading::notes) {
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
    for note in notes {
        let _ = writeln!(html, "<p class=\"note\"><strong>Note:</strong> {}</p>", sentence(&note));
    }
    // One figure for two texts that are compared, else one a text.
    let curves = |html: &mut String, readings: &[Reading]| {
        let single = |reading: &Reading| !reading.targets.is_empty() && reading.positions.len() == 1;
        if readings.iter().all(single)
            && let Ok(figure) = super::figure::curves(readings, false)
        {
            let _ = writeln!(html, "<div class=\"figure\">{}</div>", figure.svg);
        }
    };
    if beside {
        curves(&mut html, readings);
        html += "<div class=\"pair\">\n";
    }
    for (number, reading) in readings.iter().enumerate() {
        html += "<section>\n";
        if readings.len() > 1 {
            let letter = if beside { ["A: ", "B: "][number.min(1)] } else { "" };
            let _ = writeln!(html, "<h2>{letter}{}</h2>", escaped(&spelled(&reading.text)));
        }
        if readings.len() > 1 && !beside {
            for note in reading.notes() {
                let _ = writeln!(html, "<p class=\"note\"><strong>Note:</strong> {}</p>", sentence(&note));
            }
        }
        answers(&mut html, reading);
        if !beside {
            curves(&mut html, std::slice::from_ref(reading));
        }
        // At one position the answers' tables have all of it.
        if reading.targets.is_empty() || reading.positions.len() > 1 {
            for cast in &reading.casts {
                table(&mut html, reading, cast, &coloring);
            }
        }
        html += "</section>\n";
    }
    if beside {
        html += "</div>\n";
    }
    html += "</html>\n";
    html
}

/// Of each target at each position what becomes of it, in a sentence a cast and in a table.
fn answers(html: &mut String, reading: &Reading) {
    for (index, target) in reading.targets.iter().enumerate() {
        for (place, &position) in reading.positions.iter().enumerate() {
            let token = escaped(&shown(&target.token.text));
            let _ = writeln!(
                html,
                "<h3>Where <code>{token}</code> stands at position {position}, <code>{}</code></h3>",
                escaped(&shown(&reading.tokens[position].text))
            );
            if let Some(note) = target.note() {
                let _ = writeln!(html, "<p>{}</p>", sentence(&note));
            }
            for cast in &reading.casts {
                let _ = writeln!(
                    html,
                    "<p class=\"answer\"><b>{}</b>: {}</p>",
                    escaped(&spelled(&cast.cast.name())),
                    escaped(&cast.answers[index][place].sentence())
                );
            }
            standings(html, reading, index, place);
        }
    }
}

/// Probability and rank of a target by layer, beside what each cast predicts instead.
fn standings(html: &mut String, reading: &Reading, index: usize, place: usize) {
    *html += "<div class=\"scroll\"><table>\n<thead><tr><th>layer</th>";
    for cast in &reading.casts {
        let _ = write!(
            html,
            "<th>{}: probability</th><th>rank</th><th>top token</th>",
            escaped(&spelled(&cast.cast.name()))
        );
    }
    *html += "</tr></thead>\n<tbody>\n";
    let layers = reading.casts.first().map_or(&[][..], |cast| &cast.layers);
    for (row, layer) in layers.iter().enumerate() {
        let _ = write!(html, "<tr><th>{layer}</th>");
        for cast in &reading.casts {
            let cell = &cast.cells[row][place];
            let standing = cell.targets[index];
            let probability = standing.probability.map_or("—".to_owned(), |value| {
                if value >= 0.001 || value == 0.0 { format!("{value:.4}") } else { format!("{value:.1e}") }
            });
            let rank = standing.rank.map_or("—".to_owned(), |rank| rank.to_string());
            let best = cell.top.first().map_or(String::new(), |guess| escaped(&shown(&guess.text)));
            let (background, text) = color(standing.probability.unwrap_or(0.0));
            let _ = write!(
                html,
                "<td class=\"number\" style=\"background:{};color:{}\">{probability}</td><td class=\"number\">{rank}</td><td>{best}</td>",
                css(background),
                css(text),
            );
        }
        *html += "</tr>\n";
    }
    *html += "</tbody>\n</table></div>\n";
}

fn table(page: &mut String, reading: &Reading, cast: &CastReading, coloring: &Coloring) {
    let _ = write!(
        page,
        "<h3>{}</h3>\n<div class=\"scroll\"><table>\n<thead><tr><th>layer</th>",
        escaped(&spelled(&reading.choice().unwrap_or_else(|| cast.cast.to_string())))
    );
    for &position in &reading.positions {
        let text = escaped(&shown(&reading.tokens[position].text));
        let _ = write!(page, "<th title=\"position {position}\">{text}</th>");
    }
    *page += "</tr></thead>\n<tbody>\n";
    for (&layer, cells) in cast.layers.iter().zip(&cast.cells) {
        let _ = write!(page, "<tr><th>{layer}</th>");
        for (place, cell) in cells.iter().enumerate() {
            let exit = cast.exit_layer.as_ref().map(|exits| exits[place]);
            let class = if exit == Some(layer) { " class=\"exit\"" } else { "" };
            let (background, text) = color(coloring.share(cell));
            let token = cell.top.first().map_or(String::new(), |guess| escaped(&shown(&guess.text)));
            let _ = write!(
                page,
                "<td{class} style=\"background:{};color:{}\" title=\"{}\">{token}</td>",
                css(background),
                css(text),
                escaped(&details(reading, cell)),
            );
        }
        *page += "</tr>\n";
    }
    *page += "</tbody>\n</table></div>\n";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backticks_become_code() {
        assert_eq!(sentence("a `b` c `<d>`"), "a <code>b</code> c <code>&lt;d&gt;</code>");
        assert_eq!(sentence("a `b` c ` d\x1b"), "a <code>b</code> c ` d\\u{1b}");
        assert_eq!(sentence("none"), "none");
    }
}
