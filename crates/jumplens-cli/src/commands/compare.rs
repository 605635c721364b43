//! `jumplens compare`: several runs beside one another.

use super::Failure;
use crate::args::CompareArgs;
use crate::printer::Printer;
use crate::progress::Progress;
use jumplens::compare::{ComparedRun, DifferenceRow, Method, compare, read_runs};
use jumplens::evidence::Evidence;
use jumplens::store::{Found, look};
use jumplens::words::Cast;
use std::fmt::Write;

/// Rows of the table that is printed for one run: more layers are left to the file.
const MOST_ROWS: usize = 16;

pub fn run(args: &CompareArgs, printer: &Printer) -> Result<(), Failure> {
    let runs = read_runs(&args.runs)?;
    let rows = compare(&runs, &args.out, &args.figures.style(), args.overwrite, &Progress::new(printer))?;
    let (reference, others) = (&runs[0], &runs[1..]);
    for other in others {
        printer.result(&table(reference, other, &rows))?;
    }
    for run in &runs {
        if let Found::Run(manifest) = look(&run.folder)? {
            super::loudest(&manifest).iter().for_each(|line| printer.warning(line));
        }
        for warning in Evidence::of_results(&run.folder)?.warnings(None) {
            printer.result(&format!("Warning, `{}`: {warning}\n", run.name))?;
        }
    }
    printer.note(&format!(
        "Figures and `differences.csv`, with every cast and layer, are in `{}`",
        args.out.display()
    ));
    Ok(())
}

fn table(reference: &ComparedRun, other: &ComparedRun, rows: &[DifferenceRow]) -> String {
    let rows: Vec<&DifferenceRow> = rows.iter().filter(|row| row.run == other.name).collect();
    let mut text = String::new();
    let Some(first) = rows.first() else {
        let _ = writeln!(
            text,
            "`{}` and `{}` have no predictions of the same cast to compare\n",
            other.name, reference.name
        );
        return text;
    };
    let method = match first.method {
        Method::Paired => "paired bootstrap, both have the same validation samples",
        Method::Independent => "as of independent runs, since their validation samples differ",
    };
    let _ = writeln!(text, "`{}` − `{}`, 95 % intervals: {method}", other.name, reference.name);
    let by_depth = rows.iter().any(|row| row.layer != row.reference_layer);
    let last = reference.tables.last_layer();
    let step = last.div_ceil(MOST_ROWS).max(1);
    for cast in [Cast::MAT, Cast::Id] {
        let of_cast: Vec<&&DifferenceRow> = rows.iter().filter(|row| row.mapping == cast).collect();
        if of_cast.is_empty() {
            continue;
        }
        let _ = writeln!(text, "\n{cast:<7}  {:^32}  {:^32}", "Precision@1", "surprisal");
        for layer in (0..=last).filter(|layer| layer.is_multiple_of(step) || *layer == last) {
            let find = |measure: &str| {
                of_cast.iter().find(|row| row.measure == measure && row.reference_layer == layer)
            };
            let (Some(precision), Some(surprisal)) = (find("precision_1"), find("surprisal")) else {
                continue;
            };
            let layers = if by_depth { format!("{layer} ({})", precision.layer) } else { layer.to_string() };
            let cell = |row: &DifferenceRow| {
                format!("{:+.3}  [{:+.3}, {:+.3}]", row.difference, row.lo, row.hi).replace('-', "−")
            };
            let _ = writeln!(text, "{layers:>7}  {:^32}  {:^32}", cell(precision), cell(surprisal));
        }
    }
    if by_depth {
        let _ = writeln!(text, "\nLayers of `{}` at the nearest share of its depth in brackets", other.name);
    }
    text.push('\n');
    text
}
