//! Arrays by themselves, as Python programs leave them: pickles of torch tensors and NumPy arrays, `.npy`, `.npz`. Nothing
//! of a pickle is run: it may name what tensors and arrays are rebuilt by, and these names are read as data.
//!
//! The formats: CPython's `pickletools`, torch's `torch/storage.py` and `torch/_utils.py`, NumPy's
//! `core/src/multiarray/methods.c` (`__reduce__`) and `lib/format.py`.

use super::pickle::{self, Global, Id, Value, Vocabulary};
use super::pytorch::{Checkpoint, Contents, STORAGE_IN_BYTES, contents, rebuilds_tensors};
use super::{Dtype, Entry, safetensors};
use crate::error::{Error, Result};
use crate::files::SourceFile;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;

/// An array of f32, row by row, whatever it was in the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values, row-major.
    pub values: Vec<f32>,
}

/// What a pickle of tensors and arrays names.
const ARRAYS: Vocabulary = Vocabulary {
    allows: |global| {
        rebuilds_tensors(global) || global == STORAGE_IN_BYTES || numpy(global).is_some() || {
            global.module == "numpy" && matches!(global.name, "ndarray" | "dtype")
        }
    },
    fills: |global| {
        numpy(global) == Some("_reconstruct") || (global.module == "numpy" && global.name == "dtype")
    },
};

/// The name of a function that rebuilds arrays: NumPy 2 moved them.
fn numpy<'a>(global: Global<'a>) -> Option<&'a str> {
    match (global.module, global.name) {
        ("numpy.core.multiarray" | "numpy._core.multiarray", name @ ("_reconstruct" | "scalar")) => {
            Some(name)
        }
        ("numpy.core.numeric" | "numpy._core.numeric", name @ "_frombuffer") => Some(name),
        _ => None,
    }
}

/// A matrix, and where it comes in a list the vector behind it, which may be a single number.
///
/// [`Error::RefusedPickle`] where the file names anything that tensors and arrays are not made of, [`Error::Format`] where
/// it holds something else.
pub fn read_pickle(file: &SourceFile) -> Result<(Array, Option<Array>)> {
    let checkpoint = Checkpoint { path: &file.path, bytes: file.bytes() };
    let (pickle, end) = pickle::read(checkpoint.path, checkpoint.bytes, 0, ARRAYS)?;
    if end < checkpoint.bytes.len() {
        let more = checkpoint.bytes.len() - end;
        return Err(checkpoint.damaged(format!("{more} bytes after the end of the pickle")));
    }
    let contents = Contents { checkpoint, pickle, storages: HashMap::new() };
    let root = contents.pickle.root();
    let read = |id| read_array(file, &contents, id);
    match (contents.pickle.get(root), contents.pickle.sequence(root)) {
        (_, [matrix, vector]) => Ok((read(*matrix)?, Some(read(*vector)?))),
        (Value::Tuple(_) | Value::List(_), items) => {
            let message = format!("a list of {}, not of a matrix and an intercept", items.len());
            Err(contents.checkpoint.damaged(message))
        }
        _ => Ok((read(root)?, None)),
    }
}

fn read_array(file: &SourceFile, contents: &Contents, id: Id) -> Result<Array> {
    let Contents { checkpoint, pickle, .. } = contents;
    let number = |value: f64| Ok(Array { shape: vec![], values: vec![value as f32] });
    match pickle.get(id) {
        Value::Float(value) => return number(*value),
        Value::Int(value) => return number(*value as f64),
        _ => {}
    }
    let entry = match contents.tensor(id) {
        Some(call) => contents.entry("of the pickle", call)?,
        None => numpy_array(contents, id)?.ok_or_else(|| {
            let kind = pickle.get(id).kind();
            checkpoint.damaged(format!("it holds {kind} where a tensor or an array should be"))
        })?,
    };
    Ok(Array { values: entry.read(file, "of the pickle")?, shape: entry.shape })
}

/// The array that a value is, where it is one.
fn numpy_array(contents: &Contents, id: Id) -> Result<Option<Entry>> {
    let Contents { checkpoint, pickle, .. } = contents;
    let Value::Call { callable, args, state } = pickle.get(id) else { return Ok(None) };
    let Some(function) = numpy(*callable) else { return Ok(None) };
    let strange = || checkpoint.damaged("an array that is not described as NumPy does");
    let state = state.map_or(&[][..], |state| pickle.sequence(state));
    let (data, dtype, shape, is_fortran) = match (function, pickle.sequence(*args), state) {
        // Version, shape, dtype, whether columns lie together, data.
        ("_reconstruct", _, [_, shape, dtype, is_fortran, data]) => {
            (*data, *dtype, sizes(contents, *shape), pickle.get(*is_fortran) == &Value::Bool(true))
        }
        ("_frombuffer", [data, dtype, shape, order], []) => {
            (*data, *dtype, sizes(contents, *shape), pickle.get(*order) == &Value::Str("F"))
        }
        ("scalar", [dtype, data], []) => (*data, *dtype, Some(vec![]), false),
        _ => return Err(strange()),
    };
    let shape = shape.ok_or_else(strange)?;
    let Value::Bytes(data) = pickle.get(data) else {
        let kind = pickle.get(data).kind();
        return Err(checkpoint.damaged(format!("an array whose data are {kind}, not bytes")));
    };
    let start = data.as_ptr() as usize - checkpoint.bytes.as_ptr() as usize;
    let dtype = numpy_dtype(contents, dtype).ok_or_else(strange)?;
    array_entry(&dtype, shape, is_fortran, start..start + data.len())
        .map(Some)
        .map_err(|message| checkpoint.damaged(message))
}

fn sizes(contents: &Contents, id: Id) -> Option<Vec<usize>> {
    let pickle = &contents.pickle;
    let Value::Tuple(items) = pickle.get(id) else { return None };
    let size = |id: &Id| match pickle.get(*id) {
        Value::Int(size) => usize::try_from(*size).ok(),
        _ => None,
    };
    if items.len() > MAX_AXES { None } else { items.iter().map(size).collect() }
}

/// NumPy's own limit.
const MAX_AXES: usize = 64;

/// A dtype as `.npy` files spell it, such as `<f4`: `numpy.dtype('f4', False, True)` filled from `(3, '<', …)`.
fn numpy_dtype(contents: &Contents, id: Id) -> Option<String> {
    let pickle = &contents.pickle;
    let Value::Call { callable: Global { module: "numpy", name: "dtype" }, args, state } = pickle.get(id)
    else {
        return None;
    };
    let Value::Str(kind) = pickle.get(*pickle.sequence(*args).first()?) else { return None };
    let order = match state.map(|state| pickle.sequence(state)) {
        Some([_, order, ..]) => match pickle.get(*order) {
            Value::Str(order) => order,
            _ => return None,
        },
        _ => "=",
    };
    Some(format!("{order}{kind}"))
}

/// The array of that shape whose elements are the file's `bytes`.
fn array_entry(
    dtype: &str,
    shape: Vec<usize>,
    is_fortran: bool,
    bytes: Range<usize>,
) -> Result<Entry, String> {
    // Without a sign of its own the order is the machine's that wrote it: nearly always little-endian.
    let (dtype, size) = match dtype.trim_start_matches(['<', '=', '|']) {
        "f4" => (Dtype::F32, 4),
        "f8" => (Dtype::F64, 8),
        "f2" => (Dtype::F16, 2),
        other => (Dtype::Other(format!("`{}`", other.escape_debug())), 1),
    };
    let wanted = shape.iter().try_fold(size, |product: usize, n| product.checked_mul(*n));
    let is_whole = wanted.is_some_and(|wanted| wanted == bytes.len() || matches!(dtype, Dtype::Other(_)));
    if !is_whole {
        return Err(format!("an array of shape {shape:?} and {dtype} in {} bytes", bytes.len()));
    }
    // From the first axis on, each step goes over all that the axes before it hold.
    let strides = shape.iter().scan(1, |stride, n| Some(std::mem::replace(stride, *stride * n)));
    let axes = (is_fortran && shape.len() > 1).then(|| shape.iter().copied().zip(strides).collect());
    Ok(Entry { dtype, shape, bytes, axes, offset: 0.0 })
}

/// A `.npy` file.
pub fn read_npy(file: &SourceFile) -> Result<Array> {
    let entry = npy_entry(file, 0..file.bytes().len(), "")?;
    Ok(Array { values: entry.read(file, "of the file")?, shape: entry.shape })
}

/// A `.npz` file: its arrays by name.
pub fn read_npz(file: &SourceFile) -> Result<BTreeMap<String, Array>> {
    let read = |(name, entry): (String, Entry)| {
        let values = entry.read(file, &name)?;
        Ok((name, Array { values, shape: entry.shape }))
    };
    npz_entries(file)?.into_iter().map(read).collect()
}

/// A dict that `torch.save` wrote: the whole numbers in it by name, and its dicts of tensors by their numbers. Whatever else is
/// in it is passed over.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SavedDict {
    /// Whole numbers.
    pub numbers: BTreeMap<String, i64>,
    /// Dicts whose keys are whole numbers, and whose values are tensors.
    pub tensors: BTreeMap<String, BTreeMap<usize, Array>>,
}

/// Reads one. Nothing of its pickle is run. [`Error::RefusedPickle`] where it names anything that tensors are not made of,
/// [`Error::Format`] where it holds something else than a dict.
pub fn read_saved_dict(file: &SourceFile) -> Result<SavedDict> {
    let contents = contents(file)?;
    let Contents { checkpoint, pickle, .. } = &contents;
    let Some(items) = pickle.pairs(pickle.root()) else {
        return Err(checkpoint.damaged(format!("it holds {}, not a dict", pickle.get(pickle.root()).kind())));
    };
    let mut dict = SavedDict::default();
    for (key, value) in items {
        let Value::Str(name) = pickle.get(key) else { continue };
        if let Value::Int(number) = pickle.get(value) {
            dict.numbers.insert((*name).to_owned(), *number);
        }
        let mut tensors = BTreeMap::new();
        for (key, value) in pickle.pairs(value).into_iter().flatten() {
            let (Value::Int(number), Some(call)) = (pickle.get(key), contents.tensor(value)) else {
                continue;
            };
            let Ok(number) = usize::try_from(*number) else {
                return Err(checkpoint.damaged(format!("`{}` has the key {number}", name.escape_debug())));
            };
            let named = format!("{}[{number}]", name.escape_debug());
            let entry = contents.entry(&named, call)?;
            tensors.insert(number, Array { values: entry.read(file, &named)?, shape: entry.shape });
        }
        if !tensors.is_empty() {
            dict.tensors.insert((*name).to_owned(), tensors);
        }
    }
    Ok(dict)
}

/// A file of arrays, of which none is read before it is asked for: `.npy`, `.npz` or `.safetensors`, by its ending.
#[derive(Debug)]
pub struct ArrayFile {
    file: SourceFile,
    entries: BTreeMap<String, Entry>,
}

impl ArrayFile {
    /// Whether a file of that name is read.
    pub fn is_one(path: &Path) -> bool {
        ending(path).is_some_and(|ending| ["npy", "npz", "safetensors"].contains(&ending))
    }

    /// Reads the list of its arrays; that of a `.npy` file has the file's name, without its ending. [`Error::Format`] where
    /// the file is damaged, or is none of these.
    pub fn open(path: &Path) -> Result<Self> {
        let file = SourceFile::open(path)?;
        let entries = match ending(path) {
            Some("npy") => {
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                BTreeMap::from([(name, npy_entry(&file, 0..file.bytes().len(), "")?)])
            }
            Some("npz") => npz_entries(&file)?,
            Some("safetensors") => safetensors::entries(&file)?,
            _ => return Err(Error::format(path)("neither `.npy` nor `.npz` nor `.safetensors`")),
        };
        Ok(Self { file, entries })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// The names of its arrays, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The shape of the array `name`, and its number format as safetensors spells it; `None` where there is no such array.
    pub fn shape(&self, name: &str) -> Option<(&[usize], String)> {
        self.entries.get(name).map(|entry| (&entry.shape[..], entry.dtype.to_string()))
    }

    /// Some rows of the array `name`, which has two axes, as f32, finite or not, row by row. [`Error::MissingTensor`],
    /// [`Error::TensorShape`] and [`Error::TensorDtype`] where that cannot be had.
    pub fn rows(&self, name: &str, rows: Range<usize>) -> Result<Vec<f32>> {
        let (path, tensor) = (|| self.file.path.clone(), || name.to_owned());
        let Some(entry) = self.entries.get(name) else {
            return Err(Error::MissingTensor { path: path(), tensor: tensor(), expected: vec![] });
        };
        let &[n, width] = &entry.shape[..] else {
            let (expected, got) = (vec![rows.end, 0], entry.shape.clone());
            return Err(Error::TensorShape { path: path(), tensor: tensor(), expected, got });
        };
        let rows = rows.start.min(n)..rows.end.min(n);
        if entry.axes.is_some() {
            let values = entry.widened(&self.file, name)?;
            return Ok(values[rows.start * width..rows.end * width].to_vec());
        }
        let row = entry.bytes.len().checked_div(n).unwrap_or(0);
        let bytes = entry.bytes.start + rows.start * row..entry.bytes.start + rows.end * row;
        Entry { shape: vec![rows.len(), width], bytes, ..entry.clone() }.widened(&self.file, name)
    }
}

fn ending(path: &Path) -> Option<&str> {
    path.extension()?.to_str()
}

/// The arrays of a `.npz` file.
fn npz_entries(file: &SourceFile) -> Result<BTreeMap<String, Entry>> {
    let checkpoint = Checkpoint { path: &file.path, bytes: file.bytes() };
    let read = |(record, (range, stored)): (String, (Range<usize>, bool))| {
        let Some(name) = record.strip_suffix(".npy") else {
            return Err(checkpoint.damaged(format!("its record `{}` is not an array", record.escape_debug())));
        };
        if !stored {
            return Err(checkpoint.damaged(format!(
                "its record `{}` is compressed; save the arrays by `numpy.savez`, which leaves them as they are",
                record.escape_debug()
            )));
        }
        Ok((name.to_owned(), npy_entry(file, range, name)?))
    };
    checkpoint.records()?.into_iter().map(read).collect()
}

fn npy_entry(file: &SourceFile, range: Range<usize>, name: &str) -> Result<Entry> {
    let damaged = |message: &str| {
        let of = if name.is_empty() { String::new() } else { format!("array `{}`: ", name.escape_debug()) };
        Error::Format { path: file.path.clone(), message: format!("{of}{message}") }
    };
    let bytes = &file.bytes()[range.clone()];
    let header = || {
        let rest = bytes.strip_prefix(b"\x93NUMPY")?;
        let (version, rest) = rest.split_first_chunk::<2>()?;
        let (length, start): (usize, usize) = match version {
            [1, _] => (usize::from(u16::from_le_bytes(*rest.first_chunk()?)), 10),
            [2 | 3, _] => (u32::from_le_bytes(*rest.first_chunk()?) as usize, 12),
            _ => return None,
        };
        Some((std::str::from_utf8(bytes.get(start..start.checked_add(length)?)?).ok()?, start + length))
    };
    let (header, start) = header().ok_or_else(|| damaged("it does not begin as a `.npy` file does"))?;
    let (dtype, is_fortran, shape) =
        npy_header(header).ok_or_else(|| damaged("its header does not describe an array of numbers"))?;
    array_entry(dtype, shape, is_fortran, range.start + start..range.end).map_err(|message| damaged(&message))
}

/// dtype, whether columns lie together, and shape of `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`.
fn npy_header(header: &str) -> Option<(&str, bool, Vec<usize>)> {
    let value = |key: &str| {
        let (_, rest) = header.split_once(&format!("'{key}':"))?;
        Some(rest.trim_start())
    };
    let dtype = value("descr")?.strip_prefix('\'')?.split_once('\'')?.0;
    let is_fortran = match value("fortran_order")? {
        text if text.starts_with("True") => true,
        text if text.starts_with("False") => false,
        _ => return None,
    };
    let (shape, _) = value("shape")?.strip_prefix('(')?.split_once(')')?;
    let sizes: Vec<&str> = shape.split(',').map(str::trim).filter(|size| !size.is_empty()).collect();
    if sizes.len() > MAX_AXES {
        return None;
    }
    Some((dtype, is_fortran, sizes.into_iter().map(|size| size.parse().ok()).collect::<Option<_>>()?))
}
