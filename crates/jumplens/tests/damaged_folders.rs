//! Folders whose configuration, index or weights say what cannot be: each is read or refused, and nothing of a size that
//! only a file claims is allocated.

mod common;
#[path = "common/damage.rs"]
mod damage;

use common::Checkpoint;
use damage::{read_damaged, read_or_refused};
use jumplens::hub::{ModelFiles, Sources};
use jumplens::models::{Spec, load};
use jumplens::nn::Precision;
use jumplens::progress::Silent;
use jumplens::states::run_samples;
use jumplens::tokenize::Sample;
use jumplens::weights::Weights;
use jumplens::{Error, Result};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A folder with these files.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(files: &[(&str, &[u8])]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        files.iter().for_each(|(name, bytes)| folder.write(name, bytes));
        folder
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        damage::write(&self.0.path().join(name), bytes);
    }

    fn find(&self) -> Result<ModelFiles> {
        ModelFiles::find(self.0.path().to_str().unwrap(), &Sources::default(), &Silent)
    }

    /// Reads every tensor in whichever shape it has, loads the model, and runs a few tokens.
    fn read(&self) -> Result<()> {
        let files = self.find()?;
        let weights = Weights::open(&files.weights)?;
        for name in weights.names() {
            let Err(Error::TensorShape { got, .. }) = weights.read(&weights.below("").tensor(name, &[77; 9]))
            else {
                panic!("{name} has an absurd shape")
            };
            match weights.read(&weights.below("").tensor(name, &got)) {
                Ok(_) | Err(Error::TensorDtype { .. } | Error::WeightNotFinite { .. }) => {}
                Err(error) => panic!("{name}: {error}"),
            }
        }
        let model = load(&files, Precision::F32)?.model;
        let Spec { vocab_size, max_positions, .. } = *model.spec();
        let ids: Vec<u32> = (0..5).take(vocab_size.min(max_positions)).collect();
        if !ids.is_empty() {
            let sample = Sample { position: ids.len() - 1, ids, target: None, text: None };
            run_samples(&model, &[sample], false)?;
        }
        Ok(())
    }

    /// Reads the folder. What fails has to be the files' fault.
    #[track_caller]
    fn read_or_refused(&self, what: &str) {
        read_or_refused(&self.read(), what);
    }
}

/// Configuration and weights of a checkpoint in one file.
fn whole(folder: &Path) -> [Vec<u8>; 2] {
    ["config.json", "model.safetensors"].map(|name| fs::read(folder.join(name)).unwrap())
}

/// A model of every family.
fn families() -> BTreeMap<String, [Vec<u8>; 2]> {
    let bert = tempfile::tempdir().unwrap();
    Checkpoint::random_bert(7).write(bert.path());
    let mut families = BTreeMap::from([("bert".to_owned(), whole(bert.path()))]);
    for folder in fs::read_dir(fixture("families")).unwrap() {
        let folder = folder.unwrap();
        families.insert(folder.file_name().into_string().unwrap(), whole(&folder.path()));
    }
    families
}

/// What a file may say in the place of a number.
fn odd() -> Vec<Value> {
    let naturals = [0, 1, 3, 1 << 31, 1 << 32, 1 << 40, 1 << 60, 1 << 62, 1 << 63, u64::MAX - 1, u64::MAX];
    let others =
        [json!(-1), json!(i64::MIN), json!(0.5), json!(1e300), json!(-1e300), json!(null), json!([])];
    naturals.map(|n| json!(n)).into_iter().chain(others).collect()
}

/// The JSON pointers to all numbers and nulls below `value`.
fn numbers(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Number(_) | Value::Null => found.push(at.to_owned()),
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| numbers(value, &format!("{at}/{name}"), found));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, value)| numbers(value, &format!("{at}/{i}"), found));
        }
        Value::Bool(_) | Value::String(_) => {}
    }
}

/// `value` with each of its numbers replaced by each odd one, and what was replaced.
fn with_odd_numbers(value: &Value) -> impl Iterator<Item = (String, Value)> {
    let mut places = Vec::new();
    numbers(value, "", &mut places);
    places.into_iter().flat_map(move |place| {
        odd().into_iter().map(move |odd| {
            let what = format!("{place} is {odd}");
            let mut changed = value.clone();
            *changed.pointer_mut(&place).unwrap() = odd;
            (what, changed)
        })
    })
}

#[test]
fn a_configuration_may_hold_any_number_anywhere() {
    for (name, [config, weights]) in families() {
        let folder = Folder::new(&[("model.safetensors", &weights)]);
        let mut config: Value = serde_json::from_slice(&config).unwrap();
        // Those that the tests' configurations do not have.
        for field in ["head_dim", "num_key_value_heads", "sliding_window", "word_embed_proj_dim"] {
            config.as_object_mut().unwrap().entry(field).or_insert(Value::Null);
        }
        for (what, config) in with_odd_numbers(&config) {
            folder.write("config.json", config.to_string().as_bytes());
            folder.read_or_refused(&format!("{name}: {what}"));
        }
    }
}

/// Nothing of such a size is made before a tensor bears it out.
#[test]
fn sizes_that_only_the_configuration_claims_are_refused() {
    const HUGE: u64 = 1 << 40;
    let families = families();
    let refused = |family: &str, changes: &[(&str, u64)], tensor: Option<(&str, [u64; 2])>, says: &str| {
        let [config, weights] = &families[family];
        let mut config: Value = serde_json::from_slice(config).unwrap();
        changes.iter().for_each(|(field, value)| config[*field] = json!(value));
        let weights = match tensor {
            // A file of this tensor alone, which has no bytes.
            Some((name, shape)) => {
                let tensor = json!({ "dtype": "F32", "shape": shape, "data_offsets": [0, 0] });
                joined(&json!({ name: tensor }), &[])
            }
            None => weights.clone(),
        };
        let folder =
            Folder::new(&[("config.json", config.to_string().as_bytes()), ("model.safetensors", &weights)]);
        let error = folder.read().unwrap_err();
        assert!(!error.is_bug() && error.to_string().contains(says), "{family}: {error}");
        folder.read_or_refused(family);
    };
    refused("llama", &[("head_dim", HUGE)], None, "`head_dim` 1099511627776");
    refused("llama", &[("num_attention_heads", 1 << 63), ("head_dim", 2)], None, "`num_attention_heads`");
    refused("opt", &[("max_position_embeddings", u64::MAX)], None, "embed_positions");
    let types = "bert.embeddings.token_type_embeddings.weight";
    refused("bert", &[("type_vocab_size", 0)], Some((types, [0, 16])), "`type_vocab_size` is 0");
    // An embedding of no tokens has no bytes, however wide it is.
    let embedding = Some(("embed_in.weight", [0, HUGE]));
    refused("gpt_neox", &[("vocab_size", 0), ("hidden_size", HUGE)], embedding, "`vocab_size` is 0");
    // Where the sizes are those of a text model in the configuration of a larger one.
    let text = json!({"vocab_size": 0, "hidden_size": HUGE, "head_dim": HUGE, "num_attention_heads": 1,
        "num_key_value_heads": 1, "num_hidden_layers": 1, "intermediate_size": 4});
    let config = json!({"model_type": "gemma3", "text_config": text}).to_string();
    let embedding = json!({ "dtype": "F32", "shape": [0, HUGE], "data_offsets": [0, 0] });
    let weights = joined(&json!({ "model.embed_tokens.weight": embedding }), &[]);
    let folder = Folder::new(&[("config.json", config.as_bytes()), ("model.safetensors", &weights)]);
    let error = folder.read().unwrap_err().to_string();
    assert!(error.contains("`vocab_size` is 0"), "{error}");
}

/// A safetensors file's header, and what follows it.
fn parts(safetensors: &[u8]) -> (Value, &[u8]) {
    let (length, metadata) = SafeTensors::read_metadata(safetensors).unwrap();
    (serde_json::to_value(metadata).unwrap(), &safetensors[8 + length..])
}

fn joined(header: &Value, data: &[u8]) -> Vec<u8> {
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

#[test]
fn a_safetensors_header_may_hold_any_number_anywhere() {
    let [config, weights] = whole(&fixture("gguf/gpt2"));
    let folder = Folder::new(&[("config.json", &config)]);
    let (header, data) = parts(&weights);
    folder.write("model.safetensors", &joined(&header, data));
    folder.read().unwrap();
    for (what, header) in with_odd_numbers(&header) {
        folder.write("model.safetensors", &joined(&header, data));
        folder.read_or_refused(&what);
    }
    for length in [0, 1, 1 << 31, 1 << 62, u64::MAX - 7, u64::MAX] {
        let mut bytes = weights.clone();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        folder.write("model.safetensors", &bytes);
        assert!(matches!(folder.read(), Err(Error::Format { .. })), "a header of {length} bytes");
    }
}

/// The configuration, the index and two shards of a checkpoint.
fn shards(folder: &Path) -> [(&'static str, Vec<u8>); 4] {
    let [config, weights] = whole(folder);
    let tensors = SafeTensors::deserialize(&weights).unwrap();
    let mut views: Vec<_> = tensors.iter().collect();
    views.sort_unstable_by_key(|(name, _)| *name);
    let second = views.split_off(views.len() / 2);
    let map = |(views, file): (&[(&str, _)], &'static str)| -> Vec<(String, &str)> {
        views.iter().map(|(name, _)| ((*name).to_owned(), file)).collect()
    };
    let map = [(&views[..], "a.safetensors"), (&second[..], "b.safetensors")].map(map).concat();
    let index = json!({ "metadata": {}, "weight_map": BTreeMap::from_iter(map) });
    [
        ("config.json", config),
        ("model.safetensors.index.json", index.to_string().into_bytes()),
        ("a.safetensors", safetensors::serialize(views, None).unwrap()),
        ("b.safetensors", safetensors::serialize(second, None).unwrap()),
    ]
}

#[test]
fn shards_that_are_cut_short_anywhere_are_refused() {
    let files = shards(&fixture("gguf/gpt2"));
    let folder = Folder::new(&files.each_ref().map(|(name, bytes)| (*name, &bytes[..])));
    folder.read().unwrap();
    for (name, whole) in &files {
        // Without its last line break a JSON file is still whole.
        let end = if name.ends_with(".json") { whole.trim_ascii_end().len() } else { whole.len() };
        for length in 0..end {
            folder.write(name, &whole[..length]);
            let error = folder.read().expect_err(&format!("{name} of {length} bytes"));
            assert!(matches!(error, Error::Format { .. }), "{name} of {length} bytes: {error}");
        }
        folder.write(name, whole);
    }
}

#[test]
fn damaged_folders_are_read_or_refused() {
    let files = shards(&fixture("gguf/gpt2"));
    let folder = Folder::new(&files.each_ref().map(|(name, bytes)| (*name, &bytes[..])));
    for (name, whole) in &files {
        read_damaged(name, whole, 1000, |bytes| {
            folder.write(name, bytes);
            folder.read()
        });
        folder.write(name, whole);
    }
}
