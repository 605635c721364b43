//! A file of sums of Jacobians: safetensors, and a [`JacobiansRecord`] in its metadata.
//!
//! | tensor | dtype, shape | |
//! |---|---|---|
//! | `CAST.LL.sum` | F64 `[d, d]` | Σ over prompts of the Jacobian of layer LL, for LL < L; rows are coordinates of h_L |
//! | `CAST.LL.sum.rest` | F64 `[d, d]` | what the sum, as the nearest f64, lacks |
//! | `CAST.norms` | F64 `[prompts, L]` | Frobenius norm of each prompt's Jacobians |
//! | `CAST.changes`, `CAST.means` | F64 `[prompts, L]` | what each prompt changed the mean by, and the norm of the mean behind it |
//! | `numbers`, `lengths`, `ids` | I64 | each prompt's number, its tokens, and all tokens |

use super::prompts::PromptsRecord;
use crate::files::{Mapped, sync};
use crate::manifest::ModelRecord;
use crate::moments::Total;
use crate::progress::{Observer, check};
use crate::seal::{self, Seal};
use crate::store::{check_inside, check_outside};
use crate::tensor_file::{self, Entry};
use crate::words::{DerivativeCast, Shard, Sizes};
use crate::{Error, Result};
use rayon::prelude::*;
use safetensors::tensor::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The file's name in a folder.
pub const JACOBIANS: &str = "jacobians.safetensors";

/// The metadata entry that holds the record.
const RECORD: &str = "jumplens_jacobians";

/// What a file of sums says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JacobiansRecord {
    /// The version of jumplens that wrote it.
    pub version: String,
    /// The model.
    pub model: ModelRecord,
    /// `model_type`.
    pub family: String,
    /// Blocks, L.
    pub n_layers: usize,
    /// Width of a state.
    pub d_model: usize,
    /// The lenses.
    pub casts: Vec<DerivativeCast>,
    /// The prompts of all shares.
    pub prompts: PromptsRecord,
    /// How many shares they are in.
    pub of: usize,
    /// The shares that are in the file, from 1 on.
    pub shards: BTreeSet<usize>,
    /// How many of their prompts are.
    pub done: usize,
}

impl JacobiansRecord {
    /// Layers and width.
    pub fn sizes(&self) -> Sizes {
        Sizes { n_layers: self.n_layers, d_model: self.d_model }
    }

    /// How many prompts its shares have.
    pub fn expected(&self) -> usize {
        let shares = self.shards.iter().map(|index| Shard { index: *index, of: self.of });
        shares.map(|shard| shard.of_val(self.prompts.prompts).len()).sum()
    }

    /// The shares that are not in the file.
    pub fn missing(&self) -> Vec<usize> {
        (1..=self.of).filter(|shard| !self.shards.contains(shard)).collect()
    }

    /// What makes it the sums of another experiment than `other`, in words.
    pub(super) fn difference(&self, other: &Self) -> Option<(&'static str, String, String)> {
        let model = |record: &Self| (record.model.name(), record.model.weights_sha256.clone());
        let casts = |record: &Self| {
            let names: Vec<String> = record.casts.iter().map(ToString::to_string).collect();
            names.join(", ")
        };
        let prompts = |record: &Self| {
            let digest: String = record.prompts.sha256.chars().take(12).collect();
            format!("{} (SHA-256 {digest}…)", record.prompts.prompts)
        };
        if model(self) != model(other) {
            let name = |record: &Self| {
                let digest: String = record.model.weights_sha256.chars().take(12).collect();
                format!("`{}` with weights {digest}…", record.model.name())
            };
            return Some(("the model", name(self), name(other)));
        }
        let differing = |what, own: String, other: String| (own != other).then_some((what, own, other));
        differing("the choice of lenses", casts(self), casts(other))
            .or_else(|| differing("the choice of prompts", prompts(self), prompts(other)))
            .or_else(|| differing("the number of shares", self.of.to_string(), other.of.to_string()))
    }
}

/// A prompt that is in the sums.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Taken {
    /// Its number among all prompts.
    pub number: usize,
    pub ids: Vec<u32>,
}

/// What is added up of a lens.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct CastSums {
    /// By layer, row-major `[d, d]`.
    pub layers: Vec<Total>,
    /// Of the Jacobians of each prompt, `[prompts, L]`.
    pub norms: Vec<f64>,
    /// By how much each prompt moved the mean of its share.
    pub changes: Vec<f64>,
    /// The norm of that mean.
    pub means: Vec<f64>,
}

/// The sums of some prompts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sums {
    pub record: JacobiansRecord,
    pub prompts: Vec<Taken>,
    pub casts: Vec<CastSums>,
}

/// √Σ x²
pub(super) fn norm(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}

impl Sums {
    /// Of no prompts.
    pub fn new(record: JacobiansRecord) -> Self {
        let (layers, d) = (record.n_layers, record.d_model);
        let cast = |_: &DerivativeCast| CastSums {
            layers: (0..layers).map(|_| Total::zeros(d * d)).collect(),
            norms: Vec::new(),
            changes: Vec::new(),
            means: Vec::new(),
        };
        Self { casts: record.casts.iter().map(cast).collect(), prompts: Vec::new(), record }
    }

    /// Adds the Jacobians of a prompt: by lens, by layer, row-major `[d, d]`.
    pub fn add(&mut self, prompt: Taken, jacobians: &[Vec<Vec<f64>>]) {
        let before = self.prompts.len() as f64;
        for (sums, jacobians) in self.casts.iter_mut().zip(jacobians) {
            let layers = sums.layers.par_iter_mut().zip(jacobians);
            let figures: Vec<[f64; 3]> = layers
                .map(|(total, jacobian)| {
                    // The mean moves by (J − mean before) / n.
                    let moved: f64 = total
                        .value
                        .iter()
                        .zip(jacobian)
                        .map(|(sum, value)| (value - if before > 0.0 { sum / before } else { 0.0 }).powi(2))
                        .sum();
                    total.add(jacobian);
                    let after = before + 1.0;
                    [norm(jacobian), moved.sqrt() / after, norm(&total.value) / after]
                })
                .collect();
            sums.norms.extend(figures.iter().map(|[norm, ..]| norm));
            sums.changes.extend(figures.iter().map(|[_, change, _]| change));
            sums.means.extend(figures.iter().map(|[.., mean]| mean));
        }
        self.prompts.push(prompt);
        self.record.done = self.prompts.len();
    }

    /// Writes them to `path`, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<()> {
        let said = serde_json::to_string(&self.record).map_err(|error| Error::Internal(error.to_string()))?;
        let metadata = BTreeMap::from([(RECORD.to_owned(), said)]);
        let (d, layers, n) = (self.record.d_model, self.record.n_layers, self.prompts.len());
        let mut tensors: Vec<(String, Vec<usize>, Values)> = Vec::new();
        for (cast, sums) in self.record.casts.iter().zip(&self.casts) {
            for (layer, total) in sums.layers.iter().enumerate() {
                for (ending, own) in [("", &total.value), (REST, &total.rest)] {
                    tensors.push((sum_name(*cast, layer) + ending, vec![d, d], Values::F64(own)));
                }
            }
            for (name, own) in [("norms", &sums.norms), ("changes", &sums.changes), ("means", &sums.means)] {
                tensors.push((format!("{cast}.{name}"), vec![n, layers], Values::F64(own)));
            }
        }
        let numbers = self.prompts.iter().map(|prompt| prompt.number as i64).collect();
        let lengths = self.prompts.iter().map(|prompt| prompt.ids.len() as i64).collect();
        let ids: Vec<i64> =
            self.prompts.iter().flat_map(|prompt| &prompt.ids).map(|id| i64::from(*id)).collect();
        tensors.push(("numbers".to_owned(), vec![n], Values::I64(numbers)));
        tensors.push(("lengths".to_owned(), vec![n], Values::I64(lengths)));
        tensors.push(("ids".to_owned(), vec![ids.len()], Values::I64(ids)));
        let entry = |(name, shape, values): &(String, Vec<usize>, Values)| {
            let dtype = if matches!(values, Values::F64(_)) { Dtype::F64 } else { Dtype::I64 };
            Entry { name: name.clone(), dtype, shape: shape.clone() }
        };
        let entries: Vec<Entry> = tensors.iter().map(entry).collect();
        tensor_file::write(path, &metadata, &entries, |index| {
            Ok(match &tensors[index].2 {
                Values::F64(values) => bytemuck::cast_slice(values).to_vec(),
                Values::I64(values) => bytemuck::cast_slice(values).to_vec(),
            })
        })?;
        sync(&[path.to_owned()])
    }
}

/// Behind the name of a sum: what it lacks.
const REST: &str = ".rest";

fn sum_name(cast: DerivativeCast, layer: usize) -> String {
    format!("{cast}.{layer:02}.sum")
}

/// What is written.
enum Values<'a> {
    F64(&'a [f64]),
    I64(Vec<i64>),
}

/// A file of sums, mapped into memory.
#[derive(Debug)]
pub struct JacobiansFile {
    path: PathBuf,
    map: Mapped,
    /// What it says of itself.
    pub record: JacobiansRecord,
}

impl JacobiansFile {
    /// Opens a file, and sees that it is as it was written; `None` where it holds no sums of Jacobians.
    /// [`Error::ChangedFolder`] where it is not as it was written.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        check_inside(path)?;
        Self::open_unfinished(path)
    }

    /// The same, of a folder that need not be finished.
    pub(super) fn open_unfinished(path: &Path) -> Result<Option<Self>> {
        let map = Mapped::open(path)?;
        let Ok((_, metadata)) = SafeTensors::read_metadata(&map) else { return Ok(None) };
        let Some(record) = metadata.metadata().as_ref().and_then(|entries| entries.get(RECORD)) else {
            return Ok(None);
        };
        if seal::check(&map) != Seal::Whole {
            return Err(Error::ChangedFolder { path: path.to_owned() });
        }
        let record = serde_json::from_str(record).map_err(Error::format(path))?;
        map.let_go();
        Ok(Some(Self { path: path.to_owned(), map, record }))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is in it.
    pub(super) fn read(&self) -> Result<Sums> {
        let fail = |message: String| Error::Format { path: self.path.clone(), message };
        let record = self.record.clone();
        let (d, layers, n) = (record.d_model, record.n_layers, record.done);
        let tensors = SafeTensors::deserialize(&self.map).map_err(Error::format(&self.path))?;
        let bytes = |name: &str, dtype: Dtype, expected: Option<&[usize]>| {
            let Ok(view) = tensors.tensor(name) else {
                let expected = expected.unwrap_or(&[]).to_vec();
                return Err(Error::MissingTensor { path: self.path.clone(), tensor: name.into(), expected });
            };
            match expected {
                Some(expected) if view.shape() != expected => {
                    let (expected, got) = (expected.to_vec(), view.shape().to_vec());
                    Err(Error::TensorShape { path: self.path.clone(), tensor: name.into(), expected, got })
                }
                _ if view.dtype() != dtype => {
                    let got = format!("{:?}", view.dtype());
                    Err(Error::TensorDtype { path: self.path.clone(), tensor: name.into(), got })
                }
                _ => Ok(view.data().as_chunks::<8>().0.to_vec()),
            }
        };
        let floats = |name: &str, shape: &[usize]| -> Result<Vec<f64>> {
            let values = bytes(name, Dtype::F64, Some(shape))?;
            let values: Vec<f64> = values.into_iter().map(f64::from_le_bytes).collect();
            match values.iter().find(|value| !value.is_finite()) {
                Some(value) => Err(fail(format!("tensor `{name}` holds {value}"))),
                None => Ok(values),
            }
        };
        let whole = |name: &str, shape: Option<&[usize]>| -> Result<Vec<usize>> {
            let values = bytes(name, Dtype::I64, shape)?.into_iter().map(i64::from_le_bytes);
            let number =
                |value: i64| usize::try_from(value).map_err(|_| fail(format!("`{name}` holds {value}")));
            values.map(number).collect()
        };
        let cast = |cast: &DerivativeCast| -> Result<CastSums> {
            let total = |layer: usize| -> Result<Total> {
                let name = sum_name(*cast, layer);
                Ok(Total { value: floats(&name, &[d, d])?, rest: floats(&(name + REST), &[d, d])? })
            };
            let figures = |name: &str| floats(&format!("{cast}.{name}"), &[n, layers]);
            Ok(CastSums {
                layers: (0..layers).map(total).collect::<Result<_>>()?,
                norms: figures("norms")?,
                changes: figures("changes")?,
                means: figures("means")?,
            })
        };
        let casts = record.casts.iter().map(cast).collect::<Result<_>>()?;
        let (numbers, lengths) = (whole("numbers", Some(&[n]))?, whole("lengths", Some(&[n]))?);
        let ids = whole("ids", None)?;
        if lengths.iter().sum::<usize>() != ids.len() {
            return Err(fail("its prompts' lengths are not those of its tokens".to_owned()));
        }
        let mut left = &ids[..];
        let prompts = numbers.into_iter().zip(lengths).map(|(number, length)| {
            let (own, rest) = left.split_at(length);
            left = rest;
            Taken { number, ids: own.iter().map(|id| *id as u32).collect() }
        });
        let prompts: Vec<Taken> = prompts.collect();
        self.map.let_go();
        Ok(Sums { record, prompts, casts })
    }
}

/// Adds up files of sums in any order, with the same result. Not all shares have to be there. `out` is replaced where it is
/// there and `overwrite` allows it, [`Error::FileExists`] where not. [`Error::Shards`] names the file that is not finished,
/// holds a share another has already, or is of another experiment.
pub fn merge(paths: &[PathBuf], out: &Path, overwrite: bool, observer: &dyn Observer) -> Result<()> {
    if out.exists() && !overwrite {
        return Err(Error::FileExists { path: out.to_owned() });
    }
    check_outside(out)?;
    let mut files: Vec<JacobiansFile> = Vec::new();
    for path in paths {
        check(observer)?;
        let fail = |message: String| Error::Shards { path: path.clone(), message };
        let file = JacobiansFile::open(path)?
            .ok_or_else(|| fail("it holds no sums of Jacobians, as the first file does".to_owned()))?;
        let (done, expected) = (file.record.done, file.record.expected());
        if done != expected {
            return Err(fail(format!("it has {done} of its {expected} prompts: its share is not finished")));
        }
        if let Some(first) = files.first()
            && let Some((what, here, there)) = file.record.difference(&first.record)
        {
            let other = first.path.display();
            return Err(fail(format!("{what} is {here} here, and {there} in `{other}`")));
        }
        let shared =
            |other: &JacobiansFile| other.record.shards.intersection(&file.record.shards).next().copied();
        if let Some(shard) = files.iter().find_map(shared) {
            return Err(fail(format!("share {shard}/{} is in another of the files too", file.record.of)));
        }
        files.push(file);
    }
    files.sort_by_key(|file| file.record.shards.first().copied());
    let mut files = files.into_iter();
    let Some(first) = files.next() else {
        return Err(Error::Option("no files of sums were given".to_owned()));
    };
    observer.begin("merge", files.len() as u64 + 1, "files");
    let mut sums = first.read()?;
    observer.advance(1);
    for file in files {
        check(observer)?;
        let other = file.read()?;
        for (sums, other) in sums.casts.iter_mut().zip(other.casts) {
            sums.layers.iter_mut().zip(&other.layers).for_each(|(sum, other)| sum.add_total(other));
            sums.norms.extend(other.norms);
            sums.changes.extend(other.changes);
            sums.means.extend(other.means);
        }
        sums.prompts.extend(other.prompts);
        sums.record.shards.extend(other.record.shards);
        observer.advance(1);
    }
    sums.record.done = sums.prompts.len();
    observer.end();
    sums.write(out)
}
