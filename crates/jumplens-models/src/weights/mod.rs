//! Checkpoints as named tensors, checked: every tensor a model asks for must be there in the shape its configuration
//! gives, and what it did not ask for can be listed.

pub mod arrays;
mod gguf;
mod pickle;
mod pytorch;
mod safetensors;
pub mod torch_save;

use crate::error::{Error, Result};
use crate::gguf::{Quant, is_gguf};
use crate::hub::{ShardIndex, SourceFile};
use crate::nn::{Precision, with_values};
use candle_core::{Device, Tensor};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::path::PathBuf;

/// Where a tensor's bytes lie in its file.
#[derive(Debug, Clone)]
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: std::ops::Range<usize>,
    /// How many elements there are along an axis and how far apart, where they do not follow one another row by row. Axes
    /// may divide those of the shape further.
    axes: Option<Vec<(usize, usize)>>,
    /// What is added to every element.
    offset: f32,
}

impl Entry {
    /// The elements row by row, each widened. `elements` are the entry's own.
    fn values<T: Copy>(&self, elements: &[T], widen: impl Fn(T) -> f32) -> Vec<f32> {
        let Some(axes) = &self.axes else {
            return elements.iter().map(|element| widen(*element)).collect();
        };
        let mut index = vec![0; axes.len()];
        let mut at = 0;
        (0..self.shape.iter().product::<usize>())
            .map(|_| {
                let value = widen(elements[at]);
                for (index, (length, stride)) in index.iter_mut().zip(axes).rev() {
                    *index += 1;
                    at += stride;
                    if *index < *length {
                        break;
                    }
                    at -= *index * stride;
                    *index = 0;
                }
                value
            })
            .collect()
    }

    /// The tensor's elements as f32, row by row, finite or not; `name` is for messages. [`Error::TensorDtype`] where that cannot
    /// be had.
    fn widened(&self, file: &SourceFile, name: &str) -> Result<Vec<f32>> {
        let bytes = &file.bytes()[self.bytes.clone()];
        let mut values: Vec<f32> = match &self.dtype {
            Dtype::F32 => self.values(bytes.as_chunks().0, f32::from_le_bytes),
            Dtype::F64 => self.values(bytes.as_chunks().0, |b| f64::from_le_bytes(b) as f32),
            Dtype::F16 => self.values(bytes.as_chunks().0, |b| half::f16::from_le_bytes(b).to_f32()),
            Dtype::Bf16 => self.values(bytes.as_chunks().0, |b| half::bf16::from_le_bytes(b).to_f32()),
            Dtype::Quantised(quant) => {
                let values = quant.dequantise(bytes);
                if self.axes.is_some() { self.values(&values, |value| value) } else { values }
            }
            Dtype::Other(got) => {
                let (path, tensor) = (file.path.clone(), name.into());
                return Err(Error::TensorDtype { path, tensor, got: got.clone() });
            }
        };
        if self.offset != 0.0 {
            values.iter_mut().for_each(|value| *value += self.offset);
        }
        Ok(values)
    }

    /// As [`Entry::widened`], and [`Error::WeightNotFinite`] where one of them is not finite.
    fn read(&self, file: &SourceFile, name: &str) -> Result<Vec<f32>> {
        let values = self.widened(file, name)?;
        let Some(value) = values.iter().copied().find(|value| !value.is_finite()) else { return Ok(values) };
        let bytes = &file.bytes()[self.bytes.clone()];
        let stored = || bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b));
        let value = match self.dtype {
            // As it is stored: it may be no more than too large for f32.
            Dtype::F64 => stored().find(|value| !(*value as f32).is_finite()).unwrap_or(value.into()),
            _ => value.into(),
        };
        Err(Error::WeightNotFinite { path: file.path.clone(), tensor: name.into(), value })
    }
}

/// The number formats, of which all but the last can be read. They are widened (F64: narrowed) to f32.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Dtype {
    F32,
    F16,
    Bf16,
    F64,
    Quantised(Quant),
    Other(String),
}

impl Dtype {
    /// As safetensors spells it.
    fn named(name: &str) -> Self {
        match name {
            "F32" => Self::F32,
            "F16" => Self::F16,
            "BF16" => Self::Bf16,
            "F64" => Self::F64,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::F32 => f.write_str("F32"),
            Self::F16 => f.write_str("F16"),
            Self::Bf16 => f.write_str("BF16"),
            Self::F64 => f.write_str("F64"),
            Self::Quantised(quant) => write!(f, "{quant:?}"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

/// An opened checkpoint.
#[derive(Debug)]
pub struct Weights<'a> {
    files: &'a [SourceFile],
    /// What the layers made of the tensors do their products in.
    precision: Precision,
    /// By name, with the file that each is in.
    entries: BTreeMap<String, (&'a SourceFile, Entry)>,
    used: RefCell<BTreeSet<String>>,
    /// Those of them that repeat another tensor.
    repeated: RefCell<BTreeSet<String>>,
    /// Bytes that have been read until now, as f32.
    taken: Cell<u64>,
    /// The tensors that slices were taken of last, with their names.
    sliced: RefCell<VecDeque<(String, Tensor)>>,
    /// What is to be said of twins that differ.
    differing: RefCell<Vec<String>>,
    /// The largest magnitude in each tensor that has one above [`LARGE`].
    large: RefCell<BTreeMap<String, f32>>,
}

/// A weight beyond this has squares that end f32.
const LARGE: f32 = 1e18;

/// Bytes that the tensors of files of so many bytes may take as f32. No quantisation has values of less than 2 bits, and one
/// tensor may be read under two names; any number of them would make a small file a large model.
fn most(bytes: u64) -> u64 {
    (64 << 20) + bytes.saturating_mul(32)
}

/// What a model takes from a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// Numbers in the tensors that the model uses, each tied tensor once.
    pub parameters: u64,
    /// How many of them are stored in each number format.
    pub by_dtype: BTreeMap<String, u64>,
}

impl<'a> Weights<'a> {
    /// Reads the list of tensors of all `files` (one, or the shards of a checkpoint): of a safetensors or GGUF file where
    /// its name ends so, else of a PyTorch checkpoint. [`Error::Format`] where a file is damaged or cut short, or two have
    /// a tensor of the same name; [`Error::RefusedPickle`] where a PyTorch checkpoint is more than tensors;
    /// [`Error::Config`] where a GGUF file is of a model that is not supported.
    pub fn open(files: &'a [SourceFile]) -> Result<Self> {
        let mut entries: BTreeMap<String, (&SourceFile, Entry)> = BTreeMap::new();
        for file in files {
            // By the name, so that no damage to a safetensors file takes it to the pickle reader.
            let in_file = match file.path.extension() {
                Some(extension) if extension == "safetensors" => safetensors::entries(file)?,
                _ if is_gguf(&file.path) => gguf::entries(file)?,
                _ => pytorch::entries(file)?,
            };
            for (name, entry) in in_file {
                if let Some((other, _)) = entries.get(&name) {
                    let message = format!("tensor `{name}` is in `{}` too", other.path.display());
                    return Err(Error::Format { path: file.path.clone(), message });
                }
                entries.insert(name, (file, entry));
            }
        }
        Ok(Self {
            files,
            precision: Precision::F32,
            entries,
            used: RefCell::default(),
            repeated: RefCell::default(),
            taken: Cell::default(),
            sliced: RefCell::default(),
            differing: RefCell::default(),
            large: RefCell::default(),
        })
    }

    /// The same checkpoint, for layers that do their products in `precision` (f32 where this is not said).
    pub fn for_products_in(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// Holds the shards against the index that promises what is in them: [`Error::ShardLacks`].
    pub fn check(&self, index: &ShardIndex) -> Result<()> {
        for (tensor, shard) in &index.weight_map {
            let path = index.file.path.with_file_name(shard);
            if self.entries.get(tensor).is_none_or(|(file, _)| file.path != path) {
                return Err(Error::ShardLacks {
                    index: index.file.path.clone(),
                    shard: shard.clone(),
                    tensor: tensor.clone(),
                });
            }
        }
        Ok(())
    }

    /// What has been asked for until now.
    pub fn contents(&self) -> Contents {
        let mut contents = Contents::default();
        for name in self.used.borrow().difference(&self.repeated.borrow()) {
            let Entry { dtype, shape, .. } = &self.entries[name].1;
            let count = shape.iter().map(|n| *n as u64).product::<u64>();
            contents.parameters += count;
            *contents.by_dtype.entry(dtype.to_string()).or_default() += count;
        }
        contents
    }

    /// The path of the first file, for messages about what none of them has.
    fn path(&self) -> PathBuf {
        self.files.first().map(|file| file.path.clone()).unwrap_or_default()
    }

    /// True where the checkpoint has a tensor of that full name.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The shape of the tensor of that full name, where there is one.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|(_, entry)| &entry.shape[..])
    }

    /// The number format of the tensor of that full name, as safetensors spells it, or that of its quantisation.
    pub fn dtype(&self, name: &str) -> Option<String> {
        self.entries.get(name).map(|(_, entry)| entry.dtype.to_string())
    }

    /// The elements of the tensor of that full name as they stand in the checkpoint, row by row: without what a model adds to
    /// them. [`Error::MissingTensor`], [`Error::TensorDtype`], [`Error::WeightNotFinite`].
    pub fn values(&self, name: &str) -> Result<Vec<f32>> {
        let shape = self.shape(name).unwrap_or_default().to_vec();
        let (file, entry) = self.entry(name, &shape)?;
        entry.read(file, name)
    }

    /// The full names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The tensors below `prefix`: `""`, or a path that ends in a dot.
    pub fn below(&'a self, prefix: &str) -> Scope<'a> {
        Scope { weights: self, prefix: prefix.to_owned() }
    }

    /// A line about the tensors with weights so large that states overflow, where there are any.
    pub fn note_large(&self) -> Option<String> {
        let large = self.large.borrow();
        let (name, value) = large.iter().max_by(|a, b| a.1.total_cmp(b.1))?;
        let others = match large.len() {
            1 => String::new(),
            n => format!(", and {} more tensors ones above {LARGE:e}", n - 1),
        };
        Some(format!("`{name}` holds weights up to {value:e} in magnitude{others}: states may overflow f32"))
    }

    /// What is to be said of the twins that were read and differ, a line each.
    pub fn differences(&self) -> Vec<String> {
        self.differing.borrow().clone()
    }

    /// What products are done in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The tensors that nothing has asked for, sorted.
    pub fn unused(&self) -> Vec<&str> {
        let used = self.used.borrow();
        self.names().filter(|name| !used.contains(*name)).collect()
    }

    /// The entry of a tensor, checked: it is there in the shape that it has to have, in a format that can be read.
    /// [`Error::MissingTensor`], [`Error::TensorShape`], [`Error::TensorDtype`].
    fn entry(&self, name: &str, shape: &[usize]) -> Result<(&'a SourceFile, &Entry)> {
        let Some((file, entry)) = self.entries.get(name) else {
            return Err(Error::MissingTensor {
                path: self.path(),
                tensor: name.into(),
                expected: shape.into(),
            });
        };
        if entry.shape != shape {
            return Err(Error::TensorShape {
                path: file.path.clone(),
                tensor: name.into(),
                expected: shape.into(),
                got: entry.shape.clone(),
            });
        }
        if let Dtype::Other(got) = &entry.dtype {
            return Err(Error::TensorDtype {
                path: file.path.clone(),
                tensor: name.into(),
                got: got.clone(),
            });
        }
        Ok((file, entry))
    }

    /// Marks a tensor as used, and its twin as one that repeats it, without reading either. [`Error::MissingTensor`],
    /// [`Error::TensorShape`], [`Error::TensorDtype`].
    pub fn expect(&self, spec: &TensorSpec) -> Result<()> {
        self.entry(&spec.name, &spec.shape)?;
        self.used.borrow_mut().insert(spec.name.clone());
        if let Some(twin) = spec.twin.as_ref().filter(|twin| self.contains(&twin.name)) {
            self.entry(&twin.name, &spec.shape)?;
            self.used.borrow_mut().insert(twin.name.clone());
            self.repeated.borrow_mut().insert(twin.name.clone());
        }
        Ok(())
    }

    /// Reads a tensor, and holds it against its twin where it has one. [`Error::MissingTensor`], [`Error::TensorShape`],
    /// [`Error::TensorDtype`] or [`Error::WeightNotFinite`] where that cannot be had.
    pub fn read(&self, spec: &TensorSpec) -> Result<Tensor> {
        self.expect(spec)?;
        let tensor = self.whole(spec)?;
        self.hold_against_twin(spec, &tensor)?;
        let tensor = match &spec.slice {
            Some(slice) => {
                let part = slice.of(&tensor)?;
                let mut sliced = self.sliced.borrow_mut();
                if !sliced.iter().any(|(name, _)| *name == spec.name) {
                    sliced.push_back((spec.name.clone(), tensor));
                }
                // A weight and a bias.
                if sliced.len() > 2 {
                    sliced.pop_front();
                }
                part
            }
            None => tensor,
        };
        Ok(if spec.plus == 0.0 { tensor } else { (tensor + spec.plus)? })
    }

    /// As [`Weights::read`] for a tensor that has been read already, and is used a second time, as it is.
    pub fn reuse(&self, spec: &TensorSpec, tensor: &Tensor) -> Result<Tensor> {
        self.expect(spec)?;
        self.hold_against_twin(spec, tensor)?;
        Ok(tensor.clone())
    }

    fn hold_against_twin(&self, spec: &TensorSpec, tensor: &Tensor) -> Result<()> {
        let Some(twin) = spec.twin.as_ref().filter(|twin| self.contains(&twin.name)) else { return Ok(()) };
        let other = self.whole(&TensorSpec { name: twin.name.clone(), twin: None, ..spec.clone() })?;
        if with_values(tensor, |a| with_values(&other, |b| a != b))?? {
            self.differing.borrow_mut().push(twin.difference.clone());
        }
        Ok(())
    }

    /// The tensor as it stands in the checkpoint.
    fn whole(&self, TensorSpec { name, shape, .. }: &TensorSpec) -> Result<Tensor> {
        if let Some((_, tensor)) = self.sliced.borrow().iter().find(|(kept, _)| kept == name) {
            return Ok(tensor.clone());
        }
        let (file, entry) = self.entry(name, shape)?;
        let values = shape.iter().fold(1, |n: u64, size| n.saturating_mul(*size as u64));
        let read = self.taken.get().saturating_add(values.saturating_mul(4));
        let bytes = self.files.iter().map(|file| file.bytes().len() as u64).sum();
        if read > most(bytes) {
            return Err(Error::Format {
                path: file.path.clone(),
                message: format!(
                    "its tensors share their bytes: with `{name}` they take {read} in memory, of {bytes} on disk"
                ),
            });
        }
        self.taken.set(read);
        let values = entry.read(file, name)?;
        let largest = values.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
        if largest > LARGE {
            self.large.borrow_mut().insert(name.clone(), largest);
        }
        Ok(Tensor::from_vec(values, shape.as_slice(), &Device::Cpu)?)
    }
}

/// A tensor that a model asks for, and where it is.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorSpec {
    /// Its full name.
    pub name: String,
    /// Its shape in the checkpoint.
    pub shape: Vec<usize>,
    /// What is taken of it, where that is not all.
    pub slice: Option<Slice>,
    /// What is added to every element.
    pub plus: f64,
    /// Another tensor that has to be the same, where the checkpoint has both.
    pub twin: Option<Twin>,
}

impl TensorSpec {
    /// The part of it that `slice` says.
    pub fn sliced(self, slice: Slice) -> Self {
        Self { slice: Some(slice), ..self }
    }

    /// With `plus` added to every element.
    pub fn plus(self, plus: f64) -> Self {
        Self { plus, ..self }
    }
}

/// One of several tensors that are stored as one: the elements are taken as `[outer, count, inner]`, of which this is
/// `[:, index, :]`, of shape `shape`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// How often they take turns.
    pub outer: usize,
    /// How many there are.
    pub count: usize,
    /// Which this is, from 0.
    pub index: usize,
    /// Its own shape.
    pub shape: Vec<usize>,
}

impl Slice {
    fn of(&self, whole: &Tensor) -> Result<Tensor> {
        let inner = whole.elem_count() / (self.outer * self.count).max(1);
        let all = whole.reshape((self.outer, self.count, inner))?;
        Ok(all.narrow(1, self.index, 1)?.contiguous()?.reshape(self.shape.as_slice())?)
    }
}

/// A second copy of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Twin {
    /// Its full name.
    pub name: String,
    /// What is to be said where the two differ.
    pub difference: String,
}

/// A place in a checkpoint's tree of names; paths read as they do in the checkpoint.
#[derive(Debug, Clone)]
pub struct Scope<'a> {
    weights: &'a Weights<'a>,
    prefix: String,
}

impl Scope<'_> {
    /// The place `path` below this one.
    pub fn pp(&self, path: impl std::fmt::Display) -> Self {
        Self { weights: self.weights, prefix: format!("{}{path}.", self.prefix) }
    }

    /// The full name of what is called `name` here.
    pub fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// True where the checkpoint has a tensor `name` here.
    pub fn contains(&self, name: &str) -> bool {
        self.weights.contains(&self.name(name))
    }

    /// The tensor `name` of exactly `shape`.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> TensorSpec {
        TensorSpec { name: self.name(name), shape: shape.into(), slice: None, plus: 0.0, twin: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_that_share_their_bytes_do_not_make_a_small_file_a_large_model() {
        static BYTES: [u8; 1 << 20] = [0; 1 << 20];
        let files = [SourceFile::bundled("a.bin", &BYTES)];
        let shape = vec![1 << 18];
        let entry =
            Entry { dtype: Dtype::F32, shape: shape.clone(), bytes: 0..1 << 20, axes: None, offset: 0.0 };
        let entries = (0..200).map(|i| (i.to_string(), (&files[0], entry.clone()))).collect();
        let weights = Weights {
            files: &files,
            precision: Precision::F32,
            entries,
            used: RefCell::default(),
            repeated: RefCell::default(),
            taken: Cell::default(),
            sliced: RefCell::default(),
            differing: RefCell::default(),
            large: RefCell::default(),
        };
        let read = |i: usize| weights.read(&weights.below("").tensor(&i.to_string(), &shape));
        assert_eq!((0..200).take_while(|i| read(*i).is_ok()).count(), 96);
        let error = read(150).unwrap_err().to_string();
        assert!(error.contains("share their bytes"), "{error}");
    }
}
