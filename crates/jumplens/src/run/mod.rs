//! A run folder and its stages. Each stage reads what the ones before it left on disk; [`Run::all`] is nothing but all
//! of them in order.

mod figures;
mod maps;
mod records;
mod stages;

pub use crate::samples::SampleSource;
pub use figures::draw;
pub(crate) use figures::{finished_tables, no_tables};

use crate::error::{Error, Result};
use crate::eval::tables::{CurveRow, SourceRow, Tables, read_csv};
use crate::eval::{Summary, mean_run};
use crate::files::{absolute, create_folder};
use crate::hub::{ModelFiles, Sources, TokenizerFiles};
use crate::manifest::{Manifest, ModelRecord, StageRecord};
use crate::models::{Backbone, Kind, Spec, load};
use crate::moments::Shard;
use crate::nn::Precision;
use crate::progress::Observer;
use crate::samples::Samples;
use crate::shortcut::Fits;
use crate::store::lock::{self, Lock};
use crate::store::{Stage, integrity};
use crate::tokenize::{Tokenizer, write_samples};
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
    intact: RefCell<BTreeSet<Stage>>,
    /// Apply maps that were fitted on another model.
    force: bool,
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
            Some(manifest) if existing == Existing::Refuse && manifest.is_done(Stage::Samples) => {
                return Err(Error::Occupied { path: folder.to_owned(), what: manifest.describe() });
            }
            None if !is_empty(folder)? => return Err(Error::NotARun { path: folder.to_owned() }),
            _ => {}
        }
        let name = match &earlier {
            Some(earlier) if existing == Existing::Resume => earlier.model.pin(&settings.model),
            _ => settings.model.clone(),
        };
        let resumed = earlier.as_ref().filter(|_| existing == Existing::Resume);
        let sources = &allowing(sources, resumed);
        let files = ModelFiles::find(&name, sources, observer)?;
        let model = load_model(&files, settings.dtype, observer)?;
        let started = Instant::now();
        let spec = model.spec();
        let resumed = resumed.filter(|m| m.is_done(Stage::Samples));
        let damaged = match resumed.and_then(|m| m.stages.get(&Stage::Samples)) {
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
        manifest.unread = files.allow_unread.used();
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
        if let Some(mut earlier) =
            earlier.filter(|m| existing == Existing::Resume && m.is_done(Stage::Samples))
        {
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
            earlier.unread = manifest.unread;
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
            files: integrity::digests(folder, Stage::Samples)?,
            ..StageRecord::default()
        };
        manifest.stages.insert(Stage::Samples, record);
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
            stage: Stage::Samples,
            needed_by: "every other stage",
        };
        let mut manifest =
            Manifest::read(folder)?.filter(|m| m.is_done(Stage::Samples)).ok_or_else(missing)?;
        let sources = &allowing(sources, Some(&manifest));
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

    /// N of this run's exit rule ([`mean_run`]).
    pub fn mean_run(&self) -> Result<f64> {
        Ok(mean_run(&self.read_samples("val")?))
    }

    /// The model's tokenizer; [`Error::Io`] where it has none.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        Tokenizer::of_model(self.tokenizer.as_ref(), &self.manifest.model.id, self.spec(), false)
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

    fn no_head(&self) -> Error {
        Error::NoHead { model: self.manifest.model.id.clone() }
    }
}

/// The rows of a result table; none where it is not there.
fn table<T: serde::de::DeserializeOwned>(path: PathBuf) -> Result<Vec<T>> {
    if path.exists() { read_csv(&path) } else { Ok(Vec::new()) }
}

fn samples_path(folder: &Path, split: &str) -> PathBuf {
    folder.join("samples").join(format!("{split}.jsonl"))
}

fn is_empty(folder: &Path) -> Result<bool> {
    match std::fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == lock::NAME))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(Error::io("read", folder)(error)),
    }
}

/// `sources`, with leave for what a run has left unread before.
fn allowing(sources: &Sources, earlier: Option<&Manifest>) -> Sources {
    let mut sources = sources.clone();
    sources.allow_unread.extend(earlier.into_iter().flat_map(|manifest| &manifest.unread).cloned());
    sources
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
