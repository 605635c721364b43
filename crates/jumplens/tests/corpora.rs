//! Sentences from real files: a part of a Wikipedia dump, Parquet as pyarrow writes it, JSON lines, and a data set on a Hub
//! on loopback.

mod common;
#[path = "common/hub_server.rs"]
mod hub_server;

use hub_server::{Model, Server, etag};
use jumplens::corpus::dump::Pages;
use jumplens::corpus::segmentation::sentences;
use jumplens::corpus::wikitext::{HOLE, prose};
use jumplens::corpus::{
    Corpus, DataSetName, DrawOptions, DrawnSentences, HowMany, Reading, Rows, Wiki, dump,
};
use jumplens::files::sha256;
use jumplens::hub::{Hub, Sources};
use jumplens::manifest::SamplesRecord;
use jumplens::nn::Precision;
use jumplens::progress::{Observer, Silent};
use jumplens::run::{Existing, Run, SampleSource, Settings};
use jumplens::shortcut::{Fits, Pairs};
use jumplens::tokenize::Positions;
use jumplens::{Error, Result};
use parquet::basic::{BrotliLevel, Compression, Encoding, GzipLevel, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use proptest::prelude::*;
use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use unicode_segmentation::UnicodeSegmentation;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/corpora").join(name)
}

fn open(path: &Path, reading: &Reading) -> Result<Corpus> {
    Corpus::open(path.to_str().unwrap(), reading, 0, &common::sources(), &Silent)
}

fn draw(path: &Path, number: usize, options: &DrawOptions, seed: u64) -> DrawnSentences {
    open(path, &Reading::default()).unwrap().sentences(number, options, seed, None, &Silent).unwrap()
}

fn texts(drawn: &DrawnSentences) -> Vec<&str> {
    drawn.train.iter().map(|sentence| sentence.text.as_str()).collect()
}

fn all_of_each() -> DrawOptions {
    DrawOptions { per_document: Some(HowMany::All), ..DrawOptions::default() }
}

/// The dump's XML, decoded by the library alone.
fn xml() -> Vec<u8> {
    let mut xml = Vec::new();
    let compressed = fs::read(data("enwiki-sample.xml.bz2")).unwrap();
    bzip2::read::MultiBzDecoder::new(&compressed[..]).read_to_end(&mut xml).unwrap();
    xml
}

/// The prose of a page of the dump.
fn page(title: &str) -> String {
    let xml = xml();
    let mut pages = Pages::new(&xml[..]);
    loop {
        let page = pages.next_page().unwrap().unwrap_or_else(|| panic!("no page {title}"));
        let head = page.head().unwrap();
        if head.title == title {
            let text = page.text(&head);
            return prose(&text, &pages.wiki());
        }
    }
}

#[test]
fn the_sentences_of_a_labelled_page_are_found_whole() {
    let labels = fs::read_to_string(data("albert_sidney_johnston.txt")).unwrap();
    let labels: Vec<&str> = labels.lines().collect();
    let prose = page("Albert Sidney Johnston");
    let found: Vec<&str> = sentences(&prose).map(|sentence| sentence.text).collect();
    assert_eq!(found, labels);
    // What the abbreviations are worth: the bounds of UAX 29 alone.
    let plain: HashSet<&str> =
        prose.lines().flat_map(|line| line.split_sentence_bounds()).map(str::trim).collect();
    let whole = labels.iter().filter(|label| plain.contains(**label)).count();
    assert_eq!((whole, labels.len()), (123, 158));
}

#[test]
fn abbreviations_initials_and_numbers_end_no_sentence() {
    let cases: [(&str, &[&str]); 14] = [
        (
            "He met Dr. Smith, e.g. Mr. J. R. R. Tolkien. They spoke.",
            &["He met Dr. Smith, e.g. Mr. J. R. R. Tolkien.", "They spoke."],
        ),
        ("The U.S. Army grew. It won.", &["The U.S. Army grew.", "It won."]),
        ("It came from the U.S. The army grew.", &["It came from the U.S.", "The army grew."]),
        ("It rose by 3.5 percent, i.e. a lot.", &["It rose by 3.5 percent, i.e. a lot."]),
        ("See No. 5 and Fig. 3 on p. 44.", &["See No. 5 and Fig. 3 on p. 44."]),
        ("Most left. 85% of them returned.", &["Most left.", "85% of them returned."]),
        ("\"Go home.\" He left.", &["\"Go home.\"", "He left."]),
        ("Are you well? she asked. Yes!", &["Are you well? she asked.", "Yes!"]),
        ("At 5 p.m. Eastern Time it began.", &["At 5 p.m. Eastern Time it began."]),
        ("It ended at 5 p.m. He left.", &["It ended at 5 p.m.", "He left."]),
        ("Apple Inc. The firm grew.", &["Apple Inc.", "The firm grew."]),
        ("He joined Apple Inc. in May.", &["He joined Apple Inc. in May."]),
        ("これは文です。次の文です。", &["これは文です。", "次の文です。"]),
        ("Yes... and I fear seriously. Well.", &["Yes... and I fear seriously.", "Well."]),
    ];
    for (text, expected) in cases {
        let found: Vec<&str> = sentences(text).map(|sentence| sentence.text).collect();
        assert_eq!(found, expected);
    }
    let ends: Vec<bool> = sentences("One. Two.\nThree.\n\nFour. ").map(|s| s.ends_paragraph).collect();
    assert_eq!(ends, [false, true, true, true]);
}

/// Wants to stop after a while.
struct Stopped(Instant, Duration);

impl Observer for Stopped {
    fn cancelled(&self) -> bool {
        self.0.elapsed() > self.1
    }
}

#[test]
fn blank_lines_by_the_billion_are_passed_over_in_seconds_and_interrupted_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("blank.txt.zst");
    // A frame of blank lines, many times: 100 kB in all for each gigabyte.
    let (feeds, frames) = (64 << 20, 48);
    let frame = zstd::encode_all(&vec![b'\n'; feeds][..], 1).unwrap();
    let end = zstd::encode_all(&b"A sentence at the end.\r\n \r\n\r\r\xff"[..], 1).unwrap();
    fs::write(&path, [frame.repeat(frames), end].concat()).unwrap();
    let corpus = open(&path, &Reading::default()).unwrap();
    let stopped = Stopped(Instant::now(), Duration::from_millis(20));
    assert!(matches!(corpus.each_in_order(&stopped, |_, _| Ok(true)), Err(Error::Interrupted)));
    assert!(stopped.0.elapsed() < Duration::from_secs(2), "{:?}", stopped.0.elapsed());
    let (started, mut found) = (Instant::now(), Vec::new());
    let read = corpus.each_in_order(&Silent, |number, text| {
        found.push((number, text.to_owned()));
        Ok(true)
    });
    assert_eq!(found, [(0, "A sentence at the end.".to_owned())]);
    let Err(Error::NotUtf8 { place, .. }) = read else { panic!("no error") };
    assert_eq!(place, format!("line {}", feeds * frames + 5));
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    eprintln!("{} GB of line ends in {:.1?}", (feeds * frames) >> 30, started.elapsed());
}

#[test]
fn no_sentence_of_the_dump_has_markup_in_it() {
    let corpus = open(&data("enwiki-sample.xml.bz2"), &Reading::default()).unwrap();
    let all = corpus.first_sentences(usize::MAX, &Silent).unwrap();
    assert!(all.len() > 16_000, "{}", all.len());
    let markup = [
        "{{", "}}", "[[", "]]", "|}", "{|", "<ref", "</", "thumb|", "&nbsp;", "''", "==", "http://[", "( )",
        "()", "(,",
    ];
    for sentence in &all {
        let found = markup.iter().find(|markup| sentence.contains(**markup));
        assert!(
            found.is_none() && !sentence.contains(['\n', HOLE, '|', '\u{a0}']),
            "{found:?} in {sentence}"
        );
        assert!((20..=800).contains(&sentence.chars().count()));
    }
}

#[test]
fn a_dump_reads_alike_however_it_is_compressed_and_on_any_threads() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (xml, compressed) = (xml(), fs::read(data("enwiki-sample.xml.bz2")).unwrap());
    fs::write(at("a.xml"), &xml).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&xml).unwrap();
    fs::write(at("a.xml.gz"), gzip.finish().unwrap()).unwrap();
    fs::write(at("a.xml.bz2"), &compressed).unwrap();
    // A stream for every third of the file, as multistream dumps have one for every hundred pages.
    let mut streams = Vec::new();
    for part in xml.chunks(xml.len() / 3) {
        bzip2::read::BzEncoder::new(part, bzip2::Compression::best()).read_to_end(&mut streams).unwrap();
    }
    fs::write(at("multistream.xml.bz2"), &streams).unwrap();
    let mut expected: Option<Vec<_>> = None;
    for name in ["a.xml", "a.xml.gz", "a.xml.bz2", "multistream.xml.bz2"] {
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let drawn = pool.install(|| draw(&at(name), 80, &DrawOptions::default(), 4));
            assert_eq!(drawn.record.documents, Some(106));
            let bytes = fs::read(at(name)).unwrap();
            let file = &drawn.record.files[0];
            assert_eq!((file.bytes, &file.sha256), (bytes.len() as u64, &sha256(&bytes)));
            assert_eq!(drawn.record.sha256, file.sha256);
            assert!(*expected.get_or_insert(drawn.train.clone()) == drawn.train, "{name} on {threads}");
        }
    }
    // One sentence a page, and other ones for another seed.
    let expected = expected.unwrap();
    assert_eq!(expected.iter().map(|sentence| &sentence.document).collect::<BTreeSet<_>>().len(), 80);
    assert_ne!(expected, draw(&at("a.xml"), 80, &DrawOptions::default(), 5).train);
}

#[test]
fn what_is_asked_of_a_draw_is_what_comes() {
    let path = data("enwiki-sample.xml.bz2");
    let options = DrawOptions {
        per_document: Some(HowMany::Number(3)),
        paragraph_final: true,
        min_chars: Some(60),
        max_chars: Some(120),
        ..DrawOptions::default()
    };
    let drawn = draw(&path, 150, &options, 1);
    let mut by_page = std::collections::BTreeMap::<&str, usize>::new();
    for sentence in &drawn.train {
        *by_page.entry(&sentence.document).or_default() += 1;
        assert!(sentence.ends_paragraph && sentence.text.ends_with('\n'), "{sentence:?}");
        assert!((60..=120).contains(&sentence.text.trim_end().chars().count()));
        assert!(sentence.title.is_some());
    }
    assert!(by_page.values().all(|count| *count <= 3) && by_page.values().any(|count| *count == 3));
    // Exactly as many tokens as may be, by the tokenizer's own count.
    let tokenizer = jumplens::samples::tokenizer_of("tiny-gpt2", &common::sources(), &Silent).unwrap();
    let options = DrawOptions { min_tokens: Some(30), max_tokens: Some(33), ..DrawOptions::default() };
    let corpus = open(&path, &Reading::default()).unwrap();
    let drawn =
        corpus.sentences(50, &options, 1, Some(&|text| Ok(tokenizer.encode(text)?.len())), &Silent).unwrap();
    assert!(drawn.train.iter().all(|s| (30..=33).contains(&tokenizer.encode(&s.text).unwrap().len())));
    assert!(matches!(corpus.sentences(50, &options, 1, None, &Silent), Err(Error::Refused(_))));
    // A file, where each sentence is from, and what was read.
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("sentences.txt");
    jumplens::sentences::write_sentences(&out, &drawn, 1, false).unwrap();
    let text = fs::read_to_string(&out).unwrap();
    assert_eq!(text.lines().collect::<Vec<_>>(), texts(&drawn));
    assert_eq!(fs::read_to_string(folder.path().join("sentences.txt.jsonl")).unwrap().lines().count(), 50);
    let record: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.path().join("sentences.txt.json")).unwrap()).unwrap();
    assert_eq!(record["corpus"]["draw"]["max_tokens"], 33);
    assert_eq!(record["corpus"]["documents"], 106);
    assert_eq!(record["seed"], 1);
}

/// The sentences of the Parquet fixtures' rows, as their script makes them.
fn fixture_sentences(rows: std::ops::Range<usize>) -> BTreeSet<String> {
    rows.filter(|i| i % 10 != 7)
        .flat_map(|i| {
            [
                format!("Document {i} opens with this sentence."),
                format!("It closes with number {i}, naturally."),
                format!("A second paragraph of {i}."),
            ]
        })
        .collect()
}

#[test]
fn parquet_gives_every_text_and_nothing_else() {
    for (file, rows) in [
        ("train-00000-of-00002.parquet", 0..60),
        ("train-00001-of-00002.parquet", 60..100),
        ("gzip.parquet", 0..60),
        ("plain.parquet", 0..60),
        ("brotli.parquet", 0..12),
        ("lz4.parquet", 0..12),
    ] {
        let expected = fixture_sentences(rows.clone());
        let drawn = draw(&fixture(file), expected.len(), &all_of_each(), 3);
        assert_eq!(texts(&drawn).into_iter().map(str::to_owned).collect::<BTreeSet<_>>(), expected, "{file}");
        assert_eq!(drawn.record.documents, Some(rows.len() as u64));
        assert_eq!(drawn.record.sha256, sha256(&fs::read(fixture(file)).unwrap()));
        let of_41 = drawn.train.iter().find(|s| s.text.starts_with("Document 41 "));
        let document = of_41.map(|sentence| sentence.document.clone());
        assert_eq!(document, rows.contains(&41).then(|| format!("{file}:41")));
    }
    let other = |column: &str, file: &str| {
        let reading = Reading { text_column: column.into(), ..Reading::default() };
        open(&fixture(file), &reading).unwrap().sentences(1, &DrawOptions::default(), 0, None, &Silent)
    };
    let Err(Error::NoColumn { column, others, .. }) = other("body", "gzip.parquet") else { panic!() };
    assert_eq!((&*column, others.texts.join(" "), others.lists.len()), ("body", "id text".to_owned(), 0));
    assert!(matches!(other("score", "gzip.parquet"), Err(Error::NotTexts { .. })));
    assert!(matches!(other("text", "numbers.parquet"), Err(Error::NotTexts { .. })));
    assert!(matches!(other("text", "lzo.parquet"), Err(Error::Unsupported { .. })));
}

#[test]
fn every_compression_of_parquet_is_read() {
    let text = |i: usize| {
        format!("Document {i} has this sentence, and it is there once. {}", "The rest repeats. ".repeat(90))
    };
    let schema = Arc::new(parse_message_type("message rows { REQUIRED BYTE_ARRAY text (UTF8); }").unwrap());
    let folder = tempfile::tempdir().unwrap();
    for compression in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::default()),
        Compression::BROTLI(BrotliLevel::default()),
        Compression::ZSTD(ZstdLevel::default()),
        // As Hadoop frames it, and as it is by itself.
        Compression::LZ4,
        Compression::LZ4_RAW,
    ] {
        let path = folder.path().join("a.parquet");
        let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
        let file = fs::File::create(&path).unwrap();
        let mut writer = SerializedFileWriter::new(file, Arc::clone(&schema), properties).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let texts: Vec<ByteArray> = (0..300).map(|i| ByteArray::from(text(i).as_str())).collect();
        column.typed::<ByteArrayType>().write_batch(&texts, None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
        let drawn = draw(&path, 300, &all_of_each(), 3);
        let documents: BTreeSet<&str> = drawn.train.iter().map(|sentence| &*sentence.document).collect();
        assert_eq!((documents.len(), drawn.record.documents), (300, Some(300)), "{compression:?}");
    }
}

#[test]
fn lines_end_in_any_way_and_null_is_a_document_without_text() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let lines: Vec<String> = (0..9).map(|i| format!("Line {i} holds this one sentence.")).collect();
    for end in ["\n", "\r", "\r\n"] {
        fs::write(at("a.txt"), format!("{}{end}{end}", lines.join(end))).unwrap();
        assert_eq!(texts(&draw(&at("a.txt"), 9, &DrawOptions::default(), 0)), lines, "{end:?}");
        let json: Vec<String> =
            lines
                .iter()
                .enumerate()
                .map(|(i, line)| {
                    if i % 3 == 1 {
                        r#"{"text": null}"#.to_owned()
                    } else {
                        format!(r#"{{"text": "{line}"}}"#)
                    }
                })
                .collect();
        fs::write(at("a.jsonl"), json.join(end)).unwrap();
        let drawn = draw(&at("a.jsonl"), 6, &DrawOptions::default(), 0);
        assert_eq!(drawn.record.documents, Some(9));
        let expected = lines.iter().enumerate().filter(|(i, _)| i % 3 != 1).map(|(_, line)| line.as_str());
        assert_eq!(texts(&drawn).into_iter().collect::<BTreeSet<_>>(), expected.collect());
        // The paragraphs of a document do as well.
        let escaped = serde_json::to_string(&lines.join(end)).unwrap();
        fs::write(at("b.jsonl"), format!("{{\"text\": {escaped}}}")).unwrap();
        let drawn = draw(&at("b.jsonl"), 9, &DrawOptions { paragraph_final: true, ..all_of_each() }, 0);
        assert!(drawn.train.iter().all(|sentence| sentence.ends_paragraph), "{end:?}");
    }
}

#[test]
fn a_folder_of_shards_is_one_corpus() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"] {
        fs::copy(fixture(file), folder.path().join(file)).unwrap();
    }
    fs::write(folder.path().join("README.md"), "no shard").unwrap();
    let expected = fixture_sentences(0..100);
    let drawn = draw(folder.path(), expected.len(), &all_of_each(), 3);
    assert_eq!(texts(&drawn).into_iter().map(str::to_owned).collect::<BTreeSet<_>>(), expected);
    assert_eq!((drawn.record.documents, drawn.record.files.len()), (Some(100), 2));
}

#[test]
fn lines_are_read_as_what_they_are_said_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let lines: Vec<String> = (0..30)
        .map(|i| {
            let text = format!(
                "Line {i} has this first sentence. And it has a second one, {i}.\\nThird of {i} ends it here."
            );
            format!(
                "{{\"id\": {i}, \"meta\": {{\"text\": 5}}, \"text\": \"{text}\", \"more\": [1, \"x\"]}}\n"
            )
        })
        .collect();
    let jsonl = lines.concat();
    fs::write(at("a.jsonl"), &jsonl).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(jsonl.as_bytes()).unwrap();
    fs::write(at("a.jsonl.gz"), gzip.finish().unwrap()).unwrap();
    fs::write(at("a.jsonl.zst"), zstd::encode_all(jsonl.as_bytes(), 3).unwrap()).unwrap();
    for name in ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"] {
        let drawn = draw(&at(name), 90, &all_of_each(), 2);
        assert_eq!(drawn.train.iter().filter(|s| s.text.starts_with("Third of")).count(), 30);
        assert_eq!(drawn.record.sha256, sha256(&fs::read(at(name)).unwrap()), "{name}");
    }
    // Whole texts, where a row is a sentence.
    let read = |name: &str, rows: Rows| {
        let reading = Reading { rows: Some(rows), ..Reading::default() };
        open(&at(name), &reading).unwrap()
    };
    let drawn =
        read("a.jsonl", Rows::Sentences).sentences(30, &DrawOptions::default(), 2, None, &Silent).unwrap();
    assert!(drawn.train.iter().all(|s| s.text.contains("\nThird of")));
    // Plain text: in order, or drawn with what is there twice left out, or documents.
    let text = "A sentence that stands first.\nA sentence that is twice there.\n\nA sentence that is twice there.\nOne. Two of \
                them are longer than twenty characters. Like this last one here.\n";
    fs::write(at("b.txt"), text).unwrap();
    let in_order =
        read("b.txt", Rows::InOrder).sentences(3, &DrawOptions::default(), 9, None, &Silent).unwrap();
    assert_eq!(texts(&in_order), text.lines().filter(|line| !line.is_empty()).take(3).collect::<Vec<_>>());
    let sentences =
        read("b.txt", Rows::Sentences).sentences(3, &DrawOptions::default(), 9, None, &Silent).unwrap();
    assert_eq!(
        texts(&sentences).into_iter().collect::<BTreeSet<_>>(),
        text.lines().filter(|l| !l.is_empty()).collect()
    );
    let few = read("b.txt", Rows::Sentences).sentences(4, &DrawOptions::default(), 9, None, &Silent);
    assert!(matches!(few, Err(Error::TooFewDrawn { have: 3, documents: 4, .. })));
    let documents = read("b.txt", Rows::Documents).sentences(4, &all_of_each(), 9, None, &Silent).unwrap();
    assert!(texts(&documents).contains(&"Like this last one here."));
}

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn data_set() -> Model {
    let shard = |name: &str| fs::read(fixture(name)).unwrap();
    let files = [
        ("README.md", b"never fetched".to_vec()),
        ("20231101.en/train-00000-of-00002.parquet", shard("train-00000-of-00002.parquet")),
        ("20231101.en/train-00001-of-00002.parquet", shard("train-00001-of-00002.parquet")),
        ("20231101.en/test-00000-of-00001.parquet", shard("gzip.parquet")),
        ("20231101.de/train-00000-of-00001.parquet", shard("plain.parquet")),
    ];
    let files = files.map(|(name, bytes)| (name.to_owned(), bytes)).into();
    Model { commit: COMMIT.to_owned(), files, gate: None }
}

#[test]
fn of_a_data_set_on_the_hub_only_the_shards_that_are_needed_are_fetched() {
    let (cache, server) = (tempfile::tempdir().unwrap(), Server::start([("datasets/org/wiki", data_set())]));
    let hub = Hub { endpoint: server.endpoint.clone(), ..Hub::new(cache.path()) };
    let find = |name: &str, shards: Option<usize>, hub: &Hub| {
        let sources = Sources { hub: Some(hub.clone()), ..common::sources() };
        Corpus::open(name, &Reading { shards, ..Reading::default() }, 0, &sources, &Silent)
    };
    let name = "hf://datasets/org/wiki/20231101.en";
    // One of its two shards first.
    find(name, Some(1), &hub).unwrap();
    let fetched = |requests: Vec<String>| {
        requests.iter().filter(|r| r.starts_with("GET") && r.contains("/resolve/")).count()
    };
    assert!(fetched(server.requests()) >= 1);
    let snapshot = cache.path().join("datasets--org--wiki/snapshots").join(COMMIT);
    let there = || fs::read_dir(snapshot.join("20231101.en")).unwrap().count();
    assert_eq!(there(), 1);
    let offline = Hub { offline: true, ..hub.clone() };
    assert!(matches!(find(name, None, &offline), Err(Error::NotCached { .. })));
    // Then the other one, and nothing else.
    let corpus = find(name, None, &hub).unwrap();
    assert_eq!(there(), 2);
    assert!(!snapshot.join("README.md").exists() && !snapshot.join("20231101.de").exists());
    let expected = fixture_sentences(0..100);
    let drawn = corpus.sentences(expected.len(), &all_of_each(), 3, None, &Silent).unwrap();
    assert_eq!(texts(&drawn).into_iter().map(str::to_owned).collect::<BTreeSet<_>>(), expected);
    let record = &drawn.record;
    assert_eq!((&*record.id, record.revision.as_deref()), (name, Some(COMMIT)));
    let shards = ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"];
    for (file, shard) in record.files.iter().zip(shards) {
        assert_eq!(file.sha256, etag(&fs::read(fixture(shard)).unwrap()));
    }
    // Again: only the commit is asked for; and offline nothing is.
    server.requests();
    find(name, None, &hub).unwrap();
    assert_eq!(server.requests(), ["GET /api/datasets/org/wiki/revision/main"]);
    let again = find(&format!("{name}@{COMMIT}"), None, &offline).unwrap();
    assert_eq!(again.sentences(expected.len(), &all_of_each(), 3, None, &Silent).unwrap().train, drawn.train);
    assert!(server.requests().is_empty());
    // What is not there is said to be a data set's.
    let message = |name: &str| find(name, None, &hub).unwrap_err().to_string();
    assert!(message("hf://datasets/org/wiki").contains("`20231101.de`, `20231101.en`"));
    assert!(message("hf://datasets/org/wiki/fr").contains("no part `fr`"));
    assert!(message("hf://datasets/org/none").starts_with("no data set `org/none` at "));
    assert!(message(&format!("{name}@v9")).contains("data set `org/wiki` has no revision `v9`"));
    assert!(message("hf://datasets/only").contains("names no data set"));
    assert!(find(name, Some(3), &hub).unwrap_err().to_string().contains("has 2 shards"));
}

#[test]
fn names_of_data_sets() {
    let parse = |name: &str| DataSetName::parse(name).map(|n| (n.hub.id, n.hub.revision, n.config));
    let some = |id: &str, revision: Option<&str>, config: Option<&str>| {
        Some((id.to_owned(), revision.map(str::to_owned), config.map(str::to_owned)))
    };
    assert_eq!(
        parse("wikimedia/wikipedia/20231101.en"),
        some("wikimedia/wikipedia", None, Some("20231101.en"))
    );
    assert_eq!(parse("a/b@v1"), some("a/b", Some("v1"), None));
    assert_eq!(parse("a/b@v1/c"), some("a/b", Some("v1"), Some("c")));
    assert_eq!(parse("a/b/c@v1"), some("a/b", Some("v1"), Some("c")));
    for wrong in ["a", "", "a/b/c/d", "a/../b", "a/b/..", "../x/y"] {
        assert_eq!(parse(wrong), None, "{wrong}");
    }
}

/// A run on documents whose sentences say which document they are from, and how far it came.
fn begin(folder: &Path, options: DrawOptions, existing: Existing) -> Result<Run> {
    let corpus = folder.join("documents.jsonl");
    if !corpus.exists() {
        let lines = (0..60).map(|i| {
            let text: String =
                (0..5).map(|j| format!("Sentence {j} of document {i} is this one. ")).collect();
            format!("{{\"text\": \"{text}\"}}\n")
        });
        fs::write(&corpus, lines.collect::<String>()).unwrap();
    }
    let samples = SampleSource::Corpus {
        name: corpus.to_str().unwrap().to_owned(),
        train: 120,
        val: 60,
        mask: true,
        reading: Reading::default(),
        draw: options,
        positions: Positions { how_many: HowMany::Number(3), skip_first: 2 },
    };
    let settings = Settings {
        model: "tiny-gpt2".into(),
        samples,
        seed: 5,
        fits: Fits::plain(Pairs::ToFinal),
        dtype: Precision::F32,
        shard: None,
    };
    Run::begin(&folder.join("run"), &settings, existing, &common::sources(), &Silent)
}

/// Of the samples of a split: the document of each, and the text and position.
fn samples(folder: &Path, split: &str) -> Vec<(usize, String, usize)> {
    let text = fs::read_to_string(folder.join("run/samples").join(format!("{split}.jsonl"))).unwrap();
    text.lines()
        .map(|line| {
            let sample: serde_json::Value = serde_json::from_str(line).unwrap();
            let text = sample["text"].as_str().unwrap().to_owned();
            let document =
                text.split("document ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
            (document, text, sample["position"].as_u64().unwrap() as usize)
        })
        .collect()
}

#[test]
fn the_splits_share_no_document_and_no_sentence() {
    for split_by in [None, Some(jumplens::corpus::SplitBy::Sentence)] {
        let folder = tempfile::tempdir().unwrap();
        let run = begin(folder.path(), DrawOptions { split_by, ..all_of_each() }, Existing::Refuse).unwrap();
        let [train, val] = ["train", "val"].map(|split| samples(folder.path(), split));
        // Three positions of each sentence, next to one another, none of the first two.
        assert_eq!((train.len(), val.len()), (360, 180));
        assert_eq!((run.manifest().train, run.manifest().val), (360, 180));
        for sentence in train.chunks(3).chain(val.chunks(3)) {
            assert!(sentence.iter().all(|(_, text, _)| *text == sentence[0].1));
            assert!(sentence[0].2 >= 2 && sentence[0].2 < sentence[1].2 && sentence[1].2 < sentence[2].2);
        }
        let documents =
            |samples: &[(usize, String, usize)]| samples.iter().map(|s| s.0).collect::<BTreeSet<_>>();
        let texts =
            |samples: &[(usize, String, usize)]| samples.iter().map(|s| s.1.clone()).collect::<BTreeSet<_>>();
        assert!(texts(&train).is_disjoint(&texts(&val)));
        assert_eq!(documents(&train).is_disjoint(&documents(&val)), split_by.is_none());
        let SamplesRecord::Corpus { corpus, positions } = &run.manifest().samples else { panic!() };
        assert_eq!((corpus.sentences, corpus.documents), (Some([120, 60]), Some(60)));
        assert_eq!(*positions, Positions { how_many: HowMany::Number(3), skip_first: 2 });
    }
}

#[test]
fn a_resumed_run_does_not_read_its_corpus_again() {
    let folder = tempfile::tempdir().unwrap();
    begin(folder.path(), all_of_each(), Existing::Refuse).unwrap();
    let corpus = folder.path().join("documents.jsonl");
    let bytes = fs::read(&corpus).unwrap();
    fs::write(&corpus, vec![b'?'; bytes.len()]).unwrap();
    begin(folder.path(), all_of_each(), Existing::Resume).unwrap();
    // Another draw, or a file of another size, is another experiment.
    fs::write(&corpus, &bytes).unwrap();
    let other = DrawOptions { max_chars: Some(300), ..all_of_each() };
    let Err(Error::Differs { what, run, here, .. }) = begin(folder.path(), other, Existing::Resume) else {
        panic!()
    };
    assert_eq!((&what[..], &run[..], &here[..]), ("the most characters", "800", "300"));
    fs::write(&corpus, [&bytes[..], b"{\"text\": \"One more document is here now.\"}\n"].concat()).unwrap();
    let Err(Error::Changed { what, .. }) = begin(folder.path(), all_of_each(), Existing::Resume) else {
        panic!()
    };
    assert!(what.contains("documents.jsonl"), "{what}");
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_of_dumps_fail(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "<mediawiki>", "</mediawiki>", "<page>", "</page>", "<title>", "</title>", "<ns>", "</ns>", "0", "<id>", "</id>",
            "<text xml:space=\"preserve\">", "<text />", "</text>", "&lt;", "&amp;", "&#x41;", "&", "a", "\u{fffd}", "<redirect",
            "<namespace key=\"6\">", "</namespace>", "<model>", "</model>", "[[", "{{",
        ]), 0..40),
        noise in prop::collection::vec(any::<u8>(), 0..8), at in 0..200usize,
    ) {
        let mut bytes = pieces.concat().into_bytes();
        bytes.splice(at.min(bytes.len())..at.min(bytes.len()), noise);
        let mut pages = Pages::new(std::io::BufReader::with_capacity(7, &bytes[..]));
        while let Ok(Some(page)) = pages.next_page() {
            if let Ok(head) = page.head() {
                prose(&page.text(&head), &Wiki::default());
            }
        }
    }

    #[test]
    fn escapes_of_xml_come_back(text in any::<String>()) {
        let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
        prop_assert_eq!(dump::unescape(&escaped), text);
    }
}

/// A file of one column of strings.
fn write_parquet(path: &Path, texts: &[Option<String>], optional: bool, properties: WriterProperties) {
    let kind = if optional { "optional" } else { "required" };
    let schema = parse_message_type(&format!("message s {{ {kind} binary text (UTF8); }}")).unwrap();
    let file = fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let values: Vec<ByteArray> = texts.iter().flatten().map(|text| text.as_str().into()).collect();
    let levels: Vec<i16> = texts.iter().map(|text| i16::from(text.is_some())).collect();
    let levels = optional.then_some(&levels[..]);
    column.typed::<ByteArrayType>().write_batch(&values, levels, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn parquet_pages_of_every_kind_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let text = |i: usize| {
        let begin = &"a sentence begins as many others do, "[..20 + i * 7 % 17];
        (!i.is_multiple_of(5)).then(|| format!("{begin}{i}{}", "x".repeat(i % 13)))
    };
    let texts: Vec<Option<String>> = (0..3000).map(text).collect();
    let compressions = [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(Default::default()),
        Compression::BROTLI(Default::default()),
        Compression::ZSTD(Default::default()),
        Compression::LZ4,
        Compression::LZ4_RAW,
    ];
    let encodings = [
        None,
        Some(Encoding::PLAIN),
        Some(Encoding::DELTA_LENGTH_BYTE_ARRAY),
        Some(Encoding::DELTA_BYTE_ARRAY),
    ];
    for (compression, encoding) in compressions.into_iter().flat_map(|c| encodings.map(|e| (c, e))) {
        for (version, optional) in [
            (WriterVersion::PARQUET_1_0, true),
            (WriterVersion::PARQUET_2_0, true),
            (WriterVersion::PARQUET_1_0, false),
            (WriterVersion::PARQUET_2_0, false),
        ] {
            let texts: Vec<Option<String>> =
                texts.iter().filter(|text| optional || text.is_some()).cloned().collect();
            let mut properties = WriterProperties::builder()
                .set_writer_version(version)
                .set_compression(compression)
                .set_dictionary_enabled(encoding.is_none())
                .set_data_page_row_count_limit(700)
                .set_write_batch_size(100);
            if let Some(encoding) = encoding {
                properties = properties.set_encoding(encoding);
            }
            write_parquet(&path, &texts, optional, properties.build());
            let reading = Reading { rows: Some(Rows::Sentences), ..Reading::default() };
            let corpus =
                Corpus::open(path.to_str().unwrap(), &reading, 0, &Sources::default(), &Silent).unwrap();
            let expected: Vec<String> = texts.into_iter().flatten().collect();
            let about = format!("{compression:?} {encoding:?} {version:?} {optional}");
            assert!(corpus.first_sentences(5000, &Silent).unwrap() == expected, "{about}");
        }
    }
}
