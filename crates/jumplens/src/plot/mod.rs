//! Result tables to figures: SVG, and from it PDF and PNG.
//!
//! A figure is one column of a paper wide, 80 mm, with text of 7 pt and more, unless another [`Size`] is asked for. It carries its font, none is read from the
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
mod shorter;
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
pub use shorter::{Shorter, shorter};
pub(crate) use spectra::summary as spectra_summary;
pub use target::{Track, Tracked, target};

use crate::eval::tables::Tables;
use crate::files::write_atomically;
use crate::{Error, Result};
use canvas::Canvas;
use panel::Facets;
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// How figures are written.
#[derive(Debug, Clone, PartialEq)]
pub struct Style {
    /// The formats.
    pub formats: Vec<Format>,
    /// Dots an inch of PNG files.
    pub dpi: u32,
    /// Say above each figure what it shows, and of which model.
    pub title: bool,
    /// How large they are.
    pub size: Size,
    /// The names of those that are drawn; all where there are none.
    pub only: Vec<String>,
}

/// How large figures are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Size {
    /// Width, in mm.
    pub width: f64,
    /// Font size of labels and legends, in points; that of ticks is 7/8 of it.
    pub font: f64,
}

impl Default for Size {
    /// One column of a paper, with labels of 8 pt.
    fn default() -> Self {
        Self { width: Self::ONE_COLUMN, font: FONT_SIZE }
    }
}

/// The font size, in points, at which a unit of the page is 0.1 mm.
const FONT_SIZE: f64 = 8.0;

impl Size {
    /// Width of one column of a paper in two columns, in mm.
    pub const ONE_COLUMN: f64 = 80.0;
    /// Width of both of its columns.
    pub const TWO_COLUMNS: f64 = 165.0;
    /// Units of a page that labels and panels have room in.
    const UNITS: [f64; 2] = [640.0, 3000.0];

    /// What a unit of the page is, in mm.
    fn unit(self) -> f64 {
        0.1 * self.font / FONT_SIZE
    }

    /// The page's width in units.
    fn units(self) -> f64 {
        self.width / self.unit()
    }

    /// [`Error::Option`] where the text has no room, or would be lost on the page.
    pub fn check(self) -> Result<()> {
        let Self { width, font } = self;
        let is_number = width.is_finite() && font.is_finite() && width > 0.0 && font > 0.0;
        let [least, most] = Self::UNITS;
        if is_number && (least..=most).contains(&self.units()) {
            return Ok(());
        }
        let [narrowest, widest] = Self::UNITS.map(|units| units * self.unit());
        Err(Error::Option(if is_number {
            format!(
                "figures {width} mm wide with text of {font} pt are asked for: with that text they are {narrowest:.0} to \
                 {widest:.0} mm wide"
            )
        } else {
            format!("figures {width} mm wide with text of {font} pt are asked for")
        }))
    }
}

/// The names of the figures of a run, in the order in which they are drawn.
pub const NAMES: [&str; 9] =
    ["r2", "precision", "surprisal", "submodules", "variants", "early_exit", "agreement", "rank", "spectra"];

impl Style {
    /// Those of `figures` that are asked for. [`Error::Option`] for one that is not among them.
    pub(crate) fn chosen(&self, mut figures: Vec<Figure>) -> Result<Vec<Figure>> {
        let missing = self.only.iter().find(|name| figures.iter().all(|figure| figure.name != **name));
        if let Some(name) = missing {
            let there: Vec<String> = figures.iter().map(|figure| format!("`{}`", figure.name)).collect();
            return Err(Error::Option(format!(
                "there is nothing to draw the figure `{name}` from: there are {}",
                there.join(", ")
            )));
        }
        if !self.only.is_empty() {
            figures.retain(|figure| self.only.iter().any(|name| name == figure.name));
        }
        Ok(figures)
    }
}

impl Default for Style {
    /// Every format, 300 dots an inch, no titles.
    fn default() -> Self {
        Self {
            formats: Format::ALL.to_vec(),
            dpi: 300,
            title: false,
            size: Size::default(),
            only: Vec::new(),
        }
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

/// The figures of [`NAMES`] that `tables` allow, in that order. A figure is left out when a table it needs has no rows, or none about the casts that
/// it shows. With `title`, that is above each, behind what the figure shows. The same tables give the same bytes.
pub fn figures(tables: &Tables, title: Option<&str>, size: Size) -> Vec<Figure> {
    let page = size.units();
    let drawn = |facets: Option<Facets>| facets.map(|facets| facets.draw(page));
    let layers = &tables.layers;
    let all: [(&str, Option<Canvas>); NAMES.len()] = [
        ("r² between layers", r2::r2(&tables.r2, page)),
        ("Precision@k by layer", drawn(precision::precision(layers))),
        ("Surprisal by layer", drawn(surprisal::surprisal(layers))),
        ("Sub-modules replaced by linear maps", drawn(submodules::submodules(layers))),
        ("Other maps between layers", drawn(submodules::variants(layers))),
        ("Early exit", early_exit::early_exit(&tables.early_exit, layers, page)),
        ("Agreement at exit", agreement::agreement(&tables.exits, page)),
        ("Rank of the model's token", drawn(ranks::ranks(&tables.ranks))),
        ("Spectra of the maps", drawn(spectra::spectra(&tables.spectra))),
    ];
    let named = NAMES.into_iter().zip(all);
    named.filter_map(|(name, (what, canvas))| Some(finished(name, what, canvas?, title, size))).collect()
}

fn finished(name: &'static str, what: &str, canvas: Canvas, title: Option<&str>, size: Size) -> Figure {
    let title =
        title.map(|title| if title.is_empty() { what.to_owned() } else { format!("{what}, {title}") });
    Figure { name, svg: canvas.finish(title.as_deref(), size.unit()) }
}

/// Writes `figures` into `folder`, which must be there, as `NAME.FORMAT`. Returns the files, figure by figure.
///
/// # Errors
/// [`Error::Io`] when a file cannot be written, [`Error::Option`] when the
/// resolution makes an image of no size.
pub fn write_figures(folder: &Path, figures: &[Figure], style: &Style) -> Result<Vec<PathBuf>> {
    let files: Vec<_> =
        figures.iter().flat_map(|figure| style.formats.iter().map(move |format| (figure, *format))).collect();
    let write = |(figure, format): &(&Figure, Format)| {
        write_figure(&folder.join(figure.name), figure, *format, style)
    };
    files.par_iter().map(write).collect()
}

/// Writes `figure` in one format to the file `path`, whose extension becomes that of the format, and returns the file. Errors are
/// those of [`write_figures`].
pub fn write_figure(path: &Path, figure: &Figure, format: Format, style: &Style) -> Result<PathBuf> {
    let path = path.with_extension(format.extension());
    write_atomically(&path, &format.render(&figure.svg, style.dpi)?)?;
    Ok(path)
}
