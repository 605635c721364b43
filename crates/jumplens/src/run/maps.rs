//! Which maps a run's stages and lens apply.

use super::Run;
use crate::Result;
use crate::lens::Lens;
use crate::progress::Observer;
use crate::shortcut::{MapStore, Origin, Shortcuts};
use crate::store::Stage;
use crate::words::Cast;
use std::path::Path;

impl Run {
    /// The lens through `casts`, whose maps are in `shortcuts`. [`Error::NoHead`](crate::Error::NoHead) where the model makes no predictions.
    pub fn lens(&self, shortcuts: Option<&dyn MapStore>, casts: &[Cast]) -> Result<Lens<'_>> {
        let head = self.model.head().ok_or_else(|| self.no_head())?;
        Lens::new(&self.model, head, self.manifest.dtype, shortcuts, casts)
    }

    /// This run's own maps, where they are fitted. [`Error::ChangedFile`](crate::Error::ChangedFile) where one of them is not as it was left.
    pub fn own_shortcuts(&self) -> Result<Option<Shortcuts>> {
        if !self.manifest.is_done(Stage::Fit) {
            return Ok(None);
        }
        match self.changed_file(Stage::Fit)? {
            Some(path) => Err(self.manifest.changed_file(path, Stage::Fit)),
            None => Ok(Some(Shortcuts::new(self.folder.join(Stage::Fit.place())))),
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
            None => self.manifest.fits.casts(),
        };
        if casts.is_empty() && elsewhere.is_some() {
            // The first file that is missing is then named.
            casts.push(Cast::MAT);
        }
        Ok((shortcuts, casts))
    }

    /// [`Error::ForeignShortcuts`](crate::Error::ForeignShortcuts) where the maps are not for this run's model, unless that is what is wanted.
    pub(super) fn check_maps(&self, shortcuts: &Shortcuts, observer: &dyn Observer) -> Result<()> {
        let own = Origin::of_model(&self.manifest.model, self.spec().n_layers, self.spec().d_model);
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

    pub(super) fn shortcuts(&self, elsewhere: Option<&Path>) -> Result<Shortcuts> {
        match elsewhere {
            Some(path) => Shortcuts::open(path),
            None => Ok(Shortcuts::new(self.folder.join(Stage::Fit.place()))),
        }
    }

    /// What is written into the files of the maps.
    pub(super) fn origin(&self) -> Result<Origin> {
        let spec = self.spec();
        Ok(Origin::of_run(&self.manifest, spec.n_layers, spec.d_model, self.mean_run()?))
    }
}
