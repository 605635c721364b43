//! Tiles through `pulp`: AVX2, NEON, or no vector instructions at all.

use super::kernel::{TILE_COLS, TILE_ROWS, Tile};
use crate::nn::simd;
use pulp::{Simd, WithSimd};

/// [`Kernel::run`](super::kernel::Kernel::run), of one tile.
pub(super) fn run(row_cells: &[u32], weight_cells: &[u32], tile: &mut Tile, rows: usize, add: bool) {
    simd::dispatch(Sums { row_cells, weight_cells, tile, rows, add });
}

struct Sums<'a> {
    row_cells: &'a [u32],
    weight_cells: &'a [u32],
    tile: &'a mut Tile,
    rows: usize,
    add: bool,
}

impl WithSimd for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // As many registers as 16 columns take.
        match S::F32_LANES {
            16 => self.patches::<S, 1>(simd),
            8 => self.patches::<S, 2>(simd),
            4 => self.patches::<S, 4>(simd),
            _ => self.patches::<S, 16>(simd),
        }
    }
}

/// Rows of a patch: with the columns of [`Sums::with_simd`], its sums take half the registers of AVX2.
const PATCH_ROWS: usize = 4;

impl Sums<'_> {
    /// The tile in patches whose sums stay in registers: `N` of them wide.
    #[inline(always)]
    fn patches<S: Simd, const N: usize>(self, simd: S) {
        let width = N * S::F32_LANES;
        for first_row in (0..self.rows).step_by(PATCH_ROWS) {
            for first_col in (0..TILE_COLS).step_by(width) {
                let sums = self.patch::<S, N>(simd, first_row, first_col);
                let rows = self.tile.0[..self.rows].iter_mut().skip(first_row);
                for (out, sums) in rows.zip(sums) {
                    let out = S::as_mut_simd_f32s(&mut out[first_col..first_col + width]).0;
                    for (out, sum) in out.iter_mut().zip(sums) {
                        *out = if self.add { simd.add_f32s(*out, sum) } else { sum };
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn patch<S: Simd, const N: usize>(
        &self,
        simd: S,
        first_row: usize,
        first_col: usize,
    ) -> [[S::f32s; N]; PATCH_ROWS] {
        let width = N * S::F32_LANES;
        let mut sums = [[simd.splat_f32s(0.0); N]; PATCH_ROWS];
        let cells = self.row_cells.chunks_exact(TILE_ROWS).zip(self.weight_cells.chunks_exact(TILE_COLS));
        for (row, weights) in cells {
            let weights = S::as_simd_u32s(&weights[first_col..first_col + width]).0;
            for (sums, cell) in sums.iter_mut().zip(&row[first_row..]) {
                let cell = simd.splat_f32s(f32::from_bits(*cell));
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    *sum = simd.mul_add_e_f32s(cell, simd.transmute_f32s_u32s(*weights), *sum);
                }
            }
        }
        sums
    }
}
