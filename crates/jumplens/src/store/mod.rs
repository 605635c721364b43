//! What is on disk: the folders that this program makes, the stages of a run and the files that each of them writes, the
//! manifest that says how far a run is, the digests that say whether a file is as it was left, and the lock that one
//! process at a time holds. Whoever reads or replaces what an earlier command wrote comes in here.

mod folder;
pub(crate) mod integrity;
pub(crate) mod lock;
pub mod manifest;

pub use crate::words::{FolderKind, Stage};
pub use folder::{Found, Making, Record, Room, check_outside, look};
pub(crate) use folder::{check_inside, damaged, maps_at, may_be_a_run, note_replaced};
pub(crate) use integrity::walk;
pub use manifest::Manifest;
