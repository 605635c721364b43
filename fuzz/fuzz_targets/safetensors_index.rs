//! A folder of `config.json`, an index and its shards, `0.safetensors` and so on, one behind the other with
//! [`NEXT`](jumplens_fuzz::NEXT) between them; or of `config.json` and `model.safetensors`.
#![no_main]

use jumplens_fuzz::{bound, folder, limit, parts, read};

const SHARDS: [&str; 3] = ["0.safetensors", "1.safetensors", "2.safetensors"];

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    limit(bound(bytes.len()));
    let named: Vec<(&str, &[u8])> = match parts(bytes)[..] {
        [] | [_] => return,
        [config, weights] => vec![("config.json", config), ("model.safetensors", weights)],
        [config, index, ref shards @ ..] => {
            let shards = SHARDS.into_iter().zip(shards.iter().copied());
            [("config.json", config), ("model.safetensors.index.json", index)].into_iter().chain(shards).collect()
        }
    };
    read(&folder(&named));
});
