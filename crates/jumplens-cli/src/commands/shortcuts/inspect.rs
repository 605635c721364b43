//! `jumplens shortcuts inspect`: what kind of maps they are.

use super::{Failure, casts, r2};
use crate::args::{Format, InspectArgs};
use crate::printer::Printer;
use jumplens::Error;
use jumplens::eval::{self, Inspection};
use jumplens::shortcut::{Shortcuts, chosen_pairs};
use jumplens::words::Cast;
use serde_json::json;
use std::fmt::Write;

pub fn inspect(args: &InspectArgs, printer: &Printer) -> Result<(), Failure> {
    let shortcuts = Shortcuts::open(&args.path)?;
    let r2 = r2(&args.path)?;
    let mut found = Vec::new();
    for cast in casts(&shortcuts, &args.cast)? {
        let maps = shortcuts.cast(&cast);
        for (from, to) in chosen_pairs(&maps, args.pairs.into())? {
            let map = maps.load_pairs(from, &[to], maps.width(from)?)?.remove(&to);
            let map = map.ok_or_else(|| Error::Internal(format!("no map {from} to {to}")))?;
            let known = r2.iter().find(|row| row.mapping == cast && row.from == from && row.to == to);
            found.push((cast.clone(), from, to, eval::inspect(&map)?, known.map(|row| row.r2)));
        }
    }
    if found.is_empty() {
        return Err(Error::Option(format!("no maps in `{}`: check the path", args.path.display())).into());
    }
    match args.format {
        Format::Text => printer.result(&text(&found))?,
        Format::Json => {
            let rows = found.iter().map(|(cast, from, to, inspection, r2)| {
                let mut row = json!(inspection);
                row["cast"] = json!(cast);
                row["from"] = json!(from);
                row["to"] = json!(to);
                row["r2"] = json!(r2);
                row
            });
            printer.json(&format!("{:#}\n", json!({ "maps": rows.collect::<Vec<_>>() })))?;
        }
    }
    Ok(())
}

fn text(found: &[(Cast, usize, usize, Inspection, Option<f64>)]) -> String {
    let wide = found.iter().map(|(cast, ..)| cast.name().len()).max().unwrap_or(0).max(4);
    let mut text = format!(
        "{:<wide$}  {:>4}  {:>4}  {:>9}  {:>9}  {:>9}  {:>8}  {:>10}  {:>8}  {:>7}\n",
        "cast", "from", "to", "‖A‖", "σ max", "σ min", "eff.rank", "‖A−I‖/‖I‖", "‖b‖", "r²"
    );
    let optional = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.3}"));
    for (cast, from, to, map, r2) in found {
        let line = format!(
            "{cast:<wide$}  {from:>4}  {to:>4}  {:>9.3}  {:>9.3}  {:>9.2e}  {:>8.1}  {:>10.3}  {:>8}  {:>7}",
            map.frobenius_norm,
            map.spectral_norm,
            map.smallest_singular_value,
            map.effective_rank,
            map.distance_from_identity,
            optional(map.bias_norm),
            optional(*r2),
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}
