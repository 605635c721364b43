//! Masked models from the command line: the whole run, encoders without a head, and what is refused.

mod common;

use common::{SMALL, assert_same_run, copy_of, edit, fail, output, remove_tensors, stderr, succeed};
use std::fs;
use std::path::Path;

#[track_caller]
fn refused(at: &Path, args: &[&str], says: &[&str]) {
    fail(at, &[&SMALL[..], &["--out", "out"], args].concat(), says);
    assert!(!at.join("out").exists(), "something was written");
}

/// An encoder as it is published for embeddings: the trunk alone.
fn encoder(at: &Path, name: &str) {
    let folder = copy_of("tiny-bert", at, name);
    remove_tensors(&folder.join("model.safetensors"), "cls.");
    edit(&folder.join("config.json"), "BertForMaskedLM", "BertModel");
}

fn lines(path: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn bundled_bert_runs_without_another_argument_but_counts() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let table = succeed(at, &[&SMALL[..], &["--model", "tiny-bert"]].concat());
    assert!(table.contains("mat_ln1_ln2") && table.contains("mat beats id in r²"), "{table}");
    let out = at.join("jumplens-runs/tiny-bert");
    for file in ["layers.csv", "early_exit.csv", "r2.csv", "predictions.parquet", "summary.json"] {
        assert!(out.join("results").join(file).exists(), "{file}");
    }
    let manifest = fs::read_to_string(out.join("manifest.json")).unwrap();
    assert!(manifest.contains(r#""mask": true"#), "{manifest}");
    for sample in lines(&out.join("samples/train.jsonl")) {
        let position = sample["position"].as_u64().unwrap() as usize;
        assert_eq!(sample["ids"][position], 4);
        assert!(sample["target"].is_u64());
    }

    // Every cross-entropy is known, and a run that keeps the token is another run.
    let layers = fs::read_to_string(out.join("results/layers.csv")).unwrap();
    assert!(!layers.contains(",,"), "{layers}");
    succeed(at, &[&SMALL[..], &["--model", "tiny-bert", "--no-mask", "--out", "kept"]].concat());
    assert!(lines(&at.join("kept/samples/val.jsonl")).iter().any(|s| !s["ids"].to_string().contains(",4,")));
    fail(
        at,
        &[&SMALL[..], &["--model", "tiny-bert", "--out", "jumplens-runs/tiny-bert", "--no-mask", "--resume"]]
            .concat(),
        &["the token at the position is `[MASK]` in the run", "and kept here"],
    );
    succeed(at, &[&SMALL[..], &["--model", "tiny-bert", "--out", "again"]].concat());
    assert_same_run(&out, &at.join("again"));
}

#[test]
fn an_encoder_without_a_head_gives_states_maps_and_r2() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    encoder(at, "encoder");
    let run = output(at, &[&SMALL[..], &["--model", "encoder", "--out", "out"]].concat());
    assert!(run.status.success(), "{}", stderr(&run));
    let messages = stderr(&run);
    let skipped: Vec<&str> =
        messages.lines().filter(|line| line.contains("no language-model head")).collect();
    assert!(skipped.len() == 1 && skipped[0].contains("evaluate  skipped"), "{messages}");
    let table = String::from_utf8(run.stdout).unwrap();
    assert!(table.contains("r²") && !table.contains("P@1"), "{table}");
    assert!(at.join("out/shortcuts/00.safetensors").exists() && at.join("out/plots/r2.svg").exists());
    assert!(!at.join("out/results/layers.csv").exists() && !at.join("out/plots/precision.svg").exists());
    fail(at, &["evaluate", "--out", "out"], &["encoder", "no language-model head", "saved with its head"]);

    // The states are those of the whole model.
    succeed(at, &[&SMALL[..], &["--model", "tiny-bert", "--out", "whole"]].concat());
    common::assert_same_files(&at.join("out/states"), &at.join("whole/states"));
}

#[test]
fn options_that_are_for_masked_models_alone() {
    let at = tempfile::tempdir().unwrap();
    refused(at.path(), &["--no-mask"], &["`tiny-gpt2`", "causal", "leave out `--no-mask`"]);
    fs::write(at.path().join("s.jsonl"), r#"{"ids": [2, 4, 3], "position": 1}"#).unwrap();
    let args = ["run", "--model", "tiny-bert", "--train-samples", "s.jsonl", "--val-samples", "s.jsonl"];
    fail(at.path(), &[&args[..], &["--no-mask"]].concat(), &["--no-mask", "cannot be used with"]);
}

#[test]
fn tokenizer_without_a_mask() {
    let at = tempfile::tempdir().unwrap();
    let tokenizer = copy_of("tiny-bert", at.path(), "m").join("tokenizer.json");
    fs::write(&tokenizer, fs::read_to_string(&tokenizer).unwrap().replace("[MASK]", "[HOLE]")).unwrap();
    refused(at.path(), &["--model", "m"], &["m/tokenizer.json", "no token `[MASK]`", "--no-mask"]);
    succeed(at.path(), &[&SMALL[..], &["--model", "m", "--no-mask", "--out", "kept"]].concat());
}

#[test]
fn checkpoint_that_lacks_the_head_it_should_have() {
    let at = tempfile::tempdir().unwrap();
    let folder = copy_of("tiny-bert", at.path(), "m");
    remove_tensors(&folder.join("model.safetensors"), "cls.");
    refused(
        at.path(),
        &["--model", "m"],
        &["m/model.safetensors", "no tensor `cls.predictions.", "config.json"],
    );
}

#[test]
fn vocabulary_file_of_another_size() {
    let at = tempfile::tempdir().unwrap();
    let folder = copy_of("tiny-bert", at.path(), "m");
    fs::remove_file(folder.join("tokenizer.json")).unwrap();
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned);
    for (tokens, says) in [(3000, "another model"), (4097, "`word4096` (4096)")] {
        let words = (special.len()..tokens).map(|i| format!("word{i}"));
        let text: Vec<String> = special.iter().cloned().chain(words).collect();
        fs::write(folder.join("vocab.txt"), text.join("\n")).unwrap();
        let up_to = format!("up to {}", tokens - 1);
        let out = format!("of-{tokens}");
        let args = ["samples", "--model", "m", "--train", "9", "--val", "9", "--out", &out];
        let done = output(at.path(), &args);
        assert!(done.status.success(), "{}", stderr(&done));
        for says in [&up_to, "4096 rows", says] {
            assert!(stderr(&done).contains(says), "no `{says}`: {}", stderr(&done));
        }
    }
    fs::write(folder.join("vocab.txt"), "[PAD]\n[UNK]\n").unwrap();
    refused(at.path(), &["--model", "m"], &["m/vocab.txt", "no token `[MASK]`", "--no-mask"]);
    fs::write(folder.join("vocab.txt"), "[PAD]\n[CLS]\n").unwrap();
    refused(at.path(), &["--model", "m"], &["m/vocab.txt", "no line `[UNK]`"]);
}
