//! Linear maps between two sets of states, on plain slices: no files, no models.
//!
//! ```
//! use jumplens_core::{Options, fit, r2};
//!
//! // n states of one layer, row-major [n, d_in], and of another, [n, d_out].
//! let (n, x, y) = (3, [1.0, 0.0, 0.0, 1.0, 1.0, 1.0], [2.0, 3.0, 5.0]);
//! let map = fit(&x, &y, n, &Options::default())?;
//! assert!(r2(&y, &map.apply(&x), n)? > 0.999);
//! println!("{} × {}: {:?}", map.d_out(), map.d_in(), map.weight());
//! # Ok::<(), jumplens_core::Error>(())
//! ```
//!
//! Below that, each module by those above it:
//!
//! - [`cast`]: what casts there are, and their names;
//! - [`linalg`]: packed products in f32 and bf16, decompositions in f64, work over threads;
//! - [`map`]: a linear map, applied and composed;
//! - [`spread`]: means and squares of states;
//! - [`solver`]: maps from rows, or from sums that add up over any split of them;
//! - [`metrics`]: r², and what logits say.
//!
//! The crate never prints, and reads no file.

#![deny(missing_docs, clippy::print_stdout, clippy::print_stderr)]

pub mod cast;
mod error;
pub mod linalg;
pub mod map;
pub mod metrics;
pub mod solver;
pub mod spread;

pub use cast::Kind;
pub use error::{Error, Result};
pub use map::LinearMap;
pub use metrics::r2;
pub use solver::{Options, fit, fit_matrices};
