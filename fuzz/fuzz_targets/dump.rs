//! A Wikipedia dump: the first byte says whether the rest is its XML, or that compressed by bzip2, gzip or Zstandard.
#![no_main]

use jumplens::corpus::{Corpus, DrawOptions, HowMany, Reading};
use jumplens::hub::Sources;
use jumplens::progress::Silent;
use jumplens_fuzz::{bound, folder, limit, sound};

const NAMES: [&str; 4] = ["dump.xml", "dump.xml.bz2", "dump.xml.gz", "dump.xml.zst"];

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    limit(bound(bytes.len()));
    let Some((kind, file)) = bytes.split_first() else { return };
    let name = NAMES[usize::from(kind % 4)];
    let path = folder(&[(name, file)]).join(name);
    let path = path.to_str().expect("temporary folders have plain names");
    let Some(corpus) = sound(Corpus::open(path, &Reading::default(), 0, &Sources::default(), &Silent)) else {
        return;
    };
    let options = DrawOptions { per_document: Some(HowMany::All), ..DrawOptions::default() };
    sound(corpus.sentences(3, &options, 0, None, &Silent));
});
