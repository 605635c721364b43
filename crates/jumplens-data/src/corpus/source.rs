//! What the kinds of sources have in common: documents, one after another.

use super::wiki::Wiki;
use crate::Result;
use std::sync::Arc;

/// A document, or a row that is as good as one.
#[derive(Debug)]
pub(super) struct Document {
    /// Its place in the corpus, from 0.
    pub number: u64,
    /// What it can be found by.
    pub id: String,
    pub title: Option<String>,
    pub body: Body,
}

/// What a document holds.
#[derive(Debug)]
pub(super) enum Body {
    Wikitext(String, Arc<Wiki>),
    /// Plain text, a paragraph a line.
    Prose(String),
    /// One sentence, which is not to be cut.
    Sentence(String),
}

impl Body {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Wikitext(text, _) | Self::Prose(text) | Self::Sentence(text) => text.len(),
        }
    }
}

/// Takes the documents of a corpus as they are read.
pub(super) trait Sink {
    /// True where document `number` is wanted; one that is not need not be made.
    fn wants(&mut self, number: u64) -> bool;

    /// Takes a document. False where no more are wanted.
    fn take(&mut self, document: Document) -> Result<bool>;

    /// So many more bytes of the corpus have been read.
    fn advance(&mut self, bytes: u64) -> Result<()>;
}
