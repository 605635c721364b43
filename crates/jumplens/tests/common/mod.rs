//! Models to test with: the bundled one, and a small random GPT-2 whose checkpoint a test may shape as it likes.
#![allow(dead_code, reason = "each test file uses some of it")]

use jumplens::hub::{Bundled, BundledCorpus, BundledModel};
use jumplens_assets::{TINY_BERT, TINY_GPT2, WIKIPEDIA_SAMPLE};
use rand::{RngExt, SeedableRng};
use safetensors::tensor::{Dtype, TensorView};
use std::collections::BTreeMap;
use std::path::Path;

/// The bundled models and sentences.
pub fn bundled() -> Bundled {
    let models = [TINY_GPT2, TINY_BERT].map(|model| BundledModel {
        name: model.name,
        config: model.config,
        weights: model.weights,
        tokenizer: model.tokenizer,
    });
    Bundled {
        models: models.into(),
        corpora: vec![BundledCorpus { name: WIKIPEDIA_SAMPLE.name, sentences: WIKIPEDIA_SAMPLE.sentences }],
    }
}

/// A GPT-2 checkpoint before it is written.
pub struct Checkpoint {
    /// `config.json`.
    pub config: serde_json::Value,
    /// Shapes and values by name, in the spelling without prefix.
    pub tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

pub const LAYERS: usize = 3;
pub const WIDTH: usize = 16;
pub const VOCAB: usize = 60;
pub const POSITIONS: usize = 24;
pub const HIDDEN: usize = 2 * WIDTH;

impl Checkpoint {
    /// Three layers of width 16 with random weights, `relu` and a hidden layer of 32.
    pub fn random(seed: u64) -> Self {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let mut tensors = BTreeMap::new();
        let mut add = |name: String, shape: &[usize], centre: f32, spread: f32| {
            let values = (0..shape.iter().product::<usize>())
                .map(|_| centre + rng.random_range(-spread..spread))
                .collect();
            tensors.insert(name, (shape.to_vec(), values));
        };
        let d = WIDTH;
        add("wte.weight".into(), &[VOCAB, d], 0.0, 0.5);
        add("wpe.weight".into(), &[POSITIONS, d], 0.0, 0.2);
        for layer in 0..LAYERS {
            for (name, shape) in [
                ("attn.c_attn", vec![d, 3 * d]),
                ("attn.c_proj", vec![d, d]),
                ("mlp.c_fc", vec![d, HIDDEN]),
                ("mlp.c_proj", vec![HIDDEN, d]),
            ] {
                add(format!("h.{layer}.{name}.weight"), &shape, 0.0, 0.4);
                add(format!("h.{layer}.{name}.bias"), &shape[1..], 0.0, 0.1);
            }
            for name in ["ln_1", "ln_2"] {
                add(format!("h.{layer}.{name}.weight"), &[d], 1.0, 0.3);
                add(format!("h.{layer}.{name}.bias"), &[d], 0.0, 0.3);
            }
        }
        add("ln_f.weight".into(), &[d], 1.0, 0.3);
        add("ln_f.bias".into(), &[d], 0.0, 0.3);
        let config = serde_json::json!({
            "model_type": "gpt2", "vocab_size": VOCAB, "n_positions": POSITIONS, "n_embd": d, "n_layer": LAYERS,
            "n_head": 2, "n_inner": HIDDEN, "activation_function": "relu", "layer_norm_epsilon": 1e-5,
        });
        Self { config, tensors }
    }

    /// Replaces the values of a tensor.
    pub fn set(&mut self, name: &str, value: impl Fn(usize, usize) -> f32) {
        let (shape, values) = self.tensors.get_mut(name).expect("a tensor of that name");
        let width = *shape.last().expect("a shape");
        values.iter_mut().enumerate().for_each(|(i, v)| *v = value(i / width, i % width));
    }

    /// Puts `prefix` before every name.
    pub fn rename(&mut self, rename: impl Fn(&str) -> String) {
        self.tensors = std::mem::take(&mut self.tensors).into_iter().map(|(n, t)| (rename(&n), t)).collect();
    }

    /// Writes `config.json` and `model.safetensors`.
    pub fn write(&self, folder: &Path) {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("config.json"), self.config.to_string()).unwrap();
        let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, (shape, values))| {
                (name, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
            })
            .collect();
        let views = bytes
            .iter()
            .map(|(name, shape, data)| (name, TensorView::new(Dtype::F32, (*shape).clone(), data).unwrap()));
        safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
    }
}

/// Random token sequences, each with a random position, as a samples file; `first_only` puts every position at 0.
pub fn write_samples(path: &Path, n: usize, seed: u64, first_only: bool) {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let mut text = String::new();
    for _ in 0..n {
        let length = rng.random_range(1..POSITIONS as u64 + 1) as usize;
        let ids: Vec<u32> = (0..length).map(|_| rng.random_range(0..VOCAB as u32)).collect();
        let position = if first_only { 0 } else { rng.random_range(0..length as u64) };
        text += &format!("{}\n", serde_json::json!({"ids": ids, "position": position}));
    }
    std::fs::write(path, text).unwrap();
}
