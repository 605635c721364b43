//! A file of sums: safetensors, F64, one tensor a sum, and a [`MomentsRecord`] in its metadata.
//!
//! | tensor | shape | |
//! |---|---|---|
//! | `S.LL.sum` | `[d]` | Σ h_LL |
//! | `S.LL.gram` | `[d, d]` | Σ h_LL·h_LLᵀ, for LL < L |
//! | `S.LL.squares` | `[d]` | Σ h_LL² by coordinate, for LL = L |
//! | `S.LL_MM.cross` | `[d, d]` | Σ h_LL·h_MMᵀ |
//! | each name with `.rest` | as the sum | what the sum, as the nearest f64, lacks |
//!
//! `S` is `train.1` … `train.4` or `val`; the cross sums to layers before the last are of the whole `train`.

use super::total::Total;
use super::{MomentsRecord, SECTIONS};
use crate::files::Mapped;
use crate::seal::{self, Seal};
use crate::shortcut::{PairSums, Pairs, pair_name};
use crate::store::check_inside;
use crate::tensor_file::{self, Entry};
use crate::words::{LEARNING_CURVE, MOST_SHARES, VAL};
use crate::{Error, Result};
use faer::MatRef;
use jumplens_core::solver::TargetSums;
use safetensors::tensor::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Behind the name of a sum: what it lacks.
const REST: &str = ".rest";

/// The metadata entry that holds the record.
const RECORD: &str = "jumplens_moments";

/// By how much sums in f64 may be beyond their bounds.
const ROUNDING: f64 = 1e-6;

/// A sum in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sum {
    /// Σ h of a layer in a section.
    States { section: usize, layer: usize },
    /// Σ h·hᵀ of a layer in a section.
    Gram { section: usize, layer: usize },
    /// Σ h² of the last layer in a section.
    Squares { section: usize },
    /// Σ h·h′ᵀ in a section, h′ of the last layer.
    CrossToLast { section: usize, from: usize },
    /// Σ h·h′ᵀ over all training samples, or the validation samples, h′ of another layer.
    Cross { val: bool, from: usize, to: usize },
}

fn section_name(section: usize) -> String {
    if section == VAL { "val".to_owned() } else { format!("train.{}", section + 1) }
}

impl Sum {
    fn name(self, last: usize) -> String {
        match self {
            Self::States { section, layer } => format!("{}.{layer:02}.sum", section_name(section)),
            Self::Gram { section, layer } => format!("{}.{layer:02}.gram", section_name(section)),
            Self::Squares { section } => format!("{}.{last:02}.squares", section_name(section)),
            Self::CrossToLast { section, from } => {
                format!("{}.{}.cross", section_name(section), pair_name(from, last))
            }
            Self::Cross { val, from, to } => {
                format!("{}.{}.cross", if val { "val" } else { "train" }, pair_name(from, to))
            }
        }
    }

    fn shape(self, d: usize) -> Vec<usize> {
        match self {
            Self::States { .. } | Self::Squares { .. } => vec![d],
            Self::Gram { .. } | Self::CrossToLast { .. } | Self::Cross { .. } => vec![d, d],
        }
    }
}

/// The sums of a file in the order they are written in: source layer by source layer, section by section.
pub(super) fn layout(record: &MomentsRecord) -> Vec<Sum> {
    let last = record.n_layers;
    let mut sums = Vec::new();
    for from in 0..last {
        let others = record.manifest.fits.pairs.targets(from, last).into_iter().filter(|to| *to != last);
        for section in 0..SECTIONS {
            sums.push(Sum::States { section, layer: from });
            sums.push(Sum::Gram { section, layer: from });
            if from == 0 {
                sums.push(Sum::States { section, layer: last });
                sums.push(Sum::Squares { section });
            }
            sums.push(Sum::CrossToLast { section, from });
            if section + 1 >= LEARNING_CURVE.len() {
                sums.extend(others.clone().map(|to| Sum::Cross { val: section == VAL, from, to }));
            }
        }
    }
    sums
}

/// How many sums [`layout`] gives, without making them; `None` where that is beyond any number.
fn number_of_sums(record: &MomentsRecord) -> Option<usize> {
    let layers = record.n_layers;
    let others = match record.manifest.fits.pairs {
        Pairs::All => layers.checked_mul(layers.checked_sub(1)?)?,
        Pairs::ToFinal => 0,
    };
    layers.checked_mul(3 * SECTIONS)?.checked_add(2 * SECTIONS)?.checked_add(others)
}

/// Writes a file of sums, which `fill` gives one by one in the order of [`layout`], row-major, each with what it lacks.
pub(super) fn write(
    path: &Path,
    record: &MomentsRecord,
    mut fill: impl FnMut(Sum) -> Result<Total>,
) -> Result<()> {
    let said = serde_json::to_string(record).map_err(|error| Error::Internal(error.to_string()))?;
    let metadata = BTreeMap::from([(RECORD.to_owned(), said)]);
    let sums = layout(record);
    let entries = |sum: &Sum| {
        let name = sum.name(record.n_layers);
        let rest = format!("{name}{REST}");
        [name, rest].map(|name| Entry { name, dtype: Dtype::F64, shape: sum.shape(record.d_model) })
    };
    let entries: Vec<Entry> = sums.iter().flat_map(entries).collect();
    let mut rest = Vec::new();
    tensor_file::write(path, &metadata, &entries, |index| {
        let values = if index % 2 == 0 {
            let total = fill(sums[index / 2])?;
            rest = total.rest;
            total.value
        } else {
            std::mem::take(&mut rest)
        };
        Ok(bytemuck::cast_slice(&values).to_vec())
    })
}

fn values(bytes: &[u8]) -> impl Iterator<Item = f64> {
    bytes.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes))
}

/// A file of sums, mapped into memory.
#[derive(Debug)]
pub struct MomentsFile {
    path: PathBuf,
    map: Mapped,
    /// What it says of itself.
    pub record: MomentsRecord,
}

impl MomentsFile {
    /// Opens a file, and sees that it is as it was written, and that every sum that it should have is there, and can be one.
    /// [`Error::ChangedFolder`] where it is not as it was written, [`Error::Format`] where it does not say.
    pub fn open(path: &Path) -> Result<Self> {
        check_inside(path)?;
        let map = Mapped::open(path)?;
        let fail = |message: String| Error::Format { path: path.to_owned(), message };
        let seal = seal::check(&map);
        if seal == Seal::Broken {
            return Err(Error::ChangedFolder { path: path.to_owned() });
        }
        let (_, metadata) = SafeTensors::read_metadata(&map).map_err(Error::format(path))?;
        let record = metadata.metadata().as_ref().and_then(|entries| entries.get(RECORD));
        let record = record.ok_or_else(|| fail("it holds no second-moment sums".to_owned()))?;
        let record: MomentsRecord = serde_json::from_str(record).map_err(Error::format(path))?;
        record.manifest.is_of_this_version(path)?;
        if seal == Seal::Missing {
            return Err(fail(
                "it has no digest of itself, as sums of an earlier version have none".to_owned(),
            ));
        }
        if !metadata.tensors().keys().any(|name| name.ends_with(REST)) {
            return Err(fail(format!("its sums lack their `{REST}`, as those of an earlier version do")));
        }
        // That the layers are there is seen below: here only that there are no fewer tensors than they have sums.
        let makes_sense = (1..=MOST_SHARES).contains(&record.of)
            && !record.shards.is_empty()
            && record.shards.iter().all(|shard| (1..=record.of).contains(shard))
            && record.counts == record.expected_counts()
            && record.n_layers > 0
            && number_of_sums(&record).is_some_and(|sums| sums <= metadata.tensors().len() / 2);
        if !makes_sense {
            return Err(fail("what it says of its shards and layers does not fit together".to_owned()));
        }
        let opened = Self { path: path.to_owned(), map, record };
        let tensors = opened.tensors()?;
        let names = |sum: Sum| {
            let name = sum.name(opened.record.n_layers);
            [(sum, format!("{name}{REST}")), (sum, name)]
        };
        for (sum, tensor) in layout(&opened.record).into_iter().flat_map(names) {
            let expected = sum.shape(opened.record.d_model);
            let Ok(view) = tensors.tensor(&tensor) else {
                return Err(Error::MissingTensor { path: opened.path, tensor, expected });
            };
            if view.shape() != expected {
                let got = view.shape().to_vec();
                return Err(Error::TensorShape { path: opened.path, tensor, expected, got });
            }
            if view.dtype() != Dtype::F64 {
                let got = format!("{:?}", view.dtype());
                return Err(Error::TensorDtype { path: opened.path, tensor, got });
            }
        }
        opened.check_values()?;
        // Many of them are open at once where shares are added up.
        opened.let_go();
        Ok(opened)
    }

    /// Sees that every value is one that sums of f32 states can have: by Cauchy and Schwarz, no Σ x·y is beyond √(Σ x² · Σ y²).
    fn check_values(&self) -> Result<()> {
        let MomentsRecord { n_layers: last, d_model: d, counts, .. } = self.record;
        let tensors = self.tensors()?;
        let of = |sum: Sum| -> Result<&[u8]> {
            tensors.tensor(&sum.name(last)).map(|view| view.data()).map_err(Error::format(&self.path))
        };
        let check = |sum: Sum, at: usize, value: f64, is_sound: bool| {
            let message =
                || format!("value {at} of tensor `{}` is {value}, which no sum of states is", sum.name(last));
            if is_sound { Ok(()) } else { Err(Error::Format { path: self.path.clone(), message: message() }) }
        };
        // Σ x² by section, layer and coordinate.
        let mut squares = vec![Vec::new(); SECTIONS];
        for (section, squares) in squares.iter_mut().enumerate() {
            let most = counts[section] as f64 * f64::from(f32::MAX).powi(2);
            for layer in 0..=last {
                let (sum, step) = match layer == last {
                    true => (Sum::Squares { section }, 1),
                    false => (Sum::Gram { section, layer }, d + 1),
                };
                let own: Vec<f64> = values(of(sum)?).step_by(step).collect();
                let mut each = own.iter().enumerate();
                each.try_for_each(|(i, value)| check(sum, i * step, *value, (0.0..=most).contains(value)))?;
                squares.push(own);
            }
        }
        let norms = |sections: Range<usize>, layer: usize| -> Vec<f64> {
            let total = |i: usize| sections.clone().map(|section| squares[section][layer][i]).sum::<f64>();
            (0..d).map(|i| total(i).sqrt()).collect()
        };
        for sum in layout(&self.record) {
            let (rows, columns) = match sum {
                Sum::States { section, layer } => {
                    (vec![(counts[section] as f64).sqrt()], norms(section..section + 1, layer))
                }
                Sum::Squares { .. } => continue,
                Sum::Gram { section, layer } => {
                    let norms = norms(section..section + 1, layer);
                    (norms.clone(), norms)
                }
                Sum::CrossToLast { section, from } => {
                    (norms(section..section + 1, from), norms(section..section + 1, last))
                }
                Sum::Cross { val, from, to } => {
                    let sections = if val { VAL..SECTIONS } else { 0..VAL };
                    (norms(sections.clone(), from), norms(sections, to))
                }
            };
            for (at, value) in values(of(sum)?).enumerate() {
                let most = rows[at / d] * columns[at % d] * (1.0 + ROUNDING);
                check(sum, at, value, value.abs() <= most)?;
            }
        }
        for sum in layout(&self.record) {
            let Total { value, rest } = self.total(sum)?;
            let unsound = value.iter().zip(&rest).position(|(value, rest)| value + rest != *value);
            if let Some(at) = unsound {
                let name = sum.name(last);
                let message = format!(
                    "value {at} of tensor `{name}{REST}` is {}, which is not what rounding leaves of {}",
                    rest[at], value[at]
                );
                return Err(Error::Format { path: self.path.clone(), message });
            }
        }
        Ok(())
    }

    /// Gives back the memory of the sums that have been read.
    pub(super) fn let_go(&self) {
        self.map.let_go();
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn tensors(&self) -> Result<SafeTensors<'_>> {
        SafeTensors::deserialize(&self.map).map_err(Error::format(&self.path))
    }

    /// A sum, row-major, all finite.
    pub(super) fn total(&self, sum: Sum) -> Result<Total> {
        let name = sum.name(self.record.n_layers);
        let tensors = self.tensors()?;
        let read = |name: &str| -> Result<Vec<f64>> {
            let view = tensors.tensor(name).map_err(Error::format(&self.path))?;
            Ok(values(view.data()).collect())
        };
        Ok(Total { value: read(&name)?, rest: read(&format!("{name}{REST}"))? })
    }

    /// The sums of layer `from` and its targets `to`, over the training samples.
    pub(crate) fn train(&self, from: usize, to: &[usize]) -> Result<PairSums> {
        self.pair_sums(0..VAL, from, to)
    }

    /// The sums of layer `from` and its targets `to`, over the validation samples.
    pub(crate) fn val(&self, from: usize, to: &[usize]) -> Result<PairSums> {
        self.pair_sums(VAL..SECTIONS, from, to)
    }

    /// The sums of layer `from` and the last over one segment of the training samples.
    pub(crate) fn segment(&self, segment: usize, from: usize) -> Result<PairSums> {
        self.pair_sums(segment..segment + 1, from, &[self.record.n_layers])
    }

    fn pair_sums(&self, sections: Range<usize>, from: usize, to: &[usize]) -> Result<PairSums> {
        let (d, last) = (self.record.d_model, self.record.n_layers);
        let over_sections = |size: usize, sum: &dyn Fn(usize) -> Sum| -> Result<Vec<f64>> {
            let mut total = Total::zeros(size);
            for section in sections.clone() {
                total.add_total(&self.total(sum(section))?);
            }
            Ok(total.value)
        };
        let matrix = |values: Vec<f64>| MatRef::from_row_major_slice(&values, d, d).to_owned();
        let states = |layer: usize| over_sections(d, &|section| Sum::States { section, layer });
        let gram = |layer: usize| over_sections(d * d, &|section| Sum::Gram { section, layer });
        let target = |&to: &usize| -> Result<TargetSums> {
            let (squares, cross) = if to == last {
                (
                    over_sections(d, &|section| Sum::Squares { section })?,
                    over_sections(d * d, &|section| Sum::CrossToLast { section, from })?,
                )
            } else {
                let gram = gram(to)?;
                let squares = (0..d).map(|j| gram[j * d + j]).collect();
                (squares, self.total(Sum::Cross { val: sections.start == VAL, from, to })?.value)
            };
            Ok(TargetSums { sum: states(to)?, squares, cross: matrix(cross) })
        };
        Ok(PairSums {
            n: self.record.counts[sections.clone()].iter().sum(),
            sum: states(from)?,
            gram: matrix(gram(from)?),
            targets: to.iter().map(target).collect::<Result<_>>()?,
        })
    }
}
