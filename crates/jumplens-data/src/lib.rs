//! Sentences from corpora: plain text, JSON lines, Parquet, Wikipedia dumps, and data sets of the Hugging Face Hub, read as
//! streams, in order or drawn at random; and columns of numbers ([`columns`]). How long a sentence is in tokens is asked of whoever draws ([`corpus::Accept`]): no
//! model is looked at here.
//!
//! The crate never prints and never exits.

#![deny(missing_docs, clippy::print_stdout, clippy::print_stderr)]

pub mod columns;
pub mod corpus;

use jumplens_models::{Error, Others, Result, caught, files, hub, progress, words};
