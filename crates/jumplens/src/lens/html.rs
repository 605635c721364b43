//! A reading as one page that loads nothing.

use super::{CastReading, Cell, Reading, color, shown, spelled};
use crate::markup::escaped;
use std::fmt::Write;

const STYLE: &str = "
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 1.5rem; }
h1 { font-size: 1.25rem; } h2 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; }
.scroll { overflow-x: auto; }
table { border-collapse: separate; border-spacing: 1px; font: 13px/1.35 ui-monospace, monospace; }
th { font-weight: 600; text-align: left; padding: 1px 6px; white-space: pre; }
tbody th, thead th:first-child { position: sticky; left: 0; background: Canvas; text-align: right; }
td { padding: 1px 6px; max-width: 9rem; overflow: hidden; text-overflow: ellipsis; white-space: pre; unicode-bidi: isolate; }
td.exit { outline: 2px solid CanvasText; outline-offset: -1px; font-weight: 700; }
.note { max-width: 60rem; padding: .4rem .8rem; border-left: 4px solid #b36b00; }
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
pub(super) fn details(cell: &Cell) -> String {
    if cell.top.is_empty() {
        return "the state is not finite".to_owned();
    }
    let mut lines: Vec<String> =
        cell.top.iter().map(|guess| format!("{:.4} {}", guess.probability, shown(&guess.text))).collect();
    lines.extend(cell.confidence.map(|value| format!("confidence {value:.4}")));
    lines.extend(cell.surprisal.map(|value| format!("surprisal {value:.3} nats")));
    lines.join("\n")
}

pub(super) fn css(color: super::Rgb) -> String {
    let [red, green, blue] = color;
    format!("#{red:02x}{green:02x}{blue:02x}")
}

/// The page: for each cast a table of layers by positions, the tokens and figures of a cell in its tooltip.
pub fn html(reading: &Reading) -> String {
    let title = format!("{} · {}", escaped(&spelled(&reading.model)), escaped(&spelled(&reading.text)));
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n<h1>{title}</h1>\n"
    );
    let stops: Vec<String> = (0..=8).map(|i| css(color(i as f32 / 8.0).0)).collect();
    let _ = writeln!(
        page,
        "<p>The most probable token at each position by each cast, from layer 0, the embedding, on. Probability 0 \
         <span class=\"scale\" style=\"background: linear-gradient(to right, {})\"></span> 1.{} A space is shown as ·.</p>",
        stops.join(", "),
        reading.lambda.map_or(String::new(), |lambda| format!(
            " A frame marks the layer of early exit at λ = {lambda}."
        )),
    );
    for note in reading.notes() {
        let _ = writeln!(page, "<p class=\"note\"><strong>Note:</strong> {}</p>", sentence(&note));
    }
    for cast in &reading.casts {
        table(&mut page, reading, cast);
    }
    page += "</html>\n";
    page
}

fn table(page: &mut String, reading: &Reading, cast: &CastReading) {
    let _ = write!(
        page,
        "<h2>{}</h2>\n<div class=\"scroll\"><table>\n<thead><tr><th>layer</th>",
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
            let best = cell.top.first();
            let (background, text) = color(best.map_or(0.0, |guess| guess.probability));
            let token = best.map_or(String::new(), |guess| escaped(&shown(&guess.text)));
            let _ = write!(
                page,
                "<td{class} style=\"background:{};color:{}\" title=\"{}\">{token}</td>",
                css(background),
                css(text),
                escaped(&details(cell)),
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
