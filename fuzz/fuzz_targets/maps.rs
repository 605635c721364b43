//! Maps as other programs write them: the first byte says of which kind, the rest is the file; of a tuned lens, `config.json`
//! and `params.pt` with [`NEXT`](jumplens_fuzz::NEXT) between them.
#![no_main]

use jumplens::shortcut::Foreign;
use jumplens_fuzz::{bound, folder, limit, parts, sound};

const NAMES: [&str; 4] = ["0_1.pickle", "0_1.npy", "maps.npz", "maps.safetensors"];

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    limit(bound(bytes.len()));
    let Some((kind, file)) = bytes.split_first() else { return };
    let path = match NAMES.get(usize::from(kind % 5)) {
        Some(name) => folder(&[(name, file)]).join(name),
        None => match parts(file)[..] {
            [config, params] => folder(&[("config.json", config), ("params.pt", params)]),
            _ => return,
        },
    };
    sound(Foreign::read(&path));
});
