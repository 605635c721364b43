//! Back through feed-forward parts, gated or not.

use super::super::hidden::put;
use super::super::{Activation, FeedForward, GatedFeedForward, Linear, with_values};
use super::{Rule, Work, with_work};
use candle_core::{Result, Tensor};
use jumplens_core::linalg::matmul::{
    Matrix, Packed, PackedWeights, Precision, TILE_COLS, Write, tiles, write_tiles,
};
use jumplens_core::linalg::simd;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

/// A feed-forward part, to go back through. With a gate, `second(a(gate(x)) · up(x))`, the cotangents of the hidden units go
/// through `gate` and `up` as one: for all cotangents at a position the two are mixed with the same slopes, so that the rows
/// of one mixed weight are made, and multiplied with once.
pub(crate) struct BackFeedForward {
    /// Its lanes are hidden units.
    second: PackedWeights,
    /// Lanes are inputs. One, or that of the gate and that of what it gates.
    first: Vec<PackedWeights>,
    layers: Layers,
}

enum Layers {
    Plain(FeedForward),
    Gated(GatedFeedForward),
}

/// How the hidden units of some rows depend on what the first product gives, `[rows, hidden]` each.
pub(crate) struct FeedForwardTrace {
    /// Without a gate, slopes of the activation, then its ratios; with one, factors for the gate, then for what it gates.
    factors: [Vec<f32>; 2],
}

/// The weight of a layer `[out, in]` with its inputs as lanes.
fn turned(weight: &[f32], n_out: usize, n_in: usize) -> PackedWeights {
    Packed::pack(Matrix::new(weight, n_out, n_in).t(), Precision::F32)
}

/// See [`turned`].
pub(crate) fn turned_linear(layer: &Linear) -> PackedWeights {
    turned(&layer.weight().unpack(), layer.out_features(), layer.in_features())
}

impl BackFeedForward {
    pub fn plain(layer: &FeedForward) -> Self {
        let (first, second) = (vec![turned_linear(&layer.fc)], turned_linear(&layer.proj));
        Self { second, first, layers: Layers::Plain(layer.clone()) }
    }

    pub fn gated(layer: &GatedFeedForward) -> Self {
        let second = turned_linear(layer.down());
        let (hidden, d) = (second.lanes(), layer.gate_up().in_features());
        let both = layer.gate_up().weight().unpack();
        let of = |half: usize| {
            let rows = (0..hidden).flat_map(|unit| &both[GatedFeedForward::lane(half, unit) * d..][..d]);
            turned(&rows.copied().collect::<Vec<f32>>(), hidden, d)
        };
        Self { second, first: vec![of(0), of(1)], layers: Layers::Gated(layer.clone()) }
    }

    /// Of the rows `x` `[rows, d]`.
    pub fn trace(&self, x: &Tensor) -> Result<FeedForwardTrace> {
        let hidden = self.second.lanes();
        let (first, activation) = match &self.layers {
            Layers::Plain(layer) => (&layer.fc, layer.activation),
            Layers::Gated(layer) => (layer.gate_up(), layer.activation()),
        };
        let (lanes, is_gated) = (first.out_features(), matches!(self.layers, Layers::Gated(_)));
        let mut factors = [(); 2].map(|()| vec![0f32; x.dims2().map_or(0, |(rows, _)| rows) * hidden]);
        with_values(&first.forward(x)?, |z| {
            let [left, right] = &mut factors;
            let rows = left.par_chunks_mut(hidden).zip(right.par_chunks_mut(hidden)).zip(z.par_chunks(lanes));
            rows.for_each(|((left, right), z)| {
                for (unit, (left, right)) in left.iter_mut().zip(right).enumerate() {
                    (*left, *right) = match is_gated {
                        true => {
                            let [gate, up] = [0, 1].map(|half| z[GatedFeedForward::lane(half, unit)]);
                            (activation.slope(gate) * up, activation.ratio(gate) * gate)
                        }
                        false => (activation.slope(z[unit]), activation.ratio(z[unit])),
                    };
                }
            });
        })?;
        Ok(FeedForwardTrace { factors })
    }

    /// From the cotangents `from` `[n, d_out]` of the output of row `row`, to those of its input `[n, d_in]`, which `to`
    /// becomes or is added. On one thread.
    pub fn back(
        &self,
        trace: &FeedForwardTrace,
        row: usize,
        rule: Rule,
        from: &[f32],
        to: &mut [f32],
        write: Write,
    ) {
        let (hidden, n) = (self.second.lanes(), from.len() / self.second.depth());
        let factors = trace.factors.each_ref().map(|factors| &factors[row * hidden..][..hidden]);
        let is_gated = matches!(self.layers, Layers::Gated(_));
        // One weight for the way back, and what the hidden units' cotangents are multiplied with before it.
        let single = match (is_gated, rule) {
            (false, Rule::HeldScales) => Some((&self.first[0], factors[1])),
            (false, _) => Some((&self.first[0], factors[0])),
            (true, Rule::HeldScales) => Some((&self.first[1], factors[1])),
            (true, _) => None,
        };
        with_work(|Work { rows, next, panel, tiles: scratch, .. }| {
            rows.repack(Matrix::new(from, n, self.second.depth()), Precision::F32);
            next.reshape(n, hidden, Precision::F32);
            tiles(rows, 0..n, &self.second, 0..hidden, scratch, |place, tile| {
                if let Some((_, factors)) = single {
                    let factors = &factors[place.col..][..place.cols];
                    for values in tile.values_mut(place.rows).chunks_exact_mut(TILE_COLS) {
                        values.iter_mut().zip(factors).for_each(|(value, factor)| *value *= factor);
                    }
                }
                put(next, place, 1, tile);
            });
            if let Some((first, _)) = single {
                return write_tiles(to, write, next, 0..n, first, 0..first.lanes(), scratch);
            }
            let [gate, up] = &self.first[..] else { unreachable!("a gate comes with what it gates") };
            let d = gate.lanes();
            for (index, begin) in (0..d).step_by(TILE_COLS).enumerate() {
                let cols = TILE_COLS.min(d - begin);
                panel.reshape(cols, hidden, Precision::F32);
                let (gate, up, out) = (gate.panel(index), up.panel(index), panel.panel_mut(0));
                simd::dispatch(Mix { gate, up, factors, out });
                tiles(next, 0..n, panel, 0..cols, scratch, |place, tile| {
                    for (to, tile) in to.chunks_exact_mut(d).skip(place.row).zip(tile.rows(place.rows)) {
                        let to = &mut to[begin..][..cols];
                        match write {
                            Write::Replace => to.copy_from_slice(&tile[..cols]),
                            Write::Add => to.iter_mut().zip(tile).for_each(|(to, sum)| *to += sum),
                        }
                    }
                });
            }
        });
    }
}

/// A panel of `left · gate + right · up`, row by row of the weights `[hidden, d]`.
struct Mix<'a> {
    gate: &'a [u32],
    up: &'a [u32],
    factors: [&'a [f32]; 2],
    out: &'a mut [u32],
}

impl WithSimd for Mix<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let rows = self.gate.as_chunks::<TILE_COLS>().0.iter().zip(self.up.as_chunks::<TILE_COLS>().0);
        let factors = self.factors[0].iter().zip(self.factors[1]);
        let out = self.out.as_chunks_mut::<TILE_COLS>().0;
        for ((out, (gate, up)), (left, right)) in out.iter_mut().zip(rows).zip(factors) {
            for i in 0..TILE_COLS {
                out[i] = (left * f32::from_bits(gate[i]) + right * f32::from_bits(up[i])).to_bits();
            }
        }
    }
}

impl Activation {
    /// Its derivative at `z`.
    pub(crate) fn slope(self, z: f32) -> f32 {
        let z = f64::from(z);
        let slope = match self {
            Self::Relu => f64::from(u8::from(z > 0.0)),
            Self::Silu => {
                let sigmoid = 1.0 / (1.0 + (-z).exp());
                sigmoid * (1.0 + z * (1.0 - sigmoid))
            }
            Self::GeluNew => {
                let sigmoid = 1.0 / (1.0 + (-2.0 * inner(z)).exp());
                let slope = (2.0 / std::f64::consts::PI).sqrt() * (1.0 + 3.0 * 0.044715 * z * z);
                sigmoid * (1.0 + 2.0 * z * (1.0 - sigmoid) * slope)
            }
            Self::Gelu => {
                let density = (-0.5 * z * z).exp() / (2.0 * std::f64::consts::PI).sqrt();
                normal(z) + z * density
            }
        };
        slope as f32
    }

    /// `activation(z) / z`, continued where z is 0.
    fn ratio(self, z: f32) -> f32 {
        let z = f64::from(z);
        let ratio = match self {
            Self::Relu => f64::from(u8::from(z > 0.0)),
            Self::Silu => 1.0 / (1.0 + (-z).exp()),
            Self::GeluNew => 1.0 / (1.0 + (-2.0 * inner(z)).exp()),
            Self::Gelu => normal(z),
        };
        ratio as f32
    }
}

/// What the tanh of `gelu_new` is taken of.
fn inner(z: f64) -> f64 {
    (2.0 / std::f64::consts::PI).sqrt() * (z + 0.044715 * z * z * z)
}

/// The normal distribution function.
fn normal(z: f64) -> f64 {
    0.5 * (1.0 + candle_core::cpu::erf::erf_f64(z * std::f64::consts::FRAC_1_SQRT_2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_and_ratios_are_those_of_the_activation() {
        for activation in [Activation::Gelu, Activation::GeluNew, Activation::Relu, Activation::Silu] {
            let value = |z: f64| {
                let z = Tensor::new(&[z], &candle_core::Device::Cpu).unwrap();
                activation.forward_plain(&z).unwrap().to_vec1::<f64>().unwrap()[0]
            };
            for i in -60..60 {
                let z = f64::from(i) * 0.13 + 0.01;
                let slope = (value(z + 1e-5) - value(z - 1e-5)) / 2e-5;
                assert!(
                    (f64::from(activation.slope(z as f32)) - slope).abs() < 2e-6,
                    "{activation:?} at {z}"
                );
                let ratio = value(z) / z;
                assert!(
                    (f64::from(activation.ratio(z as f32)) - ratio).abs() < 2e-6,
                    "{activation:?} at {z}"
                );
            }
        }
    }
}
