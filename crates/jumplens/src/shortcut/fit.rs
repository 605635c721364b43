//! The stage `fit`: states to shortcuts.

use super::casts::{Fits, Kind, MapCast, Ridge};
use super::least_squares::{BLOCK, Coordinates, Factoring, Outcome, Solving, Whitening};
use super::low_rank::low_rank;
use super::ridge::Spectrum;
use super::{LinearMap, Notes, Shortcuts};
use crate::error::{Error, Result};
use crate::models::{Backbone, Spec};
use crate::nn::with_values;
use crate::parallel;
use crate::progress::{Observer, check};
use crate::runner::{recompute_parts, value_of};
use crate::spread::Spread;
use crate::states::{StateFile, StateFiles};
use candle_core::Tensor;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Source layers that are worked on at one time, where there are threads for them.
const LANES: usize = 8;

/// Fits the maps of `fits` on the train states, and writes them. Advances by one a map. Goes through the state files block
/// by block, so that memory does not grow with their length.
pub fn fit_pairs(
    spec: &Spec,
    states: &StateFiles,
    fits: &Fits,
    shortcuts: &Shortcuts,
    observer: &dyn Observer,
) -> Result<()> {
    let files = (0..=spec.n_layers).map(|layer| states.layer(layer)).collect::<Result<Vec<_>>>()?;
    let casts = fits.casts();
    // Of the layers that are looked at: the means that maps with a bias go through, and what λ is judged by.
    let spreads: Vec<Option<Spread>> = match fits.intercept || fits.ridge == Some(Ridge::Auto) {
        true => files.iter().map(|file| Some(Spread::of(file.values(), file.d))).collect(),
        false => vec![None; files.len()],
    };
    let layers: Vec<usize> = (0..spec.n_layers).collect();
    let fit = |&from: &usize| {
        let to = fits.pairs.targets(from, spec.n_layers);
        let layer = |layer: usize| Layer { file: &files[layer], spread: spreads[layer].as_ref() };
        let targets: Vec<Layer> = to.iter().map(|to| layer(*to)).collect();
        let mut maps = 0;
        for intercept in [false, true] {
            let kinds: Vec<MapCast> =
                casts.iter().copied().filter(|cast| cast.intercept == intercept).collect();
            if kinds.is_empty() {
                continue;
            }
            let source = Fitted::new(layer(from), &targets, intercept)?;
            for cast in kinds {
                let (fitted, notes) = source.maps(cast.kind)?;
                maps += fitted.len();
                let by_target = to.iter().copied().zip(fitted).collect();
                shortcuts.cast(&cast.to_string()).save_pairs(
                    from,
                    &by_target,
                    &notes_by_target(&to, notes),
                )?;
            }
        }
        Ok(maps)
    };
    parallel::for_each(&layers, LANES, fit, |_, maps| {
        observer.advance(maps as u64);
        check(observer)
    })
}

/// The λ of each target as a file's notes have them.
fn notes_by_target(to: &[usize], lambdas: Vec<f64>) -> Notes {
    if lambdas.is_empty() {
        return Notes::new();
    }
    let by_target: BTreeMap<String, f64> =
        to.iter().zip(lambdas).map(|(to, lambda)| (format!("{to:02}"), lambda)).collect();
    Notes::from([("ridge_lambda".to_owned(), serde_json::json!(by_target))])
}

/// The states of one layer.
#[derive(Clone, Copy)]
struct Layer<'a> {
    file: &'a StateFile,
    spread: Option<&'a Spread>,
}

impl<'a> Layer<'a> {
    /// Blocks of rows, row-major; about their mean where that is asked for.
    fn blocks(self, about_mean: bool) -> impl Iterator<Item = Cow<'a, [f32]>> + use<'a> {
        let d = self.file.d;
        let mean = self.spread.filter(|_| about_mean).map(|spread| &spread.mean);
        self.file.values().chunks(BLOCK * d).map(move |block| match mean {
            None => Cow::Borrowed(block),
            Some(mean) => {
                let centred = |(value, mean): (&f32, &f64)| (f64::from(*value) - mean) as f32;
                Cow::Owned(block.chunks(d).flat_map(|row| row.iter().zip(mean).map(centred)).collect())
            }
        })
    }
}

/// One source layer factored, and its targets in the coordinates of that factorisation, which serve every kind of map.
struct Fitted<'a> {
    source: Layer<'a>,
    targets: &'a [Layer<'a>],
    intercept: bool,
    whitening: Whitening,
    coordinates: Vec<Coordinates>,
}

impl<'a> Fitted<'a> {
    fn new(source: Layer<'a>, targets: &'a [Layer<'a>], intercept: bool) -> Result<Self> {
        let d = source.file.d;
        let mut factoring = Factoring::new(d);
        let whitening = loop {
            source.blocks(intercept).try_for_each(|block| factoring.add(&block))?;
            factoring = match factoring.finish_pass()? {
                Outcome::AnotherPass(factoring) => factoring,
                Outcome::Whitening(whitening) => break whitening,
            }
        };
        let mut solving = Solving::new(&whitening, targets.len(), d);
        let mut blocks: Vec<_> = targets.iter().map(|target| target.blocks(intercept)).collect();
        for x in source.blocks(intercept) {
            // One target's block at a time.
            solving.add(&x, blocks.iter_mut().filter_map(Iterator::next));
        }
        drop(blocks);
        let coordinates = solving.finish();
        Ok(Self { source, targets, intercept, whitening, coordinates })
    }

    /// The maps to the targets, and for ridge regression the λ of each.
    fn maps(&self, kind: Kind) -> Result<(Vec<LinearMap>, Vec<f64>)> {
        let mut lambdas = Vec::new();
        let spectrum = match kind {
            Kind::Ridge(_) => Some(Spectrum::of(&self.whitening)?),
            Kind::Plain | Kind::Rank(_) => None,
        };
        let maps = self.targets.iter().zip(&self.coordinates).map(|(target, coordinates)| {
            let map = match (kind, &spectrum) {
                (Kind::Rank(rank), _) => self.whitening.map(low_rank(coordinates, rank)?.as_ref())?,
                (Kind::Ridge(ridge), Some(spectrum)) => {
                    let turned = spectrum.turn(coordinates);
                    let lambda = match (ridge, target.spread) {
                        (Ridge::Auto, Some(spread)) => spectrum.best_lambda(&turned, spread, self.intercept),
                        (Ridge::Fixed(lambda), _) => lambda,
                        (Ridge::Auto, None) => {
                            return Err(Error::Internal("no spread to judge λ by".to_owned()));
                        }
                    };
                    lambdas.push(lambda);
                    self.whitening.map(spectrum.shrunk(turned, lambda).as_ref())?
                }
                _ => self.whitening.map(coordinates.as_ref())?,
            };
            self.with_bias(map, *target)
        });
        Ok((maps.collect::<Result<_>>()?, lambdas))
    }

    /// With the bias that takes the source's mean to the target's, where there is to be one.
    fn with_bias(&self, map: LinearMap, target: Layer) -> Result<LinearMap> {
        let (true, Some(source), Some(target)) = (self.intercept, self.source.spread, target.spread) else {
            return Ok(map);
        };
        let d = source.mean.len();
        let bias = with_values(map.weight(), |weight| {
            let image = weight
                .chunks(d)
                .map(|row| row.iter().zip(&source.mean).map(|(a, x)| f64::from(*a) * x).sum::<f64>());
            image.zip(&target.mean).map(|(image, mean)| (mean - image) as f32).collect()
        })?;
        map.with_bias(bias)
    }
}

/// Fits the linear map of every part of every block on the train states, each from the part's own (last) input to its
/// output, and writes them. Advances by one a map. Goes through the rows block by block, so that memory does not grow with
/// their number.
pub fn fit_parts(
    model: &dyn Backbone,
    states: &StateFiles,
    shortcuts: &Shortcuts,
    observer: &dyn Observer,
) -> Result<()> {
    let spec = model.spec();
    let layers: Vec<usize> = (0..spec.n_layers).collect();
    let fit = |&layer: &usize| {
        let (input, attention) = (states.layer(layer)?, states.attention(layer)?);
        let mut rows = PartRows { model, layer, input, attention, kept: Vec::new() };
        let mut factorings: Vec<Option<Factoring>> =
            spec.parts.iter().map(|_| Some(Factoring::new(spec.d_model))).collect();
        let mut whitenings: Vec<Option<Whitening>> = vec![None; spec.parts.len()];
        while factorings.iter().any(Option::is_some) {
            rows.pass(|part, x, _| factorings[part].as_mut().map_or(Ok(()), |factoring| factoring.add(x)))?;
            for (slot, whitening) in factorings.iter_mut().zip(&mut whitenings) {
                match slot.take().map(Factoring::finish_pass).transpose()? {
                    Some(Outcome::AnotherPass(factoring)) => *slot = Some(factoring),
                    Some(Outcome::Whitening(done)) => *whitening = Some(done),
                    None => {}
                }
            }
        }
        let mut solvings: Vec<Solving> =
            whitenings.iter().flatten().map(|whitening| Solving::new(whitening, 1, spec.d_model)).collect();
        rows.pass(|part, x, y| {
            solvings[part].add(x, [y]);
            Ok(())
        })?;
        let mut maps: BTreeMap<&str, LinearMap> = BTreeMap::new();
        for ((part, solving), whitening) in spec.parts.iter().zip(solvings).zip(whitenings.iter().flatten()) {
            for coordinates in solving.finish() {
                maps.insert(part.name, whitening.map(coordinates.as_ref())?);
            }
        }
        shortcuts.save_parts(layer, &maps)?;
        Ok(maps.len())
    };
    parallel::for_each(&layers, LANES, fit, |_, maps| {
        observer.advance(maps as u64);
        check(observer)
    })
}

/// Bytes of parts' outputs that are kept from one pass to the next on each lane; those beyond are computed again.
const KEPT: usize = 1 << 28;

/// What the parts of one block read and put out at the chosen positions.
struct PartRows<'a> {
    model: &'a dyn Backbone,
    layer: usize,
    /// The block's input.
    input: StateFile,
    attention: StateFile,
    /// Of the first blocks of rows: the block's input, and the outputs of the parts.
    kept: Vec<(Tensor, Vec<Tensor>)>,
}

impl PartRows<'_> {
    /// Goes through them block by block. `visit` gets a part's number, what its map is fitted on and its output, row-major
    /// `[rows, d]` each.
    fn pass(&mut self, mut visit: impl FnMut(usize, &[f32], &[f32]) -> Result<()>) -> Result<()> {
        let parts = self.model.spec().parts;
        let bytes = 4 * BLOCK * self.input.d * (1 + parts.len());
        for (index, first) in (0..self.input.n).step_by(BLOCK).enumerate() {
            let fresh;
            let (input, outputs) = match self.kept.get(index) {
                Some(kept) => kept,
                None => {
                    let rows = first..(first + BLOCK).min(self.input.n);
                    let (input, attention) = (self.input.rows(rows.clone())?, self.attention.rows(rows)?);
                    let outputs = recompute_parts(self.model, self.layer, &input, &attention)?;
                    fresh = (input, outputs);
                    if (index + 1) * bytes <= KEPT {
                        self.kept.push(fresh.clone());
                    }
                    &fresh
                }
            };
            for (index, (part, output)) in parts.iter().zip(outputs).enumerate() {
                let source = value_of(part.map_input(), input, outputs);
                with_values(source, |x| with_values(output, |y| visit(index, x, y)))???;
            }
        }
        Ok(())
    }
}
