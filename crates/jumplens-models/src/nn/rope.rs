//! Rotary position encoding (Su et al., arXiv 2104.09864), in the layout of `transformers`: the second half of a head's
//! rotated columns holds the partners of the first.

use super::{is_fusable, values};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// Turns pairs of a head's columns by angles in proportion to the row's position.
#[derive(Debug, Clone)]
pub struct Rope {
    /// Angle by position, of each pair of columns: `[rotated columns / 2]`.
    inv_freq: Vec<f32>,
    /// Width of a head; columns from twice the number of frequencies on are left alone.
    d_head: usize,
    /// What cosines and sines are multiplied by.
    scale: f32,
}

impl Rope {
    /// One frequency a pair of columns, in radians by position; `2 · inv_freq.len()` columns of each head of width
    /// `d_head` are turned.
    pub fn new(inv_freq: Vec<f32>, d_head: usize) -> Self {
        Self { inv_freq, d_head, scale: 1.0 }
    }

    /// The same, with cosines and sines times `scale`: YaRN's attention factor.
    pub fn scaled_by(self, scale: f32) -> Self {
        Self { scale, ..self }
    }

    /// Angle by position, in radians, of each pair of columns.
    pub fn inv_freq(&self) -> &[f32] {
        &self.inv_freq
    }

    /// What cosines and sines are multiplied by.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// The rows `x` `[n, heads · d_head]` at `positions` `[n]`: `[n, heads · d_head]`.
    pub fn forward(&self, x: &Tensor, positions: &[u32]) -> Result<Tensor> {
        if is_fusable(x) {
            x.apply_op1_no_bwd(&Turn { rope: self, positions })
        } else {
            self.forward_plain(x, positions)
        }
    }

    /// Cosine and sine, times the scale, of every pair of columns at the first `positions`: `[positions, rotated columns / 2]`.
    pub(super) fn turns(&self, positions: usize) -> Vec<(f32, f32)> {
        let turn = |position: usize, frequency: &f32| {
            let (sin, cos) = (position as f32 * frequency).sin_cos();
            (cos * self.scale, sin * self.scale)
        };
        let of = |position| self.inv_freq.iter().map(move |frequency| turn(position, frequency));
        (0..positions).flat_map(of).collect()
    }

    /// The plain twin of [`Rope::forward`].
    pub fn forward_plain(&self, x: &Tensor, positions: &[u32]) -> Result<Tensor> {
        let (n, width) = x.dims2()?;
        let half = self.inv_freq.len();
        let angles: Vec<f32> = positions
            .iter()
            .flat_map(|position| self.inv_freq.iter().map(|f| *position as f32 * f))
            .collect();
        let angles = Tensor::from_vec(angles, (n, 1, half), x.device())?.to_dtype(x.dtype())?;
        let scale = f64::from(self.scale);
        let (cos, sin) = ((angles.cos()? * scale)?, (angles.sin()? * scale)?);
        let heads = x.reshape((n, width / self.d_head, self.d_head))?;
        let first = heads.narrow(2, 0, half)?;
        let second = heads.narrow(2, half, half)?;
        let mut parts = vec![
            (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?,
            (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?,
        ];
        if 2 * half < self.d_head {
            parts.push(heads.narrow(2, 2 * half, self.d_head - 2 * half)?);
        }
        Tensor::cat(&parts, 2)?.reshape((n, width))
    }
}

struct Turn<'a> {
    rope: &'a Rope,
    positions: &'a [u32],
}

impl CustomOp1 for Turn<'_> {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, width) = layout.shape().dims2()?;
        let d_head = &self.rope.d_head;
        if self.positions.len() != n || !width.is_multiple_of(*d_head) {
            candle_core::bail!(
                "rope: {} positions and heads of {d_head} for {:?}",
                self.positions.len(),
                layout.shape()
            );
        }
        // Sequences are short beside a batch: each position's angles serve many rows, and all heads.
        let longest = self.positions.iter().max().map_or(0, |position| *position as usize + 1);
        let half = self.rope.inv_freq.len();
        let turns = self.rope.turns(longest);
        let mut out = values(x, layout)?.to_vec();
        out.par_chunks_mut(width).zip(self.positions).with_min_len(32).for_each(|(row, position)| {
            let turns = &turns[*position as usize * half..][..half];
            for head in row.chunks_exact_mut(*d_head) {
                let (first, second) = head.split_at_mut(half);
                for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(turns) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, random};
    use super::*;

    #[test]
    fn fused_equals_plain_for_whole_and_partly_turned_heads() {
        let positions: Vec<u32> = (0..50).map(|i| i * 7 % 23).collect();
        for (half, d_head) in [(8, 16), (4, 16)] {
            let rope = Rope::new((0..half).map(|i| 10f32.powi(-i)).collect(), d_head);
            let x = random(&[50, 3 * d_head], 1);
            let turned = rope.forward(&x, &positions).unwrap();
            assert_close(&turned, &rope.forward_plain(&x, &positions).unwrap(), 1e-6);
            assert_close(&rope.forward(&x, &[0; 50]).unwrap(), &x, 0.0);
            let scaled = rope.scaled_by(1.25);
            let turned = scaled.forward(&x, &positions).unwrap();
            assert_close(&turned, &scaled.forward_plain(&x, &positions).unwrap(), 1e-6);
        }
    }
}
