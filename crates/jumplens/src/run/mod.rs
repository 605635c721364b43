//! A run folder and its stages. Each stage reads what the ones before it left on disk; [`Run::all`] is nothing but all
//! of them in order.

mod evaluation;
mod figures;
mod import;
mod maps;
mod memory;
mod records;
mod settings;
mod stages;
mod worker;

pub use crate::samples::SampleSource;
pub use figures::draw;
pub use import::Import;
pub use memory::{MemoryUse, ShareUse, memory_bytes, share_memory_bytes};
pub use settings::{Asked, Settings};
pub use worker::{Worker, is_whole, measured_from_sums, samples_of_shares, sums_bytes, tokens_of_samples};

use crate::eval::tables::{CurveRow, R2Row, SourceRow, Tables, read_csv};
use crate::eval::{Summary, mean_run};
use crate::files::{absolute, create_folder};
use crate::hub::{ModelFiles, Sources, TokenizerFiles};
use crate::manifest::{Difference, Manifest, ModelRecord, StageRecord};
use crate::models::{Kind, Sizes, Spec, Transformer, load};
use crate::nn::{Isa, Precision};
use crate::progress::Observer;
use crate::results::current_tables;
use crate::shortcut::Shortcuts;
use crate::store::lock::Lock;
use crate::store::{FolderKind, Found, Stage, damaged, integrity, look, note_replaced};
use crate::tokenize::{Sample, Tokenizer, write_samples};
use crate::words::{Cast, EVALUATING, MOMENTS, Note, REPORT, RESULTS, samples_file};
use crate::{Error, Lacking, Result};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What to do with an output folder that holds a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Leave it alone: [`Error::Occupied`].
    Refuse,
    /// Go on with it where it is the same experiment; [`Error::Differs`] where it is another.
    Resume,
    /// Replace it, once it is certain that the new one can begin.
    Overwrite,
}

/// A run folder with its model loaded, where it takes one.
pub struct Run {
    /// Held for as long as this is.
    /// `None` where nothing is to be written.
    _lock: Option<Lock>,
    folder: PathBuf,
    manifest: Manifest,
    sizes: Sizes,
    /// `None` for imported states: where they came without one, or where what the run was opened for takes none.
    model: Option<Transformer>,
    tokenizer: Option<TokenizerFiles>,
    /// Stages whose files are known to be as they were left: looked at, or written, by this process.
    intact: RefCell<BTreeSet<Stage>>,
    /// Apply maps that were fitted on another model.
    force: bool,
    /// The casts that are measured, where they were chosen.
    only: Option<Vec<Cast>>,
    /// Maps of further casts, which are measured with the run's own.
    others: Vec<Shortcuts>,
}

impl Run {
    /// Begins a run, which is its stage `samples`, or goes on with one. Nothing is written before the model is loaded
    /// and the samples are there, so that a mistake costs no earlier result.
    ///
    /// # Errors
    /// [`Error::Occupied`], [`Error::OtherKind`], [`Error::NotARun`] and [`Error::DamagedManifest`] where the folder holds what
    /// is not to be replaced; [`Error::Differs`] and [`Error::Changed`] where a run is another experiment.
    pub fn begin(
        folder: &Path,
        settings: &Settings,
        existing: Existing,
        sources: &Sources,
        observer: &dyn Observer,
    ) -> Result<Self> {
        if existing == Existing::Resume {
            return Self::resume(folder, &settings.into(), settings, sources, observer);
        }
        let lock = may_begin(folder, existing == Existing::Overwrite, observer)?;
        Self::begin_anew(lock, folder, settings, sources, observer)
    }

    /// Goes on with the run in `folder`, with what it began with for whatever is not `asked`; begins one where there is none,
    /// with what is `usual`. Neither the corpus nor samples files need be there any more where their samples are.
    ///
    /// # Errors
    /// As [`Run::begin`].
    pub fn resume(
        folder: &Path,
        asked: &Asked,
        usual: &Settings,
        sources: &Sources,
        observer: &dyn Observer,
    ) -> Result<Self> {
        let lock = Lock::of_run(folder)?;
        match look(folder)? {
            Found::Nothing => {
                if *asked == Asked::default() {
                    observer.warning(&format!(
                        "there is no run in `{}` to go on with: one begins with the usual model `{}`",
                        folder.display(),
                        usual.model
                    ));
                }
                Self::begin_anew(lock, folder, &asked.over(usual), sources, observer)
            }
            Found::Run(manifest) if manifest.kind == FolderKind::Run => {
                if !manifest.is_done(Stage::Samples) && manifest.samples.imported().is_some() {
                    return Err(Error::Imported { path: folder.to_owned() });
                }
                if !manifest.is_done(Stage::Samples) {
                    let settings = asked.over(&Settings::of(&manifest));
                    return Self::begin_anew(lock, folder, &settings, sources, observer);
                }
                asked.check(folder, &manifest, sources)?;
                let lock = Some(lock.map_or_else(|| Lock::take(folder), Ok)?);
                if manifest.samples.imported().is_some() {
                    return Self::open_with(lock, folder, *manifest, true, sources, observer);
                }
                let own = own_model(folder, &manifest)?;
                let name = asked.model.as_ref().map_or_else(|| own.name(), |name| own.pin(name));
                Self::go_on(lock, folder, *manifest, &name, sources, observer)
            }
            found => Err(not_a_run(folder, found)),
        }
    }

    /// The manifest of the run in `folder`, where everything but the figures is done, and all files are as they were left:
    /// there is nothing to load a model for.
    ///
    /// # Errors
    /// As [`Run::resume`], for what is `asked`.
    pub fn measured(
        folder: &Path,
        asked: &Asked,
        sources: &Sources,
        observer: &dyn Observer,
    ) -> Result<Option<Manifest>> {
        let Found::Run(manifest) = look(folder)? else { return Ok(None) };
        if !manifest.is_measured() {
            return Ok(None);
        }
        asked.check(folder, &manifest, sources)?;
        // What is pinned to a commit is not fetched for this.
        if let (Some(name), Some(own)) = (&asked.model, &manifest.model)
            && own.revision.is_none()
            && let Ok(files) = ModelFiles::find(&own.pin(name), sources, observer)
        {
            check_model(folder, own, &files)?;
        }
        if folder.join(RESULTS).join(EVALUATING).exists() {
            return Ok(None);
        }
        for record in manifest.stages.values() {
            if integrity::changed(folder, &record.files)?.is_some() {
                return Ok(None);
            }
        }
        Ok(Some(*manifest))
    }

    /// The sums of the run in `folder`, where they are there, and all files as they were left.
    ///
    /// # Errors
    /// As [`Run::resume`], for what is `asked`.
    pub fn finished_moments(folder: &Path, asked: &Asked, sources: &Sources) -> Result<Option<PathBuf>> {
        let Found::Run(manifest) = look(folder)? else { return Ok(None) };
        let Some(record) = manifest.stages.get(&Stage::Moments).filter(|record| record.done) else {
            return Ok(None);
        };
        asked.check(folder, &manifest, sources)?;
        let is_whole = integrity::changed(folder, &record.files)?.is_none();
        // Earlier versions recorded no digest.
        let path = folder.join(MOMENTS);
        Ok((is_whole && path.exists()).then_some(path))
    }

    fn go_on(
        lock: Option<Lock>,
        folder: &Path,
        mut manifest: Manifest,
        name: &str,
        sources: &Sources,
        observer: &dyn Observer,
    ) -> Result<Self> {
        let sources = &allowing(sources, &manifest);
        let files = ModelFiles::find(name, sources, observer)?;
        check_model(folder, own_model(folder, &manifest)?, &files)?;
        let model = load_model(&files, manifest.dtype, observer)?;
        manifest.unread.extend(files.allow_unread.used());
        take_up(&mut manifest, folder, observer);
        let damaged = match manifest.stages.get(&Stage::Samples) {
            Some(record) => integrity::changed(folder, &record.files)?,
            None => None,
        };
        if let Some(path) = damaged {
            observer.note(&format!("`{}` was changed or removed since: it is written again", path.display()));
            let settings = Settings::of(&manifest);
            let (again, samples) = make(&settings, &files, &model, sources, observer)?;
            if let Some(Difference { what, here, there }) = again.difference(&manifest) {
                return Err(Error::Differs {
                    path: folder.to_owned(),
                    what,
                    run: there.into(),
                    here: here.into(),
                });
            }
            write_both(folder, &samples)?;
        }
        Ok(Self::of_model(lock, folder, manifest, model, files.tokenizer))
    }

    fn begin_anew(
        lock: Option<Lock>,
        folder: &Path,
        settings: &Settings,
        sources: &Sources,
        observer: &dyn Observer,
    ) -> Result<Self> {
        let files = ModelFiles::find(&settings.model, sources, observer)?;
        let model = load_model(&files, settings.dtype, observer)?;
        let started = Instant::now();
        let (mut manifest, samples) = make(settings, &files, &model, sources, observer)?;
        let lock = make_room(lock, folder, &manifest)?;
        create_folder(&folder.join(Stage::Samples.place()))?;
        write_both(folder, &samples)?;
        let record = StageRecord {
            done: true,
            seconds: started.elapsed().as_secs_f64(),
            files: integrity::digests(folder, |path| Stage::Samples.writes(path))?,
            ..StageRecord::default()
        };
        manifest.stages.insert(Stage::Samples, record);
        manifest.write(folder)?;
        Ok(Self::of_model(Some(lock), folder, manifest, model, files.tokenizer))
    }

    /// Opens a run to do one of its stages again, or the next one. [`Error::Changed`] where the model is no longer the
    /// one the run began with.
    pub fn open(folder: &Path, sources: &Sources, observer: &dyn Observer) -> Result<Self> {
        let lock = Lock::of_run(folder)?;
        Self::open_with(lock, folder, begun(folder)?, true, sources, observer)
    }

    /// Opens a run to do its stage `stage`, and nothing else: with the maps in `elsewhere`, where that is given.
    ///
    /// # Errors
    /// [`Error::StageDone`] where it is done, and `again` does not allow it to be done again; [`Error::StageMissing`] where
    /// another has to come first; [`Error::OtherKind`] where the folder has no states; as [`Run::open`].
    pub fn open_for(
        folder: &Path,
        stage: Stage,
        elsewhere: Option<&Path>,
        again: bool,
        sources: &Sources,
        observer: &dyn Observer,
    ) -> Result<Self> {
        let lock = Lock::of_run(folder)?;
        let manifest = begun(folder)?;
        if let Some(record) = manifest.stages.get(&stage).filter(|record| record.done && !again) {
            return Err(match integrity::changed(folder, &record.files)? {
                Some(path) => manifest.changed_file(path, stage),
                None => Error::StageDone { path: folder.to_owned(), kind: manifest.kind, stage },
            });
        }
        if manifest.kind != FolderKind::Run {
            let wanted = "the states of a run".to_owned();
            return Err(Error::OtherKind { path: folder.to_owned(), kind: manifest.kind, wanted });
        }
        let needs = if elsewhere.is_some() { &[Stage::States][..] } else { stage.needs() };
        let needed: Vec<Stage> = needs.iter().flat_map(|need| need.with_needs()).collect();
        if let Some(missing) = needed.into_iter().find(|stage| !manifest.is_done(*stage)) {
            return Err(Error::StageMissing {
                path: folder.to_owned(),
                stage: missing,
                needed_by: stage.name(),
            });
        }
        // Maps of imported states are fitted and measured without the model.
        let needs_model = manifest.samples.imported().is_none() || stage == Stage::Evaluate;
        Self::open_with(lock, folder, manifest, needs_model, sources, observer)
    }

    /// Opens a run, or what was fitted from sums, for [`Run::merge_evaluation`]. [`Error::StageDone`] where it is evaluated, and
    /// `again` does not allow that to be done again; as [`Run::open`].
    pub fn open_to_merge(
        folder: &Path,
        again: bool,
        sources: &Sources,
        observer: &dyn Observer,
    ) -> Result<Self> {
        let run = Self::open(folder, sources, observer)?;
        match run.manifest.is_done(Stage::Evaluate) && !again {
            true => {
                let (path, kind, stage) = (folder.to_owned(), run.manifest.kind, Stage::Evaluate);
                Err(Error::StageDone { path, kind, stage })
            }
            false => Ok(run),
        }
    }

    /// As [`Run::open`], for what writes nothing into the folder: any number of processes may, beside one that works on it.
    /// What is fitted from sums is opened too.
    pub fn open_to_read(folder: &Path, sources: &Sources, observer: &dyn Observer) -> Result<Self> {
        Self::open_with(None, folder, begun(folder)?, true, sources, observer)
    }

    fn open_with(
        lock: Option<Lock>,
        folder: &Path,
        mut manifest: Manifest,
        needs_model: bool,
        sources: &Sources,
        observer: &dyn Observer,
    ) -> Result<Self> {
        let own = match manifest.samples.imported() {
            Some(from) if manifest.model.is_none() || !needs_model => {
                let sizes = from.sizes();
                take_up(&mut manifest, folder, observer);
                return Ok(Self::new(lock, folder, manifest, sizes, None, None));
            }
            _ => own_model(folder, &manifest)?,
        };
        let files = ModelFiles::find(&own.name(), &allowing(sources, &manifest), observer)?;
        check_model(folder, own, &files)?;
        take_up(&mut manifest, folder, observer);
        let model = load_model(&files, manifest.dtype, observer)?;
        Ok(Self::of_model(lock, folder, manifest, model, files.tokenizer))
    }

    fn of_model(
        lock: Option<Lock>,
        folder: &Path,
        mut manifest: Manifest,
        model: Transformer,
        tokenizer: Option<TokenizerFiles>,
    ) -> Self {
        // Of imported states it says more than of their model.
        manifest.headless |= model.head().is_none();
        let sizes = model.spec().sizes();
        Self::new(lock, folder, manifest, sizes, Some(model), tokenizer)
    }

    fn new(
        lock: Option<Lock>,
        folder: &Path,
        manifest: Manifest,
        sizes: Sizes,
        model: Option<Transformer>,
        tokenizer: Option<TokenizerFiles>,
    ) -> Self {
        let (folder, intact) = (folder.to_owned(), RefCell::default());
        let (only, others) = (None, Vec::new());
        Self { _lock: lock, folder, manifest, sizes, model, tokenizer, intact, force: false, only, others }
    }

    /// The run's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the run was made from, and how far it is.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The run's model and lock, let out of the run. [`Error::NoHead`] where the model makes no predictions.
    pub(crate) fn into_model(self) -> Result<(Transformer, Option<Lock>)> {
        if self.model("the lens")?.head().is_none() {
            return Err(self.no_head());
        }
        let model = self.model.ok_or_else(|| Error::Internal("a model was there, and is not".into()))?;
        Ok((model, self._lock))
    }

    /// Sizes and structure of the run's model, where it is loaded: imported states have none, or go without it.
    pub fn spec(&self) -> Option<&Spec> {
        self.model.as_ref().map(Transformer::spec)
    }

    /// Layers and width.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// The model. [`Error::ImportLacks`] where there is none.
    fn model(&self, needed_by: &'static str) -> Result<&Transformer> {
        self.model.as_ref().ok_or_else(|| self.lacks(Lacking::Model, needed_by))
    }

    fn lacks(&self, lacking: Lacking, needed_by: &'static str) -> Error {
        Error::ImportLacks { path: self.folder.clone(), lacking, needed_by }
    }

    fn family(&self) -> &str {
        self.spec().map_or("imported", |spec| spec.family)
    }

    /// N of this run's exit rule ([`mean_run`]); `None` for what has no samples: maps that are fitted from sums, and imported
    /// states that came without them.
    pub fn mean_run(&self) -> Result<Option<f64>> {
        match self.manifest.kind {
            FolderKind::Run => {
                self.needs(Stage::Samples, Stage::Evaluate)?;
                let samples = self.known_samples("val")?;
                Ok(samples.map(|samples| mean_run(samples.iter().map(|sample| sample.position))))
            }
            _ => Ok(None),
        }
    }

    /// The model's tokenizer; [`Error::Io`] where it has none.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let spec = self.model("the lens")?.spec();
        Tokenizer::of_model(self.tokenizer.as_ref(), &self.model_id(), spec, false)
    }

    /// The headline figures of the stages that are done.
    pub fn summary(&self) -> Result<Summary> {
        self.summary_with(None)
    }

    /// The same with the tables of a stage that is about to be done.
    fn summary_with(&self, stage: Option<Stage>) -> Result<Summary> {
        let is_current = |of: Stage| stage == Some(of) || self.manifest.is_done(of);
        let Tables { r2, layers, early_exit, .. } = current_tables(&self.folder, is_current)?;
        let [train, val] = self.manifest.counts();
        Ok(Summary::new(self.family(), self.sizes, train, val, &r2, &layers, &early_exit))
    }

    /// What stands in the way of the maps, from `sources.csv` and `learning_curve.csv`; empty before `r2`.
    pub fn diagnostics(&self) -> Result<(Vec<SourceRow>, Vec<CurveRow>)> {
        diagnostics(&self.folder, &self.manifest)
    }

    fn no_head(&self) -> Error {
        Error::NoHead { model: self.model_id() }
    }

    fn model_id(&self) -> String {
        self.manifest.model.as_ref().map_or_else(String::new, |model| model.id.clone())
    }
}

/// Sees that a new run can take the place of what is in `folder`: nothing, a run that got nowhere, or with `overwrite` one that
/// is there. A run that is there is nobody else's from the start; one that is not there yet, from when it is made.
fn may_begin(folder: &Path, overwrite: bool, observer: &dyn Observer) -> Result<Option<Lock>> {
    let lock = Lock::of_run(folder)?;
    match look(folder)? {
        // A run that got nowhere holds nothing worth keeping.
        Found::Run(manifest) if !overwrite && manifest.is_done(Stage::Samples) => {
            Err(occupied(folder, &manifest))
        }
        Found::Run(manifest) if manifest.kind == FolderKind::Run => Ok(lock),
        Found::Nothing => Ok(lock),
        Found::Damaged { message, ours: true } if overwrite => {
            note_replaced(folder, &message, observer);
            Ok(lock)
        }
        found => Err(not_a_run(folder, found)),
    }
}

/// Makes the folder of a new run, whose manifest it gets, and removes what an earlier one left. [`Error::Occupied`] where another
/// process was faster.
fn make_room(lock: Option<Lock>, folder: &Path, manifest: &Manifest) -> Result<Lock> {
    create_folder(folder)?;
    let lock = match lock {
        Some(lock) => lock,
        None => {
            let lock = Lock::take(folder)?;
            // Another process may have made the folder, and ended, since.
            if let Some(manifest) = Manifest::read(folder)? {
                return Err(occupied(folder, &manifest));
            }
            lock
        }
    };
    manifest.write(folder)?;
    remove_stale(folder, &Stage::ALL.map(Stage::place))?;
    remove_stale(folder, &[REPORT])?;
    Ok(lock)
}

/// The model that a run was made from. [`Error::DamagedManifest`] where its manifest has none.
fn own_model<'a>(folder: &Path, manifest: &'a Manifest) -> Result<&'a ModelRecord> {
    manifest.model.as_ref().ok_or_else(|| damaged(folder, "it has no `model`".to_owned(), true))
}

/// r² of the maps in the run folder `path`, or of those fitted from sums there; `None` where it is not known, or is of maps from
/// elsewhere. [`Error::ChangedFile`] where the table is not as it was left.
pub fn own_r2(path: &Path) -> Result<Option<Vec<R2Row>>> {
    if !path.is_dir() {
        return Ok(None);
    }
    let Found::Run(manifest) = look(path)? else { return Ok(None) };
    let own = |record: &&StageRecord| record.done && record.shortcuts.is_none();
    if manifest.stages.get(&Stage::R2).filter(own).is_none() {
        return Ok(None);
    }
    manifest.check(path, Stage::R2, "reading its r²")?;
    read_csv(&path.join(RESULTS).join("r2.csv")).map(Some)
}

/// What stands in the way of the maps of the run in `folder`; empty where `r2` is not done.
pub fn diagnostics(folder: &Path, manifest: &Manifest) -> Result<(Vec<SourceRow>, Vec<CurveRow>)> {
    if !manifest.is_done(Stage::R2) {
        return Ok(Default::default());
    }
    let results = folder.join(RESULTS);
    Ok((table(results.join("sources.csv"))?, table(results.join("learning_curve.csv"))?))
}

/// The rows of a result table; none where it is not there.
fn table<T: serde::de::DeserializeOwned>(path: PathBuf) -> Result<Vec<T>> {
    if path.exists() { read_csv(&path) } else { Ok(Vec::new()) }
}

fn samples_path(folder: &Path, split: &str) -> PathBuf {
    folder.join(samples_file(split))
}

/// The manifest of what has begun in `folder`.
fn begun(folder: &Path) -> Result<Manifest> {
    let missing = || Error::StageMissing {
        path: folder.to_owned(),
        stage: Stage::Samples,
        needed_by: "every other stage",
    };
    match look(folder)? {
        Found::Run(manifest) if manifest.kind == FolderKind::Fitted && !manifest.is_done(Stage::R2) => {
            Err(Error::Unfinished { path: folder.to_owned(), kind: FolderKind::Fitted })
        }
        Found::Run(manifest) if manifest.kind == FolderKind::Fitted || manifest.is_done(Stage::Samples) => {
            Ok(*manifest)
        }
        Found::Nothing if !folder.exists() => Err(Error::NoFolder { path: folder.to_owned() }),
        Found::Run(_) | Found::Nothing => Err(missing()),
        found => Err(not_a_run(folder, found)),
    }
}

fn occupied(folder: &Path, manifest: &Manifest) -> Error {
    Error::Occupied { path: folder.to_owned(), kind: manifest.kind, what: manifest.describe() }
}

/// Why a folder can be no run's.
fn not_a_run(folder: &Path, found: Found) -> Error {
    let other = |kind: FolderKind| Error::OtherKind {
        path: folder.to_owned(),
        kind,
        wanted: FolderKind::Run.to_string(),
    };
    match found {
        Found::Run(manifest) => other(manifest.kind),
        Found::Made(record) => other(record.kind),
        Found::Damaged { message, ours } => damaged(folder, message, ours),
        Found::Nothing | Found::Others => Error::NotARun { path: folder.to_owned() },
    }
}

/// [`Error::Changed`] and [`Error::Differs`] where the files are not those of the run's `own` model.
fn check_model(folder: &Path, own: &ModelRecord, files: &ModelFiles) -> Result<()> {
    let found = record_model(files);
    if found == *own {
        return Ok(());
    }
    if found.id == own.id && found.revision == own.revision {
        let what = format!("the model `{}`", own.id);
        return Err(Error::Changed { path: folder.to_owned(), what });
    }
    let Difference { what, here, there } = found.difference(own);
    Err(Error::Differs { path: folder.to_owned(), what, run: there.into(), here: here.into() })
}

/// Removes the files and folders of those names.
pub(crate) fn remove_stale(folder: &Path, names: &[&str]) -> Result<()> {
    for name in names {
        let stale = folder.join(name);
        let removed = match std::fs::symlink_metadata(&stale) {
            Ok(found) if found.is_dir() => std::fs::remove_dir_all(&stale),
            Ok(_) => std::fs::remove_file(&stale),
            Err(_) => Ok(()),
        };
        removed.map_err(Error::io("remove", &stale))?;
    }
    Ok(())
}

/// `sources`, with leave for what a run has left unread before.
fn allowing(sources: &Sources, manifest: &Manifest) -> Sources {
    let mut sources = sources.clone();
    sources.allow_unread.extend(manifest.unread.iter().cloned());
    sources
}

/// The samples of both splits that `settings` ask for, and the manifest of a run that begins with them.
fn make(
    settings: &Settings,
    files: &ModelFiles,
    model: &Transformer,
    sources: &Sources,
    observer: &dyn Observer,
) -> Result<(Manifest, [Vec<Sample>; 2])> {
    crate::lenses::chosen(&settings.fits)?;
    crate::lenses::check_ranks(&settings.fits, model.spec().d_model)?;
    let made =
        crate::samples::make(&settings.samples, settings.seed, files, model.spec(), sources, observer)?;
    let mut samples = [made.train, made.val];
    let [n_train, n_val] = [samples[0].len(), samples[1].len()];
    if let Some(shard) = settings.shard {
        let shares = [shard.of_train(n_train), shard.of_val(n_val)];
        let splits = samples.iter_mut().zip(["training", "validation"]);
        for ((samples, what), share) in splits.zip(shares) {
            if share.is_empty() {
                let n = samples.len();
                return Err(Error::Option(format!(
                    "share {shard} of {n} {what} samples is empty: give fewer shares, or more samples"
                )));
            }
            *samples = samples.drain(share).collect();
        }
    }
    let mask = match &settings.samples {
        SampleSource::Corpus { mask, .. } if model.spec().kind == Kind::Masked => Some(*mask),
        _ => None,
    };
    let mut manifest = Manifest::new(
        Some(record_model(files)),
        made.record,
        settings.seed,
        mask,
        n_train,
        n_val,
        settings.fits.clone(),
        settings.dtype,
    );
    manifest.shard = settings.shard;
    manifest.headless = model.head().is_none();
    manifest.unread = files.allow_unread.used();
    Ok((manifest, samples))
}

fn write_both(folder: &Path, [train, val]: &[Vec<Sample>; 2]) -> Result<()> {
    write_samples(&samples_path(folder, "train"), train)?;
    write_samples(&samples_path(folder, "val"), val)
}

/// Records what this process computes with, and says where that changes the last digits.
fn take_up(manifest: &mut Manifest, folder: &Path, observer: &dyn Observer) {
    manifest.threads = rayon::current_num_threads();
    let isa = Isa::current();
    if let Some(before) = manifest.isa.iter().find(|before| **before != isa) {
        let folder = folder.display();
        observer.note(&format!(
            "`{folder}` was computed with `{before}` instructions so far, and goes on with `{isa}`: last digits may differ"
        ));
    }
    manifest.isa.insert(isa);
}

fn load_model(files: &ModelFiles, precision: Precision, observer: &dyn Observer) -> Result<Transformer> {
    if !precision.is_native() {
        observer.advise(&Note::NoBf16Products);
    }
    let loaded = load(files, precision)?;
    loaded.notes.iter().for_each(|note| observer.note(&format!("`{}`: {note}", files.id)));
    Ok(loaded.model)
}

/// What is recorded of a model.
pub fn record_model(files: &ModelFiles) -> ModelRecord {
    ModelRecord {
        id: if files.is_bundled() || files.revision.is_some() {
            files.id.clone()
        } else {
            absolute(&files.id)
        },
        revision: files.revision.clone(),
        config_sha256: files.config.sha256(),
        weights_sha256: files.weights_sha256(),
        tokenizer_sha256: files.tokenizer.as_ref().map(|file| file.sha256()),
    }
}
