//! `vocab.txt`, the vocabulary of BERT's own tokenizer, as a `tokenizer.json`.

use crate::error::{Error, Result};
use crate::hub::SourceFile;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// What `tokenizer_config.json` says of BERT's tokenizer; the defaults are those of `transformers`.
#[derive(Deserialize)]
#[serde(default)]
struct Config {
    do_lower_case: bool,
    tokenize_chinese_chars: bool,
    strip_accents: Option<bool>,
}

impl Default for Config {
    fn default() -> Self {
        Self { do_lower_case: true, tokenize_chinese_chars: true, strip_accents: None }
    }
}

/// The tokenizer of a vocabulary of one token a line, the line's number its id. [`Error::Format`] where it is not UTF-8,
/// or lacks one of the tokens that no sentence can be encoded without.
pub(super) fn tokenizer_json(vocabulary: &SourceFile, config: Option<&SourceFile>) -> Result<Vec<u8>> {
    let fail = Error::format(&vocabulary.path);
    let text = std::str::from_utf8(vocabulary.bytes());
    let text = match text {
        Ok(text) => text,
        Err(error) => return Err(fail(error.to_string())),
    };
    let Config { do_lower_case, tokenize_chinese_chars, strip_accents } = match config {
        Some(file) => serde_json::from_slice(file.bytes()).map_err(Error::format(&file.path))?,
        None => Config::default(),
    };
    let vocab: Map<String, Value> =
        text.lines().enumerate().map(|(id, token)| (token.trim_end().to_owned(), id.into())).collect();
    if let Some(missing) = ["[UNK]", "[CLS]", "[SEP]"].into_iter().find(|token| !vocab.contains_key(*token)) {
        return Err(fail(format!("no line `{missing}`, which a WordPiece vocabulary has")));
    }
    let special =
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].into_iter().filter(|t| vocab.contains_key(*t));
    let added: Vec<Value> = special
        .map(|token| {
            json!({
                "id": vocab[token], "content": token, "special": true,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })
        })
        .collect();
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": tokenize_chinese_chars,
            "strip_accents": strip_accents, "lowercase": do_lower_case,
        },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": {
            "type": "BertProcessing", "sep": ["[SEP]", vocab["[SEP]"]], "cls": ["[CLS]", vocab["[CLS]"]],
        },
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab,
        },
    });
    serde_json::to_vec(&tokenizer).map_err(|error| Error::Internal(error.to_string()))
}
