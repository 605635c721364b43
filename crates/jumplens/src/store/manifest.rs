//! `manifest.json`: what a run was made from, and how far it is.

use super::Stage;
use crate::corpus::CorpusRecord;
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::hub::HubName;
use crate::moments::Shard;
use crate::nn::Precision;
use crate::shortcut::Fits;
use crate::tokenize::Positions;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The version of the manifest's own layout.
const FORMAT: u32 = 1;

/// The model a run is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// Bundled name, absolute path of the folder, or full name on the Hub.
    pub id: String,
    /// The commit that its files are from, where they are from the Hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// SHA-256 of `config.json`.
    pub config_sha256: String,
    /// SHA-256 of the weights file.
    pub weights_sha256: String,
    /// SHA-256 of the tokenizer ([`TokenizerFiles::sha256`](crate::hub::TokenizerFiles::sha256)), where there is one.
    pub tokenizer_sha256: Option<String>,
}

impl ModelRecord {
    /// The name under which the same files are found again.
    pub fn name(&self) -> String {
        match &self.revision {
            Some(revision) => format!("{}@{revision}", self.id),
            None => self.id.clone(),
        }
    }

    /// The model's name without the folders above it, for what is passed on.
    pub fn short_name(&self) -> &str {
        let path = Path::new(&self.id);
        path.file_name().filter(|_| path.is_absolute()).and_then(|name| name.to_str()).unwrap_or(&self.id)
    }

    /// `name`, at this record's commit where it is the same model on the Hub and no other revision is asked for: a branch
    /// that has moved on since is no other experiment.
    pub(crate) fn pin(&self, name: &str) -> String {
        match HubName::parse(name) {
            Some(HubName { id, revision: None })
                if self.revision.is_some() && id == self.id && !Path::new(name).is_dir() =>
            {
                self.name()
            }
            _ => name.to_owned(),
        }
    }
}

/// A file a run reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRecord {
    /// Its absolute path.
    pub id: String,
    /// SHA-256 of its bytes.
    pub sha256: String,
}

/// Where the samples came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SamplesRecord {
    /// Sentences of a corpus.
    Corpus {
        /// The corpus, and how sentences were drawn from it.
        corpus: CorpusRecord,
        /// Which of their positions were chosen.
        #[serde(default, skip_serializing_if = "Positions::is_default")]
        positions: Positions,
    },
    /// Two samples files.
    Files {
        /// The training samples.
        train_samples: SourceRecord,
        /// The validation samples.
        val_samples: SourceRecord,
    },
}

impl SamplesRecord {
    /// What makes these other samples than `other`, in words.
    fn difference(&self, other: &Self) -> Option<String> {
        if let (
            Self::Corpus { corpus, positions },
            Self::Corpus { corpus: other_corpus, positions: other_positions },
        ) = (self, other)
            && corpus.id == other_corpus.id
        {
            if positions != other_positions {
                return Some("the choice of `--positions` or `--skip-first`".to_owned());
            }
            if (&corpus.draw, &corpus.rows) != (&other_corpus.draw, &other_corpus.rows) {
                return Some("the choice of which sentences are drawn".to_owned());
            }
        }
        (self != other).then(|| format!("what `{}` holds", self.id()))
    }

    /// The corpus, or the training samples' file.
    fn id(&self) -> &str {
        match self {
            Self::Corpus { corpus, .. } => &corpus.id,
            Self::Files { train_samples, .. } => &train_samples.id,
        }
    }
}

/// How far a stage is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StageRecord {
    /// True once everything the stage writes is there.
    pub done: bool,
    /// Wall-clock seconds, loading excluded; of the last sitting where the stage was resumed.
    pub seconds: f64,
    /// For `states`: prefix tokens run by the last sitting, by second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// For `r2` and `evaluate`: the folder of maps that were measured, where they are not the run's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shortcuts: Option<PathBuf>,
    /// SHA-256 of every file that the stage wrote, by path below the run folder.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
    /// For an unfinished `states`: chunks that are on disk, by split.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub chunks: BTreeMap<String, usize>,
}

/// The whole file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    /// The version of jumplens that began the run.
    pub version: String,
    /// The model.
    pub model: ModelRecord,
    /// Fields of the model's files that went unread by leave.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unread: BTreeSet<String>,
    /// Where the samples came from.
    #[serde(flatten)]
    pub samples: SamplesRecord,
    /// The seed of everything random.
    pub seed: u64,
    /// For masked models on a corpus: whether `[MASK]` takes the place of the token at the chosen position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<bool>,
    /// Training samples.
    pub train: usize,
    /// Validation samples.
    pub val: usize,
    /// Which maps between layers are fitted.
    #[serde(flatten)]
    pub fits: Fits,
    /// The share of the samples that is in the folder, where it is not all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<Shard>,
    /// What products are done in; states, sums and all else are f32.
    pub dtype: Precision,
    /// Where they are computed.
    pub device: String,
    /// Threads of the last command.
    pub threads: usize,
    /// What is known of each stage that was begun.
    pub stages: BTreeMap<Stage, StageRecord>,
}

impl Manifest {
    /// A manifest of a run that has done nothing yet.
    pub(crate) fn new(
        model: ModelRecord,
        samples: SamplesRecord,
        seed: u64,
        mask: Option<bool>,
        train: usize,
        val: usize,
        fits: Fits,
        dtype: Precision,
    ) -> Self {
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            model,
            unread: BTreeSet::new(),
            samples,
            seed,
            mask,
            train,
            val,
            fits,
            shard: None,
            dtype,
            device: "cpu".to_owned(),
            threads: rayon::current_num_threads(),
            stages: BTreeMap::new(),
        }
    }

    fn path(run: &Path) -> PathBuf {
        run.join("manifest.json")
    }

    /// Reads the manifest of the run folder `run`; `None` where it has none.
    pub fn read(run: &Path) -> Result<Option<Self>> {
        let path = Self::path(run);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        let manifest: Self = serde_json::from_str(&text).map_err(Error::format(&path))?;
        manifest.is_of_this_version(&path)?;
        Ok(Some(manifest))
    }

    /// [`Error::Format`] for the file `path` where it was written by a newer version than this.
    pub(crate) fn is_of_this_version(&self, path: &Path) -> Result<()> {
        if self.format > FORMAT {
            let message = format!("written by a newer version of jumplens (format {})", self.format);
            return Err(Error::Format { path: path.to_owned(), message });
        }
        Ok(())
    }

    /// The samples, and the pairs of layers, alone: without what was fitted, by which share, and on how many threads.
    pub(crate) fn without_progress(&self) -> Self {
        let fits = Fits::plain(self.fits.pairs);
        Self { fits, shard: None, threads: 0, stages: BTreeMap::new(), ..self.clone() }
    }

    pub(crate) fn write(&self, run: &Path) -> Result<()> {
        let mut text =
            serde_json::to_string_pretty(self).map_err(|error| Error::Internal(error.to_string()))?;
        text.push('\n');
        write_atomically(&Self::path(run), text.as_bytes())
    }

    /// True once `stage` is finished.
    pub fn is_done(&self, stage: Stage) -> bool {
        self.stages.get(&stage).is_some_and(|record| record.done)
    }

    /// Forgets `stage` and those that depend on it: what they wrote no longer follows from what is there. Tables of maps
    /// from elsewhere do not depend on the run's own maps.
    pub(crate) fn forget(&mut self, stage: Stage) {
        let mut forgotten = vec![stage];
        for later in Stage::ALL {
            let foreign = self.stages.get(&later).is_some_and(|record| record.shortcuts.is_some());
            let needs = if foreign { &[Stage::States][..] } else { later.needs() };
            if needs.iter().any(|need| forgotten.contains(need)) {
                forgotten.push(later);
            }
        }
        self.stages.retain(|stage, _| !forgotten.contains(stage));
    }

    /// What makes this another experiment than `other`, in words; `None` where both are the same, whatever the
    /// progress, the version and the threads.
    pub(crate) fn difference(&self, other: &Self) -> Option<String> {
        let samples = self.samples.difference(&other.samples);
        [
            (self.model != other.model, format!("the model `{}`", self.model.id)),
            (samples.is_some(), samples.unwrap_or_default()),
            (self.train != other.train, format!("the number of {} training samples", self.train)),
            (self.val != other.val, format!("the number of {} validation samples", self.val)),
            (self.seed != other.seed, format!("the seed {}", self.seed)),
            (self.mask != other.mask, "the choice of `--no-mask`".to_owned()),
            (self.fits.pairs != other.fits.pairs, "the choice of `--pairs`".to_owned()),
            (self.fits != other.fits, "the choice of `--intercept`, `--ridge` or `--rank`".to_owned()),
            (self.shard != other.shard, "the choice of `--shard`".to_owned()),
            (self.dtype != other.dtype, "the choice of `--dtype`".to_owned()),
        ]
        .into_iter()
        .find_map(|(differs, what)| differs.then_some(what))
    }

    /// The run in a few words, for messages.
    pub fn describe(&self) -> String {
        let samples = self.samples.id();
        let done = Stage::OF_RUN.into_iter().filter(|stage| self.is_done(*stage)).count();
        format!(
            "model `{}`, {} + {} samples from `{samples}`, seed {}, {done} of {} stages done",
            self.model.id,
            self.train,
            self.val,
            self.seed,
            Stage::OF_RUN.len()
        )
    }
}
