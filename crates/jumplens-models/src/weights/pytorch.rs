//! The list of tensors of a PyTorch checkpoint, as `torch.save` writes a `state_dict()`: a zip file, or before torch 1.6 a
//! stream of pickles and raw storages. What is in them: torch's `torch/serialization.py` and `torch/_utils.py`.

use super::pickle::{self, Global, Id, Pickle, Value, Vocabulary};
use super::{Dtype, Entry};
use crate::error::{Error, Result};
use crate::files::SourceFile;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Cursor;
use std::ops::Range;
use std::path::Path;
use zip::{CompressionMethod, ZipArchive};

/// 0x1950a86a20f9469cfc6c, with which a stream begins: little-endian, as a pickle holds it.
const STREAM_MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const STREAM_VERSION: i64 = 1001;

/// torch's own limit. It bounds what a shape costs that many tensors share.
const MAX_AXES: usize = 64;

/// What the elements of a storage are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Element {
    /// As safetensors spells it.
    dtype: &'static str,
    bytes: usize,
}

const fn element(dtype: &'static str, bytes: usize) -> Element {
    Element { dtype, bytes }
}

/// The storage classes of the module `torch`.
const STORAGES: [(&str, Element); 12] = [
    ("FloatStorage", element("F32", 4)),
    ("HalfStorage", element("F16", 2)),
    ("BFloat16Storage", element("BF16", 2)),
    ("DoubleStorage", element("F64", 8)),
    ("LongStorage", element("I64", 8)),
    ("IntStorage", element("I32", 4)),
    ("ShortStorage", element("I16", 2)),
    ("CharStorage", element("I8", 1)),
    ("ByteStorage", element("U8", 1)),
    ("BoolStorage", element("BOOL", 1)),
    ("ComplexFloatStorage", element("C64", 8)),
    ("ComplexDoubleStorage", element("C128", 16)),
];

/// The storage class, in the module `torch.storage`, of the dtypes that have none of their own.
const UNTYPED: &str = "UntypedStorage";

/// These dtypes, of the module `torch`.
const DTYPES: [(&str, Element); 9] = [
    ("uint16", element("U16", 2)),
    ("uint32", element("U32", 4)),
    ("uint64", element("U64", 8)),
    ("float8_e4m3fn", element("F8_E4M3", 1)),
    ("float8_e5m2", element("F8_E5M2", 1)),
    ("float8_e4m3fnuz", element("F8_E4M3FNUZ", 1)),
    ("float8_e5m2fnuz", element("F8_E5M2FNUZ", 1)),
    ("float8_e8m0fnu", element("F8_E8M0", 1)),
    ("complex32", element("C32", 4)),
];

fn find(table: &[(&str, Element)], name: &str) -> Option<Element> {
    table.iter().find(|(known, _)| *known == name).map(|(_, element)| *element)
}

/// What the pickle of a `state_dict()` names.
const STATE_DICT: Vocabulary = Vocabulary { allows: rebuilds_tensors, fills: |_| false };

/// The function by which a tensor that is pickled by itself brings its storage: as a stream within the pickle.
pub(super) const STORAGE_IN_BYTES: Global<'static> =
    Global { module: "torch.storage", name: "_load_from_bytes" };

/// True for what tensors are made of.
pub(super) fn rebuilds_tensors(global: Global<'_>) -> bool {
    match global.module {
        "collections" => global.name == "OrderedDict",
        "torch._utils" => matches!(
            global.name,
            "_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_tensor_v3" | "_rebuild_parameter"
        ),
        "torch" => find(&STORAGES, global.name).or(find(&DTYPES, global.name)).is_some(),
        "torch.storage" => global.name == UNTYPED,
        _ => false,
    }
}

pub(super) fn entries(file: &SourceFile) -> Result<BTreeMap<String, Entry>> {
    contents(file)?.entries()
}

/// What was saved, and where its storages are.
pub(super) fn contents(file: &SourceFile) -> Result<Contents<'_>> {
    let checkpoint = Checkpoint { path: &file.path, bytes: file.bytes() };
    match checkpoint.bytes {
        [b'P', b'K', 3, 4, ..] => checkpoint.zip(),
        // The opcode PROTO, with which every pickle since protocol 2 begins.
        [0x80, ..] => checkpoint.stream(0),
        bytes => {
            let begin = bytes[..bytes.len().min(24)].escape_ascii();
            Err(checkpoint.damaged(format!(
                "neither a zip file nor a stream of pickles, the two formats of `torch.save`; \
                 it has {} bytes and begins with \"{begin}\"",
                bytes.len()
            )))
        }
    }
}

/// A file that is being read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checkpoint<'a> {
    pub path: &'a Path,
    pub bytes: &'a [u8],
}

/// The pickled object, and where in the file the bytes of each storage are, by the storage's key.
pub(super) struct Contents<'a> {
    pub checkpoint: Checkpoint<'a>,
    pub pickle: Pickle<'a>,
    pub storages: HashMap<String, Range<usize>>,
}

impl<'a> Checkpoint<'a> {
    pub fn damaged(&self, message: impl Into<String>) -> Error {
        Error::Format { path: self.path.to_owned(), message: message.into() }
    }

    /// Where the records of a zip file are, and whether each is there as it is.
    pub fn records(&self) -> Result<BTreeMap<String, (Range<usize>, bool)>> {
        let mut archive = ZipArchive::new(Cursor::new(self.bytes)).map_err(Error::format(self.path))?;
        if archive.has_duplicate_names() {
            let name = self.twice(archive.central_directory_start()).unwrap_or_default();
            return Err(self.damaged(format!("its record `{}` is in it twice", name.escape_debug())));
        }
        let mut records = BTreeMap::new();
        for number in 0..archive.len() {
            let record = archive.by_index_raw(number).map_err(Error::format(self.path))?;
            let name = record.name().map_err(Error::format(self.path))?.into_owned();
            let start = record.data_start().and_then(|start| usize::try_from(start).ok());
            let end = start.zip(usize::try_from(record.compressed_size()).ok());
            let end = end.and_then(|(start, size)| start.checked_add(size));
            let (Some(start), Some(end)) = (start, end.filter(|end| *end <= self.bytes.len())) else {
                return Err(self.damaged(format!("the file is cut short in its record `{name}`")));
            };
            let stored = record.compression() == CompressionMethod::Stored && !record.encrypted();
            records.insert(name, (start..end, stored));
        }
        Ok(records)
    }

    /// The first name that two records of a zip file have, whose list of records begins at `start`.
    fn twice(self, start: u64) -> Option<String> {
        let mut records = self.bytes.get(usize::try_from(start).ok()?..)?;
        let mut seen = BTreeSet::new();
        while records.starts_with(b"PK\x01\x02") {
            let length = |at: usize| -> Option<usize> {
                Some(u16::from_le_bytes(*records.get(at..)?.first_chunk()?).into())
            };
            let [name, extra, comment] = [length(28)?, length(30)?, length(32)?];
            let (name, end) = (records.get(46..46 + name)?, 46 + name + extra + comment);
            if !seen.insert(name) {
                return Some(String::from_utf8_lossy(name).into_owned());
            }
            records = records.get(end..)?;
        }
        None
    }

    /// `NAME/data.pkl`, `NAME/data/KEY` for each storage, and in newer files `NAME/byteorder`. The check sums are not
    /// looked at: torch does not either, and can be told to leave them out.
    fn zip(self) -> Result<Contents<'a>> {
        let records = self.records()?;
        let stored = |(name, (range, stored)): (&String, &(Range<usize>, bool))| match stored {
            true => Ok(range.clone()),
            false => Err(self.damaged(format!(
                "its record `{name}` is compressed, which `torch.save` never does: the file was packed again"
            ))),
        };

        let mut roots =
            records.iter().filter_map(|record| record.0.strip_suffix("/data.pkl").map(|root| (root, record)));
        let (root, data) = roots.next().ok_or_else(|| self.damaged("a zip file without `data.pkl`"))?;
        if let Some((other, _)) = roots.next() {
            return Err(self.damaged(format!("`data.pkl` is in it twice, under `{root}` and `{other}`")));
        }
        let order = records.get_key_value(&format!("{root}/byteorder")).map(stored).transpose()?;
        if let Some(order) = order.map(|range| &self.bytes[range])
            && order != b"little"
        {
            return Err(self.damaged(format!("its byte order is \"{}\"", order.escape_ascii())));
        }
        let data = stored(data)?;
        let (pickle, _) = pickle::read(self.path, &self.bytes[..data.end], data.start, STATE_DICT)?;
        let prefix = format!("{root}/data/");
        let storages = records
            .iter()
            .filter_map(|record| record.0.strip_prefix(&prefix).map(|key| (key.to_owned(), record)))
            .map(|(key, record)| Ok((key, stored(record)?)))
            .collect::<Result<_>>()?;
        Ok(Contents { checkpoint: self, pickle, storages })
    }

    /// From byte `at` on five pickles (magic number, version, the writer's machine, the object, the keys of the storages),
    /// then for each key the number of its elements and their bytes.
    fn stream(self, mut at: usize) -> Result<Contents<'a>> {
        let mut next = || -> Result<Pickle<'a>> {
            let (pickle, end) = pickle::read(self.path, self.bytes, at, STATE_DICT)?;
            at = end;
            Ok(pickle)
        };
        let root = |pickle: &Pickle<'a>| pickle.get(pickle.root()).kind();
        let magic = next()?;
        if magic.get(magic.root()) != &Value::Long(&STREAM_MAGIC) {
            let message = format!("a pickle that does not come from `torch.save`: {}", root(&magic));
            return Err(self.damaged(message));
        }
        let version = next()?;
        if version.get(version.root()) != &Value::Int(STREAM_VERSION) {
            return Err(self.damaged(format!("its version is not {STREAM_VERSION}")));
        }
        let machine = next()?;
        let mut facts = machine.pairs(machine.root()).into_iter().flatten();
        if !facts.any(|(key, value)| {
            machine.get(key) == &Value::Str("little_endian") && machine.get(value) == &Value::Bool(true)
        }) {
            return Err(self.damaged("it was not written on a little-endian machine"));
        }
        let pickle = next()?;
        let keys = next()?;
        if !matches!(keys.get(keys.root()), Value::List(_)) {
            return Err(self.damaged(format!("{} instead of the storages' keys", root(&keys))));
        }

        // Of several references to a storage the first says how large its elements are, as in torch.
        let mut sizes = HashMap::new();
        for value in pickle.values() {
            if let Value::Persistent(id) = value {
                let storage = self.storage(&pickle, *id)?;
                sizes.entry(storage.key).or_insert((storage.numel, storage.element.bytes));
            }
        }
        let mut storages = HashMap::new();
        for id in keys.sequence(keys.root()) {
            let Value::Str(key) = keys.get(*id) else {
                return Err(self.damaged("a storage's key is not a string"));
            };
            let Some((numel, bytes)) = sizes.get(key) else {
                return Err(self.damaged(format!("storage `{key}` belongs to no tensor")));
            };
            let Some(count) = self.bytes[at..].first_chunk::<8>() else {
                return Err(self.damaged(format!("the file is cut short before storage `{key}`")));
            };
            let count = u64::from_le_bytes(*count);
            if count != *numel as u64 {
                let message = format!("storage `{key}` has {count} elements, but its tensors want {numel}");
                return Err(self.damaged(message));
            }
            let start = at + 8;
            let end = numel.checked_mul(*bytes).and_then(|size| start.checked_add(size));
            let Some(end) = end.filter(|end| *end <= self.bytes.len()) else {
                return Err(self.damaged(format!("the file is cut short in storage `{key}`")));
            };
            storages.insert((*key).to_owned(), start..end);
            at = end;
        }
        Ok(Contents { checkpoint: self, pickle, storages })
    }

    /// What a persistent identifier says: `("storage", class, key, device, numel)`, and in a stream the view, or None.
    fn storage(&self, pickle: &Pickle<'a>, identifier: Id) -> Result<Storage<'a>> {
        let number = |id: &Id| size(pickle.get(*id));
        let parts = pickle.sequence(identifier);
        let storage = || {
            let [tag, class, key, _device, numel, view @ ..] = parts else { return None };
            if pickle.get(*tag) != &Value::Str("storage") {
                return None;
            }
            let Value::Global(class) = pickle.get(*class) else { return None };
            let element = match class.module {
                "torch" => find(&STORAGES, class.name)?,
                "torch.storage" => element("untyped", 1),
                _ => return None,
            };
            let Value::Str(key) = pickle.get(*key) else { return None };
            let numel = number(numel)?;
            let view = match view {
                [] => 0..numel,
                [none] if pickle.get(*none) == &Value::None => 0..numel,
                [view] => {
                    let [_key, offset, length] = pickle.sequence(*view) else { return None };
                    let offset = number(offset)?;
                    offset..offset.checked_add(number(length)?).filter(|end| *end <= numel)?
                }
                _ => return None,
            };
            Some(Storage { key, element, numel, view })
        };
        storage().ok_or_else(|| self.damaged("a persistent identifier that does not describe a storage"))
    }
}

/// A number of elements or bytes.
fn size(value: &Value<'_>) -> Option<usize> {
    match value {
        Value::Int(number) => usize::try_from(*number).ok(),
        _ => None,
    }
}

/// A storage as a tensor refers to it.
struct Storage<'a> {
    key: &'a str,
    element: Element,
    numel: usize,
    /// The elements that the tensor may use.
    view: Range<usize>,
}

impl<'a> Contents<'a> {
    fn entries(&self) -> Result<BTreeMap<String, Entry>> {
        let Self { checkpoint, pickle, .. } = self;
        let Some(items) = pickle.pairs(pickle.root()) else {
            let is_tensor = self.tensor(pickle.root()).is_some();
            let kind = if is_tensor { "a tensor".into() } else { pickle.get(pickle.root()).kind() };
            return Err(checkpoint.damaged(format!("it holds {kind}, not a dict of tensors by name")));
        };
        let mut entries = BTreeMap::new();
        for (key, value) in items {
            let (Value::Str(name), Some(tensor)) = (pickle.get(key), self.tensor(value)) else { continue };
            entries.insert((*name).to_owned(), self.entry(name, tensor)?);
        }
        if entries.is_empty() { Err(checkpoint.damaged(self.what_is_there())) } else { Ok(entries) }
    }

    /// The tensor that a value is, as the call which rebuilds it.
    pub fn tensor(&self, id: Id) -> Option<(&'a str, &[Id])> {
        let call = |id| match self.pickle.get(id) {
            Value::Call { callable, args, .. } if callable.module == "torch._utils" => {
                Some((callable.name, self.pickle.sequence(*args)))
            }
            _ => None,
        };
        match call(id)? {
            ("_rebuild_parameter", [data, ..]) => {
                call(*data).filter(|(name, _)| *name != "_rebuild_parameter")
            }
            tensor => Some(tensor),
        }
    }

    /// A storage, and where its bytes are.
    fn storage(&self, name: &str, id: Id) -> Result<(Storage<'a>, Range<usize>)> {
        let Self { checkpoint, pickle, .. } = self;
        let damaged = |what: String| checkpoint.damaged(format!("tensor `{name}` {what}"));
        match pickle.get(id) {
            Value::Persistent(identifier) => {
                let storage = checkpoint.storage(pickle, *identifier)?;
                match self.storages.get(storage.key) {
                    Some(bytes) => Ok((storage, bytes.clone())),
                    None => Err(damaged(format!(
                        "lies in storage `{}`, which the file does not have",
                        storage.key
                    ))),
                }
            }
            Value::Call { callable, args, .. } if *callable == STORAGE_IN_BYTES => {
                let [bytes] = pickle.sequence(*args) else {
                    return Err(damaged("brings its storage in a way that torch does not".into()));
                };
                let Value::Bytes(stream) = pickle.get(*bytes) else {
                    return Err(damaged(format!("brings its storage as {}", pickle.get(*bytes).kind())));
                };
                let start = stream.as_ptr() as usize - checkpoint.bytes.as_ptr() as usize;
                let within = Checkpoint { bytes: &checkpoint.bytes[..start + stream.len()], ..*checkpoint };
                let contents = within.stream(start)?;
                // What a stream's own pickle may name holds no other stream.
                contents.storage(name, contents.pickle.root())
            }
            _ => Err(damaged("is not described as torch does".into())),
        }
    }

    /// The tensor called `name`, in messages, that is rebuilt by this call.
    pub fn entry(&self, name: &str, (rebuild, args): (&str, &[Id])) -> Result<Entry> {
        let Self { checkpoint, pickle, .. } = self;
        let damaged = |what: &str| checkpoint.damaged(format!("tensor `{name}` {what}"));
        let strange = || damaged("is not described as torch does");

        let [storage, offset, shape, strides, rest @ ..] = args else { return Err(strange()) };
        let (storage, stored) = self.storage(name, *storage)?;
        let (mut element, metadata) =
            (storage.element, rest.get(2 + usize::from(rebuild == "_rebuild_tensor_v3")));
        if rebuild == "_rebuild_tensor_v3" {
            let Some(Value::Global(Global { module: "torch", name })) = rest.get(2).map(|id| pickle.get(*id))
            else {
                return Err(strange());
            };
            element = find(&DTYPES, name).ok_or_else(strange)?;
        }
        let sizes = |id: &Id| -> Option<Vec<usize>> {
            let ids = pickle.sequence(*id);
            if ids.len() > MAX_AXES { None } else { ids.iter().map(|id| size(pickle.get(*id))).collect() }
        };
        let offset = size(pickle.get(*offset)).ok_or_else(strange)?;
        let shape = sizes(shape).ok_or_else(strange)?;
        let mut strides = sizes(strides).filter(|s| s.len() == shape.len()).ok_or_else(strange)?;

        let wanted = storage.numel.checked_mul(storage.element.bytes);
        if wanted.is_none_or(|bytes| bytes > stored.len()) {
            let Element { dtype, bytes } = storage.element;
            return Err(damaged(&format!(
                "wants {} elements of {bytes} bytes ({dtype}) in storage `{}`, which has {} bytes",
                storage.numel,
                storage.key,
                stored.len()
            )));
        }
        // Products fit from here on: the storage lies in the file.
        let view = stored.start + storage.view.start * storage.element.bytes
            ..stored.start + storage.view.end * storage.element.bytes;

        let dtype = match metadata.map(|id| pickle.pairs(*id).is_some_and(|mut marks| marks.next().is_some()))
        {
            // The marks say that torch conjugates or negates the elements when it reads them.
            Some(true) => Dtype::Other(format!("{} with a mark (conj or neg)", element.dtype)),
            _ => Dtype::named(element.dtype),
        };
        if shape.contains(&0) {
            return Ok(Entry { dtype, shape, bytes: view.start..view.start, axes: None, offset: 0.0 });
        }
        // No stride is taken along an axis of one.
        strides.iter_mut().zip(&shape).filter(|(_, n)| **n == 1).for_each(|(stride, _)| *stride = 0);
        let reach = strides
            .iter()
            .zip(&shape)
            .try_fold(0_usize, |reach, (stride, n)| reach.checked_add(stride.checked_mul(n - 1)?));
        let bytes = reach.and_then(|reach| {
            let begin = offset.checked_mul(element.bytes)?.checked_add(view.start)?;
            let end = reach.checked_add(1)?.checked_mul(element.bytes)?.checked_add(begin)?;
            (end <= view.end).then_some(begin..end)
        });
        let Some(bytes) = bytes else {
            return Err(damaged(&format!(
                "of shape {shape:?} and strides {strides:?} from element {offset} \
                 reaches beyond its storage of {} bytes",
                view.len()
            )));
        };
        // Strides of 0 repeat elements: as many as a shape likes to claim.
        let numel = shape.iter().try_fold(1_usize, |numel, n| numel.checked_mul(*n));
        let Some(numel) = numel.filter(|numel| *numel <= checkpoint.bytes.len()) else {
            return Err(damaged(&format!("of shape {shape:?} has more elements than the file has bytes")));
        };
        let mut row = numel;
        let rows = strides.iter().zip(&shape).all(|(stride, n)| {
            row /= n;
            *n == 1 || *stride == row
        });
        let axes = (!rows).then(|| shape.iter().copied().zip(strides).collect());
        Ok(Entry { dtype, shape, bytes, axes, offset: 0.0 })
    }

    /// What a dict without tensors holds instead: the begin of it.
    fn what_is_there(&self) -> String {
        const SHOWN: usize = 8;
        let Self { pickle, .. } = self;
        let items = || pickle.pairs(pickle.root()).into_iter().flatten();
        let names = |limit| {
            items().take(limit).filter_map(|(key, value)| match pickle.get(key) {
                Value::Str(name) => Some((*name, value)),
                _ => None,
            })
        };
        let deeper = names(SHOWN).find(|(_, value)| {
            pickle.pairs(*value).is_some_and(|mut inner| inner.any(|(_, value)| self.tensor(value).is_some()))
        });
        if let Some((name, _)) = deeper {
            return format!("no tensor at its top level: its tensors lie one level deeper, under `{name}`");
        }
        let shown: Vec<String> =
            names(SHOWN).map(|(name, value)| format!("`{name}` ({})", pickle.get(value).kind())).collect();
        match items().count() {
            0 => "an empty dict: there is no tensor".to_owned(),
            n if n > shown.len() => {
                format!("no tensor at its top level, which holds {} and more", shown.join(", "))
            }
            _ => format!("no tensor at its top level, which holds {}", shown.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::Weights;

    /// A stream with one storage of f32 and one tensor in it. Numbers are pickled in eight bytes, so any can be claimed.
    struct Stream {
        little_endian: bool,
        /// Elements of the storage by the pickle, and by the number before its bytes.
        numel: (i64, i64),
        /// Offset and length.
        view: Option<(i64, i64)>,
        offset: i64,
        shape: Vec<i64>,
        strides: Vec<i64>,
        values: Vec<f32>,
    }

    impl Default for Stream {
        fn default() -> Self {
            Self {
                little_endian: true,
                numel: (6, 6),
                view: None,
                offset: 0,
                shape: vec![2, 3],
                strides: vec![3, 1],
                values: (0..6).map(|i| i as f32).collect(),
            }
        }
    }

    fn int(n: i64) -> Vec<u8> {
        [&[0x8a, 8][..], &n.to_le_bytes()].concat()
    }

    fn ints(numbers: &[i64]) -> Vec<u8> {
        tuple(&numbers.iter().map(|n| int(*n)).collect::<Vec<_>>())
    }

    fn tuple(parts: &[Vec<u8>]) -> Vec<u8> {
        [b"(".to_vec(), parts.concat(), b"t".to_vec()].concat()
    }

    /// As Python 2 pickles a `str`.
    fn text(text: &str) -> Vec<u8> {
        [&[b'U', text.len() as u8], text.as_bytes()].concat()
    }

    impl Stream {
        fn bytes(&self) -> Vec<u8> {
            let pickled = |parts: &[Vec<u8>]| [b"\x80\x02".to_vec(), parts.concat(), b".".to_vec()].concat();
            let view = self
                .view
                .map_or(b"N".to_vec(), |(offset, length)| tuple(&[text("view"), int(offset), int(length)]));
            let class = b"ctorch\nFloatStorage\n".to_vec();
            let storage =
                tuple(&[text("storage"), class, text("7"), text("cuda:0"), int(self.numel.0), view]);
            let tensor = tuple(&[
                [storage, b"Q".to_vec()].concat(),
                int(self.offset),
                ints(&self.shape),
                ints(&self.strides),
            ]);
            [
                pickled(&[[&[0x8a, 10][..], &STREAM_MAGIC].concat()]),
                pickled(&[int(STREAM_VERSION)]),
                pickled(&[
                    b"}".to_vec(),
                    text("little_endian"),
                    vec![if self.little_endian { 0x88 } else { 0x89 }],
                    b"s".to_vec(),
                ]),
                pickled(&[
                    b"}".to_vec(),
                    text("weight"),
                    b"ctorch._utils\n_rebuild_tensor\n".to_vec(),
                    tensor,
                    b"Rs".to_vec(),
                ]),
                pickled(&[b"]".to_vec(), text("7"), b"a".to_vec()]),
                self.numel.1.to_le_bytes().to_vec(),
                self.values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            ]
            .concat()
        }

        fn tensor(&self) -> Result<Vec<f32>> {
            let file = SourceFile::bundled("a.bin", self.bytes().leak());
            let shape: Vec<usize> = self.shape.iter().map(|n| *n as usize).collect();
            let weights = Weights::open(std::slice::from_ref(&file))?;
            let tensor = weights.read(&weights.below("").tensor("weight", &shape))?;
            Ok(tensor.flatten_all()?.to_vec1()?)
        }

        #[track_caller]
        fn refused(&self, says: &str) {
            let Err(error @ Error::Format { .. }) = self.tensor() else { panic!("not refused: {says}") };
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn elements_are_read_where_they_lie() {
        assert_eq!(Stream::default().tensor().unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        let turned = Stream { shape: vec![3, 2], strides: vec![1, 3], ..Stream::default() };
        assert_eq!(turned.tensor().unwrap(), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        let windows = Stream { offset: 1, shape: vec![3, 3], strides: vec![1, 1], ..Stream::default() };
        assert_eq!(windows.tensor().unwrap(), [1.0, 2.0, 3.0, 2.0, 3.0, 4.0, 3.0, 4.0, 5.0]);
        // A view of a storage, as older versions of torch wrote them: the offset counts from the view's begin.
        let view =
            Stream { view: Some((2, 4)), offset: 1, shape: vec![3], strides: vec![1], ..Stream::default() };
        assert_eq!(view.tensor().unwrap(), [3.0, 4.0, 5.0]);
        // The stride along an axis of one is never taken, so it may be anything.
        let one = Stream { shape: vec![1, 6], strides: vec![i64::MAX, 1], ..Stream::default() };
        assert_eq!(one.tensor().unwrap().len(), 6);
    }

    #[test]
    fn what_reaches_beyond_its_storage_is_refused() {
        for (offset, shape, strides) in [
            (1, vec![2, 3], vec![3, 1]),
            (0, vec![2, 3], vec![4, 1]),
            (0, vec![7], vec![1]),
            (6, vec![], vec![]),
            (i64::MAX, vec![1], vec![1]),
            (0, vec![2], vec![i64::MAX]),
            (0, vec![1 << 60], vec![1]),
            (0, vec![1 << 62, 1 << 62], vec![1 << 62, 1]),
        ] {
            let stream = Stream { offset, shape, strides, ..Stream::default() };
            stream.refused("reaches beyond its storage of 24 bytes");
        }
        let view =
            Stream { view: Some((2, 3)), offset: 1, shape: vec![3], strides: vec![1], ..Stream::default() };
        view.refused("reaches beyond its storage of 12 bytes");
        Stream { view: Some((2, 5)), ..Stream::default() }.refused("does not describe a storage");
        Stream { view: Some((i64::MAX, i64::MAX)), ..Stream::default() }
            .refused("does not describe a storage");
    }

    #[test]
    fn sizes_that_are_only_claimed_are_not_allocated() {
        const HUGE: i64 = 1 << 60;
        let claimed = Stream { numel: (HUGE, 6), ..Stream::default() };
        claimed.refused(&format!("storage `7` has 6 elements, but its tensors want {HUGE}"));
        let claimed =
            Stream { numel: (HUGE, HUGE), shape: vec![HUGE], strides: vec![1], ..Stream::default() };
        claimed.refused("cut short in storage `7`");
        // One element, repeated.
        let repeated = Stream { shape: vec![HUGE], strides: vec![0], ..Stream::default() };
        repeated.refused("more elements than the file has bytes");
        let repeated = Stream { shape: vec![HUGE; 60], strides: vec![0; 60], ..Stream::default() };
        repeated.refused("more elements than the file has bytes");
    }

    #[test]
    fn descriptions_that_torch_does_not_write_are_refused() {
        Stream { strides: vec![1], ..Stream::default() }.refused("`weight` is not described");
        Stream { shape: vec![-1, 3], ..Stream::default() }.refused("`weight` is not described");
        Stream { offset: -1, ..Stream::default() }.refused("`weight` is not described");
        Stream { shape: vec![1; 65], strides: vec![1; 65], ..Stream::default() }.refused("not described");
        Stream { numel: (-6, -6), ..Stream::default() }.refused("does not describe a storage");
        Stream { numel: (5, 6), ..Stream::default() }.refused("has 6 elements, but its tensors want 5");
        Stream { little_endian: false, ..Stream::default() }.refused("little-endian");
    }
}
