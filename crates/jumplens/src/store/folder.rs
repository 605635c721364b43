//! Which folders this program made, whatever command it was, and what each holds: `manifest.json` says it.

use super::integrity::{self, Digests};
use super::lock::{self, Lock};
use super::manifest::{FORMAT, MANIFEST, Manifest};
use super::{FolderKind, Stage, walk};
use crate::files::{temporary, write_durably};
use crate::progress::Observer;
use crate::seal::{self, Seal};
use crate::words::RESULTS;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The manifest of a folder that is no run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    format: u32,
    /// What the folder holds.
    pub kind: FolderKind,
    /// The version of jumplens that wrote it.
    pub version: String,
    /// The files and folders that it was made from.
    pub from: Vec<PathBuf>,
    /// True once everything is there.
    pub done: bool,
    /// SHA-256 of every file, by path below the folder.
    pub files: Digests,
}

impl Record {
    pub(crate) fn new(kind: FolderKind, from: &[PathBuf]) -> Self {
        let from = from.iter().map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone()));
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self { format: FORMAT, kind, version, from: from.collect(), done: false, files: Digests::new() }
    }

    /// Of figures that were drawn in `folder`, from the tables in it.
    pub(crate) fn of_figures(folder: &Path, figures: &[PathBuf]) -> Result<Self> {
        let is_figure = |path: &Path| figures.contains(&folder.join(path));
        let files = integrity::digests(folder, is_figure)?;
        Ok(Self { done: true, files, ..Self::new(FolderKind::Figures, &[folder.join(RESULTS)]) })
    }

    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        write_manifest(folder, self)
    }

    fn describe(&self) -> String {
        let from: Vec<String> = self.from.iter().map(|path| format!("`{}`", path.display())).collect();
        match from.as_slice() {
            [] => format!("{} files", self.files.len()),
            from => format!("{} files, from {}", self.files.len(), from.join(", ")),
        }
    }

    /// [`Error::Unfinished`] where not everything was written, [`Error::ChangedFolder`] where a file below `inside` is not
    /// as it was left.
    fn check(&self, folder: &Path, inside: &Path) -> Result<()> {
        if !self.done {
            return Err(Error::Unfinished { path: folder.to_owned(), kind: self.kind });
        }
        match integrity::changed(folder, &below(&self.files, inside))? {
            Some(path) => Err(Error::ChangedFolder { path }),
            None => Ok(()),
        }
    }
}

/// Writes `manifest` as the manifest of `folder`, with a digest of itself as its last field.
pub(super) fn write_manifest(folder: &Path, manifest: &impl Serialize) -> Result<()> {
    write_durably(&folder.join(MANIFEST), &seal::json(manifest)?)
}

/// The digests of the files that are `inside`, or below it.
fn below(files: &Digests, inside: &Path) -> Digests {
    let within = files.iter().filter(|(name, _)| Path::new(name).starts_with(inside));
    within.map(|(name, digest)| (name.clone(), digest.clone())).collect()
}

/// What is in a folder.
#[derive(Debug)]
pub enum Found {
    /// Nothing, or no folder is there.
    Nothing,
    /// Files, and no manifest among them.
    Others,
    /// A run, or what is fitted from sums: the manifest's [`FolderKind`] says which.
    Run(Box<Manifest>),
    /// What another command made.
    Made(Record),
    /// A manifest that cannot be read.
    Damaged {
        /// What is wrong with it.
        message: String,
        /// Whether it is one of this program's, and nothing lies beside it but what this program writes.
        ours: bool,
    },
}

/// What every manifest begins with.
#[derive(Deserialize)]
struct Head {
    format: Option<u64>,
    kind: Option<String>,
}

/// Looks at what is in `folder`. [`Error::Io`] where that cannot be told.
pub fn look(folder: &Path) -> Result<Found> {
    let path = folder.join(MANIFEST);
    let bytes = match crate::files::read_plain(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return match is_empty(folder)? {
                true => Ok(Found::Nothing),
                // Another process has just begun.
                false if path.exists() => look(folder),
                false => Ok(Found::Others),
            };
        }
        Err(error) => return Err(Error::io("read", &path)(error)),
    };
    let damaged = |message: String, ours: bool| {
        let ours = ours && only_ours(folder)?;
        Ok(Found::Damaged { message, ours })
    };
    // Not as a `Head` at once, which a list could be too.
    let fields = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&bytes);
    let head: Head = match fields.and_then(|fields| serde_json::from_value(fields.into())) {
        Ok(head) => head,
        Err(error) => {
            let text = String::from_utf8_lossy(&bytes);
            let text: String = text.chars().take(40).filter(|c| !c.is_whitespace()).collect();
            let ours = text.starts_with("{\"format\":") || folder.join(lock::NAME).exists();
            return damaged(in_words(&error), ours);
        }
    };
    let Some(format) = head.format else {
        return damaged("it has no `format`, so that it is not one of this program's".to_owned(), false);
    };
    if format > u64::from(FORMAT) {
        return damaged(format!("written by a newer version of jumplens (format {format})"), true);
    }
    // Earlier versions wrote no digest.
    if seal::check(&bytes) == Seal::Broken {
        return damaged("it was changed since it was written".to_owned(), true);
    }
    let read = || -> serde_json::Result<Found> {
        Ok(match head.kind.as_deref() {
            None | Some("run" | "fitted") => Found::Run(Box::new(read_run(&bytes)?)),
            Some(_) => Found::Made(serde_json::from_slice(&bytes)?),
        })
    };
    read().or_else(|error| damaged(in_words(&error), true))
}

/// A parser's message without the names that types have in its program.
fn in_words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let mut words: Vec<&str> = text.split(' ').collect();
    while let Some(place) = words.windows(2).position(|pair| pair[0] == "struct") {
        words.splice(place..place + 2, ["an", "object"]);
    }
    let whole = |word: &str| ["u32", "u64", "usize"].contains(&word);
    let words = words.iter().map(|word| if whole(word) { "a whole number" } else { word });
    let text = words.collect::<Vec<_>>().join(" ");
    let other = [("invalid type: sequence", "found a list"), ("invalid type: map", "found an object")];
    let other =
        other.into_iter().chain([("invalid type: ", "found "), ("expected a map", "expected an object")]);
    other.fold(text, |text, (from, to)| text.replace(from, to))
}

fn read_run(bytes: &[u8]) -> serde_json::Result<Manifest> {
    let mut manifest: Manifest = serde_json::from_slice(bytes)?;
    // Earlier versions did not say it: what came from sums has no samples.
    let has_no_samples = !manifest.stages.contains_key(&Stage::Samples);
    if has_no_samples && manifest.is_done(Stage::Fit) && manifest.is_done(Stage::R2) {
        manifest.kind = FolderKind::Fitted;
    }
    Ok(manifest)
}

/// True where `folder` is not there, or has nothing in it but a lock, and the manifest of what ended before it was there.
fn is_empty(folder: &Path) -> Result<bool> {
    let unfinished = temporary(Path::new(MANIFEST));
    let is_nothing = |name: &OsStr| name == lock::NAME || name == unfinished;
    match std::fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.all(|entry| entry.is_ok_and(|entry| is_nothing(&entry.file_name())))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(Error::io("read", folder)(error)),
    }
}

/// True where every file in `folder` has an ending that this program writes.
fn only_ours(folder: &Path) -> Result<bool> {
    let mut paths = Vec::new();
    walk(folder, Path::new(""), &mut paths)?;
    Ok(paths.iter().all(|path| {
        let whole = if path.extension().is_some_and(|ending| ending == "part") {
            path.with_extension("")
        } else {
            path.clone()
        };
        path.as_path() == Path::new(lock::NAME)
            || [FolderKind::Run, FolderKind::ExportedMaps].iter().any(|kind| has_ending(&whole, *kind))
    }))
}

fn has_ending(path: &Path, kind: FolderKind) -> bool {
    path.extension().and_then(|ending| ending.to_str()).is_some_and(|ending| kind.endings().contains(&ending))
}

/// The [`Error`] of a folder whose manifest cannot be read.
pub(crate) fn damaged(folder: &Path, message: String, ours: bool) -> Error {
    Error::DamagedManifest { path: folder.join(MANIFEST), message, ours }
}

/// True where a folder whose manifest cannot be read has what only a run has.
pub(crate) fn may_be_a_run(folder: &Path) -> bool {
    [Stage::Samples, Stage::States].iter().any(|stage| folder.join(stage.place()).exists())
}

/// Says that a folder is replaced whose manifest cannot be read.
pub(crate) fn note_replaced(folder: &Path, message: &str, observer: &dyn Observer) {
    let path = folder.join(MANIFEST);
    observer.note(&format!("`{}` is damaged ({message}): what lies next to it is replaced", path.display()));
}

/// A folder that is no run, while it is written.
#[derive(Debug)]
pub struct Making {
    folder: PathBuf,
    record: Record,
    /// Files that others put there.
    others: BTreeSet<PathBuf>,
    _lock: Lock,
}

/// A folder that is to be made, and may be: see [`Room::check`].
#[derive(Debug)]
pub struct Room {
    folder: PathBuf,
    kind: FolderKind,
    from: Vec<PathBuf>,
    overwrite: bool,
    /// What an earlier one left and is gone on with.
    kept: Option<PathBuf>,
}

impl Room {
    /// Sees that `folder` can take a folder of that `kind`, made from the files and folders `from`: nothing is in it, or one
    /// of the same kind that was not finished, or that `overwrite` allows to be replaced. Changes nothing.
    pub fn check(folder: &Path, kind: FolderKind, from: &[PathBuf], overwrite: bool) -> Result<Self> {
        let room = Self { folder: folder.to_owned(), kind, from: from.to_owned(), overwrite, kept: None };
        room.look().map(|_| room)
    }

    /// The same, with the file `name` left where it is: of one that was not finished, to go on with it.
    pub fn keeping(self, name: &str) -> Self {
        Self { kept: Some(PathBuf::from(name)), ..self }
    }

    /// What an earlier one left that is to go, and what is wrong with its manifest where that cannot be read.
    fn look(&self) -> Result<(BTreeSet<PathBuf>, Option<String>)> {
        let Self { folder, kind, overwrite, .. } = self;
        let all = || -> Result<BTreeSet<PathBuf>> {
            let mut paths = Vec::new();
            walk(folder, Path::new(""), &mut paths)?;
            let ours = |path: &PathBuf| {
                path.as_path() != Path::new(MANIFEST)
                    && (has_ending(&path.with_extension(""), *kind) || has_ending(path, *kind))
            };
            Ok(paths.into_iter().filter(ours).collect())
        };
        match look(folder)? {
            Found::Nothing => Ok((BTreeSet::new(), None)),
            Found::Others => Err(Error::NotARun { path: folder.clone() }),
            Found::Made(record) if record.kind == *kind && !record.done => Ok((all()?, None)),
            Found::Made(record) if record.kind == *kind && *overwrite => {
                let inside = |name: &String| Path::new(name).components().all(is_plain);
                Ok((record.files.keys().filter(|name| inside(name)).map(PathBuf::from).collect(), None))
            }
            Found::Made(record) if record.kind == *kind => {
                let what = record.describe();
                Err(Error::Occupied { path: folder.clone(), kind: *kind, what })
            }
            Found::Made(record) => Err(other_kind(folder, record.kind, *kind)),
            Found::Run(manifest) => Err(other_kind(folder, manifest.kind, *kind)),
            Found::Damaged { message, ours: true } if *overwrite && !may_be_a_run(folder) => {
                Ok((all()?, Some(message)))
            }
            Found::Damaged { message, ours } => Err(damaged(folder, message, ours)),
        }
    }

    /// Makes the folder, or room in it, for this process alone. From here on an earlier one is gone. [`Error::Locked`], and
    /// those of [`Room::check`], where another process was faster.
    pub fn begin(self, observer: &dyn Observer) -> Result<Making> {
        let (lock, (old, damage)) = Lock::claim(&self.folder, || self.look())?;
        let lock = lock.passing(&self.folder);
        if let Some(message) = damage {
            note_replaced(&self.folder, &message, observer);
        }
        let record = Record::new(self.kind, &self.from);
        record.write(&self.folder)?;
        for path in old.iter().filter(|path| self.kept.as_ref() != Some(path)) {
            let path = self.folder.join(path);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(Error::io("remove", &path)(error));
                }
                _ => {}
            }
            // A folder that is not empty stays.
            let _ = path.parent().filter(|folder| *folder != self.folder).map(std::fs::remove_dir);
        }
        let mut others = Vec::new();
        walk(&self.folder, Path::new(""), &mut others)?;
        others.retain(|path| self.kept.as_ref() != Some(path));
        Ok(Making { folder: self.folder, record, others: others.into_iter().collect(), _lock: lock })
    }
}

impl Making {
    /// Records what was written since [`Room::begin`].
    pub fn finish(mut self) -> Result<()> {
        self.record.files = integrity::digests(&self.folder, |path| !self.others.contains(path))?;
        self.record.done = true;
        self.record.write(&self.folder)
    }
}

fn is_plain(part: std::path::Component) -> bool {
    matches!(part, std::path::Component::Normal(_))
}

fn other_kind(path: &Path, kind: FolderKind, wanted: FolderKind) -> Error {
    Error::OtherKind { path: path.to_owned(), kind, wanted: wanted.to_string() }
}

/// The manifest of the run, or of what is fitted from sums, in `folder`; `None` where there is nothing, or no manifest.
/// [`Error::OtherKind`] where something else is in it, [`Error::DamagedManifest`].
pub(crate) fn read_manifest(folder: &Path) -> Result<Option<Manifest>> {
    match look(folder)? {
        Found::Nothing | Found::Others => Ok(None),
        Found::Run(manifest) => Ok(Some(*manifest)),
        Found::Made(record) => Err(other_kind(folder, record.kind, FolderKind::Run)),
        Found::Damaged { message, ours } => Err(damaged(folder, message, ours)),
    }
}

/// Where the maps at `path` lie, once it is certain that all of them are there and as they were left: the maps of a run, a
/// folder or a file of maps.
///
/// # Errors
/// [`Error::Io`] where nothing is there, [`Error::StageMissing`] and [`Error::Unfinished`] where not all maps were written,
/// [`Error::ChangedFile`] and [`Error::ChangedFolder`], [`Error::OtherKind`] where there are no maps.
pub(crate) fn maps_at(path: &Path) -> Result<PathBuf> {
    let found = std::fs::metadata(path).map_err(Error::io("read", path))?;
    if !found.is_dir() || !path.join(MANIFEST).exists() {
        check_inside(path)?;
        return Ok(path.to_owned());
    }
    match look(path)? {
        Found::Run(manifest) => {
            manifest.check(path, Stage::Fit, "reading its maps")?;
            Ok(path.join(Stage::Fit.place()))
        }
        Found::Made(record) if matches!(record.kind, FolderKind::ImportedMaps | FolderKind::Lenses) => {
            record.check(path, Path::new(""))?;
            Ok(path.to_owned())
        }
        Found::Made(record) if record.kind == FolderKind::ExportedMaps => {
            record.check(path, Path::new(""))?;
            let files: Vec<&String> = record.files.keys().filter(|name| !name.ends_with(".md")).collect();
            match files[..] {
                [file] if file.ends_with(".safetensors") => Ok(path.join(file)),
                _ => {
                    let files: Vec<String> =
                        files.iter().map(|file| format!("`{}`", path.join(file).display())).collect();
                    Err(Error::Option(format!(
                        "`{}` holds exported maps: give one of its files, {}",
                        path.display(),
                        files.join(" or ")
                    )))
                }
            }
        }
        Found::Made(record) => {
            Err(Error::OtherKind { path: path.to_owned(), kind: record.kind, wanted: "maps".to_owned() })
        }
        Found::Damaged { message, ours: true } => Err(damaged(path, message, true)),
        Found::Damaged { .. } | Found::Nothing | Found::Others => Ok(path.to_owned()),
    }
}

/// Folders from a file up to that of the manifest that knows it, with the file, at most.
const DEEPEST: usize = 4;

/// Sees that what is at `path` is as it was left, where it lies in a folder that this program made. True where the folder's
/// manifest knows it. [`Error::ChangedFile`] and [`Error::ChangedFolder`] where it is not as it was left,
/// [`Error::StageMissing`] and [`Error::Unfinished`] where it may not be all.
pub(crate) fn check_inside(path: &Path) -> Result<bool> {
    let Ok(whole) = std::fs::canonicalize(path) else { return Ok(false) };
    for folder in whole.ancestors().take(DEEPEST) {
        if !folder.join(MANIFEST).is_file() {
            continue;
        }
        let Ok(inside) = whole.strip_prefix(folder) else { continue };
        return match look(folder)? {
            Found::Run(manifest) => match Stage::ALL.into_iter().find(|stage| stage.writes(inside)) {
                Some(stage) => {
                    manifest.check_within(folder, stage, "reading its files", inside).map(|()| true)
                }
                None => Ok(false),
            },
            Found::Made(record) if record.files.keys().any(|name| Path::new(name).starts_with(inside)) => {
                record.check(folder, inside).map(|()| true)
            }
            Found::Made(record) if !record.done => {
                Err(Error::Unfinished { path: folder.to_owned(), kind: record.kind })
            }
            Found::Damaged { message, ours: true } => Err(damaged(folder, message, true)),
            _ => Ok(false),
        };
    }
    Ok(false)
}

/// Sees that the file `path`, which is to be written, does not lie in a folder that this program made: nothing there is
/// replaced by what its manifest does not know. [`Error::InsideFolder`].
pub fn check_outside(path: &Path) -> Result<()> {
    let whole = std::path::absolute(path).map_err(Error::io("find", path))?;
    for folder in whole.ancestors().skip(1).take(DEEPEST).filter(|folder| folder.join(MANIFEST).is_file()) {
        let kind = match look(folder)? {
            Found::Run(manifest) => manifest.kind,
            Found::Made(record) => record.kind,
            Found::Damaged { ours: true, .. } => FolderKind::Run,
            Found::Damaged { .. } | Found::Others | Found::Nothing => continue,
        };
        return Err(Error::InsideFolder { path: path.to_owned(), folder: folder.to_owned(), kind });
    }
    Ok(())
}

impl Manifest {
    /// Sees that `stage` of the run in `folder` is done, and its files as it left them.
    pub(crate) fn check(&self, folder: &Path, stage: Stage, needed_by: &'static str) -> Result<()> {
        self.check_within(folder, stage, needed_by, Path::new(""))
    }

    /// The [`Error`] of a file that `stage` wrote and that is not as it was left. What is fitted from sums has no stages that
    /// could be done again, and imported states are not computed here.
    pub(crate) fn changed_file(&self, path: PathBuf, stage: Stage) -> Error {
        let is_imported =
            self.samples.imported().is_some() && [Stage::Samples, Stage::States].contains(&stage);
        match self.kind {
            FolderKind::Run if !is_imported => Error::ChangedFile { path, stage },
            _ => Error::ChangedFolder { path },
        }
    }

    fn check_within(
        &self,
        folder: &Path,
        stage: Stage,
        needed_by: &'static str,
        inside: &Path,
    ) -> Result<()> {
        let path = || folder.to_owned();
        let Some(record) = self.stages.get(&stage).filter(|record| record.done) else {
            return Err(match self.kind {
                FolderKind::Run => Error::StageMissing { path: path(), stage, needed_by },
                kind => Error::Unfinished { path: path(), kind },
            });
        };
        match integrity::changed(folder, &below(&record.files, inside))? {
            Some(path) => Err(self.changed_file(path, stage)),
            None => Ok(()),
        }
    }
}
