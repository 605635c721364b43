//! Maps that other programs wrote: pickles of the reference implementation, tuned lenses, NumPy's and safetensors files.

use super::origin::beyond_the_last;
use super::{LinearMap, Notes, Origin, Shortcuts};
use crate::hub::SourceFile;
use crate::models::Part;
use crate::store::check_inside;
use crate::weights::Weights;
use crate::weights::arrays::{Array, read_npy, read_npz, read_pickle, read_saved_dict};
use crate::words::{Cast, DerivativeCast};
use crate::{Error, Result};
use jumplens_core::cast::Form;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// More layers than any model has.
const MOST_LAYERS: usize = 1 << 16;

/// What lenses are called among formats.
const TUNED_LENS: &str = "tuned-lens";
const JACOBIAN_LENS: &str = "jacobian-lens";
/// The keys of its file.
pub(super) const JACOBIAN: &str = "J";
pub(super) const N_PROMPTS: &str = "n_prompts";
pub(super) const SOURCE_LAYERS: &str = "source_layers";
pub(super) const D_MODEL: &str = "d_model";
/// Those of what it is fitted by, as far as it is.
const JACOBIAN_SUM: &str = "jacobian_sum";
const N_DONE: &str = "n_done";

/// Maps from elsewhere, of one width.
#[derive(Debug)]
pub struct Foreign {
    /// What they were written as: `pickle`, `npy`, `npz`, `safetensors`, `tuned-lens` or `jacobian-lens`.
    pub format: &'static str,
    /// By source and target layer.
    pub pairs: BTreeMap<(usize, usize), LinearMap>,
    /// By block and number of the part within it, from 0.
    pub parts: BTreeMap<(usize, usize), LinearMap>,
    /// What the files say of their model.
    pub origin: Origin,
    /// Files in the folder that are not maps by their names.
    pub passed_over: Vec<PathBuf>,
    width: usize,
    /// Layers whose map is the identity since the file has none.
    filled: Vec<usize>,
}

/// What the name of a file or an array says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    /// `i_j`: from layer i to layer j.
    Pair(usize, usize),
    /// `pLAYER_A_B`: of the block from that layer on, from the output of part A (0 is the block's input) to that of part B,
    /// counted from 1; B is A + 1.
    Part(usize, usize),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pair(from, to) => write!(f, "the map from layer {from} to {to}"),
            Self::Part(block, part) => write!(f, "the map of part {part} of block {block}"),
        }
    }
}

impl Name {
    fn of(name: &str) -> Option<Self> {
        let number = |text: &str| {
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|number| is_number && *number < MOST_LAYERS)
        };
        let (is_part, numbers) = match name.strip_prefix('p') {
            Some(rest) => (true, rest),
            None => (false, name),
        };
        let numbers: Vec<usize> = numbers.split('_').map(number).collect::<Option<_>>()?;
        match (is_part, &numbers[..]) {
            (false, &[from, to]) if from < to => Some(Self::Pair(from, to)),
            (true, &[block, part, next]) if next == part + 1 => Some(Self::Part(block, part)),
            _ => None,
        }
    }
}

/// `config.json` of a tuned lens.
#[derive(Deserialize)]
struct TunedLens {
    base_model_name_or_path: String,
    base_model_revision: Option<String>,
    d_model: usize,
    num_hidden_layers: usize,
}

impl Foreign {
    /// Reads the maps at `path`: a folder of files, a file of several maps, or a file of one. Their names say what they map:
    /// `i_j` from layer i to layer j, `pLAYER_A_B` the part of a block. [`Error::Format`] and [`Error::RefusedPickle`] name
    /// the file that is not what it should be.
    pub fn read(path: &Path) -> Result<Self> {
        let found = std::fs::metadata(path).map_err(Error::io("read", path))?;
        check_inside(path)?;
        let mut foreign = Self {
            format: "",
            pairs: BTreeMap::new(),
            parts: BTreeMap::new(),
            origin: Origin::default(),
            passed_over: Vec::new(),
            width: 0,
            filled: Vec::new(),
        };
        if !found.is_dir() {
            foreign.add_file(path)?;
        } else if path.join("params.pt").exists() && path.join("config.json").exists() {
            foreign.add_tuned_lens(path)?;
        } else {
            let entries = std::fs::read_dir(path).map_err(Error::io("read", path))?;
            let mut files = entries
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<std::io::Result<Vec<_>>>()
                .map_err(Error::io("read", path))?;
            files.retain(|file| file.is_file());
            files.sort_unstable();
            for file in files {
                foreign.add_file(&file)?;
            }
        }
        if foreign.pairs.is_empty() && foreign.parts.is_empty() {
            return Err(Error::Option(format!(
                "no maps in `{}`: names such as `0_12.pickle`, `p0_1_2.pickle` or `00_12.npy`, files of such arrays \
                 (`.npz`, `.safetensors`), a Jacobian lens (`.pt`), or `params.pt` with `config.json` are read",
                path.display()
            )));
        }
        Ok(foreign)
    }

    /// The cast that one of them becomes where no name is given.
    pub fn cast_of(&self, map: &LinearMap) -> Cast {
        match self.format {
            TUNED_LENS => Cast::Tuned,
            JACOBIAN_LENS => Cast::Derivative(DerivativeCast::Jacobian),
            _ => Cast::Map { intercept: map.bias().is_some(), form: Form::Plain },
        }
    }

    /// Width of the states they are for.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Blocks of the model that they are for: what their files say, or else the largest layer that maps lead to, where there
    /// is one from every layer before it.
    pub fn n_layers(&self) -> Option<usize> {
        let last = self.pairs.keys().map(|(_, to)| *to).max()?;
        let is_whole = (0..last).all(|from| self.pairs.contains_key(&(from, last)));
        self.origin.n_layers.or(is_whole.then_some(last))
    }

    /// Takes what a file holds, by its name and its ending.
    fn add_file(&mut self, path: &Path) -> Result<()> {
        let text =
            |part: Option<&std::ffi::OsStr>| part.and_then(|part| part.to_str()).unwrap_or("").to_owned();
        let (stem, ending) = (text(path.file_stem()), text(path.extension()));
        let name = Name::of(&stem);
        match (ending.as_str(), name) {
            ("pickle" | "pkl", Some(name)) => {
                let (matrix, vector) = read_pickle(&SourceFile::open(path)?)?;
                self.add(path, "pickle", name, matrix, vector)
            }
            ("npy", Some(name)) => self.add(path, "npy", name, read_npy(&SourceFile::open(path)?)?, None),
            ("pt" | "pth", _) => self.add_jacobian_lens(&SourceFile::open(path)?),
            ("npz", _) => self.add_arrays(path, "npz", read_npz(&SourceFile::open(path)?)?),
            ("safetensors", _) => {
                let file = SourceFile::open(path)?;
                if let Some((_, Some(origin))) =
                    Shortcuts::in_file(file.clone())?.origins()?.into_iter().next()
                {
                    self.origin = origin;
                }
                let weights = Weights::open(std::slice::from_ref(&file))?;
                let names: Vec<&str> = weights.names().collect();
                let arrays = names.into_iter().map(|name| Ok((name.to_owned(), array(&weights, name)?)));
                let arrays = arrays.collect::<Result<_>>()?;
                self.add_arrays(path, "safetensors", arrays)
            }
            _ => {
                self.passed_over.push(path.to_owned());
                Ok(())
            }
        }
    }

    /// Takes arrays by their names: a map's is that of its layers, its bias has `.bias` behind.
    fn add_arrays(
        &mut self,
        path: &Path,
        format: &'static str,
        mut arrays: BTreeMap<String, Array>,
    ) -> Result<()> {
        let names: Vec<String> = arrays.keys().filter(|name| !name.ends_with(".bias")).cloned().collect();
        for text in names {
            let name = Name::of(&text).ok_or_else(|| {
                let message = format!("its array `{}` is not named as maps are", text.escape_debug());
                Error::Format { path: path.to_owned(), message }
            })?;
            let bias = arrays.remove(&format!("{text}.bias"));
            if let Some(matrix) = arrays.remove(&text) {
                self.add(path, format, name, matrix, bias)?;
            }
        }
        match arrays.keys().next() {
            Some(bias) => {
                let message = format!("its array `{}` is the bias of no map", bias.escape_debug());
                Err(Error::Format { path: path.to_owned(), message })
            }
            None => Ok(()),
        }
    }

    /// A Jacobian lens, `J` by block, or the sums that one is fitted by, `jacobian_sum` of `n_done` prompts. Number l is of the
    /// output of block l, which is layer l + 1. How many blocks there are is not said: it is taken to be one more than the last
    /// number stands for, until [`lead_to`](Self::lead_to) says otherwise.
    fn add_jacobian_lens(&mut self, file: &SourceFile) -> Result<()> {
        let mut dict = read_saved_dict(file)?;
        let fail = |message: String| Error::Format { path: file.path.clone(), message };
        let (matrices, prompts) = match (dict.tensors.remove(JACOBIAN), dict.tensors.remove(JACOBIAN_SUM)) {
            (Some(matrices), _) => (matrices, None),
            (None, Some(sums)) => {
                let done = dict.numbers.get(N_DONE).copied().filter(|done| *done > 0);
                let none = || fail(format!("`{JACOBIAN_SUM}` without `{N_DONE}`, which it is divided by"));
                (sums, Some(done.ok_or_else(none)?))
            }
            (None, None) => {
                return Err(fail(format!(
                    "it holds neither `{JACOBIAN}` nor `{JACOBIAN_SUM}`, matrices by the number of their block"
                )));
            }
        };
        let last = matrices.keys().last().copied().unwrap_or(0);
        if last >= MOST_LAYERS {
            return Err(fail(format!("it has a matrix of block {last}")));
        }
        for (block, mut matrix) in matrices {
            if let Some(prompts) = prompts {
                matrix.values.iter_mut().for_each(|value| *value /= prompts as f32);
            }
            let name = Name::Pair(block + 1, last + 2);
            self.add(&file.path, JACOBIAN_LENS, name, matrix, None)?;
        }
        let said = dict.numbers.get(D_MODEL).and_then(|width| usize::try_from(*width).ok());
        match said.filter(|width| *width != self.width) {
            Some(width) => {
                Err(fail(format!("its matrices are {0} by {0}, and `d_model` is {width}", self.width)))
            }
            None => Ok(()),
        }
    }

    /// Has the maps of a Jacobian lens, whose file does not say it, lead to the last of `n_layers` layers.
    pub fn lead_to(&mut self, n_layers: usize) {
        let is_before = self.pairs.keys().all(|(from, _)| *from < n_layers);
        if self.format == JACOBIAN_LENS && is_before {
            let pairs = std::mem::take(&mut self.pairs);
            self.pairs = pairs.into_iter().map(|((from, _), map)| ((from, n_layers), map)).collect();
        }
    }

    /// Puts the identity where a Jacobian lens has no matrix, and says for which layers: the embedding has no place in its file,
    /// and it may be of some blocks alone. Whoever casts states of all layers uses those as they are.
    pub fn fill(&mut self) -> Vec<usize> {
        let last = self.pairs.keys().map(|(_, to)| *to).max().filter(|_| self.format == JACOBIAN_LENS);
        let Some(last) = last else { return Vec::new() };
        self.filled = (0..last).filter(|from| !self.pairs.contains_key(&(*from, last))).collect();
        for from in &self.filled {
            self.pairs.insert((*from, last), LinearMap::identity(self.width));
        }
        self.filled.clone()
    }

    /// `h + W·h + b` for each layer.
    fn add_tuned_lens(&mut self, folder: &Path) -> Result<()> {
        let config_path = folder.join("config.json");
        let config = crate::files::read(&config_path)?;
        let config: TunedLens = serde_json::from_slice(&config).map_err(Error::format(&config_path))?;
        let (layers, d) = (config.num_hidden_layers, config.d_model);
        let file = SourceFile::open(&folder.join("params.pt"))?;
        let weights = Weights::open(std::slice::from_ref(&file))?;
        if layers >= MOST_LAYERS {
            return Err(Error::format(&config_path)(format!("`num_hidden_layers` is {layers}")));
        }
        for layer in 0..layers {
            let below = weights.below(&format!("{layer}."));
            let weight = weights.read(&below.tensor("weight", &[d, d]))?;
            let mut values = weight.flatten_all()?.to_vec1::<f32>()?;
            values.iter_mut().step_by(d + 1).for_each(|diagonal| *diagonal += 1.0);
            let bias = match below.contains("bias") {
                true => Some(weights.read(&below.tensor("bias", &[d]))?.to_vec1::<f32>()?),
                false => None,
            };
            let bias = bias.map(|values| Array { shape: vec![d], values });
            let matrix = Array { shape: vec![d, d], values };
            self.add(&file.path, TUNED_LENS, Name::Pair(layer, layers), matrix, bias)?;
        }
        if let Some(name) = weights.unused().first() {
            let message = format!("tensor `{name}` is not one of a lens for {layers} layers");
            return Err(Error::Format { path: file.path.clone(), message });
        }
        self.origin.model = Some(config.base_model_name_or_path);
        self.origin.revision = config.base_model_revision;
        self.origin.n_layers = Some(layers);
        self.origin.d_model = Some(d);
        Ok(())
    }

    /// Takes one map. A vector of zeros, or none, is no bias.
    fn add(
        &mut self,
        path: &Path,
        format: &'static str,
        name: Name,
        matrix: Array,
        vector: Option<Array>,
    ) -> Result<()> {
        let fail = |message: String| Error::Format { path: path.to_owned(), message };
        let width = matrix.shape.first().copied().unwrap_or(0);
        if matrix.shape != [width, width] || width == 0 {
            return Err(fail(format!("{name} has shape {:?}, not that of a square matrix", matrix.shape)));
        }
        if self.width != 0 && self.width != width {
            return Err(fail(format!("{name} has width {width}, others have {}", self.width)));
        }
        if self.format.is_empty() {
            self.format = format;
        } else if self.format != format {
            return Err(fail(format!(
                "a {format} file among {} files: which of them is meant?",
                self.format
            )));
        }
        self.width = width;
        let map = LinearMap::from_rows(matrix.values, width, width)?;
        let map = match vector {
            Some(vector) if vector.values.iter().any(|value| *value != 0.0) => match vector.values.len() {
                1 => map.with_bias(vec![vector.values[0]; width])?,
                n if n == width && vector.shape.len() <= 2 => map.with_bias(vector.values)?,
                _ => {
                    return Err(fail(format!("the intercept of {name} has shape {:?}", vector.shape)));
                }
            },
            _ => map,
        };
        let earlier = match name {
            Name::Pair(from, to) => self.pairs.insert((from, to), map),
            Name::Part(block, part) => self.parts.insert((block, part), map),
        };
        match earlier {
            Some(_) => Err(fail(format!("{name} is there twice"))),
            None => Ok(()),
        }
    }

    /// [`Error::ForeignShortcuts`] for `path`, which they were read from, where a map leads beyond the last of `n_layers`
    /// layers, or is of a block beyond it.
    pub fn check_layers(&self, path: &Path, n_layers: usize) -> Result<()> {
        let pair = self.pairs.keys().find(|(_, to)| *to > n_layers);
        let part = self.parts.keys().find(|(block, _)| *block >= n_layers);
        let beyond = pair.map(|(from, to)| (*from, *to)).or(part.map(|(block, _)| (*block, *block + 1)));
        match beyond {
            Some((from, to)) => {
                let what = beyond_the_last(from, to, n_layers);
                Err(Error::ForeignShortcuts { path: path.to_owned(), what })
            }
            None => Ok(()),
        }
    }

    /// [`Error::Option`] where a part has no name in a model with these `parts`.
    pub fn check_parts(&self, parts: &[Part]) -> Result<()> {
        match self.parts.keys().find(|(_, part)| *part >= parts.len()) {
            Some((_, part)) => Err(Error::Option(format!(
                "a block has {} parts, and there is a map of number {part}",
                parts.len()
            ))),
            None => Ok(()),
        }
    }

    /// Writes them to `out` with what is known of their `origin`: those between layers under the name `cast`, or where none
    /// is given as `mat`, those with a bias as `mat+b`, a tuned lens as `tuned`, a Jacobian lens as `jacobian`; parts by the names that they have in a model with
    /// these `parts`. Returns the casts. [`Error::Option`] where a part has no name.
    pub fn save(
        &self,
        out: &Path,
        origin: &Origin,
        cast: Option<&Cast>,
        parts: &[Part],
    ) -> Result<Vec<Cast>> {
        let shortcuts = Shortcuts::new(out).with_origin(origin.clone());
        let mut casts: BTreeMap<Cast, BTreeMap<usize, BTreeMap<usize, LinearMap>>> = BTreeMap::new();
        for ((from, to), map) in &self.pairs {
            let cast = cast.cloned().unwrap_or_else(|| self.cast_of(map));
            let maps = casts.entry(cast).or_default();
            maps.entry(*from).or_default().insert(*to, map.clone());
        }
        for (cast, sources) in &casts {
            for (from, maps) in sources {
                let mut notes = Notes::new();
                if self.filled.contains(from) {
                    notes.insert("missing".to_owned(), "the identity stands for it".into());
                }
                shortcuts.cast(cast).save_pairs(*from, maps, &notes)?;
            }
        }
        self.check_parts(parts)?;
        let mut blocks: BTreeMap<usize, BTreeMap<&str, LinearMap>> = BTreeMap::new();
        for ((block, part), map) in &self.parts {
            blocks.entry(*block).or_default().insert(parts[*part].name, map.clone());
        }
        blocks.iter().try_for_each(|(block, maps)| shortcuts.save_parts(*block, maps))?;
        Ok(casts.into_keys().collect())
    }
}

/// A tensor of a checkpoint in whichever shape it has.
fn array(weights: &Weights, name: &str) -> Result<Array> {
    let shape = weights.shape(name).unwrap_or_default().to_vec();
    let values = weights.read(&weights.below("").tensor(name, &shape))?.flatten_all()?.to_vec1::<f32>()?;
    Ok(Array { shape, values })
}
