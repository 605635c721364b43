//! The stages after `samples`.

use super::figures::draw_tables;
use super::{Run, samples_path};
use crate::batch::{PackedBatch, tokens};
use crate::error::{Error, Result};
use crate::eval::tables::{ExitLayerRow, ExitRow, write_csv};
use crate::eval::{
    ExitRule, advise, batches, diagnose, early_exit, evaluate, exit_layers, layer_rows, r2_table, rank_rows,
    sentences, spectra, write_predictions,
};
use crate::files::write_atomically;
use crate::lens::{ID, Input, Reading, View};
use crate::manifest::{STAGES, StageRecord};
use crate::moments::{self, Shard};
use crate::plot::Style;
use crate::progress::Observer;
use crate::shortcut::{Fits, Shortcuts, fit_pairs, fit_parts};
use crate::states::{CHUNK, StateFiles, TOKEN_BUDGET};
use crate::tokenize::{Sample, read_samples};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Sentences in `lens.json`.
const LENS_SENTENCES: usize = 5;
/// Sentences up to that many tokens are preferred there.
const LENS_PREFERRED: usize = 24;
/// Longer sentences are left out.
const LENS_LONGEST: usize = 256;
/// Tokens of each prediction there.
const LENS_TOP: usize = 5;

/// `lens.json`.
#[derive(serde::Serialize)]
struct Sentences {
    sentences: Vec<Reading>,
}

impl Run {
    /// Does every stage that is not done yet, or has lost a file since, and that the model has all it takes for.
    pub fn all(&mut self, observer: &dyn Observer) -> Result<()> {
        self.forget_changed(observer)?;
        for stage in &STAGES[1..] {
            if *stage == "evaluate" && self.model.head().is_none() {
                observer.note(&format!("evaluate  skipped: {}", self.no_head()));
            } else if !self.manifest.is_done(stage) {
                self.stage(stage, observer)?;
            }
        }
        Ok(())
    }

    /// Does the stage of that name, one of [`STAGES`] but `samples`, whether it is done already or not.
    pub fn stage(&mut self, stage: &'static str, observer: &dyn Observer) -> Result<()> {
        match stage {
            "states" => self.states(observer),
            "fit" => self.fit(self.manifest.fits.clone(), observer),
            "r2" => self.r2(None, observer),
            "evaluate" => self.evaluate(None, observer),
            "plot" => self.plot(observer),
            other => Err(Error::Internal(format!("no stage `{other}`"))),
        }
    }

    /// States of every layer at the chosen positions. Goes on from the last whole chunk where it was stopped.
    pub fn states(&mut self, observer: &dyn Observer) -> Result<()> {
        self.needs("samples", "states")?;
        let splits = [("train", self.read_samples("train")?), ("val", self.read_samples("val")?)];
        let chunks = match self.manifest.stages.get("states") {
            Some(record) if !record.done => record.chunks.clone(),
            _ => Default::default(),
        };
        self.manifest.forget_from("states");
        let record = StageRecord { chunks, ..StageRecord::default() };
        self.manifest.stages.insert("states".to_owned(), record.clone());
        self.manifest.write(&self.folder)?;
        let spec = self.model.spec();
        let left = |split: &str, samples: &[Sample]| {
            let whole = record.chunks.get(split).copied().unwrap_or(0).saturating_mul(CHUNK);
            let chunks = samples[whole.min(samples.len())..].chunks(CHUNK);
            chunks.map(|chunk| tokens(&PackedBatch::pack(chunk, spec.kind, TOKEN_BUDGET))).sum::<usize>()
        };
        let total = splits.iter().map(|(split, samples)| left(split, samples)).sum::<usize>();
        observer.begin("states", total as u64, "tokens");
        let started = Instant::now();
        let mut run = 0;
        for (split, samples) in &splits {
            let first = record.chunks.get(*split).copied().unwrap_or(0);
            let files = StateFiles::new(&self.folder, split);
            // The parts' maps are fitted on the train samples alone.
            run += files.collect(&*self.model, samples, *split == "train", first, observer, |chunks| {
                if let Some(record) = self.manifest.stages.get_mut("states") {
                    record.chunks.insert((*split).to_owned(), chunks);
                }
                self.manifest.write(&self.folder)
            })?;
        }
        let seconds = started.elapsed().as_secs_f64();
        let tokens_per_second = (run > 0).then(|| run as f64 / seconds);
        self.finish(
            StageRecord { done: true, seconds, tokens_per_second, ..StageRecord::default() },
            "states",
            observer,
        )
    }

    /// The maps `fits` between layers, and those of every part of every block.
    pub fn fit(&mut self, fits: Fits, observer: &dyn Observer) -> Result<()> {
        self.needs("states", "fit")?;
        self.manifest.forget_from("fit");
        self.manifest.fits = fits.clone();
        self.manifest.write(&self.folder)?;
        let spec = self.model.spec();
        if self.manifest.train <= spec.d_model {
            observer.note(&format!(
                "{} training samples are no more than the {} coordinates of a state: the maps fit them exactly and say \
                 little about others",
                self.manifest.train, spec.d_model
            ));
        }
        let maps = fits.count(spec.n_layers) + spec.n_layers * spec.parts.len();
        observer.begin("fit", maps as u64, "maps");
        let started = Instant::now();
        let (states, shortcuts) = (StateFiles::new(&self.folder, "train"), self.shortcuts(None)?);
        let shortcuts = shortcuts.with_origin(self.origin()?);
        shortcuts.forget_other_casts()?;
        fit_pairs(spec, &states, &fits, &shortcuts, observer)?;
        fit_parts(&*self.model, &states, &shortcuts, observer)?;
        self.finish_timed("fit", started, observer)
    }

    /// Second-moment sums of the states, as one file `moments.safetensors`; returns its path.
    pub fn moments(&mut self, observer: &dyn Observer) -> Result<PathBuf> {
        self.needs("states", "moments")?;
        let started = Instant::now();
        let path = self.folder.join("moments.safetensors");
        let files = |split| StateFiles::new(&self.folder, split);
        let shard = self.manifest.shard.unwrap_or(Shard::WHOLE);
        let (train, val) = (files("train"), files("val"));
        moments::collect(&self.manifest, self.model.spec(), shard, &train, &val, &path, observer)?;
        self.finish_timed("moments", started, observer)?;
        Ok(path)
    }

    /// `r2.csv`, for the maps of this run or those in another folder.
    pub fn r2(&mut self, shortcuts: Option<&Path>, observer: &dyn Observer) -> Result<()> {
        self.needs_maps("r2", shortcuts)?;
        let spec = self.model.spec();
        let (maps, casts) = self.map_casts(shortcuts, observer)?;
        let pairs = self.manifest.fits.pairs.count(spec.n_layers);
        observer.begin("r2", (casts.len() * pairs + spec.n_layers) as u64, "maps and layers");
        let started = Instant::now();
        let files = |split| StateFiles::new(&self.folder, split);
        let rows = r2_table(spec, &files("train"), &files("val"), &maps, &casts, observer)?;
        let samples = self.read_samples("train")?;
        let (sources, curve) = diagnose(spec, &files("train"), &files("val"), &samples, observer)?;
        let spectra = spectra(spec, &maps, &casts, observer)?;
        if shortcuts.is_none() {
            advise(&rows, &sources, observer);
        }
        let results = self.replace("r2")?;
        write_csv(&results.join("r2.csv"), &rows)?;
        write_csv(&results.join("spectra.csv"), &spectra)?;
        write_csv(&results.join("sources.csv"), &sources)?;
        write_csv(&results.join("learning_curve.csv"), &curve)?;
        self.write_summary()?;
        self.finish_measured("r2", started, shortcuts, observer)
    }

    /// `layers.csv`, `early_exit.csv`, `predictions.parquet`, for the maps of this run or those in another folder.
    /// [`Error::NoHead`] where the model makes no predictions.
    pub fn evaluate(&mut self, shortcuts: Option<&Path>, observer: &dyn Observer) -> Result<()> {
        let head = self.model.head().ok_or_else(|| self.no_head())?;
        self.needs_maps("evaluate", shortcuts)?;
        let (maps, casts) = self.map_casts(shortcuts, observer)?;
        let samples = self.read_samples("val")?;
        let spec = self.model.spec();
        observer.begin("evaluate", tokens(&batches(&samples, spec.kind)) as u64, "tokens");
        let started = Instant::now();
        let states = StateFiles::new(&self.folder, "val");
        let evaluation =
            evaluate(&*self.model, head, self.manifest.dtype, &samples, &states, &maps, &casts, observer)?;
        let rule = ExitRule::new(&samples, spec.kind);
        let exits: Vec<ExitRow> = evaluation.of_states().flat_map(|cast| early_exit(cast, &rule)).collect();
        let sentences = sentences(&samples, spec.kind);
        let exit_layers: Vec<ExitLayerRow> =
            evaluation.of_states().flat_map(|cast| exit_layers(cast, &rule)).collect();
        let results = self.replace("evaluate")?;
        write_csv(&results.join("layers.csv"), &layer_rows(&evaluation, &sentences, self.manifest.seed))?;
        write_csv(&results.join("early_exit.csv"), &exits)?;
        write_csv(&results.join("exits.csv"), &exit_layers)?;
        write_csv(&results.join("ranks.csv"), &rank_rows(&evaluation))?;
        write_predictions(&results.join("predictions.parquet"), &evaluation)?;
        self.write_sentences(&samples, &maps, &casts[0], observer)?;
        self.write_summary()?;
        self.finish_measured("evaluate", started, shortcuts, observer)
    }

    /// The figures, from the result tables that are there, as [`draw`](super::draw) does it.
    pub fn plot(&mut self, observer: &dyn Observer) -> Result<()> {
        if !self.manifest.is_done("r2") && !self.manifest.is_done("evaluate") {
            return self.needs("r2", "plot");
        }
        for stage in ["r2", "evaluate"] {
            if let Some(path) = self.changed_file(stage)? {
                return Err(Error::ChangedFile { path, stage });
            }
        }
        let started = Instant::now();
        draw_tables(&self.folder, Some(&self.manifest), &Style::default(), observer)?;
        self.finish_timed("plot", started, observer)
    }

    /// Some validation sentences through the lens, by `id` and by `cast`, for the report.
    pub(super) fn write_sentences(
        &self,
        samples: &[Sample],
        shortcuts: &Shortcuts,
        cast: &str,
        observer: &dyn Observer,
    ) -> Result<()> {
        let tokenizer = match self.tokenizer().map(Some) {
            Err(error) if self.tokenizer.is_some() => {
                observer.note(&format!("lens.json spells tokens as numbers: {error}"));
                None
            }
            tokenizer => tokenizer.unwrap_or_default(),
        };
        let longest = LENS_LONGEST.min(self.spec().max_positions);
        let mut chosen: Vec<usize> =
            (0..samples.len()).filter(|index| samples[*index].ids.len() <= longest).collect();
        chosen.sort_by_key(|index| samples[*index].ids.len().max(LENS_PREFERRED));
        chosen.truncate(LENS_SENTENCES);
        chosen.sort_unstable();
        let input = |index: &usize| {
            let Sample { ids, text, .. } = &samples[*index];
            Input { text: text.clone().unwrap_or_default(), ids: ids.clone() }
        };
        let inputs: Vec<Input> = chosen.iter().map(input).collect();
        let view = View { top: LENS_TOP, ..View::default() };
        let lens = self.lens(Some(shortcuts), &[ID.to_owned(), cast.to_owned()])?;
        let sentences = lens.read(self.manifest.model.short_name(), &inputs, tokenizer.as_ref(), &view)?;
        let json = serde_json::to_vec(&Sentences { sentences })
            .map_err(|error| Error::Internal(error.to_string()))?;
        write_atomically(&self.results()?.join("lens.json"), &json)
    }

    pub(super) fn write_summary(&self) -> Result<()> {
        let mut text = serde_json::to_string_pretty(&self.summary()?)
            .map_err(|error| Error::Internal(error.to_string()))?;
        text.push('\n');
        write_atomically(&self.results()?.join("summary.json"), text.as_bytes())
    }

    pub(super) fn read_samples(&self, split: &str) -> Result<Vec<Sample>> {
        read_samples(&samples_path(&self.folder, split), self.spec())
    }
}
