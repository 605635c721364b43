//! The stage `evaluate`: of a whole run, of a share of its samples, and put together from shares. What is evaluated is kept in
//! pieces while it goes on, so that one that was stopped goes on from the last of them.

use super::Run;
use crate::batch::tokens;
use crate::eval::{
    Evaluation, Part, PartRecord, Places, SoFar, Subject, batches, evaluate_pieces, write_predictions,
    write_tables,
};
use crate::files::{create_folder, sync, sync_names};
use crate::manifest::Manifest;
use crate::models::Kind;
use crate::moments::Shard;
use crate::progress::{Observer, check};
use crate::shortcut::Shortcuts;
use crate::states::StateFiles;
use crate::store::Stage;
use crate::tokenize::Sample;
use crate::words::{BlockCast, Cast, EVALUATING, FolderKind, RESULTS, Refusal};
use crate::{Error, Result};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Gets all predictions, and where their samples are.
type Look<'a> = dyn FnMut(&Evaluation, &Places) -> Result<()> + 'a;

impl Run {
    /// `layers.csv`, `early_exit.csv`, `predictions.parquet`, for the maps of this run or those in another folder. Goes on from
    /// the last piece where it was stopped.
    /// [`Error::NoHead`] where the model makes no predictions.
    pub fn evaluate(&mut self, shortcuts: Option<&Path>, observer: &dyn Observer) -> Result<()> {
        self.evaluate_and(shortcuts, &mut |_, _| Ok(()), observer)
    }

    /// The same; before the tables are written, `look` is given what they are made from. What it writes next to
    /// them is the stage's own, with its digest.
    pub(crate) fn evaluate_and(
        &mut self,
        shortcuts: Option<&Path>,
        look: &mut Look,
        observer: &dyn Observer,
    ) -> Result<()> {
        self.needs_maps(Stage::Evaluate, shortcuts)?;
        let kind = self.evaluable()?.0.spec().kind;
        let (maps, casts) = self.measured_casts(shortcuts, observer)?;
        let samples = self.read_samples("val")?;
        let started = Instant::now();
        let pieces = self.pieces();
        let range = 0..samples.len();
        let states = StateFiles::new(&self.folder, "val");
        let subject = self.subject(&maps, &casts, &samples, &states)?;
        let so_far = evaluate_range(&subject, &self.manifest, range, 0, &pieces, observer)?;
        look(&so_far.evaluation, &so_far.places)?;
        self.finish_evaluation(so_far, kind, &maps, Some(&samples), started, shortcuts, observer)
    }

    /// Where the pieces of an evaluation of the run are while it goes on.
    fn pieces(&self) -> PathBuf {
        self.folder.join(RESULTS).join(EVALUATING)
    }

    /// Evaluates a share of the validation samples, with the maps of this run or those in another folder, and writes its
    /// predictions to the file `out`, for [`Run::merge_evaluation`]. Writes nothing else, so that any number of processes may work
    /// on the shares of one run. In the folder of a share of the samples, that is the share. Goes on where it was stopped.
    ///
    /// # Errors
    /// [`Error::NoHead`] where the model makes no predictions, [`Error::FileExists`] where the file is there, [`Error::Option`] for a
    /// share without samples, or another than the folder's.
    pub fn evaluate_share(
        &mut self,
        shard: Shard,
        shortcuts: Option<&Path>,
        out: &Path,
        observer: &dyn Observer,
    ) -> Result<()> {
        self.evaluable()?;
        if out.exists() {
            return Err(Error::FileExists { path: out.to_owned() });
        }
        self.needs_maps(Stage::Evaluate, shortcuts)?;
        let (maps, casts) = self.measured_casts(shortcuts, observer)?;
        let samples = self.read_samples("val")?;
        let share = shard.of_val(self.manifest.val);
        let offset = match self.manifest.shard {
            None => 0,
            Some(own) if own == shard => share.start,
            Some(own) => {
                let folder = self.folder.display();
                return Err(Error::Option(format!(
                    "`{folder}` holds share {own} of the samples, not share {shard}"
                )));
            }
        };
        if share.is_empty() {
            let n = self.manifest.val;
            return Err(Error::Option(format!(
                "share {shard} of {n} validation samples is empty: give fewer shares"
            )));
        }
        let range = share.start - offset..share.end - offset;
        let states = StateFiles::new(&self.folder, "val");
        let subject = self.subject(&maps, &casts, &samples, &states)?;
        write_share(&subject, &self.manifest, range, offset, out, observer)
    }

    /// Writes the tables of [`Run::evaluate`] from the predictions in `parts`, those of all shares in any order, which have to be
    /// made with the maps of this run, or those at `shortcuts`. In a folder of maps that were fitted from sums too.
    ///
    /// # Errors
    /// [`Error::Shards`] names a file that is of another experiment or of other maps, or the samples that are missing.
    pub fn merge_evaluation(
        &mut self,
        parts: &[PathBuf],
        shortcuts: Option<&Path>,
        observer: &dyn Observer,
    ) -> Result<()> {
        let kind = self.evaluable()?.0.spec().kind;
        if let Some(shard) = self.manifest.shard {
            let folder = self.folder.display();
            return Err(Error::Option(format!(
                "`{folder}` holds share {shard} of the samples, not all of them"
            )));
        }
        let is_run = self.manifest.kind == FolderKind::Run;
        match is_run {
            true => self.needs_maps(Stage::Evaluate, shortcuts)?,
            false => drop(self.own_shortcuts()?),
        }
        let started = Instant::now();
        observer.begin("merge", parts.len() as u64, "files");
        let mut opened = Vec::new();
        for path in parts {
            check(observer)?;
            opened.push(Part::open(path)?);
        }
        opened.sort_by_key(|part| part.record.first);
        let Some(first) = opened.first() else {
            return Err(Error::Option("no files of predictions were given".to_owned()));
        };
        let ours = self.manifest.without_progress();
        for part in &opened {
            if let Some(difference) = part.record.manifest.difference(&ours) {
                let message = format!("it is of another experiment than the folder: {difference}");
                return Err(Error::Shards { path: part.path().to_owned(), message });
            }
        }
        let (maps, there) = self.measurable_casts(shortcuts, observer)?;
        let casts = first.record.casts.clone();
        self.check_measured(&casts, &there, shortcuts)?;
        let states = StateFiles::new(&self.folder, "val");
        let subject = self.subject(&maps, &casts, &[], &states)?;
        let mut so_far = SoFar::new(PartRecord::new(&self.manifest, &subject)?, 0);
        for part in opened {
            let path = part.path().to_owned();
            so_far.add(part).map_err(|message| Error::Shards { path, message })?;
            observer.advance(1);
        }
        if so_far.next() < self.manifest.val {
            let message =
                format!("the last samples are missing: {} of {} are there", so_far.next(), self.manifest.val);
            return Err(Error::Shards { path: self.folder.clone(), message });
        }
        let samples = if is_run { Some(self.read_samples("val")?) } else { None };
        self.finish_evaluation(so_far, kind, &maps, samples.as_deref(), started, shortcuts, observer)
    }

    /// What is evaluated: the casts, with these maps, of the run's validation samples.
    fn subject<'a>(
        &'a self,
        maps: &'a Shortcuts,
        casts: &'a [Cast],
        samples: &'a [Sample],
        states: &'a StateFiles,
    ) -> Result<Subject<'a>> {
        let (model, head) = self.evaluable()?;
        Ok(Subject { model, head, precision: self.manifest.dtype, samples, states, shortcuts: maps, casts })
    }

    fn finish_evaluation(
        &mut self,
        so_far: SoFar,
        kind: Kind,
        maps: &Shortcuts,
        samples: Option<&[Sample]>,
        started: Instant,
        shortcuts: Option<&Path>,
        observer: &dyn Observer,
    ) -> Result<()> {
        let SoFar { evaluation, places, .. } = so_far;
        evaluation.note_missing(observer);
        let results = self.replace(Stage::Evaluate)?;
        write_tables(&results, &evaluation, &places, kind, self.manifest.seed)?;
        write_predictions(&results.join("predictions.parquet"), &evaluation)?;
        if let Some(samples) = samples {
            self.write_texts(samples, maps, &evaluation, observer)?;
        }
        self.write_summary(Some(Stage::Evaluate))?;
        self.finish_measured(Stage::Evaluate, started, shortcuts, observer)?;
        self.forget_pieces()
    }

    /// Removes what an evaluation was kept in while it went on.
    pub(super) fn forget_pieces(&self) -> Result<()> {
        remove(&self.pieces())
    }

    /// The casts that are measured, `id` first and those that run blocks last, and their maps: all that there are, those that the
    /// run was begun for, or those that were chosen since.
    pub(super) fn measured_casts(
        &self,
        elsewhere: Option<&Path>,
        observer: &dyn Observer,
    ) -> Result<(Shortcuts, Vec<Cast>)> {
        let (maps, mut casts) = self.measurable_casts(elsewhere, observer)?;
        let fits = &self.manifest.fits;
        match &self.only {
            Some(only) => {
                self.check_measured(only, &casts, elsewhere)?;
                casts.retain(|cast| only.contains(cast));
            }
            None => {
                if !maps.has_parts() && (elsewhere.is_some() || !fits.blocks().is_empty()) {
                    observer.note("there are no maps of parts: the casts that run blocks are left out");
                }
                casts.retain(|cast| *cast != Cast::Id || elsewhere.is_some() || fits.wants(cast));
            }
        }
        Ok((maps, casts))
    }

    /// The casts that there are maps for, `id` first and those that run blocks last.
    fn measurable_casts(
        &self,
        elsewhere: Option<&Path>,
        observer: &dyn Observer,
    ) -> Result<(Shortcuts, Vec<Cast>)> {
        let (maps, mut casts) = self.map_casts(elsewhere, observer)?;
        casts.insert(0, Cast::Id);
        if maps.has_parts() {
            let own = self.manifest.fits.blocks();
            let blocks = BlockCast::ALL.into_iter().filter(|cast| elsewhere.is_some() || own.contains(cast));
            casts.extend(blocks.map(Cast::Blocks));
        }
        Ok((maps, casts))
    }

    /// [`Refusal::NoMapsOf`] for the first of `casts` that is not `there`.
    fn check_measured(&self, casts: &[Cast], there: &[Cast], elsewhere: Option<&Path>) -> Result<()> {
        let Some(cast) = casts.iter().find(|cast| !there.contains(cast)) else { return Ok(()) };
        let path = elsewhere.unwrap_or(&self.folder).to_owned();
        Err(Refusal::NoMapsOf { path, cast: cast.clone(), there: there.to_vec() }.into())
    }
}

/// Evaluates `range` of the samples of `subject`, the first of which is number `offset` of the experiment `manifest`. What is done
/// is kept in the folder `pieces`.
fn evaluate_range(
    subject: &Subject,
    manifest: &Manifest,
    range: Range<usize>,
    offset: usize,
    pieces: &Path,
    observer: &dyn Observer,
) -> Result<SoFar> {
    let kind = subject.model.spec().kind;
    let record = PartRecord::new(manifest, subject)?;
    let mut so_far = go_on(SoFar::new(record, offset + range.start), pieces, offset + range.end)?;
    let left = so_far.next() - offset..range.end;
    if left.start > range.start {
        let done = left.start - range.start;
        observer.note(&format!("{done} of {} samples are evaluated already", range.len()));
    }
    let (total, unit) = match subject.runs_blocks() {
        true => (tokens(&batches(&subject.samples[left.clone()], kind)), "tokens"),
        false => (left.len(), "samples"),
    };
    observer.begin(Stage::Evaluate.name(), total as u64, unit);
    create_folder(pieces)?;
    let mut keep = |piece: Evaluation| {
        let first = so_far.next() - offset;
        let places = Places::of(&subject.samples[first..first + piece.samples()], kind);
        let path = pieces.join(piece_name(so_far.next()));
        so_far.append_written(&path, piece, places)?;
        sync(&[path])
    };
    evaluate_pieces(subject, left, &mut keep, observer)?;
    Ok(so_far)
}

/// The same as one file `out`, next to which it is kept while it goes on.
pub(super) fn write_share(
    subject: &Subject,
    manifest: &Manifest,
    range: Range<usize>,
    offset: usize,
    out: &Path,
    observer: &dyn Observer,
) -> Result<()> {
    let mut pieces = out.as_os_str().to_owned();
    pieces.push(".unfinished");
    let pieces = PathBuf::from(pieces);
    let so_far = evaluate_range(subject, manifest, range, offset, &pieces, observer)?;
    so_far.write(out)?;
    sync(&[out.to_owned()])?;
    remove(&pieces)?;
    observer.end();
    Ok(())
}

fn piece_name(first: usize) -> String {
    format!("{first:012}.safetensors")
}

/// Puts the pieces in `folder` behind one another, as far as they are of this evaluation, whole, and end with sample `end`; removes
/// all others.
fn go_on(mut so_far: SoFar, folder: &Path, end: usize) -> Result<SoFar> {
    loop {
        let path = folder.join(piece_name(so_far.next()));
        let part = match Part::open(&path) {
            Ok(part) if part.record.range().end <= end => part,
            _ => break,
        };
        if so_far.add(part).is_err() {
            break;
        }
    }
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(so_far) };
    for entry in entries {
        let path = entry.map_err(Error::io("read", folder))?.path();
        let first = path.file_stem().and_then(|stem| stem.to_str()?.parse::<usize>().ok());
        if first.is_none_or(|first| first < so_far.record.first || first >= so_far.next()) {
            std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
    }
    Ok(so_far)
}

fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Ok(()) => sync_names(&[folder.to_owned()]),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("remove", folder)(error)),
    }
}
