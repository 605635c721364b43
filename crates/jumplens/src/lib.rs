//! Linear shortcuts between the layers of transformer language models.
mod error;
pub mod eval;
pub mod files;
pub mod nn;
pub mod plot;
pub use error::{Error, Result};
