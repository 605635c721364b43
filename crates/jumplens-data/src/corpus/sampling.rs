//! Drawing sentences from documents: a document at random without replacement, then its sentences at random.
//!
//! Every document has a priority, a random number that depends on the seed and the document's number alone. The draw goes
//! down the documents by rising priority, which is a random order of them, and takes what each gives until there are
//! enough sentences. Only a document whose priority is below that of all that are needed so far can still be drawn, so
//! that one pass over the corpus keeps few of them (a bottom-k sketch), turns few into prose, and gives the same sentences
//! in whatever order, and on however many threads, the documents come.

use super::segmentation::sentences;
use super::source::{Body, Document, Sink};
use super::wikitext::{HOLE, prose};
use crate::progress::{Observer, check};
use crate::words::{HowMany, Measure, OfDocuments, Refusal, in_random_order};
use crate::{Error, Result};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

/// What the two splits may share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SplitBy {
    /// No document: all sentences of one are for training, or all for validation.
    Document,
    /// No sentence.
    Sentence,
}

/// As the command line and the manifest have it.
impl fmt::Display for SplitBy {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Document => "document",
            Self::Sentence => "sentence",
        })
    }
}

/// What is asked of a draw; `None` leaves the choice to what the corpus is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DrawOptions {
    /// As [`Draw::per_document`]; else 1.
    pub per_document: Option<HowMany>,
    /// As [`Draw::paragraph_final`].
    pub paragraph_final: bool,
    /// As [`Draw::min_chars`]; else 20, or none where sentences stand in order.
    pub min_chars: Option<usize>,
    /// As [`Draw::max_chars`]; else 800, or none where sentences stand in order.
    pub max_chars: Option<usize>,
    /// As [`Draw::min_tokens`].
    pub min_tokens: Option<usize>,
    /// As [`Draw::max_tokens`].
    pub max_tokens: Option<usize>,
    /// As [`Draw::split_by`]; else by document.
    pub split_by: Option<SplitBy>,
}

impl DrawOptions {
    /// With what is not said filled in. [`Error::Refused`] where the sentences stand in order and documents are asked about,
    /// or the bounds leave nothing.
    pub(super) fn resolve(&self, name: &str, in_order: bool) -> Result<Draw> {
        let (min_chars, max_chars) = if in_order { (0, usize::MAX) } else { (20, 800) };
        let draw = Draw {
            per_document: self.per_document.unwrap_or(HowMany::Number(1)),
            paragraph_final: self.paragraph_final,
            min_chars: self.min_chars.unwrap_or(min_chars),
            max_chars: self.max_chars.unwrap_or(max_chars),
            min_tokens: self.min_tokens,
            max_tokens: self.max_tokens,
            split_by: self.split_by.unwrap_or(SplitBy::Document),
        };
        let about_documents = [
            (OfDocuments::Number, self.per_document.is_some()),
            (OfDocuments::ParagraphFinal, self.paragraph_final),
            (OfDocuments::Split, self.split_by == Some(SplitBy::Document)),
        ];
        if let Some(&(asked, _)) = about_documents.iter().find(|(_, given)| in_order && *given) {
            return Err(Refusal::NoDocuments { corpus: name.to_owned(), asked }.into());
        }
        let (fewest, most) = (draw.min_tokens.unwrap_or(0), draw.max_tokens.unwrap_or(usize::MAX));
        let chars = (Measure::Chars, draw.min_chars, draw.max_chars);
        for (measure, min, max) in [chars, (Measure::Tokens, fewest, most)] {
            if min > max {
                return Err(Refusal::NothingBetween { measure, min, max }.into());
            }
        }
        Ok(draw)
    }
}

/// What sentences may be drawn, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draw {
    /// Sentences of one document at most.
    pub per_document: HowMany,
    /// Only sentences that end a paragraph, with their newline.
    pub paragraph_final: bool,
    /// The fewest characters.
    pub min_chars: usize,
    /// The most characters.
    pub max_chars: usize,
    /// The fewest tokens, those that the tokenizer adds included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_tokens: Option<usize>,
    /// The most tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<usize>,
    /// What training and validation may share.
    pub split_by: SplitBy,
}

impl Draw {
    /// True where `text` has as many characters as it may have.
    pub fn fits(&self, text: &str) -> bool {
        // A character has one to four bytes.
        text.len() >= self.min_chars
            && text.len() / 4 <= self.max_chars
            && (self.min_chars..=self.max_chars).contains(&text.chars().count())
    }

    /// True where so many tokens may be.
    pub fn fits_tokens(&self, tokens: usize) -> bool {
        (self.min_tokens.unwrap_or(0)..=self.max_tokens.unwrap_or(usize::MAX)).contains(&tokens)
    }
}

/// A sentence that was drawn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DrawnSentence {
    /// The sentence; one that ends a paragraph has its newline where only such were asked for.
    pub text: String,
    /// What its document goes by: the page's number in its wiki, or file and line or row.
    pub document: String,
    /// The document's title, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Its place among the document's sentences, from 0.
    pub sentence: usize,
    /// True where it is the last of its paragraph.
    pub ends_paragraph: bool,
}

/// How many sentences are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Sentences(usize),
    /// Of two sets that share no document.
    Apart(usize, usize),
}

impl Need {
    pub(super) fn total(self) -> usize {
        match self {
            Self::Sentences(number) => number,
            Self::Apart(train, val) => train.saturating_add(val),
        }
    }

    /// How many documents, from the first on, are enough and have `spare` more sentences than that, given how many sentences
    /// each has; `None` where all are not.
    fn documents(self, sizes: impl Iterator<Item = usize>, spare: usize) -> Option<usize> {
        let (first, second) = match self {
            Self::Sentences(number) => (number, 0),
            Self::Apart(train, val) => (train, val),
        };
        let (mut have, mut have_second) = (0usize, 0usize);
        for (index, size) in sizes.enumerate() {
            if have < first {
                have += size;
            } else {
                have_second += size;
            }
            let all = have + have_second;
            if have >= first && have_second >= second && all >= self.total().saturating_add(spare) {
                return Some(index + 1);
            }
        }
        None
    }
}

/// A generator for one document: its priority, then what is drawn from it.
fn generator(seed: u64, number: u64) -> ChaCha8Rng {
    // Apart from the positions, which are drawn with the seed itself.
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ u64::from_be_bytes(*b"document"));
    rng.set_stream(number);
    rng
}

/// Priority and number of a document: no two have the same.
type Key = (u64, u64);

fn digest(text: &str) -> [u8; 16] {
    let whole = Sha256::digest(text.as_bytes());
    std::array::from_fn(|i| whole[i])
}

/// The documents of the lowest priorities so far, with what was drawn from each. No sentence is there twice: of two
/// documents the one of the lower priority has it.
pub(super) struct Sketch {
    need: Need,
    documents: BTreeMap<Key, Vec<([u8; 16], DrawnSentence)>>,
    owners: HashMap<[u8; 16], Key>,
    /// With how many sentences it is cut down to what is needed.
    full: usize,
}

impl Sketch {
    fn new(need: Need) -> Self {
        let mut sketch = Self { need, documents: BTreeMap::new(), owners: HashMap::new(), full: 0 };
        sketch.set_full(need.total());
        sketch
    }

    fn set_full(&mut self, needed: usize) {
        self.full = needed.saturating_add((needed / 4).max(64));
    }

    /// How many sentences it holds.
    pub(super) fn len(&self) -> usize {
        self.owners.len()
    }

    /// Adds a document. The highest priority that can still be drawn, once there is one.
    fn offer(&mut self, key: Key, sentences: Vec<DrawnSentence>) -> Option<u64> {
        for sentence in sentences {
            let digest = digest(&sentence.text);
            match self.owners.get(&digest).copied() {
                Some(owner) if owner <= key => continue,
                Some(owner) => {
                    if let Some(others) = self.documents.get_mut(&owner) {
                        others.retain(|(other, _)| *other != digest);
                        if others.is_empty() {
                            self.documents.remove(&owner);
                        }
                    }
                }
                None => {}
            }
            self.owners.insert(digest, key);
            self.documents.entry(key).or_default().push((digest, sentence));
        }
        if self.len() < self.full {
            return None;
        }
        self.cut()
    }

    /// Drops the documents that can no longer be drawn.
    ///
    /// A document that comes later may take sentences from those that are here, and so move the place where training ends
    /// within a document: what is left of that one is lost, which is why as many sentences as one may have are kept to spare.
    fn cut(&mut self) -> Option<u64> {
        let longest = self.documents.values().map(Vec::len).max().unwrap_or(0);
        let spare = if matches!(self.need, Need::Apart(..)) { longest.saturating_sub(1) } else { 0 };
        let Some(enough) = self.need.documents(self.documents.values().map(Vec::len), spare) else {
            self.set_full(self.len());
            return None;
        };
        let last = *self.documents.keys().nth(enough - 1)?;
        let dropped = self.documents.split_off(&last);
        for (key, sentences) in dropped {
            if key == last {
                self.documents.insert(key, sentences);
            } else {
                for (digest, _) in &sentences {
                    self.owners.remove(digest);
                }
            }
        }
        self.set_full(self.len());
        Some(last.0)
    }

    /// What is drawn, for training and for validation; `None` where there is too little. `Err` has what there is.
    pub(super) fn finish(self, seed: u64, train: usize) -> Result<[Vec<DrawnSentence>; 2], usize> {
        if self.need.documents(self.documents.values().map(Vec::len), 0).is_none() {
            return Err(self.len());
        }
        let mut documents =
            self.documents.into_values().map(|s| s.into_iter().map(|(_, s)| s).collect::<Vec<_>>());
        match self.need {
            Need::Apart(train, val) => {
                let mut first: Vec<DrawnSentence> = Vec::new();
                while first.len() < train {
                    first.extend(documents.next().unwrap_or_default());
                }
                first.truncate(train);
                Ok([first, documents.flatten().take(val).collect()])
            }
            Need::Sentences(number) => {
                let drawn: Vec<DrawnSentence> = documents.flatten().take(number).collect();
                if train >= number {
                    return Ok([drawn, Vec::new()]);
                }
                // Several sentences of a document stand together: apart, they are in both splits alike.
                let mut drawn: Vec<Option<DrawnSentence>> = drawn.into_iter().map(Some).collect();
                let mut shuffled = Vec::with_capacity(number);
                let _ = in_random_order(number, number, &mut generator(seed, u64::MAX), |index| {
                    shuffled.extend(drawn[index].take());
                    Ok::<_, Infallible>(true)
                });
                let val = shuffled.split_off(train);
                Ok([shuffled, val])
            }
        }
    }
}

/// Says of a sentence whether it may be drawn, for reasons of the caller's own.
pub type Accept<'a> = dyn Fn(&str) -> Result<bool> + Sync + 'a;

/// One draw.
pub(super) struct Drawing<'a> {
    pub draw: &'a Draw,
    pub need: Need,
    pub seed: u64,
    pub accept: &'a Accept<'a>,
}

impl Drawing<'_> {
    /// What is drawn from one document.
    pub(super) fn drawn_from(&self, document: &Document) -> Result<Vec<DrawnSentence>> {
        let Draw { per_document, paragraph_final, .. } = *self.draw;
        let text: Cow<str> = match &document.body {
            Body::Wikitext(text, namespaces) => Cow::Owned(prose(text, namespaces)),
            Body::Prose(text) | Body::Sentence(text) => Cow::Borrowed(text),
        };
        let all: Vec<_> = match &document.body {
            Body::Sentence(text) => {
                vec![super::segmentation::Sentence { text: text.trim(), ends_paragraph: true }]
            }
            _ => sentences(&text).collect(),
        };
        let mut drawn: Vec<DrawnSentence> = Vec::new();
        let mut take = |index: usize| -> Result<bool> {
            let sentence = all[index];
            if (paragraph_final && !sentence.ends_paragraph)
                || sentence.text.contains(HOLE)
                || !self.draw.fits(sentence.text)
            {
                return Ok(false);
            }
            let text = format!("{}{}", sentence.text, if paragraph_final { "\n" } else { "" });
            if drawn.iter().any(|other| other.text == text) || !(self.accept)(&text)? {
                return Ok(false);
            }
            drawn.push(DrawnSentence {
                text,
                document: document.id.clone(),
                title: document.title.clone(),
                sentence: index,
                ends_paragraph: sentence.ends_paragraph,
            });
            Ok(true)
        };
        match per_document {
            HowMany::All => (0..all.len()).try_for_each(|index| take(index).map(|_| ()))?,
            HowMany::Number(number) => {
                let mut rng = generator(self.seed, document.number);
                rng.next_u64();
                in_random_order(all.len(), number, &mut rng, take)?;
            }
        }
        Ok(drawn)
    }

    /// Draws from the documents that `read` puts into a sink, on `threads` threads. Gives what `read` gives, and the sketch.
    pub(super) fn run<T>(
        &self,
        threads: usize,
        observer: &dyn Observer,
        read: impl FnOnce(&mut dyn Sink) -> Result<T>,
    ) -> Result<(T, Sketch)> {
        let shared = Shared {
            sketch: Mutex::new(Sketch::new(self.need)),
            threshold: AtomicU64::new(u64::MAX),
            failed: AtomicBool::new(false),
        };
        let (sender, receiver) = sync_channel::<Vec<Document>>(threads);
        let receiver = Mutex::new(receiver);
        let outcome = std::thread::scope(|scope| {
            let mut workers = Vec::new();
            for _ in 0..threads {
                match std::thread::Builder::new().spawn_scoped(scope, || self.work(&receiver, &shared)) {
                    Ok(worker) => workers.push(worker),
                    // Fewer will do.
                    Err(_) if !workers.is_empty() => break,
                    Err(error) => {
                        let reason = error.to_string();
                        return Err(jumplens_core::Error::Threads { threads, reason }.into());
                    }
                }
            }
            let mut sink = Candidates {
                generator: generator(self.seed, 0),
                shared: &shared,
                sender,
                waiting: Vec::new(),
                bytes: 0,
                observer,
            };
            let read = read(&mut sink).and_then(|read| sink.flush().map(|()| read));
            drop(sink);
            let mut done = Ok(());
            for worker in workers {
                let result = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                done = done.and(result);
            }
            // A worker's own error comes before what its end meant for the others.
            done.and(read)
        })?;
        let sketch = shared.sketch.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok((outcome, sketch))
    }

    fn work(&self, receiver: &Mutex<Receiver<Vec<Document>>>, shared: &Shared) -> Result<()> {
        let mut outcome = Ok(());
        loop {
            let batch = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(batch) = batch else { return outcome };
            for document in batch {
                let priority = generator(self.seed, document.number).next_u64();
                // After a failure what comes is taken all the same, so that nobody waits to hand it over.
                if shared.failed.load(Ordering::Relaxed)
                    || priority > shared.threshold.load(Ordering::Relaxed)
                {
                    continue;
                }
                let drawn = match self.drawn_from(&document) {
                    Ok(drawn) => drawn,
                    Err(error) => {
                        shared.failed.store(true, Ordering::Relaxed);
                        outcome = Err(error);
                        continue;
                    }
                };
                let mut sketch = shared.sketch.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(threshold) = sketch.offer((priority, document.number), drawn) {
                    shared.threshold.store(threshold, Ordering::Relaxed);
                }
            }
        }
    }
}

/// What the workers share.
struct Shared {
    sketch: Mutex<Sketch>,
    /// Documents of a higher priority can no longer be drawn.
    threshold: AtomicU64,
    failed: AtomicBool,
}

/// Documents that go to the workers together: up to this many, or this many bytes.
const BATCH: usize = 64;
const BATCH_BYTES: usize = 1 << 20;

/// Sorts out the documents that can still be drawn, and hands them to the workers.
struct Candidates<'a> {
    generator: ChaCha8Rng,
    shared: &'a Shared,
    sender: SyncSender<Vec<Document>>,
    waiting: Vec<Document>,
    bytes: usize,
    observer: &'a dyn Observer,
}

impl Candidates<'_> {
    fn flush(&mut self) -> Result<()> {
        self.bytes = 0;
        let batch = std::mem::take(&mut self.waiting);
        if self.shared.failed.load(Ordering::Relaxed) || self.sender.send(batch).is_err() {
            return Err(Error::Internal("the threads that draw sentences ended".into()));
        }
        Ok(())
    }
}

impl Sink for Candidates<'_> {
    fn wants(&mut self, number: u64) -> bool {
        self.generator.set_stream(number);
        self.generator.set_word_pos(0);
        self.generator.next_u64() <= self.shared.threshold.load(Ordering::Relaxed)
    }

    fn take(&mut self, document: Document) -> Result<bool> {
        self.bytes += document.body.len();
        self.waiting.push(document);
        if self.waiting.len() >= BATCH || self.bytes >= BATCH_BYTES {
            self.flush()?;
        }
        Ok(true)
    }

    fn advance(&mut self, bytes: u64) -> Result<()> {
        self.observer.advance(bytes);
        check(self.observer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use proptest::prelude::*;

    /// Puts documents of such sentences into a draw, in the order of `order`.
    fn draw(
        documents: &[Vec<String>],
        order: &[usize],
        draw: &Draw,
        need: Need,
        seed: u64,
        threads: usize,
    ) -> Sketch {
        let drawing = Drawing { draw, need, seed, accept: &|_| Ok(true) };
        let read = |sink: &mut dyn Sink| -> Result<()> {
            for &number in order {
                if sink.wants(number as u64) {
                    let body = Body::Prose(documents[number].join("\n"));
                    sink.take(Document { number: number as u64, id: number.to_string(), title: None, body })?;
                }
            }
            Ok(())
        };
        drawing.run(threads, &Silent, read).unwrap().1
    }

    fn any_length(per_document: HowMany) -> Draw {
        Draw {
            per_document,
            paragraph_final: false,
            min_chars: 0,
            max_chars: usize::MAX,
            min_tokens: None,
            max_tokens: None,
            split_by: SplitBy::Document,
        }
    }

    /// The draw as it is described, with all documents at hand: what each gives, in the order they are drawn in.
    fn by_the_book(documents: &[Vec<String>], draw: &Draw, seed: u64) -> Vec<Vec<String>> {
        let drawing = Drawing { draw, need: Need::Sentences(1), seed, accept: &|_| Ok(true) };
        let mut keyed: Vec<(Key, Vec<String>)> = documents
            .iter()
            .enumerate()
            .map(|(number, document)| {
                let body = Body::Prose(document.join("\n"));
                let document = Document { number: number as u64, id: String::new(), title: None, body };
                let drawn = drawing.drawn_from(&document).unwrap();
                let priority = generator(seed, number as u64).next_u64();
                ((priority, number as u64), drawn.into_iter().map(|sentence| sentence.text).collect())
            })
            .collect();
        keyed.sort();
        let mut seen = std::collections::HashSet::new();
        keyed.into_iter().map(|(_, s)| s.into_iter().filter(|s| seen.insert(s.clone())).collect()).collect()
    }

    fn documents() -> impl Strategy<Value = Vec<Vec<String>>> {
        // Few different sentences, so that many are there twice.
        let sentence = (0..60u32).prop_map(|i| format!("Sentence number {i} is here."));
        prop::collection::vec(prop::collection::vec(sentence, 0..6), 1..300)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_draw_is_the_same_in_any_order_on_any_threads(
            documents in documents(), seed in 0..5u64, train in 1..12usize, val in 1..12usize,
            per_document in prop_oneof![(1..4usize).prop_map(HowMany::Number), Just(HowMany::All)],
        ) {
            let settings = any_length(per_document);
            let book = by_the_book(&documents, &settings, seed);
            let forward: Vec<usize> = (0..documents.len()).collect();
            let backward: Vec<usize> = forward.iter().rev().copied().collect();
            for need in [Need::Sentences(train + val), Need::Apart(train, val)] {
                // Whole documents for training until there are enough, and the next ones for validation.
                let expected: Option<[Vec<String>; 2]> = match need {
                    Need::Sentences(number) => {
                        let all: Vec<String> = book.iter().flatten().take(number).cloned().collect();
                        (all.len() == number).then(|| [all, vec![]])
                    }
                    Need::Apart(..) => {
                        let (mut first, mut rest) = (Vec::new(), book.iter());
                        while first.len() < train && let Some(document) = rest.next() {
                            first.extend(document.iter().cloned());
                        }
                        let second: Vec<String> = rest.flatten().take(val).cloned().collect();
                        let enough = first.len() >= train && second.len() == val;
                        first.truncate(train);
                        enough.then_some([first, second])
                    }
                };
                for (order, threads) in [(&forward, 1), (&backward, 1), (&forward, 3)] {
                    let sketch = draw(&documents, order, &settings, need, seed, threads);
                    let whole = if let Need::Sentences(number) = need { number } else { train };
                    let drawn = sketch.finish(seed, whole).ok();
                    let texts = drawn.map(|splits| splits.map(|s| s.into_iter().map(|s| s.text).collect::<Vec<_>>()));
                    prop_assert_eq!(&texts, &expected);
                }
            }
        }
    }

    #[test]
    fn every_document_and_every_sentence_is_as_likely_as_any_other() {
        let documents: Vec<Vec<String>> = (0..40)
            .map(|d| (0..1 + d % 4).map(|s| format!("Sentence {s} of document {d}.")).collect())
            .collect();
        let order: Vec<usize> = (0..40).collect();
        let settings = any_length(HowMany::Number(1));
        let (mut of_document, mut of_sentence) = (vec![0; 40], HashMap::<String, usize>::new());
        for seed in 0..4000 {
            let sketch = draw(&documents, &order, &settings, Need::Sentences(10), seed, 1);
            for sentence in &sketch.finish(seed, 10).unwrap()[0] {
                of_document[sentence.document.parse::<usize>().unwrap()] += 1;
                *of_sentence.entry(sentence.text.clone()).or_default() += 1;
            }
        }
        // 10 of 40 documents: 1000 times each, give or take √(4000 · ¼ · ¾) = 27; within five of those.
        assert!(of_document.iter().all(|count| (863..=1137).contains(count)), "{of_document:?}");
        for (d, document) in documents.iter().enumerate() {
            for sentence in document {
                let (count, expected) = (of_sentence[sentence] as f64, 1000.0 / document.len() as f64);
                assert!((count - expected).abs() < 5.0 * expected.sqrt(), "{d}: {count} for {expected}");
            }
        }
    }

    #[test]
    fn few_documents_are_kept_and_few_are_looked_into() {
        let looked_into = AtomicU64::new(0);
        let accept = |_: &str| {
            looked_into.fetch_add(1, Ordering::Relaxed);
            Ok(true)
        };
        let settings = any_length(HowMany::Number(1));
        let drawing = Drawing { draw: &settings, need: Need::Sentences(200), seed: 1, accept: &accept };
        let read = |sink: &mut dyn Sink| -> Result<()> {
            for number in 0..200_000 {
                if sink.wants(number) {
                    let body = Body::Prose(format!("This is document {number}."));
                    sink.take(Document { number, id: String::new(), title: None, body })?;
                }
            }
            Ok(())
        };
        let (_, sketch) = drawing.run(1, &Silent, read).unwrap();
        assert!(sketch.len() <= 264, "{}", sketch.len());
        // About k · (1 + ln(n / k)) = 1,580 for k kept of n; those under way when the bound moves on come on top.
        let looked_into = looked_into.into_inner();
        assert!(looked_into < 4000, "{looked_into}");
    }

    #[test]
    fn an_error_within_a_document_ends_the_draw() {
        let settings = any_length(HowMany::Number(1));
        let accept = |text: &str| {
            if text.contains("number 700 ") { Err(Error::Option("not this one".into())) } else { Ok(true) }
        };
        let drawing = Drawing { draw: &settings, need: Need::Sentences(5000), seed: 1, accept: &accept };
        let read = |sink: &mut dyn Sink| -> Result<()> {
            for number in 0..100_000 {
                if sink.wants(number) {
                    let body = Body::Prose(format!("Document number {number} is here."));
                    sink.take(Document { number, id: String::new(), title: None, body })?;
                }
            }
            Ok(())
        };
        let error = drawing.run(1, &Silent, read).map(|_| ()).unwrap_err();
        assert_eq!(error.to_string(), "not this one");
    }

    #[test]
    fn how_many_is_a_number_or_all() {
        assert_eq!("3".parse(), Ok(HowMany::Number(3)));
        assert_eq!("all".parse(), Ok(HowMany::All));
        for wrong in ["0", "-1", "some", "", "1.5"] {
            assert!(wrong.parse::<HowMany>().is_err(), "{wrong}");
        }
        for how_many in [HowMany::Number(7), HowMany::All] {
            let json = serde_json::to_string(&how_many).unwrap();
            assert_eq!(serde_json::from_str::<HowMany>(&json).unwrap(), how_many);
        }
    }
}
