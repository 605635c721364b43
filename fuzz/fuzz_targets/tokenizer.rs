//! A tokenizer: `tokenizer.json`, or one behind the other with [`NEXT`](jumplens_fuzz::NEXT) between them `vocab.txt` and
//! `tokenizer_config.json`, or `vocab.json`, `merges.txt` and `tokenizer_config.json`.
#![no_main]

use jumplens::hub::{SourceFile, TokenizerFiles, Vocabulary};
use jumplens_fuzz::{bound, folder, limit, parts, read_tokenizer, sound};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    limit(bound(bytes.len()));
    let parts = parts(bytes);
    let names = ["0", "1", "2"];
    let folder = folder(&names.into_iter().zip(parts.iter().copied()).collect::<Vec<_>>());
    // What stands for a file that was not fetched is refused.
    let opened: Option<Vec<SourceFile>> =
        names[..parts.len().min(3)].iter().map(|name| sound(SourceFile::open(&folder.join(name)))).collect();
    let files = match opened.map(<[_; 3]>::try_from) {
        None => return,
        Some(Ok([vocabulary, merges, config])) => {
            TokenizerFiles { config: Some(config), ..Vocabulary::BytePairs { vocabulary, merges }.into() }
        }
        Some(Err(mut fewer)) => match (fewer.pop(), fewer.pop()) {
            (Some(config), Some(words)) => {
                TokenizerFiles { config: Some(config), ..Vocabulary::WordPiece(words).into() }
            }
            (Some(json), None) => Vocabulary::Json(json).into(),
            (None, _) => return,
        },
    };
    read_tokenizer(&files, None);
});
