//! The Hub's cache on disk, in the layout of `huggingface_hub`, so that what one program fetched the other finds:
//!
//! ```text
//! models--ORG--NAME/refs/main                    (`datasets--…` for data sets) the commit that a branch or tag was at
//! models--ORG--NAME/blobs/ETAG                   contents, named by their digest; ETAG.incomplete while they come
//! models--ORG--NAME/snapshots/COMMIT/FILE        links to the blobs
//! models--ORG--NAME/.no_exist/COMMIT/FILE        empty: the commit has no such file
//! .locks/models--ORG--NAME/ETAG.lock             held by whoever fetches the blob
//! ```

use super::{DataSetFiles, ModelFiles, RepoKind, SourceFile};
use crate::error::{Error, Result};
use crate::files::{create_folder, git_sha1, read_to_string, write_atomically};
use crate::progress::{Observer, check};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often a lock that another process holds is tried again.
const LOCK_INTERVAL: Duration = Duration::from_millis(100);

/// True for a full commit hash, which always means the same files.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && is_hexadecimal(revision)
}

fn is_hexadecimal(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The digest of `file` of the kind that `name` is: SHA-256 for large files, git's SHA-1 for small ones. `None` where
/// `name` is no digest.
pub(super) fn digest_like(name: &str, file: &SourceFile) -> Option<String> {
    match name.len() {
        64 if is_hexadecimal(name) => Some(file.sha256()),
        40 if is_hexadecimal(name) => Some(git_sha1(file.bytes())),
        _ => None,
    }
}

/// One model's or data set's place in the cache.
pub(super) struct Repo {
    folder: PathBuf,
    locks: PathBuf,
}

impl Repo {
    pub(super) fn new(cache: &Path, kind: RepoKind, id: &str) -> Self {
        let kind = match kind {
            RepoKind::Model => "models",
            RepoKind::DataSet => "datasets",
        };
        let name = format!("{kind}--{}", id.replace('/', "--"));
        Self { folder: cache.join(&name), locks: cache.join(".locks").join(name) }
    }

    /// The commit that `revision` was at when it was last asked for.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let commit = read_to_string(&self.folder.join("refs").join(revision)).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Notes the commit that `revision` is at.
    pub(super) fn set_commit(&self, revision: &str, commit: &str) -> Result<()> {
        let path = self.folder.join("refs").join(revision);
        if is_commit(revision) || read_to_string(&path).is_ok_and(|known| known.trim() == commit) {
            return Ok(());
        }
        path.parent().map_or(Ok(()), create_folder)?;
        write_atomically(&path, commit.as_bytes())
    }

    /// True where the Hub was asked and the commit has no such file.
    pub(super) fn is_absent(&self, commit: &str, file: &str) -> bool {
        self.absent(commit, file).exists()
    }

    /// Notes that the commit has no such file.
    pub(super) fn note_absent(&self, commit: &str, file: &str) -> Result<()> {
        let path = self.absent(commit, file);
        if path.exists() {
            return Ok(());
        }
        path.parent().map_or(Ok(()), create_folder)?;
        write_atomically(&path, b"")
    }

    fn absent(&self, commit: &str, file: &str) -> PathBuf {
        self.folder.join(".no_exist").join(commit).join(file)
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// Waits for the lock of a blob, which is held until the file is dropped.
    pub(super) fn lock(&self, etag: &str, observer: &dyn Observer) -> Result<File> {
        create_folder(&self.locks)?;
        create_folder(&self.folder.join("blobs"))?;
        let path = self.locks.join(format!("{etag}.lock"));
        let file = File::options().create(true).write(true).truncate(false).open(&path);
        let file = file.map_err(Error::io("create", &path))?;
        let mut waited = false;
        loop {
            match file.try_lock() {
                // Some file systems have no locks; two that fetch the same file there do so at their own risk.
                Ok(()) | Err(TryLockError::Error(_)) => return Ok(file),
                Err(TryLockError::WouldBlock) if !waited => {
                    waited = true;
                    observer
                        .note(&format!("another program is fetching `{}`: waiting for it", path.display()));
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_INTERVAL),
            }
            check(observer)?;
        }
    }

    /// Makes `file` of the snapshot of `commit` a link to its blob.
    pub(super) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<()> {
        let path = self.snapshot(commit).join(file);
        if path.exists() {
            return Ok(());
        }
        path.parent().map_or(Ok(()), create_folder)?;
        // A link whose blob was deleted.
        if path.is_symlink() {
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
        #[cfg(unix)]
        let made = {
            let up = "../".repeat(2 + Path::new(file).components().count() - 1);
            std::os::unix::fs::symlink(format!("{up}blobs/{etag}"), &path)
        };
        #[cfg(not(unix))]
        let made = {
            let blob = self.blob(etag);
            fs::hard_link(&blob, &path).or_else(|_| fs::copy(&blob, &path).map(|_| ()))
        };
        match made {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(Error::io("create", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// The model's files in the snapshot of `commit`, held against the digests that their blobs are named by:
    /// [`Error::DamagedCache`]. `None` where there is no snapshot, or it lacks a file that a model needs.
    pub(super) fn open(&self, commit: &str, id: &str) -> Result<Option<ModelFiles>> {
        let files = match ModelFiles::in_folder(&self.snapshot(commit)) {
            Ok(files) => files,
            Err(Error::NoWeights { .. } | Error::MissingShard { .. }) => return Ok(None),
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        for file in files.all() {
            let path = fs::canonicalize(&file.path).map_err(Error::io("read", &file.path))?;
            // Where links cannot be had a snapshot has copies, whose names say nothing of their contents.
            let in_blobs = path.parent().is_some_and(|folder| folder.ends_with("blobs"));
            let expected = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(got) = digest_like(&expected, file)
                && in_blobs
                && got != expected
            {
                return Err(Error::DamagedCache { path, expected, got });
            }
        }
        Ok(Some(ModelFiles { id: id.to_owned(), revision: Some(commit.to_owned()), ..files }))
    }

    /// The names of the files in the snapshot of `commit`, sorted.
    pub(super) fn files(&self, commit: &str) -> Result<Vec<String>> {
        fn walk(folder: &Path, prefix: &str, names: &mut Vec<String>) -> std::io::Result<()> {
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
                match fs::metadata(entry.path()) {
                    Ok(found) if found.is_dir() => walk(&entry.path(), &format!("{name}/"), names)?,
                    Ok(_) => names.push(name),
                    // A link whose blob was deleted.
                    Err(_) => {}
                }
            }
            Ok(())
        }
        let (snapshot, mut names) = (self.snapshot(commit), Vec::new());
        if snapshot.exists() {
            walk(&snapshot, "", &mut names).map_err(Error::io("read", &snapshot))?;
        }
        names.sort();
        Ok(names)
    }

    /// Where the files `names` of the snapshot of `commit` are, and their digests, which are their blobs' names.
    pub(super) fn data_set(&self, commit: &str, names: Vec<String>) -> Result<DataSetFiles> {
        let paths: Vec<PathBuf> = names.iter().map(|name| self.snapshot(commit).join(name)).collect();
        let digest = |path: &PathBuf| -> Result<String> {
            let blob = fs::canonicalize(path).map_err(Error::io("read", path))?;
            // Where links cannot be had a snapshot has copies.
            if blob.parent().is_some_and(|folder| folder.ends_with("blobs")) {
                return Ok(blob.file_name().unwrap_or_default().to_string_lossy().into_owned());
            }
            Ok(SourceFile::open(path)?.sha256())
        };
        let digests = paths.iter().map(digest).collect::<Result<_>>()?;
        Ok(DataSetFiles { revision: commit.to_owned(), names, paths, digests })
    }
}
