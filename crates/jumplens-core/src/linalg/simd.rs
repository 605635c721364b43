//! Scalar loops that the compiler turns into vector code, compiled for each instruction set and chosen at run time.

use super::isa::Isa;

/// Runs `op` with the vector instructions in use. All that its `with_simd` calls has to be inlined for that to matter;
/// closures are not, for certain, so a kernel is a struct.
#[inline]
pub fn dispatch<Op: pulp::WithSimd>(op: Op) -> Op::Output {
    let isa = Isa::current();
    #[cfg(target_arch = "x86_64")]
    {
        if isa == Isa::Avx512
            && let Some(simd) = pulp::x86::V4::try_new()
        {
            return pulp::Simd::vectorize(simd, op);
        }
        if isa == Isa::Avx2
            && let Some(simd) = pulp::x86::V3::try_new()
        {
            return pulp::Simd::vectorize(simd, op);
        }
    }
    #[cfg(target_arch = "aarch64")]
    if isa == Isa::Neon
        && let Some(simd) = pulp::aarch64::Neon::try_new()
    {
        return pulp::Simd::vectorize(simd, op);
    }
    let _ = isa;
    pulp::Simd::vectorize(pulp::Scalar::new(), op)
}

const LANES: usize = 16;

/// Folds `x` in 16 independent lanes, so that the order of additions does not depend on the instruction set.
#[inline(always)]
fn lanes(x: &[f32], mut step: impl FnMut(&mut f32, f32), mut tail: impl FnMut(f32)) -> [f32; LANES] {
    let mut sums = [0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (sum, &value) in sums.iter_mut().zip(chunk) {
            step(sum, value);
        }
    }
    rest.iter().for_each(|&value| tail(value));
    sums
}

/// Σ xᵢ
#[inline(always)]
pub fn sum(x: &[f32]) -> f32 {
    let mut rest = 0f32;
    let sums = lanes(x, |s, v| *s += v, |v| rest += v);
    sums.iter().sum::<f32>() + rest
}

/// Σ (xᵢ − mean)²
#[inline(always)]
pub fn squared_deviations(x: &[f32], mean: f32) -> f32 {
    let mut rest = 0f32;
    let sums = lanes(x, |s, v| *s += (v - mean) * (v - mean), |v| rest += (v - mean) * (v - mean));
    sums.iter().sum::<f32>() + rest
}

/// max xᵢ
#[inline(always)]
pub fn max(x: &[f32]) -> f32 {
    let mut best = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (best, &value) in best.iter_mut().zip(chunk) {
            *best = if value > *best { value } else { *best };
        }
    }
    best.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a })
}

/// Σ aᵢ·bᵢ
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// Σ wᵢ·(aᵢ − bᵢ)
#[inline(always)]
pub fn dot_difference(w: &[f32], a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let (w, w_rest) = w.as_chunks::<LANES>();
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    for ((w, a), b) in w.iter().zip(a).zip(b) {
        for i in 0..LANES {
            sums[i] += w[i] * (a[i] - b[i]);
        }
    }
    let rest = w_rest.iter().zip(a_rest).zip(b_rest).map(|((w, a), b)| w * (a - b));
    sums.iter().sum::<f32>() + rest.sum::<f32>()
}

/// y = exp(x − shift)
#[inline(always)]
pub fn exp_all(x: &[f32], shift: f32, y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = exp(x - shift);
    }
}

/// eˣ to about 2 units in the last place, without a branch: 2ⁿ·eʳ with |r| ≤ ln2 / 2. Arguments below −87 give the
/// smallest normal number's neighbourhood, those above 88 the largest's.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³: adding it leaves the nearest integer in the low bits
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, so that n · ln 2 is taken away without rounding.
    let r = (x - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let p = 1.0 / 5040.0;
    let p = p * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    let scale = f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    p * scale
}

/// cap·tanh(x / cap)
#[inline(always)]
pub fn soft_cap(x: f32, cap: f32) -> f32 {
    let t = x / cap;
    // Near 0 the exponentials would leave few digits of a small difference: the series to t⁷.
    let square = t * t;
    let near = t * (1.0 - square * (1.0 / 3.0 - square * (2.0 / 15.0 - square * (17.0 / 315.0))));
    let far = 1.0 - 2.0 / (1.0 + exp(2.0 * t));
    cap * if t.abs() < 0.2 { near } else { far }
}

#[cfg(test)]
mod tests {
    #[test]
    fn exp_is_within_three_units_in_the_last_place() {
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            let error = (f64::from(super::exp(x)) - exact).abs() / exact;
            assert!(error < 3.0 * f64::from(f32::EPSILON), "exp({x}) is off by {error:e}");
        }
        assert_eq!(super::exp(0.0), 1.0);
        assert!(super::exp(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn reductions_agree_with_f64_sums() {
        let x: Vec<f32> = (0..1003).map(|i| (i as f32 * 0.37).sin()).collect();
        let y: Vec<f32> = (0..1003).map(|i| (i as f32 * 0.11).cos()).collect();
        let exact = |f: &dyn Fn(usize) -> f64| (0..x.len()).map(f).sum::<f64>();
        let near = |a: f32, b: f64| assert!((f64::from(a) - b).abs() < 1e-4, "{a} against {b}");
        near(super::sum(&x), exact(&|i| f64::from(x[i])));
        let weighted = |i: usize| f64::from(x[i]) * (f64::from(y[i]) - f64::from(x[i]));
        near(super::dot_difference(&x, &y, &x), exact(&weighted));
        near(super::squared_deviations(&x, 0.25), exact(&|i| (f64::from(x[i]) - 0.25).powi(2)));
        assert_eq!(super::max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    }

    #[test]
    fn capped_scores_keep_their_digits_near_zero() {
        for i in 1..4000 {
            let x = i as f32 * i as f32 * 1e-5;
            for (x, cap) in [(x, 50.0f32), (-x, 30.0)] {
                let exact = f64::from(cap) * (f64::from(x) / f64::from(cap)).tanh();
                let off = (f64::from(super::soft_cap(x, cap)) - exact).abs() / exact.abs();
                assert!(off < 1e-6, "{x} under {cap}: {off:e}");
            }
        }
    }
}
