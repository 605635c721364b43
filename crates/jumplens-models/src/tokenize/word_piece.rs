//! `vocab.txt`, the vocabulary of BERT's own tokenizer, as a `tokenizer.json`.

use super::class::MadeOf;
use super::settings::Settings;
use crate::error::{Error, Result};
use crate::files::SourceFile;
use serde_json::{Map, Value, json};

/// The tokenizer of a vocabulary of one token a line, the line's number its id, without anything put around a text.
/// [`Error::Format`] where it is not UTF-8, or lacks the token that stands for what it does not have.
pub(super) fn tokenizer_json(vocabulary: &SourceFile, settings: &Settings) -> Result<Vec<u8>> {
    settings.made_of(vocabulary, &[MadeOf::WordPieces])?;
    let fail = Error::format(&vocabulary.path);
    let text = match std::str::from_utf8(vocabulary.bytes()) {
        Ok(text) => text,
        Err(error) => return Err(fail(error.to_string())),
    };
    let vocab: Map<String, Value> =
        text.lines().enumerate().map(|(id, token)| (token.to_owned(), id.into())).collect();
    let Some(unknown) = settings.special("unk_token") else {
        let message = "there is no `unk_token`, which a WordPiece vocabulary has".to_owned();
        return Err(Error::Config { path: settings.path.clone(), message });
    };
    if !vocab.contains_key(unknown) {
        return Err(fail(format!("no line `{unknown}`, which stands for what a WordPiece vocabulary lacks")));
    }
    let tokenizer = json!({
        "version": "1.0",
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true,
            "handle_chinese_chars": settings.is("tokenize_chinese_chars"),
            "strip_accents": settings.is("strip_accents"), "lowercase": settings.is("do_lower_case"),
        },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "model": {
            "type": "WordPiece", "unk_token": unknown, "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab,
        },
    });
    serde_json::to_vec(&tokenizer).map_err(|error| Error::Internal(error.to_string()))
}
