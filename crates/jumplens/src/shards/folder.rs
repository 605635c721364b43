//! What is fitted from sums, as a folder like a run's: `manifest.json`, `shortcuts/`, `results/`.

use super::fit::{by_cast, check_fits, fit};
use crate::eval::tables::{CurveRow, R2Row, read_csv, write_csv};
use crate::files::create_folder;
use crate::manifest::{Manifest, StageRecord};
use crate::moments::MomentsFile;
use crate::progress::Observer;
use crate::run::remove_stale;
use crate::shortcut::{Fits, Origin, Shortcuts};
use crate::store::lock::Lock;
use crate::store::{FolderKind, Found, Stage, damaged, integrity, look, may_be_a_run, note_replaced, walk};
use crate::words::{REPORT, RESULTS};
use crate::{Error, Result};
use std::ops::Range;
use std::path::{Path, PathBuf};
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
    write(file, fits, 0..file.record.n_layers, folder, overwrite, true, observer)
}

/// The same for the maps from the layers `sources` alone, for [`join_fits`]. Its manifest has the stages as not done: to every other
/// reader it is unfinished.
pub fn fit_sources(
    file: &MomentsFile,
    fits: &Fits,
    sources: Range<usize>,
    folder: &Path,
    observer: &dyn Observer,
) -> Result<()> {
    write(file, fits, sources, folder, false, false, observer)
}

fn write(
    file: &MomentsFile,
    fits: &Fits,
    sources: Range<usize>,
    folder: &Path,
    overwrite: bool,
    is_all: bool,
    observer: &dyn Observer,
) -> Result<()> {
    check_fits(file, fits)?;
    let record = &file.record;
    let mut manifest = record.manifest.clone();
    manifest.kind = FolderKind::Fitted;
    manifest.fits = fits.clone();
    manifest.threads = rayon::current_num_threads();
    let (_lock, shortcuts) = begin(&manifest, folder, overwrite, observer)?;
    let origin = Origin::of_run(&record.manifest, record.sizes(), None);
    let started = Instant::now();
    let tables = fit(file, fits, sources, &shortcuts.with_origin(origin), observer)?;
    finish(manifest, folder, &tables, started, is_all)
}

/// Puts together what [`fit_sources`] wrote into the folders `parts`, in the order of the layers, as [`fit_folder`] writes it.
///
/// # Errors
/// [`Error::Shards`] names a part that is of another experiment, or of other maps, or does not follow; [`Error::ChangedFile`] where one
/// is not as it was written.
pub fn join_fits(parts: &[PathBuf], folder: &Path, overwrite: bool, observer: &dyn Observer) -> Result<()> {
    let started = Instant::now();
    let mut whole: Option<Manifest> = None;
    let (mut rows, mut curve) = (Vec::new(), Vec::<CurveRow>::new());
    for part in parts {
        let fail = |message: String| Error::Shards { path: part.clone(), message };
        let manifest = Manifest::read(part)?.ok_or_else(|| Error::NoFolder { path: part.clone() })?;
        let files = manifest.stages.get(&Stage::Fit).filter(|record| !record.done);
        let files = files.ok_or_else(|| fail("it holds no maps from some of the layers".to_owned()))?;
        if let Some(path) = integrity::changed(part, &files.files)? {
            return Err(Error::ChangedFile { path, stage: Stage::Fit });
        }
        if let Some(difference) = whole.as_ref().and_then(|whole| manifest.difference(whole)) {
            return Err(fail(format!("it is of another experiment: {difference}")));
        }
        whole.get_or_insert(manifest);
        let results = part.join(RESULTS);
        let next = curve.last().map_or(0, |row| row.from + 1);
        let its: Vec<CurveRow> = read_csv(&results.join("learning_curve.csv"))?;
        if its.first().is_none_or(|row| row.from != next) {
            return Err(fail(format!("its maps are not from layer {next} on, where those come next")));
        }
        rows.extend(read_csv(&results.join("r2.csv"))?);
        curve.extend(its);
    }
    let Some(mut manifest) = whole else { return Err(Error::Option("no maps were given".to_owned())) };
    let last = curve.last().map_or(0, |row| row.to);
    if curve.last().is_some_and(|row| row.from + 1 != last) {
        let message =
            format!("the maps from layer {} are missing", curve.last().map_or(0, |row| row.from + 1));
        return Err(Error::Shards { path: folder.to_owned(), message });
    }
    manifest.stages.clear();
    let (_lock, _) = begin(&manifest, folder, overwrite, observer)?;
    for part in parts {
        let mut files = Vec::new();
        walk(part, Path::new(Stage::Fit.place()), &mut files)?;
        for file in files {
            let to = folder.join(&file);
            to.parent().map_or(Ok(()), create_folder)?;
            std::fs::copy(part.join(&file), &to).map_err(Error::io("write", &to))?;
        }
    }
    finish(manifest, folder, &(by_cast(rows), curve), started, true)
}

/// Whether all of what [`fit_sources`] wrote into `folder` is there as it was written.
pub fn is_whole_fit(folder: &Path) -> bool {
    let whole = || -> Result<bool> {
        let Some(manifest) = Manifest::read(folder)? else { return Ok(false) };
        let Some(record) = manifest.stages.get(&Stage::Fit) else { return Ok(false) };
        Ok(!record.files.is_empty() && integrity::changed(folder, &record.files)?.is_none())
    };
    whole().unwrap_or(false)
}

/// Makes room for maps, and says what they will be of.
fn begin(
    manifest: &Manifest,
    folder: &Path,
    overwrite: bool,
    observer: &dyn Observer,
) -> Result<(Lock, Shortcuts)> {
    let (lock, damage) = Lock::claim(folder, || room(folder, overwrite))?;
    if let Some(message) = damage {
        note_replaced(folder, &message, observer);
    }
    manifest.write(folder)?;
    remove_stale(folder, &[Stage::Fit.place(), RESULTS, Stage::Plot.place(), REPORT])?;
    create_folder(&folder.join(RESULTS))?;
    Ok((lock, Shortcuts::new(folder.join(Stage::Fit.place()))))
}

/// Writes the tables, and that the maps are there.
fn finish(
    mut manifest: Manifest,
    folder: &Path,
    (rows, curve): &(Vec<R2Row>, Vec<CurveRow>),
    started: Instant,
    done: bool,
) -> Result<()> {
    let results = folder.join(RESULTS);
    write_csv(&results.join("r2.csv"), rows)?;
    write_csv(&results.join("learning_curve.csv"), curve)?;
    for (stage, seconds) in [(Stage::Fit, started.elapsed().as_secs_f64()), (Stage::R2, 0.0)] {
        let files = integrity::digests(folder, |path| match done {
            true => stage.writes(path),
            // Whoever puts parts together looks at all of it at once.
            false => [Stage::Fit, Stage::R2].iter().any(|stage| stage.writes(path)),
        })?;
        manifest.stages.insert(stage, StageRecord { done, seconds, files, ..StageRecord::default() });
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
