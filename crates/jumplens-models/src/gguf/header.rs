//! The header of a GGUF file: its metadata, and where its tensors lie. The layout is that of ggml's
//! `docs/gguf.md`. candle's reader decodes strings with loss, so that a damaged vocabulary passes for a sound one, and copies
//! every string and array; here they are slices of the file, and what is not UTF-8 is an error.

use super::quant::Quant;
use crate::error::{Error, Result};
use crate::files::SourceFile;
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

/// A tensor has no more dimensions (`GGML_MAX_DIMS`).
const MAX_DIMS: u32 = 4;

/// Where the file does not say to what multiple of bytes its tensors are aligned.
const ALIGNMENT: u64 = 32;

/// What a GGUF file says before the bytes of its tensors. Nothing is copied but names and numbers.
#[derive(Debug)]
pub(crate) struct Header<'a> {
    pub(crate) path: &'a Path,
    metadata: BTreeMap<&'a str, Value<'a>>,
    /// The keys as they follow one another, with the bytes of their values and of what these are.
    raw: Vec<(&'a str, &'a [u8])>,
    pub(crate) tensors: Vec<TensorInfo<'a>>,
}

/// A tensor as the file lists it.
#[derive(Debug)]
pub(crate) struct TensorInfo<'a> {
    /// llama.cpp's name.
    pub(crate) name: &'a str,
    /// Row by row: ggml's dimensions, turned round.
    pub(crate) shape: Vec<usize>,
    pub(crate) kind: Type,
    /// Its bytes in the file: none where the type's size is not known.
    pub(crate) bytes: Range<usize>,
}

impl TensorInfo<'_> {
    /// Its values, row by row. [`Error::TensorDtype`] of formats that are not read.
    pub(crate) fn values(&self, file: &SourceFile) -> Result<Vec<f32>> {
        let bytes = &file.bytes()[self.bytes.clone()];
        Ok(match &self.kind {
            Type::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Type::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
            Type::F16 => bytes.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
            Type::Bf16 => {
                bytes.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect()
            }
            Type::Quantised(quant) => quant.dequantise(bytes),
            Type::Other(got) => {
                let (path, tensor) = (file.path.clone(), self.name.to_owned());
                return Err(Error::TensorDtype { path, tensor, got: got.clone() });
            }
        })
    }
}

/// What the values of a tensor are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Type {
    F32,
    F16,
    Bf16,
    F64,
    Quantised(Quant),
    /// ggml's name, or number, of one that is not read.
    Other(String),
}

impl Type {
    /// The type of that number in `enum ggml_type`.
    fn of(number: u32) -> Self {
        let other = match number {
            0 => return Self::F32,
            1 => return Self::F16,
            2 => return Self::Quantised(Quant::Q4_0),
            3 => return Self::Quantised(Quant::Q4_1),
            6 => return Self::Quantised(Quant::Q5_0),
            7 => return Self::Quantised(Quant::Q5_1),
            8 => return Self::Quantised(Quant::Q8_0),
            10 => return Self::Quantised(Quant::Q2_K),
            11 => return Self::Quantised(Quant::Q3_K),
            12 => return Self::Quantised(Quant::Q4_K),
            13 => return Self::Quantised(Quant::Q5_K),
            14 => return Self::Quantised(Quant::Q6_K),
            15 => return Self::Quantised(Quant::Q8_K),
            28 => return Self::F64,
            30 => return Self::Bf16,
            9 => "Q8_1",
            16 => "IQ2_XXS",
            17 => "IQ2_XS",
            18 => "IQ3_XXS",
            19 => "IQ1_S",
            20 => "IQ4_NL",
            21 => "IQ3_S",
            22 => "IQ2_S",
            23 => "IQ4_XS",
            24 => "I8",
            25 => "I16",
            26 => "I32",
            27 => "I64",
            29 => "IQ1_M",
            34 => "TQ1_0",
            35 => "TQ2_0",
            39 => "MXFP4",
            40 => "NVFP4",
            41 => "Q1_0",
            number => return Self::Other(format!("of ggml's number {number}")),
        };
        Self::Other(other.to_owned())
    }

    /// Its number in `enum ggml_type`, for those that can be read.
    pub(crate) fn number(&self) -> Option<u32> {
        (0..=30).find(|number| Self::of(*number) == *self && !matches!(self, Self::Other(_)))
    }

    /// Values and bytes of what cannot be divided.
    fn block(&self) -> Option<(usize, usize)> {
        match self {
            Self::F32 => Some((1, 4)),
            Self::F16 | Self::Bf16 => Some((1, 2)),
            Self::F64 => Some((1, 8)),
            Self::Quantised(quant) => Some(quant.block()),
            Self::Other(_) => None,
        }
    }
}

/// A value of the metadata. Text is checked when it is asked for, so that a damaged description stops nobody.
#[derive(Debug, Clone, Copy)]
enum Value<'a> {
    Natural(u64),
    Negative,
    F32(f32),
    F64(f64),
    Bool(bool),
    Text(&'a [u8]),
    Array(Array<'a>),
}

/// An array whose extent has been checked.
#[derive(Debug, Clone, Copy)]
struct Array<'a> {
    kind: u32,
    len: usize,
    bytes: &'a [u8],
}

/// An array of more values is only counted in messages.
const LONGEST_SHOWN: usize = 64;

impl Value<'_> {
    fn json(&self) -> Json {
        match self {
            Self::Natural(n) => (*n).into(),
            Self::Negative => "a number below 0".into(),
            Self::F32(x) if x.is_finite() => shortest(*x).into(),
            Self::F64(x) if x.is_finite() => (*x).into(),
            Self::F32(_) | Self::F64(_) => "not a finite number".into(),
            Self::Bool(truth) => (*truth).into(),
            Self::Text(bytes) => String::from_utf8_lossy(bytes).into(),
            Self::Array(array) => match array.naturals().filter(|numbers| numbers.len() <= LONGEST_SHOWN) {
                Some(numbers) => numbers.into(),
                None => format!("an array of {}", array.len).into(),
            },
        }
    }
}

/// With the fewest digits that tell it from its neighbours: 1e-5 in f32 is 1e-5 in f64.
fn shortest(x: f32) -> f64 {
    x.to_string().parse().unwrap_or_else(|_| f64::from(x))
}

impl Array<'_> {
    /// Its values where they are truths or 32-bit whole numbers from 0.
    fn naturals(&self) -> Option<Vec<u64>> {
        match self.kind {
            7 => Some(self.bytes.iter().map(|truth| u64::from(*truth != 0)).collect()),
            4 => Some(self.bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b).into()).collect()),
            5 => self.bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b).try_into().ok()).collect(),
            _ => None,
        }
    }
}

const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// The bytes of a value of that kind, for those that have always as many.
fn fixed_size(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

impl<'a> Header<'a> {
    /// Reads the header. [`Error::Format`] where it claims more than the file has, or says what cannot be.
    pub(crate) fn read(file: &'a SourceFile) -> Result<Self> {
        let mut reader = Reader { path: &file.path, bytes: file.bytes(), at: 0 };
        if reader.bytes.get(..4) != Some(b"GGUF") {
            let begin = reader.bytes[..reader.bytes.len().min(8)].escape_ascii();
            return Err(reader.damaged(format!("a GGUF file begins with \"GGUF\", not \"{begin}\"")));
        }
        reader.at = 4;
        match reader.u32("the version")? {
            2 | 3 => {}
            version if version.swap_bytes() <= 0xff => {
                return Err(reader.damaged("a big-endian GGUF file; little-endian ones are read"));
            }
            version => return Err(reader.damaged(format!("GGUF version {version}; 2 and 3 are read"))),
        }
        let n_tensors = reader.u64("the number of tensors")?;
        let n_values = reader.u64("the number of metadata values")?;

        let (mut metadata, mut raw) = (BTreeMap::new(), Vec::new());
        for number in 0..n_values {
            let key = reader.text(&format!("the key of metadata value {number} of {n_values}"))?;
            let begin = reader.at;
            let value = reader.value(key)?;
            raw.push((key, &file.bytes()[begin..reader.at]));
            if metadata.insert(key, value).is_some() {
                return Err(reader.damaged(format!("`{key}` is in the metadata twice")));
            }
        }
        let mut listed = Vec::new();
        let mut names = BTreeSet::new();
        for number in 0..n_tensors {
            let tensor = reader.tensor(number, n_tensors)?;
            if !names.insert(tensor.name) {
                return Err(reader.damaged(format!("tensor `{}` is in it twice", tensor.name)));
            }
            listed.push(tensor);
        }

        let mut header = Self { path: &file.path, metadata, raw, tensors: Vec::new() };
        let alignment = header.natural("general.alignment")?.unwrap_or(ALIGNMENT);
        if !alignment.is_power_of_two() {
            return Err(header.damaged(format!("`general.alignment` is {alignment}, not a power of two")));
        }
        let data = (reader.at as u64).checked_next_multiple_of(alignment);
        header.tensors = listed
            .into_iter()
            .map(|tensor| tensor.placed(&header, data, alignment, reader.bytes.len()))
            .collect::<Result<_>>()?;
        header.refuse_overlaps()?;
        Ok(header)
    }

    /// Tensors that share bytes would make a small file a large model.
    fn refuse_overlaps(&self) -> Result<()> {
        let mut order: Vec<&TensorInfo<'_>> = self.tensors.iter().filter(|t| !t.bytes.is_empty()).collect();
        order.sort_by_key(|tensor| tensor.bytes.start);
        match order.windows(2).find(|pair| pair[1].bytes.start < pair[0].bytes.end) {
            Some(pair) => {
                Err(self.damaged(format!("tensors `{}` and `{}` share bytes", pair[0].name, pair[1].name)))
            }
            None => Ok(()),
        }
    }

    /// An [`Error::Format`] for this file.
    pub(crate) fn damaged(&self, message: impl Into<String>) -> Error {
        Error::Format { path: self.path.to_owned(), message: message.into() }
    }

    /// An [`Error::Config`] for this file: nothing is wrong with it, but it asks for what this crate does not
    /// do.
    pub(crate) fn unsupported(&self, message: impl Into<String>) -> Error {
        Error::Config { path: self.path.to_owned(), message: message.into() }
    }

    /// The tensor of that name of llama.cpp's.
    pub(crate) fn tensor(&self, name: &str) -> Option<&TensorInfo<'a>> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    fn wrong_kind(&self, key: &str, expected: &str) -> Error {
        self.damaged(format!("`{key}` in its metadata is not {expected}"))
    }

    /// The text at `key`.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Text(bytes)) => {
                std::str::from_utf8(bytes).map(Some).map_err(|_| self.wrong_kind(key, "UTF-8"))
            }
            Some(_) => Err(self.wrong_kind(key, "a text")),
        }
    }

    /// The number at `key`, from 0.
    pub(crate) fn natural(&self, key: &str) -> Result<Option<u64>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Natural(n)) => Ok(Some(*n)),
            Some(_) => Err(self.wrong_kind(key, "a whole number from 0")),
        }
    }

    /// The number at `key`, an f32 with the fewest digits that tell it from its neighbours.
    pub(crate) fn float(&self, key: &str) -> Result<Option<f64>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::F32(x)) if x.is_finite() => Ok(Some(shortest(*x))),
            Some(Value::F64(x)) if x.is_finite() => Ok(Some(*x)),
            Some(_) => Err(self.wrong_kind(key, "a finite number with a fraction")),
        }
    }

    /// The truth at `key`.
    pub(crate) fn truth(&self, key: &str) -> Result<Option<bool>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Bool(truth)) => Ok(Some(*truth)),
            Some(_) => Err(self.wrong_kind(key, "true or false")),
        }
    }

    /// The keys that begin with `prefix`, with their values as JSON: of a long array or a text that is not UTF-8, what
    /// it is.
    pub(crate) fn below(&self, prefix: &str) -> impl Iterator<Item = (&'a str, Json)> {
        let below = self.metadata.iter().filter(move |(key, _)| key.starts_with(prefix));
        below.map(|(key, value)| (*key, value.json()))
    }

    /// The whole numbers or truths at `key`, a single one as an array of one: with it, whether it is an array.
    pub(crate) fn naturals(&self, key: &str) -> Result<Option<(Vec<u64>, bool)>> {
        let numbers = match self.metadata.get(key) {
            None => return Ok(None),
            Some(Value::Natural(n)) => Some((vec![*n], false)),
            Some(Value::Array(array)) => array.naturals().map(|numbers| (numbers, true)),
            Some(_) => None,
        };
        numbers.map(Some).ok_or_else(|| self.wrong_kind(key, "a whole number from 0, or an array of them"))
    }

    /// The number at `key`, which may be given block by block where all blocks have the same.
    pub(crate) fn of_every_block(&self, key: &str) -> Result<Option<u64>> {
        let Some((numbers, _)) = self.naturals(key)? else { return Ok(None) };
        match numbers.iter().find(|n| **n != numbers[0]) {
            Some(other) => Err(self.unsupported(format!(
                "`{key}` is {} in one block and {other} in another, which is not supported",
                numbers[0]
            ))),
            None => Ok(numbers.first().copied()),
        }
    }

    /// The metadata as they stand in the file: each key, the number of its value's kind and its bytes.
    pub(crate) fn raw(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.raw.iter().copied()
    }

    fn array(&self, key: &str, kinds: &[u32], expected: &str) -> Result<Option<Array<'a>>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Array(array)) if kinds.contains(&array.kind) => Ok(Some(*array)),
            Some(_) => Err(self.wrong_kind(key, expected)),
        }
    }

    /// The texts at `key`.
    pub(crate) fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        let Some(array) = self.array(key, &[STRING], "an array of texts")? else { return Ok(None) };
        let mut reader = Reader { path: self.path, bytes: array.bytes, at: 0 };
        (0..array.len)
            .map(|number| reader.text(&format!("text {number} of `{key}`")))
            .collect::<Result<_>>()
            .map(Some)
    }

    /// The f32 numbers at `key`.
    pub(crate) fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>> {
        let array = self.array(key, &[6], "an array of F32")?;
        Ok(array.map(|array| array.bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()))
    }

    /// The 32-bit whole numbers at `key`.
    pub(crate) fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>> {
        let array = self.array(key, &[4, 5], "an array of 32-bit whole numbers")?;
        Ok(array.map(|array| array.bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b)).collect()))
    }
}

/// A place in the file.
struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

/// A tensor before it is known where the bytes of the first one are.
struct Listed<'a> {
    name: &'a str,
    dims: Vec<u64>,
    kind: Type,
    offset: u64,
}

impl<'a> Reader<'a> {
    fn damaged(&self, message: impl Into<String>) -> Error {
        Error::Format { path: self.path.to_owned(), message: message.into() }
    }

    fn take(&mut self, n: u64, what: &str) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        match usize::try_from(n).ok().and_then(|n| rest.get(..n)) {
            Some(taken) => {
                self.at += taken.len();
                Ok(taken)
            }
            None => Err(self
                .damaged(format!("{what} would have {n} bytes, but the file ends {} bytes on", rest.len()))),
        }
    }

    fn number<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N as u64, what)?);
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        self.number(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        self.number(what).map(u64::from_le_bytes)
    }

    fn string(&mut self, what: &str) -> Result<&'a [u8]> {
        let length = self.u64(what)?;
        self.take(length, what)
    }

    fn text(&mut self, what: &str) -> Result<&'a str> {
        std::str::from_utf8(self.string(what)?).map_err(|_| self.damaged(format!("{what} is not UTF-8")))
    }

    fn value(&mut self, key: &str) -> Result<Value<'a>> {
        let integer = |n: i64| u64::try_from(n).map_or(Value::Negative, Value::Natural);
        Ok(match self.u32(key)? {
            0 => Value::Natural(self.number::<1>(key)?[0].into()),
            1 => integer(self.number(key).map(i8::from_le_bytes)?.into()),
            2 => Value::Natural(self.number(key).map(u16::from_le_bytes)?.into()),
            3 => integer(self.number(key).map(i16::from_le_bytes)?.into()),
            4 => Value::Natural(self.u32(key)?.into()),
            5 => integer(self.number(key).map(i32::from_le_bytes)?.into()),
            6 => Value::F32(self.number(key).map(f32::from_le_bytes)?),
            7 => Value::Bool(self.number::<1>(key)?[0] != 0),
            STRING => Value::Text(self.string(key)?),
            ARRAY => Value::Array(self.array(key)?),
            10 => Value::Natural(self.u64(key)?),
            11 => integer(self.number(key).map(i64::from_le_bytes)?),
            12 => Value::F64(self.number(key).map(f64::from_le_bytes)?),
            kind => return Err(self.damaged(format!("`{key}` has a value of unknown kind {kind}"))),
        })
    }

    fn array(&mut self, key: &str) -> Result<Array<'a>> {
        let kind = self.u32(key)?;
        let len = self.u64(key)?;
        let start = self.at;
        match fixed_size(kind) {
            // Too large a product is too large for any file.
            Some(size) => _ = self.take(len.saturating_mul(size), key)?,
            None if kind == STRING => {
                for _ in 0..len {
                    self.string(key)?;
                }
            }
            None => return Err(self.damaged(format!("`{key}` is an array of values of kind {kind}"))),
        }
        // Each value has at least a byte, so that there are not more than bytes of the file.
        Ok(Array { kind, len: len as usize, bytes: &self.bytes[start..self.at] })
    }

    fn tensor(&mut self, number: u64, n_tensors: u64) -> Result<Listed<'a>> {
        let name = self.text(&format!("the name of tensor {number} of {n_tensors}"))?;
        let n_dims = self.u32(name)?;
        if n_dims > MAX_DIMS {
            return Err(
                self.damaged(format!("tensor `{name}` has {n_dims} dimensions, at most 4 are possible"))
            );
        }
        let dims = (0..n_dims).map(|_| self.u64(name)).collect::<Result<_>>()?;
        Ok(Listed { name, dims, kind: Type::of(self.u32(name)?), offset: self.u64(name)? })
    }
}

impl<'a> Listed<'a> {
    /// The tensor with its bytes, counted from the byte `data` of a file of `length` bytes.
    fn placed(
        self,
        header: &Header<'_>,
        data: Option<u64>,
        alignment: u64,
        length: usize,
    ) -> Result<TensorInfo<'a>> {
        let Self { name, dims, kind, offset } = self;
        let start = data.and_then(|data| data.checked_add(offset));
        let start = start.and_then(|start| usize::try_from(start).ok()).filter(|start| *start <= length);
        let beyond = || header.damaged(format!("tensor `{name}` is not within the file's {length} bytes"));
        let start = start.ok_or_else(beyond)?;
        if !offset.is_multiple_of(alignment) {
            return Err(header
                .damaged(format!("tensor `{name}` begins at {offset}, not at a multiple of {alignment}")));
        }
        let shape: Option<Vec<usize>> = dims.iter().rev().map(|dim| usize::try_from(*dim).ok()).collect();
        // Zeros do not hide an overflow: whatever multiplies the shape later is safe.
        let bounded = dims.iter().try_fold(1_u64, |n, dim| n.checked_mul((*dim).max(1)));
        let (Some(shape), Some(_)) = (shape, bounded.filter(|n| *n <= isize::MAX as u64)) else {
            return Err(header.damaged(format!("tensor `{name}` has the impossible dimensions {dims:?}")));
        };
        let Some((values, bytes)) = kind.block() else {
            return Ok(TensorInfo { name, shape, kind, bytes: start..start });
        };
        let row = shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(values) {
            return Err(header.damaged(format!(
                "tensor `{name}` has rows of {row} values, which blocks of {values} do not fill"
            )));
        }
        let n_blocks = shape.iter().product::<usize>() / values;
        let end = n_blocks.checked_mul(bytes).and_then(|size| size.checked_add(start));
        let end = end.filter(|end| *end <= length).ok_or_else(beyond)?;
        Ok(TensorInfo { name, shape, kind, bytes: start..end })
    }
}
