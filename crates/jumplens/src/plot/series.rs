//! How the mappings look, and the curves that are drawn of them.

use super::canvas::{BLACK, Color, GREY, Marker, Stroke};

/// How a curve looks. Colours are from Okabe and Ito's palette; dashes and markers tell curves apart without them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    pub color: Color,
    pub dash: Option<(u32, u32)>,
    pub marker: Marker,
}

impl Style {
    pub fn stroke(&self) -> Stroke {
        Stroke { color: self.color, width: 3.6, dash: self.dash }
    }
}

const BLUE: Color = Color(0, 114, 178);
const VERMILLION: Color = Color(213, 94, 0);
const GREEN: Color = Color(0, 158, 115);
const PURPLE: Color = Color(204, 121, 167);
const ORANGE: Color = Color(230, 159, 0);
const SKY: Color = Color(86, 180, 233);

/// The casts of the paper that have a look of their own in every figure.
const KNOWN: [(&str, Style); 6] = [
    ("mat", Style { color: BLUE, dash: None, marker: Marker::Disc }),
    ("id", Style { color: VERMILLION, dash: Some((14, 7)), marker: Marker::Square }),
    ("mean", Style { color: GREY, dash: Some((5, 7)), marker: Marker::None }),
    ("mat_attn", Style { color: GREEN, dash: Some((22, 7)), marker: Marker::Triangle }),
    ("mat_ffn", Style { color: PURPLE, dash: Some((7, 5)), marker: Marker::Diamond }),
    ("mat_ln1_ln2", Style { color: BLACK, dash: Some((14, 5)), marker: Marker::Ring }),
];

/// The looks of all else, in turn.
const OTHERS: [Style; 8] = [
    Style { color: ORANGE, dash: Some((16, 6)), marker: Marker::Wedge },
    Style { color: GREEN, dash: Some((8, 5)), marker: Marker::Triangle },
    Style { color: BLACK, dash: Some((3, 4)), marker: Marker::Cross },
    Style { color: SKY, dash: None, marker: Marker::Diamond },
    Style { color: PURPLE, dash: Some((22, 5)), marker: Marker::Ring },
    Style { color: VERMILLION, dash: Some((4, 4)), marker: Marker::Wedge },
    Style { color: BLUE, dash: Some((10, 4)), marker: Marker::Cross },
    Style { color: GREY, dash: None, marker: Marker::Square },
];

/// Colours and markers of runs that are laid over one another.
const RUNS: [(Color, Marker); MOST_RUNS] = [
    (BLUE, Marker::Disc),
    (VERMILLION, Marker::Square),
    (GREEN, Marker::Triangle),
    (PURPLE, Marker::Diamond),
    (BLACK, Marker::Ring),
    (ORANGE, Marker::Wedge),
    (SKY, Marker::Cross),
];

/// As many runs as can be told apart in one figure.
pub const MOST_RUNS: usize = 7;

/// The look of `mapping`, the `others`-th of the figure's casts without a look of their own.
fn style(mapping: &str, others: usize) -> Style {
    let known = KNOWN.iter().find(|(known, _)| *known == mapping);
    known.map_or(OTHERS[others % OTHERS.len()], |(_, style)| *style)
}

/// The look of a run in a figure of several: `mat` is drawn whole, any other cast dashed.
pub(super) fn run_style(run: usize, mapping: &str) -> Style {
    let (color, marker) = RUNS[run % RUNS.len()];
    Style { color, dash: (mapping != "mat").then_some((9, 7)), marker }
}

/// The casts among `mappings` that have no place in the paper.
pub(super) fn is_variant(mapping: &str) -> bool {
    KNOWN.iter().all(|(known, _)| *known != mapping)
}

/// A point of a curve, with the bounds of its interval, NaN where it has none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    pub x: f64,
    pub y: f64,
    pub lo: f64,
    pub hi: f64,
}

impl Mark {
    /// A point without an interval.
    pub fn bare(x: f64, y: f64) -> Self {
        Self { x, y, lo: f64::NAN, hi: f64::NAN }
    }
}

/// What is drawn of one mapping.
#[derive(Debug, Clone)]
pub(super) struct Curve {
    /// What it is called in `data-curve`.
    pub id: String,
    /// What it is called in the legend; nothing keeps it out of it.
    pub name: String,
    pub style: Style,
    /// By rising x, or along the curve.
    pub marks: Vec<Mark>,
}

impl Curve {
    /// The curves of `mappings` with the marks that `marks` gives; those without any are left out.
    pub fn of_mappings(mappings: &[String], marks: impl Fn(&str) -> Vec<Mark>) -> Vec<Curve> {
        let mut others = 0;
        let mut curves = Vec::new();
        for mapping in mappings {
            let style = style(mapping, others);
            others += usize::from(is_variant(mapping));
            let marks = marks(mapping);
            if !marks.is_empty() {
                curves.push(Curve { id: mapping.clone(), name: mapping.clone(), style, marks });
            }
        }
        curves
    }
}

/// Those of `wanted` that `mappings` holds, in the order of `wanted`.
pub(super) fn present<'r>(wanted: &[&str], mappings: impl Iterator<Item = &'r str>) -> Vec<String> {
    let held: Vec<&str> = mappings.collect();
    wanted.iter().filter(|wanted| held.contains(wanted)).map(|wanted| (*wanted).to_owned()).collect()
}
