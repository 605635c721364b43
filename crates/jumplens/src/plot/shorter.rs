//! `prune`: what models of fewer blocks lose, by how many were taken out.

use super::panel::{Facet, Facets};
use super::scale::Scale;
use super::series::{Curve, Mark, numbered};
use super::{Figure, Size, finished};

/// A model of fewer blocks.
#[derive(Debug, Clone, PartialEq)]
pub struct Shorter {
    /// How it was made: a curve each.
    pub way: String,
    /// How many blocks were taken out.
    pub out: usize,
    /// Its loss less that of the whole model, in nats, with the bounds of its interval.
    pub loss: [f64; 3],
    /// The share of the positions with the whole model's top token.
    pub agreement: [f64; 3],
}

/// The figure `prune`: loss and agreement by how many blocks were taken out, a curve for each way, from the whole model on. Nothing
/// where all have as many blocks.
pub fn shorter(models: &[Shorter]) -> Option<Figure> {
    let last = models.iter().map(|model| model.out).max()?;
    if models.iter().all(|model| model.out == last) {
        return None;
    }
    let mut ways: Vec<&str> = Vec::new();
    for model in models {
        if !ways.contains(&&*model.way) {
            ways.push(&model.way);
        }
    }
    let curves = |whole: f64, of: fn(&Shorter) -> [f64; 3]| -> Vec<Curve> {
        let curve = |(number, way): (usize, &&str)| {
            let mark = |x: usize, [y, lo, hi]: [f64; 3]| Mark { x: x as f64, y, lo, hi };
            let own = models.iter().filter(|model| model.way == **way);
            let mut marks: Vec<Mark> = own.map(|model| mark(model.out, of(model))).collect();
            marks.push(mark(0, [whole; 3]));
            marks.sort_by(|a, b| a.x.total_cmp(&b.x));
            Curve {
                id: (*way).to_owned(),
                name: (*way).to_owned(),
                style: numbered(number, number > 0),
                marks,
            }
        };
        ways.iter().enumerate().map(curve).collect()
    };
    let values = |curves: &[Curve]| -> Vec<f64> {
        curves.iter().flat_map(|curve| &curve.marks).flat_map(|mark| [mark.y, mark.lo, mark.hi]).collect()
    };
    let facet = |id: &str, y_label: &str, y: Scale, curves: Vec<Curve>| Facet {
        id: id.to_owned(),
        caption: String::new(),
        x: Scale::layers(last, 6),
        x_label: "blocks taken out".to_owned(),
        y,
        y_label: y_label.to_owned(),
        curves,
        every: 1,
        clip: None,
    };
    let (losses, shares) = (curves(0.0, |model| model.loss), curves(1.0, |model| model.agreement));
    let loss = Scale::fitting(values(&losses).into_iter());
    let share = Scale::shares(values(&shares).into_iter().fold(1.0, f64::min));
    let facets = vec![
        facet("loss_beyond_whole", "loss added (nats)", loss, losses),
        facet("agreement", "same top token", share, shares),
    ];
    let facets = Facets { facets, columns: 2, height: 330.0, shared_y: false, shade: Some("95 % interval") };
    let size = Size::default();
    Some(finished("prune", "Blocks taken out", facets.draw(size.units()), None, size))
}
