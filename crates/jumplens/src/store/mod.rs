//! What is on disk: the stages of a run and the files that each of them writes, the manifest that says how far a run is,
//! the digests that say whether a file is as it was left, and the lock that one process at a time holds.

pub(crate) mod integrity;
pub(crate) mod lock;
pub mod manifest;
mod stage;

pub use manifest::Manifest;
pub(crate) use stage::MOMENTS;
pub use stage::Stage;
