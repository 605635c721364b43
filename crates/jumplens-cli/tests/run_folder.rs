//! What is in the output folder already is respected.

mod common;

use common::{SMALL, edit, fail, files, model, succeed};
use std::fs;

#[test]
fn another_run_is_kept_unless_told_otherwise() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let run = [&SMALL[..], &["--out", "out"]].concat();
    succeed(at, &run);
    let before = files(&at.join("out"));
    fail(at, &run, &["`out` holds a run already", "seed 0", "`--out`", "`--resume`", "`--overwrite`"]);
    fs::write(at.join("mine.txt"), "A sentence.\n".repeat(80)).unwrap();
    for (other, what) in [
        (&["--seed", "1"][..], "the seed is 0 in the run in `out`, and 1 here"),
        (&["--corpus", "mine.txt"], "`wikipedia-sample` in the run in `out`, and `mine.txt` here"),
        (&["--pairs", "all"], "is to-final in the run in `out`, and all here"),
    ] {
        let mut args: Vec<&str> = vec!["run", "--train", "60", "--val", "20", "--out", "out", "--resume"];
        if other[0] != "--pairs" {
            args.extend(["--pairs", "to-final"]);
        }
        args.extend(other);
        fail(at, &args, &[what, "another `--out`"]);
    }
    let counts = ["run", "--train", "61", "--val", "20", "--pairs", "to-final", "--out", "out", "--resume"];
    fail(at, &counts, &["training sentences is 60 in the run in `out`, and 61 here"]);
    assert!(files(&at.join("out")) == before);

    succeed(at, &[&run[..], &["--seed", "1", "--overwrite"]].concat());
    let after = files(&at.join("out"));
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    assert!(before != after);
}

#[test]
fn other_files_are_never_touched() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    fs::create_dir_all(at.join("mine/results")).unwrap();
    fs::write(at.join("mine/results/thesis.txt"), "years of work").unwrap();
    let run = [&SMALL[..], &["--out", "mine"]].concat();
    for how in [&[][..], &["--resume"], &["--overwrite"]] {
        fail(at, &[&run, how].concat(), &["`mine` is not empty", "choose another `--out`"]);
    }
    fs::write(at.join("mine/manifest.json"), r#"{"name": "a web page's manifest"}"#).unwrap();
    for how in [&[][..], &["--resume"], &["--overwrite"]] {
        fail(at, &[&run, how].concat(), &["`mine/manifest.json`", "; "]);
    }
    assert_eq!(fs::read(at.join("mine/results/thesis.txt")).unwrap(), b"years of work");
    assert_eq!(files(&at.join("mine")).len(), 2);
}

#[test]
fn folder_that_cannot_be_made() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    fs::write(at.join("file"), "mine").unwrap();
    for out in ["file", "file/below", "file/far/below"] {
        fail(at, &[&SMALL[..], &["--out", out]].concat(), &["`file", "not a folder", "choose another"]);
    }
    assert_eq!(fs::read(at.join("file")).unwrap(), b"mine");
}

#[test]
fn stages_out_of_order_name_the_one_to_run_first() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    for stage in ["states", "fit", "r2", "evaluate", "plot"] {
        fail(
            at,
            &[stage, "--out", "out"],
            &["there is no folder `out`", "run `jumplens samples --out out` first"],
        );
    }
    fail(at, &["lens", "a", "--run", "out"], &["there is no folder `out`"]);
    assert!(files(at).is_empty());
    succeed(at, &["samples", "--train", "20", "--val", "10", "--out", "out"]);
    let first = |stage: &str, first: &str| {
        fail(at, &[stage, "--out", "out"], &[&format!("run `jumplens {first} --out out` first")]);
    };
    first("fit", "states");
    first("r2", "states");
    first("evaluate", "states");
    first("plot", "states");
    fail(at, &["r2", "--out", "out", "--shortcuts", "x"], &["run `jumplens states --out out` first"]);
    succeed(at, &["states", "--out", "out"]);
    first("r2", "fit");
    first("evaluate", "fit");
    succeed(at, &["fit", "--out", "out"]);
    first("plot", "r2");
}

#[test]
fn shortcuts_from_elsewhere_that_do_not_serve_cost_nothing() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    succeed(at, &[&SMALL[..], &["--out", "out"]].concat());
    let before = files(&at.join("out"));
    let maps = files(&at.join("out/shortcuts"));
    type Change<'a> = &'a dyn Fn(&str, &[u8]) -> Option<Vec<u8>>;
    let copy = |name: &str, change: Change| {
        for (path, bytes) in &maps {
            if let Some(bytes) = change(path.to_str().unwrap(), bytes) {
                let path = at.join(name).join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            }
        }
    };
    copy("gap", &|path, bytes| (path != "05.safetensors").then(|| bytes.to_vec()));
    copy("cut", &|path, bytes| {
        Some(bytes[..if path == "05.safetensors" { bytes.len() / 2 } else { bytes.len() }].to_vec())
    });
    // The map from layer 3 in the place of the one from layer 5.
    let third = &maps[std::path::Path::new("03.safetensors")];
    copy("wrong", &|path, bytes| Some(if path == "05.safetensors" { third } else { bytes }.to_vec()));
    for stage in ["r2", "evaluate"] {
        let with = |folder: &str, says: &[&str]| {
            fail(at, &[stage, "--out", "out", "--shortcuts", folder, "--overwrite"], says);
            assert!(files(&at.join("out")) == before, "`{stage}` changed the run");
        };
        with("missing", &["`missing`", "path"]);
        with("gap", &["gap/05.safetensors", "path"]);
        with("cut", &["cut/05.safetensors", "changed or removed since it was written"]);
    }
    let evaluate = |folder: &str, says: &[&str]| {
        fail(at, &["evaluate", "--out", "out", "--shortcuts", folder, "--overwrite"], says);
        assert!(files(&at.join("out")) == before, "`evaluate` changed the run");
    };
    evaluate("wrong", &["wrong/05.safetensors", "05_12"]);
    // The run's own maps from another place give the same tables.
    copy("own", &|_, bytes| Some(bytes.to_vec()));
    succeed(at, &["evaluate", "--out", "out", "--shortcuts", "own", "--overwrite"]);
    assert!(files(&at.join("out/results")).iter().all(|(name, now)| before[&at_results(name)] == *now));
}

fn at_results(name: &std::path::Path) -> std::path::PathBuf {
    std::path::Path::new("results").join(name)
}

#[test]
fn model_that_changed_since_the_run_began() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let config = model(at, "m").join("config.json");
    let run = [&SMALL[..], &["--model", "m", "--out", "out"]].concat();
    succeed(at, &[&["samples"], &run[1..]].concat());
    edit(&config, r#""layer_norm_epsilon": 1e-05"#, r#""layer_norm_epsilon": 1e-04"#);
    let before = files(&at.join("out"));
    let says = ["the model", "not what the run in `out` began with", "--overwrite"];
    fail(at, &["states", "--out", "out"], &says);
    fail(at, &[&run[..], &["--resume"]].concat(), &says);
    assert!(files(&at.join("out")) == before);
}

#[test]
fn damaged_files_of_a_run_are_named() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    succeed(at, &["samples", "--train", "20", "--val", "10", "--out", "out"]);
    succeed(at, &["states", "--out", "out"]);
    let states = at.join("out/states/train/03.safetensors");
    let whole = fs::read(&states).unwrap();
    for length in [0, 4, whole.len() / 2] {
        fs::write(&states, &whole[..length]).unwrap();
        fail(at, &["fit", "--out", "out"], &["states/train/03.safetensors", "changed or removed"]);
    }
    fs::remove_file(&states).unwrap();
    fail(at, &["fit", "--out", "out"], &["states/train/03.safetensors", "changed or removed"]);
    edit(&at.join("out/samples/train.jsonl"), r#"{"ids":["#, "{");
    fail(at, &["states", "--out", "out", "--overwrite"], &["samples/train.jsonl` was changed"]);
    // In words that know nothing of the program's types.
    let odd = [
        ("[1, 2]", "found a list, expected an object"),
        ("7", "found integer `7`, expected an object"),
        ("{\"format\": \"1\"}", "found string \"1\", expected a whole number"),
        ("{\"format\": 1, \"model\": []}", "cannot be used: "),
    ];
    for (manifest, says) in odd {
        fs::write(at.join("out/manifest.json"), manifest).unwrap();
        fail(at, &["states", "--out", "out"], &["manifest.json", "cannot be used", says]);
        let said = common::stderr(&common::output(at, &["states", "--out", "out"]));
        assert!(!said.contains("struct") && !said.contains("u64"), "{said}");
    }
}

/// What a tokenizer is read from is part of the model.
#[test]
fn every_file_of_the_tokenizer_counts_as_the_model() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let folder = model(at, "m");
    let beside = ["tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"];
    beside.iter().for_each(|name| fs::write(folder.join(name), "{}").unwrap());
    succeed(at, &["samples", "--train", "20", "--val", "10", "--model", "m", "--out", "out"]);
    succeed(at, &["states", "--out", "out"]);
    for name in beside {
        fs::write(folder.join(name), "{ }").unwrap();
        fail(
            at,
            &["states", "--out", "out", "--overwrite"],
            &["the model", "not what the run in `out` began with"],
        );
        fs::remove_file(folder.join(name)).unwrap();
        fail(
            at,
            &["states", "--out", "out", "--overwrite"],
            &["the model", "not what the run in `out` began with"],
        );
        fs::write(folder.join(name), "{}").unwrap();
    }
    succeed(at, &["states", "--out", "out", "--overwrite"]);
}
