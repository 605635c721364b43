//! `--resume` takes from the run whatever is not given, and refuses what is given and differs, with both values.

mod common;

use common::{assert_same_run, copy_of, fail, files, model, output, stderr, succeed};
use std::fs;
use std::path::Path;

const COUNTS: [&str; 4] = ["--train", "24", "--val", "8"];
const RESUME: [&str; 4] = ["run", "--resume", "--out", "out"];

/// The folder holds a finished run: nothing is left to do, and nothing is done.
#[track_caller]
fn assert_finished(at: &Path, args: &[&str]) {
    let before = files(&at.join("out"));
    let said = output(at, args);
    let text = stderr(&said);
    assert!(said.status.success() && said.stdout.is_empty(), "{text}");
    assert!(text.lines().count() == 1 && text.contains("nothing is left to do"), "{text}");
    assert!(files(&at.join("out")) == before);
}

/// A run that begins with `options` ends the same where it is gone on with, after its samples and after its maps, by
/// `run --resume` alone.
#[track_caller]
fn goes_on_alone(at: &Path, options: &[&str]) {
    let _ = fs::remove_dir_all(at.join("out"));
    let _ = fs::remove_dir_all(at.join("straight"));
    succeed(at, &[&["-q", "run"], options, &["--out", "straight"]].concat());
    succeed(at, &[&["-q", "samples"], options, &["--out", "out"]].concat());
    succeed(at, &["-q", "states", "--out", "out"]);
    succeed(at, &["-q", "fit", "--out", "out"]);
    succeed(at, &[&["-q"], &RESUME[..]].concat());
    assert_same_run(&at.join("straight"), &at.join("out"));
    assert_finished(at, &RESUME);
}

#[test]
fn every_option_comes_from_the_run() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    goes_on_alone(
        at,
        &[&COUNTS[..], &["--seed", "3", "--pairs", "to-final", "--intercept", "--rank", "4,8"]].concat(),
    );
    goes_on_alone(
        at,
        &[&COUNTS[..], &["--pairs", "to-final", "--dtype", "bf16", "--positions", "2", "--skip-first", "1"]]
            .concat(),
    );
    goes_on_alone(
        at,
        &[&COUNTS[..], &["--pairs", "to-final", "--min-chars", "40", "--max-tokens", "60"]].concat(),
    );
    goes_on_alone(at, &[&COUNTS[..], &["--model", "tiny-bert", "--no-mask", "--ridge", "auto"]].concat());
    // Drawn sentences, and a model in a folder.
    model(at, "m");
    let dump = Path::new(env!("CARGO_MANIFEST_DIR")).join("../jumplens/tests/data/enwiki-sample.xml.bz2");
    let drawn = [
        "--corpus",
        dump.to_str().unwrap(),
        "--model",
        "./m",
        "--per-document",
        "2",
        "--split-by",
        "sentence",
    ];
    goes_on_alone(at, &[&COUNTS[..], &["--pairs", "to-final"], &drawn].concat());
    let lines = (0..60).map(|i| format!("{{\"body\": \"Sentence {i} of the corpus is long enough.\"}}\n"));
    fs::write(at.join("c.jsonl"), lines.collect::<String>()).unwrap();
    let rows =
        ["--corpus", "c.jsonl", "--lines", "sentences", "--text-column", "body", "--pairs", "to-final"];
    goes_on_alone(at, &[&COUNTS[..], &rows].concat());
    // Samples files.
    for split in ["train", "val"] {
        fs::copy(at.join("out/samples").join(format!("{split}.jsonl")), at.join(format!("{split}.jsonl")))
            .unwrap();
    }
    goes_on_alone(
        at,
        &["--train-samples", "train.jsonl", "--val-samples", "val.jsonl", "--pairs", "to-final"],
    );
}

/// Where samples were lost, they are made again from what the run began with.
#[test]
fn lost_samples_are_made_again_from_what_the_run_began_with() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let dump = Path::new(env!("CARGO_MANIFEST_DIR")).join("../jumplens/tests/data/enwiki-sample.xml.bz2");
    let drawn = ["--corpus", dump.to_str().unwrap(), "--per-document", "2", "--min-tokens", "8"];
    for options in [&drawn[..], &["--positions", "3", "--max-chars", "90"]] {
        let _ = fs::remove_dir_all(at.join("out"));
        succeed(at, &[&["samples"], &COUNTS[..], options, &["--out", "out"]].concat());
        let before = files(&at.join("out/samples"));
        fs::remove_file(at.join("out/samples/train.jsonl")).unwrap();
        succeed(at, &["samples", "--resume", "--out", "out"]);
        assert!(files(&at.join("out/samples")) == before);
    }
}

#[test]
fn what_is_given_and_differs_is_named_with_both_values() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    succeed(at, &[&["samples"], &COUNTS[..], &["--pairs", "to-final", "--out", "out"]].concat());
    let before = files(&at.join("out"));
    fs::write(at.join("mine.txt"), "A sentence.\n".repeat(40)).unwrap();
    fs::write(at.join("s.jsonl"), "{\"ids\": [5, 6], \"position\": 1}\n").unwrap();
    for (options, says) in [
        (&["--seed", "1"][..], "the seed is 0 in the run in `out`, and 1 here"),
        (&["--model", "tiny-bert"], "the model is `tiny-gpt2` in the run in `out`, and `tiny-bert` here"),
        (&["--corpus", "mine.txt"], "is `wikipedia-sample` in the run in `out`, and `mine.txt` here"),
        (&["--train", "25"], "the number of training sentences is 24 in the run in `out`, and 25 here"),
        (&["--val", "9"], "the number of validation sentences is 8 in the run in `out`, and 9 here"),
        (&["--pairs", "all"], "the choice of pairs of layers is to-final in the run in `out`, and all here"),
        (&["--ridge", "auto"], "the ridge penalty is none in the run in `out`, and auto here"),
        (&["--rank", "8,4"], "the choice of ranks is none in the run in `out`, and 4, 8 here"),
        (&["--intercept"], "the bias is none in the run in `out`, and fitted here"),
        (&["--dtype", "bf16"], "the number format is f32 in the run in `out`, and bf16 here"),
        (&["--positions", "all"], "positions of a sentence is 1 in the run in `out`, and all here"),
        (&["--skip-first", "2"], "tokens that are skipped is 0 in the run in `out`, and 2 here"),
        (&["--max-chars", "50"], "the most characters is none in the run in `out`, and 50 here"),
        (
            &["--lines", "documents"],
            "a row of the corpus is is in-order in the run in `out`, and documents here",
        ),
        (
            &["--train-samples", "s.jsonl", "--val-samples", "s.jsonl"],
            "`wikipedia-sample` in the run in `out`, and `s.jsonl` here",
        ),
    ] {
        for command in ["run", "samples"] {
            fail(
                at,
                &[&[command, "--resume", "--out", "out"], options].concat(),
                &[says, "leave it out", "another `--out`"],
            );
        }
    }
    fail(
        at,
        &["moments", "--out", "out", "--shard", "1/2"],
        &["the share is none in the run in `out`, and 1/2 here"],
    );
    // What is given and is as it was is as good as not given.
    let same = [
        "--seed",
        "0",
        "--corpus",
        "wikipedia-sample",
        "--pairs",
        "to-final",
        "--dtype",
        "f32",
        "--positions",
        "1",
    ];
    succeed(at, &[&["samples", "--resume", "--out", "out"], &same[..], &COUNTS].concat());
    assert!(
        files(&at.join("out/samples"))
            == before
                .iter()
                .filter_map(|(path, bytes)| {
                    Some((path.strip_prefix("samples").ok()?.to_owned(), bytes.clone()))
                })
                .collect()
    );
}

#[test]
fn what_has_vanished_is_missed_only_where_it_is_needed() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    copy_of("tiny-gpt2", at, "m");
    let lines: String =
        (0..60).map(|i| format!("Sentence {i} of a corpus that will not be there.\n")).collect();
    fs::write(at.join("c.txt"), lines).unwrap();
    let options = [&COUNTS[..], &["--model", "m", "--corpus", "c.txt", "--pairs", "to-final"]].concat();
    succeed(at, &[&["-q", "run"], &options[..], &["--out", "straight"]].concat());
    succeed(at, &[&["-q", "samples"], &options[..], &["--out", "out"]].concat());
    fs::remove_file(at.join("c.txt")).unwrap();
    // The samples are there, the corpus need not be; named or not.
    succeed(at, &[&["-q"], &RESUME[..], &["--corpus", "c.txt"]].concat());
    assert_same_run(&at.join("straight"), &at.join("out"));
    fs::rename(at.join("m"), at.join("elsewhere")).unwrap();
    assert_finished(at, &RESUME);
    fs::remove_file(at.join("out/samples/val.jsonl")).unwrap();
    fail(at, &RESUME, &["/m`"]);
    fs::rename(at.join("elsewhere"), at.join("m")).unwrap();
    fail(at, &RESUME, &["/c.txt`", "check the path"]);
}

#[test]
fn a_finished_run_prints_its_table_to_the_command_that_made_it() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let args = [&["run"], &COUNTS[..], &["--pairs", "to-final", "--out", "out", "--resume"]].concat();
    let first = succeed(at, &args);
    assert_finished(at, &RESUME);
    let before = files(&at.join("out"));
    let again = output(at, &args);
    assert_eq!(
        (String::from_utf8(again.stdout.clone()).unwrap(), stderr(&again).lines().count()),
        (first, 1)
    );
    assert!(files(&at.join("out")) == before);
    fail(at, &[&RESUME[..], &["--seed", "1"]].concat(), &["the seed is 0 in the run in `out`, and 1 here"]);
}

#[test]
fn an_encoder_s_run_is_finished_without_predictions() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let folder = copy_of("tiny-bert", at, "encoder");
    common::remove_tensors(&folder.join("model.safetensors"), "cls.");
    common::edit(&folder.join("config.json"), "BertForMaskedLM", "BertModel");
    succeed(at, &[&["-q", "run"], &COUNTS[..], &["--model", "encoder", "--out", "out"]].concat());
    assert_finished(at, &RESUME);
}

#[test]
fn sums_that_are_there_are_not_made_again() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let args =
        [&["moments"], &COUNTS[..], &["--pairs", "to-final", "--shard", "1/2", "--out", "out"]].concat();
    succeed(at, &args);
    let before = files(&at.join("out"));
    for args in [&args[..], &["moments", "--out", "out"]] {
        let said = output(at, args);
        assert!(
            said.status.success() && stderr(&said).contains("nothing is left to do"),
            "{}",
            stderr(&said)
        );
        assert!(files(&at.join("out")) == before);
    }
    fs::write(at.join("out/moments.safetensors"), "cut").unwrap();
    fail(
        at,
        &["fit", "--moments", "out/moments.safetensors", "--out", "x"],
        &["changed or removed", "`jumplens moments`"],
    );
    succeed(at, &["moments", "--out", "out"]);
    assert!(
        files(&at.join("out")).get(Path::new("moments.safetensors"))
            == before.get(Path::new("moments.safetensors"))
    );
    fail(at, &["moments", "--seed", "2", "--out", "out"], &["the seed is 0 in the run in `out`, and 2 here"]);
}

#[test]
fn a_share_is_gone_on_with_as_the_samples_that_it_has() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let args =
        [&["moments"], &COUNTS[..], &["--pairs", "to-final", "--shard", "1/2", "--out", "out"]].concat();
    succeed(at, &args);
    succeed(at, &[&["-q"], &RESUME[..]].concat());
    let summary: serde_json::Value =
        serde_json::from_slice(&fs::read(at.join("out/results/summary.json")).unwrap()).unwrap();
    for split in ["train", "val"] {
        let samples = fs::read_to_string(at.join("out/samples").join(format!("{split}.jsonl"))).unwrap();
        assert_eq!(summary[split], samples.lines().count());
    }
    assert!(summary["train"].as_u64() < Some(24));
}
