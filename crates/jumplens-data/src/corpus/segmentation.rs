//! Paragraphs to sentences: the bounds of Unicode's UAX 29, less those that only an abbreviation's full stop makes.
//!
//! UAX 29 knows every script's marks and takes no full stop before a small letter, or within a number, for an end. What it
//! cannot know is that `Gen.`, `U.S.` or `J.` go on with a capital. `docs/corpora.md` has what that is worth, measured.

use crate::files::lines;
use unicode_segmentation::UnicodeSegmentation;

/// A sentence of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sentence<'a> {
    /// Without the white space around it.
    pub text: &'a str,
    /// True for the last one of its paragraph.
    pub ends_paragraph: bool,
}

/// The sentences of `text`, whose paragraphs are its lines.
pub fn sentences(text: &str) -> impl Iterator<Item = Sentence<'_>> {
    lines(text).flat_map(|paragraph| {
        let mut sentences = split(paragraph.trim());
        let last = sentences.pop().map(|text| Sentence { text, ends_paragraph: true });
        sentences.into_iter().map(|text| Sentence { text, ends_paragraph: false }).chain(last)
    })
}

/// The sentences of one paragraph.
fn split(paragraph: &str) -> Vec<&str> {
    let mut sentences = Vec::new();
    let mut start = 0;
    let mut cut = |at: usize| {
        let sentence = paragraph[start..at].trim();
        if !sentence.is_empty() {
            sentences.push(sentence);
        }
        start = at;
    };
    for (begin, piece) in paragraph.split_sentence_bound_indices() {
        if begin > 0 && !goes_on(paragraph[..begin].trim_end(), paragraph[begin..].trim_start()) {
            cut(begin);
        }
        // For UAX 29 a number behind a full stop goes on with the small letters behind it.
        for (stop, _) in piece.match_indices(". ") {
            let after = piece[stop + 2..].trim_start();
            if after.starts_with(|c: char| c.is_ascii_digit()) && ends_with_a_word(&piece[..stop]) {
                cut(begin + stop + 1);
            }
        }
    }
    cut(paragraph.len());
    sentences
}

/// True where `text` ends with a word that is no abbreviation.
fn ends_with_a_word(text: &str) -> bool {
    let word = last_word(text);
    let lower = word.to_lowercase();
    word.chars().count() >= 4
        && word.chars().all(char::is_lowercase)
        && !BEFORE_NAMES.contains(&lower.as_str())
        && !ANYWHERE.contains(&lower.as_str())
}

/// What stands behind the last blank, bracket, quotation mark or dash.
fn last_word(text: &str) -> &str {
    let characters = text.char_indices().rev().take(WINDOW);
    let word = characters.take_while(|(_, c)| !c.is_whitespace() && !"([{/\"“‘—–".contains(*c)).last();
    word.map_or("", |(at, _)| &text[at..])
}

/// No abbreviation is longer, and no more is looked at, so that time is in proportion to the text.
const WINDOW: usize = 40;

/// Abbreviations that a name or a number follows: they end no sentence.
const BEFORE_NAMES: [&str; 69] = [
    "adm", "adj", "al", "apt", "art", "assoc", "asst", "ave", "brig", "bros", "bvt", "c", "ca", "capt", "cf",
    "ch", "chap", "cmdr", "cmdt", "col", "comdr", "cpl", "dr", "ed", "eds", "eg", "eq", "esp", "fig", "figs",
    "fr", "ft", "gen", "gov", "hon", "ie", "lieut", "lt", "maj", "messrs", "mme", "mlle", "mr", "mrs", "ms",
    "mt", "no", "nos", "nr", "op", "p", "pp", "pres", "prof", "rep", "rev", "sec", "sen", "sgt", "sr", "st",
    "sta", "ste", "supt", "vol", "vols", "vs", "v", "viz",
];
/// Abbreviations that may end a sentence as well.
const ANYWHERE: [&str; 44] = [
    "apr", "approx", "assn", "aug", "b", "co", "corp", "d", "dec", "dept", "dist", "div", "est", "etc",
    "feb", "fl", "govt", "inc", "jan", "jr", "jul", "jun", "lit", "ltd", "max", "min", "mo", "nat", "nov",
    "oct", "ph", "phd", "pl", "prev", "pt", "r", "rd", "resp", "sep", "sept", "univ", "var", "wash", "yr",
];
/// Words that a sentence begins with far more often than a name does.
const OPENERS: [&str; 66] = [
    "a",
    "according",
    "after",
    "all",
    "although",
    "an",
    "and",
    "another",
    "as",
    "at",
    "because",
    "before",
    "both",
    "but",
    "by",
    "during",
    "each",
    "every",
    "few",
    "for",
    "from",
    "he",
    "her",
    "his",
    "however",
    "i",
    "if",
    "in",
    "it",
    "its",
    "later",
    "many",
    "most",
    "moreover",
    "no",
    "on",
    "one",
    "other",
    "our",
    "several",
    "she",
    "since",
    "so",
    "some",
    "such",
    "that",
    "the",
    "their",
    "then",
    "there",
    "these",
    "they",
    "this",
    "those",
    "though",
    "thus",
    "to",
    "under",
    "until",
    "we",
    "what",
    "when",
    "where",
    "while",
    "with",
    "you",
];

/// True where `before` ends with a mark of punctuation, and yet the sentence goes on with `after`.
fn goes_on(before: &str, after: &str) -> bool {
    let beginning = after.char_indices().take(WINDOW).find(|(_, c)| c.is_alphanumeric());
    let next = beginning.map_or("", |(at, _)| &after[at..]);
    // A question or an exclamation within a sentence, a name such as `Yahoo!`.
    if next.starts_with(char::is_lowercase) {
        return true;
    }
    // A quotation may end after the full stop: what counts is the word before it.
    let Some(stem) = before.strip_suffix('.') else { return false };
    let word = last_word(stem);
    let letters = word.chars().filter(|c| c.is_alphabetic()).count();
    if letters == 0 {
        return false;
    }
    let opens = || {
        let first = next.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        OPENERS.contains(&first.to_lowercase().as_str())
    };
    let lower = word.to_lowercase();
    if word.contains('.') {
        // `U.S`, `e.g`, `Ph.D`, `J.R.R`: parts of a few letters each.
        let abbreviates = word.split('.').all(|part| part.chars().count() <= 2);
        let before_more = ["e.g", "i.e", "c.f"].contains(&lower.as_str());
        return abbreviates && (before_more || !opens());
    }
    let is_initial = letters == 1 && word.chars().count() == 1 && word.chars().all(char::is_uppercase);
    if is_initial {
        // `George W. Bush`, but also `Vitamin C. The`.
        return !opens();
    }
    if BEFORE_NAMES.contains(&lower.as_str()) {
        // `No` and others are words, too: at an end they stand in a sentence of their own, or before one.
        return !(opens()
            && ["no", "art", "fig", "apt", "al", "ft", "sta", "c", "v", "p", "ms", "ed"]
                .contains(&lower.as_str()));
    }
    ANYWHERE.contains(&lower.as_str()) && !opens()
}
