//! From the sums of all shares to a folder of maps, with their r² and learning curve.

mod fit;
mod folder;

pub use fit::fit;
pub use folder::{fit_folder, fit_sources, is_whole_fit, join_fits};
