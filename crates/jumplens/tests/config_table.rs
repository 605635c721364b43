//! Every field of the configuration classes of `transformers` at a value other than its default: either the states and
//! logits that `transformers` gives, or an error that names the field. `fixtures/config_table.jsonl` is written by
//! `tools/config_table.py`, which makes the same checkpoints.

use candle_core::{Device, Tensor};
use jumplens::Error;
use jumplens::hub::{ModelFiles, Sources};
use jumplens::models::{Loaded, load};
use jumplens::nn::Precision;
use jumplens::progress::Silent;
use jumplens::states::run_samples;
use jumplens::tokenize::Sample;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What `transformers` runs and jumplens refuses: by field, with the values (`None`: all of them), and why.
const REFUSED: &[(&str, Option<&str>, &str)] = &[
    ("is_causal", None, "a causal model that sees what follows makes no predictions of it"),
    ("is_decoder", None, "a BERT as a decoder is another model"),
    ("is_encoder_decoder", None, "no family here has an encoder and a decoder"),
    ("add_cross_attention", None, "there is nothing to attend to"),
    ("position_embedding_type", None, "version 5 passes it over, 4.49 does not"),
    ("pruned_heads", None, "version 5 passes it over, 4.49 does not"),
    ("quantization_config", None, "the tensors of a quantised checkpoint are not numbers yet"),
    ("use_bidirectional_attention", Some("true"), "it depends on how attention is computed"),
    ("partial_rotary_factor", None, "version 5 passes it over, 4.49 fails"),
    ("hidden_size", Some("24"), "version 5 turns an odd number of GPT-NeoX's columns"),
    ("num_attention_heads", Some("4"), "likewise"),
    ("rope_theta", None, "version 5 passes GPT-NeoX's over"),
    ("layer_types", None, "Mistral's are passed over with a warning"),
    ("hidden_activation", Some("\"relu\""), "Gemma's was read before version 4.49"),
    ("rope_scaling", None, "it contradicts itself, or is by a name that version 5 does not know"),
    (
        "rope_parameters",
        None,
        "it is by type of layer where there are none, or asks for a share of the columns",
    ),
    ("attn_logit_softcapping", Some("2.0"), "version 5 passes Gemma 3's over"),
    ("hidden_act", None, "one of the activations that are not here"),
    ("activation_function", None, "one of the activations that are not here"),
    ("alias", None, "two names differ"),
];

struct Table {
    ids: Vec<u32>,
    positions: Vec<usize>,
    shapes: Vec<BTreeMap<String, Vec<usize>>>,
    bases: Map<String, Value>,
    rows: Vec<Value>,
    /// States by layer, and logits, by number.
    outcomes: BTreeMap<u64, (Vec<Vec<f32>>, Vec<f32>)>,
}

fn parsed<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

fn table() -> Table {
    let text = std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config_table.jsonl"),
    )
    .unwrap();
    let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let head = lines.next().unwrap();
    let rows: Vec<Value> = lines.collect();
    let with_states = rows.iter().filter(|row| row.get("states").is_some());
    let outcomes = with_states
        .map(|row| (row["outcome"].as_u64().unwrap(), (parsed(&row["states"]), parsed(&row["logits"]))));
    Table {
        ids: parsed(&head["ids"]),
        positions: parsed(&head["positions"]),
        shapes: parsed(&head["shapes"]),
        bases: parsed(&head["bases"]),
        outcomes: outcomes.collect(),
        rows,
    }
}

/// As `weights` in `tools/config_table.py` has it.
fn weights(name: &str, shape: &[usize]) -> Vec<u8> {
    let hash =
        name.bytes().fold(2_166_136_261u32, |state, byte| (state ^ u32::from(byte)).wrapping_mul(16_777_619));
    let value = |i: usize| {
        let mut x = (i as u32).wrapping_mul(2_654_435_761).wrapping_add(hash);
        for shift in [16, 15, 13] {
            x = (x ^ (x >> shift)).wrapping_mul(0x045d_9f3b);
        }
        let u = f64::from(x) / 4_294_967_296.0 - 0.5;
        let u = match (shape.len(), name.ends_with("weight")) {
            (1, true) => 1.0 + 0.6 * u,
            (1, false) => 0.6 * u,
            _ => 0.8 * u,
        };
        u as f32
    };
    (0..shape.iter().product()).flat_map(|i| value(i).to_le_bytes()).collect()
}

/// The fields that a row changes, and those within them.
fn names(row: &Value) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = parsed::<Vec<String>>(&row["unset"]).into_iter().collect();
    names.insert(parsed(&row["field"]));
    for (name, value) in row["set"].as_object().unwrap() {
        names.insert(name.clone());
        names.extend(value.as_object().into_iter().flatten().map(|(name, _)| name.clone()));
    }
    names
}

impl Table {
    fn config(&self, row: &Value) -> Map<String, Value> {
        let mut config: Map<String, Value> = parsed(&self.bases[row["family"].as_str().unwrap()]);
        parsed::<Vec<String>>(&row["unset"]).iter().for_each(|field| drop(config.remove(field)));
        config.extend(parsed::<Map<String, Value>>(&row["set"]));
        config
    }

    fn load(&self, row: &Value, config: &Map<String, Value>) -> jumplens::Result<Loaded> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), Value::Object(config.clone()).to_string()).unwrap();
        let shapes = &self.shapes[row["shapes"].as_u64().unwrap() as usize];
        let bytes: Vec<Vec<u8>> = shapes.iter().map(|(name, shape)| weights(name, shape)).collect();
        let views = shapes.iter().zip(&bytes).map(|((name, shape), bytes)| {
            (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
        });
        safetensors::serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
        let files = ModelFiles::find(folder.path().to_str().unwrap(), &Sources::default(), &Silent)?;
        load(&files, Precision::F32)
    }

    /// The largest difference of a row of states or logits from what it should be, as a share of its norm.
    fn difference(&self, loaded: &Loaded, states: &[Vec<f32>], logits: &[f32]) -> f64 {
        let model = &loaded.model;
        let at = |position| Sample { ids: self.ids.clone(), position, target: None, text: None };
        let samples: Vec<Sample> = self.positions.iter().map(|position| at(*position)).collect();
        let got = run_samples(model, &samples, false).unwrap().layers;
        assert_eq!(got.len(), states.len());
        let d = model.spec().d_model;
        let last = Tensor::from_vec(got[got.len() - 1].clone(), (samples.len(), d), &Device::Cpu).unwrap();
        let head = model.head().expect("a head");
        let got_logits: Vec<f32> = head.logits(&last).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let mut off: f64 = 0.0;
        for (got, want) in got
            .iter()
            .map(Vec::as_slice)
            .zip(states.iter().map(Vec::as_slice))
            .chain([(&got_logits[..], logits)])
        {
            assert_eq!(got.len(), want.len());
            let width = want.len() / samples.len();
            for (a, b) in got.chunks(width).zip(want.chunks(width)) {
                let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
                let distance = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
                off = off.max(distance / norm(&mut b.iter().map(|b| f64::from(*b))));
            }
        }
        off
    }
}

#[test]
fn every_field_is_read_as_transformers_reads_it_or_refused_by_name() {
    let table = table();
    let (mut equal, mut refused, mut both, mut runs, mut faults) = (0, 0, 0, 0, Vec::new());
    for row in &table.rows {
        let field = row["field"].as_str().unwrap();
        let config = table.config(row);
        let what = format!("{} {field} {} {}", row["family"], row["set"], row["unset"]);
        let outcome = row.get("outcome").and_then(Value::as_u64).map(|number| &table.outcomes[&number]);
        match (table.load(row, &config), outcome) {
            (Ok(loaded), Some((states, logits))) => {
                let off = table.difference(&loaded, states, logits);
                equal += 1;
                if off > 1e-5 {
                    faults.push(format!("{what}: off by {off:.1e}"));
                }
            }
            // What `transformers` cannot run has no right answer to be held against.
            (Ok(_), None) => runs += 1,
            (Err(error), outcome) => {
                let message = error.to_string();
                let is_named = names(row).iter().any(|name| message.contains(&format!("`{name}`")));
                let is_refusal = matches!(error, Error::Config { .. } | Error::Unread { .. });
                // Where transformers fails too, a tensor of another shape than the default's says enough.
                if outcome.is_some() && (!is_named || !is_refusal) {
                    faults.push(format!("{what}: {message}"));
                }
                let value = config.get(field).map(Value::to_string);
                let is_listed = REFUSED
                    .iter()
                    .any(|(name, of, _)| *name == field && (of.is_none() || value.as_deref() == *of));
                match outcome {
                    Some(_) if !is_listed => faults.push(format!("{what}: transformers runs it: {message}")),
                    Some(_) => refused += 1,
                    None => both += 1,
                }
            }
        }
    }
    let families: BTreeSet<&str> = table.rows.iter().filter_map(|row| row["family"].as_str()).collect();
    println!("{equal} equal, {refused} refused, {both} refused by both, {runs} run by us alone");
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    assert_eq!(families.len(), 11);
    assert!(equal >= 120 && refused >= 20 && both >= 20, "{equal} {refused} {both}");
}

/// A value that cannot be run is refused in words that say which field it is, and what it has to be.
#[test]
fn what_cannot_be_run_is_refused_with_what_it_has_to_be() {
    let table = table();
    let by_type = json!({"full_attention": {"rope_type": "default"}});
    for (family, set, says) in [
        ("llama", json!({"num_key_value_heads": 3}), "a multiple of `num_key_value_heads`, which is 3"),
        ("llama", json!({"num_attention_heads": -2}), "`num_attention_heads`: invalid value: integer `-2`"),
        ("llama", json!({"num_attention_heads": 2.5}), "expected a whole number from 0"),
        ("llama", json!({"head_dim": 0}), "`head_dim` is 0"),
        ("llama", json!({"head_dim": 7}), "`head_dim` is 7: it has to be even"),
        ("llama", json!({"intermediate_size": 0}), "`intermediate_size` is 0"),
        ("llama", json!({"rms_norm_eps": -1e-6}), "`rms_norm_eps` is -0.000001: it has to be 0 or above"),
        (
            "llama",
            json!({"rms_norm_eps": "1e-6"}),
            "`rms_norm_eps`: invalid type: string \"1e-6\", expected a number",
        ),
        (
            "llama",
            json!({"attention_bias": "no"}),
            "`attention_bias`: invalid type: string \"no\", expected true or false",
        ),
        (
            "llama",
            json!({"hidden_act": "snake"}),
            "`hidden_act` is `snake`, which is not supported; these are: `gelu`",
        ),
        ("llama", json!({"rope_scaling": "linear"}), "`rope_scaling` is \"linear\": it has to be an object"),
        (
            "llama",
            json!({"rope_scaling": {"type": "spiral"}}),
            "`rope_scaling`: `rope_type` `spiral` is not supported",
        ),
        (
            "llama",
            json!({"rope_scaling": {"type": "linear", "factor": "4"}}),
            "`rope_scaling`: `factor`: invalid type",
        ),
        (
            "llama",
            json!({"rope_scaling": {"type": "linear"}}),
            "`rope_scaling`: rope type `linear` needs `factor`",
        ),
        (
            "llama",
            json!({"rope_parameters": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}}),
            "`rope_parameters`: `high_freq_factor` is 4: it has to be above `low_freq_factor`, which is 4",
        ),
        ("llama", json!({"rope_theta": -1}), "`rope_theta` is -1: it has to be above 0"),
        ("llama", json!({"rope_parameters": by_type}), "`rope_parameters` is by type of layer"),
        ("llama", json!({"partial_rotary_factor": 0.5}), "`partial_rotary_factor` is 0.5"),
        ("llama", json!({"quantization_config": {"bits": 4}}), "`quantization_config`"),
        ("mistral", json!({"sliding_window": 0}), "`sliding_window` is 0"),
        ("mistral", json!({"sliding_window": -1}), "`sliding_window`: invalid value: integer `-1`"),
        ("gemma2", json!({"layer_types": ["full_attention"]}), "1 layers, and `num_hidden_layers` is 2"),
        (
            "gemma2",
            json!({"layer_types": ["full_attention", "linear_attention"]}),
            "`linear_attention` is not supported",
        ),
        ("gemma2", json!({"layer_types": "full_attention"}), "`layer_types`: invalid type"),
        (
            "gemma2",
            json!({"tie_word_embeddings": null}),
            "`tie_word_embeddings` is null: it has to be true or false",
        ),
        (
            "gemma2",
            json!({"query_pre_attn_scalar": -1}),
            "`query_pre_attn_scalar` is -1: it has to be above 0",
        ),
        (
            "gemma2",
            json!({"hidden_activation": "snake"}),
            "`hidden_activation` is `snake`, which is not supported",
        ),
        (
            "gemma3_text",
            json!({"rope_local_base_freq": -5}),
            "`rope_local_base_freq` is -5: it has to be a number",
        ),
        ("llama", json!({"model_type": 3}), "`model_type` has to be a string"),
        ("gemma3_text", json!({"sliding_window_pattern": 0}), "`sliding_window_pattern` is 0"),
        ("gemma3_text", json!({"rope_scaling": {"type": "linear", "factor": 4}}), "call it `rope_type`"),
        (
            "gemma3_text",
            json!({"rope_scaling": {"type": "linear", "rope_type": "dynamic", "factor": 4}}),
            "`rope_scaling`: `rope_type` is `dynamic` and `type`",
        ),
        ("gemma3_text", json!({"rope_parameters": {"rope_type": "linear"}}), "it has to be by type of layer"),
        ("gpt_neox", json!({"rotary_pct": -0.5}), "it has to be from 0 to 1"),
        ("gpt_neox", json!({"rotary_pct": 1.5}), "it has to be from 0 to 1"),
        ("gpt_neox", json!({"layer_norm_eps": -1}), "`layer_norm_eps` is -1"),
        ("gpt2", json!({"n_head": 3}), "`n_embd` is 16: it has to be a multiple of `n_head`, which is 3"),
        ("gpt2", json!({"hidden_size": 24}), "`n_embd`, which is another name of the same"),
        ("bert", json!({"num_attention_heads": 0}), "`num_attention_heads` is 0: it has to be above 0"),
        ("bert", json!({"hidden_act": 3}), "`hidden_act`: invalid type: integer `3`, expected a string"),
        ("opt", json!({"do_layer_norm_before": null}), "`do_layer_norm_before` is null"),
    ] {
        let row = table.rows.iter().find(|row| row["family"] == family).unwrap();
        let mut config: Map<String, Value> = parsed(&table.bases[family]);
        config.extend(parsed::<Map<String, Value>>(&set));
        match table.load(row, &config) {
            Ok(_) => panic!("{family} {set} is run"),
            Err(error @ (Error::Config { .. } | Error::Unread { .. })) => {
                assert!(error.to_string().contains(says), "{family} {set}: {error}");
            }
            Err(error) => panic!("{family} {set}: {error}"),
        }
    }
}

/// `architectures` says whether there is a head, in a list or by itself.
#[test]
fn a_model_that_is_said_to_have_a_head_must_have_it() {
    let table = table();
    let row = table.rows.iter().find(|row| row["family"] == "llama").unwrap();
    let mut shapes = table.shapes[row["shapes"].as_u64().unwrap() as usize].clone();
    shapes.remove("lm_head.weight").unwrap();
    let table = Table { shapes: vec![shapes], ..table };
    let row = json!({"shapes": 0});
    let with = |architectures: Value| {
        let mut config: Map<String, Value> = parsed(&table.bases["llama"]);
        config.insert("architectures".to_owned(), architectures);
        table.load(&row, &config)
    };
    for said in [json!(["LlamaForCausalLM"]), json!("LlamaForCausalLM")] {
        let Err(error) = with(said) else { panic!("no head is missing") };
        assert!(error.to_string().contains("lm_head.weight"), "{error}");
    }
    for trunk in [json!(["LlamaModel"]), json!("LlamaModel"), json!(null), json!(7)] {
        assert!(with(trunk).unwrap().model.head().is_none());
    }
}
