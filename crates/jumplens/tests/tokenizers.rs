//! Tokenizers against `AutoTokenizer` of `transformers` 4.49 and 5.24: see `fixtures/tokenizers/README.md`.

mod common;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jumplens::batch::PackedBatch;
use jumplens::hub::{ModelFiles, Sources};
use jumplens::models::{Kind, PRE_NORM_PARTS, Spec, load};
use jumplens::nn::Precision;
use jumplens::progress::Silent;
use jumplens::tokenize::{Sample, Tokenizer};
use jumplens::{Error, Result};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

#[derive(Deserialize)]
struct Fixture {
    texts: Vec<String>,
    bases: Map<String, Value>,
    cases: Vec<Case>,
    sequences: Vec<Vec<u32>>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    base: String,
    kind: String,
    patch: Map<String, Value>,
    files: Map<String, Value>,
    #[serde(rename = "4.49")]
    old: Ids,
    #[serde(rename = "5.24")]
    new: Ids,
}

/// The number of each text's sequence, or why there are none.
#[derive(Deserialize, PartialEq)]
#[serde(untagged)]
enum Ids {
    Sequences(Vec<usize>),
    Failed(String),
}

/// What is expected instead of the tokens of version 4.49, which cannot open most of these (by the end of a case's name,
/// the first that fits): those of 5.24, those of another case, or a refusal that has these words.
const OTHERWISE: &[(&str, Expected)] = &[
    ("/special_token_without_type", Expected::As("/special_token_with_type")),
    ("/extra_special_tokens_list", Expected::New),
    ("bert.tokenizer.json/normalized_and_cased", Expected::New),
    ("/normalizer_missing", Expected::As("/normalizer_missing_of_another_class")),
    ("/normalizer_missing_do_lower_case", Expected::Refused("no normalizer for `do_lower_case`")),
    ("bert.tokenizer.json/from_slow", Expected::Refused("`from_slow` is true")),
    ("gpt2.tokenizer.json/from_slow", Expected::Refused("`from_slow` is true")),
    ("/BertJapaneseTokenizer", Expected::Refused("`tokenizer_class` is \"BertJapaneseTokenizer\"")),
    ("/unknown_class", Expected::Refused("`tokenizer_class` is \"NoSuchTokenizer\"")),
    ("vocab.txt/PreTrainedTokenizerFast", Expected::Refused("not made of such a file")),
    ("vocab.json/PreTrainedTokenizerFast", Expected::Refused("not made of such a file")),
    ("vocab.json/LlamaTokenizer", Expected::Refused("not made of such a file")),
    ("/CodeGenTokenizer_add_bos_token", Expected::Refused("`add_bos_token` is true")),
    ("vocab.json/qwen2_add_prefix_space", Expected::New),
    ("vocab.json/gpt_neox", Expected::New),
    ("/fast_tokenizer_files", Expected::Refused("`fast_tokenizer_files` is set")),
    ("/init_inputs", Expected::Refused("`init_inputs` is [\"x\"]")),
    ("/tokenizer_file_null", Expected::New),
    ("/TokenizersBackend", Expected::New),
    ("/bos_token_null", Expected::New),
    ("llama/add_prefix_space", Expected::New),
    ("metaspace/add_prefix_space", Expected::New),
    ("/add_prefix_space_false", Expected::Refused("`add_prefix_space` is false")),
];

#[derive(Clone, Copy)]
enum Expected {
    New,
    As(&'static str),
    Refused(&'static str),
}

fn fixture() -> Fixture {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers/cases.json");
    let mut fixture: Fixture = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let models: BTreeMap<String, Value> =
        fixture.bases.iter().map(|(name, base)| (name.clone(), base["model"].clone())).collect();
    for base in fixture.bases.values_mut() {
        if let Some(other) = base["model"].as_str() {
            base["model"] = models[other].clone();
        }
    }
    fixture
}

fn spec(model_type: &str) -> Spec {
    let families = ["gpt2", "opt", "bert", "gpt_neox", "llama", "mistral", "qwen2", "gemma", "gemma2"];
    let family = families.into_iter().find(|family| *family == model_type);
    Spec {
        family: family.unwrap_or_else(|| panic!("{model_type}")),
        kind: Kind::Causal,
        n_layers: 1,
        d_model: 1,
        n_heads: 1,
        vocab_size: 2000,
        max_positions: 1000,
        parts: PRE_NORM_PARTS,
    }
}

fn open(fixture: &Fixture, case: &Case, allowed: &[&str]) -> Result<Tokenizer> {
    open_for(fixture, case, allowed, &spec(case.files["config.json"]["model_type"].as_str().unwrap()))
}

fn open_for(fixture: &Fixture, case: &Case, allowed: &[&str], spec: &Spec) -> Result<Tokenizer> {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| fs::write(folder.path().join(name), text).unwrap();
    let mut tokenizer = fixture.bases[&case.base].clone();
    for (pointer, value) in &case.patch {
        *tokenizer.pointer_mut(pointer).unwrap() = value.clone();
    }
    let vocab = tokenizer["model"]["vocab"].as_object().unwrap();
    match &*case.kind {
        "tokenizer.json" => write("tokenizer.json", tokenizer.to_string()),
        "vocab.json" => {
            let pairs = tokenizer["model"]["merges"].as_array().unwrap().iter();
            let pairs =
                pairs.map(|pair| format!("{} {}\n", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()));
            write("merges.txt", format!("#version: 0.2\n{}", pairs.collect::<String>()));
            write("vocab.json", serde_json::to_string(vocab).unwrap());
        }
        _ => {
            let mut lines: Vec<(u64, &String)> =
                vocab.iter().map(|(token, id)| (id.as_u64().unwrap(), token)).collect();
            lines.sort_unstable();
            write("vocab.txt", lines.iter().map(|(_, token)| format!("{token}\n")).collect());
        }
    }
    for (name, value) in &case.files {
        write(name, value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    write("model.safetensors", "not read here".to_owned());
    let allow_unread: BTreeSet<String> = allowed.iter().map(|name| (*name).to_owned()).collect();
    let sources = Sources { allow_unread, ..Sources::default() };
    let files = ModelFiles::find(folder.path().to_str().unwrap(), &sources, &Silent)?;
    Tokenizer::open(files.tokenizer.as_ref().unwrap(), spec, false)
}

fn case<'a>(fixture: &'a Fixture, name: &str) -> &'a Case {
    fixture.cases.iter().find(|case| case.name == name).unwrap_or_else(|| panic!("no case {name}"))
}

fn encode(tokenizer: &Tokenizer, texts: &[String]) -> Vec<Vec<u32>> {
    texts.iter().map(|text| tokenizer.encode(text).unwrap()).collect()
}

#[test]
fn tokens_are_those_of_auto_tokenizer() {
    let fixture = fixture();
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    for case in &fixture.cases {
        let otherwise = OTHERWISE.iter().find(|(end, _)| case.name.ends_with(end));
        used.extend(otherwise.map(|(end, _)| *end));
        let got = open(&fixture, case, &[]).map(|tokenizer| encode(&tokenizer, &fixture.texts));
        let same = |version: &Ids| match (&got, version) {
            (Ok(got), Ids::Sequences(numbers)) => {
                numbers.iter().map(|number| &fixture.sequences[*number]).eq(got.iter())
            }
            _ => false,
        };
        let right = match otherwise.map(|(end, expected)| (end, *expected)) {
            None => same(&case.old),
            Some((_, Expected::New)) => same(&case.new),
            Some((end, Expected::As(other))) => {
                let name = case.name.strip_suffix(end).unwrap().to_owned() + other;
                let other = open(&fixture, self::case(&fixture, &name), &[]).unwrap();
                got.as_ref().is_ok_and(|got| *got == encode(&other, &fixture.texts))
            }
            Some((_, Expected::Refused(words))) => {
                got.as_ref().is_err_and(|error| error.to_string().contains(words))
            }
        };
        if !right {
            let which = match &got {
                _ if same(&case.old) => "the tokens of 4.49".to_owned(),
                _ if same(&case.new) => "the tokens of 5.24".to_owned(),
                got => format!("{got:?}"),
            };
            wrong.push(format!("{}: {which}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), fixture.cases.len(), wrong.join("\n"));
    assert_eq!(used.len(), OTHERWISE.len(), "each exception is of some case: {used:?}");
}

#[test]
fn where_tokenizer_json_is_not_followed_a_note_names_the_setting() {
    let fixture = fixture();
    let notes = |name: &str| {
        let case = case(&fixture, name);
        let vocab_size = fixture.bases[&case.base]["model"]["vocab"].as_object().unwrap().len();
        let spec = Spec { vocab_size, ..spec(case.files["config.json"]["model_type"].as_str().unwrap()) };
        open_for(&fixture, case, &[], &spec).unwrap().notes().join("\n")
    };
    for quiet in [
        "bert.tokenizer.json/plain",
        "gpt2.tokenizer.json/plain",
        "llama/plain",
        "qwen2/plain",
        "gemma/plain",
    ] {
        assert_eq!(notes(quiet), "", "{quiet}");
    }
    for (name, says) in [
        ("bert.tokenizer.json/do_lower_case", &["`do_lower_case`", "`lowercase`"][..]),
        ("bert.tokenizer.json/cased", &["`lowercase`", "defaults of `BertTokenizer`"]),
        ("bert.tokenizer.json/strip_accents", &["`strip_accents`"]),
        ("bert.tokenizer.json/tokenize_chinese_chars", &["`tokenize_chinese_chars`"]),
        ("bert.tokenizer.json/normalizer_sequence_do_lower_case", &["`do_lower_case`", "cannot set"]),
        ("bert.tokenizer.json/normalizer_missing", &["no normalizer"]),
        ("gpt2.tokenizer.json/add_prefix_space", &["`add_prefix_space` is true"]),
        ("gpt2.tokenizer.json/prefix_space_in_file", &["`add_prefix_space` is false by default"]),
        ("gpt2.tokenizer.json/add_bos_token", &["`add_bos_token` is true"]),
        ("qwen2/add_prefix_space", &["`add_prefix_space` is true"]),
        ("llama/no_template", &["`add_bos_token` is true", "`<s>` around every text", "puts nothing"]),
        (
            "llama/add_bos_token_false",
            &["`add_bos_token` is false", "nothing around every text", "puts `<s>`"],
        ),
        ("llama/add_eos_token", &["`add_eos_token` true", "transformers 5"]),
        ("gpt2.tokenizer.json/image_token", &["`image_token`"]),
    ] {
        let notes = notes(name);
        says.iter().for_each(|says| assert!(notes.contains(says), "{name}: no {says} in {notes}"));
    }
}

#[test]
fn what_is_not_read_goes_unread_by_leave() {
    let fixture = fixture();
    let plain = open(&fixture, case(&fixture, "gpt2.tokenizer.json/plain"), &[]).unwrap();
    for (name, field) in [
        ("gpt2.tokenizer.json/from_slow", "from_slow"),
        ("gpt2.tokenizer.json/unknown_class", "tokenizer_class"),
        ("gpt2.tokenizer.json/init_inputs", "init_inputs"),
    ] {
        let case = case(&fixture, name);
        let error = open(&fixture, case, &[]).err().unwrap();
        assert!(matches!(&error, Error::Unread { field: unread, .. } if unread == field), "{error}");
        let tokenizer = open(&fixture, case, &[field]).unwrap();
        assert_eq!(encode(&tokenizer, &fixture.texts), encode(&plain, &fixture.texts), "{name}");
        assert!(tokenizer.notes().iter().any(|note| note.contains(field)), "{:?}", tokenizer.notes());
    }
}

#[test]
fn vocabularies_and_embeddings_may_differ_in_size() {
    let fixture = fixture();
    let case = case(&fixture, "gpt2.tokenizer.json/special_tokens_map_strings");
    let size = fixture.bases["gpt2"]["model"]["vocab"].as_object().unwrap().len();
    let open = |vocab_size| {
        let spec = Spec { vocab_size, ..spec("gpt2") };
        open_for(&fixture, case, &[], &spec).unwrap()
    };
    // The case adds `<pad>` and `<mask>`.
    assert!(open(size + 2).notes().is_empty() && open(size + 12).notes().is_empty());
    let padded = open(2 * size);
    assert!(
        padded.notes()[0].contains(&format!("up to {}", size + 1)) && padded.notes()[0].contains("rows"),
        "{:?}",
        padded.notes()
    );
    assert!(padded.encode("a<pad>b").is_ok());
    let narrow = open(size);
    assert!(narrow.notes()[0].contains(&format!("`<pad>` ({size}), `<mask>`")), "{:?}", narrow.notes());
    assert_eq!(narrow.encode("the new token").unwrap(), padded.encode("the new token").unwrap());
    let Err(Error::NoEmbedding { token, id, vocab_size, text, .. }) = narrow.encode("a<pad>b") else {
        panic!("an id beyond the embedding")
    };
    assert_eq!((&*token, id as usize, vocab_size, &*text), ("<pad>", size, size, "a<pad>b"));
}

/// By whatever way it came.
#[test]
fn no_id_beyond_the_embedding_is_looked_up() {
    let files = ModelFiles::find("tiny-gpt2", &common::sources(), &Silent).unwrap();
    let model = load(&files, Precision::F32).unwrap().model;
    let batch = |id| {
        let sample = Sample { ids: vec![5, id], position: 1, target: None, text: None };
        PackedBatch::pack(&[sample], Kind::Causal, 64).remove(0)
    };
    assert_eq!(model.embed(&batch(4095)).unwrap().dims(), [2, 128]);
    let Err(Error::NoSuchToken { id: 4096, vocab_size: 4096 }) = model.embed(&batch(4096)) else {
        panic!("looked up")
    };
}

/// The bundled GPT-2's tokenizer, with `parts` in its tokenizer.json.
fn with_parts(parts: &[(&str, Value)]) -> Result<Tokenizer> {
    let folder = tempfile::tempdir().unwrap();
    let mut json: Value = serde_json::from_slice(jumplens_assets::TINY_GPT2.tokenizer).unwrap();
    for (name, part) in parts {
        json[name] = part.clone();
    }
    fs::write(folder.path().join("config.json"), jumplens_assets::TINY_GPT2.config).unwrap();
    fs::write(folder.path().join("model.safetensors"), jumplens_assets::TINY_GPT2.weights).unwrap();
    fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    let files = ModelFiles::find(folder.path().to_str().unwrap(), &Sources::default(), &Silent)?;
    let model = load(&files, Precision::F32)?.model;
    Tokenizer::open(files.tokenizer.as_ref().unwrap(), model.spec(), true)
}

#[test]
fn a_tokenizer_that_makes_texts_grow_without_bound_is_refused() {
    use serde_json::json;
    let replace =
        |from: &str, to: String| json!({"type": "Replace", "pattern": {"Regex": from}, "content": to});
    let sequence = |parts: Vec<Value>| json!({"type": "Sequence", "normalizers": parts});
    let doubled = || vec![replace("a", "a".repeat(60)); 6];
    // The length of a trie, the trie, and a text to put in the place of another.
    let charsmap = [&[4u8, 0, 0, 0, 1, 2, 3, 4][..], &[b'x'; 300], &[0]].concat();
    let charsmap = STANDARD.encode(&charsmap);
    let added = json!([{"id": 0, "content": "aaaa", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": true, "special": false}]);
    for (name, parts) in [
        ("one step", vec![("normalizer", replace("a", "b".repeat(100_000)))]),
        (
            "what is put before",
            vec![("normalizer", json!({"type": "Prepend", "prepend": "a".repeat(1 << 20)}))],
        ),
        ("a table", vec![("normalizer", json!({"type": "Precompiled", "precompiled_charsmap": charsmap}))]),
        ("an added token", vec![("normalizer", sequence(doubled())), ("added_tokens", added)]),
        ("a decoder", vec![("decoder", json!({"type": "Sequence", "decoders": doubled()}))]),
    ] {
        let Err(Error::Config { path, message }) = with_parts(&parts).map(drop) else {
            panic!("{name} was taken")
        };
        assert!(path.ends_with("tokenizer.json") && message.contains("too long"), "{name}: {message}");
    }
    // Steps that only together are too much, and only for some texts.
    let tokenizer = with_parts(&[("normalizer", sequence(doubled()))]).unwrap();
    assert!(!tokenizer.encode("no such letter: b, c").unwrap().is_empty());
    let Err(Error::Config { path, message }) = tokenizer.encode("a") else { panic!("a text of gigabytes") };
    assert!(path.ends_with("tokenizer.json") && message.contains("1 bytes became"), "{message}");
    // As Llama's, and many steps of which none does much.
    let usual =
        vec![json!({"type": "Prepend", "prepend": "▁"}), replace(" ", "▁".into()), json!({"type": "NFKC"})];
    let escape = |c: char| json!({"type": "Replace", "pattern": {"String": c.to_string()}, "content": format!("&#{};", c as u32)});
    let escapes = "<>'\"[]|".chars().map(escape).collect();
    for steps in [usual, escapes] {
        let tokenizer = with_parts(&[("normalizer", sequence(steps))]).unwrap();
        assert!(!tokenizer.encode("some [words] of a text").unwrap().is_empty());
    }
}
