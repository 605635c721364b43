//! Models run block by block over many texts, every token of them, with the states of one layer in memory.

use crate::batch::PackedBatch;
use crate::models::{Kind, Seam, Transformer, value_of};
use crate::nn::{QueryRows, SelfAttention, with_values};
use crate::words::Sample;
use crate::{Error, Result};
use candle_core::Tensor;
use jumplens_core::linalg::parallel;

/// Tokens in a batch: so few that several threads have some each.
const TOKEN_BUDGET: usize = 512;

/// Texts to be run whole, packed into batches.
pub(super) struct Texts {
    pub batches: Vec<PackedBatch>,
    rows: Vec<QueryRows>,
}

impl Texts {
    /// The texts of `samples`: whole sentences of causal models, with `[MASK]` at the chosen position of masked ones.
    pub fn new(samples: &[Sample], kind: Kind) -> Self {
        let whole = |sample: &Sample| match kind {
            Kind::Causal => Sample { position: sample.ids.len().saturating_sub(1), ..sample.clone() },
            Kind::Masked => sample.clone(),
        };
        let samples: Vec<Sample> = samples.iter().map(whole).collect();
        let batches = PackedBatch::pack_apart(&samples, kind, TOKEN_BUDGET);
        let rows = batches.iter().map(|batch| batch.every_row(kind)).collect();
        Self { batches, rows }
    }

    /// The first batches, of no more than `most` tokens in all, or one.
    pub fn first(&self, most: usize) -> Self {
        let mut tokens = 0;
        let fits = |batch: &&PackedBatch| {
            tokens += batch.tokens();
            tokens <= most
        };
        let count = self.batches.iter().take_while(fits).count().max(1).min(self.batches.len());
        Self { batches: self.batches[..count].to_vec(), rows: self.rows[..count].to_vec() }
    }

    /// All tokens.
    pub fn tokens(&self) -> usize {
        crate::batch::tokens(&self.batches)
    }

    /// `h_0` of every token, batch by batch.
    pub fn embed(&self, model: &Transformer) -> Result<Vec<Tensor>> {
        gathered(self.batches.len(), |at| model.embed(&self.batches[at]))
    }

    /// Block `layer` of `model` on the states `x` before it, batch by batch.
    pub fn block(&self, model: &Transformer, layer: usize, x: &[Tensor]) -> Result<Vec<Tensor>> {
        gathered(x.len(), |at| model.block(layer, &x[at], &self.rows[at]))
    }

    /// What block `layer` of `model` makes of the states `x` before it, with what is of interest at the seam of its parts.
    pub fn look(
        &self,
        model: &Transformer,
        layer: usize,
        seam: Seam,
        x: &[Tensor],
        mut take: impl FnMut(Looked) -> Result<()>,
    ) -> Result<()> {
        let work = |at: usize| {
            let rows = &self.rows[at];
            let attend = |attention: &SelfAttention, x: &Tensor| -> Result<Tensor> {
                let (keys, values) = attention.keys_values(x, rows)?;
                Ok(attention.attend(x, rows, (&keys, &values))?)
            };
            let mut outputs = model.walk(layer, &x[at], attend)?;
            let read = value_of(model.spec().parts[seam.output].map_input(), &x[at], &outputs).clone();
            let sum = outputs[seam.sum].clone();
            let output = outputs[seam.output].clone();
            let attention = model.spec().attention_part().map(|part| {
                let input = model.spec().parts[part].inputs[0];
                [value_of(input, &x[at], &outputs).clone(), outputs[part].clone()]
            });
            let state = outputs.pop().ok_or_else(|| Error::Internal("a block without parts".into()))?;
            Ok(Looked { read, output, sum, state, attention })
        };
        each(x.len(), work, &mut take)
    }

    /// The states `x` before block `layer` through that and all that follow, of batch `first` and those after it.
    pub fn run_from(
        &self,
        model: &Transformer,
        layer: usize,
        x: &[Tensor],
        first: usize,
    ) -> Result<Vec<Tensor>> {
        gathered(x.len(), |at| {
            let rows = &self.rows[first + at];
            (layer..model.spec().n_layers).try_fold(x[at].clone(), |x, layer| model.block(layer, &x, rows))
        })
    }
}

/// A batch's values at the seam of a block, `[tokens, d]` each.
pub(super) struct Looked {
    /// What the feed-forward part reads.
    pub read: Tensor,
    /// What it puts out, f.
    pub output: Tensor,
    /// The sum that this is an addend of, u.
    pub sum: Tensor,
    /// The block's output.
    pub state: Tensor,
    /// What its attention reads and puts out, where it has one.
    pub attention: Option<[Tensor; 2]>,
}

/// `work` on the numbers below `n`, on all threads; its results in order.
fn each<R: Send>(
    n: usize,
    work: impl Fn(usize) -> Result<R> + Sync,
    mut take: impl FnMut(R) -> Result<()>,
) -> Result<()> {
    let all: Vec<usize> = (0..n).collect();
    parallel::for_each(&all, usize::MAX, |at| work(*at), |_, result| take(result))
}

/// `work` on the numbers below `n`, on all threads.
pub(super) fn gathered<R: Send>(n: usize, work: impl Fn(usize) -> Result<R> + Sync) -> Result<Vec<R>> {
    let mut all = Vec::with_capacity(n);
    each(n, work, |result| {
        all.push(result);
        Ok(())
    })?;
    Ok(all)
}

/// The values of a tensor, row by row.
pub(super) fn values(x: &Tensor) -> Result<Vec<f32>> {
    Ok(with_values(x, <[f32]>::to_vec)?)
}
