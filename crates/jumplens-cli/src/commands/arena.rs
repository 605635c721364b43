//! `jumplens arena`.

use super::Failure;
use crate::args::{ArenaArgs, usual};
use crate::printer::Printer;
use crate::progress::Progress;
use jumplens::arena::{Outcome, Third, ThirdRow, arena};
use std::fmt::Write;

pub fn run(args: &ArenaArgs, printer: &Printer) -> Result<(), Failure> {
    let (sources, progress) = (args.unread.sources(), Progress::new(printer));
    let existing = (&args.existing).into();
    let outcome = arena(&args.out, &args.asked(), &usual(), &args.request(), existing, &sources, &progress)?;
    printer.note("");
    printer.result(&table(&outcome))?;
    let out = args.out.display();
    printer.note(&format!(
        "`{out}/results/arena.csv` has all layers with intervals, `arena_differences.csv` paired differences; `{out}/report.html` shows them"
    ));
    Ok(())
}

/// Lens by lens: KL and Precision@1 by thirds of the depth, and what it took. The least KL and the highest precision of a third are
/// marked, with those that are no worse by the paired interval.
fn table(outcome: &Outcome) -> String {
    let name = |row: &ThirdRow| row.mapping.to_string();
    let width = outcome.thirds.iter().map(|row| name(row).len()).max().unwrap_or(0).max("lens".len());
    let mut out = String::new();
    let thirds: Vec<Third> =
        Third::ALL.into_iter().filter(|third| outcome.thirds.iter().any(|row| row.third == *third)).collect();
    let heads = thirds.iter().map(|third| {
        let row = outcome.thirds.iter().find(|row| row.third == *third);
        row.map_or(String::new(), |row| format!("layers {} to {}", row.first, row.last))
    });
    let _ = write!(out, "{:width$} ", "");
    for head in heads {
        let _ = write!(out, "│ {head:^17} ");
    }
    let _ = writeln!(out, "│ ");
    let _ = write!(out, "{:width$} ", "lens");
    thirds.iter().for_each(|_| out.push_str("│       KL     P@1 "));
    let _ = writeln!(out, "│  seconds");
    let _ = write!(out, "{}", "─".repeat(width + 1));
    thirds.iter().for_each(|_| out.push_str(&format!("┼{}", "─".repeat(19))));
    let _ = writeln!(out, "┼{}", "─".repeat(9));
    for cost in &outcome.costs {
        let _ = write!(out, "{:width$} ", cost.mapping.to_string());
        for third in &thirds {
            let row = outcome.thirds.iter().find(|row| row.third == *third && row.mapping == cost.mapping);
            let Some(row) = row else { continue };
            let mark = |is_best: bool| if is_best { '*' } else { ' ' };
            let (kl, p1) = (mark(row.kl_beyond_best_lo <= 0.0), mark(row.precision_1_behind_best_lo <= 0.0));
            let _ = write!(out, "│ {:>7.4}{kl} {:>6.3}{p1} ", row.kl, row.precision_1);
        }
        let _ = match cost.seconds {
            Some(seconds) => writeln!(out, "│ {seconds:>8.1}"),
            None => writeln!(out, "│ {:>8}", "-"),
        };
    }
    out.push_str("KL(model ‖ lens) in nats and Precision@1, means over layers; * the best, and what is not apart from it in the paired interval\n");
    out
}
