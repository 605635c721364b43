//! A run folder and its stages. Each stage reads what the ones before it left on disk; [`Run::all`] is nothing but all
//! of them in order.

use crate::corpus::Corpus;
use crate::error::{Error, Result};
use crate::eval::tables::{CurveRow, ExitLayerRow, ExitRow, SourceRow, Tables, read_csv, write_csv};
use crate::eval::{
    ExitRule, Summary, advise, diagnose, early_exit, evaluate, exit_layers, layer_rows, r2_table, rank_rows,
    spectra, write_predictions,
};
use crate::files::{create_folder, sha256, write_atomically};
use crate::hub::{Bundled, ModelFiles, Sources};
use crate::integrity;
use crate::lock::Lock;
use crate::manifest::{Manifest, ModelRecord, STAGES, SamplesRecord, SourceRecord, StageRecord};
use crate::models::{Backbone, Kind, Spec, load};
use crate::moments::{self, Shard};
use crate::nn::Precision;
use crate::plot::{Style, figures, write_figures};
use crate::progress::Observer;
use crate::report;
use crate::shortcut::{Fits, MAT, MapCast, Shortcuts, fit_pairs, fit_parts};
use crate::states::StateFiles;
use crate::tokenize::{Sample, Tokenizer, read_samples, write_samples};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Bytes of memory that a run in f32 takes at most, state files that are mapped and samples left out: in `evaluate`, which
/// holds the weights, the unembedding a second time as products read it, the maps to the last layer and those of
/// attention and feed-forward parts, and the first products of both with the maps of the norms folded in (no more than
/// the blocks' own weights). Batches come on top, some 100 MB a thread at GPT-2's width.
pub fn memory_bytes(spec: &Spec, parameters: u64) -> u64 {
    let (d, layers) = (spec.d_model as u64, spec.n_layers as u64);
    let unembedding = spec.vocab_size as u64 * d;
    let blocks = parameters.saturating_sub(unembedding);
    4 * (parameters + unembedding + 3 * layers * d * d + blocks)
}

/// Where the samples come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SampleSource {
    /// The first `train` sentences of a corpus, and the `val` ones after them, with one random position each.
    Corpus {
        /// Bundled name or path.
        name: String,
        /// Training sentences.
        train: usize,
        /// Validation sentences.
        val: usize,
        /// For masked models: put `[MASK]` in the place of the token at the chosen position. Causal models have no use
        /// for `false`, and refuse it.
        mask: bool,
    },
    /// Samples files, as [`read_samples`] reads them.
    Files {
        /// The training samples.
        train: PathBuf,
        /// The validation samples.
        val: PathBuf,
    },
}

/// What a run is to be made from.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Bundled name, folder, or name on the Hub, as [`ModelFiles::find`] takes it.
    pub model: String,
    /// Where the samples come from.
    pub samples: SampleSource,
    /// The seed of everything random.
    pub seed: u64,
    /// Which maps between layers are fitted.
    pub fits: Fits,
    /// What products are done in.
    pub dtype: Precision,
    /// The share of the samples that is kept, where it is not all of them.
    pub shard: Option<Shard>,
}

/// What to do with an output folder that holds a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Leave it alone: [`Error::Occupied`].
    Refuse,
    /// Go on with it where it is the same experiment; [`Error::Changed`] where it is another.
    Resume,
    /// Replace it, once it is certain that the new one can begin.
    Overwrite,
}

/// The page that shows a run, in its folder.
const REPORT: &str = "report.html";

/// A run folder with its model loaded.
pub struct Run {
    /// Held for as long as this is.
    _lock: Lock,
    folder: PathBuf,
    manifest: Manifest,
    model: Box<dyn Backbone>,
    /// Stages whose files are known to be as they were left: looked at, or written, by this process.
    intact: RefCell<BTreeSet<&'static str>>,
}

impl Run {
    /// Begins a run, which is its stage `samples`, or goes on with one. Nothing is written before the model is loaded
    /// and the samples are there, so that a mistake costs no earlier result.
    pub fn begin(
        folder: &Path,
        settings: &Settings,
        existing: Existing,
        sources: &Sources,
        observer: &dyn Observer,
    ) -> Result<Self> {
        // A run that is there is nobody else's from the start; one that is not there yet, from when it is made.
        let lock = Manifest::path(folder).exists().then(|| Lock::take(folder)).transpose()?;
        let earlier = Manifest::read(folder)?;
        match &earlier {
            // A run that got nowhere holds nothing worth keeping.
            Some(manifest) if existing == Existing::Refuse && manifest.is_done("samples") => {
                return Err(Error::Occupied { path: folder.to_owned(), what: manifest.describe() });
            }
            None if !is_empty(folder)? => return Err(Error::NotARun { path: folder.to_owned() }),
            _ => {}
        }
        let name = match &earlier {
            Some(earlier) if existing == Existing::Resume => earlier.model.pin(&settings.model),
            _ => settings.model.clone(),
        };
        let files = ModelFiles::find(&name, sources, observer)?;
        let model = load_model(&files, settings.dtype, observer)?;
        let started = Instant::now();
        let (mut train, mut val, source) =
            draw_samples(settings, &files, model.spec(), &sources.bundled, observer)?;
        let model_record = record_model(&files);
        let mask = match &settings.samples {
            SampleSource::Corpus { mask, .. } if model.spec().kind == Kind::Masked => Some(*mask),
            _ => None,
        };
        let (n_train, n_val) = (train.len(), val.len());
        let mut manifest = Manifest::new(
            model_record,
            source,
            settings.seed,
            mask,
            n_train,
            n_val,
            settings.fits.clone(),
            settings.dtype,
        );
        if let Some(shard) = settings.shard {
            for (samples, what) in [(&mut train, "training"), (&mut val, "validation")] {
                let share = shard.share(samples.len());
                if share.is_empty() {
                    let n = samples.len();
                    return Err(Error::Option(format!(
                        "share {shard} of {n} {what} samples is empty: give fewer shares, or more samples"
                    )));
                }
                *samples = samples.drain(share).collect();
            }
            manifest.shard = Some(shard);
        }
        if let Some(mut earlier) = earlier.filter(|m| existing == Existing::Resume && m.is_done("samples")) {
            if let Some(what) = manifest.difference(&earlier) {
                return Err(Error::Changed { path: folder.to_owned(), what });
            }
            let digests =
                earlier.stages.get("samples").map(|record| record.files.clone()).unwrap_or_default();
            if let Some(path) = integrity::changed(folder, &digests)? {
                observer
                    .note(&format!("`{}` was changed or removed since: it is written again", path.display()));
                write_samples(&samples_path(folder, "train"), &train)?;
                write_samples(&samples_path(folder, "val"), &val)?;
            }
            earlier.threads = rayon::current_num_threads();
            let lock = lock.map_or_else(|| Lock::take(folder), Ok)?;
            return Ok(Self {
                _lock: lock,
                folder: folder.to_owned(),
                manifest: earlier,
                model,
                intact: RefCell::default(),
            });
        }
        create_folder(folder)?;
        let lock = match lock {
            Some(lock) => lock,
            None => {
                let lock = Lock::take(folder)?;
                // Another process may have made the folder, and ended, since.
                if let Some(manifest) = Manifest::read(folder)? {
                    return Err(Error::Occupied { path: folder.to_owned(), what: manifest.describe() });
                }
                lock
            }
        };
        manifest.write(folder)?;
        for stale in ["samples", "states", "shortcuts", "results", "plots"] {
            let stale = folder.join(stale);
            if stale.exists() {
                std::fs::remove_dir_all(&stale).map_err(Error::io("remove", &stale))?;
            }
        }
        let stale = folder.join(REPORT);
        if stale.exists() {
            std::fs::remove_file(&stale).map_err(Error::io("remove", &stale))?;
        }
        create_folder(&folder.join("samples"))?;
        write_samples(&samples_path(folder, "train"), &train)?;
        write_samples(&samples_path(folder, "val"), &val)?;
        let record = StageRecord {
            done: true,
            seconds: started.elapsed().as_secs_f64(),
            files: integrity::digests(folder, "samples")?,
            ..StageRecord::default()
        };
        manifest.stages.insert("samples".to_owned(), record);
        manifest.write(folder)?;
        Ok(Self { _lock: lock, folder: folder.to_owned(), manifest, model, intact: RefCell::default() })
    }

    /// Opens a run to do one of its stages again, or the next one. [`Error::Changed`] where the model is no longer the
    /// one the run began with.
    pub fn open(folder: &Path, sources: &Sources, observer: &dyn Observer) -> Result<Self> {
        let missing = || Error::StageMissing {
            path: folder.to_owned(),
            stage: "samples",
            needed_by: "every other stage",
        };
        let lock =
            Manifest::path(folder).exists().then(|| Lock::take(folder)).transpose()?.ok_or_else(missing)?;
        let mut manifest = Manifest::read(folder)?.filter(|m| m.is_done("samples")).ok_or_else(missing)?;
        let files = ModelFiles::find(&manifest.model.name(), sources, observer)?;
        if record_model(&files) != manifest.model {
            let what = format!("the model `{}`", manifest.model.id);
            return Err(Error::Changed { path: folder.to_owned(), what });
        }
        manifest.threads = rayon::current_num_threads();
        let model = load_model(&files, manifest.dtype, observer)?;
        Ok(Self { _lock: lock, folder: folder.to_owned(), model, manifest, intact: RefCell::default() })
    }

    /// The run's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the run was made from, and how far it is.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Sizes and structure of the run's model.
    pub fn spec(&self) -> &Spec {
        self.model.spec()
    }

    /// Does every stage that is not done yet, or has lost a file since, and that the model has all it takes for.
    pub fn all(&mut self, observer: &dyn Observer) -> Result<()> {
        self.forget_changed(observer)?;
        for stage in &STAGES[1..] {
            if *stage == "evaluate" && self.model.head().is_none() {
                observer.note(&format!("evaluate  skipped: {}", self.no_head()));
            } else if !self.manifest.is_done(stage) {
                self.stage(stage, observer)?;
            }
        }
        Ok(())
    }

    /// Does the stage of that name, one of [`STAGES`] but `samples`, whether it is done already or not.
    pub fn stage(&mut self, stage: &'static str, observer: &dyn Observer) -> Result<()> {
        match stage {
            "states" => self.states(observer),
            "fit" => self.fit(self.manifest.fits.clone(), observer),
            "r2" => self.r2(None, observer),
            "evaluate" => self.evaluate(None, observer),
            "plot" => self.plot(observer),
            other => Err(Error::Internal(format!("no stage `{other}`"))),
        }
    }

    /// States of every layer at the chosen positions. Goes on from the last whole chunk where it was stopped.
    pub fn states(&mut self, observer: &dyn Observer) -> Result<()> {
        self.needs("samples", "states")?;
        let splits = [("train", self.read_samples("train")?), ("val", self.read_samples("val")?)];
        let chunks = match self.manifest.stages.get("states") {
            Some(record) if !record.done => record.chunks.clone(),
            _ => Default::default(),
        };
        self.manifest.forget_from("states");
        let record = StageRecord { chunks, ..StageRecord::default() };
        self.manifest.stages.insert("states".to_owned(), record.clone());
        self.manifest.write(&self.folder)?;
        let spec = self.model.spec();
        let tokens =
            |samples: &[Sample]| samples.iter().map(|s| s.ids_to_run(spec.kind).len()).sum::<usize>();
        let left = |split: &str, samples: &[Sample]| {
            let whole = record.chunks.get(split).copied().unwrap_or(0) * crate::states::CHUNK;
            tokens(&samples[whole.min(samples.len())..])
        };
        let total = splits.iter().map(|(split, samples)| left(split, samples)).sum::<usize>();
        observer.begin("states", total as u64, "tokens");
        let started = Instant::now();
        let mut run = 0;
        for (split, samples) in &splits {
            let first = record.chunks.get(*split).copied().unwrap_or(0);
            let files = StateFiles::new(&self.folder, split);
            // The parts' maps are fitted on the train samples alone.
            run += files.collect(&*self.model, samples, *split == "train", first, observer, |chunks| {
                if let Some(record) = self.manifest.stages.get_mut("states") {
                    record.chunks.insert((*split).to_owned(), chunks);
                }
                self.manifest.write(&self.folder)
            })?;
        }
        let seconds = started.elapsed().as_secs_f64();
        let tokens_per_second = (run > 0).then(|| run as f64 / seconds);
        self.finish(
            StageRecord { done: true, seconds, tokens_per_second, ..StageRecord::default() },
            "states",
            observer,
        )
    }

    /// The maps `fits` between layers, and those of every part of every block.
    pub fn fit(&mut self, fits: Fits, observer: &dyn Observer) -> Result<()> {
        self.needs("states", "fit")?;
        self.manifest.forget_from("fit");
        self.manifest.fits = fits.clone();
        self.manifest.write(&self.folder)?;
        let spec = self.model.spec();
        if self.manifest.train <= spec.d_model {
            observer.note(&format!(
                "{} training samples are no more than the {} coordinates of a state: the maps fit them exactly and say \
                 little about others",
                self.manifest.train, spec.d_model
            ));
        }
        let maps = fits.count(spec.n_layers) + spec.n_layers * spec.parts.len();
        observer.begin("fit", maps as u64, "maps");
        let started = Instant::now();
        let (states, shortcuts) = (StateFiles::new(&self.folder, "train"), self.shortcuts(None));
        shortcuts.forget_other_casts()?;
        fit_pairs(spec, &states, &fits, &shortcuts, observer)?;
        fit_parts(&*self.model, &states, &shortcuts, observer)?;
        self.finish_timed("fit", started, observer)
    }

    /// Second-moment sums of the states, as one file `moments.safetensors`; returns its path.
    pub fn moments(&mut self, observer: &dyn Observer) -> Result<PathBuf> {
        self.needs("states", "moments")?;
        let started = Instant::now();
        let path = self.folder.join("moments.safetensors");
        let files = |split| StateFiles::new(&self.folder, split);
        let shard = self.manifest.shard.unwrap_or(Shard::WHOLE);
        let (train, val) = (files("train"), files("val"));
        moments::collect(&self.manifest, self.model.spec(), shard, &train, &val, &path, observer)?;
        self.finish_timed("moments", started, observer)?;
        Ok(path)
    }

    /// `r2.csv`, for the maps of this run or those in another folder.
    pub fn r2(&mut self, shortcuts: Option<&Path>, observer: &dyn Observer) -> Result<()> {
        self.needs_maps("r2", shortcuts)?;
        let spec = self.model.spec();
        let (maps, casts) = self.map_casts(shortcuts)?;
        let pairs = self.manifest.fits.pairs.count(spec.n_layers);
        observer.begin("r2", (casts.len() * pairs + spec.n_layers) as u64, "maps and layers");
        let started = Instant::now();
        let files = |split| StateFiles::new(&self.folder, split);
        let rows = r2_table(spec, &files("train"), &files("val"), &maps, &casts, observer)?;
        let samples = self.read_samples("train")?;
        let (sources, curve) = diagnose(spec, &files("train"), &files("val"), &samples, observer)?;
        let spectra = spectra(spec, &maps, &casts, observer)?;
        if shortcuts.is_none() {
            advise(&rows, &sources, observer);
        }
        let results = self.replace("r2")?;
        write_csv(&results.join("r2.csv"), &rows)?;
        write_csv(&results.join("spectra.csv"), &spectra)?;
        write_csv(&results.join("sources.csv"), &sources)?;
        write_csv(&results.join("learning_curve.csv"), &curve)?;
        self.write_summary()?;
        self.finish_measured("r2", started, shortcuts, observer)
    }

    /// `layers.csv`, `early_exit.csv`, `predictions.parquet`, for the maps of this run or those in another folder.
    /// [`Error::NoHead`] where the model makes no predictions.
    pub fn evaluate(&mut self, shortcuts: Option<&Path>, observer: &dyn Observer) -> Result<()> {
        let head = self.model.head().ok_or_else(|| self.no_head())?;
        self.needs_maps("evaluate", shortcuts)?;
        let (maps, casts) = self.map_casts(shortcuts)?;
        let samples = self.read_samples("val")?;
        let spec = self.model.spec();
        let tokens: usize = samples.iter().map(|sample| sample.ids_to_run(spec.kind).len()).sum();
        observer.begin("evaluate", tokens as u64, "tokens");
        let started = Instant::now();
        let states = StateFiles::new(&self.folder, "val");
        let evaluation =
            evaluate(&*self.model, head, self.manifest.dtype, &samples, &states, &maps, &casts, observer)?;
        let rule = ExitRule::new(&samples, spec.kind);
        let exits: Vec<ExitRow> = evaluation.of_states().flat_map(|cast| early_exit(cast, &rule)).collect();
        let exit_layers: Vec<ExitLayerRow> =
            evaluation.of_states().flat_map(|cast| exit_layers(cast, &rule)).collect();
        let results = self.replace("evaluate")?;
        write_csv(&results.join("layers.csv"), &layer_rows(&evaluation, self.manifest.seed))?;
        write_csv(&results.join("early_exit.csv"), &exits)?;
        write_csv(&results.join("exits.csv"), &exit_layers)?;
        write_csv(&results.join("ranks.csv"), &rank_rows(&evaluation))?;
        write_predictions(&results.join("predictions.parquet"), &evaluation)?;
        self.write_summary()?;
        self.finish_measured("evaluate", started, shortcuts, observer)
    }

    /// The figures, from the result tables that are there, as [`draw`] does it.
    pub fn plot(&mut self, observer: &dyn Observer) -> Result<()> {
        if !self.manifest.is_done("r2") && !self.manifest.is_done("evaluate") {
            return self.needs("r2", "plot");
        }
        for stage in ["r2", "evaluate"] {
            if let Some(path) = self.changed_file(stage)? {
                return Err(Error::ChangedFile { path, stage });
            }
        }
        let started = Instant::now();
        draw_tables(&self.folder, Some(&self.manifest), &Style::default(), observer)?;
        self.finish_timed("plot", started, observer)
    }

    /// The headline figures so far.
    pub fn summary(&self) -> Result<Summary> {
        let Tables { r2, layers, early_exit, .. } = Tables::read(&self.folder.join("results"))?;
        Ok(Summary::new(self.spec(), self.manifest.train, self.manifest.val, &r2, &layers, &early_exit))
    }

    /// What stands in the way of the maps, from `sources.csv` and `learning_curve.csv`; empty before `r2`.
    pub fn diagnostics(&self) -> Result<(Vec<SourceRow>, Vec<CurveRow>)> {
        let results = self.folder.join("results");
        Ok((table(results.join("sources.csv"))?, table(results.join("learning_curve.csv"))?))
    }

    fn write_summary(&self) -> Result<()> {
        let mut text = serde_json::to_string_pretty(&self.summary()?)
            .map_err(|error| Error::Internal(error.to_string()))?;
        text.push('\n');
        write_atomically(&self.results()?.join("summary.json"), text.as_bytes())
    }

    fn results(&self) -> Result<PathBuf> {
        let results = self.folder.join("results");
        create_folder(&results)?;
        Ok(results)
    }

    /// The maps to measure, and the casts that they are of: this run's, or whatever is in another folder.
    fn map_casts(&self, elsewhere: Option<&Path>) -> Result<(Shortcuts, Vec<String>)> {
        let shortcuts = self.shortcuts(elsewhere);
        let mut casts = match elsewhere {
            Some(_) => shortcuts.casts()?,
            None => self.manifest.fits.casts().iter().map(MapCast::to_string).collect(),
        };
        if casts.is_empty() {
            // The first file that is missing is then named.
            casts.push(MAT.to_owned());
        }
        Ok((shortcuts, casts))
    }

    fn shortcuts(&self, elsewhere: Option<&Path>) -> Shortcuts {
        Shortcuts::new(elsewhere.map_or_else(|| self.folder.join("shortcuts"), Path::to_owned))
    }

    fn read_samples(&self, split: &str) -> Result<Vec<Sample>> {
        read_samples(&samples_path(&self.folder, split), self.spec())
    }

    fn no_head(&self) -> Error {
        Error::NoHead { model: self.manifest.model.id.clone() }
    }

    /// [`Error::StageMissing`] for the first stage up to `stage` that is not done, [`Error::ChangedFile`] for the first
    /// whose files are not as it left them.
    fn needs(&self, stage: &'static str, needed_by: &'static str) -> Result<()> {
        let up_to = STAGES.iter().position(|name| *name == stage).map_or(0, |at| at + 1);
        if let Some(stage) = STAGES[..up_to].iter().find(|stage| !self.manifest.is_done(stage)) {
            return Err(Error::StageMissing { path: self.folder.clone(), stage, needed_by });
        }
        STAGES[..up_to].iter().try_for_each(|stage| match self.changed_file(stage)? {
            Some(path) => Err(Error::ChangedFile { path, stage }),
            None => Ok(()),
        })
    }

    /// The first file of a finished `stage` that is not as it was left.
    fn changed_file(&self, stage: &'static str) -> Result<Option<PathBuf>> {
        let record = self.manifest.stages.get(stage).filter(|record| record.done);
        let Some(record) = record.filter(|_| !self.intact.borrow().contains(stage)) else { return Ok(None) };
        let changed = integrity::changed(&self.folder, &record.files)?;
        if changed.is_none() {
            self.intact.borrow_mut().insert(stage);
        }
        Ok(changed)
    }

    /// Forgets the stages whose files are not as they were left, with those that depend on them.
    fn forget_changed(&mut self, observer: &dyn Observer) -> Result<()> {
        for stage in STAGES {
            if let Some(path) = self.changed_file(stage)? {
                let path = path.strip_prefix(&self.folder).unwrap_or(&path).display();
                observer.note(&format!("`{path}` was changed or removed since: `{stage}` is done again"));
                match stage {
                    // Neither of the two depends on the other.
                    "r2" | "evaluate" => {
                        self.manifest.stages.remove(stage);
                        self.manifest.stages.remove("plot");
                    }
                    _ => self.manifest.forget_from(stage),
                }
                self.manifest.write(&self.folder)?;
            }
        }
        Ok(())
    }

    fn needs_maps(&self, needed_by: &'static str, elsewhere: Option<&Path>) -> Result<()> {
        self.needs(if elsewhere.is_some() { "states" } else { "fit" }, needed_by)
    }

    /// Makes room for new tables of `stage`: from here on the old ones, and the figures, do not count as done. Called
    /// once the new ones are computed, so that maps that cannot be used cost no earlier result.
    fn replace(&mut self, stage: &'static str) -> Result<PathBuf> {
        self.manifest.stages.remove(stage);
        self.manifest.stages.remove("plot");
        self.manifest.write(&self.folder)?;
        self.results()
    }

    fn finish_measured(
        &mut self,
        stage: &'static str,
        started: Instant,
        shortcuts: Option<&Path>,
        observer: &dyn Observer,
    ) -> Result<()> {
        let seconds = started.elapsed().as_secs_f64();
        let shortcuts =
            shortcuts.map(|folder| std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned()));
        self.finish(StageRecord { done: true, seconds, shortcuts, ..StageRecord::default() }, stage, observer)
    }

    fn finish_timed(&mut self, stage: &'static str, started: Instant, observer: &dyn Observer) -> Result<()> {
        let seconds = started.elapsed().as_secs_f64();
        self.finish(StageRecord { done: true, seconds, ..StageRecord::default() }, stage, observer)
    }

    fn finish(&mut self, record: StageRecord, stage: &'static str, observer: &dyn Observer) -> Result<()> {
        observer.end();
        let record = StageRecord { files: integrity::digests(&self.folder, stage)?, ..record };
        self.intact.get_mut().insert(stage);
        self.manifest.stages.insert(stage.to_owned(), record);
        self.manifest.write(&self.folder)
    }
}

/// The rows of a result table; none where it is not there.
fn table<T: serde::de::DeserializeOwned>(path: PathBuf) -> Result<Vec<T>> {
    if path.exists() { read_csv(&path) } else { Ok(Vec::new()) }
}

/// The tables of the finished stages of the run in `folder`: those of a stage that is to be done again are of another run.
/// Without a manifest, every table that is there.
pub(crate) fn finished_tables(folder: &Path, manifest: Option<&Manifest>) -> Result<Tables> {
    let mut tables = Tables::read(&folder.join("results"))?;
    let is_done = |stage| manifest.is_none_or(|manifest| manifest.is_done(stage));
    if !is_done("r2") {
        (tables.r2, tables.spectra) = Default::default();
    }
    if !is_done("evaluate") {
        tables = Tables { r2: tables.r2, spectra: tables.spectra, ..Tables::default() };
    }
    Ok(tables)
}

/// What is wrong with a run without a table: the first stage on the way to one that is not done.
pub(crate) fn no_tables(folder: &Path, manifest: Option<&Manifest>, needed_by: &'static str) -> Error {
    let is_done = |stage: &&&str| manifest.is_some_and(|manifest| manifest.is_done(stage));
    let stage = STAGES.iter().find(|stage| !is_done(stage)).copied().unwrap_or("r2");
    Error::StageMissing { path: folder.to_owned(), stage, needed_by }
}

/// Draws the figures of the run in `folder`, and its report, from its result tables alone: neither the model nor the rest of
/// the run need be there, nor its manifest. Returns the files written.
///
/// # Errors
/// [`Error::StageMissing`] when there is no table yet, [`Error::ChangedFile`] when one is not as its stage left it; those of
/// [`Tables::read`] and [`write_figures`].
pub fn draw(folder: &Path, style: &Style, observer: &dyn Observer) -> Result<Vec<PathBuf>> {
    let _lock = Manifest::path(folder).exists().then(|| Lock::take(folder)).transpose()?;
    let manifest = Manifest::read(folder)?;
    for stage in ["r2", "evaluate"] {
        let record = manifest.as_ref().and_then(|manifest| manifest.stages.get(stage));
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
        manifest.stages.insert("plot".to_owned(), record);
        manifest.write(folder)?;
    }
    Ok(written)
}

fn draw_tables(
    folder: &Path,
    manifest: Option<&Manifest>,
    style: &Style,
    observer: &dyn Observer,
) -> Result<Vec<PathBuf>> {
    let tables = finished_tables(folder, manifest)?;
    if tables.is_empty() {
        return Err(no_tables(folder, manifest, "plot"));
    }
    observer.begin("plot", 0, "files");
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

fn samples_path(folder: &Path, split: &str) -> PathBuf {
    folder.join("samples").join(format!("{split}.jsonl"))
}

fn is_empty(folder: &Path) -> Result<bool> {
    match std::fs::read_dir(folder) {
        Ok(mut entries) => {
            Ok(entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == crate::lock::NAME)))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(Error::io("read", folder)(error)),
    }
}

fn load_model(
    files: &ModelFiles,
    precision: Precision,
    observer: &dyn Observer,
) -> Result<Box<dyn Backbone>> {
    if !precision.is_native() {
        observer.note(
            "this CPU has no instructions for bf16 products: `--dtype f32` would be faster, and more exact",
        );
    }
    let loaded = load(files, precision)?;
    loaded.notes.iter().for_each(|note| observer.note(&format!("`{}`: {note}", files.id)));
    Ok(loaded.model)
}

/// `name` as it can be found again from any folder.
fn absolute(name: &str) -> String {
    match std::path::absolute(name) {
        Ok(path) if path.exists() => path.display().to_string(),
        _ => name.to_owned(),
    }
}

fn record_model(files: &ModelFiles) -> ModelRecord {
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

fn draw_samples(
    settings: &Settings,
    files: &ModelFiles,
    spec: &Spec,
    bundled: &Bundled,
    observer: &dyn Observer,
) -> Result<(Vec<Sample>, Vec<Sample>, SamplesRecord)> {
    match &settings.samples {
        SampleSource::Files { train, val } => {
            let record = |path: &Path| -> Result<SourceRecord> {
                let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
                Ok(SourceRecord { id: absolute(&path.display().to_string()), sha256: sha256(&bytes) })
            };
            let source = SamplesRecord::Files { train_samples: record(train)?, val_samples: record(val)? };
            Ok((read_samples(train, spec)?, read_samples(val, spec)?, source))
        }
        SampleSource::Corpus { name, train, val, mask } => {
            if !mask && spec.kind == Kind::Causal {
                return Err(Error::Option(format!(
                    "`--no-mask` is for masked language models, and `{}` is a causal one: leave it out",
                    files.id
                )));
            }
            let corpus = Corpus::open(name, bundled)?;
            let (train, val) = (*train, *val);
            if train == 0 || val == 0 {
                return Err(Error::Option(format!(
                    "{train} training and {val} validation sentences were asked for: give at least 1 for `--train` and \
                     1 for `--val`"
                )));
            }
            let missing = || Error::Io {
                action: "read",
                path: PathBuf::from(&files.id).join("tokenizer.json"),
                source: std::io::ErrorKind::NotFound.into(),
            };
            let tokenizer = Tokenizer::open(files.tokenizer.as_ref().ok_or_else(missing)?, spec, *mask)?;
            let wanted = train.saturating_add(val);
            observer.begin("samples", wanted as u64, "sentences");
            let mut samples = Vec::new();
            for (index, sentence) in corpus.sentences().enumerate() {
                if samples.len() == wanted {
                    break;
                }
                crate::progress::check(observer)?;
                if let Some(sample) = tokenizer.sample(sentence, index as u64, settings.seed)? {
                    samples.push(sample);
                    observer.advance(1);
                }
            }
            if samples.len() < wanted {
                let name = corpus.id.clone();
                return Err(Error::TooFewSentences { name, have: samples.len(), train, val });
            }
            observer.end();
            let val = samples.split_off(train);
            let id =
                if bundled.corpora.iter().any(|c| c.name == name) { name.clone() } else { absolute(name) };
            Ok((samples, val, SamplesRecord::Corpus { corpus: SourceRecord { id, sha256: corpus.sha256() } }))
        }
    }
}
