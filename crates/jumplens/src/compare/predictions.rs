//! What `predictions.parquet` tells of each sample.

use crate::words::Cast;
use crate::{Error, Result};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::DataType;
use parquet::file::reader::{FileReader, SerializedFileReader};
use std::collections::BTreeMap;
use std::path::Path;

/// Measures of a prediction: Precision@1, @5, @10, surprisal.
pub(super) const MEASURES: [&str; 4] = ["precision_1", "precision_5", "precision_10", "surprisal"];

/// By cast and layer, the measures of each sample.
pub(super) type Measured = BTreeMap<(Cast, usize), Vec<[f64; MEASURES.len()]>>;

/// Reads `predictions.parquet` of a model whose last layer is `last`; `None` where it is not there.
pub(super) fn read(path: &Path, last: usize) -> Result<Option<Measured>> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", path)(error)),
    };
    let columns = Columns::read(file).map_err(Error::format(path))?;
    let list = columns.top.len().checked_div(columns.layer.len()).unwrap_or(0);
    let top = |row: usize| &columns.top[row * list..][..list];
    let mut rows: BTreeMap<(Cast, usize), BTreeMap<i32, usize>> = BTreeMap::new();
    for (row, (mapping, layer)) in columns.mapping.iter().zip(&columns.layer).enumerate() {
        rows.entry((mapping.clone(), *layer as usize)).or_default().insert(columns.sample[row], row);
    }
    // At the last layer every cast is the model itself.
    let Some(own) = rows.iter().find(|((_, layer), _)| *layer == last).map(|(_, own)| own.clone()) else {
        return Err(Error::format(path)(format!("no row is about layer {last}")));
    };
    let measured = |(sample, row): (&i32, &usize)| -> Option<[f64; 4]> {
        let model = top(*own.get(sample)?);
        let first = *top(*row).first()?;
        // A cast without a prediction hits nothing.
        let hit =
            |k: usize| f64::from(u8::from(first >= 0 && model.iter().take(k).any(|token| *token == first)));
        Some([hit(1), hit(5), hit(10), f64::from(columns.surprisal[*row])])
    };
    let mut all = Measured::new();
    for (key, samples) in rows.iter() {
        let values: Option<Vec<_>> = samples.iter().map(measured).collect();
        all.insert(key.clone(), values.ok_or_else(|| Error::format(path)("samples are missing"))?);
    }
    Ok(Some(all))
}

/// The columns that are read.
struct Columns {
    sample: Vec<i32>,
    mapping: Vec<Cast>,
    layer: Vec<i32>,
    top: Vec<i32>,
    surprisal: Vec<f32>,
}

impl Columns {
    fn read(file: std::fs::File) -> parquet::errors::Result<Self> {
        let reader = SerializedFileReader::new(file)?;
        let mut columns = Self {
            sample: Vec::new(),
            mapping: Vec::new(),
            layer: Vec::new(),
            top: Vec::new(),
            surprisal: Vec::new(),
        };
        for group in 0..reader.num_row_groups() {
            let group = reader.get_row_group(group)?;
            let rows = group.metadata().num_rows() as usize;
            for place in 0..group.num_columns() {
                let name = group.metadata().column(place).column_path().parts()[0].clone();
                match (name.as_str(), group.get_column_reader(place)?) {
                    ("sample", ColumnReader::Int32ColumnReader(column)) => {
                        append(column, rows, &mut columns.sample)?
                    }
                    ("layer", ColumnReader::Int32ColumnReader(column)) => {
                        append(column, rows, &mut columns.layer)?
                    }
                    ("top10", ColumnReader::Int32ColumnReader(column)) => {
                        append(column, rows, &mut columns.top)?
                    }
                    ("surprisal", ColumnReader::FloatColumnReader(column)) => {
                        append(column, rows, &mut columns.surprisal)?;
                    }
                    ("mapping", ColumnReader::ByteArrayColumnReader(column)) => {
                        let mut names = Vec::new();
                        append(column, rows, &mut names)?;
                        for name in names {
                            columns.mapping.push(name.as_utf8()?.into());
                        }
                    }
                    _ => {}
                }
            }
        }
        let rows = columns.layer.len();
        let lengths = [columns.sample.len(), columns.mapping.len(), columns.surprisal.len()];
        if lengths.iter().any(|length| *length != rows)
            || (rows > 0 && !columns.top.len().is_multiple_of(rows))
        {
            return Err(parquet::errors::ParquetError::General(
                "a column is missing or has another length".into(),
            ));
        }
        Ok(columns)
    }
}

fn append<T: DataType>(
    mut column: ColumnReaderImpl<T>,
    rows: usize,
    values: &mut Vec<T::T>,
) -> parquet::errors::Result<()> {
    let (mut definitions, mut repetitions) = (Vec::new(), Vec::new());
    let mut left = rows;
    while left > 0 {
        definitions.clear();
        repetitions.clear();
        let (read, ..) = column.read_records(left, Some(&mut definitions), Some(&mut repetitions), values)?;
        if read == 0 {
            break;
        }
        left -= read;
    }
    Ok(())
}
