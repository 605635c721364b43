//! How the mappings look, and the curves that are drawn of them.

use super::canvas::{BLACK, Color, GREY, Marker, Stroke};
use crate::words::{BlockCast, Cast};
use std::collections::BTreeSet;

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

/// The two that the paper holds against one another, in the order in which they are shown.
pub(crate) const PAIR: [Cast; 2] = [Cast::MAT, Cast::Id];

/// The looks of the casts of the paper, which are the same in every figure.
fn known(cast: &Cast) -> Option<Style> {
    let (color, dash, marker) = match cast {
        &Cast::MAT => (BLUE, None, Marker::Disc),
        Cast::Id => (VERMILLION, Some((14, 7)), Marker::Square),
        Cast::Mean => (GREY, Some((5, 7)), Marker::None),
        Cast::Blocks(BlockCast::Attn) => (GREEN, Some((22, 7)), Marker::Triangle),
        Cast::Blocks(BlockCast::Ffn) => (PURPLE, Some((7, 5)), Marker::Diamond),
        Cast::Blocks(BlockCast::Norms) => (BLACK, Some((14, 5)), Marker::Ring),
        _ => return None,
    };
    Some(Style { color, dash, marker })
}

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
fn style(mapping: &Cast, others: usize) -> Style {
    known(mapping).unwrap_or(OTHERS[others % OTHERS.len()])
}

/// The look of a run in a figure of several: `mat` is drawn whole, any other cast dashed.
pub(super) fn run_style(run: usize, mapping: &Cast) -> Style {
    numbered(run, *mapping != Cast::MAT)
}

/// The look of what has a number and no name among casts.
pub(super) fn numbered(number: usize, is_dashed: bool) -> Style {
    let (color, marker) = RUNS[number % RUNS.len()];
    Style { color, dash: is_dashed.then_some((9, 7)), marker }
}

/// True of the casts that have no place in the paper.
pub(super) fn is_variant(mapping: &Cast) -> bool {
    known(mapping).is_none()
}

/// How a cast looks in the report: a colour of its style sheet, and a dash.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub(crate) struct Look {
    pub cast: Cast,
    pub color: &'static str,
    pub dash: &'static [u32],
}

/// The looks in the report of the casts of the paper and of those `there`, in the order in which they are shown.
pub(crate) fn looks(there: &BTreeSet<&Cast>) -> Vec<Look> {
    const OTHERS: [(&str, &[u32]); 3] = [("amber", &[11, 4]), ("sky", &[4, 3]), ("brown", &[2, 3])];
    let look = |cast, color, dash| Look { cast, color, dash };
    let mut looks = vec![
        look(Cast::MAT, "blue", &[][..]),
        look(Cast::Id, "vermillion", &[9, 5]),
        look(Cast::Blocks(BlockCast::Attn), "green", &[14, 5]),
        look(Cast::Blocks(BlockCast::Ffn), "purple", &[5, 4]),
        look(Cast::Blocks(BlockCast::Norms), "ink", &[9, 3]),
    ];
    let others = there.iter().filter(|cast| is_variant(cast)).zip(OTHERS.into_iter().cycle());
    looks.extend(others.map(|(cast, (color, dash))| look((*cast).clone(), color, dash)));
    looks.push(look(Cast::Mean, "grey", &[3, 4]));
    looks
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
    pub fn of_mappings(mappings: &[Cast], marks: impl Fn(&Cast) -> Vec<Mark>) -> Vec<Curve> {
        let mut others = 0;
        let mut curves = Vec::new();
        for mapping in mappings {
            let style = style(mapping, others);
            others += usize::from(is_variant(mapping));
            let marks = marks(mapping);
            if !marks.is_empty() {
                curves.push(Curve { id: mapping.to_string(), name: mapping.to_string(), style, marks });
            }
        }
        curves
    }
}

/// Those of `wanted` that `mappings` holds, in the order of `wanted`.
pub(super) fn present<'r>(wanted: &[Cast], mappings: impl Iterator<Item = &'r Cast>) -> Vec<Cast> {
    let held: Vec<&Cast> = mappings.collect();
    wanted.iter().filter(|wanted| held.contains(wanted)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_shows_the_casts_of_the_paper_first_and_the_baseline_last() {
        let casts = ["mean", "z", "mat_ridge", "id", "mat_ffn", "mat+b", "a"].map(Cast::from);
        let looks = looks(&casts.iter().collect());
        let names: Vec<String> = looks.iter().map(|look| look.cast.to_string()).collect();
        let others = ["a", "mat+b", "mat_ridge", "z"];
        assert_eq!(names[..5], ["mat", "id", "mat_attn", "mat_ffn", "mat_ln1_ln2"]);
        assert_eq!((&names[5..9], &names[9..]), (&others.map(String::from)[..], &["mean".to_owned()][..]));
        let colors: Vec<&str> = looks[5..9].iter().map(|look| look.color).collect();
        assert_eq!(colors, ["amber", "sky", "brown", "amber"]);
        assert!(names.starts_with(&PAIR.map(String::from)));
    }
}
