//! Digests that files carry of themselves, so that whoever reads one sees that it is as it was written, however it came here:
//! the SHA-256 of the whole file with zeros in the place of the digits. Manifests and summaries have one, and every
//! safetensors file that travels, in its metadata.

use crate::error::{Error, Result};
use crate::files::hexadecimal;
use memchr::memmem;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::ops::Range;

/// The key that it has, in a manifest and in the metadata of a safetensors file.
pub const KEY: &str = "jumplens_sha256";

/// What stands for the digits until they are known.
pub(crate) const BLANK: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What a file's digest says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seal {
    /// There is none.
    Missing,
    /// The file is not as it was written.
    Broken,
    /// It is.
    Whole,
}

/// Looks at the digest in a file.
pub fn check(file: &[u8]) -> Seal {
    match digits(file) {
        None => Seal::Missing,
        Some(place) if digest(file, &place).as_bytes() == &file[place.clone()] => Seal::Whole,
        Some(_) => Seal::Broken,
    }
}

/// Puts the digest into a file that has a place for it, and leaves any other as it is: for one that is changed on purpose, as
/// tests do.
pub fn seal(file: &mut [u8]) {
    if let Some(place) = digits(file).filter(|place| place.len() == BLANK.len()) {
        let digest = digest(file, &place);
        file[place].copy_from_slice(digest.as_bytes());
    }
}

/// `value`, an object, as the text of a JSON file, with the digest as its last field.
pub fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::Internal(error.to_string()))?;
    let fields = text.trim_end_matches('}').trim_end();
    let mut text = format!("{fields},\n  \"{KEY}\": \"{BLANK}\"\n}}\n").into_bytes();
    seal(&mut text);
    Ok(text)
}

/// Where the digits are, whatever stands there.
pub fn digits(file: &[u8]) -> Option<Range<usize>> {
    let head = head(file);
    let key = memmem::find(&file[head.clone()], format!("\"{KEY}\":").as_bytes())?;
    let behind = head.start + key + KEY.len() + 3;
    let blanks = file[behind..].iter().take_while(|byte| **byte == b' ').count();
    let start = (behind + blanks + 1).min(file.len());
    Some(start..(start + BLANK.len()).min(file.len()))
}

/// The header of a safetensors file, or all of another.
fn head(file: &[u8]) -> Range<usize> {
    let length = file.first_chunk().map(|length| u64::from_le_bytes(*length));
    let end = length.and_then(|length| usize::try_from(length).ok()?.checked_add(8));
    end.filter(|end| *end <= file.len()).map_or(0..file.len(), |end| 8..end)
}

fn digest(file: &[u8], place: &Range<usize>) -> String {
    let digest =
        Sha256::new().chain_update(&file[..place.start]).chain_update(BLANK).chain_update(&file[place.end..]);
    hexadecimal(&digest.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_tensors() -> Vec<u8> {
        let header = format!(r#"{{"__metadata__":{{"a":"\"{KEY}\":1","{KEY}":"{BLANK}"}}}}      "#);
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.bytes());
        file.extend((0..64).map(|value: u8| value.wrapping_mul(37)));
        file
    }

    #[test]
    fn every_flip_of_a_bit_is_seen() {
        let manifest = json(&serde_json::json!({ "format": 1, "stages": {} })).unwrap();
        assert!(serde_json::from_slice::<serde_json::Value>(&manifest).is_ok());
        for mut file in [of_tensors(), manifest] {
            seal(&mut file);
            assert_eq!(check(&file), Seal::Whole);
            let key = digits(&file).unwrap().start - KEY.len() - 5..digits(&file).unwrap().start;
            for at in 0..8 * file.len() {
                let mut flipped = file.clone();
                flipped[at / 8] ^= 1 << (at % 8);
                // Without its key it has none, nor where the header ends before it: that is for the reader to see.
                let is_missing = key.contains(&(at / 8)) || at / 8 < 8;
                let seen = check(&flipped);
                assert!(seen == Seal::Broken || seen == Seal::Missing && is_missing, "{at}: {seen:?}");
            }
            for end in 0..file.len() {
                assert_ne!(check(&file[..end]), Seal::Whole, "{end}");
            }
        }
    }

    #[test]
    fn it_is_the_digest_of_the_file_with_zeros_for_digits() {
        let blank = of_tensors();
        let mut file = blank.clone();
        seal(&mut file);
        let place = digits(&file).unwrap();
        assert_eq!(std::str::from_utf8(&file[place]).unwrap(), crate::files::sha256(&blank));
        assert_eq!(check(b"{}"), Seal::Missing);
        assert_eq!(check(b""), Seal::Missing);
    }
}
