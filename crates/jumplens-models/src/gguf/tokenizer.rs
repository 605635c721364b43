//! The tokenizer of a GGUF file as a `tokenizer.json`: byte-level BPE, or SentencePiece's BPE with its merges
//! recovered.

use super::architecture::Architecture;
use super::header::Header;
use super::keys;
use crate::error::{Error, Result};
use crate::fields::AllowUnread;
use crate::files::SourceFile;
use serde_json::{Map, Value, json};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

/// Of `tokenizer.ggml.token_type`: an ordinary token, the unknown one, one with a meaning of its own, one
/// that a user added.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// How many tokens may stand for themselves in a text: the largest known vocabularies have a few thousand.
const MOST_ADDED: usize = 20_000;

/// The longest piece in characters, for which every way to cut it in two is looked at. SentencePiece's own
/// limit is 16 if nothing else is asked for.
const LONGEST_PIECE: usize = 512;

/// How Llama 3 splits a text before its merges.
pub(super) const LLAMA3_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How Qwen 2 and 3 do: each digit by itself.
pub(super) const QWEN2_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The token that Llama 3's texts begin with, which no other vocabulary has.
const LLAMA3_BEGIN: &str = "<|begin_of_text|>";

/// As many marks of a space as the longest token of nothing but spaces has, and more.
const MARKS: &str = "▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁";

/// The `tokenizer.json` that says the same. [`Error::Config`] where the kind of tokenizer or its way to split
/// a text is not known; [`Error::Format`] where the parts do not fit together; [`Error::Unread`] where a key that
/// changes the tokens is neither read nor `allowed`.
pub(crate) fn tokenizer_json(file: &SourceFile, allowed: &AllowUnread) -> Result<Vec<u8>> {
    let header = Header::read(file)?;
    keys::check_tokenizer(&header, allowed)?;
    let vocabulary = Vocabulary::read(&header)?;
    let tokenizer = match header.text("tokenizer.ggml.model")? {
        Some("gpt2") => byte_level(&header, &vocabulary, allowed)?,
        Some("llama") => sentence_piece(&header, &vocabulary)?,
        Some(other) => {
            return Err(header.unsupported(format!(
                "the tokenizer `{other}` (`tokenizer.ggml.model`) is not supported; `gpt2` and `llama` are"
            )));
        }
        None => return Err(header.damaged("no tokenizer (`tokenizer.ggml.model`) in its metadata")),
    };
    serde_json::to_vec(&tokenizer).map_err(|error| Error::Internal(error.to_string()))
}

/// The template of chats, where the file has one, and the special tokens by the names that templates have for them.
pub(crate) fn chat(file: &SourceFile) -> Result<(Option<String>, BTreeMap<String, String>)> {
    let header = Header::read(file)?;
    let tokens = header.texts("tokenizer.ggml.tokens")?.unwrap_or_default();
    let mut special = BTreeMap::new();
    for (name, key) in [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")] {
        let id = header.natural(&format!("tokenizer.ggml.{key}_token_id")).unwrap_or_default();
        if let Some(token) = id.and_then(|id| tokens.get(usize::try_from(id).ok()?)) {
            special.insert(format!("{name}_token"), (*token).to_owned());
        }
    }
    // Only chats take it: one that is no text stops nobody else.
    let template = header.text("tokenizer.chat_template").unwrap_or_default();
    Ok((template.map(str::to_owned), special))
}

/// The tokens and what each is.
struct Vocabulary<'a> {
    tokens: Vec<&'a str>,
    types: Vec<i32>,
    ids: HashMap<&'a str, usize>,
}

impl<'a> Vocabulary<'a> {
    fn read(header: &Header<'a>) -> Result<Self> {
        let Some(mut tokens) = header.texts("tokenizer.ggml.tokens")? else {
            return Err(header.damaged("no `tokenizer.ggml.tokens` in its metadata"));
        };
        let mut types =
            header.i32s("tokenizer.ggml.token_type")?.unwrap_or_else(|| vec![NORMAL; tokens.len()]);
        if types.len() != tokens.len() {
            return Err(header.damaged(format!(
                "{} tokens, but {} types of tokens",
                tokens.len(),
                types.len()
            )));
        }
        if Architecture::of(header)? == Architecture::Gemma3 {
            // As transformers has it, whose Gemma merges them like any others.
            for (token, kind) in tokens.iter_mut().zip(&mut types) {
                let is_spaces = token.len() > 1 && token.bytes().all(|byte| byte == b' ');
                if let Some(marks) = MARKS.get(..token.len() * '▁'.len_utf8()).filter(|_| is_spaces) {
                    (*token, *kind) = (marks, NORMAL);
                }
            }
        }
        let mut ids = HashMap::with_capacity(tokens.len());
        for (id, token) in tokens.iter().enumerate() {
            match ids.entry(*token) {
                Entry::Vacant(free) => _ = free.insert(id),
                Entry::Occupied(taken) => {
                    return Err(header.damaged(format!("tokens {} and {id} are both {token:?}", taken.get())));
                }
            }
        }
        Ok(Self { tokens, types, ids })
    }

    /// `vocab` of the model.
    fn json(&self) -> Map<String, Value> {
        self.tokens.iter().enumerate().map(|(id, token)| ((*token).to_owned(), id.into())).collect()
    }

    /// `added_tokens`: what a text is searched for before anything else is done to it.
    fn added(&self, header: &Header<'_>) -> Result<Vec<Value>> {
        let added: Vec<Value> = (0..self.tokens.len())
            .filter(|id| matches!(self.types[*id], UNKNOWN | CONTROL | USER_DEFINED))
            .map(|id| {
                json!({
                    "id": id, "content": self.tokens[id], "special": self.types[id] != USER_DEFINED,
                    "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                })
            })
            .collect();
        if added.len() > MOST_ADDED {
            return Err(header.unsupported(format!(
                "{} tokens that stand for themselves are not supported; up to {MOST_ADDED} are",
                added.len()
            )));
        }
        Ok(added)
    }

    /// The token whose id is at `key`.
    fn named(&self, header: &Header<'_>, key: &str, default: Option<u64>) -> Result<Option<&'a str>> {
        let Some(id) = header.natural(key)?.or(default) else { return Ok(None) };
        let token = usize::try_from(id).ok().and_then(|id| self.tokens.get(id));
        match token {
            Some(token) => Ok(Some(token)),
            None => {
                Err(header.damaged(format!("`{key}` is {id}, but there are {} tokens", self.tokens.len())))
            }
        }
    }

    /// What is put around every text: llama.cpp's rule where the file does not say.
    fn post_processor(&self, header: &Header<'_>, begin: bool, defaults: [Option<u64>; 2]) -> Result<Value> {
        let mut around = [None, None];
        let rules = [("bos", begin), ("eos", false)];
        for (place, ((name, by_default), default)) in around.iter_mut().zip(rules.into_iter().zip(defaults)) {
            if !header.truth(&format!("tokenizer.ggml.add_{name}_token"))?.unwrap_or(by_default) {
                continue;
            }
            let key = format!("tokenizer.ggml.{name}_token_id");
            let Some(token) = self.named(header, &key, default)? else {
                return Err(header.damaged(format!("no `{key}`, which goes around every text")));
            };
            *place = Some(token);
        }
        if around == [None, None] {
            return Ok(Value::Null);
        }
        let special = |token: Option<&str>, type_id: u8| {
            token.map(|token| json!({ "SpecialToken": { "id": token, "type_id": type_id } }))
        };
        let single = |sequence: &str, type_id: u8| {
            let sequence = json!({ "Sequence": { "id": sequence, "type_id": type_id } });
            let parts = [special(around[0], type_id), Some(sequence), special(around[1], type_id)];
            parts.into_iter().flatten().collect::<Vec<_>>()
        };
        let tokens: Map<String, Value> = around
            .into_iter()
            .flatten()
            .map(|token| {
                (token.to_owned(), json!({ "id": token, "ids": [self.ids[token]], "tokens": [token] }))
            })
            .collect();
        let pair = [single("A", 0), single("B", 1)].concat();
        Ok(json!({
            "type": "TemplateProcessing",
            "single": single("A", 0),
            "pair": pair,
            "special_tokens": tokens,
        }))
    }
}

/// How a text is split before the merges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Gpt2,
    SmolLm,
    Llama3,
    Qwen2,
}

impl Rule {
    /// The rule that `tokenizer.ggml.pre` names, or else the likeliest.
    fn of(header: &Header<'_>) -> Result<Self> {
        Ok(match header.text("tokenizer.ggml.pre")? {
            None | Some("default") => Self::likely(header)?,
            Some("gpt-2") => Self::Gpt2,
            Some("smollm") => Self::SmolLm,
            Some("llama3" | "llama-v3" | "llama-bpe") => Self::Llama3,
            Some("qwen2") => Self::Qwen2,
            Some(other) => {
                return Err(header.unsupported(format!(
                    "the pre-tokenizer `{other}` (`tokenizer.ggml.pre`) is not supported; `default`, `gpt-2`, \
                     `smollm`, `llama3`, `llama-v3`, `llama-bpe` and `qwen2` are"
                )));
            }
        })
    }

    /// By the family, and by the vocabulary, where the file does not say.
    fn likely(header: &Header<'_>) -> Result<Self> {
        let is_missing = header.text("tokenizer.ggml.pre")?.is_none();
        let has_begin = || -> Result<bool> {
            Ok(header.texts("tokenizer.ggml.tokens")?.is_some_and(|tokens| tokens.contains(&LLAMA3_BEGIN)))
        };
        Ok(match Architecture::of(header)? {
            Architecture::Qwen2 | Architecture::Qwen3 if is_missing => Self::Qwen2,
            Architecture::Llama | Architecture::Deci if has_begin()? => Self::Llama3,
            _ => Self::Gpt2,
        })
    }
}

/// What the user of the tokenizer should know of it.
pub(super) fn notes(header: &Header<'_>, allowed: &AllowUnread) -> Result<Vec<String>> {
    // Keys that stop the tokenizer are said when it is opened.
    let mut notes = keys::check_tokenizer(header, allowed).unwrap_or_default();
    let pre = header.text("tokenizer.ggml.pre")?;
    let is_bytes = header.text("tokenizer.ggml.model")? == Some("gpt2");
    if !is_bytes || !matches!(pre, None | Some("default")) || Architecture::of(header)? == Architecture::Gpt2
    {
        return Ok(notes);
    }
    let said = match pre {
        None => {
            "the file does not say how texts are split before they become tokens (no `tokenizer.ggml.pre`)"
        }
        Some(_) => {
            "the file does not know how texts are split before they become tokens (`tokenizer.ggml.pre` is `default`)"
        }
    };
    let done = match Rule::of(header)? {
        Rule::Llama3 => {
            "its vocabulary is Llama 3's: they are split as by Llama 3, and begin with `<|begin_of_text|>`"
        }
        Rule::Qwen2 => "they are split as by Qwen 2",
        Rule::Gpt2 | Rule::SmolLm => {
            "they are split as by GPT-2 (llama.cpp would cut at punctuation and take digits by threes), and the tokens are \
             wrong if the model was trained otherwise"
        }
    };
    notes.push(format!("{said}: {done}"));
    Ok(notes)
}

/// BPE of bytes that are written as letters, as GPT-2, Llama 3, Qwen and SmolLM have it.
fn byte_level(header: &Header<'_>, vocabulary: &Vocabulary<'_>, allowed: &AllowUnread) -> Result<Value> {
    let Some(lines) = header.texts("tokenizer.ggml.merges")? else {
        return Err(header.damaged("no `tokenizer.ggml.merges` in its metadata"));
    };
    let mut merges = Vec::with_capacity(lines.len());
    for line in lines {
        // A space that is the first of two characters is no separator.
        let space = line.char_indices().skip(1).find(|(_, c)| *c == ' ');
        let merge = space.map(|(space, _)| [&line[..space], &line[space + 1..]]);
        // The `tokenizers` crate relies on the whole being a token.
        let known = |merge: &[&str; 2]| {
            merge.iter().all(|part| vocabulary.ids.contains_key(part))
                && vocabulary.ids.contains_key(&*merge.concat())
        };
        match merge.filter(known) {
            Some(merge) => merges.push(merge),
            None => return Err(header.damaged(format!("the merge {line:?} is not of two tokens to one"))),
        }
    }

    let prefix = "tokenizer.ggml.add_space_prefix";
    if header.truth(prefix)? == Some(true) {
        keys::unread(header, prefix, "true".to_owned(), "false", allowed)?;
    }
    let rule = Rule::of(header)?;
    let split = |pattern: &str| {
        json!({
            "type": "Sequence",
            "pretokenizers": [
                { "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false },
                { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false },
            ],
        })
    };
    let gpt2 =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    // llama.cpp leaves it out, but the models were trained with it.
    let normalizer = if rule == Rule::Qwen2 { json!({ "type": "NFC" }) } else { Value::Null };
    let pre_tokenizer = match rule {
        Rule::Gpt2 => gpt2,
        Rule::SmolLm => json!({
            "type": "Sequence",
            "pretokenizers": [{ "type": "Digits", "individual_digits": true }, gpt2],
        }),
        Rule::Llama3 => split(LLAMA3_SPLIT),
        Rule::Qwen2 => split(QWEN2_SPLIT),
    };
    let is_llama3 = rule == Rule::Llama3;
    let begin = vocabulary.ids.get(LLAMA3_BEGIN).map(|id| *id as u64).filter(|_| is_llama3);
    Ok(json!({
        "version": "1.0",
        "added_tokens": vocabulary.added(header)?,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": vocabulary.post_processor(header, is_llama3, [begin, None])?,
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE", "ignore_merges": is_llama3, "vocab": vocabulary.json(), "merges": merges,
        },
    }))
}

/// SentencePiece's BPE, as LLaMA and Mistral have it: spaces are written ▁, and a character that is no token
/// as its bytes.
fn sentence_piece(header: &Header<'_>, vocabulary: &Vocabulary<'_>) -> Result<Value> {
    let unknown = vocabulary.named(header, "tokenizer.ggml.unknown_token_id", Some(0))?;
    let mut normalizers = vec![json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" })];
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if header.truth("tokenizer.ggml.add_space_prefix")?.unwrap_or(true) {
        normalizers.insert(0, json!({ "type": "Prepend", "prepend": "▁" }));
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    Ok(json!({
        "version": "1.0",
        "added_tokens": vocabulary.added(header)?,
        "normalizer": { "type": "Sequence", "normalizers": normalizers },
        "pre_tokenizer": null,
        "post_processor": vocabulary.post_processor(header, true, [Some(1), Some(2)])?,
        "decoder": { "type": "Sequence", "decoders": decoders },
        "model": {
            "type": "BPE", "unk_token": unknown, "fuse_unk": true, "byte_fallback": true,
            "vocab": vocabulary.json(), "merges": merges(header, vocabulary)?,
        },
    }))
}

/// Every way to put an ordinary token together from two others, in the order in which SentencePiece takes
/// them: the token with the highest score first. Among those of one token, the order of `transformers`'
/// `generate_merges`.
fn merges<'a>(header: &Header<'_>, vocabulary: &Vocabulary<'a>) -> Result<Vec<[&'a str; 2]>> {
    let Vocabulary { tokens, types, ids } = vocabulary;
    let scores = match header.f32s("tokenizer.ggml.scores")? {
        // The scores of tokens that a user defined say nothing of their order.
        Some(_) if Architecture::of(header)? == Architecture::Gemma3 => {
            (0..tokens.len()).map(|id| -(id as f32)).collect()
        }
        Some(scores) => scores,
        None => return Err(header.damaged("no `tokenizer.ggml.scores` in its metadata")),
    };
    if scores.len() != tokens.len() {
        return Err(header.damaged(format!("{} tokens, but {} scores", tokens.len(), scores.len())));
    }
    let ordinary = |piece: &str| ids.get(piece).copied().filter(|id| types[*id] == NORMAL);
    let mut merges = Vec::new();
    for (id, token) in tokens.iter().enumerate().filter(|(id, _)| types[*id] == NORMAL) {
        let length = token.chars().count();
        if length > LONGEST_PIECE {
            return Err(header.unsupported(format!(
                "token {id} has {length} characters; up to {LONGEST_PIECE} are supported"
            )));
        }
        let start = merges.len();
        for (left, (at, _)) in token.char_indices().enumerate().skip(1) {
            if let (Some(first), Some(second)) = (ordinary(&token[..at]), ordinary(&token[at..])) {
                merges.push((scores[id], left, length - left, first, second));
            }
        }
        merges[start..].sort_by_key(|(.., first, second)| (*first, *second));
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| (b.1, b.2).cmp(&(a.1, a.2))));
    Ok(merges.into_iter().map(|(.., first, second)| [tokens[first], tokens[second]]).collect())
}
