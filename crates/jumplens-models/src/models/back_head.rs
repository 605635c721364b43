//! Back through a head, from what the unembedding reads to the last hidden state.

use super::{Head, Step};
use crate::error::Result;
use crate::nn::backward::{BackNorm, NormTrace, turned_linear};
use crate::nn::{Activation, Linear, Norm, Rule, with_values};
use candle_core::Tensor;
use jumplens_core::linalg::matmul::{Matrix, Packed, PackedWeights, Precision, Write, product};
use rayon::prelude::*;

/// The steps of a [`Head`] before its unembedding, to go back through.
pub struct BackHead {
    steps: Vec<Back>,
}

enum Back {
    Norm(Norm, BackNorm),
    Linear(Linear, PackedWeights),
    Activation(Activation),
}

/// What is known of the steps for some rows.
pub struct HeadTrace {
    rows: usize,
    steps: Vec<Trace>,
}

enum Trace {
    Norm(NormTrace),
    Linear,
    /// Slopes, of the shape of the rows.
    Activation(Vec<f32>),
}

impl BackHead {
    /// Of the steps of `head`.
    pub fn new(head: &Head) -> Result<Self> {
        let back = |step: &Step| -> Result<Back> {
            Ok(match step {
                Step::Norm(norm) => Back::Norm(norm.clone(), BackNorm::new(norm)?),
                Step::Linear(linear) => Back::Linear(linear.clone(), turned_linear(linear)),
                Step::Activation(activation) => Back::Activation(*activation),
            })
        };
        Ok(Self { steps: head.steps().iter().map(back).collect::<Result<_>>()? })
    }

    /// What the unembedding reads of the states `h` `[rows, d]`, as [`Head::prepare`] gives it, and what is needed to go back.
    pub fn run(&self, h: &Tensor) -> Result<(Tensor, HeadTrace)> {
        let mut x = h.clone();
        let mut steps = Vec::new();
        for step in &self.steps {
            let (next, trace) = match step {
                Back::Norm(norm, back) => {
                    (norm.forward(&x)?, Trace::Norm(with_values(&x, |x| back.trace(x))?))
                }
                Back::Linear(linear, _) => (linear.forward(&x)?, Trace::Linear),
                Back::Activation(activation) => {
                    let slopes = |x: &[f32]| x.iter().map(|x| activation.slope(*x)).collect();
                    (activation.forward(&x)?, Trace::Activation(with_values(&x, slopes)?))
                }
            };
            x = next;
            steps.push(trace);
        }
        Ok((x, HeadTrace { rows: h.dim(0)?, steps }))
    }

    /// From cotangents of what the unembedding reads, `each` of them a row, `[rows, each, width]`, to those of the states,
    /// `[rows, each, d]`.
    pub fn back(&self, trace: &HeadTrace, each: usize, mut from: Vec<f32>) -> Vec<f32> {
        if from.is_empty() {
            return from;
        }
        for (step, known) in self.steps.iter().zip(&trace.steps).rev() {
            let own = from.len() / trace.rows;
            match (step, known) {
                (Back::Norm(_, back), Trace::Norm(known)) => {
                    let mut to = vec![0f32; from.len()];
                    let rows = to.par_chunks_mut(own).zip(from.par_chunks(own));
                    rows.enumerate().for_each(|(row, (to, from))| {
                        back.back(known, row, Rule::Whole, from, to, Write::Replace);
                    });
                    from = to;
                }
                (Back::Activation(_), Trace::Activation(slopes)) => {
                    let width = own / each;
                    for (row, slopes) in from.chunks_exact_mut(own).zip(slopes.chunks_exact(width)) {
                        for values in row.chunks_exact_mut(width) {
                            values.iter_mut().zip(slopes).for_each(|(value, slope)| *value *= slope);
                        }
                    }
                }
                (Back::Linear(_, turned), _) => {
                    let n = from.len() / turned.depth();
                    let rows = Packed::pack(Matrix::new(&from, n, turned.depth()), Precision::F32);
                    let mut to = vec![0f32; n * turned.lanes()];
                    product(&mut to, Write::Replace, &rows, turned, 0..turned.lanes());
                    from = to;
                }
                _ => unreachable!("what is known of a step is of its own kind"),
            }
        }
        from
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::testing::{assert_close, random};
    use crate::nn::{LayerNorm, RmsNorm, WeightLayout, tracked};

    /// Cotangents go back as candle's gradients do.
    #[test]
    fn back_is_the_gradient() {
        let (n, each, d, width) = (5, 3, 12, 20);
        let norm = |d: usize| LayerNorm::new(random(&[d], 1), random(&[d], 2), 1e-5);
        let linear = Linear::new(
            &random(&[width, d], 3),
            Some(&random(&[width], 4)),
            WeightLayout::OutIn,
            Precision::F32,
        );
        let masked = vec![
            Step::Linear(linear.unwrap()),
            Step::Activation(Activation::Gelu),
            Step::Norm(Norm::Layer(norm(width))),
        ];
        let causal = vec![Step::Norm(Norm::Rms(RmsNorm::new(random(&[d], 5), 1e-5)))];
        for (steps, width) in [(masked, width), (causal, d)] {
            let head = Head::new(steps, random(&[30, width], 6), None, None);
            let back = BackHead::new(&head).unwrap();
            let h = random(&[n, d], 7);
            let (prepared, trace) = back.run(&h).unwrap();
            assert_close(&prepared, &head.prepare(&h).unwrap(), 1e-6);
            let cotangents = random(&[n, each, width], 8);
            let values = cotangents.flatten_all().unwrap().to_vec1().unwrap();
            let got = Tensor::from_vec(back.back(&trace, each, values), (n, each, d), h.device()).unwrap();
            for i in 0..each {
                let h = tracked(&h).unwrap();
                let of = cotangents.narrow(1, i, 1).unwrap().squeeze(1).unwrap();
                let along = (head.prepare(&h).unwrap() * of).unwrap().sum_all().unwrap();
                let want = along.backward().unwrap().get(&h).unwrap().clone();
                assert_close(
                    &got.narrow(1, i, 1).unwrap().squeeze(1).unwrap().contiguous().unwrap(),
                    &want,
                    1e-5,
                );
            }
        }
    }
}
