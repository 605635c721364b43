//! How good a map or a prediction is: slices in, numbers out.

mod exponentials;
mod inspect;
mod r2;
mod scan;

pub use exponentials::exponentials;
pub use inspect::{Inspection, effective_rank, inspect};
pub use r2::{Source, Target, r2, score};
pub use scan::{Closer, RowScan, Standing, Unembedding, scan, scan_closely, target_losses};
