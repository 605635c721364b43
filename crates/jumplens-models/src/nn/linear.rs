//! y = x·W + b.

use super::{is_fusable, values, with_values};
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor};
use jumplens_core::LinearMap;
use jumplens_core::linalg::matmul::{
    Matrix, Packed, PackedRows, PackedWeights, Precision, TILE_COLS, Tiles, Write, by_blocks, by_columns,
    is_wide, matmul, tiles,
};
use std::ops::Range;
use std::sync::Arc;

/// How a weight lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightLayout {
    /// `[in, out]`: GPT-2's `Conv1D`.
    InOut,
    /// `[out, in]`: `torch.nn.Linear`, and the linear maps of this crate.
    OutIn,
}

/// An affine map of rows, `[n, in]` → `[n, out]`. The weight is kept once, in the form that products read.
#[derive(Debug, Clone)]
pub struct Linear {
    /// Its lanes are the outputs.
    weight: Arc<PackedWeights>,
    bias: Option<Arc<[f32]>>,
}

impl Linear {
    /// `weight` as `layout` says, `bias` `[out]`; both f32 and contiguous, on the CPU. Products are done in `precision`.
    pub fn new(
        weight: &Tensor,
        bias: Option<&Tensor>,
        layout: WeightLayout,
        precision: Precision,
    ) -> Result<Self> {
        let (rows, cols) = weight.dims2()?;
        let weight = with_values(weight, |values| {
            let weight = Matrix::new(values, rows, cols);
            Packed::pack(if layout == WeightLayout::InOut { weight.t() } else { weight }, precision)
        })?;
        let bias: Option<Arc<[f32]>> =
            bias.map(|bias| with_values(bias, |bias| Arc::from(bias))).transpose()?;
        if let Some(bias) = &bias
            && bias.len() != weight.lanes()
        {
            candle_core::bail!("linear: a bias of {} for {} outputs", bias.len(), weight.lanes());
        }
        Ok(Self { weight: Arc::new(weight), bias })
    }

    /// The layer that applies `map` to rows, `[n, d_in]` → `[n, d_out]`, in f32 whatever the model's products are done in: the
    /// least squares of nearly dependent coordinates give maps whose large entries cancel, which rounding would undo.
    pub fn of_map(map: &LinearMap) -> Self {
        let weight = Matrix::new(map.weight(), map.d_out(), map.d_in());
        Self { weight: Arc::new(Packed::pack(weight, Precision::F32)), bias: map.bias().map(Arc::from) }
    }

    /// The layer as a map, its weight as products have it.
    pub fn to_map(&self) -> Result<LinearMap> {
        let fail = |error: jumplens_core::Error| candle_core::Error::Msg(error.to_string());
        let map = LinearMap::from_rows(self.weight.unpack(), self.out_features(), self.in_features());
        match &self.bias {
            Some(bias) => map.and_then(|map| map.with_bias(bias.to_vec())).map_err(fail),
            None => map.map_err(fail),
        }
    }

    /// A layer of that map, whose products are done as those of this one.
    pub fn replaced(&self, map: &LinearMap) -> Self {
        let weight = Matrix::new(map.weight(), map.d_out(), map.d_in());
        Self { weight: Arc::new(Packed::pack(weight, self.precision())), bias: map.bias().map(Arc::from) }
    }

    /// This layer on `map·x` in the place of x, as one layer: `map` `[in, in]`, without its bias.
    pub fn after(&self, map: &LinearMap) -> Result<Self> {
        let (d_out, d_in) = (map.d_out(), map.d_in());
        if d_out != self.in_features() {
            candle_core::bail!("linear: a map to {d_out} before a layer of {} inputs", self.in_features());
        }
        let mut weight = vec![0f32; self.out_features() * d_in];
        let own = self.weight.unpack();
        let own = Matrix::new(&own, self.out_features(), d_out);
        matmul(&mut weight, Write::Replace, own, Matrix::new(map.weight(), d_out, d_in));
        let weight = Packed::pack(Matrix::new(&weight, self.out_features(), d_in), self.precision());
        Ok(Self { weight: Arc::new(weight), bias: self.bias.clone() })
    }

    /// The columns of several layers of the same input, dealt out `group` at a time: the first `group` outputs of each, then
    /// the next. Where the last group is not full, outputs of nothing fill it up.
    pub(super) fn interleave(layers: &[&Linear], group: usize) -> Result<Self> {
        let (width, depth) = (layers[0].out_features(), layers[0].in_features());
        if layers.iter().any(|layer| (layer.out_features(), layer.in_features()) != (width, depth)) {
            candle_core::bail!("linear: layers of different widths side by side");
        }
        let weights: Vec<Vec<f32>> = layers.iter().map(|layer| layer.weight.unpack()).collect();
        let lanes = width.next_multiple_of(group) * layers.len();
        let (mut weight, mut bias) = (vec![0f32; lanes * depth], vec![0f32; lanes]);
        for (out, (row, bias)) in weight.chunks_exact_mut(depth).zip(&mut bias).enumerate() {
            let (round, layer) = (out / (group * layers.len()), out / group % layers.len());
            let lane = round * group + out % group;
            if lane < width {
                row.copy_from_slice(&weights[layer][lane * depth..][..depth]);
                *bias = layers[layer].bias().map_or(0.0, |bias| bias[lane]);
            }
        }
        let weight = Packed::pack(Matrix::new(&weight, lanes, depth), layers[0].precision());
        let bias = layers.iter().any(|layer| layer.bias.is_some()).then(|| bias.into());
        Ok(Self { weight: Arc::new(weight), bias })
    }

    /// The width of the input rows.
    pub fn in_features(&self) -> usize {
        self.weight.depth()
    }

    /// The width of the output rows.
    pub fn out_features(&self) -> usize {
        self.weight.lanes()
    }

    /// What products are done in.
    pub fn precision(&self) -> Precision {
        self.weight.precision()
    }

    /// The bias `[out]`.
    pub(super) fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }

    /// The weight as products read it.
    pub(super) fn weight(&self) -> &PackedWeights {
        &self.weight
    }

    /// `[n, in]` → `[n, out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if is_fusable(x) { x.apply_op1_no_bwd(self) } else { self.forward_plain(x) }
    }

    /// The plain twin of [`Linear::forward`], in the dtype of `x` but with the weight as `precision` has it.
    pub fn forward_plain(&self, x: &Tensor) -> Result<Tensor> {
        let shape = (self.out_features(), self.in_features());
        let weight = Tensor::from_vec(self.weight.unpack(), shape, &Device::Cpu)?;
        let y = x.matmul(&weight.to_device(x.device())?.to_dtype(x.dtype())?.t()?)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(&Tensor::new(&**bias, x.device())?.to_dtype(x.dtype())?),
            None => Ok(y),
        }
    }

    /// `out = x·W + b` on slices, for some of the rows of `x` and some columns: `out` row-major `[block, cols]`.
    pub(super) fn write(
        &self,
        x: &PackedRows,
        block: Range<usize>,
        cols: Range<usize>,
        out: &mut [f32],
        scratch: &mut Tiles,
    ) {
        let width = cols.len();
        let bias = self.bias().map(|bias| &bias[cols.clone()]);
        tiles(x, block, &self.weight, cols, scratch, |place, tile| {
            let cols = place.col..place.col + place.cols;
            for (out, tile) in out.chunks_exact_mut(width).skip(place.row).zip(tile.rows(place.rows)) {
                let out = &mut out[cols.clone()];
                match bias {
                    Some(bias) => {
                        for ((out, sum), bias) in out.iter_mut().zip(tile).zip(&bias[cols.clone()]) {
                            *out = sum + bias;
                        }
                    }
                    None => out.copy_from_slice(&tile[..place.cols]),
                }
            }
        });
    }
}

impl CustomOp1 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, width) = layout.shape().dims2()?;
        if width != self.in_features() {
            candle_core::bail!("linear: rows of {width} for {} inputs", self.in_features());
        }
        let d_out = self.out_features();
        let mut out = vec![0f32; n * d_out];
        let x = Matrix::new(values(x, layout)?, n, width);
        if is_wide(n, width, d_out) {
            let rows = Packed::pack(x, self.precision());
            by_columns(&mut out, d_out, TILE_COLS, |cols, out, tiles| {
                self.write(&rows, 0..n, cols, out, tiles)
            });
        } else {
            by_blocks(&mut out, d_out, n, self.precision(), |block, out, scratch| {
                scratch.rows.repack(x.rows(block.clone()), self.precision());
                self.write(&scratch.rows, 0..block.len(), 0..d_out, out, &mut scratch.tiles);
            });
        }
        Ok((CpuStorage::F32(out), (n, d_out).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, random};
    use super::*;

    #[test]
    fn fused_equals_plain_in_both_layouts() {
        let x = random(&[37, 24], 1);
        let bias = random(&[40], 2);
        for (weight, layout) in
            [(random(&[24, 40], 3), WeightLayout::InOut), (random(&[40, 24], 4), WeightLayout::OutIn)]
        {
            for bias in [None, Some(&bias)] {
                // The plain twin does not round its rows.
                for (precision, tolerance) in [(Precision::F32, 1e-6), (Precision::Bf16, 8e-3)] {
                    let linear = Linear::new(&weight, bias, layout, precision).unwrap();
                    assert_eq!((linear.in_features(), linear.out_features()), (24, 40));
                    assert_close(&linear.forward(&x).unwrap(), &linear.forward_plain(&x).unwrap(), tolerance);
                }
            }
        }
    }

    #[test]
    fn a_map_folded_in_equals_the_map_before() {
        let (x, map) = (random(&[9, 24], 1), random(&[24, 24], 2));
        let linear =
            Linear::new(&random(&[40, 24], 3), Some(&random(&[40], 4)), WeightLayout::OutIn, Precision::F32)
                .unwrap();
        let apart = linear.forward(&x.matmul(&map.t().unwrap()).unwrap()).unwrap();
        let map = with_values(&map, |map| LinearMap::from_rows(map.to_vec(), 24, 24)).unwrap().unwrap();
        assert_close(&linear.after(&map).unwrap().forward(&x).unwrap(), &apart, 1e-6);
    }
}
