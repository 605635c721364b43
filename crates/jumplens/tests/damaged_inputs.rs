//! Tokenizers and samples whose files are damaged: each is read or refused, in bounded time and memory.

#[path = "common/damage.rs"]
mod damage;

use damage::{read_damaged, write};
use jumplens::hub::{SourceFile, TokenizerFiles, Vocabulary};
use jumplens::models::{Kind, Spec};
use jumplens::tokenize::{Tokenizer, read_samples};
use jumplens::{Error, Result};
use serde_json::{Value, json};

/// A model that takes whatever has so many tokens.
fn spec(kind: Kind, vocab_size: usize) -> Spec {
    Spec {
        family: "any",
        kind,
        n_layers: 1,
        d_model: 1,
        n_heads: 1,
        vocab_size,
        max_positions: 64,
        parts: &[],
    }
}

/// Opens the tokenizer on a model that has an embedding for every token, and encodes with it.
fn tokenize(files: &TokenizerFiles) -> Result<()> {
    let tokenizer = Tokenizer::open(files, &spec(Kind::Causal, 1 << 32), false)?;
    ["", " a the then 漢\n12 e\u{301}"].into_iter().try_for_each(|text| tokenizer.encode(text).map(drop))
}

/// `tokenizer.json` of every kind of model, with parts that the files of real ones have.
fn tokenizers() -> Vec<(&'static str, Value)> {
    let pieces = ["<s>", "a", "t", "h", "e", "n", "▁", "Ġ", "th", "the", "▁the", "##e", "##n", "[UNK]"];
    let vocab: Value =
        pieces.iter().enumerate().map(|(id, piece)| ((*piece).to_owned(), Value::from(id))).collect();
    let scores: Value = pieces.iter().enumerate().map(|(id, piece)| json!([piece, -(id as f64)])).collect();
    let bytes =
        json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true });
    let pattern = r"'(?i:[sdmt]|ll)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}|\s+(?!\S)|\s+";
    let split =
        json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
    let around = json!({
        "type": "TemplateProcessing",
        "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
        "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
        "special_tokens": { "<s>": { "id": "<s>", "ids": [0], "tokens": ["<s>"] } },
    });
    let with = |model: Value, normalizer: Value, pre_tokenizer: Value, post_processor: Value| {
        json!({
            "version": "1.0", "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
            "post_processor": post_processor, "model": model,
            "added_tokens": [{
                "id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": true, "normalized": false,
                "special": true,
            }],
            "truncation": { "direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0 },
            "padding": {
                "strategy": { "Fixed": 12 }, "direction": "Right", "pad_to_multiple_of": 4, "pad_id": 0,
                "pad_type_id": 0, "pad_token": "<s>",
            },
        })
    };
    let pairs = json!([["t", "h"], ["th", "e"], ["▁", "the"]]);
    let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
    vec![
        (
            "bytes",
            with(
                json!({ "type": "BPE", "vocab": vocab, "merges": pairs, "byte_fallback": false, "unk_token": "[UNK]" }),
                json!({ "type": "NFC" }),
                json!({ "type": "Sequence", "pretokenizers": [split, bytes] }),
                around.clone(),
            ),
        ),
        (
            "pieces",
            with(
                json!({
                    "type": "BPE", "vocab": vocab, "merges": ["t h", "th e"], "dropout": null, "fuse_unk": true,
                    "byte_fallback": true, "ignore_merges": true, "unk_token": "<s>",
                }),
                json!({ "type": "Sequence", "normalizers": [{ "type": "Prepend", "prepend": "▁" }, replace] }),
                Value::Null,
                around,
            ),
        ),
        (
            "words of pieces",
            with(
                json!({
                    "type": "WordPiece", "vocab": vocab, "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                    "max_input_chars_per_word": 100,
                }),
                json!({
                    "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
                    "lowercase": true,
                }),
                json!({ "type": "BertPreTokenizer" }),
                json!({ "type": "BertProcessing", "sep": ["a", 1], "cls": ["<s>", 0] }),
            ),
        ),
        (
            "unigram",
            with(
                json!({ "type": "Unigram", "unk_id": 0, "byte_fallback": false, "vocab": scores }),
                json!({ "type": "Sequence", "normalizers": [{ "type": "NFKC" }, { "type": "Lowercase" }] }),
                json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false }),
                Value::Null,
            ),
        ),
    ]
}

#[test]
fn damaged_tokenizers_are_read_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        write(&path, bytes);
        SourceFile::open(&path).unwrap()
    };
    for (name, tokenizer) in tokenizers() {
        let text = tokenizer.to_string();
        read_damaged(name, text.as_bytes(), 1000, |bytes| {
            tokenize(&Vocabulary::Json(file("tokenizer.json", bytes)).into())
        });
    }
    let words = "[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\na\n##n\n".as_bytes();
    read_damaged("vocab.txt", words, 300, |bytes| {
        let files = Vocabulary::WordPiece(file("vocab.txt", bytes)).into();
        tokenize(&TokenizerFiles { class: Some("BertTokenizer".to_owned()), ..files })
    });
    let (vocabulary, merges) =
        (r#"{"<|endoftext|>":0,"t":1,"h":2,"e":3,"th":4,"the":5}"#, "#version: 0.2\nt h\nth e\n");
    let config = r#"{"add_bos_token":true,"bos_token":{"content":"<|endoftext|>"},"unk_token":null}"#;
    let files = [("vocab.json", vocabulary), ("merges.txt", merges), ("tokenizer_config.json", config)];
    for (name, text) in files {
        read_damaged(name, text.as_bytes(), 300, |bytes| {
            files.iter().for_each(|(name, text)| drop(file(name, text.as_bytes())));
            file(name, bytes);
            let open = |name: &str| SourceFile::open(&folder.path().join(name)).unwrap();
            let config = Some(open("tokenizer_config.json"));
            let (vocabulary, merges) = (open("vocab.json"), open("merges.txt"));
            let files = Vocabulary::BytePairs { vocabulary, merges }.into();
            tokenize(&TokenizerFiles { config, class: Some("GPT2Tokenizer".to_owned()), ..files })
        });
    }
}

/// The crate that reads tokenizers takes it for granted, and panics.
#[test]
fn a_template_with_a_token_that_is_not_described_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let (_, mut tokenizer) = tokenizers().swap_remove(0);
    tokenizer["post_processor"]["special_tokens"] = json!({});
    write(&path, tokenizer.to_string().as_bytes());
    let error = tokenize(&Vocabulary::Json(SourceFile::open(&path).unwrap()).into()).unwrap_err();
    assert!(
        matches!(&error, Error::Format { message, .. } if message.contains("does not fit together")),
        "{error}"
    );
}

#[test]
fn damaged_samples_are_read_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("samples.jsonl");
    let lines = "{\"ids\":[5,999,0],\"position\":1,\"target\":7,\"text\":\"a \\u00e9\"}\n \n{\"position\": 0, \"ids\": [12]}";
    for kind in [Kind::Causal, Kind::Masked] {
        read_damaged("samples", lines.as_bytes(), 3000, |bytes| {
            write(&path, bytes);
            read_samples(&path, &spec(kind, 1000))
        });
    }
}
