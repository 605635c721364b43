//! `states import`: runs of states that another program computed, as their users meet them.

mod common;

use common::{SMALL, copy_of, edit_manifest, fail, files, output, stderr, succeed};
use std::fs;
use std::path::Path;

/// A run, and its states where no manifest says what they are.
fn base(at: &Path) {
    succeed(at, &[&SMALL[..], &["-q", "--out", "run"]].concat());
    for split in ["train", "val"] {
        fs::create_dir(at.join(split)).unwrap();
        for layer in 0..=12 {
            let name = format!("{layer:02}.safetensors");
            fs::copy(at.join("run/states").join(split).join(&name), at.join(split).join(name)).unwrap();
        }
    }
}

const IMPORT: [&str; 7] = ["states", "import", "--train", "train", "--val", "val", "--out"];
const SAID: [&str; 2] = ["--last-state", "block-output"];
const WITH_MODEL: [&str; 6] = [
    "--model",
    "tiny-gpt2",
    "--train-samples",
    "run/samples/train.jsonl",
    "--val-samples",
    "run/samples/val.jsonl",
];

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn stages_go_on_without_a_model_and_what_needs_one_says_so() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    base(at);
    fail(
        at,
        &[&IMPORT[..], &["out"]].concat(),
        &["`train`", "after the final norm", "`--last-state block-output`"],
    );
    assert!(!at.join("out").exists());
    let said = output(at, &[&IMPORT[..], &["out"], &SAID[..]].concat());
    assert!(said.status.success() && said.stdout.is_empty(), "{}", stderr(&said));
    assert!(stderr(&said).contains("States of 60 + 20 samples, layers 0 to 12, width 128, are in `out`"));
    assert!(
        stderr(&said).contains("`jumplens fit --out out` goes on, then `r2` and `plot`"),
        "{}",
        stderr(&said)
    );
    succeed(at, &["fit", "--out", "out", "--pairs", "to-final"]);
    succeed(at, &["r2", "--out", "out"]);
    succeed(at, &["plot", "--out", "out"]);
    assert_eq!(read(at.join("out/results/r2.csv")), read(at.join("run/results/r2.csv")));
    assert!(read(at.join("out/report.html")).contains("imported states"));
    // Positions are not known: the fields are empty, not 0.
    let sources = read(at.join("out/results/sources.csv"));
    assert!(sources.lines().skip(1).all(|line| line.ends_with(",,")), "{sources}");
    for args in [&["evaluate", "--out", "out"][..], &["lens", "--run", "out", "hello"]] {
        fail(
            at,
            args,
            &["`out` were imported without a model", "`jumplens states import` into another folder"],
        );
    }
    let json = succeed(at, &["-q", "run", "--resume", "--out", "out", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["family"], &json["n_layers"]), (&"imported".into(), &12.into()));
    // The maps are for whoever has states of that width, and say that no model is known.
    assert!(succeed(at, &["shortcuts", "list", "out"]).contains("block-output"));
    // What else a run's folder is good for.
    succeed(at, &["compare", "run", "out", "--out", "compared"]);
    succeed(at, &["moments", "--out", "out"]);
    assert!(at.join("out/moments.safetensors").exists());
}

#[test]
fn run_does_all_that_is_left() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    base(at);
    succeed(at, &[&IMPORT[..], &["out"], &WITH_MODEL[..]].concat());
    let said = output(at, &["run", "--resume", "--out", "out"]);
    assert!(said.status.success(), "{}", stderr(&said));
    assert!(stderr(&said).contains("the casts that run blocks are left out"), "{}", stderr(&said));
    let rows = |run: &str| -> Vec<String> {
        let text = read(at.join(run).join("results/layers.csv"));
        text.lines().filter(|line| line.starts_with("id,")).map(str::to_owned).collect()
    };
    assert_eq!(rows("out"), rows("run"));
    assert!(succeed(at, &["lens", "--run", "out", "The capital of"]).contains("layer"));
    // A model that has gone is not missed where it is not needed.
    copy_of("tiny-gpt2", at, "m");
    let own = WITH_MODEL.map(|word| if word == "tiny-gpt2" { "m" } else { word });
    succeed(at, &[&IMPORT[..], &["of-folder"], &own[..]].concat());
    fs::remove_dir_all(at.join("m")).unwrap();
    succeed(at, &["fit", "--out", "of-folder"]);
    succeed(at, &["r2", "--out", "of-folder"]);
    fail(at, &["evaluate", "--out", "of-folder"], &["m"]);
}

#[test]
fn a_runs_own_states_are_known_and_what_it_has_is_not_replaced() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    base(at);
    // The run's manifest vouches for its last layer.
    let of_run = ["states", "import", "--train", "run/states/train", "--val", "run/states/val", "--out"];
    succeed(at, &[&of_run[..], &["again"]].concat());
    fail(
        at,
        &[&of_run[..], &["again"]].concat(),
        &["`again` holds a run already", "no model", "`--overwrite`"],
    );
    let before = files(&at.join("run"));
    fail(at, &[&of_run[..], &["run", "--overwrite"]].concat(), &["`run/states/train` lies in `run`"]);
    fail(
        at,
        &[&of_run[..], &["again", "--overwrite", "--last-state", "final-norm-output"]].concat(),
        &["said to be"],
    );
    assert!(files(&at.join("run")) == before);
    // What fails costs no earlier result.
    let whole = files(&at.join("again"));
    fs::remove_file(at.join("train/07.safetensors")).unwrap();
    fail(
        at,
        &[&IMPORT[..], &["again", "--overwrite"], &SAID[..]].concat(),
        &["missing are 7", "`train` cannot be taken in"],
    );
    assert!(files(&at.join("again")) == whole);
    fail(
        at,
        &["states", "--out", "again", "--overwrite"],
        &["were imported", "`--overwrite` of `jumplens states import`"],
    );
    assert!(files(&at.join("again")) == whole);
    succeed(at, &[&of_run[..], &["again", "--overwrite"]].concat());
    // Of the states of a run whose states were changed nothing is made.
    let path = at.join("again/states/val/03.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let manifest = fs::read(at.join("again/manifest.json")).unwrap();
    for args in [
        &["fit", "--out", "again"][..],
        &["run", "--resume", "--out", "again"],
        &["states", "import", "--train", "again/states/train", "--val", "again/states/val", "--out", "third"],
    ] {
        fail(at, args, &["03.safetensors` was changed"]);
    }
    assert_eq!(fs::read(at.join("again/manifest.json")).unwrap(), manifest);
}

#[test]
fn an_import_that_was_stopped_begins_anew() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    base(at);
    let args = [&IMPORT[..], &["out"], &SAID[..]].concat();
    succeed(at, &args);
    let whole = files(&at.join("out/states"));
    edit_manifest(&at.join("out"), |manifest| manifest["stages"] = serde_json::json!({}));
    fs::rename(at.join("out/states/val/12.safetensors"), at.join("out/states/val/12.safetensors.part"))
        .unwrap();
    fail(at, &["run", "--resume", "--out", "out"], &["were imported"]);
    fail(at, &["fit", "--out", "out"], &["samples"]);
    succeed(at, &args);
    assert!(files(&at.join("out/states")) == whole);
}
