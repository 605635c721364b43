//! From a model's or corpus's name to its files: bundled with the program, or on disk.

use crate::error::{Error, Result};
use crate::files::sha256;
use crate::gguf;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

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

/// A file that has been opened, wherever it came from. Clones share the file and its digest.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// Its path, or for a bundled file its name in the bundle.
    pub path: PathBuf,
    bytes: Bytes,
    sha256: Arc<OnceLock<String>>,
}

#[derive(Debug, Clone)]
enum Bytes {
    Static(&'static [u8]),
    Mapped(Arc<memmap2::Mmap>),
}

impl SourceFile {
    /// Opens a file on disk.
    pub fn open(path: &Path) -> Result<Self> {
        let file = std::fs::File::open(path).map_err(Error::io("read", path))?;
        // SAFETY: the map is read-only; like every reader of mapped weights it relies on nobody cutting the file
        // short while it is being read, which is over once the model is loaded.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io("read", path))?;
        Ok(Self { path: path.to_owned(), bytes: Bytes::Mapped(Arc::new(map)), sha256: Arc::default() })
    }

    /// A bundled file.
    pub fn bundled(path: impl Into<PathBuf>, bytes: &'static [u8]) -> Self {
        Self { path: path.into(), bytes: Bytes::Static(bytes), sha256: Arc::default() }
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Static(bytes) => bytes,
            Bytes::Mapped(map) => map,
        }
    }

    /// Lower-case hexadecimal SHA-256 of all of it.
    pub fn sha256(&self) -> String {
        self.sha256.get_or_init(|| sha256(self.bytes())).clone()
    }
}

/// The files of a tokenizer.
#[derive(Debug)]
pub enum TokenizerFiles {
    /// `tokenizer.json`.
    Json(SourceFile),
    /// BERT's own.
    WordPiece {
        /// `vocab.txt`: one token a line.
        vocabulary: SourceFile,
        /// `tokenizer_config.json`, which says whether text is lower-cased.
        config: Option<SourceFile>,
    },
    /// A GGUF file, which has the tokenizer in its metadata.
    Gguf(SourceFile),
}

impl TokenizerFiles {
    /// The files in `folder`, where it has any.
    fn find(folder: &Path) -> Result<Option<Self>> {
        let open = |name: &str| {
            let path = folder.join(name);
            path.exists().then(|| SourceFile::open(&path)).transpose()
        };
        if let Some(file) = open("tokenizer.json")? {
            return Ok(Some(Self::Json(file)));
        }
        let Some(vocabulary) = open("vocab.txt")? else { return Ok(None) };
        Ok(Some(Self::WordPiece { vocabulary, config: open("tokenizer_config.json")? }))
    }

    /// The path of the file that has the vocabulary.
    pub fn path(&self) -> &Path {
        match self {
            Self::Json(file) | Self::Gguf(file) => &file.path,
            Self::WordPiece { vocabulary, .. } => &vocabulary.path,
        }
    }

    /// Lower-case hexadecimal SHA-256 of `tokenizer.json`, of the GGUF file, or of `vocab.txt` with `tokenizer_config.json`
    /// behind it.
    pub fn sha256(&self) -> String {
        match self {
            Self::Json(file) | Self::Gguf(file) => file.sha256(),
            Self::WordPiece { vocabulary, config } => {
                let config = config.as_ref().map_or(&[][..], SourceFile::bytes);
                sha256(&[vocabulary.bytes(), config].concat())
            }
        }
    }
}

/// The files of one model.
#[derive(Debug)]
pub struct ModelFiles {
    /// The name or folder that was asked for.
    pub id: String,
    /// `config.json`, or the GGUF file that says what is in one: [`ModelFiles::config_json`] reads either.
    pub config: SourceFile,
    /// `model.safetensors`, or `pytorch_model.bin` where that is not there; several where a checkpoint is in shards.
    pub weights: Vec<SourceFile>,
    /// Its tokenizer, where there is one: samples given as token ids need none.
    pub tokenizer: Option<TokenizerFiles>,
}

impl ModelFiles {
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
        matches!(self.config.bytes, Bytes::Static(_))
    }

    /// Lower-case hexadecimal SHA-256 of the weights; of several files, of their digests one after another.
    pub fn weights_sha256(&self) -> String {
        match &self.weights[..] {
            [file] => file.sha256(),
            files => sha256(files.iter().map(SourceFile::sha256).collect::<String>().as_bytes()),
        }
    }

    /// Finds `name`: a bundled model, a `.gguf` file, or a folder in Hugging Face layout (`config.json`, `model.safetensors` or
    /// `pytorch_model.bin`, and where sentences are to be tokenised `tokenizer.json`, or BERT's `vocab.txt`).
    pub fn find(name: &str, bundled: &Bundled) -> Result<Self> {
        if let Some(model) = bundled.models.iter().find(|model| model.name == name) {
            let file = |part: &str, bytes| SourceFile::bundled(format!("{name}/{part}"), bytes);
            return Ok(Self {
                id: name.to_owned(),
                config: file("config.json", model.config),
                weights: vec![file("model.safetensors", model.weights)],
                tokenizer: Some(TokenizerFiles::Json(file("tokenizer.json", model.tokenizer))),
            });
        }
        let folder = Path::new(name);
        if gguf::is_gguf(folder) && !folder.is_dir() {
            let file = SourceFile::open(folder)?;
            return Ok(Self {
                id: name.to_owned(),
                config: file.clone(),
                weights: vec![file.clone()],
                tokenizer: Some(TokenizerFiles::Gguf(file)),
            });
        }
        if !folder.is_dir() {
            let bundled =
                bundled.models.iter().map(|m| format!("`{}`", m.name)).collect::<Vec<_>>().join(", ");
            return Err(Error::UnknownModel { name: name.to_owned(), bundled });
        }
        let config = SourceFile::open(&folder.join("config.json"))?;
        let weights = ["model.safetensors", "pytorch_model.bin"].map(|file| folder.join(file));
        let Some(weights) = weights.iter().find(|path| path.exists()) else {
            return Err(Error::NoWeights { folder: folder.to_owned() });
        };
        Ok(Self {
            id: name.to_owned(),
            config,
            weights: vec![SourceFile::open(weights)?],
            tokenizer: TokenizerFiles::find(folder)?,
        })
    }
}
