//! Wikipedia dumps: the pages of a MediaWiki export file (`pages-articles.xml`), one after another as they stream by.
//!
//! Export files are written by one program in one form, with all text escaped, so that a page is what stands between
//! `<page>` and `</page>`, and nothing of the rest of XML is needed. See <https://www.mediawiki.org/wiki/Help:Export>.

use super::wikitext::Namespaces;
use memchr::memmem;
use std::borrow::Cow;
use std::io::{self, BufRead};
use std::ops::Range;
use std::sync::Arc;

/// No page of a wiki comes near this, whatever its namespace: MediaWiki takes 2 MB of wikitext.
const LONGEST_PAGE: usize = 64 << 20;
/// The header, which has the names of the namespaces, is a few kB long.
const LONGEST_HEADER: usize = 4 << 20;

/// Why the pages cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It does not hold what a dump holds.
    #[error("byte {offset} of its XML: {message}")]
    Malformed {
        /// Byte of the decompressed file.
        offset: u64,
        /// What is wrong.
        message: String,
    },
}

/// Reads the pages of an export file. Memory is bounded by the longest page.
pub struct Pages<R> {
    reader: R,
    /// Bytes that are not done with, from `start` on.
    buffer: Vec<u8>,
    start: usize,
    /// Where in the file `buffer` begins.
    offset: u64,
    namespaces: Option<Arc<Namespaces>>,
    page_start: memmem::Finder<'static>,
    page_end: memmem::Finder<'static>,
}

/// A page as it stands in the file, from behind `<page>` to before `</page>`.
#[derive(Debug, Clone, Copy)]
pub struct RawPage<'a> {
    /// Byte of the file that it begins at.
    pub offset: u64,
    /// Its XML.
    pub bytes: &'a [u8],
}

impl<R: BufRead> Pages<R> {
    /// Of an export file's XML.
    pub fn new(reader: R) -> Self {
        Self {
            reader,
            buffer: Vec::new(),
            start: 0,
            offset: 0,
            namespaces: None,
            page_start: memmem::Finder::new("<page>"),
            page_end: memmem::Finder::new("</page>"),
        }
    }

    /// The names of the wiki's namespaces, once the first page has been read.
    pub fn namespaces(&self) -> Arc<Namespaces> {
        self.namespaces.clone().unwrap_or_default()
    }

    /// What the pages are read from.
    pub fn reader(&self) -> &R {
        &self.reader
    }

    /// The reader back.
    pub fn into_reader(self) -> R {
        self.reader
    }

    fn malformed(&self, at: usize, message: &str) -> DumpError {
        DumpError::Malformed { offset: self.offset + at as u64, message: message.to_owned() }
    }

    /// Reads on; false at the end of the file.
    fn read(&mut self) -> io::Result<bool> {
        let bytes = self.reader.fill_buf()?;
        let n = bytes.len();
        self.buffer.extend_from_slice(bytes);
        self.reader.consume(n);
        Ok(n > 0)
    }

    /// Looks for `what` from `from` on and reads until it is found. `None` at the end of the file, or where it is further
    /// than `most` bytes away.
    fn find(
        &mut self,
        what: &memmem::Finder<'static>,
        from: usize,
        most: usize,
    ) -> io::Result<Option<usize>> {
        let mut searched = from;
        loop {
            if let Some(at) = what.find(&self.buffer[searched..]) {
                return Ok(Some(searched + at));
            }
            searched = (self.buffer.len() + 1).saturating_sub(what.needle().len()).max(from);
            if self.buffer.len() - from > most || !self.read()? {
                return Ok(None);
            }
        }
    }

    /// The next page; `None` behind the last one. A file that ends before `</mediawiki>` has been cut short.
    pub fn next_page(&mut self) -> Result<Option<RawPage<'_>>, DumpError> {
        if self.start > 1 << 20 {
            self.offset += self.start as u64;
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        let (page_start, page_end) = (self.page_start.clone(), self.page_end.clone());
        let most = if self.namespaces.is_none() { LONGEST_HEADER } else { LONGEST_PAGE };
        let Some(open) = self.find(&page_start, self.start, most)? else {
            let rest = &self.buffer[self.start..];
            let (is_dump, begun) = (memmem::find(rest, b"<mediawiki").is_some(), self.namespaces.is_some());
            return match memmem::find(rest, b"</mediawiki>") {
                Some(_) if begun || is_dump => Ok(None),
                _ if begun || is_dump => Err(self.malformed(
                    self.buffer.len(),
                    "the file ends without `</mediawiki>`: it has been cut short",
                )),
                _ => Err(self
                    .malformed(self.start, "no `<mediawiki>` and no `<page>`, which a MediaWiki dump has")),
            };
        };
        if self.namespaces.is_none() {
            self.namespaces = Some(Arc::new(Namespaces::from_header(&self.buffer[self.start..open])));
        }
        let begin = open + page_start.needle().len();
        let Some(end) = self.find(&page_end, begin, LONGEST_PAGE)? else {
            return Err(self.malformed(open, "a page begins here that does not end"));
        };
        self.start = end + page_end.needle().len();
        Ok(Some(RawPage { offset: self.offset + open as u64, bytes: &self.buffer[begin..end] }))
    }
}

/// What a page's header says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageHead<'a> {
    /// As it is shown.
    pub title: Cow<'a, str>,
    /// The page's number in its wiki.
    pub id: &'a str,
    /// 0 for articles.
    pub namespace: i64,
    /// Where its text is nothing but a pointer to another page.
    pub redirect: bool,
    /// `wikitext` for all but a few.
    pub model: &'a str,
    /// Where in the page its text is, still escaped.
    text: Range<usize>,
}

impl<'a> RawPage<'a> {
    /// Reads the page's header. The message where it is not UTF-8 or has no title.
    pub fn head(&self) -> Result<PageHead<'a>, String> {
        let page = std::str::from_utf8(self.bytes).map_err(|error| {
            format!(
                "invalid UTF-8 at byte {}",
                self.offset + "<page>".len() as u64 + error.valid_up_to() as u64
            )
        })?;
        let text = memmem::find(self.bytes, b"<text").unwrap_or(page.len());
        let head = &page[..text];
        let title = element(head, "title").ok_or("a page without `<title>`")?;
        let namespace = match element(head, "ns") {
            Some(number) => number.trim().parse().map_err(|_| format!("`<ns>{number}</ns>` is no number"))?,
            // The first export formats had none.
            None => 0,
        };
        Ok(PageHead {
            title: unescape(title),
            id: element(head, "id").unwrap_or_default(),
            namespace,
            redirect: head.contains("<redirect"),
            model: element(head, "model").unwrap_or("wikitext"),
            text: contents(page, text),
        })
    }

    /// The page's wikitext, with the escapes of XML undone.
    pub fn text(&self, head: &PageHead) -> String {
        // The head was read, so that the page is UTF-8.
        unescape(&String::from_utf8_lossy(&self.bytes[head.text.clone()])).into_owned()
    }
}

/// What stands in the first element `name` of `xml`.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let open = format!("<{name}>");
    let begin = xml.find(&open)? + open.len();
    let length = xml[begin..].find("</")?;
    Some(&xml[begin..begin + length])
}

/// The range of what the element that begins at `at` holds; empty where it holds nothing.
fn contents(page: &str, at: usize) -> Range<usize> {
    let Some(close) = page[at..].find('>').map(|close| at + close) else { return at..at };
    if page[..close].ends_with('/') {
        return close..close;
    }
    let end = page[close..].find("</text").map_or(page.len(), |end| close + end);
    close + 1..end.max(close + 1)
}

/// Undoes the escapes of XML: the five named ones, and numbers.
pub fn unescape(text: &str) -> Cow<'_, str> {
    let Some(first) = text.find('&') else { return Cow::Borrowed(text) };
    let mut plain = String::with_capacity(text.len());
    plain.push_str(&text[..first]);
    let mut rest = &text[first..];
    while let Some(at) = rest.find('&') {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        let name = rest.bytes().take(12).position(|byte| byte == b';').map(|end| &rest[1..end]);
        match name.and_then(|name| Some((name, escape(name)?))) {
            Some((name, character)) => {
                plain.push(character);
                rest = &rest[name.len() + 2..];
            }
            None => {
                plain.push('&');
                rest = &rest[1..];
            }
        }
    }
    plain.push_str(rest);
    Cow::Owned(plain)
}

fn escape(name: &str) -> Option<char> {
    Some(match name {
        "lt" => '<',
        "gt" => '>',
        "amp" => '&',
        "quot" => '"',
        "apos" => '\'',
        _ => super::entities::numbered(name)?,
    })
}
