//! Lines: plain text, and JSON objects with a text in them.

use super::source::{Body, Document, Sink};
use super::stream::Stream;
use super::{FileRecord, Rows};
use crate::error::{Error, Result};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::fmt;
use std::io::{BufRead, Read};
use std::path::Path;

/// No line may be longer.
const LONGEST_LINE: u64 = 256 << 20;

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
    for number in 1.. {
        line.clear();
        let read = stream.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line);
        if read.map_err(|error| stream.error(error))? == 0 {
            break;
        }
        let fail = |message: String| Error::CorpusRow {
            path: path.to_owned(),
            place: format!("line {number}"),
            message,
        };
        if line.len() as u64 == LONGEST_LINE {
            return Err(fail(format!("longer than {} MB", LONGEST_LINE >> 20)));
        }
        // Some programs put a mark of the byte order before the first one.
        let bytes = if number == 1 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line) } else { &line[..] };
        let text = std::str::from_utf8(bytes)
            .map_err(|error| fail(format!("not UTF-8 from byte {} of the line on", error.valid_up_to())))?
            .trim();
        if !text.is_empty() && !take(number, text, stream.bytes_read())? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Puts the lines of a file into `sink`, numbered from `first` on. Gives what was read, and the next number; `None` where
/// the sink wanted no more.
pub(super) fn read(
    path: &Path,
    format: Format,
    rows: Rows,
    first: u64,
    threads: usize,
    sink: &mut dyn Sink,
) -> Result<Option<(FileRecord, u64)>> {
    let mut stream = Stream::open(path, threads)?;
    let (mut next, mut seen) = (first, 0);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let more = each_line(&mut stream, path, |number, line, bytes| {
        if bytes > seen {
            sink.advance(bytes - seen)?;
            seen = bytes;
        }
        let text = match format {
            Format::Plain => line.to_owned(),
            Format::Json { column } => text_of(line, column).map_err(|message| Error::CorpusRow {
                path: path.to_owned(),
                place: format!("line {number}"),
                message,
            })?,
        };
        let number_in_corpus = next;
        next += 1;
        if !sink.wants(number_in_corpus) {
            return Ok(true);
        }
        let body = if rows == Rows::Documents { Body::Prose(text) } else { Body::Sentence(text) };
        sink.take(Document { number: number_in_corpus, id: format!("{name}:{number}"), title: None, body })
    })?;
    Ok(if more { Some((stream.finish()?, next)) } else { None })
}

/// The text in the field `column` of a JSON object; the message where it is not one, or has no text there.
pub fn text_of(line: &str, column: &str) -> Result<String, String> {
    let mut deserializer = serde_json::Deserializer::from_str(line);
    let found = Field { column }
        .deserialize(&mut deserializer)
        .and_then(|found| deserializer.end().map(|()| found))
        .map_err(|error| match error.classify() {
            serde_json::error::Category::Data => format!("not an object with a text `{column}`: {error}"),
            _ => format!("not JSON: {error}"),
        })?;
    found.map_err(|others| {
        let others: Vec<String> = others.iter().map(|name| format!("`{name}`")).collect();
        format!("no field `{column}`; it has {}", others.join(", "))
    })
}

/// Reads one field of an object.
struct Field<'a> {
    column: &'a str,
}

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = Result<String, Vec<String>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Result<String, Vec<String>>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut found, mut others) = (None, Vec::new());
        while let Some(name) = map.next_key::<String>()? {
            if name == self.column {
                found = Some(map.next_value::<String>()?);
            } else {
                map.next_value::<IgnoredAny>()?;
                others.push(name);
            }
        }
        Ok(found.ok_or(others))
    }
}
