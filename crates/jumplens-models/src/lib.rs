//! Transformer language models on a CPU, part by part: configurations, checkpoints and tokenizers as the Hugging Face Hub has
//! them, from files or fetched, and the model that is built of them.
//!
//! ```no_run
//! use jumplens_models::{batch::PackedBatch, hub::{ModelFiles, Sources}, models::load, nn::Precision, progress::Silent};
//! let files = ModelFiles::find("path/to/a/model", &Sources::default(), &Silent)?;
//! let model = load(&files, Precision::F32)?.model;
//! // The hidden states of one sequence, [tokens, d] each, and the logits of its last position.
//! let batch = PackedBatch::whole(&[1, 2, 3]);
//! let rows = batch.every_row(model.spec().kind);
//! let mut states = vec![model.embed(&batch)?];
//! for layer in 0..model.spec().n_layers {
//!     states.push(model.block(layer, &states[layer], &rows)?);
//! }
//! let last = states[model.spec().n_layers].narrow(0, 2, 1)?;
//! let logits = model.head().expect("a language model").logits(&last)?;
//! # Ok::<(), jumplens_models::Error>(())
//! ```
//!
//! Below that, each module by those above it:
//!
//! - [`words`]: plain data that all of the rooms speak of, and [`Error`];
//! - [`files`], [`seal`]: files that are whole or not there, mapped, digested;
//! - [`hub`]: names of models and data sets to files;
//! - [`weights`]: named tensors of safetensors, PyTorch and GGUF files;
//! - [`tokenize`]: text to token ids;
//! - [`nn`]: layers, each with a fused kernel and a plain twin that gradients flow through;
//! - [`models`]: families, and the one transformer they are all built as;
//! - [`runner`]: blocks run part by part, with maps in the place of some, on packed sequences ([`batch`]).
//!
//! The crate never prints and never exits.

#![deny(missing_docs, clippy::print_stdout, clippy::print_stderr)]

pub mod batch;
mod caught;
mod error;
mod fields;
pub mod files;
mod gguf;
pub mod hub;
pub mod models;
pub mod nn;
pub mod progress;
pub mod runner;
pub mod seal;
pub mod tensor_file;
pub mod tokenize;
pub mod weights;
pub mod words;

pub use caught::{catching, caught, panics_are_caught};
pub use error::{Error, Lacking, Others, Result, SpecialToken};
pub use fields::AllowUnread;
