//! The stage `fit`: states to shortcuts.

use super::{LinearMap, MapStore, Maps, Notes, Pairs};
use crate::Result;
use crate::lenses::{self, Fit, Readout, Source};
use crate::models::{Head, Sizes, Transformer, value_of};
use crate::nn::with_values;
use crate::progress::{Observer, check};
use crate::states::{LayerStates, States};
use crate::words::Cast;
use candle_core::Tensor;
use jumplens_core::linalg::parallel;
use jumplens_core::solver::{BLOCK, Factoring, Outcome, Rows, Solving, Whitening};
use jumplens_core::spread::Spread;
use std::collections::BTreeMap;
use std::time::Instant;

/// Source layers that are worked on at one time, where there are threads for them.
pub(crate) const LANES: usize = 8;

/// Seconds that the maps of each cast took. What several share is counted to the first.
pub type Times = BTreeMap<Cast, f64>;

/// Fits the maps of `lenses`, but for those that take the head, between `pairs` on the train states, and keeps them. Advances by one a map. Goes through the state files block
/// by block, so that memory does not grow with their length.
pub fn fit_pairs(
    sizes: Sizes,
    states: &dyn States,
    pairs: Pairs,
    lenses: &[Box<dyn Fit>],
    shortcuts: &dyn MapStore,
    observer: &dyn Observer,
) -> Result<Times> {
    let mut times = Times::new();
    let lenses: Vec<&dyn Fit> = lenses.iter().map(|lens| &**lens).filter(|lens| !lens.needs_head()).collect();
    if lenses.is_empty() {
        return Ok(times);
    }
    let files = states.layers(sizes.n_layers)?;
    let with_spreads = lenses.iter().any(|lens| lens.needs_spreads());
    let spread = |file: &LayerStates| with_spreads.then(|| Spread::of(file.values(), file.d));
    let spreads: Vec<Option<Spread>> = files.iter().map(spread).collect();
    let layers: Vec<usize> = (0..sizes.n_layers).collect();
    let fit = |&from: &usize| {
        let to = pairs.targets(from, sizes.n_layers);
        let layer = |layer: usize| {
            let file = &files[layer];
            Rows { values: file.values(), d: file.d, spread: spreads[layer].as_ref() }
        };
        let targets: Vec<Rows> = to.iter().map(|to| layer(*to)).collect();
        let source = Source::of_rows(layer(from), &targets);
        let (mut maps, mut seconds) = (0, Vec::with_capacity(lenses.len()));
        for lens in &lenses {
            let began = Instant::now();
            maps += save_maps(shortcuts, &lens.cast(), from, &to, lenses::fit(*lens, &source)?)?;
            seconds.push(began.elapsed().as_secs_f64());
        }
        Ok((maps, seconds))
    };
    let began = Instant::now();
    parallel::for_each(&layers, LANES, fit, |_, (maps, seconds)| {
        for (lens, seconds) in lenses.iter().zip(seconds) {
            *times.entry(lens.cast()).or_default() += seconds;
        }
        observer.advance(maps as u64);
        check(observer)
    })?;
    // Layers are fitted side by side.
    let share = began.elapsed().as_secs_f64() / times.values().sum::<f64>().max(f64::MIN_POSITIVE);
    times.values_mut().for_each(|seconds| *seconds *= share.min(1.0));
    Ok(times)
}

/// Fits the maps to the last layer of `lenses` that take the head, on the train states, and keeps them. Advances by one a map.
/// Source layers follow one another: what each takes is shared out over all threads. What is drawn, is drawn by `seed`.
pub fn fit_through_head(
    sizes: Sizes,
    head: &Head,
    states: &dyn States,
    seed: u64,
    lenses: &[Box<dyn Fit>],
    shortcuts: &dyn MapStore,
    observer: &dyn Observer,
) -> Result<Times> {
    let mut times = Times::new();
    let lenses: Vec<&dyn Fit> = lenses.iter().map(|lens| &**lens).filter(|lens| lens.needs_head()).collect();
    if lenses.is_empty() {
        return Ok(times);
    }
    let files = states.layers(sizes.n_layers)?;
    let rows = |layer: usize| Rows { values: files[layer].values(), d: files[layer].d, spread: None };
    let last = [rows(sizes.n_layers)];
    let readout = Readout::new(head, last[0], seed, observer)?;
    for from in 0..sizes.n_layers {
        let source = Source::of_rows(rows(from), &last).with_readout(&readout, observer);
        for lens in &lenses {
            let began = Instant::now();
            let maps = lenses::fit(*lens, &source)?;
            let maps = save_maps(shortcuts, &lens.cast(), from, &[sizes.n_layers], maps)?;
            *times.entry(lens.cast()).or_default() += began.elapsed().as_secs_f64();
            observer.advance(maps as u64);
        }
    }
    Ok(times)
}

/// Writes the maps of a cast from layer `from` to the layers `to`, and returns how many.
pub(crate) fn save_maps(
    shortcuts: &dyn MapStore,
    cast: &Cast,
    from: usize,
    to: &[usize],
    maps: Maps,
) -> Result<usize> {
    let mut notes = Notes::new();
    if !maps.lambdas.is_empty() {
        let by_target = to.iter().zip(maps.lambdas).map(|(to, lambda)| (format!("{to:02}"), lambda));
        let by_target: BTreeMap<String, f64> = by_target.collect();
        notes.insert("ridge_lambda".to_owned(), serde_json::json!(by_target));
    }
    let by_target: BTreeMap<usize, LinearMap> = to.iter().copied().zip(maps.maps).collect();
    let count = by_target.len();
    shortcuts.save(cast, from, by_target, &notes)?;
    Ok(count)
}

/// Fits the linear map of the parts of every block whose names are `wanted` on the train states, each from the part's own (last)
/// input to its output, and writes them. Advances by one a map. Goes through the rows block by block, so that memory does not
/// grow with their number.
pub fn fit_parts(
    model: &Transformer,
    states: &dyn States,
    wanted: &(dyn Fn(&str) -> bool + Sync),
    shortcuts: &dyn MapStore,
    observer: &dyn Observer,
) -> Result<()> {
    let spec = model.spec();
    if !spec.parts.iter().any(|part| wanted(part.name)) {
        return Ok(());
    }
    let layers: Vec<usize> = (0..spec.n_layers).collect();
    let fit = |&layer: &usize| {
        let (input, attention) = (states.layer(layer)?, states.attention(layer)?);
        let mut rows = PartRows { model, layer, input, attention, kept: Vec::new() };
        let mut factorings: Vec<Option<Factoring>> =
            spec.parts.iter().map(|part| wanted(part.name).then(|| Factoring::new(spec.d_model))).collect();
        let mut whitenings: Vec<Option<Whitening>> = vec![None; spec.parts.len()];
        while factorings.iter().any(Option::is_some) {
            rows.pass(|part, x, _| {
                factorings[part].as_mut().into_iter().try_for_each(|factoring| Ok(factoring.add(x)?))
            })?;
            for (slot, whitening) in factorings.iter_mut().zip(&mut whitenings) {
                match slot.take().map(Factoring::finish_pass).transpose()? {
                    Some(Outcome::AnotherPass(factoring)) => *slot = Some(factoring),
                    Some(Outcome::Whitening(done)) => *whitening = Some(done),
                    None => {}
                }
            }
        }
        let mut solvings: Vec<Option<Solving>> = whitenings
            .iter()
            .map(|whitening| Some(Solving::new(whitening.as_ref()?, 1, spec.d_model)))
            .collect();
        rows.pass(|part, x, y| {
            solvings[part].iter_mut().for_each(|solving| solving.add(x, [y]));
            Ok(())
        })?;
        let mut maps: BTreeMap<&str, LinearMap> = BTreeMap::new();
        for ((part, solving), whitening) in spec.parts.iter().zip(solvings).zip(&whitenings) {
            let Some((solving, whitening)) = solving.zip(whitening.as_ref()) else { continue };
            for coordinates in solving.finish() {
                maps.insert(part.name, whitening.map(coordinates.as_ref())?);
            }
        }
        let count = maps.len();
        shortcuts.save_parts(layer, maps)?;
        Ok(count)
    };
    parallel::for_each(&layers, LANES, fit, |_, maps| {
        observer.advance(maps as u64);
        check(observer)
    })
}

/// Bytes of parts' outputs that are kept from one pass to the next on each lane; those beyond are computed again.
pub(crate) const KEPT: usize = 1 << 28;

/// What the parts of one block read and put out at the chosen positions.
struct PartRows<'a> {
    model: &'a Transformer,
    layer: usize,
    /// The block's input.
    input: LayerStates<'a>,
    attention: LayerStates<'a>,
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
                    let outputs = self.model.walk(self.layer, &input, |_, _| Ok(attention.clone()))?;
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
