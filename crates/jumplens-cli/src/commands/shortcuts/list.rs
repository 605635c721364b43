//! `jumplens shortcuts list`: which maps there are, and where they come from.

use super::{Failure, origin};
use crate::args::{Format, ListArgs};
use crate::printer::Printer;
use jumplens::Error;
use jumplens::shortcut::{Origin, Pairs, Shortcuts, chosen_pairs};
use jumplens::words::Cast;
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// The maps of one cast.
struct Row {
    cast: Cast,
    maps: usize,
    from: (usize, usize),
    to: (usize, usize),
    width: usize,
}

pub fn list(args: &ListArgs, printer: &Printer) -> Result<(), Failure> {
    let shortcuts = Shortcuts::open(&args.path)?;
    let mut rows = Vec::new();
    for cast in shortcuts.casts()? {
        let maps = shortcuts.cast(&cast);
        let pairs = chosen_pairs(&maps, Pairs::All)?;
        let range = |of: fn(&(usize, usize)) -> usize| {
            let all = || pairs.iter().map(of);
            all().min().zip(all().max()).unwrap_or_default()
        };
        let (from, to) = (range(|pair| pair.0), range(|pair| pair.1));
        rows.push(Row { maps: pairs.len(), from, to, width: maps.width(from.0)?, cast });
    }
    let blocks = shortcuts.blocks()?;
    let parts = blocks.first().map_or(Ok(Vec::new()), |block| shortcuts.part_names(*block))?;
    if rows.is_empty() && blocks.is_empty() {
        return Err(Error::Option(format!("no maps in `{}`: check the path", args.path.display())).into());
    }
    let origin = origin(&shortcuts)?;
    match args.format {
        Format::Text => printer.result(&text(&rows, blocks.len(), &parts, origin.as_ref()))?,
        Format::Json => {
            let casts: Vec<Value> = rows
                .iter()
                .map(|row| json!({"cast": row.cast, "maps": row.maps, "from": row.from, "to": row.to, "width": row.width}))
                .collect();
            let value =
                json!({"casts": casts, "parts": {"blocks": blocks.len(), "names": parts}, "origin": origin});
            printer.json(&format!("{value:#}\n"))?;
        }
    }
    Ok(())
}

fn text(rows: &[Row], blocks: usize, parts: &[String], origin: Option<&Origin>) -> String {
    let mut text = format!("{:<12}  {:>5}  {:>6}  {:>6}  {:>5}\n", "cast", "maps", "from", "to", "width");
    let range = |(first, last): (usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first}–{last}"),
    };
    for Row { cast, maps, from, to, width } in rows {
        let _ = writeln!(text, "{cast:<12}  {maps:>5}  {:>6}  {:>6}  {width:>5}", range(*from), range(*to));
    }
    if blocks > 0 {
        let _ = writeln!(text, "parts of {blocks} blocks: {}", parts.join(", "));
    }
    text.push('\n');
    match origin.and_then(|origin| serde_json::to_value(origin).ok()) {
        Some(Value::Object(fields)) => write_fields(&mut text, &fields),
        _ => text.push_str("The files do not say where these maps come from\n"),
    }
    text
}

/// A line a field.
fn write_fields(text: &mut String, fields: &Map<String, Value>) {
    for (name, value) in fields {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let _ = writeln!(text, "{:<15} {value}", name.replace('_', " "));
    }
}
