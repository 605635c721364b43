//! What is fitted from sums, as a folder like a run's: `manifest.json`, `shortcuts/`, `results/`.

use super::fit::{check_fits, fit};
use crate::eval::tables::write_csv;
use crate::files::create_folder;
use crate::manifest::StageRecord;
use crate::moments::MomentsFile;
use crate::progress::Observer;
use crate::run::remove_stale;
use crate::shortcut::{Fits, Origin, Shortcuts};
use crate::store::lock::Lock;
use crate::store::{FolderKind, Found, Stage, damaged, integrity, look, may_be_a_run, note_replaced};
use crate::words::{REPORT, RESULTS};
use crate::{Error, Result};
use std::path::Path;
use std::time::Instant;

/// Fits the maps `fits` from the sums in `file`, and writes them with `r2.csv` and `learning_curve.csv` below `folder`,
/// whose manifest says what the sums were of. The folder has to be empty or not there, or hold what was fitted from sums
/// before, which is replaced where it was not finished, or `overwrite` allows it.
pub fn fit_folder(
    file: &MomentsFile,
    fits: &Fits,
    folder: &Path,
    overwrite: bool,
    observer: &dyn Observer,
) -> Result<()> {
    check_fits(file, fits)?;
    let (_lock, damage) = Lock::claim(folder, || room(folder, overwrite))?;
    if let Some(message) = damage {
        note_replaced(folder, &message, observer);
    }
    let record = &file.record;
    let origin = Origin::of_run(&record.manifest, record.sizes(), None);
    let shortcuts = Shortcuts::new(folder.join(Stage::Fit.place())).with_origin(origin);
    let results = folder.join(RESULTS);
    let mut manifest = file.record.manifest.clone();
    manifest.kind = FolderKind::Fitted;
    manifest.fits = fits.clone();
    manifest.threads = rayon::current_num_threads();
    manifest.write(folder)?;
    remove_stale(folder, &[Stage::Fit.place(), RESULTS, Stage::Plot.place(), REPORT])?;
    create_folder(&results)?;
    let started = Instant::now();
    let (rows, curve) = fit(file, fits, &shortcuts, observer)?;
    write_csv(&results.join("r2.csv"), &rows)?;
    write_csv(&results.join("learning_curve.csv"), &curve)?;
    for (stage, seconds) in [(Stage::Fit, started.elapsed().as_secs_f64()), (Stage::R2, 0.0)] {
        let files = integrity::digests(folder, |path| stage.writes(path))?;
        manifest.stages.insert(stage, StageRecord { done: true, seconds, files, ..StageRecord::default() });
    }
    manifest.write(folder)
}

/// Sees that maps fitted from sums can go into `folder`. What is wrong with the manifest of those that are there, where it
/// cannot be read and they are to be replaced.
fn room(folder: &Path, overwrite: bool) -> Result<Option<String>> {
    let other = |kind: FolderKind| Error::OtherKind {
        path: folder.to_owned(),
        kind,
        wanted: FolderKind::Fitted.to_string(),
    };
    match look(folder)? {
        Found::Nothing => Ok(None),
        Found::Run(manifest)
            if manifest.kind == FolderKind::Fitted && (overwrite || !manifest.is_done(Stage::Fit)) =>
        {
            Ok(None)
        }
        Found::Run(manifest) if manifest.kind == FolderKind::Fitted => {
            let (kind, what) = (manifest.kind, manifest.describe());
            Err(Error::Occupied { path: folder.to_owned(), kind, what })
        }
        Found::Run(manifest) => Err(other(manifest.kind)),
        Found::Made(record) => Err(other(record.kind)),
        Found::Others => Err(Error::NotARun { path: folder.to_owned() }),
        Found::Damaged { message, ours: true } if overwrite && !may_be_a_run(folder) => Ok(Some(message)),
        Found::Damaged { message, ours } => Err(damaged(folder, message, ours)),
    }
}
