//! Small files that ask for much: whatever a reader makes of them, it takes no more memory than a stated bound.

#[path = "common/counting.rs"]
mod counting;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use counting::{Counting, bound, peak};
use jumplens::corpus::{Corpus, DrawOptions, Reading, Rows};
use jumplens::hub::{ModelFiles, SourceFile, Sources, Vocabulary};
use jumplens::models::{Kind, Spec, load};
use jumplens::nn::Precision;
use jumplens::progress::Silent;
use jumplens::shortcut::Foreign;
use jumplens::tokenize::{Tokenizer, read_samples};
use serde_json::json;
use std::fs;
use std::io::Write;
use std::path::Path;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const GPT2: &str = r#"{"model_type": "gpt2", "vocab_size": 1000000, "n_layer": 1, "n_head": 1, "n_embd": 1000000, "n_positions": 64}"#;

fn spec() -> Spec {
    Spec {
        family: "gpt2",
        kind: Kind::Causal,
        n_layers: 1,
        d_model: 1,
        n_heads: 1,
        vocab_size: 1000,
        max_positions: 64,
        parts: &[],
    }
}

/// Whether each reader took `bytes` for sound.
fn model(at: &Path, name: &str, bytes: &[u8]) -> bool {
    fs::write(at.join(name), bytes).unwrap();
    fs::write(at.join("config.json"), GPT2).unwrap();
    let path = if name.ends_with(".gguf") { at.join(name) } else { at.to_owned() };
    let files = ModelFiles::find(path.to_str().unwrap(), &Sources::default(), &Silent);
    files.and_then(|files| load(&files, Precision::F32)).is_ok()
}

fn maps(at: &Path, name: &str, bytes: &[u8]) -> bool {
    fs::write(at.join(name), bytes).unwrap();
    Foreign::read(&at.join(name)).is_ok()
}

fn tokenizer(at: &Path, _: &str, bytes: &[u8]) -> bool {
    let table = json!({ "type": "Precompiled", "precompiled_charsmap": BASE64_STANDARD.encode(bytes) });
    let whole = json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": { "type": "Sequence", "normalizers": [{ "type": "NFC" }, table] },
        "model": { "type": "WordLevel", "vocab": { "a": 0, "[UNK]": 1 }, "unk_token": "[UNK]" },
    });
    fs::write(at.join("tokenizer.json"), whole.to_string()).unwrap();
    let file = SourceFile::open(&at.join("tokenizer.json")).unwrap();
    Tokenizer::open(&Vocabulary::Json(file).into(), &spec(), false).is_ok()
}

fn corpus(at: &Path, name: &str, bytes: &[u8]) -> bool {
    fs::write(at.join(name), bytes).unwrap();
    let reading = Reading { rows: Some(Rows::Sentences), ..Reading::default() };
    let corpus =
        Corpus::open(at.join(name).to_str().unwrap(), &reading, 0, &Sources::default(), &Silent).unwrap();
    corpus.sentences(3, &DrawOptions::default(), 0, None, &Silent).is_ok()
}

/// Values of Thrift's compact protocol.
enum Thrift<'a> {
    Int(i64),
    Long(i64),
    Text(&'a str),
    Struct(Vec<u8>),
    Structs(Vec<Vec<u8>>),
    Ints(Vec<i64>),
    Texts(Vec<&'a str>),
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn zigzag(value: i64) -> Vec<u8> {
    varint(((value << 1) ^ (value >> 63)) as u64)
}

fn fields(fields: Vec<(u8, Thrift)>) -> Vec<u8> {
    let text = |text: &str| [varint(text.len() as u64), text.as_bytes().to_vec()].concat();
    let list =
        |kind: u8, items: Vec<Vec<u8>>| [vec![(items.len() as u8) << 4 | kind], items.concat()].concat();
    let (mut bytes, mut last) = (Vec::new(), 0);
    for (id, value) in fields {
        let (kind, value) = match value {
            Thrift::Int(value) => (5, zigzag(value)),
            Thrift::Long(value) => (6, zigzag(value)),
            Thrift::Text(value) => (8, text(value)),
            Thrift::Struct(value) => (12, value),
            Thrift::Structs(values) => (9, list(12, values)),
            Thrift::Ints(values) => (9, list(5, values.into_iter().map(zigzag).collect())),
            Thrift::Texts(values) => (9, list(8, values.into_iter().map(text).collect())),
        };
        bytes.push((id - last) << 4 | kind);
        bytes.extend(value);
        last = id;
    }
    bytes.push(0);
    bytes
}

const PLAIN: i64 = 0;
const DELTA_LENGTH: i64 = 6;
const DELTA_STRINGS: i64 = 7;
const DICTIONARY: i64 = 8;
const UNCOMPRESSED: i64 = 0;
const SNAPPY: i64 = 1;
const GZIP: i64 = 2;
const BROTLI: i64 = 4;

/// A page of `values` that says it has `decoded` bytes.
fn page(encoding: i64, values: i64, decoded: i64, bytes: &[u8]) -> Vec<u8> {
    let sizes =
        |kind| vec![(1, Thrift::Int(kind)), (2, Thrift::Int(decoded)), (3, Thrift::Int(bytes.len() as i64))];
    let mut header = sizes(if encoding == DICTIONARY { 2 } else { 0 });
    header.push(match encoding {
        DICTIONARY => (7, Thrift::Struct(fields(vec![(1, Thrift::Int(values)), (2, Thrift::Int(PLAIN))]))),
        _ => {
            let levels = [(3, Thrift::Int(3)), (4, Thrift::Int(3))];
            let data = [(1, Thrift::Int(values)), (2, Thrift::Int(encoding))].into_iter().chain(levels);
            (5, Thrift::Struct(fields(data.collect())))
        }
    });
    [fields(header), bytes.to_vec()].concat()
}

/// A file of one column of strings.
fn parquet(codec: i64, rows: i64, pages: &[Vec<u8>]) -> Vec<u8> {
    use Thrift::{Int, Ints, Long, Struct, Structs, Text, Texts};
    let pages = pages.concat();
    let column = fields(vec![
        (1, Int(6)),
        (2, Ints(vec![PLAIN])),
        (3, Texts(vec!["text"])),
        (4, Int(codec)),
        (5, Long(rows)),
        (6, Long(pages.len() as i64)),
        (7, Long(pages.len() as i64)),
        (9, Long(4)),
    ]);
    let chunk = fields(vec![(2, Long(4)), (3, Struct(column))]);
    let group = fields(vec![(1, Structs(vec![chunk])), (2, Long(pages.len() as i64)), (3, Long(rows))]);
    let root = fields(vec![(4, Text("schema")), (5, Int(1))]);
    let leaf = fields(vec![(1, Int(6)), (3, Int(0)), (4, Text("text")), (6, Int(0))]);
    let footer =
        fields(vec![(1, Int(1)), (2, Structs(vec![root, leaf])), (3, Long(rows)), (4, Structs(vec![group]))]);
    let length = (footer.len() as u32).to_le_bytes();
    [&b"PAR1"[..], &pages, &footer, &length, b"PAR1"].concat()
}

/// `n` packed differences that are all `step`, one run of blocks that has no byte for each.
fn delta(n: u64, first: i64, step: i64) -> Vec<u8> {
    let block = 1 << 23;
    let header = [varint(block), varint(1), varint(n), zigzag(first)].concat();
    let blocks = (n - 1).div_ceil(block) as usize;
    [header, [zigzag(step), vec![0]].concat().repeat(blocks)].concat()
}

fn strings(texts: &[&str]) -> Vec<u8> {
    texts.iter().flat_map(|text| [&(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()).collect()
}

/// As small as the compression makes them.
fn zeros(codec: i64, megabytes: usize) -> Vec<u8> {
    let zeros = vec![0; 1 << 20];
    let mut packed = Vec::new();
    let fill = |to: &mut dyn Write| (0..megabytes).for_each(|_| to.write_all(&zeros).unwrap());
    match codec {
        GZIP => {
            let mut encoder = flate2::write::GzEncoder::new(&mut packed, flate2::Compression::fast());
            fill(&mut encoder);
            encoder.finish().unwrap();
        }
        _ => fill(&mut brotli::CompressorWriter::new(&mut packed, 1 << 12, 1, 20)),
    }
    packed
}

/// An empty zip file whose end says how many records there are.
fn zip(records: u16) -> Vec<u8> {
    let mut end = b"PK\x05\x06\0\0\0\0".to_vec();
    for field in [records, records] {
        end.extend(field.to_le_bytes());
    }
    end.extend([0xff; 4]);
    end.extend([0; 6]);
    end
}

fn gguf(rest: &[&[u8]]) -> Vec<u8> {
    [&[&b"GGUF"[..], &3u32.to_le_bytes()][..], rest].concat().concat()
}

/// Of samples, from a large file without a line end.
fn samples(folder: &Path, name: &str, _: &[u8]) -> bool {
    let path = folder.join(name);
    std::fs::File::create(&path).unwrap().set_len(1 << 30).unwrap();
    let error = read_samples(&path, &spec()).unwrap_err().to_string();
    assert!(error.ends_with("line 1: longer than 16 MB"), "{error}");
    false
}

type Reader = fn(&Path, &str, &[u8]) -> bool;

#[test]
fn no_reader_takes_memory_on_a_claim() {
    let most = u64::MAX.to_le_bytes();
    let (none, one) = (0u64.to_le_bytes(), 1u64.to_le_bytes());
    let key = [&3u64.to_le_bytes()[..], b"a.b"].concat();
    let (text, list) = (8u32.to_le_bytes(), 9u32.to_le_bytes());
    let header =
        br#"{"wte.weight":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4000000000000]}}"#;
    let npy = |shape: &str| {
        let header = format!("{{'descr': '<f4', 'fortran_order': True, 'shape': {shape}, }}\n");
        [&b"\x93NUMPY\x01\0"[..], &(header.len() as u16).to_le_bytes(), header.as_bytes(), &[0; 8]].concat()
    };
    let suffix = "x".repeat(1 << 20);
    let mut cases: Vec<(&str, Reader, &str, Vec<u8>)> = vec![
        ("gguf: tensors", model, "a.gguf", gguf(&[&most, &none])),
        ("gguf: values", model, "b.gguf", gguf(&[&none, &most])),
        ("gguf: a key", model, "c.gguf", gguf(&[&none, &one, &most])),
        ("gguf: a text", model, "d.gguf", gguf(&[&none, &one, &key, &text, &most])),
        ("gguf: a list", model, "e.gguf", gguf(&[&none, &one, &key, &list, &4u32.to_le_bytes(), &most])),
        ("gguf: texts", model, "f.gguf", gguf(&[&none, &one, &key, &list, &text, &most])),
        ("safetensors: header", model, "model.safetensors", most.to_vec()),
        (
            "safetensors: tensor",
            model,
            "model.safetensors",
            [&(header.len() as u64).to_le_bytes()[..], header].concat(),
        ),
        ("charsmap", tokenizer, "", vec![0xff; 9]),
        ("pickle: text", maps, "0_1.pickle", [&b"\x80\x04\x8d"[..], &most].concat()),
        ("pickle: bytes", maps, "0_1.pickle", [&b"\x80\x04\x8e"[..], &most].concat()),
        ("pickle: number", maps, "0_1.pickle", b"\x80\x02\x8b\xff\xff\xff\x7f".to_vec()),
        ("pickle: frame", maps, "0_1.pickle", [&b"\x80\x04\x95"[..], &most].concat()),
        ("pickle: memory", maps, "0_1.pickle", b"\x80\x02]r\xff\xff\xff\xff.".to_vec()),
        ("npy: shape", maps, "0_1.npy", npy("(100000, 100000)")),
        ("npy: no rows", maps, "0_1.npy", npy("(0, 9000000000000000000)")),
        ("npy: axes", maps, "0_1.npy", npy(&format!("({})", "1, ".repeat(20_000)))),
        ("npz: records", maps, "maps.npz", zip(u16::MAX)),
        ("zip: records", model, "pytorch_model.bin", zip(u16::MAX)),
        (
            "parquet: a page",
            corpus,
            "a.parquet",
            parquet(SNAPPY, 1, &[page(PLAIN, 1, i64::from(i32::MAX), &[0; 20])]),
        ),
        (
            "parquet: Brotli",
            corpus,
            "b.parquet",
            parquet(BROTLI, 1, &[page(PLAIN, 1, 100, &zeros(BROTLI, 300))]),
        ),
        ("parquet: gzip", corpus, "c.parquet", parquet(GZIP, 1, &[page(PLAIN, 1, 100, &zeros(GZIP, 300))])),
        (
            "parquet: a dictionary",
            corpus,
            "d.parquet",
            parquet(UNCOMPRESSED, 1, &[page(DICTIONARY, 1 << 30, 5, &strings(&["a"]))]),
        ),
        (
            "parquet: lengths",
            corpus,
            "e.parquet",
            parquet(UNCOMPRESSED, 1 << 28, &[page(DELTA_LENGTH, 1 << 28, 40, &delta(1 << 28, 0, 0))]),
        ),
        ("parquet: beginnings", corpus, "f.parquet", {
            // The second string begins with all of the first, the third with all of the second, and so on.
            let mut prefixes =
                [varint(1024), varint(1), varint(257), zigzag(0), zigzag(0), vec![21]].concat();
            // The first of 1,024 differences of 21 bits is a megabyte, and the others none.
            let mut packed = vec![0; 1024 * 21 / 8];
            packed[2] = 1 << 4;
            prefixes.extend(packed);
            let mut suffixes =
                [varint(1024), varint(1), varint(257), zigzag(1 << 20), zigzag(-(1 << 20))].concat();
            suffixes.push(21);
            let mut packed = [0u8; 1024 * 21 / 8];
            // The first difference is −2²⁰, and the others 0, which is 2²⁰ above the least.
            for value in 1..1024 {
                let bit = value * 21 + 20;
                packed[bit / 8] |= 1 << (bit % 8);
            }
            suffixes.extend(packed);
            let page_of = [prefixes, suffixes, suffix.clone().into_bytes()].concat();
            parquet(UNCOMPRESSED, 257, &[page(DELTA_STRINGS, 257, page_of.len() as i64, &page_of)])
        }),
    ];
    cases.push(("samples without a line end", samples, "samples.jsonl", vec![]));
    let folder = tempfile::tempdir().unwrap();
    let mut over = Vec::new();
    for (number, (about, read, name, bytes)) in cases.iter().enumerate() {
        let at = folder.path().join(number.to_string());
        fs::create_dir(&at).unwrap();
        let (is_sound, peak) = peak(|| read(&at, name, bytes));
        assert!(!is_sound || about.ends_with("beginnings"), "{about}: it was taken for sound");
        if peak > bound(bytes.len()) {
            over.push(format!("{about}: {} bytes took {peak}", bytes.len()));
        }
    }
    assert!(over.is_empty(), "{over:#?}");
}
