//! The stage `fit`: states to shortcuts.

use super::least_squares::{BLOCK, Factoring, Outcome, Solving, Whitening};
use super::{LinearMap, Shortcuts};
use crate::error::Result;
use crate::models::{Backbone, Spec};
use crate::nn::with_values;
use crate::parallel;
use crate::progress::{Observer, check};
use crate::runner::{recompute_parts, value_of};
use crate::states::{StateFile, StateFiles};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Which pairs of layers are fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pairs {
    /// Every pair `from < to`.
    All,
    /// Every layer to the last.
    ToFinal,
}

impl Pairs {
    /// The target layers of maps from layer `from`, in a model of `n_layers` blocks.
    pub fn targets(self, from: usize, n_layers: usize) -> Vec<usize> {
        match self {
            Self::All => (from + 1..=n_layers).collect(),
            Self::ToFinal => vec![n_layers],
        }
    }

    /// How many pairs that makes.
    pub fn count(self, n_layers: usize) -> usize {
        (0..n_layers).map(|from| self.targets(from, n_layers).len()).sum()
    }
}

/// Source layers that are worked on at one time, where there are threads for them.
const LANES: usize = 8;

/// Fits `A_{from→to}` for all `pairs` on the train states, and writes them. Advances by one a map. Goes through the state
/// files block by block, so that memory does not grow with their length.
pub fn fit_pairs(
    spec: &Spec,
    states: &StateFiles,
    pairs: Pairs,
    shortcuts: &Shortcuts,
    observer: &dyn Observer,
) -> Result<()> {
    let layers: Vec<usize> = (0..spec.n_layers).collect();
    let d = spec.d_model;
    let fit = |&from: &usize| {
        let source = states.layer(from)?;
        let to = pairs.targets(from, spec.n_layers);
        let targets = to.iter().map(|to| states.layer(*to)).collect::<Result<Vec<_>>>()?;
        let whitening = Factoring::of(source.values(), d)?;
        let mut solving = Solving::new(&whitening, targets.len(), d);
        for (index, x) in source.values().chunks(BLOCK * d).enumerate() {
            let rows = index * BLOCK * d..index * BLOCK * d + x.len();
            solving.add(x, targets.iter().map(|target| &target.values()[rows.clone()]));
        }
        let maps = to.into_iter().zip(solving.finish()?).collect::<BTreeMap<_, _>>();
        shortcuts.save_pairs(from, &maps)?;
        Ok(maps.len())
    };
    parallel::for_each(&layers, LANES, fit, |_, maps| {
        observer.advance(maps as u64);
        check(observer)
    })
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
        for (part, solving) in spec.parts.iter().zip(solvings) {
            maps.extend(solving.finish()?.pop().map(|map| (part.name, map)));
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
