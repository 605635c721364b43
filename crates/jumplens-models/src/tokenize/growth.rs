//! How long a text may become in a tokenizer's normalizer: a few steps that each put ten bytes in the place of one make
//! gigabytes of a sentence.

use crate::caught::caught;
use crate::error::{Error, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};
use tokenizers::{NormalizedString, Normalizer, NormalizerWrapper};

/// No step may make a text more than so many times as long, nor may all of them together, [`SPARE`] aside. Of Unicode's own
/// forms the one that grows most makes 11 bytes of one.
const MOST: f64 = 64.0;
/// Bytes that a text of any length may become.
const SPARE: usize = 64 << 10;
/// Bytes of the character of three bytes whose normal form is the longest (U+FDFA).
const LONGEST_CHARACTER: usize = 3;

/// A normalizer's steps, where they might together make a text too long; else none, since no text has to be looked at.
#[derive(Debug, Default)]
pub(super) struct Growth {
    path: PathBuf,
    steps: Vec<NormalizerWrapper>,
}

impl Growth {
    /// Of the tokenizer.json `json` in the file `path`. [`Error::Config`] where one of its steps may make a text too long by
    /// itself, or all of them make one of its added tokens too long.
    pub(super) fn read(path: &Path, json: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Parts {
            #[serde(default)]
            added_tokens: Vec<Added>,
            #[serde(default)]
            normalizer: Value,
            #[serde(default)]
            decoder: Value,
        }
        #[derive(Deserialize)]
        struct Added {
            content: String,
        }
        // What is wrong with the file is said by whoever reads all of it.
        let Ok(parts) = serde_json::from_slice::<Parts>(json) else { return Ok(Self::default()) };
        let factors = |part: &Value| -> Result<f64> {
            let factors: Vec<f64> = steps(part).into_iter().map(factor).collect();
            match factors.iter().find(|factor| **factor > MOST) {
                Some(factor) => {
                    Err(too_long(path, &format!("one of its steps can make one {factor:.0} times as long")))
                }
                None => Ok(factors.iter().product()),
            }
        };
        // Decoders get one token at a time.
        let decoded = factors(&parts.decoder)?;
        if decoded > MOST * MOST {
            return Err(too_long(path, &format!("its decoder can make a token {decoded:.0} times as long")));
        }
        if factors(&parts.normalizer)? <= MOST {
            return Ok(Self::default());
        }
        let read = |step: &Value| serde_json::from_value(step.clone()).map_err(Error::format(path));
        let steps = steps(&parts.normalizer).into_iter().map(read).collect::<Result<_>>()?;
        let growth = Self { path: path.to_owned(), steps };
        parts.added_tokens.iter().try_for_each(|token| growth.check(&token.content))?;
        Ok(growth)
    }

    /// [`Error::Config`] where `text` becomes too long.
    pub(super) fn check(&self, text: &str) -> Result<()> {
        let most = text.len().saturating_mul(MOST as usize).saturating_add(SPARE);
        let mut normalized = NormalizedString::from(text);
        for step in &self.steps {
            caught(&self.path, || step.normalize(&mut normalized))?;
            let length = normalized.get().len();
            if length > most {
                let message = format!("{} bytes became {length} after some of its steps", text.len());
                return Err(too_long(&self.path, &message));
            }
        }
        Ok(())
    }
}

fn too_long(path: &Path, what: &str) -> Error {
    let message = format!(
        "it makes texts too long: {what}, and {MOST} times and {} kB more is the most that is run",
        SPARE >> 10
    );
    Error::Config { path: path.to_owned(), message }
}

/// The steps of a normalizer or decoder, which may be sequences of others.
fn steps(part: &Value) -> Vec<&Value> {
    let inner = ["normalizers", "decoders"].iter().find_map(|name| part.get(name)?.as_array());
    match inner {
        Some(inner) => inner.iter().flat_map(steps).collect(),
        None if part.is_object() => vec![part],
        None => Vec::new(),
    }
}

/// How many times as long a step can make a text.
fn factor(step: &Value) -> f64 {
    let text = |value: &Value| value.as_str().map_or(0, str::len) as f64;
    if let (Some(pattern), Some(content)) = (step.get("pattern"), step.get("content")) {
        return match text(&pattern["String"]) {
            // An expression may match a single byte, and nothing at all before it.
            0.0 => 1.0 + text(content),
            replaced => (text(content) / replaced).max(1.0),
        };
    }
    if let Some(charsmap) = step.get("precompiled_charsmap").and_then(Value::as_str) {
        return longest_entry(charsmap) as f64 / LONGEST_CHARACTER as f64;
    }
    // Once a text, however short that is.
    1.0 + step.get("prepend").map_or(0.0, text) / 1024.0
}

/// The longest of the texts that SentencePiece's table puts in the place of others: behind the number of bytes of its trie,
/// and the trie, they stand with a zero after each.
fn longest_entry(charsmap: &str) -> usize {
    let table = STANDARD.decode(charsmap).unwrap_or_default();
    let Some((size, rest)) = table.split_first_chunk() else { return 0 };
    let texts = rest.get(u32::from_le_bytes(*size) as usize..).unwrap_or_default();
    texts.split(|byte| *byte == 0).map(<[u8]>::len).max().unwrap_or(0)
}
