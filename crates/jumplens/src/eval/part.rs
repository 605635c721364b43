//! Predictions on some consecutive validation samples, as a file: what an evaluation that was stopped goes on from, and what
//! those of several machines are put together from.
//!
//! Safetensors. A row of predictions a sample: the model's own, then those of one cast after another from each layer
//! 0…L−1, `P = 1 + casts · L` in all.
//!
//! | tensor | type, shape | |
//! |---|---|---|
//! | `top` | U32 `[P, n, 10]` | the most probable tokens |
//! | `surprisal`, `confidence`, `kl`, `loss` | F64 `[P, n]` | as in the tables; `loss` counts where `known` is 1 |
//! | `model_rank` | U8 `[P, n]` | place of the top token among the model's ten, 255 for none |
//! | `rank` | U32 `[P, n]` | place of the model's token among the cast's |
//! | `known` | U8 `[n]` | whether the true token is known |
//! | `position` | U32 `[n]` | the chosen position |
//! | `sentence` | U8 `[n, 32]` | SHA-256 of the sentence's tokens |

use super::predictions::{CastPredictions, Evaluation, Prediction, Subject, TOP_K};
use super::{ExitRule, mean_run};
use crate::files::Mapped;
use crate::manifest::{Difference, Manifest};
use crate::models::Kind;
use crate::seal::{self, Seal};
use crate::store::check_inside;
use crate::tensor_file::{self, Entry};
use crate::tokenize::Sample;
use crate::words::Cast;
use crate::{Error, Result};
use safetensors::tensor::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The metadata entry that holds the record.
const RECORD: &str = "jumplens_evaluation";
/// In the place of a rank that is none.
const NO_RANK: u8 = u8::MAX;
/// Bytes of a SHA-256.
const DIGEST: usize = 32;

/// What a file of predictions says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartRecord {
    /// The experiment, without what any one machine did of it.
    pub manifest: Manifest,
    /// SHA-256 of the maps that were applied.
    pub maps: String,
    /// Blocks, L.
    pub n_layers: usize,
    /// The casts.
    pub casts: Vec<Cast>,
    /// The first of the samples, among the validation samples of the experiment.
    pub first: usize,
    /// How many there are.
    pub samples: usize,
}

impl PartRecord {
    /// Of no samples yet.
    pub(crate) fn new(manifest: &Manifest, subject: &Subject) -> Result<Self> {
        Ok(Self {
            manifest: manifest.without_progress(),
            maps: subject.digest_of_maps()?,
            n_layers: subject.model.spec().n_layers,
            casts: subject.mappings(),
            first: 0,
            samples: 0,
        })
    }

    /// The samples that it is of.
    pub fn range(&self) -> Range<usize> {
        self.first..self.first + self.samples
    }

    /// What makes it no part of the evaluation that `there` is of.
    pub(crate) fn difference(&self, there: &Self) -> Option<String> {
        let casts = |record: &Self| {
            let names: Vec<String> = record.casts.iter().map(Cast::to_string).collect();
            names.join(", ")
        };
        self.manifest
            .difference(&there.manifest)
            .or_else(|| Difference::of("the choice of casts", casts(self), casts(there)))
            .or_else(|| Difference::of("the SHA-256 of the maps", &self.maps, &there.maps))
            .map(|difference| difference.to_string())
    }
}

/// Where the samples of an evaluation are, and of which sentences: what its tables are made by, beside the predictions.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Places {
    positions: Vec<usize>,
    /// A digest of each sample's sentence.
    sentences: Vec<[u8; DIGEST]>,
}

impl Places {
    pub fn of(samples: &[Sample], kind: Kind) -> Self {
        let digest = |sample: &Sample| {
            let mut ids = sample.ids.clone();
            if let Some(target) = sample.target.filter(|_| kind == Kind::Masked) {
                ids[sample.position] = target;
            }
            Sha256::digest(bytemuck::cast_slice(&ids)).into()
        };
        Self {
            positions: samples.iter().map(|sample| sample.position).collect(),
            sentences: samples.iter().map(digest).collect(),
        }
    }

    fn append(&mut self, next: Self) {
        self.positions.extend(next.positions);
        self.sentences.extend(next.sentences);
    }

    /// Which of the samples are of one sentence, as [`sentences`](super::sentences) has it.
    pub fn sentences(&self) -> Vec<Range<usize>> {
        let mut start = 0;
        let ranges = self.sentences.chunk_by(|one, other| one == other).map(|sentence| {
            start += sentence.len();
            start - sentence.len()..start
        });
        ranges.collect()
    }

    pub fn exit_rule(&self, kind: Kind) -> ExitRule {
        let positions = || self.positions.iter().copied();
        ExitRule::at(positions(), mean_run(positions()), kind)
    }
}

/// A file of predictions.
#[derive(Debug)]
pub struct Part {
    path: PathBuf,
    /// What it is of.
    pub record: PartRecord,
    evaluation: Evaluation,
    places: Places,
}

impl Part {
    fn write(path: &Path, record: &PartRecord, evaluation: &Evaluation, places: &Places) -> Result<()> {
        let n = evaluation.samples();
        let said = serde_json::to_string(record).map_err(|error| Error::Internal(error.to_string()))?;
        let metadata = BTreeMap::from([(RECORD.to_owned(), said)]);
        let rows: Vec<&Prediction> = rows(evaluation).flatten().collect();
        let of = rows.len() / n.max(1);
        let floats = |value: fn(&Prediction) -> f64| -> Vec<u8> {
            rows.iter().flat_map(|prediction| value(prediction).to_le_bytes()).collect()
        };
        let own = &rows[..n];
        let entries = layout(of, n);
        tensor_file::write(path, &metadata, &entries, |index| {
            Ok(match entries[index].name.as_str() {
                "top" => rows.iter().flat_map(|p| p.top).flat_map(u32::to_le_bytes).collect(),
                "surprisal" => floats(|p| p.surprisal),
                "confidence" => floats(|p| p.confidence),
                "kl" => floats(|p| p.kl),
                "loss" => floats(|p| p.loss.unwrap_or(0.0)),
                "model_rank" => {
                    rows.iter().map(|p| p.model_rank.map_or(NO_RANK, |rank| rank as u8)).collect()
                }
                "rank" => rows.iter().flat_map(|p| (p.rank as u32).to_le_bytes()).collect(),
                "known" => own.iter().map(|p| u8::from(p.loss.is_some())).collect(),
                "position" => places.positions.iter().flat_map(|at| (*at as u32).to_le_bytes()).collect(),
                _ => places.sentences.as_flattened().to_vec(),
            })
        })
    }

    /// Opens a file, and sees that it is as it was written. [`Error::ChangedFolder`] where it is not, [`Error::Format`] where it
    /// holds no predictions.
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
        let record = record.filter(|_| seal == Seal::Whole);
        let record = record.ok_or_else(|| fail("it holds no predictions of `evaluate`".to_owned()))?;
        let record: PartRecord = serde_json::from_str(record).map_err(Error::format(path))?;
        record.manifest.is_of_this_version(path)?;
        let PartRecord { n_layers: last, samples: n, .. } = record;
        let of = last.checked_mul(record.casts.len()).and_then(|of| of.checked_add(1));
        let end = record.first.checked_add(n);
        let makes_sense = n > 0 && last > 0 && end.is_some_and(|end| end <= record.manifest.val);
        let of = of.filter(|_| makes_sense && !record.casts.is_empty());
        let of = of.ok_or_else(|| fail("what it says of its samples does not fit together".to_owned()))?;
        let tensors = SafeTensors::deserialize(&map).map_err(Error::format(path))?;
        let mut bytes = BTreeMap::new();
        // More rows than the file has bytes are none.
        if of.checked_mul(n).is_none_or(|rows| rows > map.len()) {
            return Err(fail("it has fewer predictions than it says".to_owned()));
        }
        for Entry { name, dtype, shape } in layout(of, n) {
            let view = tensors.tensor(&name);
            let view = view.ok().filter(|view| view.shape() == shape && view.dtype() == dtype);
            let view =
                view.ok_or_else(|| fail(format!("it has no {dtype:?} tensor `{name}` of shape {shape:?}")))?;
            bytes.insert(name, view.data());
        }
        let u32s = |name: &str| bytes[name].as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b));
        let f64s = |name: &str| bytes[name].as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b));
        let top: Vec<u32> = u32s("top").collect();
        let (tops, _) = top.as_chunks::<TOP_K>();
        let known: Vec<bool> = bytes["known"].iter().map(|known| *known == 1).collect();
        let places = Places {
            positions: u32s("position").map(|at| at as usize).collect(),
            sentences: bytes["sentence"].as_chunks::<DIGEST>().0.to_vec(),
        };
        let figures = f64s("surprisal").zip(f64s("confidence")).zip(f64s("kl")).zip(f64s("loss"));
        let ranks = bytes["model_rank"].iter().zip(u32s("rank"));
        let predictions: Vec<Prediction> = figures
            .zip(ranks)
            .zip(tops)
            .enumerate()
            .map(|(row, (((((surprisal, confidence), kl), loss), (model_rank, rank)), top))| Prediction {
                top: *top,
                surprisal,
                confidence,
                kl,
                loss: known[row % n].then_some(loss),
                model_rank: (*model_rank != NO_RANK).then_some(usize::from(*model_rank)),
                rank: rank as usize,
            })
            .collect();
        let mut rows = predictions.chunks(n);
        let own = rows.next().unwrap_or_default().to_vec();
        let cast = |mapping: &Cast| {
            let earlier = rows.by_ref().take(last).map(<[Prediction]>::to_vec);
            let layers = earlier.chain([own.clone()]).collect();
            CastPredictions { mapping: mapping.clone(), layers }
        };
        let evaluation = Evaluation { casts: record.casts.iter().map(cast).collect() };
        map.let_go();
        Ok(Self { path: path.to_owned(), record, evaluation, places })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The model's own predictions, then each cast's from the layers before the last.
fn rows(evaluation: &Evaluation) -> impl Iterator<Item = &Vec<Prediction>> {
    let own = evaluation.casts.first().and_then(|cast| cast.layers.last());
    let earlier =
        evaluation.casts.iter().flat_map(|cast| cast.layers.split_last().map_or(&[][..], |(_, rest)| rest));
    own.into_iter().chain(earlier)
}

fn layout(of: usize, n: usize) -> Vec<Entry> {
    let entry =
        |name: &str, dtype, shape: &[usize]| Entry { name: name.to_owned(), dtype, shape: shape.to_vec() };
    vec![
        entry("top", Dtype::U32, &[of, n, TOP_K]),
        entry("surprisal", Dtype::F64, &[of, n]),
        entry("confidence", Dtype::F64, &[of, n]),
        entry("kl", Dtype::F64, &[of, n]),
        entry("loss", Dtype::F64, &[of, n]),
        entry("rank", Dtype::U32, &[of, n]),
        entry("position", Dtype::U32, &[n]),
        entry("model_rank", Dtype::U8, &[of, n]),
        entry("known", Dtype::U8, &[n]),
        entry("sentence", Dtype::U8, &[n, DIGEST]),
    ]
}

/// An evaluation, as far as it is, in pieces that follow one another.
#[derive(Debug)]
pub(crate) struct SoFar {
    /// What it is of.
    pub record: PartRecord,
    /// Its predictions.
    pub evaluation: Evaluation,
    /// Where its samples are.
    pub places: Places,
}

impl SoFar {
    /// Of no samples, from `first` on.
    pub fn new(record: PartRecord, first: usize) -> Self {
        let evaluation = Evaluation::empty(&record.casts, record.n_layers);
        Self { record: PartRecord { first, ..record }, evaluation, places: Places::default() }
    }

    /// The sample that comes next.
    pub fn next(&self) -> usize {
        self.record.first + self.evaluation.samples()
    }

    /// Puts `evaluation` of the samples that come next behind.
    pub fn append(&mut self, evaluation: Evaluation, places: Places) {
        self.record.samples += evaluation.samples();
        self.evaluation.append(evaluation);
        self.places.append(places);
    }

    /// Writes `evaluation` of the samples that come next as a part, and puts it behind.
    pub fn append_written(&mut self, path: &Path, evaluation: Evaluation, places: Places) -> Result<()> {
        let record = PartRecord { first: self.next(), samples: evaluation.samples(), ..self.record.clone() };
        Part::write(path, &record, &evaluation, &places)?;
        self.append(evaluation, places);
        Ok(())
    }

    /// Writes all of it as one part.
    pub fn write(&self, path: &Path) -> Result<()> {
        Part::write(path, &self.record, &self.evaluation, &self.places)
    }

    /// Puts a part behind. Why it is none of this evaluation, or does not follow, where that is so.
    pub fn add(&mut self, part: Part) -> std::result::Result<(), String> {
        if let Some(difference) = part.record.difference(&self.record) {
            return Err(difference);
        }
        let (first, next) = (part.record.first, self.next());
        if first != next {
            return Err(format!("it begins with sample {first}, where sample {next} comes next"));
        }
        self.append(part.evaluation, part.places);
        Ok(())
    }
}
