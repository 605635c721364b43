//! Hidden units between the two products of a feed-forward part: of many rows they exist for a block at one time, and only in
//! the form that the second product reads.

use super::Linear;
use jumplens_core::linalg::matmul::{
    Matrix, Packed, PackedRows, Place, TILE_COLS, TILE_ROWS, Tile, by_blocks, by_columns, is_wide,
    pack_lanes, tiles,
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
    let bias_of = |place: Place| {
        let mut bias = [0f32; TILE_COLS];
        if let Some(own) = first.bias() {
            bias[..place.cols].copy_from_slice(&own[place.col..][..place.cols]);
        }
        bias
    };
    if is_wide(n, x.n_cols(), d_hidden) {
        let rows = Packed::pack(x, first.precision());
        let mut hidden = vec![0f32; n * d_hidden];
        by_columns(&mut hidden, d_hidden, TILE_COLS / OUTPUTS_A_UNIT, |units, out, scratch| {
            let width = units.len();
            let cols = OUTPUTS_A_UNIT * units.start
                ..weight.lanes().min((OUTPUTS_A_UNIT * units.end).next_multiple_of(TILE_COLS));
            let begin = cols.start;
            tiles(&rows, 0..n, weight, cols, scratch, |place, tile| {
                activate(&bias_of(Place { col: begin + place.col, ..place }), tile.values_mut(place.rows));
                let col = place.col / OUTPUTS_A_UNIT;
                let count = (TILE_COLS / OUTPUTS_A_UNIT).min(width - col);
                for (out, tile) in out.chunks_exact_mut(width).zip(tile.rows(place.rows)) {
                    out[col..][..count].copy_from_slice(&tile[..count]);
                }
            });
        });
        let hidden = Packed::pack(Matrix::new(&hidden, n, d_hidden), second.precision());
        by_columns(&mut out, d_out, TILE_COLS, |cols, out, tiles| {
            second.write(&hidden, 0..n, cols, out, tiles)
        });
        return out;
    }
    by_blocks(&mut out, d_out, n, first.precision(), |block, out, scratch| {
        scratch.rows.repack(x.rows(block.clone()), first.precision());
        scratch.next.reshape(block.len(), d_hidden, second.precision());
        let next = &mut scratch.next;
        tiles(&scratch.rows, 0..block.len(), weight, 0..weight.lanes(), &mut scratch.tiles, |place, tile| {
            activate(&bias_of(place), tile.values_mut(place.rows));
            put(next, place, OUTPUTS_A_UNIT, tile);
        });
        second.write(&scratch.next, 0..block.len(), 0..d_out, out, &mut scratch.tiles);
    });
    out
}

/// Puts a tile's hidden units into packed rows.
pub(super) fn put(rows: &mut PackedRows, place: Place, outputs_a_unit: usize, tile: &Tile) {
    let col = place.col / outputs_a_unit;
    let cols = (TILE_COLS / outputs_a_unit).min(rows.depth() - col);
    let lanes: [&[f32]; TILE_ROWS] = std::array::from_fn(|i| &tile.row(i)[..cols]);
    let form = rows.form();
    let panel = rows.panel_mut(place.row / TILE_ROWS);
    pack_lanes(lanes, &mut panel[form.cells(col) * TILE_ROWS..], TILE_ROWS, form);
}

#[cfg(test)]
mod tests {
    use super::super::testing::{on_every, random};
    use super::super::{Activation, FeedForward, GatedFeedForward, Linear, Precision, WeightLayout::OutIn};
    use candle_core::Tensor;

    /// Columns are dealt out to threads for the few rows, rows for the many.
    #[test]
    fn few_rows_are_those_of_many_to_the_last_bit() {
        on_every(|| {
            for precision in [Precision::F32, Precision::Bf16] {
                let linear = |n_in, n_out, seed| {
                    Linear::new(&random(&[n_out, n_in], seed), Some(&random(&[n_out], 9)), OutIn, precision)
                        .unwrap()
                };
                let (fc, up, proj) = (linear(300, 555, 1), linear(300, 555, 2), linear(555, 300, 3));
                let gated = GatedFeedForward::new(&fc, &up, Activation::Silu, proj.clone()).unwrap();
                let plain = FeedForward { fc: fc.clone(), activation: Activation::GeluNew, proj };
                let x = random(&[100, 300], 4);
                let same = |forward: &dyn Fn(&Tensor) -> Tensor| {
                    let whole = forward(&x).to_vec2::<f32>().unwrap();
                    for n in [1, 7] {
                        assert_eq!(
                            forward(&x.narrow(0, 0, n).unwrap()).to_vec2::<f32>().unwrap(),
                            whole[..n]
                        );
                    }
                };
                same(&|x| fc.forward(x).unwrap());
                same(&|x| plain.forward(x).unwrap());
                same(&|x| gated.forward(x).unwrap());
            }
        });
    }
}
