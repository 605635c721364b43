//! Runs whose states another program computed.

use super::{Run, load_model, make_room, may_begin, record_model, samples_path};
use crate::files::{absolute, create_folder, sha256};
use crate::hub::{ModelFiles, Sources};
use crate::manifest::{ImportRecord, Manifest, SamplesRecord, SourceRecord, StageRecord};
use crate::models::{Description, Sizes, Spec, Transformer, describe};
use crate::nn::{Norm, Precision};
use crate::progress::{Observer, check};
use crate::samples;
use crate::shortcut::{Fits, Pairs};
use crate::states::{ForeignStates, StateFiles, refused, run_samples};
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
    /// read; [`Error::ForeignStates`] where the splits, the samples and the model do not fit one another; [`Error::Refused`] where
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
                let (path, folder) = (path.display(), folder.display());
                return Err(Error::Option(format!(
                    "`{path}` lies in `{folder}`, whose states are to be replaced"
                )));
            }
            check_inside(path)?;
        }
        let given = Given::open(import, sources, observer)?;
        let said = given.known_last_state()?;
        let begun = Instant::now();
        // All of them are read, and then written.
        let layers = SPLITS.len() * (given.sizes().n_layers + 1);
        observer.begin("import", 2 * layers as u64, "layers");
        for states in &given.states {
            states.check(observer)?;
            note(states, observer);
        }
        let last_state = given.last_state(said, observer)?;
        let mut manifest = given.manifest(last_state)?;
        let lock = make_room(lock, folder, &manifest)?;
        given.write(folder, &mut manifest, begun, observer)?;
        observer.end();
        drop(lock);
        Ok(manifest)
    }
}

/// What there is of an import, none of its numbers read yet.
struct Given<'a> {
    import: &'a Import,
    states: [ForeignStates; 2],
    samples: Option<[Vec<Sample>; 2]>,
    model: Option<(ModelFiles, Description)>,
}

impl<'a> Given<'a> {
    fn open(import: &'a Import, sources: &Sources, observer: &dyn Observer) -> Result<Self> {
        let [train, val] = &import.states;
        let states = [ForeignStates::open(train)?, ForeignStates::open(val)?];
        let [sizes, other] = [states[0].sizes, states[1].sizes];
        if other != sizes {
            return Err(refused(
                val,
                format!(
                    "there are {} layers of width {}, and {} of width {} in the training states",
                    other.n_layers + 1,
                    other.d_model,
                    sizes.n_layers + 1,
                    sizes.d_model
                ),
            ));
        }
        let model = match &import.model {
            Some(name) => {
                let files = ModelFiles::find(name, sources, observer)?;
                let described = describe(&files)?;
                let spec = &described.spec;
                if spec.sizes() != sizes {
                    return Err(refused(
                        train,
                        format!(
                            "there are layers 0 to {} of width {}, and `{name}` has layers 0 to {} of width {}",
                            sizes.n_layers, sizes.d_model, spec.n_layers, spec.d_model
                        ),
                    ));
                }
                Some((files, described))
            }
            None => None,
        };
        let spec = model.as_ref().map(|(_, described)| &described.spec);
        let samples = import.samples.as_ref().map(|paths| read_both(paths, spec, &states)).transpose()?;
        Ok(Self { import, states, samples, model })
    }

    fn sizes(&self) -> Sizes {
        self.states[0].sizes
    }

    fn has_head(&self) -> bool {
        self.model.as_ref().is_some_and(|(_, described)| described.has_head)
    }

    /// What the last states are, as far as it is said or known; [`Error::Refused`] where it is not, and will not be seen.
    fn known_last_state(&self) -> Result<Option<LastState>> {
        let Import { states, last_state: said, .. } = self.import;
        let is_without_norm = self.model.as_ref().is_some_and(|(_, described)| !described.has_final_norm);
        let known = of_run(states)?.or(is_without_norm.then_some(LastState::BlockOutput));
        let will_be_seen = self.has_head() && self.samples.is_some();
        match known {
            Some(known) => agreed(&states[0], *said, known).map(Some),
            None if said.is_none() && !will_be_seen => {
                Err(Refusal::WhichLastState { path: states[0].clone() }.into())
            }
            None => Ok(*said),
        }
    }

    /// What they are by the numbers, where there are a model and samples.
    fn last_state(&self, said: Option<LastState>, observer: &dyn Observer) -> Result<LastState> {
        let path = &self.import.states[0];
        let seen = match (&self.model, &self.samples) {
            (Some((files, _)), Some([train, _])) => {
                compare(&load_model(files, Precision::F32, observer)?, train, &self.states[0])?
            }
            _ => Seen::Nothing,
        };
        match (seen, said) {
            (Seen::Is(seen), said) => agreed(path, said, seen),
            (Seen::NotTheBlocks, Some(LastState::BlockOutput)) => {
                Err(refused(path, "those of the last layer are not the output of the last block".to_owned()))
            }
            (_, Some(said)) => Ok(said),
            (_, None) => Err(Refusal::WhichLastState { path: path.clone() }.into()),
        }
    }

    /// That of a run that has done nothing yet.
    fn manifest(&self, last_state: LastState) -> Result<Manifest> {
        let source =
            |path: &Path| SourceRecord { id: absolute(&path.display().to_string()), sha256: String::new() };
        let [train, val] = &self.import.states;
        let imported = ImportRecord {
            train_states: source(train),
            val_states: source(val),
            n_layers: self.sizes().n_layers,
            d_model: self.sizes().d_model,
            formats: self.states.iter().flat_map(|states| states.formats.iter().cloned()).collect(),
            last_state,
            samples: match &self.import.samples {
                Some([train, val]) => Some([samples::record(train)?, samples::record(val)?]),
                None => None,
            },
        };
        let mut manifest = Manifest::new(
            self.model.as_ref().map(|(files, _)| record_model(files)),
            SamplesRecord::Imported { imported },
            0,
            None,
            self.states[0].n,
            self.states[1].n,
            Fits::plain(Pairs::All),
            Precision::F32,
        );
        let predicts = self.has_head() && self.samples.is_some() && last_state == LastState::BlockOutput;
        manifest.headless = !predicts;
        manifest.unread = self.model.as_ref().map(|(files, _)| files.allow_unread.used()).unwrap_or_default();
        Ok(manifest)
    }

    /// Writes samples and states, and what is done into the manifest.
    fn write(
        &self,
        folder: &Path,
        manifest: &mut Manifest,
        begun: Instant,
        observer: &dyn Observer,
    ) -> Result<()> {
        if let Some(samples) = &self.samples {
            create_folder(&folder.join(Stage::Samples.place()))?;
            for ((split, _), samples) in SPLITS.iter().zip(samples) {
                write_samples(&samples_path(folder, split), samples)?;
            }
        }
        let Sizes { n_layers, d_model } = self.sizes();
        let (mut files, mut digests) = (BTreeMap::new(), Vec::new());
        for ((split, _), states) in SPLITS.iter().zip(&self.states) {
            let mut all = String::new();
            for layer in 0..=n_layers {
                let written = StateFiles::new(folder, split).write(layer, states.n, d_model, |write| {
                    states.each(layer, &mut |rows| {
                        check(observer)?;
                        write(rows).map(|()| true)
                    })
                })?;
                all += &written.1;
                files.extend([written]);
                observer.advance(1);
            }
            digests.push(sha256(all.as_bytes()));
        }
        if let SamplesRecord::Imported { imported } = &mut manifest.samples {
            let records = [&mut imported.train_states, &mut imported.val_states];
            records.into_iter().zip(digests).for_each(|(record, digest)| record.sha256 = digest);
        }
        let of_samples = integrity::digests(folder, |path| Stage::Samples.writes(path))?;
        let record = StageRecord { done: true, files: of_samples, ..StageRecord::default() };
        manifest.stages.insert(Stage::Samples, record);
        let seconds = begun.elapsed().as_secs_f64();
        let record = StageRecord { done: true, seconds, files, ..StageRecord::default() };
        manifest.stages.insert(Stage::States, record);
        manifest.write(folder)
    }
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
            return Err(refused(
                path,
                format!("it has {found} samples, and there are {wanted} {what} states"),
            ));
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
        observer.note(&format!("no layer of `{path}` by its name, and ignored: {}{more}", names.join(", ")));
    }
}

/// What the run that the states lie in says of them, where they lie in one.
fn of_run(paths: &[PathBuf; 2]) -> Result<Option<LastState>> {
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

/// What the last states are, where it was `said` and is `seen`. [`Error::ForeignStates`] where that is not the same.
fn agreed(path: &Path, said: Option<LastState>, seen: LastState) -> Result<LastState> {
    match said {
        Some(said) if said != seen => Err(refused(
            path,
            format!("those of the last layer are said to be {}, and are {}", in_words(said), in_words(seen)),
        )),
        _ => Ok(seen),
    }
}

/// What a look at the states of the last layer shows.
enum Seen {
    Nothing,
    Is(LastState),
    /// Not the last block's output; nothing is known of a norm.
    NotTheBlocks,
}

/// Holds the first states against those of the model. [`Error::ForeignStates`] for a layer that is not the model's.
fn compare(model: &Transformer, samples: &[Sample], states: &ForeignStates) -> Result<Seen> {
    let samples = &samples[..RUN.min(samples.len())];
    let own = run_samples(model, samples, false)?;
    let Sizes { n_layers, d_model } = states.sizes;
    for (layer, states_of) in own.layers.iter().enumerate() {
        let found = states.rows(layer, 0..samples.len())?;
        let far = distance(&found, states_of);
        if layer == n_layers {
            match model.head().map(|head| head.final_norm()) {
                Some(Some(norm)) if distance(&found, &normed(norm, states_of, d_model)?) < far.min(FAR) => {
                    return Ok(Seen::Is(LastState::FinalNormOutput));
                }
                None if far > FAR => return Ok(Seen::NotTheBlocks),
                _ => {}
            }
        }
        let distances = own.layers.iter().map(|other| distance(&found, other)).enumerate();
        let nearest = distances.min_by(|a, b| a.1.total_cmp(&b.1));
        // Rounding does not bring a state that much nearer to another layer's.
        let other = nearest.filter(|(_, near)| *near < far / 2.0);
        if far > FAR || other.is_some() {
            let what = match other {
                Some((other, _)) => format!("those of layer {other}"),
                None => format!("off by {:.0} % of their length", 100.0 * far),
            };
            return Err(refused(
                &states.path,
                format!(
                    "those of layer {layer} of the first {} samples are not what the model makes of these, but {what}: look at \
                     the model, at the samples' ids and positions, and at the order of the layers",
                    samples.len()
                ),
            ));
        }
    }
    Ok(Seen::Is(LastState::BlockOutput))
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
