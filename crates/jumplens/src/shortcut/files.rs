//! `shortcuts/`: one safetensors file a source layer, one tensor `[d, d]` a map, `y = A·x` (rows are outputs).

use super::LinearMap;
use crate::error::{Error, Result};
use crate::files::{create_folder, replace_with};
use crate::nn::with_values;
use candle_core::Tensor;
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, View};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The tensor name of `A_{from→to}`: `00_12`.
pub fn pair_name(from: usize, to: usize) -> String {
    format!("{from:02}_{to:02}")
}

/// A folder of shortcuts.
#[derive(Debug, Clone)]
pub struct Shortcuts {
    folder: PathBuf,
}

impl Shortcuts {
    /// The shortcuts in `folder`, which need not be there yet.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    fn pairs_path(&self, from: usize) -> PathBuf {
        self.folder.join(format!("{from:02}.safetensors"))
    }

    fn parts_path(&self, layer: usize) -> PathBuf {
        self.folder.join("parts").join(format!("{layer:02}.safetensors"))
    }

    /// Writes the maps from layer `from`, by target layer.
    pub fn save_pairs(&self, from: usize, maps: &BTreeMap<usize, LinearMap>) -> Result<()> {
        let named = maps.iter().map(|(to, map)| (pair_name(from, *to), map)).collect();
        save(&self.pairs_path(from), named)
    }

    /// Writes the maps of the parts of block `layer`, by part name.
    pub fn save_parts(&self, layer: usize, maps: &BTreeMap<&str, LinearMap>) -> Result<()> {
        save(&self.parts_path(layer), maps.iter().map(|(part, map)| ((*part).to_owned(), map)).collect())
    }

    /// The target layers of the maps from layer `from` that are there.
    pub fn targets(&self, from: usize) -> Result<Vec<usize>> {
        let prefix = format!("{from:02}_");
        let file = Opened::new(self.pairs_path(from))?;
        let mut targets: Vec<usize> =
            file.names()?.iter().filter_map(|name| name.strip_prefix(&prefix)?.parse().ok()).collect();
        targets.sort_unstable();
        Ok(targets)
    }

    /// The maps from layer `from` to those of the layers `to`, `[d, d]` each.
    pub fn load_pairs(&self, from: usize, to: &[usize], d: usize) -> Result<BTreeMap<usize, LinearMap>> {
        let file = Opened::new(self.pairs_path(from))?;
        to.iter().map(|to| Ok((*to, file.map(&pair_name(from, *to), d)?))).collect()
    }

    /// The map of part `part` of block `layer`, `[d, d]`.
    pub fn load_part(&self, layer: usize, part: &str, d: usize) -> Result<LinearMap> {
        Opened::new(self.parts_path(layer))?.map(part, d)
    }
}

fn save(path: &Path, maps: Vec<(String, &LinearMap)>) -> Result<()> {
    if let Some(folder) = path.parent() {
        create_folder(folder)?;
    }
    replace_with(path, |part| {
        let views = maps.iter().map(|(name, map)| (name, MapView(map)));
        safetensors::serialize_to_file(views, None, part).map_err(|error| match error {
            SafeTensorError::IoError(source) => source,
            other => std::io::Error::other(other),
        })
    })
}

/// A map as the writer of safetensors files takes it, so that one at a time is copied.
struct MapView<'a>(&'a LinearMap);

impl View for MapView<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.0.weight().dims()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let bytes = with_values(self.0.weight(), |values| bytemuck::cast_slice(values).to_vec());
        bytes.expect("maps are made of contiguous f32 values on the CPU").into()
    }

    fn data_len(&self) -> usize {
        4 * self.0.weight().elem_count()
    }
}

/// A file of maps, read whole.
struct Opened {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Opened {
    fn new(path: PathBuf) -> Result<Self> {
        let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
        Ok(Self { path, bytes })
    }

    fn tensors(&self) -> Result<SafeTensors<'_>> {
        SafeTensors::deserialize(&self.bytes).map_err(Error::format(&self.path))
    }

    fn names(&self) -> Result<Vec<String>> {
        Ok(self.tensors()?.names().into_iter().map(str::to_owned).collect())
    }

    fn map(&self, name: &str, d: usize) -> Result<LinearMap> {
        let (path, expected) = (|| self.path.clone(), vec![d, d]);
        let tensors = self.tensors()?;
        let Ok(view) = tensors.tensor(name) else {
            return Err(Error::MissingTensor { path: path(), tensor: name.into(), expected });
        };
        if view.shape() != expected {
            let got = view.shape().to_vec();
            return Err(Error::TensorShape { path: path(), tensor: name.into(), expected, got });
        }
        if view.dtype() != Dtype::F32 {
            return Err(Error::TensorDtype {
                path: path(),
                tensor: name.into(),
                got: format!("{:?}", view.dtype()),
            });
        }
        let values = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        Ok(LinearMap { weight: Tensor::from_vec::<_, f32>(values, (d, d), &candle_core::Device::Cpu)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_and_wrong_widths_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let shortcuts = Shortcuts::new(folder.path());
        let values: Vec<f32> = (0..9).map(|v| v as f32 / 7.0).collect();
        let map = LinearMap::from_rows(values.clone(), 3, 3).unwrap();
        shortcuts.save_pairs(1, &BTreeMap::from([(4, map.clone()), (12, map.clone())])).unwrap();
        shortcuts.save_parts(1, &BTreeMap::from([("ln1", map)])).unwrap();
        assert_eq!(shortcuts.targets(1).unwrap(), [4, 12]);
        let loaded = shortcuts.load_pairs(1, &[12], 3).unwrap();
        assert_eq!(loaded[&12].weight().flatten_all().unwrap().to_vec1::<f32>().unwrap(), values);
        assert!(shortcuts.load_part(1, "ln1", 3).is_ok());
        assert!(matches!(shortcuts.load_part(1, "ln1", 4), Err(Error::TensorShape { .. })));
        assert!(matches!(shortcuts.load_part(1, "ffn", 3), Err(Error::MissingTensor { .. })));
        assert!(matches!(shortcuts.load_pairs(2, &[12], 3), Err(Error::Io { .. })));
    }
}
