//! Sums of outer products, applied without being formed.

use super::simd;
use pulp::{Simd, WithSimd};

/// `out = λ·u + Σ v·(v·u)` over the rows v of `factors`, which are as wide as `u`.
pub fn add_outer(u: &[f32], factors: &[f32], lambda: f32, out: &mut [f32]) {
    simd::dispatch(AddOuter { u, factors, lambda, out });
}

struct AddOuter<'a> {
    u: &'a [f32],
    factors: &'a [f32],
    lambda: f32,
    out: &'a mut [f32],
}

impl WithSimd for AddOuter<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { u, factors, lambda, out } = self;
        for (out, u) in out.iter_mut().zip(u) {
            *out = lambda * u;
        }
        for factor in factors.chunks_exact(u.len()) {
            let along = simd::dot(factor, u);
            for (out, value) in out.iter_mut().zip(factor) {
                *out += along * value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::Isa;

    #[test]
    fn sums_are_those_of_the_matrix() {
        let d = 19;
        let values = |n: usize, seed: usize| -> Vec<f32> {
            (0..n).map(|i| ((i * 37 + seed * 11) % 23) as f32 / 23.0 - 0.4).collect()
        };
        let (u, factors) = (values(d, 1), values(3 * d, 2));
        for isa in Isa::available() {
            let mut out = vec![0f32; d];
            isa.pool(1).unwrap().install(|| add_outer(&u, &factors, 0.5, &mut out));
            for i in 0..d {
                let entry = |j: usize| -> f64 {
                    let of = |v: &[f32]| f64::from(v[i]) * f64::from(v[j]);
                    factors.chunks_exact(d).map(of).sum::<f64>() + 0.5 * f64::from(u8::from(i == j))
                };
                let want: f64 = (0..d).map(|j| entry(j) * f64::from(u[j])).sum();
                assert!((f64::from(out[i]) - want).abs() < 1e-5, "{} against {want}", out[i]);
            }
        }
    }
}
