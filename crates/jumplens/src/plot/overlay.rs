//! The figures of several runs over one another.

use super::canvas::LABEL;
use super::early_exit::by_layers_processed;
use super::font::fitted;
use super::measure::{Measure, PRECISION_1, PRECISION_5, PRECISION_10, SURPRISAL};
use super::panel::{Facet, Facets};
use super::precision::row_of_shares;
use super::scale::{Scale, layer_step};
use super::series::{Curve, Mark, PAIR, Style, run_style};
use super::{Figure, Size, finished, r2, ranks, spectra};
use crate::eval::tables::Tables;
use crate::words::{BlockCast, Cast};

/// One of the runs.
#[derive(Debug, Clone, Copy)]
pub struct Overlaid<'a> {
    /// What it is called.
    pub name: &'a str,
    /// Its results.
    pub tables: &'a Tables,
}

/// The figures of `runs` over one another, as far as their tables go: `r2` (to the last layer), `precision`, `surprisal`,
/// `submodules`, `early_exit`, `rank`, `spectra` (the effective rank). A colour and marker is a run; `mat` is drawn whole, `id`
/// dashed. Where the models do not have the same number of layers, the shares of their depths are along x.
pub fn overlay(runs: &[Overlaid], title: Option<&str>, size: Size) -> Vec<Figure> {
    let overlay = Overlay::new(runs);
    let layers = |measure: Measure| {
        let marks = move |tables: &Tables, mapping: &Cast, x: &dyn Fn(usize) -> f64| {
            measure.marks(&tables.layers, mapping, x)
        };
        let curves = overlay.curves(&PAIR, marks);
        let y = measure.scale(&curves);
        overlay.facet(Facet {
            id: measure.id.to_owned(),
            caption: measure.label.to_owned(),
            y,
            y_label: String::new(),
            ..ranks::facet(curves)
        })
    };
    let precision = row_of_shares([PRECISION_1, PRECISION_5, PRECISION_10].map(layers).to_vec());
    let (surprisal, bands) = (layers(SURPRISAL), Some("95 % interval"));
    let r2 = overlay.facet(Facet {
        y_label: "r² to the last layer".to_owned(),
        ..r2::facet(overlay.curves(&PAIR, |tables, mapping, x| r2::marks_to_last(&tables.r2, mapping, x)))
    });
    let rank =
        ranks::facet(overlay.curves(&PAIR, |tables, mapping, x| ranks::marks(&tables.ranks, mapping, x)));
    let effective = overlay.curves(&[Cast::MAT], |tables, _, x| spectra::effective_ranks(&tables.spectra, x));
    let y = Scale::fitting(effective.iter().flat_map(|curve| &curve.marks).map(|mark| mark.y).chain([0.0]));
    let effective = overlay.facet(Facet {
        id: "effective_rank".to_owned(),
        y,
        y_label: "effective rank".to_owned(),
        ..ranks::facet(effective)
    });
    let alone = |what: &str, facet: Facet, shade| {
        let y_label =
            if facet.y_label == facet.caption || what.is_empty() { facet.y_label } else { what.to_owned() };
        let facet = Facet { caption: String::new(), y_label, ..facet };
        Facets { facets: vec![facet], columns: 1, height: 400.0, shared_y: false, shade }
    };
    let early_exit = Facet { y_label: "Precision@1".to_owned(), ..overlay.early_exit() };
    let all = [
        ("r2", "r² to the last layer", alone("", r2, None)),
        ("precision", "Precision@k by layer", precision),
        ("surprisal", "Surprisal by layer", alone(SURPRISAL.label, surprisal, bands)),
        ("submodules", "Sub-modules replaced by linear maps", overlay.submodules()),
        ("early_exit", "Early exit", alone("", early_exit, None)),
        ("rank", "Rank of the model's token", alone("", overlay.facet(rank), Some("quartiles"))),
        ("spectra", "Effective rank of the maps", alone("", effective, None)),
    ];
    let drawn = |facets: &Facets| facets.facets.iter().any(|facet| !facet.curves.is_empty());
    let drawn = all.into_iter().filter(|(.., facets)| drawn(facets));
    drawn.map(|(name, what, facets)| finished(name, what, facets.draw(size.units()), title, size)).collect()
}

struct Overlay<'a> {
    runs: &'a [Overlaid<'a>],
    /// The last layer of each run.
    last: Vec<usize>,
}

impl<'a> Overlay<'a> {
    fn new(runs: &'a [Overlaid<'a>]) -> Self {
        Self { runs, last: runs.iter().map(|run| run.tables.last_layer()).collect() }
    }

    fn by_depth(&self) -> bool {
        self.last.windows(2).any(|pair| pair[0] != pair[1])
    }

    /// Where layer `layer` of a run stands along x.
    fn place(&self, run: usize, layer: f64) -> f64 {
        if self.by_depth() { layer / self.last[run].max(1) as f64 } else { layer }
    }

    /// The curves of `casts` of every run, with the marks that `marks` gives for places along x.
    fn curves(
        &self,
        casts: &[Cast],
        marks: impl Fn(&Tables, &Cast, &dyn Fn(usize) -> f64) -> Vec<Mark>,
    ) -> Vec<Curve> {
        let mut curves = Vec::new();
        for (index, run) in self.runs.iter().enumerate() {
            for cast in casts {
                let marks = marks(run.tables, cast, &|layer| self.place(index, layer as f64));
                curves.extend((!marks.is_empty()).then(|| self.curve(index, cast, casts.len() > 1, marks)));
            }
        }
        curves
    }

    fn curve(&self, run: usize, cast: &Cast, with_cast: bool, marks: Vec<Mark>) -> Curve {
        let name = fitted(self.runs[run].name, 330.0, LABEL);
        let name = if with_cast { format!("{name}, {cast}") } else { name };
        Curve { id: format!("{} {cast}", self.runs[run].name), name, style: run_style(run, cast), marks }
    }

    /// `facet` with a scale along x that holds every run's layers.
    fn facet(&self, facet: Facet) -> Facet {
        let most = self.last.iter().copied().max().unwrap_or(0);
        let (x, x_label) = if self.by_depth() {
            (Scale::depth(), "depth ℓ / L")
        } else {
            (Scale::layers(most, 6), "layer ℓ")
        };
        Facet { x, x_label: x_label.to_owned(), every: layer_step(most, 12), ..facet }
    }

    fn early_exit(&self) -> Facet {
        let mut curves = Vec::new();
        for (index, run) in self.runs.iter().enumerate() {
            for cast in &PAIR {
                let marks = by_layers_processed(&run.tables.early_exit, cast);
                let marks: Vec<_> =
                    marks.into_iter().map(|mark| Mark { x: self.place(index, mark.x), ..mark }).collect();
                curves.extend((!marks.is_empty()).then(|| self.curve(index, cast, true, marks)));
            }
        }
        let x_label = if self.by_depth() { "share of the layers processed" } else { "layers processed" };
        let facet = Facet { id: "early_exit".to_owned(), y: Scale::shares(0.0), ..ranks::facet(curves) };
        Facet { x_label: x_label.to_owned(), every: 1, ..self.facet(facet) }
    }

    /// Precision@1 of the casts that run blocks, a panel each.
    fn submodules(&self) -> Facets {
        let casts = BlockCast::ALL.into_iter().map(Cast::Blocks).chain([Cast::MAT]);
        let panel = |cast: Cast| {
            let mut curves = self.curves(std::slice::from_ref(&cast), |tables, cast, x| {
                PRECISION_1.marks(&tables.layers, cast, x)
            });
            for curve in &mut curves {
                let run = self.runs.iter().position(|run| curve.id == format!("{} {cast}", run.name));
                curve.style = Style { ..run_style(run.unwrap_or(0), &Cast::MAT) };
            }
            self.facet(Facet {
                id: cast.to_string(),
                caption: format!("Precision@1, {cast}"),
                y: PRECISION_1.scale(&curves),
                ..ranks::facet(curves)
            })
        };
        let facets: Vec<Facet> = casts.map(panel).map(|f| Facet { y_label: String::new(), ..f }).collect();
        let runs_blocks = facets[..BlockCast::ALL.len()].iter().any(|facet| !facet.curves.is_empty());
        let facets = if runs_blocks { facets } else { Vec::new() };
        Facets { facets, columns: 2, height: 270.0, shared_y: false, shade: Some("95 % interval") }
    }
}
