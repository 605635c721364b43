//! The result tables as rows: what `results/*.csv` hold, one struct a file, written and read by the same definition.

use crate::files::write_atomically;
use crate::words::Cast;
use crate::{Error, Result};
use serde::{Serialize, de::DeserializeOwned};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A row of `r2.csv`.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
pub struct R2Row {
    /// A cast that is a fitted map, `id`, or `mean` (the baseline that predicts the mean of the train states at `to`).
    pub mapping: Cast,
    /// Layer the state comes from.
    pub from: usize,
    /// Layer it is cast to.
    pub to: usize,
    /// Coefficient of determination on the validation samples, averaged over coordinates.
    pub r2: f64,
    /// The same on the train samples.
    pub r2_train: f64,
}

/// A row of `sources.csv`: the train states of one layer as the source of maps.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
pub struct SourceRow {
    /// Layer.
    pub layer: usize,
    /// Train samples, n.
    pub samples: usize,
    /// Width of a state, d.
    pub width: usize,
    /// Singular values of the n × d matrix of states that count.
    pub rank: usize,
    /// exp of the entropy of those singular values as shares of their sum.
    pub effective_rank: f64,
    /// The largest of them over the smallest.
    pub condition: f64,
    /// The coordinate of the largest variance.
    pub top_coordinate: usize,
    /// Its share of the variance of all coordinates.
    pub top_coordinate_share: f64,
    /// Train samples whose chosen position is the first, where positions are known.
    pub first_positions: Option<usize>,
    /// Their share of the squared distances of all samples from the mean.
    pub first_position_share: Option<f64>,
}

/// A row of `learning_curve.csv`: r² of a map fitted on the first of the train samples.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
pub struct CurveRow {
    /// Cast.
    pub mapping: Cast,
    /// Layer the state comes from.
    pub from: usize,
    /// Layer it is cast to, the last.
    pub to: usize,
    /// How many train samples the map is fitted on.
    pub samples: usize,
    /// r² on the validation samples.
    pub r2: f64,
    /// r² on the samples it is fitted on.
    pub r2_train: f64,
}

/// A row of `layers.csv`: means over the validation samples, each with the bounds of its 95 % bootstrap interval.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
pub struct LayerRow {
    /// Cast.
    pub mapping: Cast,
    /// Layer the cast starts from; at the last layer every cast is the model itself.
    pub layer: usize,
    /// Share of samples whose top token is the model's own.
    pub precision_1: f64,
    /// Share of samples whose top token is among the model's top 5.
    pub precision_5: f64,
    /// Share of samples whose top token is among the model's top 10.
    pub precision_10: f64,
    /// Mean −ln p_model(top token of the cast), in nats.
    pub surprisal: f64,
    /// Mean KL(model ‖ cast), in nats.
    pub kl: f64,
    /// Mean cross-entropy of the true token, in nats; `None` where no sample knows its true token.
    pub loss: Option<f64>,
    /// Lower bound of `precision_1`.
    pub precision_1_lo: f64,
    /// Upper bound of `precision_1`.
    pub precision_1_hi: f64,
    /// Lower bound of `precision_5`.
    pub precision_5_lo: f64,
    /// Upper bound of `precision_5`.
    pub precision_5_hi: f64,
    /// Lower bound of `precision_10`.
    pub precision_10_lo: f64,
    /// Upper bound of `precision_10`.
    pub precision_10_hi: f64,
    /// Lower bound of `surprisal`.
    pub surprisal_lo: f64,
    /// Upper bound of `surprisal`.
    pub surprisal_hi: f64,
    /// Lower bound of `kl`.
    pub kl_lo: f64,
    /// Upper bound of `kl`.
    pub kl_hi: f64,
    /// Lower bound of `loss`.
    pub loss_lo: Option<f64>,
    /// Upper bound of `loss`.
    pub loss_hi: Option<f64>,
}

/// A row of `early_exit.csv`: means over the validation samples when every sample exits by confidence.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
pub struct ExitRow {
    /// Cast.
    pub mapping: Cast,
    /// The exit rule's λ.
    pub lambda: f64,
    /// Mean layer of exit.
    pub layers_processed: f64,
    /// Share of samples whose token at exit is the model's own.
    pub precision_1: f64,
    /// Share of samples whose token at exit is among the model's top 5.
    pub precision_5: f64,
    /// Share of samples whose token at exit is among the model's top 10.
    pub precision_10: f64,
    /// Mean −ln p_model(token at exit), in nats.
    pub surprisal: f64,
}

/// A row of `exits.csv`: the validation samples that exit at one layer.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
pub struct ExitLayerRow {
    /// As in [`ExitRow`].
    pub mapping: Cast,
    /// The exit rule's λ.
    pub lambda: f64,
    /// The layer, from 1.
    pub layer: usize,
    /// Share of the samples that exit there.
    pub share: f64,
    /// Share of these whose token is the model's own; `None` where there are none.
    pub precision_1: Option<f64>,
}

/// A row of `ranks.csv`: where the model's top token stands in the order of a cast's logits, from 1.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
pub struct RankRow {
    /// As in [`LayerRow`].
    pub mapping: Cast,
    /// Layer the cast starts from.
    pub layer: usize,
    /// Median over the validation samples.
    pub median: f64,
    /// Lower quartile.
    pub lower_quartile: f64,
    /// Upper quartile.
    pub upper_quartile: f64,
    /// Mean of 1 / rank.
    pub mean_reciprocal: f64,
}

/// A row of `spectra.csv`: a singular value of a map to the last layer.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
pub struct SpectrumRow {
    /// Source layer of the map `A_{from→to}`.
    pub from: usize,
    /// Its target layer, the last one.
    pub to: usize,
    /// From 1, by falling singular value.
    pub index: usize,
    /// The singular value.
    pub singular_value: f64,
}

/// Every table of a run's `results/`; one that is not there has no rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tables {
    /// `r2.csv`.
    pub r2: Vec<R2Row>,
    /// `layers.csv`.
    pub layers: Vec<LayerRow>,
    /// `early_exit.csv`.
    pub early_exit: Vec<ExitRow>,
    /// `exits.csv`.
    pub exits: Vec<ExitLayerRow>,
    /// `ranks.csv`.
    pub ranks: Vec<RankRow>,
    /// `spectra.csv`.
    pub spectra: Vec<SpectrumRow>,
}

impl Tables {
    /// Reads the tables in the folder `results`, which need not be there.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`] when a table that is there cannot be read.
    pub fn read(results: &Path) -> Result<Self> {
        fn rows<T: DeserializeOwned>(path: PathBuf) -> Result<Vec<T>> {
            match read_csv(&path) {
                Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                    Ok(Vec::new())
                }
                rows => rows,
            }
        }
        Ok(Self {
            r2: rows(results.join("r2.csv"))?,
            layers: rows(results.join("layers.csv"))?,
            early_exit: rows(results.join("early_exit.csv"))?,
            exits: rows(results.join("exits.csv"))?,
            ranks: rows(results.join("ranks.csv"))?,
            spectra: rows(results.join("spectra.csv"))?,
        })
    }

    /// True where no table has a row.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The casts that they are about.
    pub fn casts(&self) -> BTreeSet<&Cast> {
        let r2 = self.r2.iter().map(|row| &row.mapping);
        let layers = self.layers.iter().map(|row| &row.mapping);
        let early_exit = self.early_exit.iter().map(|row| &row.mapping);
        let exits = self.exits.iter().map(|row| &row.mapping);
        let ranks = self.ranks.iter().map(|row| &row.mapping);
        r2.chain(layers).chain(early_exit).chain(exits).chain(ranks).collect()
    }

    /// The model's last layer, as far as the tables tell.
    pub fn last_layer(&self) -> usize {
        let r2 = self.r2.iter().map(|row| row.to);
        r2.chain(self.layers.iter().map(|row| row.layer)).max().unwrap_or(0)
    }
}

/// Stands in front of a text that a spreadsheet would run as a formula, and shows it as it is.
const TEXT: u8 = b'\'';

/// True where a cell is a text that begins as a formula does, or as one that is marked as none. What is a number is none.
fn needs_mark(cell: &[u8]) -> bool {
    let begins = cell.first().is_some_and(|byte| b"=+-@\t\r".contains(byte) || *byte == TEXT);
    begins && !std::str::from_utf8(cell).is_ok_and(|text| text.parse::<f64>().is_ok())
}

/// Writes `rows` with a header line, under a temporary name first. A text that begins with `=`, `+`, `-`, `@`, a tab, a
/// carriage return or `'` gets a `'` in front.
pub fn write_csv<T: Serialize>(path: &Path, rows: &[T]) -> Result<()> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        writer.serialize(row).map_err(Error::format(path))?;
    }
    let bytes = writer.into_inner().map_err(Error::format(path))?;
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(&bytes[..]);
    let mut writer = csv::Writer::from_writer(Vec::with_capacity(bytes.len()));
    for record in reader.byte_records() {
        let cells = record.map_err(Error::format(path))?;
        let marked = |cell: &[u8]| if needs_mark(cell) { [&[TEXT], cell].concat() } else { cell.to_vec() };
        writer.write_record(cells.iter().map(marked)).map_err(Error::format(path))?;
    }
    let bytes = writer.into_inner().map_err(Error::format(path))?;
    write_atomically(path, &bytes)
}

/// Reads the rows of a file that [`write_csv`] wrote; columns it does not know are passed over.
pub fn read_csv<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let file = crate::files::open(path)?;
    let mut reader = csv::Reader::from_reader(file);
    let head = reader.headers().map_err(Error::format(path))?.clone();
    let row = |record: Result<csv::StringRecord, csv::Error>| {
        let plain = |cell: &str| match cell.as_bytes().split_first() {
            Some((&TEXT, rest)) if needs_mark(rest) => cell[1..].to_owned(),
            _ => cell.to_owned(),
        };
        record?.iter().map(plain).collect::<csv::StringRecord>().deserialize(Some(&head))
    };
    reader.records().map(row).collect::<Result<_, _>>().map_err(Error::format(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_are_written_as_texts_and_read_as_they_were() {
        let names =
            ["=1+1", "+b", "-x", "@SUM(1)", "\t=1", "\r=1", "'=1", "''", "'", "mat+b", "", "a,\"b\"\nc"];
        let row = |name: &str| R2Row {
            mapping: name.into(),
            from: 0,
            to: 1,
            r2: -0.5,
            r2_train: f64::NEG_INFINITY,
        };
        let rows: Vec<R2Row> = names.iter().map(|name| row(name)).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r2.csv");
        write_csv(&path, &rows).unwrap();
        assert_eq!(read_csv::<R2Row>(&path).unwrap(), rows);
        let mut cells = csv::Reader::from_path(&path).unwrap();
        for (record, name) in cells.records().zip(names) {
            let record = record.unwrap();
            let is_marked = &record[0] != name;
            assert_eq!(is_marked, name.starts_with(['=', '+', '-', '@', '\t', '\r', '\'']), "{name:?}");
            assert!(!record[0].starts_with(['=', '+', '-', '@', '\t', '\r']), "{name:?}");
            // Numbers are as they were.
            assert_eq!((&record[3], &record[4]), ("-0.5", "-inf"));
        }
    }
}
