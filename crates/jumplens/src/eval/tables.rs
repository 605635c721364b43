//! The result tables as rows: what `results/*.csv` hold, one struct a file, written and read by the same definition.

use crate::error::{Error, Result};
use crate::files::write_atomically;
use serde::{Serialize, de::DeserializeOwned};
use std::path::Path;

/// A row of `r2.csv`.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
pub struct R2Row {
    /// A cast that is a fitted map, `id`, or `mean` (the baseline that predicts the mean of the train states at `to`).
    pub mapping: String,
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
    /// Train samples whose chosen position is the first.
    pub first_positions: usize,
    /// Their share of the squared distances of all samples from the mean.
    pub first_position_share: f64,
}

/// A row of `learning_curve.csv`: r² of a map fitted on the first of the train samples.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
pub struct CurveRow {
    /// Cast.
    pub mapping: String,
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
    pub mapping: String,
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
    pub mapping: String,
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

/// Writes `rows` with a header line, under a temporary name first.
pub fn write_csv<T: Serialize>(path: &Path, rows: &[T]) -> Result<()> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        writer.serialize(row).map_err(Error::format(path))?;
    }
    let bytes = writer.into_inner().map_err(Error::format(path))?;
    write_atomically(path, &bytes)
}

/// Reads the rows of a file that [`write_csv`] wrote; columns it does not know are passed over.
pub fn read_csv<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let file = std::fs::File::open(path).map_err(Error::io("read", path))?;
    csv::Reader::from_reader(file).deserialize().collect::<Result<_, _>>().map_err(Error::format(path))
}
