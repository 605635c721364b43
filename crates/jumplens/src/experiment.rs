//! The experiment in memory: samples to states, maps and figures, as a run does it on its folder ([`crate::run`]).

use crate::eval::tables::{LayerRow, R2Row};
use crate::eval::{Evaluation, Subject, evaluate, layer_rows, r2_table, sentences};
use crate::lenses::Fit;
use crate::models::Transformer;
use crate::nn::Precision;
use crate::progress::Observer;
use crate::shortcut::{MapStore, MapsInMemory, Pairs, fit_pairs, fit_parts, fit_through_head};
use crate::states::{StateChunk, run_samples};
use crate::tokenize::Sample;
use crate::words::{BlockCast, Cast};
use crate::{Error, Result};
use jumplens_core::LinearMap;

/// The states of both splits, and the maps that were fitted on those of the training samples. Everything is held: for the
/// states alone 4·(2L + 1)·d bytes a training sample, and 4·(L + 1)·d a validation sample.
pub struct Experiment<'a> {
    model: &'a Transformer,
    val: &'a [Sample],
    train_states: StateChunk,
    val_states: StateChunk,
    casts: Vec<Cast>,
    pairs: Pairs,
    maps: MapsInMemory,
}

impl<'a> Experiment<'a> {
    /// Runs `model` over the samples, and fits the maps of `lenses` (as [`chosen`](crate::lenses::chosen) gives them, or one's
    /// own) between `pairs`, and those of every part of every block.
    ///
    /// # Errors
    /// [`Error::NoSuchToken`] for a token that the model has no embedding for, [`Error::Core`] for states that are not finite.
    pub fn new(
        model: &'a Transformer,
        train: &[Sample],
        val: &'a [Sample],
        pairs: Pairs,
        lenses: &[Box<dyn Fit>],
        observer: &dyn Observer,
    ) -> Result<Self> {
        let (train_states, val_states) = (run_samples(model, train, true)?, run_samples(model, val, false)?);
        let maps = MapsInMemory::default();
        fit_pairs(model.spec().sizes(), &train_states, pairs, lenses, &maps, observer)?;
        fit_parts(model, &train_states, &|_| true, &maps, observer)?;
        if lenses.iter().any(|lens| lens.needs_head()) {
            let head = model.head().ok_or_else(|| Error::NoHead { model: model.spec().family.to_owned() })?;
            fit_through_head(model.spec().sizes(), head, &train_states, 0, lenses, &maps, observer)?;
        }
        let casts = lenses.iter().map(|lens| lens.cast()).collect();
        Ok(Self { model, val, train_states, val_states, casts, pairs, maps })
    }

    /// The map of `cast` between two layers.
    pub fn map(&self, cast: &Cast, from: usize, to: usize) -> Result<LinearMap> {
        let map = self.maps.load(cast, from, &[to], self.model.spec().d_model)?.remove(&to);
        map.ok_or_else(|| Error::Internal("a map was loaded as none".into()))
    }

    /// All maps.
    pub fn maps(&self) -> &MapsInMemory {
        &self.maps
    }

    /// The rows of `r2.csv`.
    pub fn r2(&self, observer: &dyn Observer) -> Result<Vec<R2Row>> {
        let (train, val) = (&self.train_states, &self.val_states);
        r2_table(self.model.spec().sizes(), train, val, &self.maps, &self.casts, self.pairs, observer)
    }

    /// What every cast predicts from every layer for the validation samples, the unembedding's products done in `precision`.
    /// [`Error::NoHead`] where the model makes no predictions.
    pub fn evaluate(&self, precision: Precision, observer: &dyn Observer) -> Result<Evaluation> {
        let model = self.model;
        let head = model.head().ok_or_else(|| Error::NoHead { model: model.spec().family.to_owned() })?;
        let blocks = BlockCast::ALL.map(Cast::Blocks);
        let casts: Vec<Cast> =
            [Cast::Id].into_iter().chain(self.casts.iter().cloned()).chain(blocks).collect();
        let (samples, states, shortcuts) = (self.val, &self.val_states, &self.maps);
        evaluate(&Subject { model, head, precision, samples, states, shortcuts, casts: &casts }, observer)
    }

    /// The rows of `layers.csv` of an evaluation, with intervals from resamples of sentences that `seed` draws.
    pub fn layers(&self, evaluation: &Evaluation, seed: u64) -> Vec<LayerRow> {
        layer_rows(evaluation, &sentences(self.val, self.model.spec().kind), seed)
    }
}
