//! The table of characters of a SentencePiece normalizer, as `tokenizer.json` has it in base64, within a sequence or not as
//! the first byte says.
#![no_main]

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jumplens::hub::{SourceFile, Vocabulary};
use jumplens_fuzz::{bound, folder, limit, read_tokenizer};
use serde_json::json;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    limit(bound(bytes.len()));
    let Some((kind, table)) = bytes.split_first() else { return };
    let table = json!({ "type": "Precompiled", "precompiled_charsmap": BASE64_STANDARD.encode(table) });
    let normalizer = match kind % 3 {
        0 => table,
        1 => json!({ "type": "Sequence", "normalizers": [{ "type": "Lowercase" }, table] }),
        _ => json!({ "type": "Sequence", "normalizers": [{ "type": "Sequence", "normalizers": [table] }] }),
    };
    let model = json!({ "type": "WordLevel", "vocab": { "a": 0, "[UNK]": 1 }, "unk_token": "[UNK]" });
    let whole = json!({ "version": "1.0", "added_tokens": [], "model": model, "normalizer": normalizer });
    let folder = folder(&[("tokenizer.json", whole.to_string().as_bytes())]);
    let file = SourceFile::open(&folder.join("tokenizer.json")).expect("it was written");
    read_tokenizer(&Vocabulary::Json(file).into(), None);
});
