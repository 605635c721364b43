//! A PyTorch checkpoint, a zip file or a stream of pickles, beside the configuration of a GPT-2.
#![no_main]

const CONFIG: &[u8] = include_bytes!("../../crates/jumplens/tests/fixtures/pytorch/gpt2/config.json");

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    jumplens_fuzz::limit(jumplens_fuzz::bound(bytes.len()));
    jumplens_fuzz::read(&jumplens_fuzz::folder(&[("config.json", CONFIG), ("pytorch_model.bin", bytes)]));
});
