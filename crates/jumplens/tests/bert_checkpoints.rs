//! BERT checkpoints in all their spellings, with and without a head, and what is wrong with wrong ones.

mod common;

use common::{Checkpoint, LAYERS, VOCAB, WIDTH};
use jumplens::Error;
use jumplens::hub::{ModelFiles, Sources};
use jumplens::models::{Loaded, Transformer, load};
use jumplens::nn::Precision;
use jumplens::progress::Silent;
use jumplens::states::run_samples;
use jumplens::tokenize::Sample;

fn open(checkpoint: &Checkpoint) -> jumplens::Result<Loaded> {
    let folder = tempfile::tempdir().unwrap();
    checkpoint.write(folder.path());
    load(&ModelFiles::find(folder.path().to_str().unwrap(), &Sources::default(), &Silent)?, Precision::F32)
}

/// The states of every layer at three positions of a sequence.
fn states(model: &Transformer) -> Vec<Vec<f32>> {
    let ids: Vec<u32> = (0..12).map(|i| i * 5 % VOCAB as u32).collect();
    let samples = [3, 7, 11].map(|position| Sample { ids: ids.clone(), position, target: None, text: None });
    run_samples(model, &samples, false).unwrap().layers
}

/// What the head makes of the last states, with its unembedding and bias.
fn head(loaded: &Loaded) -> Vec<Vec<f32>> {
    let head = loaded.model.head().unwrap();
    let last = states(&loaded.model).pop().unwrap();
    let last = candle_core::Tensor::from_vec(last, (3, WIDTH), &candle_core::Device::Cpu).unwrap();
    let values = |x: &candle_core::Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    vec![values(&head.prepare(&last).unwrap()), values(head.unembedding()), values(head.bias().unwrap())]
}

#[test]
fn all_spellings_give_the_same_model() {
    let plain = open(&Checkpoint::random_bert(1)).unwrap();
    assert!(plain.notes.is_empty(), "{:?}", plain.notes);

    // As converted from TensorFlow, with all that BERT was trained with, the tied decoder, and the buffer of positions.
    let mut old = Checkpoint::random_bert(1);
    old.rename(|name| {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    });
    let words = old.tensors["bert.embeddings.word_embeddings.weight"].clone();
    let bias = old.tensors["cls.predictions.bias"].clone();
    for (name, tensor) in [
        ("cls.predictions.decoder.weight", words),
        ("cls.predictions.decoder.bias", bias),
        ("bert.pooler.dense.weight", (vec![WIDTH, WIDTH], vec![0.5; WIDTH * WIDTH])),
        ("bert.pooler.dense.bias", (vec![WIDTH], vec![0.5; WIDTH])),
        ("cls.seq_relationship.weight", (vec![2, WIDTH], vec![0.5; 2 * WIDTH])),
        ("cls.seq_relationship.bias", (vec![2], vec![0.5; 2])),
        ("bert.embeddings.position_ids", (vec![1, 4], vec![0.0; 4])),
    ] {
        old.tensors.insert(name.into(), tensor);
    }
    old.config["architectures"] = serde_json::json!(["BertForPreTraining"]);
    let old = open(&old).unwrap();
    assert!(old.notes.is_empty(), "{:?}", old.notes);
    assert_eq!(states(&plain.model), states(&old.model));
    assert_eq!(head(&plain), head(&old));

    // The trunk beside the head, neither with the prefix.
    let mut bare = Checkpoint::random_bert(1);
    bare.rename(|name| name.strip_prefix("bert.").unwrap_or(name).to_owned());
    let bare = open(&bare).unwrap();
    assert_eq!(states(&plain.model), states(&bare.model));
    assert_eq!(head(&plain), head(&bare));
}

#[test]
fn an_encoder_without_its_head_gives_the_same_states() {
    let whole = open(&Checkpoint::random_bert(1)).unwrap();
    let mut trunk = Checkpoint::random_bert(1);
    trunk.tensors.retain(|name, _| name.starts_with("bert."));
    trunk.rename(|name| name["bert.".len()..].to_owned());
    trunk.config["architectures"] = serde_json::json!(["BertModel"]);
    let trunk = open(&trunk).unwrap();
    assert!(trunk.model.head().is_none() && trunk.notes.is_empty());
    assert_eq!(states(&whole.model), states(&trunk.model));
}

#[test]
fn a_head_that_was_promised_or_begun_has_to_be_there() {
    let mut promised = Checkpoint::random_bert(1);
    promised.tensors.retain(|name, _| name.starts_with("bert."));
    let Err(Error::MissingTensor { tensor, .. }) = open(&promised) else { panic!("no error") };
    assert!(tensor.starts_with("cls.predictions."), "{tensor}");

    let mut begun = Checkpoint::random_bert(1);
    begun.config["architectures"] = serde_json::json!(["BertModel"]);
    begun.tensors.remove("cls.predictions.transform.LayerNorm.bias");
    let Err(Error::MissingTensor { tensor, .. }) = open(&begun) else { panic!("no error") };
    assert_eq!(tensor, "cls.predictions.transform.LayerNorm.bias");
}

#[test]
fn a_decoder_of_its_own_is_used_where_the_configuration_says_so() {
    let mut checkpoint = Checkpoint::random_bert(1);
    let own = (vec![VOCAB, WIDTH], vec![0.25; VOCAB * WIDTH]);
    checkpoint.tensors.insert("cls.predictions.decoder.weight".into(), own);
    let tied = open(&checkpoint).unwrap();
    assert_ne!(head(&tied)[1][0], 0.25);
    assert!(tied.notes[0].contains("decoder.weight"), "{:?}", tied.notes);
    checkpoint.config["tie_word_embeddings"] = false.into();
    let untied = open(&checkpoint).unwrap();
    assert_eq!(head(&untied)[1][0], 0.25);
    assert!(untied.notes.is_empty());
}

/// `transformers` 5 adds the decoder's bias where nothing is tied; 4.49 knows one bias under two names.
#[test]
fn of_two_biases_the_configuration_says_which_counts() {
    let mut checkpoint = Checkpoint::random_bert(1);
    let bias = checkpoint.tensors["cls.predictions.bias"].1[0];
    checkpoint.tensors.insert("cls.predictions.decoder.bias".into(), (vec![VOCAB], vec![0.25; VOCAB]));
    let tied = open(&checkpoint).unwrap();
    assert_eq!(head(&tied)[2][0], bias);
    assert!(tied.notes.len() == 1 && tied.notes[0].contains("decoder.bias` differs"), "{:?}", tied.notes);

    let own = checkpoint.tensors["bert.embeddings.word_embeddings.weight"].clone();
    checkpoint.tensors.insert("cls.predictions.decoder.weight".into(), own);
    checkpoint.config["tie_word_embeddings"] = false.into();
    let untied = open(&checkpoint).unwrap();
    assert_eq!(head(&untied)[2][0], 0.25);
    assert!(untied.notes.len() == 1 && untied.notes[0].contains("predictions.bias` differs"));

    checkpoint.tensors.remove("cls.predictions.decoder.bias");
    let one = open(&checkpoint).unwrap();
    assert!(head(&one)[2][0] == bias && one.notes.is_empty());
}

#[test]
fn tensors_that_are_not_used_are_listed_and_wrong_ones_named() {
    let mut checkpoint = Checkpoint::random_bert(1);
    checkpoint.tensors.insert("cls.species.weight".into(), (vec![6, WIDTH], vec![0.0; 6 * WIDTH]));
    let notes = open(&checkpoint).unwrap().notes;
    assert!(notes.len() == 1 && notes[0].ends_with("not used: cls.species.weight"), "{notes:?}");

    let mut checkpoint = Checkpoint::random_bert(1);
    let name = format!("bert.encoder.layer.{}.intermediate.dense.weight", LAYERS - 1);
    checkpoint.tensors.insert(name.clone(), (vec![WIDTH, 2 * WIDTH], vec![0.0; 2 * WIDTH * WIDTH]));
    let Err(Error::TensorShape { tensor, expected, got, .. }) = open(&checkpoint) else { panic!("no error") };
    assert_eq!((tensor, expected, got), (name, vec![2 * WIDTH, WIDTH], vec![WIDTH, 2 * WIDTH]));
}

#[test]
fn configurations_that_cannot_be_run_are_refused() {
    for (field, value) in [
        ("hidden_act", serde_json::json!("mish")),
        ("num_attention_heads", serde_json::json!(5)),
        ("num_hidden_layers", serde_json::json!(0)),
        ("position_embedding_type", serde_json::json!("relative_key")),
        ("is_decoder", serde_json::json!(true)),
    ] {
        let mut checkpoint = Checkpoint::random_bert(1);
        checkpoint.config[field] = value;
        let message = match open(&checkpoint) {
            Err(error @ (Error::Config { .. } | Error::Unread { .. })) => error.to_string(),
            _ => panic!("{field} is not refused"),
        };
        assert!(message.contains(&format!("`{field}`")), "{field}: {message}");
    }
}
