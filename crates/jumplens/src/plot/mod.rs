//! Result tables to figures, as SVG. A page unit is 0.1 mm: figures are 85 mm or 170 mm wide at 254 units per inch.
//! The font is the generic `sans-serif`; texts use the characters ℓ ′ ² ≤ besides ASCII.

mod by_layer;
mod canvas;
mod early_exit;
mod panel;
mod precision;
mod r2;
mod scale;
mod series;
mod submodules;
mod surprisal;
#[cfg(test)]
mod tests;

pub use early_exit::early_exit;
pub use precision::precision;
pub use r2::r2;
pub use submodules::submodules;
pub use surprisal::surprisal;

use crate::error::{Error, Result};
use crate::eval::tables::{ExitRow, LayerRow, R2Row, read_csv};
use crate::files::write_atomically;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// Draws every figure that the tables in `results` allow into the folder `plots`, which must be there, and returns
/// the files in the order they were written: `r2.svg`, `precision.svg`, `surprisal.svg`, `submodules.svg`,
/// `early_exit.svg`.
///
/// A figure is left out when a table it needs is not there or has no rows, `submodules.svg` also when no row is
/// about a sub-module cast. The same tables give the same bytes.
///
/// # Errors
/// [`Error::Io`] or [`Error::Format`] when a table cannot be read, [`Error::Io`] when a figure cannot be written.
pub fn draw_all(results: &Path, plots: &Path) -> Result<Vec<PathBuf>> {
    let r2_rows: Vec<R2Row> = rows_if_there(&results.join("r2.csv"))?;
    let layers: Vec<LayerRow> = rows_if_there(&results.join("layers.csv"))?;
    let exits: Vec<ExitRow> = rows_if_there(&results.join("early_exit.csv"))?;
    let mut written = Vec::new();
    let mut write = |name: &str, svg: String| {
        let path = plots.join(name);
        write_atomically(&path, svg.as_bytes())?;
        written.push(path);
        Ok::<_, Error>(())
    };
    if !r2_rows.is_empty() {
        write("r2.svg", r2(&r2_rows)?)?;
    }
    if !layers.is_empty() {
        write("precision.svg", precision(&layers)?)?;
        write("surprisal.svg", surprisal(&layers)?)?;
    }
    if submodules::has_submodules(&layers) {
        write("submodules.svg", submodules(&layers)?)?;
    }
    if !layers.is_empty() && !exits.is_empty() {
        write("early_exit.svg", early_exit(&exits, &layers)?)?;
    }
    Ok(written)
}

fn rows_if_there<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    match read_csv(path) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        rows => rows,
    }
}
