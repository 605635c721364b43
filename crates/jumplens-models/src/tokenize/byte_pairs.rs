//! `vocab.json` and `merges.txt`, the files of GPT-2's own tokenizer, as a `tokenizer.json`.

use super::class::MadeOf;
use super::settings::Settings;
use crate::error::{Error, Result};
use crate::files::SourceFile;
use serde_json::{Map, Value, json};

/// Where Qwen2 splits a text, of `Qwen2Converter` in `transformers`.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The tokenizer of a vocabulary, `{"token": id}`, and of the pairs that are merged, one a line, without anything put
/// around a text. [`Error::Format`] where one is damaged.
pub(super) fn tokenizer_json(
    vocabulary: &SourceFile,
    merges: &SourceFile,
    settings: &Settings,
) -> Result<Vec<u8>> {
    let kinds = [MadeOf::BytePairs, MadeOf::BytePairsInNfc, MadeOf::Qwen2BytePairs, MadeOf::RobertaBytePairs];
    settings.made_of(vocabulary, &kinds)?;
    let vocab: Map<String, Value> =
        serde_json::from_slice(vocabulary.bytes()).map_err(Error::format(&vocabulary.path))?;
    let pairs = std::str::from_utf8(merges.bytes()).map_err(Error::format(&merges.path))?;
    // Not `str::lines`: other characters that end a line in Unicode are tokens here, but `\r` before `\n` is not.
    let pairs: Vec<Vec<&str>> = pairs
        .split('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line))
        .enumerate()
        .filter(|(number, line)| !(line.is_empty() || *number == 0 && line.starts_with("#version")))
        .map(|(number, line)| match line.split(' ').collect::<Vec<_>>() {
            pair if pair.len() == 2 => Ok(pair),
            _ => Err(Error::format(&merges.path)(format!("line {} is not a pair: `{line}`", number + 1))),
        })
        .collect::<Result<_>>()?;
    let made_of = settings.class.made_of;
    let bytes = json!({
        "type": "ByteLevel", "trim_offsets": true, "use_regex": made_of != MadeOf::Qwen2BytePairs,
        "add_prefix_space": settings.is("add_prefix_space").unwrap_or(false),
    });
    let pre_tokenizer = match made_of {
        MadeOf::Qwen2BytePairs => {
            let split = json!({ "type": "Split", "pattern": { "Regex": QWEN2 }, "behavior": "Isolated", "invert": false });
            json!({ "type": "Sequence", "pretokenizers": [split, bytes] })
        }
        _ => bytes.clone(),
    };
    let in_nfc = matches!(made_of, MadeOf::Qwen2BytePairs | MadeOf::BytePairsInNfc);
    let tokenizer = json!({
        "version": "1.0",
        "normalizer": in_nfc.then(|| json!({ "type": "NFC" })),
        "pre_tokenizer": pre_tokenizer,
        "post_processor": bytes,
        "decoder": bytes,
        "model": {
            "type": "BPE", "continuing_subword_prefix": "", "end_of_word_suffix": "", "vocab": vocab, "merges": pairs,
        },
    });
    serde_json::to_vec(&tokenizer).map_err(|error| Error::Internal(error.to_string()))
}
