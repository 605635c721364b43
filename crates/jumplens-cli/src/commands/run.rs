//! `jumplens run`: every stage, then the table.

use super::{Failure, begin};
use crate::args::BeginArgs;
use crate::printer::Printer;
use crate::progress::Progress;
use crate::sources::sources;
use crate::table;
use jumplens::eval::Summary;
use jumplens::evidence::Evidence;
use jumplens::plot::Style;
use jumplens::run::{Asked, Run, diagnostics, draw};
use jumplens::store::{Manifest, Stage};
use std::path::Path;

pub fn run(args: &BeginArgs, printer: &Printer) -> Result<(), Failure> {
    if args.existing.resume && is_measured(args, printer)? {
        return Ok(());
    }
    let mut run = begin(args, printer)?;
    run.all(&Progress::new(printer))?;
    show(run.folder(), run.manifest(), &run.summary()?, printer)
}

/// The table, and where the rest is.
fn show(folder: &Path, manifest: &Manifest, summary: &Summary, printer: &Printer) -> Result<(), Failure> {
    printer.note("");
    printer.result(&tables(folder, manifest, summary)?)?;
    if let Some(text) = manifest.stages.get(&Stage::States).and_then(|record| record.text.as_ref()) {
        printer.detail(&text.to_string());
    }
    warn(manifest, printer);
    let folder = folder.display();
    printer.note(&format!("Results, figures and maps are in `{folder}`; `{folder}/report.html` shows them"));
    Ok(())
}

/// What makes the model's results doubtful.
fn warn(manifest: &Manifest, printer: &Printer) {
    for line in super::loudest(manifest) {
        printer.warning(&line);
    }
}

fn tables(folder: &Path, manifest: &Manifest, summary: &Summary) -> Result<String, Failure> {
    let (sources, curve) = diagnostics(folder, manifest)?;
    let warnings = Evidence::of_results(folder)?.warnings(None);
    Ok(table::render(summary, &sources, &curve, &warnings, manifest))
}

/// Whether nothing is left to do that takes a model: then the figures are drawn, where they are not there yet. The same
/// command, given again with its options, prints the same table again.
fn is_measured(args: &BeginArgs, printer: &Printer) -> Result<bool, Failure> {
    let (folder, asked) = (args.folder(), args.input.asked());
    let Some(manifest) = Run::measured(&folder, &asked, &sources(), &Progress::new(printer))? else {
        return Ok(false);
    };
    // Nothing else is made from it, so that it may be gone.
    let Ok(Some(summary)) = Summary::read(&folder) else { return Ok(false) };
    if !manifest.is_done(Stage::Plot) {
        draw(&folder, &Style::default(), &Progress::new(printer))?;
        let manifest = Manifest::read(&folder)?.unwrap_or(manifest);
        show(&folder, &manifest, &summary, printer)?;
        return Ok(true);
    }
    if asked != Asked::default() {
        printer.result(&tables(&folder, &manifest, &summary)?)?;
        warn(&manifest, printer);
    }
    let folder = folder.display();
    let shown = format!("`{folder}/report.html` shows it");
    printer.note(&format!("The run in `{folder}` is finished: nothing is left to do; {shown}"));
    Ok(true)
}
