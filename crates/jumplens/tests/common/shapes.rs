//! Checkpoints of real shapes with made-up weights.

#![allow(dead_code, reason = "tests and benches use some of it")]

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::path::Path;

/// `config.json` of a GPT-2.
pub fn gpt2(n_layer: usize, n_embd: usize, n_head: usize) -> Value {
    json!({
        "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
        "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": n_embd, "n_head": n_head,
        "n_layer": n_layer, "n_positions": 1024, "resid_pdrop": 0.1, "summary_activation": null,
        "summary_first_dropout": 0.1, "summary_proj_to_labels": true, "summary_type": "cls_index",
        "summary_use_proj": true, "task_specific_params": {"text-generation": {"do_sample": true, "max_length": 50}},
        "vocab_size": 50257,
    })
}

/// `config.json` of a BERT.
pub fn bert(layers: usize, hidden: usize, heads: usize) -> Value {
    json!({
        "architectures": ["BertForMaskedLM"], "attention_probs_dropout_prob": 0.1, "gradient_checkpointing": false,
        "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": hidden, "initializer_range": 0.02,
        "intermediate_size": 4 * hidden, "layer_norm_eps": 1e-12, "max_position_embeddings": 512,
        "model_type": "bert", "num_attention_heads": heads, "num_hidden_layers": layers, "pad_token_id": 0,
        "position_embedding_type": "absolute", "transformers_version": "4.6.0.dev0", "type_vocab_size": 2,
        "use_cache": true, "vocab_size": 30522,
    })
}

/// Names and shapes outside the blocks, and those of a block, in the checkpoint's own spelling.
pub type Tensors = Vec<(String, Vec<usize>)>;

/// The tensors outside the blocks, and those of a block.
pub fn gpt2_tensors(d: usize) -> (Tensors, impl Fn(usize) -> Tensors) {
    let named = |name: &str, shape: &[usize]| (name.to_owned(), shape.to_vec());
    let outside = vec![
        named("wte.weight", &[50257, d]),
        named("wpe.weight", &[1024, d]),
        named("ln_f.weight", &[d]),
        named("ln_f.bias", &[d]),
    ];
    let block = move |layer: usize| {
        let mut tensors = Vec::new();
        for (name, n_in, n_out) in [
            ("attn.c_attn", d, 3 * d),
            ("attn.c_proj", d, d),
            ("mlp.c_fc", d, 4 * d),
            ("mlp.c_proj", 4 * d, d),
        ] {
            tensors.push((format!("h.{layer}.{name}.weight"), vec![n_in, n_out]));
            tensors.push((format!("h.{layer}.{name}.bias"), vec![n_out]));
        }
        for name in ["ln_1", "ln_2"] {
            tensors.extend(["weight", "bias"].map(|part| (format!("h.{layer}.{name}.{part}"), vec![d])));
        }
        tensors
    };
    (outside, block)
}

/// The tensors outside the blocks, and those of a block.
pub fn bert_tensors(d: usize) -> (Tensors, impl Fn(usize) -> Tensors) {
    let norm = move |at: &str| ["gamma", "beta"].map(|part| (format!("{at}.LayerNorm.{part}"), vec![d]));
    let mut outside = vec![
        ("bert.embeddings.word_embeddings.weight".to_owned(), vec![30522, d]),
        ("bert.embeddings.position_embeddings.weight".to_owned(), vec![512, d]),
        ("bert.embeddings.token_type_embeddings.weight".to_owned(), vec![2, d]),
        ("cls.predictions.bias".to_owned(), vec![30522]),
        ("cls.predictions.transform.dense.weight".to_owned(), vec![d, d]),
        ("cls.predictions.transform.dense.bias".to_owned(), vec![d]),
    ];
    outside.extend(norm("bert.embeddings").into_iter().chain(norm("cls.predictions.transform")));
    let block = move |layer: usize| {
        let at = format!("bert.encoder.layer.{layer}");
        let mut tensors = Vec::new();
        for (name, n_in, n_out) in [
            ("attention.self.query", d, d),
            ("attention.self.key", d, d),
            ("attention.self.value", d, d),
            ("attention.output.dense", d, d),
            ("intermediate.dense", d, 4 * d),
            ("output.dense", 4 * d, d),
        ] {
            tensors.push((format!("{at}.{name}.weight"), vec![n_out, n_in]));
            tensors.push((format!("{at}.{name}.bias"), vec![n_out]));
        }
        tensors
            .extend(norm(&format!("{at}.attention.output")).into_iter().chain(norm(&format!("{at}.output"))));
        tensors
    };
    (outside, block)
}

/// `config.json` of SmolLM2-135M, a Llama.
pub fn smollm2() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "bos_token_id": 0, "eos_token_id": 0,
        "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.041_666_666_666_666_664,
        "intermediate_size": 1536, "max_position_embeddings": 8192, "model_type": "llama",
        "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3, "rms_norm_eps": 1e-05,
        "rope_scaling": null, "rope_theta": 100_000, "tie_word_embeddings": true, "vocab_size": 49152,
    })
}

/// The tensors outside the blocks, and those of a block.
pub fn smollm2_tensors() -> (Tensors, impl Fn(usize) -> Tensors) {
    let (d, d_kv, d_inner) = (576, 192, 1536);
    let outside = vec![
        ("model.embed_tokens.weight".to_owned(), vec![49152, d]),
        ("model.norm.weight".to_owned(), vec![d]),
    ];
    let block = move |layer: usize| {
        let named =
            |(name, shape): (&str, Vec<usize>)| (format!("model.layers.{layer}.{name}.weight"), shape);
        let tensors = [
            ("input_layernorm", vec![d]),
            ("post_attention_layernorm", vec![d]),
            ("self_attn.q_proj", vec![d, d]),
            ("self_attn.k_proj", vec![d_kv, d]),
            ("self_attn.v_proj", vec![d_kv, d]),
            ("self_attn.o_proj", vec![d, d]),
            ("mlp.gate_proj", vec![d_inner, d]),
            ("mlp.up_proj", vec![d_inner, d]),
            ("mlp.down_proj", vec![d, d_inner]),
        ];
        tensors.map(named).into()
    };
    (outside, block)
}

/// Writes a checkpoint with so many blocks.
pub fn save(
    folder: &Path,
    config: &Value,
    (outside, block): (Tensors, impl Fn(usize) -> Tensors),
    blocks: usize,
) {
    write(folder, config, &outside.into_iter().chain((0..blocks).flat_map(block)).collect());
}

/// f16 values of about ±0.02, the same for the same name's length.
fn write(folder: &Path, config: &Value, tensors: &Tensors) {
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut state = 1u32;
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, shape)| {
            let n = shape.iter().product::<usize>();
            let mut bytes = Vec::with_capacity(2 * n);
            for _ in 0..n {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // Sign and fraction at random, the exponent that of 2⁻⁶.
                let bits = (state >> 16) as u16 & 0x83ff | 9 << 10;
                bytes.extend_from_slice(&bits.to_le_bytes());
            }
            bytes
        })
        .collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, shape), bytes)| (name, TensorView::new(Dtype::F16, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
}
