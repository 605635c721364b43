//! What the stages of a run left on disk, by digest: a file that was changed, cut short or removed since is found before
//! anything is made from it.

use crate::error::{Error, Result};
use crate::files::sha256_of;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// SHA-256 by path below the run folder, with `/` between folders whatever the system.
pub(crate) type Digests = BTreeMap<String, String>;

/// Tables that the stage `r2` writes; the others are of `evaluate`.
const OF_R2: [&str; 4] = ["r2.csv", "sources.csv", "learning_curve.csv", "spectra.csv"];
/// Written by both, and read by neither.
const OF_BOTH: &str = "summary.json";

/// The digests of what `stage` has written below the run folder, unfinished files left out.
pub(crate) fn digests(run: &Path, stage: &str) -> Result<Digests> {
    let (folder, is_its): (&str, fn(&str) -> bool) = match stage {
        "samples" => ("samples", |_| true),
        "states" => ("states", |_| true),
        "fit" => ("shortcuts", |_| true),
        "r2" => ("results", |name| OF_R2.contains(&name)),
        "evaluate" => ("results", |name| name != OF_BOTH && !OF_R2.contains(&name)),
        _ => return Ok(Digests::new()),
    };
    let mut paths = Vec::new();
    walk(run, Path::new(folder), &mut paths)?;
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    paths.retain(|path| is_its(&name(path)) && path.extension().is_none_or(|extension| extension != "part"));
    let digest = |path: &PathBuf| {
        let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
        Ok((parts.join("/"), sha256_of(&run.join(path))?))
    };
    paths.par_iter().map(digest).collect()
}

/// The files below `run`/`folder`, by path from `run`.
fn walk(run: &Path, folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let at = run.join(folder);
    if !at.exists() {
        return Ok(());
    }
    for entry in std::fs::read_dir(&at).map_err(Error::io("read", &at))? {
        let entry = entry.map_err(Error::io("read", &at))?;
        let path = folder.join(entry.file_name());
        if entry.file_type().map_err(Error::io("read", &at))?.is_dir() {
            walk(run, &path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

/// The first file, by name, that is not what `digests` says, or not there. [`Error::Format`] for the manifest where a name
/// leads out of the run folder.
pub(crate) fn changed(run: &Path, digests: &Digests) -> Result<Option<PathBuf>> {
    let is_changed = |(name, digest): (&String, &String)| -> Result<Option<PathBuf>> {
        let path = run.join(name);
        // Elsewhere there are devices that never end.
        if !Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) {
            let message =
                format!("it names the file `{}`, which is not below the folder", name.escape_debug());
            return Err(Error::Format { path: run.join("manifest.json"), message });
        }
        match sha256_of(&path) {
            Ok(now) if now == *digest => Ok(None),
            Ok(_) => Ok(Some(path)),
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(Some(path)),
            Err(error) => Err(error),
        }
    };
    let all: Vec<Option<PathBuf>> = digests.par_iter().map(is_changed).collect::<Result<_>>()?;
    Ok(all.into_iter().flatten().next())
}
