//! Real checkpoints against Hugging Face transformers at every layer. They are not part of the repository:
//! `tools/fetch_real_models.sh` brings them, and a test whose model is not there says that it was skipped.

use candle_core::{Device, Tensor};
use jumplens::hub::{ModelFiles, Sources};
use jumplens::models::load;
use jumplens::progress::Silent;
use jumplens::states::run_samples;
use jumplens::tokenize::{Sample, Tokenizer};
use serde::Deserialize;
use std::io::Write;
use std::path::Path;

/// What `tools/real_models_reference.py` wrote.
#[derive(Deserialize)]
struct Reference {
    mask: u32,
    sequences: Vec<Sequence>,
}

#[derive(Deserialize)]
struct Sequence {
    text: String,
    ids: Vec<u32>,
    position: usize,
    layers: Vec<State>,
    #[serde(default)]
    top: Vec<(u32, f64)>,
}

/// A state by its norm, its product with cos(0), cos(1), …, and eight of its coordinates.
#[derive(Deserialize)]
struct State {
    norm: f64,
    cosine: f64,
    coordinates: Vec<f64>,
}

/// Relative to the state's norm, or to the logit.
const TOLERANCE: f64 = 1e-5;

#[track_caller]
fn assert_near(what: &str, got: f64, want: f64, scale: f64) {
    assert!((got - want).abs() <= TOLERANCE * scale, "{what}: {got} against {want} of transformers");
}

/// Straight to standard error, where the test runner does not hold it back.
fn say_skipped(model: &str) {
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: the real model `{model}` is not in target/real-models; fetch it with tools/fetch_real_models.sh {model}"
    );
}

fn agrees_with_transformers(model_name: &str, has_head: bool) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = root.join("../../target/real-models").join(model_name);
    if !folder.exists() {
        return say_skipped(model_name);
    }
    let reference = std::fs::read(root.join(format!("tests/golden/real/{model_name}.json"))).unwrap();
    let reference: Reference = serde_json::from_slice(&reference).unwrap();
    let files = ModelFiles::find(folder.to_str().unwrap(), &Sources::default(), &Silent).unwrap();
    let model = load(&files).unwrap().model;
    let spec = model.spec();
    let tokenizer = Tokenizer::open(files.tokenizer.as_ref().unwrap(), spec, true).unwrap();
    assert_eq!(model.head().is_some(), has_head);

    let mut samples = Vec::new();
    for sequence in &reference.sequences {
        assert_eq!(tokenizer.encode(&sequence.text).unwrap(), sequence.ids, "{}", sequence.text);
        let mut ids = sequence.ids.clone();
        ids[sequence.position] = reference.mask;
        samples.push(Sample { ids, position: sequence.position, target: None, text: None });
    }
    let d = spec.d_model;
    let states = run_samples(&*model, &samples, false, |_| Ok(())).unwrap();
    assert_eq!(states.layers.len(), spec.n_layers + 1);
    for (number, sequence) in reference.sequences.iter().enumerate() {
        assert_eq!(sequence.layers.len(), spec.n_layers + 1);
        for (layer, (got, want)) in states.layers.iter().zip(&sequence.layers).enumerate() {
            let what = format!("{model_name}, layer {layer}, sequence {number}");
            let state: Vec<f64> = got[number * d..][..d].iter().map(|h| f64::from(*h)).collect();
            let norm = state.iter().map(|h| h * h).sum::<f64>().sqrt();
            let cosine = state.iter().enumerate().map(|(i, h)| h * (i as f64).cos()).sum::<f64>();
            assert_near(&what, norm, want.norm, want.norm);
            assert_near(&what, cosine, want.cosine, want.norm);
            for (k, want_k) in want.coordinates.iter().enumerate() {
                assert_near(&what, state[k * (d - 1) / 7], *want_k, want.norm);
            }
        }
        let Some(head) = model.head() else { continue };
        let last = &states.layers[spec.n_layers][number * d..][..d];
        let last = Tensor::from_slice(last, (1, d), &Device::Cpu).unwrap();
        let logits = head.prepare(&last).unwrap().matmul(&head.unembedding().t().unwrap()).unwrap();
        let logits = logits.broadcast_add(head.bias().unwrap()).unwrap().flatten_all().unwrap();
        let logits = logits.to_vec1::<f32>().unwrap();
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
        assert_eq!(sequence.top.len(), 10);
        for (rank, (token, logit)) in sequence.top.iter().enumerate() {
            assert_eq!(order[rank], *token, "{model_name}, sequence {number}, rank {rank}");
            let what = format!("{model_name}, sequence {number}, logit of {token}");
            assert_near(&what, f64::from(logits[*token as usize]), *logit, sequence.top[0].1.abs());
        }
    }
}

#[test]
fn minilm_agrees_with_transformers_at_every_layer() {
    agrees_with_transformers("minilm", false);
}

#[test]
fn antiberty_agrees_with_transformers_at_every_layer() {
    agrees_with_transformers("antiberty", true);
}
