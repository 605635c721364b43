//! Files as `torch.save` writes them since torch 1.6: a zip file of a pickle of protocol 2, and of the storages that it speaks
//! of. What is written loads with `torch.load(…, weights_only=True)`: it names nothing but what tensors are rebuilt by.

use crate::error::{Error, Result};
use crate::files::write_with;
use half::f16;
use std::io::Write;
use std::path::Path;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// What is saved.
#[derive(Debug, Clone, PartialEq)]
pub enum Item<'a> {
    /// A whole number.
    Int(i64),
    /// A text.
    Str(String),
    /// A list.
    List(Vec<Item<'a>>),
    /// A dict.
    Dict(Vec<(Item<'a>, Item<'a>)>),
    /// A tensor, row by row.
    Tensor {
        /// Its shape.
        shape: Vec<usize>,
        /// Its values.
        values: &'a [f32],
        /// Rounded to f16 as it is written, and not f32.
        half: bool,
    },
}

/// Writes `item` to `path`, whole or not at all. [`Error::Option`] where a value is beyond what f16 has.
pub fn write(path: &Path, item: &Item) -> Result<()> {
    let mut pickle = Pickle { bytes: vec![0x80, 2], tensors: Vec::new() };
    pickle.put(item);
    pickle.bytes.push(b'.');
    for (index, (values, half)) in pickle.tensors.iter().enumerate() {
        let is_lost = |value: &&f32| *half && value.is_finite() && f16::from_f32(**value).is_infinite();
        if let Some(value) = values.iter().find(is_lost) {
            return Err(Error::Option(format!(
                "matrix {index} has an entry of {value}, and the file holds numbers of 16 bits, up to {}",
                f16::MAX
            )));
        }
    }
    write_with(path, |file| {
        let mut zip = ZipWriter::new(file);
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        let mut record = |name: &str, bytes: &[u8]| -> std::io::Result<()> {
            zip.start_file(format!("archive/{name}"), options.large_file(bytes.len() > 1 << 31))?;
            zip.write_all(bytes)
        };
        record("data.pkl", &pickle.bytes)?;
        record("byteorder", b"little")?;
        for (key, (values, half)) in pickle.tensors.iter().enumerate() {
            let bytes: Vec<u8> = match half {
                true => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
                false => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            };
            record(&format!("data/{key}"), &bytes)?;
        }
        record("version", b"3\n")?;
        zip.finish()?;
        Ok(())
    })
}

/// A pickle that grows; opcodes are those of `Lib/pickletools.py`.
struct Pickle<'a> {
    bytes: Vec<u8>,
    /// The storages, by their keys, and whether each is of f16.
    tensors: Vec<(&'a [f32], bool)>,
}

impl<'a> Pickle<'a> {
    fn put(&mut self, item: &Item<'a>) {
        match item {
            Item::Int(value) => self.int(*value),
            Item::Str(text) => self.text(text),
            Item::List(items) => {
                self.bytes.extend(b"](");
                items.iter().for_each(|item| self.put(item));
                self.bytes.push(b'e');
            }
            Item::Dict(items) => {
                self.bytes.extend(b"}(");
                for (key, value) in items {
                    self.put(key);
                    self.put(value);
                }
                self.bytes.push(b'u');
            }
            Item::Tensor { shape, values, half } => self.tensor(shape, values, *half),
        }
    }

    fn int(&mut self, value: i64) {
        match i32::try_from(value) {
            Ok(value) => {
                self.bytes.push(b'J');
                self.bytes.extend(value.to_le_bytes());
            }
            Err(_) => {
                self.bytes.extend([0x8a, 8]);
                self.bytes.extend(value.to_le_bytes());
            }
        }
    }

    fn text(&mut self, text: &str) {
        self.bytes.push(b'X');
        self.bytes.extend((text.len() as u32).to_le_bytes());
        self.bytes.extend(text.as_bytes());
    }

    /// `_rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks)`
    fn tensor(&mut self, shape: &[usize], values: &'a [f32], half: bool) {
        self.bytes.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        self.text("storage");
        self.bytes.extend(if half { &b"ctorch\nHalfStorage\n"[..] } else { b"ctorch\nFloatStorage\n" });
        self.text(&self.tensors.len().to_string());
        self.text("cpu");
        self.int(values.len() as i64);
        self.bytes.extend(b"tQ");
        self.int(0);
        let strides: Vec<usize> = (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect();
        for sizes in [shape, &strides] {
            self.bytes.push(b'(');
            sizes.iter().for_each(|size| self.int(*size as i64));
            self.bytes.push(b't');
        }
        self.bytes.extend(b"\x89ccollections\nOrderedDict\n)RtR");
        self.tensors.push((values, half));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::SourceFile;
    use crate::weights::arrays::read_saved_dict;

    #[test]
    fn what_is_written_is_read_to_one_rounding() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lens.pt");
        let values: Vec<f32> = (0..6).map(|i| (i as f32).sin() * 100.0).collect();
        let tensor = |half| Item::Tensor { shape: vec![2, 3], values: &values, half };
        let tensors = vec![(Item::Int(0), tensor(true)), (Item::Int(300), tensor(false))];
        let item = Item::Dict(vec![
            (Item::Str("J".to_owned()), Item::Dict(tensors)),
            (Item::Str("n".to_owned()), Item::Int(1 << 40)),
            (Item::Str("list".to_owned()), Item::List(vec![Item::Int(-1), Item::Str("é".to_owned())])),
        ]);
        write(&path, &item).unwrap();
        let dict = read_saved_dict(&SourceFile::open(&path).unwrap()).unwrap();
        assert_eq!(dict.numbers["n"], 1 << 40);
        let read = &dict.tensors["J"];
        assert_eq!((read[&300].shape.clone(), read[&300].values.clone()), (vec![2, 3], values.clone()));
        let rounded: Vec<f32> = values.iter().map(|value| f16::from_f32(*value).to_f32()).collect();
        assert_eq!(read[&0].values, rounded);
        let large = Item::Tensor { shape: vec![1], values: &[7e4], half: true };
        assert!(write(&path, &large).unwrap_err().to_string().contains("70000"));
    }
}
