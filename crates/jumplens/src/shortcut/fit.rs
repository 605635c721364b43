//! The stage `fit`: states to shortcuts.

use super::{LeastSquares, LinearMap, Shortcuts};
use crate::error::Result;
use crate::models::{Backbone, Spec};
use crate::nn::with_values;
use crate::parallel;
use crate::progress::{Observer, check};
use crate::runner::{recompute_parts, value_of};
use crate::states::StateFiles;
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

/// Source layers that are factored at one time, where there are threads for them: each holds its states in f64 twice.
const LANES: usize = 8;

/// Fits `A_{from→to}` for all `pairs` on the train states, and writes them. Advances by one a map.
pub fn fit_pairs(
    spec: &Spec,
    states: &StateFiles,
    pairs: Pairs,
    shortcuts: &Shortcuts,
    observer: &dyn Observer,
) -> Result<()> {
    let layers: Vec<usize> = (0..spec.n_layers).collect();
    let fit = |&from: &usize| {
        let source = states.layer(from)?;
        let solver = LeastSquares::factor(source.values(), spec.d_model)?;
        let solve = |to| Ok((to, solver.solve(states.layer(to)?.values(), spec.d_model)?));
        let maps =
            pairs.targets(from, spec.n_layers).into_iter().map(solve).collect::<Result<BTreeMap<_, _>>>()?;
        shortcuts.save_pairs(from, &maps)?;
        Ok(maps.len())
    };
    parallel::for_each(&layers, LANES, fit, |_, maps| {
        observer.advance(maps as u64);
        check(observer)
    })
}

/// Fits the linear map of every part of every block on the train states, each from the part's own (last) input to its
/// output, and writes them. Advances by one a map.
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
        let (input, attention) = (input.rows(0..input.n)?, attention.rows(0..attention.n)?);
        let outputs = recompute_parts(model, layer, &input, &attention)?;
        let mut maps: BTreeMap<&str, LinearMap> = BTreeMap::new();
        for (part, output) in spec.parts.iter().zip(&outputs) {
            let source = value_of(part.map_input(), &input, &outputs);
            let solver = with_values(source, |x| LeastSquares::factor(x, spec.d_model))??;
            maps.insert(part.name, with_values(output, |y| solver.solve(y, spec.d_model))??);
        }
        shortcuts.save_parts(layer, &maps)?;
        Ok(maps.len())
    };
    parallel::for_each(&layers, LANES, fit, |_, maps| {
        observer.advance(maps as u64);
        check(observer)
    })
}
