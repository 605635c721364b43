//! Parquet files in the layout of Hugging Face's data sets: a text a row, in a column of strings. Nothing but that column
//! is decoded.

use super::source::{Body, Document, Sink};
use super::{FileRecord, Rows};
use crate::caught;
use crate::columns::{CheckedPages, Pace, check_pages, most};
use crate::files::SourceFile;
use crate::{Error, Others, Result};
use jumplens_models::catching;
use parquet::basic::{Compression, ConvertedType, LogicalType, Type};
use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::{ColumnDescPtr, ColumnDescriptor, SchemaDescriptor};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Rows that are decoded at a time, or fewer.
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
    let file = crate::files::open(path)?;
    let bytes = file.metadata().map_err(Error::io("read", path))?.len();
    let pages = file.try_clone().map_err(Error::io("read", path))?;
    let reader = caught(path, || SerializedFileReader::new(file)).map_err(|error| match error {
        Error::Format { path, message } if message.contains("encrypt") => {
            Error::Unsupported { path, message: "it is encrypted".to_owned() }
        }
        error => error,
    })?;
    let index = find(path, reader.metadata().file_metadata().schema_descr(), column)?;
    let leaf = reader.metadata().file_metadata().schema_descr().column(index);
    let chunks = || reader.metadata().row_groups().iter();
    if chunks().any(|group| {
        caught(path, || Ok::<_, ParquetError>(group.column(index).compression())).ok()
            == Some(Compression::LZO)
    }) {
        let message = format!(
            "its column `{column}` is compressed by LZO; read are Snappy, gzip, Brotli, LZ4, Zstandard and no compression"
        );
        return Err(Error::Unsupported { path: path.to_owned(), message });
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
        let place = caught(path, || Ok::<_, ParquetError>(chunk.byte_range()))?;
        check_pages(&pages, chunk.compression(), place)
            .map_err(Error::io("read", path))?
            .map_err(Error::format(path))?;
        let pace = Arc::new(Pace::default());
        let checked = CheckedPages {
            inner: caught(path, || group.get_column_page_reader(index))?,
            full: leaf.max_def_level(),
            most: most(bytes),
            // A string has its length before it.
            entry: 4,
            lists: false,
            pace: Arc::clone(&pace),
        };
        let mut values = ColumnReaderImpl::<ByteArrayType>::new(leaf.clone(), Box::new(checked));
        loop {
            let fail = |message: String| Error::CorpusRow {
                path: path.to_owned(),
                place: format!("row {row}"),
                message,
            };
            let rows_at_once = pace.rows(ROWS);
            let batch = catching(|| read_rows(&mut values, rows_at_once, optional, leaf.max_def_level()))
                .unwrap_or_else(|panic| Err(ParquetError::General(panic)))
                .map_err(|error| fail(error.to_string()))?;
            if batch.is_empty() {
                break;
            }
            pace.took(batch.len());
            sink.advance((share * batch.len() as f64 / chunk.num_values().max(1) as f64) as u64)?;
            for text in batch {
                let number = first + row;
                let text = text.as_ref().map(|text| std::str::from_utf8(text.data()));
                let text = text.transpose().map_err(|error| Error::NotUtf8 {
                    path: path.to_owned(),
                    place: format!("row {row}"),
                    message: format!("not UTF-8 from byte {} of its `{column}` on", error.valid_up_to()),
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

/// Which of the columns is the one called `column`. [`Error::NoColumn`] or [`Error::NotTexts`] where none is, or none that
/// has one string a row.
fn find(path: &Path, schema: &SchemaDescriptor, column: &str) -> Result<usize> {
    let leaves = schema.columns();
    let (path, column) = (path.to_owned(), column.to_owned());
    let texts: Vec<String> = leaves
        .iter()
        .filter(|leaf| leaf.max_rep_level() == 0 && holds(leaf) == Holds::Strings)
        .map(|leaf| leaf.path().string())
        .collect();
    let first = |leaf: &ColumnDescPtr| leaf.path().parts().first().cloned().unwrap_or_default();
    let others = |lists| Box::new(Others { texts, lists });
    if let Some(index) = leaves.iter().position(|leaf| leaf.path().string() == column) {
        let leaf = &leaves[index];
        return match (leaf.max_rep_level(), holds(leaf)) {
            // Old programs do not say whether bytes are strings: that will show.
            (0, Holds::Strings | Holds::Bytes) if leaf.physical_type() == Type::BYTE_ARRAY => Ok(index),
            (0, holds) => Err(Error::NotTexts {
                path,
                column,
                is: format!("a row of it is {holds}"),
                others: others(vec![]),
            }),
            (_, holds) => Err(Error::NotTexts { path, column, is: list_of(holds), others: others(vec![]) }),
        };
    }
    // What is shown as one column may be several: a list, or fields of its own.
    let inside: Vec<&ColumnDescPtr> = leaves.iter().filter(|leaf| first(leaf) == column).collect();
    if !inside.is_empty() {
        let is = match inside[..] {
            [leaf] if leaf.max_rep_level() > 0 => list_of(holds(leaf)),
            _ => "a row of it is several values, each with a name".to_owned(),
        };
        return Err(Error::NotTexts { path, column, is, others: others(vec![]) });
    }
    let mut lists: Vec<String> = leaves
        .iter()
        .filter(|leaf| leaf.max_rep_level() > 0 && holds(leaf) == Holds::Strings)
        .map(first)
        .collect();
    lists.dedup();
    Err(Error::NoColumn { path, line: None, column, others: others(lists) })
}

fn list_of(holds: Holds) -> String {
    format!("a row of it is a list of {}", holds.several())
}

/// What a column's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    Strings,
    Bytes,
    Numbers,
    Truths,
}

impl Holds {
    fn several(self) -> &'static str {
        match self {
            Self::Strings => "strings",
            Self::Bytes => "byte strings",
            Self::Numbers => "numbers",
            Self::Truths => "truth values",
        }
    }
}

impl fmt::Display for Holds {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Strings => "a string",
            Self::Bytes => "bytes",
            Self::Numbers => "a number",
            Self::Truths => "true or false",
        })
    }
}

fn holds(leaf: &ColumnDescriptor) -> Holds {
    match (leaf.physical_type(), leaf.logical_type_ref(), leaf.converted_type()) {
        (Type::BOOLEAN, ..) => Holds::Truths,
        (Type::BYTE_ARRAY, Some(LogicalType::String | LogicalType::Enum | LogicalType::Json), _)
        | (Type::BYTE_ARRAY, None, ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON) => {
            Holds::Strings
        }
        (Type::BYTE_ARRAY | Type::FIXED_LEN_BYTE_ARRAY, None, ConvertedType::NONE) => Holds::Bytes,
        (Type::BYTE_ARRAY, Some(LogicalType::Bson), _) | (Type::BYTE_ARRAY, _, ConvertedType::BSON) => {
            Holds::Bytes
        }
        (Type::FIXED_LEN_BYTE_ARRAY, Some(LogicalType::Uuid), _) => Holds::Bytes,
        _ => Holds::Numbers,
    }
}

/// The next rows; `None` for those that hold nothing.
fn read_rows(
    values: &mut ColumnReaderImpl<ByteArrayType>,
    rows: usize,
    optional: bool,
    full: i16,
) -> parquet::errors::Result<Vec<Option<ByteArray>>> {
    let (mut levels, mut texts) = (Vec::new(), Vec::new());
    let (rows, ..) = values.read_records(rows, optional.then_some(&mut levels), None, &mut texts)?;
    let mut texts = texts.into_iter();
    Ok((0..rows)
        .map(|row| if !optional || levels.get(row) == Some(&full) { texts.next() } else { None })
        .collect())
}
