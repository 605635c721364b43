//! Safetensors files, written one tensor at a time under a temporary name.

use crate::error::{Error, Result};
use crate::files::write_with;
use safetensors::tensor::Dtype;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// A tensor in the header of a file.
pub(crate) struct Entry {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
}

/// Writes a file of the tensors `entries`, in their order. `fill` gives the bytes of each, row-major and little-endian, when
/// its turn comes. The same values give the same bytes.
pub(crate) fn write(
    path: &Path,
    metadata: &BTreeMap<String, String>,
    entries: &[Entry],
    mut fill: impl FnMut(usize) -> Result<Vec<u8>>,
) -> Result<()> {
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".to_owned(), serde_json::json!(metadata));
    }
    let mut at = 0;
    for Entry { name, dtype, shape } in entries {
        let end = at + shape.iter().product::<usize>() * dtype.bitsize() / 8;
        let entry = serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [at, end] });
        header.insert(name.clone(), entry);
        at = end;
    }
    let mut header = serde_json::to_vec(&header).map_err(|error| Error::Internal(error.to_string()))?;
    // Tensors begin at a multiple of eight bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut failed = None;
    let written = write_with(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for index in 0..entries.len() {
            match fill(index) {
                Ok(bytes) => file.write_all(&bytes)?,
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
