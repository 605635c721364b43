//! The prompts that derivatives are taken on.

use crate::corpus::{Corpus, CorpusRecord, DrawOptions, Reading};
use crate::files::{absolute, hexadecimal, sha256};
use crate::hub::{ModelFiles, Sources};
use crate::manifest::SourceRecord;
use crate::models::Spec;
use crate::progress::{Observer, check};
use crate::tokenize::Tokenizer;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// The first positions of a prompt, where many models park attention: they are no part of the means.
pub const SKIPPED: usize = 16;

/// Tokens of the shortest prompt: of one position that is neither skipped nor the last.
pub const SHORTEST: usize = SKIPPED + 2;

/// Tokens of a sentence that prompts are made of, at least.
const SENTENCE: usize = 16;

/// Where prompts come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromptSource {
    /// Sentences of a corpus, one behind the other up to so many tokens each.
    Corpus {
        /// What [`Corpus::open`] takes.
        name: String,
        /// How it is read.
        reading: Reading,
        /// How many prompts.
        prompts: usize,
        /// Tokens of each.
        tokens: usize,
        /// The seed of the draw, where sentences are drawn.
        seed: u64,
    },
    /// A file of lines `{"ids": […]}`: prompts of [`SHORTEST`] tokens or more run as they are, shorter ones are passed over.
    Ids(PathBuf),
}

/// What is known of prompts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptsRecord {
    /// The corpus that they are made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corpus: Option<CorpusRecord>,
    /// The file that they are in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<SourceRecord>,
    /// How many there are.
    pub prompts: usize,
    /// How many were too short.
    pub skipped: usize,
    /// SHA-256 of their tokens.
    pub sha256: String,
}

impl PromptsRecord {
    fn new(prompts: &[Vec<u32>], skipped: usize) -> Self {
        let sha256 = digest_of(prompts);
        Self { corpus: None, file: None, prompts: prompts.len(), skipped, sha256 }
    }

    /// The corpus's or file's name, and its digest.
    pub fn source(&self) -> Option<(&str, &str)> {
        let corpus = self.corpus.as_ref().map(|corpus| (&*corpus.id, &*corpus.sha256));
        corpus.or(self.file.as_ref().map(|file| (&*file.id, &*file.sha256)))
    }
}

/// SHA-256 of the tokens of prompts.
pub(crate) fn digest_of(prompts: &[Vec<u32>]) -> String {
    let mut digest = Sha256::new();
    for ids in prompts {
        digest.update((ids.len() as u64).to_le_bytes());
        ids.iter().for_each(|id| digest.update(id.to_le_bytes()));
    }
    hexadecimal(&digest.finalize())
}

/// Makes the prompts, or reads them.
pub(super) fn prompts(
    source: &PromptSource,
    files: &ModelFiles,
    spec: &Spec,
    sources: &Sources,
    observer: &dyn Observer,
) -> Result<(Vec<Vec<u32>>, PromptsRecord)> {
    match source {
        PromptSource::Ids(path) => read(path, spec),
        PromptSource::Corpus { name, reading, prompts, tokens, seed } => {
            if *prompts == 0 || !(SHORTEST..=spec.max_positions).contains(tokens) {
                return Err(Error::Option(format!(
                    "{prompts} prompts of {tokens} tokens: there has to be a prompt, and of {SHORTEST} to {} tokens, which is \
                     what the first {SKIPPED} positions leave and the model takes",
                    spec.max_positions
                )));
            }
            let tokenizer = Tokenizer::of_model(files.tokenizer.as_ref(), &files.id, spec, false)?;
            tokenizer.notes().iter().for_each(|note| observer.note(note));
            let corpus = Corpus::open(name, reading, *seed, sources, observer)?;
            let options = DrawOptions { min_tokens: Some(SENTENCE), ..DrawOptions::default() };
            let count = |text: &str| Ok(tokenizer.encode(text)?.len());
            let wanted = prompts.saturating_mul(tokens.div_ceil(SENTENCE - 1));
            let drawn = corpus.sentences(wanted, &options, *seed, Some(&count), observer)?;
            let (mut made, mut text) = (Vec::new(), String::new());
            for sentence in drawn.train {
                check(observer)?;
                if !text.is_empty() {
                    text.push(' ');
                }
                text.push_str(sentence.text.trim());
                let mut ids = tokenizer.encode(&text)?;
                if ids.len() >= *tokens {
                    ids.truncate(*tokens);
                    made.push(ids);
                    text.clear();
                }
                if made.len() == *prompts {
                    break;
                }
            }
            if made.len() < *prompts {
                return Err(Error::Option(format!(
                    "{wanted} sentences of `{name}` make {} prompts of {tokens} tokens, and {prompts} are asked for",
                    made.len()
                )));
            }
            let record = PromptsRecord { corpus: Some(drawn.record), ..PromptsRecord::new(&made, 0) };
            Ok((made, record))
        }
    }
}

/// A line of a file of prompts; whatever else it has is passed over, so that files of samples are read too.
#[derive(Deserialize)]
struct Line {
    ids: Vec<u32>,
}

fn read(path: &Path, spec: &Spec) -> Result<(Vec<Vec<u32>>, PromptsRecord)> {
    let text = crate::files::read_to_string(path)?;
    let (mut prompts, mut skipped) = (Vec::new(), 0);
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let fail = |message: String| Error::Sample { path: path.to_owned(), line: index + 1, message };
        let Line { ids } = serde_json::from_str(line)
            .map_err(|error| fail(format!("not a prompt, `{{\"ids\": […]}}`: {error}")))?;
        if let Some(id) = ids.iter().find(|id| **id as usize >= spec.vocab_size) {
            return Err(fail(format!(
                "token id {id} is outside the model's vocabulary of {}",
                spec.vocab_size
            )));
        }
        if ids.len() > spec.max_positions {
            let most = spec.max_positions;
            return Err(fail(format!("{} tokens, but the model takes {most} at most", ids.len())));
        }
        if ids.len() < SHORTEST {
            skipped += 1;
        } else {
            prompts.push(ids);
        }
    }
    if prompts.is_empty() {
        return Err(Error::Option(format!(
            "`{}` has no prompt of {SHORTEST} tokens or more ({skipped} are shorter): the first {SKIPPED} positions and the \
             last are no part of the means",
            path.display()
        )));
    }
    let id = absolute(&path.display().to_string());
    let file = SourceRecord { id, sha256: sha256(text.as_bytes()) };
    let record = PromptsRecord { file: Some(file), ..PromptsRecord::new(&prompts, skipped) };
    Ok((prompts, record))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{Kind, PRE_NORM_PARTS};

    #[test]
    fn short_prompts_are_counted_and_impossible_ones_named() {
        let spec = Spec {
            family: "toy",
            kind: Kind::Causal,
            n_layers: 1,
            d_model: 1,
            n_heads: 1,
            vocab_size: 100,
            max_positions: 30,
            parts: PRE_NORM_PARTS,
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompts.jsonl");
        let line = |n: u32| format!("{{\"ids\": {:?}, \"position\": 0}}\n", (0..n).collect::<Vec<u32>>());
        let read_lines = |lines: &str| {
            std::fs::write(&path, lines).unwrap();
            read(&path, &spec)
        };
        let (prompts, record) = read_lines(&[line(17), line(18), "\n".into(), line(30)].concat()).unwrap();
        assert_eq!(prompts.iter().map(Vec::len).collect::<Vec<_>>(), [18, 30]);
        assert_eq!((record.prompts, record.skipped), (2, 1));
        for (lines, says) in [
            (line(31), "31 tokens, but the model takes 30"),
            (line(17), "no prompt of 18 tokens or more (1 are shorter)"),
            ("{\"ids\": [100]}\n".to_owned(), "token id 100 is outside"),
            ("[1, 2]\n".to_owned(), "not a prompt"),
        ] {
            let message = read_lines(&lines).unwrap_err().to_string();
            assert!(message.contains(says), "{message}");
        }
    }
}
