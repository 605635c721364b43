//! Real checkpoints against Hugging Face transformers at every layer. They are not part of the repository:
//! `tools/fetch_real_models.sh` brings them, and a test whose model is not there says that it was skipped.

use candle_core::{Device, Tensor};
use jumplens::hub::{ModelFiles, Sources};
use jumplens::models::{Transformer, load};
use jumplens::nn::Precision;
use jumplens::progress::Silent;
use jumplens::sanity::{TextCheck, check_text};
use jumplens::states::run_samples;
use jumplens::tokenize::{Positions, Sample, Tokenizer};
use jumplens::weights::Weights;
use jumplens_assets::WIKIPEDIA_SAMPLE;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::{Dtype, TensorView};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// What `tools/real_models_reference.py` wrote.
#[derive(Deserialize)]
struct Reference {
    mask: Option<u32>,
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
    let model = load(&files, Precision::F32).unwrap().model;
    let spec = model.spec();
    let tokenizer = Tokenizer::open(files.tokenizer.as_ref().unwrap(), spec, true).unwrap();
    assert_eq!(model.head().is_some(), has_head);

    assert_states_agree(model_name, &model, &tokenizer, reference.mask, &reference.sequences);
}

/// The tokens, the states of every layer and, where the reference has them, the largest logits of each sequence.
fn assert_states_agree(
    model_name: &str,
    model: &Transformer,
    tokenizer: &Tokenizer,
    mask: Option<u32>,
    sequences: &[Sequence],
) {
    let spec = model.spec();
    let mut samples = Vec::new();
    for sequence in sequences {
        assert_eq!(tokenizer.encode(&sequence.text).unwrap(), sequence.ids, "{}", sequence.text);
        let mut ids = sequence.ids.clone();
        if let Some(mask) = mask {
            ids[sequence.position] = mask;
        }
        samples.push(Sample { ids, position: sequence.position, target: None, text: None });
    }
    let d = spec.d_model;
    let states = run_samples(model, &samples, false).unwrap();
    assert_eq!(states.layers.len(), spec.n_layers + 1);
    for (number, sequence) in sequences.iter().enumerate() {
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
        let logits = head.logits(&last).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
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

/// What the reference has of a GGUF file.
#[derive(Deserialize)]
struct GgufReference {
    config: serde_json::Map<String, serde_json::Value>,
    texts: Vec<Text>,
    /// By name: shape, norm, and product with cos(0), cos(1), ….
    tensors: BTreeMap<String, (Vec<usize>, f64, f64)>,
    sequences: Vec<Sequence>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
}

#[test]
fn smollm2_is_read_from_gguf_as_transformers_reads_it() {
    is_read_from_gguf_as_transformers_reads_it("smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", 1e-9);
}

#[test]
fn gemma3_is_read_from_gguf_as_transformers_reads_it() {
    // Its norms' weights are kept whole in the file and as their distance from 1 at Hugging Face: two roundings.
    is_read_from_gguf_as_transformers_reads_it("gemma3", "gemma-3-270m-q4_k_m.gguf", 1e-7);
}

/// The tensors agree within `rounding` of their norm.
fn is_read_from_gguf_as_transformers_reads_it(model_name: &str, file: &str, rounding: f64) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("../../target/real-models").join(model_name).join(file);
    if !path.exists() {
        return say_skipped(model_name);
    }
    let reference = std::fs::read(root.join(format!("tests/golden/real/{model_name}.json"))).unwrap();
    let reference: GgufReference = serde_json::from_slice(&reference).unwrap();
    let files = ModelFiles::find(path.to_str().unwrap(), &Sources::default(), &Silent).unwrap();

    let config = files.config_json().unwrap();
    for (field, value) in &reference.config {
        assert_eq!(&config[field], value, "{field}");
    }

    let model = load(&files, Precision::F32).unwrap().model;
    let tokenizer = Tokenizer::open(files.tokenizer.as_ref().unwrap(), model.spec(), false).unwrap();
    for Text { text, ids } in &reference.texts {
        assert_eq!(&tokenizer.encode(text).unwrap(), ids, "{text:?}");
    }

    let weights = Weights::open(&files.weights).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), reference.tensors.keys().collect::<Vec<_>>());
    for (name, (shape, norm, cosine)) in &reference.tensors {
        let values = weights.read(&weights.below("").tensor(name, shape)).unwrap().flatten_all().unwrap();
        let values = values.to_vec1::<f32>().unwrap();
        let squares: f64 = values.iter().map(|x| f64::from(*x).powi(2)).sum();
        let product: f64 = values.iter().enumerate().map(|(i, x)| f64::from(*x) * (i as f64).cos()).sum();
        assert!(
            (squares.sqrt() - norm).abs() <= rounding * norm,
            "norm of {name}: {} {norm}",
            squares.sqrt()
        );
        assert!((product - cosine).abs() <= rounding * norm, "{name}: {product} {cosine}");
    }
    assert_states_agree(model_name, &model, &tokenizer, None, &reference.sequences);
}

/// One random position of each text.
fn samples_of(tokenizer: &Tokenizer, texts: &[String]) -> Vec<Sample> {
    let texts = texts.iter().enumerate();
    let samples = texts.map(|(index, text)| tokenizer.samples(text, index as u64, 0, Positions::default()));
    samples.flat_map(Result::unwrap).collect()
}

/// Every token, `[MASK]` too, as the one after it in the vocabulary.
fn shifted(samples: &[Sample], vocab: usize) -> Vec<Sample> {
    let next = |id: u32| (id + 1) % vocab as u32;
    let shift = |sample: &Sample| Sample {
        ids: sample.ids.iter().map(|id| next(*id)).collect(),
        target: sample.target.map(next),
        ..sample.clone()
    };
    samples.iter().map(shift).collect()
}

fn checked(model: &Transformer, samples: &[Sample]) -> TextCheck {
    check_text(model, Precision::F32, samples).unwrap().unwrap()
}

#[track_caller]
fn assert_warned(check: &TextCheck, of: &str) {
    let warnings = check.warnings("m");
    assert!(warnings.iter().any(|line| line.contains(of)), "{check:?}: {warnings:?}");
}

#[test]
fn antiberty_is_warned_of_only_where_its_tokens_are_wrong() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = root.join("../../target/real-models/antiberty");
    if !folder.exists() {
        return say_skipped("antiberty");
    }
    let reference = std::fs::read(root.join("tests/golden/real/antiberty.json")).unwrap();
    let reference: Reference = serde_json::from_slice(&reference).unwrap();
    let files = ModelFiles::find(folder.to_str().unwrap(), &Sources::default(), &Silent).unwrap();
    let model = load(&files, Precision::F32).unwrap().model;
    let tokenizer = Tokenizer::open(files.tokenizer.as_ref().unwrap(), model.spec(), true).unwrap();
    // A heavy and a light chain, some of their residues others.
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut mutated = |chain: &str| -> String {
        let residues = chain.split(' ').map(|residue| match rng.random_range(0..16u32) {
            0 => &"ACDEFGHIKLMNPQRSTVWY"[rng.random_range(0..20u64) as usize..][..1],
            _ => residue,
        });
        residues.collect::<Vec<_>>().join(" ")
    };
    let chains: Vec<String> =
        (0..60).map(|number: usize| mutated(&reference.sequences[number % 2].text)).collect();
    let samples = samples_of(&tokenizer, &chains);
    let check = checked(&model, &samples);
    assert_eq!(check.warnings("m"), Vec::<String>::new(), "{check:?}");
    assert!(check.unigrams.loss < 2.0 && check.unigrams.other > 2.5, "{check:?}");
    assert_warned(&checked(&model, &shifted(&samples, model.spec().vocab_size)), "than their frequencies");
}

#[test]
fn smollm2_is_warned_of_only_where_its_tokens_or_its_rope_layout_are_wrong() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("../../target/real-models/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
    if !path.exists() {
        return say_skipped("smollm2");
    }
    let files = ModelFiles::find(path.to_str().unwrap(), &Sources::default(), &Silent).unwrap();
    let model = load(&files, Precision::F32).unwrap().model;
    let tokenizer = Tokenizer::open(files.tokenizer.as_ref().unwrap(), model.spec(), false).unwrap();
    let sentences: Vec<String> = WIKIPEDIA_SAMPLE.sentences.lines().take(64).map(str::to_owned).collect();
    let samples = samples_of(&tokenizer, &sentences);
    let check = checked(&model, &samples);
    assert_eq!(check.warnings("m"), Vec::<String>::new(), "{check:?}");
    // Of transformers in f32, on the same tokens in the same texts.
    let context = check.context.unwrap();
    for (got, want) in [(check.unigrams.loss, 4.131), (context.loss, 4.274), (context.other, 4.835)] {
        assert!((got - want).abs() < 1e-3, "{check:?}");
    }
    assert_warned(&checked(&model, &shifted(&samples, model.spec().vocab_size)), "than their frequencies");
    drop(model);

    // The rows of query and key as the file has them, which are not in the layout of the configuration.
    let folder = tempfile::tempdir().unwrap();
    let config = files.config_json().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let reference = std::fs::read(root.join("tests/golden/real/smollm2.json")).unwrap();
    let reference: GgufReference = serde_json::from_slice(&reference).unwrap();
    let weights = Weights::open(&files.weights).unwrap();
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    for (name, (shape, ..)) in &reference.tensors {
        let mut values = weights.read(&weights.below("").tensor(name, shape)).unwrap();
        if name.contains("q_proj") || name.contains("k_proj") {
            let heads = shape[0] / 64;
            let halves = values.reshape((heads, 2, 32, shape[1])).unwrap();
            values = halves.transpose(1, 2).unwrap().contiguous().unwrap();
        }
        let values = values.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        tensors.push((name.clone(), shape.clone(), values));
    }
    let views = tensors.iter().map(|(name, shape, values)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(values)).unwrap())
    });
    safetensors::serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
    let files = ModelFiles::find(folder.path().to_str().unwrap(), &Sources::default(), &Silent).unwrap();
    let model = load(&files, Precision::F32).unwrap().model;
    assert_warned(&checked(&model, &samples), "wrong RoPE layout");
}
