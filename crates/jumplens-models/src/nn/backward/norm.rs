//! Back through norms.

use super::super::{Norm, with_values};
use super::Rule;
use candle_core::Result;
use jumplens_core::linalg::matmul::Write;
use jumplens_core::linalg::simd;
use pulp::{Simd, WithSimd};

/// A [`Norm`], to go back through.
pub(crate) struct BackNorm {
    weight: Vec<f32>,
    eps: f64,
    /// LayerNorm takes the mean away.
    is_centred: bool,
}

/// Rows that a norm was given.
pub(crate) struct NormTrace {
    /// As they are before the weight, `[rows, d]`.
    normed: Vec<f32>,
    /// What they were multiplied with, `[rows]`.
    scales: Vec<f32>,
}

impl BackNorm {
    pub fn new(norm: &Norm) -> Result<Self> {
        let (eps, is_centred) = norm.form();
        Ok(Self { weight: with_values(norm.gain(), <[f32]>::to_vec)?, eps, is_centred })
    }

    /// Of the rows `x` `[rows, d]`.
    pub fn trace(&self, x: &[f32]) -> NormTrace {
        let d = self.weight.len();
        let mut trace = NormTrace { normed: Vec::with_capacity(x.len()), scales: Vec::new() };
        for x in x.chunks_exact(d) {
            let mean = match self.is_centred {
                true => x.iter().map(|x| f64::from(*x)).sum::<f64>() / d as f64,
                false => 0.0,
            };
            let squares: f64 = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum();
            let scale = 1.0 / (squares / d as f64 + self.eps).sqrt();
            trace.normed.extend(x.iter().map(|x| ((f64::from(*x) - mean) * scale) as f32));
            trace.scales.push(scale as f32);
        }
        trace
    }

    /// From the cotangents `from` `[n, d]` of the output of row `row`, to those of its input, which `to` becomes or is added.
    pub fn back(
        &self,
        trace: &NormTrace,
        row: usize,
        rule: Rule,
        from: &[f32],
        to: &mut [f32],
        write: Write,
    ) {
        let d = self.weight.len();
        simd::dispatch(Back {
            weight: &self.weight,
            normed: &trace.normed[row * d..][..d],
            scale: trace.scales[row],
            is_centred: self.is_centred,
            is_held: rule == Rule::HeldScales,
            add: write == Write::Add,
            from,
            to,
        });
    }
}

struct Back<'a> {
    weight: &'a [f32],
    normed: &'a [f32],
    scale: f32,
    is_centred: bool,
    is_held: bool,
    add: bool,
    from: &'a [f32],
    to: &'a mut [f32],
}

impl WithSimd for Back<'_> {
    type Output = ();

    /// With `g = weight · cotangent`: `scale · (g − mean(g) − normed · mean(g · normed))`, the means where they are taken.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { weight, normed, .. } = self;
        let d = weight.len();
        for (from, to) in self.from.chunks_exact(d).zip(self.to.chunks_exact_mut(d)) {
            let (mean, along) = sums(from, weight, normed);
            let mean = if self.is_centred { mean / d as f32 } else { 0.0 };
            let along = if self.is_held { 0.0 } else { along / d as f32 };
            if !self.add {
                to.fill(0.0);
            }
            for (((to, from), weight), normed) in to.iter_mut().zip(from).zip(weight).zip(normed) {
                *to += self.scale * (from * weight - mean - normed * along);
            }
        }
    }
}

/// Σ a·b and Σ a·b·c, in lanes, so that the order of additions is one on all instruction sets.
#[inline(always)]
fn sums(a: &[f32], b: &[f32], c: &[f32]) -> (f32, f32) {
    const LANES: usize = 16;
    let (mut of_two, mut of_three) = ([0f32; LANES], [0f32; LANES]);
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let (c, c_rest) = c.as_chunks::<LANES>();
    for ((a, b), c) in a.iter().zip(b).zip(c) {
        for i in 0..LANES {
            of_two[i] += a[i] * b[i];
            of_three[i] += a[i] * b[i] * c[i];
        }
    }
    let (mut two, mut three) = (of_two.iter().sum::<f32>(), of_three.iter().sum::<f32>());
    for ((a, b), c) in a_rest.iter().zip(b_rest).zip(c_rest) {
        two += a * b;
        three += a * b * c;
    }
    (two, three)
}
