//! Maps as files for others: those of one cast side by side in one safetensors or `.npz` file, under the names that they
//! have in a folder of shortcuts.

use super::files::{CAST, METADATA, ORIGIN, Opened, bias_name, serialize};
use super::{Notes, Pairs, Shortcuts, pair_name};
use crate::files::{create_folder, write_with};
use crate::{Error, Result};
use safetensors::tensor::{Dtype, TensorView};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// The formats of exported maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `CAST.safetensors`.
    Safetensors,
    /// `CAST.npz`, NumPy's archive of arrays; what is known of the maps stays behind.
    Npz,
}

impl Format {
    /// The ending of its files.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::Npz => "npz",
        }
    }
}

/// The maps of a cast that `pairs` takes in, as source and target layers. The last layer is the largest that any leads to.
pub fn chosen_pairs(maps: &Shortcuts, pairs: Pairs) -> Result<Vec<(usize, usize)>> {
    let mut all = Vec::new();
    for from in maps.sources()? {
        all.extend(maps.targets(from)?.into_iter().map(|to| (from, to)));
    }
    let last = all.iter().map(|(_, to)| *to).max();
    all.retain(|(_, to)| pairs == Pairs::All || Some(*to) == last);
    Ok(all)
}

/// Writes the maps of one cast to `path`. Their bytes are taken as they are, so that memory does not grow with them.
/// Returns how many there are.
pub fn export(maps: &Shortcuts, pairs: Pairs, format: Format, path: &Path) -> Result<usize> {
    if let Some(folder) = path.parent() {
        create_folder(folder)?;
    }
    let chosen = chosen_pairs(maps, pairs)?;
    let mut files: BTreeMap<usize, Opened> = BTreeMap::new();
    for (from, _) in &chosen {
        if !files.contains_key(from) {
            files.insert(*from, maps.open_pairs(*from)?);
        }
    }
    let mut views = Vec::new();
    for (from, to) in &chosen {
        let tensors = files[from].tensors()?;
        let name = pair_name(*from, *to);
        for name in [bias_name(&name), name] {
            if let Ok(view) = tensors.tensor(&name) {
                if view.dtype() != Dtype::F32 {
                    let path = files[from].path().to_owned();
                    return Err(Error::TensorDtype {
                        path,
                        tensor: name,
                        got: format!("{:?}", view.dtype()),
                    });
                }
                // The view borrows the map, not the list of tensors.
                let start = view.data().as_ptr() as usize - files[from].bytes().as_ptr() as usize;
                views.push((name, *from, view.shape().to_vec(), start..start + view.data().len()));
            }
        }
    }
    views.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let views: Vec<(&str, &[usize], &[u8])> = views
        .iter()
        .map(|(name, from, shape, range)| (&name[..], &shape[..], &files[from].bytes()[range.clone()]))
        .collect();
    match format {
        Format::Safetensors => {
            let views = views.iter().map(|(name, shape, bytes)| {
                let view = TensorView::new(Dtype::F32, shape.to_vec(), bytes);
                view.map(|view| ((*name).to_owned(), view))
                    .map_err(|error| Error::Internal(error.to_string()))
            });
            let notes = serde_json::to_string(&gathered(&files)?)
                .map_err(|error| Error::Internal(error.to_string()))?;
            let metadata = BTreeMap::from([(METADATA.to_owned(), notes)]);
            serialize(views.collect::<Result<Vec<_>>>()?, metadata, path)?;
        }
        Format::Npz => write_npz(&views, path)?,
    }
    Ok(chosen.len())
}

/// What the files say of all their maps, and under `sources` what each says of its own.
fn gathered(files: &BTreeMap<usize, Opened>) -> Result<Notes> {
    let mut all = Notes::new();
    let mut sources = serde_json::Map::new();
    for (from, file) in files {
        let mut notes = file.notes()?;
        for shared in [CAST, ORIGIN] {
            all.extend(notes.remove(shared).map(|note| (shared.to_owned(), note)));
        }
        if !notes.is_empty() {
            sources.insert(format!("{from:02}"), notes.into_iter().collect());
        }
    }
    if !sources.is_empty() {
        all.insert("sources".to_owned(), sources.into());
    }
    Ok(all)
}

/// As `numpy.savez` writes them: a zip file of `.npy` files that are not compressed.
fn write_npz(arrays: &[(&str, &[usize], &[u8])], path: &Path) -> Result<()> {
    write_with(path, |file| {
        let mut zip = zip::ZipWriter::new(file);
        for (name, shape, bytes) in arrays {
            let options = zip::write::SimpleFileOptions::default()
                .compression_method(zip::CompressionMethod::Stored)
                .large_file(bytes.len() > 1 << 31);
            zip.start_file(format!("{name}.npy"), options)?;
            let sizes: Vec<String> = shape.iter().map(|size| format!("{size},")).collect();
            let mut header =
                format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", sizes.join(" "));
            // Magic, version and length take ten bytes; the data begin at a multiple of 64.
            let length = (10 + header.len() + 1).next_multiple_of(64) - 10;
            header += &" ".repeat(length - header.len() - 1);
            header.push('\n');
            zip.write_all(b"\x93NUMPY\x01\x00")?;
            zip.write_all(&(header.len() as u16).to_le_bytes())?;
            zip.write_all(header.as_bytes())?;
            zip.write_all(bytes)?;
        }
        zip.finish()?;
        Ok(())
    })
}
