//! How good a shorter model is on sentences that had no part in its making: what it predicts beside what the whole model does,
//! and how fast it is.

use super::pass::{Texts, gathered};
use super::search::scanned;
use crate::batch::PackedBatch;
use crate::eval::{Draws, RESAMPLES, interval, with_unembedding};
use crate::models::{Kind, Transformer};
use crate::nn::{Precision, look_up, with_values};
use crate::progress::{Observer, check};
use crate::words::Sample;
use crate::{Error, Result};
use candle_core::Tensor;
use faer::Mat;
use jumplens_core::metrics::target_losses;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// A mean with the bounds of its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Over all positions.
    pub mean: f64,
    /// 2.5 % quantile over resamples of sentences.
    pub lo: f64,
    /// 97.5 % quantile.
    pub hi: f64,
}

/// What one model does on the validation sentences.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// exp of the mean −ln p of the true token.
    pub perplexity: Estimate,
    /// Mean KL(whole model ‖ this one), nats.
    pub kl: Estimate,
    /// Share of the positions where it has the whole model's top token.
    pub agreement: Estimate,
    /// Share of them where that is among its best 5.
    pub precision_5: Estimate,
    /// And among its best 10.
    pub precision_10: Estimate,
    /// Difference of its mean −ln p from that of the whole model, over the same resamples.
    pub loss_beyond_whole: Estimate,
    /// The same from that of the model of as many blocks that was chosen: below 0 where it is better.
    pub loss_beyond_chosen: Estimate,
}

/// A position's figures: −ln p of the true token, KL, and whether the whole model's top token is first, in five, in ten; the last
/// is the count of positions, and the one before it that of true tokens.
const COLUMNS: usize = 7;

/// Sums of the figures of one sentence.
type Sums = [f64; COLUMNS];

/// The validation sentences, to be predicted at every position of a causal model, at the chosen ones of a masked one.
pub(super) struct Held {
    texts: Texts,
    /// By batch: the rows that are predicted at, their true tokens, and which sentence each is of.
    asked: Vec<Vec<Asked>>,
    sentences: usize,
}

struct Asked {
    row: u32,
    target: Option<u32>,
    sentence: usize,
}

impl Held {
    pub fn new(samples: &[Sample], kind: Kind) -> Self {
        let texts = Texts::new(samples, kind);
        let of_batch = |batch: &PackedBatch| {
            let mut asked = Vec::new();
            for (at, sequence) in batch.cu_seqlens.windows(2).enumerate() {
                let sentence = batch.samples.start + at;
                match kind {
                    // The last token of a sentence has none after it.
                    Kind::Causal => {
                        asked.extend((sequence[0]..sequence[1].saturating_sub(1)).map(|row| Asked {
                            row,
                            target: Some(batch.ids[row as usize + 1]),
                            sentence,
                        }))
                    }
                    Kind::Masked => asked.push(Asked {
                        row: batch.chosen[at],
                        target: samples[sentence].target,
                        sentence,
                    }),
                }
            }
            asked
        };
        let asked = texts.batches.iter().map(of_batch).collect();
        Self { texts, asked, sentences: samples.len() }
    }

    /// The figures of `models`, of which the first is the whole one and number `chosen` the one that was asked for.
    pub fn measure(
        &self,
        models: &[&Transformer],
        chosen: usize,
        seed: u64,
        observer: &dyn Observer,
    ) -> Result<Vec<Figures>> {
        let whole = models[0];
        let head = whole.head().ok_or_else(|| Error::NoHead { model: whole.spec().family.to_owned() })?;
        let sums = with_unembedding(head, Precision::F32, |unembedding| {
            let mut sums = vec![vec![[0.0; COLUMNS]; self.sentences]; models.len()];
            for (at, asked) in self.asked.iter().enumerate() {
                check(observer)?;
                let rows: Vec<u32> = asked.iter().map(|asked| asked.row).collect();
                if rows.is_empty() {
                    continue;
                }
                let run = |model: usize| {
                    let model = models[model];
                    let x = model.embed(&self.texts.batches[at])?;
                    let last = self.texts.run_from(model, 0, &[x], at)?.remove(0);
                    head.prepare(&look_up(&last, &rows)?)
                };
                let prepared: Vec<Tensor> = gathered(models.len(), run)?;
                let scans = scanned(&prepared, &unembedding)?;
                let targets: Vec<u32> = asked.iter().map(|asked| asked.target.unwrap_or(0)).collect();
                for (model, scans) in scans.chunks_exact(rows.len()).enumerate() {
                    let losses =
                        with_values(&prepared[model], |rows| target_losses(rows, &unembedding, &targets))?;
                    for ((asked, scan), loss) in asked.iter().zip(scans).zip(losses) {
                        let within = |k: usize| f64::from(u8::from(scan.rank <= k));
                        let known = f64::from(u8::from(asked.target.is_some()));
                        let row: Sums = [loss * known, scan.kl, within(1), within(5), within(10), known, 1.0];
                        let sum = &mut sums[model][asked.sentence];
                        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
                    }
                }
                observer.advance(rows.len() as u64);
            }
            Ok(sums)
        })?;
        Ok(self.estimates(&sums, chosen, seed))
    }

    /// How many positions are asked.
    pub fn positions(&self) -> usize {
        self.asked.iter().map(Vec::len).sum()
    }

    fn estimates(&self, sums: &[Vec<Sums>], chosen: usize, seed: u64) -> Vec<Figures> {
        let sentences: Vec<_> = (0..self.sentences).map(|at| at..at + 1).collect();
        let draws = Draws::new(&sentences, seed);
        let resampled: Vec<Mat<f64>> = sums
            .iter()
            .map(|sums| draws.sums(Mat::from_fn(sums.len(), COLUMNS, |i, j| sums[i][j]).as_ref()))
            .collect();
        let total = |model: usize, j: usize| sums[model].iter().map(|sum| sum[j]).sum::<f64>();
        let mean = |model: usize, j: usize| {
            let count = if j == 0 { 5 } else { 6 };
            total(model, j) / total(model, count).max(1.0)
        };
        let means = |model: usize, j: usize| -> Vec<f64> {
            let count = if j == 0 { 5 } else { 6 };
            let of = &resampled[model];
            (0..RESAMPLES).map(|i| of[(i, j)] / of[(i, count)].max(1.0)).collect()
        };
        let estimate = |mean: f64, values: Vec<f64>| {
            let (lo, hi) = interval(values);
            Estimate { mean, lo, hi }
        };
        let figures = |model: usize| {
            let of = |j: usize| estimate(mean(model, j), means(model, j));
            let loss = of(0);
            let beyond = |other: usize| {
                let differences = means(model, 0).iter().zip(means(other, 0)).map(|(a, b)| a - b).collect();
                estimate(mean(model, 0) - mean(other, 0), differences)
            };
            Figures {
                perplexity: Estimate { mean: loss.mean.exp(), lo: loss.lo.exp(), hi: loss.hi.exp() },
                kl: of(1),
                agreement: of(2),
                precision_5: of(3),
                precision_10: of(4),
                loss_beyond_whole: beyond(0),
                loss_beyond_chosen: beyond(chosen),
            }
        };
        (0..sums.len()).map(figures).collect()
    }

    /// Tokens a second that each of `models` takes through its blocks, the best of some rounds that they take turns in.
    pub fn speeds(&self, models: &[&Transformer], observer: &dyn Observer) -> Result<Vec<f64>> {
        let mut best = vec![0.0f64; models.len()];
        let some = self.texts.first(ENOUGH_TO_TIME);
        for _ in 0..ROUNDS {
            for (best, model) in best.iter_mut().zip(models) {
                check(observer)?;
                let x = some.embed(model)?;
                let started = Instant::now();
                some.run_from(model, 0, &x, 0)?;
                *best = best.max(some.tokens() as f64 / started.elapsed().as_secs_f64().max(1e-9));
            }
        }
        Ok(best)
    }
}

/// Tokens that a model's speed is measured on, and how often.
const ENOUGH_TO_TIME: usize = 8192;
const ROUNDS: usize = 3;
