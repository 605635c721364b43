//! What the stages of a run left on disk, by digest: a file that was changed, cut short or removed since is found before
//! anything is made from it.

use super::manifest::MANIFEST;
use crate::files::{sha256_of, sync};
use crate::{Error, Result};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// SHA-256 by path below the run folder, with `/` between folders whatever the system.
pub type Digests = BTreeMap<String, String>;

/// The digests of the files below the folder `run` that `is_its` takes in, unfinished ones left out, once they are on disk.
pub(crate) fn digests(run: &Path, is_its: impl Fn(&Path) -> bool) -> Result<Digests> {
    let mut paths = Vec::new();
    walk(run, Path::new(""), &mut paths)?;
    let is_whole = |path: &PathBuf| path.extension().is_none_or(|extension| extension != "part");
    paths.retain(|path| is_its(path) && is_whole(path));
    let digest = |path: &PathBuf| {
        let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
        Ok((parts.join("/"), sha256_of(&run.join(path))?))
    };
    let digests = paths.par_iter().map(digest).collect::<Result<_>>()?;
    sync(&paths.iter().map(|path| run.join(path)).collect::<Vec<_>>())?;
    Ok(digests)
}

/// The files below `run`/`folder`, by path from `run`.
pub(crate) fn walk(run: &Path, folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
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
            return Err(Error::Format { path: run.join(MANIFEST), message });
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
