//! The headline figures of a run, drawn from its result tables.

use super::early_exit::layers_saved;
use super::tables::{ExitRow, LayerRow, R2Row, Tables};
use crate::models::Sizes;
use crate::seal::{self, Seal};
use crate::words::{Cast, RESULTS, SUMMARY};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::Path;

/// A pair of layers and its r².
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BestPair {
    /// Source layer.
    pub from: usize,
    /// Target layer.
    pub to: usize,
    /// r² on the validation samples.
    pub r2: f64,
}

/// What one cast reaches from one layer at the last one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastLayer {
    /// Cast.
    pub mapping: Cast,
    /// Layer the cast starts from.
    pub layer: usize,
    /// r² to the last layer, for the casts that are maps of states.
    pub r2: Option<f64>,
    /// Precision@1.
    pub precision_1: Option<f64>,
    /// Surprisal, nats.
    pub surprisal: Option<f64>,
}

/// `summary.json`: no times, no paths, so that the same experiment gives the same bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// `model_type`; `imported` where no model is known.
    pub family: String,
    /// Blocks, L.
    pub n_layers: usize,
    /// Width of a state.
    pub d_model: usize,
    /// Training samples.
    pub train: usize,
    /// Validation samples.
    pub val: usize,
    /// By mapping: the pair of layers with the highest r².
    pub best_r2: BTreeMap<Cast, BestPair>,
    /// Pairs of layers at which `mat` has the higher r² of `mat` and `id`, and all pairs.
    pub mat_beats_id: Option<(usize, usize)>,
    /// By mapping: layers saved by early exit at 95 % Precision@1.
    pub layers_saved: BTreeMap<Cast, f64>,
    /// Cast by cast and layer by layer.
    pub to_last_layer: Vec<LastLayer>,
}

impl Summary {
    /// Reads the file that a run left in `folder`, where it is there. [`Error::ChangedFolder`] where it is not as it was
    /// written.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(RESULTS).join(SUMMARY);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        // Earlier versions wrote no digest.
        match seal::check(&bytes) {
            Seal::Broken => Err(Error::ChangedFolder { path }),
            _ => serde_json::from_slice(&bytes).map(Some).map_err(Error::format(&path)),
        }
    }

    /// Of the same run, with the figures of `tables`.
    pub(crate) fn with_tables(self, tables: &Tables) -> Self {
        let Tables { r2, layers, early_exit, .. } = tables;
        Figures::gather(self.n_layers, r2, layers, early_exit).of(self)
    }

    /// Gathers the figures from whichever tables there are (an empty slice for one that is not).
    pub fn new(
        family: &str,
        sizes: Sizes,
        train: usize,
        val: usize,
        r2: &[R2Row],
        layers: &[LayerRow],
        exits: &[ExitRow],
    ) -> Self {
        let empty = Self {
            family: family.to_owned(),
            n_layers: sizes.n_layers,
            d_model: sizes.d_model,
            train,
            val,
            best_r2: BTreeMap::new(),
            mat_beats_id: None,
            layers_saved: BTreeMap::new(),
            to_last_layer: Vec::new(),
        };
        Figures::gather(sizes.n_layers, r2, layers, exits).of(empty)
    }
}

/// What the tables say.
struct Figures {
    best_r2: BTreeMap<Cast, BestPair>,
    mat_beats_id: Option<(usize, usize)>,
    layers_saved: BTreeMap<Cast, f64>,
    to_last_layer: Vec<LastLayer>,
}

impl Figures {
    fn of(self, summary: Summary) -> Summary {
        let Self { best_r2, mat_beats_id, layers_saved, to_last_layer } = self;
        Summary { best_r2, mat_beats_id, layers_saved, to_last_layer, ..summary }
    }

    fn gather(n_layers: usize, r2: &[R2Row], layers: &[LayerRow], exits: &[ExitRow]) -> Self {
        let mut best_r2: BTreeMap<Cast, BestPair> = BTreeMap::new();
        for row in r2 {
            let pair = BestPair { from: row.from, to: row.to, r2: row.r2 };
            let best = best_r2.entry(row.mapping.clone()).or_insert_with(|| pair.clone());
            if pair.r2 > best.r2 {
                *best = pair;
            }
        }
        let of = |mapping: Cast| r2.iter().filter(move |row| row.mapping == mapping);
        let id: BTreeMap<(usize, usize), f64> =
            of(Cast::Id).map(|row| ((row.from, row.to), row.r2)).collect();
        let wins =
            of(Cast::MAT).filter(|row| id.get(&(row.from, row.to)).is_some_and(|id| row.r2 > *id)).count();
        let mappings: BTreeSet<&Cast> = exits.iter().map(|row| &row.mapping).collect();
        let layers_saved = mappings
            .into_iter()
            .filter_map(|mapping| Some((mapping.clone(), layers_saved(exits, mapping, n_layers)?)))
            .collect();
        let r2_to_last = |mapping: &Cast, layer: usize| {
            let found =
                r2.iter().find(|row| row.mapping == *mapping && row.from == layer && row.to == n_layers);
            found.map(|row| row.r2)
        };
        let mut to_last_layer: Vec<LastLayer> = layers
            .iter()
            .map(|row| LastLayer {
                mapping: row.mapping.clone(),
                layer: row.layer,
                r2: r2_to_last(&row.mapping, row.layer),
                precision_1: Some(row.precision_1),
                surprisal: Some(row.surprisal),
            })
            .collect();
        if layers.is_empty() {
            let states = r2.iter().filter(|row| row.to == n_layers && row.mapping != Cast::Mean);
            to_last_layer.extend(states.map(|row| LastLayer {
                mapping: row.mapping.clone(),
                layer: row.from,
                r2: Some(row.r2),
                precision_1: None,
                surprisal: None,
            }));
        }
        Self {
            best_r2,
            mat_beats_id: (!id.is_empty()).then_some((wins, id.len())),
            layers_saved,
            to_last_layer,
        }
    }
}
