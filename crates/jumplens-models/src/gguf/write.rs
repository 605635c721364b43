//! GGUF files of models with fewer blocks: of such a file, its metadata with what a block less changes; of a checkpoint in
//! Hugging Face layout, what llama.cpp's `convert_hf_to_gguf.py` would make of it.

use super::architecture::Architecture;
use super::header::Header;
use crate::error::{Error, Result};
use crate::files::write_with;
use std::io::Write;
use std::path::Path;

/// A value of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Meta {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
    /// As it stands in another file: its kind and its bytes.
    Raw(Vec<u8>),
}

impl Meta {
    fn encode(&self, out: &mut Vec<u8>) {
        let text = |text: &str, out: &mut Vec<u8>| {
            out.extend((text.len() as u64).to_le_bytes());
            out.extend(text.as_bytes());
        };
        let array = |kind: u32, len: usize, out: &mut Vec<u8>| {
            out.extend(9u32.to_le_bytes());
            out.extend(kind.to_le_bytes());
            out.extend((len as u64).to_le_bytes());
        };
        match self {
            Self::U32(value) => out.extend([4u32.to_le_bytes(), value.to_le_bytes()].concat()),
            Self::F32(value) => out.extend([6u32.to_le_bytes(), value.to_le_bytes()].concat()),
            Self::Bool(value) => {
                out.extend(7u32.to_le_bytes());
                out.push(u8::from(*value));
            }
            Self::Text(value) => {
                out.extend(8u32.to_le_bytes());
                text(value, out);
            }
            Self::Texts(values) => {
                array(8, values.len(), out);
                values.iter().for_each(|value| text(value, out));
            }
            Self::I32s(values) => {
                array(5, values.len(), out);
                values.iter().for_each(|value| out.extend(value.to_le_bytes()));
            }
            Self::Raw(bytes) => out.extend(bytes),
        }
    }
}

/// The number formats that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    F32,
    F16,
    Bf16,
    /// Blocks of 32 whole numbers of 8 bits with a scale in half precision.
    Q8_0,
    /// Of ggml's number, copied from another file.
    Raw(u32),
}

impl Kind {
    /// `enum ggml_type`.
    fn number(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 8,
            Self::Bf16 => 30,
            Self::Raw(number) => number,
        }
    }

    /// `enum llama_ftype` of a file whose matrices are of it.
    pub(crate) fn file_type(self) -> Option<u32> {
        match self {
            Self::F32 => Some(0),
            Self::F16 => Some(1),
            Self::Q8_0 => Some(7),
            Self::Bf16 => Some(32),
            Self::Raw(_) => None,
        }
    }

    /// Values as they are stored.
    pub(crate) fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 | Self::Raw(_) => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Self::F16 => values.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect(),
            Self::Bf16 => values.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
            Self::Q8_0 => values.as_chunks().0.iter().flat_map(q8_0).collect(),
        }
    }
}

/// `quantize_row_q8_0_ref` in ggml's `ggml-quants.c`: the largest magnitude is 127.
fn q8_0(values: &[f32; 32]) -> [u8; 34] {
    let largest = values.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let scale = largest / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let mut block = [0; 34];
    block[..2].copy_from_slice(&half::f16::from_f32(scale).to_le_bytes());
    for (byte, x) in block[2..].iter_mut().zip(values) {
        *byte = (x * inverse).round() as i8 as u8;
    }
    block
}

/// A tensor to be written.
pub(crate) struct Tensor {
    pub(crate) name: String,
    /// Row by row.
    pub(crate) shape: Vec<usize>,
    pub(crate) kind: Kind,
    /// How many bytes it has.
    pub(crate) bytes: usize,
}

impl Tensor {
    /// In the format that is asked for, as far as it can be: vectors are f32, and rows that blocks do not fill are f16.
    pub(crate) fn new(name: String, shape: Vec<usize>, wanted: Kind) -> Self {
        let row = shape.last().copied().unwrap_or(1);
        let kind = match wanted {
            _ if shape.len() < 2 => Kind::F32,
            Kind::Q8_0 if !row.is_multiple_of(32) => Kind::F16,
            kind => kind,
        };
        let values: usize = shape.iter().product();
        let bytes = match kind {
            Kind::F32 | Kind::Raw(_) => 4 * values,
            Kind::F16 | Kind::Bf16 => 2 * values,
            Kind::Q8_0 => values / 32 * 34,
        };
        Self { name, shape, kind, bytes }
    }
}

/// To what multiple of bytes tensors are aligned.
const ALIGNMENT: usize = 32;

/// Writes a file of that metadata and those tensors, `fill` giving the bytes of each when its turn comes. It is there whole or
/// not at all.
pub(crate) fn write(
    path: &Path,
    metadata: &[(String, Meta)],
    tensors: &[Tensor],
    mut fill: impl FnMut(usize) -> Result<Vec<u8>>,
) -> Result<()> {
    let mut header = b"GGUF".to_vec();
    header.extend(3u32.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((metadata.len() as u64).to_le_bytes());
    let text = |text: &str, out: &mut Vec<u8>| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    for (key, value) in metadata {
        text(key, &mut header);
        value.encode(&mut header);
    }
    let mut at = 0;
    for tensor in tensors {
        text(&tensor.name, &mut header);
        header.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|size| header.extend((*size as u64).to_le_bytes()));
        header.extend(tensor.kind.number().to_le_bytes());
        header.extend((at as u64).to_le_bytes());
        at += tensor.bytes.next_multiple_of(ALIGNMENT);
    }
    header.resize(header.len().next_multiple_of(ALIGNMENT), 0);
    let mut failed = None;
    let written = write_with(path, |file| {
        file.write_all(&header)?;
        for (index, tensor) in tensors.iter().enumerate() {
            let bytes = fill(index).and_then(|bytes| match bytes.len() == tensor.bytes {
                true => Ok(bytes),
                false => Err(Error::Internal(format!(
                    "tensor `{}` has {} bytes, not {}",
                    tensor.name,
                    bytes.len(),
                    tensor.bytes
                ))),
            });
            match bytes {
                Ok(bytes) => {
                    file.write_all(&bytes)?;
                    file.write_all(&vec![0; bytes.len().next_multiple_of(ALIGNMENT) - bytes.len()])?;
                }
                Err(error) => {
                    failed = Some(error);
                    return Err(std::io::Error::other("not all tensors could be made"));
                }
            }
        }
        Ok(())
    });
    match failed {
        Some(error) => Err(error),
        None => written,
    }
}

/// The metadata of `header` for a model of its blocks `kept`: their number, and of what is given block by block what is theirs.
pub(crate) fn of_kept(header: &Header, kept: &[usize]) -> Result<Vec<(String, Meta)>> {
    let architecture = Architecture::of(header)?;
    let blocks = format!("{}.block_count", architecture.name());
    let before = header.natural(&blocks)?;
    let below = format!("{}.", architecture.name());
    let mut metadata = Vec::new();
    for (key, raw) in header.raw() {
        let value = match key {
            _ if key == blocks => Meta::U32(kept.len() as u32),
            _ if key.starts_with(&below) => {
                Meta::Raw(of_blocks(raw, before, kept).unwrap_or_else(|| raw.to_vec()))
            }
            _ => Meta::Raw(raw.to_vec()),
        };
        metadata.push((key.to_owned(), value));
    }
    Ok(metadata)
}

/// An array with a value a block, as that of the blocks `kept`; `None` for what is none.
fn of_blocks(raw: &[u8], blocks: Option<u64>, kept: &[usize]) -> Option<Vec<u8>> {
    let number = |at: usize| raw.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let len = raw.get(8..16).map(|b| u64::from_le_bytes(b.try_into().unwrap_or_default()));
    if number(0)? != 9 || len? != blocks? {
        return None;
    }
    let size = match number(4)? {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        _ => return None,
    };
    let mut out = raw[..8].to_vec();
    out.extend((kept.len() as u64).to_le_bytes());
    for block in kept {
        out.extend(raw.get(16 + block * size..16 + (block + 1) * size)?);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Quant;

    #[test]
    fn eight_bits_are_within_half_a_step() {
        let values: Vec<f32> = (0..64).map(|i| ((i * 37 % 64) as f32 - 31.0) * 0.013).collect();
        let back = Quant::Q8_0.dequantise(&Kind::Q8_0.encode(&values));
        for (block, values) in back.chunks(32).zip(values.chunks(32)) {
            let step = values.iter().fold(0.0f32, |largest, x| largest.max(x.abs())) / 127.0;
            for (got, expected) in block.iter().zip(values) {
                // Half a step, and what the scale's own rounding moves 127 of them.
                assert!((got - expected).abs() <= 0.57 * step, "{got} for {expected}");
            }
        }
        assert_eq!(q8_0(&[0.0; 32])[..2], [0, 0]);
    }

    #[test]
    fn values_of_blocks_are_those_of_the_kept_ones() {
        let mut raw = Vec::new();
        Meta::I32s(vec![5, 6, 7]).encode(&mut raw);
        let mut expected = Vec::new();
        Meta::I32s(vec![5, 7]).encode(&mut expected);
        assert_eq!(of_blocks(&raw, Some(3), &[0, 2]), Some(expected));
        assert_eq!(of_blocks(&raw, Some(4), &[0, 2]), None);
    }
}
