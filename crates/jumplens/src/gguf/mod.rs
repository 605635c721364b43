//! GGUF, the files of llama.cpp, read as a Hugging Face folder would be: tensors under their Hugging Face
//! names and in that layout, a `config.json` and a `tokenizer.json`. Nothing outside this module knows
//! llama.cpp's names.

mod architecture;
mod config;
mod header;
mod quant;
mod tokenizer;

pub(crate) use architecture::Architecture;
pub(crate) use config::config;
pub(crate) use header::{Header, Type};
pub(crate) use quant::Quant;
pub(crate) use tokenizer::tokenizer_json;

use std::path::Path;

/// True for the path of a GGUF file.
pub(crate) fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gguf")
}
