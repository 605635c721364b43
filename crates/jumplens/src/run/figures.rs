//! Figures and report of a run, from its result tables.

use crate::Result;
use crate::evidence::Evidence;
use crate::files::{create_folder, sync, write_atomically};
use crate::manifest::{Manifest, StageRecord};
use crate::plot::{Style, figures, write_figures};
use crate::progress::Observer;
use crate::report;
use crate::results::{finished_tables, no_tables, with_tables};
use crate::store::lock::Lock;
use crate::store::{Record, Stage};
use crate::words::REPORT;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Draws the figures of the run in `folder`, and its report, from its result tables alone: neither the model nor the rest of
/// the run need be there, nor its manifest. Returns the files written.
///
/// # Errors
/// [`Error::StageMissing`](crate::Error::StageMissing) when there is no table yet, [`Error::ChangedFile`](crate::Error::ChangedFile)
/// when one is not as its stage left it; those of
/// [`Tables::read`](crate::eval::tables::Tables::read) and [`write_figures`].
pub fn draw(folder: &Path, style: &Style, observer: &dyn Observer) -> Result<Vec<PathBuf>> {
    let _lock = Lock::of_run(folder)?;
    let manifest = with_tables(folder)?;
    for stage in [Stage::R2, Stage::Evaluate] {
        if let Some(manifest) = manifest.as_ref().filter(|manifest| manifest.is_done(stage)) {
            manifest.check(folder, stage, Stage::Plot.name())?;
        }
    }
    let started = Instant::now();
    let written = draw_tables(folder, manifest.as_ref(), style, observer)?;
    observer.end();
    match manifest {
        Some(mut manifest) => {
            let seconds = started.elapsed().as_secs_f64();
            let record = StageRecord { done: true, seconds, ..StageRecord::default() };
            manifest.stages.insert(Stage::Plot, record);
            manifest.write(folder)?;
        }
        None => Record::of_figures(folder, &written)?.write(folder)?,
    }
    Ok(written)
}

pub(super) fn draw_tables(
    folder: &Path,
    manifest: Option<&Manifest>,
    style: &Style,
    observer: &dyn Observer,
) -> Result<Vec<PathBuf>> {
    let tables = finished_tables(folder, manifest)?;
    if tables.is_empty() {
        return Err(no_tables(folder, manifest, Stage::Plot.name()));
    }
    observer.begin(Stage::Plot.name(), 0, "files");
    let plots = folder.join(Stage::Plot.place());
    create_folder(&plots)?;
    let model = manifest.map_or("", Manifest::model_name);
    let figures = figures(&tables, style.title.then_some(model));
    let mut written = write_figures(&plots, &figures, style)?;
    let title = if model.is_empty() { "jumplens run" } else { model };
    let mut warnings = manifest.map_or_else(Vec::new, Manifest::warnings);
    warnings.extend(Evidence::of_results(folder)?.warnings(None));
    let source = report::Source { folder, tables: &tables, title, warnings: &warnings, figures: &written };
    let report = report::page(&source)?;
    write_atomically(&folder.join(REPORT), report.as_bytes())?;
    written.push(folder.join(REPORT));
    sync(&written)?;
    observer.advance(written.len() as u64);
    Ok(written)
}
