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
use serde_json::{Map, Value};
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
    ("rope_theta", None, "version 5 passes GPT-NeoX's over"),
    ("layer_types", None, "Mistral's are passed over with a warning"),
    ("hidden_activation", Some("\"relu\""), "Gemma's was read before version 4.49"),
    ("rope_scaling", None, "it contradicts itself, or is by a name that version 5 does not know"),
    (
        "rope_parameters",
        None,
        "it is by type of layer where there are none, or asks for a share of the columns",
    ),
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
        let model = &*loaded.model;
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
                if !is_named || !is_refusal {
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
    assert_eq!(families.len(), 10);
    assert!(equal >= 120 && refused >= 20 && both >= 20, "{equal} {refused} {both}");
}
