//! Columns of a Parquet file whose rows are lists of floating-point numbers, as data frames keep vectors.

use super::{CheckedPages, Pace, check_pages, most};
use crate::{Error, Result, caught};
use jumplens_models::catching;
use parquet::basic::{LogicalType, Type};
use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::{AsBytes, DataType, DoubleType, FixedLenByteArrayType, FloatType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::ColumnDescriptor;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Values that are decoded at a time, or those of one row.
const VALUES: usize = 1 << 20;

/// A Parquet file with columns of lists of numbers, of which none is decoded before it is asked for.
pub struct NumberLists {
    path: PathBuf,
    file: File,
    reader: SerializedFileReader<File>,
    /// By name: which column of the file it is.
    columns: BTreeMap<String, (usize, Format)>,
}

/// What numbers are written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    F16,
    F32,
    F64,
}

impl Format {
    /// `None` for what is no list of floating-point numbers.
    fn of(leaf: &ColumnDescriptor) -> Option<Self> {
        if leaf.max_rep_level() != 1 {
            return None;
        }
        match (leaf.physical_type(), leaf.logical_type_ref()) {
            (Type::FLOAT, _) => Some(Self::F32),
            (Type::DOUBLE, _) => Some(Self::F64),
            (Type::FIXED_LEN_BYTE_ARRAY, Some(LogicalType::Float16)) if leaf.type_length() == 2 => {
                Some(Self::F16)
            }
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::F16 => "F16",
            Self::F32 => "F32",
            Self::F64 => "F64",
        }
    }

    fn bytes(self) -> u64 {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }
}

/// Takes rows of one width: row after row of values, and the width. False for no more.
type Take<'a> = dyn FnMut(&[f32], usize) -> Result<bool> + 'a;

impl NumberLists {
    /// Reads what columns the file has. [`Error::Format`] where it is damaged.
    pub fn open(path: &Path) -> Result<Self> {
        let file = crate::files::open(path)?;
        let again = file.try_clone().map_err(Error::io("read", path))?;
        let reader = caught(path, || SerializedFileReader::new(again))?;
        let leaves = reader.metadata().file_metadata().schema_descr().columns().iter().enumerate();
        let named = leaves.filter_map(|(index, leaf)| {
            let name = leaf.path().parts().first()?.clone();
            Some((name, (index, Format::of(leaf)?)))
        });
        let columns = named.collect();
        Ok(Self { path: path.to_owned(), file, reader, columns })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The columns of lists of numbers, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.keys().map(String::as_str)
    }

    /// Rows, as the file says.
    pub fn rows(&self) -> usize {
        usize::try_from(self.reader.metadata().file_metadata().num_rows()).unwrap_or(0)
    }

    /// The number format of a column, as safetensors spells it; `None` where there is no such column.
    pub fn format(&self, name: &str) -> Option<&'static str> {
        self.columns.get(name).map(|(_, format)| format.name())
    }

    /// Calls `take` with the rows of a column, some at a time, as f32, finite or not, all of one width. [`Error::CorpusRow`] for a
    /// row of another width, or with nothing in it.
    pub fn each(&self, name: &str, take: &mut Take) -> Result<()> {
        let Some(&(index, format)) = self.columns.get(name) else {
            return Err(Error::format(&self.path)(format!("no column `{name}` of lists of numbers")));
        };
        match format {
            Format::F16 => self.each_of::<FixedLenByteArrayType>(name, index, format, take, |value| {
                let bytes = value.as_bytes();
                bytes.first_chunk().map_or(f32::NAN, |bytes| half::f16::from_le_bytes(*bytes).to_f32())
            }),
            Format::F32 => self.each_of::<FloatType>(name, index, format, take, |value| *value),
            Format::F64 => self.each_of::<DoubleType>(name, index, format, take, |value| *value as f32),
        }
    }

    fn each_of<T: DataType>(
        &self,
        name: &str,
        index: usize,
        format: Format,
        take: &mut Take,
        narrow: impl Fn(&T::T) -> f32,
    ) -> Result<()> {
        let path = &self.path;
        let bytes = self.file.metadata().map_err(Error::io("read", path))?.len();
        let leaf = self.reader.metadata().file_metadata().schema_descr().column(index);
        let full = leaf.max_def_level();
        let (mut row, mut width) = (0, None);
        for group in 0..self.reader.num_row_groups() {
            let group = caught(path, || self.reader.get_row_group(group))?;
            let chunk = caught(path, || Ok::<_, ParquetError>(group.metadata().column(index)))?;
            let place = caught(path, || Ok::<_, ParquetError>(chunk.byte_range()))?;
            check_pages(&self.file, chunk.compression(), place)
                .map_err(Error::io("read", path))?
                .map_err(Error::format(path))?;
            let pace = Arc::new(Pace::default());
            let checked = CheckedPages {
                inner: caught(path, || group.get_column_page_reader(index))?,
                full,
                most: most(bytes),
                entry: format.bytes(),
                lists: true,
                pace: Arc::clone(&pace),
            };
            let mut column = ColumnReaderImpl::<T>::new(leaf.clone(), Box::new(checked));
            loop {
                let fail = |row: usize, message: String| Error::CorpusRow {
                    path: path.clone(),
                    place: format!("row {row} of its column `{name}`"),
                    message,
                };
                let rows_at_once = pace.rows(VALUES / width.unwrap_or(VALUES).max(1)).max(1);
                let (mut defined, mut repeated, mut values) = (Vec::new(), Vec::new(), Vec::new());
                let mut read = || {
                    column.read_records(rows_at_once, Some(&mut defined), Some(&mut repeated), &mut values)
                };
                let (rows, ..) = catching(&mut read)
                    .unwrap_or_else(|panic| Err(ParquetError::General(panic)))
                    .map_err(|error| fail(row, error.to_string()))?;
                if rows == 0 {
                    break;
                }
                pace.took(rows);
                // A row begins where nothing is repeated.
                let begins = (0..repeated.len()).filter(|at| repeated[*at] == 0);
                let begins: Vec<usize> = begins.chain([repeated.len()]).collect();
                for (at, ends) in begins.windows(2).enumerate() {
                    if defined[ends[0]..ends[1]].iter().any(|level| *level < full) {
                        return Err(fail(row + at, "it is empty, or a number is missing in it".to_owned()));
                    }
                    let (found, wanted) = (ends[1] - ends[0], *width.get_or_insert(ends[1] - ends[0]));
                    if found != wanted {
                        return Err(fail(
                            row + at,
                            format!("{found} numbers, where the rows before have {wanted}"),
                        ));
                    }
                }
                row += rows;
                let values: Vec<f32> = values.iter().map(&narrow).collect();
                if !take(&values, width.unwrap_or(0))? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
