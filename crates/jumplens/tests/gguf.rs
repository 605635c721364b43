//! GGUF files, written by llama.cpp's own Python package (`fixtures/make_gguf_fixtures.py`): tensors,
//! configuration and tokenizer are those of the Hugging Face model that they were made from, and no bytes
//! make the reader panic.

use jumplens::hub::{ModelFiles, SourceFile, Sources, TokenizerFiles, Vocabulary};
use jumplens::models::{Kind, Loaded, Spec, load};
use jumplens::nn::Precision;
use jumplens::progress::Silent;
use jumplens::states::{StateChunk, run_samples};
use jumplens::tokenize::{Sample, Tokenizer};
use jumplens::weights::Weights;
use jumplens::{AllowUnread, Error, Result};
use proptest::prelude::*;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const FILES: [&str; 4] = ["types.gguf", "llama.gguf", "gpt2.gguf", "sentence_piece.gguf"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf").join(name)
}

fn find(name: &str) -> ModelFiles {
    ModelFiles::find(fixture(name).to_str().unwrap(), &Sources::default(), &Silent).unwrap()
}

fn values(weights: &Weights<'_>, name: &str, shape: &[usize]) -> Result<Vec<u32>> {
    let tensor = weights.read(&weights.below("").tensor(name, shape))?;
    Ok(tensor.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect())
}

/// The GGUF file has exactly the tensors of the safetensors file, bit by bit, and those `unreadable`.
fn same_tensors(gguf: &str, safetensors: &str, unreadable: &[(&str, &[usize])]) {
    let gguf = SourceFile::open(&fixture(gguf)).unwrap();
    let weights = Weights::open(std::slice::from_ref(&gguf)).unwrap();
    let expected = std::fs::read(fixture(safetensors)).unwrap();
    let expected = SafeTensors::deserialize(&expected).unwrap();
    let ours = |name: &str| name.strip_prefix("transformer.").unwrap_or(name).to_owned();
    let mut names: Vec<String> = expected.iter().map(|(name, _)| ours(name)).collect();
    names.extend(unreadable.iter().map(|(name, _)| (*name).to_owned()));
    names.sort_unstable();
    assert_eq!(weights.names().collect::<Vec<_>>(), names);
    for (name, view) in expected.iter() {
        let bits: Vec<u32> = match view.dtype() {
            Dtype::F32 => view.data().as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect(),
            Dtype::F16 => {
                let halves = view.data().as_chunks().0.iter();
                halves.map(|b| half::f16::from_le_bytes(*b).to_f32().to_bits()).collect()
            }
            other => panic!("{name} is {other}"),
        };
        assert_eq!(values(&weights, &ours(name), view.shape()).unwrap(), bits, "{name}");
    }
    for (name, shape) in unreadable {
        let Err(Error::TensorDtype { got, .. }) = values(&weights, name, shape) else {
            panic!("{name} can be read")
        };
        assert_eq!(got, *name);
    }
}

#[test]
fn every_type_is_dequantised_as_the_gguf_package_does() {
    same_tensors("types.gguf", "types.safetensors", &[("I32", &[4]), ("IQ4_NL", &[2, 32])]);
}

#[test]
fn a_llama_is_the_one_it_was_converted_from() {
    same_tensors("llama.gguf", "llama/model.safetensors", &[]);
}

#[test]
fn a_gpt2_is_the_one_it_was_converted_from() {
    same_tensors("gpt2.gguf", "gpt2/model.safetensors", &[]);
}

/// Each field that the configuration of a GGUF file has, beside Hugging Face's own. What has a reason to
/// differ is in `differs`.
fn same_config(name: &str, differs: &[(&str, Value)]) {
    let config = find(&format!("{name}.gguf")).config_json().unwrap();
    let theirs = std::fs::read(fixture(name).join("config.json")).unwrap();
    let theirs: Value = serde_json::from_slice(&theirs).unwrap();
    for (field, value) in config.as_object().unwrap() {
        let expected =
            differs.iter().find(|(name, _)| name == field).map_or(&theirs[field], |(_, value)| value);
        assert_eq!(value, expected, "{field}");
    }
    for (field, _) in differs {
        assert!(config.get(field).is_some(), "{field}");
    }
}

#[test]
fn the_configuration_is_that_of_the_converted_model() {
    same_config("gpt2", &[]);
    same_config(
        "llama",
        &[
            // transformers 5 writes it deeper.
            ("rope_theta", json!(20000.0)),
            // In the file to test Llama 3's tensor of factors.
            ("rope_scaling", json!({ "rope_type": "factors", "factors": [1.0, 1.0, 2.5, 8.0] })),
            // No field of Hugging Face's.
            ("biases_where_stored", json!(true)),
        ],
    );
}

#[test]
fn positions_are_scaled_as_the_metadata_says() {
    let file = |values: &[(&'static str, Vec<u8>)]| {
        let mut file = File::tensor("token_embd.weight", &[4, 2], 0, 0);
        for key in ["embedding_length", "block_count", "attention.head_count", "feed_forward_length"] {
            file = file.with(format!("llama.{key}").leak(), natural(4));
        }
        file = file
            .with("llama.context_length", natural(64))
            .with("llama.attention.layer_norm_rms_epsilon", float(1e-6));
        values.iter().fold(file, |file, (key, value)| file.with(key, value.clone()))
    };
    let config = |file: &File| {
        let source = file.source();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gguf");
        std::fs::write(&path, source.bytes()).unwrap();
        ModelFiles::find(path.to_str().unwrap(), &Sources::default(), &Silent).unwrap().config_json()
    };
    let none = config(&file(&[("llama.rope.scaling.type", text("none"))])).unwrap();
    assert_eq!((&none["rope_scaling"], &none["rms_norm_eps"]), (&Value::Null, &json!(1e-6)));
    assert_eq!((&none["vocab_size"], &none["num_key_value_heads"]), (&json!(2), &json!(4)));
    let linear = [("llama.rope.scaling.type", text("linear")), ("llama.rope.scaling.factor", float(4.0))];
    let linear = config(&file(&linear)).unwrap();
    assert_eq!(linear["rope_scaling"], json!({ "rope_type": "linear", "factor": 4.0 }));
    let yarn = [
        ("llama.rope.scaling.type", text("yarn")),
        ("llama.rope.scaling.factor", float(2.0)),
        ("llama.rope.scaling.original_context_length", natural(32)),
    ];
    assert_eq!(
        config(&file(&yarn)).unwrap()["rope_scaling"],
        json!({ "rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32 })
    );
    let window = config(&file(&[("llama.attention.sliding_window", natural(16))])).unwrap();
    assert_eq!((&window["sliding_window"], &window["model_type"]), (&json!(16), &json!("mistral")));
    for (key, value, says) in [
        ("llama.rope.scaling.type", text("longrope"), "`llama.rope.scaling.type` `longrope`"),
        ("llama.expert_count", natural(8), "a mixture of 8 experts"),
        ("llama.attention.value_length", natural(2), "keys of 1 and values of 2"),
        ("llama.context_length", text("64"), "`llama.context_length` in its metadata is not a whole number"),
    ] {
        let error = config(&file(&[(key, value)])).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

fn states(loaded: &Loaded) -> StateChunk {
    let sample = Sample { ids: vec![1, 9, 4, 4, 2, 7, 0], position: 6, target: None, text: None };
    run_samples(&loaded.model, &[sample], false).unwrap()
}

#[test]
fn a_model_gives_the_same_states_from_both_formats() {
    let gguf = load(&find("gpt2.gguf"), Precision::F32).unwrap();
    let folder = load(&find("gpt2"), Precision::F32).unwrap();
    assert_eq!(states(&gguf), states(&folder));
    assert_eq!(gguf.notes, folder.notes);
}

fn open_tokenizer(file: SourceFile) -> Result<Tokenizer> {
    let vocab_size = match find("sentence_piece.gguf").tokenizer {
        Some(files) if matches!(files.vocabulary, Vocabulary::Gguf(_)) => 306,
        other => panic!("{other:?}"),
    };
    let spec = Spec {
        family: "llama",
        kind: Kind::Causal,
        n_layers: 1,
        d_model: 1,
        n_heads: 1,
        vocab_size,
        max_positions: 512,
        parts: &[],
    };
    Tokenizer::open(&Vocabulary::Gguf(file).into(), &spec, false)
}

#[test]
fn sentence_piece_ids_are_those_of_transformers() {
    #[derive(Deserialize)]
    struct Expected {
        text: String,
        ids: Vec<u32>,
    }
    let expected = std::fs::read(fixture("sentence_piece.json")).unwrap();
    let expected: Vec<Expected> = serde_json::from_slice(&expected).unwrap();
    let tokenizer = open_tokenizer(SourceFile::open(&fixture("sentence_piece.gguf")).unwrap()).unwrap();
    for Expected { text, ids } in expected {
        assert_eq!(tokenizer.encode(&text).unwrap(), ids, "{text:?}");
    }
}

/// A GGUF file in parts that can be set one by one.
#[derive(Clone)]
struct File {
    version: u32,
    counts: Option<(u64, u64)>,
    values: Vec<(&'static str, Vec<u8>)>,
    tensors: Vec<(&'static str, Vec<u64>, u32, u64)>,
    data: usize,
    /// So many zeros behind the data.
    zeros: usize,
}

fn text(text: &str) -> Vec<u8> {
    [&8_u32.to_le_bytes()[..], &raw(text)].concat()
}

fn raw(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn natural(n: u32) -> Vec<u8> {
    [4_u32.to_le_bytes(), n.to_le_bytes()].concat()
}

fn float(x: f32) -> Vec<u8> {
    [6_u32.to_le_bytes(), x.to_le_bytes()].concat()
}

fn truth(truth: bool) -> Vec<u8> {
    [&7_u32.to_le_bytes()[..], &[u8::from(truth)]].concat()
}

/// An array that claims `len` values.
fn array(kind: u32, len: u64, values: &[u8]) -> Vec<u8> {
    [&9_u32.to_le_bytes()[..], &kind.to_le_bytes(), &len.to_le_bytes(), values].concat()
}

fn texts(texts: &[impl AsRef<str>]) -> Vec<u8> {
    array(8, texts.len() as u64, &texts.iter().flat_map(|text| raw(text.as_ref())).collect::<Vec<_>>())
}

impl Default for File {
    fn default() -> Self {
        Self {
            version: 3,
            counts: None,
            values: vec![("general.architecture", text("llama"))],
            tensors: vec![("one", vec![4, 2], 0, 0), ("two", vec![2], 0, 32)],
            data: 40,
            zeros: 0,
        }
    }
}

impl File {
    fn with(mut self, key: &'static str, value: Vec<u8>) -> Self {
        self.values.retain(|(other, _)| *other != key);
        self.values.push((key, value));
        self
    }

    fn tensor(name: &'static str, dims: &[u64], kind: u32, offset: u64) -> Self {
        Self { tensors: vec![(name, dims.to_vec(), kind, offset)], ..Self::default() }
    }

    fn source(&self) -> SourceFile {
        let (tensors, values) = self.counts.unwrap_or((self.tensors.len() as u64, self.values.len() as u64));
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(values.to_le_bytes());
        for (key, value) in &self.values {
            bytes.extend([raw(key), value.clone()].concat());
        }
        for (name, dims, kind, offset) in &self.tensors {
            bytes.extend(raw(name));
            bytes.extend((dims.len() as u32).to_le_bytes());
            bytes.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend((0..self.data).map(|i| i as u8));
        bytes.resize(bytes.len() + self.zeros, 0);
        SourceFile::bundled("a.gguf", bytes.leak())
    }

    fn error(&self) -> Error {
        let file = self.source();
        Weights::open(std::slice::from_ref(&file)).map(|_| ()).unwrap_err()
    }

    #[track_caller]
    fn refused(&self, says: &str) {
        let error = self.error();
        assert!(matches!(error, Error::Format { .. }) && error.to_string().contains(says), "{error}");
    }

    #[track_caller]
    fn unsupported(&self, says: &str) {
        let error = self.error();
        assert!(matches!(error, Error::Config { .. }) && error.to_string().contains(says), "{error}");
    }
}

/// Number `k` of the values whose bytes are 0, 1, 2, ….
fn counting(k: u8) -> u32 {
    u32::from_le_bytes([4 * k, 4 * k + 1, 4 * k + 2, 4 * k + 3])
}

#[test]
fn only_llamas_have_their_rows_in_pairs() {
    for (architecture, keys, rows) in [
        ("llama", "llama.attention.head_count", [0, 2, 1, 3]),
        ("qwen2", "qwen2.attention.head_count", [0, 1, 2, 3]),
        ("qwen3", "qwen3.attention.head_count", [0, 1, 2, 3]),
    ] {
        for (name, path) in [("blk.7.attn_q.weight", "q_proj"), ("blk.7.attn_k.weight", "k_proj")] {
            let file = File::tensor(name, &[2, 4], 0, 0)
                .with("general.architecture", text(architecture))
                .with(keys, natural(1))
                .source();
            let weights = Weights::open(std::slice::from_ref(&file)).unwrap();
            let name = format!("model.layers.7.self_attn.{path}.weight");
            let expected: Vec<u32> =
                rows.iter().flat_map(|row| [2 * row, 2 * row + 1]).map(counting).collect();
            assert_eq!(values(&weights, &name, &[4, 2]).unwrap(), expected, "{architecture} {path}");
        }
    }
}

#[test]
fn version_2_is_read_as_3_is() {
    for version in [2, 3] {
        let file = File { version, ..File::default() }.source();
        let weights = Weights::open(std::slice::from_ref(&file)).unwrap();
        assert_eq!(values(&weights, "one", &[2, 4]).unwrap(), [0, 1, 2, 3, 4, 5, 6, 7].map(counting));
        assert_eq!(values(&weights, "two", &[2]).unwrap(), [8, 9].map(counting));
    }
    File { version: 1, ..File::default() }.refused("GGUF version 1; 2 and 3 are read");
    File { version: 3_u32.swap_bytes(), ..File::default() }.refused("big-endian");
}

#[test]
fn sizes_that_are_only_claimed_are_not_allocated() {
    const HUGE: u64 = 1 << 60;
    File { counts: Some((HUGE, 1)), ..File::default() }.refused("of 1152921504606846976");
    File { counts: Some((2, HUGE)), ..File::default() }.refused("of 1152921504606846976");
    for kind in [0, 4, 8, 12] {
        File::default().with("a", array(kind, HUGE, &[])).refused("but the file ends");
        File::default().with("a", array(kind, u64::MAX, &[])).refused("but the file ends");
    }
    File::default().with("a", [8_u32.to_le_bytes().to_vec(), vec![255; 8]].concat()).refused("the file ends");
    File::default().with("a", array(9, 1, &[])).refused("`a` is an array of values of kind 9");
    File::default().with("a", 13_u32.to_le_bytes().to_vec()).refused("unknown kind 13");
    File::tensor("one", &[HUGE], 0, 0).refused("`one` is not within the file's");
    File::tensor("one", &[HUGE, HUGE], 0, 0).refused("impossible dimensions");
    File::tensor("one", &[0, HUGE, HUGE], 0, 0).refused("impossible dimensions");
    File::tensor("one", &[1 << 61, 4], 0, 0).refused("impossible dimensions");
    File::tensor("one", &[1; 5], 0, 0).refused("5 dimensions");
    File::tensor("one", &[2], 0, 64).refused("not within");
    File::tensor("one", &[12], 0, 0).refused("not within");
    File::tensor("one", &[2], 0, u64::MAX - 31).refused("not within");
}

#[test]
fn what_does_not_fit_together_is_refused() {
    File::tensor("one", &[2], 0, 4).refused("not at a multiple of 32");
    File::tensor("one", &[31], 2, 0).refused("rows of 31 values, which blocks of 32");
    for alignment in [0, 24] {
        File::default().with("general.alignment", natural(alignment)).refused("not a power of two");
    }
    let mut twice = File::default();
    twice.tensors[1].0 = "one";
    twice.refused("`one` is in it twice");
    let mut shared = File::default();
    shared.tensors[1].3 = 0;
    shared.refused("`one` and `two` share bytes");
    let mut twice = File::default();
    twice.values.push(twice.values[0].clone());
    twice.refused("`general.architecture` is in the metadata twice");
    let mut renamed = File::default();
    (renamed.tensors[0].0, renamed.tensors[1].0) = ("output.weight", "lm_head.weight");
    renamed.refused("under two names");
    for (dims, n_heads) in [(&[4, 2][..], 3), (&[4, 2], 2), (&[4, 2], 0), (&[4, 0], 1), (&[], 1)] {
        File::tensor("blk.0.attn_q.weight", dims, 0, 0)
            .with("llama.attention.head_count", natural(n_heads))
            .refused("does not divide");
    }
}

#[test]
fn what_is_not_supported_is_named() {
    File::default().with("general.architecture", text("falcon")).unsupported(
        "architecture `falcon` is not supported in GGUF files; `llama`, `deci`, `qwen2`, `qwen3`, `gemma3`, `gpt2` are",
    );
    File::default().with("split.count", natural(3)).unsupported("one of the 3 parts");
    let file = File::tensor("one", &[256], 23, 0).source();
    let weights = Weights::open(std::slice::from_ref(&file)).unwrap();
    let Err(Error::TensorDtype { got, .. }) = values(&weights, "one", &[256]) else {
        panic!("it can be read")
    };
    assert_eq!(got, "IQ4_XS");
}

const BYTE_LEVEL: [&str; 19] =
    ["a", "b", "1", "2", "Ġ", "ab", "Ġa", "ĠĠ", "12", "Ġ1", "<s>", "é", "ÃĐ", "Ã", "©", "Ì", "ģ", "e", "Ã©"];

/// A byte-level tokenizer of the letters a and b, digits, the space and some of their merges.
fn byte_level(pre: &str) -> File {
    let tokens = BYTE_LEVEL;
    let merges = ["a b", "Ġ a", "Ġ Ġ", "Ġ 1", "1 2", "Ã ©"];
    let types: Vec<u8> =
        tokens.iter().flat_map(|token| if *token == "<s>" { 3_i32 } else { 1 }.to_le_bytes()).collect();
    File::default()
        .with("tokenizer.ggml.model", text("gpt2"))
        .with("tokenizer.ggml.pre", text(pre))
        .with("tokenizer.ggml.tokens", texts(&tokens))
        .with("tokenizer.ggml.token_type", array(5, tokens.len() as u64, &types))
        .with("tokenizer.ggml.merges", texts(&merges))
        .with("tokenizer.ggml.bos_token_id", natural(10))
}

fn byte_level_spec() -> Spec {
    Spec {
        family: "llama",
        kind: Kind::Causal,
        n_layers: 1,
        d_model: 1,
        n_heads: 1,
        vocab_size: 19,
        max_positions: 64,
        parts: &[],
    }
}

fn encode(file: &File, text: &str) -> Vec<u32> {
    let tokenizer =
        Tokenizer::open(&Vocabulary::Gguf(file.source()).into(), &byte_level_spec(), false).unwrap();
    tokenizer.encode(text).unwrap()
}

#[test]
fn texts_are_split_as_the_pre_tokenizer_says() {
    // GPT-2: digits with the space before them, the last space of several with the word behind them.
    assert_eq!(encode(&byte_level("gpt-2"), "ab  a 12"), [5, 4, 6, 9, 3]);
    assert_eq!(encode(&byte_level("default"), "ab  a 12"), [5, 4, 6, 9, 3]);
    // SmolLM: each digit by itself, before anything else.
    assert_eq!(encode(&byte_level("smollm"), "ab  a 12"), [5, 4, 6, 4, 2, 3]);
    // Qwen: each digit by itself, the space before it too.
    assert_eq!(encode(&byte_level("qwen2"), "ab  a 12"), [5, 4, 6, 4, 2, 3]);
    // Llama 3: up to three digits together, no space with them, and `<s>` in front.
    assert_eq!(encode(&byte_level("llama-bpe"), "ab  a 12"), [10, 5, 4, 6, 4, 8]);
    // Only Qwen composes what is written as a letter and an accent.
    assert_eq!(encode(&byte_level("qwen2"), "e\u{301}"), [18]);
    assert_eq!(encode(&byte_level("gpt-2"), "e\u{301}"), [17, 15, 16]);
}

#[test]
fn without_a_pre_tokenizer_the_likeliest_rule_is_taken_and_said() {
    let without = |architecture: &str, begin: bool| {
        let mut file = byte_level("gpt-2").with("general.architecture", text(architecture));
        file.values.retain(|(key, _)| *key != "tokenizer.ggml.pre");
        if begin {
            file = file.with(
                "tokenizer.ggml.tokens",
                texts(&BYTE_LEVEL.map(|t| t.replace("<s>", "<|begin_of_text|>"))),
            );
        }
        file
    };
    let note = |file: &File| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gguf");
        std::fs::write(&path, with_model(file).source().bytes()).unwrap();
        let files = ModelFiles::find(path.to_str().unwrap(), &Sources::default(), &Silent).unwrap();
        load(&files, Precision::F32).unwrap().notes
    };
    for (file, ids, says) in [
        (without("llama", false), &[5, 4, 6, 9, 3][..], &["no `tokenizer.ggml.pre`", "as by GPT-2"][..]),
        (without("llama", true), &[10, 5, 4, 6, 4, 8], &["no `tokenizer.ggml.pre`", "as by Llama 3"]),
        (without("qwen2", false), &[5, 4, 6, 4, 2, 3], &["no `tokenizer.ggml.pre`", "as by Qwen 2"]),
        (byte_level("default"), &[5, 4, 6, 9, 3], &["`tokenizer.ggml.pre` is `default`", "as by GPT-2"]),
        (byte_level("gpt-2"), &[5, 4, 6, 9, 3], &[]),
    ] {
        assert_eq!(encode(&file, "ab  a 12"), ids);
        let notes = note(&file);
        assert_eq!(notes.len(), says.len().min(1), "{notes:?}");
        assert!(says.iter().all(|says| notes[0].contains(says)), "{notes:?}");
    }
}

#[test]
fn keys_that_change_the_tokens_are_read_or_refused_by_name() {
    let open = |file: &File, allowed: &[&str]| {
        let allowed = AllowUnread::new(&allowed.iter().map(|key| (*key).to_owned()).collect());
        let tokenizer =
            TokenizerFiles { allow_unread: allowed.clone(), ..Vocabulary::Gguf(file.source()).into() };
        Tokenizer::open(&tokenizer, &byte_level_spec(), false).map(|_| allowed.used())
    };
    for (key, value, neutral) in [
        ("tokenizer.ggml.add_space_prefix", truth(true), truth(false)),
        ("tokenizer.ggml.remove_extra_whitespaces", truth(true), truth(false)),
        ("tokenizer.ggml.normalizer.lowercase", truth(true), truth(false)),
        ("tokenizer.ggml.precompiled_charsmap", array(0, 3, &[1, 2, 3]), natural(0)),
    ] {
        let changed = byte_level("gpt-2").with(key, value);
        match open(&changed, &[]) {
            Err(Error::Unread { field, .. }) => assert_eq!(field, key),
            other => panic!("{other:?}"),
        }
        assert_eq!(open(&changed, &[key]).unwrap(), [key.to_owned()].into());
        if !key.ends_with("charsmap") {
            assert!(open(&byte_level("gpt-2").with(key, neutral), &[]).unwrap().is_empty());
        }
    }
}

/// The file with as much of a model that it can be loaded.
fn with_model(file: &File) -> File {
    let architecture = match file.values.iter().find(|(key, _)| *key == "general.architecture") {
        Some((_, value)) if value.ends_with(b"qwen2") => "qwen2",
        _ => "llama",
    };
    let mut file = file.clone();
    for (key, n) in [
        ("embedding_length", 2),
        ("block_count", 1),
        ("attention.head_count", 1),
        ("feed_forward_length", 2),
        ("context_length", 64),
    ] {
        file = file.with(format!("{architecture}.{key}").leak(), natural(n));
    }
    file = file.with(format!("{architecture}.attention.layer_norm_rms_epsilon").leak(), float(1e-6));
    let tensors: [(&'static str, &[u64]); 14] = [
        ("token_embd.weight", &[2, 19]),
        ("output_norm.weight", &[2]),
        ("blk.0.attn_norm.weight", &[2]),
        ("blk.0.attn_q.weight", &[2, 2]),
        ("blk.0.attn_k.weight", &[2, 2]),
        ("blk.0.attn_v.weight", &[2, 2]),
        ("blk.0.attn_q.bias", &[2]),
        ("blk.0.attn_k.bias", &[2]),
        ("blk.0.attn_v.bias", &[2]),
        ("blk.0.attn_output.weight", &[2, 2]),
        ("blk.0.ffn_norm.weight", &[2]),
        ("blk.0.ffn_gate.weight", &[2, 2]),
        ("blk.0.ffn_up.weight", &[2, 2]),
        ("blk.0.ffn_down.weight", &[2, 2]),
    ];
    let mut offset = 0;
    file.tensors = tensors
        .into_iter()
        .map(|(name, dims)| {
            let at = offset;
            offset += (4 * dims.iter().product::<u64>()).next_multiple_of(32);
            (name, dims.to_vec(), 0, at)
        })
        .collect();
    file.data = 0;
    file.zeros = offset as usize;
    file
}

#[test]
fn tokens_around_a_text_are_those_that_the_file_asks_for() {
    let file = byte_level("gpt-2");
    assert_eq!(encode(&file, "a<s>b"), [0, 10, 1]);
    let begin = file.clone().with("tokenizer.ggml.add_bos_token", truth(true));
    assert_eq!(encode(&begin, "a"), [10, 0]);
    let both = begin.with("tokenizer.ggml.add_eos_token", truth(true));
    assert_eq!(encode(&both.with("tokenizer.ggml.eos_token_id", natural(11)), "a"), [10, 0, 11]);
    let none = byte_level("llama-bpe").with("tokenizer.ggml.add_bos_token", truth(false));
    assert_eq!(encode(&none, "a"), [0]);
}

#[test]
fn gemma_merges_tokens_of_spaces_and_finds_those_of_lines_first() {
    let tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "\n", "\n\n", "  ", "   ", "▁", "a", "b", "▁a", "▁▁▁a"];
    let kinds = [3, 3, 3, 3, 4, 4, 4, 4, 1, 1, 1, 1, 1].iter().flat_map(|kind: &i32| kind.to_le_bytes());
    let scores =
        [-1000.0; 8].iter().chain(&[-2.0, -3.0, -4.0, 0.0, -1.0]).flat_map(|x: &f32| x.to_le_bytes());
    let file = File::default()
        .with("general.architecture", text("gemma3"))
        .with("tokenizer.ggml.model", text("llama"))
        .with("tokenizer.ggml.tokens", texts(&tokens))
        .with("tokenizer.ggml.token_type", array(5, 13, &kinds.collect::<Vec<u8>>()))
        .with("tokenizer.ggml.scores", array(6, 13, &scores.collect::<Vec<u8>>()))
        .with("tokenizer.ggml.bos_token_id", natural(2))
        .with("tokenizer.ggml.eos_token_id", natural(1))
        .with("tokenizer.ggml.unknown_token_id", natural(3))
        .with("tokenizer.ggml.add_space_prefix", truth(false));
    let spec = Spec { vocab_size: 13, ..byte_level_spec() };
    let tokenizer = Tokenizer::open(&Vocabulary::Gguf(file.source()).into(), &spec, false).unwrap();
    for (text, ids) in [
        ("a a", &[2, 9, 11][..]),
        // Two spaces before a space and a letter, three before a letter: in the order of the vocabulary.
        ("a  b", &[2, 9, 6, 10]),
        ("a  a", &[2, 9, 6, 9]),
        ("   b", &[2, 7, 10]),
        ("   a", &[2, 12]),
        (" \n\n\nb", &[2, 8, 5, 4, 10]),
        ("b<eos>", &[2, 10, 1]),
    ] {
        assert_eq!(tokenizer.encode(text).unwrap(), ids, "{text:?}");
    }
    assert_eq!((tokenizer.text_of(6), tokenizer.text_of(11)), ("  ".to_owned(), " a".to_owned()));
}

#[test]
fn tokenizers_that_cannot_be_built_say_why() {
    let error = |file: File| open_tokenizer(file.source()).map(|_| ()).unwrap_err().to_string();
    for (file, says) in [
        (byte_level("tekken"), "the pre-tokenizer `tekken` (`tokenizer.ggml.pre`) is not supported"),
        (File::default(), "no `tokenizer.ggml.tokens`"),
        (byte_level("gpt-2").with("tokenizer.ggml.model", text("bert")), "the tokenizer `bert`"),
        (byte_level("gpt-2").with("tokenizer.ggml.merges", texts(&["ab ab"])), "\"ab ab\" is not of two"),
        (byte_level("gpt-2").with("tokenizer.ggml.merges", texts(&["ab"])), "\"ab\" is not of two"),
        (byte_level("gpt-2").with("tokenizer.ggml.tokens", texts(&["a"])), "1 tokens, but 19 types"),
        (byte_level("gpt-2").with("tokenizer.ggml.model", text("llama")), "no `tokenizer.ggml.scores`"),
        (byte_level("llama3").with("tokenizer.ggml.bos_token_id", natural(19)), "there are 19 tokens"),
    ] {
        let error = error(file);
        assert!(error.contains(says), "{error}");
    }
}

/// Reads all that can be read of a file. Whatever fails has to be the file's fault.
fn read_all(bytes: &'static [u8]) -> Result<()> {
    let file = SourceFile::bundled("model.gguf", bytes);
    let weights = Weights::open(std::slice::from_ref(&file))?;
    for name in weights.names() {
        // A shape that no tensor has says which one it has.
        let Err(Error::TensorShape { got, .. }) = weights.read(&weights.below("").tensor(name, &[77; 9]))
        else {
            panic!("{name} has an absurd shape")
        };
        match values(&weights, name, &got) {
            Ok(_) | Err(Error::TensorDtype { .. } | Error::WeightNotFinite { .. } | Error::Format { .. }) => {
            }
            Err(error) => panic!("{name}: {error}"),
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    let files = ModelFiles::find(path.to_str().unwrap(), &Sources::default(), &Silent)?;
    files.config_json().map(|_| ())
}

fn expected_failure(error: &Error) -> bool {
    matches!(error, Error::Format { .. } | Error::Config { .. })
}

#[test]
fn files_that_are_cut_short_anywhere_are_refused() {
    for name in FILES {
        let whole: &[u8] = std::fs::read(fixture(name)).unwrap().leak();
        // Behind the last tensor is padding, which may be missing.
        for length in (0..whole.len().min(8000)).chain([whole.len() - 40]) {
            let result = read_all(&whole[..length]).and_then(|()| {
                open_tokenizer(SourceFile::bundled("model.gguf", &whole[..length])).map(|_| ())
            });
            let refused = result.as_ref().is_err_and(expected_failure);
            assert!(refused || length + 64 > whole.len(), "{name} of {length} bytes: {result:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    #[test]
    fn damaged_files_are_read_or_refused(
        fixture_number in 0..FILES.len(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 1..6),
        in_header in prop::bool::weighted(0.7),
        cut in prop::option::weighted(0.1, any::<prop::sample::Index>()),
    ) {
        let mut bytes = std::fs::read(fixture(FILES[fixture_number])).unwrap();
        let reach = if in_header { bytes.len().min(2500) } else { bytes.len() };
        for (place, flip) in flips {
            bytes[place.index(reach)] ^= flip;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let bytes: &'static [u8] = bytes.leak();
        if let Err(error) = read_all(bytes) {
            prop_assert!(expected_failure(&error), "{error}");
        }
        match open_tokenizer(SourceFile::bundled("model.gguf", bytes)) {
            Ok(tokenizer) => drop(tokenizer.encode(" a the then 漢")),
            Err(error) => prop_assert!(
                expected_failure(&error) || matches!(error, Error::NoEmbedding { .. } | Error::Option(_)),
                "{error}"
            ),
        }
    }
}
