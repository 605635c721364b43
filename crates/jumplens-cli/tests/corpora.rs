//! `jumplens sentences` and corpora with documents: what is written, and how a corpus that cannot be read is refused, in one
//! line with the place, and with nothing written.

mod common;

use common::{assert_nothing_partial, fail, files, succeed};
use std::fs;
use std::path::{Path, PathBuf};

fn dump() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../jumplens/tests/data/enwiki-sample.xml.bz2")
}

/// Both commands that read a corpus refuse this one, and leave nothing behind.
#[track_caller]
fn refused(at: &Path, corpus: &str, options: &[&str], says: &[&str]) {
    let before = files(at);
    let sentences = ["sentences", "--corpus", corpus, "--num", "20", "--out", "drawn.txt"];
    fail(at, &[&sentences[..], options].concat(), says);
    let run = ["run", "--corpus", corpus, "--train", "15", "--val", "5", "--out", "out"];
    fail(at, &[&run[..], options].concat(), says);
    assert!(files(at) == before, "something was written");
}

#[test]
fn sentences_of_a_dump_are_drawn_the_same_on_any_threads() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let dump = dump();
    let draw = |out: &str, more: &[&str]| {
        let args = ["-q", "sentences", "--corpus", dump.to_str().unwrap(), "--num", "60", "--out", out];
        assert_eq!(succeed(at, &[&args[..], more].concat()), "");
    };
    draw("a.txt", &["--seed", "3"]);
    draw("b.txt", &["--seed", "3", "--threads", "1"]);
    draw("c.txt", &["--seed", "4", "--paragraph-final", "--per-document", "all"]);
    for ending in ["", ".jsonl", ".json"] {
        let read = |name: &str| fs::read_to_string(at.join(format!("{name}.txt{ending}"))).unwrap();
        assert_eq!(read("a"), read("b"));
        assert_ne!(read("a"), read("c"));
    }
    assert_eq!(fs::read_to_string(at.join("a.txt")).unwrap().lines().count(), 60);
    let c = fs::read_to_string(at.join("c.txt.jsonl")).unwrap();
    assert!(
        c.lines()
            .all(|line| line.contains(r#"\n","document":"#) && line.contains(r#""ends_paragraph":true"#))
    );
    let record = fs::read_to_string(at.join("a.txt.json")).unwrap();
    for says in [r#""documents": 106"#, r#""seed": 3"#, r#""bytes": 1695871"#, r#""sha256": "a53f4648"#] {
        assert!(record.contains(says), "no {says} in {record}");
    }
    // What is there is not replaced unasked.
    let again = ["sentences", "--num", "5", "--out", "a.txt"];
    fail(at, &again, &["`a.txt` is there already", "`--overwrite`"]);
    succeed(at, &[&["-q"], &again[..], &["--overwrite"]].concat());
    assert_eq!(fs::read_to_string(at.join("a.txt")).unwrap().lines().count(), 5);
    assert_nothing_partial(at);
}

#[test]
fn a_run_on_a_dump_records_what_it_read() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let dump = dump();
    let args = ["run", "--corpus", dump.to_str().unwrap(), "--train", "40", "--val", "20", "--out", "out"];
    let more = ["--pairs", "to-final", "--positions", "all", "--skip-first", "4", "--min-tokens", "8"];
    let args = [&["-q"], &args[..], &more].concat();
    let table = succeed(at, &args);
    assert!(table.contains("validation samples"), "{table}");
    let manifest = fs::read_to_string(at.join("out/manifest.json")).unwrap();
    for says in
        [r#""split_by": "document""#, r#""how_many": "all""#, r#""skip_first": 4"#, r#""min_tokens": 8"#]
    {
        assert!(manifest.contains(says), "no {says} in {manifest}");
    }
    // The same options go on with it, other ones do not.
    succeed(at, &[&args[..], &["--resume"]].concat());
    let other: Vec<&str> = args.iter().map(|arg| if *arg == "4" { "5" } else { *arg }).collect();
    fail(
        at,
        &[&other[1..], &["--resume"]].concat(),
        &["tokens that are skipped is 4 in the run", "and 5 here"],
    );
}

#[test]
fn damaged_files_are_named_with_the_place() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let write = |name: &str, bytes: &[u8]| fs::write(at.join(name), bytes).unwrap();
    let whole = fs::read(dump()).unwrap();
    let mut bad = whole.clone();
    bad[1_000_000] ^= 0x40;
    write("bad.xml.bz2", &bad);
    refused(
        at,
        "bad.xml.bz2",
        &[],
        &["`bad.xml.bz2` is damaged at byte ", "damaged bzip2 block", "fetch the file again"],
    );
    write("cut.xml.bz2", &whole[..1_200_000]);
    refused(
        at,
        "cut.xml.bz2",
        &[],
        &["`cut.xml.bz2` is damaged at byte ", "ends in the middle of a bzip2 block"],
    );
    write("not.xml.bz2", b"no such thing here");
    refused(at, "not.xml.bz2", &[], &["`not.xml.bz2` is damaged at byte 0", "no bzip2 stream"]);
    write("not.jsonl.gz", b"no such thing here");
    refused(at, "not.jsonl.gz", &[], &["`not.jsonl.gz` is damaged at byte ", "fetch the file again"]);
    write("not.jsonl.zst", b"no such thing here");
    refused(at, "not.jsonl.zst", &[], &["`not.jsonl.zst` is damaged at byte ", "fetch the file again"]);
    write("not.parquet", b"no such thing here, and not at the end");
    refused(at, "not.parquet", &[], &["`not.parquet` is damaged or not of its kind"]);

    let page = |title: &[u8]| {
        let text = "A sentence that is long enough. ".repeat(3);
        let end = format!("</title><ns>0</ns><id>1</id><revision><text>{text}</text></revision></page>");
        [b"<page><title>", title, end.as_bytes()].concat()
    };
    write("cut.xml", &[b"<mediawiki>".to_vec(), page(b"A")].concat());
    refused(at, "cut.xml", &[], &["`cut.xml` byte 190 of its XML", "without `</mediawiki>`", "cut short"]);
    write("page.xml", &[b"<mediawiki>".to_vec(), page(b"A")[..100].to_vec()].concat());
    refused(at, "page.xml", &[], &["`page.xml` byte 11 of its XML", "a page begins here that does not end"]);
    write("latin1.xml", &[b"<mediawiki>".to_vec(), page(b"caf\xe9"), b"</mediawiki>".to_vec()].concat());
    refused(
        at,
        "latin1.xml",
        &[],
        &["`latin1.xml` byte 11 of its XML", "invalid UTF-8 at byte 27", "save the file as UTF-8"],
    );
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    for (name, text) in
        [("latin", "A line, as some editors save it.\r\n"), ("cyrillic", "Строка в другой кодировке.\n")]
    {
        for (mark, bytes) in
            [("", utf16(text).repeat(30)), ("marked", [&b"\xff\xfe"[..], &utf16(text)].concat())]
        {
            for ending in ["txt", "jsonl"] {
                let name = format!("{name}{mark}.{ending}");
                write(&name, &bytes);
                refused(at, &name, &[], &[&format!("`{name}` line 1: UTF-16"), "save the file as UTF-8"]);
            }
        }
    }
    write("html.xml", b"<html></html>");
    refused(at, "html.xml", &[], &["`html.xml` byte 0", "no `<mediawiki>`"]);
}

#[test]
fn rows_that_cannot_be_read_are_named() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let write = |name: &str, bytes: &[u8]| fs::write(at.join(name), bytes).unwrap();
    let good = br#"{"text": "A sentence that is long enough."}"#;
    let lines = |bad: &[u8]| [&good[..], b"\n\n", bad, b"\n", good, b"\n"].concat();
    for (bad, says) in [
        (&b"{\"text\": \"open"[..], "not JSON"),
        (b"nothing", "not JSON"),
        (b"{\"text\": \"a\"} {}", "not JSON"),
        (b"[1, 2]", "not an object with a text `text`, but a list; fix or replace the file"),
        (b"null", "not an object with a text `text`, but null"),
        (b"{\"text\": 5}", "its `text` is a number, not a text"),
        (b"{\"text\": [\"a\"]}", "its `text` is a list, not a text"),
        (b"{\"text\": \"caf\xe9\"}", "not UTF-8 from byte 13 of the line on; save the file as UTF-8"),
    ] {
        write("bad.jsonl", &lines(bad));
        refused(at, "bad.jsonl", &[], &["`bad.jsonl` line 3: ", says]);
    }
    // Nothing is offered that would be refused.
    for (bad, says) in [
        (
            r#"{"body": "x", "id": 1}"#,
            "no field `text`; the line's one field with a text is `body`; name it by `--text-column`",
        ),
        (
            r#"{"body": "x", "id": 1, "tags": ["y"], "title": "z"}"#,
            "no field `text`; the line's fields with a text are `body`, `title`; name one of them by `--text-column`",
        ),
        (r#"{"id": 1}"#, "no field `text`; the line has no field with a text; give a file that has one"),
    ] {
        write("bad.jsonl", &lines(bad.as_bytes()));
        refused(at, "bad.jsonl", &[], &["`bad.jsonl` line 3 has ", says]);
    }
    write("latin1.txt", b"A good line.\ncaf\xe9\n");
    refused(at, "latin1.txt", &[], &["`latin1.txt` line 2: not UTF-8 from byte 3"]);
    refused(at, "latin1.txt", &["--lines", "documents"], &["`latin1.txt` line 2: not UTF-8 from byte 3"]);
    for name in ["empty.txt", "empty.jsonl", "empty.xml.bz2", "empty.parquet"] {
        write(name, b"");
        refused(at, name, &[], &["`", name, "` holds no sentence"]);
    }
    write("blank.jsonl", b"\n \n");
    refused(at, "blank.jsonl", &[], &["`blank.jsonl` holds no sentence"]);
    // A Parquet file of our own, which has other columns.
    let run = ["-q", "run", "--train", "60", "--val", "20", "--pairs", "to-final", "--out", "other"];
    succeed(at, &run);
    let parquet = "other/results/predictions.parquet";
    refused(
        at,
        parquet,
        &[],
        &["has no column `text`; the file's one column of strings is `mapping`; name it by `--text-column`"],
    );
    let says =
        ["is sound, but its column `layer` is not one of strings: a row of it is a number", "`mapping`"];
    refused(at, parquet, &["--text-column", "layer"], &says);
    fs::create_dir(at.join("folder")).unwrap();
    refused(at, "folder", &[], &["`folder` has no `.parquet` file"]);
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../jumplens/tests/fixtures/corpora").join(name)
}

#[test]
fn columns_are_offered_where_they_can_be_read() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    for file in ["columns.parquet", "lists.parquet", "lzo.parquet"] {
        fs::copy(fixture(file), at.join(file)).unwrap();
    }
    let offers =
        "; the file's columns of strings are `title`, `image.path`; name one of them by `--text-column`";
    for (column, is) in [
        ("text", "a row of it is a list of strings"),
        ("text.list.element", "a row of it is a list of strings"),
        ("lengths", "a row of it is a list of numbers"),
        ("image", "a row of it is several values, each with a name"),
        ("price", "a row of it is a number"),
        ("seen", "a row of it is true or false"),
    ] {
        let says = format!(
            "`columns.parquet` is sound, but its column `{column}` is not one of strings: {is}{offers}"
        );
        refused(at, "columns.parquet", &["--text-column", column], &[&says]);
    }
    let lists = " (lists of strings, which are not read: `text`)";
    let says = format!(
        "has no column `body`; the file's columns of strings are `title`, `image.path`{lists}; name one"
    );
    refused(at, "columns.parquet", &["--text-column", "body"], &[&says]);
    let says =
        format!("has no column `body`; the file has no column of strings{lists}; give a file that has one");
    refused(at, "lists.parquet", &["--text-column", "body"], &[&says]);
    // What is offered is read.
    for column in ["title", "image.path"] {
        let args = [
            "-q",
            "sentences",
            "--num",
            "1",
            "--min-chars",
            "1",
            "--out",
            column,
            "--corpus",
            "columns.parquet",
        ];
        succeed(at, &[&args[..], &["--text-column", column]].concat());
    }
    let says = [
        "`lzo.parquet` is not read: its column `text` is compressed by LZO; read are Snappy, gzip, Brotli, LZ4",
    ];
    refused(at, "lzo.parquet", &[], &says);
}

#[test]
fn pointers_are_named_in_the_place_of_any_file() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 3353072\n";
    let annex = "/annex/objects/SHA256E-s3353072--4d7a2146.bin\n";
    let is_lfs = [
        "is a Git LFS pointer (to 3353072 bytes), not the file",
        "`git lfs pull`, run in `.`, fetches the file",
    ];
    let is_annex = ["is a git-annex pointer, not the file", "`git annex get`, run in `.`, fetches the file"];
    for (pointer, says) in [(lfs, is_lfs), (annex, is_annex)] {
        let corpora = ["a.txt", "a.jsonl", "a.parquet", "a.xml", "a.xml.bz2", "a.txt.gz", "a.jsonl.zst"];
        for name in corpora {
            fs::write(at.join(name), pointer).unwrap();
            refused(at, name, &[], &[&format!("`{name}` {}", says[0]), says[1]]);
        }
        for name in ["a.gguf", "a.safetensors", "a.npy", "a.npz", "a.pkl", "a.pt"] {
            fs::write(at.join(name), pointer).unwrap();
        }
        fail(at, &["info", "a.gguf"], &says);
        fail(at, &["lens", "--shortcuts", "a.safetensors", "a text"], &says);
        let ids = ["run", "--out", "out", "--train-samples", "a.jsonl", "--val-samples", "a.jsonl"];
        fail(at, &ids, &says);
        fail(at, &["shortcuts", "import", "a.npz", "--out", "maps"], &says);
        fail(at, &["merge", "a.safetensors", "--out", "sums.safetensors"], &says);
    }
    // Each file of a model's folder, wherever the folder is.
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../jumplens-assets/assets/tiny-gpt2");
    let names: Vec<String> = fs::read_dir(&model)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| ["config.json", "model.safetensors", "tokenizer.json"].contains(&name.as_str()))
        .collect();
    assert_eq!(names.len(), 3, "{names:?}");
    for damaged in &names {
        let folder = at.join("model");
        fs::create_dir_all(&folder).unwrap();
        for name in &names {
            fs::copy(model.join(name), folder.join(name)).unwrap();
        }
        fs::write(folder.join(damaged), lfs).unwrap();
        let says = format!("{damaged}` is a Git LFS pointer (to 3353072 bytes)");
        fail(at, &["lens", "--model", "model", "a text"], &[&says, "`git lfs pull`, run in `model`"]);
    }
}

#[test]
fn what_is_behind_a_compressed_file_is_skipped_or_named() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let whole = fs::read(dump()).unwrap();
    fs::write(at.join("padded.xml.bz2"), [&whole[..], &[0; 700]].concat()).unwrap();
    let args = ["-q", "sentences", "--corpus", "padded.xml.bz2", "--num", "9", "--out", "drawn.txt"];
    succeed(at, &args);
    fs::write(at.join("more.xml.bz2"), [&whole[..], b"<!-- saved -->"].concat()).unwrap();
    let byte = format!("`more.xml.bz2` is damaged at byte {}: ", whole.len());
    let says = "there is neither another one nor padding zeros, but bytes that begin with \"<!-- saved -->\"";
    for name in ["drawn.txt", "drawn.txt.jsonl", "drawn.txt.json"] {
        fs::remove_file(at.join(name)).unwrap();
    }
    refused(at, "more.xml.bz2", &[], &[&byte, says]);
}

#[test]
fn too_few_sentences_are_none() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let dump = dump();
    let dump = dump.to_str().unwrap();
    let options = ["--min-chars", "700"];
    refused(at, dump, &options, &["sentences from 106 documents, but ", "asked for; ask for fewer"]);
    let sentences = ["sentences", "--corpus", dump, "--num", "107", "--out", "x"];
    fail(at, &sentences, &["from 106 documents, but 107 were asked for"]);
    let run = ["run", "--corpus", dump, "--train", "90", "--val", "17", "--out", "x"];
    fail(at, &run, &["90 for training and 17 for validation, with no document in both, were asked for"]);
    assert!(files(at).is_empty());
}

#[test]
fn options_that_cannot_work_are_refused() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let dump = dump();
    let dump = dump.to_str().unwrap();
    fs::write(at.join("one.txt"), "One sentence a line.\n").unwrap();
    fs::write(at.join("ids.jsonl"), "{\"ids\": [5, 6], \"position\": 1}\n").unwrap();
    let cases: [(&[&str], &[&str]); 15] = [
        (
            &["--per-document", "2"],
            &["belong to no documents", "leave out `--per-document`", "`--lines documents`"],
        ),
        (&["--paragraph-final"], &["leave out `--paragraph-final`"]),
        (&["--corpus", "one.txt", "--split-by", "document"], &["`--split-by document`", "`one.txt`"]),
        (&["--corpus", dump, "--lines", "in-order"], &["leave out `--lines in-order`"]),
        (&["--corpus", dump, "--lines", "sentences"], &["leave out `--lines sentences`"]),
        (&["--corpus", dump, "--shards", "1"], &["no data set on the Hub", "leave out `--shards`"]),
        (&["--min-chars", "9", "--max-chars", "8"], &["at least 9 and at most 8 chars"]),
        (&["--min-tokens", "9", "--max-tokens", "8"], &["at least 9 and at most 8 tokens"]),
        (&["--positions", "0"], &["--positions", "a number of at least 1, or `all`"]),
        (&["--per-document", "none"], &["--per-document", "a number of at least 1, or `all`"]),
        (
            &["--skip-first", "256"],
            &["takes 256 tokens at most", "without the first 256", "less for `--skip-first`"],
        ),
        (&["--corpus", "hf://datasets/x"], &["`hf://datasets/x` names no data set"]),
        (
            &["--corpus", "hf://datasets/x/y"],
            &["data set `x/y` at revision `main` is not", "`HF_HUB_OFFLINE`"],
        ),
        (&["--corpus", "no.such"], &["no corpus `no.such`", "`.parquet`"]),
        (&["--corpus", "none.jsonl"], &["`none.jsonl`", "check the path"]),
    ];
    for (options, says) in cases {
        fail(at, &[&["run", "--out", "out"], options].concat(), says);
    }
    for option in ["--positions", "--skip-first", "--per-document", "--min-chars", "--max-tokens"] {
        let args = ["run", "--train-samples", "ids.jsonl", "--val-samples", "ids.jsonl", option, "2"];
        fail(at, &args, &["--train-samples", option]);
    }
    let sentences = ["sentences", "--num", "5", "--out", "x", "--min-tokens", "5"];
    fail(at, &sentences, &["say by `--model` whose tokens are counted"]);
    fail(at, &["sentences", "--num", "0", "--out", "x"], &["at least 1 for `--num`"]);
    fail(
        at,
        &["sentences", "--num", "20000", "--out", "x"],
        &["`wikipedia-sample` holds 12975", "20000 were asked for"],
    );
    assert!(!at.join("out").exists() && !at.join("x").exists());
}
