//! Readings as a table: a row a cell, in a Parquet file that grows by one text after another.

use super::{Guess, Reading};
use crate::{Error, Result};
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, FloatType, Int32Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::io::Write;
use std::sync::Arc;

/// Rows that are held before they are written.
const GROUP: usize = 1 << 17;

const SCHEMA: &str = "message cells {
    required int32 text;
    required binary mapping (UTF8);
    required int32 layer;
    required int32 position;
    required int32 input_id;
    required binary input (UTF8);
    optional int32 token_id;
    optional binary token (UTF8);
    optional float probability;
    optional float confidence;
    optional float surprisal;
    optional float entropy;
    optional float kl;
    optional int32 model_token_rank;
    optional int32 target_id;
    optional binary target (UTF8);
    optional float target_probability;
    optional int32 target_rank;
}";

/// A value of a column.
enum Value {
    Whole(Option<i32>),
    Real(Option<f32>),
    Text(Option<String>),
}

/// Writes readings as rows of a Parquet file: one a text, cast, layer, position and target.
pub struct CellTable<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    /// By column.
    columns: Vec<Vec<Value>>,
    texts: usize,
}

fn internal(error: parquet::errors::ParquetError) -> Error {
    Error::Internal(format!("cells as Parquet: {error}"))
}

impl<W: Write + Send> CellTable<W> {
    /// Begins the file.
    pub fn new(file: W) -> Result<Self> {
        let schema = Arc::new(parse_message_type(SCHEMA).map_err(internal)?);
        let properties = Arc::new(WriterProperties::builder().set_compression(Compression::SNAPPY).build());
        let writer = SerializedFileWriter::new(file, schema, properties).map_err(internal)?;
        let columns = (0..writer.schema_descr().num_columns()).map(|_| Vec::new()).collect();
        Ok(Self { writer, columns, texts: 0 })
    }

    /// Adds the next text.
    pub fn add(&mut self, reading: &Reading) -> Result<()> {
        let text = self.texts as i32;
        self.texts += 1;
        for cast in &reading.casts {
            for (layer, cells) in cast.layers.iter().zip(&cast.cells) {
                for (position, cell) in reading.positions.iter().zip(cells) {
                    let input = &reading.tokens[*position];
                    let best = cell.top.first();
                    let targets = match reading.targets.len() {
                        0 => vec![None],
                        n => (0..n).map(Some).collect(),
                    };
                    for target in targets {
                        let standing = target.map(|index| cell.targets[index]);
                        let token = target.map(|index| &reading.targets[index].token);
                        let row = [
                            Value::Whole(Some(text)),
                            Value::Text(Some(cast.cast.to_string())),
                            Value::Whole(Some(*layer as i32)),
                            Value::Whole(Some(*position as i32)),
                            Value::Whole(Some(input.id as i32)),
                            Value::Text(Some(input.text.clone())),
                            Value::Whole(best.map(|guess| guess.id as i32)),
                            Value::Text(best.map(|Guess { text, .. }| text.clone())),
                            Value::Real(best.map(|guess| guess.probability)),
                            Value::Real(cell.confidence),
                            Value::Real(cell.surprisal),
                            Value::Real(cell.entropy),
                            Value::Real(cell.kl),
                            Value::Whole(cell.rank.map(|rank| rank as i32)),
                            Value::Whole(token.map(|token| token.id as i32)),
                            Value::Text(token.map(|token| token.text.clone())),
                            Value::Real(standing.and_then(|standing| standing.probability)),
                            Value::Whole(standing.and_then(|standing| Some(standing.rank? as i32))),
                        ];
                        self.columns.iter_mut().zip(row).for_each(|(column, value)| column.push(value));
                    }
                }
            }
        }
        if self.columns[0].len() >= GROUP { self.write_group().map_err(internal) } else { Ok(()) }
    }

    fn write_group(&mut self) -> parquet::errors::Result<()> {
        if self.columns[0].is_empty() {
            return Ok(());
        }
        let mut group = self.writer.next_row_group()?;
        let mut number = 0;
        while let Some(mut column) = group.next_column()? {
            let values = std::mem::take(&mut self.columns[number]);
            let is_there = |value: &Value| match value {
                Value::Whole(value) => value.is_some(),
                Value::Real(value) => value.is_some(),
                Value::Text(value) => value.is_some(),
            };
            // Not looked at where the column's values are required.
            let levels: Vec<i16> = values.iter().map(|value| i16::from(is_there(value))).collect();
            let levels = Some(&levels[..]);
            match values.first() {
                Some(Value::Whole(_)) => {
                    let whole = |value: &Value| if let Value::Whole(value) = value { *value } else { None };
                    let values: Vec<i32> = values.iter().filter_map(whole).collect();
                    column.typed::<Int32Type>().write_batch(&values, levels, None)?;
                }
                Some(Value::Real(_)) => {
                    let real = |value: &Value| if let Value::Real(value) = value { *value } else { None };
                    let values: Vec<f32> = values.iter().filter_map(real).collect();
                    column.typed::<FloatType>().write_batch(&values, levels, None)?;
                }
                _ => {
                    let text = |value: Value| match value {
                        Value::Text(Some(text)) => Some(ByteArray::from(text.into_bytes())),
                        _ => None,
                    };
                    let values: Vec<ByteArray> = values.into_iter().filter_map(text).collect();
                    column.typed::<ByteArrayType>().write_batch(&values, levels, None)?;
                }
            }
            column.close()?;
            number += 1;
        }
        group.close()?;
        Ok(())
    }

    /// Ends the file.
    pub fn finish(mut self) -> Result<()> {
        self.write_group().map_err(internal)?;
        self.writer.close().map_err(internal)?;
        Ok(())
    }
}
