//! The models of the paper by their real `config.json`: GPT-2 in four sizes and BERT in two, with weights made up and two
//! of their blocks.

use jumplens::hub::{ModelFiles, Sources};
use jumplens::models::load;
use jumplens::nn::Precision;
use jumplens::progress::Silent;
use jumplens::states::run_samples;
use jumplens::tokenize::Sample;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::path::Path;

const DEPTH: usize = 2;

fn gpt2(n_layer: usize, n_embd: usize, n_head: usize) -> Value {
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

fn bert(layers: usize, hidden: usize, heads: usize) -> Value {
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
type Tensors = Vec<(String, Vec<usize>)>;

fn gpt2_tensors(d: usize) -> (Tensors, impl Fn(usize) -> Tensors) {
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

fn bert_tensors(d: usize) -> (Tensors, impl Fn(usize) -> Tensors) {
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

fn count(tensors: &Tensors) -> usize {
    tensors.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
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

/// Builds and runs the model; `parameters` is how many the whole one has.
fn check(
    mut config: Value,
    (outside, block): (Tensors, impl Fn(usize) -> Tensors),
    depth_field: &str,
    sizes: [usize; 4],
    parameters: usize,
) {
    let [n_layers, d_model, n_heads, vocab_size] = sizes;
    assert_eq!(config[depth_field], n_layers);
    assert_eq!(count(&outside) + n_layers * count(&block(0)), parameters);
    config[depth_field] = DEPTH.into();
    let folder = tempfile::tempdir().unwrap();
    let tensors: Tensors = outside.into_iter().chain((0..DEPTH).flat_map(block)).collect();
    write(folder.path(), &config, &tensors);
    let files = ModelFiles::find(folder.path().to_str().unwrap(), &Sources::default(), &Silent).unwrap();
    let loaded = load(&files, Precision::F32).unwrap();
    assert!(loaded.notes.is_empty(), "{:?}", loaded.notes);
    let spec = loaded.model.spec();
    assert_eq!((spec.d_model, spec.n_heads, spec.vocab_size), (d_model, n_heads, vocab_size));
    assert_eq!(loaded.model.head().unwrap().unembedding().dims(), [vocab_size, d_model]);
    let ids = vec![101, 2003, vocab_size as u32 - 1, 7, 102];
    let sample = Sample { ids, position: 3, target: None, text: None };
    let states = run_samples(&*loaded.model, &[sample], true).unwrap();
    assert_eq!(states.layers.len(), DEPTH + 1);
    for layers in states.layers.windows(2) {
        assert!(layers[1].iter().all(|h| h.is_finite()) && layers[0] != layers[1]);
    }
}

#[test]
fn gpt2_in_four_sizes() {
    for (n_layer, n_embd, n_head, parameters) in [
        (12, 768, 12, 124_439_808),
        (24, 1024, 16, 354_823_168),
        (36, 1280, 20, 774_030_080),
        (48, 1600, 25, 1_557_611_200),
    ] {
        let config = gpt2(n_layer, n_embd, n_head);
        check(config, gpt2_tensors(n_embd), "n_layer", [n_layer, n_embd, n_head, 50257], parameters);
    }
}

#[test]
fn bert_in_two_sizes() {
    for (layers, hidden, heads, parameters) in [(12, 768, 12, 109_514_298), (24, 1024, 16, 335_174_458)] {
        let sizes = [layers, hidden, heads, 30522];
        check(bert(layers, hidden, heads), bert_tensors(hidden), "num_hidden_layers", sizes, parameters);
    }
}
