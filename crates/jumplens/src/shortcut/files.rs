//! `shortcuts/`: one safetensors file a source layer, one tensor `[d, d]` a map, `y = A·x` (rows are outputs), and one `[d]`
//! a bias. Those of the cast `mat` lie in the folder itself, those of each other cast in a folder of its name.

use super::LinearMap;
use crate::error::{Error, Result};
use crate::files::{create_folder, replace_with};
use crate::nn::with_values;
use candle_core::Tensor;
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, View};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// The tensor name of `A_{from→to}`: `00_12`.
pub fn pair_name(from: usize, to: usize) -> String {
    format!("{from:02}_{to:02}")
}

/// The cast whose maps lie in the folder itself.
pub const MAT: &str = "mat";

/// The folder of the parts' maps.
const PARTS: &str = "parts";

/// The entry of a file's metadata that holds its [`Notes`].
const METADATA: &str = "jumplens";

/// What is to be known of the maps in a file beside their values. It is kept in the file's metadata as one JSON object
/// under `jumplens`: the writer of safetensors files puts several entries in no particular order.
pub type Notes = BTreeMap<String, serde_json::Value>;

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

    /// The maps of the cast of that name.
    pub fn cast(&self, name: &str) -> Self {
        Self { folder: if name == MAT { self.folder.clone() } else { self.folder.join(name) } }
    }

    /// The names of the casts whose maps are there, `mat` first, the others in the order of their names.
    pub fn casts(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        if self.holds_maps() {
            names.push(MAT.to_owned());
        }
        let mut others = Vec::new();
        for entry in std::fs::read_dir(&self.folder).map_err(Error::io("read", &self.folder))? {
            let name = entry.map_err(Error::io("read", &self.folder))?.file_name();
            others.extend(name.to_str().filter(|name| *name != PARTS && *name != MAT).map(str::to_owned));
        }
        others.retain(|name| self.cast(name).holds_maps());
        others.sort_unstable();
        names.extend(others);
        Ok(names)
    }

    /// True where the folder itself has maps from some layer.
    fn holds_maps(&self) -> bool {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.into_iter().any(|entry| {
            let name = entry.file_name();
            let stem = name.to_str().and_then(|name| name.strip_suffix(".safetensors"));
            stem.is_some_and(|stem| stem.parse::<usize>().is_ok())
        })
    }

    /// Removes the maps of every cast but `mat`.
    pub(crate) fn forget_other_casts(&self) -> Result<()> {
        if !self.folder.exists() {
            return Ok(());
        }
        for name in self.casts()?.iter().filter(|name| *name != MAT) {
            let folder = self.folder.join(name);
            std::fs::remove_dir_all(&folder).map_err(Error::io("remove", &folder))?;
        }
        Ok(())
    }

    /// True where there are maps of parts.
    pub fn has_parts(&self) -> bool {
        self.folder.join(PARTS).is_dir()
    }

    fn pairs_path(&self, from: usize) -> PathBuf {
        self.folder.join(format!("{from:02}.safetensors"))
    }

    fn parts_path(&self, layer: usize) -> PathBuf {
        self.folder.join(PARTS).join(format!("{layer:02}.safetensors"))
    }

    /// Writes the maps from layer `from`, by target layer.
    pub fn save_pairs(&self, from: usize, maps: &BTreeMap<usize, LinearMap>, notes: &Notes) -> Result<()> {
        let named = maps.iter().map(|(to, map)| (pair_name(from, *to), map)).collect();
        save(&self.pairs_path(from), named, notes)
    }

    /// Writes the maps of the parts of block `layer`, by part name.
    pub fn save_parts(&self, layer: usize, maps: &BTreeMap<&str, LinearMap>) -> Result<()> {
        let named = maps.iter().map(|(part, map)| ((*part).to_owned(), map)).collect();
        save(&self.parts_path(layer), named, &Notes::new())
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

    /// What is known of the maps from layer `from`.
    pub fn notes(&self, from: usize) -> Result<Notes> {
        Opened::new(self.pairs_path(from))?.notes()
    }

    /// The map of part `part` of block `layer`, `[d, d]`.
    pub fn load_part(&self, layer: usize, part: &str, d: usize) -> Result<LinearMap> {
        Opened::new(self.parts_path(layer))?.map(part, d)
    }
}

fn save(path: &Path, maps: Vec<(String, &LinearMap)>, notes: &Notes) -> Result<()> {
    if let Some(folder) = path.parent() {
        create_folder(folder)?;
    }
    let notes = serde_json::to_string(notes).map_err(|error| Error::Internal(error.to_string()))?;
    let metadata = (notes != "{}").then(|| HashMap::from([(METADATA.to_owned(), notes)]));
    replace_with(path, |part| {
        let weights = maps.iter().map(|(name, map)| (name.clone(), TensorView(map.weight())));
        let biases = maps.iter().filter_map(|(name, map)| Some((bias_name(name), TensorView(map.bias()?))));
        safetensors::serialize_to_file(weights.chain(biases), metadata, part).map_err(|error| match error {
            SafeTensorError::IoError(source) => source,
            other => std::io::Error::other(other),
        })
    })
}

/// The tensor name of the bias of the map called `map`.
fn bias_name(map: &str) -> String {
    format!("{map}.bias")
}

/// A tensor as the writer of safetensors files takes it, so that one at a time is copied.
struct TensorView<'a>(&'a Tensor);

impl View for TensorView<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.0.dims()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let bytes = with_values(self.0, |values| bytemuck::cast_slice(values).to_vec());
        bytes.expect("maps are made of contiguous f32 values on the CPU").into()
    }

    fn data_len(&self) -> usize {
        4 * self.0.elem_count()
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

    /// What the file says of its maps.
    fn notes(&self) -> Result<Notes> {
        let (_, metadata) = SafeTensors::read_metadata(&self.bytes).map_err(Error::format(&self.path))?;
        match metadata.metadata().as_ref().and_then(|metadata| metadata.get(METADATA)) {
            Some(notes) => serde_json::from_str(notes).map_err(Error::format(&self.path)),
            None => Ok(Notes::new()),
        }
    }

    fn map(&self, name: &str, d: usize) -> Result<LinearMap> {
        let map = LinearMap::from_rows(self.values(name, &[d, d])?, d, d)?;
        let bias = bias_name(name);
        match self.tensors()?.tensor(&bias) {
            Ok(_) => map.with_bias(self.values(&bias, &[d])?),
            Err(_) => Ok(map),
        }
    }

    fn values(&self, name: &str, expected: &[usize]) -> Result<Vec<f32>> {
        let (path, expected) = (|| self.path.clone(), expected.to_vec());
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
        Ok(view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
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
        let pairs = BTreeMap::from([(4, map.clone()), (12, map.clone())]);
        shortcuts.save_pairs(1, &pairs, &Notes::new()).unwrap();
        shortcuts.save_parts(1, &BTreeMap::from([("ln1", map)])).unwrap();
        assert_eq!(shortcuts.targets(1).unwrap(), [4, 12]);
        let loaded = shortcuts.load_pairs(1, &[12], 3).unwrap();
        assert_eq!(loaded[&12].weight().flatten_all().unwrap().to_vec1::<f32>().unwrap(), values);
        assert!(shortcuts.load_part(1, "ln1", 3).is_ok());
        assert!(matches!(shortcuts.load_part(1, "ln1", 4), Err(Error::TensorShape { .. })));
        assert!(matches!(shortcuts.load_part(1, "ffn", 3), Err(Error::MissingTensor { .. })));
        assert!(matches!(shortcuts.load_pairs(2, &[12], 3), Err(Error::Io { .. })));
    }
    #[test]
    fn casts_lie_side_by_side_with_their_biases_and_notes() {
        let folder = tempfile::tempdir().unwrap();
        let shortcuts = Shortcuts::new(folder.path());
        let map = LinearMap::from_rows(vec![1.0, 2.0, 3.0, 4.0], 2, 2).unwrap();
        let notes = Notes::from([("lambda".to_owned(), serde_json::json!({ "01": 0.5 }))]);
        shortcuts.save_parts(0, &BTreeMap::from([("ln1", map.clone())])).unwrap();
        assert!(shortcuts.casts().unwrap().is_empty());
        for (cast, map) in
            [("mat_r2", map.clone()), ("mat+b", map.clone().with_bias(vec![5.0, 6.0]).unwrap())]
        {
            shortcuts.cast(cast).save_pairs(0, &BTreeMap::from([(1, map)]), &notes).unwrap();
        }
        shortcuts.save_pairs(0, &BTreeMap::from([(1, map)]), &Notes::new()).unwrap();
        assert_eq!(shortcuts.casts().unwrap(), ["mat", "mat+b", "mat_r2"]);
        let bias = |cast: &str| {
            let map = shortcuts.cast(cast).load_pairs(0, &[1], 2).unwrap().remove(&1).unwrap();
            map.bias().map(|bias| bias.to_vec1::<f32>().unwrap())
        };
        assert_eq!([bias("mat"), bias("mat+b"), bias("mat_r2")], [None, Some(vec![5.0, 6.0]), None]);
        assert_eq!(shortcuts.cast("mat+b").targets(0).unwrap(), [1]);
        assert_eq!(shortcuts.cast("mat+b").notes(0).unwrap(), notes);
        shortcuts.forget_other_casts().unwrap();
        assert_eq!(shortcuts.casts().unwrap(), ["mat"]);
        assert!(shortcuts.has_parts() && shortcuts.load_part(0, "ln1", 2).is_ok());
    }
}
