//! Tiles on the 128-bit registers of aarch64.

use super::kernel::{TILE_COLS, TILE_ROWS, Tile};
use std::arch::aarch64::*;

/// [`Kernel::run`](super::kernel::Kernel::run), of one tile: 16 sums at a time, of 8 rows and 2 registers of weights or, where there are
/// few rows, of 4 and 4.
///
/// # Safety
/// The panels hold `[cells, TILE_ROWS]` and `[cells, TILE_COLS]` cells.
pub(super) unsafe fn run(row_cells: &[u32], weight_cells: &[u32], tile: &mut Tile, rows: usize, add: bool) {
    // SAFETY: the caller's promise; every aarch64 CPU that Rust's standard library runs on has these instructions.
    unsafe {
        match rows > 4 {
            true => patches::<2, 2>(row_cells, weight_cells, tile, rows, add),
            false => patches::<1, 4>(row_cells, weight_cells, tile, rows, add),
        }
    }
}

/// The first 4 · `FOURS` rows in patches of `VECTORS` registers of columns.
///
/// # Safety
/// As above; `FOURS` is at most 2.
#[target_feature(enable = "neon")]
unsafe fn patches<const FOURS: usize, const VECTORS: usize>(
    row_cells: &[u32],
    weight_cells: &[u32],
    tile: &mut Tile,
    rows: usize,
    add: bool,
) {
    for first in (0..TILE_COLS).step_by(4 * VECTORS) {
        let mut sums = [[[vdupq_n_f32(0.0); VECTORS]; 4]; FOURS];
        // SAFETY: `first` is within a cell's columns.
        let (mut row, mut weight) = unsafe { (row_cells.as_ptr(), weight_cells.as_ptr().add(first)) };
        for _ in 0..weight_cells.len() / TILE_COLS {
            // SAFETY: within the panels, for as many cells as they hold.
            let (cells, weights): ([float32x4_t; FOURS], [float32x4_t; VECTORS]) = unsafe {
                (
                    std::array::from_fn(|four| vld1q_f32(row.add(4 * four).cast())),
                    std::array::from_fn(|v| vld1q_f32(weight.add(4 * v).cast())),
                )
            };
            step(&mut sums, cells, weights);
            // SAFETY: at most one past the end, but for `first`, which is within the last cell.
            (row, weight) = unsafe { (row.add(TILE_ROWS), weight.add(TILE_COLS)) };
        }
        for (out, sums) in tile.0[..rows].iter_mut().zip(sums.as_flattened()) {
            let out = out[first..].as_chunks_mut::<4>().0;
            for (out, sum) in out.iter_mut().zip(sums) {
                // SAFETY: `out` holds 4 values.
                unsafe {
                    let before = if add { vld1q_f32(out.as_ptr()) } else { vdupq_n_f32(0.0) };
                    vst1q_f32(out.as_mut_ptr(), vaddq_f32(before, *sum));
                }
            }
        }
    }
}

/// Adds what one value of the inner dimension brings: `rows` holds 4 rows a register, `weights` 4 columns.
#[inline]
#[target_feature(enable = "neon")]
fn step<const FOURS: usize, const VECTORS: usize>(
    sums: &mut [[[float32x4_t; VECTORS]; 4]; FOURS],
    rows: [float32x4_t; FOURS],
    weights: [float32x4_t; VECTORS],
) {
    for (sums, rows) in sums.iter_mut().zip(rows) {
        for (v, weights) in weights.into_iter().enumerate() {
            sums[0][v] = vfmaq_laneq_f32::<0>(sums[0][v], weights, rows);
            sums[1][v] = vfmaq_laneq_f32::<1>(sums[1][v], weights, rows);
            sums[2][v] = vfmaq_laneq_f32::<2>(sums[2][v], weights, rows);
            sums[3][v] = vfmaq_laneq_f32::<3>(sums[3][v], weights, rows);
        }
    }
}
