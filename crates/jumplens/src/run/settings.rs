//! What a run is to be made from: what is asked for, what is usual, and what a run that is gone on with began with.

use crate::corpus::{Corpus, CorpusRecord, DataSetName, DrawOptions, HowMany, Reading, Rows};
use crate::files::sha256_of;
use crate::hub::Sources;
use crate::manifest::{Difference, Manifest, ModelRecord, SamplesRecord, is_same_place, other_maps};
use crate::moments::Shard;
use crate::nn::Precision;
use crate::progress::Silent;
use crate::samples::SampleSource;
use crate::shortcut::{Fits, Pairs, Ridge};
use crate::tokenize::Positions;
use crate::words::Cast;
use crate::{Error, Result};
use std::fmt::Display;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What a run is to be made from.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Bundled name, folder, or name on the Hub, as [`ModelFiles::find`](crate::hub::ModelFiles::find) takes it.
    pub model: String,
    /// Where the samples come from.
    pub samples: SampleSource,
    /// The seed of everything random.
    pub seed: u64,
    /// Which maps between layers are fitted.
    pub fits: Fits,
    /// What products are done in.
    pub dtype: Precision,
    /// The share of the samples that is kept, where it is not all of them.
    pub shard: Option<Shard>,
}

/// What is asked of a run. What is not is as usual, or in a run that is gone on with as that began.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Asked {
    /// As [`Settings::model`].
    pub model: Option<String>,
    /// The corpus.
    pub corpus: Option<String>,
    /// Training sentences.
    pub train: Option<usize>,
    /// Validation sentences.
    pub val: Option<usize>,
    /// Samples files, for training and validation.
    pub files: Option<[PathBuf; 2]>,
    /// Whether `[MASK]` takes the place of the token at the chosen position.
    pub mask: Option<bool>,
    /// As [`Reading::rows`].
    pub rows: Option<Rows>,
    /// As [`Reading::text_column`].
    pub text_column: Option<String>,
    /// As [`Reading::shards`].
    pub shards: Option<usize>,
    /// Which sentences are drawn.
    pub draw: DrawOptions,
    /// As [`Positions::how_many`].
    pub how_many: Option<HowMany>,
    /// As [`Positions::skip_first`].
    pub skip_first: Option<usize>,
    /// As [`Settings::seed`].
    pub seed: Option<u64>,
    /// As [`Fits::pairs`].
    pub pairs: Option<Pairs>,
    /// As [`Fits::intercept`].
    pub intercept: Option<bool>,
    /// As [`Fits::ridge`].
    pub ridge: Option<Ridge>,
    /// As [`Fits::ranks`].
    pub ranks: Option<Vec<usize>>,
    /// As [`Fits::lenses`].
    pub lenses: Option<Vec<Cast>>,
    /// As [`Fits::only`]: with it, of the five above only [`Asked::pairs`] and [`Asked::ridge`] are looked at.
    pub casts: Option<Vec<Cast>>,
    /// As [`Settings::dtype`].
    pub dtype: Option<Precision>,
    /// As [`Settings::shard`].
    pub shard: Option<Shard>,
}

/// All of it is asked for.
impl From<&Settings> for Asked {
    fn from(settings: &Settings) -> Self {
        let Settings { model, samples, seed, fits, dtype, shard } = settings.clone();
        let asked = Self {
            model: Some(model),
            seed: Some(seed),
            pairs: Some(fits.pairs),
            intercept: Some(fits.intercept),
            ridge: fits.ridge,
            ranks: Some(fits.ranks),
            lenses: Some(fits.lenses),
            casts: fits.only,
            dtype: Some(dtype),
            shard,
            ..Self::default()
        };
        match samples {
            SampleSource::Imported { .. } => asked,
            SampleSource::Files { train, val } => Self { files: Some([train, val]), ..asked },
            SampleSource::Corpus { name, train, val, mask, reading, draw, positions } => Self {
                corpus: Some(name),
                train: Some(train),
                val: Some(val),
                mask: Some(mask),
                rows: reading.rows,
                text_column: Some(reading.text_column)
                    .filter(|column| *column != Reading::default().text_column),
                shards: reading.shards,
                draw,
                how_many: Some(positions.how_many),
                skip_first: Some(positions.skip_first),
                ..asked
            },
        }
    }
}

impl Asked {
    /// What is asked for, and for the rest what is `usual`.
    pub fn over(&self, usual: &Settings) -> Settings {
        Settings {
            model: self.model.clone().unwrap_or_else(|| usual.model.clone()),
            samples: self.samples_over(&usual.samples),
            seed: self.seed.unwrap_or(usual.seed),
            fits: self.fits_over(&usual.fits),
            dtype: self.dtype.unwrap_or(usual.dtype),
            shard: self.shard.or(usual.shard),
        }
    }

    fn fits_over(&self, usual: &Fits) -> Fits {
        let pairs = self.pairs.unwrap_or(usual.pairs);
        match &self.casts {
            Some(casts) => Fits::only(casts, self.ridge, pairs),
            None => Fits {
                pairs,
                intercept: self.intercept.unwrap_or(usual.intercept),
                ridge: self.ridge.or(usual.ridge),
                ranks: self.ranks.clone().unwrap_or_else(|| usual.ranks.clone()),
                lenses: self.lenses.clone().unwrap_or_else(|| usual.lenses.clone()),
                only: usual.only.clone(),
            },
        }
    }

    fn samples_over(&self, usual: &SampleSource) -> SampleSource {
        if let Some([train, val]) = self.files.clone() {
            return SampleSource::Files { train, val };
        }
        let SampleSource::Corpus { name, train, val, mask, reading, draw, positions } = usual else {
            return usual.clone();
        };
        SampleSource::Corpus {
            name: self.corpus.clone().unwrap_or_else(|| name.clone()),
            train: self.train.unwrap_or(*train),
            val: self.val.unwrap_or(*val),
            mask: self.mask.unwrap_or(*mask),
            reading: Reading {
                rows: self.rows.or(reading.rows),
                text_column: self.text_column.clone().unwrap_or_else(|| reading.text_column.clone()),
                shards: self.shards.or(reading.shards),
            },
            draw: DrawOptions {
                per_document: self.draw.per_document.or(draw.per_document),
                paragraph_final: self.draw.paragraph_final || draw.paragraph_final,
                min_chars: self.draw.min_chars.or(draw.min_chars),
                max_chars: self.draw.max_chars.or(draw.max_chars),
                min_tokens: self.draw.min_tokens.or(draw.min_tokens),
                max_tokens: self.draw.max_tokens.or(draw.max_tokens),
                split_by: self.draw.split_by.or(draw.split_by),
            },
            positions: Positions {
                how_many: self.how_many.unwrap_or(positions.how_many),
                skip_first: self.skip_first.unwrap_or(positions.skip_first),
            },
        }
    }

    /// [`Error::Differs`] for the first thing asked for that is not what the run of `manifest`, in `folder`, has.
    /// [`Error::Changed`] where a file that is asked for is there, and no longer holds what it did.
    pub(super) fn check(&self, folder: &Path, manifest: &Manifest, sources: &Sources) -> Result<()> {
        let found = self.difference(manifest).or(self.file_difference(manifest)?);
        match found {
            Some(Difference { what, here, there }) => {
                Err(Error::Differs { path: folder.to_owned(), what, run: there.into(), here: here.into() })
            }
            None => self.check_corpus(folder, manifest, sources),
        }
    }

    fn difference(&self, manifest: &Manifest) -> Option<Difference> {
        let begun = Settings::of(manifest);
        let own = manifest.model.as_ref();
        let model = self.model.as_ref().filter(|name| own.is_none_or(|model| !model.may_be(name)));
        model
            .and_then(|name| {
                let there = own.map_or("none".to_owned(), |model| quoted(&model.name()));
                Difference::of("the model", quoted(name), there)
            })
            .or_else(|| self.samples_difference(manifest, &begun.samples))
            .or_else(|| differing("the seed", self.seed, Some(begun.seed)))
            .or_else(|| other_maps(&self.fits_over(&begun.fits), &begun.fits))
            .or_else(|| differing("the number format", self.dtype, Some(begun.dtype)))
            .or_else(|| differing("the share", self.shard, begun.shard))
    }

    fn samples_difference(&self, manifest: &Manifest, begun: &SampleSource) -> Option<Difference> {
        let source = |here: &str| {
            Difference::of("the source of the samples", quoted(here), quoted(manifest.samples.id()))
        };
        match (&manifest.samples, begun) {
            (SamplesRecord::Corpus { corpus, .. }, SampleSource::Corpus { reading, draw, positions, .. }) => {
                if let Some([train, _]) = &self.files {
                    return source(&train.display().to_string());
                }
                let counts = sentences(manifest);
                let count = |split: usize| counts.map(|counts| counts[split]);
                let known = |asked: Option<usize>| asked.filter(|_| counts.is_some());
                let mask = |mask: bool| if mask { "`[MASK]`" } else { "kept" };
                let rows = if corpus.documents.is_none() { Some(Rows::InOrder) } else { reading.rows };
                let corpus = self.corpus.as_ref().filter(|name| !is_corpus(name, corpus));
                corpus
                    .and_then(|name| source(name))
                    .or_else(|| differing("the number of training sentences", known(self.train), count(0)))
                    .or_else(|| differing("the number of validation sentences", known(self.val), count(1)))
                    .or_else(|| {
                        let asked = self.mask.filter(|asked| !asked || manifest.mask.is_some());
                        differing("the token at the position", asked.map(mask), manifest.mask.map(mask))
                    })
                    .or_else(|| {
                        differing("what a row of the corpus is", self.rows.filter(|_| rows.is_some()), rows)
                    })
                    .or_else(|| {
                        let asked = self.text_column.as_ref().filter(|_| corpus_has_columns(manifest));
                        differing("the column of texts", asked, Some(&reading.text_column))
                    })
                    .or_else(|| {
                        differing("the number of shards of the data set", self.shards, reading.shards)
                    })
                    .or_else(|| {
                        differing(
                            "the number of sentences of a document",
                            self.draw.per_document,
                            draw.per_document,
                        )
                    })
                    .or_else(|| {
                        let asked = self.draw.paragraph_final.then_some("paragraph ends alone");
                        let begun = if draw.paragraph_final { "paragraph ends alone" } else { "any" };
                        differing("the choice of sentences", asked, Some(begun))
                    })
                    .or_else(|| differing("the fewest characters", self.draw.min_chars, draw.min_chars))
                    .or_else(|| differing("the most characters", self.draw.max_chars, draw.max_chars))
                    .or_else(|| differing("the fewest tokens", self.draw.min_tokens, draw.min_tokens))
                    .or_else(|| differing("the most tokens", self.draw.max_tokens, draw.max_tokens))
                    .or_else(|| differing("what the splits may not share", self.draw.split_by, draw.split_by))
                    .or_else(|| {
                        differing(
                            "the number of positions of a sentence",
                            self.how_many,
                            Some(positions.how_many),
                        )
                    })
                    .or_else(|| {
                        let skipped = "the number of tokens that are skipped";
                        differing(skipped, self.skip_first, Some(positions.skip_first))
                    })
            }
            _ => {
                let about_corpus = self.train.or(self.val).or(self.skip_first).is_some()
                    || self.how_many.is_some()
                    || self.draw != DrawOptions::default();
                let corpus = self.corpus.as_deref().or(about_corpus.then_some("a corpus"));
                corpus.and_then(source)
            }
        }
    }

    /// Of the samples files that are asked for.
    fn file_difference(&self, manifest: &Manifest) -> Result<Option<Difference>> {
        let (Some(files), SamplesRecord::Files { train_samples, val_samples }) =
            (&self.files, &manifest.samples)
        else {
            return Ok(None);
        };
        for (path, record) in files.iter().zip([train_samples, val_samples]) {
            let sha256 = match sha256_of(path) {
                Ok(sha256) => Some(sha256),
                Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            let here = path.display().to_string();
            let found = match sha256 {
                // The same samples in another place are the same.
                Some(sha256) if sha256 == record.sha256 => None,
                Some(sha256) if is_same_place(&here, &record.id) => {
                    let what = format!("the SHA-256 of `{here}`");
                    Difference::of(&what, sha256, &record.sha256)
                }
                None if is_same_place(&here, &record.id) => None,
                _ => Difference::of("the source of the samples", quoted(&here), quoted(&record.id)),
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// A corpus that is asked for, and is there, holds what it did; data sets are pinned to their commit.
    fn check_corpus(&self, folder: &Path, manifest: &Manifest, sources: &Sources) -> Result<()> {
        let SamplesRecord::Corpus { corpus: record, .. } = &manifest.samples else { return Ok(()) };
        if self.corpus.is_none() || record.revision.is_some() {
            return Ok(());
        }
        let SampleSource::Corpus { name, reading, .. } = Settings::of(manifest).samples else {
            return Ok(());
        };
        if Path::new(&name).is_absolute() && !Path::new(&name).exists() {
            return Ok(());
        }
        let corpus = Corpus::open(&name, &reading, manifest.seed, sources, &Silent)?;
        let is_same = match corpus.is_in_order() {
            true => corpus.each_in_order(&Silent, |_, _| Ok(false))?.sha256 == record.sha256,
            false => corpus.is_as_recorded(record),
        };
        match is_same {
            true => Ok(()),
            false => {
                Err(Error::Changed { path: folder.to_owned(), what: format!("what `{}` holds", record.id) })
            }
        }
    }
}

impl Settings {
    /// What the run of `manifest` began with.
    pub fn of(manifest: &Manifest) -> Self {
        let samples = match &manifest.samples {
            SamplesRecord::Imported { imported } => SampleSource::Imported {
                train: PathBuf::from(&imported.train_states.id),
                val: PathBuf::from(&imported.val_states.id),
            },
            SamplesRecord::Files { train_samples, val_samples } => SampleSource::Files {
                train: PathBuf::from(&train_samples.id),
                val: PathBuf::from(&val_samples.id),
            },
            SamplesRecord::Corpus { corpus, positions } => {
                let [train, val] = sentences(manifest).unwrap_or([manifest.train, manifest.val]);
                let is_data_set = corpus.revision.is_some();
                SampleSource::Corpus {
                    name: match &corpus.revision {
                        Some(revision) => format!("{}@{revision}", corpus.id),
                        None => corpus.id.clone(),
                    },
                    train,
                    val,
                    mask: manifest.mask.unwrap_or(true),
                    reading: Reading {
                        rows: corpus.rows.as_ref().map(|rows| rows.are),
                        text_column: corpus
                            .rows
                            .as_ref()
                            .map_or_else(|| Reading::default().text_column, |rows| rows.column.clone()),
                        shards: is_data_set.then_some(corpus.files.len()),
                    },
                    draw: draw_options(corpus),
                    positions: *positions,
                }
            }
        };
        Self {
            model: manifest.model.as_ref().map_or_else(String::new, ModelRecord::name),
            samples,
            seed: manifest.seed,
            fits: manifest.fits.clone(),
            dtype: manifest.dtype,
            shard: manifest.shard,
        }
    }
}

/// The sentences of a run, for training and validation; `None` where they were not counted, as by earlier versions.
fn sentences(manifest: &Manifest) -> Option<[usize; 2]> {
    match &manifest.samples {
        SamplesRecord::Corpus { corpus, .. } if corpus.sentences.is_some() => corpus.sentences,
        SamplesRecord::Corpus { positions, .. } if positions.how_many == HowMany::Number(1) => {
            Some([manifest.train, manifest.val])
        }
        _ => None,
    }
}

/// The options that make the draw of `corpus`.
fn draw_options(corpus: &CorpusRecord) -> DrawOptions {
    let Some(draw) = &corpus.draw else { return DrawOptions::default() };
    // What stands in order has no documents to ask about.
    let is_drawn = corpus.documents.is_some();
    DrawOptions {
        per_document: is_drawn.then_some(draw.per_document),
        paragraph_final: draw.paragraph_final,
        min_chars: Some(draw.min_chars).filter(|fewest| is_drawn || *fewest > 0),
        max_chars: Some(draw.max_chars).filter(|most| *most < usize::MAX),
        min_tokens: draw.min_tokens,
        max_tokens: draw.max_tokens,
        split_by: is_drawn.then_some(draw.split_by),
    }
}

/// Whether texts came from a column that has a name.
fn corpus_has_columns(manifest: &Manifest) -> bool {
    matches!(&manifest.samples, SamplesRecord::Corpus { corpus, .. } if corpus.rows.is_some())
}

/// False where `name` is another corpus for certain. A branch may stand for the commit that was read.
fn is_corpus(name: &str, record: &CorpusRecord) -> bool {
    let Some(parsed) = name.strip_prefix("hf://datasets/").and_then(DataSetName::parse) else {
        return is_same_place(name, &record.id);
    };
    let id = match &parsed.config {
        Some(config) => format!("hf://datasets/{}/{config}", parsed.hub.id),
        None => format!("hf://datasets/{}", parsed.hub.id),
    };
    let is_commit = |text: &String| text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let commit = parsed.hub.revision.filter(is_commit);
    id == record.id && commit.is_none_or(|commit| record.revision == Some(commit))
}

/// What was asked for, where it is not what is there.
fn differing<T: Display>(what: &str, here: Option<T>, there: Option<T>) -> Option<Difference> {
    here.and_then(|here| Difference::of_optional(what, Some(here), there))
}

fn quoted(text: &str) -> String {
    format!("`{text}`")
}
