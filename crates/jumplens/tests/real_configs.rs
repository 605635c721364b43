//! The models of the paper by their real `config.json`: GPT-2 in four sizes and BERT in two, with weights made up and two
//! of their blocks.

use jumplens::hub::{ModelFiles, Sources};
use jumplens::models::load;
use jumplens::nn::Precision;
use jumplens::progress::Silent;
use jumplens::states::run_samples;
use jumplens::tokenize::Sample;
use serde_json::Value;

#[path = "common/shapes.rs"]
mod shapes;
use shapes::{Tensors, bert, bert_tensors, gpt2, gpt2_tensors, save, smollm2, smollm2_tensors};

const DEPTH: usize = 2;

fn count(tensors: &Tensors) -> usize {
    tensors.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
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
    save(folder.path(), &config, (outside, block), DEPTH);
    let files = ModelFiles::find(folder.path().to_str().unwrap(), &Sources::default(), &Silent).unwrap();
    let loaded = load(&files, Precision::F32).unwrap();
    assert!(loaded.notes.is_empty(), "{:?}", loaded.notes);
    let spec = loaded.model.spec();
    assert_eq!((spec.d_model, spec.n_heads, spec.vocab_size), (d_model, n_heads, vocab_size));
    assert_eq!(loaded.model.head().unwrap().unembedding().dims(), [vocab_size, d_model]);
    let ids = vec![101, 2003, vocab_size as u32 - 1, 7, 102];
    let sample = Sample { ids, position: 3, target: None, text: None };
    let states = run_samples(&loaded.model, &[sample], true).unwrap();
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

#[test]
fn smollm2_of_the_llama_family() {
    check(smollm2(), smollm2_tensors(), "num_hidden_layers", [30, 576, 9, 49152], 134_515_008);
}
