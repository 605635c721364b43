//! Figures and report of a run, from its result tables.

use super::REPORT;
use crate::error::{Error, Result};
use crate::eval::tables::Tables;
use crate::evidence::Evidence;
use crate::files::{create_folder, sync, write_atomically};
use crate::manifest::{Manifest, StageRecord};
use crate::plot::{Style, figures, write_figures};
use crate::progress::Observer;
use crate::report;
use crate::store::lock::Lock;
use crate::store::{Found, Kind, Record, Stage, damaged, integrity, look};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The tables below `folder` of the stages that `is_current` takes in: those of a stage that is to be done again are of
/// another run.
pub(super) fn current_tables(folder: &Path, is_current: impl Fn(Stage) -> bool) -> Result<Tables> {
    let mut tables = Tables::read(&folder.join("results"))?;
    if !is_current(Stage::R2) {
        (tables.r2, tables.spectra) = Default::default();
    }
    if !is_current(Stage::Evaluate) {
        tables = Tables { r2: tables.r2, spectra: tables.spectra, ..Tables::default() };
    }
    Ok(tables)
}

/// The tables of the finished stages of the run in `folder`. Without a manifest, every table that is there.
pub(crate) fn finished_tables(folder: &Path, manifest: Option<&Manifest>) -> Result<Tables> {
    current_tables(folder, |stage| manifest.is_none_or(|manifest| manifest.is_done(stage)))
}

/// What is wrong with a run without a table: the first stage on the way to one that is not done.
fn no_tables(folder: &Path, manifest: Option<&Manifest>, needed_by: &'static str) -> Error {
    if let Some(kind) = manifest.map(|manifest| manifest.kind).filter(|kind| !kind.is_run()) {
        return Error::Unfinished { path: folder.to_owned(), kind };
    }
    if !folder.exists() {
        return Error::NoFolder { path: folder.to_owned() };
    }
    let is_done = |stage: &Stage| manifest.is_some_and(|manifest| manifest.is_done(*stage));
    let stage = Stage::OF_RUN.into_iter().find(|stage| !is_done(stage)).unwrap_or(Stage::R2);
    Error::StageMissing { path: folder.to_owned(), stage, needed_by }
}

/// What result tables are read with: the manifest of a run, or of what is fitted from sums; `None` where the tables are by
/// themselves.
pub(crate) fn with_tables(folder: &Path) -> Result<Option<Manifest>> {
    match look(folder)? {
        Found::Run(manifest) => Ok(Some(*manifest)),
        Found::Made(Record { kind: Kind::Figures, .. }) | Found::Nothing | Found::Others => Ok(None),
        Found::Made(Record { kind, .. }) => {
            Err(Error::OtherKind { path: folder.to_owned(), kind, wanted: Kind::Run.to_string() })
        }
        Found::Damaged { message, ours } => Err(damaged(folder, message, ours)),
    }
}

/// The tables of the run in `folder` for `reader`, and its manifest, where it has one: those of its finished stages, all of
/// them as they were left. What of its files `may_lack` is looked at only where it is there.
///
/// # Errors
/// [`Error::StageMissing`], [`Error::Unfinished`] or [`Error::Io`] where there are none; [`Error::ChangedFile`].
pub(crate) fn read_tables(folder: &Path, reader: &'static str, may_lack: &[&str]) -> Result<Tables> {
    let manifest = with_tables(folder)?;
    for stage in [Stage::Samples, Stage::R2, Stage::Evaluate] {
        let Some(manifest) = manifest.as_ref().filter(|manifest| manifest.is_done(stage)) else { continue };
        let record = &manifest.stages[&stage];
        let mut files = record.files.clone();
        files.retain(|name, _| {
            let is_read = stage != Stage::Samples || may_lack.contains(&name.as_str());
            is_read && (!may_lack.contains(&name.as_str()) || folder.join(name).exists())
        });
        if let Some(path) = integrity::changed(folder, &files)? {
            return Err(manifest.changed_file(path, stage));
        }
    }
    let tables = finished_tables(folder, manifest.as_ref())?;
    match tables.is_empty() {
        true if manifest.is_none() => {
            Err(Error::io("read", &folder.join("results"))(std::io::ErrorKind::NotFound.into()))
        }
        true => Err(no_tables(folder, manifest.as_ref(), reader)),
        false => Ok(tables),
    }
}

/// Draws the figures of the run in `folder`, and its report, from its result tables alone: neither the model nor the rest of
/// the run need be there, nor its manifest. Returns the files written.
///
/// # Errors
/// [`Error::StageMissing`] when there is no table yet, [`Error::ChangedFile`] when one is not as its stage left it; those of
/// [`Tables::read`] and [`write_figures`].
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
    let plots = folder.join("plots");
    create_folder(&plots)?;
    let model = manifest.map_or("", |manifest| manifest.model.short_name());
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
