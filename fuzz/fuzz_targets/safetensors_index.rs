//! A folder of `config.json`, an index and its shards, `0.safetensors` and so on, one behind the other with [`NEXT`]
//! between them; or of `config.json` and `model.safetensors`.
#![no_main]

use jumplens_fuzz::{folder, read};

/// What stands between two files; `seeds.py` has it too.
const NEXT: &[u8] = b"\n=====\n";

const SHARDS: [&str; 3] = ["0.safetensors", "1.safetensors", "2.safetensors"];

/// The files of an input.
fn files(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut files = Vec::new();
    while let Some(at) = bytes.windows(NEXT.len()).position(|window| window == NEXT) {
        files.push(&bytes[..at]);
        bytes = &bytes[at + NEXT.len()..];
    }
    files.push(bytes);
    files
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let files = files(bytes);
    let named: Vec<(&str, &[u8])> = match &files[..] {
        [] | [_] => return,
        [config, weights] => vec![("config.json", *config), ("model.safetensors", *weights)],
        [config, index, shards @ ..] => {
            let shards = SHARDS.into_iter().zip(shards.iter().copied());
            [("config.json", *config), ("model.safetensors.index.json", *index)].into_iter().chain(shards).collect()
        }
    };
    read(&folder(&named));
});
