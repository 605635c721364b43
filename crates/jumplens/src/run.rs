//! A run folder and its stages. Each stage reads what the ones before it left on disk; [`Run::all`] is nothing but all
//! of them in order.

use crate::batch::{PackedBatch, tokens};
use crate::error::{Error, Result};
use crate::eval::tables::{CurveRow, ExitLayerRow, ExitRow, SourceRow, Tables, read_csv, write_csv};
use crate::eval::{
    ExitRule, Summary, advise, batches, diagnose, early_exit, evaluate, exit_layers, layer_rows, mean_run,
    r2_table, rank_rows, sentences, spectra, write_predictions,
};
use crate::files::{absolute, create_folder, write_atomically};
use crate::hub::{ModelFiles, Sources, TokenizerFiles};
use crate::integrity;
use crate::lens::{ID, Input, Lens, Reading, View};
use crate::lock::Lock;
use crate::manifest::{Manifest, ModelRecord, STAGES, StageRecord};
use crate::models::{Backbone, Kind, Spec, load};
use crate::moments::{self, Shard};
use crate::nn::Precision;
use crate::plot::{Style, figures, write_figures};
use crate::progress::Observer;
use crate::report;
pub use crate::samples::SampleSource;
use crate::samples::Samples;
use crate::shortcut::{Fits, MAT, MapCast, Origin, Shortcuts, fit_pairs, fit_parts};
use crate::states::{CHUNK, StateFiles, TOKEN_BUDGET};
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
    /// `None` where nothing is to be written.
    _lock: Option<Lock>,
    folder: PathBuf,
    manifest: Manifest,
    model: Box<dyn Backbone>,
    tokenizer: Option<TokenizerFiles>,
    /// Stages whose files are known to be as they were left: looked at, or written, by this process.
    intact: RefCell<BTreeSet<&'static str>>,
    /// Apply maps that were fitted on another model.
    force: bool,
}

/// Sentences in `lens.json`.
const LENS_SENTENCES: usize = 5;
/// Sentences up to that many tokens are preferred there.
const LENS_PREFERRED: usize = 24;
/// Longer sentences are left out.
const LENS_LONGEST: usize = 256;
/// Tokens of each prediction there.
const LENS_TOP: usize = 5;

/// `lens.json`.
#[derive(serde::Serialize)]
struct Sentences {
    sentences: Vec<Reading>,
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
        let lock = Lock::of_run(folder)?;
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
        let spec = model.spec();
        let resumed = earlier.as_ref().filter(|m| existing == Existing::Resume && m.is_done("samples"));
        let damaged = match resumed.and_then(|m| m.stages.get("samples")) {
            Some(record) => integrity::changed(folder, &record.files)?,
            None => None,
        };
        let resumed = resumed.filter(|_| damaged.is_none());
        let samples =
            crate::samples::make(&settings.samples, settings.seed, &files, spec, sources, resumed, observer)?;
        let Samples { mut train, mut val, counts: [n_train, n_val], record: source } = samples;
        let model_record = record_model(&files);
        let mask = match &settings.samples {
            SampleSource::Corpus { mask, .. } if model.spec().kind == Kind::Masked => Some(*mask),
            _ => None,
        };
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
        manifest.shard = settings.shard;
        // There are none where the folder has them.
        if let Some(shard) = settings.shard.filter(|_| !train.is_empty()) {
            let shares = [shard.of_train(train.len()), shard.of_val(val.len())];
            let splits = [(&mut train, "training"), (&mut val, "validation")];
            for ((samples, what), share) in splits.into_iter().zip(shares) {
                if share.is_empty() {
                    let n = samples.len();
                    return Err(Error::Option(format!(
                        "share {shard} of {n} {what} samples is empty: give fewer shares, or more samples"
                    )));
                }
                *samples = samples.drain(share).collect();
            }
        }
        if let Some(mut earlier) = earlier.filter(|m| existing == Existing::Resume && m.is_done("samples")) {
            if let Some(what) = manifest.difference(&earlier) {
                return Err(Error::Changed { path: folder.to_owned(), what });
            }
            if let Some(path) = damaged {
                observer
                    .note(&format!("`{}` was changed or removed since: it is written again", path.display()));
                write_samples(&samples_path(folder, "train"), &train)?;
                write_samples(&samples_path(folder, "val"), &val)?;
            }
            earlier.threads = rayon::current_num_threads();
            let lock = Some(lock.map_or_else(|| Lock::take(folder), Ok)?);
            let tokenizer = files.tokenizer;
            return Ok(Self::new(lock, folder, earlier, model, tokenizer));
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
        Ok(Self::new(Some(lock), folder, manifest, model, files.tokenizer))
    }

    /// Opens a run to do one of its stages again, or the next one. [`Error::Changed`] where the model is no longer the
    /// one the run began with.
    pub fn open(folder: &Path, sources: &Sources, observer: &dyn Observer) -> Result<Self> {
        let lock = Lock::of_run(folder)?;
        Self::open_with(lock, folder, sources, observer)
    }

    /// As [`Run::open`], for what writes nothing into the folder: any number of processes may, beside one that works on it.
    pub fn open_to_read(folder: &Path, sources: &Sources, observer: &dyn Observer) -> Result<Self> {
        Self::open_with(None, folder, sources, observer)
    }

    fn open_with(
        lock: Option<Lock>,
        folder: &Path,
        sources: &Sources,
        observer: &dyn Observer,
    ) -> Result<Self> {
        let missing = || Error::StageMissing {
            path: folder.to_owned(),
            stage: "samples",
            needed_by: "every other stage",
        };
        let mut manifest = Manifest::read(folder)?.filter(|m| m.is_done("samples")).ok_or_else(missing)?;
        let files = ModelFiles::find(&manifest.model.name(), sources, observer)?;
        if record_model(&files) != manifest.model {
            let what = format!("the model `{}`", manifest.model.id);
            return Err(Error::Changed { path: folder.to_owned(), what });
        }
        manifest.threads = rayon::current_num_threads();
        let model = load_model(&files, manifest.dtype, observer)?;
        Ok(Self::new(lock, folder, manifest, model, files.tokenizer))
    }

    fn new(
        lock: Option<Lock>,
        folder: &Path,
        manifest: Manifest,
        model: Box<dyn Backbone>,
        tokenizer: Option<TokenizerFiles>,
    ) -> Self {
        let folder = folder.to_owned();
        Self { _lock: lock, folder, manifest, model, tokenizer, intact: RefCell::default(), force: false }
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
        let left = |split: &str, samples: &[Sample]| {
            let whole = record.chunks.get(split).copied().unwrap_or(0).saturating_mul(CHUNK);
            let chunks = samples[whole.min(samples.len())..].chunks(CHUNK);
            chunks.map(|chunk| tokens(&PackedBatch::pack(chunk, spec.kind, TOKEN_BUDGET))).sum::<usize>()
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
        let (states, shortcuts) = (StateFiles::new(&self.folder, "train"), self.shortcuts(None)?);
        let shortcuts = shortcuts.with_origin(self.origin()?);
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
        let (maps, casts) = self.map_casts(shortcuts, observer)?;
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
        let (maps, casts) = self.map_casts(shortcuts, observer)?;
        let samples = self.read_samples("val")?;
        let spec = self.model.spec();
        observer.begin("evaluate", tokens(&batches(&samples, spec.kind)) as u64, "tokens");
        let started = Instant::now();
        let states = StateFiles::new(&self.folder, "val");
        let evaluation =
            evaluate(&*self.model, head, self.manifest.dtype, &samples, &states, &maps, &casts, observer)?;
        let rule = ExitRule::new(&samples, spec.kind);
        let exits: Vec<ExitRow> = evaluation.of_states().flat_map(|cast| early_exit(cast, &rule)).collect();
        let sentences = sentences(&samples, spec.kind);
        let exit_layers: Vec<ExitLayerRow> =
            evaluation.of_states().flat_map(|cast| exit_layers(cast, &rule)).collect();
        let results = self.replace("evaluate")?;
        write_csv(&results.join("layers.csv"), &layer_rows(&evaluation, &sentences, self.manifest.seed))?;
        write_csv(&results.join("early_exit.csv"), &exits)?;
        write_csv(&results.join("exits.csv"), &exit_layers)?;
        write_csv(&results.join("ranks.csv"), &rank_rows(&evaluation))?;
        write_predictions(&results.join("predictions.parquet"), &evaluation)?;
        self.write_sentences(&samples, &maps, &casts[0], observer)?;
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

    /// The lens through `casts`, whose maps are in `shortcuts`. [`Error::NoHead`] where the model makes no predictions.
    pub fn lens(&self, shortcuts: Option<&Shortcuts>, casts: &[String]) -> Result<Lens<'_>> {
        let head = self.model.head().ok_or_else(|| self.no_head())?;
        Lens::new(&*self.model, head, self.manifest.dtype, shortcuts, casts)
    }

    /// This run's own maps, where they are fitted.
    pub fn own_shortcuts(&self) -> Option<Shortcuts> {
        self.manifest.is_done("fit").then(|| Shortcuts::new(self.folder.join("shortcuts")))
    }

    /// Maps from elsewhere, checked against this run's model.
    pub fn foreign_shortcuts(&self, path: &Path, observer: &dyn Observer) -> Result<Shortcuts> {
        let shortcuts = Shortcuts::open(path)?;
        self.check_maps(&shortcuts, observer)?;
        Ok(shortcuts)
    }

    /// N of this run's exit rule ([`mean_run`]).
    pub fn mean_run(&self) -> Result<f64> {
        Ok(mean_run(&self.read_samples("val")?))
    }

    /// The model's tokenizer; [`Error::Io`] where it has none.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        Tokenizer::of_model(self.tokenizer.as_ref(), &self.manifest.model.id, self.spec(), false)
    }

    /// Some validation sentences through the lens, by `id` and by `cast`, for the report.
    fn write_sentences(
        &self,
        samples: &[Sample],
        shortcuts: &Shortcuts,
        cast: &str,
        observer: &dyn Observer,
    ) -> Result<()> {
        let tokenizer = match self.tokenizer().map(Some) {
            Err(error) if self.tokenizer.is_some() => {
                observer.note(&format!("lens.json spells tokens as numbers: {error}"));
                None
            }
            tokenizer => tokenizer.unwrap_or_default(),
        };
        let longest = LENS_LONGEST.min(self.spec().max_positions);
        let mut chosen: Vec<usize> =
            (0..samples.len()).filter(|index| samples[*index].ids.len() <= longest).collect();
        chosen.sort_by_key(|index| samples[*index].ids.len().max(LENS_PREFERRED));
        chosen.truncate(LENS_SENTENCES);
        chosen.sort_unstable();
        let input = |index: &usize| {
            let Sample { ids, text, .. } = &samples[*index];
            Input { text: text.clone().unwrap_or_default(), ids: ids.clone() }
        };
        let inputs: Vec<Input> = chosen.iter().map(input).collect();
        let view = View { top: LENS_TOP, ..View::default() };
        let lens = self.lens(Some(shortcuts), &[ID.to_owned(), cast.to_owned()])?;
        let sentences = lens.read(self.manifest.model.short_name(), &inputs, tokenizer.as_ref(), &view)?;
        let json = serde_json::to_vec(&Sentences { sentences })
            .map_err(|error| Error::Internal(error.to_string()))?;
        write_atomically(&self.results()?.join("lens.json"), &json)
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
    fn map_casts(
        &self,
        elsewhere: Option<&Path>,
        observer: &dyn Observer,
    ) -> Result<(Shortcuts, Vec<String>)> {
        let shortcuts = self.shortcuts(elsewhere)?;
        if elsewhere.is_some() {
            self.check_maps(&shortcuts, observer)?;
        }
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

    /// [`Error::ForeignShortcuts`] where the maps are not for this run's model, unless that is what is wanted.
    fn check_maps(&self, shortcuts: &Shortcuts, observer: &dyn Observer) -> Result<()> {
        let own = Origin::of_model(&self.manifest.model, self.spec().n_layers, self.spec().d_model);
        shortcuts.check(&own, self.force)?.iter().for_each(|note| observer.note(note));
        Ok(())
    }

    /// From here on maps are applied even where they were fitted on another model.
    pub fn force_shortcuts(&mut self) {
        self.force = true;
    }

    fn shortcuts(&self, elsewhere: Option<&Path>) -> Result<Shortcuts> {
        match elsewhere {
            Some(path) => Shortcuts::open(path),
            None => Ok(Shortcuts::new(self.folder.join("shortcuts"))),
        }
    }

    /// What is written into the files of the maps.
    fn origin(&self) -> Result<Origin> {
        let spec = self.spec();
        Ok(Origin::of_run(&self.manifest, spec.n_layers, spec.d_model, Some(self.mean_run()?)))
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
    let _lock = Lock::of_run(folder)?;
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
