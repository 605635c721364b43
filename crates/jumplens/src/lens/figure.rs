//! Readings as figures: curves of what was asked for, or the grid of what is predicted.

use super::svg::{Lettering, svg};
use super::{Coloring, Measure, Reading, shown, spelled};
use crate::plot::{Figure, Format, Track, Tracked, in_font, target};
use crate::{Error, Result};

/// A figure in a file format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drawn {
    /// The file.
    pub bytes: Vec<u8>,
    /// Characters that the figures' font does not have, which are drawn as `?`.
    pub replaced: usize,
}

/// Draws one reading, or two side by side. Where there are targets, their probability and rank by layer at the one position
/// that was looked at; else the grid of layers by positions, coloured by `measure`. `dpi` is what a PNG has.
/// [`Error::Option`] where a figure cannot show as much.
pub fn figure(
    readings: &[Reading],
    measure: Measure,
    format: Format,
    dpi: u32,
    title: bool,
) -> Result<Drawn> {
    if !(1..=2).contains(&readings.len()) {
        return Err(Error::Option(format!(
            "{} texts are given, and a figure shows one, or two side by side",
            readings.len()
        )));
    }
    if readings.iter().any(|reading| !reading.targets.is_empty()) {
        let svg = curves(readings, title)?.svg;
        let targets = readings.first().map_or(&[][..], |reading| &reading.targets);
        let lost = |text: String| {
            in_font(&text).chars().zip(text.chars()).filter(|(drawn, char)| drawn != char).count()
        };
        let replaced = targets.iter().map(|target| lost(shown(&target.token.text))).sum();
        return Ok(Drawn { bytes: format.render(&svg, dpi)?, replaced });
    }
    let coloring = Coloring::of(measure, readings);
    let lettering = if format == Format::Svg { Lettering::Readers } else { Lettering::Figures };
    let (svg, replaced) = svg(readings, &coloring, lettering);
    Ok(Drawn { bytes: format.render(&svg, dpi)?, replaced })
}

/// The curves of the targets of one reading or two, at the one position of each.
pub(super) fn curves(readings: &[Reading], title: bool) -> Result<Figure> {
    if let Some(reading) = readings.iter().find(|reading| reading.positions.len() != 1) {
        return Err(Error::Option(format!(
            "a figure of where a token stands shows one position of a text, and {} were asked for",
            reading.positions.len()
        )));
    }
    let targets = readings.iter().map(|reading| reading.targets.len()).max().unwrap_or(0);
    let one = |(number, reading): (usize, &Reading), index: usize| {
        let text = spelled(reading.chat.as_ref().unwrap_or(&reading.text));
        let caption = if readings.len() > 1 { format!("{}: {text}", ["A", "B"][number]) } else { text };
        let target = reading.targets.get(index)?;
        let tracks = reading.casts.iter().map(|cast| {
            let cells = cast.layers.iter().zip(&cast.cells);
            let points = cells.filter_map(|(layer, cells)| {
                let cell = cells[0].targets[index];
                Some((*layer, f64::from(cell.probability?), cell.rank? as f64))
            });
            Track { cast: cast.cast.clone(), points: points.collect() }
        });
        Some(Tracked { caption, token: shown(&target.token.text), tracks: tracks.collect() })
    };
    let rows: Vec<Vec<Tracked>> = (0..targets)
        .map(|index| readings.iter().enumerate().filter_map(|reading| one(reading, index)).collect())
        .collect();
    let model = spelled(&readings[0].model);
    Ok(target(&rows, title.then_some(&*model)))
}
