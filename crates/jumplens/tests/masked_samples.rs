//! Samples for masked models, and BERT's own vocabulary file.

mod common;

use common::sources;
use jumplens::hub::{ModelFiles, Sources, TokenizerFiles};
use jumplens::models::{Kind, Spec, load};
use jumplens::nn::Precision;
use jumplens::progress::Silent;
use jumplens::tokenize::{Positions, Sample, Tokenizer};
use jumplens::{Error, SpecialToken};
use jumplens_assets::{TINY_BERT, WIKIPEDIA_SAMPLE};
use std::collections::BTreeSet;
use std::path::Path;

const CLS: u32 = 2;
const SEP: u32 = 3;
const MASK: u32 = 4;

fn sentences(n: usize) -> impl Iterator<Item = (u64, &'static str)> {
    (0..).zip(WIKIPEDIA_SAMPLE.sentences.lines().take(n))
}

fn samples(tokenizer: &Tokenizer, n: usize) -> Vec<Sample> {
    sentences(n)
        .flat_map(|(index, text)| tokenizer.samples(text, index, 7, Positions::default()).unwrap())
        .collect()
}

fn tiny_bert() -> (TokenizerFiles, Spec) {
    let files = ModelFiles::find("tiny-bert", &sources(), &Silent).unwrap();
    let spec = load(&files, Precision::F32).unwrap().model.spec().clone();
    (files.tokenizer.unwrap(), spec)
}

#[test]
fn the_token_at_a_random_position_of_the_whole_sequence_is_masked() {
    let (files, spec) = tiny_bert();
    let masked = samples(&Tokenizer::open(&files, &spec, true).unwrap(), 1000);
    let kept = samples(&Tokenizer::open(&files, &spec, false).unwrap(), 1000);
    let mut positions = BTreeSet::new();
    for (masked, kept) in masked.iter().zip(&kept) {
        assert_eq!((masked.position, masked.target), (kept.position, kept.target));
        assert_eq!((kept.ids[0], *kept.ids.last().unwrap()), (CLS, SEP));
        assert_eq!(kept.target, Some(kept.ids[kept.position]));
        assert_eq!(masked.ids_to_run(Kind::Masked), masked.ids);
        let differing: Vec<usize> = (0..kept.ids.len()).filter(|i| masked.ids[*i] != kept.ids[*i]).collect();
        assert_eq!(differing, [kept.position]);
        assert_eq!(masked.ids[masked.position], MASK);
        positions.insert((masked.position == 0, masked.position + 1 == masked.ids.len()));
    }
    // First, last and in between.
    assert_eq!(positions.len(), 3);
}

#[test]
fn a_long_sentence_is_cut_within_its_special_tokens() {
    let (files, spec) = tiny_bert();
    let tokenizer = Tokenizer::open(&files, &spec, true).unwrap();
    let long = "the river runs ".repeat(400);
    let ids = tokenizer.encode(&long).unwrap();
    assert_eq!((ids.len(), ids[0], ids[spec.max_positions - 1]), (spec.max_positions, CLS, SEP));
    let short = tokenizer.encode(&long[..300]).unwrap();
    assert_eq!(ids[..short.len() - 1], short[..short.len() - 1]);
}

/// A folder with the model's configuration and weights, and `vocab.txt` as its only tokenizer.
fn with_vocabulary(folder: &Path, edit: impl Fn(&mut Vec<String>)) -> ModelFiles {
    let json: serde_json::Value = serde_json::from_slice(TINY_BERT.tokenizer).unwrap();
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let mut lines = vec![String::new(); vocab.len()];
    vocab.iter().for_each(|(token, id)| lines[id.as_u64().unwrap() as usize] = token.clone());
    edit(&mut lines);
    std::fs::write(folder.join("config.json"), TINY_BERT.config).unwrap();
    std::fs::write(folder.join("model.safetensors"), TINY_BERT.weights).unwrap();
    std::fs::write(folder.join("vocab.txt"), lines.join("\n") + "\n").unwrap();
    ModelFiles::find(folder.to_str().unwrap(), &Sources::default(), &Silent).unwrap()
}

#[test]
fn a_vocabulary_file_gives_what_tokenizer_json_gives() {
    let (json, spec) = tiny_bert();
    let json = Tokenizer::open(&json, &spec, true).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let files = with_vocabulary(folder.path(), |_| {}).tokenizer.unwrap();
    let text = Tokenizer::open(&files, &spec, true).unwrap();
    for (_, sentence) in sentences(2000).chain([(0, "Zoë's [MASK] café — 東京 ﬁn\u{200d}e, U.S.")]) {
        assert_eq!(text.encode(sentence).unwrap(), json.encode(sentence).unwrap(), "{sentence}");
    }

    // Upper case is kept where the file beside it says so, and then counts as another tokenizer.
    let before = files.sha256();
    std::fs::write(folder.path().join("tokenizer_config.json"), r#"{"do_lower_case": false}"#).unwrap();
    let files = ModelFiles::find(folder.path().to_str().unwrap(), &Sources::default(), &Silent)
        .unwrap()
        .tokenizer
        .unwrap();
    let cased = Tokenizer::open(&files, &spec, true).unwrap();
    assert_ne!(cased.encode("The").unwrap(), text.encode("The").unwrap());
    assert_eq!(cased.encode("the").unwrap(), text.encode("the").unwrap());
    assert_ne!(files.sha256(), before);
}

#[test]
fn tokens_that_are_put_into_every_sample_need_an_embedding() {
    let (_, spec) = tiny_bert();
    let open = |edit: &dyn Fn(&mut Vec<String>), mask| {
        let folder = tempfile::tempdir().unwrap();
        Tokenizer::open(&with_vocabulary(folder.path(), edit).tokenizer.unwrap(), &spec, mask).err()
    };
    let beyond: &dyn Fn(&mut Vec<String>) = &|lines| {
        lines[MASK as usize] = "[unused]".into();
        lines.push("[MASK]".into());
    };
    let Some(Error::NoEmbedding { id: 4096, vocab_size: 4096, token, text, .. }) = open(beyond, true) else {
        panic!("a mask without an embedding")
    };
    assert!(text.is_empty(), "{text}");
    assert_eq!(token, "[MASK]");
    assert!(open(beyond, false).is_none(), "a token that no sample has needs no embedding");

    let no_mask: &dyn Fn(&mut Vec<String>) = &|lines| lines[MASK as usize] = "[unused]".into();
    let Some(Error::SpecialToken { what: SpecialToken::Mask, .. }) = open(no_mask, true) else {
        panic!("no [MASK]")
    };
    assert!(open(no_mask, false).is_none(), "a token that is kept needs no [MASK]");
    let Some(Error::NoEmbedding { token, .. }) = open(&|lines| lines[CLS as usize] = "[unused]".into(), true)
    else {
        panic!("[CLS] was added behind the vocabulary")
    };
    assert_eq!(token, "[CLS]");
}
