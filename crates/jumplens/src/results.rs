//! The tables of a run folder, as far as their stages are done and their files as they were left.

use crate::eval::tables::Tables;
use crate::store::{Found, Manifest, Record, Stage, damaged, integrity, look};
use crate::words::{FolderKind, RESULTS};
use crate::{Error, Result};
use std::path::Path;

/// The tables below `folder` of the stages that `is_current` takes in: those of a stage that is to be done again are of
/// another run.
pub(crate) fn current_tables(folder: &Path, is_current: impl Fn(Stage) -> bool) -> Result<Tables> {
    let mut tables = Tables::read(&folder.join(RESULTS))?;
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
pub(crate) fn no_tables(folder: &Path, manifest: Option<&Manifest>, needed_by: &'static str) -> Error {
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
        Found::Made(Record { kind: FolderKind::Figures, .. }) | Found::Nothing | Found::Others => Ok(None),
        Found::Made(Record { kind, .. }) => {
            Err(Error::OtherKind { path: folder.to_owned(), kind, wanted: FolderKind::Run.to_string() })
        }
        Found::Damaged { message, ours } => Err(damaged(folder, message, ours)),
    }
}

/// The tables of the run in `folder`, or of what is fitted from sums: those of its finished stages.
///
/// # Errors
/// [`Error::StageMissing`], [`Error::Unfinished`], [`Error::NoFolder`] or [`Error::Io`] where there are none;
/// [`Error::ChangedFile`] where a file is not as it was left.
pub fn tables(folder: &Path) -> Result<Tables> {
    read_tables(folder, "reading its tables", &[])
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
        true if manifest.is_none() && !folder.exists() => Err(Error::NoFolder { path: folder.to_owned() }),
        true if manifest.is_none() && !folder.join(RESULTS).exists() => {
            Err(Error::NotARun { path: folder.to_owned() })
        }
        true if manifest.is_none() => {
            Err(Error::io("read", &folder.join(RESULTS))(std::io::ErrorKind::NotFound.into()))
        }
        true => Err(no_tables(folder, manifest.as_ref(), reader)),
        false => Ok(tables),
    }
}
