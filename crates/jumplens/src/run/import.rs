//! Runs whose states another program computed.

use super::{Run, load_model, make_room, may_begin, record_model, samples_path};
use crate::files::{absolute, create_folder, sha256};
use crate::hub::{ModelFiles, Sources};
use crate::manifest::{ImportRecord, Manifest, SamplesRecord, SourceRecord, StageRecord};
use crate::models::{Spec, Transformer, describe};
use crate::nn::{Norm, Precision};
use crate::progress::{Observer, check};
use crate::samples;
use crate::shortcut::{Fits, Pairs};
use crate::states::{ForeignStates, StateFiles, run_samples};
use crate::store::{Found, Stage, check_inside, integrity, look};
use crate::tokenize::{Sample, read_samples, write_samples};
use crate::words::{LastState, Refusal};
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The splits, and what messages call them.
const SPLITS: [(&str, &str); 2] = [("train", "training"), ("val", "validation")];
/// Samples that are run to see that states are the model's.
const RUN: usize = 4;
/// How far imported states may be from the model's, as a share of these (2-norm): 8-bit weights stay within it, states of another
/// model, position or layer are as far away as they are long.
const FAR: f64 = 0.2;

/// States to take in.
#[derive(Debug, Clone, Default)]
pub struct Import {
    /// The training and the validation states, as [`ForeignStates::open`] takes them.
    pub states: [PathBuf; 2],
    /// The samples that they are the states of, where they are known.
    pub samples: Option<[PathBuf; 2]>,
    /// The model that they are of, where it can be had: as [`ModelFiles::find`] takes it.
    pub model: Option<String>,
    /// What the states of the last layer are, where it is said.
    pub last_state: Option<LastState>,
}

impl Run {
    /// Makes a run of states that another program computed, in `folder`, with its stages `samples` and `states` done. Nothing is
    /// written before all of them are looked at.
    ///
    /// # Errors
    /// Those of [`Run::begin`] for what is in the folder, and of [`ForeignStates::open`] and [`ForeignStates::check`] for what is
    /// read; [`Error::Format`] where the splits, the samples and the model do not fit one another; [`Error::Refused`] where
    /// nobody says what the last states are and it cannot be seen.
    pub fn import(
        folder: &Path,
        import: &Import,
        overwrite: bool,
        sources: &Sources,
        observer: &dyn Observer,
    ) -> Result<Manifest> {
        let lock = may_begin(folder, overwrite, observer)?;
        for path in &import.states {
            if lies_in(path, folder) {
                let message = format!(
                    "`{}` lies in `{}`, whose states are to be replaced",
                    path.display(),
                    folder.display()
                );
                return Err(Error::Option(message));
            }
            check_inside(path)?;
        }
        let [train, val] = &import.states;
        let states = [ForeignStates::open(train)?, ForeignStates::open(val)?];
        let sizes = states[0].sizes;
        if states[1].sizes != sizes {
            let found = states[1].sizes;
            return Err(Error::format(val)(format!(
                "there are {} layers of width {}, and {} of width {} in the training states",
                found.n_layers + 1,
                found.d_model,
                sizes.n_layers + 1,
                sizes.d_model
            )));
        }
        let files = match &import.model {
            Some(name) => Some(ModelFiles::find(name, sources, observer)?),
            None => None,
        };
        let described = files.as_ref().map(describe).transpose()?;
        if let (Some(described), Some(name)) = (&described, &import.model)
            && described.spec.sizes() != sizes
        {
            return Err(Error::format(train)(format!(
                "there are states of layers 0 … {} of width {}, and `{name}` has {} layers of width {}",
                sizes.n_layers, sizes.d_model, described.spec.n_layers, described.spec.d_model
            )));
        }
        let spec = described.as_ref().map(|described| &described.spec);
        let samples = import.samples.as_ref().map(|paths| read_both(paths, spec, &states)).transpose()?;
        let begun = Instant::now();
        observer.begin("import", 2 * (2 * (sizes.n_layers as u64 + 1)), "layers");
        for states in &states {
            states.check(observer)?;
            note(states, observer);
        }
        let mut last_state = import.last_state;
        let known = known_last_state(&import.states)?.or(described
            .as_ref()
            .filter(|described| !described.has_final_norm)
            .map(|_| LastState::BlockOutput));
        let mut has_head = false;
        let mut unread = Default::default();
        if let Some(files) = &files {
            has_head = described.as_ref().is_some_and(|described| described.has_head);
            if let Some([samples, _]) = &samples {
                let model = load_model(files, Precision::F32, observer)?;
                match (compare(&model, samples, &states[0])?, last_state) {
                    (Some(seen), said) => last_state = Some(agreed(train, said, seen)?),
                    (None, Some(LastState::BlockOutput)) => {
                        return Err(Error::format(train)(
                            "the states of its last layer are not the output of the last block",
                        ));
                    }
                    (None, _) => {}
                }
            }
            unread = files.allow_unread.used();
        }
        if let Some(known) = known {
            last_state = Some(agreed(train, last_state, known)?);
        }
        let Some(last_state) = last_state else {
            return Err(Refusal::WhichLastState { path: train.clone() }.into());
        };
        let mut imported = ImportRecord {
            train_states: source(train),
            val_states: source(val),
            n_layers: sizes.n_layers,
            d_model: sizes.d_model,
            formats: states.iter().flat_map(|states| states.formats.iter().cloned()).collect(),
            last_state,
            samples: match &import.samples {
                Some([train, val]) => Some([samples::record(train)?, samples::record(val)?]),
                None => None,
            },
        };
        let manifest = |imported: &ImportRecord| {
            let mut manifest = Manifest::new(
                files.as_ref().map(record_model),
                SamplesRecord::Imported { imported: imported.clone() },
                0,
                None,
                states[0].n,
                states[1].n,
                Fits::plain(Pairs::All),
                Precision::F32,
            );
            manifest.headless = !has_head || samples.is_none() || last_state != LastState::BlockOutput;
            manifest
        };
        let lock = make_room(lock, folder, &manifest(&imported))?;
        if let Some(samples) = &samples {
            create_folder(&folder.join(Stage::Samples.place()))?;
            for ((split, _), samples) in SPLITS.iter().zip(samples) {
                write_samples(&samples_path(folder, split), samples)?;
            }
        }
        let mut written = BTreeMap::new();
        for ((split, _), states) in SPLITS.iter().zip(&states) {
            let files = StateFiles::new(folder, split);
            let mut digests = String::new();
            for layer in 0..=sizes.n_layers {
                let (name, digest) = files.write(layer, states.n, sizes.d_model, |write| {
                    states.each(layer, &mut |rows| {
                        check(observer)?;
                        write(rows).map(|()| true)
                    })
                })?;
                digests += &digest;
                written.insert(name, digest);
                observer.advance(1);
            }
            let record =
                if *split == "train" { &mut imported.train_states } else { &mut imported.val_states };
            record.sha256 = sha256(digests.as_bytes());
        }
        let mut manifest = manifest(&imported);
        manifest.unread = unread;
        let files = integrity::digests(folder, |path| Stage::Samples.writes(path))?;
        manifest.stages.insert(Stage::Samples, StageRecord { done: true, files, ..StageRecord::default() });
        let seconds = begun.elapsed().as_secs_f64();
        let record = StageRecord { done: true, seconds, files: written, ..StageRecord::default() };
        manifest.stages.insert(Stage::States, record);
        manifest.write(folder)?;
        observer.end();
        drop(lock);
        Ok(manifest)
    }
}

fn source(path: &Path) -> SourceRecord {
    SourceRecord { id: absolute(&path.display().to_string()), sha256: String::new() }
}

/// Whether `path` is in `folder`, or holds it.
fn lies_in(path: &Path, folder: &Path) -> bool {
    let whole = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let (path, folder) = (whole(path), whole(folder));
    path.starts_with(&folder) || folder.starts_with(&path)
}

/// The samples of both splits: as many as there are states.
fn read_both(
    paths: &[PathBuf; 2],
    spec: Option<&Spec>,
    states: &[ForeignStates; 2],
) -> Result<[Vec<Sample>; 2]> {
    let read = |split: usize| -> Result<Vec<Sample>> {
        let (path, samples) = (&paths[split], read_samples(&paths[split], spec)?);
        let (found, wanted) = (samples.len(), states[split].n);
        if found != wanted {
            let what = SPLITS[split].1;
            return Err(Error::format(path)(format!(
                "it has {found} samples, and there are {wanted} {what} states"
            )));
        }
        Ok(samples)
    };
    Ok([read(0)?, read(1)?])
}

/// What becomes of the numbers, and what is left.
fn note(states: &ForeignStates, observer: &dyn Observer) {
    let path = states.path.display();
    let others: Vec<&str> =
        states.formats.iter().map(String::as_str).filter(|format| *format != "F32").collect();
    if !others.is_empty() {
        let how = match others[..] {
            ["F64"] => "narrowed",
            _ if others.contains(&"F64") => "widened or narrowed",
            _ => "widened",
        };
        observer.note(&format!("the states in `{path}` are {}: they are {how} to F32", others.join(" and ")));
    }
    if !states.passed_over.is_empty() {
        let names: Vec<String> = states.passed_over.iter().take(5).map(|name| format!("`{name}`")).collect();
        let more = if states.passed_over.len() > names.len() { " and others" } else { "" };
        observer
            .note(&format!("no layer of `{path}` by its name, and passed over: {}{more}", names.join(", ")));
    }
}

/// What the run that the states lie in says of them, where they lie in one.
fn known_last_state(paths: &[PathBuf; 2]) -> Result<Option<LastState>> {
    let mut known = None;
    for path in paths {
        let Ok(whole) = std::fs::canonicalize(path) else { return Ok(None) };
        let run = whole.ancestors().skip(1).take(3).find_map(|folder| match look(folder) {
            Ok(Found::Run(manifest)) if whole.starts_with(folder.join(Stage::States.place())) => {
                Some(manifest)
            }
            _ => None,
        });
        let Some(run) = run else { return Ok(None) };
        let own = run.samples.imported().map_or(LastState::BlockOutput, |from| from.last_state);
        if known.is_some_and(|known| known != own) {
            return Ok(None);
        }
        known = Some(own);
    }
    Ok(known)
}

fn in_words(state: LastState) -> &'static str {
    match state {
        LastState::BlockOutput => "the output of the last block",
        LastState::FinalNormOutput => "what comes out of the final norm",
    }
}

/// What the last states are, where it was `said` and is `seen`. [`Error::Format`] where that is not the same.
fn agreed(path: &Path, said: Option<LastState>, seen: LastState) -> Result<LastState> {
    match said {
        Some(said) if said != seen => Err(Error::format(path)(format!(
            "the states of its last layer are said to be {}, and are {}",
            in_words(said),
            in_words(seen)
        ))),
        _ => Ok(seen),
    }
}

/// Holds the first states against those of the model, and says what those of the last layer are; `None` where they are not the
/// last block's output, and nothing is known of a norm. [`Error::Format`] for a layer that is not the model's.
fn compare(model: &Transformer, samples: &[Sample], states: &ForeignStates) -> Result<Option<LastState>> {
    let samples = &samples[..RUN.min(samples.len())];
    let own = run_samples(model, samples, false)?;
    let last = states.sizes.n_layers;
    for (layer, own) in own.layers.iter().enumerate() {
        let found = states.rows(layer, 0..samples.len())?;
        let mut far = distance(&found, own);
        if layer == last {
            let Some(head) = model.head() else {
                return Ok((far <= FAR).then_some(LastState::BlockOutput));
            };
            let behind = match head.final_norm() {
                Some(norm) => distance(&found, &normed(norm, own, states.sizes.d_model)?),
                None => f64::INFINITY,
            };
            if behind < far.min(FAR) {
                return Ok(Some(LastState::FinalNormOutput));
            }
            far = far.min(behind);
        }
        if far > FAR {
            return Err(Error::format(&states.path)(format!(
                "the states of layer {layer} of the first {} samples are not what the model makes of these: they are off by \
                 {:.0} % of their length; look at the model, at the samples' ids and positions, and at the order of the layers",
                samples.len(),
                100.0 * far
            )));
        }
    }
    Ok(Some(LastState::BlockOutput))
}

/// What comes out of the final norm for the states `h` of width `d`.
fn normed(norm: &Norm, h: &[f32], d: usize) -> Result<Vec<f32>> {
    let h = Tensor::from_slice(h, (h.len() / d, d), &Device::Cpu)?;
    Ok(norm.forward(&h)?.flatten_all()?.to_vec1()?)
}

/// The 2-norm of the difference as a share of that of `own`.
fn distance(found: &[f32], own: &[f32]) -> f64 {
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
    let difference = squares(&mut found.iter().zip(own).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    (difference / squares(&mut own.iter().map(|value| f64::from(*value))).max(f64::MIN_POSITIVE)).sqrt()
}
