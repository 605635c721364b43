//! Safetensors files, written one tensor at a time under a temporary name, with a digest of all that they hold.

use crate::error::{Error, Result};
use crate::files::{hexadecimal, write_with};
use crate::seal;
use safetensors::tensor::Dtype;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

/// A tensor in the header of a file.
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its number format.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// Writes a file of the tensors `entries`, in their order. `fill` gives the bytes of each, row-major and little-endian, when
/// its turn comes. The same values give the same bytes. The digest is put into its place behind all else.
pub fn write(
    path: &Path,
    metadata: &BTreeMap<String, String>,
    entries: &[Entry],
    mut fill: impl FnMut(usize) -> Result<Vec<u8>>,
) -> Result<()> {
    let mut metadata = metadata.clone();
    metadata.insert(seal::KEY.to_owned(), seal::BLANK.to_owned());
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".to_owned(), serde_json::json!(metadata));
    let mut at = 0;
    for Entry { name, dtype, shape } in entries {
        let end = at + shape.iter().product::<usize>() * dtype.bitsize() / 8;
        let entry = serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [at, end] });
        header.insert(name.clone(), entry);
        at = end;
    }
    let header = serde_json::to_vec(&header).map_err(|error| Error::Internal(error.to_string()))?;
    // Tensors begin at a multiple of eight bytes.
    let length = header.len().next_multiple_of(8);
    let mut begin = (length as u64).to_le_bytes().to_vec();
    begin.extend(header);
    begin.resize(8 + length, b' ');
    let place = seal::digits(&begin).ok_or_else(|| Error::Internal("no place for a digest".into()))?;
    let mut failed = None;
    let written = write_with(path, |file| {
        let mut digest = Sha256::new_with_prefix(&begin);
        file.write_all(&begin)?;
        for index in 0..entries.len() {
            match fill(index) {
                Ok(bytes) => {
                    digest.update(&bytes);
                    file.write_all(&bytes)?;
                }
                Err(error) => {
                    failed = Some(error);
                    return Err(std::io::Error::other("not all tensors could be made"));
                }
            }
        }
        file.seek(SeekFrom::Start(place.start as u64))?;
        file.write_all(hexadecimal(&digest.finalize()).as_bytes())
    });
    match failed {
        Some(error) => Err(error),
        None => written,
    }
}
