//! Corpora whose files are damaged: each is read or refused, in bounded time and memory.

#[path = "common/damage.rs"]
mod damage;

use damage::{read_damaged, write};
use jumplens::Result;
use jumplens::corpus::Wiki;
use jumplens::corpus::dump::unescape;
use jumplens::corpus::segmentation::sentences;
use jumplens::corpus::wikitext::prose;
use jumplens::corpus::{Corpus, DrawOptions, HowMany, Reading};
use jumplens::hub::Sources;
use jumplens::progress::Silent;
use std::io::{Read, Write};
use std::path::Path;

/// The dump of two of the shortest articles of the sample.
fn dump() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/enwiki-sample.xml.bz2");
    let mut xml = String::new();
    bzip2::read::MultiBzDecoder::new(std::fs::File::open(path).unwrap()).read_to_string(&mut xml).unwrap();
    let (header, pages) = xml.split_once("  <page>").unwrap();
    let mut pages: Vec<&str> = pages.split("  <page>").filter(|page| !page.contains("<redirect")).collect();
    pages.sort_by_key(|page| page.len());
    let page = |page: &str| format!("  <page>{}", page.trim_end().trim_end_matches("</mediawiki>"));
    format!("{header}{}{}</mediawiki>\n", page(pages[0]), page(pages[1]))
}

/// Draws a few sentences.
fn read(path: &Path) -> Result<()> {
    let corpus = Corpus::open(path.to_str().unwrap(), &Reading::default(), 0, &Sources::default(), &Silent)?;
    let options = DrawOptions { per_document: Some(HowMany::All), ..DrawOptions::default() };
    corpus.sentences(1, &options, 0, None, &Silent).map(drop)
}

#[test]
fn damaged_dumps_are_read_or_refused() {
    let (folder, xml) = (tempfile::tempdir().unwrap(), dump());
    let compressed = |level| {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::new(level));
        encoder.write_all(xml.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let streams = [compressed(1), compressed(9)].concat();
    for (name, bytes, times) in [
        ("dump.xml", xml.as_bytes(), 1500),
        ("dump.xml.bz2", &compressed(9), 600),
        ("streams.xml.bz2", &streams, 300),
    ] {
        let path = folder.path().join(name);
        read_damaged(name, bytes, times, |bytes| {
            write(&path, bytes);
            read(&path)
        });
    }
}

#[test]
fn damaged_lines_are_read_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        (
            "corpus.jsonl",
            "{\"text\": \"One. Two\\n\\u00e9\", \"id\": [1, null]}\n{\"text\": \"Three words are here.\"}\n",
        ),
        ("corpus.txt", "One sentence.\n\nAnother \u{e9} one.\n"),
    ] {
        let path = folder.path().join(name);
        read_damaged(name, text.as_bytes(), 1500, |bytes| {
            write(&path, bytes);
            let corpus =
                Corpus::open(path.to_str().unwrap(), &Reading::default(), 0, &Sources::default(), &Silent)?;
            corpus.sentences(1, &DrawOptions::default(), 0, None, &Silent).map(drop)
        });
    }
}

/// The crate that reads Parquet panics where pages are not what their column says.
#[test]
fn damaged_parquet_is_read_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let fixture =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/corpora/train-00001-of-00002.parquet");
    let path = folder.path().join("corpus.parquet");
    read_damaged("Parquet", &std::fs::read(fixture).unwrap(), 3000, |bytes| {
        write(&path, bytes);
        read(&path)
    });
}

/// Markup that is cut, left open or doubled leaves no trace in the prose.
#[test]
fn damaged_wikitext_becomes_prose() {
    let xml = dump();
    let text = xml.split_once("<text").unwrap().1.split_once('>').unwrap().1.split("</text>").next().unwrap();
    let mut characters: Vec<char> = unescape(text).chars().collect();
    let whole = characters.clone();
    for step in 0..3000_usize {
        if step % 20 == 0 {
            characters.clone_from(&whole);
        }
        // Far and wide, by two numbers that share no factor with most lengths.
        let at = step * 7919 % characters.len();
        let from = step * 104_729 % characters.len();
        match step % 3 {
            0 => drop(characters.drain(at..(at + 1 + step % 9).min(characters.len()))),
            1 => characters.insert(at, characters[from]),
            _ => {
                let piece = characters[from..(from + 12).min(characters.len())].to_vec();
                characters.splice(at..at, piece);
            }
        }
        let text: String = characters.iter().collect();
        let prose = prose(&text, &Wiki::default());
        for paragraph in prose.lines() {
            assert_eq!(paragraph, paragraph.trim());
            let words = sentences(paragraph).map(|sentence| sentence.text.len()).sum::<usize>();
            assert!(words <= paragraph.len(), "{paragraph}");
        }
        for markup in ["{{", "}}", "[[", "]]", "{|", "|}"] {
            assert!(!prose.contains(markup), "{text}: {prose}");
        }
    }
}
