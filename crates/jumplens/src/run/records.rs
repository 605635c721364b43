//! What of a run is done, and whether its files are as they were left.

use super::Run;
use crate::error::{Error, Result};
use crate::files::create_folder;
use crate::integrity;
use crate::manifest::{STAGES, StageRecord};
use crate::progress::Observer;
use std::path::{Path, PathBuf};
use std::time::Instant;

impl Run {
    pub(super) fn results(&self) -> Result<PathBuf> {
        let results = self.folder.join("results");
        create_folder(&results)?;
        Ok(results)
    }

    /// [`Error::StageMissing`] for the first stage up to `stage` that is not done, [`Error::ChangedFile`] for the first
    /// whose files are not as it left them.
    pub(super) fn needs(&self, stage: &'static str, needed_by: &'static str) -> Result<()> {
        let up_to = STAGES.iter().position(|name| *name == stage).map_or(0, |at| at + 1);
        if let Some(stage) = STAGES[..up_to].iter().find(|stage| !self.manifest.is_done(stage)) {
            return Err(Error::StageMissing { path: self.folder.clone(), stage, needed_by });
        }
        STAGES[..up_to].iter().try_for_each(|stage| match self.changed_file(stage)? {
            Some(path) => Err(Error::ChangedFile { path, stage }),
            None => Ok(()),
        })
    }

    /// The first file of a finished `stage` that is not as it was left.
    pub(super) fn changed_file(&self, stage: &'static str) -> Result<Option<PathBuf>> {
        let record = self.manifest.stages.get(stage).filter(|record| record.done);
        let Some(record) = record.filter(|_| !self.intact.borrow().contains(stage)) else { return Ok(None) };
        let changed = integrity::changed(&self.folder, &record.files)?;
        if changed.is_none() {
            self.intact.borrow_mut().insert(stage);
        }
        Ok(changed)
    }

    /// Forgets the stages whose files are not as they were left, with those that depend on them.
    pub(super) fn forget_changed(&mut self, observer: &dyn Observer) -> Result<()> {
        for stage in STAGES {
            if let Some(path) = self.changed_file(stage)? {
                let path = path.strip_prefix(&self.folder).unwrap_or(&path).display();
                observer.note(&format!("`{path}` was changed or removed since: `{stage}` is done again"));
                match stage {
                    // Neither of the two depends on the other.
                    "r2" | "evaluate" => {
                        self.manifest.stages.remove(stage);
                        self.manifest.stages.remove("plot");
                    }
                    _ => self.manifest.forget_from(stage),
                }
                self.manifest.write(&self.folder)?;
            }
        }
        Ok(())
    }

    pub(super) fn needs_maps(&self, needed_by: &'static str, elsewhere: Option<&Path>) -> Result<()> {
        self.needs(if elsewhere.is_some() { "states" } else { "fit" }, needed_by)
    }

    /// Makes room for new tables of `stage`: from here on the old ones, and the figures, do not count as done. Called
    /// once the new ones are computed, so that maps that cannot be used cost no earlier result.
    pub(super) fn replace(&mut self, stage: &'static str) -> Result<PathBuf> {
        self.manifest.stages.remove(stage);
        self.manifest.stages.remove("plot");
        self.manifest.write(&self.folder)?;
        self.results()
    }

    pub(super) fn finish_measured(
        &mut self,
        stage: &'static str,
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
        stage: &'static str,
        started: Instant,
        observer: &dyn Observer,
    ) -> Result<()> {
        let seconds = started.elapsed().as_secs_f64();
        self.finish(StageRecord { done: true, seconds, ..StageRecord::default() }, stage, observer)
    }

    pub(super) fn finish(
        &mut self,
        record: StageRecord,
        stage: &'static str,
        observer: &dyn Observer,
    ) -> Result<()> {
        observer.end();
        let record = StageRecord { files: integrity::digests(&self.folder, stage)?, ..record };
        self.intact.get_mut().insert(stage);
        self.manifest.stages.insert(stage.to_owned(), record);
        self.manifest.write(&self.folder)
    }
}
