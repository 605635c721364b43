//! Hidden units between the two products of a feed-forward part: they exist for some rows at one time, and only in the
//! form that the second product reads.

use super::Linear;
use super::matmul::{Matrix, PackedRows, Place, Precision, TILE_ROWS, Tile, pack_lanes};

/// Rows whose hidden units exist at one time on each thread: enough for the products to be fast, few enough to stay in
/// cache.
pub(super) const ROWS: usize = 192;

/// `layer(hidden(x))` for the rows `x` `[n, width]`, some at a time: row-major `[n, layer's outputs]`.
pub(super) fn by_blocks(
    x: &[f32],
    width: usize,
    layer: &Linear,
    hidden: impl Fn(Matrix) -> PackedRows,
) -> Vec<f32> {
    let (n, d_out) = (x.len() / width, layer.out_features());
    let rows = ROWS * rayon::current_num_threads();
    let mut out = vec![0f32; n * d_out];
    for (x, out) in x.chunks(rows * width).zip(out.chunks_mut(rows * d_out)) {
        layer.write(&hidden(Matrix::new(x, x.len() / width, width)), out);
    }
    out
}

/// Puts the first `cols` columns of a tile into packed rows of `cells` cells each, as their columns from `col` on.
pub(super) fn put(
    out: &mut [u32],
    cells: usize,
    place: Place,
    col: usize,
    cols: usize,
    tile: &Tile,
    precision: Precision,
) {
    let lanes: [&[f32]; TILE_ROWS] = std::array::from_fn(|i| &tile.row(i)[..cols]);
    let first = match precision {
        Precision::F32 => col,
        Precision::Bf16 => col / 2,
    };
    pack_lanes(lanes, &mut out[place.row * cells + first * TILE_ROWS..], TILE_ROWS, precision);
}
