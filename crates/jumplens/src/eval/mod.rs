//! How good the casts are: r² of states, predictions, early exit, and the tables they end up in.

mod bootstrap;
mod casts;
mod diagnostics;
mod early_exit;
mod examples;
mod losses;
mod part;
mod predictions;
mod r2;
mod ranks;
mod spectra;
mod summary;
pub mod tables;
mod written;

pub(crate) use bootstrap::{Draws, interval};
pub use bootstrap::{RESAMPLES, layer_rows, sentences};
pub(crate) use casts::BlockCasts;
pub use diagnostics::diagnose;
pub(crate) use diagnostics::{advise, learning_curve, r2_of_sums};
pub use early_exit::{
    ENOUGH_PRECISION, ExitRule, LAMBDA_INNER, LAMBDAS, cheapest_exit, early_exit, exit_layers, layers_saved,
    mean_run,
};
pub use examples::{Example, ExampleCast, ExampleCell, Examples, examples};
pub use jumplens_core::metrics::{Closer, Inspection, RowScan, Standing, Unembedding, inspect, scan};
pub(crate) use losses::{Losses, WORST, with_losses};
pub use part::{Part, PartRecord};
pub(crate) use part::{Places, SoFar};
pub use predictions::{
    CastPredictions, Evaluation, NO_TOKEN, Prediction, Subject, TOP_K, evaluate, write_predictions,
};
pub(crate) use predictions::{TOKEN_BUDGET, batches, evaluate_pieces};
pub(crate) use predictions::{maps_to_last, predict, with_unembedding};
pub use r2::r2_table;
pub use ranks::rank_rows;
pub use spectra::spectra;
pub use summary::{LastLayer, Summary};
pub(crate) use written::write_tables;
