//! Figures and report of a run, from its result tables.

use super::diagnostics;
use crate::Result;
use crate::eval::advise;
use crate::eval::tables::{LayerRow, Tables};
use crate::evidence::{Evidence, ranges};
use crate::files::{create_folder, sync, write_atomically};
use crate::manifest::{Manifest, StageRecord};
use crate::plot::{self, Format, Style, figures, write_figures};
use crate::progress::Observer;
use crate::report;
use crate::results::{finished_tables, no_tables, with_tables};
use crate::store::lock::Lock;
use crate::store::{Record, Stage};
use crate::words::REPORT;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Draws the figures of the run in `folder`, and its report, from its result tables alone: neither the model nor the rest of
/// the run need be there, nor its manifest. Returns the files written; where some
/// figures alone are, with those that were there.
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
    style.size.check()?;
    observer.begin(Stage::Plot.name(), 0, "files");
    let plots = folder.join(Stage::Plot.place());
    let model = manifest.map_or("", Manifest::model_name);
    let figures = style.chosen(figures(&tables, style.title.then_some(model), style.size))?;
    create_folder(&plots)?;
    let mut written = write_figures(&plots, &figures, style)?;
    let count = written.len() + 1;
    if !style.only.is_empty() {
        written = drawn(&plots);
    }
    let title = if model.is_empty() { "jumplens run" } else { model };
    let mut warnings = manifest.map_or_else(Vec::new, Manifest::warnings);
    warnings.extend(Evidence::of_results(folder)?.warnings(None));
    let notes = notes(folder, manifest, &tables)?;
    let source = report::Source {
        folder,
        tables: &tables,
        title,
        warnings: &warnings,
        notes: &notes,
        figures: &written,
    };
    let report = report::page(&source)?;
    write_atomically(&folder.join(REPORT), report.as_bytes())?;
    written.push(folder.join(REPORT));
    sync(&written)?;
    observer.advance(count as u64);
    Ok(written)
}

/// The figures that are in the folder `plots`.
fn drawn(plots: &Path) -> Vec<PathBuf> {
    let files = plot::NAMES.iter().flat_map(|name| {
        Format::ALL.into_iter().map(move |format| plots.join(format!("{name}.{}", format.extension())))
    });
    files.filter(|file| file.exists()).collect()
}

/// Keeps what it is told.
#[derive(Default)]
struct Told(RefCell<Vec<String>>);

impl Observer for Told {
    fn note(&self, line: &str) {
        self.0.borrow_mut().push(line.to_owned());
    }
}

/// What the stages said of the results as they made them, from the tables: what stands in the way of the maps, and casts that
/// grow beyond f32.
fn notes(folder: &Path, manifest: Option<&Manifest>, tables: &Tables) -> Result<Vec<String>> {
    let told = Told::default();
    if let Some(manifest) = manifest
        && manifest.stages.get(&Stage::R2).is_some_and(|record| record.done && record.shortcuts.is_none())
    {
        let (sources, _) = diagnostics(folder, manifest)?;
        advise(&tables.r2, &sources, &told);
    }
    let mut notes = told.0.into_inner();
    for cast in tables.casts() {
        let is_missing = |row: &&LayerRow| row.mapping == *cast && row.surprisal.is_nan();
        let layers: Vec<usize> = tables.layers.iter().filter(is_missing).map(|row| row.layer).collect();
        if !layers.is_empty() {
            notes.push(format!(
                "`{cast}` grows beyond what f32 holds for some samples when it starts from {}: they count as misses, and \
                 surprisal, KL and loss are NaN there",
                ranges(layers)
            ));
        }
    }
    Ok(notes)
}
