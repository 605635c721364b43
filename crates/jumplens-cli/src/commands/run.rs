//! `jumplens run`: every stage, then the table.

use super::{Failure, begin, loudest, warn};
use crate::args::{Format, RunArgs};
use crate::printer::Printer;
use crate::progress::Progress;
use crate::sources::sources;
use crate::table;
use jumplens::Error;
use jumplens::eval::Summary;
use jumplens::evidence::Evidence;
use jumplens::plot::Style;
use jumplens::run::{Asked, Run, diagnostics, draw};
use jumplens::store::{Manifest, Stage};
use std::path::Path;

pub fn run(args: &RunArgs, printer: &Printer) -> Result<(), Failure> {
    if args.begin.existing.resume && is_measured(args, printer)? {
        return Ok(());
    }
    let mut run = begin(&args.begin, printer)?;
    run.all(&Progress::new(printer))?;
    show(run.folder(), run.manifest(), &run.summary()?, args.format, printer)
}

/// The results, and where the rest is.
fn show(
    folder: &Path,
    manifest: &Manifest,
    summary: &Summary,
    format: Format,
    printer: &Printer,
) -> Result<(), Failure> {
    if format == Format::Text {
        printer.note("");
    }
    print(folder, manifest, summary, format, printer)?;
    if let Some(text) = manifest.stages.get(&Stage::States).and_then(|record| record.text.as_ref()) {
        printer.detail(&text.to_string());
    }
    warn(manifest, printer);
    let folder = folder.display();
    printer.note(&format!("Results, figures and maps are in `{folder}`; `{folder}/report.html` shows them"));
    Ok(())
}

fn print(
    folder: &Path,
    manifest: &Manifest,
    summary: &Summary,
    format: Format,
    printer: &Printer,
) -> Result<(), Failure> {
    match format {
        Format::Text => printer.result(&tables(folder, manifest, summary)?)?,
        Format::Json => printer.json(&json(folder, manifest, summary)?)?,
    }
    Ok(())
}

/// The fields of `summary.json`, the folder, and what the tables warn of.
fn json(folder: &Path, manifest: &Manifest, summary: &Summary) -> Result<String, Failure> {
    let mut warnings = loudest(manifest);
    warnings.extend(Evidence::of_results(folder)?.warnings(None));
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let mut value = serde_json::to_value(summary).map_err(|error| Error::Internal(error.to_string()))?;
    value["folder"] = folder.display().to_string().into();
    value["warnings"] = warnings.into();
    Ok(format!("{value:#}\n"))
}

fn tables(folder: &Path, manifest: &Manifest, summary: &Summary) -> Result<String, Failure> {
    let (sources, curve) = diagnostics(folder, manifest)?;
    let warnings = Evidence::of_results(folder)?.warnings(None);
    Ok(table::render(summary, &sources, &curve, &warnings, manifest))
}

/// Whether nothing is left to do that takes a model: then the figures are drawn, where they are not there yet. The same
/// command, given again with its options, prints the same table again.
fn is_measured(args: &RunArgs, printer: &Printer) -> Result<bool, Failure> {
    let (folder, asked) = (args.begin.folder(), args.begin.input.asked());
    let Some(manifest) = Run::measured(&folder, &asked, &sources(), &Progress::new(printer))? else {
        return Ok(false);
    };
    // Nothing else is made from it, so that it may be gone.
    let Ok(Some(summary)) = Summary::read(&folder) else { return Ok(false) };
    if !manifest.is_done(Stage::Plot) {
        draw(&folder, &Style::default(), &Progress::new(printer))?;
        let manifest = Manifest::read(&folder)?.unwrap_or(manifest);
        show(&folder, &manifest, &summary, args.format, printer)?;
        return Ok(true);
    }
    if asked != Asked::default() || args.format != Format::Text {
        print(&folder, &manifest, &summary, args.format, printer)?;
        warn(&manifest, printer);
    }
    let folder = folder.display();
    let shown = format!("`{folder}/report.html` shows it");
    printer.note(&format!("The run in `{folder}` is finished: nothing is left to do; {shown}"));
    Ok(true)
}
