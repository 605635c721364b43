//! A tokenizer: `tokenizer.json`, or one behind the other with [`NEXT`](jumplens_fuzz::NEXT) between them `vocab.txt` and
//! `tokenizer_config.json`, or `vocab.json`, `merges.txt` and `tokenizer_config.json`.
#![no_main]

use jumplens::hub::{SourceFile, TokenizerFiles, Vocabulary};
use jumplens_fuzz::{bound, folder, limit, parts, read_tokenizer};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    limit(bound(bytes.len()));
    let parts = parts(bytes);
    let names = ["0", "1", "2"];
    let folder = folder(&names.into_iter().zip(parts.iter().copied()).collect::<Vec<_>>());
    let file = |number: usize| SourceFile::open(&folder.join(names[number])).expect("it was written");
    read_tokenizer(
        &match parts.len() {
            1 => Vocabulary::Json(file(0)).into(),
            2 => TokenizerFiles { config: Some(file(1)), ..Vocabulary::WordPiece(file(0)).into() },
            _ => TokenizerFiles {
                config: Some(file(2)),
                ..Vocabulary::BytePairs { vocabulary: file(0), merges: file(1) }.into()
            },
        },
        None,
    );
});
