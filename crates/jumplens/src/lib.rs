//! Linear shortcuts between the layers of transformer language models.
pub mod batch;
pub mod corpus;
mod error;
pub mod eval;
pub mod files;
pub mod hub;
pub mod manifest;
pub mod models;
pub mod nn;
pub mod plot;
pub mod progress;
pub mod run;
pub mod runner;
pub mod shortcut;
pub mod states;
pub mod tokenize;
pub mod weights;
pub use error::{Error, Result};
