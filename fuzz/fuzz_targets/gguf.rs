//! A GGUF file: header, tensors, configuration, and the tokenizer that is built from its metadata.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    jumplens_fuzz::limit(jumplens_fuzz::bound(bytes.len()));
    let folder = jumplens_fuzz::folder(&[("model.gguf", bytes)]);
    jumplens_fuzz::read(&folder.join("model.gguf"));
});
