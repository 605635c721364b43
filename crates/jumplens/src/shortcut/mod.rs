//! Shortcuts: linear maps from one layer's states to another's, fitted on the states of a run, and the files they are kept in.

mod export;
mod files;
mod fit;
mod import;
mod origin;
mod store;

pub use crate::words::LastState;
pub use export::{Format, chosen_pairs, export, export_jacobian_lens, export_tuned_lens};
pub(crate) use files::PROMPTS;
pub use files::{Notes, Shortcuts, pair_name};
pub(crate) use fit::{KEPT, LANES, save_maps};
pub use fit::{Times, fit_pairs, fit_parts, fit_through_head};
pub use import::Foreign;
pub use origin::Origin;
pub use store::{MapStore, MapsInMemory};

pub use jumplens_core::LinearMap;
pub use jumplens_core::cast::{Fits, Kind, MapCast, Pairs, Ridge};
pub use jumplens_core::solver::{Fitted, Maps, PairSums};

use crate::models::Spec;

/// Bytes that the maps of a run take on disk, but for the files' headers: those of the cast `mat` between `pairs`, and of
/// every part of every block.
pub fn disk_bytes(spec: &Spec, pairs: Pairs) -> u64 {
    let maps = pairs.count(spec.n_layers) + spec.n_layers * spec.parts.len();
    4 * (spec.d_model as u64).pow(2) * maps as u64
}
