//! A file of maps as other programs write it: the first byte says of which kind, the rest is the file.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((kind, file)) = bytes.split_first() else { return };
    let name = ["0_1.pickle", "0_1.npy", "maps.npz", "maps.safetensors"][usize::from(kind % 4)];
    jumplens_fuzz::read_maps(&jumplens_fuzz::folder(&[(name, file)]).join(name));
});
