//! The tables of characters that SentencePiece normalizers bring along.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::Value;

/// The part of a `tokenizer.json` that may have such tables.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    normalizer: Value,
}

/// Sees that every table has as many bytes as it says that its trie has: the crate that reads it takes memory for these first.
/// What is no such file is left for that crate to say.
pub(super) fn check(json: &[u8]) -> Result<(), String> {
    serde_json::from_slice(json).map_or(Ok(()), |file: File| look_through(&file.normalizer))
}

fn look_through(part: &Value) -> Result<(), String> {
    match part {
        Value::Array(parts) => parts.iter().try_for_each(look_through),
        Value::Object(parts) => parts.iter().try_for_each(|(name, part)| match (&name[..], part) {
            ("precompiled_charsmap", Value::String(table)) => check_table(table),
            _ => look_through(part),
        }),
        _ => Ok(()),
    }
}

/// The size of the trie stands before it, in four bytes.
fn check_table(table: &str) -> Result<(), String> {
    let begin = table.get(..8).and_then(|begin| BASE64_STANDARD.decode(begin).ok());
    let Some(size) = begin.as_ref().and_then(|begin| begin.first_chunk()) else { return Ok(()) };
    let (size, bytes) = (u32::from_le_bytes(*size) as usize, table.len() / 4 * 3);
    match size <= bytes {
        true => Ok(()),
        false => Err(format!(
            "`precompiled_charsmap` says that it has a trie of {size} bytes, and has {bytes} in all"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_that_claims_more_than_it_has_is_refused_wherever_it_stands() {
        let normalizer = |size: u32, bytes: usize| {
            let table = [&size.to_le_bytes()[..], &vec![0; bytes]].concat();
            json!({ "type": "Precompiled", "precompiled_charsmap": BASE64_STANDARD.encode(table) })
        };
        let within = |inner: Value| json!({ "type": "Sequence", "normalizers": [{ "type": "NFC" }, inner] });
        let outcome = |normalizer: Value| check(json!({ "normalizer": normalizer }).to_string().as_bytes());
        for (size, bytes, is_sound) in
            [(0, 0, true), (8, 8, true), (8, 30, true), (4000, 8, false), (u32::MAX, 5, false)]
        {
            assert_eq!(outcome(normalizer(size, bytes)).is_ok(), is_sound, "{size} {bytes}");
            assert_eq!(outcome(within(within(normalizer(size, bytes)))).is_ok(), is_sound, "{size} {bytes}");
        }
        for other in [
            json!(null),
            json!(5),
            json!({ "precompiled_charsmap": 5 }),
            json!({ "precompiled_charsmap": "A" }),
        ] {
            assert_eq!(outcome(other), Ok(()));
        }
        assert_eq!(check(b"{"), Ok(()));
    }
}
