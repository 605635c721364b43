//! Distributions of single rows.

use crate::linalg::simd;
use pulp::{Simd, WithSimd};

/// Values whose exponentials are added up in f32 before the sum goes on in f64.
const BLOCK: usize = 256;

/// Puts exp(z − largest) in the place of each logit z, and returns the largest and the sum of what is then there.
pub fn exponentials(logits: &mut [f32]) -> (f32, f64) {
    simd::dispatch(Exponentials { logits })
}

struct Exponentials<'a> {
    logits: &'a mut [f32],
}

impl WithSimd for Exponentials<'_> {
    type Output = (f32, f64);

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> (f32, f64) {
        let largest = simd::max(self.logits);
        let (mut sum, mut terms) = (0.0, [0f32; BLOCK]);
        for block in self.logits.chunks_mut(BLOCK) {
            let terms = &mut terms[..block.len()];
            simd::exp_all(block, largest, terms);
            sum += f64::from(simd::sum(terms));
            block.copy_from_slice(terms);
        }
        (largest, sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_those_of_f64() {
        let logits: Vec<f32> = (0..1000).map(|i| ((i * 7919) % 1000) as f32 / 40.0 - 9.0).collect();
        let mut values = logits.clone();
        let (largest, sum) = exponentials(&mut values);
        let want: Vec<f64> = logits.iter().map(|z| f64::from(z - largest).exp()).collect();
        assert_eq!(largest, logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        assert!((sum / want.iter().sum::<f64>() - 1.0).abs() < 1e-6);
        assert!(values.iter().zip(&want).all(|(got, want)| (f64::from(*got) - want).abs() < 1e-6));
    }
}
