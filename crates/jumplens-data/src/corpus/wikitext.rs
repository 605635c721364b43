//! Wikitext to plain prose: the running text of an article, without what surrounds it.
//!
//! One pass over the text. What may hold other markup (`{{…}}`, `[[…]]`, `[http…]`, `{|…|}`) is put on a stack when it
//! opens and, when it closes, made into the words it stands for, or into nothing. Every byte is looked at a bounded number
//! of times, whatever is nested or left open, and no text makes it fail. `docs/corpora.md` says what becomes of what.

use super::entities::entity;
use super::templates::{Rendered, render};
use super::variants;
use super::wiki::Wiki;
use memchr::memmem;

/// Stands where something had no words, such as a formula, or where markup is broken: a sentence that has it is not whole.
pub const HOLE: char = '\u{fffc}';

/// Of markup nested deeper than this nothing is kept.
const DEEPEST: usize = 40;
/// The longest tag, its attributes included.
const LONGEST_TAG: usize = 2000;
/// The longest entity's name, with `&` and `;`.
const LONGEST_ENTITY: usize = 12;

/// The paragraphs of an article, one a line. Headings, lists, tables and what is indented are left out, and there is a
/// [`HOLE`] where a sentence lost some of its words.
pub fn prose(wikitext: &str, wiki: &Wiki) -> String {
    let flat = Flattener::new(wikitext, wiki).flatten();
    let mut prose = String::with_capacity(flat.len());
    let mut paragraph = String::new();
    for line in flat.lines().chain([""]) {
        let line = line.trim();
        let is_text = !line.starts_with(['=', '*', '#', ';', ':', '|', '!']) && !line.starts_with("----");
        if is_text && !line.is_empty() {
            if !paragraph.is_empty() {
                paragraph.push(' ');
            }
            paragraph.push_str(line);
            continue;
        }
        let mut clean = tidy(&paragraph);
        // It led up to a list, a table or a formula, which is gone.
        if clean.ends_with(':') {
            clean.push(HOLE);
        }
        if clean.contains(char::is_alphabetic) {
            prose.push_str(&clean);
            prose.push('\n');
        }
        paragraph.clear();
    }
    prose
}

/// What waits for its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Template {
        /// `{{{`, a template's own argument.
        argument: bool,
    },
    Link {
        /// A `|` has been seen.
        piped: bool,
    },
    External,
    Table,
    /// `-{`, words in the variants of a language.
    Variants,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    kind: Kind,
    /// Where in the output it begins, with a [`HOLE`] that stays if it is never closed.
    at: usize,
}

/// Tags whose contents are not wikitext, and what is left of them.
const RAW_TAGS: [(&str, &str); 20] = [
    ("ref", ""),
    ("references", ""),
    ("gallery", "\n"),
    ("timeline", "\n"),
    ("imagemap", "\n"),
    ("includeonly", ""),
    ("templatestyles", ""),
    ("table", "\n"),
    ("pre", "\n"),
    ("poem", "\n"),
    ("categorytree", "\n"),
    ("inputbox", "\n"),
    ("syntaxhighlight", "\u{fffc}"),
    ("source", "\u{fffc}"),
    ("math", "\u{fffc}"),
    ("chem", "\u{fffc}"),
    ("ce", "\u{fffc}"),
    ("hiero", "\u{fffc}"),
    ("score", "\u{fffc}"),
    ("graph", "\n"),
];

/// Tags that are left out, their contents kept: those within a line, and those that end one.
const INLINE_TAGS: [&str; 35] = [
    "abbr",
    "b",
    "bdi",
    "bdo",
    "big",
    "cite",
    "code",
    "data",
    "del",
    "dfn",
    "em",
    "font",
    "i",
    "ins",
    "kbd",
    "mark",
    "noinclude",
    "nowiki",
    "onlyinclude",
    "q",
    "rb",
    "rp",
    "rt",
    "ruby",
    "s",
    "samp",
    "small",
    "span",
    "strike",
    "strong",
    "sub",
    "sup",
    "time",
    "tt",
    "u",
];
const BLOCK_TAGS: [&str; 22] = [
    "blockquote",
    "caption",
    "center",
    "dd",
    "div",
    "dl",
    "dt",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "hr",
    "li",
    "ol",
    "p",
    "section",
    "td",
    "th",
    "tr",
    "ul",
];

struct Flattener<'a> {
    text: &'a str,
    at: usize,
    out: String,
    stack: Vec<Open>,
    /// How many of each are on the stack.
    templates: usize,
    tables: usize,
    /// For each `-{` on the stack, how many templates and tables are below it.
    variants: Vec<usize>,
    /// Raw tags that are not closed anywhere behind this point.
    unclosed: Vec<&'static str>,
    wiki: &'a Wiki,
}

impl<'a> Flattener<'a> {
    fn new(text: &'a str, wiki: &'a Wiki) -> Self {
        let (out, variants) = (String::with_capacity(text.len()), vec![]);
        Self { text, at: 0, out, stack: vec![], templates: 0, tables: 0, variants, unclosed: vec![], wiki }
    }

    fn flatten(mut self) -> String {
        while let Some(next) = self.rest().bytes().position(is_special) {
            let plain = &self.text[self.at..self.at + next];
            self.out.push_str(plain);
            self.at += next;
            self.special();
        }
        self.out.push_str(&self.text[self.at..]);
        // A table that is not closed goes on to the end of the page.
        if let Some(table) = self.stack.iter().find(|open| open.kind == Kind::Table) {
            self.out.truncate(table.at);
        }
        self.out
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// True where nothing but blanks and marks of indentation stand before this point of the line.
    fn begins_line(&self) -> bool {
        let before = self.text.as_bytes()[..self.at].iter().rev();
        before.take(8).find(|byte| !b" \t:*#".contains(byte)).is_none_or(|byte| *byte == b'\n')
    }

    /// Handles the markup, or the character, that begins here.
    fn special(&mut self) {
        let rest = self.rest();
        match rest.as_bytes()[0] {
            b'{' if rest.starts_with("{{") => {
                let argument = rest.starts_with("{{{") && !rest.starts_with("{{{{");
                self.open(Kind::Template { argument }, if argument { 3 } else { 2 });
            }
            b'{' if self.follows_hyphen() => {
                self.out.pop();
                self.open(Kind::Variants, 1);
            }
            b'{' if rest.starts_with("{|") => {
                if self.begins_line() {
                    self.open(Kind::Table, 2);
                } else {
                    self.hole(2);
                }
            }
            b'}' if rest.starts_with("}-") && self.is_in_variants() => self.close_variants(),
            b'}' if rest.starts_with("}}") => self.close_template(),
            b'|' => self.pipe(rest),
            b'[' if rest.starts_with("[[") => self.open(Kind::Link { piped: false }, 2),
            b'[' if is_address(&rest[1..]) => self.open(Kind::External, 1),
            b']' => self.close_link(rest),
            b'<' => self.tag(rest),
            b'&' => match entity_at(rest) {
                Some((character, length)) => {
                    self.out.push(character);
                    self.at += length;
                }
                None => self.literal(1),
            },
            b'\'' => {
                // Two are italics, three bold, five both; four are a quote and bold, and more than five quotes and both.
                let quotes = run(rest, b'\'');
                let kept = match quotes {
                    1 => 1,
                    2 | 3 | 5 => 0,
                    4 => 1,
                    more => more - 5,
                };
                self.out.extend(std::iter::repeat_n('\'', kept));
                self.at += quotes;
            }
            b'_' if rest.starts_with("__") => {
                let name = rest[2..].bytes().take_while(u8::is_ascii_uppercase).count();
                if name > 0 && rest[2 + name..].starts_with("__") {
                    self.at += name + 4;
                } else {
                    self.literal(run(rest, b'_'));
                }
            }
            b'\n' => {
                // Links to addresses end with the line, and the names of pages do not go over it.
                while let Some(Open { kind: Kind::External | Kind::Link { piped: false }, .. }) =
                    self.stack.last()
                {
                    self.stack.pop();
                }
                self.literal(1);
            }
            _ => self.literal(1),
        }
    }

    /// True where this brace makes a `-{` of a hyphen, in a wiki that has them.
    fn follows_hyphen(&self) -> bool {
        self.wiki.has_variants && self.text.as_bytes()[..self.at].ends_with(b"-") && self.out.ends_with('-')
    }

    /// True where the topmost `-{` has no open template or table in it.
    fn is_in_variants(&self) -> bool {
        self.variants.last() == Some(&(self.templates + self.tables))
    }

    fn literal(&mut self, length: usize) {
        self.out.push_str(&self.text[self.at..self.at + length]);
        self.at += length;
    }

    /// Puts a [`HOLE`] in the place of `length` bytes.
    fn hole(&mut self, length: usize) {
        self.out.push(HOLE);
        self.at += length;
    }

    /// Leaves out what ended here; the blank before it too, where a sentence goes on with a mark of punctuation.
    fn leave_out(&mut self) {
        if self.rest().starts_with(['.', ',', ';', ':', ')']) && self.out.ends_with(' ') {
            self.out.pop();
        }
    }

    fn open(&mut self, kind: Kind, length: usize) {
        match kind {
            Kind::Template { .. } => self.templates += 1,
            Kind::Table => self.tables += 1,
            Kind::Variants => self.variants.push(self.templates + self.tables),
            _ => {}
        }
        self.stack.push(Open { kind, at: self.out.len() });
        self.hole(length);
    }

    /// Takes the topmost of a kind from the stack, and what was left open in it; gives what it holds.
    fn close(&mut self, wanted: impl Fn(Kind) -> bool) -> Option<(Open, String)> {
        while let Some(open) = self.stack.pop() {
            match open.kind {
                Kind::Template { .. } => self.templates -= 1,
                Kind::Table => self.tables -= 1,
                Kind::Variants => drop(self.variants.pop()),
                _ => {}
            }
            if wanted(open.kind) {
                let inside = if self.stack.len() < DEEPEST {
                    self.out[open.at + HOLE.len_utf8()..].to_owned()
                } else {
                    HOLE.to_string()
                };
                self.out.truncate(open.at);
                return Some((open, inside));
            }
        }
        None
    }

    fn close_template(&mut self) {
        if self.templates == 0 {
            return self.hole(2);
        }
        self.at += 2;
        let Some((open, inside)) = self.close(|kind| matches!(kind, Kind::Template { .. })) else { return };
        if open.kind == (Kind::Template { argument: true }) {
            self.at += usize::from(self.rest().starts_with('}'));
            self.out.push(HOLE);
            return;
        }
        self.put(render(&inside));
    }

    fn close_variants(&mut self) {
        self.at += 2;
        let Some((_, inside)) = self.close(|kind| kind == Kind::Variants) else { return };
        self.put(variants::render(&inside));
    }

    fn put(&mut self, rendered: Rendered) {
        match rendered {
            Rendered::Text(text) => self.out.push_str(&text),
            Rendered::Nothing => self.leave_out(),
            Rendered::Hole => self.out.push(HOLE),
        }
    }

    fn pipe(&mut self, rest: &str) {
        if let Some(Open { kind: Kind::Link { piped }, .. }) = self.stack.last_mut() {
            *piped = true;
        }
        // `|}}` is the end of a template whose last argument is empty.
        let ends_template = self.templates > 0 && rest.starts_with("|}}") && !rest.starts_with("|}}}");
        let ends_variants = rest.starts_with("|}-") && self.is_in_variants();
        if !rest.starts_with("|}") || ends_template || ends_variants {
            return self.literal(1);
        }
        if self.tables == 0 || !self.begins_line() {
            return self.hole(2);
        }
        self.at += 2;
        self.close(|kind| kind == Kind::Table);
        self.out.push('\n');
    }

    fn close_link(&mut self, rest: &str) {
        if let Some(Open { kind: Kind::External, .. }) = self.stack.last() {
            let inside = self.close(|kind| kind == Kind::External).map(|(_, inside)| inside);
            self.at += 1;
            // The address, a blank, and the words that are shown.
            if let Some((_, words)) =
                inside.as_deref().and_then(|inside| inside.trim().split_once([' ', '\u{a0}']))
            {
                self.out.push_str(words.trim());
            } else {
                self.leave_out();
            }
            return;
        }
        if !rest.starts_with("]]") {
            return self.literal(1);
        }
        if !matches!(self.stack.last(), Some(Open { kind: Kind::Link { .. }, .. })) {
            return self.hole(2);
        }
        self.at += 2;
        let Some((_, inside)) = self.close(|kind| matches!(kind, Kind::Link { .. })) else { return };
        match link_text(&inside, self.wiki) {
            Some(words) => self.out.push_str(words),
            None => self.leave_out(),
        }
    }

    fn tag(&mut self, rest: &'a str) {
        if rest.starts_with("<!--") {
            self.at += memmem::find(rest.as_bytes(), b"-->").map_or(rest.len(), |end| end + 3);
            return;
        }
        let closes = rest.starts_with("</");
        let name_at = 1 + usize::from(closes);
        let length = rest[name_at..].bytes().take_while(u8::is_ascii_alphanumeric).count();
        let name = rest[name_at..name_at + length].to_ascii_lowercase();
        let raw = RAW_TAGS.iter().find(|(raw, _)| *raw == name);
        let known = |tags: &[&str]| tags.contains(&name.as_str());
        let (inline, block) = (known(&INLINE_TAGS), known(&BLOCK_TAGS));
        if raw.is_none() && !inline && !block && name != "br" {
            return self.literal(1);
        }
        // A tag that does not end before the next one begins is none.
        let end = rest.bytes().skip(1).take(LONGEST_TAG).position(|byte| byte == b'>' || byte == b'<');
        let Some(end) = end.map(|end| end + 2).filter(|end| rest.as_bytes()[end - 1] == b'>') else {
            return self.hole(1);
        };
        let closed_at_once = rest[..end].ends_with("/>");
        self.at += end;
        match raw {
            Some((name, left)) if !closes && !closed_at_once => {
                let Some((_, after)) = self.find_end(name) else { return self.out.push(HOLE) };
                self.at = after;
                self.out.push_str(left);
                if left.is_empty() {
                    self.leave_out();
                }
            }
            Some(_) => self.leave_out(),
            None if name == "nowiki" && !closes && !closed_at_once => {
                let Some((inside, after)) = self.find_end("nowiki") else { return };
                self.at = after;
                let plain = inside.split('&').enumerate().map(|(index, part)| {
                    let whole = format!("{}{part}", if index == 0 { "" } else { "&" });
                    match entity_at(&whole) {
                        Some((character, length)) => format!("{character}{}", &whole[length..]),
                        None => whole,
                    }
                });
                self.out.extend(plain);
            }
            None if name == "br" => self.out.push(' '),
            None if block => self.out.push('\n'),
            None => {}
        }
    }

    /// From here on: what stands before `</name…>`, and where that ends. Looked for in vain once at most.
    fn find_end(&mut self, name: &'static str) -> Option<(&'a str, usize)> {
        if self.unclosed.contains(&name) {
            return None;
        }
        let bytes = self.text.as_bytes();
        for found in memmem::find_iter(&bytes[self.at..], b"</") {
            let (start, behind) = (self.at + found, self.at + found + 2 + name.len());
            let is_it =
                bytes.get(start + 2..behind).is_some_and(|tag| tag.eq_ignore_ascii_case(name.as_bytes()));
            if is_it && !bytes.get(behind).is_some_and(u8::is_ascii_alphanumeric) {
                let end = memchr::memchr(b'>', &bytes[behind..]).map_or(bytes.len(), |end| behind + end + 1);
                return Some((&self.text[self.at..start], end));
            }
        }
        self.unclosed.push(name);
        None
    }
}

fn is_special(byte: u8) -> bool {
    matches!(byte, b'{' | b'}' | b'|' | b'[' | b']' | b'<' | b'&' | b'\'' | b'_' | b'\n')
}

/// How often `byte` stands at the beginning of `text`.
fn run(text: &str, byte: u8) -> usize {
    text.bytes().take_while(|other| *other == byte).count()
}

fn is_address(text: &str) -> bool {
    ["http://", "https://", "//", "ftp://", "mailto:", "news:", "irc://"]
        .iter()
        .any(|scheme| text.get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme)))
}

/// The character of the entity that `text` begins with, and the entity's length.
fn entity_at(text: &str) -> Option<(char, usize)> {
    let end = text.bytes().take(LONGEST_ENTITY).position(|byte| byte == b';')?;
    Some((entity(text[..end].strip_prefix('&')?)?, end + 1))
}

/// The words that a link shows; `None` for files, categories and links to other languages, which show none.
fn link_text<'a>(inside: &'a str, wiki: &Wiki) -> Option<&'a str> {
    let (target, words) = match inside.split_once('|') {
        Some((target, words)) => (target.trim(), Some(words)),
        None => (inside.trim(), None),
    };
    if wiki.hides(target) {
        return None;
    }
    let other_language = |target: &str| {
        target.split_once(':').is_some_and(|(code, _)| {
            (2..=3).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_lowercase())
        })
    };
    match words {
        Some(words) if !words.trim().is_empty() => Some(words),
        // `[[Page (kind)|]]` shows `Page`.
        Some(_) => Some(target.split(" (").next().unwrap_or(target)),
        None if other_language(target) => None,
        None => Some(target.trim_start_matches(':')),
    }
}

/// Makes one paragraph of what is left: blanks are made one, and what was taken out of brackets or hung on a word, as
/// footnotes do, leaves no trace. Elsewhere the [`HOLE`]s stay.
fn tidy(paragraph: &str) -> String {
    let mut tidy = String::with_capacity(paragraph.len());
    let mut brackets = 0usize;
    let mut characters = paragraph.chars().filter(|c| !is_invisible(*c)).peekable();
    while let Some(character) = characters.next() {
        let last = tidy.chars().next_back();
        match character {
            HOLE => {
                while characters.next_if_eq(&HOLE).is_some() {}
                let next = characters.peek().copied();
                let ends = next.is_none_or(|next| next.is_whitespace() || ",.;:)".contains(next));
                let hangs = last.is_some_and(|last| last != ' ' && last != '(') && ends;
                let after_the_end =
                    next.is_none() && tidy.trim_end().ends_with(['.', '!', '?', '"', '”', ')']);
                if last.is_some() && brackets == 0 && !hangs && !after_the_end {
                    tidy.push(HOLE);
                }
            }
            // Of markup that was cut in two: prose has none.
            '|' => tidy.push(HOLE),
            // Two brackets that only quotes or a note kept apart, or that are shown as they are.
            '[' | ']' | '{' | '}' if last == Some(character) => {
                tidy.pop();
                tidy.push(HOLE);
            }
            blank if blank.is_whitespace() => {
                if last.is_some_and(|last| last != ' ') && !(brackets > 0 && last == Some('(')) {
                    tidy.push(' ');
                }
            }
            '(' => {
                brackets += 1;
                tidy.push('(');
            }
            ')' => {
                if brackets > 0 {
                    brackets -= 1;
                    tidy.truncate(tidy.trim_end_matches([' ', ',', ';', ':']).len());
                    if tidy.ends_with('(') {
                        tidy.pop();
                        tidy.truncate(tidy.trim_end().len());
                        continue;
                    }
                }
                tidy.push(')');
            }
            // Of a list in brackets, whatever is left of it.
            ',' | ';' | ':' if brackets > 0 && tidy.trim_end().ends_with(['(', ',', ';']) => {}
            ',' | ';' if brackets > 0 => {
                tidy.truncate(tidy.trim_end().len());
                tidy.push(character);
            }
            other => tidy.push(other),
        }
    }
    tidy.truncate(tidy.trim_end().len());
    tidy
}

fn is_invisible(character: char) -> bool {
    matches!(character, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::{Duration, Instant};

    fn plain(wikitext: &str) -> String {
        prose(wikitext, &Wiki::default()).trim_end().to_owned()
    }

    #[test]
    fn markup_becomes_the_words_it_shows() {
        let cases = [
            ("'''Bold''' and ''italic'' and '''''both''''' of it.", "Bold and italic and both of it."),
            (
                "A [[link]], a [[page (kind)|named one]], [[cat]]s and [[Page (kind)|]].",
                "A link, a named one, cats and Page.",
            ),
            ("See [http://a.org the site] or [http://b.org].", "See the site or."),
            ("[[File:A.jpg|thumb|A [[b|c]] with {{d}}]]Text begins.", "Text begins."),
            ("Ends.[[Category:Things]]\n[[de:Ding]]", "Ends."),
            ("A [[:Category:Things]] shows.", "A Category:Things shows."),
            (
                "One<ref name=\"a\">Note, [[x]] {{cite|y}}</ref> two<ref name=c/> three.<ref>d</ref>",
                "One two three.",
            ),
            ("Kept <!-- never\n shown --> whole.", "Kept whole."),
            (
                "Shown: <nowiki>[not] &lt;markup&gt; ''here''</nowiki> ends.",
                "Shown: [not] <markup> ''here'' ends.",
            ),
            ("A&nbsp;B &ndash; C&#32;&#x44; &amp;nbsp; &unknown; E.", "A B – C D &nbsp; &unknown; E."),
            ("Before.\n{|\n| a || {{b|{{c}}}}\n|-\n{|\n| inner\n|}\n| d\n|}\nAfter.", "Before.\nAfter."),
            ("{{Infobox\n| a = [[b]]\n| c = {{d|e=f}}\n}}\nFirst words.", "First words."),
            ("It is {{convert|5|km|mi}} and {{convert|10|to|20|C}} far.", "It is 5 km and 10 to 20 °C far."),
            (
                "The {{lang|fr|mot}} of {{nowrap|a b}}{{'s}} {{circa|1900}}{{snd}}so.",
                "The mot of a b's c. 1900 – so.",
            ),
            ("He ({{IPA-en|x}}; born {{circa|1900}}) said {{frac|1|2}}.", "He (born c. 1900) said 1/2."),
            ("Empty ({{lang-el|x}}) brackets ( {{audio}}, ) go.", "Empty brackets go."),
            (
                "Noted.{{sfn|A|p=1}} Then{{citation needed|date=May}} more.{{unknown note}}",
                "Noted. Then more.",
            ),
            ("= Heading =\n* item\n# item\n: indented\n;term\nProse.\n----", "Prose."),
            ("One line\nand the next.\n\nAnother paragraph.", "One line and the next.\nAnother paragraph."),
            ("H<sub>2</sub>O and x<sup>2</sup>,<br/>so <small>it</small> is.", "H2O and x2, so it is."),
            ("__NOTOC__ snake_case __init__ stays.", "snake_case __init__ stays."),
            ("Rock ''n'' roll and ''''quoted''''.", "Rock n roll and 'quoted'."),
            ("1 < 2 and a > b hold.", "1 < 2 and a > b hold."),
            ("{{formatnum:1234}} people.", "1234 people."),
        ];
        for (wikitext, expected) in cases {
            assert_eq!(plain(wikitext), expected, "{wikitext}");
        }
    }

    #[test]
    fn a_sentence_that_lost_words_has_a_hole() {
        let cases = [
            "It grows by <math>x^2</math> a year.",
            "The area is {{unknown|5}} in all.",
            "Never {{closed here.",
            "Never [[closed here.",
            "Closed ]] here, and }} here.",
            "Cut [[File:A.jpg|thumb|off here.",
            "A list of:\n* one",
            "Left |} over.",
            "A <ref never ended.",
            "An <ref>unclosed note.",
            "An ]'''] venture.",
            "Opened {<ref>note</ref>{ and {<!-- -->| here.",
            "Shown <nowiki>[[as it is]]</nowiki> here.",
        ];
        for wikitext in cases {
            let plain = plain(wikitext);
            assert!(plain.contains(HOLE), "{wikitext}: {plain}");
            for markup in ["{{", "}}", "[[", "]]", "|}", "{|", "|thumb", "<ref"] {
                assert!(!plain.contains(markup), "{wikitext}: {plain}");
            }
        }
    }

    /// Pieces of markup in any order.
    fn soup() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "{{",
            "}}",
            "{{{",
            "}}}",
            "[[",
            "]]",
            "[",
            "]",
            "[http://a b",
            "-{",
            "}-",
            "-{T|",
            "zh-hans:",
            "{|",
            "|}",
            "|",
            "\n",
            "\n{|\n",
            "\n|}\n",
            "<ref>",
            "</ref>",
            "<ref name=a />",
            "<nowiki>",
            "</nowiki>",
            "<!--",
            "-->",
            "<math>",
            "</math>",
            "<",
            ">",
            "'",
            "''",
            "'''",
            "&nbsp;",
            "&",
            ";",
            "=",
            "==",
            "*",
            ":",
            "#",
            "(",
            ")",
            ",",
            ".",
            " ",
            "a",
            "é",
            "word",
            "File:",
            "lang|fr|",
            "nowrap|",
            "convert|1|to|",
            "__A__",
            "\u{fffc}",
            "<table>",
            "</table>",
            "<br>",
            "</b>",
            "\u{200b}",
        ]);
        prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn no_text_makes_it_fail(text in prop_oneof![soup(), any::<String>()]) {
            let prose = prose(&text, &Wiki::default());
            for paragraph in prose.lines() {
                for markup in ["{{", "}}", "[[", "]]", "{|", "|}"] {
                    prop_assert!(!paragraph.contains(markup), "{:?}: {:?}", text, paragraph);
                }
                prop_assert_eq!(paragraph, paragraph.trim());
            }
        }
    }

    #[test]
    fn time_grows_with_the_text_and_no_faster() {
        let patterns = [
            "{{",
            "[[",
            "{{{",
            "[[a|",
            "{{a|",
            "\n{|\n",
            "[http://a ",
            "<ref>",
            "<nowiki>",
            "<math>",
            "<b",
            "<!--",
            "&",
            "'''",
            "}}",
            "]]",
            "{{a|[[b|",
            "{{nowrap|",
            "(",
            "( ,",
            "__",
            "|",
            "? ",
            "a. ",
            "<ref></b>",
            "{{}}",
            "[[|]]",
            "-{",
            "-{a|",
            "-{zh:a;",
            "; zh:",
            "-{{{[[",
        ];
        for pattern in patterns {
            for closing in ["", "}}", "]]", "}-"] {
                let n = 200_000;
                let text = format!("{}{}", pattern.repeat(n), closing.repeat(n));
                let start = Instant::now();
                let prose = prose(&text, &Wiki::default());
                let _ = super::super::segmentation::sentences(&prose).count();
                assert!(
                    start.elapsed() < Duration::from_secs(5),
                    "{pattern} {closing}: {:?}",
                    start.elapsed()
                );
            }
        }
    }
}
