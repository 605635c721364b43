//! Shares of a run that are worked on away from its folder: by processes that are handed samples, and give back files of sums and of
//! predictions. The model is loaded once, whatever the number of shares.

use super::evaluation::write_share;
use super::{allowing, check_model, load_model, own_model};
use crate::batch::tokens;
use crate::eval::Subject;
use crate::files::{create_folder, write_durably};
use crate::hub::{ModelFiles, Sources};
use crate::manifest::Manifest;
use crate::models::{Spec, Transformer};
use crate::moments::{self, Shard};
use crate::progress::Observer;
use crate::sanity;
use crate::seal::{self, Seal};
use crate::shortcut::{Fits, MapStore, Origin, Shortcuts};
use crate::states::{Begun, StateFiles, batches};
use crate::store::{Stage, integrity};
use crate::tokenize::{Sample, read_samples};
use crate::words::{Cast, VAL, samples_file};
use crate::{Error, Result};
use std::ops::Range;
use std::path::Path;

/// Beside the states of validation samples: their digests, once all of them are there.
const STATES: &str = "states.json";

/// The model of a run, loaded to work on the run's shares.
#[derive(Debug)]
pub struct Worker {
    manifest: Manifest,
    model: Transformer,
}

impl Worker {
    /// Loads the model that the run of `manifest` began with.
    ///
    /// # Errors
    /// [`Error::Changed`] where the model that is found here is another than the run's.
    pub fn new(manifest: &Manifest, sources: &Sources, observer: &dyn Observer) -> Result<Self> {
        let own = own_model(Path::new(""), manifest)?;
        let files = ModelFiles::find(&own.name(), &allowing(sources, manifest), observer)?;
        check_model(Path::new(&own.id), own, &files)?;
        Ok(Self { manifest: manifest.clone(), model: load_model(&files, manifest.dtype, observer)? })
    }

    /// Reads samples, one JSON object a line, for [`Worker::sums`] and [`Worker::evaluate`]: the training samples of a share or
    /// its validation samples, none where `text` is empty. They go by way of a file below `folder`.
    pub fn samples(&self, text: &[u8], folder: &Path, split: &str) -> Result<Vec<Sample>> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let path = folder.join(samples_file(split));
        path.parent().map_or(Ok(()), create_folder)?;
        write_durably(&path, text)?;
        read_samples(&path, self.model.spec())
    }

    /// What [`Run::states`](super::Run::states) warns of before the states of these training samples are kept.
    pub fn warnings(&self, train: &[Sample]) -> Result<Vec<String>> {
        let text = sanity::check_text(&self.model, self.manifest.dtype, train)?;
        Ok(text.map_or_else(Vec::new, |text| text.warnings(self.manifest.model_name())))
    }

    /// Runs the model over the training and validation samples of the share `shard`, and writes their sums to the file `out`. The
    /// states are below `folder` meanwhile; those of the validation samples stay there for [`Worker::evaluate`]. Advances by the
    /// tokens that are run, then by the sums.
    pub fn sums(
        &self,
        shard: Shard,
        [train, val]: [&[Sample]; 2],
        folder: &Path,
        out: &Path,
        observer: &dyn Observer,
    ) -> Result<()> {
        let of_train = self.states(folder, "train", train, observer)?;
        let of_val = self.states_of_val(folder, val, observer)?;
        let spec = self.model.spec();
        moments::collect(
            &self.manifest,
            spec.family,
            spec.sizes(),
            shard,
            &of_train,
            &of_val,
            out,
            observer,
        )?;
        let states = folder.join(Stage::States.place()).join("train");
        std::fs::remove_dir_all(&states).map_err(Error::io("remove", &states))
    }

    /// Evaluates the validation samples `val` of the share `shard` with the maps at `maps`, and writes their predictions to the file
    /// `out`, for [`Run::merge_evaluation`](super::Run::merge_evaluation). Takes the states that [`Worker::sums`] left below
    /// `folder`, or computes them again. Goes on from what is kept next to `out`.
    pub fn evaluate(
        &self,
        shard: Shard,
        val: &[Sample],
        folder: &Path,
        maps: &Path,
        out: &Path,
        observer: &dyn Observer,
    ) -> Result<()> {
        let model = &self.model;
        let head =
            model.head().ok_or_else(|| Error::NoHead { model: self.manifest.model_name().to_owned() })?;
        let shortcuts = Shortcuts::open(maps)?;
        shortcuts.check(&Origin::of_states(&self.manifest, model.spec().sizes()), false)?;
        let states = self.states_of_val(folder, val, observer)?;
        // In the order of `evaluate` with maps from elsewhere.
        let wanted = measured_from_sums(&self.manifest.fits);
        let there = [Cast::Id].into_iter().chain(shortcuts.casts()?);
        let casts: Vec<Cast> = there.filter(|cast| wanted.contains(cast)).collect();
        let subject = Subject {
            model,
            head,
            precision: self.manifest.dtype,
            samples: val,
            states: &states,
            shortcuts: &shortcuts as &dyn MapStore,
            casts: &casts,
        };
        let first = shard.of_val(self.manifest.val).start;
        write_share(&subject, &self.manifest, 0..val.len(), first, out, observer)
    }

    /// Runs the model over `samples`.
    fn states(
        &self,
        folder: &Path,
        split: &'static str,
        samples: &[Sample],
        observer: &dyn Observer,
    ) -> Result<StateFiles> {
        let files = StateFiles::new(folder, split);
        let total = tokens(&batches(samples, self.model.spec().kind));
        observer.begin(Stage::States.name(), total as u64, "tokens");
        files.collect(&self.model, samples, false, Begun::default(), observer, |_| Ok(()))?;
        Ok(files)
    }

    /// The same for validation samples, unless their states are there as they were left.
    fn states_of_val(&self, folder: &Path, val: &[Sample], observer: &dyn Observer) -> Result<StateFiles> {
        let record = folder.join(STATES);
        let digests: Option<integrity::Digests> = match std::fs::read(&record) {
            Ok(text) if seal::check(&text) == Seal::Whole => serde_json::from_slice(&text).ok(),
            _ => None,
        };
        if let Some(mut digests) = digests {
            digests.remove(seal::KEY);
            if !digests.is_empty() && integrity::changed(folder, &digests)?.is_none() {
                return Ok(StateFiles::new(folder, "val"));
            }
        }
        let files = self.states(folder, "val", val, observer)?;
        let place = Path::new(Stage::States.place()).join("val");
        let digests = integrity::digests(folder, |path| path.starts_with(&place))?;
        write_durably(&record, &seal::json(&digests)?)?;
        Ok(files)
    }
}

/// Tokens that are run for the training and for the validation samples of the run in `folder`, as [`Worker::sums`] counts them.
pub fn tokens_of_samples(folder: &Path, spec: &Spec) -> Result<[usize; 2]> {
    let [train, val] = ["train", "val"].map(|split| -> Result<usize> {
        let samples = read_samples(&folder.join(samples_file(split)), spec)?;
        Ok(tokens(&batches(&samples, spec.kind)))
    });
    Ok([train?, val?])
}

/// How a run's samples are divided into shares.
pub fn samples_of_shares(manifest: &Manifest, of: usize) -> Result<Vec<[Range<usize>; 2]>> {
    let share = |index: usize| {
        let shard: Shard = format!("{index}/{of}").parse().map_err(Error::Option)?;
        Ok([shard.of_train(manifest.train), shard.of_val(manifest.val)])
    };
    (1..=of).map(share).collect()
}

/// The casts that are measured with maps from sums: `id` and those that are maps, without those that run blocks.
pub fn measured_from_sums(fits: &Fits) -> Vec<Cast> {
    let id = Some(Cast::Id).filter(|id| fits.wants(id));
    id.into_iter().chain(fits.casts()).collect()
}

/// Bytes that the file of a share's sums takes, whatever the number of samples: of each section and source layer Σ h·hᵀ and
/// Σ h·h′ᵀ, and of pairs that do not lead to the last layer Σ h·h′ᵀ twice; each to twice an f64's digits.
pub fn sums_bytes(n_layers: usize, d_model: usize, fits: &Fits) -> u64 {
    let [last, d, pairs] = [n_layers, d_model, fits.pairs.count(n_layers)].map(|size| size as u64);
    let sections = VAL as u64 + 1;
    16 * (d * d * (2 * sections * last + 2 * (pairs - last)) + sections * d * (last + 2))
}

/// Whether what a share was worked into is there as it was left: a file that carries its digest.
pub fn is_whole(file: &Path) -> bool {
    crate::files::Mapped::open(file).is_ok_and(|map| seal::check(&map) == Seal::Whole)
}
