//! Parquet files: what their pages claim, held against what they are, and columns of lists of numbers.

mod claims;
mod numbers;

pub(crate) use claims::{CheckedPages, Pace, check_pages, most};
pub use numbers::NumberLists;
