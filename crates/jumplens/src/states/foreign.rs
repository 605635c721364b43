//! States that other programs computed: safetensors, NumPy's and Parquet files, by layer.

use crate::models::Sizes;
use crate::progress::{Observer, check};
use crate::weights::arrays::ArrayFile;
use crate::{Error, Result};
use jumplens_data::columns::NumberLists;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Values that are read at a time, or those of one row.
const VALUES: usize = 1 << 20;
/// More layers than any model has.
const MOST_LAYERS: usize = 1 << 16;

/// The states of a split as another program left them, of which none is read before it is asked for.
pub struct ForeignStates {
    /// Where they are.
    pub path: PathBuf,
    /// Layers and width.
    pub sizes: Sizes,
    /// Samples.
    pub n: usize,
    /// Number formats, as safetensors spells them.
    pub formats: BTreeSet<String>,
    /// Files and arrays that are no layer's by their names.
    pub passed_over: Vec<String>,
    /// 0…L.
    layers: Vec<Place>,
}

/// Where the states of a layer are.
#[derive(Clone)]
enum Place {
    Array(Rc<ArrayFile>, String),
    Column(Rc<NumberLists>, String),
}

impl Place {
    /// The file, and the array in it.
    fn path(&self) -> (&Path, &str) {
        match self {
            Self::Array(file, name) => (file.path(), name),
            Self::Column(file, name) => (file.path(), name),
        }
    }

    fn format(&self) -> String {
        match self {
            Self::Array(file, name) => file.shape(name).map(|(_, format)| format).unwrap_or_default(),
            Self::Column(file, name) => file.format(name).unwrap_or_default().to_owned(),
        }
    }

    /// Samples, and the width of a state.
    fn shape(&self) -> Result<[usize; 2]> {
        match self {
            Self::Array(file, name) => match file.shape(name) {
                Some((&[n, d], _)) => Ok([n, d]),
                found => {
                    let shape = found.map(|(shape, _)| shape.to_vec()).unwrap_or_default();
                    Err(refused(
                        file.path(),
                        format!("`{name}` has shape {shape:?}, where [samples, width] should be"),
                    ))
                }
            },
            Self::Column(file, name) => {
                let mut width = 0;
                file.each(name, &mut |_, found| {
                    width = found;
                    Ok(false)
                })?;
                Ok([file.rows(), width])
            }
        }
    }

    /// Calls `take` with row after row, some at a time, until it wants no more.
    fn each(&self, [n, d]: [usize; 2], take: &mut dyn FnMut(&[f32]) -> Result<bool>) -> Result<()> {
        match self {
            Self::Array(file, name) => {
                let rows = (VALUES / d.max(1)).max(1);
                for first in (0..n).step_by(rows) {
                    if !take(&file.rows(name, first..(first + rows).min(n))?)? {
                        break;
                    }
                }
                Ok(())
            }
            Self::Column(file, name) => file.each(name, &mut |rows, _| take(rows)),
        }
    }
}

/// What is wrong with states at `path`.
pub(crate) fn refused(path: &Path, message: String) -> Error {
    Error::ForeignStates { path: path.to_owned(), message }
}

/// What stands before the number of a layer in a name, and the number.
fn layer_in(name: &str) -> Option<(&str, usize)> {
    let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let is_word = prefix.chars().all(|c| c.is_ascii_alphabetic() || "_-.".contains(c));
    let number = name[prefix.len()..].parse().ok()?;
    (is_word && number < MOST_LAYERS).then_some((prefix, number))
}

/// Layers by what stands before their numbers.
type Found = BTreeMap<String, BTreeMap<usize, Place>>;

impl ForeignStates {
    /// Looks at what is at `path`: a folder with a file a layer (`00.safetensors` with one tensor, or one called `states`;
    /// `00.npy`; or files of several layers), or a file of several (`.safetensors`, `.npz`, `.parquet`). Names of files, arrays
    /// and columns end in the number of the layer, 0…L.
    ///
    /// # Errors
    /// [`Error::ForeignStates`] where a layer is missing or there twice, or where layers have other numbers of samples, or other widths.
    pub fn open(path: &Path) -> Result<Self> {
        let found = std::fs::metadata(path).map_err(Error::io("read", path))?;
        let (mut layers, mut passed_over) = (Found::new(), Vec::new());
        if found.is_dir() {
            let entries = std::fs::read_dir(path).map_err(Error::io("read", path))?;
            let files =
                entries.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<Vec<_>>>();
            let mut files = files.map_err(Error::io("read", path))?;
            files.retain(|file| file.is_file());
            files.sort_unstable();
            for file in files {
                add_file(&file, &mut layers, &mut passed_over)?;
            }
        } else {
            add_file(path, &mut layers, &mut passed_over)?;
        }
        let fail = |message: String| Err(refused(path, message));
        if layers.len() > 1 {
            let names: Vec<String> = layers.keys().map(|prefix| format!("`{prefix}…`")).collect();
            return fail(format!(
                "names with numbers are of several kinds ({}): leave one of them",
                names.join(", ")
            ));
        }
        let Some((_, layers)) = layers.pop_first() else {
            return fail(
                "no states: read are `.safetensors`, `.npy`, `.npz` and `.parquet`, whose files, arrays or columns have names \
                 that end in the number of a layer"
                    .to_owned(),
            );
        };
        let last = layers.keys().next_back().copied().unwrap_or(0);
        let missing: Vec<String> =
            (0..=last).filter(|layer| !layers.contains_key(layer)).map(|layer| layer.to_string()).collect();
        if !missing.is_empty() {
            return fail(format!(
                "all layers from 0, the embedding, to {last} have to be there, and missing are {}",
                missing.join(", ")
            ));
        }
        if last == 0 {
            return fail("there is layer 0 alone, and no later one that it could be cast to".to_owned());
        }
        let layers: Vec<Place> = layers.into_values().collect();
        let shape = layers[0].shape()?;
        for (layer, place) in layers.iter().enumerate() {
            let [n, d] = place.shape()?;
            if [n, d] != shape {
                return fail(format!(
                    "layer {layer} has {n} samples of width {d}, and layer 0 {} of width {}",
                    shape[0], shape[1]
                ));
            }
        }
        let [n, d_model] = shape;
        if n == 0 || d_model == 0 {
            return fail(format!("the layers have {n} samples of width {d_model}"));
        }
        Ok(Self {
            path: path.to_owned(),
            sizes: Sizes { n_layers: last, d_model },
            n,
            formats: layers.iter().map(Place::format).collect(),
            passed_over,
            layers,
        })
    }

    /// Sees that every number is finite. Advances by one a layer.
    ///
    /// # Errors
    /// [`Error::ForeignStates`] names the first that is not, and a column with fewer rows than its file says.
    pub fn check(&self, observer: &dyn Observer) -> Result<()> {
        let d = self.sizes.d_model;
        for (layer, place) in self.layers.iter().enumerate() {
            let mut samples = 0;
            self.each(layer, &mut |rows| {
                check(observer)?;
                if let Some(at) = rows.iter().position(|value| !value.is_finite()) {
                    let (file, name) = place.path();
                    return Err(refused(file, format!(
                        "`{name}`: coordinate {} of sample {} of layer {layer} is {}, which f32 has no finite number for",
                        at % d,
                        samples + at / d,
                        rows[at]
                    )));
                }
                samples += rows.len() / d;
                Ok(true)
            })?;
            if samples != self.n {
                let (file, name) = place.path();
                return Err(refused(
                    file,
                    format!("`{name}` has {samples} rows, where {} should be", self.n),
                ));
            }
            observer.advance(1);
        }
        Ok(())
    }

    /// Calls `take` with the rows of a layer, some at a time, until it wants no more.
    pub(crate) fn each(&self, layer: usize, take: &mut dyn FnMut(&[f32]) -> Result<bool>) -> Result<()> {
        self.layers[layer].each([self.n, self.sizes.d_model], take)
    }

    /// Some of the first rows of a layer.
    pub(crate) fn rows(&self, layer: usize, rows: Range<usize>) -> Result<Vec<f32>> {
        let (d, mut found) = (self.sizes.d_model, Vec::new());
        self.each(layer, &mut |values| {
            found.extend_from_slice(values);
            Ok(found.len() < rows.end * d)
        })?;
        Ok(found.get(rows.start * d..rows.end * d).unwrap_or_default().to_vec())
    }
}

/// Takes the layers that are in a file.
fn add_file(path: &Path, layers: &mut Found, passed_over: &mut Vec<String>) -> Result<()> {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let mut places: Vec<(String, Place)> = Vec::new();
    if ArrayFile::is_one(path) {
        let file = Rc::new(ArrayFile::open(path)?);
        let names: Vec<String> = file.names().map(str::to_owned).collect();
        let own = match &names[..] {
            [only] => Some(only),
            _ => names.iter().find(|name| *name == super::TENSOR),
        };
        match own.filter(|name| layer_in(name).is_none() && layer_in(stem).is_some()) {
            // The file's name says which layer it is.
            Some(own) => places.push((stem.to_owned(), Place::Array(Rc::clone(&file), own.clone()))),
            None => {
                let place = |name: String| (name.clone(), Place::Array(Rc::clone(&file), name));
                places.extend(names.into_iter().map(place));
            }
        }
    } else if path.extension().is_some_and(|ending| ending == "parquet") {
        let file = Rc::new(NumberLists::open(path)?);
        let names: Vec<String> = file.names().map(str::to_owned).collect();
        places.extend(names.into_iter().map(|name| (name.clone(), Place::Column(Rc::clone(&file), name))));
    } else {
        passed_over.push(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
    }
    for (name, place) in places {
        let Some((prefix, layer)) = layer_in(&name) else {
            passed_over.push(name);
            continue;
        };
        let (file, _) = place.path();
        let again = refused(file, format!("layer {layer} is there twice"));
        if layers.entry(prefix.to_owned()).or_default().insert(layer, place).is_some() {
            return Err(again);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_in_the_number_of_a_layer() {
        assert_eq!(layer_in("07"), Some(("", 7)));
        assert_eq!(layer_in("hidden_states.12"), Some(("hidden_states.", 12)));
        assert_eq!(layer_in("layer_0"), Some(("layer_", 0)));
        for name in ["states", "", "7x", "p0_1", "layer 3", "99999999999999999999"] {
            assert_eq!(layer_in(name), None, "{name}");
        }
    }
}
