//! What GGUF files say of a model beside its tensors: files are written as llama.cpp's converter writes them from the
//! tiny checkpoints of `fixtures/make_families.py`, and give the states that transformers gives.

use jumplens::hub::{ModelFiles, Sources};
use jumplens::models::{Loaded, load};
use jumplens::nn::Precision;
use jumplens::progress::Silent;
use jumplens::states::run_samples;
use jumplens::tokenize::Sample;
use jumplens::{Error, Result};
use safetensors::SafeTensors;
use serde_json::Value;
use std::path::{Path, PathBuf};

fn family(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families").join(name)
}

/// A GGUF file of F32 tensors.
#[derive(Clone)]
struct File {
    architecture: &'static str,
    metadata: Vec<(String, Vec<u8>)>,
    /// ggml's name, dimensions in Hugging Face's order, values.
    tensors: Vec<(String, Vec<usize>, Vec<f32>)>,
}

fn raw(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&8_u32.to_le_bytes()[..], &raw(text)].concat()
}

fn natural(n: u64) -> Vec<u8> {
    [4_u32.to_le_bytes(), (n as u32).to_le_bytes()].concat()
}

fn float(x: f32) -> Vec<u8> {
    [6_u32.to_le_bytes(), x.to_le_bytes()].concat()
}

fn truth(truth: bool) -> Vec<u8> {
    [&7_u32.to_le_bytes()[..], &[u8::from(truth)]].concat()
}

fn truths(truths: &[bool]) -> Vec<u8> {
    let bytes: Vec<u8> = truths.iter().map(|truth| u8::from(*truth)).collect();
    [&9_u32.to_le_bytes()[..], &7_u32.to_le_bytes(), &(truths.len() as u64).to_le_bytes(), &bytes].concat()
}

fn naturals(values: &[u32]) -> Vec<u8> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    [&9_u32.to_le_bytes()[..], &4_u32.to_le_bytes(), &(values.len() as u64).to_le_bytes(), &bytes].concat()
}

/// ggml's name of a tensor of the Llama family.
fn ggml_name(name: &str, is_gemma3: bool) -> String {
    let name = name.strip_prefix("model.").unwrap_or(name).replace("layers.", "blk.");
    let feed_forward_norm = if is_gemma3 { "post_attention_norm" } else { "ffn_norm" };
    for (theirs, ours) in [
        ("embed_tokens", "token_embd"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", feed_forward_norm),
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("lm_head", "output"),
    ] {
        if name.contains(theirs) {
            return name.replace(theirs, ours);
        }
    }
    name.replace("norm.", "output_norm.")
}

impl File {
    /// The model of `family` under `architecture`, with the metadata that no file goes without.
    fn of(folder: &str, architecture: &'static str) -> Self {
        let config: Value =
            serde_json::from_slice(&std::fs::read(family(folder).join("config.json")).unwrap()).unwrap();
        let bytes = std::fs::read(family(folder).join("model.safetensors")).unwrap();
        let mut file = Self { architecture, metadata: Vec::new(), tensors: Vec::new() };
        let is_gemma3 = architecture == "gemma3";
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().iter() {
            let mut values: Vec<f32> =
                view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            if is_gemma3 && name.ends_with("norm.weight") {
                values.iter_mut().for_each(|value| *value += 1.0);
            }
            let heads = match () {
                () if name.contains("q_proj") => Some("num_attention_heads"),
                () if name.contains("k_proj") => Some("num_key_value_heads"),
                () => None,
            };
            if let Some(heads) = heads.filter(|_| ["llama", "deci"].contains(&architecture)) {
                values = interleaved(&values, view.shape(), config[heads].as_u64().unwrap() as usize);
            }
            file.tensors.push((ggml_name(name, is_gemma3), view.shape().to_vec(), values));
        }
        let number = |field: &str| natural(config[field].as_u64().unwrap());
        file.set("context_length", number("max_position_embeddings"));
        file.set("embedding_length", number("hidden_size"));
        file.set("block_count", number("num_hidden_layers"));
        file.set("feed_forward_length", number("intermediate_size"));
        file.set("attention.head_count", number("num_attention_heads"));
        file.set("attention.head_count_kv", number("num_key_value_heads"));
        if let Some(head_dim) = config["head_dim"].as_u64() {
            file.set("attention.key_length", natural(head_dim));
            file.set("attention.value_length", natural(head_dim));
        }
        file.set("attention.layer_norm_rms_epsilon", float(1e-5));
        file.set("rope.freq_base", float(10.0));
        file
    }

    fn set(&mut self, key: &str, value: Vec<u8>) {
        let key = format!("{}.{key}", self.architecture);
        self.metadata.retain(|(other, _)| *other != key);
        self.metadata.push((key, value));
    }

    fn with(mut self, key: &str, value: Vec<u8>) -> Self {
        self.set(key, value);
        self
    }

    fn without(mut self, key: &str) -> Self {
        self.metadata.retain(|(other, _)| !other.ends_with(key));
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3_u32.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.metadata.len() as u64 + 1).to_le_bytes());
        bytes.extend([raw("general.architecture"), text(self.architecture)].concat());
        for (key, value) in &self.metadata {
            bytes.extend([raw(key), value.clone()].concat());
        }
        let mut data: Vec<u8> = Vec::new();
        for (name, shape, values) in &self.tensors {
            bytes.extend(raw(name));
            bytes.extend((shape.len() as u32).to_le_bytes());
            bytes.extend(shape.iter().rev().flat_map(|dim| (*dim as u64).to_le_bytes()));
            bytes.extend(0_u32.to_le_bytes());
            bytes.extend((data.len() as u64).to_le_bytes());
            data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            data.resize(data.len().next_multiple_of(32), 0);
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        [bytes, data].concat()
    }

    /// The file loaded, with leave for `allowed`.
    fn load_with(&self, allowed: &[&str]) -> Result<Loaded> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, self.bytes()).unwrap();
        let allow_unread = allowed.iter().map(|key| (*key).to_owned()).collect();
        let sources = Sources { allow_unread, ..Sources::default() };
        let files = ModelFiles::find(path.to_str().unwrap(), &sources, &Silent)?;
        load(&files, Precision::F32)
    }

    /// Loads without a note, and gives the states and logits that transformers has of `family`.
    #[track_caller]
    fn agrees_with(&self, folder: &str) {
        let loaded = self.load_with(&[]).unwrap_or_else(|error| panic!("{error}"));
        assert!(loaded.notes.is_empty(), "{:?}", loaded.notes);
        let worst = distance(&loaded, folder);
        assert!(worst <= 1e-5, "{folder} as `{}`: {worst:e}", self.architecture);
    }

    #[track_caller]
    fn is_refused(&self, says: &str) {
        let error = self.load_with(&[]).map(|_| ()).unwrap_err();
        let is_typed = matches!(error, Error::Config { .. } | Error::Unread { .. } | Error::Format { .. });
        assert!(is_typed && error.to_string().contains(says), "{error}");
    }
}

/// The order in which llama.cpp's converter keeps the rows of LLaMA's queries and keys.
fn interleaved(values: &[f32], shape: &[usize], heads: usize) -> Vec<f32> {
    let width: usize = shape[1..].iter().product();
    let half = shape[0] / heads / 2;
    let rows = (0..heads)
        .flat_map(|head| (0..half).flat_map(move |i| [head * 2 * half + i, head * 2 * half + half + i]));
    rows.flat_map(|row| values[row * width..][..width].to_vec()).collect()
}

/// How far the states of every layer at every position, and the logits, are from those of transformers, relative to their norm.
fn distance(loaded: &Loaded, folder: &str) -> f64 {
    let bytes = std::fs::read(family(folder).join("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let ids = expected.tensor("ids_0").unwrap();
    let ids: Vec<u32> = ids.data().as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b) as u32).collect();
    let floats = |name: &str| -> Vec<f32> {
        expected.tensor(name).unwrap().data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    };
    let at = |position| Sample { ids: ids.clone(), position, target: None, text: None };
    let samples: Vec<Sample> = (0..ids.len()).map(at).collect();
    let layers = run_samples(&loaded.model, &samples, false).unwrap().layers;
    let d = loaded.model.spec().d_model;
    let last =
        candle_core::Tensor::from_slice(layers.last().unwrap(), (ids.len(), d), &candle_core::Device::Cpu)
            .unwrap();
    let logits = loaded.model.head().unwrap().logits(&last).unwrap();
    let logits = logits.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let states = farthest(&layers.concat(), &floats("states_0"), d);
    states.max(farthest(&logits, &floats("logits_0"), loaded.model.spec().vocab_size))
}

/// The largest distance of two rows, relative to the norm of the second.
fn farthest(got: &[f32], want: &[f32], width: usize) -> f64 {
    assert_eq!(got.len(), want.len());
    let norm = |row: &mut dyn Iterator<Item = f64>| row.map(|x| x * x).sum::<f64>().sqrt();
    got.chunks(width)
        .zip(want.chunks(width))
        .map(|(a, b)| {
            let difference = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
            difference / norm(&mut b.iter().map(|b| f64::from(*b)))
        })
        .fold(0.0, f64::max)
}

#[test]
fn qwen2_has_biases_on_queries_keys_and_values_and_none_on_the_output() {
    File::of("qwen2", "qwen2").agrees_with("qwen2");
}

#[test]
fn each_bias_is_there_where_the_file_has_it() {
    // What computes the same as Qwen 2 without the layout of its rows.
    File::of("qwen2", "llama").agrees_with("qwen2");
    File::of("llama", "llama").agrees_with("llama");
    // Its RoPE is unlike others only beyond the positions that are run.
    File::of("llama_mqa_biases", "llama").agrees_with("llama_mqa_biases");
    let mut half = File::of("qwen2", "llama");
    half.tensors.retain(|(name, ..)| name != "blk.1.attn_k.bias");
    let loaded = half.load_with(&[]).unwrap();
    assert!(loaded.notes.is_empty() && distance(&loaded, "qwen2") > 1e-3);
    let mut lacking = File::of("qwen2", "qwen2");
    lacking.tensors.retain(|(name, ..)| name != "blk.1.attn_k.bias");
    assert!(matches!(lacking.load_with(&[]), Err(Error::MissingTensor { .. })));
}

#[test]
fn a_factor_of_rope_without_a_type_is_linear() {
    let file = File::of("llama_linear", "llama");
    assert!(distance(&file.load_with(&[]).unwrap(), "llama_linear") > 1e-2);
    file.clone().with("rope.scaling.factor", float(4.0)).agrees_with("llama_linear");
    file.clone().with("rope.scale_linear", float(4.0)).agrees_with("llama_linear");
    let both = file.clone().with("rope.scale_linear", float(2.0)).with("rope.scaling.factor", float(4.0));
    both.agrees_with("llama_linear");
    let typed = file.with("rope.scaling.type", text("linear")).with("rope.scaling.factor", float(4.0));
    typed.agrees_with("llama_linear");
    // What says that there is none is believed, and a factor of 0 is none.
    for (key, value) in [("rope.scaling.type", text("none")), ("rope.scaling.factor", float(0.0))] {
        let plain = File::of("llama", "llama").with("rope.scaling.factor", float(4.0)).with(key, value);
        plain.agrees_with("llama");
    }
}

#[test]
fn a_window_is_that_of_the_model_the_file_came_from() {
    // Mistral is converted to `llama`.
    let mistral = File::of("mistral", "llama");
    assert!(distance(&mistral.load_with(&[]).unwrap(), "mistral") > 1e-3);
    let windowed = mistral.with("attention.sliding_window", natural(4));
    windowed.agrees_with("mistral");
    windowed.clone().with("attention.sliding_window_pattern", natural(0)).agrees_with("mistral");
    windowed
        .with("attention.sliding_window_pattern", truths(&[true, false]))
        .is_refused("`llama.attention.sliding_window_pattern` is not supported where blocks differ");
    // Qwen's first blocks look at the whole sequence: the file has to say which.
    let qwen2 = File::of("qwen2_sliding", "qwen2").with("attention.sliding_window", natural(4));
    qwen2
        .clone()
        .with("attention.sliding_window_pattern", truths(&[false, true]))
        .agrees_with("qwen2_sliding");
    qwen2.is_refused("`qwen2.attention.sliding_window` is 4, and is not read");
    let notes = qwen2.load_with(&["qwen2.attention.sliding_window"]).unwrap().notes;
    assert_eq!(notes, ["not read, as allowed: `qwen2.attention.sliding_window` (4)"]);
    qwen2
        .with("attention.sliding_window_pattern", truths(&[true]))
        .is_refused("`qwen2.attention.sliding_window_pattern` has 1 values for 2 blocks");
    File::of("qwen2", "qwen2").with("attention.sliding_window", natural(64)).agrees_with("qwen2");
    File::of("qwen3", "qwen3").agrees_with("qwen3");
}

#[test]
fn gemma3_has_two_kinds_of_blocks() {
    let file = File::of("gemma3", "gemma3")
        .with("rope.freq_base", float(100.0))
        .with("rope.freq_base_swa", float(10.0))
        .with("rope.scaling.type", text("linear"))
        .with("rope.scaling.factor", float(2.0))
        .with("attention.sliding_window", natural(4))
        .with("final_logit_softcapping", float(3.0));
    // 12 is no width of a head: queries take the difference.
    let mut scaled = file.with("attention.sliding_window_pattern", natural(2));
    for (name, _, values) in &mut scaled.tensors {
        if name.ends_with("attn_q_norm.weight") {
            values.iter_mut().for_each(|value| *value *= (8.0_f32 / 12.0).sqrt());
        }
    }
    scaled.agrees_with("gemma3");
    scaled
        .clone()
        .with("attention.sliding_window_pattern", truths(&[true, false, true]))
        .agrees_with("gemma3");
    for key in [
        "rope.freq_base_swa",
        "attention.sliding_window",
        "sliding_window_pattern",
        "final_logit_softcapping",
    ] {
        let loaded = scaled.clone().without(key).load_with(&[]).unwrap();
        assert!(distance(&loaded, "gemma3") > 1e-3, "{key}");
    }
    scaled.without("rope.freq_base").is_refused("no `gemma3.rope.freq_base` in its metadata");
}

#[test]
fn keys_that_change_the_states_are_read_or_refused_by_name() {
    let file = File::of("llama", "llama");
    for (key, value, neutral) in [
        ("attention.causal", truth(false), truth(true)),
        ("attention.scale", float(0.25), float(0.0)),
        ("attention.clamp_kqv", float(8.0), float(0.0)),
        ("attention.max_alibi_bias", float(8.0), float(0.0)),
        ("logit_scale", float(0.5), float(1.0)),
        ("residual_scale", float(0.5), float(1.0)),
        ("embedding_scale", float(12.0), float(1.0)),
        ("attn_logit_softcapping", float(50.0), float(0.0)),
        ("final_logit_softcapping", float(30.0), float(0.0)),
        ("rope.scaling.attn_factor", float(1.5), float(1.0)),
        ("rope.scaling.yarn_log_multiplier", float(0.1), float(0.0)),
        ("rope.scaling.yarn_ext_factor", float(0.5), float(1.0)),
        ("rope.scaling.yarn_attn_factor", float(0.5), float(1.0)),
        ("rope.scaling.alpha", float(1000.0), float(0.0)),
        ("nextn_predict_layers", natural(1), natural(0)),
        ("use_parallel_residual", truth(true), truth(false)),
    ] {
        let changed = file.clone().with(key, value);
        let name = format!("llama.{key}");
        changed.is_refused(&format!("`{name}` is "));
        let notes = changed.load_with(&[&name]).unwrap().notes;
        assert!(
            notes.len() == 1 && notes[0].contains(&format!("not read, as allowed: `{name}`")),
            "{notes:?}"
        );
        file.clone().with(key, neutral).agrees_with("llama");
    }
    for (key, value, says) in [
        ("rope.scaling.type", text("longrope"), "`llama.rope.scaling.type` `longrope` is not supported"),
        ("rope.dimension_count", natural(2), "`llama.rope.dimension_count` is 2"),
        ("rope.dimension_sections", truths(&[true, true]), "`llama.rope.dimension_sections` is [1,1]"),
        ("rope.freq_base_swa", float(10.0), "`llama.rope.freq_base_swa`"),
        ("hidden_activation", text("gelu"), "`llama.hidden_activation`"),
        ("attention.value_length", natural(2), "keys of 4 and values of 2"),
        ("expert_count", natural(8), "a mixture of 8 experts (`llama.expert_count`)"),
        (
            "attention.head_count_kv",
            truths(&[true, false]),
            "`llama.attention.head_count_kv` is 1 in one block and 0",
        ),
    ] {
        file.clone().with(key, value).is_refused(says);
    }
    for tensor in ["rope_factors_long.weight", "rope_factors_short.weight"] {
        let mut long = file.clone();
        long.tensors.push((tensor.to_owned(), vec![2], vec![1.0, 2.0]));
        long.is_refused(tensor);
    }
    let mut qwen2 = File::of("qwen2", "qwen2");
    qwen2.tensors.push(("rope_freqs.weight".to_owned(), vec![2], vec![1.0, 2.0]));
    qwen2.is_refused("tensor `rope_freqs.weight` is not read of `qwen2`");
}

#[test]
fn keys_without_effect_pass_and_unknown_ones_are_a_note() {
    let file = File::of("llama", "llama")
        .with("vocab_size", natural(41))
        .with("rope.scaling.finetuned", truth(true))
        .with("pooling_type", natural(3))
        .with("expert_used_count", natural(0));
    file.agrees_with("llama");
    let notes = file.with("flux_capacitor", float(1.21)).load_with(&[]).unwrap().notes;
    assert_eq!(
        notes,
        ["`llama.cpp` has no such fields, and nothing reads them: `llama.flux_capacitor` (1.21)"]
    );
}

/// A block of `deci` without an attention is one whose attention puts out 0, and widths may differ.
#[test]
fn blocks_of_deci_may_differ() {
    let file = File::of("llama", "deci");
    file.agrees_with("llama");
    let by_block = file.clone().with("attention.head_count", naturals(&[4, 4]));
    let by_block = by_block.with("attention.head_count_kv", naturals(&[2, 2]));
    let by_block = by_block.with("feed_forward_length", naturals(&[24, 24]));
    by_block.agrees_with("llama");
    for (key, values, says) in [
        ("feed_forward_length", [0, 24], "block 1 has no feed-forward part"),
        ("attention.head_count", [4, 2], "`deci.attention.head_count` is 4 in one block and 2 in another"),
    ] {
        by_block.clone().with(key, naturals(&values)).is_refused(says);
    }
    let one = by_block.clone().with("feed_forward_length", naturals(&[24]));
    assert!(one.load_with(&[]).unwrap_err().to_string().contains("has 1 values for 2 blocks"));

    let mut without = by_block.clone().with("attention.head_count", naturals(&[4, 0]));
    without.set("attention.head_count_kv", naturals(&[2, 0]));
    without.tensors.retain(|(name, ..)| !name.starts_with("blk.1.attn"));
    let mut silent = by_block;
    for (_, _, values) in silent.tensors.iter_mut().filter(|(name, ..)| name.starts_with("blk.1.attn_output"))
    {
        values.fill(0.0);
    }
    let far = |file: &File| distance(&file.load_with(&[]).unwrap(), "llama");
    assert_eq!(far(&without), far(&silent));
    assert!(far(&without) > 1e-3);

    // A map of each position: of 0 it is none, of any other it is not.
    let mut linear = without.clone().with("attention.head_count", naturals(&[4, 4]));
    let norm = file.tensors.iter().find(|(name, ..)| name == "blk.1.attn_norm.weight").unwrap();
    linear.tensors.push(norm.clone());
    linear.tensors.push(("blk.1.attn_output.weight".to_owned(), vec![16, 16], vec![0.0; 256]));
    assert_eq!(far(&linear), far(&silent));
    linear.tensors.last_mut().unwrap().2[3] = 1.0;
    assert!(far(&linear) != far(&silent));
}
