//! A samples file, for a causal and for a masked model.
#![no_main]

use jumplens::models::Kind;
use jumplens::tokenize::{read_samples, write_samples};
use jumplens_fuzz::{bound, folder, limit, sound, spec};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    limit(bound(bytes.len()));
    let folder = folder(&[("samples.jsonl", bytes)]);
    for kind in [Kind::Causal, Kind::Masked] {
        let spec = spec(kind, 1000);
        let Some(samples) = sound(read_samples(&folder.join("samples.jsonl"), &spec)) else { continue };
        let again = folder.join("again.jsonl");
        sound(write_samples(&again, &samples));
        assert_eq!(sound(read_samples(&again, &spec)), Some(samples));
    }
});
