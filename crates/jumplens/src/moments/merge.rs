//! Files of sums to one.

use super::file::{MomentsFile, layout, write};
use crate::files::sync;
use crate::progress::{Observer, check};
use crate::store::check_outside;
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// Adds up files of sums in any order, with the same result: they are added in the order of their shares. Not all shares
/// have to be there. `out` is replaced where it is there and `overwrite` allows it, [`Error::FileExists`] where not.
/// [`Error::Shards`] names the file that holds a share another has already, or is of another experiment.
pub fn merge(paths: &[PathBuf], out: &Path, overwrite: bool, observer: &dyn Observer) -> Result<()> {
    if out.exists() && !overwrite {
        return Err(Error::FileExists { path: out.to_owned() });
    }
    check_outside(out)?;
    let Some((first, others)) = paths.split_first() else {
        return Err(Error::Option("no files of sums were given".to_owned()));
    };
    let mut files = vec![MomentsFile::open(first)?];
    let mut record = files[0].record.clone();
    // Looked at one by one: a file takes time to read, and one that does not belong here is not waited for.
    for path in others {
        check(observer)?;
        let file = MomentsFile::open(path)?;
        let fail = |message: String| Error::Shards { path: path.clone(), message };
        let other = &file.record;
        if let Some(difference) = other.manifest.difference(&record.manifest) {
            let first = first.display();
            return Err(fail(format!("it is of another experiment than `{first}`: {difference}")));
        }
        if other.of != record.of {
            return Err(fail(format!("its samples are in {} shares, not in {}", other.of, record.of)));
        }
        if let Some(shard) = other.shards.intersection(&record.shards).next() {
            return Err(fail(format!("share {shard}/{} is in another of the files too", record.of)));
        }
        record.shards.extend(&other.shards);
        record.counts.iter_mut().zip(other.counts).for_each(|(total, count)| *total += count);
        files.push(file);
    }
    files.sort_by_key(|file| file.record.shards.first().copied());
    observer.begin("merge", layout(&record).len() as u64, "sums");
    write(out, &record, |sum| {
        check(observer)?;
        let mut total = files[0].total(sum)?;
        files[0].let_go();
        for file in &files[1..] {
            total.add_total(&file.total(sum)?);
            file.let_go();
        }
        observer.advance(1);
        Ok(total)
    })?;
    observer.end();
    sync(&[out.to_owned()])
}
