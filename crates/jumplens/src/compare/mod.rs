//! Several runs beside one another: figures of all of them, and the differences of each from the first.

mod differences;
mod predictions;

pub use differences::{DifferenceRow, Method, differences};

use crate::eval::tables::{Tables, write_csv};
use crate::plot::{MOST_RUNS, Overlaid, Style, overlay, write_figures};
use crate::progress::Observer;
use crate::results::read_tables;
use crate::store::{FolderKind, Room};
use crate::words::{RESULTS, samples_file};
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// A run that is compared: its results alone, the model need not be there.
#[derive(Debug, Clone)]
pub struct ComparedRun {
    /// What it is called: the last part of its folder's path.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// The tables of its finished stages.
    pub tables: Tables,
}

/// Reads the results of the runs in `folders`. Runs whose folders end alike are called by as much of their paths as was
/// given.
///
/// # Errors
/// [`Error::Option`] for fewer than two runs, more than [`MOST_RUNS`], or one given twice; [`Error::Io`] or
/// [`Error::StageMissing`] for one without results.
pub fn read_runs(folders: &[PathBuf]) -> Result<Vec<ComparedRun>> {
    if !(2..=MOST_RUNS).contains(&folders.len()) {
        return Err(Error::Option(format!(
            "{} runs are given to compare: give 2 to {MOST_RUNS} run folders, as many as a figure can tell apart",
            folders.len()
        )));
    }
    let whole = |folder: &Path| std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    for (place, folder) in folders.iter().enumerate() {
        if folders[..place].iter().any(|other| whole(other) == whole(folder)) {
            return Err(Error::Option(format!("`{}` is given twice to compare", folder.display())));
        }
    }
    let last = |folder: &Path| {
        let whole = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        whole.file_name().map_or_else(|| folder.display().to_string(), |name| name.display().to_string())
    };
    let name = |folder: &PathBuf| {
        let name = last(folder);
        let alike = folders.iter().filter(|other| last(other) == name).count();
        if alike > 1 { folder.display().to_string() } else { name }
    };
    // Without the figures of each sample, those of the tables are compared.
    let may_lack = [&*format!("{RESULTS}/predictions.parquet"), &samples_file("val")];
    let read = |folder: &PathBuf| {
        let tables = read_tables(folder, "compare", &may_lack)?;
        Ok(ComparedRun { name: name(folder), folder: folder.clone(), tables })
    };
    folders.iter().map(read).collect()
}

/// Writes the figures of `runs` over one another, and `differences.csv`, into `folder`, which is empty or not there, or holds
/// a comparison that `overwrite` allows to be replaced. Returns the differences.
///
/// # Errors
/// Those of [`Room::check`] and [`Room::begin`]; [`Error::Io`] when something cannot be written, and the errors of [`differences`].
pub fn compare(
    runs: &[ComparedRun],
    folder: &Path,
    style: &Style,
    overwrite: bool,
    observer: &dyn Observer,
) -> Result<Vec<DifferenceRow>> {
    let folders: Vec<PathBuf> = runs.iter().map(|run| run.folder.clone()).collect();
    let room = Room::check(folder, FolderKind::Comparison, &folders, overwrite)?;
    style.size.check()?;
    let rows = differences(runs)?;
    let overlaid: Vec<Overlaid> =
        runs.iter().map(|run| Overlaid { name: &run.name, tables: &run.tables }).collect();
    let figures = style.chosen(overlay(&overlaid, style.title.then_some(""), style.size))?;
    let making = room.begin(observer)?;
    write_figures(folder, &figures, style)?;
    write_csv(&folder.join("differences.csv"), &rows)?;
    making.finish()?;
    Ok(rows)
}
