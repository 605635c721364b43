//! One tile of a product, by whichever instructions the CPU has.

use super::Precision;
#[cfg(target_arch = "aarch64")]
use super::neon;
use super::portable;
#[cfg(target_arch = "x86_64")]
use super::x86;
use crate::nn::isa::Isa;

/// Rows of a tile.
pub(crate) const TILE_ROWS: usize = 8;
/// Columns of a tile.
pub(crate) const TILE_COLS: usize = 32;

/// The sums of a tile, `[TILE_ROWS, TILE_COLS]`.
#[derive(Clone)]
#[repr(align(64))]
pub(crate) struct Tile(pub(super) [[f32; TILE_COLS]; TILE_ROWS]);

impl Tile {
    pub(super) const ZERO: Self = Self([[0.0; TILE_COLS]; TILE_ROWS]);

    /// The first `rows` rows.
    pub fn rows(&self, rows: usize) -> impl Iterator<Item = &[f32; TILE_COLS]> {
        self.0[..rows].iter()
    }

    /// The values of the first `rows` rows, row by row.
    pub fn values_mut(&mut self, rows: usize) -> &mut [f32] {
        self.0[..rows].as_flattened_mut()
    }

    /// One row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.0[row]
    }
}

/// How tiles are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kernel {
    /// Any CPU, through whatever vector instructions the compiler takes for granted.
    Portable(Precision),
    /// `vfmadd231ps` on 256 bits.
    #[cfg(target_arch = "x86_64")]
    Avx2(Precision),
    /// `vfmadd231ps` on 512 bits.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// `vdpbf16ps` on 512 bits.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// `fmla` on 128 bits.
    #[cfg(target_arch = "aarch64")]
    Neon(Precision),
}

impl Kernel {
    /// The best one for factors of that precision with the instructions in use.
    pub fn current(precision: Precision) -> Self {
        match (Isa::current(), precision) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, Precision::F32) => Self::Avx512,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, Precision::Bf16) if x86::has_bf16() => Self::Avx512Bf16,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512 | Isa::Avx2, _) => Self::Avx2(precision),
            #[cfg(target_arch = "aarch64")]
            (Isa::Neon, _) => Self::Neon(precision),
            _ => Self::Portable(precision),
        }
    }

    /// Cells of the inner dimension that are worked on at one time. On 512 bits a panel of weights is streamed; narrower
    /// registers load each weight more often, so that those in work have to stay in the first cache, of 32 kB.
    pub fn block_cells(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 | Self::Avx512Bf16 => 2048,
            _ => 128,
        }
    }

    /// The first `rows` rows of `tile` become, or are added, the product of a panel of rows `[cells, TILE_ROWS]` and one
    /// of weights `[cells, TILE_COLS]`. The tile's other rows are left as they are.
    pub fn run(self, row_cells: &[u32], weight_cells: &[u32], tile: &mut Tile, rows: usize, add: bool) {
        let cells = weight_cells.len() / TILE_COLS;
        assert!(row_cells.len() == cells * TILE_ROWS && weight_cells.len() == cells * TILE_COLS);
        assert!((1..=TILE_ROWS).contains(&rows));
        match self {
            Self::Portable(precision) => portable::run(precision, row_cells, weight_cells, tile, rows, add),
            // SAFETY: these kernels exist only where the CPU has their instructions (`current`), and the panels were just
            // checked to have the sizes that they read.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(precision) => unsafe {
                x86::run_avx2(precision, row_cells, weight_cells, tile, rows, add)
            },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { x86::run_f32(row_cells, weight_cells, tile, rows, add) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => unsafe { x86::run_bf16(row_cells, weight_cells, tile, rows, add) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Self::Neon(precision) => unsafe {
                neon::run(precision, row_cells, weight_cells, tile, rows, add)
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Matrix, Packed, PackedRows, PackedWeights};
    use super::*;

    #[test]
    fn kernels_agree_for_every_number_of_rows() {
        crate::nn::isa::testing::on_every(agree);
    }

    fn agree() {
        for precision in [Precision::F32, Precision::Bf16] {
            for k in [1, 2, 37, 300] {
                let values = |n: usize, seed: usize| -> Vec<f32> {
                    (0..n).map(|i| ((i * 7919 + seed) as f32 * 0.37).sin()).collect()
                };
                let (a, b) = (values(TILE_ROWS * k, 1), values(TILE_COLS * k, 2));
                let rows: PackedRows = Packed::pack(Matrix::new(&a, TILE_ROWS, k), precision);
                let weights: PackedWeights = Packed::pack(Matrix::new(&b, TILE_COLS, k), precision);
                let (a, b) = (rows.unpack(), weights.unpack());
                for there in 1..=TILE_ROWS {
                    for kernel in [Kernel::Portable(precision), Kernel::current(precision)] {
                        for add in [false, true] {
                            let mut tile = Tile([[3.0; TILE_COLS]; TILE_ROWS]);
                            kernel.run(rows.panel(0), weights.panel(0), &mut tile, there, add);
                            for (i, row) in tile.0.iter().enumerate() {
                                for (j, got) in row.iter().enumerate() {
                                    let products =
                                        || (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b[j * k + l]));
                                    let want = match i < there {
                                        true => products().sum::<f64>() + if add { 3.0 } else { 0.0 },
                                        false => 3.0,
                                    };
                                    let size = 3.0 + products().map(f64::abs).sum::<f64>();
                                    let error = (f64::from(*got) - want).abs() / size;
                                    assert!(error < 2e-6, "{kernel:?} {k} at {i}, {j}: {got} against {want}");
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
