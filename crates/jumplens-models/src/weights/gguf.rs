//! The list of tensors of a GGUF file.

use super::{Dtype, Entry};
use crate::error::Result;
use crate::files::SourceFile;
use crate::gguf::{Architecture, Header, Place, Type};
use std::collections::BTreeMap;

pub(super) fn entries(file: &SourceFile) -> Result<BTreeMap<String, Entry>> {
    let header = Header::read(file)?;
    if let Some(parts @ 2..) = header.natural("split.count")? {
        return Err(header.unsupported(format!(
            "one of the {parts} parts of a model; `llama-gguf-split --merge` makes one file of them"
        )));
    }
    let architecture = Architecture::of(&header)?;
    let mut entries = BTreeMap::new();
    for tensor in &header.tensors {
        let Some(place) = architecture.place(&header, tensor)? else { continue };
        let dtype = match &tensor.kind {
            Type::F32 => Dtype::F32,
            Type::F16 => Dtype::F16,
            Type::Bf16 => Dtype::Bf16,
            Type::F64 => Dtype::F64,
            Type::Quantised(quant) => Dtype::Quantised(*quant),
            Type::Other(name) => Dtype::Other(name.clone()),
        };
        let Place { name, shape, axes, offset } = place;
        let entry = Entry { dtype, shape, bytes: tensor.bytes.clone(), axes, offset };
        if entries.insert(name, entry).is_some() {
            return Err(header.damaged(format!("tensor `{}` is in it under two names", tensor.name)));
        }
    }
    Ok(entries)
}
