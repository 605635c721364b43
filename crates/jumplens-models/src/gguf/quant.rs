//! GGUF's quantised number formats, as f32: blocks of whole numbers with scales of their own. They agree with
//! `dequantize_row_*` in ggml's `ggml-quants.c`, down to the rounding.

use half::f16;

/// Values of a block of the formats with two levels of scales.
const SUPER: usize = 256;

/// A format of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "the names are ggml's")]
pub(crate) enum Quant {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Q8_K,
}

impl Quant {
    /// Values and bytes of a block.
    pub(crate) const fn block(self) -> (usize, usize) {
        match self {
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q2_K => (SUPER, 84),
            Self::Q3_K => (SUPER, 110),
            Self::Q4_K => (SUPER, 144),
            Self::Q5_K => (SUPER, 176),
            Self::Q6_K => (SUPER, 210),
            Self::Q8_K => (SUPER, 292),
        }
    }

    /// The values of whole blocks, in order.
    pub(crate) fn dequantise(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::Q4_0 => blocks(bytes, q4_0),
            Self::Q4_1 => blocks(bytes, q4_1),
            Self::Q5_0 => blocks(bytes, q5_0),
            Self::Q5_1 => blocks(bytes, q5_1),
            Self::Q8_0 => blocks(bytes, q8_0),
            Self::Q2_K => blocks(bytes, q2_k),
            Self::Q3_K => blocks(bytes, q3_k),
            Self::Q4_K => blocks(bytes, q4_k),
            Self::Q5_K => blocks(bytes, q5_k),
            Self::Q6_K => blocks(bytes, q6_k),
            Self::Q8_K => blocks(bytes, q8_k),
        }
    }
}

fn blocks<const BYTES: usize, const VALUES: usize>(
    bytes: &[u8],
    values: impl Fn(&[u8; BYTES]) -> [f32; VALUES],
) -> Vec<f32> {
    let blocks = bytes.as_chunks().0;
    let mut all = Vec::with_capacity(blocks.len() * VALUES);
    blocks.iter().for_each(|block| all.extend_from_slice(&values(block)));
    all
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Value `i` of the 32 whose low halves come before the high ones.
fn nibble(packed: &[u8], i: usize) -> u8 {
    packed[i % 16] >> (4 * (i / 16)) & 15
}

/// The fifth bit of value `i` of 32.
fn fifth_bit(bits: &[u8], i: usize) -> u8 {
    (bits[i / 8] >> (i % 8) & 1) << 4
}

fn q4_0(block: &[u8; 18]) -> [f32; 32] {
    let d = half_at(block, 0);
    std::array::from_fn(|i| d * (f32::from(nibble(&block[2..], i)) - 8.0))
}

fn q4_1(block: &[u8; 20]) -> [f32; 32] {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    std::array::from_fn(|i| d * f32::from(nibble(&block[4..], i)) + m)
}

fn q5_0(block: &[u8; 22]) -> [f32; 32] {
    let d = half_at(block, 0);
    std::array::from_fn(|i| d * (f32::from(nibble(&block[6..], i) | fifth_bit(&block[2..6], i)) - 16.0))
}

fn q5_1(block: &[u8; 24]) -> [f32; 32] {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    std::array::from_fn(|i| d * f32::from(nibble(&block[8..], i) | fifth_bit(&block[4..8], i)) + m)
}

fn q8_0(block: &[u8; 34]) -> [f32; 32] {
    let d = half_at(block, 0);
    std::array::from_fn(|i| d * f32::from(block[2 + i].cast_signed()))
}

/// Value `i` of 256, two bits each: four values 32 apart share a byte.
fn two_bits(packed: &[u8], i: usize) -> u8 {
    packed[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3
}

fn q2_k(block: &[u8; 84]) -> [f32; SUPER] {
    let (scales, packed) = (&block[..16], &block[16..80]);
    let (d, d_min) = (half_at(block, 80), half_at(block, 82));
    std::array::from_fn(|i| {
        let scale = scales[i / 16];
        d * f32::from(scale & 15) * f32::from(two_bits(packed, i)) - d_min * f32::from(scale >> 4)
    })
}

fn q3_k(block: &[u8; 110]) -> [f32; SUPER] {
    let (high, packed, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half_at(block, 108);
    let scales: [f32; 16] = std::array::from_fn(|k| {
        let low = scales[k % 8] >> (k / 8 * 4) & 15;
        let top = scales[8 + k % 4] >> (k / 4 * 2) & 3;
        d * (f32::from(low | top << 4) - 32.0)
    });
    std::array::from_fn(|i| {
        // The third bit is stored inverted: without it the value is four lower.
        let lower = if high[i % 32] >> (i / 32) & 1 == 0 { 4.0 } else { 0.0 };
        scales[i / 16] * (f32::from(two_bits(packed, i)) - lower)
    })
}

/// Scale and minimum of each 32 values, six bits each, in 12 bytes.
fn scales_and_minima(packed: &[u8]) -> [(f32, f32); 8] {
    std::array::from_fn(|k| {
        let (scale, minimum) = if k < 4 {
            (packed[k] & 63, packed[k + 4] & 63)
        } else {
            let both = packed[k + 4];
            (both & 15 | packed[k - 4] >> 6 << 4, both >> 4 | packed[k] >> 6 << 4)
        };
        (f32::from(scale), f32::from(minimum))
    })
}

/// Value `i` of 256, four bits each: two values 32 apart share a byte.
fn four_bits(packed: &[u8], i: usize) -> u8 {
    packed[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15
}

fn q4_k(block: &[u8; 144]) -> [f32; SUPER] {
    let (d, d_min) = (half_at(block, 0), half_at(block, 2));
    let scales = scales_and_minima(&block[4..16]);
    std::array::from_fn(|i| {
        let (scale, minimum) = scales[i / 32];
        d * scale * f32::from(four_bits(&block[16..], i)) - d_min * minimum
    })
}

fn q5_k(block: &[u8; 176]) -> [f32; SUPER] {
    let (d, d_min) = (half_at(block, 0), half_at(block, 2));
    let scales = scales_and_minima(&block[4..16]);
    let (high, packed) = (&block[16..48], &block[48..]);
    std::array::from_fn(|i| {
        let (scale, minimum) = scales[i / 32];
        let fifth = (high[i % 32] >> (i / 32) & 1) << 4;
        d * scale * f32::from(four_bits(packed, i) | fifth) - d_min * minimum
    })
}

fn q6_k(block: &[u8; 210]) -> [f32; SUPER] {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half_at(block, 208);
    std::array::from_fn(|i| {
        let low = low[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
        let value = f32::from(low | two_bits(high, i) << 4) - 32.0;
        d * f32::from(scales[i / 16].cast_signed()) * value
    })
}

fn q8_k(block: &[u8; 292]) -> [f32; SUPER] {
    let d = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    std::array::from_fn(|i| d * f32::from(block[4 + i].cast_signed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Quant; 11] = [
        Quant::Q4_0,
        Quant::Q4_1,
        Quant::Q5_0,
        Quant::Q5_1,
        Quant::Q8_0,
        Quant::Q2_K,
        Quant::Q3_K,
        Quant::Q4_K,
        Quant::Q5_K,
        Quant::Q6_K,
        Quant::Q8_K,
    ];

    #[test]
    fn each_block_gives_as_many_values_as_it_should() {
        for quant in ALL {
            let (values, bytes) = quant.block();
            assert_eq!(quant.dequantise(&vec![0; 3 * bytes]), vec![0.0; 3 * values], "{quant:?}");
        }
    }

    /// A scale of one, and each value its own number as far as four bits go.
    #[test]
    fn low_halves_come_before_high_ones() {
        let mut block = [0_u8; 18];
        block[..2].copy_from_slice(&f16::ONE.to_le_bytes());
        for i in 0..16_u8 {
            block[2 + usize::from(i)] = i | (15 - i) << 4;
        }
        let values = Quant::Q4_0.dequantise(&block);
        let expected: Vec<f32> = (0..16).chain((0..16).rev()).map(|n| n as f32 - 8.0).collect();
        assert_eq!(values, expected);
    }
}
