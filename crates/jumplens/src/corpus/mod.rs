//! Sentences from a corpus.

use crate::error::{Error, Result};
use crate::files::sha256;
use crate::hub::Bundled;
use std::borrow::Cow;
use std::path::Path;

/// A corpus: one sentence a line, blank lines passed over.
#[derive(Debug)]
pub struct Corpus {
    /// The name or path that was asked for.
    pub id: String,
    text: Cow<'static, str>,
}

impl Corpus {
    /// Finds `name`: a bundled corpus, or a `.txt` file in UTF-8 with one sentence a line.
    pub fn open(name: &str, bundled: &Bundled) -> Result<Self> {
        if let Some(corpus) = bundled.corpora.iter().find(|corpus| corpus.name == name) {
            return Ok(Self { id: name.to_owned(), text: Cow::Borrowed(corpus.sentences) });
        }
        let path = Path::new(name);
        if path.extension().is_none_or(|extension| extension != "txt") {
            let bundled =
                bundled.corpora.iter().map(|c| format!("`{}`", c.name)).collect::<Vec<_>>().join(", ");
            return Err(Error::UnknownCorpus { name: name.to_owned(), bundled });
        }
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        let corpus = Self { id: name.to_owned(), text: Cow::Owned(text) };
        if corpus.sentences().next().is_none() {
            return Err(Error::EmptyCorpus { name: corpus.id });
        }
        Ok(corpus)
    }

    /// The sentences in order, without the white space around them.
    pub fn sentences(&self) -> impl Iterator<Item = &str> {
        self.text.lines().map(str::trim).filter(|line| !line.is_empty())
    }

    /// Lower-case hexadecimal SHA-256 of the whole text.
    pub fn sha256(&self) -> String {
        sha256(self.text.as_bytes())
    }
}
