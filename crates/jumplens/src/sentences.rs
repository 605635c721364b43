//! Sentences that were drawn, as files.

use crate::corpus::{CorpusRecord, DrawnSentences};
use crate::files::{Writing, temporary, write_together};
use crate::store::check_outside;
use crate::{Error, Result};
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The files that [`write_sentences`] writes.
fn sentence_files(path: &Path) -> [PathBuf; 3] {
    ["", ".jsonl", ".json"].map(|ending| {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(ending);
        path.with_file_name(name)
    })
}

/// Sees that sentences can be written to `path` and beside it, where nothing is but what was left of earlier ones that were
/// not finished. [`Error::FileExists`], [`Error::InsideFolder`].
pub fn check_sentences(path: &Path, overwrite: bool) -> Result<()> {
    check_outside(path)?;
    let [path, documents, read] = sentence_files(path);
    let is_unfinished = !path.exists() && temporary(&path).exists();
    let there = [path, documents, read].into_iter().find(|path| path.exists());
    match there.filter(|_| !overwrite && !is_unfinished) {
        Some(path) => Err(Error::FileExists { path }),
        None => Ok(()),
    }
}

/// Writes sentences to `path`, one a line, and beside it where each is from (`.jsonl` behind its name) and what was read
/// (`.json` behind it): all of them, or none. [`Error::Locked`] where another process writes the same files, and
/// [`Error::FileExists`] where one has done so since [`check_sentences`], and they are not to be replaced.
pub fn write_sentences(path: &Path, drawn: &DrawnSentences, seed: u64, overwrite: bool) -> Result<()> {
    #[derive(Serialize)]
    struct Record<'a> {
        version: &'static str,
        corpus: &'a CorpusRecord,
        seed: u64,
    }
    let [path, documents, read] = sentence_files(path);
    let record = Record { version: env!("CARGO_PKG_VERSION"), corpus: &drawn.record, seed };
    let write_texts: Writing = &|writer| {
        drawn.train.iter().try_for_each(|sentence| {
            writer.write_all(sentence.text.trim_end().as_bytes())?;
            writer.write_all(b"\n")
        })
    };
    let write_documents: Writing = &|writer| {
        drawn.train.iter().try_for_each(|sentence| {
            serde_json::to_writer(&mut *writer, sentence)?;
            writer.write_all(b"\n")
        })
    };
    let write_record: Writing = &|writer| {
        serde_json::to_writer_pretty(&mut *writer, &record)?;
        writer.write_all(b"\n")
    };
    let files = [(&*path, write_texts), (&*documents, write_documents), (&*read, write_record)];
    write_together(files, overwrite)
}
