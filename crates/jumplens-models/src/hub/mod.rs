//! From a model's or corpus's name to its files: bundled with the program, in a folder, or on the Hugging Face Hub.

mod cache;
mod remote;
mod shards;
mod tokenizer;

pub use remote::{DataSetFiles, Hub, HubName};
pub use shards::ShardIndex;
pub use tokenizer::{TokenizerFiles, Vocabulary};

use crate::error::{Error, Result};
use crate::fields::AllowUnread;
pub use crate::files::SourceFile;
pub use crate::words::RepoKind;

use crate::files::sha256;
use crate::gguf;
use crate::progress::Observer;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A model whose files are compiled into the program.
#[derive(Debug, Clone, Copy)]
pub struct BundledModel {
    /// The name it goes by.
    pub name: &'static str,
    /// `config.json`.
    pub config: &'static [u8],
    /// `model.safetensors`.
    pub weights: &'static [u8],
    /// `tokenizer.json`.
    pub tokenizer: &'static [u8],
}

/// A corpus that is compiled into the program.
#[derive(Debug, Clone, Copy)]
pub struct BundledCorpus {
    /// The name it goes by.
    pub name: &'static str,
    /// One sentence a line, UTF-8.
    pub sentences: &'static str,
}

/// What the program brings along. The library itself brings nothing: see the crate `jumplens-assets`.
#[derive(Debug, Clone, Default)]
pub struct Bundled {
    /// The models, the default first.
    pub models: Vec<BundledModel>,
    /// The corpora, the default first.
    pub corpora: Vec<BundledCorpus>,
}

/// Where the names of models are looked up.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// What the program brings along.
    pub bundled: Bundled,
    /// The Hugging Face Hub and its cache; `None` leaves it out.
    pub hub: Option<Hub>,
    /// Fields of a model's files that may go unread although they change what it computes.
    pub allow_unread: BTreeSet<String>,
}

/// The files of one model.
#[derive(Debug)]
pub struct ModelFiles {
    /// The bundled name, the folder that was asked for, or the full name on the Hub.
    pub id: String,
    /// The commit that the files are from, where they are from the Hub.
    pub revision: Option<String>,
    /// `config.json`, or the GGUF file that says what is in one: [`ModelFiles::config_json`] reads either.
    pub config: SourceFile,
    /// `model.safetensors`, or `pytorch_model.bin` where that is not there; several where a checkpoint is in shards.
    pub weights: Vec<SourceFile>,
    /// What says which tensor is in which shard, where there are shards.
    pub index: Option<ShardIndex>,
    /// Its tokenizer, where there is one: samples given as token ids need none.
    pub tokenizer: Option<TokenizerFiles>,
    /// Which fields of these files may go unread, and which did.
    pub allow_unread: AllowUnread,
}

/// The files that weights may be in, those that are preferred first.
pub(crate) const WEIGHTS: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

impl ModelFiles {
    /// The token that the model's configuration calls BOS, where it names one.
    pub fn bos(&self) -> Result<Option<u32>> {
        let id = if gguf::is_gguf(&self.config.path) {
            gguf::Header::read(&self.config)?.natural("tokenizer.ggml.bos_token_id")?
        } else {
            self.config_json()?["bos_token_id"].as_u64()
        };
        Ok(id.and_then(|id| u32::try_from(id).ok()))
    }

    /// The model's configuration under Hugging Face's field names. [`Error::Format`] where the file cannot be read;
    /// [`Error::Config`] where a GGUF file is of a model that is not supported.
    pub fn config_json(&self) -> Result<serde_json::Value> {
        if gguf::is_gguf(&self.config.path) {
            return gguf::config(&self.config);
        }
        serde_json::from_slice(self.config.bytes()).map_err(Error::format(&self.config.path))
    }

    /// True where the files are compiled into the program.
    pub fn is_bundled(&self) -> bool {
        self.config.is_bundled()
    }

    /// Lower-case hexadecimal SHA-256 of the weights; of several files, of their digests one after another.
    pub fn weights_sha256(&self) -> String {
        match &self.weights[..] {
            [file] => file.sha256(),
            files => sha256(files.iter().map(SourceFile::sha256).collect::<String>().as_bytes()),
        }
    }

    /// All of them, each once (a GGUF file is all in one): the configuration, the weights, then the tokenizer's.
    pub fn all(&self) -> Vec<&SourceFile> {
        let index = self.index.as_ref().map(|index| &index.file);
        let tokenizer = self.tokenizer.iter().flat_map(TokenizerFiles::files);
        let mut files: Vec<&SourceFile> =
            [&self.config].into_iter().chain(index).chain(&self.weights).chain(tokenizer).collect();
        files.dedup_by_key(|file| &file.path);
        files
    }

    /// Finds `name`: a bundled model, a `.gguf` file, a folder in Hugging Face layout (`config.json`, the weights, and
    /// where sentences are to be tokenised the tokenizer), or else `name[@revision]` on the Hub, which fetches what is not in its cache.
    ///
    /// [`Error::UnknownModel`] where it is none of these; for a name of the Hub see [`Hub`].
    pub fn find(name: &str, sources: &Sources, observer: &dyn Observer) -> Result<Self> {
        let allow_unread = AllowUnread::new(&sources.allow_unread);
        let mut files = Self::locate(name, sources, observer)?;
        if let Some(tokenizer) = &mut files.tokenizer {
            tokenizer.allow_unread = allow_unread.clone();
        }
        Ok(Self { allow_unread, ..files })
    }

    fn locate(name: &str, sources: &Sources, observer: &dyn Observer) -> Result<Self> {
        let bundled = &sources.bundled;
        if let Some(model) = bundled.models.iter().find(|model| model.name == name) {
            let file = |part: &str, bytes| SourceFile::bundled(format!("{name}/{part}"), bytes);
            return Ok(Self {
                id: name.to_owned(),
                revision: None,
                config: file("config.json", model.config),
                weights: vec![file("model.safetensors", model.weights)],
                index: None,
                tokenizer: Some(Vocabulary::Json(file("tokenizer.json", model.tokenizer)).into()),
                allow_unread: AllowUnread::default(),
            });
        }
        let folder = Path::new(name);
        if folder.is_dir() {
            return Self::in_folder(folder);
        }
        if gguf::is_gguf(folder) {
            let file = SourceFile::open(folder)?;
            return Ok(Self {
                id: name.to_owned(),
                revision: None,
                config: file.clone(),
                weights: vec![file.clone()],
                index: None,
                tokenizer: Some(Vocabulary::Gguf(file).into()),
                allow_unread: AllowUnread::default(),
            });
        }
        if let (Some(hub), Some(name)) = (&sources.hub, HubName::parse(name)) {
            return hub.find(&name, observer);
        }
        let bundled = bundled.models.iter().map(|m| format!("`{}`", m.name)).collect::<Vec<_>>().join(", ");
        Err(Error::UnknownModel { name: name.to_owned(), bundled })
    }

    /// The files of a folder in Hugging Face layout.
    fn in_folder(folder: &Path) -> Result<Self> {
        let config = SourceFile::open(&folder.join("config.json"))?;
        // A link to nowhere is a file that is missing, and is said to be.
        let is_there = |path: &PathBuf| path.exists() || path.is_symlink();
        let Some(weights) = WEIGHTS.map(|file| folder.join(file)).into_iter().find(is_there) else {
            return Err(Error::NoWeights { place: folder.display().to_string() });
        };
        let (index, weights) = if weights.extension().is_some_and(|extension| extension == "json") {
            let index = ShardIndex::open(&weights)?;
            let shards = index.open_shards()?;
            (Some(index), shards)
        } else {
            (None, vec![SourceFile::open(&weights)?])
        };
        let mut tokenizer = TokenizerFiles::find(folder)?;
        if let Some(tokenizer) = &mut tokenizer {
            // What else is wrong with the file is said where the model is loaded.
            let config = serde_json::from_slice::<serde_json::Value>(config.bytes()).unwrap_or_default();
            tokenizer.class = config["tokenizer_class"].as_str().map(str::to_owned);
        }
        Ok(Self {
            id: folder.display().to_string(),
            revision: None,
            config,
            weights,
            index,
            tokenizer,
            allow_unread: AllowUnread::default(),
        })
    }
}
