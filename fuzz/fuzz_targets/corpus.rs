//! A corpus of lines or rows: the first byte says whether the rest is plain text, JSON lines, or Parquet.
#![no_main]

use jumplens::corpus::{Corpus, DrawOptions, Reading};
use jumplens::hub::Sources;
use jumplens::progress::Silent;
use jumplens_fuzz::{bound, folder, limit, sound};

const NAMES: [&str; 3] = ["corpus.txt", "corpus.jsonl", "corpus.parquet"];

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    limit(bound(bytes.len()));
    let Some((kind, file)) = bytes.split_first() else { return };
    let name = NAMES[usize::from(kind % 3)];
    let path = folder(&[(name, file)]).join(name);
    let path = path.to_str().expect("temporary folders have plain names");
    let Some(corpus) = sound(Corpus::open(path, &Reading::default(), 0, &Sources::default(), &Silent)) else {
        return;
    };
    sound(corpus.sentences(3, &DrawOptions::default(), 0, None, &Silent));
});
