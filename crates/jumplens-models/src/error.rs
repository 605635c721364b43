//! What can go wrong, with where it went wrong: each error carries the path, the tensor, what was expected and what came.

use crate::words::{Cast, FolderKind, Pointer, Refusal, RepoKind, Stage};
use jumplens_core::Error as CoreError;
use std::path::{Path, PathBuf};

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a tokenizer may lack that masked models need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialToken {
    /// Tokens at the beginning and the end of a sentence.
    Around,
    /// The token that is put in the place of another.
    Mask,
}

impl std::fmt::Display for SpecialToken {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Self::Around => "puts no `[CLS]` and `[SEP]` around a sentence",
            Self::Mask => "has no token `[MASK]`",
        })
    }
}

/// What imported states may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lacking {
    /// The model that they are of.
    Model,
    /// The samples that they are the states of.
    Samples,
    /// The last block's output: what came is after the final norm.
    LastBlock,
}

impl std::fmt::Display for Lacking {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Self::Model => "a model",
            Self::Samples => "token ids and positions",
            Self::LastBlock => "the output of the last block, since what came is after the final norm,",
        })
    }
}

/// Every way in which jumplens fails. Messages have no final period: a caller may add what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// What was tried: `read`, `write`, `create`, …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is there but does not hold what it should.
    #[error("`{}` is damaged or not of its kind: {message}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A field of a model's files changes what the model computes, and nothing here reads it.
    #[error("`{}`: `{field}` is {value}, and is not read: only {default}, its default, can be run", path.display())]
    Unread {
        /// The file.
        path: PathBuf,
        /// The field, as the file spells it.
        field: String,
        /// What the file says, or `set` where that is long.
        value: String,
        /// The default, as JSON.
        default: String,
    },
    /// Products and maps: instructions that the CPU lacks, a decomposition that fails.
    #[error(transparent)]
    Core(#[from] CoreError),
    /// States from elsewhere came without what is asked for takes.
    #[error("the states in `{}` were imported without {lacking} and {needed_by} needs that", path.display())]
    ImportLacks {
        /// The run folder.
        path: PathBuf,
        /// What they came without.
        lacking: Lacking,
        /// What was asked for.
        needed_by: &'static str,
    },
    /// States from elsewhere that are not what they should be.
    #[error("the states in `{}` cannot be taken in: {message}", path.display())]
    ForeignStates {
        /// Where they are.
        path: PathBuf,
        /// What is wrong with them.
        message: String,
    },
    /// A stage whose files were imported is to be done again.
    #[error("the states in `{}` were imported, and are not computed here", path.display())]
    Imported {
        /// The run folder.
        path: PathBuf,
    },
    /// What is asked for and cannot be had.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A pickle names something that tensors are not made of. Nothing of a pickle is ever run.
    #[error("`{}` asks for `{callable}`, which tensors are not made of: it was refused, and nothing in the file was run", path.display())]
    RefusedPickle {
        /// The file.
        path: PathBuf,
        /// The class or function it names.
        callable: String,
    },
    /// A model without a file of weights.
    #[error(
        "`{place}` has no weights: neither `model.safetensors` nor `pytorch_model.bin`, nor the index of one in shards"
    )]
    NoWeights {
        /// Its folder, or its name on the Hub.
        place: String,
    },
    /// A shard that an index names is not there.
    #[error("`{}` names the shard `{shard}`, which is not there", index.display())]
    MissingShard {
        /// The index.
        index: PathBuf,
        /// The shard, as the index spells it.
        shard: String,
    },
    /// A shard lacks a tensor that the index says it has.
    #[error("`{}` says that tensor `{tensor}` is in `{shard}`, which has no such tensor", index.display())]
    ShardLacks {
        /// The index.
        index: PathBuf,
        /// The shard, as the index spells it.
        shard: String,
        /// The tensor's name.
        tensor: String,
    },
    /// Neither a bundled model nor a folder, nor a name that the Hub could have.
    #[error(
        "no model `{name}`: it is neither a bundled model ({bundled}) nor a folder nor a `.gguf` file, and not looked for on the Hub"
    )]
    UnknownModel {
        /// The name that was given.
        name: String,
        /// The bundled names, for the message.
        bundled: String,
    },
    /// The Hub has no model or data set of that name that this user may see.
    #[error("no {kind} `{id}` at {endpoint}: it does not exist, or is private")]
    NoSuchModel {
        /// Model or data set.
        kind: RepoKind,
        /// The full name.
        id: String,
        /// The Hub's address.
        endpoint: String,
    },
    /// The Hub's model or data set has no such branch, tag or commit.
    #[error("{kind} `{id}` has no revision `{revision}`")]
    NoSuchRevision {
        /// Model or data set.
        kind: RepoKind,
        /// The full name.
        id: String,
        /// The revision that was asked for.
        revision: String,
    },
    /// The Hub's model or data set lacks a file.
    #[error("{kind} `{id}` has no file `{file}` on the Hub")]
    NotInModel {
        /// Model or data set.
        kind: RepoKind,
        /// The full name.
        id: String,
        /// The file.
        file: String,
    },
    /// The authors ask for their terms to be accepted first.
    #[error("{kind} `{id}` is gated: {}", if *with_token { "the account of the token that was sent has no access" } else { "it needs a token, and none was found" })]
    Gated {
        /// Model or data set.
        kind: RepoKind,
        /// The full name.
        id: String,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The Hub does not know the token.
    #[error("{endpoint} does not accept the token that was sent")]
    TokenRefused {
        /// The Hub's address.
        endpoint: String,
    },
    /// Offline, and the cache does not have all of the model or data set.
    #[error("{kind} `{id}` at revision `{revision}` is not, or not wholly, in the cache `{}`, and `HF_HUB_OFFLINE` is set", cache.display())]
    NotCached {
        /// Model or data set.
        kind: RepoKind,
        /// The full name.
        id: String,
        /// The revision that was asked for.
        revision: String,
        /// The cache that was looked through.
        cache: PathBuf,
    },
    /// The Hub could not be reached, broke off, or gave an answer that makes no sense.
    #[error("network: {url}: {message}")]
    Network {
        /// What was asked for.
        url: String,
        /// What came instead.
        message: String,
    },
    /// A file came over the network with other contents than the Hub has. It was thrown away.
    #[error("{url} came damaged: its digest is {got}, expected {expected}")]
    DamagedDownload {
        /// What was asked for.
        url: String,
        /// The SHA-256 (64 digits), or git's SHA-1 (40 digits), that the Hub gives.
        expected: String,
        /// That of what came.
        got: String,
    },
    /// A file in the Hub's cache no longer has the contents it is named after.
    #[error("cached file `{}` is damaged: its digest is {got}, expected {expected}", path.display())]
    DamagedCache {
        /// The file among the cache's blobs.
        path: PathBuf,
        /// Its name: the SHA-256 (64 digits), or git's SHA-1 (40 digits), of what it should hold.
        expected: String,
        /// That of what it holds.
        got: String,
    },
    /// A file of a run folder is not as the stage that wrote it left it.
    #[error("`{}` was changed or removed since the stage `{stage}` wrote it", path.display())]
    ChangedFile {
        /// The file.
        path: PathBuf,
        /// The stage that wrote it.
        stage: Stage,
    },
    /// A file of a folder that is no run is not as it was left.
    #[error("`{}` was changed or removed since it was written", path.display())]
    ChangedFolder {
        /// The file.
        path: PathBuf,
    },
    /// A file was written into, or cut short, while it was read.
    #[error("`{}` was changed while it was read", path.display())]
    ChangedMeanwhile {
        /// The file.
        path: PathBuf,
    },
    /// A manifest cannot be read.
    #[error("`{}` cannot be used: {message}", path.display())]
    DamagedManifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
        /// Whether it is one of this program's, with nothing beside it but what this program writes.
        ours: bool,
    },
    /// A file was to be written among those of a folder that this program made.
    #[error("`{}` lies in `{}`, which holds {kind}", path.display(), folder.display())]
    InsideFolder {
        /// The file.
        path: PathBuf,
        /// The folder.
        folder: PathBuf,
        /// What it holds.
        kind: FolderKind,
    },
    /// Another process works on the run folder.
    #[error("`{}` is in use by another jumplens process", path.display())]
    Locked {
        /// The run folder.
        path: PathBuf,
    },
    /// Files of second-moment sums that do not add up to an experiment.
    #[error("`{}` cannot be used: {message}", path.display())]
    Shards {
        /// The file.
        path: PathBuf,
        /// The share that is missing, repeated or foreign.
        message: String,
    },
    /// Neither a bundled corpus nor a file that can be read as one.
    #[error(
        "no corpus `{name}`: it is neither a bundled corpus ({bundled}) nor a folder, nor does it end in `.txt`, `.jsonl`, `.parquet` or `.xml`, nor is it `hf://datasets/ORG/NAME`"
    )]
    UnknownCorpus {
        /// The name that was given.
        name: String,
        /// The bundled names, for the message.
        bundled: String,
    },
    /// `config.json`, or a tokenizer's, asks for something this crate does not do.
    #[error("`{}`: {message}", path.display())]
    Config {
        /// The configuration file.
        path: PathBuf,
        /// The field and its value.
        message: String,
    },
    /// The checkpoint lacks a tensor that the model needs.
    #[error("`{}` has no tensor `{tensor}` of shape {expected:?}", path.display())]
    MissingTensor {
        /// The weights file.
        path: PathBuf,
        /// The tensor's name as it stands in the checkpoint's spelling.
        tensor: String,
        /// The shape that `config.json` asks for.
        expected: Vec<usize>,
    },
    /// A tensor has a shape that does not follow from `config.json`.
    #[error("tensor `{tensor}` in `{}` has shape {got:?}, expected {expected:?}", path.display())]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The shape that was asked for.
        expected: Vec<usize>,
        /// The shape that is there.
        got: Vec<usize>,
    },
    /// A tensor's number format is not one of those that can be read.
    #[error("tensor `{tensor}` in `{}` has dtype {got}, expected one of F32, F16, BF16, F64, or in GGUF Q4_0 to Q8_0 and Q2_K to Q8_K", path.display())]
    TensorDtype {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// Its dtype.
        got: String,
    },
    /// A weight is NaN or an infinity, or too large for f32.
    #[error("tensor `{tensor}` in `{}` holds {}", path.display(), not_a_weight(*value))]
    WeightNotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// NaN, ±infinity, or what is too large.
        value: f64,
    },
    /// A text has a token that the model has no embedding for.
    #[error("token `{token}` of the tokenizer `{}` has the id {id}, and the model's embedding has {vocab_size} rows: {}",
        path.display(), if text.is_empty() { "no text can be run with it".to_owned() } else { format!("this text cannot be run: {text:?}") })]
    NoEmbedding {
        /// The tokenizer's file.
        path: PathBuf,
        /// The token.
        token: String,
        /// Its id.
        id: u32,
        /// Rows of the model's embedding.
        vocab_size: usize,
        /// The text that has it; empty where every text has.
        text: String,
    },
    /// A token id beyond the model's embedding.
    #[error("there is no token with the id {id}: the model's embedding has {vocab_size} rows")]
    NoSuchToken {
        /// The id.
        id: u32,
        /// Rows of the model's embedding.
        vocab_size: usize,
    },
    /// The tokenizer lacks a token that samples for masked models need.
    #[error("the tokenizer `{}` {what}", path.display())]
    SpecialToken {
        /// The tokenizer's file.
        path: PathBuf,
        /// What it lacks.
        what: SpecialToken,
    },
    /// A line of a samples file does not describe a sample this model can run.
    #[error("`{}` line {line}: {message}", path.display())]
    Sample {
        /// The samples file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        message: String,
    },
    /// What has to be UTF-8 is not.
    #[error("`{}` {place}: {message}", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The line, from 1, the row, from 0, or the byte of a dump's XML.
        place: String,
        /// From where on, or what it is instead.
        message: String,
    },
    /// A row of a corpus cannot be read.
    #[error("`{}` {place}: {message}", path.display())]
    CorpusRow {
        /// The file.
        path: PathBuf,
        /// The line, from 1, the row, from 0, or the byte.
        place: String,
        /// What is wrong with it.
        message: String,
    },
    /// A compressed file is damaged.
    #[error("`{}` is damaged at byte {offset}: {message}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Byte of the compressed file; for gzip and Zstandard, up to where it had been read.
        offset: u64,
        /// What is wrong.
        message: String,
    },
    /// A Parquet file lacks the column of texts, or a line of JSON the field.
    #[error("`{}`{} has no {} `{column}`; {}", path.display(), line.map_or(String::new(), |line| format!(" line {line}")), column_or_field(*line), offered(*line, others))]
    NoColumn {
        /// The file.
        path: PathBuf,
        /// The line of JSON, from 1.
        line: Option<usize>,
        /// The column or field that was asked for.
        column: String,
        /// Those that it has instead.
        others: Box<Others>,
    },
    /// A Parquet file has something else than texts in the column.
    #[error("`{}` is sound, but its column `{column}` is not one of strings: {is}; {}", path.display(), offered(None, others))]
    NotTexts {
        /// The file.
        path: PathBuf,
        /// The column that was asked for.
        column: String,
        /// What is in it.
        is: String,
        /// Those that it has instead.
        others: Box<Others>,
    },
    /// A sound file in a form that this crate does not read.
    #[error("`{}` is not read: {message}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it is, and what is read.
        message: String,
    },
    /// In the place of a file is what a version control system for large files leaves there until the file is fetched.
    #[error("`{}` is {pointer}, not the file that it stands for", path.display())]
    Pointer {
        /// The file.
        path: PathBuf,
        /// What it is.
        pointer: Pointer,
    },
    /// Fewer sentences stand in order than were asked for.
    #[error("`{name}` holds {have} usable sentences, but {wanted} were asked for")]
    TooFewInOrder {
        /// The corpus.
        name: String,
        /// What it has within the bounds.
        have: usize,
        /// Sentences asked for.
        wanted: usize,
    },
    /// Fewer sentences can be drawn than were asked for.
    #[error(
        "`{name}` gives {have} sentences from {documents} documents, but {} asked for",
        match (val, apart) {
            (0, _) => format!("{train} were"),
            (_, true) => format!("{train} for training and {val} for validation, with no document in both, were"),
            _ => format!("{train} for training and {val} for validation were"),
        }
    )]
    TooFewDrawn {
        /// The corpus.
        name: String,
        /// Different sentences within the bounds, as many of each document as may be drawn.
        have: usize,
        /// Documents that were looked at.
        documents: u64,
        /// Training sentences asked for, or all.
        train: usize,
        /// Validation sentences asked for.
        val: usize,
        /// Whether the two may share no document.
        apart: bool,
        /// Whether more sentences of each document could be drawn.
        has_more: bool,
    },
    /// A corpus or samples file without a single usable line.
    #[error("`{name}` holds no sentence")]
    EmptyCorpus {
        /// The corpus.
        name: String,
    },
    /// More sentences asked for than there are.
    #[error(
        "`{name}` holds {have} usable sentences, but {train} for training and {val} for validation were asked for"
    )]
    TooFewSentences {
        /// The corpus.
        name: String,
        /// What it has.
        have: usize,
        /// Training sentences asked for.
        train: usize,
        /// Validation sentences asked for.
        val: usize,
    },
    /// An option's value cannot be used.
    #[error("{0}")]
    Option(String),
    /// The output folder holds what was made before.
    #[error("`{}` holds {} ({what})", path.display(), if kind.is_run() { "a run already".to_owned() } else { format!("{kind} already") })]
    Occupied {
        /// The folder.
        path: PathBuf,
        /// What it holds.
        kind: FolderKind,
        /// Of what that was made.
        what: String,
    },
    /// A folder holds something else than what is wanted.
    #[error("`{}` holds {kind}, not {wanted}", path.display())]
    OtherKind {
        /// The folder.
        path: PathBuf,
        /// What it holds.
        kind: FolderKind,
        /// What is wanted.
        wanted: String,
    },
    /// The command that was to make a folder was stopped.
    #[error("`{}` was to hold {kind}, and was not finished", path.display())]
    Unfinished {
        /// The folder.
        path: PathBuf,
        /// What it was to hold.
        kind: FolderKind,
    },
    /// A stage is finished, and not to be done again.
    #[error("the stage `{stage}` of `{}` is done", path.display())]
    StageDone {
        /// The folder.
        path: PathBuf,
        /// What it holds.
        kind: FolderKind,
        /// The stage.
        stage: Stage,
    },
    /// A file that is to be written is there already.
    #[error("`{}` is there already", path.display())]
    FileExists {
        /// The file.
        path: PathBuf,
    },
    /// The output folder holds files that are not a run's.
    #[error("`{}` is not empty and not a run folder (it has no manifest.json)", path.display())]
    NotARun {
        /// The folder.
        path: PathBuf,
    },
    /// A folder that is to be read is not there.
    #[error("there is no folder `{}`", path.display())]
    NoFolder {
        /// The folder.
        path: PathBuf,
    },
    /// A stage that has to come first has not been run.
    #[error("`{}` has no finished stage `{stage}`, which {needed_by} needs", path.display())]
    StageMissing {
        /// The run folder.
        path: PathBuf,
        /// The stage that has to come first.
        stage: Stage,
        /// What was asked for.
        needed_by: &'static str,
    },
    /// A file is not the one the run began with.
    #[error("{what} is not what the run in `{}` began with", path.display())]
    Changed {
        /// The run folder.
        path: PathBuf,
        /// Which input changed.
        what: String,
    },
    /// Something was asked for that is not what the run has.
    #[error("{what} is {run} in the run in `{}`, and {here} here", path.display())]
    Differs {
        /// The run folder.
        path: PathBuf,
        /// What differs.
        what: String,
        /// What it is in the run.
        run: Box<str>,
        /// What was asked for.
        here: Box<str>,
    },
    /// A hidden state holds NaN or an infinity.
    #[error(
        "hidden state of layer {layer}, {split} sample {sample}, coordinate {coordinate} is {value}: f32 overflowed"
    )]
    NotFinite {
        /// `train` or `val`.
        split: &'static str,
        /// Layer, from 0.
        layer: usize,
        /// Sample, from 0.
        sample: usize,
        /// Coordinate, from 0.
        coordinate: usize,
        /// NaN or ±infinity.
        value: f32,
    },
    /// Maps that were fitted on another model, or lead to another kind of state.
    #[error("the maps in `{}` are not for this model: {what}", path.display())]
    ForeignShortcuts {
        /// Their file.
        path: PathBuf,
        /// What differs.
        what: String,
    },
    /// A cast that there are no maps for.
    #[error("no cast `{cast}`: there are {}", there.iter().map(|cast| format!("`{cast}`")).collect::<Vec<_>>().join(", "))]
    NoCast {
        /// The cast that was asked for.
        cast: Cast,
        /// The casts that can be had.
        there: Vec<Cast>,
    },
    /// Predictions were asked of a model without a head.
    #[error("the checkpoint of `{model}` has no language-model head, so it makes no predictions")]
    NoHead {
        /// The model's name or folder.
        model: String,
    },
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// A tensor operation failed: a bug in this crate.
    #[error("internal: {0}")]
    Tensor(#[from] candle_core::Error),
    /// A broken invariant: a bug in this crate.
    #[error("internal: {0}")]
    Internal(String),
}

/// The columns or fields of a file that might have been meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Others {
    /// Those that are texts, and can be read.
    pub texts: Vec<String>,
    /// Those that are lists of texts, which are not read.
    pub lists: Vec<String>,
}

/// What a value is that no weight can have.
fn not_a_weight(value: f64) -> String {
    match value {
        value if value.is_nan() => "NaN, which is no number".to_owned(),
        value if value.is_infinite() => format!("{} infinity", if value > 0.0 { "plus" } else { "minus" }),
        value => format!("{value:e}, which is too large for f32"),
    }
}

fn column_or_field(line: Option<usize>) -> &'static str {
    if line.is_some() { "field" } else { "column" }
}

/// Of a file's columns, or a line's fields: those that can be read.
fn offered(line: Option<usize>, Others { texts, lists }: &Others) -> String {
    const MOST: usize = 8;
    let names = |names: &[String]| {
        let first: Vec<String> = names.iter().take(MOST).map(|name| format!("`{name}`")).collect();
        format!("{}{}", first.join(", "), if names.len() > MOST { ", …" } else { "" })
    };
    let kind = column_or_field(line);
    let (whole, of) = if line.is_some() { ("the line", "with a text") } else { ("the file", "of strings") };
    let mut offered = match &texts[..] {
        [] => format!("{whole} has no {kind} {of}"),
        [one] => format!("{whole}'s one {kind} {of} is `{one}`"),
        more => format!("{whole}'s {kind}s {of} are {}", names(more)),
    };
    if !lists.is_empty() {
        offered += &format!(" (lists of strings, which are not read: {})", names(lists));
    }
    offered
}

impl Error {
    /// An [`Error::Io`] for `path`, to be used with `map_err`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { action, path, source }
    }

    /// An [`Error::Format`] for `path`, to be used with `map_err`.
    pub fn format<E: std::fmt::Display>(path: &Path) -> impl FnOnce(E) -> Error {
        let path = path.to_owned();
        move |error| Error::Format { path, message: error.to_string() }
    }

    /// True where the fault is this crate's own, and no other input would mend it for certain.
    pub fn is_bug(&self) -> bool {
        match self {
            Error::Tensor(_) | Error::Internal(_) => true,
            Error::Core(error) => {
                use CoreError::{Interrupted, NoSuchIsa, Threads};
                !matches!(error, NoSuchIsa { .. } | Threads { .. } | Interrupted)
            }
            _ => false,
        }
    }
}
