//! Models to test with: the bundled one, and a small random GPT-2 whose checkpoint a test may shape as it likes.
#![allow(dead_code, reason = "each test file uses some of it")]

#[path = "../../examples/shared/bundled.rs"]
mod bundled;

use jumplens::hub::Sources;
use rand::{RngExt, SeedableRng};
use safetensors::tensor::{Dtype, TensorView};
use std::collections::BTreeMap;
use std::path::Path;

/// The bundled models and sentences, and no Hub.
pub fn sources() -> Sources {
    bundled::sources()
}

/// A GPT-2 checkpoint before it is written.
pub struct Checkpoint {
    /// `config.json`.
    pub config: serde_json::Value,
    /// Shapes and values by name, in the spelling without prefix.
    pub tensors: Tensors,
}

pub const LAYERS: usize = 3;
pub const WIDTH: usize = 16;
pub const VOCAB: usize = 60;
pub const POSITIONS: usize = 24;
pub const HIDDEN: usize = 2 * WIDTH;

/// Shapes and values by name.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Adds tensors of random values: name, shape, centre and spread.
fn filler(seed: u64, tensors: &mut Tensors) -> impl FnMut(String, &[usize], f32, f32) {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    move |name, shape, centre, spread| {
        let n = shape.iter().product::<usize>();
        let values = (0..n).map(|_| centre + rng.random_range(-spread..spread)).collect();
        tensors.insert(name, (shape.to_vec(), values));
    }
}

impl Checkpoint {
    /// Three layers of width 16 with random weights, `relu` and a hidden layer of 32.
    pub fn random(seed: u64) -> Self {
        let mut tensors = Tensors::new();
        let mut add = filler(seed, &mut tensors);
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
        drop(add);
        Self { config, tensors }
    }

    /// A masked model of the same sizes: `BertForMaskedLM` with random weights and `relu`.
    pub fn random_bert(seed: u64) -> Self {
        let mut tensors = Tensors::new();
        let mut add = filler(seed, &mut tensors);
        let d = WIDTH;
        add("bert.embeddings.word_embeddings.weight".into(), &[VOCAB, d], 0.0, 0.5);
        add("bert.embeddings.position_embeddings.weight".into(), &[POSITIONS, d], 0.0, 0.5);
        add("bert.embeddings.token_type_embeddings.weight".into(), &[2, d], 0.0, 0.5);
        let mut norms = vec!["bert.embeddings".to_owned(), "cls.predictions.transform".to_owned()];
        let mut denses = vec![("cls.predictions.transform.dense".to_owned(), d, d)];
        for layer in 0..LAYERS {
            let at = format!("bert.encoder.layer.{layer}");
            for name in ["self.query", "self.key", "self.value", "output.dense"] {
                denses.push((format!("{at}.attention.{name}"), d, d));
            }
            denses.push((format!("{at}.intermediate.dense"), d, HIDDEN));
            denses.push((format!("{at}.output.dense"), HIDDEN, d));
            norms.extend([format!("{at}.attention.output"), format!("{at}.output")]);
        }
        for (name, n_in, n_out) in denses {
            add(format!("{name}.weight"), &[n_out, n_in], 0.0, 0.4);
            add(format!("{name}.bias"), &[n_out], 0.0, 0.1);
        }
        for name in norms {
            add(format!("{name}.LayerNorm.weight"), &[d], 1.0, 0.3);
            add(format!("{name}.LayerNorm.bias"), &[d], 0.0, 0.3);
        }
        add("cls.predictions.bias".into(), &[VOCAB], 0.0, 0.3);
        let config = serde_json::json!({
            "model_type": "bert", "architectures": ["BertForMaskedLM"], "vocab_size": VOCAB, "hidden_size": d,
            "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": HIDDEN, "hidden_act": "relu",
            "max_position_embeddings": POSITIONS, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
        });
        drop(add);
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

/// Random token sequences, each with a random position, as a samples file; `single` makes them one token long.
pub fn write_samples(path: &Path, n: usize, seed: u64, single: bool) {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let mut text = String::new();
    for _ in 0..n {
        let longest = if single { 1 } else { POSITIONS as u64 };
        let length = rng.random_range(1..longest + 1) as usize;
        let ids: Vec<u32> = (0..length).map(|_| rng.random_range(0..VOCAB as u32)).collect();
        let position = rng.random_range(0..length as u64);
        text += &format!("{}\n", serde_json::json!({"ids": ids, "position": position}));
    }
    std::fs::write(path, text).unwrap();
}
