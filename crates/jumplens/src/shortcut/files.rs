//! `shortcuts/`: one safetensors file a source layer, one tensor `[d, d]` a map, `y = A·x` (rows are outputs), and one `[d]`
//! a bias. Those of the cast `mat` lie in the folder itself, those of each other cast in a folder of its name.

use super::{Fits, LinearMap, Origin};
use crate::files::create_folder;
use crate::hub::SourceFile;
use crate::seal::{self, Seal};
use crate::store::{check_inside, maps_at};
use crate::tensor_file::{self, Entry};
use crate::words::Cast;
use crate::{Error, Result};
use safetensors::tensor::{Dtype, SafeTensors, View};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The tensor name of `A_{from→to}`: `00_12`.
pub fn pair_name(from: usize, to: usize) -> String {
    format!("{from:02}_{to:02}")
}

/// The folder of the parts' maps.
const PARTS: &str = "parts";

/// The entry of [`Notes`] that holds the [`Origin`].
pub(super) const ORIGIN: &str = "origin";

/// The entry of [`Notes`] that names the cast.
pub(super) const CAST: &str = "cast";

/// The entry of [`Notes`] that says of how many prompts a mean was taken.
pub(crate) const PROMPTS: &str = "prompts";

/// The entry of a file's metadata that holds its [`Notes`].
pub(super) const METADATA: &str = "jumplens";

/// What is to be known of the maps in a file beside their values. It is kept in the file's metadata as one JSON object
/// under `jumplens`.
pub type Notes = BTreeMap<String, serde_json::Value>;

/// A folder of shortcuts, or a file that holds those of one cast.
#[derive(Debug, Clone)]
pub struct Shortcuts {
    place: Place,
    cast: Cast,
    /// Is written into every file.
    origin: Option<Origin>,
    /// Files of a folder that were read, and seen to be as they were written.
    opened: Arc<Mutex<BTreeMap<PathBuf, Opened>>>,
    /// Where maps of further casts are.
    others: Vec<Shortcuts>,
}

#[derive(Debug, Clone)]
enum Place {
    Folder(PathBuf),
    File(Opened),
}

impl Shortcuts {
    /// The shortcuts in `folder`, which need not be there yet.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        let place = Place::Folder(folder.into());
        Self { place, cast: Cast::MAT, origin: None, opened: Arc::default(), others: Vec::new() }
    }

    /// Those of one cast, all in one file: the tensors that the files of a folder have, side by side.
    /// [`Error::ChangedFolder`] where this program wrote the file, and it is not as it was written.
    pub fn in_file(file: SourceFile) -> Result<Self> {
        let file = Opened::new(file)?;
        let cast = match file.notes()?.get(CAST).and_then(|cast| cast.as_str()) {
            // Files are named after it.
            Some(name) if Path::new(name).file_name() != Some(name.as_ref()) => {
                let message = format!("its cast `{}` is no name", name.escape_debug());
                return Err(Error::format(file.path())(message));
            }
            name => name.map_or(Cast::MAT, Cast::from),
        };
        Ok(Self { place: Place::File(file), cast, origin: None, opened: Arc::default(), others: Vec::new() })
    }

    /// Those at `path`: a run's, where it is a run folder, or a folder or file of shortcuts. Where this program left them, all
    /// of them are there, and as they were left.
    ///
    /// # Errors
    /// [`Error::Io`] where nothing is there; [`Error::StageMissing`], [`Error::Unfinished`], [`Error::ChangedFile`] and
    /// [`Error::ChangedFolder`] where they are not as they should be; [`Error::OtherKind`] where there are no maps.
    pub fn open(path: &Path) -> Result<Self> {
        let place = maps_at(path)?;
        match place.is_dir() || !place.exists() {
            true => Ok(Self::new(place)),
            false => Self::in_file(SourceFile::open(&place)?),
        }
    }

    /// The same, with `origin` written into every file that is saved.
    pub fn with_origin(self, origin: Origin) -> Self {
        Self { origin: Some(origin), ..self }
    }

    /// The same with the maps of further casts, which are read from where they are; of casts that are in several places, from the first of `others`.
    pub fn with_others(self, others: Vec<Self>) -> Self {
        Self { others, ..self }
    }

    /// The folder, where it is one.
    pub fn folder(&self) -> Option<&Path> {
        match &self.place {
            Place::Folder(folder) => Some(folder),
            Place::File(_) => None,
        }
    }

    /// The maps of `cast`.
    pub fn cast(&self, cast: &Cast) -> Self {
        let has = |other: &&Self| other.own_casts().is_ok_and(|casts| casts.contains(cast));
        self.others.iter().find(has).unwrap_or(self).own(cast)
    }

    fn own(&self, cast: &Cast) -> Self {
        let place = match &self.place {
            Place::Folder(folder) if *cast != self.cast => Place::Folder(folder.join(&*cast.name())),
            place => place.clone(),
        };
        Self { place, cast: cast.clone(), ..self.clone() }
    }

    /// True where maps between layers can be kept as those of `cast`: it needs some, and has no other folder's name.
    pub fn can_hold(cast: &Cast) -> bool {
        !matches!(cast, Cast::Id | Cast::Mean | Cast::Blocks(_)) && cast.name() != PARTS
    }

    /// The casts whose maps are there, `mat` first, the others in their order.
    pub fn casts(&self) -> Result<Vec<Cast>> {
        let mut casts = self.own_casts()?;
        for other in &self.others {
            let further = other.own_casts()?.into_iter().filter(|cast| !casts.contains(cast));
            casts.extend(further.collect::<Vec<_>>());
        }
        Ok(casts)
    }

    fn own_casts(&self) -> Result<Vec<Cast>> {
        let Place::Folder(folder) = &self.place else { return Ok(vec![self.cast.clone()]) };
        let mut casts = Vec::new();
        if !self.sources()?.is_empty() {
            casts.push(Cast::MAT);
        }
        let mut others = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(Error::io("read", folder))? {
            let entry = entry.map_err(Error::io("read", folder))?;
            let name = entry.file_name();
            let name = name.to_str().filter(|name| *name != PARTS && entry.path().is_dir());
            others.extend(name.map(Cast::from).filter(|cast| *cast != Cast::MAT));
        }
        others.sort_unstable();
        for cast in others {
            if !self.own(&cast).sources()?.is_empty() {
                casts.push(cast);
            }
        }
        Ok(casts)
    }

    /// The layers that maps of this cast lead from.
    pub fn sources(&self) -> Result<Vec<usize>> {
        let mut sources: Vec<usize> = match &self.place {
            Place::Folder(folder) => numbered_files(folder)?,
            Place::File(file) => {
                let names = file.names()?;
                names.iter().filter_map(|name| name.split_once('_')?.0.parse().ok()).collect()
            }
        };
        sources.sort_unstable();
        sources.dedup();
        Ok(sources)
    }

    /// Removes the maps of casts that `fits` does not ask for, and those of parts where it needs none.
    pub(crate) fn forget_others(&self, fits: &Fits) -> Result<()> {
        let Some(folder) = self.folder().filter(|folder| folder.exists()) else { return Ok(()) };
        let remove = |path: &Path| match path.is_dir() {
            true => std::fs::remove_dir_all(path).map_err(Error::io("remove", path)),
            false => std::fs::remove_file(path).map_err(Error::io("remove", path)),
        };
        let wanted = fits.casts();
        for cast in self.casts()?.iter().filter(|cast| **cast != Cast::MAT) {
            remove(&folder.join(&*cast.name()))?;
        }
        if !wanted.contains(&Cast::MAT) {
            self.sources()?.into_iter().try_for_each(|from| remove(&numbered(folder, from)))?;
        }
        if self.has_parts() && fits.blocks().is_empty() {
            remove(&folder.join(PARTS))?;
        }
        Ok(())
    }

    /// True where there are maps of parts.
    pub fn has_parts(&self) -> bool {
        self.folder().is_some_and(|folder| folder.join(PARTS).is_dir())
    }

    /// The blocks whose parts have maps.
    pub fn blocks(&self) -> Result<Vec<usize>> {
        self.folder()
            .filter(|_| self.has_parts())
            .map_or(Ok(Vec::new()), |at| numbered_files(&at.join(PARTS)))
    }

    pub(super) fn open_pairs(&self, from: usize) -> Result<Opened> {
        self.open_numbered(Path::new(""), from)
    }

    fn open_parts(&self, layer: usize) -> Result<Opened> {
        self.open_numbered(Path::new(PARTS), layer)
    }

    fn open_numbered(&self, below: &Path, number: usize) -> Result<Opened> {
        let folder = match &self.place {
            Place::Folder(folder) => folder,
            Place::File(file) => return Ok(file.clone()),
        };
        let path = numbered(&folder.join(below), number);
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = opened.get(&path) {
            return Ok(file.clone());
        }
        let file = Opened::new(SourceFile::open(&path)?)?;
        Ok(opened.entry(path).or_insert(file).clone())
    }

    /// `notes`, and what all files say.
    fn all_notes(&self, cast: Option<&Cast>, notes: &Notes) -> Result<Notes> {
        let mut notes = notes.clone();
        if let Some(origin) = &self.origin {
            let origin = serde_json::to_value(origin).map_err(|error| Error::Internal(error.to_string()))?;
            notes.insert(ORIGIN.to_owned(), origin);
            notes.extend(cast.map(|cast| (CAST.to_owned(), cast.to_string().into())));
        }
        Ok(notes)
    }

    fn to_write(&self) -> Result<&Path> {
        self.folder().ok_or_else(|| Error::Internal("maps are written to folders".into()))
    }

    /// Writes the maps from layer `from`, by target layer.
    pub fn save_pairs(&self, from: usize, maps: &BTreeMap<usize, LinearMap>, notes: &Notes) -> Result<()> {
        let named = maps.iter().map(|(to, map)| (pair_name(from, *to), map)).collect();
        self.save(&numbered(self.to_write()?, from), named, &self.all_notes(Some(&self.cast), notes)?)
    }

    /// Writes the maps of the parts of block `layer`, by part name.
    pub fn save_parts(&self, layer: usize, maps: &BTreeMap<&str, LinearMap>) -> Result<()> {
        let named = maps.iter().map(|(part, map)| ((*part).to_owned(), map)).collect();
        let path = numbered(&self.to_write()?.join(PARTS), layer);
        self.save(&path, named, &self.all_notes(None, &Notes::new())?)
    }

    fn save(&self, path: &Path, maps: Vec<(String, &LinearMap)>, notes: &Notes) -> Result<()> {
        save(path, maps, notes)?;
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
        Ok(())
    }

    /// What each file says of where its maps come from.
    pub fn origins(&self) -> Result<Vec<(PathBuf, Option<Origin>)>> {
        let mut files = Vec::new();
        for cast in self.casts()? {
            let maps = self.cast(&cast);
            files.extend(maps.sources()?.into_iter().map(|from| maps.open_pairs(from)));
            if maps.folder().is_none() {
                files.truncate(1);
            }
        }
        files.extend(self.blocks()?.into_iter().map(|layer| self.open_parts(layer)));
        let origin = |file: Result<Opened>| {
            let file = file?;
            let origin = file.notes()?.remove(ORIGIN).map(serde_json::from_value).transpose();
            Ok((file.0.path.clone(), origin.map_err(Error::format(&file.0.path))?))
        };
        files.into_iter().map(origin).collect()
    }

    /// The target layers of the maps from layer `from` that are there.
    pub fn targets(&self, from: usize) -> Result<Vec<usize>> {
        let prefix = format!("{from:02}_");
        let file = self.open_pairs(from)?;
        let mut targets: Vec<usize> =
            file.names()?.iter().filter_map(|name| name.strip_prefix(&prefix)?.parse().ok()).collect();
        targets.sort_unstable();
        Ok(targets)
    }

    /// The maps from layer `from` to those of the layers `to`, `[d, d]` each.
    pub fn load_pairs(&self, from: usize, to: &[usize], d: usize) -> Result<BTreeMap<usize, LinearMap>> {
        let file = self.open_pairs(from)?;
        let maps = to.iter().map(|to| Ok((*to, file.map(&pair_name(from, *to), d)?))).collect();
        file.0.let_go();
        maps
    }

    /// What is known of the maps from layer `from`.
    pub fn notes(&self, from: usize) -> Result<Notes> {
        self.open_pairs(from)?.notes()
    }

    /// Width of the states that the maps from layer `from` are for.
    pub fn width(&self, from: usize) -> Result<usize> {
        let file = self.open_pairs(from)?;
        let tensors = file.tensors()?;
        let shape = tensors.iter().map(|(_, view)| view.shape().to_vec()).find(|shape| shape.len() == 2);
        let missing = || Error::format(&file.0.path)("it holds no matrix");
        Ok(*shape.as_deref().and_then(<[usize]>::last).ok_or_else(missing)?)
    }

    /// The names of the parts of block `layer` that have maps.
    pub fn part_names(&self, layer: usize) -> Result<Vec<String>> {
        let mut names = self.open_parts(layer)?.names()?;
        names.sort_unstable();
        Ok(names)
    }

    /// The map of part `part` of block `layer`, `[d, d]`.
    pub fn load_part(&self, layer: usize, part: &str, d: usize) -> Result<LinearMap> {
        let file = self.open_parts(layer)?;
        let map = file.map(part, d);
        file.0.let_go();
        map
    }
}

fn numbered(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("{number:02}.safetensors"))
}

/// The numbers of the files of maps in `folder`, sorted; none where it is not there.
fn numbered_files(folder: &Path) -> Result<Vec<usize>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("read", folder)(error)),
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry.map_err(Error::io("read", folder))?.file_name();
        let stem = name.to_str().and_then(|name| name.strip_suffix(".safetensors"));
        numbers.extend(stem.and_then(|stem| stem.parse::<usize>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn save(path: &Path, maps: Vec<(String, &LinearMap)>, notes: &Notes) -> Result<()> {
    if let Some(folder) = path.parent() {
        create_folder(folder)?;
    }
    let notes = serde_json::to_string(notes).map_err(|error| Error::Internal(error.to_string()))?;
    let metadata = match notes.as_str() {
        "{}" => BTreeMap::new(),
        _ => BTreeMap::from([(METADATA.to_owned(), notes)]),
    };
    let weights = maps.iter().map(|(name, map)| {
        (name.clone(), Values { values: map.weight(), shape: vec![map.d_out(), map.d_in()] })
    });
    let biases = maps.iter().filter_map(|(name, map)| {
        let values = map.bias()?;
        Some((bias_name(name), Values { values, shape: vec![values.len()] }))
    });
    serialize(weights.chain(biases), metadata, path)
}

/// Writes a safetensors file, whole or not at all.
pub(super) fn serialize<V: View>(
    views: impl IntoIterator<Item = (String, V)>,
    metadata: BTreeMap<String, String>,
    path: &Path,
) -> Result<()> {
    let (entries, views): (Vec<Entry>, Vec<V>) = views
        .into_iter()
        .map(|(name, view)| (Entry { name, dtype: view.dtype(), shape: view.shape().to_vec() }, view))
        .unzip();
    tensor_file::write(path, &metadata, &entries, |index| Ok(views[index].data().into_owned()))
}

/// The tensor name of the bias of the map called `map`.
pub(super) fn bias_name(map: &str) -> String {
    format!("{map}.bias")
}

/// A tensor as the writer of safetensors files takes it, so that one at a time is copied.
struct Values<'a> {
    values: &'a [f32],
    shape: Vec<usize>,
}

impl View for Values<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        bytemuck::cast_slice(self.values).into()
    }

    fn data_len(&self) -> usize {
        4 * self.values.len()
    }
}

/// A file of maps.
#[derive(Debug, Clone)]
pub(super) struct Opened(SourceFile);

impl Opened {
    /// Sees that it is as it was written, where this program wrote it.
    fn new(file: SourceFile) -> Result<Self> {
        let opened = Self(file);
        match seal::check(opened.bytes()) {
            Seal::Whole => {}
            Seal::Broken => return Err(Error::ChangedFolder { path: opened.path().to_owned() }),
            // Maps of other programs have none, nor had those of earlier versions: there the manifest beside them has it.
            Seal::Missing => {
                let is_own = !opened.0.is_bundled() && !opened.notes()?.is_empty();
                if is_own && !check_inside(opened.path())? {
                    let message = "it has no digest of itself, as maps of an earlier version have none: export or import \
                                   them again";
                    return Err(Error::format(opened.path())(message));
                }
            }
        }
        // All of it was read for its digest; of most files a few maps are wanted, copied.
        opened.0.let_go();
        Ok(opened)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0.path
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    pub(super) fn tensors(&self) -> Result<SafeTensors<'_>> {
        SafeTensors::deserialize(self.0.bytes()).map_err(Error::format(&self.0.path))
    }

    fn names(&self) -> Result<Vec<String>> {
        Ok(self.tensors()?.names().into_iter().map(str::to_owned).collect())
    }

    /// What the file says of its maps.
    pub(super) fn notes(&self) -> Result<Notes> {
        let (_, metadata) =
            SafeTensors::read_metadata(self.0.bytes()).map_err(Error::format(&self.0.path))?;
        match metadata.metadata().as_ref().and_then(|metadata| metadata.get(METADATA)) {
            Some(notes) => serde_json::from_str(notes).map_err(Error::format(&self.0.path)),
            None => Ok(Notes::new()),
        }
    }

    fn map(&self, name: &str, d: usize) -> Result<LinearMap> {
        let map = LinearMap::from_rows(self.values(name, &[d, d])?, d, d)?;
        let bias = bias_name(name);
        match self.tensors()?.tensor(&bias) {
            Ok(_) => Ok(map.with_bias(self.values(&bias, &[d])?)?),
            Err(_) => Ok(map),
        }
    }

    fn values(&self, name: &str, expected: &[usize]) -> Result<Vec<f32>> {
        let (path, expected) = (|| self.0.path.clone(), expected.to_vec());
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
    use super::super::Pairs;
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
        assert_eq!(loaded[&12].weight(), values);
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
            shortcuts.cast(&cast.into()).save_pairs(0, &BTreeMap::from([(1, map)]), &notes).unwrap();
        }
        shortcuts.save_pairs(0, &BTreeMap::from([(1, map)]), &Notes::new()).unwrap();
        assert_eq!(shortcuts.casts().unwrap(), ["mat", "mat+b", "mat_r2"].map(Cast::from));
        let bias = |cast: &str| {
            let map = shortcuts.cast(&cast.into()).load_pairs(0, &[1], 2).unwrap().remove(&1).unwrap();
            map.bias().map(<[f32]>::to_vec)
        };
        assert_eq!([bias("mat"), bias("mat+b"), bias("mat_r2")], [None, Some(vec![5.0, 6.0]), None]);
        assert_eq!(shortcuts.cast(&"mat+b".into()).targets(0).unwrap(), [1]);
        assert_eq!(shortcuts.cast(&"mat+b".into()).notes(0).unwrap(), notes);
        shortcuts.forget_others(&Fits::plain(Pairs::All)).unwrap();
        assert_eq!(shortcuts.casts().unwrap(), [Cast::MAT]);
        assert!(shortcuts.has_parts() && shortcuts.load_part(0, "ln1", 2).is_ok());
    }
}
