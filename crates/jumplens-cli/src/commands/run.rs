//! `jumplens run`: every stage, then the table.

use super::{Failure, begin};
use crate::args::BeginArgs;
use crate::printer::Printer;
use crate::progress::Progress;
use crate::table;

pub fn run(args: &BeginArgs, printer: &Printer) -> Result<(), Failure> {
    let mut run = begin(args, printer)?;
    run.all(&Progress::new(printer))?;
    printer.note("");
    let (sources, curve) = run.diagnostics()?;
    printer.result(&table::render(&run.summary()?, &sources, &curve, run.manifest()))?;
    printer.note(&format!("Results, figures and maps are in `{}`", run.folder().display()));
    Ok(())
}
