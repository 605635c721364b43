//! `config.json` beside a small checkpoint; which one the first byte says, from `a` on.
#![no_main]

#[path = "../../crates/jumplens/tests/common/mod.rs"]
mod common;

use common::Checkpoint;
use jumplens_fuzz::{bound, folder, limit, read, seed};
use std::fs;
use std::sync::LazyLock;

macro_rules! checkpoints {
    ($($name:literal),*) => {
        [$(include_bytes!(concat!("../../crates/jumplens/tests/fixtures/families/", $name, "/model.safetensors"))),*]
    };
}

/// Of the families, in the order that `seeds.py` takes them in.
const CHECKPOINTS: [&[u8]; 19] = checkpoints!(
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3_old",
    "gemma3_vision",
    "gpt2",
    "gpt_neox",
    "gpt_neox_sequential",
    "llama",
    "llama_linear",
    "llama_llama3",
    "llama_mha_tied",
    "llama_mqa_biases",
    "mistral",
    "opt",
    "opt_post_norm",
    "qwen2",
    "qwen2_sliding",
    "qwen3"
);
/// Behind them.
static BERT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    Checkpoint::random_bert(7).write(folder.path());
    let file = |name: &str| fs::read(folder.path().join(name)).expect("it was written");
    let letter = b'a' + CHECKPOINTS.len() as u8;
    seed("config", "bert", &[&[letter], &file("config.json")[..]].concat());
    file("model.safetensors")
});

libfuzzer_sys::fuzz_target!(
    init: {
        LazyLock::force(&BERT);
    },
    |bytes: &[u8]| {
        limit(bound(bytes.len()));
        let Some((first, config)) = bytes.split_first() else { return };
        let weights = CHECKPOINTS.get(usize::from(first.wrapping_sub(b'a'))).copied().unwrap_or(&BERT);
        read(&folder(&[("config.json", config), ("model.safetensors", weights)]));
    }
);
