//! Factors of products as the kernels read them.

use super::kernel::{TILE_COLS, TILE_ROWS};
#[cfg(target_arch = "x86_64")]
use super::x86;
use super::{Matrix, Precision};
#[cfg(target_arch = "x86_64")]
use crate::linalg::Isa;
use crate::linalg::simd;
use half::bf16;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

/// The rows of a left factor.
pub type PackedRows = Packed<TILE_ROWS>;
/// The columns of a right factor.
pub type PackedWeights = Packed<TILE_COLS>;

/// How the values of a lane stand in its cells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Form {
    /// An f32 each.
    #[default]
    Single,
    /// Two bf16 each, which follow one another along the inner dimension, the first in the low half.
    Pairs,
    /// An f32 each, rounded to what bf16 has: rows for CPUs that cannot multiply bf16, which widen weights as they are used.
    Rounded,
}

impl Form {
    /// Cells that `values` values along the inner dimension take.
    pub fn cells(self, values: usize) -> usize {
        match self {
            Self::Single | Self::Rounded => values,
            Self::Pairs => values.div_ceil(2),
        }
    }
}

/// Rows of a left factor, or columns of a right one (lanes, either way), in panels of `WIDTH`. A panel holds its lanes'
/// cells side by side, `[cells, WIDTH]`. Lanes and values that are not there are zero.
#[derive(Debug, Clone, Default)]
pub struct Packed<const WIDTH: usize> {
    cells: Vec<u32>,
    /// How many lanes there are.
    pub(super) lanes: usize,
    /// Values in a lane: the inner dimension.
    pub(super) depth: usize,
    /// Of each cell.
    pub(super) form: Form,
}

/// The bits of an f32 that is `value` rounded to bf16.
fn rounded(value: f32) -> u32 {
    u32::from(bf16::from_f32(value).to_bits()) << 16
}

/// Widens cells `[cells, WIDTH]` of [`Form::Pairs`] to `[values, WIDTH]` of [`Form::Rounded`], two values a cell. `WIDTH` is a
/// multiple of 16.
pub(super) fn widen<const WIDTH: usize>(pairs: &[u32], out: &mut Vec<u32>) {
    // What is there is overwritten.
    out.resize(2 * pairs.len(), 0);
    simd::dispatch(Widen::<WIDTH> { pairs, out });
}

struct Widen<'a, const WIDTH: usize> {
    pairs: &'a [u32],
    out: &'a mut [u32],
}

impl<const WIDTH: usize> WithSimd for Widen<'_, WIDTH> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (sixteen, high_half) = (simd.splat_u32s(16), simd.splat_u32s(0xffff_0000));
        let out = self.out.as_chunks_mut::<WIDTH>().0.as_chunks_mut::<2>().0;
        for (cells, [low, high]) in self.pairs.as_chunks::<WIDTH>().0.iter().zip(out) {
            let (low, high) = (S::as_mut_simd_u32s(low).0, S::as_mut_simd_u32s(high).0);
            for ((cells, low), high) in S::as_simd_u32s(cells).0.iter().zip(low).zip(high) {
                *low = simd.wrapping_dyn_shl_u32s(*cells, sixteen);
                *high = simd.and_u32s(*cells, high_half);
            }
        }
    }
}

fn cell_of_pair(first: f32, second: f32) -> u32 {
    u32::from(bf16::from_f32(first).to_bits()) | u32::from(bf16::from_f32(second).to_bits()) << 16
}

impl<const WIDTH: usize> Packed<WIDTH> {
    /// The form of factors of that precision. Weights of bf16 are pairs on every CPU, so that they take half the memory.
    fn form_of(precision: Precision) -> Form {
        match precision {
            Precision::F32 => Form::Single,
            Precision::Bf16 if WIDTH == TILE_ROWS && !precision.is_native() => Form::Rounded,
            Precision::Bf16 => Form::Pairs,
        }
    }

    /// The rows of `lanes` `[lanes, depth]`.
    pub fn pack(lanes: Matrix, precision: Precision) -> Self {
        let mut packed = Self::default();
        packed.reshape(lanes.rows, lanes.cols, precision);
        let (panel, form) = (packed.cells() * WIDTH, packed.form);
        if panel == 0 {
            return packed;
        }
        let fill = |(index, out): (usize, &mut [u32])| {
            let there = index * WIDTH..((index + 1) * WIDTH).min(lanes.rows);
            match (lanes.col_stride, form) {
                (1, _) => pack_rows::<WIDTH>(lanes, there, out, form),
                (_, Form::Single) if lanes.row_stride == 1 => {
                    for (j, out) in out.chunks_exact_mut(WIDTH).enumerate() {
                        let values = &lanes.values[j * lanes.col_stride..][there.clone()];
                        out.iter_mut().zip(values).for_each(|(out, value)| *out = value.to_bits());
                    }
                }
                _ => pack_any::<WIDTH>(lanes, there, out, form),
            }
        };
        packed.cells.par_chunks_mut(panel).with_min_len(8).enumerate().for_each(fill);
        packed
    }

    /// Becomes the rows of `lanes`, whose values lie row by row, in the memory that is there.
    pub fn repack(&mut self, lanes: Matrix, precision: Precision) {
        assert_eq!(lanes.col_stride, 1);
        self.reshape(lanes.rows, lanes.cols, precision);
        let (panel, form) = (self.cells() * WIDTH, self.form);
        for (index, out) in self.cells.chunks_exact_mut(panel.max(1)).enumerate() {
            let there = index * WIDTH..((index + 1) * WIDTH).min(lanes.rows);
            pack_rows::<WIDTH>(lanes, there, out, form);
        }
    }

    /// Becomes as many lanes of whatever values, in the memory that is there.
    pub fn reshape(&mut self, lanes: usize, depth: usize, precision: Precision) {
        let form = Self::form_of(precision);
        self.cells.resize(lanes.div_ceil(WIDTH) * WIDTH * form.cells(depth), 0);
        (self.lanes, self.depth, self.form) = (lanes, depth, form);
    }

    /// What values are rounded to.
    pub fn precision(&self) -> Precision {
        match self.form {
            Form::Single => Precision::F32,
            Form::Pairs | Form::Rounded => Precision::Bf16,
        }
    }

    /// Cells of a lane.
    pub fn cells(&self) -> usize {
        self.form.cells(self.depth)
    }

    /// How many lanes there are.
    pub fn lanes(&self) -> usize {
        self.lanes
    }

    /// Values in a lane: the inner dimension.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// How values stand in cells.
    pub fn form(&self) -> Form {
        self.form
    }

    /// The panels from `first` on, one behind the other.
    pub fn panels(&self, first: usize) -> &[u32] {
        &self.cells[first * self.cells() * WIDTH..]
    }

    /// The same, to be filled.
    pub fn panels_mut(&mut self, first: usize) -> &mut [u32] {
        let panel = self.cells() * WIDTH;
        &mut self.cells[first * panel..]
    }

    /// One panel, `[cells, WIDTH]`.
    pub fn panel(&self, index: usize) -> &[u32] {
        let panel = self.cells() * WIDTH;
        &self.cells[index * panel..][..panel]
    }

    /// One panel, to be filled.
    pub fn panel_mut(&mut self, index: usize) -> &mut [u32] {
        let panel = self.cells() * WIDTH;
        &mut self.cells[index * panel..][..panel]
    }

    /// The values, row-major `[lanes, depth]`; those of bf16 as they were rounded.
    pub fn unpack(&self) -> Vec<f32> {
        let mut out = vec![0f32; self.lanes * self.depth];
        if out.is_empty() {
            return out;
        }
        out.par_chunks_mut(self.depth).enumerate().for_each(|(lane, out)| {
            let cells = self.panel(lane / WIDTH).iter().skip(lane % WIDTH).step_by(WIDTH);
            match self.form {
                Form::Single | Form::Rounded => {
                    out.iter_mut().zip(cells).for_each(|(out, cell)| *out = f32::from_bits(*cell))
                }
                Form::Pairs => {
                    for (out, cell) in out.chunks_mut(2).zip(cells) {
                        let halves = [cell << 16, cell & 0xffff_0000];
                        out.iter_mut().zip(halves).for_each(|(out, half)| *out = f32::from_bits(half));
                    }
                }
            }
        });
        out
    }
}

/// A panel of lanes that are rows of contiguous values.
fn pack_rows<const WIDTH: usize>(lanes: Matrix, there: std::ops::Range<usize>, out: &mut [u32], form: Form) {
    let zeros = vec![0f32; if there.len().is_multiple_of(8) { 0 } else { lanes.cols }];
    for (group, first) in there.clone().step_by(8).enumerate() {
        let lane = |i: usize| match first + i < there.end {
            true => &lanes.values[(first + i) * lanes.row_stride..][..lanes.cols],
            false => zeros.as_slice(),
        };
        pack_lanes(std::array::from_fn(lane), &mut out[group * 8..], WIDTH, form);
    }
}

/// Packs 8 lanes of the same length: cell `c` of lane `i` goes to `out[c · stride + i]`.
pub fn pack_lanes(lanes: [&[f32]; 8], out: &mut [u32], stride: usize, form: Form) {
    #[cfg(target_arch = "x86_64")]
    let done = match (form, Isa::current()) {
        // SAFETY: what is in use is there.
        (Form::Single, Isa::Avx2 | Isa::Avx512) => unsafe { x86::transpose_f32::<false>(lanes, out, stride) },
        // SAFETY: as above.
        (Form::Rounded, Isa::Avx2 | Isa::Avx512) => unsafe { x86::transpose_f32::<true>(lanes, out, stride) },
        // SAFETY: the CPU was just found to have the instructions.
        (Form::Pairs, Isa::Avx512) if x86::has_bf16() => unsafe { x86::transpose_bf16(lanes, out, stride) },
        // SAFETY: what is in use is there.
        (Form::Pairs, Isa::Avx2 | Isa::Avx512) => unsafe { x86::transpose_bf16_avx2(lanes, out, stride) },
        _ => 0,
    };
    #[cfg(not(target_arch = "x86_64"))]
    let done = 0;
    pack_lanes_plain(lanes, done, out, stride, form);
}

/// The plain twin of [`pack_lanes`], from value `done` of each lane on, an even number.
fn pack_lanes_plain(lanes: [&[f32]; 8], done: usize, out: &mut [u32], stride: usize, form: Form) {
    let first = form.cells(done);
    for (i, lane) in lanes.into_iter().enumerate() {
        let out = out[i..].iter_mut().step_by(stride).skip(first);
        let values = &lane[done..];
        match form {
            Form::Single => out.zip(values).for_each(|(out, value)| *out = value.to_bits()),
            Form::Rounded => out.zip(values).for_each(|(out, value)| *out = rounded(*value)),
            Form::Pairs => {
                for (out, pair) in out.zip(values.chunks(2)) {
                    *out = cell_of_pair(pair[0], pair.get(1).copied().unwrap_or(0.0));
                }
            }
        }
    }
}

/// A panel of lanes that lie in any way.
fn pack_any<const WIDTH: usize>(lanes: Matrix, there: std::ops::Range<usize>, out: &mut [u32], form: Form) {
    for (i, lane) in there.enumerate() {
        let value = |j: usize| lanes.values[lane * lanes.row_stride + j * lanes.col_stride];
        for (c, out) in out[i..].iter_mut().step_by(WIDTH).enumerate() {
            *out = match form {
                Form::Single => value(c).to_bits(),
                Form::Rounded => rounded(value(c)),
                Form::Pairs => {
                    cell_of_pair(value(2 * c), if 2 * c + 1 < lanes.cols { value(2 * c + 1) } else { 0.0 })
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * 0.7).sin() * 10f32.powi(i as i32 % 7 - 3)).collect()
    }

    fn rounded(values: &[f32], precision: Precision) -> Vec<f32> {
        match precision {
            Precision::F32 => values.to_vec(),
            Precision::Bf16 => values.iter().map(|value| bf16::from_f32(*value).to_f32()).collect(),
        }
    }

    #[test]
    fn what_is_packed_is_unpacked_from_either_layout() {
        for precision in [Precision::F32, Precision::Bf16] {
            for (lanes, depth) in [(1, 1), (8, 16), (33, 7), (70, 53), (64, 32)] {
                let x = values(lanes * depth);
                let x_t: Vec<f32> = (0..lanes * depth).map(|i| x[(i % lanes) * depth + i / lanes]).collect();
                let want = rounded(&x, precision);
                for matrix in [Matrix::new(&x, lanes, depth), Matrix::new(&x_t, depth, lanes).t()] {
                    assert_eq!(PackedRows::pack(matrix, precision).unpack(), want);
                    assert_eq!(PackedWeights::pack(matrix, precision).unpack(), want);
                }
            }
        }
    }

    #[test]
    fn vector_packing_equals_plain() {
        crate::linalg::isa::testing::on_every(packing_equals_plain);
    }

    fn packing_equals_plain() {
        for form in [Form::Single, Form::Pairs, Form::Rounded] {
            for length in [1, 15, 16, 100] {
                let x = values(8 * length);
                let lanes: [&[f32]; 8] = std::array::from_fn(|i| &x[i * length..][..length]);
                for stride in [8, 32] {
                    let mut fast = vec![0; stride * form.cells(length)];
                    let mut plain = fast.clone();
                    pack_lanes(lanes, &mut fast, stride, form);
                    pack_lanes_plain(lanes, 0, &mut plain, stride, form);
                    assert_eq!(fast, plain);
                }
            }
        }
    }

    #[test]
    fn pairs_are_widened_to_what_is_rounded() {
        crate::linalg::isa::testing::on_every(|| {
            let (x, mut wide) = (values(8 * 26), Vec::new());
            let lanes: [&[f32]; 8] = std::array::from_fn(|i| &x[i * 26..][..26]);
            let (mut pairs, mut rounded) = (vec![0; 32 * 13], vec![0; 32 * 26]);
            pack_lanes(lanes, &mut pairs[16..], 32, Form::Pairs);
            pack_lanes(lanes, &mut rounded[16..], 32, Form::Rounded);
            widen::<32>(&pairs, &mut wide);
            assert_eq!(wide, rounded);
        });
    }
}
