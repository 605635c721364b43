//! Where a token stands from layer to layer: its probability and its rank, a column of panels for each text.

use super::canvas::LABEL;
use super::font::fitted;
use super::panel::{Facet, Facets};
use super::scale::{Scale, extent, layer_step};
use super::series::{Curve, Mark};
use super::{Figure, Size, finished, ranks};
use crate::words::Cast;

/// What a cast makes of a token from the layers of one text.
#[derive(Debug, Clone, PartialEq)]
pub struct Track {
    /// The cast.
    pub cast: Cast,
    /// Layer, probability and rank, by rising layer.
    pub points: Vec<(usize, f64, f64)>,
}

/// One token in one text.
#[derive(Debug, Clone, PartialEq)]
pub struct Tracked {
    /// What stands above the panels of the text.
    pub caption: String,
    /// How the token is spelled.
    pub token: String,
    /// A curve each.
    pub tracks: Vec<Track>,
}

/// Width that a caption may have where there is one text, and where there are two.
const CAPTION: [f64; 2] = [640.0, 350.0];

/// The figure `target`: of each token, by rows, its probability and its rank in each of one or two texts, by columns. With
/// `title`, that is above it, behind what the figure shows.
pub fn target(tokens: &[Vec<Tracked>], title: Option<&str>) -> Figure {
    let columns = tokens.iter().map(Vec::len).max().unwrap_or(1).max(1);
    let mut facets = Vec::new();
    for (row, texts) in tokens.iter().enumerate() {
        let values = |of: fn(&(usize, f64, f64)) -> f64| {
            let tracks = texts.iter().flat_map(|text| &text.tracks);
            tracks.flat_map(|track| &track.points).map(of).collect::<Vec<f64>>()
        };
        let (probabilities, places) = (values(|point| point.1), values(|point| point.2));
        let largest = extent(probabilities.iter().copied()).map_or(1.0, |(_, largest)| largest);
        let shares = match largest {
            0.5.. => Scale::shares(0.0),
            _ => Scale::fitting(probabilities.into_iter().chain([0.0])),
        };
        let rank = Scale::powers(places.into_iter().chain([1.0]), 12);
        let last = texts.iter().flat_map(|text| &text.tracks).flat_map(|track| &track.points);
        let last = last.map(|point| point.0).max().unwrap_or(0);
        let facet = |text: &Tracked, of: fn(&(usize, f64, f64)) -> f64| {
            let casts: Vec<Cast> = text.tracks.iter().map(|track| track.cast.clone()).collect();
            let curves = Curve::of_mappings(&casts, |cast| {
                let track = text.tracks.iter().find(|track| track.cast == *cast);
                let points = track.iter().flat_map(|track| &track.points);
                points.map(|point| Mark::bare(point.0 as f64, of(point))).collect()
            });
            Facet {
                x: Scale::layers(last, if columns > 1 { 5 } else { 10 }),
                every: layer_step(last, 16),
                ..ranks::facet(curves)
            }
        };
        for text in texts {
            let caption = if row == 0 { &*text.caption } else { "" };
            facets.push(Facet {
                id: format!("probability {row}"),
                caption: fitted(caption, CAPTION[columns.min(2) - 1], LABEL),
                y: shares.clone(),
                y_label: fitted(&format!("probability of {}", text.token), 290.0, LABEL),
                ..facet(text, |point| point.1)
            });
        }
        for text in texts {
            facets.push(Facet {
                id: format!("rank {row}"),
                y: rank.clone(),
                y_label: fitted(&format!("rank of {}", text.token), 290.0, LABEL),
                x_label: "layer ℓ".to_owned(),
                ..facet(text, |point| point.2)
            });
        }
    }
    let facets = Facets { facets, columns, height: 270.0, shared_y: true, shade: None };
    let size = Size::default();
    finished("target", "Where a token stands by layer", facets.draw(size.units()), title, size)
}
