//! Back through a model: vector–Jacobian products of its last state, for many cotangents of one prompt at a time.

use super::{Kind, Module, PartKind, Slot, Transformer, value_of};
use crate::batch::PackedBatch;
use crate::error::{Error, Result};
use crate::nn::backward::{
    AttentionTrace, BATCH, BackAttention, BackFeedForward, BackNorm, FeedForwardTrace, NormTrace,
};
use crate::nn::{QueryRows, Rule, with_values};
use candle_core::Tensor;
use jumplens_core::linalg::matmul::Write;
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// A causal model, to go back through: its weights a second time, as products on the way back read them.
pub struct Backward<'a> {
    model: &'a Transformer,
    blocks: Vec<Vec<Back>>,
}

/// A part.
enum Back {
    Norm(BackNorm),
    Attention(Box<BackAttention>),
    FeedForward(BackFeedForward),
    Add,
}

/// What is known of a part for the rows of a prompt.
enum Trace {
    Norm(NormTrace),
    Attention(Box<AttentionTrace>),
    FeedForward(FeedForwardTrace),
    Add,
}

/// The hidden states of a prompt.
pub struct Prompt {
    /// By layer, `[tokens, d]`, up to the last target.
    states: Vec<Tensor>,
    rows: QueryRows,
    targets: Range<usize>,
}

impl Prompt {
    /// The states of layer `layer`, `[tokens, d]`, up to the last target.
    pub fn states(&self, layer: usize) -> &Tensor {
        &self.states[layer]
    }
}

/// Bytes of cotangents that are held at one time, at least for [`BATCH`] of them.
const HELD: usize = 1 << 30;

impl<'a> Backward<'a> {
    /// [`Error::Option`] for a model that is not causal.
    pub fn new(model: &'a Transformer) -> Result<Self> {
        let spec = model.spec();
        if spec.kind != Kind::Causal {
            return Err(Error::Option(format!(
                "`{}` is a masked language model, in which every position sees every other: effects on later positions are \
                 taken of causal models",
                spec.family
            )));
        }
        // What is read on both sides of the attention has to be the block's input: nothing else is kept across it.
        let attention = spec.attention_part();
        let crosses = |(part, reads): (usize, &Slot)| match (*reads, attention) {
            (Slot::Part(read), Some(attention)) => read < attention && part > attention,
            _ => false,
        };
        let mut reads = spec
            .parts
            .iter()
            .enumerate()
            .flat_map(|(at, part)| part.inputs.iter().map(move |slot| (at, slot)));
        let attentions = spec.parts.iter().filter(|part| part.kind == PartKind::Attention).count();
        if reads.any(crosses) || attentions > 1 {
            return Err(Error::Internal(format!(
                "no way back through blocks like those of `{}`",
                spec.family
            )));
        }
        let back = |module: &Module| -> Result<Back> {
            Ok(match module {
                Module::Norm(norm) => Back::Norm(BackNorm::new(norm)?),
                Module::Attention(attention) => Back::Attention(Box::new(BackAttention::new(attention)?)),
                Module::FeedForward(layer) => Back::FeedForward(BackFeedForward::plain(layer)),
                Module::GatedFeedForward(layer) => Back::FeedForward(BackFeedForward::gated(layer)),
                Module::Add => Back::Add,
                Module::Nothing(_) | Module::LinearAttention(_) => {
                    return Err(Error::Option(
                        "derivatives are not taken through blocks without an attention or a feed-forward part".to_owned(),
                    ));
                }
            })
        };
        let block =
            |layer: usize| (0..spec.parts.len()).map(|part| back(model.module(layer, part))).collect();
        Ok(Self { model, blocks: (0..spec.n_layers).map(block).collect::<Result<_>>()? })
    }

    /// Runs `ids`, to go back from, and to, the positions `targets`. [`Error::NoSuchToken`].
    ///
    /// # Panics
    /// Where there are no `targets`, or some beyond the end of `ids`.
    pub fn run(&self, ids: &[u32], targets: Range<usize>) -> Result<Prompt> {
        assert!(!targets.is_empty() && targets.end <= ids.len(), "{targets:?} of {} tokens", ids.len());
        // Nothing later has to do with them.
        let batch = PackedBatch::whole(&ids[..targets.end]);
        let rows = batch.every_row(Kind::Causal);
        let mut states = vec![self.model.embed(&batch)?];
        for layer in 0..self.model.spec().n_layers {
            states.push(self.model.block(layer, &states[layer], &rows)?);
        }
        Ok(Prompt { states, rows, targets })
    }

    /// For each coordinate i among `coordinates` of the last state, and each layer l from the last to the first, the sum over
    /// positions t of the gradient of `Σ_t′ h_{L,t′}[i]` with respect to `h_{l,t}`, both over the prompt's targets: of a
    /// causal model the terms with t′ ≥ t are all there are, and with [`Rule::SamePosition`] those with t′ = t alone.
    ///
    /// `visit` gets the layer, the coordinates, and their rows `[coordinates, d]`; layers below are not run where it fails.
    pub fn jacobian(
        &self,
        prompt: &Prompt,
        coordinates: Range<usize>,
        rule: Rule,
        mut visit: impl FnMut(usize, Range<usize>, &[f64]) -> Result<()>,
    ) -> Result<()> {
        let (d, last) = (self.model.spec().d_model, self.model.spec().n_layers);
        let batches = (HELD / (4 * prompt.targets.len() * d * BATCH)).max(1);
        for first in coordinates.clone().step_by(batches * BATCH) {
            let group = first..(first + batches * BATCH).min(coordinates.end);
            let batch = |first: usize| {
                let batch = first..(first + BATCH).min(group.end);
                let mut cotangents = vec![0f32; prompt.targets.len() * batch.len() * d];
                for (row, values) in cotangents.chunks_exact_mut(d).enumerate() {
                    values[batch.start + row % batch.len()] = 1.0;
                }
                cotangents
            };
            let mut batches: Vec<Vec<f32>> = group.clone().step_by(BATCH).map(batch).collect();
            visit(last, group.clone(), &sums(&batches, prompt.targets.len(), d))?;
            for layer in (0..last).rev() {
                let traces = self.traces(layer, prompt)?;
                batches
                    .par_iter_mut()
                    .for_each(|cotangents| self.block(layer, &traces, prompt, rule, cotangents));
                visit(layer, group.clone(), &sums(&batches, prompt.targets.len(), d))?;
            }
        }
        Ok(())
    }

    /// What is known of the parts of a block for a prompt.
    fn traces(&self, layer: usize, prompt: &Prompt) -> Result<Vec<Trace>> {
        let Prompt { states, rows, targets } = prompt;
        let attention = RefCell::new(None);
        let parts = self.model.spec().parts;
        let at = self.model.spec().attention_part();
        let outputs = self.model.walk(layer, &states[layer], |module, x| {
            if let Some(Back::Attention(back)) = at.map(|at| &self.blocks[layer][at]) {
                *attention.borrow_mut() = Some(back.trace(x, rows, targets.clone())?);
            }
            let (keys, values) = module.keys_values(x, rows)?;
            Ok(module.attend(x, rows, (&keys, &values))?)
        })?;
        let mut attention = attention.into_inner();
        let trace = |(back, part): (&Back, &super::Part)| -> Result<Trace> {
            let input = value_of(part.inputs[0], &states[layer], &outputs);
            let input = input.narrow(0, targets.start, targets.len())?.contiguous()?;
            Ok(match back {
                Back::Norm(norm) => Trace::Norm(with_values(&input, |x| norm.trace(x))?),
                Back::FeedForward(feed_forward) => Trace::FeedForward(feed_forward.trace(&input)?),
                Back::Add => Trace::Add,
                Back::Attention(_) => {
                    let missing = || Error::Internal("an attention was not run".into());
                    Trace::Attention(Box::new(attention.take().ok_or_else(missing)?))
                }
            })
        };
        self.blocks[layer].iter().zip(parts).map(trace).collect()
    }

    /// Takes the cotangents `[targets, n, d]` of a block's output to those of its input.
    fn block(&self, layer: usize, traces: &[Trace], prompt: &Prompt, rule: Rule, cotangents: &mut [f32]) {
        let (parts, blocks) = (self.model.spec().parts, &self.blocks[layer]);
        let own = cotangents.len() / prompt.targets.len();
        let split = self.model.spec().attention_part();
        let Some((at, Back::Attention(attention), Trace::Attention(trace))) =
            split.map(|at| (at, &blocks[at], &traces[at]))
        else {
            cotangents.par_chunks_mut(own).enumerate().for_each(|(row, cotangents)| {
                with_slots(parts.len(), own, |slots| {
                    slots.put(parts.len(), cotangents);
                    self.walk_back(layer, traces, row, rule, 0..parts.len(), slots);
                    slots.take(0, cotangents);
                });
            });
            return;
        };
        let d = self.model.spec().d_model;
        let of_heads = own / d * attention.width();
        let mut heads = vec![0f32; prompt.targets.len() * of_heads];
        let rows = cotangents.par_chunks_mut(own).zip(heads.par_chunks_mut(of_heads)).enumerate();
        rows.for_each(|(row, (cotangents, heads))| {
            with_slots(parts.len(), own, |slots| {
                slots.put(parts.len(), cotangents);
                self.walk_back(layer, traces, row, rule, at + 1..parts.len(), slots);
                if let Some(output) = slots.get(at + 1) {
                    attention.to_heads(output, heads);
                }
                slots.take(0, cotangents);
            });
        });
        let shares = attention.between(trace, rule, &heads);
        drop(heads);
        cotangents.par_chunks_mut(own).enumerate().for_each(|(row, cotangents)| {
            with_slots(parts.len(), own, |slots| {
                slots.put(0, cotangents);
                let (to, write) = slots.open(place(parts[at].inputs[0]));
                attention.to_input(&shares, row, to, write);
                self.walk_back(layer, traces, row, rule, 0..at, slots);
                slots.take(0, cotangents);
            });
        });
    }

    /// Takes the cotangents of one target through some of the parts, none of which mixes rows.
    fn walk_back(
        &self,
        layer: usize,
        traces: &[Trace],
        row: usize,
        rule: Rule,
        parts: Range<usize>,
        slots: &mut Slots,
    ) {
        for index in parts.rev() {
            if slots.get(index + 1).is_none() {
                continue;
            }
            let inputs = self.model.spec().parts[index].inputs;
            let from = std::mem::take(&mut slots.values[index + 1]);
            slots.there[index + 1] = false;
            match (&self.blocks[layer][index], &traces[index]) {
                (Back::Norm(norm), Trace::Norm(trace)) => {
                    let (to, write) = slots.open(place(inputs[0]));
                    norm.back(trace, row, rule, &from, to, write);
                }
                (Back::FeedForward(feed_forward), Trace::FeedForward(trace)) => {
                    let (to, write) = slots.open(place(inputs[0]));
                    feed_forward.back(trace, row, rule, &from, to, write);
                }
                (Back::Add, _) => inputs.iter().for_each(|slot| slots.add(place(*slot), &from)),
                _ => unreachable!("the rows of an attention are mixed"),
            }
            slots.values[index + 1] = from;
        }
    }
}

/// The cotangents of a block's slots at one position: of its input, and of the outputs of its parts, `[n, d]` each.
#[derive(Default)]
struct Slots {
    values: Vec<Vec<f32>>,
    there: Vec<bool>,
}

/// Which of them is that of `slot`.
fn place(slot: Slot) -> usize {
    match slot {
        Slot::BlockInput => 0,
        Slot::Part(part) => part + 1,
    }
}

thread_local! {
    static SLOTS: RefCell<Slots> = RefCell::default();
}

/// Runs `f` with the slots of a block of so many parts, `size` values each, none of which has any.
fn with_slots(parts: usize, size: usize, f: impl FnOnce(&mut Slots)) {
    SLOTS.with_borrow_mut(|slots| {
        slots.values.resize_with(parts + 1, Vec::new);
        slots.values.iter_mut().for_each(|values| values.resize(size, 0.0));
        slots.there.clear();
        slots.there.resize(parts + 1, false);
        f(slots);
    });
}

impl Slots {
    fn get(&self, index: usize) -> Option<&[f32]> {
        self.there[index].then(|| &*self.values[index])
    }

    fn put(&mut self, index: usize, values: &[f32]) {
        self.values[index].copy_from_slice(values);
        self.there[index] = true;
    }

    /// What is to be written to, and how.
    fn open(&mut self, index: usize) -> (&mut [f32], Write) {
        let write = if self.there[index] { Write::Add } else { Write::Replace };
        self.there[index] = true;
        (&mut self.values[index], write)
    }

    fn add(&mut self, index: usize, values: &[f32]) {
        match self.open(index) {
            (to, Write::Replace) => to.copy_from_slice(values),
            (to, Write::Add) => to.iter_mut().zip(values).for_each(|(to, value)| *to += value),
        }
    }

    /// Puts what there is, or zeros, into `to`.
    fn take(&self, index: usize, to: &mut [f32]) {
        match self.get(index) {
            Some(values) => to.copy_from_slice(values),
            None => to.fill(0.0),
        }
    }
}

/// Sums over the targets of batches of cotangents `[targets, n, d]`: `[all n, d]`.
fn sums(batches: &[Vec<f32>], targets: usize, d: usize) -> Vec<f64> {
    let of = |batch: &Vec<f32>| -> Vec<f64> {
        let size = batch.len() / targets;
        let mut sums = vec![0f64; size];
        sums.par_chunks_mut(d).enumerate().for_each(|(row, sums)| {
            for target in batch.chunks_exact(size) {
                sums.iter_mut().zip(&target[row * d..]).for_each(|(sum, value)| *sum += f64::from(*value));
            }
        });
        sums
    };
    batches.iter().flat_map(of).collect()
}
