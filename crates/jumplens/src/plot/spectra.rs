//! `spectra`: singular values of the maps to the last layer, and their effective rank.

use super::canvas::{Color, Marker};
use super::colors::shade;
use super::panel::{Facet, Facets};
use super::scale::{Scale, layer_step};
use super::series::{Curve, Mark, Style};
use crate::eval::tables::SpectrumRow;
use jumplens_core::metrics::effective_rank;
use std::collections::BTreeMap;

/// As many spectra are drawn: from the first layer to the last but one.
const SPECTRA: usize = 5;
/// As many singular values of each, at even distances in powers of ten.
const POINTS: usize = 120;
/// Singular values this far below the largest are left out of the scale.
const DECADES: i32 = 6;

/// Singular values of `A_{ℓ→L}` for some layers, and the effective rank of each.
pub(super) fn spectra(rows: &[SpectrumRow]) -> Option<Facets> {
    let by_layer = by_layer(rows);
    let layers: Vec<usize> = by_layer.keys().copied().collect();
    let (first, last) = (*layers.first()?, *layers.last()?);
    let drawn = layers.len().min(SPECTRA);
    let chosen: Vec<usize> =
        (0..drawn).map(|place| layers[place * (layers.len() - 1) / (drawn - 1).max(1)]).collect();
    let values = chosen.iter().enumerate().map(|(place, layer)| {
        let marks: Vec<_> =
            thinned(&by_layer[layer]).map(|(index, value)| Mark::bare(index as f64, value)).collect();
        let style =
            Style { color: color(place, drawn), dash: DASHES[place % DASHES.len()], marker: Marker::None };
        Curve { id: format!("layer {layer}"), name: format!("ℓ = {layer}"), style, marks }
    });
    let values: Vec<Curve> = values.collect();
    let heights = || values.iter().flat_map(|curve| &curve.marks).map(|mark| mark.y);
    let width = rows.iter().map(|row| row.index).max().unwrap_or(1) as f64;
    let ranks = effective_ranks(rows, |layer| layer as f64);
    let x = Scale::layers(last.max(first), 6);
    let y = Scale::fitting(ranks.iter().map(|mark| mark.y).chain([0.0]));
    let style = Style { color: Color(0, 0, 0), dash: None, marker: Marker::Disc };
    let rank = Curve { id: "effective rank".to_owned(), name: String::new(), style, marks: ranks };
    Some(Facets {
        facets: vec![
            Facet {
                id: "singular_value".to_owned(),
                caption: "singular values".to_owned(),
                x: Scale::powers([1.0, width].into_iter(), 6),
                x_label: "index".to_owned(),
                y: Scale::powers(heights(), DECADES),
                y_label: String::new(),
                curves: values,
                every: 1,
                clip: None,
            },
            Facet {
                id: "effective_rank".to_owned(),
                caption: "effective rank".to_owned(),
                x,
                x_label: "layer ℓ".to_owned(),
                y,
                y_label: String::new(),
                curves: vec![rank],
                every: layer_step(last, 16),
                clip: None,
            },
        ],
        columns: 2,
        height: 320.0,
        shared_y: false,
        shade: None,
    })
}

/// By source layer: the singular values by falling size, each with its index.
type Spectra = BTreeMap<usize, Vec<(usize, f64)>>;

/// The singular values by source layer, by falling size.
fn by_layer(rows: &[SpectrumRow]) -> Spectra {
    let mut by_layer = Spectra::new();
    for row in rows {
        by_layer.entry(row.from).or_default().push((row.index, row.singular_value));
    }
    by_layer.values_mut().for_each(|values| values.sort_by_key(|(index, _)| *index));
    by_layer
}

/// The effective rank of the map from each layer, at `x(layer)`.
pub(super) fn effective_ranks(rows: &[SpectrumRow], x: impl Fn(usize) -> f64) -> Vec<Mark> {
    let of_layer = |(layer, values): (usize, Vec<(usize, f64)>)| {
        let values: Vec<f64> = values.into_iter().map(|(_, value)| value).collect();
        let is_known = values.iter().all(|value| value.is_finite());
        Mark::bare(x(layer), if is_known { effective_rank(&values) } else { f64::NAN })
    };
    by_layer(rows).into_iter().map(of_layer).collect()
}

/// The singular values that are drawn, `(index, value)` by source layer, and the effective ranks `(layer, rank)`.
pub(crate) fn summary(rows: &[SpectrumRow]) -> (Spectra, Vec<(f64, f64)>) {
    let drawn = by_layer(rows).into_iter().map(|(layer, values)| (layer, thinned(&values).collect()));
    (
        drawn.collect(),
        effective_ranks(rows, |layer| layer as f64).iter().map(|mark| (mark.x, mark.y)).collect(),
    )
}

const DASHES: [Option<(u32, u32)>; SPECTRA] =
    [None, Some((18, 6)), Some((9, 5)), Some((3, 4)), Some((22, 5))];

/// Dark for the first layer, lighter for the later ones; the lightest shades are too pale for lines.
fn color(place: usize, of: usize) -> Color {
    shade(0.75 * place as f64 / (of.max(2) - 1) as f64)
}

/// Of sorted singular values, those nearest to [`POINTS`] even steps in powers of ten, the first and last among them.
fn thinned(values: &[(usize, f64)]) -> impl Iterator<Item = (usize, f64)> {
    let last = values.len().saturating_sub(1);
    let step = ((last + 1) as f64).ln() / (POINTS - 1) as f64;
    let mut places: Vec<usize> =
        (0..POINTS).map(|point| ((step * point as f64).exp().round() as usize - 1).min(last)).collect();
    places.dedup();
    places.into_iter().filter_map(|place| values.get(place).copied())
}
