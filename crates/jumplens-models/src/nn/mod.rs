//! The layers that model families are made of. Each has a fused CPU kernel on contiguous `f32` slices and a plain twin
//! in candle operations (`*_plain`), which runs where gradients are asked for ([`tracked`]); tests hold the two equal.

mod activation;
mod add;
mod attention;
pub(crate) mod backward;
mod feed_forward;
mod gated_feed_forward;
mod hidden;
mod linear;
mod norm;
mod put_rows;
mod rope;
mod self_attention;

pub use activation::Activation;
pub use add::add;
pub use attention::{PackedAttention, QueryRows};
pub use backward::Rule;
pub use feed_forward::FeedForward;
pub use gated_feed_forward::GatedFeedForward;
pub use linear::{Linear, WeightLayout};
pub use norm::{LayerNorm, Norm, RmsNorm};
pub use put_rows::put_rows;
pub use rope::Rope;
pub use self_attention::SelfAttention;

pub use jumplens_core::linalg::{Isa, Precision};

use candle_core::{CpuStorage, DType, Layout, Storage, Tensor, Var};

/// True where the CPU kernels apply: contiguous `f32` on the CPU, and no gradient is asked for.
fn is_fusable(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32 && x.is_contiguous() && !x.track_op()
}

/// The values behind a contiguous `f32` CPU storage, row-major.
fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("a fused kernel was given a tensor that is not contiguous")
    };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// Runs `f` on the values of a contiguous `f32` CPU tensor, row-major.
pub fn with_values<R>(x: &Tensor, f: impl FnOnce(&[f32]) -> R) -> candle_core::Result<R> {
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        Storage::Cpu(cpu) => Ok(f(values(cpu, layout)?)),
        _ => candle_core::bail!("a fused kernel was given a tensor that is not on the CPU"),
    }
}

/// The same values as a variable that gradients are taken with respect to: what is computed from it is computed by the plain
/// twins, in operations that candle can go back through.
pub fn tracked(x: &Tensor) -> candle_core::Result<Tensor> {
    Ok(Var::from_tensor(x)?.as_tensor().clone())
}

/// The rows `index` of `table` `[n, d]`: `[index, d]`.
pub fn look_up(table: &Tensor, index: &[u32]) -> candle_core::Result<Tensor> {
    table.index_select(&Tensor::new(index, table.device())?, 0)
}

#[cfg(test)]
pub(crate) mod testing {
    use super::Isa;
    use candle_core::{Device, Tensor};
    use rand::{RngExt, SeedableRng};

    /// Runs `test` once on each instruction set that this CPU has, on threads that use no other.
    pub fn on_every(test: impl Fn() + Sync) {
        Isa::available().for_each(|isa| isa.pool(2).unwrap().install(&test));
    }

    /// Values between −1 and 1, the same for the same seed.
    pub fn random(shape: &[usize], seed: u64) -> Tensor {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let values: Vec<f32> =
            (0..shape.iter().product::<usize>()).map(|_| rng.random_range(-1.0..1.0)).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    /// Fails unless every element of `a` is within `tolerance` of `b`, relative to the largest element of `b`.
    #[track_caller]
    pub fn assert_close(a: &Tensor, b: &Tensor, tolerance: f32) {
        assert_eq!(a.dims(), b.dims());
        let a = a.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let b = b.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let scale = b.iter().fold(1e-30f32, |m, v| m.max(v.abs()));
        for (i, (x, y)) in a.iter().zip(&b).enumerate() {
            assert!((x - y).abs() <= tolerance * scale, "element {i}: {x} against {y}");
        }
    }
}
