//! Every model family against Hugging Face transformers at every layer, position and logit, on the tiny random checkpoints
//! of `fixtures/make_families.py`.

use candle_core::{Device, Tensor};
use jumplens::Error;
use jumplens::batch::PackedBatch;
use jumplens::hub::{ModelFiles, Sources};
use jumplens::models::{Loaded, Transformer, describe, load};
use jumplens::nn::Precision;
use jumplens::progress::Silent;
use jumplens::runner::{BlockRun, Context, Plan, Rows};
use jumplens::shortcut::LinearMap;
use jumplens::states::run_samples;
use jumplens::tokenize::Sample;
use safetensors::SafeTensors;
use serde_json::json;
use std::path::{Path, PathBuf};

fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families");
    let mut fixtures: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    fixtures.sort();
    assert_eq!(fixtures.len(), 19);
    fixtures
}

fn open(folder: &Path) -> Transformer {
    let loaded = load(
        &ModelFiles::find(folder.to_str().unwrap(), &Sources::default(), &Silent).unwrap(),
        Precision::F32,
    )
    .unwrap();
    let expected: &[&str] = match folder.ends_with("gemma3_vision") {
        true => &["the text model alone is run: 34 tensors are for pictures"],
        false => &[],
    };
    assert_eq!(loaded.notes, expected, "{}", folder.display());
    loaded.model
}

/// Each sequence with each of its positions chosen.
fn samples(expected: &SafeTensors) -> Vec<Sample> {
    let mut samples = Vec::new();
    for name in ["ids_0", "ids_1"] {
        let data = expected.tensor(name).unwrap().data().as_chunks::<8>().0;
        let ids: Vec<u32> = data.iter().map(|id| i64::from_le_bytes(*id) as u32).collect();
        let at = |position| Sample { ids: ids.clone(), position, target: None, text: None };
        samples.extend((0..ids.len()).map(at));
    }
    samples
}

/// The rows of both sequences' tensors, of layer `layer` where the tensors have layers.
fn rows(expected: &SafeTensors, name: &str, layer: Option<usize>) -> Vec<f32> {
    let mut rows = Vec::new();
    for sequence in 0..2 {
        let view = expected.tensor(&format!("{name}_{sequence}")).unwrap();
        let values: Vec<f32> =
            view.data().as_chunks::<4>().0.iter().map(|v| f32::from_le_bytes(*v)).collect();
        match layer {
            Some(layer) => {
                let size = values.len() / view.shape()[0];
                rows.extend_from_slice(&values[layer * size..][..size]);
            }
            None => rows.extend(values),
        }
    }
    rows
}

#[track_caller]
fn assert_rows_agree(what: &str, got: &[f32], want: &[f32], width: usize, tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (row, (a, b)) in got.chunks(width).zip(want.chunks(width)).enumerate() {
        let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
        let difference = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
        let relative = difference / norm(&mut b.iter().map(|b| f64::from(*b)));
        assert!(relative <= tolerance, "{what}, row {row}: relative error {relative:e}");
    }
}

#[test]
fn states_and_logits_agree_with_transformers_at_every_layer() {
    for folder in fixtures() {
        let name = folder.file_name().unwrap().to_str().unwrap();
        let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
        let expected = SafeTensors::deserialize(&bytes).unwrap();
        let model = open(&folder);
        let spec = model.spec();
        let samples = samples(&expected);
        let states = run_samples(&model, &samples, false).unwrap();
        for (layer, got) in states.layers.iter().enumerate() {
            let want = rows(&expected, "states", Some(layer));
            assert_rows_agree(&format!("{name}, layer {layer}"), got, &want, spec.d_model, 1e-5);
        }
        let last = states.layers[spec.n_layers].clone();
        let last = Tensor::from_vec(last, (samples.len(), spec.d_model), &Device::Cpu).unwrap();
        let got =
            model.head().unwrap().logits(&last).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_rows_agree(
            &format!("{name}, logits"),
            &got,
            &rows(&expected, "logits", None),
            spec.vocab_size,
            1e-5,
        );
    }
}

/// What is told of a model without reading its tensors is what is told of it when it is loaded.
#[test]
fn a_description_is_that_of_the_loaded_model() {
    let scratch = tempfile::tempdir().unwrap();
    for folder in fixtures() {
        let find = |at: &Path| ModelFiles::find(at.to_str().unwrap(), &Sources::default(), &Silent).unwrap();
        let described = describe(&find(&folder)).unwrap();
        let loaded = load(&find(&folder), Precision::F32).unwrap();
        assert_eq!(described.spec, *loaded.model.spec());
        assert_eq!(described.has_head, loaded.model.head().is_some());
        assert_eq!((described.notes, &described.contents), (loaded.notes, &loaded.contents));

        // Numbers that no model loads are not looked at.
        let (config, weights) =
            (scratch.path().join("config.json"), scratch.path().join("model.safetensors"));
        std::fs::copy(folder.join("config.json"), config).unwrap();
        let mut bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        bytes[header..].fill(0xff);
        std::fs::write(weights, bytes).unwrap();
        assert_eq!(describe(&find(scratch.path())).unwrap().contents, loaded.contents);
        assert!(matches!(load(&find(scratch.path()), Precision::F32), Err(Error::WeightNotFinite { .. })));
    }
}

#[test]
fn a_map_folded_into_the_part_behind_it_is_the_map_before_it() {
    for folder in fixtures() {
        let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
        let samples = samples(&SafeTensors::deserialize(&bytes).unwrap());
        let model = open(&folder);
        let spec = model.spec();
        let d = spec.d_model;
        let batch = PackedBatch::pack(&samples, spec.kind, 10_000).remove(0);
        let context = Context::new(&batch, spec.kind, 1);
        let norms = ["ln1", "ln2"].map(|name| spec.part(name).unwrap());
        let map = |layer: usize, part: usize| {
            let entry = |i: usize| ((i * 7 + layer * 3 + part) as f32).sin() / 4.0;
            let map = LinearMap::from_rows((0..d * d).map(entry).collect(), d, d).unwrap();
            norms.contains(&part).then_some(map)
        };
        // A part whose output is kept cannot be folded away.
        let last = |kept: &[usize]| -> Vec<f32> {
            let plan = Plan::new(&model, kept, map).unwrap();
            assert_eq!(plan.rows_before(0), Rows::Every);
            let mut x = model.embed(&batch).unwrap();
            for layer in 0..spec.n_layers {
                x = BlockRun::new(&model, layer, plan.block(layer), x, &context).finish().unwrap();
            }
            x.flatten_all().unwrap().to_vec1().unwrap()
        };
        // Products in another order, through norms that blow small states up.
        assert_rows_agree(&folder.display().to_string(), &last(&[]), &last(&norms), d, 1e-4);
    }
}

/// A copy of a fixture with a field of its configuration changed.
fn with(name: &str, field: &str, value: serde_json::Value) -> jumplens::Result<Loaded> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families").join(name);
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(source.join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let text = std::fs::read(source.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&text).unwrap();
    config[field] = value;
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    load(&ModelFiles::find(folder.path().to_str().unwrap(), &Sources::default(), &Silent)?, Precision::F32)
}

#[test]
fn configurations_that_cannot_be_run_are_refused_by_name() {
    for (fixture, field, value, says) in [
        ("llama", "model_type", json!("mamba"), "`qwen3`"),
        ("llama", "rope_parameters", json!({"rope_type": "su", "factor": 4.0}), "`su`"),
        ("llama", "rope_parameters", json!({"rope_type": "linear"}), "`factor`"),
        (
            "llama",
            "rope_parameters",
            json!({"rope_type": "factors", "factors": [1.0]}),
            "`factors` of 2 numbers above 0, and has 1",
        ),
        ("llama", "num_key_value_heads", json!(3), "`num_key_value_heads`, which is 3"),
        ("llama", "num_attention_heads", json!(0), "`num_attention_heads` is 0"),
        ("llama", "hidden_act", json!("mish"), "mish"),
        ("llama", "partial_rotary_factor", json!(0.5), "`partial_rotary_factor` is 0.5"),
        ("qwen2", "layer_types", json!(["linear_attention", "full_attention"]), "`linear_attention`"),
        ("gpt_neox", "num_attention_heads", json!(5), "`num_attention_heads`, which is 5"),
        ("gpt_neox", "rotary_pct", json!(2.0), "a share of 2 (`partial_rotary_factor`, `rotary_pct`)"),
        ("opt", "activation_function", json!("mish"), "mish"),
    ] {
        let Err(Error::Config { message, .. }) = with(fixture, field, value) else {
            panic!("{fixture} with another `{field}` is not refused")
        };
        assert!(message.contains(says), "{field}: {message}");
    }
}

/// A copy of a fixture without its unembedding, its configuration changed by `edit`.
fn trunk(name: &str, edit: impl Fn(&mut serde_json::Value)) -> jumplens::Result<Loaded> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families").join(name);
    let folder = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(source.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
    let kept = tensors.into_iter().filter(|(name, _)| name != "lm_head.weight" && name != "embed_out.weight");
    std::fs::write(folder.path().join("model.safetensors"), safetensors::serialize(kept, None).unwrap())
        .unwrap();
    let text = std::fs::read(source.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&text).unwrap();
    edit(&mut config);
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    load(&ModelFiles::find(folder.path().to_str().unwrap(), &Sources::default(), &Silent)?, Precision::F32)
}

/// Models that embed texts are published so.
#[test]
fn a_trunk_without_its_head_gives_the_same_states() {
    let ids: Vec<u32> = (0..9).map(|i| i * 5 % 32).collect();
    let samples = [2, 8].map(|position| Sample { ids: ids.clone(), position, target: None, text: None });
    for name in ["llama", "mistral", "qwen2", "qwen3", "gpt_neox"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families").join(name);
        let whole = run_samples(&open(&folder), &samples, false).unwrap();
        for architectures in [json!(["QwenModel"]), json!(null), json!([])] {
            let loaded = trunk(name, |config| config["architectures"] = architectures.clone()).unwrap();
            assert!(loaded.model.head().is_none() && loaded.notes.is_empty(), "{name}: {:?}", loaded.notes);
            assert_eq!(run_samples(&loaded.model, &samples, false).unwrap().layers, whole.layers, "{name}");
        }
        // A model that was saved with its head has lost it.
        let Err(Error::MissingTensor { tensor, .. }) = trunk(name, |_| {}) else {
            panic!("{name}: no error")
        };
        assert!(["lm_head.weight", "embed_out.weight"].contains(&tensor.as_str()), "{tensor}");
        // Where the embedding is the unembedding, nothing is lacking.
        let tied = trunk(name, |config| config["tie_word_embeddings"] = json!(true)).unwrap();
        assert!(tied.model.head().is_some());
    }
}

#[test]
fn null_is_false_where_false_is_the_default() {
    let loaded = with("llama", "attention_bias", json!(null)).unwrap();
    assert!(loaded.notes.is_empty(), "{:?}", loaded.notes);
    let Err(Error::Config { message, .. }) = with("gpt_neox", "attention_bias", json!(null)) else {
        panic!("no error")
    };
    assert!(message.contains("`attention_bias` is null"), "{message}");
}

#[test]
fn what_contradicts_itself_in_positions_is_noted_or_refused_with_both_names() {
    let twice = json!({"rope_type": "linear", "type": "linear", "factor": 4.0});
    assert!(with("llama", "rope_parameters", twice).unwrap().notes.is_empty());
    let differ = json!({"rope_type": "linear", "type": "dynamic", "factor": 4.0});
    let Err(Error::Config { message, .. }) = with("llama", "rope_parameters", differ) else {
        panic!("no error")
    };
    assert!(message.contains("`rope_type` is `linear`") && message.contains("`type`"), "{message}");
    let notes = with("llama", "rope_theta", json!(77.0)).unwrap().notes;
    assert!(notes.len() == 1 && notes[0].contains("77") && notes[0].contains("`rope_theta`"), "{notes:?}");
}

/// `longrope` turns positions in another way in sequences longer than those of the first training.
#[test]
fn longrope_takes_sequences_up_to_its_first_training() {
    let long = json!({
        "rope_type": "longrope", "short_factor": [1.0, 2.0], "long_factor": [2.0, 4.0], "rope_theta": 10.0,
        "original_max_position_embeddings": 20,
    });
    let loaded = with("llama", "rope_parameters", long).unwrap();
    assert_eq!(loaded.model.spec().max_positions, 20);
    assert!(loaded.notes.len() == 1 && loaded.notes[0].contains("up to 20 tokens"), "{:?}", loaded.notes);
}

#[test]
fn biases_that_the_configuration_asks_for_have_to_be_there() {
    let Err(Error::MissingTensor { tensor, .. }) = with("llama", "attention_bias", json!(true)) else {
        panic!("no error")
    };
    assert!(tensor.starts_with("model.layers.0.self_attn.") && tensor.ends_with(".bias"), "{tensor}");
    let notes = with("llama_mqa_biases", "mlp_bias", json!(false)).unwrap().notes;
    assert!(notes.len() == 1 && notes[0].contains("model.layers.1.mlp.up_proj.bias"), "{notes:?}");
}
