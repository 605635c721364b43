//! What is fitted from sums, as a folder like a run's: `manifest.json`, `shortcuts/`, `results/`.

use super::MomentsFile;
use super::fit::{check_fits, fit};
use crate::error::{Error, Result};
use crate::eval::tables::write_csv;
use crate::files::create_folder;
use crate::manifest::{Manifest, StageRecord};
use crate::progress::Observer;
use crate::shortcut::{Fits, Origin, Shortcuts};
use crate::store::Stage;
use std::path::Path;
use std::time::Instant;

/// Fits the maps `fits` from the sums in `file`, and writes them with `r2.csv` and `learning_curve.csv` below `folder`,
/// whose manifest says what the sums were of. The folder has to be empty or not there, or hold what was fitted from sums
/// before, which is replaced where `overwrite` allows it.
pub fn fit_folder(
    file: &MomentsFile,
    fits: &Fits,
    folder: &Path,
    overwrite: bool,
    observer: &dyn Observer,
) -> Result<()> {
    let earlier = Manifest::read(folder)?;
    match earlier {
        Some(manifest) if manifest.is_done(Stage::Samples) || !overwrite => {
            return Err(Error::Occupied { path: folder.to_owned(), what: manifest.describe() });
        }
        None if folder.read_dir().is_ok_and(|mut entries| entries.next().is_some()) => {
            return Err(Error::NotARun { path: folder.to_owned() });
        }
        _ => {}
    }
    check_fits(file, fits)?;
    let record = &file.record;
    let origin = Origin::of_run(&record.manifest, record.n_layers, record.d_model, None);
    let shortcuts = Shortcuts::new(folder.join("shortcuts")).with_origin(origin);
    let results = folder.join("results");
    create_folder(&results)?;
    let mut manifest = file.record.manifest.clone();
    manifest.fits = fits.clone();
    manifest.threads = rayon::current_num_threads();
    manifest.write(folder)?;
    shortcuts.forget_other_casts()?;
    let started = Instant::now();
    let (rows, curve) = fit(file, fits, &shortcuts, observer)?;
    write_csv(&results.join("r2.csv"), &rows)?;
    write_csv(&results.join("learning_curve.csv"), &curve)?;
    let record =
        StageRecord { done: true, seconds: started.elapsed().as_secs_f64(), ..StageRecord::default() };
    manifest.stages.insert(Stage::Fit, record.clone());
    manifest.stages.insert(Stage::R2, StageRecord { seconds: 0.0, ..record });
    manifest.write(folder)
}
