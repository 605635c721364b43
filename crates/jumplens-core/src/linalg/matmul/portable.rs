//! Tiles by whatever vector instructions the compiler takes for granted: 128 bits on x86-64 and on aarch64.

use super::kernel::{TILE_COLS, TILE_ROWS, Tile};

/// Rows of a patch of a tile.
const PATCH_ROWS: usize = 4;
/// Columns of a patch: its sums take half of 16 registers of 128 bits.
const PATCH_COLS: usize = 8;

/// [`Kernel::run`](super::kernel::Kernel::run), of one tile, patch by patch, so that sums stay in registers.
pub(super) fn run(row_cells: &[u32], weight_cells: &[u32], tile: &mut Tile, rows: usize, add: bool) {
    for first_row in (0..rows).step_by(PATCH_ROWS) {
        for first_col in (0..TILE_COLS).step_by(PATCH_COLS) {
            let sums = patch(row_cells, weight_cells, first_row, first_col);
            let rows = tile.0[..rows].iter_mut().skip(first_row);
            for (out, sums) in rows.zip(sums) {
                for (out, sum) in out[first_col..].iter_mut().zip(sums) {
                    *out = if add { *out + sum } else { sum };
                }
            }
        }
    }
}

/// Loops of fixed length, which the compiler turns into vector code.
#[inline(always)]
fn patch(
    row_cells: &[u32],
    weight_cells: &[u32],
    first_row: usize,
    first_col: usize,
) -> [[f32; PATCH_COLS]; PATCH_ROWS] {
    let mut sums = [[0f32; PATCH_COLS]; PATCH_ROWS];
    let rows = row_cells.as_chunks::<TILE_ROWS>().0;
    for (row, weights) in rows.iter().zip(weight_cells.as_chunks::<TILE_COLS>().0) {
        let weights = &weights[first_col..first_col + PATCH_COLS];
        for (sums, cell) in sums.iter_mut().zip(&row[first_row..first_row + PATCH_ROWS]) {
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum += f32::from_bits(*cell) * f32::from_bits(*weight);
            }
        }
    }
    sums
}
