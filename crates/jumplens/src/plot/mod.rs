//! Result tables to figures: SVG, and from it PDF and PNG.
//!
//! A figure is one column of a paper wide, 80 mm, with text of 7 pt and more. It carries its font, none is read from the
//! system, and the values it is drawn from as `data-` attributes. Written by hand, since `plotters` has neither.

mod agreement;
mod canvas;
mod colors;
mod early_exit;
mod font;
mod measure;
mod output;
mod overlay;
mod panel;
mod precision;
mod r2;
mod ranks;
mod scale;
mod series;
mod spectra;
mod submodules;
mod surprisal;
mod target;
#[cfg(test)]
mod tests;

pub(crate) use font::{FAMILY as FONT, face as font_face, shown as in_font, text_width};
pub use output::Format;
pub use overlay::{Overlaid, overlay};
pub use series::MOST_RUNS;
pub(crate) use series::{PAIR, looks};
pub(crate) use spectra::summary as spectra_summary;
pub use target::{Track, Tracked, target};

use crate::Result;
use crate::eval::tables::Tables;
use crate::files::write_atomically;
use canvas::Canvas;
use panel::Facets;
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// How figures are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Style {
    /// The formats.
    pub formats: Vec<Format>,
    /// Dots an inch of PNG files.
    pub dpi: u32,
    /// Say above each figure what it shows, and of which model.
    pub title: bool,
}

impl Default for Style {
    /// Every format, 300 dots an inch, no titles.
    fn default() -> Self {
        Self { formats: Format::ALL.to_vec(), dpi: 300, title: false }
    }
}

/// One figure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figure {
    /// Its file name without extension.
    pub name: &'static str,
    /// The figure as SVG.
    pub svg: String,
}

/// The figures that `tables` allow: `r2`, `precision`, `surprisal`, `submodules`, `variants`, `early_exit`, `agreement`,
/// `rank`, `spectra`, in this order. A figure is left out when a table it needs has no rows, or none about the casts that
/// it shows. With `title`, that is above each, behind what the figure shows. The same tables give the same bytes.
pub fn figures(tables: &Tables, title: Option<&str>) -> Vec<Figure> {
    let drawn = |facets: Option<Facets>| facets.map(|facets| facets.draw());
    let layers = &tables.layers;
    let all: [(&str, &str, Option<Canvas>); 9] = [
        ("r2", "r² between layers", r2::r2(&tables.r2)),
        ("precision", "Precision@k by layer", drawn(precision::precision(layers))),
        ("surprisal", "Surprisal by layer", drawn(surprisal::surprisal(layers))),
        ("submodules", "Sub-modules replaced by linear maps", drawn(submodules::submodules(layers))),
        ("variants", "Other maps between layers", drawn(submodules::variants(layers))),
        ("early_exit", "Early exit", early_exit::early_exit(&tables.early_exit, layers)),
        ("agreement", "Agreement at exit", agreement::agreement(&tables.exits)),
        ("rank", "Rank of the model's token", drawn(ranks::ranks(&tables.ranks))),
        ("spectra", "Spectra of the maps", drawn(spectra::spectra(&tables.spectra))),
    ];
    all.into_iter().filter_map(|(name, what, canvas)| Some(finished(name, what, canvas?, title))).collect()
}

fn finished(name: &'static str, what: &str, canvas: Canvas, title: Option<&str>) -> Figure {
    let title =
        title.map(|title| if title.is_empty() { what.to_owned() } else { format!("{what}, {title}") });
    Figure { name, svg: canvas.finish(title.as_deref()) }
}

/// Writes `figures` into `folder`, which must be there, as `NAME.FORMAT`. Returns the files, figure by figure.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) when a file cannot be written, [`Error::Option`](crate::Error::Option) when the
/// resolution makes an image of no size.
pub fn write_figures(folder: &Path, figures: &[Figure], style: &Style) -> Result<Vec<PathBuf>> {
    let files: Vec<_> =
        figures.iter().flat_map(|figure| style.formats.iter().map(move |format| (figure, *format))).collect();
    let write = |(figure, format): &(&Figure, Format)| {
        let path = folder.join(format!("{}.{}", figure.name, format.extension()));
        write_atomically(&path, &format.render(&figure.svg, style.dpi)?)?;
        Ok(path)
    };
    files.par_iter().map(write).collect()
}
