//! `jumplens run`: every stage, then the table.

use super::{Failure, begin};
use crate::args::BeginArgs;
use crate::printer::Printer;
use crate::progress::Progress;
use crate::table;
use jumplens::Error;
use jumplens::states::CHUNK;
use jumplens::store::{Manifest, Stage};

pub fn run(args: &BeginArgs, printer: &Printer) -> Result<(), Failure> {
    let mut run = begin(args, printer)?;
    if let Err(error) = run.all(&Progress::new(printer)) {
        if matches!(error, Error::Interrupted) {
            printer.note(&format!("Kept in `{}`: {}", run.folder().display(), kept(run.manifest())));
        }
        return Err(error.into());
    }
    printer.note("");
    let (sources, curve) = run.diagnostics()?;
    printer.result(&table::render(&run.summary()?, &sources, &curve, run.manifest()))?;
    let folder = run.folder().display();
    printer.note(&format!("Results, figures and maps are in `{folder}`; `{folder}/report.html` shows them"));
    Ok(())
}

/// What of a run is on disk for good.
fn kept(manifest: &Manifest) -> String {
    let done = Stage::ALL.into_iter().filter(|stage| manifest.is_done(*stage));
    let stages = done.map(|stage| stage.to_string());
    let begun = manifest.stages.get(&Stage::States).filter(|record| !record.done);
    let chunks = begun.into_iter().flat_map(|record| &record.chunks);
    let chunks = chunks.map(|(split, chunks)| format!("{chunks} chunks of {CHUNK} {split} states"));
    stages.chain(chunks).collect::<Vec<_>>().join(", ")
}
