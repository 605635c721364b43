//! Linear shortcuts between the layers of transformer language models: the method of *Jump to Conclusions:
//! Short-Cutting Transformers With Linear Transformations* (Yom Din et al., arXiv 2303.09435).
//!
//! Data travel one way, each arrow a value or a folder that one module writes and the next reads:
//!
//! ```text
//! corpus ─sentences→ tokenize ─samples→ states ─states→ shortcut ─maps→ eval ─tables→ plot
//!                                 ↑                                 ↑
//!                     hub ─files→ weights ─tensors→ models, run by runner on batches of batch
//! ```
//!
//! [`run`] does these stages on a run folder and keeps its [`manifest`]; the layers that models are made of are in [`nn`].
//! Modules use one another in one direction, which a test holds them to: [`words`], what all of them speak of, is used by all,
//! and `run` by none but those that work on whole runs. Products, maps, the solvers and their measures on plain slices are a
//! crate of their own, [`jumplens_core`].
//! The crate never prints and never exits: it tells an [`Observer`](progress::Observer) what it is doing, and returns a
//! typed [`Error`].
//!
//! ```
//! use jumplens::{hub, nn::Precision, progress::Silent, run, shortcut::{Fits, Pairs}, words::Cast};
//! # fn main() -> jumplens::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let out = folder.path().join("run");
//! let tiny = jumplens_assets::TINY_GPT2;
//! let model = hub::BundledModel {
//!     name: tiny.name,
//!     config: tiny.config,
//!     weights: tiny.weights,
//!     tokenizer: tiny.tokenizer,
//! };
//! let sentences = jumplens_assets::WIKIPEDIA_SAMPLE;
//! let corpus = hub::BundledCorpus { name: sentences.name, sentences: sentences.sentences };
//! let bundled = hub::Bundled { models: vec![model], corpora: vec![corpus] };
//! // With `Some(hub::Hub::from_env())`, names that are neither bundled nor folders are looked for on the Hub.
//! let sources = hub::Sources { bundled, ..Default::default() };
//!
//! // A folder with config.json, model.safetensors and tokenizer.json would do as well as a bundled name.
//! let settings = run::Settings {
//!     model: "tiny-gpt2".into(),
//!     samples: run::SampleSource::corpus("wikipedia-sample", 200, 50),
//!     seed: 0,
//!     fits: Fits::plain(Pairs::ToFinal),
//!     dtype: Precision::F32,
//!     shard: None,
//! };
//! let mut run = run::Run::begin(&out, &settings, run::Existing::Refuse, &sources, &Silent)?;
//! run.states(&Silent)?;
//! run.fit(Fits::plain(Pairs::ToFinal), &Silent)?;
//! run.r2(None, &Silent)?;
//! let best = &run.summary()?.best_r2[&Cast::MAT];
//! assert!(best.r2 > 0.9, "casting from layer {} to {} explains {}", best.from, best.to, best.r2);
//! # Ok(())
//! # }
//! ```

#![deny(missing_docs, clippy::print_stdout, clippy::print_stderr)]

pub mod arena;
pub mod compare;
pub mod doctor;
pub mod eval;
pub mod evidence;
pub mod experiment;
pub mod jacobian;
pub mod lens;
pub mod lenses;
mod markup;
pub mod moments;
pub mod plot;
pub mod prune;
mod report;
mod results;
pub mod run;
pub mod samples;
pub mod sanity;
pub mod sentences;
pub mod session;
pub mod shards;
pub mod shortcut;
pub mod states;
pub mod store;

pub use experiment::Experiment;
pub use results::tables;
pub use session::Session;
pub use store::manifest;

pub use jumplens_data::corpus;
use jumplens_models::tensor_file;
pub use jumplens_models::{
    AllowUnread, Error, Lacking, Others, Result, SpecialToken, batch, files, hub, models, nn,
    panics_are_caught, progress, runner, seal, tokenize, weights, words,
};
