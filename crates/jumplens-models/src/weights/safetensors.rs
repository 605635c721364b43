//! The list of tensors of a safetensors file.

use super::{Dtype, Entry};
use crate::error::{Error, Result};
use crate::files::SourceFile;
use safetensors::SafeTensors;
use std::collections::BTreeMap;

pub(super) fn entries(file: &SourceFile) -> Result<BTreeMap<String, Entry>> {
    let bytes = file.bytes();
    let tensors = SafeTensors::deserialize(bytes).map_err(|error| Error::Format {
        path: file.path.clone(),
        message: format!("{error} (safetensors file of {} bytes)", bytes.len()),
    })?;
    Ok(tensors
        .iter()
        .map(|(name, view)| {
            let start = view.data().as_ptr() as usize - bytes.as_ptr() as usize;
            let dtype = match view.dtype() {
                safetensors::Dtype::F32 => Dtype::F32,
                safetensors::Dtype::F16 => Dtype::F16,
                safetensors::Dtype::BF16 => Dtype::Bf16,
                safetensors::Dtype::F64 => Dtype::F64,
                other => Dtype::Other(format!("{other:?}")),
            };
            let bytes = start..start + view.data().len();
            (name.to_owned(), Entry { dtype, shape: view.shape().to_vec(), bytes, axes: None, offset: 0.0 })
        })
        .collect())
}
