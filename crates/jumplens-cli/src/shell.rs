//! Words of commands that are shown to be copied.

use jumplens::lens::is_hidden;
use std::ffi::OsStr;

/// `word` as a POSIX shell reads it back, byte for byte: as it is where none of its characters means anything there, else in
/// quotes. What could not be seen, or is no UTF-8, is spelled in octal (`$'…'`), so that it stays in its line. A leading hyphen
/// would make it an option.
pub fn quoted(word: impl AsRef<OsStr>) -> String {
    let bytes = word.as_ref().as_encoded_bytes();
    let hyphen = if bytes.starts_with(b"-") { "./" } else { "" };
    match std::str::from_utf8(bytes) {
        Ok(text) if is_plain(text) => format!("{hyphen}{text}"),
        Ok(text) if !text.contains(is_hidden) => format!("'{hyphen}{}'", text.replace('\'', r"'\''")),
        _ => format!("$'{hyphen}{}'", spelled(bytes)),
    }
}

fn is_plain(text: &str) -> bool {
    // `=` in front is a command's path to zsh.
    !text.is_empty()
        && !text.starts_with('=')
        && text.chars().all(|c| c.is_alphanumeric() || "@%+=:,./_-".contains(c))
}

fn spelled(bytes: &[u8]) -> String {
    let mut spelled = String::new();
    let octal = |spelled: &mut String, bytes: &[u8]| {
        bytes.iter().for_each(|byte| *spelled += &format!("\\{byte:03o}"));
    };
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\'' | '\\' => spelled.extend(['\\', c]),
                c if is_hidden(c) => octal(&mut spelled, c.encode_utf8(&mut [0; 4]).as_bytes()),
                c => spelled.push(c),
            }
        }
        octal(&mut spelled, chunk.invalid());
    }
    spelled
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use std::os::unix::ffi::OsStrExt;
    use std::process::Command;

    #[test]
    fn plain_words_stay_as_they_are() {
        for word in ["gpt2", "org/name@main", "a/b-c_d.e", "/data/été", "mat+b.safetensors"] {
            assert_eq!(quoted(word), word);
        }
        assert_eq!(quoted("x; touch y #"), "'x; touch y #'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted("a\nb"), r"$'a\012b'");
        assert_eq!((quoted(""), quoted("-rf"), quoted("=ls")), ("''".into(), "./-rf".into(), "'=ls'".into()));
    }

    /// By bash, since `$'…'` is younger in the standard than many a `sh`.
    #[test]
    fn a_shell_reads_the_same_words_back() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let special = "'\"\\$`!*?[]{}()<>|&;#~ \n\t\u{1b}\u{202e}é-=a0";
        let special: Vec<char> = special.chars().collect();
        let mut word = |bytes: bool| -> Vec<u8> {
            let length = rng.random_range(1..9);
            if bytes {
                return (0..length).map(|_| rng.random_range(1..=255u8)).collect();
            }
            let word: String = (0..length).map(|_| special[rng.random_range(0..special.len())]).collect();
            word.into_bytes()
        };
        let words: Vec<Vec<u8>> = (0..2000).map(|place| word(place % 3 == 0)).collect();
        let quoted: Vec<String> = words.iter().map(|word| quoted(OsStr::from_bytes(word))).collect();
        assert!(quoted.iter().all(|word| word.lines().count() == 1));
        let script = format!("printf '%s\\0' {}", quoted.join(" "));
        let output = Command::new("bash").args(["-c", &script]).output().unwrap();
        let mut read: Vec<&[u8]> = output.stdout.split(|byte| *byte == 0).collect();
        read.pop();
        assert_eq!(read.len(), words.len());
        for (read, word) in read.into_iter().zip(&words) {
            let path = if word.starts_with(b"-") { [b"./", &word[..]].concat() } else { word.clone() };
            assert_eq!(read, path);
        }
    }
}
