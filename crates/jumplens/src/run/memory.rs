//! What a run takes of memory, reckoned before it is begun.

use crate::models::{PartKind, Spec};
use crate::nn::Precision;
use crate::shortcut::{self, Fits, Pairs};
use crate::states;
use crate::weights::Contents;
use jumplens_core::solver::BLOCK;

/// What memory depends on, beside the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryUse {
    /// What products are done in.
    pub dtype: Precision,
    /// Training samples.
    pub train: usize,
    /// Validation samples.
    pub val: usize,
    /// Which maps are fitted.
    pub pairs: Pairs,
    /// Threads.
    pub threads: usize,
    /// Whether the model has a head, without which `evaluate` is left out.
    pub has_head: bool,
    /// Bytes of the model's files.
    pub disk: u64,
}

/// What the memory depends on that work on a share takes, beside the model.
#[derive(Debug, Clone, PartialEq)]
pub struct ShareUse {
    /// What products are done in.
    pub dtype: Precision,
    /// Training samples of the share.
    pub train: usize,
    /// Validation samples of the share.
    pub val: usize,
    /// Which maps are fitted.
    pub fits: Fits,
    /// Threads.
    pub threads: usize,
    /// Whether the model has a head.
    pub has_head: bool,
    /// Bytes of the model's files.
    pub disk: u64,
}

/// Bytes of memory that the work on one share takes at most ([`Worker`](super::Worker)), and fitting the maps from one layer: the
/// weights, which are read from the mapped files, and the largest of
///
/// - the batches that are run, one a thread, with the unembedding where predictions are made of them;
/// - the sums of one source layer and its targets: each to twice an f64's digits, those of a piece beside them, and one of them
///   on its way to the file;
/// - the same sums as they are fitted from: of the training and validation samples, with a factorisation and the maps.
///
/// Files of states and sums are mapped, and take memory only where there is some left.
pub fn share_memory_bytes(spec: &Spec, contents: &Contents, of: &ShareUse) -> u64 {
    let [d, layers, vocab] = [spec.d_model, spec.n_layers, spec.vocab_size].map(|size| size as u64);
    let [train, val, threads] = [of.train, of.val, of.threads.max(1)].map(|size| size as u64);
    let value = if of.dtype == Precision::Bf16 { 2 } else { 4 };
    let embedding = vocab * d;
    let blocks = contents.parameters.saturating_sub(embedding);
    let weights = 4 * embedding + value * blocks;
    let row = 4 * (blocks / (layers * d).max(1) + 6 * d);
    let head = if of.has_head { value * embedding } else { 0 };
    let batches = threads * states::TOKEN_BUDGET as u64 * row + head + WORK;
    let targets = if of.fits.pairs == Pairs::All { layers } else { 1 };
    let sums = d * d * (24 * (1 + targets) + 24);
    let fit = 8 * d * d * (3 * (1 + targets) + 6) + 4 * d * d * targets * of.fits.casts().len() as u64;
    let predictions = PREDICTION * (1 + of.fits.casts().len() as u64) * (layers + 1) * val;
    weights + of.disk + batches.max(sums).max(fit) + predictions + PROGRAM + SAMPLE * (train + val)
}

/// The program itself, with what is bundled in it as far as it is looked at, and what it holds before it has a model.
const PROGRAM: u64 = 80_000_000;
/// What running batches takes however small the model is.
const WORK: u64 = 25_000_000;
/// What drawing the figures takes.
const FIGURES: u64 = 20_000_000;
/// Tokens of a sample, about: no more threads have a batch than there are batches.
const TOKENS: u64 = 25;
/// A sample with its text, and what it is drawn from.
const SAMPLE: u64 = 1000;
/// What is kept of a cast's prediction of a sample from a layer, and written.
const PREDICTION: u64 = 200;

/// Of what a stage worked with, in percent, how much is still held beside that of another, which takes other sizes: measured
/// on runs of the bundled models.
const HELD: u64 = 60;

/// Bytes of memory that a run takes at most, files that are mapped included. The program keeps what it has freed. Weights,
/// and what is made of them, take the place of one another from stage to stage; of what is worked with beside them, most is
/// held beside what the next stage takes.
///
/// - `states`: the weights, the unembedding a second time, and the batches;
/// - `fit`: the weights, and in each lane the sums of a layer and its targets, or the outputs of a block's parts;
/// - `evaluate`: the weights, the unembedding a second time, the maps to the last layer and those of attention and feed-forward
///   parts, the first products of both with the maps of the norms folded in (no more than the blocks' own weights), the
///   batches, each L times over, and the predictions;
/// - `plot`: what has been held until then, and the figures.
///
/// To which come the files that are mapped at that time: the model's, and the states of the layers.
pub fn memory_bytes(spec: &Spec, contents: &Contents, of: &MemoryUse) -> u64 {
    let [d, layers, vocab] = [spec.d_model, spec.n_layers, spec.vocab_size].map(|size| size as u64);
    let [train, val, threads] = [of.train, of.val, of.threads.max(1)].map(|size| size as u64);
    let parts = spec.parts.len() as u64;
    let value = if of.dtype == Precision::Bf16 { 2 } else { 4 };
    let embedding = vocab * d;
    let blocks = contents.parameters.saturating_sub(embedding);
    let weights = 4 * embedding + value * blocks;
    // What a row is made into on its way through a block is about as wide as the block's weights.
    let row = 4 * (blocks / (layers * d).max(1) + 6 * d);
    let busy = |samples: u64, budget: usize| (TOKENS * samples).div_ceil(budget as u64).min(threads);
    let batch = states::TOKEN_BUDGET as u64 * row;
    let head = if of.has_head { value * embedding } else { 0 };
    let states = busy(train, states::TOKEN_BUDGET) * batch + WORK;

    let lanes = threads.min(shortcut::LANES as u64).min(layers);
    let block = train.min(BLOCK as u64) * d * 32;
    let targets = if of.pairs == Pairs::All { layers } else { 1 };
    let pairs = 8 * d * d * (targets + 4) + block;
    let kept = (4 * train * d * (1 + parts)).min(shortcut::KEPT as u64);
    let of_parts = 8 * d * d * 3 * parts + kept + block;
    let fit = lanes * pairs.max(of_parts);

    let casts = 5;
    let rows = layers * crate::eval::TOKEN_BUDGET as u64;
    // What follows a norm is made anew with its map folded in; where a norm ends the block, nothing is.
    let begins_with_norm = spec.parts.first().is_some_and(|part| part.kind == PartKind::Norm);
    let folded = value * (3 * layers * d * d + if begins_with_norm { blocks } else { 0 });
    let predictions = PREDICTION * casts * (layers + 1) * val;
    // The casts that run blocks, each from every layer, and half as much for what one of them is made into: measured.
    let batches = busy(val, crate::eval::TOKEN_BUDGET) * rows * row / 2 * 3 + WORK;
    let (made, evaluate) = if of.has_head { (head + folded, batches + predictions) } else { (0, 0) };

    let states_of = |samples: u64| 4 * d * (layers + 1) * samples;
    // What is made of the weights, what is worked with, and the files that are mapped.
    let stages = [
        (0, 0, of.disk),
        (head, states, 0),
        (0, fit, states_of(train + val)),
        (made, evaluate, states_of(val)),
        (0, FIGURES, 0),
    ];
    let (mut large, mut most_worked, mut worked, mut most) = (0, 0, 0, 0);
    for (made, work, mapped) in stages {
        large = made.max(large);
        most_worked = work.max(most_worked);
        worked += work;
        let held = most_worked + (worked - most_worked) * HELD / 100;
        most = most.max(weights + large + held + mapped);
    }
    most + PROGRAM + SAMPLE * (train + val)
}
