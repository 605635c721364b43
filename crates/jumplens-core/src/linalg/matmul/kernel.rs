//! One tile of a product, by whichever instructions the CPU has.

#[cfg(target_arch = "aarch64")]
use super::neon;
use super::packed::Form;
use super::portable;
#[cfg(target_arch = "x86_64")]
use super::x86;
use crate::linalg::Isa;

/// Rows of a tile.
pub const TILE_ROWS: usize = 8;
/// Columns of a tile.
pub const TILE_COLS: usize = 32;

/// The sums of a tile, `[TILE_ROWS, TILE_COLS]`.
#[derive(Clone)]
#[repr(align(64))]
pub struct Tile(pub(super) [[f32; TILE_COLS]; TILE_ROWS]);

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

/// Some cells of packed rows that are multiplied together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows<'a> {
    /// From the first cell of the first row on, panel behind panel.
    pub cells: &'a [u32],
    /// Cells from a panel to the next.
    pub panel: usize,
    /// How many rows there are.
    pub n: usize,
}

impl Rows<'_> {
    /// The first cell of a row; the next is [`TILE_ROWS`] behind it.
    #[cfg(target_arch = "x86_64")]
    pub fn row(self, row: usize) -> *const u32 {
        &raw const self.cells[row / TILE_ROWS * self.panel + row % TILE_ROWS]
    }
}

/// How tiles are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kernel {
    /// Any CPU, through whatever vector instructions the compiler takes for granted.
    Portable,
    /// `vfmadd231ps` on 256 bits.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// `vfmadd231ps` on 512 bits.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// `vdpbf16ps` on 512 bits.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// `fmla` on 128 bits.
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Kernel {
    /// The best one for rows of that form with the instructions in use: rows are pairs where there are instructions for them.
    pub fn current(form: Form) -> Self {
        match (Isa::current(), form) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, Form::Pairs) => Self::Avx512Bf16,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, _) => Self::Avx512,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, _) => Self::Avx2,
            #[cfg(target_arch = "aarch64")]
            (Isa::Neon, _) => Self::Neon,
            _ => Self::Portable,
        }
    }

    /// Cells of the inner dimension that are worked on at one time, an even number. On 512 bits a panel of weights is
    /// streamed; narrower registers load each weight more often, so that those in work have to stay in the first cache, of
    /// 32 kB.
    pub fn block_cells(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 | Self::Avx512Bf16 => 2048,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => 192,
            _ => 128,
        }
    }

    /// `tiles` become, or are added, the products of `rows` and `weights`, some cells of a panel `[cells, TILE_COLS]`: a
    /// tile for each panel of rows. Sums of rows that are not there are left as they are. `next` are the weights that will
    /// be wanted then.
    pub fn run(self, rows: Rows, weights: &[u32], next: &[u32], tiles: &mut [Tile], add: bool) {
        let cells = weights.len() / TILE_COLS;
        assert!(
            rows.n > 0 && weights.len() == cells * TILE_COLS && tiles.len() == rows.n.div_ceil(TILE_ROWS)
        );
        assert!(rows.cells.len() >= (tiles.len() - 1) * rows.panel + cells * TILE_ROWS);
        #[cfg(target_arch = "x86_64")]
        if self == Self::Avx2 {
            // SAFETY: this kernel exists only where the CPU has its instructions (`current`); sizes were just checked.
            return unsafe { x86::run_avx2(rows, weights, next, tiles, add) };
        }
        let _ = next;
        for (index, tile) in tiles.iter_mut().enumerate() {
            let row_cells = &rows.cells[index * rows.panel..][..cells * TILE_ROWS];
            let there = (rows.n - index * TILE_ROWS).min(TILE_ROWS);
            match self {
                Self::Portable => portable::run(row_cells, weights, tile, there, add),
                #[cfg(target_arch = "x86_64")]
                Self::Avx2 => {}
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Self::Avx512 => unsafe { x86::run_f32(row_cells, weights, tile, there, add) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Self::Avx512Bf16 => unsafe { x86::run_bf16(row_cells, weights, tile, there, add) },
                // SAFETY: as above.
                #[cfg(target_arch = "aarch64")]
                Self::Neon => unsafe { neon::run(row_cells, weights, tile, there, add) },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::packed::widen;
    use super::super::{Matrix, Packed, PackedRows, PackedWeights, Precision};
    use super::*;

    #[test]
    fn kernels_agree_for_every_number_of_rows() {
        crate::linalg::isa::testing::on_every(agree);
    }

    fn agree() {
        for precision in [Precision::F32, Precision::Bf16] {
            for k in [1, 2, 37, 300] {
                let values = |n: usize, seed: usize| -> Vec<f32> {
                    (0..n).map(|i| ((i * 7919 + seed) as f32 * 0.37).sin()).collect()
                };
                let n_rows = 3 * TILE_ROWS;
                let (a, b) = (values(n_rows * k, 1), values(TILE_COLS * k, 2));
                let packed: PackedRows = Packed::pack(Matrix::new(&a, n_rows, k), precision);
                let weights: PackedWeights = Packed::pack(Matrix::new(&b, TILE_COLS, k), precision);
                let (a, b) = (packed.unpack(), weights.unpack());
                let mut wide = Vec::new();
                let weights = match packed.form {
                    Form::Rounded => {
                        widen::<TILE_COLS>(weights.panel(0), &mut wide);
                        &wide[..k * TILE_COLS]
                    }
                    _ => weights.panel(0),
                };
                for n in 1..=n_rows {
                    let rows = Rows { cells: packed.panels(0), panel: packed.cells() * TILE_ROWS, n };
                    for kernel in [Kernel::Portable, Kernel::current(packed.form)] {
                        // The plain one has no pairs.
                        if kernel == Kernel::Portable && packed.form == Form::Pairs {
                            continue;
                        }
                        for add in [false, true] {
                            let three = Tile([[3.0; TILE_COLS]; TILE_ROWS]);
                            let mut tiles = vec![three; n.div_ceil(TILE_ROWS)];
                            kernel.run(rows, weights, weights, &mut tiles, add);
                            for (i, row) in tiles.iter().flat_map(|tile| &tile.0).enumerate() {
                                for (j, got) in row.iter().enumerate() {
                                    let products =
                                        || (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b[j * k + l]));
                                    let want = match i < n {
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
