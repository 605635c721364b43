//! How maps are fitted: least squares, ridge and reduced-rank regression from one factorisation of the source, of rows or of
//! their second moments.

mod fit;
mod fitted;
mod least_squares;
mod low_rank;
mod ridge;
mod sums;

pub use fit::{Options, fit, fit_matrices};
pub use fitted::{Fitted, Maps, Rows};
pub use least_squares::{BLOCK, Coordinates, Factoring, Outcome, Solving, Whitening};
pub use sums::{PairSums, TargetSums};
