//! What the blocks that are kept put out in the place of those that are not, in closed form, on every token of the texts.

use super::pass::{Looked, Texts, gathered, values};
use super::solve::{Sums, solve, solve_held};
use crate::models::{KeptBlock, Seam, Step, Transformer};
use crate::progress::{Observer, check};
use crate::words::Stage;
use crate::{Error, Result};
use candle_core::{D, Tensor};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef};
use jumplens_core::LinearMap;
use jumplens_core::linalg::dense::PAR;
use jumplens_core::linalg::parallel::widened;
use serde::{Deserialize, Serialize};

/// What becomes of what the blocks that are taken out add to the states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Nothing: they are left out.
    Drop,
    /// A map T of the feed-forward part's output, W ← T·W, as ReplaceMe has it (Shopkhoev et al., arXiv 2505.02819).
    Fold,
    /// The layer that the feed-forward part ends with is fitted anew on its own inputs, and so are those of all blocks behind
    /// it, on the states that the shorter model gives them, towards those of the whole model.
    Refit,
}

/// How much an error counts at each token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// The same everywhere: the mean squared error.
    Mse,
    /// By 1/‖u‖², u the sum that is to be met: to first order the cosine distance, and no token counts for its length.
    Cosine,
    /// By the trace of the Fisher information of the model's next token about its last state, over ‖u‖² relative to ‖h_L‖²: an
    /// error counts for what it does to the distribution.
    Fisher,
}

/// Both sides of one pass: the whole model's states, and those of the shorter one.
struct Side<'a> {
    texts: &'a Texts,
    whole: Vec<Tensor>,
    shorter: Vec<Tensor>,
    /// What [`Objective::Fisher`] multiplies a token's weight with, batch by batch.
    fisher: Option<Vec<Vec<f64>>>,
}

/// What is fitted, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fitting {
    pub form: Form,
    pub objective: Objective,
    /// λ as a share of the mean square of a coordinate; what misses least of the held texts, where it is `None`.
    pub share: Option<f64>,
}

/// The blocks of `spans`, each with the last that it stands for, their output layers fitted on `texts`. λ is what misses least
/// on `held`, where it is not given.
pub(super) fn fit(
    model: &Transformer,
    spans: &[KeptBlock],
    fitting: Fitting,
    [texts, held]: [&Texts; 2],
    observer: &dyn Observer,
) -> Result<Vec<KeptBlock>> {
    if fitting.form == Form::Drop {
        return Ok(spans.iter().map(|span| KeptBlock { until: span.block, ..span.clone() }).collect());
    }
    let seam = model.spec().seam().ok_or_else(|| Error::Internal("no seam to fold into".into()))?;
    observer.begin(Stage::Fit.name(), spans.len() as u64, "blocks");
    let mut sides = Vec::new();
    for texts in [texts, held] {
        let whole = texts.embed(model)?;
        let fisher = match fitting.objective {
            Objective::Fisher => Some(fisher(model, &texts.run_from(model, 0, &whole, 0)?)?),
            _ => None,
        };
        sides.push(Side { texts, shorter: whole.clone(), whole, fisher });
    }
    let mut kept = Vec::new();
    let mut apart = false;
    let last = spans.iter().rposition(|span| !span.is_own());
    for (at, span) in spans.iter().enumerate() {
        let KeptBlock { block, without, .. } = *span;
        check(observer)?;
        if fitting.form == Form::Fold && last.is_none_or(|last| at > last) {
            kept.push(KeptBlock::of(block));
            observer.advance(1);
            continue;
        }
        let replaces = !without.feed_forward && (!span.is_own() || apart && fitting.form == Form::Refit);
        let own = model.shorter(&[KeptBlock { until: block, ..span.clone() }])?;
        let mut sums = Vec::new();
        for side in &mut sides {
            sums.push(side.advance([model, &own], seam, span, replaces.then_some(fitting), apart)?);
        }
        let output = match &sums[..] {
            [Some(own), Some(held)] => {
                let change = match fitting.share {
                    Some(share) => solve(own, share)?,
                    None => solve_held(own, held)?,
                };
                let layer = model.module(block, seam.output).output_layer();
                let layer = layer.ok_or_else(|| Error::Internal("no output layer".into()))?.to_map()?;
                Some(changed(&layer, &change, fitting.form)?)
            }
            _ => None,
        };
        let of = KeptBlock { output, ..span.clone() };
        if replaces {
            let one = model.shorter(std::slice::from_ref(&of))?;
            for side in &mut sides {
                side.shorter = side.texts.block(&one, 0, &side.shorter)?;
            }
        }
        apart |= replaces || !span.is_own();
        kept.push(of);
        observer.advance(1);
    }
    observer.end();
    Ok(kept)
}

/// Batches whose hidden units exist at one time.
const GROUP: usize = 16;

impl Side<'_> {
    /// Moves the whole model's states behind the last block of the span. Where the block's output is to be fitted, gives the sums
    /// that it takes and leaves the shorter model's states before it; else moves these too. `own` is the block alone, without
    /// what it goes without.
    fn advance(
        &mut self,
        [model, own]: [&Transformer; 2],
        seam: Seam,
        span: &KeptBlock,
        fitting: Option<Fitting>,
        apart: bool,
    ) -> Result<Option<Sums>> {
        let KeptBlock { block, until, .. } = *span;
        let Some(fitting) = fitting else {
            for layer in block..=until {
                self.whole = self.texts.block(model, layer, &self.whole)?;
            }
            self.shorter = match apart || !span.is_own() {
                true => self.texts.block(own, 0, &self.shorter)?,
                false => self.whole.clone(),
            };
            return Ok(None);
        };
        for layer in block..until {
            self.whole = self.texts.block(model, layer, &self.whole)?;
        }
        let (mut wanted, mut states) = (Vec::new(), Vec::new());
        self.texts.look(model, until, seam, &self.whole, |Looked { sum, state, .. }| {
            wanted.push(sum);
            states.push(state);
            Ok(())
        })?;
        self.whole = states;
        let (mut reads, mut sources, mut missing) = (Vec::new(), Vec::new(), Vec::new());
        let mut at = 0;
        self.texts.look(own, 0, seam, &self.shorter, |Looked { read, output, sum, .. }| {
            missing.push((&wanted[at] - &sum)?);
            match fitting.form {
                Form::Refit => reads.push(read),
                _ => sources.push(output),
            }
            at += 1;
            Ok(())
        })?;
        let layer = model.module(block, seam.output).output_layer();
        let layer = layer.ok_or_else(|| Error::Internal("no output layer".into()))?;
        let d_in = if fitting.form == Form::Refit { layer.in_features() } else { layer.out_features() };
        let mut sums = Sums::new(d_in, layer.out_features(), layer.to_map()?.bias().is_some());
        for first in (0..wanted.len()).step_by(GROUP) {
            let group = first..wanted.len().min(first + GROUP);
            let hidden = match fitting.form {
                Form::Refit => gathered(group.len(), |at| {
                    model.module(block, seam.output).hidden(&reads[group.start + at])
                })?,
                Form::Fold | Form::Drop => Vec::new(),
            };
            for at in group.clone() {
                let source = hidden.get(at - group.start).unwrap_or_else(|| &sources[at]);
                let weights = self.weights(fitting.objective, &wanted[at], at)?;
                sums.add(&values(source)?, &values(&missing[at])?, &weights);
            }
        }
        Ok(Some(sums))
    }

    fn weights(&self, objective: Objective, wanted: &Tensor, batch: usize) -> Result<Vec<f64>> {
        let mut weights = weights(objective, &values(wanted)?, wanted.dim(1)?);
        if let Some(fisher) = &self.fisher {
            weights.iter_mut().zip(&fisher[batch]).for_each(|(weight, fisher)| *weight *= fisher);
        }
        Ok(weights)
    }
}

/// How much each row counts, by the sums `u` `[n, d]` that are to be met.
pub(super) fn weights(objective: Objective, u: &[f32], d: usize) -> Vec<f64> {
    let square = |row: &[f32]| row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
    match objective {
        Objective::Mse => vec![1.0; u.len() / d],
        Objective::Cosine | Objective::Fisher => {
            u.chunks_exact(d).map(|row| d as f64 / square(row).max(f64::MIN_POSITIVE)).collect()
        }
    }
}

/// The layer with what was solved for: `W + Δ` where it is fitted anew, `(1 + S)·W` where its output is mapped.
fn changed(layer: &LinearMap, change: &Mat<f64>, form: Form) -> Result<LinearMap> {
    let (d_out, d_in) = (layer.d_out(), layer.d_in());
    let own = widened(layer.weight());
    let own = MatRef::from_row_major_slice(&own, d_out, d_in);
    let bias = layer.bias().map(widened);
    let (weight, bias) = match form {
        Form::Refit => {
            let weight = Mat::from_fn(d_out, d_in, |i, j| own[(i, j)] + change[(j, i)]);
            (weight, bias.map(|b| (0..d_out).map(|i| b[i] + change[(d_in, i)]).collect::<Vec<_>>()))
        }
        Form::Drop | Form::Fold => {
            let map = Mat::from_fn(d_out, d_out, |i, j| change[(j, i)] + f64::from(u8::from(i == j)));
            let mut weight = Mat::zeros(d_out, d_in);
            matmul(weight.as_mut(), Accum::Replace, map.as_ref(), own, 1.0, PAR);
            let mapped = |b: Vec<f64>| -> Vec<f64> {
                let along = |i: usize| (0..d_out).map(|j| map[(i, j)] * b[j]).sum::<f64>();
                (0..d_out).map(|i| along(i) + change[(d_out, i)]).collect()
            };
            (weight, bias.map(mapped))
        }
    };
    let rows = (0..d_out).flat_map(|i| (0..d_in).map(move |j| (i, j)));
    let map = LinearMap::from_rows(rows.map(|at| weight[at] as f32).collect(), d_out, d_in)?;
    Ok(match bias {
        Some(bias) => map.with_bias(bias.into_iter().map(|b| b as f32).collect())?,
        None => map,
    })
}

/// The layer with its output mapped, for a source f and what is missing t, row-major `[n, d]`.
pub(super) fn folded(
    layer: &LinearMap,
    [f, t]: [&[f32]; 2],
    weights: &[f64],
    share: f64,
) -> Result<LinearMap> {
    let d = layer.d_out();
    let mut sums = Sums::new(d, d, layer.bias().is_some());
    sums.add(f, t, weights);
    changed(layer, &solve(&sums, share)?, Form::Fold)
}

/// The map of x that meets t best, `[d]` → `[d]`.
pub(super) fn mapped(sums: &Sums, share: f64) -> Result<LinearMap> {
    let change = solve(sums, share)?;
    let (d_in, d_out) = (change.nrows(), change.ncols());
    let rows = (0..d_out).flat_map(|i| (0..d_in).map(move |j| (j, i)));
    Ok(LinearMap::from_rows(rows.map(|at| change[at] as f32).collect(), d_out, d_in)?)
}

/// The trace of the Fisher information of the model's distribution about `h_L`, for the states `h` `[n, d]` of each batch, over its
/// mean, times ‖h_L‖²: tr(Jᵀ·Uᵀ·(diag p − p·pᵀ)·U·J), J the derivative of the final norm but for what it projects out, U the
/// unembedding.
fn fisher(model: &Transformer, h: &[Tensor]) -> Result<Vec<Vec<f64>>> {
    let head = model.head().ok_or_else(|| Error::NoHead { model: model.spec().family.to_owned() })?;
    let norm = match head.steps() {
        [Step::Norm(norm)] => norm,
        _ => {
            return Err(Error::Option(
                "the Fisher information is known for heads that are a norm and the unembedding, which this model's \
                 is not: take another objective"
                    .to_owned(),
            ));
        }
    };
    let gain = norm.gain();
    let unembedding = head.unembedding().broadcast_mul(gain)?;
    let squares = unembedding.sqr()?.sum_keepdim(1)?;
    let of_batch = |h: &Tensor| -> Result<Vec<f64>> {
        let logits = head.logits(h)?;
        let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?.exp()?;
        let p = shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)?;
        let mean = p.matmul(&unembedding)?.sqr()?.sum(1)?;
        let spread = (p.matmul(&squares)?.squeeze(1)? - mean)?;
        Ok(spread.to_vec1::<f32>()?.into_iter().map(|x| f64::from(x).max(0.0)).collect())
    };
    // The scale of the norm's derivative, 1/rms², takes ‖h_L‖² away again.
    let mut all = h.iter().map(of_batch).collect::<Result<Vec<_>>>()?;
    let count = all.iter().map(Vec::len).sum::<usize>().max(1);
    let mean = all.iter().flatten().sum::<f64>() / count as f64;
    // No token counts for nothing.
    all.iter_mut().flatten().for_each(|x| *x = *x / mean.max(f64::MIN_POSITIVE) + 0.05);
    Ok(all)
}
