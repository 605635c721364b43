//! Wikipedia dumps: the pages of a MediaWiki export file (`pages-articles.xml`), one after another as they stream by.
//!
//! Export files are written by one program in one form, with all text escaped, so that a page is what stands between
//! `<page>` and `</page>`, and nothing of the rest of XML is needed. See <https://www.mediawiki.org/wiki/Help:Export>.
//!
//! A dump may have one revision of each page or its whole history, which may be longer than memory: revisions stream by
//! as well, and the newest so far is kept.

use super::wiki::Wiki;
use memchr::memmem;
use std::borrow::Cow;
use std::io::{self, BufRead};
use std::ops::Range;
use std::sync::Arc;

/// No revision of a page comes near this, whatever its namespace: MediaWiki takes 2 MB of wikitext. Nor does what stands
/// before and behind a page's revisions.
const LONGEST_REVISION: usize = 64 << 20;
/// The header, which has the names of the namespaces, is a few kB long.
const LONGEST_HEADER: usize = 4 << 20;
/// Bytes that are done with are let go of when there are so many of them.
const DONE_WITH: usize = 1 << 20;

const REVISION: &[u8] = b"<revision>";
const PAGE_END: &[u8] = b"</page>";

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

/// Reads the pages of an export file. Memory is bounded by the longest revision.
pub struct Pages<R> {
    reader: R,
    /// Bytes that are not done with, from `start` on.
    buffer: Vec<u8>,
    start: usize,
    /// Where in the file `buffer` begins.
    offset: u64,
    wiki: Option<Arc<Wiki>>,
    /// Of the page that was read last: what stands before its revisions, then the newest of them.
    page: Vec<u8>,
    page_start: memmem::Finder<'static>,
    revision_end: memmem::Finder<'static>,
}

/// A page with its newest revision: the one of the latest time, and of several the one that stands last in the file.
#[derive(Debug, Clone, Copy)]
pub struct RawPage<'a> {
    /// Byte of the file that it begins at.
    pub offset: u64,
    /// Its XML, from behind `<page>` to before its first revision, and then the newest one.
    pub bytes: &'a [u8],
    /// Where in `bytes` the revision begins, and where in the file.
    revision: (usize, u64),
}

impl<R: BufRead> Pages<R> {
    /// Of an export file's XML.
    pub fn new(reader: R) -> Self {
        Self {
            reader,
            buffer: Vec::new(),
            start: 0,
            offset: 0,
            wiki: None,
            page: Vec::new(),
            page_start: memmem::Finder::new("<page>"),
            revision_end: memmem::Finder::new("</revision>"),
        }
    }

    /// What the header says of the wiki, once the first page has been read.
    pub fn wiki(&self) -> Arc<Wiki> {
        self.wiki.clone().unwrap_or_default()
    }

    /// What the pages are read from.
    pub fn reader(&self) -> &R {
        &self.reader
    }

    /// The reader back.
    pub fn into_reader(self) -> R {
        self.reader
    }

    /// The error that there is something wrong at the byte `at` of the buffer.
    fn malformed(&self, at: usize, message: &str) -> DumpError {
        malformed(self.offset + at as u64, message)
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

    /// The next `<revision>` (true) or `</page>` from `from` on. `None` at the end of the file, or where it is too far away.
    fn find_revision_or_end(&mut self, from: usize) -> io::Result<Option<(usize, bool)>> {
        let mut at = from;
        loop {
            match memchr::memchr(b'<', &self.buffer[at..]) {
                Some(found) => {
                    at += found;
                    let rest = &self.buffer[at..];
                    let is_revision = rest.starts_with(REVISION);
                    if is_revision || rest.starts_with(PAGE_END) {
                        return Ok(Some((at, is_revision)));
                    }
                    if rest.len() >= REVISION.len() {
                        at += 1;
                        continue;
                    }
                }
                None => at = self.buffer.len(),
            }
            if at - from > LONGEST_REVISION || !self.read()? {
                return Ok(None);
            }
        }
    }

    /// Is done with what stands before `at` in the buffer. Gives where in the buffer that is now.
    fn pass(&mut self, at: usize) -> usize {
        self.start = at;
        if self.start > DONE_WITH {
            self.offset += self.start as u64;
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.start
    }

    /// The next page; `None` behind the last one. A file that ends before `</mediawiki>` has been cut short.
    pub fn next_page(&mut self) -> Result<Option<RawPage<'_>>, DumpError> {
        let (page_start, revision_end) = (self.page_start.clone(), self.revision_end.clone());
        let most = if self.wiki.is_none() { LONGEST_HEADER } else { LONGEST_REVISION };
        let Some(open) = self.find(&page_start, self.start, most)? else {
            let rest = &self.buffer[self.start..];
            let (is_dump, begun) = (memmem::find(rest, b"<mediawiki").is_some(), self.wiki.is_some());
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
        if self.wiki.is_none() {
            self.wiki = Some(Arc::new(Wiki::from_header(&self.buffer[self.start..open])));
        }
        let offset = self.offset + open as u64;
        // Read on only as far as a page may go, so that more than that says why nothing was found.
        let unended = |pages: &Self, from: usize| {
            let message = match pages.buffer.len() - from > LONGEST_REVISION {
                true => format!(
                    "a page begins here with more than {} MB in one piece, which is more than is read",
                    LONGEST_REVISION >> 20
                ),
                false => "a page begins here that does not end".to_owned(),
            };
            malformed(offset, &message)
        };
        self.page.clear();
        let (mut head, mut revision, mut newest) = (None, 0, None);
        let mut at = self.pass(open + page_start.needle().len());
        loop {
            let begin = at;
            let found = self.find_revision_or_end(at)?;
            let (tag, is_revision) = found.ok_or_else(|| unended(self, at))?;
            let head = *head.get_or_insert_with(|| {
                self.page.extend_from_slice(&self.buffer[begin..tag]);
                self.page.len()
            });
            if !is_revision {
                self.pass(tag + PAGE_END.len());
                return Ok(Some(RawPage { offset, bytes: &self.page, revision: (head, revision) }));
            }
            let end = self.find(&revision_end, tag, LONGEST_REVISION)?;
            let end = end.ok_or_else(|| unended(self, tag))?;
            let xml = &self.buffer[tag..end + revision_end.needle().len()];
            if memmem::find(xml, PAGE_END).is_some() {
                return Err(self.malformed(tag, "a revision begins here that does not end"));
            }
            let time = timestamp(xml);
            // One without a time is taken to be newer than those before it.
            if time.is_none() || time >= newest {
                newest = time.or(newest);
                revision = self.offset + tag as u64;
                self.page.truncate(head);
                self.page.extend_from_slice(xml);
            }
            let end = tag + xml.len();
            at = self.pass(end);
        }
    }
}

fn malformed(offset: u64, message: &str) -> DumpError {
    DumpError::Malformed { offset, message: message.to_owned() }
}

/// When a revision was made, as a number that grows with time: `2001-02-03T04:05:06Z` is 20010203040506.
fn timestamp(revision: &[u8]) -> Option<u64> {
    const OPEN: &[u8] = b"<timestamp>";
    const DIGITS: usize = 14;
    let text = memmem::find(revision, b"<text").unwrap_or(revision.len());
    let begin = memmem::find(&revision[..text], OPEN)? + OPEN.len();
    let value = revision[begin..].iter().take_while(|byte| **byte != b'<');
    let digits = value.filter(|byte| byte.is_ascii_digit()).take(DIGITS);
    let (time, n) = digits.fold((0, 0), |(time, n), digit| (time * 10 + u64::from(digit - b'0'), n + 1));
    (n > 0).then(|| time * 10u64.pow((DIGITS - n) as u32))
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

/// Why a page's header cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub enum NoHead {
    /// The page is not UTF-8.
    NotUtf8(String),
    /// It is not what a dump has.
    Malformed(String),
}

impl<'a> RawPage<'a> {
    /// Reads the page's header.
    pub fn head(&self) -> Result<PageHead<'a>, NoHead> {
        let page = std::str::from_utf8(self.bytes).map_err(|error| {
            let (at, (revision, in_file)) = (error.valid_up_to(), self.revision);
            let byte = match at.checked_sub(revision) {
                Some(at) => in_file + at as u64,
                None => self.offset + ("<page>".len() + at) as u64,
            };
            NoHead::NotUtf8(format!("invalid UTF-8 at byte {byte}"))
        })?;
        let text = memmem::find(self.bytes, b"<text").unwrap_or(page.len());
        let head = &page[..text];
        let title =
            element(head, "title").ok_or_else(|| NoHead::Malformed("a page without `<title>`".into()))?;
        let namespace = match element(head, "ns") {
            Some(number) => {
                let malformed = |_| NoHead::Malformed(format!("`<ns>{number}</ns>` is no number"));
                number.trim().parse().map_err(malformed)?
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufReader, Read};

    /// The wikitext of each page of a dump of these `pages`.
    fn texts(pages: &str) -> Vec<String> {
        let xml = format!("<mediawiki>{pages}</mediawiki>");
        let whole = read(&xml, 1 << 16);
        assert_eq!(whole, read(&xml, 1), "read byte by byte");
        whole
    }

    fn read(xml: &str, at_a_time: usize) -> Vec<String> {
        let mut pages = Pages::new(BufReader::with_capacity(at_a_time, xml.as_bytes()));
        let mut texts = Vec::new();
        while let Some(page) = pages.next_page().unwrap() {
            texts.push(page.text(&page.head().unwrap()));
        }
        texts
    }

    fn revision(time: &str, text: &str) -> String {
        let time = if time.is_empty() { String::new() } else { format!("<timestamp>{time}</timestamp>") };
        format!(
            "<revision><id>7</id>{time}<comment>&lt;/page&gt;</comment>\n<text bytes=\"1\">{text}</text></revision>\n"
        )
    }

    fn page(revisions: &[String]) -> String {
        let upload = "<upload><timestamp>2030-01-01T00:00:00Z</timestamp><comment>a</comment></upload>";
        format!("<page><title>A</title><ns>0</ns><id>1</id>\n{}{upload}</page>", revisions.concat())
    }

    #[test]
    fn the_newest_revision_of_a_page_is_its_text() {
        let [a, b, c] = ["2010-01-01T00:00:00Z", "2011-01-01T00:00:00Z", "2012-01-01T00:00:00Z"];
        let cases: [(&[(&str, &str)], &str); 9] = [
            (&[(a, "one"), (b, "two"), (c, "three")], "three"),
            (&[(c, "three"), (b, "two"), (a, "one")], "three"),
            (&[(b, "two"), (c, "three"), (a, "one")], "three"),
            (&[(a, "one"), (a, "again")], "again"),
            (&[("", "one"), ("", "two")], "two"),
            (&[(c, "three"), ("", "none"), (a, "one")], "none"),
            (&[("20120101000000", "three"), (b, "two")], "three"),
            (&[(a, "")], ""),
            (&[], ""),
        ];
        for (revisions, expected) in cases {
            let revisions: Vec<String> = revisions.iter().map(|(time, text)| revision(time, text)).collect();
            let both = page(&revisions) + &page(&[revision(a, "another")]);
            assert_eq!(texts(&both), [expected, "another"], "{revisions:?}");
        }
    }

    #[test]
    fn a_deleted_text_is_none_and_a_page_is_what_its_head_says() {
        let old = revision("2010-01-01T00:00:00Z", "old");
        let deleted =
            "<revision><timestamp>2011-01-01T00:00:00Z</timestamp><text deleted=\"deleted\" /></revision>";
        assert_eq!(texts(&page(&[old.clone(), deleted.to_owned()])), [""]);
        let xml = format!(
            "<mediawiki><page><title>A</title><ns>4</ns><id>9</id><redirect title=\"B\" />{old}{}</page></mediawiki>",
            old.replace("<text", "<model>css</model><text").replace("2010", "2015")
        );
        let mut pages = Pages::new(xml.as_bytes());
        let page = pages.next_page().unwrap().unwrap();
        let head = page.head().unwrap();
        assert_eq!((head.id, head.namespace, head.redirect, head.model), ("9", 4, true, "css"));
    }

    #[test]
    fn what_does_not_end_is_named_by_its_byte() {
        let fails = |xml: &str| {
            let error = Pages::new(io::BufReader::new(xml.as_bytes())).next_page().map(drop).unwrap_err();
            error.to_string()
        };
        let whole = format!("<mediawiki>{}", page(&[revision("", "a"), revision("", "b")]));
        for end in ["</revision>", "</page>"] {
            let cut = &whole[..whole.rfind(end).unwrap()];
            assert!(
                fails(cut).starts_with("byte 11 of its XML: a page begins here that does not end"),
                "{cut}"
            );
        }
        let unended = whole.replacen("</revision>", "", 2) + &page(&[revision("", "c")]);
        let at = whole.find("<revision>").unwrap();
        assert_eq!(
            fails(&unended),
            format!("byte {at} of its XML: a revision begins here that does not end")
        );
        // A revision that is longer than any is not read to its end to see whether it has one.
        let long = "x".repeat(LONGEST_REVISION + (1 << 20));
        for long in [revision("", &long), long] {
            let error = fails(&format!("<mediawiki>{}</mediawiki>", page(&[long])));
            assert!(
                error.starts_with("byte 11 of its XML: ") && error.contains("more than 64 MB"),
                "{error}"
            );
        }
        // Where in the file, though the revision before it is not kept.
        let history = whole.replace(">b<", ">b\u{fffd}<").into_bytes();
        let at = memmem::find(&history, b"\xef\xbf\xbd").unwrap();
        let broken = [&history[..at], b"\xff", &history[at + 3..]].concat();
        let mut pages = Pages::new(&broken[..]);
        let error = pages.next_page().unwrap().unwrap().head().unwrap_err();
        assert_eq!(error, NoHead::NotUtf8(format!("invalid UTF-8 at byte {at}")));
    }

    #[test]
    fn a_history_longer_than_memory_takes_little_of_it() {
        /// So many revisions, made as they are read.
        struct History {
            left: usize,
            piece: Vec<u8>,
            at: usize,
        }
        impl Read for History {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                if self.at == self.piece.len() && self.left > 0 {
                    self.left -= 1;
                    self.at = 0;
                    self.piece = match self.left {
                        0 => b"</page></mediawiki>".to_vec(),
                        _ => {
                            revision("2010-01-01T00:00:00Z", &self.left.to_string().repeat(3000)).into_bytes()
                        }
                    };
                }
                let n = into.len().min(self.piece.len() - self.at);
                into[..n].copy_from_slice(&self.piece[self.at..self.at + n]);
                self.at += n;
                Ok(n)
            }
        }
        let piece = b"<mediawiki><page><title>A</title><ns>0</ns><id>1</id>".to_vec();
        let mut pages = Pages::new(BufReader::new(History { left: 10_000, piece, at: 0 }));
        let page = pages.next_page().unwrap().unwrap();
        assert_eq!(page.text(&page.head().unwrap()), "1".repeat(3000));
        assert!(pages.next_page().unwrap().is_none());
        assert!(pages.offset > 100 << 20, "{} bytes of history", pages.offset);
        let held = pages.buffer.capacity() + pages.page.capacity();
        assert!(held < 8 << 20, "{held} bytes held");
    }
}
