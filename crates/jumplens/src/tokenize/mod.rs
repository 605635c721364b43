//! Sentences to samples: token ids, each with one chosen position.

mod byte_pairs;
mod word_piece;

use crate::caught::caught;
use crate::corpus::{HowMany, in_random_order};
use crate::error::{Error, Result};
use crate::gguf;
use crate::hub::TokenizerFiles;
use crate::models::{Kind, Spec};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use tokenizers::{TruncationDirection, TruncationParams, TruncationStrategy};

/// One tokenised sentence with one chosen position: a line of `samples/*.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Token ids of the whole sentence as the model gets them: for masked models, `[MASK]` in its place.
    pub ids: Vec<u32>,
    /// The chosen position, from 0.
    pub position: usize,
    /// The true token: for causal models the one after the position, where the sentence has one; for masked models the
    /// one that was there before `[MASK]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<u32>,
    /// The sentence, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl Sample {
    /// The ids that have to be run for the state at the chosen position.
    pub fn ids_to_run(&self, kind: Kind) -> &[u32] {
        match kind {
            Kind::Causal => &self.ids[..=self.position],
            Kind::Masked => &self.ids,
        }
    }

    /// True where `other`, a sample next to this one, is of the same sentence: the two have the same tokens, in masked
    /// models but for `[MASK]` in the place of their targets.
    pub fn is_of_the_same_sentence(&self, other: &Self, kind: Kind) -> bool {
        let token = |sample: &Self, at: usize| match sample.target {
            Some(target) if kind == Kind::Masked && at == sample.position => target,
            _ => sample.ids[at],
        };
        self.ids.len() == other.ids.len() && (0..self.ids.len()).all(|at| token(self, at) == token(other, at))
    }
}

/// Which positions of a sentence are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Positions {
    /// How many, at random; all where a sentence has no more.
    pub how_many: HowMany,
    /// So many tokens at the beginning are never chosen: where models park attention, states are like no others.
    pub skip_first: usize,
}

impl Default for Positions {
    /// One, anywhere.
    fn default() -> Self {
        Self { how_many: HowMany::Number(1), skip_first: 0 }
    }
}

impl fmt::Display for Positions {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.how_many {
            HowMany::Number(1) => f.write_str("one random position a sentence")?,
            HowMany::Number(n) => write!(f, "{n} random positions a sentence")?,
            HowMany::All => f.write_str("every position of a sentence")?,
        }
        match self.skip_first {
            0 => Ok(()),
            1 => f.write_str(", the first token left out"),
            n => write!(f, ", the first {n} tokens left out"),
        }
    }
}

impl Positions {
    /// True for one position anywhere.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The token that masked models are to guess behind.
const MASK: &str = "[MASK]";

/// The largest share of an embedding's rows that may be without a token.
const MOST_SPARE_ROWS: f64 = 0.04;

/// A tokenizer that fits a model.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    kind: Kind,
    mask: Option<u32>,
}

impl Tokenizer {
    /// Opens the tokenizer of a model. `mask` says whether, for masked models, `[MASK]` takes the place of the token at
    /// the chosen position.
    ///
    /// [`Error::Vocabulary`] where it has ids that the model has no embedding for, or far fewer than the model has
    /// embeddings for; [`Error::SpecialToken`] where a masked
    /// model's tokenizer has no `[MASK]` or does not put `[CLS]` and `[SEP]` around a sentence.
    pub fn open(files: &TokenizerFiles, spec: &Spec, mask: bool) -> Result<Self> {
        let path = files.path().to_owned();
        let json = match files {
            TokenizerFiles::Json(file) => Cow::Borrowed(file.bytes()),
            TokenizerFiles::BytePairs { vocabulary, merges, config } => {
                Cow::Owned(byte_pairs::tokenizer_json(vocabulary, merges, config.as_ref())?)
            }
            TokenizerFiles::WordPiece { vocabulary, config } => {
                Cow::Owned(word_piece::tokenizer_json(vocabulary, config.as_ref())?)
            }
            TokenizerFiles::Gguf(file) => Cow::Owned(gguf::tokenizer_json(file)?),
        };
        let mut inner = caught(&path, || tokenizers::Tokenizer::from_bytes(json))?;
        let largest = inner.get_vocab(true).values().copied().max().unwrap_or(0);
        // Embeddings are padded with some rows that no token has; many such rows are another model's tokenizer.
        let spare = spec.vocab_size as f64 - f64::from(largest) - 1.0;
        if !(0.0..=MOST_SPARE_ROWS * spec.vocab_size as f64).contains(&spare) {
            return Err(Error::Vocabulary { path, largest, vocab_size: spec.vocab_size });
        }
        // Padding and the longest sequence are this crate's own business, whatever the file says.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(Error::format(&path))?;
        let mut tokenizer = Self { inner, path, kind: spec.kind, mask: None };
        let special = tokenizer.encode("")?.len();
        if special >= spec.max_positions {
            return Err(Error::Option(format!(
                "the model takes {} tokens at most, and the tokenizer adds {special} to every sentence",
                spec.max_positions
            )));
        }
        let longest = TruncationParams {
            max_length: spec.max_positions,
            direction: TruncationDirection::Right,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        };
        tokenizer.inner.with_truncation(Some(longest)).map_err(Error::format(&tokenizer.path))?;
        if spec.kind == Kind::Masked {
            let missing = |what: &'static str| Error::SpecialToken { path: tokenizer.path.clone(), what };
            if special < 2 {
                return Err(missing("puts no `[CLS]` and `[SEP]` around a sentence"));
            }
            let id = tokenizer.inner.token_to_id(MASK);
            tokenizer.mask = mask.then(|| id.ok_or_else(|| missing("has no token `[MASK]`"))).transpose()?;
        }
        Ok(tokenizer)
    }

    /// The tokenizer of the model `id`, as [`open`](Self::open) opens it; [`Error::Io`] names the file to put there where
    /// there is none.
    pub fn of_model(files: Option<&TokenizerFiles>, id: &str, spec: &Spec, mask: bool) -> Result<Self> {
        let missing = || Error::Io {
            action: "read",
            path: Path::new(id).join("tokenizer.json"),
            source: std::io::ErrorKind::NotFound.into(),
        };
        Self::open(files.ok_or_else(missing)?, spec, mask)
    }

    /// Token ids of `text` with those that the tokenizer puts around it, cut within them at the model's longest sequence.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = caught(&self.path, || self.inner.encode_fast(text, true))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// What a token stands for in a text, with the white space before it where that is part of it: of a token that is
    /// less than a character, `\u{fffd}`.
    pub fn text_of(&self, id: u32) -> String {
        match self.inner.id_to_token(id) {
            // SentencePiece's mark of a space, which decoders take from the first token.
            Some(token) if token.starts_with('▁') => token.replace('▁', " "),
            Some(token) => caught(&self.path, || self.inner.decode(&[id], false)).unwrap_or(token),
            None => id.to_string(),
        }
    }

    /// The tokens that are put around every sentence, in order.
    pub fn special_tokens(&self) -> Result<Vec<String>> {
        let name = |id: &u32| self.inner.id_to_token(*id).unwrap_or_else(|| id.to_string());
        Ok(self.encode("")?.iter().map(name).collect())
    }

    /// The samples of sentence number `index` of the corpus, by rising position: which positions they are, anywhere in the
    /// sequence behind those that are skipped, depends on the seed, the index and the sentence alone. None where the
    /// sentence has no such position.
    pub fn samples(&self, text: &str, index: u64, seed: u64, positions: Positions) -> Result<Vec<Sample>> {
        self.samples_of(text, self.encode(text)?, index, seed, positions)
    }

    /// As [`Tokenizer::samples`], of a sentence whose token ids are known.
    pub(crate) fn samples_of(
        &self,
        text: &str,
        ids: Vec<u32>,
        index: u64,
        seed: u64,
        positions: Positions,
    ) -> Result<Vec<Sample>> {
        let Positions { how_many, skip_first } = positions;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(index);
        let mut chosen = Vec::new();
        in_random_order(ids.len().saturating_sub(skip_first), how_many.limit(), &mut rng, |position| {
            chosen.push(skip_first + position);
            Ok(true)
        })?;
        chosen.sort_unstable();
        let sample = |position: usize| {
            let mut ids = ids.clone();
            let target = match self.kind {
                Kind::Causal => ids.get(position + 1).copied(),
                Kind::Masked => Some(ids[position]),
            };
            if let Some(mask) = self.mask {
                ids[position] = mask;
            }
            Sample { ids, position, target, text: Some(text.to_owned()) }
        };
        Ok(chosen.into_iter().map(sample).collect())
    }
}

/// Reads a samples file: JSON lines `{"ids": [...], "position": p}`, `target` and `text` optional; blank lines are
/// passed over. For causal models a missing `target` is the id after the position. Each line is checked against the
/// model: [`Error::Sample`] names the first that cannot be run.
pub fn read_samples(path: &Path, spec: &Spec) -> Result<Vec<Sample>> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let mut samples = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let fail = |message: String| Error::Sample { path: path.to_owned(), line: index + 1, message };
        let mut sample: Sample =
            serde_json::from_str(line).map_err(|error| fail(format!("not a sample: {error}")))?;
        check(&sample, spec).map_err(fail)?;
        if spec.kind == Kind::Causal && sample.target.is_none() {
            sample.target = sample.ids.get(sample.position + 1).copied();
        }
        samples.push(sample);
    }
    if samples.is_empty() {
        return Err(Error::EmptyCorpus { name: path.display().to_string() });
    }
    Ok(samples)
}

fn check(sample: &Sample, spec: &Spec) -> Result<(), String> {
    let Sample { ids, position, target, .. } = sample;
    if *position >= ids.len() {
        return Err(format!("position {position} is beyond the sample's {} tokens", ids.len()));
    }
    let run = sample.ids_to_run(spec.kind).len();
    if run > spec.max_positions {
        return Err(format!("{run} tokens to run, but the model takes {} at most", spec.max_positions));
    }
    match ids.iter().chain(target).find(|id| **id as usize >= spec.vocab_size) {
        Some(id) => Err(format!("token id {id} is outside the model's vocabulary of {}", spec.vocab_size)),
        None => Ok(()),
    }
}

/// Writes a samples file.
pub fn write_samples(path: &Path, samples: &[Sample]) -> Result<()> {
    crate::files::write_with(path, |writer| {
        samples.iter().try_for_each(|sample| {
            serde_json::to_writer(&mut *writer, sample)?;
            writer.write_all(b"\n")
        })
    })
}
