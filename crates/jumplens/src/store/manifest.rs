//! `manifest.json`: what a run was made from, and how far it is.

use super::{FolderKind, Stage, folder};
use crate::corpus::CorpusRecord;
use crate::hub::HubName;
use crate::nn::{Isa, Precision};
use crate::tokenize::Positions;
use crate::words::{Cast, LastState, Shard, Sizes, TextCheck};
use crate::{Error, Result};
use jumplens_core::cast::Fits;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

/// The version of the manifest's own layout.
pub(super) const FORMAT: u32 = 1;

/// Its name in a folder.
pub(crate) const MANIFEST: &str = "manifest.json";

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

    /// Holds it against another model's.
    pub(crate) fn difference(&self, there: &Self) -> Difference {
        let text = |record: &Self| {
            let digests =
                [&record.config_sha256, &record.weights_sha256].into_iter().chain(&record.tokenizer_sha256);
            let digests: Vec<String> = digests.map(|digest| digest.chars().take(12).collect()).collect();
            format!("`{}` (SHA-256 of its files {})", record.name(), digests.join(", "))
        };
        Difference { what: "the model".to_owned(), here: text(self), there: text(there) }
    }

    /// False where `name` is another model's for certain. A branch may stand for this commit, and a model be found again
    /// under its name that is not what it was.
    pub(crate) fn may_be(&self, name: &str) -> bool {
        let hub = HubName::parse(name).filter(|hub| self.revision.is_some() && hub.id == self.id);
        let is_commit = |text: &String| text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match hub {
            Some(hub) => hub.revision.filter(is_commit).is_none_or(|commit| self.revision == Some(commit)),
            None => is_same_place(name, &self.id),
        }
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

/// True for two spellings of one path, or the same name.
pub(crate) fn is_same_place(name: &str, id: &str) -> bool {
    name == id || std::path::absolute(name).is_ok_and(|path| path == Path::new(id))
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
    /// States that another program computed.
    Imported {
        /// Where they came from.
        imported: ImportRecord,
    },
    /// Two samples files.
    Files {
        /// The training samples.
        train_samples: SourceRecord,
        /// The validation samples.
        val_samples: SourceRecord,
    },
}

/// States that another program computed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportRecord {
    /// The training states: the digest is that of the digests of their files in the run folder.
    pub train_states: SourceRecord,
    /// The validation states.
    pub val_states: SourceRecord,
    /// Blocks, L.
    pub n_layers: usize,
    /// Width of a state, d.
    pub d_model: usize,
    /// The number formats that they were in.
    pub formats: BTreeSet<String>,
    /// What the states of layer L are.
    pub last_state: LastState,
    /// The samples that they are the states of, where they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<[SourceRecord; 2]>,
}

impl ImportRecord {
    /// Layers and width.
    pub fn sizes(&self) -> Sizes {
        Sizes { n_layers: self.n_layers, d_model: self.d_model }
    }
}

impl SamplesRecord {
    /// Where the states came from, where another program computed them.
    pub fn imported(&self) -> Option<&ImportRecord> {
        match self {
            Self::Imported { imported } => Some(imported),
            _ => None,
        }
    }

    /// The corpus, or the training samples' file.
    pub(crate) fn id(&self) -> &str {
        match self {
            Self::Corpus { corpus, .. } => &corpus.id,
            Self::Imported { imported } => &imported.train_states.id,
            Self::Files { train_samples, .. } => &train_samples.id,
        }
    }

    /// What makes these other samples than those `there`.
    fn difference(&self, there: &Self) -> Option<Difference> {
        if let (
            Self::Corpus { corpus, positions },
            Self::Corpus { corpus: their_corpus, positions: their_positions },
        ) = (self, there)
            && corpus.id == their_corpus.id
        {
            if positions != their_positions {
                return Difference::of("the choice of positions", positions, their_positions);
            }
            let drawn = |corpus: &CorpusRecord| match (&corpus.draw, &corpus.rows) {
                (None, None) => "in order".to_owned(),
                draw => serde_json::to_string(&draw).unwrap_or_default(),
            };
            if let Some(difference) =
                Difference::of("which sentences are drawn", drawn(corpus), drawn(their_corpus))
            {
                return Some(difference);
            }
            // Earlier versions did not count the sentences that they took in order.
            let counted = |corpus: &CorpusRecord, other: &CorpusRecord| CorpusRecord {
                sentences: corpus.sentences.filter(|_| other.sentences.is_some()),
                ..corpus.clone()
            };
            let [own, theirs] = [counted(corpus, their_corpus), counted(their_corpus, corpus)];
            return (own != theirs)
                .then(|| Difference::of_contents(&corpus.id, &corpus.sha256, &their_corpus.sha256));
        }
        let sha256 = |record: &Self| match record {
            Self::Corpus { corpus, .. } => corpus.sha256.clone(),
            Self::Files { train_samples: train, val_samples: val }
            | Self::Imported { imported: ImportRecord { train_states: train, val_states: val, .. } } => {
                format!("{} and {}", train.sha256, val.sha256)
            }
        };
        match self == there {
            true => None,
            false if self.id() == there.id() => {
                Some(Difference::of_contents(self.id(), &sha256(self), &sha256(there)))
            }
            false => Difference::of("the source of the samples", self.id(), there.id()),
        }
    }
}

/// What makes an experiment another than the one that it is held against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    /// What differs, in words.
    pub what: String,
    /// What it is here.
    pub here: String,
    /// What it is in the other.
    pub there: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { what, here, there } = self;
        write!(f, "{what} is {here} here and {there} there")
    }
}

impl Difference {
    /// Of two values; `None` where they read the same.
    pub fn of(what: &str, here: impl fmt::Display, there: impl fmt::Display) -> Option<Self> {
        let (here, there) = (here.to_string(), there.to_string());
        (here != there).then(|| Self { what: what.to_owned(), here, there })
    }

    /// As [`Difference::of`], where there may be no value.
    pub fn of_optional<T: fmt::Display>(what: &str, here: Option<T>, there: Option<T>) -> Option<Self> {
        let text = |value: Option<T>| value.map_or("none".to_owned(), |value| value.to_string());
        Self::of(what, text(here), text(there))
    }

    fn of_contents(id: &str, here: &str, there: &str) -> Self {
        Self { what: format!("what `{id}` holds (SHA-256)"), here: here.to_owned(), there: there.to_owned() }
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
    /// For `states`: what the model makes of the samples' tokens, where it has a head and they are enough to tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<TextCheck>,
    /// For `r2` and `evaluate`: the folder of maps that were measured, where they are not the run's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shortcuts: Option<PathBuf>,
    /// SHA-256 of every file that the stage wrote, by path below the run folder.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
    /// For an unfinished `states`: chunks that are on disk, by split.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub chunks: BTreeMap<String, usize>,
    /// SHA-256 of each state file up to the end of those chunks, by path below the run folder.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub kept: BTreeMap<String, String>,
}

/// The whole file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    /// A run, or what is fitted from sums.
    #[serde(default, skip_serializing_if = "FolderKind::is_run")]
    pub kind: FolderKind,
    /// The version of jumplens that began the run.
    pub version: String,
    /// The model; `None` for states that were imported without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelRecord>,
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
    /// True where no predictions can be had: of a model without a head, or of states that came without what it takes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub headless: bool,
    /// The share of the samples that is in the folder, where it is not all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<Shard>,
    /// What products are done in; states, sums and all else are f32.
    pub dtype: Precision,
    /// Where they are computed.
    pub device: String,
    /// Threads of the last command.
    pub threads: usize,
    /// The vector instructions of the commands so far; empty for a run of an earlier version.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub isa: BTreeSet<Isa>,
    /// What is known of each stage that was begun.
    pub stages: BTreeMap<Stage, StageRecord>,
}

impl Manifest {
    /// A manifest of a run that has done nothing yet.
    pub(crate) fn new(
        model: Option<ModelRecord>,
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
            kind: FolderKind::Run,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            model,
            unread: BTreeSet::new(),
            samples,
            seed,
            mask,
            train,
            val,
            fits,
            headless: false,
            shard: None,
            dtype,
            device: "cpu".to_owned(),
            threads: rayon::current_num_threads(),
            isa: BTreeSet::from([Isa::current()]),
            stages: BTreeMap::new(),
        }
    }

    /// Reads the manifest of the run, or of what is fitted from sums, in the folder `run`; `None` where it has none.
    /// [`Error::OtherKind`] where the folder holds something else, [`Error::DamagedManifest`].
    pub fn read(run: &Path) -> Result<Option<Self>> {
        folder::read_manifest(run)
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
        let (isa, stages) = Default::default();
        Self { fits, shard: None, threads: 0, isa, stages, ..self.clone() }
    }

    pub(crate) fn write(&self, run: &Path) -> Result<()> {
        folder::write_manifest(run, self)
    }

    /// True once `stage` is finished.
    pub fn is_done(&self, stage: Stage) -> bool {
        self.stages.get(&stage).is_some_and(|record| record.done)
    }

    /// Training and validation samples in the folder, which of a share are fewer than in the experiment.
    pub fn counts(&self) -> [usize; 2] {
        match self.shard {
            Some(shard) => [shard.of_train(self.train).len(), shard.of_val(self.val).len()],
            None => [self.train, self.val],
        }
    }

    /// True once everything of a run is done that takes a model: there is nothing left to do but figures.
    pub fn is_measured(&self) -> bool {
        let is_done = |stage: Stage| match stage {
            Stage::Plot => true,
            Stage::Evaluate => self.headless || self.is_done(stage),
            _ => self.is_done(stage),
        };
        self.kind == FolderKind::Run && Stage::OF_RUN.into_iter().all(is_done)
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

    /// What makes this another experiment than the one `there`; `None` where both are the same, whatever the progress, the
    /// version and the threads.
    pub(crate) fn difference(&self, there: &Self) -> Option<Difference> {
        match (&self.model, &there.model) {
            (Some(own), Some(other)) if own != other => return Some(own.difference(other)),
            (own, other) if own.is_some() != other.is_some() => {
                let name = |model: &Option<ModelRecord>| model.as_ref().map(ModelRecord::name);
                return Difference::of_optional("the model", name(own), name(other));
            }
            _ => {}
        }
        let mask = |manifest: &Self| manifest.mask.map(|mask| if mask { "masked" } else { "kept" });
        let shard = |manifest: &Self| manifest.shard;
        self.samples
            .difference(&there.samples)
            .or_else(|| Difference::of("the number of training samples", self.train, there.train))
            .or_else(|| Difference::of("the number of validation samples", self.val, there.val))
            .or_else(|| Difference::of("the seed", self.seed, there.seed))
            .or_else(|| Difference::of_optional("the token at the position", mask(self), mask(there)))
            .or_else(|| other_maps(&self.fits, &there.fits))
            .or_else(|| Difference::of_optional("the share", shard(self), shard(there)))
            .or_else(|| Difference::of("the number format", self.dtype, there.dtype))
    }

    /// What its reader must not miss, a line each.
    pub fn warnings(&self) -> Vec<String> {
        let text = self.stages.get(&Stage::States).and_then(|record| record.text.as_ref());
        let mut warnings = text.map_or_else(Vec::new, |text| text.warnings(self.model_name()));
        if let Some(imported) = self.samples.imported()
            && imported.last_state == LastState::FinalNormOutput
        {
            let last = imported.n_layers;
            warnings.push(format!(
                "the states of layer {last} are imported as they are after the final norm: r² to layer {last} is of another target \
                 than in runs of this program, and cannot be compared with theirs"
            ));
        }
        warnings
    }

    /// The model's name, without the folders above it.
    pub fn model_name(&self) -> &str {
        self.model.as_ref().map_or("imported states", ModelRecord::short_name)
    }

    /// What the samples, or else the states, of a run are of, for messages.
    fn of_model(&self) -> String {
        match &self.model {
            Some(model) => format!("model `{}`", model.id),
            None => "no model".to_owned(),
        }
    }

    /// The run in a few words, for messages.
    pub fn describe(&self) -> String {
        let samples = self.samples.id();
        if self.kind == FolderKind::Fitted {
            return format!(
                "{}, sums of {} + {} samples from `{samples}`",
                self.of_model(),
                self.train,
                self.val
            );
        }
        let done = Stage::OF_RUN.into_iter().filter(|stage| self.is_done(*stage)).count();
        format!(
            "{}, {} + {} samples from `{samples}`, seed {}, {done} of {} stages done",
            self.of_model(),
            self.train,
            self.val,
            self.seed,
            Stage::OF_RUN.len()
        )
    }
}
/// What makes the maps of `fits` other than those `there`.
pub(crate) fn other_maps(fits: &Fits, there: &Fits) -> Option<Difference> {
    let ranks = |fits: &Fits| {
        let ranks: Vec<String> = fits.ranks.iter().map(usize::to_string).collect();
        (!ranks.is_empty()).then(|| ranks.join(", "))
    };
    let bias = |fits: &Fits| fits.intercept.then_some("fitted");
    let lenses = |fits: &Fits| {
        let names: Vec<String> = fits.lenses.iter().map(Cast::to_string).collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    let only = |fits: &Fits| {
        let names: Option<Vec<String>> =
            fits.only.as_ref().map(|only| only.iter().map(Cast::to_string).collect());
        names.map_or("all".to_owned(), |names| names.join(", "))
    };
    Difference::of("the choice of pairs of layers", fits.pairs, there.pairs)
        .or_else(|| Difference::of("the choice of casts", only(fits), only(there)))
        .or_else(|| Difference::of_optional("the bias", bias(fits), bias(there)))
        .or_else(|| Difference::of_optional("the ridge penalty", fits.ridge, there.ridge))
        .or_else(|| Difference::of_optional("the choice of ranks", ranks(fits), ranks(there)))
        .or_else(|| Difference::of_optional("the choice of lenses", lenses(fits), lenses(there)))
}
