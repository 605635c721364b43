//! What the head makes of states that stand in for the model's last: how far their distributions are from the model's own, in
//! which direction that falls, and how it bends.

use crate::models::{BackHead, Head, HeadTrace};
use crate::nn::{Precision, with_values};
use crate::progress::{Observer, check};
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use jumplens_core::linalg::matmul::{Matrix, Packed, PackedWeights, Write, product};
use jumplens_core::linalg::parallel::column_sums;
use jumplens_core::solver::Rows;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// Tokens that are drawn from each distribution, to know how it bends.
pub(super) const DRAWS: usize = 4;

/// Tokens of the vocabulary that one product on the way back adds up.
const TOKENS: usize = 4096;

/// Logits that exist at one time, and rows that they are of.
const HELD: usize = 1 << 24;
const MOST_ROWS: usize = 512;

/// A head with the training states of the last layer. KL(model ‖ cast) of a row is `base − x·expected + ln Σ exp(z)`, with x
/// what the unembedding reads of the cast, z its logits, and `expected` the unembedding's row that the model expects: its own
/// distribution is needed once.
pub struct Readout<'a> {
    last: Rows<'a>,
    head: &'a Head,
    back: BackHead,
    packed: Arc<PackedWeights>,
    /// W by runs of [`TOKENS`] tokens, its columns as lanes.
    turned: Vec<PackedWeights>,
    bias: Option<Vec<f32>>,
    seed: u64,
    /// Wᵀ·p, `[n, width]`.
    expected: Vec<f32>,
    /// `[n]`.
    base: Vec<f64>,
    /// As of [`Slopes`], at the model's own states.
    factors: Vec<f32>,
}

/// What is known of KL(model ‖ cast) at some states.
pub(super) struct Slopes {
    /// In nats, `[n]`.
    pub kl: Vec<f64>,
    /// Its gradient, `[n, d]`.
    pub gradient: Vec<f32>,
    /// `[n, DRAWS, d]`: the sum of the outer products of a row's factors is its Fisher information about the state, as
    /// [`DRAWS`] tokens drawn from the cast's distribution have it.
    pub factors: Vec<f32>,
}

/// What a block of rows gives.
struct Block {
    /// What the unembedding reads, `[rows, width]`.
    prepared: Vec<f32>,
    trace: HeadTrace,
    /// ln Σ exp(z).
    log_sum_exp: Vec<f64>,
    /// Wᵀ·q and tokens drawn from q, where these are asked for.
    expected: Vec<f32>,
    drawn: Vec<[u32; DRAWS]>,
}

impl<'a> Readout<'a> {
    /// `last` are the model's own states. What is drawn, is drawn by `seed`. Advances by nothing. [`Error::Option`] for heads whose
    /// logits are bounded.
    pub fn new(head: &'a Head, last: Rows<'a>, seed: u64, observer: &dyn Observer) -> Result<Self> {
        if head.soft_cap().is_some() {
            return Err(Error::Option(
                "the head bounds its logits (a soft cap), and lenses that are fitted through the head take none that do".into(),
            ));
        }
        let (vocab, width) = head.unembedding().dims2()?;
        let turned = with_values(head.unembedding(), |weight| {
            let runs = weight.chunks(TOKENS * width);
            runs.map(|run| Packed::pack(Matrix::new(run, run.len() / width, width).t(), Precision::F32))
                .collect()
        })?;
        let bias = head.bias().map(|bias| with_values(bias, <[f32]>::to_vec)).transpose()?;
        debug_assert!(bias.as_ref().is_none_or(|bias| bias.len() == vocab));
        let mut readout = Self {
            last,
            head,
            back: BackHead::new(head)?,
            packed: head.packed(Precision::F32)?,
            turned,
            bias,
            seed,
            expected: Vec::new(),
            base: Vec::new(),
            factors: Vec::new(),
        };
        let (mut expected, mut base, mut factors) = (Vec::new(), Vec::new(), Vec::new());
        for rows in readout.blocks(0..last.values.len() / last.d) {
            check(observer)?;
            let states = &last.values[rows.start * last.d..rows.end * last.d];
            let block = readout.block(states, rows, true)?;
            let own = block.prepared.chunks_exact(width).zip(block.expected.chunks_exact(width));
            base.extend(own.zip(&block.log_sum_exp).map(|((x, expected), sum)| dot(x, expected) - sum));
            factors.extend(readout.back.back(&block.trace, DRAWS, readout.factors_of(&block)?));
            expected.extend(block.expected);
        }
        (readout.expected, readout.base, readout.factors) = (expected, base, factors);
        Ok(readout)
    }

    /// How many rows there are.
    pub(super) fn rows(&self) -> usize {
        self.base.len()
    }

    /// The model's own states, `[n, d]`.
    pub(super) fn last(&self) -> &'a [f32] {
        self.last.values
    }

    /// Width of a state.
    pub(super) fn d(&self) -> usize {
        self.last.d
    }

    /// The factors of [`Slopes`] at the model's own states.
    pub(super) fn factors(&self) -> &[f32] {
        &self.factors
    }

    /// KL(model ‖ cast) of the rows `rows`, for which `states` `[rows, d]` stand in, nats.
    pub(super) fn kl(&self, states: &[f32], rows: Range<usize>, observer: &dyn Observer) -> Result<Vec<f64>> {
        let mut all = Vec::with_capacity(rows.len());
        for block in self.blocks(rows.clone()) {
            check(observer)?;
            let states =
                &states[(block.start - rows.start) * self.last.d..(block.end - rows.start) * self.last.d];
            all.extend(self.distances(&self.block(states, block.clone(), false)?, block));
        }
        Ok(all)
    }

    /// The same, and how it changes with the states.
    pub(super) fn slopes(
        &self,
        states: &[f32],
        rows: Range<usize>,
        observer: &dyn Observer,
    ) -> Result<Slopes> {
        let width = self.packed.depth();
        let mut slopes = Slopes { kl: Vec::new(), gradient: Vec::new(), factors: Vec::new() };
        for of in self.blocks(rows.clone()) {
            check(observer)?;
            let states = &states[(of.start - rows.start) * self.last.d..(of.end - rows.start) * self.last.d];
            let block = self.block(states, of.clone(), true)?;
            let models = &self.expected[of.start * width..of.end * width];
            let towards = block.expected.iter().zip(models).map(|(cast, model)| cast - model).collect();
            slopes.gradient.extend(self.back.back(&block.trace, 1, towards));
            slopes.factors.extend(self.back.back(&block.trace, DRAWS, self.factors_of(&block)?));
            slopes.kl.extend(self.distances(&block, of));
        }
        Ok(slopes)
    }

    fn blocks(&self, rows: Range<usize>) -> Vec<Range<usize>> {
        let most = (HELD / self.packed.lanes()).clamp(1, MOST_ROWS);
        rows.clone().step_by(most).map(|first| first..(first + most).min(rows.end)).collect()
    }

    fn distances(&self, block: &Block, rows: Range<usize>) -> Vec<f64> {
        let width = self.packed.depth();
        let expected = self.expected[rows.start * width..rows.end * width].chunks_exact(width);
        let own = block.prepared.chunks_exact(width).zip(expected).map(|(x, expected)| dot(x, expected));
        let far = own.zip(&block.log_sum_exp).zip(&self.base[rows]);
        // Rounding can leave a distance of nothing a hair below zero.
        far.map(|((own, sum), base)| (base - own + sum).max(0.0)).collect()
    }

    fn block(&self, states: &[f32], rows: Range<usize>, closely: bool) -> Result<Block> {
        let (n, vocab, width) = (rows.len(), self.packed.lanes(), self.packed.depth());
        let (prepared, trace) =
            self.back.run(&Tensor::from_slice(states, (n, self.last.d), &Device::Cpu)?)?;
        let prepared = with_values(&prepared, <[f32]>::to_vec)?;
        let mut logits = vec![0f32; n * vocab];
        let packed = Packed::pack(Matrix::new(&prepared, n, width), Precision::F32);
        product(&mut logits, Write::Replace, &packed, &self.packed, 0..vocab);
        let seen: Vec<(f64, [u32; DRAWS])> = logits
            .par_chunks_mut(vocab)
            .zip(rows)
            .map(|(logits, row)| {
                if let Some(bias) = &self.bias {
                    logits.iter_mut().zip(bias).for_each(|(logit, bias)| *logit += bias);
                }
                let (largest, sum) = jumplens_core::metrics::exponentials(logits);
                let drawn = if closely { self.draw(logits, sum, row) } else { [0; DRAWS] };
                let scale = (1.0 / sum) as f32;
                if closely {
                    logits.iter_mut().for_each(|value| *value *= scale);
                }
                (f64::from(largest) + sum.ln(), drawn)
            })
            .collect();
        let mut expected = vec![0f32; if closely { n * width } else { 0 }];
        if closely {
            let q = Matrix::new(&logits, n, vocab).t();
            for (run, turned) in self.turned.iter().enumerate() {
                let tokens = run * TOKENS..run * TOKENS + turned.depth();
                let packed = Packed::pack(q.rows(tokens).t(), Precision::F32);
                product(&mut expected, Write::Add, &packed, turned, 0..width);
            }
        }
        let (log_sum_exp, drawn) = seen.into_iter().unzip();
        Ok(Block { prepared, trace, log_sum_exp, expected, drawn })
    }

    /// Tokens that split what `weights` add up to in even shares, from a random place on.
    fn draw(&self, weights: &[f32], sum: f64, row: usize) -> [u32; DRAWS] {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(row as u64);
        let begin = rng.random_range(0.0..1.0);
        let mut marks = (0..DRAWS).map(|draw| sum * (draw as f64 + begin) / DRAWS as f64);
        let (mut drawn, mut next, mut mark, mut so_far) = ([0; DRAWS], 0, marks.next(), 0.0);
        for (token, weight) in weights.iter().enumerate() {
            so_far += f64::from(*weight);
            while mark.is_some_and(|mark| mark < so_far) {
                drawn[next] = token as u32;
                next += 1;
                mark = marks.next();
            }
        }
        // Sums in another order end a hair apart.
        drawn[next..].fill(weights.len() as u32 - 1);
        drawn
    }

    /// The factors of what the unembedding reads, `[rows, DRAWS, width]`: a drawn token's row of W, less what is expected.
    fn factors_of(&self, block: &Block) -> Result<Vec<f32>> {
        let width = self.packed.depth();
        let scale = 1.0 / (DRAWS as f32).sqrt();
        Ok(with_values(self.head.unembedding(), |weight| {
            let mut factors = Vec::with_capacity(block.drawn.len() * DRAWS * width);
            for (drawn, expected) in block.drawn.iter().zip(block.expected.chunks_exact(width)) {
                for token in drawn {
                    let row = &weight[*token as usize * width..][..width];
                    factors.extend(row.iter().zip(expected).map(|(row, expected)| scale * (row - expected)));
                }
            }
            factors
        })?)
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// The mean over all rows, `[d, d]` by its diagonal: what a coordinate's Fisher information is, on the whole.
pub(super) fn mean_information(factors: &[f32], d: usize) -> f64 {
    let squares = column_sums(factors, d, |_, row, sums| {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value).powi(2));
    });
    DRAWS as f64 * squares.iter().sum::<f64>() / factors.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::Step;
    use crate::nn::{Activation, LayerNorm, Linear, Norm, WeightLayout, tracked};
    use crate::progress::Silent;
    use candle_core::D;

    fn random(shape: &[usize], seed: u64) -> Tensor {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-1.0f32..1.0)).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn flat(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// As causal models have it, and as masked ones do.
    fn heads(d: usize, vocab: usize) -> Vec<Head> {
        let norm = |width: usize| {
            Step::Norm(Norm::Layer(LayerNorm::new(random(&[width], 1), random(&[width], 2), 1e-5)))
        };
        let wide = Linear::new(
            &random(&[d + 3, d], 3),
            Some(&random(&[d + 3], 4)),
            WeightLayout::OutIn,
            Precision::F32,
        );
        let masked = vec![Step::Linear(wide.unwrap()), Step::Activation(Activation::Gelu), norm(d + 3)];
        vec![
            Head::new(vec![norm(d)], random(&[vocab, d], 5), None, None),
            Head::new(masked, random(&[vocab, d + 3], 6), Some(random(&[vocab], 7)), None),
        ]
    }

    fn log_p(head: &Head, h: &Tensor) -> Tensor {
        let logits = head.logits(h).unwrap();
        let sums = logits.exp().unwrap().sum_keepdim(D::Minus1).unwrap().log().unwrap();
        logits.broadcast_sub(&sums).unwrap()
    }

    #[test]
    fn distances_and_gradients_are_those_of_the_distributions() {
        let (n, d, vocab) = (700, 10, 5000);
        for head in heads(d, vocab) {
            let (own, cast) = (random(&[n, d], 8), random(&[n, d], 9));
            let values = flat(&own);
            let last = Rows { values: &values, d, spread: None };
            let readout = Readout::new(&head, last, 0, &Silent).unwrap();
            let at = 100..n;
            let rows = cast.narrow(0, at.start, at.len()).unwrap();
            let slopes = readout.slopes(&flat(&rows), at.clone(), &Silent).unwrap();
            let model = log_p(&head, &own.narrow(0, at.start, at.len()).unwrap());
            let rows = tracked(&rows).unwrap();
            let kl =
                (model.exp().unwrap() * (&model - log_p(&head, &rows)).unwrap()).unwrap().sum(1).unwrap();
            let gradient = kl.sum_all().unwrap().backward().unwrap().get(&rows).unwrap().clone();
            for (got, want) in slopes.kl.iter().zip(flat(&kl)) {
                assert!((got - f64::from(want)).abs() < 1e-5, "{got} against {want}");
            }
            let largest = flat(&gradient).into_iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
            for (got, want) in slopes.gradient.iter().zip(flat(&gradient)) {
                assert!((got - want).abs() < 1e-5 * largest, "{got} against {want} of {largest}");
            }
            assert_eq!(readout.kl(&flat(&rows), at, &Silent).unwrap(), slopes.kl);
            // The model's own states are at no distance.
            let none = readout.kl(&values, 0..n, &Silent).unwrap();
            assert!(none.iter().all(|kl| *kl < 1e-6));
        }
    }

    /// E ∇ln q·∇ln qᵀ over the tokens, by candle's gradients, against the mean over many draws.
    #[test]
    fn factors_add_up_to_the_fisher_information() {
        let (n, d, vocab) = (4000, 4, 12);
        for head in heads(d, vocab) {
            let row = random(&[1, d], 10);
            let values = flat(&row.repeat((n, 1)).unwrap());
            let readout = Readout::new(&head, Rows { values: &values, d, spread: None }, 3, &Silent).unwrap();
            let mut want = vec![0f64; d * d];
            for token in 0..vocab {
                let row = tracked(&row).unwrap();
                let one = log_p(&head, &row).narrow(1, token, 1).unwrap();
                let p = f64::from(flat(&one)[0]).exp();
                let g = flat(one.sum_all().unwrap().backward().unwrap().get(&row).unwrap());
                want.iter_mut()
                    .enumerate()
                    .for_each(|(at, sum)| *sum += p * f64::from(g[at / d]) * f64::from(g[at % d]));
            }
            let mut got = vec![0f64; d * d];
            for factor in readout.factors().chunks_exact(d) {
                got.iter_mut().enumerate().for_each(|(at, sum)| {
                    *sum += f64::from(factor[at / d]) * f64::from(factor[at % d]) / n as f64;
                });
            }
            let trace: f64 = (0..d).map(|i| want[i * (d + 1)]).sum();
            for (got, want) in got.iter().zip(&want) {
                assert!((got - want).abs() < 0.02 * trace, "{got} against {want} of {trace}");
            }
            let unit = mean_information(readout.factors(), d);
            assert!((unit * d as f64 - trace).abs() < 0.02 * trace, "{unit}");
        }
    }
}
