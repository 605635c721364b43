//! GGUF, the files of llama.cpp, read as a Hugging Face folder would be: tensors under their Hugging Face
//! names and in that layout, a `config.json` and a `tokenizer.json`. Nothing outside this module knows
//! llama.cpp's names.

mod architecture;
mod config;
pub(crate) mod convert;
mod header;
mod keys;
mod quant;
mod tokenizer;
pub(crate) mod write;

pub(crate) use architecture::{Architecture, Place};
pub(crate) use config::config;
pub(crate) use header::{Header, Type};
pub(crate) use quant::Quant;
pub(crate) use tokenizer::{chat, tokenizer_json};

use crate::error::Result;
use crate::fields::AllowUnread;
use crate::files::SourceFile;
use std::path::Path;

/// True for the path of a GGUF file.
pub(crate) fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gguf")
}

/// What the user of the file should know of its metadata. [`Error::Unread`](crate::Error::Unread) where a key of
/// the model changes what it computes, and is neither read nor `allowed`; keys of the tokenizer stop nobody who does
/// without it.
pub(crate) fn notes(file: &SourceFile, allowed: &AllowUnread) -> Result<Vec<String>> {
    let header = Header::read(file)?;
    let mut notes = keys::check_model(&header, Architecture::of(&header)?, allowed)?;
    notes.extend(tokenizer::notes(&header, allowed).into_iter().flatten());
    Ok(notes)
}
