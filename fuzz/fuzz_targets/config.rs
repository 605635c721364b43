//! `config.json` beside a small checkpoint; which one the first byte says, from `a` on.
#![no_main]

use jumplens_fuzz::{folder, read};

macro_rules! checkpoints {
    ($($name:literal),*) => {
        [$(include_bytes!(concat!("../../crates/jumplens/tests/fixtures/families/", $name, "/model.safetensors"))),*]
    };
}

/// Of the families, in the order that `seeds.py` takes them in.
const CHECKPOINTS: [&[u8]; 16] = checkpoints!(
    "gemma",
    "gemma2",
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
const BERT: &[u8] = include_bytes!("../../crates/jumplens-assets/assets/tiny-bert/model.safetensors");

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((first, config)) = bytes.split_first() else { return };
    let weights = CHECKPOINTS.get(usize::from(first.wrapping_sub(b'a'))).copied().unwrap_or(BERT);
    read(&folder(&[("config.json", config), ("model.safetensors", weights)]));
});
