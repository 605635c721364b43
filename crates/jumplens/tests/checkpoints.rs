//! GPT-2 checkpoints in all their spellings, and what is wrong with wrong ones.

mod common;

use common::{Checkpoint, LAYERS, VOCAB, WIDTH};
use jumplens::Error;
use jumplens::hub::{ModelFiles, Sources};
use jumplens::models::{Loaded, load};
use jumplens::nn::Precision;
use jumplens::progress::Silent;
use jumplens::states::{StateChunk, run_samples};
use jumplens::tokenize::{Sample, read_samples};

fn open(checkpoint: &Checkpoint) -> jumplens::Result<Loaded> {
    let folder = tempfile::tempdir().unwrap();
    checkpoint.write(folder.path());
    load(&ModelFiles::find(folder.path().to_str().unwrap(), &Sources::default(), &Silent)?, Precision::F32)
}

fn states(loaded: &Loaded) -> StateChunk {
    let ids: Vec<u32> = (0..12).map(|i| i * 5 % VOCAB as u32).collect();
    let samples = [3, 7, 11].map(|position| Sample { ids: ids.clone(), position, target: None, text: None });
    run_samples(&loaded.model, &samples, false).unwrap()
}

#[test]
fn all_spellings_give_the_same_model() {
    let plain = open(&Checkpoint::random(1)).unwrap();
    assert!(plain.notes.is_empty());

    // As the whole model is saved, with the mask buffers and the tied head of older versions.
    let mut whole = Checkpoint::random(1);
    whole.rename(|name| format!("transformer.{name}"));
    for layer in 0..LAYERS {
        whole.tensors.insert(format!("transformer.h.{layer}.attn.bias"), (vec![1, 1, 4, 4], vec![1.0; 16]));
        whole.tensors.insert(format!("transformer.h.{layer}.attn.masked_bias"), (vec![1], vec![-1e4]));
    }
    let head = whole.tensors["transformer.wte.weight"].clone();
    whole.tensors.insert("lm_head.weight".into(), head);
    let whole = open(&whole).unwrap();
    assert!(whole.notes.is_empty(), "{:?}", whole.notes);
    assert_eq!(states(&plain), states(&whole));
}

#[test]
fn a_head_of_its_own_is_used_where_the_configuration_says_so() {
    let mut checkpoint = Checkpoint::random(1);
    checkpoint.tensors.insert("lm_head.weight".into(), (vec![VOCAB, WIDTH], vec![0.25; VOCAB * WIDTH]));
    let first = |loaded: &Loaded| {
        loaded.model.head().unwrap().unembedding().flatten_all().unwrap().to_vec1::<f32>().unwrap()[0]
    };
    let tied = open(&checkpoint).unwrap();
    assert_ne!(first(&tied), 0.25);
    assert!(tied.notes[0].contains("lm_head.weight"), "{:?}", tied.notes);
    checkpoint.config["tie_word_embeddings"] = false.into();
    let untied = open(&checkpoint).unwrap();
    assert_eq!(first(&untied), 0.25);
    assert!(untied.notes.is_empty());
}

#[test]
fn tensors_that_are_not_used_are_listed_in_one_line() {
    let mut checkpoint = Checkpoint::random(1);
    checkpoint.tensors.insert("score.weight".into(), (vec![2, WIDTH], vec![0.0; 2 * WIDTH]));
    checkpoint.tensors.insert("multiple_choice_head.summary.bias".into(), (vec![1], vec![0.0]));
    let notes = open(&checkpoint).unwrap().notes;
    assert_eq!(notes.len(), 1);
    assert!(notes[0].contains("score.weight") && notes[0].contains("multiple_choice_head.summary.bias"));
}

#[test]
fn missing_and_misshapen_tensors_are_named() {
    let mut checkpoint = Checkpoint::random(1);
    checkpoint.tensors.remove("h.1.mlp.c_fc.bias");
    let Err(Error::MissingTensor { tensor, expected, .. }) = open(&checkpoint) else { panic!("no error") };
    assert_eq!((tensor.as_str(), expected), ("h.1.mlp.c_fc.bias", vec![2 * WIDTH]));

    let mut checkpoint = Checkpoint::random(1);
    checkpoint.tensors.insert("h.2.attn.c_proj.weight".into(), (vec![WIDTH, 4], vec![0.0; WIDTH * 4]));
    let Err(Error::TensorShape { tensor, expected, got, .. }) = open(&checkpoint) else { panic!("no error") };
    assert_eq!(
        (tensor.as_str(), expected, got),
        ("h.2.attn.c_proj.weight", vec![WIDTH, WIDTH], vec![WIDTH, 4])
    );
}

#[test]
fn configurations_that_cannot_be_run_are_refused() {
    for (field, value) in [
        ("activation_function", serde_json::json!("mish")),
        ("n_head", serde_json::json!(5)),
        ("n_layer", serde_json::json!(0)),
        ("model_type", serde_json::json!("mamba")),
        ("add_cross_attention", serde_json::json!(true)),
        ("n_embd", serde_json::json!("wide")),
    ] {
        let mut checkpoint = Checkpoint::random(1);
        checkpoint.config[field] = value;
        let message = match open(&checkpoint) {
            Err(error @ (Error::Config { .. } | Error::Unread { .. })) => error.to_string(),
            _ => panic!("{field} is not refused"),
        };
        assert!(message.contains(&format!("`{field}`")) || field == "model_type", "{field}: {message}");
    }
}

#[test]
fn samples_that_the_model_cannot_run_are_named_by_line() {
    let loaded = open(&Checkpoint::random(1)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("samples.jsonl");
    let long: Vec<u32> = vec![1; 30];
    for (line, reason) in [
        ("{\"ids\": [1, 2], \"position\": 2}".to_owned(), "beyond"),
        (format!("{{\"ids\": [{VOCAB}], \"position\": 0}}"), "vocabulary"),
        (format!("{{\"ids\": {long:?}, \"position\": 29}}"), "takes 24 at most"),
        ("{\"ids\": [], \"position\": 0}".to_owned(), "beyond"),
        ("{\"ids\": [1]".to_owned(), "not a sample"),
    ] {
        std::fs::write(&path, format!("{{\"ids\": [1], \"position\": 0}}\n\n{line}\n")).unwrap();
        let Err(Error::Sample { line: 3, message, .. }) = read_samples(&path, loaded.model.spec()) else {
            panic!("{line} is not refused at line 3")
        };
        assert!(message.contains(reason), "{message}");
    }
}

#[test]
fn a_weight_that_is_not_finite_is_named() {
    let mut checkpoint = Checkpoint::random(1);
    for (bad, says) in [
        (f32::NAN, "holds NaN, which is no number"),
        (f32::INFINITY, "holds plus infinity"),
        (f32::NEG_INFINITY, "holds minus infinity"),
    ] {
        checkpoint.set("h.1.mlp.c_fc.bias", |_, j| if j == 5 { bad } else { 0.0 });
        let Err(error @ Error::WeightNotFinite { .. }) = open(&checkpoint) else { panic!("no error") };
        let said = error.to_string();
        assert!(said.contains("`h.1.mlp.c_fc.bias`") && said.ends_with(says), "{said}");
    }
}

#[test]
fn weights_too_large_to_be_run_are_named() {
    let mut checkpoint = Checkpoint::random(1);
    assert_eq!(open(&checkpoint).unwrap().notes, [""; 0]);
    checkpoint.set("h.1.mlp.c_fc.bias", |_, j| if j == 5 { -1e38 } else { 0.0 });
    checkpoint.set("h.0.ln_1.weight", |_, _| 1e30);
    let notes = open(&checkpoint).unwrap().notes.join(";");
    assert!(
        notes.contains("`h.1.mlp.c_fc.bias` holds weights up to 1e38 in magnitude, and 1 more"),
        "{notes}"
    );
}
