//! What the fuzz targets share: an input becomes files, which are read as `jumplens info` and `jumplens samples` read a
//! model's. Whatever they hold, there is a model or an error that is not a bug of jumplens.

use jumplens::hub::{ModelFiles, Sources, TokenizerFiles};
use jumplens::models::{Kind, Spec, load_with_contents};
use jumplens::nn::Precision;
use jumplens::progress::Silent;
use jumplens::shortcut::Foreign;
use jumplens::tokenize::Tokenizer;
use jumplens::weights::Weights;
use jumplens::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// One folder for all inputs of a process.
static FOLDER: LazyLock<tempfile::TempDir> =
    LazyLock::new(|| tempfile::tempdir().expect("a folder for temporary files"));

/// The folder with exactly these `files`, by name.
pub fn folder(files: &[(&str, &[u8])]) -> PathBuf {
    let folder = FOLDER.path();
    for entry in fs::read_dir(folder).expect("the folder is there") {
        fs::remove_file(entry.expect("the folder can be read").path()).expect("files can be removed");
    }
    for (name, bytes) in files {
        fs::write(folder.join(name), bytes).expect("files can be written");
    }
    folder.to_owned()
}

/// What came out well.
#[track_caller]
fn sound<T>(result: Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) if error.is_bug() => panic!("{error}"),
        Err(error) => {
            // Messages are written from what the file says.
            let _ = error.to_string();
            None
        }
    }
}

/// Reads all that there is to read of the model at `path`: a folder or a GGUF file.
pub fn read(path: &Path) {
    let name = path.to_str().expect("temporary folders have plain names");
    let Some(files) = sound(ModelFiles::find(name, &Sources::default(), &Silent)) else { return };
    if let Some(weights) = sound(Weights::open(&files.weights)) {
        sound(files.index.as_ref().map_or(Ok(()), |index| weights.check(index)));
        read_tensors(&weights);
    }
    let model = sound(load_with_contents(&files, Precision::F32)).map(|(loaded, _)| loaded.model);
    if let Some(tokenizer) = &files.tokenizer {
        read_tokenizer(tokenizer, model.as_ref().map(|model| model.spec()));
    }
}

/// Reads a file of maps as `jumplens shortcuts import` does.
pub fn read_maps(path: &Path) {
    sound(Foreign::read(path));
}

/// Every tensor, in whichever shape it has.
fn read_tensors(weights: &Weights<'_>) {
    let root = weights.below("");
    for name in weights.names() {
        // A shape that no tensor has says which one it has.
        let Err(Error::TensorShape { got, .. }) = root.tensor(name, &[77; 9]) else {
            panic!("{name} has an absurd shape")
        };
        sound(root.tensor(name, &got));
    }
}

/// The tokenizer, on a model of that `spec`, or of as many tokens as the tokenizer has.
fn read_tokenizer(files: &TokenizerFiles, spec: Option<&Spec>) {
    let mut spec = spec.cloned().unwrap_or(Spec {
        family: "llama",
        kind: Kind::Causal,
        n_layers: 1,
        d_model: 1,
        n_heads: 1,
        vocab_size: 0,
        max_positions: 64,
        parts: &[],
    });
    let mut opened = Tokenizer::open(files, &spec, false);
    if let Err(Error::Vocabulary { largest, .. }) = opened {
        spec.vocab_size = largest as usize + 1;
        opened = Tokenizer::open(files, &spec, false);
    }
    if let Some(tokenizer) = sound(opened) {
        for text in ["", " a the then 漢\n12 e\u{301}"] {
            sound(tokenizer.encode(text));
        }
    }
}
