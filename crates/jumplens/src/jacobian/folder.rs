//! A folder of lenses that are mean derivatives: a folder of maps for each lens, the sums that they are of, and in `results/`
//! how they converge and which prompts stand out.

use super::fit::{add, of_prompt};
use super::outliers::{Outlier, TIMES_MEDIAN, stand_out};
use super::prompts::{self, PromptSource, SKIPPED};
use super::sums::{JACOBIANS, JacobiansFile, JacobiansRecord, Sums, Taken};
use crate::eval::tables::write_csv;
use crate::files::create_folder;
use crate::hub::{ModelFiles, Sources};
use crate::models::{Backward, Transformer, describe, load};
use crate::nn::Precision;
use crate::progress::{Observer, check};
use crate::run::record_model;
use crate::shortcut::{LinearMap, Notes, Origin, PROMPTS, Shortcuts};
use crate::store::{FolderKind, Making, Room, Stage};
use crate::words::{Cast, DerivativeCast, RESULTS, Shard};
use crate::{Error, Result};
use serde::Serialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What is to be fitted.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// What [`ModelFiles::find`] takes.
    pub model: String,
    /// The lenses; all of them are taken from one forward pass of each prompt.
    pub casts: Vec<DerivativeCast>,
    /// The prompts.
    pub prompts: PromptSource,
    /// The share of the prompts to take, where it is not all of them: then there are sums, and no maps.
    pub shard: Option<Shard>,
    /// Leave out prompts whose Jacobians have more than so many times the median norm.
    pub trim: Option<f64>,
    /// Replace what was fitted into the folder before.
    pub overwrite: bool,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Prompts that were taken.
    pub prompts: usize,
    /// Prompts that were too short.
    pub skipped: usize,
    /// True where there are maps, and not sums of a share alone.
    pub has_maps: bool,
    /// Those that stand out, by lens.
    pub outliers: Vec<Outlier>,
    /// True where these were left out.
    pub is_trimmed: bool,
}

/// Sums are written at least this far apart, and so that writing them takes a small part of the time.
const EVERY: Duration = Duration::from_secs(10);

/// Fits lenses into `folder`, which has to be empty or not there, or hold lenses that were not finished, which are gone on
/// with, or that `overwrite` allows to be replaced.
///
/// # Errors
/// [`Error::Differs`] where what is not finished there is of another model, other prompts or other lenses;
/// [`Error::Occupied`], [`Error::OtherKind`], [`Error::NotARun`]; those of [`Backward::new`].
pub fn fit(request: &Request, folder: &Path, sources: &Sources, observer: &dyn Observer) -> Result<Outcome> {
    let room = Room::check(folder, FolderKind::Lenses, &[], request.overwrite)?;
    let files = ModelFiles::find(&request.model, sources, observer)?;
    let spec = describe(&files)?.spec;
    let (all, record) = prompts::prompts(&request.prompts, &files, &spec, sources, observer)?;
    let shard = request.shard.unwrap_or(Shard::WHOLE);
    let record = JacobiansRecord {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        model: record_model(&files),
        family: spec.family.to_owned(),
        n_layers: spec.n_layers,
        d_model: spec.d_model,
        casts: request.casts.clone(),
        prompts: record,
        of: shard.of,
        shards: [shard.index].into(),
        done: 0,
    };
    let own = shard.of_val(all.len());
    if own.is_empty() {
        let message = format!("share {shard} of {} prompts has none; take fewer shares", all.len());
        return Err(Error::Option(message));
    }
    let taken = own.map(|number| Taken { number, ids: all[number].clone() }).collect();
    let path = folder.join(JACOBIANS);
    let mut sums = match request.overwrite {
        false => begun(&path, folder, &record)?.unwrap_or_else(|| Sums::new(record)),
        true => Sums::new(record),
    };
    let loaded = load(&files, Precision::F32)?;
    loaded.notes.iter().for_each(|note| observer.note(note));
    let backward = Backward::new(&loaded.model)?;
    let room = if request.overwrite { room } else { room.keeping(JACOBIANS) };
    let making = room.begin(observer)?;
    let (done, expected) = (sums.prompts.len(), sums.record.expected());
    if done > 0 {
        observer.note(&format!("{done} of {expected} prompts are there already: it continues with the next"));
    }
    let unit = (sums.record.casts.len() * sums.record.n_layers * sums.record.d_model) as u64;
    observer.begin(Stage::Fit.name(), (expected - done) as u64 * unit, "products");
    let mut written = (Instant::now(), Duration::ZERO);
    let clock = std::cell::Cell::new(Duration::ZERO);
    let save = |sums: &Sums| {
        let began = Instant::now();
        sums.write(&path)?;
        clock.set(began.elapsed());
        Ok(())
    };
    let is_due = || {
        let due = written.0.elapsed() >= EVERY.max(20 * clock.get());
        if due {
            written.0 = Instant::now();
        }
        due
    };
    add(&mut sums, taken, &backward, is_due, save, observer)?;
    observer.end();
    finish(&sums, folder, request.trim, Some(&backward), making, observer)
}

/// The sums that were begun in a folder, where there are some.
fn begun(path: &Path, folder: &Path, record: &JacobiansRecord) -> Result<Option<Sums>> {
    if !path.is_file() {
        return Ok(None);
    }
    let Some(file) = JacobiansFile::open_unfinished(path)? else { return Ok(None) };
    let differs = |what: String, run: String, here: String| {
        Err(Error::Differs { path: folder.to_owned(), what, run: run.into(), here: here.into() })
    };
    if let Some((what, here, there)) = record.difference(&file.record) {
        return differs(what.to_owned(), there, here);
    }
    if record.shards != file.record.shards {
        let name = |record: &JacobiansRecord| format!("{:?} of {}", record.shards, record.of);
        return differs("the share".to_owned(), name(&file.record), name(record));
    }
    file.read().map(Some)
}

/// Makes the lenses whose sums are in the file `sums`, as [`fit`] does. `model` is what they are of where prompts are to be
/// left out: those are run once more, to be taken away. [`Error::Shards`] where shares are missing, or not finished.
pub fn fit_sums(
    sums: &JacobiansFile,
    folder: &Path,
    trim: Option<f64>,
    model: Option<&str>,
    overwrite: bool,
    sources: &Sources,
    observer: &dyn Observer,
) -> Result<Outcome> {
    let missing = sums.record.missing();
    let fail = |message: String| Error::Shards { path: sums.path().to_owned(), message };
    if !missing.is_empty() {
        let names: Vec<String> = missing.iter().map(|index| format!("{index}/{}", sums.record.of)).collect();
        return Err(fail(format!("it lacks the shares {}", names.join(", "))));
    }
    if sums.record.done != sums.record.expected() {
        let (done, expected) = (sums.record.done, sums.record.expected());
        return Err(fail(format!("it has {done} of {expected} prompts")));
    }
    let room = Room::check(folder, FolderKind::Lenses, &[sums.path().to_owned()], overwrite)?;
    let model = match trim {
        Some(_) => Some(load_of(&sums.record, model, sources, observer)?),
        None => None,
    };
    let backward = model.as_ref().map(Backward::new).transpose()?;
    let sums = sums.read()?;
    finish(&sums, folder, trim, backward.as_ref(), room.begin(observer)?, observer)
}

/// The model that the sums are of.
fn load_of(
    record: &JacobiansRecord,
    name: Option<&str>,
    sources: &Sources,
    observer: &dyn Observer,
) -> Result<Transformer> {
    let name = name.map_or_else(|| record.model.name(), str::to_owned);
    let files = ModelFiles::find(&name, sources, observer)?;
    let own = record_model(&files);
    if own.weights_sha256 != record.model.weights_sha256 {
        let digits = |digest: &str| digest.chars().take(12).collect::<String>();
        return Err(Error::Option(format!(
            "`{name}` has weights {}…, and the sums are of `{}` with weights {}…",
            digits(&own.weights_sha256),
            record.model.name(),
            digits(&record.model.weights_sha256)
        )));
    }
    Ok(load(&files, Precision::F32)?.model)
}

/// A row of `convergence.csv`.
#[derive(Serialize)]
struct ConvergenceRow {
    mapping: Cast,
    layer: usize,
    /// The share that the prompts before it are of.
    share: usize,
    /// Prompts of the share up to this one.
    prompts: usize,
    /// ‖J‖ of this prompt.
    norm: f64,
    /// By how much it moved the mean, by the mean's norm.
    relative_change: f64,
    /// Standard error of the mean, by its norm.
    relative_error: Option<f64>,
}

/// A row of `prompts.csv`.
#[derive(Serialize)]
struct PromptRow {
    mapping: Cast,
    prompt: usize,
    tokens: usize,
    /// Where its norm stands out most.
    layer: usize,
    times_median: f64,
    /// Of all squared norms there.
    share_of_squares: f64,
    left_out: bool,
}

/// Writes what is made of the sums of all shares; of fewer, nothing but the sums is there.
fn finish(
    sums: &Sums,
    folder: &Path,
    trim: Option<f64>,
    backward: Option<&Backward>,
    making: Making,
    observer: &dyn Observer,
) -> Result<Outcome> {
    let record = &sums.record;
    let mut outcome = Outcome {
        prompts: sums.prompts.len(),
        skipped: record.prompts.skipped,
        has_maps: record.missing().is_empty(),
        outliers: Vec::new(),
        is_trimmed: false,
    };
    let standing: Vec<Vec<Outlier>> = (0..record.casts.len()).map(|of| stand_out(sums, of)).collect();
    let most = trim.unwrap_or(TIMES_MEDIAN);
    outcome.outliers = standing.iter().flatten().filter(|it| it.times_median > most).cloned().collect();
    if outcome.has_maps {
        let left_out = |of: usize| -> Vec<usize> {
            let places = standing[of].iter().enumerate();
            places
                .filter(|(_, it)| trim.is_some() && it.times_median > most)
                .map(|(place, _)| place)
                .collect()
        };
        for of in 0..record.casts.len() {
            let left_out = left_out(of);
            outcome.is_trimmed |= !left_out.is_empty();
            save_maps(sums, of, &left_out, folder, backward, observer)?;
        }
    }
    let results = folder.join(RESULTS);
    create_folder(&results)?;
    write_csv(&results.join("convergence.csv"), &convergence(sums))?;
    let rows = standing.iter().flatten().map(|it| PromptRow {
        mapping: Cast::Derivative(it.cast),
        prompt: it.prompt,
        tokens: sums.prompts.iter().find(|prompt| prompt.number == it.prompt).map_or(0, |p| p.ids.len()),
        layer: it.layer,
        times_median: it.times_median,
        share_of_squares: it.share,
        left_out: trim.is_some_and(|most| outcome.has_maps && it.times_median > most),
    });
    write_csv(&results.join("prompts.csv"), &rows.collect::<Vec<_>>())?;
    making.finish()?;
    Ok(outcome)
}

/// Writes the maps of a lens, without the prompts at the places `left_out`.
fn save_maps(
    sums: &Sums,
    of: usize,
    left_out: &[usize],
    folder: &Path,
    backward: Option<&Backward>,
    observer: &dyn Observer,
) -> Result<()> {
    let (record, cast) = (&sums.record, sums.record.casts[of]);
    let (last, d) = (record.n_layers, record.d_model);
    let n = sums.prompts.len() - left_out.len();
    if n == 0 {
        return Err(Error::Option("no prompt would be left: leave out fewer".to_owned()));
    }
    let mut layers = Cow::Borrowed(&sums.casts[of].layers);
    if let Some(backward) = backward.filter(|_| !left_out.is_empty()) {
        observer.begin("trim", (left_out.len() * last * d) as u64, "products");
        for place in left_out {
            // As they were added, so that nothing of them is left.
            let mut jacobians = of_prompt(backward, &sums.prompts[*place], &[cast], [last, d], observer)?;
            for (total, jacobian) in layers.to_mut().iter_mut().zip(jacobians.remove(0)) {
                total.add(&jacobian.iter().map(|value| -value).collect::<Vec<f64>>());
            }
        }
        observer.end();
    }
    let source = record.prompts.source();
    let origin = Origin {
        corpus: source.map(|(id, _)| {
            Path::new(id)
                .file_name()
                .filter(|_| Path::new(id).is_absolute())
                .map_or_else(|| id.to_owned(), |name| name.to_string_lossy().into_owned())
        }),
        corpus_sha256: source.map(|(_, sha256)| sha256.to_owned()),
        positions: Some(format!("those of each prompt after the first {SKIPPED}, but the last")),
        dtype: Some(Precision::F32),
        solver: Some(format!("mean derivative over {n} prompts")),
        ..Origin::of_model(&record.model, last, d)
    };
    let notes = Notes::from([
        (PROMPTS.to_owned(), n.into()),
        (
            "left_out".to_owned(),
            left_out.iter().map(|place| sums.prompts[*place].number).collect::<Vec<_>>().into(),
        ),
    ]);
    let shortcuts = Shortcuts::new(folder).with_origin(origin).cast(&Cast::Derivative(cast));
    for (layer, total) in layers.iter().enumerate() {
        check(observer)?;
        let mean = total.value.iter().map(|sum| (sum / n as f64) as f32).collect();
        let map = LinearMap::from_rows(mean, d, d)?;
        shortcuts.save_pairs(layer, &BTreeMap::from([(last, map)]), &notes)?;
    }
    Ok(())
}

/// How the means of each share come to rest, prompt by prompt.
fn convergence(sums: &Sums) -> Vec<ConvergenceRow> {
    let (record, layers) = (&sums.record, sums.record.n_layers);
    let mut rows = Vec::new();
    for (cast, figures) in record.casts.iter().zip(&sums.casts) {
        for layer in 0..layers {
            let mut place = 0;
            for share in &record.shards {
                let own = Shard { index: *share, of: record.of }.of_val(record.prompts.prompts);
                let mut squares = 0.0;
                for n in 1..=own.len() {
                    let at = place * layers + layer;
                    let (norm, mean) = (figures.norms[at], figures.means[at]);
                    squares += norm * norm;
                    let spread = (squares / n as f64 - mean * mean).max(0.0);
                    let error = (n > 1).then(|| (spread / (n - 1) as f64).sqrt() / mean);
                    rows.push(ConvergenceRow {
                        mapping: Cast::Derivative(*cast),
                        layer,
                        share: *share,
                        prompts: n,
                        norm,
                        relative_change: figures.changes[at] / mean,
                        relative_error: error,
                    });
                    place += 1;
                }
            }
        }
    }
    rows
}

impl JacobiansFile {
    /// The sums in a folder of lenses, or those in a file.
    pub fn find(path: &Path) -> Result<Option<Self>> {
        let inside: PathBuf = path.join(JACOBIANS);
        Self::open(if path.is_dir() { &inside } else { path })
    }
}
