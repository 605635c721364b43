//! Files that are either whole or not there: written under a temporary name, then renamed. And files that are read, which
//! may be stood for by something else.

mod lines;
mod source;

pub use crate::words::Pointer;
pub use lines::{Found, next_line};
pub use source::SourceFile;

use crate::error::{Error, Result};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Creates `path` and the folders above it, so that they are there after a power cut too.
pub fn create_folder(path: &Path) -> Result<()> {
    let missing: Vec<&Path> =
        path.ancestors().take_while(|at| !at.as_os_str().is_empty() && !at.exists()).collect();
    fs::create_dir_all(path).map_err(Error::io("create", path))?;
    missing.into_iter().try_for_each(sync_name)
}

/// Waits until the files `paths` are on disk under their names, so that a manifest may say so.
pub fn sync(paths: &[PathBuf]) -> Result<()> {
    // Elsewhere what is opened to be read cannot be synced.
    if !cfg!(unix) {
        return Ok(());
    }
    let sync = |path: &PathBuf| {
        fs::File::open(path).and_then(|file| sync_file(&file)).map_err(Error::io("write", path))
    };
    paths.par_iter().try_for_each(sync)?;
    sync_names(paths)
}

/// Waits until the names of files are on disk, whatever is in them.
pub fn sync_names(paths: &[PathBuf]) -> Result<()> {
    let folders: BTreeMap<Option<&Path>, &PathBuf> = paths.iter().map(|path| (path.parent(), path)).collect();
    folders.into_values().try_for_each(|path| sync_name(path))
}

/// Waits until the name of a file or folder is on disk.
fn sync_name(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match fs::File::open(folder).and_then(|folder| sync_file(&folder)) {
        // A folder that may be written to need not be readable, and elsewhere none can be opened.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
        synced => synced.map_err(Error::io("write", folder)),
    }
}

/// Waits until a file is on disk, where its file system knows of that.
pub fn sync_file(file: &fs::File) -> io::Result<()> {
    match file.sync_all() {
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        synced => synced,
    }
}

/// Makes the file `path` anew. What was there is removed, and not written through: it may be a link to another file.
pub fn create_anew(path: &Path) -> io::Result<fs::File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => fs::File::create_new(path),
    }
}

/// Opens an unfinished file to read it and to write behind its end. `None` where nothing is there, or what may be another
/// file too: a link, or one with several names.
pub fn open_unfinished(path: &Path) -> io::Result<Option<fs::File>> {
    if !fs::symlink_metadata(path).is_ok_and(|found| found.is_file()) {
        return Ok(None);
    }
    let mut options = fs::File::options();
    options.read(true).append(true);
    #[cfg(unix)]
    let opened = {
        use std::os::unix::fs::OpenOptionsExt;
        // Neither a link nor a FIFO may have taken its place since.
        let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
        is_alone(&file.metadata()?).then_some(file)
    };
    #[cfg(not(unix))]
    let opened = Some(options.open(path)?);
    Ok(opened)
}

/// True of a file that has one name and is no link to another.
fn is_alone(found: &fs::Metadata) -> bool {
    #[cfg(unix)]
    return found.is_file() && std::os::unix::fs::MetadataExt::nlink(found) == 1;
    #[cfg(not(unix))]
    found.is_file()
}

/// The name under which `path` is written before it is whole.
pub fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}

/// The temporary names of [`replace_with`] that files are being written under.
static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn unfinished() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For a process that ends at once: removes what is half written, and lets nobody begin or finish another file. What
/// another command goes on with (states, downloads) is left.
pub fn remove_unfinished() {
    let unfinished = unfinished();
    unfinished.iter().for_each(|part| drop(fs::remove_file(part)));
    std::mem::forget(unfinished);
}

/// Writes a file through `write`, which gets a buffered writer on the temporary name; renames it when all went well,
/// removes it when not.
pub fn write_with(
    path: &Path,
    write: impl FnOnce(&mut io::BufWriter<fs::File>) -> io::Result<()>,
) -> Result<()> {
    replace_with(path, |part| {
        let mut writer = io::BufWriter::with_capacity(1 << 20, create_anew(part)?);
        write(&mut writer)?;
        writer.flush()
    })
}

/// As [`write_with`], for a `write` that opens the temporary name itself.
pub(crate) fn replace_with(path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> Result<()> {
    let part = temporary(path);
    unfinished().insert(part.clone());
    let written = write(&part).and_then(|()| fs::rename(&part, path)).map_err(|source| {
        let _ = fs::remove_file(&part);
        Error::Io { action: "write", path: path.to_owned(), source }
    });
    unfinished().remove(&part);
    written
}

/// How a file is written, given a buffered writer.
pub type Writing<'a> = &'a dyn Fn(&mut io::BufWriter<fs::File>) -> io::Result<()>;

/// As [`write_with`], of files that belong together. Each is whole under its temporary name before the first is renamed, and
/// the first of `files` is renamed last: while others are there without it, its temporary name is there too. That one is
/// locked meanwhile: [`Error::Locked`] where another process writes the same, [`Error::FileExists`] where one has just done so
/// and they are not to be replaced.
pub fn write_together<const N: usize>(files: [(&Path, Writing); N], replace: bool) -> Result<()> {
    let fail = |path: &Path, source| Error::Io { action: "write", path: path.to_owned(), source };
    let Some((first, _)) = files.first() else { return Ok(()) };
    let parts = files.map(|(path, _)| temporary(path));
    let locked = lock_unfinished(first, &parts[0])?;
    unfinished().extend(parts.iter().cloned());
    let mut written = match first.exists() && !replace {
        true => Err(Error::FileExists { path: first.to_path_buf() }),
        false => files.iter().zip(&parts).try_for_each(|((path, write), part)| {
            let opened = match part == &parts[0] {
                true => locked.set_len(0).and_then(|()| locked.try_clone()),
                false => create_anew(part),
            };
            let written = opened.and_then(|file| {
                let mut writer = io::BufWriter::with_capacity(1 << 20, file);
                write(&mut writer)?;
                writer.flush()
            });
            written.map_err(|source| fail(path, source))
        }),
    };
    // Held until all are renamed, so that no process ends between two of them but by force.
    let mut unfinished = unfinished();
    if written.is_ok() {
        let mut renamed = files.iter().zip(&parts).rev();
        written = renamed
            .try_for_each(|((path, _), part)| fs::rename(part, path).map_err(|source| fail(path, source)));
    }
    if written.is_err() {
        parts.iter().for_each(|part| drop(fs::remove_file(part)));
    }
    unfinished.retain(|part| !parts.contains(part));
    written
}

/// Opens the temporary name `part` of `path`, locked; what an earlier process left there is still in it.
fn lock_unfinished(path: &Path, part: &Path) -> Result<fs::File> {
    let fail = |source| Error::Io { action: "write", path: path.to_owned(), source };
    loop {
        let file = match open_unfinished(part) {
            Ok(Some(file)) => file,
            // Renamed just now.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(fail(error)),
            // A link, or a file with several names, is nobody's who could hold the lock.
            Ok(None) if fs::symlink_metadata(part).is_ok_and(|found| !is_alone(&found)) => {
                create_anew(part).map_err(fail)?
            }
            Ok(None) => match fs::File::create_new(part) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                created => created.map_err(fail)?,
            },
        };
        match file.try_lock() {
            // Who held it before may have renamed it since it was opened.
            Ok(()) if !is_at(&file, part) => {}
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) => return Err(Error::Locked { path: path.to_owned() }),
            // There are none on this file system.
            Err(fs::TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => return Ok(file),
            Err(fs::TryLockError::Error(error)) => return Err(fail(error)),
        }
    }
}

/// True where `file` is what is at `path`.
#[cfg(unix)]
pub fn is_at(file: &fs::File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let place = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let places = (file.metadata().map(place), fs::metadata(path).map(place));
    matches!(places, (Ok(own), Ok(there)) if own == there)
}

/// There is no telling here: files that are open are not taken away.
#[cfg(not(unix))]
pub fn is_at(_: &fs::File, _: &Path) -> bool {
    true
}

/// Writes `bytes` to `path`, whole or not at all.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |writer| writer.write_all(bytes))
}

/// As [`write_atomically`], and waits until they are on disk. A power cut leaves what was there before, or these.
pub fn write_durably(path: &Path, bytes: &[u8]) -> Result<()> {
    replace_with(path, |part| {
        let mut file = create_anew(part)?;
        file.write_all(bytes)?;
        sync_file(&file)
    })?;
    sync_name(path)
}

/// Neither program writes a longer pointer, nor takes a longer file for one: 1,024 bytes, and 32 kB.
const LONGEST_POINTER: u64 = 32 << 10;

/// The pointer that a file of these contents is.
fn pointer_in(contents: &[u8]) -> Option<Pointer> {
    // The address of the version, with the two that pointers of Git LFS began with before it had a name.
    let begins = [
        "version https://git-lfs.github.com/spec/",
        "version https://hawser.github.com/spec/",
        "version http://git-media.io/v/",
    ];
    let contents = contents.strip_prefix(b"\xef\xbb\xbf").unwrap_or(contents);
    if contents.len() <= 1024 && begins.iter().any(|begin| contents.starts_with(begin.as_bytes())) {
        let text = String::from_utf8_lossy(contents);
        let size = text.lines().find_map(|line| line.strip_prefix("size "));
        return Some(Pointer::GitLfs { bytes: size.and_then(|size| size.trim().parse().ok()) });
    }
    let annexed = contents.starts_with(b"/annex/objects/") && contents.len() as u64 <= LONGEST_POINTER;
    annexed.then_some(Pointer::GitAnnex)
}

/// That of a link that leads nowhere.
fn pointer_by_link(path: &Path) -> Option<Pointer> {
    let to = fs::read_link(path).ok()?;
    let mut parts = to.components().map(|part| part.as_os_str().to_owned());
    (parts.any(|part| part == "annex") && parts.next()? == "objects").then_some(Pointer::GitAnnex)
}

/// Opens a file to read all of it, without waiting for anyone: what is neither a file nor a folder, such as a pipe, has no
/// end that could be relied on, and is refused.
pub fn open_plain(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::File::options();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    let file = options.open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() || kind.is_dir() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
}

/// All that a file holds, opened as [`open_plain`] does.
pub fn read_plain(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_plain(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Opens a file to read it. [`Error::Pointer`] where a pointer stands for it; [`Error::Io`] where it is no file, as
/// [`open_plain`] has it.
pub fn open(path: &Path) -> Result<fs::File> {
    check_pointer(path, open_plain(path))
}

/// As [`open`], of what is read once from its beginning to its end: a pipe will do.
pub fn open_stream(path: &Path) -> Result<fs::File> {
    check_pointer(path, fs::File::open(path))
}

fn check_pointer(path: &Path, opened: io::Result<fs::File>) -> Result<fs::File> {
    let pointed = |pointer| Error::Pointer { path: path.to_owned(), pointer };
    let mut file = opened.map_err(|error| match pointer_by_link(path) {
        Some(pointer) if error.kind() == ErrorKind::NotFound => pointed(pointer),
        _ => Error::io("read", path)(error),
    })?;
    let metadata = file.metadata().map_err(Error::io("read", path))?;
    // What is no plain file may not be read twice.
    if metadata.is_file() && metadata.len() <= LONGEST_POINTER {
        let mut begin = Vec::new();
        file.read_to_end(&mut begin).and_then(|_| file.rewind()).map_err(Error::io("read", path))?;
        if let Some(pointer) = pointer_in(&begin) {
            return Err(pointed(pointer));
        }
    }
    Ok(file)
}

/// A file that is mapped into memory to be read, and known by its address: see [`mapped_at`].
#[derive(Debug)]
pub struct Mapped {
    map: memmap2::Mmap,
    place: &'static Place,
    opened: fs::Metadata,
}

impl Mapped {
    /// Opens a file as [`open`] does.
    pub fn open(path: &Path) -> Result<Self> {
        let file = open(path)?;
        let opened = file.metadata().map_err(Error::io("read", path))?;
        // SAFETY: the map is read-only. Whoever writes into the file meanwhile changes what is read, as `is_as_opened`
        // finds out; whoever cuts it short has the system raise SIGBUS where it was, as with every reader of mapped weights.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io("read", path))?;
        let place = Place::taken(path, map.as_ptr() as usize, map.len());
        Ok(Self { map, place, opened })
    }

    /// Gives back the memory of what has been read, which is read from the file again where it is wanted again.
    pub fn let_go(&self) {
        #[cfg(unix)]
        // SAFETY: the map is of a file, shared and read-only: what is dropped is read again from the same file.
        let _ = unsafe { self.map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    }

    /// False where the file has been written into, or cut short, since it was opened. One that took its name is another.
    pub(crate) fn is_as_opened(&self) -> bool {
        let Ok(now) = fs::metadata(&self.place.path) else { return true };
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            if (now.dev(), now.ino()) != (self.opened.dev(), self.opened.ino()) {
                return true;
            }
        }
        (now.len(), now.modified().ok()) == (self.opened.len(), self.opened.modified().ok())
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        self.place.free();
    }
}

/// Where in memory a file is mapped. A signal handler walks through all of them, so that none is ever moved or freed: one
/// that has become free waits for the same file to be mapped again.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    start: AtomicUsize,
    /// 0 where nothing is mapped any more.
    end: AtomicUsize,
    next: Option<&'static Place>,
}

static PLACES: AtomicPtr<Place> = AtomicPtr::new(std::ptr::null_mut());
/// Held by whoever takes a place.
static TAKING: Mutex<()> = Mutex::new(());

impl Place {
    fn first() -> Option<&'static Place> {
        // SAFETY: null, or a place that was leaked, and is whole since `taken` stored it.
        unsafe { PLACES.load(Ordering::Acquire).as_ref() }
    }

    fn all() -> impl Iterator<Item = &'static Place> {
        std::iter::successors(Self::first(), |place| place.next)
    }

    fn taken(path: &Path, start: usize, length: usize) -> &'static Self {
        let _taking = TAKING.lock().unwrap_or_else(PoisonError::into_inner);
        let is_free = |place: &&Place| place.end.load(Ordering::Acquire) == 0 && place.path == path;
        if let Some(place) = Self::all().find(is_free) {
            place.start.store(start, Ordering::Release);
            place.end.store(start + length, Ordering::Release);
            return place;
        }
        let (start, end) = (AtomicUsize::new(start), AtomicUsize::new(start + length));
        let place = Box::leak(Box::new(Self { path: path.to_owned(), start, end, next: Self::first() }));
        PLACES.store(place, Ordering::Release);
        place
    }

    fn free(&self) {
        self.end.store(0, Ordering::Release);
    }
}

/// The file that is mapped into memory at `address`. Takes no lock and no memory, so that a handler of SIGBUS may ask which
/// file was cut short while it was read.
pub fn mapped_at(address: usize) -> Option<&'static Path> {
    let is_in = |place: &&Place| {
        (place.start.load(Ordering::Acquire)..place.end.load(Ordering::Acquire)).contains(&address)
    };
    Place::all().find(is_in).map(|place| &*place.path)
}

/// All that a file holds. [`Error::Pointer`] where a pointer stands for it.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    Ok(bytes)
}

/// As [`read`], of text in UTF-8.
pub fn read_to_string(path: &Path) -> Result<String> {
    let mut text = String::new();
    open(path)?.read_to_string(&mut text).map_err(Error::io("read", path))?;
    Ok(text)
}

/// The lines of a text, which end as Python has it: with a line feed, a carriage return, or both in this order.
pub fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = rest.find(['\n', '\r']).unwrap_or(rest.len());
        let (line, behind) = rest.split_at(end);
        rest = behind.strip_prefix("\r\n").unwrap_or(behind.get(1..).unwrap_or_default());
        Some(line)
    })
}

/// `name` as it can be found again from any folder.
pub fn absolute(name: &str) -> String {
    match std::path::absolute(name) {
        Ok(path) if path.exists() => path.display().to_string(),
        _ => name.to_owned(),
    }
}

/// Lower-case hexadecimal SHA-256.
pub fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// [`sha256`] of a file, read piece by piece.
pub fn sha256_of(path: &Path) -> Result<String> {
    let mut file = open(path)?;
    let mut read = || {
        let mut digest = Sha256::new();
        let mut piece = vec![0; 1 << 20];
        loop {
            match file.read(&mut piece)? {
                0 => return Ok(digest.finalize()),
                n => digest.update(&piece[..n]),
            }
        }
    };
    read().map(|digest| hexadecimal(&digest)).map_err(Error::io("read", path))
}

/// The name that git gives to a file of these contents: lower-case hexadecimal SHA-1 of them behind a header.
pub fn git_sha1(bytes: &[u8]) -> String {
    hexadecimal(
        &sha1::Sha1::new().chain_update(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize(),
    )
}

/// In lower-case hexadecimal digits.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LFS: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3353072\n";

    #[test]
    fn pointers_are_told_from_files() {
        let lfs = |bytes| Some(Pointer::GitLfs { bytes });
        let long = format!("{LFS}{}", "a sentence of a text\n".repeat(100));
        let cases = [
            (LFS, lfs(Some(3_353_072))),
            (&LFS.replace('\n', "\r\n"), lfs(Some(3_353_072))),
            ("version https://hawser.github.com/spec/v1\noid sha256:1\nsize 5\n", lfs(Some(5))),
            (
                "version https://git-lfs.github.com/spec/v1\next-0-foo sha256:1\noid sha256:2\nsize 7\n",
                lfs(Some(7)),
            ),
            ("version https://git-lfs.github.com/spec/v1\n", lfs(None)),
            ("/annex/objects/SHA256E-s3353072--4d7a.safetensors\n", Some(Pointer::GitAnnex)),
            ("", None),
            ("version 2 of it", None),
            ("A text on `version https://git-lfs.github.com/spec/v1`.", None),
            (&long, None),
        ];
        for (contents, expected) in cases {
            assert_eq!(pointer_in(contents.as_bytes()), expected, "{contents}");
        }
    }

    #[test]
    fn lines_end_as_in_python() {
        let cases: [(&str, &[&str]); 5] = [
            ("a\rb\nc\r\nd", &["a", "b", "c", "d"]),
            ("a\r\n\rb\r", &["a", "", "b"]),
            ("\n\r", &["", ""]),
            ("é\u{2028}\u{85}", &["é\u{2028}\u{85}"]),
            ("", &[]),
        ];
        for (text, expected) in cases {
            assert_eq!(lines(text).collect::<Vec<_>>(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_file_is_read_whole_and_a_pointer_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("small"), "some text").unwrap();
        assert_eq!(read(&at("small")).unwrap(), b"some text");
        fs::write(at("pointer"), LFS).unwrap();
        assert!(matches!(read(&at("pointer")), Err(Error::Pointer { .. })));
        assert!(matches!(read(&at("none")), Err(Error::Io { .. })));
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("../.git/annex/objects/Xz/1F/SHA256E-s5--a/SHA256E-s5--a", at("link"))
                .unwrap();
            std::os::unix::fs::symlink("nowhere/objects", at("broken")).unwrap();
            let annexed = read(&at("link"));
            assert!(matches!(annexed, Err(Error::Pointer { pointer: Pointer::GitAnnex, .. })), "{annexed:?}");
            assert!(matches!(read(&at("broken")), Err(Error::Io { .. })));
        }
    }

    #[cfg(unix)]
    #[test]
    fn nothing_is_written_through_a_link() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let is_untouched = || fs::read_to_string(at("precious")).unwrap() == "precious";
        fs::write(at("precious"), "precious").unwrap();
        let links: [fn(PathBuf, PathBuf) -> io::Result<()>; 2] = [symlink, fs::hard_link];
        for link in links {
            let part = temporary(&at("file"));
            link(at("precious"), part.clone()).unwrap();
            assert!(open_unfinished(&part).unwrap().is_none());
            write_atomically(&at("file"), b"other").unwrap();
            assert!(is_untouched() && !at("file").is_symlink());
            link(at("precious"), part.clone()).unwrap();
            write_durably(&at("file"), b"again").unwrap();
            assert!(is_untouched() && fs::read_to_string(at("file")).unwrap() == "again");
            // What is to be replaced is not written through either.
            fs::remove_file(at("file")).unwrap();
            link(at("precious"), at("file")).unwrap();
            write_durably(&at("file"), b"other").unwrap();
            assert!(is_untouched());
        }
        symlink(at("nowhere"), at("dangling")).unwrap();
        assert!(open_unfinished(&at("dangling")).unwrap().is_none() && !at("nowhere").exists());
        fs::write(at("own"), "be").unwrap();
        open_unfinished(&at("own")).unwrap().unwrap().write_all(b"gun").unwrap();
        assert_eq!(fs::read_to_string(at("own")).unwrap(), "begun");
    }
}
