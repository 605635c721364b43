//! What of a run is done, and whether its files are as they were left.

use super::Run;
use crate::files::create_folder;
use crate::manifest::StageRecord;
use crate::progress::Observer;
use crate::store::{Stage, integrity};
use crate::words::RESULTS;
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::time::Instant;

impl Run {
    pub(super) fn results(&self) -> Result<PathBuf> {
        let results = self.folder.join(RESULTS);
        create_folder(&results)?;
        Ok(results)
    }

    /// [`Error::StageMissing`] for the first stage on the way to `stage` that is not done, or for itself,
    /// [`Error::ChangedFile`] for the first whose files are not as it left them.
    pub(super) fn needs(&self, stage: Stage, needed_by: Stage) -> Result<()> {
        let needed = stage.with_needs();
        if let Some(stage) = needed.iter().copied().find(|stage| !self.manifest.is_done(*stage)) {
            return Err(Error::StageMissing {
                path: self.folder.clone(),
                stage,
                needed_by: needed_by.name(),
            });
        }
        needed.into_iter().try_for_each(|stage| match self.changed_file(stage)? {
            Some(path) => Err(self.manifest.changed_file(path, stage)),
            None => Ok(()),
        })
    }

    /// The first file of a finished `stage` that is not as it was left.
    pub(super) fn changed_file(&self, stage: Stage) -> Result<Option<PathBuf>> {
        let record = self.manifest.stages.get(&stage).filter(|record| record.done);
        let Some(record) = record.filter(|_| !self.intact.borrow().contains(&stage)) else { return Ok(None) };
        let changed = integrity::changed(&self.folder, &record.files)?;
        if changed.is_none() {
            self.intact.borrow_mut().insert(stage);
        }
        Ok(changed)
    }

    /// Forgets the stages of a run whose files are not as they were left, with those that depend on them.
    pub(super) fn forget_changed(&mut self, observer: &dyn Observer) -> Result<()> {
        for stage in Stage::OF_RUN {
            if let Some(path) = self.changed_file(stage)? {
                let path = path.strip_prefix(&self.folder).unwrap_or(&path).display();
                observer.note(&format!("`{path}` was changed or removed since: `{stage}` is done again"));
                self.manifest.forget(stage);
                self.manifest.write(&self.folder)?;
            }
        }
        Ok(())
    }

    pub(super) fn needs_maps(&self, needed_by: Stage, elsewhere: Option<&Path>) -> Result<()> {
        self.needs(if elsewhere.is_some() { Stage::States } else { Stage::Fit }, needed_by)
    }

    /// Makes room for new tables of `stage`: from here on the old ones, and the figures, do not count as done. Called
    /// once the new ones are computed, so that maps that cannot be used cost no earlier result.
    pub(super) fn replace(&mut self, stage: Stage) -> Result<PathBuf> {
        self.manifest.forget(stage);
        self.manifest.write(&self.folder)?;
        self.results()
    }

    pub(super) fn finish_measured(
        &mut self,
        stage: Stage,
        started: Instant,
        shortcuts: Option<&Path>,
        observer: &dyn Observer,
    ) -> Result<()> {
        let seconds = started.elapsed().as_secs_f64();
        let shortcuts =
            shortcuts.map(|folder| std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned()));
        self.finish(StageRecord { done: true, seconds, shortcuts, ..StageRecord::default() }, stage, observer)
    }

    pub(super) fn finish_timed(
        &mut self,
        stage: Stage,
        started: Instant,
        observer: &dyn Observer,
    ) -> Result<()> {
        let seconds = started.elapsed().as_secs_f64();
        self.finish(StageRecord { done: true, seconds, ..StageRecord::default() }, stage, observer)
    }

    /// Records that a stage is done, with the digests of its files where the record has none yet.
    pub(super) fn finish(
        &mut self,
        mut record: StageRecord,
        stage: Stage,
        observer: &dyn Observer,
    ) -> Result<()> {
        observer.end();
        if record.files.is_empty() {
            record.files = integrity::digests(&self.folder, |path| stage.writes(path))?;
        }
        self.intact.get_mut().insert(stage);
        self.manifest.stages.insert(stage, record);
        self.manifest.write(&self.folder)
    }
}
