//! Which blocks can go: by what it does to the model's predictions, measured. States that the whole model was seen to have are
//! kept; a candidate is run from the block that it changes on, on the states that the shorter model so far has before it.

use super::fit::{Objective, folded, mapped, weights};
use super::pass::{Looked, Texts, values};
use super::solve::Sums;
use crate::eval::with_unembedding;
use crate::models::{KeptBlock, Kind, Module, Seam, Transformer, Without};
use crate::nn::{Precision, look_up, with_values};
use crate::progress::{Observer, check};
use crate::words::PartKind;
use crate::{Error, Result};
use candle_core::Tensor;
use jumplens_core::LinearMap;
use jumplens_core::metrics::{RowScan, Unembedding, scan};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// Bytes that the recorded states may take.
const MEMORY: usize = 2 << 30;
/// λ, as a share of a coordinate's mean square, of the maps that candidates are judged with.
const SHARE: f64 = 1e-4;
/// Candidates that are scanned together.
const TOGETHER: usize = 6;
/// How many of the candidates that are best on the first batch are measured on all.
const FINALISTS: usize = 6;

/// A block that is kept, the last one that it stands for, what it goes without, and whether a map of each position stands for an
/// attention that it goes without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub block: usize,
    pub until: usize,
    pub without: Without,
    pub is_mapped: bool,
}

impl Span {
    /// The block, its output layer being its own, and nothing in the place of an attention.
    pub fn kept(&self) -> KeptBlock {
        KeptBlock { until: self.until, without: self.without, ..KeptBlock::of(self.block) }
    }
}

/// Blocks that are kept.
pub(super) type Spans = Vec<Span>;

/// The spans where the blocks of `removed` are left out, the first never being one.
pub(super) fn spans(n_layers: usize, removed: &BTreeSet<usize>) -> Spans {
    let mut spans: Spans = Vec::new();
    for block in 0..n_layers {
        match spans.last_mut().filter(|_| removed.contains(&block)) {
            Some(span) => span.until = block,
            None => spans.push(Span { block, until: block, without: Without::default(), is_mapped: false }),
        }
    }
    spans
}

/// The spans where the sub-modules of `removed` are left out: of block l the attention is number 2·l, the feed-forward part
/// 2·l + 1. A block without both is left out itself, unless a map stands for its attention.
pub(super) fn spans_of_parts(n_layers: usize, removed: &BTreeSet<usize>, maps: bool) -> Spans {
    let mut spans: Spans = Vec::new();
    for block in 0..n_layers {
        let [attention, feed_forward] = [2 * block, 2 * block + 1].map(|part| removed.contains(&part));
        match spans.last_mut().filter(|_| attention && feed_forward && !maps) {
            Some(span) => span.until = block,
            None => spans.push(Span {
                block,
                until: block,
                without: Without { attention, feed_forward },
                is_mapped: attention && maps,
            }),
        }
    }
    spans
}

/// What a choice of blocks does to the predictions on the texts that are held out of the fit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Judged {
    /// Mean KL(whole ‖ shorter), nats.
    pub kl: f64,
    /// Share of the positions where both have the same top token.
    pub agreement: f64,
}

/// States of the whole model, and what is needed to judge a shorter one.
pub(super) struct Search<'a> {
    model: &'a Transformer,
    seam: Option<Seam>,
    objective: Objective,
    /// Whether what is taken out is folded into what is before it.
    folds: bool,
    held: &'a Texts,
    /// By block: f and u of the texts that are fitted on, row-major `[n, d]`.
    seen: Vec<[Vec<f32>; 2]>,
    /// The whole model's states before each block, and behind the last, on the held texts.
    states: Vec<Vec<Tensor>>,
    maps: RefCell<BTreeMap<(usize, usize), LinearMap>>,
    /// What stands for attentions that are taken out, by block, where something does.
    attentions: Vec<LinearMap>,
}

impl<'a> Search<'a> {
    /// Records the whole model's states: of as many of `texts` as memory holds, and of `held`.
    pub fn new(
        model: &'a Transformer,
        texts: &Texts,
        held: &'a Texts,
        objective: Objective,
        (folds, maps_attentions): (bool, bool),
        observer: &dyn Observer,
    ) -> Result<Self> {
        let (n_layers, d) = (model.spec().n_layers, model.spec().d_model);
        let seam = model.spec().seam();
        let most = (MEMORY / (n_layers * d * 8)).min((16 * d).max(4096));
        let some = texts.first(most);
        let (mut seen, mut attentions) = (Vec::new(), Vec::new());
        if let Some(seam) = seam.filter(|_| folds || maps_attentions) {
            let mut x = some.embed(model)?;
            for layer in 0..n_layers {
                check(observer)?;
                let (mut f, mut u, mut states) = (Vec::new(), Vec::new(), Vec::new());
                let mut sums = Sums::new(d, d, false);
                some.look(model, layer, seam, &x, |Looked { output, sum, state, attention, .. }| {
                    if let Some([read, put]) = attention.filter(|_| maps_attentions) {
                        sums.add(&values(&read)?, &values(&put)?, &weights(objective, &values(&sum)?, d));
                    }
                    if folds {
                        f.extend(values(&output)?);
                        u.extend(values(&sum)?);
                    }
                    states.push(state);
                    Ok(())
                })?;
                seen.push([f, u]);
                if maps_attentions {
                    attentions.push(mapped(&sums, SHARE)?);
                }
                x = states;
            }
        }
        let mut states = vec![held.embed(model)?];
        for layer in 0..n_layers {
            states.push(held.block(model, layer, &states[layer])?);
        }
        let maps = RefCell::default();
        let seam = seam.filter(|_| folds);
        Ok(Self { model, seam, objective, folds: seam.is_some(), held, seen, states, maps, attentions })
    }

    /// The whole model's states on the held texts before block `layer`, all tokens, row-major.
    fn rows_before(&self, layer: usize) -> Result<Vec<f32>> {
        let mut rows = Vec::new();
        for batch in &self.states[layer] {
            rows.extend(values(batch)?);
        }
        Ok(rows)
    }

    /// The mean cosine of the states before block `from` with those behind block `until`, on the held texts, and their mean angle
    /// over π.
    pub fn turn(&self, from: usize, until: usize) -> Result<(f64, f64)> {
        let d = self.model.spec().d_model;
        let (a, b) = (self.rows_before(from)?, self.rows_before(until + 1)?);
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let n = (a.len() / d).max(1) as f64;
        let cosines = a.chunks_exact(d).zip(b.chunks_exact(d)).map(|(a, b)| {
            let both = (dot(a, a) * dot(b, b)).sqrt();
            if both > 0.0 { (dot(a, b) / both).clamp(-1.0, 1.0) } else { 1.0 }
        });
        let (cosine, angle) = cosines.fold((0.0, 0.0), |(sum, angle), cosine: f64| {
            (sum + cosine, angle + cosine.acos() / std::f64::consts::PI)
        });
        Ok((cosine / n, angle / n))
    }

    /// The block of a span, its output layer being its own.
    pub fn kept(&self, span: Span) -> KeptBlock {
        let map = self.attentions.get(span.block).filter(|_| span.is_mapped);
        KeptBlock { attention: map.cloned(), ..span.kept() }
    }

    /// A span's blocks as they are judged.
    fn block(&self, span: Span) -> Result<KeptBlock> {
        let Span { block, until, .. } = span;
        let Some(seam) = self.seam.filter(|_| self.folds && until > block) else {
            return Ok(KeptBlock { until: block, ..self.kept(span) });
        };
        let known = self.maps.borrow().get(&(block, until)).cloned();
        if let Some(map) = known {
            return Ok(KeptBlock { output: Some(map), ..span.kept() });
        }
        let layer = self.model.module(block, seam.output).output_layer();
        let layer = layer.ok_or_else(|| Error::Internal("no output layer".into()))?.to_map()?;
        let ([f, own], [_, wanted]) = (&self.seen[block], &self.seen[until]);
        let missing: Vec<f32> = wanted.iter().zip(own).map(|(wanted, own)| wanted - own).collect();
        let weights = weights(self.objective, wanted, self.model.spec().d_model);
        let map = folded(&layer, [f, &missing], &weights, SHARE)?;
        self.maps.borrow_mut().insert((block, until), map.clone());
        Ok(KeptBlock { output: Some(map), ..span.kept() })
    }

    /// The shorter model of `spans`, as it is judged.
    fn shorter(&self, spans: &Spans) -> Result<Transformer> {
        let kept = spans.iter().map(|span| self.block(*span)).collect::<Result<Vec<_>>>()?;
        self.model.shorter(&kept)
    }

    /// Takes blocks out one after another, each time the one whose loss costs least, until `enough` says so of how many are out
    /// and how the last was judged. Block 0 stays. Gives every choice on the way, the whole model first.
    pub fn one_by_one(
        &self,
        enough: impl Fn(usize, Judged) -> bool,
        observer: &dyn Observer,
    ) -> Result<Vec<(Spans, Judged)>> {
        let n_layers = self.model.spec().n_layers;
        self.path((1..n_layers).collect(), |removed| spans(n_layers, removed), enough, observer)
    }

    /// Takes out `count` sub-modules, one after another. The attention of block 0 stays: the sizes of all are read off it.
    pub fn parts(&self, count: usize, observer: &dyn Observer) -> Result<(Spans, Judged)> {
        let n_layers = self.model.spec().n_layers;
        let maps = !self.attentions.is_empty();
        let of = |removed: &BTreeSet<usize>| spans_of_parts(n_layers, removed, maps);
        let mut units = Vec::new();
        for unit in 1..2 * n_layers {
            let kind = if unit % 2 == 0 { PartKind::Attention } else { PartKind::FeedForward };
            let part = self.model.spec().parts.iter().position(|part| part.kind == kind);
            let module = part.map(|part| self.model.module(unit / 2, part));
            let adds = match module {
                None | Some(Module::Nothing(_)) => false,
                Some(Module::LinearAttention(_)) => !maps,
                // What stands for one in a file.
                Some(module) => match module.output_layer() {
                    Some(layer) => layer.to_map()?.weight().iter().any(|weight| *weight != 0.0),
                    None => true,
                },
            };
            units.extend(adds.then_some(unit));
        }
        if count > units.len() {
            return Err(Error::Option(format!(
                "{count} sub-modules cannot be taken out: of what is there {} can",
                units.len()
            )));
        }
        let path = self.path(units, of, |gone, _| gone == count, observer)?;
        path.into_iter().next_back().ok_or_else(|| Error::Internal("no path".into()))
    }

    /// Takes `units` out one after another, each time the one whose loss costs least; what a choice of them leaves is `of`.
    fn path(
        &self,
        units: Vec<usize>,
        of: impl Fn(&BTreeSet<usize>) -> Spans,
        enough: impl Fn(usize, Judged) -> bool,
        observer: &dyn Observer,
    ) -> Result<Vec<(Spans, Judged)>> {
        let mut removed = BTreeSet::new();
        let mut path = vec![(of(&removed), Judged { kl: 0.0, agreement: 1.0 })];
        // The shorter model's states before each of its blocks.
        let mut states: Vec<Vec<Tensor>> = self.states.clone();
        while removed.len() < units.len() && !enough(removed.len(), path[path.len() - 1].1) {
            let current = &path[path.len() - 1].0;
            let with = |unit: usize| {
                let mut more = removed.clone();
                more.insert(unit);
                of(&more)
            };
            let candidates: Vec<(usize, Spans)> = units
                .iter()
                .filter(|unit| !removed.contains(unit))
                .map(|unit| (*unit, with(*unit)))
                .collect();
            let (best, judged) = self.best(&candidates, current, &states, observer)?;
            let (unit, chosen) = candidates[best].clone();
            removed.insert(unit);
            let begin = same_until(current, &chosen);
            let model = self.shorter(&chosen)?;
            states.truncate(begin + 1);
            for layer in begin..chosen.len() {
                states.push(self.held.block(&model, layer, &states[layer])?);
            }
            path.push((chosen, judged));
            observer.advance(1);
        }
        Ok(path)
    }

    /// The one span of `length` blocks whose loss costs least.
    pub fn one_span(&self, length: usize, observer: &dyn Observer) -> Result<(Spans, Judged)> {
        let n_layers = self.model.spec().n_layers;
        let whole = spans(n_layers, &BTreeSet::new());
        let candidates: Vec<(usize, Spans)> = (0..n_layers.saturating_sub(length))
            .map(|block| (block, spans(n_layers, &(block + 1..=block + length).collect())))
            .collect();
        let (best, judged) = self.best(&candidates, &whole, &self.states, observer)?;
        observer.advance(1);
        Ok((candidates[best].1.clone(), judged))
    }

    /// The span of `length` blocks over which states turn least: what is chosen without a look at predictions (ShortGPT, ReplaceMe).
    pub fn by_angle(&self, length: usize) -> Result<Spans> {
        let n_layers = self.model.spec().n_layers;
        let mut best = (f64::INFINITY, 0);
        for block in 0..n_layers.saturating_sub(length) {
            let (_, angle) = self.turn(block + 1, block + length)?;
            if angle < best.0 {
                best = (angle, block);
            }
        }
        Ok(spans(n_layers, &(best.1 + 1..=best.1 + length).collect()))
    }

    /// Judges models of fewer blocks on the held texts.
    pub fn judge(&self, model: &Transformer) -> Result<Judged> {
        let all = 0..self.held.batches.len();
        let last = self.held.run_from(model, 0, &self.states[0], 0)?;
        let judged = self.judge_all(&[last], all)?;
        judged.into_iter().next().ok_or_else(|| Error::Internal("a model was not judged".into()))
    }

    /// Which of the candidates has the least KL, by what the first batch says of all and all batches say of the best by that.
    fn best(
        &self,
        candidates: &[(usize, Spans)],
        current: &Spans,
        states: &[Vec<Tensor>],
        observer: &dyn Observer,
    ) -> Result<(usize, Judged)> {
        let judge = |of: &[usize], batches: std::ops::Range<usize>| -> Result<Vec<Judged>> {
            let mut judged = Vec::new();
            for group in of.chunks(TOGETHER) {
                check(observer)?;
                let mut last = Vec::new();
                for candidate in group {
                    let spans = &candidates[*candidate].1;
                    let begin = same_until(current, spans);
                    let model = self.shorter(spans)?;
                    let x = &states[begin][batches.clone()];
                    last.push(self.held.run_from(&model, begin, x, batches.start)?);
                }
                judged.extend(self.judge_all(&last, batches.clone())?);
            }
            Ok(judged)
        };
        let mut order: Vec<usize> = (0..candidates.len()).collect();
        let all = self.held.batches.len();
        if order.len() > FINALISTS && all > 1 {
            let first = judge(&order, 0..1)?;
            order.sort_by(|a, b| first[*a].kl.total_cmp(&first[*b].kl));
            order.truncate(FINALISTS);
        }
        let judged = judge(&order, 0..all)?;
        let best = (0..order.len()).min_by(|a, b| judged[*a].kl.total_cmp(&judged[*b].kl));
        let best = best.ok_or_else(|| Error::Internal("no block can be taken out".into()))?;
        Ok((order[best], judged[best]))
    }

    /// Judges some models by the states that they end with on some of the held batches.
    fn judge_all(&self, last: &[Vec<Tensor>], batches: std::ops::Range<usize>) -> Result<Vec<Judged>> {
        let head = self.model.head();
        let head = head.ok_or_else(|| Error::NoHead { model: self.model.spec().family.to_owned() })?;
        let n_layers = self.model.spec().n_layers;
        with_unembedding(head, Precision::F32, |unembedding| {
            let mut sums = vec![(0.0, 0.0); last.len()];
            let mut rows = 0;
            for at in batches.clone() {
                let mut models = vec![&self.states[n_layers][at]];
                models.extend(last.iter().map(|last| &last[at - batches.start]));
                let prepare = |h: &Tensor| head.prepare(&self.predicting(h, at)?);
                let prepared = models.into_iter().map(prepare).collect::<Result<Vec<_>>>()?;
                let scans = scanned(&prepared, &unembedding)?;
                let n = prepared[0].dim(0)?;
                rows += n;
                for (sum, scans) in sums.iter_mut().zip(scans.chunks_exact(n).skip(1)) {
                    sum.0 += scans.iter().map(|scan| scan.kl).sum::<f64>();
                    sum.1 += scans.iter().filter(|scan| scan.rank == 1).count() as f64;
                }
            }
            let n = rows.max(1) as f64;
            // What overflows is no candidate.
            let kl = |sum: f64| if sum.is_finite() { sum / n } else { f64::INFINITY };
            Ok(sums.into_iter().map(|(a, b)| Judged { kl: kl(a), agreement: b / n }).collect())
        })
    }

    /// The rows of batch `at` that the model predicts at.
    fn predicting(&self, h: &Tensor, at: usize) -> Result<Tensor> {
        Ok(match self.model.spec().kind {
            Kind::Causal => h.clone(),
            Kind::Masked => look_up(h, &self.held.batches[at].chosen)?,
        })
    }
}

/// Scans prepared states of several models, `[n, d]` each, against those of the first.
pub(super) fn scanned(prepared: &[Tensor], unembedding: &Unembedding) -> Result<Vec<RowScan>> {
    let n = prepared[0].dim(0)?;
    let all = Tensor::cat(prepared, 0)?;
    Ok(with_values(&all, |rows| scan(rows, unembedding, 1, &vec![None; n]))?)
}

/// How many of the first spans two choices share.
fn same_until(one: &Spans, other: &Spans) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_join_neighbours() {
        let ends = |spans: Spans| spans.iter().map(|span| (span.block, span.until)).collect::<Vec<_>>();
        assert_eq!(ends(spans(6, &[2, 3, 5].into())), [(0, 0), (1, 3), (4, 5)]);
        // Both parts of block 1, the attention of block 2, the feed-forward part of block 3.
        let parts = spans_of_parts(4, &[2, 3, 4, 7].into(), false);
        assert_eq!(ends(parts.clone()), [(0, 1), (2, 2), (3, 3)]);
        let without = |attention, feed_forward| Without { attention, feed_forward };
        let all: Vec<Without> = parts.iter().map(|span| span.without).collect();
        assert_eq!(all, [without(false, false), without(true, false), without(false, true)]);
        assert_eq!(same_until(&spans(6, &[2].into()), &spans(6, &[2, 5].into())), 3);
    }
}
