//! `vocab.json` and `merges.txt`, the files of GPT-2's own tokenizer, as a `tokenizer.json`.

use crate::error::{Error, Result};
use crate::hub::SourceFile;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// GPT-2's only special token.
const END_OF_TEXT: &str = "<|endoftext|>";

/// What `tokenizer_config.json` says of GPT-2's tokenizer; the defaults are those of `transformers`.
#[derive(Deserialize)]
#[serde(default)]
struct Config {
    add_prefix_space: bool,
    add_bos_token: bool,
    bos_token: Option<Token>,
    eos_token: Option<Token>,
    unk_token: Option<Token>,
}

impl Default for Config {
    fn default() -> Self {
        let token = || Some(Token::Plain(END_OF_TEXT.to_owned()));
        Self {
            add_prefix_space: false,
            add_bos_token: false,
            bos_token: token(),
            eos_token: token(),
            unk_token: token(),
        }
    }
}

/// A special token, in either of its two spellings.
#[derive(Deserialize)]
#[serde(untagged)]
enum Token {
    Plain(String),
    Added { content: String },
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::Plain(text) | Self::Added { content: text } => text,
        }
    }
}

/// The tokenizer of a vocabulary, `{"token": id}`, and of the pairs that are merged, one a line. [`Error::Format`] where
/// one is damaged, or the vocabulary lacks the token that is to begin every sentence.
pub(super) fn tokenizer_json(
    vocabulary: &SourceFile,
    merges: &SourceFile,
    config: Option<&SourceFile>,
) -> Result<Vec<u8>> {
    let vocab: Map<String, Value> =
        serde_json::from_slice(vocabulary.bytes()).map_err(Error::format(&vocabulary.path))?;
    let pairs = std::str::from_utf8(merges.bytes()).map_err(Error::format(&merges.path))?;
    let config: Config = match config {
        Some(file) => serde_json::from_slice(file.bytes()).map_err(Error::format(&file.path))?,
        None => Config::default(),
    };
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
    let mut special: Vec<&str> = [&config.bos_token, &config.eos_token, &config.unk_token]
        .into_iter()
        .flatten()
        .map(Token::text)
        .filter(|token| vocab.contains_key(*token))
        .collect();
    special.sort_unstable();
    special.dedup();
    let added: Vec<Value> = special
        .iter()
        .map(|token| {
            json!({
                "id": vocab[*token], "content": token, "special": true,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": true,
            })
        })
        .collect();
    let bytes = json!({
        "type": "ByteLevel", "add_prefix_space": config.add_prefix_space, "trim_offsets": true, "use_regex": true,
    });
    let post_processor = if config.add_bos_token {
        let bos = config.bos_token.as_ref().map_or(END_OF_TEXT, Token::text);
        let Some(id) = vocab.get(bos) else {
            let message = format!("no token `{bos}`, which is to begin every sentence");
            return Err(Error::format(&vocabulary.path)(message));
        };
        json!({
            "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": bos, "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [
                { "SpecialToken": { "id": bos, "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } },
                { "SpecialToken": { "id": bos, "type_id": 1 } }, { "Sequence": { "id": "B", "type_id": 1 } },
            ],
            "special_tokens": { bos: { "id": bos, "ids": [id], "tokens": [bos] } },
        })
    } else {
        bytes.clone()
    };
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": &bytes,
        "post_processor": post_processor,
        "decoder": bytes,
        "model": {
            "type": "BPE", "continuing_subword_prefix": "", "end_of_word_suffix": "", "vocab": vocab, "merges": pairs,
        },
    });
    serde_json::to_vec(&tokenizer).map_err(|error| Error::Internal(error.to_string()))
}
