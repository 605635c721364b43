//! The stage `samples`: from a corpus, or from files of token ids, to the samples of both splits.

use crate::corpus::{Accept, Corpus, Draw, DrawOptions, HowMany, Reading};
use crate::files::{absolute, sha256_of};
use crate::hub::{ModelFiles, Sources};
use crate::manifest::{SamplesRecord, SourceRecord};
use crate::models::{Kind, Spec, describe};
use crate::progress::{Observer, check};
use crate::store::Stage;
use crate::tokenize::{Positions, Sample, Tokenizer, read_samples};
use crate::words::Refusal;
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// Where the samples come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SampleSource {
    /// Sentences of a corpus: the first `train` and the `val` after them where they stand in order, else drawn at random.
    Corpus {
        /// What [`Corpus::open`] takes.
        name: String,
        /// Training sentences.
        train: usize,
        /// Validation sentences.
        val: usize,
        /// For masked models: put `[MASK]` in the place of the token at the chosen position. Causal models have no use
        /// for `false`, and refuse it.
        mask: bool,
        /// How the corpus is read.
        reading: Reading,
        /// Which sentences are taken.
        draw: DrawOptions,
        /// Which of their positions are.
        positions: Positions,
    },
    /// States that another program computed, which came with what is known of their samples: none can be made for them.
    Imported {
        /// Where the training states came from.
        train: PathBuf,
        /// Where the validation states came from.
        val: PathBuf,
    },
    /// Samples files, as [`read_samples`] reads them.
    Files {
        /// The training samples.
        train: PathBuf,
        /// The validation samples.
        val: PathBuf,
    },
}

impl SampleSource {
    /// One position of each of so many sentences of the corpus `name`, read and drawn as is usual for it.
    pub fn corpus(name: &str, train: usize, val: usize) -> Self {
        Self::Corpus {
            name: name.to_owned(),
            train,
            val,
            mask: true,
            reading: Reading::default(),
            draw: DrawOptions::default(),
            positions: Positions::default(),
        }
    }
}

/// The samples of both splits, and where they came from.
pub(crate) struct Samples {
    pub train: Vec<Sample>,
    pub val: Vec<Sample>,
    pub record: SamplesRecord,
}

impl Samples {
    fn new([train, val]: [Vec<Sample>; 2], record: SamplesRecord) -> Self {
        Self { train, val, record }
    }
}

/// Makes the samples.
pub(crate) fn make(
    source: &SampleSource,
    seed: u64,
    files: &ModelFiles,
    spec: &Spec,
    sources: &Sources,
    observer: &dyn Observer,
) -> Result<Samples> {
    match source {
        SampleSource::Imported { train, .. } => Err(Error::Option(format!(
            "no samples can be made for the states that were imported from `{}`",
            train.display()
        ))),
        SampleSource::Files { train, val } => {
            let samples = [read_samples(train, spec)?, read_samples(val, spec)?];
            let record = SamplesRecord::Files { train_samples: record(train)?, val_samples: record(val)? };
            Ok(Samples::new(samples, record))
        }
        SampleSource::Corpus { name, train, val, mask, reading, draw, positions } => {
            if !mask && spec.kind == Kind::Causal {
                return Err(Refusal::NothingIsMasked { model: files.id.clone() }.into());
            }
            if positions.skip_first >= spec.max_positions {
                let (most, skipped) = (spec.max_positions, positions.skip_first);
                return Err(Refusal::AllSkipped { most, skipped }.into());
            }
            let counts = [*train, *val];
            if counts.contains(&0) {
                return Err(Refusal::NoSamples { train: *train, val: *val }.into());
            }
            let corpus = Corpus::open(name, reading, seed, sources, observer)?;
            let draw = corpus.resolve(draw)?;
            let tokenizer = Tokenizer::of_model(files.tokenizer.as_ref(), &files.id, spec, *mask)?;
            tokenizer.notes().iter().for_each(|note| observer.note(note));
            let maker =
                Maker { corpus: &corpus, draw: &draw, tokenizer: &tokenizer, seed, positions: *positions };
            if corpus.is_in_order() {
                return maker.in_order(counts, observer);
            }
            maker.drawn(counts, observer)
        }
    }
}

/// What is recorded of a samples file.
pub(crate) fn record(path: &Path) -> Result<SourceRecord> {
    Ok(SourceRecord { id: absolute(&path.display().to_string()), sha256: sha256_of(path)? })
}

/// The tokenizer of the model called `name`, as [`ModelFiles::find`] takes it. Of the model only its sizes
/// are looked at.
pub fn tokenizer_of(name: &str, sources: &Sources, observer: &dyn Observer) -> Result<Tokenizer> {
    let files = ModelFiles::find(name, sources, observer)?;
    let spec = describe(&files)?.spec;
    let tokenizer = Tokenizer::of_model(files.tokenizer.as_ref(), &files.id, &spec, false)?;
    tokenizer.notes().iter().for_each(|note| observer.note(note));
    Ok(tokenizer)
}

struct Maker<'a> {
    corpus: &'a Corpus,
    draw: &'a Draw,
    tokenizer: &'a Tokenizer,
    seed: u64,
    positions: Positions,
}

impl Maker<'_> {
    /// The samples of the first sentences.
    fn in_order(&self, [train, val]: [usize; 2], observer: &dyn Observer) -> Result<Samples> {
        let wanted = train.saturating_add(val);
        observer.begin(Stage::Samples.name(), wanted as u64, "sentences");
        let (mut have, mut splits) = (0, [Vec::new(), Vec::new()]);
        let mut corpus = self.corpus.each_in_order(observer, |index, text| {
            check(observer)?;
            if have < wanted && self.draw.fits(text) {
                let ids = self.tokenizer.encode(text)?;
                if self.draw.fits_tokens(ids.len()) {
                    let samples = self.tokenizer.samples_of(text, ids, index, self.seed, self.positions)?;
                    if !samples.is_empty() {
                        splits[usize::from(have >= train)].extend(samples);
                        have += 1;
                        observer.advance(1);
                    }
                }
            }
            Ok(have < wanted)
        })?;
        if have < wanted {
            return Err(Error::TooFewSentences { name: self.corpus.id.clone(), have, train, val });
        }
        observer.end();
        let bounded = self.draw != &self.corpus.resolve(&DrawOptions::default())?;
        corpus.draw = bounded.then(|| self.draw.clone());
        // Of one position each there are as many samples.
        corpus.sentences = (self.positions.how_many != HowMany::Number(1)).then_some([train, val]);
        Ok(Samples::new(splits, SamplesRecord::Corpus { corpus, positions: self.positions }))
    }

    /// The samples of sentences that are drawn.
    fn drawn(&self, counts: [usize; 2], observer: &dyn Observer) -> Result<Samples> {
        let accept = accept_tokens(self.draw, self.tokenizer, self.positions.skip_first);
        let drawn = self.corpus.draw(self.draw, counts, self.seed, &accept, observer)?;
        observer.begin(Stage::Samples.name(), (counts[0] + counts[1]) as u64, "sentences");
        let mut splits = [Vec::new(), Vec::new()];
        let sentences = [&drawn.train, &drawn.val].into_iter().enumerate();
        let sentences = sentences.flat_map(|(split, sentences)| sentences.iter().map(move |s| (split, s)));
        for (index, (split, sentence)) in sentences.enumerate() {
            check(observer)?;
            splits[split].extend(self.tokenizer.samples(
                &sentence.text,
                index as u64,
                self.seed,
                self.positions,
            )?);
            observer.advance(1);
        }
        observer.end();
        Ok(Samples::new(splits, SamplesRecord::Corpus { corpus: drawn.record, positions: self.positions }))
    }
}

/// Accepts sentences of as many tokens as they may have, and of more than are skipped.
fn accept_tokens<'a>(draw: &'a Draw, tokenizer: &'a Tokenizer, skip_first: usize) -> Box<Accept<'a>> {
    Box::new(move |text| {
        let tokens = tokenizer.encode(text)?.len();
        Ok(tokens > skip_first && draw.fits_tokens(tokens))
    })
}
