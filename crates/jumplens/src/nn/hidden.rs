//! Hidden units between the two products of a feed-forward part: they exist for a block of rows at one time, and only in
//! the form that the second product reads.

use super::Linear;
use jumplens_core::linalg::matmul::{
    Matrix, PackedRows, Place, TILE_COLS, TILE_ROWS, Tile, by_blocks, pack_lanes, tiles,
};

/// `second(activate(first(x)))` for the rows `x`: row-major `[rows, second's outputs]`. `activate(bias, values)` works on rows
/// of [`TILE_COLS`] outputs of `first`, to which the bias has yet to be added, and leaves a hidden unit in the first of every
/// `OUTPUTS_A_UNIT` values it finds there: of `TILE_COLS` outputs, `TILE_COLS / OUTPUTS_A_UNIT` units, side by side.
pub(super) fn feed_forward<const OUTPUTS_A_UNIT: usize>(
    x: Matrix,
    first: &Linear,
    second: &Linear,
    activate: impl Fn(&[f32; TILE_COLS], &mut [f32]) + Sync,
) -> Vec<f32> {
    let (n, d_out) = (x.n_rows(), second.out_features());
    let (d_hidden, weight) = (second.in_features(), first.weight());
    let mut out = vec![0f32; n * d_out];
    by_blocks(&mut out, d_out, n, first.precision(), |block, out, scratch| {
        scratch.rows.repack(x.rows(block.clone()), first.precision());
        scratch.next.reshape(block.len(), d_hidden, second.precision());
        let next = &mut scratch.next;
        tiles(&scratch.rows, 0..block.len(), weight, 0..weight.lanes(), &mut scratch.tiles, |place, tile| {
            let mut bias = [0f32; TILE_COLS];
            if let Some(own) = first.bias() {
                bias[..place.cols].copy_from_slice(&own[place.col..][..place.cols]);
            }
            activate(&bias, tile.values_mut(place.rows));
            put(next, place, OUTPUTS_A_UNIT, tile);
        });
        second.write(&scratch.next, 0..block.len(), out, &mut scratch.tiles);
    });
    out
}

/// Puts a tile's hidden units into packed rows.
fn put(rows: &mut PackedRows, place: Place, outputs_a_unit: usize, tile: &Tile) {
    let col = place.col / outputs_a_unit;
    let cols = (TILE_COLS / outputs_a_unit).min(rows.depth() - col);
    let lanes: [&[f32]; TILE_ROWS] = std::array::from_fn(|i| &tile.row(i)[..cols]);
    let form = rows.form();
    let panel = rows.panel_mut(place.row / TILE_ROWS);
    pack_lanes(lanes, &mut panel[form.cells(col) * TILE_ROWS..], TILE_ROWS, form);
}
