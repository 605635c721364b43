//! Tiles on 512-bit registers, and packing by transposing in registers.

use super::kernel::{TILE_COLS, TILE_ROWS, Tile};
use std::arch::x86_64::*;

/// True where the CPU has what [`sums_f32`] needs.
pub(super) fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
}

/// True where the CPU has what [`sums_bf16`] and [`transpose_bf16`] need.
pub(super) fn has_bf16() -> bool {
    has_avx512() && is_x86_feature_detected!("avx512bf16") && has_avx2()
}

/// True where the CPU has what [`transpose_f32`] needs.
pub(super) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
}

/// Registers of a tile's row.
const VECTORS: usize = TILE_COLS / 16;

/// Kernels as [`Kernel::run`](super::kernel::Kernel::run) has it: `$step(row's cell, 16 weights' cells, sums)` adds what
/// one cell of the inner dimension brings.
macro_rules! kernel {
    ($run:ident, $sums:ident, $features:literal, $step:expr) => {
        /// # Safety
        /// The CPU has the instructions, and the panels hold `[cells, TILE_ROWS]` and `[cells, TILE_COLS]` cells.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $run(
            row_cells: &[u32],
            weight_cells: &[u32],
            tile: &mut Tile,
            rows: usize,
            add: bool,
        ) {
            // SAFETY: what this function's caller promises is what those it calls need.
            unsafe {
                match rows {
                    1 => $sums::<1>(row_cells, weight_cells, tile, add),
                    2 => $sums::<2>(row_cells, weight_cells, tile, add),
                    3 => $sums::<3>(row_cells, weight_cells, tile, add),
                    4 => $sums::<4>(row_cells, weight_cells, tile, add),
                    5 => $sums::<5>(row_cells, weight_cells, tile, add),
                    6 => $sums::<6>(row_cells, weight_cells, tile, add),
                    7 => $sums::<7>(row_cells, weight_cells, tile, add),
                    _ => $sums::<8>(row_cells, weight_cells, tile, add),
                }
            }
        }

        /// # Safety
        /// As above; `ROWS` is at most [`TILE_ROWS`].
        #[target_feature(enable = $features)]
        unsafe fn $sums<const ROWS: usize>(
            row_cells: &[u32],
            weight_cells: &[u32],
            tile: &mut Tile,
            add: bool,
        ) {
            let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
            let (mut row, mut weight) = (row_cells.as_ptr(), weight_cells.as_ptr());
            for _ in 0..weight_cells.len() / TILE_COLS {
                let weights: [__m512; VECTORS] = std::array::from_fn(|v| {
                    // SAFETY: within the panel, for as many cells as it holds.
                    unsafe { _mm512_loadu_ps(weight.add(16 * v).cast()) }
                });
                for (i, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: `i` is below `TILE_ROWS`.
                    let cell = unsafe { _mm512_set1_ps(*row.add(i).cast()) };
                    for (sum, weights) in sums.iter_mut().zip(weights) {
                        *sum = $step(cell, weights, *sum);
                    }
                }
                // SAFETY: at most one past the end.
                (row, weight) = unsafe { (row.add(TILE_ROWS), weight.add(TILE_COLS)) };
            }
            for (out, sums) in tile.0.iter_mut().zip(sums) {
                for (out, sum) in out.as_chunks_mut::<16>().0.iter_mut().zip(sums) {
                    // SAFETY: `out` holds 16 values.
                    unsafe {
                        let before = if add { _mm512_loadu_ps(out.as_ptr()) } else { _mm512_setzero_ps() };
                        _mm512_storeu_ps(out.as_mut_ptr(), _mm512_add_ps(before, sum));
                    }
                }
            }
        }
    };
}

kernel!(run_f32, sums_f32, "avx512f", |cell, weights, sum| _mm512_fmadd_ps(cell, weights, sum));
kernel!(run_bf16, sums_bf16, "avx512f,avx512bf16", |cell: __m512, weights: __m512, sum| {
    // SAFETY: the same 512 bits under another type.
    let [cell, weights] = unsafe { [cell, weights].map(|x| std::mem::transmute::<__m512, __m512bh>(x)) };
    _mm512_dpbf16_ps(sum, cell, weights)
});

/// Writes as many whole groups of 8 values as there are in 8 lanes of the same length, and returns how many values of each
/// lane that took: value `j` of lane `i` goes to `out[j · stride + i]`.
///
/// # Safety
/// The CPU has the instructions.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn transpose_f32(lanes: [&[f32]; 8], out: &mut [u32], stride: usize) -> usize {
    let groups = check_groups(&lanes, 8, out, stride);
    for group in 0..groups {
        // SAFETY: every lane holds the group's 8 values.
        let rows = lanes.map(|lane| unsafe { _mm256_loadu_ps(lane.as_ptr().add(group * 8)) });
        // SAFETY: `out` was checked to hold all groups.
        unsafe { store(transposed(rows), out.as_mut_ptr().add(group * 8 * stride), stride) };
    }
    groups * 8
}

/// As [`transpose_f32`], with pairs of values rounded to bf16, in groups of 16 values that make 8 cells.
///
/// # Safety
/// The CPU has the instructions.
#[target_feature(enable = "avx2,avx512f,avx512bf16")]
pub(super) unsafe fn transpose_bf16(lanes: [&[f32]; 8], out: &mut [u32], stride: usize) -> usize {
    let groups = check_groups(&lanes, 16, out, stride);
    for group in 0..groups {
        // SAFETY: every lane holds the group's 16 values; the same 256 bits under another type.
        let rows = lanes.map(|lane| unsafe {
            let values = _mm512_loadu_ps(lane.as_ptr().add(group * 16));
            std::mem::transmute::<__m256bh, __m256>(_mm512_cvtneps_pbh(values))
        });
        // SAFETY: `out` was checked to hold all groups.
        unsafe { store(transposed(rows), out.as_mut_ptr().add(group * 8 * stride), stride) };
    }
    groups * 16
}

/// How many whole groups of `values` values there are; panics where the lanes differ in length or `out` is too small.
fn check_groups(lanes: &[&[f32]; 8], values: usize, out: &[u32], stride: usize) -> usize {
    let length = lanes[0].len();
    let groups = length / values;
    assert!(lanes.iter().all(|lane| lane.len() == length));
    assert!(groups == 0 || out.len() >= (groups * 8 - 1) * stride + 8);
    groups
}

/// # Safety
/// There is room for 8 cells at each of 8 places `stride` apart.
#[target_feature(enable = "avx2")]
unsafe fn store(columns: [__m256; 8], out: *mut u32, stride: usize) {
    for (i, column) in columns.into_iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { _mm256_storeu_ps(out.add(i * stride).cast(), column) };
    }
}

/// Of an 8 × 8 matrix.
#[target_feature(enable = "avx2")]
fn transposed(r: [__m256; 8]) -> [__m256; 8] {
    let pairs: [(__m256, __m256); 4] = std::array::from_fn(|i| {
        (_mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]), _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]))
    });
    let fours = |a: (__m256, __m256), b: (__m256, __m256)| {
        [
            _mm256_shuffle_ps::<0x44>(a.0, b.0),
            _mm256_shuffle_ps::<0xee>(a.0, b.0),
            _mm256_shuffle_ps::<0x44>(a.1, b.1),
            _mm256_shuffle_ps::<0xee>(a.1, b.1),
        ]
    };
    let (upper, lower) = (fours(pairs[0], pairs[1]), fours(pairs[2], pairs[3]));
    std::array::from_fn(|i| match i {
        0..4 => _mm256_permute2f128_ps::<0x20>(upper[i], lower[i]),
        _ => _mm256_permute2f128_ps::<0x31>(upper[i - 4], lower[i - 4]),
    })
}
