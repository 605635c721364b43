//! Which maps a run's stages and lens apply.

use super::Run;
use crate::lens::Lens;
use crate::progress::Observer;
use crate::shortcut::{MapStore, Origin, Shortcuts};
use crate::store::Stage;
use crate::words::{Cast, LastState};
use crate::{Lacking, Result};
use std::path::{Path, PathBuf};

impl Run {
    /// The lens through `casts`, whose maps are in `shortcuts`. [`Error::NoHead`](crate::Error::NoHead) where the model makes no predictions.
    pub fn lens(&self, shortcuts: Option<&dyn MapStore>, casts: &[Cast]) -> Result<Lens<'_>> {
        let model = self.model("the lens")?;
        let head = model.head().ok_or_else(|| self.no_head())?;
        Lens::new(model, head, self.manifest.dtype, shortcuts, casts)
    }

    /// This run's own maps, where they are fitted. [`Error::ChangedFile`](crate::Error::ChangedFile) where one of them is not as it was left.
    pub fn own_shortcuts(&self) -> Result<Option<Shortcuts>> {
        if !self.manifest.is_done(Stage::Fit) {
            return Ok(None);
        }
        self.check_last_state("the lens")?;
        match self.changed_file(Stage::Fit)? {
            Some(path) => Err(self.manifest.changed_file(path, Stage::Fit)),
            None => Ok(Some(Shortcuts::new(self.folder.join(Stage::Fit.place())))),
        }
    }

    /// [`Error::ImportLacks`](crate::Error::ImportLacks) where the states, and so the maps, lead after the final norm.
    pub(super) fn check_last_state(&self, needed_by: &'static str) -> Result<()> {
        match self.manifest.samples.imported() {
            Some(from) if from.last_state != LastState::BlockOutput => {
                Err(self.lacks(Lacking::LastBlock, needed_by))
            }
            _ => Ok(()),
        }
    }

    /// Maps from elsewhere, checked against this run's model.
    pub fn foreign_shortcuts(&self, path: &Path, observer: &dyn Observer) -> Result<Shortcuts> {
        let shortcuts = Shortcuts::open(path)?;
        self.check_maps(&shortcuts, observer)?;
        Ok(shortcuts)
    }

    /// The maps to measure, and the casts that they are of: this run's, or whatever is in another folder.
    pub(super) fn map_casts(
        &self,
        elsewhere: Option<&Path>,
        observer: &dyn Observer,
    ) -> Result<(Shortcuts, Vec<Cast>)> {
        let shortcuts = self.shortcuts(elsewhere)?;
        if elsewhere.is_some() {
            self.check_maps(&shortcuts, observer)?;
        }
        let mut casts = match elsewhere {
            Some(_) => shortcuts.casts()?,
            None => self.manifest.fits.casts().into_iter().chain(self.casts_of_others()?).collect(),
        };
        if casts.is_empty() && elsewhere.is_some() {
            // The first file that is missing is then named.
            casts.push(Cast::MAT);
        }
        Ok((shortcuts, casts))
    }

    /// [`Error::ForeignShortcuts`](crate::Error::ForeignShortcuts) where the maps are not for this run's model, unless that is what is wanted.
    pub(super) fn check_maps(&self, shortcuts: &Shortcuts, observer: &dyn Observer) -> Result<()> {
        let own = Origin::of_states(&self.manifest, self.sizes);
        shortcuts.check(&own, self.force)?.iter().for_each(|note| observer.note(note));
        Ok(())
    }

    /// From here on maps are applied even where they were fitted on another model.
    pub fn force_shortcuts(&mut self) {
        self.force = true;
    }

    /// From here on these casts alone are measured.
    pub fn measure_only(&mut self, casts: Vec<Cast>) {
        self.only = Some(casts);
    }

    /// From here on the maps of further casts in the folders `at` are measured with this run's own, and checked as maps from
    /// elsewhere are.
    pub(crate) fn measure_with(&mut self, at: &[PathBuf], observer: &dyn Observer) -> Result<()> {
        for path in at {
            self.others.push(self.foreign_shortcuts(path, observer)?);
        }
        Ok(())
    }

    fn casts_of_others(&self) -> Result<Vec<Cast>> {
        let casts: Vec<Vec<Cast>> = self.others.iter().map(Shortcuts::casts).collect::<Result<_>>()?;
        Ok(casts.concat())
    }

    pub(super) fn shortcuts(&self, elsewhere: Option<&Path>) -> Result<Shortcuts> {
        match elsewhere {
            Some(path) => Shortcuts::open(path),
            None => {
                let own = Shortcuts::new(self.folder.join(Stage::Fit.place()));
                Ok(own.with_others(self.others.clone()))
            }
        }
    }

    /// What is written into the files of the maps.
    pub(super) fn origin(&self) -> Result<Origin> {
        Ok(Origin::of_run(&self.manifest, self.sizes, self.mean_run()?))
    }
}
