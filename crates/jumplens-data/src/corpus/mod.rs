//! Sentences from a corpus.
//!
//! ```text
//! hub (shards of a data set) ─┐
//! a file's name or a folder ──┴→ lines, parquet, dump ─documents→ sampling ─sentences→
//!                                  ↑ stream, bz2                    ↑ wikitext (templates, entities), segmentation
//! ```
//!
//! A corpus gives its sentences either in order, as they stand one a line, or drawn at random from its documents:
//! [`Corpus::is_in_order`] says which. `docs/corpora.md` describes both.

mod bz2;
pub mod dump;
mod entities;
mod hub;
mod lines;
mod parquet;
mod sampling;
pub mod segmentation;
mod source;
mod stream;
mod templates;
mod variants;
mod wiki;
pub mod wikitext;

pub use crate::words::HowMany;
pub use hub::DataSetName;
pub use lines::{NoText, text_of};
pub use sampling::{Accept, Draw, DrawOptions, DrawnSentence, SplitBy};
pub use wiki::Wiki;

use crate::files::sha256;
use crate::hub::Sources;
use crate::progress::{Observer, check};
use crate::words::Refusal;
use crate::{Error, Result};
use dump::{DumpError, NoHead, Pages};
use sampling::{Drawing, Need};
use serde::{Deserialize, Serialize};
use source::{Body, Document, Sink};
use std::path::{Path, PathBuf};
use stream::Stream;

/// What a line of text, a JSON object or a row of Parquet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rows {
    /// A sentence, and the first ones are taken as they stand. For plain text alone.
    InOrder,
    /// A sentence, and they are drawn.
    Sentences,
    /// A document, whose paragraphs are its lines.
    Documents,
}

/// As the command line and the manifest have it.
impl std::fmt::Display for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Self::InOrder => "in-order",
            Self::Sentences => "sentences",
            Self::Documents => "documents",
        })
    }
}

/// How a corpus is to be read, where its name does not say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// What a row is; `None` is in order for plain text, and documents for all else.
    pub rows: Option<Rows>,
    /// The field or column that has the text.
    pub text_column: String,
    /// Of a data set on the Hub: how many of its shards are read, drawn at random; `None` is all.
    pub shards: Option<usize>,
}

impl Default for Reading {
    fn default() -> Self {
        Self { rows: None, text_column: "text".to_owned(), shards: None }
    }
}

/// A file of a corpus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Its path, or its name in the data set.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Lower-case hexadecimal SHA-256 of its bytes; for a file of the Hub, the digest that the Hub gives.
    pub sha256: String,
}

/// What was read of a corpus.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorpusRecord {
    /// Bundled name, absolute path, or name of the data set.
    pub id: String,
    /// The data set's commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// SHA-256 of the corpus; of several files, of their digests one after another.
    pub sha256: String,
    /// The files, where sentences were drawn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileRecord>,
    /// The documents in them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documents: Option<u64>,
    /// How the sentences were drawn; where they stand in order, their bounds, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draw: Option<Draw>,
    /// Sentences that were drawn, for training (or all) and for validation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentences: Option<[usize; 2]>,
    /// What a row was taken for, and which column of it, where sentences were drawn from rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<RowsRecord>,
}

/// How rows were read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowsRecord {
    /// What a row is.
    pub are: Rows,
    /// The field or column that has the text.
    pub column: String,
}

/// Says how many tokens a text has.
pub type CountTokens<'a> = &'a (dyn Fn(&str) -> Result<usize> + Sync);

/// Sentences that were drawn, and what from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrawnSentences {
    /// For training, or all.
    pub train: Vec<DrawnSentence>,
    /// For validation.
    pub val: Vec<DrawnSentence>,
    /// What was read.
    pub record: CorpusRecord,
}

/// How the files of a corpus are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileKind {
    Text,
    Json,
    Parquet,
    Dump,
}

impl FileKind {
    fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let plain =
            [".gz", ".bz2", ".zst"].iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name);
        match plain.rsplit_once('.')?.1 {
            "txt" => Some(Self::Text),
            "jsonl" | "ndjson" => Some(Self::Json),
            "parquet" if plain.len() == name.len() => Some(Self::Parquet),
            "xml" => Some(Self::Dump),
            _ => None,
        }
    }
}

#[derive(Debug)]
enum Source {
    Bundled(&'static str),
    Files {
        kind: FileKind,
        paths: Vec<PathBuf>,
    },
    /// Shards in the Hub's cache.
    DataSet(hub::DataSet),
}

/// A corpus that has been found.
#[derive(Debug)]
pub struct Corpus {
    /// The name or path that was asked for.
    pub id: String,
    source: Source,
    rows: Rows,
    column: String,
}

impl Corpus {
    /// Finds `name`: a bundled corpus, a file (`.txt`, `.jsonl`, `.xml`, each plain or compressed by `.gz`, `.bz2` or
    /// `.zst`, or `.parquet`), a folder of Parquet shards, or `hf://datasets/ORG/NAME[/CONFIG][@REVISION]`, whose shards are
    /// fetched where the cache does not have them. Files are not read yet.
    pub fn open(
        name: &str,
        reading: &Reading,
        seed: u64,
        sources: &Sources,
        observer: &dyn Observer,
    ) -> Result<Self> {
        let source = Self::find(name, reading, seed, sources, observer)?;
        let is_plain = matches!(source, Source::Bundled(_) | Source::Files { kind: FileKind::Text, .. });
        let is_dump = matches!(source, Source::Files { kind: FileKind::Dump, .. });
        let rows = reading.rows.unwrap_or(if is_plain { Rows::InOrder } else { Rows::Documents });
        if rows == Rows::InOrder && !is_plain {
            return Err(Refusal::NotInOrder { corpus: name.to_owned() }.into());
        }
        if rows == Rows::Sentences && is_dump {
            return Err(Refusal::PagesAreDocuments { corpus: name.to_owned() }.into());
        }
        if reading.shards.is_some() && !matches!(source, Source::DataSet(_)) {
            return Err(Refusal::NoShards { corpus: name.to_owned() }.into());
        }
        Ok(Self { id: name.to_owned(), source, rows, column: reading.text_column.clone() })
    }

    fn find(
        name: &str,
        reading: &Reading,
        seed: u64,
        sources: &Sources,
        observer: &dyn Observer,
    ) -> Result<Source> {
        let bundled = &sources.bundled.corpora;
        if let Some(corpus) = bundled.iter().find(|corpus| corpus.name == name) {
            return Ok(Source::Bundled(corpus.sentences));
        }
        if let Some(rest) = name.strip_prefix(hub::PREFIX) {
            return hub::find(rest, reading.shards, seed, sources, observer).map(Source::DataSet);
        }
        let path = Path::new(name);
        if let Some(kind) = FileKind::of(path) {
            // A path that does not exist fails here, and not after the model has been loaded.
            let metadata = std::fs::metadata(path).map_err(Error::io("read", path))?;
            if metadata.is_dir() {
                return Err(Error::io("read", path)(std::io::ErrorKind::IsADirectory.into()));
            }
            if metadata.is_file() && metadata.len() == 0 {
                return Err(Error::EmptyCorpus { name: name.to_owned() });
            }
            return Ok(Source::Files { kind, paths: vec![path.to_owned()] });
        }
        if path.is_dir() {
            let entries = std::fs::read_dir(path).map_err(Error::io("read", path))?;
            let paths = entries.map(|entry| entry.map(|entry| entry.path()).map_err(Error::io("read", path)));
            let mut paths = paths.collect::<Result<Vec<_>>>()?;
            paths.retain(|path| FileKind::of(path) == Some(FileKind::Parquet));
            paths.sort();
            if paths.is_empty() {
                return Err(Error::Option(format!(
                    "the folder `{name}` has no `.parquet` file: give a folder of Parquet shards, or a file"
                )));
            }
            return Ok(Source::Files { kind: FileKind::Parquet, paths });
        }
        let bundled = bundled.iter().map(|c| format!("`{}`", c.name)).collect::<Vec<_>>().join(", ");
        Err(Error::UnknownCorpus { name: name.to_owned(), bundled })
    }

    /// True where the sentences are taken as they stand, from the first one on; false where they are drawn.
    pub fn is_in_order(&self) -> bool {
        self.rows == Rows::InOrder
    }

    /// Calls `take` with the sentences in order, each with its number from 0, until it wants no more. What is left of the
    /// corpus is read as well, for its digest.
    pub fn each_in_order(
        &self,
        observer: &dyn Observer,
        mut take: impl FnMut(u64, &str) -> Result<bool>,
    ) -> Result<CorpusRecord> {
        let mut number = 0;
        let mut wanted = true;
        let mut next = |text: &str| -> Result<bool> {
            wanted = wanted && take(number, text)?;
            number += 1;
            Ok(true)
        };
        let (id, sha256) = match &self.source {
            Source::Bundled(text) => {
                for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
                    next(line)?;
                }
                (self.id.clone(), sha256(text.as_bytes()))
            }
            Source::Files { paths, .. } => {
                let mut stream = Stream::open(&paths[0], rayon::current_num_threads(), observer)?;
                lines::each_line(&mut stream, &paths[0], |_, line, _| next(line))?;
                (crate::files::absolute(&self.id), stream.finish()?.sha256)
            }
            Source::DataSet(_) => return Err(Error::Internal("a data set is not in order".into())),
        };
        if number == 0 {
            return Err(Error::EmptyCorpus { name: self.id.clone() });
        }
        Ok(CorpusRecord { id, sha256, ..CorpusRecord::default() })
    }

    /// `options`, with what they leave to the corpus.
    pub fn resolve(&self, options: &DrawOptions) -> Result<Draw> {
        options.resolve(&self.id, self.is_in_order())
    }

    /// The first `number` sentences, for a look at a model; those of documents in the order they stand in.
    pub fn first_sentences(&self, number: usize, observer: &dyn Observer) -> Result<Vec<String>> {
        let mut first = Vec::new();
        if self.is_in_order() {
            self.each_in_order(observer, |_, text| {
                if first.len() < number {
                    first.push(text.to_owned());
                }
                Ok(first.len() < number)
            })?;
        } else {
            let mut sink = First { sentences: &mut first, number };
            self.read(&mut sink, 1, observer)?;
        }
        Ok(first)
    }

    /// Draws `train` sentences for training and `val` for validation. `accept` is asked of each that `draw` allows.
    /// [`Error::TooFewDrawn`] where there are not so many.
    pub fn draw(
        &self,
        draw: &Draw,
        [train, val]: [usize; 2],
        seed: u64,
        accept: &Accept,
        observer: &dyn Observer,
    ) -> Result<DrawnSentences> {
        let need = match draw.split_by {
            SplitBy::Document if val > 0 => Need::Apart(train, val),
            _ => Need::Sentences(train.saturating_add(val)),
        };
        let threads = rayon::current_num_threads();
        observer.begin("corpus", self.bytes(), "bytes");
        let drawing = Drawing { draw, need, seed, accept };
        let (read, sketch) = drawing.run(threads, observer, |sink| self.read(sink, threads, observer))?;
        observer.end();
        let (files, documents) = read.ok_or_else(|| Error::Internal("a draw ended early".into()))?;
        if documents == 0 {
            return Err(Error::EmptyCorpus { name: self.id.clone() });
        }
        let [train, val] = sketch.finish(seed, train).map_err(|have| Error::TooFewDrawn {
            name: self.id.clone(),
            have,
            documents,
            train,
            val,
            apart: matches!(need, Need::Apart(..)),
            has_more: self.rows == Rows::Documents && draw.per_document != HowMany::All,
        })?;
        let rows = (!matches!(self.source, Source::Files { kind: FileKind::Dump, .. }))
            .then(|| RowsRecord { are: self.rows, column: self.column.clone() });
        let record = CorpusRecord {
            documents: Some(documents),
            draw: Some(draw.clone()),
            sentences: Some([train.len(), val.len()]),
            sha256: match &files[..] {
                [file] => file.sha256.clone(),
                files => sha256(files.iter().map(|file| file.sha256.as_str()).collect::<String>().as_bytes()),
            },
            files,
            rows,
            ..self.identity()
        };
        Ok(DrawnSentences { train, val, record })
    }

    /// Draws `number` sentences, or takes the first ones where they stand in order. `tokens` counts those of
    /// a sentence, and is needed where their number has bounds. [`Error::TooFewDrawn`] where there are not so many.
    pub fn sentences(
        &self,
        number: usize,
        options: &DrawOptions,
        seed: u64,
        tokens: Option<CountTokens>,
        observer: &dyn Observer,
    ) -> Result<DrawnSentences> {
        let draw = self.resolve(options)?;
        if number == 0 {
            return Err(Refusal::NoSentences.into());
        }
        if tokens.is_none() && (draw.min_tokens, draw.max_tokens) != (None, None) {
            return Err(Refusal::NobodyCounts.into());
        }
        let accept = |text: &str| match tokens {
            Some(count) => Ok(draw.fits_tokens(count(text)?)),
            None => Ok(true),
        };
        if !self.is_in_order() {
            return self.draw(&draw, [number, 0], seed, &accept, observer);
        }
        let mut train = Vec::new();
        let mut record = self.each_in_order(observer, |index, text| {
            if draw.fits(text) && accept(text)? {
                let document = format!("{}:{index}", self.id);
                train.push(DrawnSentence {
                    text: text.to_owned(),
                    document,
                    title: None,
                    sentence: 0,
                    ends_paragraph: true,
                });
            }
            check(observer)?;
            Ok(train.len() < number)
        })?;
        if train.len() < number {
            let (name, have) = (self.id.clone(), train.len());
            return Err(Error::TooFewInOrder { name, have, wanted: number });
        }
        record.sentences = Some([number, 0]);
        record.draw = (draw != self.resolve(&DrawOptions::default())?).then_some(draw);
        Ok(DrawnSentences { train, val: Vec::new(), record })
    }

    /// What is known of the corpus without reading it.
    fn identity(&self) -> CorpusRecord {
        let (id, revision) = match &self.source {
            Source::Bundled(_) => (self.id.clone(), None),
            Source::Files { .. } => (crate::files::absolute(&self.id), None),
            Source::DataSet(set) => (set.id.clone(), Some(set.revision.clone())),
        };
        CorpusRecord { id, revision, ..CorpusRecord::default() }
    }

    /// True where `record` is of a draw from this corpus, as far as that can be told without reading it again: by names,
    /// sizes and the data set's commit.
    pub fn is_as_recorded(&self, record: &CorpusRecord) -> bool {
        let CorpusRecord { id, revision, .. } = self.identity();
        let rows =
            record.rows.as_ref().is_none_or(|rows| rows.are == self.rows && rows.column == self.column);
        let files = self.files();
        let is_there = |(path, record): (&PathBuf, &FileRecord)| {
            std::fs::metadata(path).is_ok_and(|file| file.len() == record.bytes)
        };
        id == record.id
            && revision == record.revision
            && rows
            && files.len() == record.files.len()
            && files.iter().zip(&record.files).all(is_there)
    }

    fn files(&self) -> &[PathBuf] {
        match &self.source {
            Source::Bundled(_) => &[],
            Source::Files { paths, .. } => paths,
            Source::DataSet(set) => &set.paths,
        }
    }

    fn bytes(&self) -> u64 {
        match &self.source {
            Source::Bundled(text) => text.len() as u64,
            _ => self.files().iter().filter_map(|path| Some(path.metadata().ok()?.len())).sum(),
        }
    }

    /// Puts all documents into `sink`. Gives the files and the number of documents; `None` where the sink wanted no more.
    fn read(
        &self,
        sink: &mut dyn Sink,
        threads: usize,
        observer: &dyn Observer,
    ) -> Result<Option<(Vec<FileRecord>, u64)>> {
        let mut files = Vec::new();
        let mut next = 0;
        let (kind, paths) = match &self.source {
            Source::Bundled(text) => {
                for (line, text) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
                    let body = match self.rows {
                        Rows::Documents => Body::Prose(text.to_owned()),
                        _ => Body::Sentence(text.to_owned()),
                    };
                    let id = format!("{}:{}", self.id, line + 1);
                    if sink.wants(next) && !sink.take(Document { number: next, id, title: None, body })? {
                        return Ok(None);
                    }
                    next += 1;
                }
                let (bytes, sha256) = (text.len() as u64, sha256(text.as_bytes()));
                return Ok(Some((vec![FileRecord { name: self.id.clone(), bytes, sha256 }], next)));
            }
            Source::Files { kind, paths } => (*kind, paths),
            Source::DataSet(set) => (FileKind::Parquet, &set.paths),
        };
        for (index, path) in paths.iter().enumerate() {
            let read = match kind {
                FileKind::Text => {
                    let stream = Stream::open(path, threads, observer)?;
                    lines::read(stream, path, lines::Format::Plain, self.rows, next, sink)?
                }
                FileKind::Json => {
                    let stream = Stream::open(path, threads, observer)?;
                    let format = lines::Format::Json { column: &self.column };
                    lines::read(stream, path, format, self.rows, next, sink)?
                }
                FileKind::Parquet => {
                    let known = match &self.source {
                        Source::DataSet(set) => Some(set.files[index].clone()),
                        _ => None,
                    };
                    parquet::read(path, &self.column, self.rows, next, known, sink)?
                }
                FileKind::Dump => read_dump(Stream::open(path, threads, observer)?, path, next, sink)?,
            };
            let Some((file, after)) = read else { return Ok(None) };
            files.push(file);
            next = after;
        }
        Ok(Some((files, next)))
    }
}

/// Puts the articles of a dump into `sink`, as [`lines::read`] does lines: pages of the main namespace that are no
/// redirects.
fn read_dump(
    stream: Stream,
    path: &Path,
    first: u64,
    sink: &mut dyn Sink,
) -> Result<Option<(FileRecord, u64)>> {
    let mut pages = Pages::new(stream);
    let fail = |place: u64, message: String| Error::CorpusRow {
        path: path.to_owned(),
        place: format!("byte {place} of its XML"),
        message,
    };
    let (mut next, mut seen) = (first, 0);
    loop {
        let bytes = pages.reader().bytes_read();
        if bytes > seen {
            sink.advance(bytes - seen)?;
            seen = bytes;
        }
        let page = match pages.next_page() {
            Ok(Some(page)) => page,
            Ok(None) => break,
            Err(DumpError::Malformed { offset, message }) => return Err(fail(offset, message)),
            Err(DumpError::Io(error)) => return Err(pages.reader().error(error)),
        };
        let head = page.head().map_err(|fault| match fault {
            NoHead::Malformed(message) => fail(page.offset, message),
            NoHead::NotUtf8(message) => {
                let place = format!("byte {} of its XML", page.offset);
                Error::NotUtf8 { path: path.to_owned(), place, message }
            }
        })?;
        if head.namespace == 0 && !head.redirect && head.model == "wikitext" {
            let number = next;
            next += 1;
            if sink.wants(number) {
                let (text, id, title) = (page.text(&head), head.id.to_owned(), Some(head.title.into_owned()));
                let body = Body::Wikitext(text, pages.wiki());
                if !sink.take(Document { number, id, title, body })? {
                    return Ok(None);
                }
            }
        }
    }
    Ok(Some((pages.into_reader().finish()?, next)))
}

/// Takes sentences until there are enough.
struct First<'a> {
    sentences: &'a mut Vec<String>,
    number: usize,
}

impl Sink for First<'_> {
    fn wants(&mut self, _: u64) -> bool {
        true
    }

    fn take(&mut self, document: Document) -> Result<bool> {
        let options = DrawOptions { per_document: Some(HowMany::All), ..DrawOptions::default() };
        let draw = options.resolve("", false)?;
        let drawing = Drawing { draw: &draw, need: Need::Sentences(0), seed: 0, accept: &|_| Ok(true) };
        let drawn = drawing.drawn_from(&document)?;
        self.sentences.extend(drawn.into_iter().map(|sentence| sentence.text));
        self.sentences.truncate(self.number);
        Ok(self.sentences.len() < self.number)
    }

    fn advance(&mut self, _: u64) -> Result<()> {
        Ok(())
    }
}
