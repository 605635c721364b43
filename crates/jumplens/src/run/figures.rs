//! Figures and report of a run, from its result tables.

use super::REPORT;
use crate::error::{Error, Result};
use crate::eval::tables::Tables;
use crate::files::{create_folder, write_atomically};
use crate::manifest::{Manifest, StageRecord};
use crate::plot::{Style, figures, write_figures};
use crate::progress::Observer;
use crate::report;
use crate::store::lock::Lock;
use crate::store::{Stage, integrity};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The tables of the finished stages of the run in `folder`: those of a stage that is to be done again are of another run.
/// Without a manifest, every table that is there.
pub(crate) fn finished_tables(folder: &Path, manifest: Option<&Manifest>) -> Result<Tables> {
    let mut tables = Tables::read(&folder.join("results"))?;
    let is_done = |stage| manifest.is_none_or(|manifest| manifest.is_done(stage));
    if !is_done(Stage::R2) {
        (tables.r2, tables.spectra) = Default::default();
    }
    if !is_done(Stage::Evaluate) {
        tables = Tables { r2: tables.r2, spectra: tables.spectra, ..Tables::default() };
    }
    Ok(tables)
}

/// What is wrong with a run without a table: the first stage on the way to one that is not done.
pub(crate) fn no_tables(folder: &Path, manifest: Option<&Manifest>, needed_by: &'static str) -> Error {
    let is_done = |stage: &Stage| manifest.is_some_and(|manifest| manifest.is_done(*stage));
    let stage = Stage::OF_RUN.into_iter().find(|stage| !is_done(stage)).unwrap_or(Stage::R2);
    Error::StageMissing { path: folder.to_owned(), stage, needed_by }
}

/// Draws the figures of the run in `folder`, and its report, from its result tables alone: neither the model nor the rest of
/// the run need be there, nor its manifest. Returns the files written.
///
/// # Errors
/// [`Error::StageMissing`] when there is no table yet, [`Error::ChangedFile`] when one is not as its stage left it; those of
/// [`Tables::read`] and [`write_figures`].
pub fn draw(folder: &Path, style: &Style, observer: &dyn Observer) -> Result<Vec<PathBuf>> {
    let _lock = Lock::of_run(folder)?;
    let manifest = Manifest::read(folder)?;
    for stage in [Stage::R2, Stage::Evaluate] {
        let record = manifest.as_ref().and_then(|manifest| manifest.stages.get(&stage));
        if let Some(record) = record.filter(|record| record.done)
            && let Some(path) = integrity::changed(folder, &record.files)?
        {
            return Err(Error::ChangedFile { path, stage });
        }
    }
    let started = Instant::now();
    let written = draw_tables(folder, manifest.as_ref(), style, observer)?;
    observer.end();
    if let Some(mut manifest) = manifest {
        let seconds = started.elapsed().as_secs_f64();
        let record = StageRecord { done: true, seconds, ..StageRecord::default() };
        manifest.stages.insert(Stage::Plot, record);
        manifest.write(folder)?;
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
    let plots = folder.join("plots");
    create_folder(&plots)?;
    let model = manifest.map_or("", |manifest| manifest.model.short_name());
    let figures = figures(&tables, style.title.then_some(model));
    let mut written = write_figures(&plots, &figures, style)?;
    let title = if model.is_empty() { "jumplens run" } else { model };
    let report = report::page(&report::Source { folder, tables: &tables, title, figures: &written })?;
    write_atomically(&folder.join(REPORT), report.as_bytes())?;
    written.push(folder.join(REPORT));
    observer.advance(written.len() as u64);
    Ok(written)
}
