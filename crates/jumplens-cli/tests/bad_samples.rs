//! Corpora, counts and samples files that cannot be used are refused in one line, before anything is written.

mod common;

use common::{SMALL, fail, files, succeed};
use std::fs;
use std::path::Path;

#[track_caller]
fn refused(at: &Path, args: &[&str], says: &[&str]) {
    fail(at, &[&["run", "--out", "out"], args].concat(), says);
    assert!(!at.join("out").exists(), "something was written");
}

#[test]
fn corpus_that_cannot_be_read() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    fs::write(at.join("empty.txt"), " \n\n").unwrap();
    fs::write(at.join("latin1.txt"), b"caf\xe9\n").unwrap();
    fs::create_dir(at.join("folder.txt")).unwrap();
    refused(at, &["--corpus", "empty.txt"], &["`empty.txt` holds no sentence", "; give"]);
    refused(at, &["--corpus", "latin1.txt"], &["`latin1.txt`", "UTF-8", "; save"]);
    refused(at, &["--corpus", "folder.txt"], &["`folder.txt`", "; give a file"]);
    refused(at, &["--corpus", "missing.txt"], &["`missing.txt`", "; check the path"]);
    refused(at, &["--corpus", "no-such"], &["no corpus `no-such`", "`wikipedia-sample`", "`.txt`"]);
}

#[test]
fn more_sentences_than_there_are() {
    let at = tempfile::tempdir().unwrap();
    fs::write(at.path().join("three.txt"), "One.\nTwo.\n\nThree.\n").unwrap();
    let counts = ["--train", "3", "--val", "1"];
    refused(
        at.path(),
        &[&["--corpus", "three.txt"], &counts[..]].concat(),
        &["`three.txt` holds 3", "3 for training and 1 for validation", "lower `--train`"],
    );
    refused(at.path(), &["--train", "20000"], &["`wikipedia-sample` holds 12975", "20000"]);
    let most = usize::MAX.to_string();
    refused(at.path(), &["--train", &most, "--val", &most], &["`wikipedia-sample` holds 12975", &most]);
}

#[test]
fn no_sentences_asked_for() {
    let at = tempfile::tempdir().unwrap();
    refused(at.path(), &["--train", "0"], &["0 training", "at least 1"]);
    refused(at.path(), &["--val", "0"], &["0 validation", "at least 1"]);
}

#[test]
fn samples_file_names_the_line_that_cannot_be_used() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let good = r#"{"ids": [5, 6, 7], "position": 1}"#;
    fs::write(at.join("good.jsonl"), good).unwrap();
    let long = format!(r#"{{"ids": {:?}, "position": 256}}"#, [1; 257]);
    let cases = [
        (r#"{"ids": [5, 6], "position": 2}"#, "position 2 is beyond the sample's 2 tokens"),
        (r#"{"ids": [], "position": 0}"#, "position 0"),
        (r#"{"ids": [5, 4096], "position": 1}"#, "token id 4096"),
        (r#"{"ids": [5, 6], "position": 0, "target": 9999}"#, "token id 9999"),
        (r#"{"ids": [5, 6], "posit"#, "not a sample"),
        (r#"{"ids": [5, 6]}"#, "position"),
        (r#"{"ids": [-5], "position": 0}"#, "-5"),
        (&long, "257 tokens"),
    ];
    for (line, says) in cases {
        // The blank line counts: editors count it as well.
        fs::write(at.join("bad.jsonl"), format!("{good}\n\n{line}\n{good}\n")).unwrap();
        for (train, val) in [("bad.jsonl", "good.jsonl"), ("good.jsonl", "bad.jsonl")] {
            let args = ["--train-samples", train, "--val-samples", val];
            refused(at, &args, &["`bad.jsonl` line 3: ", says, "; fix or remove the line"]);
        }
    }
    fs::write(at.join("bad.jsonl"), "\n").unwrap();
    refused(at, &["--train-samples", "bad.jsonl", "--val-samples", "good.jsonl"], &["`bad.jsonl` holds no"]);
    refused(at, &["--train-samples", "none.jsonl", "--val-samples", "good.jsonl"], &["`none.jsonl`", "path"]);
}

#[test]
fn usage_errors_take_one_line() {
    let at = tempfile::tempdir().unwrap();
    let cases: [(&[&str], &[&str]); 11] = [
        (&["run", "--frobnicate"], &["--frobnicate", "--help"]),
        (&["run", "--trian", "5"], &["--trian", "--train"]),
        (&["runn"], &["runn", "run"]),
        (&["run", "--resume", "--overwrite"], &["--resume", "--overwrite"]),
        (&["run", "--train", "many"], &["--train", "many"]),
        (&["run", "--train", "-1"], &["-1"]),
        (&["run", "--pairs", "some"], &["--pairs", "all, to-final"]),
        (&["run", "--train-samples", "x.jsonl"], &["--val-samples"]),
        (
            &["run", "--train-samples", "x", "--val-samples", "x", "--train", "5"],
            &["--train-samples", "--train"],
        ),
        (&["run", "--out", ""], &["--out"]),
        (&["fit"], &["--out"]),
    ];
    for (args, says) in cases {
        fail(at.path(), args, says);
    }
    fail(at.path(), &["run", "--threads", "0"], &["--threads", "0"]);
    fail(at.path(), &["--verbose", "run"], &["--quiet", "--verbose"]);
    fail(at.path(), &["run", "--verbose"], &["--quiet", "--verbose"]);
    assert!(files(at.path()).is_empty());
}

#[test]
fn mistakes_leave_an_earlier_run_as_it_was() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let run = [&SMALL[..], &["--out", "out"]].concat();
    succeed(at, &run);
    let before = files(&at.join("out"));
    fs::write(at.join("bad.jsonl"), "{}").unwrap();
    for mistake in [
        &["--model", "no-such-model"][..],
        &["--corpus", "missing.txt"],
        &["--seed", "one"],
        &["--no-such-option"],
    ] {
        fail(at, &[&run, mistake, &["--overwrite"]].concat(), &[]);
    }
    let samples = ["run", "--train-samples", "bad.jsonl", "--val-samples", "bad.jsonl"];
    fail(at, &[&samples[..], &["--out", "out", "--overwrite"]].concat(), &["line 1"]);
    fail(at, &["run", "--train", "20000", "--out", "out", "--overwrite"], &["holds 12975"]);
    fail(at, &["run", "--train", "0", "--out", "out", "--overwrite"], &["at least 1"]);
    assert!(files(&at.join("out")) == before);
}
