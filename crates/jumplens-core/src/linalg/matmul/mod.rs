//! The one place where matrices are multiplied in single precision or less.
//!
//! A product `rows · weights` is made of tiles of [`TILE_ROWS`] × [`TILE_COLS`] sums, each kept in registers over the
//! whole inner dimension (Goto and van de Geijn, *Anatomy of High-Performance Matrix Multiplication*, 2008). For that
//! both factors are [`Packed`]: weights once, when a layer is made; rows when they are multiplied. What becomes of a
//! finished tile is up to the caller, so that biases, activations and the packing for the next product cost no pass over
//! memory of their own.

mod kernel;
#[cfg(target_arch = "aarch64")]
mod neon;
mod packed;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use kernel::{TILE_COLS, TILE_ROWS, Tile};
pub use packed::{Form, Packed, PackedRows, PackedWeights, pack_lanes};

#[cfg(target_arch = "x86_64")]
use crate::linalg::Isa;
use kernel::{Kernel, Rows};
use packed::widen;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::ops::Range;

/// What the factors of a product are rounded to. Sums, and all that is not a product, are f32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Not at all.
    #[default]
    F32,
    /// To bfloat16, 8 significant bits.
    Bf16,
}

/// As the command line and the manifest have it.
impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}

impl Precision {
    /// True where there are instructions in use for products in it; where there are none, factors are widened to f32 as
    /// they are multiplied.
    pub fn is_native(self) -> bool {
        match self {
            Self::F32 => true,
            #[cfg(target_arch = "x86_64")]
            Self::Bf16 => Isa::current() == Isa::Avx512 && x86::has_bf16(),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Bf16 => false,
        }
    }
}

/// A matrix seen in a slice.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// `values` as a row-major `[rows, cols]` matrix.
    pub fn new(values: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(values.len(), rows * cols);
        Self { values, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// How many rows there are.
    pub fn n_rows(&self) -> usize {
        self.rows
    }

    /// How many columns there are.
    pub fn n_cols(&self) -> usize {
        self.cols
    }

    /// Some of its rows.
    pub fn rows(self, rows: Range<usize>) -> Self {
        let values = if rows.is_empty() { &[] } else { &self.values[rows.start * self.row_stride..] };
        Self { values, rows: rows.len(), ..self }
    }

    /// The transpose, without moving anything.
    pub fn t(self) -> Self {
        Self {
            values: self.values,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }
}

/// What becomes of the values that are in the output already.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// They are overwritten.
    Replace,
    /// The product is added to them.
    Add,
}

/// `out = a·b` or `out += a·b`, `out` row-major `[a.rows, b.cols]`, for factors that are multiplied only once.
pub fn matmul(out: &mut [f32], write: Write, a: Matrix, b: Matrix) {
    let (a, b) = (Packed::pack(a, Precision::F32), Packed::pack(b.t(), Precision::F32));
    product(out, write, &a, &b, 0..b.lanes);
}

/// `out = rows·weights[.., cols]` or `out += …`, `out` row-major `[rows, cols]`, for rows that are multiplied more than
/// once. `cols` starts at a multiple of [`TILE_COLS`].
pub fn product(
    out: &mut [f32],
    write: Write,
    rows: &PackedRows,
    weights: &PackedWeights,
    cols: Range<usize>,
) {
    let width = cols.len();
    if is_wide(rows.lanes, rows.depth, width) {
        return by_columns(out, width, TILE_COLS, |share, out, scratch| {
            let all = cols.start + share.start..cols.start + share.end;
            write_tiles(out, write, rows, 0..rows.lanes, weights, all, scratch);
        });
    }
    by_blocks(out, width, rows.lanes, rows.precision(), |block, out, scratch| {
        write_tiles(out, write, rows, block, weights, cols.clone(), &mut scratch.tiles);
    });
}

/// [`product`] for some of the rows, from a multiple of [`TILE_ROWS`] on, on one thread.
pub fn write_tiles(
    out: &mut [f32],
    write: Write,
    rows: &PackedRows,
    block: Range<usize>,
    weights: &PackedWeights,
    cols: Range<usize>,
    scratch: &mut Tiles,
) {
    let width = cols.len();
    tiles(rows, block, weights, cols, scratch, |place, tile| {
        for (out, tile) in out.chunks_exact_mut(width).skip(place.row).zip(tile.rows(place.rows)) {
            let out = &mut out[place.col..place.col + place.cols];
            match write {
                Write::Replace => out.copy_from_slice(&tile[..place.cols]),
                Write::Add => out.iter_mut().zip(tile).for_each(|(out, sum)| *out += sum),
            }
        }
    });
}

/// Rows that are taken through all of the weights together: few enough to stay in a core's cache beside a panel of them.
const BLOCK_ROWS: usize = 96;
/// The same where weights are widened for every block: that is less often, and rows come from a cache further away.
const BLOCK_ROWS_WIDENED: usize = 2 * BLOCK_ROWS;

/// What a thread keeps between products.
#[derive(Default)]
pub struct Scratch {
    /// For a block of the left factor's rows.
    pub rows: PackedRows,
    /// For what the next product has on its left.
    pub next: PackedRows,
    /// For [`tiles`].
    pub tiles: Tiles,
}

/// What [`tiles`] keeps between products.
#[derive(Default)]
pub struct Tiles {
    /// One for each panel of rows.
    tiles: Vec<Tile>,
    /// Weights that were widened.
    wide: Vec<u32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Cuts `n` rows, multiplied in `precision`, into blocks (of a multiple of [`TILE_ROWS`], but for the last) and `out`,
/// row-major `[n, width]`, with them, and does them on all threads of the current pool. `work` gets the rows' numbers, and spreads over no threads itself.
pub fn by_blocks(
    out: &mut [f32],
    width: usize,
    n: usize,
    precision: Precision,
    work: impl Fn(Range<usize>, &mut [f32], &mut Scratch) + Sync,
) {
    assert_eq!(out.len(), n * width);
    if out.is_empty() {
        return;
    }
    let most = if precision.is_native() { BLOCK_ROWS } else { BLOCK_ROWS_WIDENED };
    let share = n.div_ceil(rayon::current_num_threads());
    // As many blocks for each thread, and no larger than need be.
    let block = share.div_ceil(share.div_ceil(most)).next_multiple_of(TILE_ROWS);
    out.par_chunks_mut(block * width).enumerate().for_each(|(index, out)| {
        let rows = index * block..index * block + out.len() / width;
        SCRATCH.with_borrow_mut(|scratch| work(rows, out, scratch));
    });
}

/// Multiplications below which threads that wait for one another cost more than they save.
const SHARED: usize = 1 << 17;

/// True where columns are to be dealt out to threads ([`by_columns`]), and not rows ([`by_blocks`]): for one panel of rows at
/// most, and products that are worth it.
pub fn is_wide(rows: usize, depth: usize, cols: usize) -> bool {
    (1..=TILE_ROWS).contains(&rows) && rayon::current_num_threads() > 1 && rows * depth * cols >= SHARED
}

/// Cuts the columns of `out`, row-major `[n, width]`, into a share for each thread of the current pool, from multiples of
/// `step` on, and does them. `work` gets the columns' numbers, and what is there, row-major `[n, columns]`, to be changed; it
/// spreads over no threads itself.
pub fn by_columns(
    out: &mut [f32],
    width: usize,
    step: usize,
    work: impl Fn(Range<usize>, &mut [f32], &mut Tiles) + Sync,
) {
    let share = width.div_ceil(step).div_ceil(rayon::current_num_threads()) * step;
    let shares: Vec<Range<usize>> =
        (0..width).step_by(share).map(|first| first..(first + share).min(width)).collect();
    let before: &[f32] = out;
    let one = |cols: Range<usize>| {
        let rows = before.chunks_exact(width);
        let mut part: Vec<f32> = rows.flat_map(|row| &row[cols.clone()]).copied().collect();
        SCRATCH.with_borrow_mut(|scratch| work(cols, &mut part, &mut scratch.tiles));
        part
    };
    let parts: Vec<Vec<f32>> = shares.par_iter().cloned().map(one).collect();
    for (cols, part) in shares.into_iter().zip(parts) {
        for (out, part) in out.chunks_exact_mut(width).zip(part.chunks_exact(cols.len())) {
            out[cols.clone()].copy_from_slice(part);
        }
    }
}

/// Where a finished tile belongs.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Its first row, counted from the first one that was asked for.
    pub row: usize,
    /// Its rows that are really there.
    pub rows: usize,
    /// Its first column, counted from the first one that was asked for.
    pub col: usize,
    /// Its columns that are really there.
    pub cols: usize,
}

/// Multiplies some of the `rows` with the columns `cols` of `weights`, both from a multiple of a tile's size on, and hands
/// each tile to `finish`.
pub fn tiles(
    rows: &PackedRows,
    block: Range<usize>,
    weights: &PackedWeights,
    cols: Range<usize>,
    scratch: &mut Tiles,
    finish: impl FnMut(Place, &mut Tile),
) {
    tiles_within(rows, block, weights, cols, 0..rows.depth, scratch, finish);
}

/// [`tiles`] of sums over some of the inner dimension, as where the rest of a factor is zero. Of factors in bf16, all of it.
pub fn tiles_within(
    rows: &PackedRows,
    block: Range<usize>,
    weights: &PackedWeights,
    cols: Range<usize>,
    depth: Range<usize>,
    scratch: &mut Tiles,
    mut finish: impl FnMut(Place, &mut Tile),
) {
    assert!(
        depth == (0..rows.depth) || rows.form == Form::Single && !depth.is_empty() && depth.end <= rows.depth
    );
    assert_eq!((rows.depth, rows.precision()), (weights.depth, weights.precision()));
    assert!(block.start.is_multiple_of(TILE_ROWS) && block.end <= rows.lanes);
    assert!(cols.start.is_multiple_of(TILE_COLS) && cols.end <= weights.lanes);
    // Rows that were packed under other instructions are not what the kernel reads.
    assert!(rows.form() != Form::Pairs || Precision::Bf16.is_native(), "packed for other instructions");
    let kernel = Kernel::current(rows.form());
    let Tiles { tiles, wide } = scratch;
    tiles.resize(block.len().div_ceil(TILE_ROWS), Tile::ZERO);
    let panel = rows.cells() * TILE_ROWS;
    let row_cells = rows.panels(block.start / TILE_ROWS);
    for (number, weight_panel) in (cols.start / TILE_COLS..cols.end.div_ceil(TILE_COLS)).enumerate() {
        // With those of the panels behind it, which are multiplied next.
        let weight_cells = weights.panels(weight_panel);
        let last = rows.form.cells(depth.end);
        for first in (depth.start..last).step_by(kernel.block_cells()) {
            let cells = first..(first + kernel.block_cells()).min(last);
            let rows_here = Rows { cells: &row_cells[first * TILE_ROWS..], panel, n: block.len() };
            // A value of the rows has a cell of its own, and shares one among the weights, where those are widened.
            let shared = if rows.form == weights.form { 1 } else { 2 };
            let place = |cell: usize| (cell.div_ceil(shared) * TILE_COLS).min(weight_cells.len());
            let (begin, end) = (place(cells.start), place(cells.end));
            let next = &weight_cells[end..(2 * end - begin).min(weight_cells.len())];
            let mut here = &weight_cells[begin..end];
            if shared > 1 {
                widen::<TILE_COLS>(here, wide);
                here = &wide[..cells.len() * TILE_COLS];
            }
            kernel.run(rows_here, here, next, tiles, first > depth.start);
        }
        let col = number * TILE_COLS;
        for (index, tile) in tiles.iter_mut().enumerate() {
            let row = index * TILE_ROWS;
            let rows = (block.len() - row).min(TILE_ROWS);
            finish(Place { row, rows, col, cols: (cols.len() - col).min(TILE_COLS) }, tile);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_and_transposes_agree_with_sums() {
        crate::linalg::isa::testing::on_every(agree_with_sums);
    }

    fn agree_with_sums() {
        // Sizes around those of tiles and blocks, and an inner dimension of more than one block.
        for (m, k, n) in [(5, 7, 3), (8, 32, 32), (203, 33, 70), (1, 2053, 33), (97, 1, 1)] {
            let a: Vec<f32> = (0..m * k).map(|i| (i as f32).sin()).collect();
            let b: Vec<f32> = (0..k * n).map(|i| (i as f32).cos()).collect();
            let transposed = |x: &[f32], rows: usize, cols: usize| -> Vec<f32> {
                (0..rows * cols).map(|i| x[(i % rows) * cols + i / rows]).collect()
            };
            let (a_t, b_t) = (transposed(&a, m, k), transposed(&b, k, n));
            for (left, right, base) in [
                (Matrix::new(&a, m, k), Matrix::new(&b, k, n), 0.0),
                (Matrix::new(&a_t, k, m).t(), Matrix::new(&b_t, n, k).t(), 2.0),
            ] {
                let mut out = vec![base; m * n];
                matmul(&mut out, if base == 0.0 { Write::Replace } else { Write::Add }, left, right);
                for i in 0..m {
                    for j in 0..n {
                        let terms = (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b[l * n + j]));
                        let want = f64::from(base) + terms.sum::<f64>();
                        let got = f64::from(out[i * n + j]);
                        assert!(
                            (got - want).abs() < 1e-6 * (k as f64),
                            "{m}·{k}·{n} at {i}, {j}: {got} {want}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn some_of_the_inner_dimension_is_as_if_the_rest_were_zero() {
        crate::linalg::isa::testing::on_every(|| {
            let (m, k, n) = (19, 700, 40);
            let a: Vec<f32> = (0..m * k).map(|i| (i as f32).sin()).collect();
            let b: Vec<f32> = (0..k * n).map(|i| (i as f32).cos()).collect();
            let weights = Packed::pack(Matrix::new(&b, k, n).t(), Precision::F32);
            let whole = PackedRows::pack(Matrix::new(&a, m, k), Precision::F32);
            for depth in [0..1, 5..6, 3..640, 250..700] {
                let cut: Vec<f32> =
                    (0..m * k).map(|i| if depth.contains(&(i % k)) { a[i] } else { 0.0 }).collect();
                let cut = Packed::pack(Matrix::new(&cut, m, k), Precision::F32);
                let mut want = vec![0f32; m * n];
                product(&mut want, Write::Replace, &cut, &weights, 0..n);
                let mut scratch = Tiles::default();
                tiles_within(&whole, 8..19, &weights, 32..40, depth.clone(), &mut scratch, |place, tile| {
                    for (row, tile) in tile.rows(place.rows).enumerate() {
                        let want = &want[(8 + place.row + row) * n + 32 + place.col..][..place.cols];
                        let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-4;
                        assert!(tile.iter().zip(want).all(near), "{depth:?}");
                    }
                });
            }
        });
    }

    #[test]
    fn some_columns_are_those_of_the_whole() {
        let (m, k, n) = (19, 40, 100);
        let a: Vec<f32> = (0..m * k).map(|i| (i as f32).sin()).collect();
        let b: Vec<f32> = (0..k * n).map(|i| (i as f32).cos()).collect();
        let (a, b) = (
            Packed::pack(Matrix::new(&a, m, k), Precision::F32),
            Packed::pack(Matrix::new(&b, k, n).t(), Precision::F32),
        );
        let (mut whole, mut some) = (vec![0f32; m * n], vec![0f32; m * 45]);
        product(&mut whole, Write::Replace, &a, &b, 0..n);
        product(&mut some, Write::Replace, &a, &b, 32..77);
        for (whole, some) in whole.chunks(n).zip(some.chunks(45)) {
            assert_eq!(whole[32..77], *some);
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        // Shared out by rows, and by columns.
        [(333, 65, 77), (1, 700, 333), (7, 300, 1000)].into_iter().for_each(same_on_any_threads);
    }

    fn same_on_any_threads((m, k, n): (usize, usize, usize)) {
        let a: Vec<f32> = (0..m * k).map(|i| (i as f32).sin()).collect();
        let b: Vec<f32> = (0..k * n).map(|i| (i as f32).cos()).collect();
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut out = vec![1f32; m * n];
            pool.install(|| matmul(&mut out, Write::Add, Matrix::new(&a, m, k), Matrix::new(&b, k, n)));
            out
        };
        assert_eq!(with(1), with(5));
    }
}
