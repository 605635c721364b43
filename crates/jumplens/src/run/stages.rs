//! The stages after `samples`.

use super::figures::draw_tables;
use super::{Run, samples_path};
use crate::batch::tokens;
use crate::eval::tables::write_csv;
use crate::eval::{Evaluation, Summary, advise, diagnose, examples, r2_table, spectra};
use crate::files::{create_folder, write_atomically, write_durably};
use crate::lens::{Input, Sentences, View};
use crate::lenses;
use crate::manifest::StageRecord;
use crate::models::{Head, Transformer};
use crate::moments::{self, Shard};
use crate::plot::Style;
use crate::progress::{Observer, check};
use crate::sanity;
use crate::seal;
use crate::shortcut::{Fits, Shortcuts, Times, fit_pairs, fit_parts, fit_through_head};
use crate::states::{Begun, CHUNK, Kept, StateFiles, batches};
use crate::store::Stage;
use crate::tokenize::{Sample, read_samples};
use crate::words::{Cast, EXAMPLES, LENS, MOMENTS, RESULTS, Refusal, SUMMARY};
use crate::{Error, Lacking, Result};
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

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let json = serde_json::to_vec(value).map_err(|error| Error::Internal(error.to_string()))?;
    write_atomically(path, &json)
}

impl Run {
    /// Does every stage that is not done yet, or has lost a file since, and that the model has all it takes for.
    pub fn all(&mut self, observer: &dyn Observer) -> Result<()> {
        if self.manifest.samples.imported().is_some() {
            // What cannot be computed again is not forgotten.
            self.needs(Stage::States, Stage::Fit)?;
        }
        self.forget_changed(observer)?;
        let has_tables = [Stage::R2, Stage::Evaluate].iter().any(|stage| self.manifest.is_done(*stage));
        if has_tables && !matches!(Summary::read(&self.folder), Ok(Some(_))) {
            let path = self.folder.join(RESULTS).join(SUMMARY);
            observer.note(&format!("`{}` was changed or removed since: it is written again", path.display()));
            self.write_summary(None)?;
        }
        if self.manifest.is_done(Stage::Evaluate) {
            self.forget_pieces()?;
        }
        for stage in Stage::OF_RUN {
            if stage == Stage::Evaluate && self.manifest.headless {
                let why = self.evaluable().err().unwrap_or_else(|| self.no_head());
                observer.note(&format!("evaluate  skipped: {why}"));
            } else if !self.manifest.is_done(stage) {
                self.stage(stage, observer)?;
            }
        }
        Ok(())
    }

    /// Does a stage of a run, whether it is done already or not. The samples are those that the run began with.
    pub fn stage(&mut self, stage: Stage, observer: &dyn Observer) -> Result<()> {
        match stage {
            Stage::Samples => self.needs(Stage::Samples, Stage::Samples),
            Stage::States => self.states(observer),
            Stage::Moments => self.moments(observer).map(drop),
            Stage::Fit => self.fit(self.manifest.fits.clone(), observer),
            Stage::R2 => self.r2(None, observer),
            Stage::Evaluate => self.evaluate(None, observer),
            Stage::Plot => self.plot(observer),
        }
    }

    /// States of every layer at the chosen positions. Goes on from the last whole chunk where it was stopped.
    pub fn states(&mut self, observer: &dyn Observer) -> Result<()> {
        if self.manifest.samples.imported().is_some() {
            return Err(Error::Imported { path: self.folder.clone() });
        }
        self.needs(Stage::Samples, Stage::States)?;
        let splits = [("train", self.read_samples("train")?), ("val", self.read_samples("val")?)];
        let (mut chunks, mut kept) = match self.manifest.stages.get(&Stage::States) {
            Some(record) if !record.done => (record.chunks.clone(), record.kept.clone()),
            _ => Default::default(),
        };
        let spec = self.model(Stage::States.name())?.spec().clone();
        // The parts' maps are fitted on the train samples alone.
        let needs_attention = !self.manifest.fits.blocks().is_empty();
        let with_attention = |split: &str| needs_attention && split == "train";
        let begun = |(split, samples): &(&'static str, Vec<Sample>)| {
            let chunks = chunks.get(*split).copied().unwrap_or(0);
            let kept = Kept { chunks, digests: kept.clone() };
            let files = StateFiles::new(&self.folder, split);
            files.begun(&spec, samples.len(), with_attention(split), &kept, observer)
        };
        let earlier = splits.iter().map(begun).collect::<Result<Vec<_>>>()?;
        for ((split, _), _) in splits.iter().zip(&earlier).filter(|(_, earlier)| earlier.chunks == 0) {
            chunks.remove(*split);
            kept.retain(|name, _| !Path::new(name).starts_with(Path::new(Stage::States.place()).join(split)));
        }
        self.manifest.forget(Stage::States);
        let record = StageRecord { chunks, kept, ..StageRecord::default() };
        self.manifest.stages.insert(Stage::States, record);
        self.manifest.write(&self.folder)?;
        let begun = Instant::now();
        let text = sanity::check_text(self.model(Stage::States.name())?, self.manifest.dtype, &splits[0].1)?;
        if let Some(text) = &text {
            let warnings = text.warnings(self.manifest.model_name());
            warnings.iter().for_each(|line| observer.warning(line));
        }
        check(observer)?;
        let left = |(samples, earlier): (&[Sample], &Begun)| {
            let whole = earlier.chunks.saturating_mul(CHUNK);
            tokens(&batches(&samples[whole.min(samples.len())..], spec.kind))
        };
        let total = splits.iter().map(|(_, samples)| &samples[..]).zip(&earlier).map(left).sum::<usize>();
        observer.begin(Stage::States.name(), total as u64, "tokens");
        let started = Instant::now();
        let mut run = 0;
        for ((split, samples), earlier) in splits.iter().zip(earlier) {
            let files = StateFiles::new(&self.folder, split);
            let model =
                self.model.as_ref().ok_or_else(|| self.lacks(Lacking::Model, Stage::States.name()))?;
            run += files.collect(model, samples, with_attention(split), earlier, observer, |kept| {
                if let Some(record) = self.manifest.stages.get_mut(&Stage::States) {
                    record.chunks.insert((*split).to_owned(), kept.chunks);
                    record.kept.extend(kept.digests);
                }
                self.manifest.write(&self.folder)
            })?;
        }
        let record = self.manifest.stages.get(&Stage::States);
        let files = record.map(|record| record.kept.clone()).unwrap_or_default();
        let tokens_per_second = (run > 0).then(|| run as f64 / started.elapsed().as_secs_f64());
        let seconds = begun.elapsed().as_secs_f64();
        self.finish(
            StageRecord { done: true, seconds, tokens_per_second, text, files, ..StageRecord::default() },
            Stage::States,
            observer,
        )
    }

    /// The maps `fits` between layers, and those of every part of every block.
    pub fn fit(&mut self, fits: Fits, observer: &dyn Observer) -> Result<()> {
        self.fit_timed(fits, observer).map(drop)
    }

    /// The same; returns the seconds that each cast took.
    pub(crate) fn fit_timed(&mut self, fits: Fits, observer: &dyn Observer) -> Result<Times> {
        self.needs(Stage::States, Stage::Fit)?;
        let lenses = lenses::chosen(&fits)?;
        lenses::check_ranks(&fits, self.sizes.d_model)?;
        if self.manifest.samples.imported().is_none()
            && let Some(cast) = fits.blocks().first()
            && !StateFiles::new(&self.folder, "train").has_attention()
        {
            return Err(Refusal::NoAttention { cast: Cast::Blocks(*cast) }.into());
        }
        self.manifest.forget(Stage::Fit);
        self.manifest.fits = fits.clone();
        self.manifest.write(&self.folder)?;
        let sizes = self.sizes;
        // What the parts' maps are fitted on does not come with imported states.
        let with_parts = self.model.as_ref().filter(|_| self.manifest.samples.imported().is_none());
        let [train, _] = self.manifest.counts();
        if train <= sizes.d_model {
            observer.note(&format!(
                "{train} training {} no more than the {} coordinates of a state: the maps fit what they are fitted on exactly \
                 and say little about others",
                if train == 1 { "sample is" } else { "samples are" },
                sizes.d_model
            ));
        }
        let needed = |model: &Transformer| {
            let parts = model.spec().parts.iter();
            parts.filter(|part| fits.needs_part(part.name)).count()
        };
        let through_head = lenses.iter().filter(|lens| lens.needs_head()).count() * sizes.n_layers;
        let head = match through_head {
            0 => None,
            _ => Some(self.model(Stage::Fit.name())?.head().ok_or_else(|| self.no_head())?),
        };
        let parts = with_parts.map_or(0, |model| sizes.n_layers * needed(model));
        let maps = fits.count(sizes.n_layers) - through_head + parts;
        observer.begin(Stage::Fit.name(), maps as u64, "maps");
        let started = Instant::now();
        let (states, shortcuts) = (StateFiles::new(&self.folder, "train"), self.shortcuts(None)?);
        let shortcuts = shortcuts.with_origin(self.origin()?);
        // There, even where nothing is fitted.
        create_folder(&self.folder.join(Stage::Fit.place()))?;
        shortcuts.forget_others(&fits)?;
        let mut times = fit_pairs(sizes, &states, fits.pairs, &lenses, &shortcuts, observer)?;
        if let Some(model) = with_parts {
            fit_parts(model, &states, &|part| fits.needs_part(part), &shortcuts, observer)?;
        }
        if let Some(head) = head {
            // At a pace of their own.
            observer.end();
            observer.begin(Stage::Fit.name(), through_head as u64, "maps through the head");
            let seed = self.manifest.seed;
            times.extend(fit_through_head(sizes, head, &states, seed, &lenses, &shortcuts, observer)?);
        }
        self.finish_timed(Stage::Fit, started, observer)?;
        Ok(times)
    }

    /// Second-moment sums of the states, as one file `moments.safetensors`; returns its path.
    pub fn moments(&mut self, observer: &dyn Observer) -> Result<PathBuf> {
        self.needs(Stage::States, Stage::Moments)?;
        let started = Instant::now();
        let path = self.folder.join(MOMENTS);
        let files = |split| StateFiles::new(&self.folder, split);
        let shard = self.manifest.shard.unwrap_or(Shard::WHOLE);
        let (train, val) = (files("train"), files("val"));
        moments::collect(&self.manifest, self.family(), self.sizes, shard, &train, &val, &path, observer)?;
        self.finish_timed(Stage::Moments, started, observer)?;
        Ok(path)
    }

    /// `r2.csv`, for the maps of this run or those in another folder.
    pub fn r2(&mut self, shortcuts: Option<&Path>, observer: &dyn Observer) -> Result<()> {
        self.needs_maps(Stage::R2, shortcuts)?;
        let sizes = self.sizes;
        let (maps, mut casts) = self.measured_casts(shortcuts, observer)?;
        casts.retain(|cast| !matches!(cast, Cast::Id | Cast::Blocks(_)));
        let pairs = self.manifest.fits.pairs;
        let total = casts.len() * pairs.count(sizes.n_layers) + sizes.n_layers;
        observer.begin(Stage::R2.name(), total as u64, "maps and layers");
        let started = Instant::now();
        let files = |split| StateFiles::new(&self.folder, split);
        let rows = r2_table(sizes, &files("train"), &files("val"), &maps, &casts, pairs, observer)?;
        let samples = self.known_samples("train")?;
        let (sources, curve) = diagnose(sizes, &files("train"), &files("val"), samples.as_deref(), observer)?;
        let spectra = spectra(sizes, &maps, &casts, observer)?;
        if shortcuts.is_none() {
            advise(&rows, &sources, observer);
        }
        let results = self.replace(Stage::R2)?;
        write_csv(&results.join("r2.csv"), &rows)?;
        write_csv(&results.join("spectra.csv"), &spectra)?;
        write_csv(&results.join("sources.csv"), &sources)?;
        write_csv(&results.join("learning_curve.csv"), &curve)?;
        self.write_summary(Some(Stage::R2))?;
        self.finish_measured(Stage::R2, started, shortcuts, observer)
    }

    /// The figures, from the result tables that are there, as [`draw`](super::draw) does it.
    pub fn plot(&mut self, observer: &dyn Observer) -> Result<()> {
        if !self.manifest.is_done(Stage::R2) && !self.manifest.is_done(Stage::Evaluate) {
            return self.needs(Stage::R2, Stage::Plot);
        }
        for stage in [Stage::R2, Stage::Evaluate] {
            if let Some(path) = self.changed_file(stage)? {
                return Err(Error::ChangedFile { path, stage });
            }
        }
        let started = Instant::now();
        draw_tables(&self.folder, Some(&self.manifest), &Style::default(), observer)?;
        self.finish_timed(Stage::Plot, started, observer)
    }

    /// What the report shows as texts: some validation sentences through the lens, by every cast that was evaluated, and the
    /// predictions for the first samples.
    pub(super) fn write_texts(
        &self,
        samples: &[Sample],
        shortcuts: &Shortcuts,
        evaluation: &Evaluation,
        observer: &dyn Observer,
    ) -> Result<()> {
        let tokenizer = match self.tokenizer().map(Some) {
            Err(error) if self.tokenizer.is_some() => {
                observer.note(&format!("lens.json and examples.json spell tokens as numbers: {error}"));
                None
            }
            tokenizer => tokenizer.unwrap_or_default(),
        };
        let longest = LENS_LONGEST.min(self.model(Stage::Evaluate.name())?.spec().max_positions);
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
        let casts: Vec<Cast> = evaluation.casts.iter().map(|cast| cast.mapping.clone()).collect();
        let lens = self.lens(Some(shortcuts), &casts)?;
        let sentences = lens.read(self.manifest.model_name(), &inputs, tokenizer.as_ref(), &view)?;
        let text_of =
            |id: u32| tokenizer.as_ref().map_or_else(|| id.to_string(), |tokenizer| tokenizer.text_of(id));
        let results = self.results()?;
        write_json(&results.join(LENS), &Sentences { sentences })?;
        write_json(&results.join(EXAMPLES), &examples(evaluation, samples, text_of))
    }

    /// Of the stages that are done, and of `stage` once its tables are there.
    pub(super) fn write_summary(&self, stage: Option<Stage>) -> Result<()> {
        let text = seal::json(&self.summary_with(stage)?)?;
        write_durably(&self.results()?.join(SUMMARY), &text)
    }

    pub(super) fn read_samples(&self, split: &str) -> Result<Vec<Sample>> {
        read_samples(&samples_path(&self.folder, split), self.spec())
    }

    /// As far as imported states came with them.
    pub(super) fn known_samples(&self, split: &str) -> Result<Option<Vec<Sample>>> {
        match self.manifest.samples.imported() {
            Some(from) if from.samples.is_none() => Ok(None),
            _ => self.read_samples(split).map(Some),
        }
    }

    /// The model and its head, where predictions can be had.
    pub(super) fn evaluable(&self) -> Result<(&Transformer, &Head)> {
        let stage = Stage::Evaluate.name();
        self.check_last_state(stage)?;
        let model = self.model(stage)?;
        if self.manifest.samples.imported().is_some_and(|from| from.samples.is_none()) {
            return Err(self.lacks(Lacking::Samples, stage));
        }
        Ok((model, model.head().ok_or_else(|| self.no_head())?))
    }
}
