//! Sentences to samples: token ids, each with one chosen position.

mod adapt;
mod byte_pairs;
mod charsmap;
mod chat;
mod class;
mod growth;
mod settings;
mod word_piece;

use crate::caught::caught;
use crate::error::{Error, Result, SpecialToken};
use crate::files::{Found, next_line};
use crate::gguf;
use crate::hub::{TokenizerFiles, Vocabulary};
use crate::words::{HowMany, Kind, Spec, in_random_order};
use adapt::adapt;
use chat::Chat;
use growth::Growth;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use settings::Settings;
use std::borrow::Cow;
use std::fmt;
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use tokenizers::{TruncationDirection, TruncationParams, TruncationStrategy};

pub use crate::words::Sample;

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
    /// The positions that are chosen of sentence number `index`, which has so many `tokens`, rising. They depend on these
    /// numbers and the seed alone.
    pub fn chosen(self, tokens: usize, index: u64, seed: u64) -> Result<Vec<usize>> {
        let Self { how_many, skip_first } = self;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(index);
        let mut chosen = Vec::new();
        in_random_order(tokens.saturating_sub(skip_first), how_many.limit(), &mut rng, |position| {
            chosen.push(skip_first + position);
            Ok::<_, Error>(true)
        })?;
        chosen.sort_unstable();
        Ok(chosen)
    }

    /// True for one position anywhere.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The token that masked models are to guess behind, where the tokenizer's files name no other.
const MASK: &str = "[MASK]";

/// The largest share of an embedding's rows that may be without a token before a user is told.
const MANY_SPARE_ROWS: f64 = 0.04;

/// No line of a samples file may have more bytes.
const LONGEST_SAMPLE: usize = 16 << 20;

/// Characters of a text that a message quotes.
const LONGEST_QUOTE: usize = 120;

/// A tokenizer with the model whose texts it is for.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    growth: Growth,
    path: PathBuf,
    kind: Kind,
    vocab_size: usize,
    mask: Option<u32>,
    /// What masked models guess behind, whether or not it takes the place of tokens.
    mask_token: Option<u32>,
    chat: Chat,
    notes: Vec<String>,
}

impl Tokenizer {
    /// Opens the tokenizer of a model. `mask` says whether, for masked models, `[MASK]` takes the place of the token at
    /// the chosen position.
    ///
    /// [`Error::Unread`] where its files ask for what is not read here; [`Error::NoEmbedding`] where it puts a token
    /// around every text that the model has no embedding for; [`Error::SpecialToken`] where a masked
    /// model's tokenizer has no `[MASK]` or does not put `[CLS]` and `[SEP]` around a sentence.
    pub fn open(files: &TokenizerFiles, spec: &Spec, mask: bool) -> Result<Self> {
        let path = files.path().to_owned();
        let read = || Settings::read(files, spec.family);
        let (json, settings) = match &files.vocabulary {
            Vocabulary::Json(file) => (Cow::Borrowed(file.bytes()), Some(read()?)),
            Vocabulary::BytePairs { vocabulary, merges } => {
                let settings = read()?;
                (Cow::Owned(byte_pairs::tokenizer_json(vocabulary, merges, &settings)?), Some(settings))
            }
            Vocabulary::WordPiece(file) => {
                let settings = read()?;
                (Cow::Owned(word_piece::tokenizer_json(file, &settings)?), Some(settings))
            }
            Vocabulary::Gguf(file) => (Cow::Owned(gguf::tokenizer_json(file, &files.allow_unread)?), None),
        };
        let is_json = matches!(files.vocabulary, Vocabulary::Json(_));
        charsmap::check(&json).map_err(Error::format(&path))?;
        let growth = if is_json { Growth::read(&path, &json)? } else { Growth::default() };
        let mut inner = caught(&path, || tokenizers::Tokenizer::from_bytes(json))?;
        // Padding and the longest sequence are this crate's own business, whatever the file says.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(Error::format(&path))?;
        let mask_token =
            settings.as_ref().and_then(|settings| settings.special("mask_token")).unwrap_or(MASK);
        let mask_is_there = inner.token_to_id(mask_token).is_some()
            || settings.as_ref().is_some_and(|settings| settings.adds(mask_token));
        let unnamed = settings.as_ref().map_or_else(Vec::new, |settings| settings.unnamed(&inner));
        let mut notes = match &settings {
            Some(settings) => adapt(&mut inner, settings, &path, is_json, &growth, &files.allow_unread)?,
            None => Vec::new(),
        };
        let chat = chat_of(files, settings.as_ref())?;
        notes.extend(vocabulary_note(&inner, spec.vocab_size, &unnamed));
        let vocab_size = spec.vocab_size;
        let mut tokenizer = Self {
            inner,
            growth,
            path,
            kind: spec.kind,
            vocab_size,
            mask: None,
            mask_token: None,
            chat,
            notes,
        };
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
            let missing = |what| Error::SpecialToken { path: tokenizer.path.clone(), what };
            if special < 2 {
                return Err(missing(SpecialToken::Around));
            }
            // A class adds one that is in no file behind the vocabulary, where it was never trained.
            let id = tokenizer.inner.token_to_id(mask_token).filter(|_| mask_is_there);
            tokenizer.mask_token = id;
            tokenizer.mask = mask.then(|| id.ok_or_else(|| missing(SpecialToken::Mask))).transpose()?;
            tokenizer.check(tokenizer.mask.as_slice(), "")?;
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

    /// What its user should know, one line each, such as where its tokens are not those of `tokenizer.json` alone.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Token ids of `text` with those that the tokenizer puts around it, cut within them at the model's longest sequence.
    /// [`Error::NoEmbedding`] where the model has none for one of them; [`Error::Config`] where the tokenizer makes
    /// the text more than 64 times as long.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encoded(text, true)
    }

    /// As [`encode`](Self::encode), without the tokens that the tokenizer puts around a text.
    pub fn encode_bare(&self, text: &str) -> Result<Vec<u32>> {
        self.encoded(text, false)
    }

    fn encoded(&self, text: &str, with_special: bool) -> Result<Vec<u32>> {
        self.growth.check(text)?;
        let encoding = caught(&self.path, || self.inner.encode_fast(text, with_special))?;
        self.check(encoding.get_ids(), text)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// A chat as the text that the model was trained on, as far as to where its answer begins: what the tokenizer's template
    /// makes of `messages`, a list of objects with `role` and `content`. [`Error::Option`] where there is no template,
    /// [`Error::Config`] where it does not take them.
    pub fn chat(&self, messages: &serde_json::Value) -> Result<String> {
        self.chat.render(messages)
    }

    /// The token that a masked model guesses behind.
    pub fn mask_token(&self) -> Option<u32> {
        self.mask_token
    }

    /// Fails where the model has no embedding for one of the tokens of `text`.
    fn check(&self, ids: &[u32], text: &str) -> Result<()> {
        match ids.iter().find(|id| **id as usize >= self.vocab_size) {
            None => Ok(()),
            Some(&id) => Err(Error::NoEmbedding {
                path: self.path.clone(),
                token: self.inner.id_to_token(id).unwrap_or_default(),
                id,
                vocab_size: self.vocab_size,
                text: shortened(text),
            }),
        }
    }

    /// As [`encode`](Self::encode), or where not `with_special` [`encode_bare`](Self::encode_bare), and how many tokens were cut
    /// off.
    pub fn encode_cut(&self, text: &str, with_special: bool) -> Result<(Vec<u32>, usize)> {
        let ids = self.encoded(text, with_special)?;
        if self.inner.get_truncation().is_none_or(|longest| ids.len() < longest.max_length) {
            return Ok((ids, 0));
        }
        // Tokens behind the end are not made, so that they have to be made to be counted.
        let mut uncut = self.inner.clone();
        uncut.with_truncation(None).map_err(Error::format(&self.path))?;
        let whole = caught(&self.path, || uncut.encode_fast(text, with_special))?.len();
        let cut = whole.saturating_sub(ids.len());
        Ok((ids, cut))
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
    pub fn samples_of(
        &self,
        text: &str,
        ids: Vec<u32>,
        index: u64,
        seed: u64,
        positions: Positions,
    ) -> Result<Vec<Sample>> {
        let chosen = positions.chosen(ids.len(), index, seed)?;
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

/// What renders chats: chat_template.jinja comes before what tokenizer_config.json says.
fn chat_of(files: &TokenizerFiles, settings: Option<&Settings>) -> Result<Chat> {
    if let Vocabulary::Gguf(file) = &files.vocabulary {
        let (template, special) = gguf::chat(file)?;
        return Ok(Chat { path: file.path.clone(), template, special });
    }
    let special = settings.map(Settings::specials).unwrap_or_default();
    let (path, template) = match (&files.chat_template, &files.config) {
        (Some(file), _) => {
            // Only chats take it: it stops nobody else.
            (&file.path, Some(String::from_utf8_lossy(file.bytes()).into_owned()))
        }
        (None, Some(config)) => (&config.path, Chat::of_config(config)?),
        (None, None) => (&files.files()[0].path, None),
    };
    Ok(Chat { path: path.clone(), template, special })
}

/// The beginning of a text, for a message.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(LONGEST_QUOTE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// What there is to say where a tokenizer and an embedding of `rows` rows do not have the same size; but for the tokens
/// that are `unnamed` in any file.
fn vocabulary_note(inner: &tokenizers::Tokenizer, rows: usize, unnamed: &[String]) -> Option<String> {
    let mut vocab = inner.get_vocab(true);
    vocab.retain(|token, _| !unnamed.contains(token));
    let largest = vocab.values().copied().max()? as usize;
    let mut beyond: Vec<(&u32, &String)> =
        vocab.iter().map(|(token, id)| (id, token)).filter(|(id, _)| **id as usize >= rows).collect();
    beyond.sort_unstable();
    let names =
        beyond.iter().take(3).map(|(id, token)| format!("`{token}` ({id})")).collect::<Vec<_>>().join(", ");
    let size = format!("the tokenizer has ids up to {largest}, and the model's embedding has {rows} rows");
    match beyond.len() {
        0 if (rows - largest - 1) as f64 <= MANY_SPARE_ROWS * rows as f64 => None,
        0 => Some(format!(
            "{size}: {} of them are of no token. So it is where rows were added for padding, and with the tokenizer of \
             another model",
            rows - largest - 1
        )),
        1 => Some(format!("{size}, none for {names}: a text that has it cannot be run")),
        n => Some(format!(
            "{size}, none for {n} of its tokens, {names}{}: a text that has one of them cannot be run",
            if n > 3 { ", …" } else { "" }
        )),
    }
}

/// Reads a samples file: JSON lines `{"ids": [...], "position": p}`, `target` and `text` optional; blank lines are
/// passed over. For causal models a missing `target` is the id after the position. Each line is checked against the
/// model, where there is one: [`Error::Sample`] names the first that cannot be run, or is longer than 16 MB, [`Error::NotUtf8`] one that is no text.
pub fn read_samples<'a>(path: &Path, spec: impl Into<Option<&'a Spec>>) -> Result<Vec<Sample>> {
    let spec = spec.into();
    let mut reader = BufReader::with_capacity(1 << 18, crate::files::open(path)?);
    let (mut samples, mut line, mut ended_by_cr) = (Vec::new(), Vec::new(), false);
    for number in 1.. {
        let fail = |message: String| Error::Sample { path: path.to_owned(), line: number, message };
        let found = next_line(&mut reader, &mut line, &mut ended_by_cr, LONGEST_SAMPLE);
        match found.map_err(Error::io("read", path))? {
            Found::Line => {}
            Found::End => break,
            Found::TooLong => return Err(fail(format!("longer than {} MB", LONGEST_SAMPLE >> 20))),
        }
        let line = std::str::from_utf8(&line).map_err(|error| Error::NotUtf8 {
            path: path.to_owned(),
            place: format!("line {number}"),
            message: format!("not UTF-8 from byte {} of the line on", error.valid_up_to()),
        })?;
        if line.trim().is_empty() {
            continue;
        }
        let mut sample: Sample =
            serde_json::from_str(line).map_err(|error| fail(format!("not a sample: {error}")))?;
        check(&sample, spec).map_err(fail)?;
        if spec.is_some_and(|spec| spec.kind == Kind::Causal) && sample.target.is_none() {
            sample.target = sample.ids.get(sample.position + 1).copied();
        }
        samples.push(sample);
    }
    if samples.is_empty() {
        return Err(Error::EmptyCorpus { name: path.display().to_string() });
    }
    Ok(samples)
}

fn check(sample: &Sample, spec: Option<&Spec>) -> Result<(), String> {
    let Sample { ids, position, target, .. } = sample;
    if *position >= ids.len() {
        return Err(format!("position {position} is beyond the sample's {} tokens", ids.len()));
    }
    let Some(spec) = spec else { return Ok(()) };
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
