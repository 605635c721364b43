//! Factors of products as the kernels read them.

use super::kernel::{TILE_COLS, TILE_ROWS};
#[cfg(target_arch = "x86_64")]
use super::x86;
use super::{Matrix, Precision};
#[cfg(target_arch = "x86_64")]
use crate::nn::isa::Isa;
use half::bf16;
use rayon::prelude::*;

/// The rows of a left factor.
pub(crate) type PackedRows = Packed<TILE_ROWS>;
/// The columns of a right factor.
pub(crate) type PackedWeights = Packed<TILE_COLS>;

/// Rows of a left factor, or columns of a right one (lanes, either way), in panels of `WIDTH`. A panel holds its lanes'
/// cells side by side, `[cells, WIDTH]`: a cell is one f32, or two bf16 that follow one another along the inner
/// dimension, the first in the low half. Lanes and values that are not there are zero.
#[derive(Debug, Clone, Default)]
pub(crate) struct Packed<const WIDTH: usize> {
    cells: Vec<u32>,
    /// How many lanes there are.
    pub lanes: usize,
    /// Values in a lane: the inner dimension.
    pub depth: usize,
    /// Of each value.
    pub precision: Precision,
}

fn cell_of_pair(first: f32, second: f32) -> u32 {
    u32::from(bf16::from_f32(first).to_bits()) | u32::from(bf16::from_f32(second).to_bits()) << 16
}

impl<const WIDTH: usize> Packed<WIDTH> {
    /// The rows of `lanes` `[lanes, depth]`.
    pub fn pack(lanes: Matrix, precision: Precision) -> Self {
        let mut packed = Self::default();
        packed.reshape(lanes.rows, lanes.cols, precision);
        let panel = packed.cells() * WIDTH;
        if panel == 0 {
            return packed;
        }
        let fill = |(index, out): (usize, &mut [u32])| {
            let there = index * WIDTH..((index + 1) * WIDTH).min(lanes.rows);
            match (lanes.col_stride, precision) {
                (1, _) => pack_rows::<WIDTH>(lanes, there, out, precision),
                (_, Precision::F32) if lanes.row_stride == 1 => {
                    for (j, out) in out.chunks_exact_mut(WIDTH).enumerate() {
                        let values = &lanes.values[j * lanes.col_stride..][there.clone()];
                        out.iter_mut().zip(values).for_each(|(out, value)| *out = value.to_bits());
                    }
                }
                _ => pack_any::<WIDTH>(lanes, there, out, precision),
            }
        };
        packed.cells.par_chunks_mut(panel).with_min_len(8).enumerate().for_each(fill);
        packed
    }

    /// Becomes the rows of `lanes`, whose values lie row by row, in the memory that is there.
    pub fn repack(&mut self, lanes: Matrix, precision: Precision) {
        assert_eq!(lanes.col_stride, 1);
        self.reshape(lanes.rows, lanes.cols, precision);
        let panel = self.cells() * WIDTH;
        for (index, out) in self.cells.chunks_exact_mut(panel.max(1)).enumerate() {
            let there = index * WIDTH..((index + 1) * WIDTH).min(lanes.rows);
            pack_rows::<WIDTH>(lanes, there, out, precision);
        }
    }

    /// Becomes as many lanes of whatever values, in the memory that is there.
    pub fn reshape(&mut self, lanes: usize, depth: usize, precision: Precision) {
        self.cells.resize(lanes.div_ceil(WIDTH) * WIDTH * precision.cells(depth), 0);
        (self.lanes, self.depth, self.precision) = (lanes, depth, precision);
    }

    /// Cells of a lane.
    pub fn cells(&self) -> usize {
        self.precision.cells(self.depth)
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
            match self.precision {
                Precision::F32 => {
                    out.iter_mut().zip(cells).for_each(|(out, cell)| *out = f32::from_bits(*cell))
                }
                Precision::Bf16 => {
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
fn pack_rows<const WIDTH: usize>(
    lanes: Matrix,
    there: std::ops::Range<usize>,
    out: &mut [u32],
    precision: Precision,
) {
    let zeros = vec![0f32; if there.len().is_multiple_of(8) { 0 } else { lanes.cols }];
    for (group, first) in there.clone().step_by(8).enumerate() {
        let lane = |i: usize| match first + i < there.end {
            true => &lanes.values[(first + i) * lanes.row_stride..][..lanes.cols],
            false => zeros.as_slice(),
        };
        pack_lanes(std::array::from_fn(lane), &mut out[group * 8..], WIDTH, precision);
    }
}

/// Packs 8 lanes of the same length: cell `c` of lane `i` goes to `out[c · stride + i]`.
pub(crate) fn pack_lanes(lanes: [&[f32]; 8], out: &mut [u32], stride: usize, precision: Precision) {
    #[cfg(target_arch = "x86_64")]
    let done = match (precision, Isa::current()) {
        // SAFETY: what is in use is there.
        (Precision::F32, Isa::Avx2 | Isa::Avx512) => unsafe { x86::transpose_f32(lanes, out, stride) },
        // SAFETY: the CPU was just found to have the instructions.
        (Precision::Bf16, Isa::Avx512) if x86::has_bf16() => unsafe {
            x86::transpose_bf16(lanes, out, stride)
        },
        // SAFETY: as above.
        (Precision::Bf16, Isa::Avx2 | Isa::Avx512) => unsafe { x86::transpose_bf16_avx2(lanes, out, stride) },
        _ => 0,
    };
    #[cfg(not(target_arch = "x86_64"))]
    let done = 0;
    pack_lanes_plain(lanes, done, out, stride, precision);
}

/// The plain twin of [`pack_lanes`], from value `done` of each lane on, an even number.
fn pack_lanes_plain(lanes: [&[f32]; 8], done: usize, out: &mut [u32], stride: usize, precision: Precision) {
    let first = precision.cells(done);
    for (i, lane) in lanes.into_iter().enumerate() {
        let out = out[i..].iter_mut().step_by(stride).skip(first);
        let values = &lane[done..];
        match precision {
            Precision::F32 => out.zip(values).for_each(|(out, value)| *out = value.to_bits()),
            Precision::Bf16 => {
                for (out, pair) in out.zip(values.chunks(2)) {
                    *out = cell_of_pair(pair[0], pair.get(1).copied().unwrap_or(0.0));
                }
            }
        }
    }
}

/// A panel of lanes that lie in any way.
fn pack_any<const WIDTH: usize>(
    lanes: Matrix,
    there: std::ops::Range<usize>,
    out: &mut [u32],
    precision: Precision,
) {
    for (i, lane) in there.enumerate() {
        let value = |j: usize| lanes.values[lane * lanes.row_stride + j * lanes.col_stride];
        for (c, out) in out[i..].iter_mut().step_by(WIDTH).enumerate() {
            *out = match precision {
                Precision::F32 => value(c).to_bits(),
                Precision::Bf16 => {
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
        crate::nn::isa::testing::on_every(packing_equals_plain);
    }

    fn packing_equals_plain() {
        for precision in [Precision::F32, Precision::Bf16] {
            for length in [1, 15, 16, 100] {
                let x = values(8 * length);
                let lanes: [&[f32]; 8] = std::array::from_fn(|i| &x[i * length..][..length]);
                for stride in [8, 32] {
                    let mut fast = vec![0; stride * precision.cells(length)];
                    let mut plain = fast.clone();
                    pack_lanes(lanes, &mut fast, stride, precision);
                    pack_lanes_plain(lanes, 0, &mut plain, stride, precision);
                    assert_eq!(fast, plain);
                }
            }
        }
    }
}
