//! What the benches share: values, samples and models of real sizes.
#![allow(dead_code, reason = "each bench uses some of it")]

#[path = "../../tests/common/shapes.rs"]
mod shapes;

use candle_core::{Device, Tensor};
use jumplens::hub::{ModelFiles, Sources};
use jumplens::models::{Transformer, load};
use jumplens::nn::{Isa, Precision};
use jumplens::progress::Silent;
use jumplens::tokenize::Sample;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The program's own allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Values between −1 and 1, the same for the same seed.
pub fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// [`values`] as a tensor.
pub fn tensor(shape: &[usize], seed: u64) -> Tensor {
    Tensor::from_vec(values(shape.iter().product(), seed), shape, &Device::Cpu).unwrap()
}

/// Sentences of 5 to 60 tokens, most of them short, cut at a random position where the model is causal.
pub fn samples(n: usize, vocab: u32) -> Vec<Sample> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let sentence = |_| {
        let length = 5 + (55.0 * rng.random_range(0.0f64..1.0).powi(2)) as usize;
        let ids = (0..length).map(|_| rng.random_range(0..vocab)).collect();
        Sample { ids, position: rng.random_range(0..length), target: None, text: None }
    };
    (0..n).map(sentence).collect()
}

/// A model of real size with made-up weights: `gpt2`, `bert-base-uncased` or `SmolLM2-135M`.
pub fn model(name: &str, precision: Precision) -> Transformer {
    let folder = tempfile::tempdir().unwrap();
    match name {
        "gpt2" => shapes::save(folder.path(), &shapes::gpt2(12, 768, 12), shapes::gpt2_tensors(768), 12),
        "bert-base-uncased" => {
            shapes::save(folder.path(), &shapes::bert(12, 768, 12), shapes::bert_tensors(768), 12);
        }
        _ => shapes::save(folder.path(), &shapes::smollm2(), shapes::smollm2_tensors(), 30),
    }
    let files = ModelFiles::find(folder.path().to_str().unwrap(), &Sources::default(), &Silent).unwrap();
    load(&files, precision).unwrap().model
}

/// What a bench's figures depend on, on one line: the instructions are those of `JUMPLENS_ISA`, where that is set.
pub fn print_machine() {
    if let Ok(isa) = std::env::var("JUMPLENS_ISA") {
        isa.parse().and_then(Isa::choose).unwrap();
    }
    println!(
        "{} threads; {}; bf16 products by the CPU: {}",
        rayon::current_num_threads(),
        Isa::current(),
        if Precision::Bf16.is_native() { "yes" } else { "no" }
    );
}

pub const PRECISIONS: [(&str, Precision); 2] = [("f32", Precision::F32), ("bf16", Precision::Bf16)];
