//! What the fuzz targets share: an input becomes files, which are read as the program reads a user's. Whatever they hold,
//! there is a value or an error that is not a bug of jumplens.

#[path = "../../crates/jumplens/tests/common/counting.rs"]
mod counting;
mod small_run;

pub use counting::{bound, limit};
pub use small_run::{begin, sources};


use jumplens::hub::{ModelFiles, Sources, TokenizerFiles};
use jumplens::models::{Transformer, Kind, Spec, load};
use jumplens::nn::Precision;
use jumplens::progress::Silent;
use jumplens::seal::seal;
use jumplens::states::run_samples;
use jumplens::tokenize::{Sample, Tokenizer};
use jumplens::weights::Weights;
use jumplens::{Error, Result, panics_are_caught};
use std::fs;
use std::panic;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

/// One folder for all inputs of a process.
static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    // A panic that becomes an error is no find.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if !panics_are_caught() {
            hook(panic);
        }
    }));
    tempfile::tempdir().expect("a folder for temporary files")
});

/// The folder with exactly these `files`, by name.
pub fn folder(files: &[(&str, &[u8])]) -> PathBuf {
    let folder = FOLDER.path();
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("the folder can be read").path();
        let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        removed.expect("files can be removed");
    }
    for (name, bytes) in files {
        // What is wrong with a file is to be found behind its digest too.
        let mut bytes = bytes.to_vec();
        seal(&mut bytes);
        fs::write(folder.join(name), bytes).expect("files can be written");
    }
    folder.to_owned()
}

/// What stands between two files of an input; `seeds.py` has it too.
pub const NEXT: &[u8] = b"\n=====\n";

/// The files of an input.
pub fn parts(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    while let Some(at) = bytes.windows(NEXT.len()).position(|window| window == NEXT) {
        parts.push(&bytes[..at]);
        bytes = &bytes[at + NEXT.len()..];
    }
    parts.push(bytes);
    parts
}

/// Adds an input to those that `target` starts from: one that jumplens itself writes.
pub fn seed(target: &str, name: &str, bytes: &[u8]) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let written = fs::create_dir_all(&corpus).and_then(|()| fs::write(corpus.join(name), bytes));
    written.expect("seeds can be written");
}

/// What came out well.
#[track_caller]
pub fn sound<T>(result: Result<T>) -> Option<T> {
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

/// Reads all that there is to read of the model at `path`, a folder or a GGUF file, and runs a few tokens.
pub fn read(path: &Path) {
    let name = path.to_str().expect("temporary folders have plain names");
    let Some(files) = sound(ModelFiles::find(name, &Sources::default(), &Silent)) else { return };
    if let Some(weights) = sound(Weights::open(&files.weights)) {
        sound(files.index.as_ref().map_or(Ok(()), |index| weights.check(index)));
        read_tensors(&weights);
    }
    let model = sound(load(&files, Precision::F32)).map(|loaded| loaded.model);
    if let Some(model) = &model {
        run(model);
    }
    if let Some(tokenizer) = &files.tokenizer {
        read_tokenizer(tokenizer, model.as_ref().map(|model| model.spec()));
    }
}

/// Every tensor, in whichever shape it has.
fn read_tensors(weights: &Weights<'_>) {
    let root = weights.below("");
    for name in weights.names() {
        // A shape that no tensor has says which one it has.
        let Err(Error::TensorShape { got, .. }) = weights.read(&root.tensor(name, &[77; 9])) else {
            panic!("{name} has an absurd shape")
        };
        sound(weights.read(&root.tensor(name, &got)));
    }
}

fn run(model: &Transformer) {
    let Spec { vocab_size, max_positions, .. } = *model.spec();
    let ids: Vec<u32> = (0..5).take(vocab_size.min(max_positions)).collect();
    if let Some(position) = ids.len().checked_sub(1) {
        let sample = Sample { ids, position, target: None, text: None };
        sound(run_samples(model, &[sample], false));
    }
}

/// A model of one layer, which takes any tokenizer of `vocab_size` tokens.
pub fn spec(kind: Kind, vocab_size: usize) -> Spec {
    Spec {
        family: if kind == Kind::Causal { "llama" } else { "bert" },
        kind,
        n_layers: 1,
        d_model: 1,
        n_heads: 1,
        vocab_size,
        max_positions: 64,
        parts: &[],
    }
}

/// The tokenizer, on a model of that `spec`, or of as many tokens as any tokenizer has.
pub fn read_tokenizer(files: &TokenizerFiles, known: Option<&Spec>) {
    let spec = known.cloned().unwrap_or_else(|| spec(Kind::Causal, u32::MAX as usize));
    let opened = Tokenizer::open(files, &spec, false);
    if let Some(tokenizer) = sound(opened) {
        for text in ["", " a the then 漢\n12 e\u{301}"] {
            sound(tokenizer.encode(text));
        }
    }
}
