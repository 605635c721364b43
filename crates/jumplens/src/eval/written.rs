//! From predictions to the tables of `evaluate`.

use super::tables::{ExitLayerRow, ExitRow, write_csv};
use super::{Evaluation, Places, early_exit, exit_layers, layer_rows, rank_rows};
use crate::Result;
use crate::models::Kind;
use std::path::Path;

/// Writes `layers.csv`, `early_exit.csv`, `exits.csv` and `ranks.csv` into the folder `results`, with intervals from resamples
/// that `seed` draws.
pub(crate) fn write_tables(
    results: &Path,
    evaluation: &Evaluation,
    places: &Places,
    kind: Kind,
    seed: u64,
) -> Result<()> {
    let rule = places.exit_rule(kind);
    let exits: Vec<ExitRow> = evaluation.of_states().flat_map(|cast| early_exit(cast, &rule)).collect();
    let layers: Vec<ExitLayerRow> =
        evaluation.of_states().flat_map(|cast| exit_layers(cast, &rule)).collect();
    write_csv(&results.join("layers.csv"), &layer_rows(evaluation, &places.sentences(), seed))?;
    write_csv(&results.join("early_exit.csv"), &exits)?;
    write_csv(&results.join("exits.csv"), &layers)?;
    write_csv(&results.join("ranks.csv"), &rank_rows(evaluation))
}
