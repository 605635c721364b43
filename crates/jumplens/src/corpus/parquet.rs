//! Parquet files in the layout of Hugging Face's data sets: a text a row, in a column of strings. Nothing but that column
//! is decoded.

use super::source::{Body, Document, Sink};
use super::{FileRecord, Rows};
use crate::caught::{catching, caught};
use crate::error::{Error, Result};
use crate::hub::SourceFile;
use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use std::fs::File;
use std::path::Path;

/// Rows that are decoded at a time.
const ROWS: usize = 256;

/// Puts the rows of a file into `sink`, numbered from `first` on. Gives what was read, and the next number; `None` where
/// the sink wanted no more. `sha256` is the file's, where it is known already.
pub(super) fn read(
    path: &Path,
    column: &str,
    rows: Rows,
    first: u64,
    sha256: Option<String>,
    sink: &mut dyn Sink,
) -> Result<Option<(FileRecord, u64)>> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let bytes = file.metadata().map_err(Error::io("read", path))?.len();
    let reader = caught(path, || SerializedFileReader::new(file))?;
    let schema = reader.metadata().file_metadata().schema_descr();
    let leaves = || schema.columns().iter();
    let missing = || Error::NoColumn {
        path: path.to_owned(),
        column: column.to_owned(),
        columns: leaves().map(|leaf| format!("`{}`", leaf.path().string())).collect::<Vec<_>>().join(", "),
    };
    let index = leaves().position(|leaf| leaf.path().string() == column).ok_or_else(missing)?;
    let leaf = schema.column(index);
    if leaf.physical_type() != Type::BYTE_ARRAY || leaf.max_rep_level() > 0 {
        let message = format!("its column `{column}` is not one of strings");
        return Err(Error::Format { path: path.to_owned(), message });
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let optional = leaf.max_def_level() > 0;
    let mut row = 0u64;
    for group in 0..reader.num_row_groups() {
        let group = caught(path, || reader.get_row_group(group))?;
        let chunk = caught(path, || Ok::<_, ParquetError>(group.metadata().column(index)))?;
        // Most of a file is its text; what the other columns take is counted along with it.
        let share = bytes as f64 * chunk.num_values() as f64
            / reader.metadata().file_metadata().num_rows().max(1) as f64;
        let ColumnReader::ByteArrayColumnReader(mut values) =
            caught(path, || group.get_column_reader(index))?
        else {
            return Err(Error::Internal("a column of strings is read as something else".into()));
        };
        loop {
            let fail = |message: String| Error::CorpusRow {
                path: path.to_owned(),
                place: format!("row {row}"),
                message,
            };
            let batch = catching(|| read_rows(&mut values, optional, leaf.max_def_level()))
                .unwrap_or_else(|panic| Err(ParquetError::General(panic)))
                .map_err(|error| fail(error.to_string()))?;
            if batch.is_empty() {
                break;
            }
            sink.advance((share * batch.len() as f64 / chunk.num_values().max(1) as f64) as u64)?;
            for text in batch {
                let fail = |message: &str| Error::CorpusRow {
                    path: path.to_owned(),
                    place: format!("row {row}"),
                    message: message.to_owned(),
                };
                let number = first + row;
                let text = text.as_ref().map(|text| std::str::from_utf8(text.data()));
                let text = text.transpose().map_err(|error| {
                    fail(&format!("not UTF-8 from byte {} of its `{column}` on", error.valid_up_to()))
                })?;
                row += 1;
                let Some(text) = text.filter(|_| sink.wants(number)) else { continue };
                let text = text.to_owned();
                let body = if rows == Rows::Documents { Body::Prose(text) } else { Body::Sentence(text) };
                if !sink.take(Document { number, id: format!("{name}:{}", row - 1), title: None, body })? {
                    return Ok(None);
                }
            }
        }
    }
    let sha256 = match sha256 {
        Some(known) => known,
        None => SourceFile::open(path)?.sha256(),
    };
    Ok(Some((FileRecord { name: path.display().to_string(), bytes, sha256 }, first + row)))
}

/// The next rows; `None` for those that hold nothing.
fn read_rows(
    values: &mut ColumnReaderImpl<ByteArrayType>,
    optional: bool,
    full: i16,
) -> parquet::errors::Result<Vec<Option<ByteArray>>> {
    let (mut levels, mut texts) = (Vec::new(), Vec::new());
    let (rows, ..) = values.read_records(ROWS, optional.then_some(&mut levels), None, &mut texts)?;
    let mut texts = texts.into_iter();
    Ok((0..rows)
        .map(|row| if !optional || levels.get(row) == Some(&full) { texts.next() } else { None })
        .collect())
}
