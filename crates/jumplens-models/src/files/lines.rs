//! Lines, as Python has them.

use std::io::{self, BufRead};

/// What was found where a line was looked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// A line.
    Line,
    /// The end.
    End,
    /// A line that is too long.
    TooLong,
}

/// Reads a line into `line`, which ends as Python has it: with a line feed, a carriage return, or both in this order. It is
/// without its end, and no longer than `longest` bytes. `ended_by_cr` says whether the line before ended with a carriage
/// return, and is false to begin with.
pub fn next_line(
    reader: &mut impl BufRead,
    line: &mut Vec<u8>,
    ended_by_cr: &mut bool,
    longest: usize,
) -> io::Result<Found> {
    line.clear();
    let mut any = false;
    loop {
        let bytes = match reader.fill_buf() {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if bytes.is_empty() {
            return Ok(if any { Found::Line } else { Found::End });
        }
        if std::mem::take(ended_by_cr) && bytes[0] == b'\n' {
            reader.consume(1);
            continue;
        }
        any = true;
        let end = memchr::memchr2(b'\n', b'\r', bytes);
        let length = end.unwrap_or(bytes.len());
        if line.len() + length > longest {
            return Ok(Found::TooLong);
        }
        line.extend_from_slice(&bytes[..length]);
        let Some(end) = end else {
            reader.consume(length);
            continue;
        };
        *ended_by_cr = bytes[end] == b'\r';
        reader.consume(end + 1);
        return Ok(Found::Line);
    }
}
