//! What a model pays for given tokens: −ln p of each, without the states in between.

use super::{TOP_K, with_unembedding};
use crate::Result;
use crate::batch::PackedBatch;
use crate::models::{Head, Kind, Transformer};
use crate::nn::{Precision, with_values};
use crate::runner::Plan;
use crate::states::last_states;
use crate::tokenize::Sample;
use jumplens_core::linalg::parallel;
use jumplens_core::metrics::{Unembedding, target_losses};

/// Tokens in a batch: so few that a thousand of them keep several threads busy.
const TOKEN_BUDGET: usize = 256;
/// What a token costs at most, nats, and what one costs whose probability is not finite.
pub(crate) const WORST: f64 = 1e3;

/// A model that is asked for the probabilities of tokens.
pub(crate) struct Losses<'a> {
    model: &'a Transformer,
    head: &'a Head,
    unembedding: Unembedding<'a>,
    plan: Plan,
}

/// Calls `ask` with what `model` is asked through, its head's products done in `precision`. `None` where it has no head, or
/// too few tokens for predictions to be evaluated at all.
pub(crate) fn with_losses<R>(
    model: &Transformer,
    precision: Precision,
    ask: impl FnOnce(&Losses) -> Result<R>,
) -> Result<Option<R>> {
    let Some(head) = model.head().filter(|_| model.spec().vocab_size >= TOP_K) else { return Ok(None) };
    let plan = Plan::new(model, &[], |_, _| None)?;
    with_unembedding(head, precision, |unembedding| ask(&Losses { model, head, unembedding, plan })).map(Some)
}

impl Losses<'_> {
    /// For a causal model: −ln p of every token of each text but its first, in nats, given those before it.
    pub fn of_texts(&self, texts: &[Vec<u32>]) -> Result<Vec<Vec<f64>>> {
        let sample = |text: &Vec<u32>| match text.len() {
            0 | 1 => None,
            n => Some(Sample { ids: text.clone(), position: n - 2, target: None, text: None }),
        };
        let samples: Vec<Sample> = texts.iter().filter_map(sample).collect();
        let mut batches = PackedBatch::pack_apart(&samples, Kind::Causal, TOKEN_BUDGET);
        let targets: Vec<u32> = samples.iter().flat_map(|sample| &sample.ids[1..]).copied().collect();
        // Every row that is run is asked.
        let mut asked = 0;
        for batch in &mut batches {
            let rows = batch.tokens();
            batch.chosen = (0..rows as u32).collect();
            batch.samples = asked..asked + rows;
            asked += rows;
        }
        let losses = self.of_batches(&batches, &targets)?;
        let mut rest = &losses[..];
        let mut take = |text: &Vec<u32>| {
            let (own, others) = rest.split_at(text.len().saturating_sub(1));
            rest = others;
            own.to_vec()
        };
        Ok(texts.iter().map(&mut take).collect())
    }

    /// −ln p of `targets`, one a sample, at the samples' chosen positions, in nats.
    pub fn at_chosen(&self, samples: &[Sample], targets: &[u32]) -> Result<Vec<f64>> {
        let batches = PackedBatch::pack_apart(samples, self.model.spec().kind, TOKEN_BUDGET);
        self.of_batches(&batches, targets)
    }

    /// −ln p of the targets in each batch's range of them, at its chosen rows.
    fn of_batches(&self, batches: &[PackedBatch], targets: &[u32]) -> Result<Vec<f64>> {
        let mut losses = Vec::with_capacity(targets.len());
        let ask = |batch: &PackedBatch| -> Result<Vec<f64>> {
            let prepared = self.head.prepare(&last_states(self.model, &self.plan, batch)?)?;
            let targets = &targets[batch.samples.clone()];
            Ok(with_values(&prepared, |rows| target_losses(rows, &self.unembedding, targets))?)
        };
        let bounded = |loss: f64| if loss < WORST { loss } else { WORST };
        parallel::for_each(batches, usize::MAX, ask, |_, some| {
            losses.extend(some.into_iter().map(bounded));
            Ok(())
        })?;
        Ok(losses)
    }
}
