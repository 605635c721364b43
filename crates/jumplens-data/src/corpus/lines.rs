//! Lines: plain text, and JSON objects with a text in them. Both end as Python's do.

use super::source::{Body, Document, Sink};
use super::stream::Stream;
use super::{FileRecord, Rows};
use crate::files::{Found, next_line};
use crate::{Error, Others, Result};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;
use std::io::{self, BufRead};
use std::path::Path;

/// No line may be longer.
const LONGEST_LINE: usize = 256 << 20;

/// What is in a line.
#[derive(Debug, Clone, Copy)]
pub(super) enum Format<'a> {
    Plain,
    /// An object whose field of that name has the text.
    Json {
        column: &'a str,
    },
}

/// Reads the lines of `stream`, each with its number from 1, without blanks around it; blank ones are passed over. `take`
/// says whether it wants more. False where it did not.
pub(super) fn each_line(
    stream: &mut Stream,
    path: &Path,
    mut take: impl FnMut(usize, &str, u64) -> Result<bool>,
) -> Result<bool> {
    let mut line = Vec::new();
    let mut ended_by_cr = false;
    let mut number = 0;
    loop {
        number += 1 + pass_blank(stream, &mut ended_by_cr).map_err(|error| stream.error(error))?;
        let (at, place) = (|| path.to_owned(), || format!("line {number}"));
        match next_line(stream, &mut line, &mut ended_by_cr, LONGEST_LINE)
            .map_err(|error| stream.error(error))?
        {
            Found::Line => {}
            Found::End => break,
            Found::TooLong => {
                let message = format!("longer than {} MB", LONGEST_LINE >> 20);
                return Err(Error::CorpusRow { path: at(), place: place(), message });
            }
        }
        let not_utf8 = |message: String| Error::NotUtf8 { path: at(), place: place(), message };
        // Some programs put a mark of the byte order before the first one.
        let bytes = if number == 1 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line) } else { &line[..] };
        if (number == 1 || memchr::memchr(0, bytes).is_some()) && is_utf16(bytes) {
            return Err(not_utf8("UTF-16, by its bytes, and not UTF-8".to_owned()));
        }
        let text = std::str::from_utf8(bytes).map_err(|error| {
            not_utf8(format!("not UTF-8 from byte {} of the line on", error.valid_up_to()))
        })?;
        let text = text.trim();
        if !text.is_empty() && !take(number, text, stream.bytes_read())? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// True for the bytes of a line in UTF-16: its byte-order mark, or in every second place what no text has. The high bytes of
/// Latin, Greek, Cyrillic, Hebrew and Arabic letters are below 8; other scripts in UTF-16 are no UTF-8 anyway.
fn is_utf16(line: &[u8]) -> bool {
    let high = |first: usize| {
        let places = line.iter().skip(first).step_by(2);
        let (low, all) = places.fold((0, 0), |(low, all), byte| (low + usize::from(*byte < 8), all + 1));
        low >= 2 && low * 10 >= all * 9
    };
    line.starts_with(b"\xff\xfe") || line.starts_with(b"\xfe\xff") || high(0) != high(1)
}

/// Passes over blank lines from the beginning of a line on, which files may have by the billion. Gives how many they were.
fn pass_blank(reader: &mut impl BufRead, ended_by_cr: &mut bool) -> io::Result<usize> {
    const WORD: usize = size_of::<u64>();
    const FEEDS: [u8; WORD] = [b'\n'; WORD];
    let mut lines = 0;
    loop {
        let bytes = match reader.fill_buf() {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let (mut at, mut passed) = (0, 0);
        while let Some(&byte) = bytes.get(at) {
            match byte {
                b'\n' => {
                    lines += usize::from(!std::mem::take(ended_by_cr));
                    at += 1;
                    let feeds =
                        bytes[at..].chunks_exact(WORD).take_while(|word| *word == FEEDS).count() * WORD;
                    lines += feeds;
                    at += feeds;
                }
                b'\r' => {
                    lines += 1;
                    *ended_by_cr = true;
                    at += 1;
                }
                _ => break,
            }
            passed = at;
        }
        let whole = passed == bytes.len();
        reader.consume(passed);
        if passed == 0 || !whole {
            return Ok(lines);
        }
    }
}

/// Puts the lines of a file into `sink`, numbered from `first` on. Gives what was read, and the next number; `None` where
/// the sink wanted no more.
pub(super) fn read(
    mut stream: Stream,
    path: &Path,
    format: Format,
    rows: Rows,
    first: u64,
    sink: &mut dyn Sink,
) -> Result<Option<(FileRecord, u64)>> {
    let (mut next, mut seen) = (first, 0);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let more = each_line(&mut stream, path, |number, line, bytes| {
        if bytes > seen {
            sink.advance(bytes - seen)?;
            seen = bytes;
        }
        let text = match format {
            Format::Plain => Some(line.to_owned()),
            Format::Json { column } => {
                text_of(line, column).map_err(|fault| fault.at(path, number, column))?
            }
        };
        let number_in_corpus = next;
        next += 1;
        let Some(text) = text.filter(|_| sink.wants(number_in_corpus)) else { return Ok(true) };
        let body = if rows == Rows::Documents { Body::Prose(text) } else { Body::Sentence(text) };
        sink.take(Document { number: number_in_corpus, id: format!("{name}:{number}"), title: None, body })
    })?;
    Ok(if more { Some((stream.finish()?, next)) } else { None })
}

/// Why a line has no text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoText {
    /// It is no JSON, no object, or has something else than a text in the field.
    Not(String),
    /// It has no field of that name.
    Missing {
        /// The fields that do have a text.
        texts: Vec<String>,
    },
}

impl NoText {
    fn at(self, path: &Path, line: usize, column: &str) -> Error {
        let path = path.to_owned();
        match self {
            Self::Not(message) => Error::CorpusRow { path, place: format!("line {line}"), message },
            Self::Missing { texts } => Error::NoColumn {
                path,
                line: Some(line),
                column: column.to_owned(),
                others: Box::new(Others { texts, lists: Vec::new() }),
            },
        }
    }
}

/// The text in the field `column` of a JSON object; `None` where it is null, as of a document that has none.
pub fn text_of(line: &str, column: &str) -> Result<Option<String>, NoText> {
    let not_json = |error: serde_json::Error| NoText::Not(format!("not JSON: {error}"));
    let mut deserializer = serde_json::Deserializer::from_str(line);
    let mut field = Field { column, found: None, texts: Vec::new() };
    let row = Any { fields: Some(&mut field), keep: false };
    let row = row.deserialize(&mut deserializer).map_err(not_json)?;
    deserializer.end().map_err(not_json)?;
    match (row, field.found) {
        (Value::Object, Some(Value::Text(text))) => Ok(Some(text)),
        (Value::Object, Some(Value::Null)) => Ok(None),
        (Value::Object, Some(other)) => {
            Err(NoText::Not(format!("its `{column}` is {}, not a text", other.kind())))
        }
        (Value::Object, None) => Err(NoText::Missing { texts: field.texts }),
        (other, _) => Err(NoText::Not(format!("not an object with a text `{column}`, but {}", other.kind()))),
    }
}

/// A value of JSON, of which nothing but texts matters.
#[derive(Debug, PartialEq)]
enum Value {
    Text(String),
    Null,
    Bool,
    Number,
    List,
    Object,
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Null => "null",
            Self::Bool => "true or false",
            Self::Number => "a number",
            Self::List => "a list",
            Self::Object => "an object",
        }
    }
}

/// What is wanted of an object, and what was found.
struct Field<'a> {
    column: &'a str,
    found: Option<Value>,
    /// The other fields that have a text.
    texts: Vec<String>,
}

/// Reads any value.
struct Any<'a, 'b> {
    /// For an object whose fields matter.
    fields: Option<&'b mut Field<'a>>,
    /// Whether a text is to be had, or only that it is one.
    keep: bool,
}

impl<'de> DeserializeSeed<'de> for Any<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Any<'_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Bool)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Number)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Value, E> {
        Ok(Value::Number)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Number)
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(if self.keep { text.to_owned() } else { String::new() }))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::List)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let Some(field) = self.fields else {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(Value::Object);
        };
        while let Some(name) = map.next_key::<String>()? {
            let keep = name == field.column;
            let value = map.next_value_seed(Any { fields: None, keep })?;
            match value {
                found if keep => field.found = Some(found),
                Value::Text(_) => field.texts.push(name),
                _ => {}
            }
        }
        Ok(Value::Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::BufReader;

    fn lines(text: &[u8], at_a_time: usize) -> Vec<Vec<u8>> {
        let mut reader = BufReader::with_capacity(at_a_time, text);
        let (mut lines, mut line, mut ended_by_cr) = (Vec::new(), Vec::new(), false);
        while next_line(&mut reader, &mut line, &mut ended_by_cr, LONGEST_LINE).unwrap() == Found::Line {
            lines.push(line.clone());
        }
        lines
    }

    #[test]
    fn lines_end_as_in_python() {
        // list(open(..., newline=None)), without the ends.
        let cases: [(&str, &[&str]); 9] = [
            ("a\nb\n", &["a", "b"]),
            ("a\rb\r", &["a", "b"]),
            ("a\r\nb\r\n", &["a", "b"]),
            ("a\rb\nc\r\nd", &["a", "b", "c", "d"]),
            ("\r\r\n\n\ra", &["", "", "", "", "a"]),
            ("a\n\rb", &["a", "", "b"]),
            ("\r\n", &[""]),
            ("a\u{2028}b\u{b}c\u{85}d\u{c}e", &["a\u{2028}b\u{b}c\u{85}d\u{c}e"]),
            ("", &[]),
        ];
        for (text, expected) in cases {
            for at_a_time in [1, 2, 3, 100] {
                let lines = lines(text.as_bytes(), at_a_time);
                assert_eq!(lines, expected.iter().map(|l| l.as_bytes()).collect::<Vec<_>>(), "{text:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_line_ends_are_taken_alike(text in "[ab\r\n]{0,40}", at_a_time in 1usize..5) {
            let plain = text.replace("\r\n", "\n").replace('\r', "\n");
            let expected: Vec<Vec<u8>> = plain.lines().map(|line| line.as_bytes().to_vec()).collect();
            prop_assert_eq!(lines(text.as_bytes(), at_a_time), expected);
        }
    }

    #[test]
    fn a_text_is_found_or_what_is_there_instead_is_named() {
        let text = |line: &str| text_of(line, "text");
        assert_eq!(text(r#"{"a": [1, {"text": 2}], "text": "A\u00e9"}"#), Ok(Some("Aé".to_owned())));
        for line in
            [r#"{"text": null}"#, r#"{"text":null,"other":null}"#, r#" { "id" : 5 , "text" : null } "#]
        {
            assert_eq!(text(line), Ok(None), "{line}");
        }
        for (value, kind) in [
            ("5", "a number"),
            ("-5", "a number"),
            ("0.5", "a number"),
            ("1e300", "a number"),
            ("true", "true or false"),
            ("[\"a\"]", "a list"),
            ("[]", "a list"),
            ("{\"text\": \"a\"}", "an object"),
        ] {
            let expected = format!("its `text` is {kind}, not a text");
            assert_eq!(text(&format!("{{\"text\": {value}}}")), Err(NoText::Not(expected)));
        }
        for (line, kind) in [("null", "null"), ("[1]", "a list"), ("\"a\"", "a text"), ("7", "a number")] {
            let expected = format!("not an object with a text `text`, but {kind}");
            assert_eq!(text(line), Err(NoText::Not(expected)));
        }
        let texts = vec!["body".to_owned(), "title".to_owned()];
        let line = r#"{"body": "x", "id": 1, "tags": ["a"], "title": "", "note": null}"#;
        assert_eq!(text(line), Err(NoText::Missing { texts }));
        for line in ["", "{", "{\"text\": \"a\"", "{\"text\": \"a\"} {}", "nothing", "{\"text\": nul}"] {
            assert!(
                matches!(text(line), Err(NoText::Not(message)) if message.starts_with("not JSON")),
                "{line}"
            );
        }
    }
}
