//! Maps as files for others: those of one cast side by side in one safetensors or `.npz` file, under the names that they
//! have in a folder of shortcuts.

use super::files::{CAST, METADATA, ORIGIN, Opened, PROMPTS, bias_name, serialize};
use super::import::{D_MODEL, JACOBIAN, N_PROMPTS, SOURCE_LAYERS};
use super::{LinearMap, Notes, Origin, Pairs, Shortcuts, pair_name};
use crate::files::{create_folder, write_atomically, write_with};
use crate::weights::torch_save::{self, Item};
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

/// The maps of a cast to the last layer, by source.
fn to_the_last(maps: &Shortcuts) -> Result<(usize, BTreeMap<usize, LinearMap>)> {
    let pairs = chosen_pairs(maps, Pairs::ToFinal)?;
    let last = pairs.first().map_or(0, |(_, to)| *to);
    let map = |(from, to): (usize, usize)| -> Result<Option<(usize, LinearMap)>> {
        let mut found = maps.load_pairs(from, &[to], maps.width(from)?)?;
        Ok(found.remove(&to).map(|map| (from, map)))
    };
    let found = pairs.into_iter().filter_map(|pair| map(pair).transpose()).collect::<Result<_>>()?;
    Ok((last, found))
}

/// Writes the maps of one cast to the last layer to `path`, as a Jacobian lens is published: `torch.save` of `J`, matrices of
/// 16 bits by block, where number l is that of the output of block l, layer l + 1. The map from layer 0, the embedding, has no
/// place there. Returns how many are written. [`Error::Option`] where a map has a bias, or there is none from a block.
pub fn export_jacobian_lens(maps: &Shortcuts, path: &Path) -> Result<usize> {
    let (last, maps_by_layer) = to_the_last(maps)?;
    if let Some(layer) = maps_by_layer.iter().find(|(_, map)| map.bias().is_some()).map(|(layer, _)| layer) {
        return Err(Error::Option(format!(
            "the map from layer {layer} has a bias, and a Jacobian lens has none; choose a cast without"
        )));
    }
    let of_blocks: Vec<(usize, &LinearMap)> =
        maps_by_layer.iter().filter(|(layer, _)| **layer > 0).map(|(layer, map)| (*layer - 1, map)).collect();
    let Some((_, first)) = of_blocks.first() else {
        return Err(Error::Option("no map leads from a block's output to the last layer".to_owned()));
    };
    let text = |text: &str| Item::Str(text.to_owned());
    let number = |number: usize| Item::Int(number as i64);
    let notes = maps.notes(of_blocks[0].0 + 1)?;
    let prompts = notes.get(PROMPTS).and_then(serde_json::Value::as_u64).unwrap_or(0);
    let matrices = of_blocks.iter().map(|&(block, map)| {
        let shape = vec![map.d_out(), map.d_in()];
        (number(block), Item::Tensor { shape, values: map.weight(), half: true })
    });
    let said =
        |key: &str| notes.get(key).map(|value| value.as_str().map_or(value.to_string(), str::to_owned));
    let about = [CAST, ORIGIN].into_iter().filter_map(|key| Some((text(key), Item::Str(said(key)?))));
    let by = (text("written_by"), Item::Str(format!("jumplens {}", env!("CARGO_PKG_VERSION"))));
    let item = Item::Dict(vec![
        (text(JACOBIAN), Item::Dict(matrices.collect())),
        (text(N_PROMPTS), Item::Int(prompts as i64)),
        (text(SOURCE_LAYERS), Item::List(of_blocks.iter().map(|(block, _)| number(*block)).collect())),
        (text(D_MODEL), number(first.d_in())),
        (text("metadata"), Item::Dict(about.chain([by, (text("n_layers"), number(last))]).collect())),
    ]);
    torch_save::write(path, &item)?;
    Ok(of_blocks.len())
}

/// Writes the maps of one cast to the last layer into `folder`, as a tuned lens is kept: `params.pt` with `l.weight` = A − I and
/// `l.bias` for every layer l from the embedding on, and `config.json`. Returns how many there are. [`Error::Option`] where one
/// is missing.
pub fn export_tuned_lens(maps: &Shortcuts, folder: &Path) -> Result<usize> {
    let (last, maps_by_layer) = to_the_last(maps)?;
    if let Some(layer) = (0..last).find(|layer| !maps_by_layer.contains_key(layer)) {
        return Err(Error::Option(format!(
            "there is no map from layer {layer} to {last}, and a tuned lens has one from every layer"
        )));
    }
    let d = maps.width(0)?;
    let parts = maps_by_layer.values().map(|map| {
        let mut weight = map.weight().to_vec();
        weight.iter_mut().step_by(d + 1).for_each(|diagonal| *diagonal -= 1.0);
        (weight, map.bias().map_or_else(|| vec![0f32; d], <[f32]>::to_vec))
    });
    let parts: Vec<(Vec<f32>, Vec<f32>)> = parts.collect();
    let tensor = |name: String, shape: Vec<usize>, values| {
        (Item::Str(name), Item::Tensor { shape, values, half: false })
    };
    let items = parts.iter().enumerate().flat_map(|(layer, (weight, bias))| {
        [
            tensor(format!("{layer}.weight"), vec![d, d], weight),
            tensor(format!("{layer}.bias"), vec![d], bias),
        ]
    });
    create_folder(folder)?;
    torch_save::write(&folder.join("params.pt"), &Item::Dict(items.collect()))?;
    let origin = maps.notes(0)?.remove(ORIGIN).map(serde_json::from_value::<Origin>).transpose();
    let origin = origin.map_err(|error| Error::Internal(error.to_string()))?.unwrap_or_default();
    let config = serde_json::json!({
        "base_model_name_or_path": origin.model.unwrap_or_else(|| "unknown".to_owned()),
        "base_model_revision": origin.revision,
        "bias": true,
        "d_model": d,
        "lens_type": "linear_tuned_lens",
        "num_hidden_layers": last,
    });
    write_atomically(&folder.join("config.json"), format!("{config:#}\n").as_bytes())?;
    Ok(last)
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
