//! Tiles on 512-bit and 256-bit registers, and packing by transposing in registers.

use super::kernel::{Rows, TILE_COLS, TILE_ROWS, Tile};
use std::arch::x86_64::*;

/// True where a CPU with AVX-512 has what [`sums_bf16`] and [`transpose_bf16`] need.
pub(super) fn has_bf16() -> bool {
    is_x86_feature_detected!("avx512bf16")
}

/// Registers of 512 bits of a tile's row.
const VECTORS: usize = TILE_COLS / 16;

/// Kernels of one tile as [`Kernel::run`](super::kernel::Kernel::run) has it: `$step(row's cell, 16 weights' cells, sums)` adds what
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

/// Registers of 256 bits of a tile's row.
const VECTORS_256: usize = TILE_COLS / 8;

/// Lines of memory of 64 bytes that are asked for at most before the next rows are multiplied: no more can be on their way.
const MOST_LINES: usize = 12;

/// [`Kernel::run`](super::kernel::Kernel::run) on 256 bits. Three rows at a time, whichever panels they are in: their sums
/// take 12 of the 16 registers, so that both multipliers stay busy for the four or five cycles that a sum takes, and the
/// cells of the rows and one of the weights the other four; 7 loads go with 12 multiplications. Meanwhile the weights that
/// come next are asked for.
///
/// # Safety
/// The CPU has AVX2 and FMA; every row of `rows` has as many cells as `weights`, and there is a tile for each panel.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run_avx2(rows: Rows, weights: &[u32], next: &[u32], tiles: &mut [Tile], add: bool) {
    let sums = tiles.as_mut_ptr().cast::<[f32; TILE_COLS]>();
    let mut lines = next.chunks(16);
    let a_group = next.len().div_ceil(16).div_ceil(rows.n.div_ceil(3)).min(MOST_LINES);
    let mut first = 0;
    while first < rows.n {
        for line in lines.by_ref().take(a_group) {
            _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
        }
        // SAFETY: the rows are there, and their sums, which lie behind one another whatever tile they are in.
        unsafe {
            let sums = sums.add(first);
            let there = match rows.n - first {
                1 => sums_avx2::<1>(rows, first, weights, sums, add),
                2 | 4 => sums_avx2::<2>(rows, first, weights, sums, add),
                _ => sums_avx2::<3>(rows, first, weights, sums, add),
            };
            first += there;
        }
    }
}

/// The sums of `ROWS` rows from `first` on, whose number it returns.
///
/// # Safety
/// As above; `sums` is that of the first of the rows.
#[target_feature(enable = "avx2,fma")]
unsafe fn sums_avx2<const ROWS: usize>(
    rows: Rows,
    first: usize,
    weights: &[u32],
    out: *mut [f32; TILE_COLS],
    add: bool,
) -> usize {
    let mut sums = [[_mm256_setzero_ps(); VECTORS_256]; ROWS];
    let mut cells: [*const u32; ROWS] = std::array::from_fn(|i| rows.row(first + i));
    let mut weight = weights.as_ptr();
    for _ in 0..weights.len() / TILE_COLS {
        // SAFETY: the rows have as many cells as there are weights.
        let values = cells.map(|cell| unsafe { _mm256_broadcast_ss(&*cell.cast()) });
        for v in 0..VECTORS_256 {
            // SAFETY: within the panel, for as many cells as it holds.
            let weights = unsafe { _mm256_loadu_ps(weight.add(8 * v).cast()) };
            for (sums, value) in sums.iter_mut().zip(values) {
                sums[v] = _mm256_fmadd_ps(value, weights, sums[v]);
            }
        }
        // Past the end after the last cell, and not read there.
        cells = cells.map(|cell| cell.wrapping_add(TILE_ROWS));
        weight = weight.wrapping_add(TILE_COLS);
    }
    for (i, sums) in sums.into_iter().enumerate() {
        // SAFETY: the caller's promise.
        let out = unsafe { &mut *out.add(i) };
        for (out, sum) in out.as_chunks_mut::<8>().0.iter_mut().zip(sums) {
            // SAFETY: `out` holds 8 values.
            unsafe {
                let before = if add { _mm256_loadu_ps(out.as_ptr()) } else { _mm256_setzero_ps() };
                _mm256_storeu_ps(out.as_mut_ptr(), _mm256_add_ps(before, sum));
            }
        }
    }
    ROWS
}

/// Writes as many whole groups of 8 values as there are in 8 lanes of the same length, and returns how many values of each
/// lane that took: value `j` of lane `i` goes to `out[j · stride + i]`, rounded to bf16 where `ROUND` is true.
///
/// # Safety
/// The CPU has the instructions.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn transpose_f32<const ROUND: bool>(
    lanes: [&[f32]; 8],
    out: &mut [u32],
    stride: usize,
) -> usize {
    let groups = check_groups(&lanes, 8, out, stride);
    for group in 0..groups {
        let rows = lanes.map(|lane| {
            // SAFETY: every lane holds the group's 8 values.
            let values = unsafe { _mm256_loadu_ps(lane.as_ptr().add(group * 8)) };
            match ROUND {
                true => _mm256_castsi256_ps(_mm256_slli_epi32::<16>(rounded(_mm256_castps_si256(values)))),
                false => values,
            }
        });
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

/// As [`transpose_bf16`], on 256 bits.
///
/// # Safety
/// The CPU has the instructions.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn transpose_bf16_avx2(lanes: [&[f32]; 8], out: &mut [u32], stride: usize) -> usize {
    let groups = check_groups(&lanes, 16, out, stride);
    for group in 0..groups {
        let rows = lanes.map(|lane| {
            // SAFETY: every lane holds the group's 16 values.
            let [low, high] = [0, 8]
                .map(|at| rounded(unsafe { _mm256_loadu_si256(lane.as_ptr().add(group * 16 + at).cast()) }));
            // Packed within each half of the register: the middle quarters change places.
            let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(low, high));
            _mm256_castsi256_ps(packed)
        });
        // SAFETY: `out` was checked to hold all groups.
        unsafe { store(transposed(rows), out.as_mut_ptr().add(group * 8 * stride), stride) };
    }
    groups * 16
}

/// The upper halves of f32 bits, rounded to the nearest, to an even one where two are as near; NaN stays NaN.
#[target_feature(enable = "avx2")]
fn rounded(bits: __m256i) -> __m256i {
    let upper = _mm256_srli_epi32::<16>(bits);
    let odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    let up = _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7fff));
    let quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
    let value = _mm256_castsi256_ps(bits);
    let is_nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(value, value));
    _mm256_blendv_epi8(_mm256_srli_epi32::<16>(up), quiet, is_nan)
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
