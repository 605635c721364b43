//! A Parquet file whose column of texts is read, as rows and as documents.
#![no_main]

use jumplens::corpus::{Corpus, DrawOptions, Reading, Rows};
use jumplens::hub::Sources;
use jumplens::progress::Silent;
use jumplens_fuzz::{bound, folder, limit, sound};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    limit(bound(bytes.len()));
    let path = folder(&[("corpus.parquet", bytes)]).join("corpus.parquet");
    let path = path.to_str().expect("temporary folders have plain names");
    for rows in [Rows::Sentences, Rows::Documents] {
        let reading = Reading { rows: Some(rows), ..Reading::default() };
        let corpus = sound(Corpus::open(path, &reading, 0, &Sources::default(), &Silent));
        let Some(corpus) = corpus else { return };
        sound(corpus.sentences(3, &DrawOptions::default(), 0, None, &Silent));
    }
});
