//! A run of a small model, for the targets whose inputs are files that runs write.

use jumplens::hub::{Bundled, BundledModel, Sources};
use jumplens::moments::Shard;
use jumplens::nn::Precision;
use jumplens::progress::Silent;
use jumplens::run::{Existing, Run, SampleSource, Settings};
use jumplens::shortcut::{Fits, Pairs, Ridge};
use std::fs;
use std::path::Path;

/// A GPT-2 of two layers, 8 wide, with 20 tokens, as a bundled model: its name is the same in every folder.
pub fn sources() -> Sources {
    let model = BundledModel {
        name: "small",
        config: include_bytes!("../../crates/jumplens/tests/fixtures/gguf/gpt2/config.json"),
        weights: include_bytes!("../../crates/jumplens/tests/fixtures/gguf/gpt2/model.safetensors"),
        tokenizer: b"{}",
    };
    Sources { bundled: Bundled { models: vec![model], corpora: vec![] }, ..Sources::default() }
}

/// A run of the small model in `folder`, with its states.
pub fn begin(folder: &Path, pairs: Pairs, shard: Option<Shard>) -> Run {
    let samples = |name: &str, n: u32| {
        let path = folder.with_extension(name);
        let line = |i: u32| {
            let ids: Vec<u32> = (0..=i % 7).map(|k| (5 * k + 3 * i + k * k) % 20).collect();
            format!("{{\"ids\": {ids:?}, \"position\": {}}}\n", i % 7)
        };
        fs::write(&path, (0..n).map(line).collect::<String>()).expect("samples can be written");
        path
    };
    let settings = Settings {
        model: "small".to_owned(),
        samples: SampleSource::Files { train: samples("train", 40), val: samples("val", 12) },
        seed: 0,
        fits: Fits { intercept: true, ridge: Some(Ridge::Auto), ranks: vec![2], ..Fits::plain(pairs) },
        dtype: Precision::F32,
        shard,
    };
    let begun = Run::begin(folder, &settings, Existing::Overwrite, &sources(), &Silent);
    let mut run = begun.expect("a run begins");
    run.states(&Silent).expect("a run has states");
    run
}
