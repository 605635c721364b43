//! No command changes a file of a finished stage without `--overwrite`, whatever folder it meets, and no message advises what
//! would.

mod common;

use common::{files, jumplens, output, stderr, succeed};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

const COUNTS: [&str; 6] = ["--train", "24", "--val", "8", "--pairs", "to-final"];

/// Folders below `at`, each made by another command or stopped after another stage.
fn make_folders(at: &Path) -> Vec<&'static str> {
    let quiet = |args: &[&str]| drop(succeed(at, &[&["-q"], args].concat()));
    quiet(&[&["samples"], &COUNTS[..], &["--out", "samples"]].concat());
    for (before, stage) in [("samples", "states"), ("states", "fit"), ("fit", "r2"), ("r2", "evaluate")] {
        copy(&at.join(before), &at.join(stage));
        quiet(&[stage, "--out", stage]);
    }
    copy(&at.join("evaluate"), &at.join("run"));
    quiet(&["plot", "--out", "run", "--format", "svg"]);
    copy(&at.join("run"), &at.join("other"));
    for (split, samples) in [("t", 20), ("v", 6)] {
        let text = fs::read_to_string(at.join("samples/samples/train.jsonl")).unwrap();
        let lines: String = text.lines().take(samples).map(|line| format!("{line}\n")).collect();
        fs::write(at.join(format!("{split}.jsonl")), lines).unwrap();
    }
    quiet(&["states", "--train-samples", "t.jsonl", "--val-samples", "v.jsonl", "--out", "given"]);
    quiet(&[
        "states",
        "import",
        "--train",
        "other/states/train",
        "--val",
        "other/states/val",
        "--out",
        "taken",
    ]);
    quiet(&[&["moments"], &COUNTS[..], &["--out", "moments"]].concat());
    quiet(&[&["moments"], &COUNTS[..], &["--shard", "1/2", "--out", "share"]].concat());
    fs::create_dir(at.join("merged")).unwrap();
    quiet(&["merge", "moments/moments.safetensors", "--out", "merged/sums"]);
    quiet(&["fit", "--moments", "moments/moments.safetensors", "--out", "fitted"]);
    quiet(&["shortcuts", "export", "run", "--out", "exported"]);
    quiet(&["shortcuts", "import", "exported/mat.safetensors", "--out", "imported"]);
    quiet(&["compare", "run", "evaluate", "--out", "compared", "--format", "svg"]);
    fs::create_dir(at.join("sentences")).unwrap();
    quiet(&["sentences", "--num", "20", "--out", "sentences/drawn.txt"]);
    copy(&at.join("run/results"), &at.join("figures/results"));
    quiet(&["plot", "--out", "figures", "--format", "svg"]);
    vec![
        "samples",
        "states",
        "fit",
        "r2",
        "evaluate",
        "run",
        "given",
        "taken",
        "moments",
        "share",
        "merged",
        "fitted",
        "exported",
        "imported",
        "compared",
        "sentences",
        "figures",
    ]
}

/// Every command that writes, with the folder `F` as where it writes to.
fn commands() -> Vec<Vec<&'static str>> {
    let mut commands: Vec<Vec<&str>> = vec![
        vec!["run", "--resume", "--out", "F"],
        vec!["run", "--resume", "--seed", "1", "--out", "F"],
        vec!["run", "--resume", "--model", "tiny-bert", "--out", "F"],
        vec!["samples", "--resume", "--out", "F"],
        vec!["states", "--out", "F"],
        vec!["states", "--train-samples", "t.jsonl", "--val-samples", "v.jsonl", "--out", "F"],
        vec!["states", "import", "--train", "other/states/train", "--val", "other/states/val", "--out", "F"],
        vec!["fit", "--out", "F"],
        vec!["fit", "--intercept", "--out", "F"],
        vec!["fit", "--moments", "moments/moments.safetensors", "--out", "F"],
        vec!["fit", "--moments", "F/moments.safetensors", "--out", "F"],
        vec!["moments", "--out", "F"],
        vec!["moments", "--shard", "2/2", "--out", "F"],
        vec!["merge", "moments/moments.safetensors", "--out", "F/moments.safetensors"],
        vec!["merge", "moments/moments.safetensors", "--out", "F/sums"],
        vec!["r2", "--out", "F"],
        vec!["r2", "--shortcuts", "fitted", "--out", "F"],
        vec!["evaluate", "--out", "F"],
        vec!["evaluate", "--shortcuts", "imported", "--out", "F"],
        vec!["plot", "--format", "svg", "--out", "F"],
        vec!["compare", "run", "other", "--format", "svg", "--out", "F"],
        vec!["shortcuts", "export", "run", "--out", "F"],
        vec!["shortcuts", "export", "fitted", "--format", "npz", "--out", "F"],
        vec!["shortcuts", "import", "exported/mat.safetensors", "--out", "F"],
        vec!["sentences", "--num", "30", "--out", "F/drawn.txt"],
        vec!["sentences", "--num", "30", "--out", "F/samples/train"],
        vec!["sentences", "--num", "30", "--out", "F/manifest"],
    ];
    for command in ["run", "samples", "moments"] {
        commands.push([&[command], &COUNTS[..], &["--out", "F"]].concat());
    }
    commands
}

fn copy(from: &Path, to: &Path) {
    for (path, bytes) in files(from) {
        let path = to.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// What may never change unasked: all files, but for what is drawn anew freely, both stages' summary, and the manifest, of
/// which the finished stages stay.
fn kept(folder: &Path) -> (BTreeMap<PathBuf, Vec<u8>>, BTreeMap<String, serde_json::Value>) {
    let mut files = files(folder);
    let manifest = files.remove(Path::new("manifest.json"));
    let is_kept = |path: &Path| {
        let free = ["plots", "report.html", ".lock", "results/summary.json"];
        !free.iter().any(|free| path.starts_with(free))
    };
    files.retain(|path, _| is_kept(path));
    let manifest: serde_json::Value =
        manifest.map_or(serde_json::Value::Null, |bytes| serde_json::from_slice(&bytes).unwrap());
    let mut stages: BTreeMap<String, serde_json::Value> = BTreeMap::new();
    for (name, record) in manifest["stages"].as_object().into_iter().flatten() {
        if name != "plot" && record["done"] == true {
            stages.insert(name.clone(), record.clone());
        }
    }
    (files, stages)
}

/// A copy `F` of a folder, made anew where a command has changed anything of it.
struct Copied<'a> {
    at: &'a Path,
    folder: &'a str,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

impl<'a> Copied<'a> {
    fn new(at: &'a Path, folder: &'a str) -> Self {
        let copied = Self { at, folder, files: files(&at.join(folder)) };
        copied.renew();
        copied
    }

    fn renew(&self) {
        let place = self.at.join("F");
        if place.exists() {
            fs::remove_dir_all(&place).unwrap();
        }
        copy(&self.at.join(self.folder), &place);
    }
}

/// A command's output, in a copy of the folder as it was; and what of it was lost.
fn on_a_copy(copied: &Copied, command: &[&str]) -> (Output, Vec<String>) {
    let place = copied.at.join("F");
    let before = kept(&place);
    let said = output(copied.at, command);
    let after = kept(&place);
    if files(&place) != copied.files {
        copied.renew();
    }
    let mut lost: Vec<String> = Vec::new();
    for (path, bytes) in &before.0 {
        if after.0.get(path) != Some(bytes) {
            lost.push(path.display().to_string());
        }
    }
    for (stage, record) in &before.1 {
        if after.1.get(stage) != Some(record) {
            lost.push(format!("the record of the stage {stage}"));
        }
    }
    (said, lost)
}

/// The commands in backquotes that can be given as they stand.
fn advised(text: &str) -> Vec<Vec<&str>> {
    let quoted = text.split('`').skip(1).step_by(2).filter_map(|quoted| quoted.strip_prefix("jumplens "));
    let is_whole = |command: &&str| {
        command.contains("F")
            && !command.contains('…')
            && !command.split(' ').any(|word| ["RUN", "FILE"].contains(&word))
    };
    quoted.filter(is_whole).map(|command| command.split(' ').collect()).collect()
}

#[test]
fn no_command_changes_what_is_finished_unasked_in_runs() {
    no_command_changes_what_is_finished_unasked(|place| place < 6);
}

#[test]
fn no_command_changes_what_is_finished_unasked_in_other_folders() {
    no_command_changes_what_is_finished_unasked(|place| place >= 6);
}

/// In the folders whose places in the list `takes` takes in.
fn no_command_changes_what_is_finished_unasked(takes: impl Fn(usize) -> bool) {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let (folders, commands) = (make_folders(at), commands());
    let mut faults = Vec::new();
    let mut tried = 0;
    for (_, folder) in folders.into_iter().enumerate().filter(|(place, _)| takes(*place)) {
        let copied = Copied::new(at, folder);
        for command in &commands {
            let (said, lost) = on_a_copy(&copied, command);
            let text = stderr(&said);
            let what = format!("`{}` on `{folder}`: {}", command.join(" "), text.trim());
            tried += 1;
            if !lost.is_empty() {
                faults.push(format!("{what}\n    lost {lost:?}"));
            }
            if !matches!(said.status.code(), Some(0 | 1)) {
                faults.push(format!("{what}\n    ended with {:?}", said.status));
            }
            let advice: Vec<&str> = text.lines().filter(|line| line.starts_with("error: ")).collect();
            if said.status.code() == Some(1) && (advice.len() != 1 || text.lines().last() != Some(advice[0]))
            {
                faults.push(format!("{what}\n    no error in one line"));
            }
            for line in advice {
                // Another folder, or that nothing is left to do, comes first.
                if let Some(at) = line.find("--overwrite")
                    && !["another", "nothing is left to do", "leave it out"]
                        .iter()
                        .any(|first| line[..at].contains(first))
                {
                    faults.push(format!("{what}\n    offers `--overwrite` first"));
                }
                for command in advised(line) {
                    if command.contains(&"--overwrite") {
                        faults.push(format!("{what}\n    advises {command:?}"));
                    }
                    let (_, lost) = on_a_copy(&copied, &command);
                    if !lost.is_empty() {
                        faults.push(format!("{what}\n    advises {command:?}, which loses {lost:?}"));
                    }
                }
            }
        }
    }
    assert!(faults.is_empty(), "{} of {tried} pairs:\n{}", faults.len(), faults.join("\n"));
}

/// A folder of another kind is named, with what it is good for.
#[test]
fn a_folder_of_another_kind_says_what_it_is() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    make_folders(at);
    let says = |args: &[&str], says: &[&str]| {
        for how in [&[][..], &["--overwrite"]] {
            let before = files(&at.join(args[args.len() - 1]));
            common::fail(at, &[&args[..args.len() - 2], how, &args[args.len() - 2..]].concat(), says);
            assert!(files(&at.join(args[args.len() - 1])) == before, "{args:?}");
        }
    };
    for command in ["run", "samples", "moments"] {
        let lens =
            ["`fitted` holds maps fitted from second-moment sums, not a run", "`jumplens lens --run fitted`"];
        says(&[command, "--out", "fitted"], &lens);
        says(
            &[command, "--out", "imported"],
            &["`imported` holds imported maps, not a run", "shortcuts list"],
        );
        says(
            &[command, "--out", "exported"],
            &["`exported` holds exported maps, not a run", "another folder"],
        );
        says(&[command, "--out", "compared"], &["`compared` holds a comparison of runs, not a run"]);
        says(&[command, "--out", "figures"], &["`figures` holds figures", "`jumplens plot --out figures`"]);
    }
    let to_run = ["shortcuts", "export", "run", "--out", "fitted"];
    says(&to_run, &["`fitted` holds maps fitted from second-moment sums, not exported maps"]);
    says(&["compare", "run", "other", "--out", "fit"], &["`fit` holds a run, not a comparison of runs"]);
    let states = [
        "`fitted` holds maps",
        "not the states of a run",
        "`jumplens evaluate --out RUN --shortcuts fitted`",
    ];
    says(&["evaluate", "--out", "fitted"], &states);
    common::fail(at, &["lens", "a", "--run", "imported"], &["`imported` holds imported maps, not a run"]);
    common::fail(
        at,
        &["shortcuts", "list", "compared"],
        &["`compared` holds a comparison of runs, not maps"],
    );
    common::fail(at, &["compare", "run", "imported", "--out", "x"], &["`imported` holds imported maps"]);
}

#[test]
fn a_finished_stage_is_done_again_when_asked() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    make_folders(at);
    let done = |folder: &str| -> Vec<String> { kept(&at.join(folder)).1.into_keys().collect() };
    for stage in ["states", "fit", "r2", "evaluate"] {
        common::fail(
            at,
            &[stage, "--out", "run"],
            &[&format!("the stage `{stage}` of `run` is done"), "nothing is left"],
        );
    }
    let before = files(&at.join("run/results"));
    common::fail(
        at,
        &["evaluate", "--out", "run", "--shortcuts", "imported"],
        &["`evaluate` of `run` is done"],
    );
    assert!(files(&at.join("run/results")) == before);
    succeed(at, &["evaluate", "--out", "run", "--overwrite"]);
    assert!(files(&at.join("run/results")) == before);
    // What came of the old maps is old, and is shown by nobody.
    succeed(at, &["fit", "--out", "run", "--intercept", "--overwrite"]);
    assert_eq!(done("run"), ["fit", "samples", "states"]);
    common::fail(at, &["plot", "--out", "run"], &["no finished stage `r2`"]);
    common::fail(at, &["compare", "run", "other", "--out", "x"], &["`run` has no finished stage `r2`"]);
    let inspected = succeed(at, &["shortcuts", "inspect", "run", "--cast", "mat", "--format", "json"]);
    assert!(inspected.contains("\"r2\": null"), "{inspected}");
    succeed(at, &["states", "--out", "run", "--overwrite"]);
    for args in [
        &["shortcuts", "export", "run", "--out", "x"][..],
        &["shortcuts", "inspect", "run"],
        &["lens", "a", "--model", "tiny-gpt2", "--shortcuts", "run"],
        &["lens", "a", "--model", "tiny-gpt2", "--shortcuts", "run/shortcuts"],
    ] {
        common::fail(at, args, &["no finished stage `fit`"]);
    }
    succeed(at, &["fit", "--out", "run"]);
    succeed(at, &["r2", "--out", "run"]);
    succeed(at, &["plot", "--out", "run", "--format", "svg"]);
    // Only the r² is of these maps.
    let report = fs::read_to_string(at.join("run/report.html")).unwrap();
    assert!(!report.contains("results/layers.csv") && report.contains("\"layers_saved\":{}"));
    // So it is with what other commands made.
    for (args, out) in [
        (&["shortcuts", "export", "other", "--out", "exported"][..], "exported"),
        (&["shortcuts", "import", "merged/../exported/mat.safetensors", "--out", "imported"], "imported"),
        (&["compare", "other", "evaluate", "--format", "svg", "--out", "compared"], "compared"),
        (&["fit", "--moments", "moments/moments.safetensors", "--out", "fitted"], "fitted"),
        (&["merge", "moments/moments.safetensors", "--out", "merged/sums"], "merged"),
    ] {
        let before = files(&at.join(out));
        common::fail(at, args, &["another `--out`", "--overwrite"]);
        assert!(files(&at.join(out)) == before);
        succeed(at, &[args, &["--overwrite"]].concat());
        assert_eq!(files(&at.join(out)).keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    }
}

#[test]
fn what_is_fitted_from_sums_is_used_as_a_run_is() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    make_folders(at);
    let lens = |args: &[&str]| {
        succeed(at, &[&["lens", "A day in May", "--cast", "mat", "--layers", "3,12"], args].concat())
    };
    assert_eq!(lens(&["--run", "fitted"]), lens(&["--shortcuts", "fitted"]));
    // The maps by themselves do not know how good they are.
    let table = |text: String| text.split("note: r²").next().unwrap().to_owned();
    assert_eq!(table(lens(&["--run", "fitted"])), lens(&["--shortcuts", "fitted/shortcuts"]));
    common::fail(
        at,
        &["r2", "--out", "fitted"],
        &["the stage `r2` of `fitted` is done", "fitted/results/r2.csv", "nothing is left to do"],
    );
    common::fail(at, &["r2", "--out", "fitted", "--overwrite"], &["not the states of a run"]);
    succeed(at, &["shortcuts", "export", "fitted", "--out", "e"]);
    let card = fs::read_to_string(at.join("e/README.md")).unwrap();
    assert!(card.contains("tiny-gpt2") && card.contains("| 11 |"), "{card}");
    assert!(succeed(at, &["shortcuts", "list", "fitted"]).contains("mat"));
    succeed(at, &["evaluate", "--shortcuts", "fitted", "--out", "states"]);
    succeed(at, &["plot", "--out", "fitted", "--format", "svg"]);
    assert!(at.join("fitted/report.html").exists());
    succeed(at, &["compare", "run", "fitted", "--format", "svg", "--out", "both"]);
}

/// Whoever reads maps or tables sees that they are as they were left.
#[test]
fn every_reader_finds_a_changed_file() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    make_folders(at);
    let flipped = |file: &str, readers: &[&[&str]]| {
        let path = at.join(file);
        let whole = fs::read(&path).unwrap();
        let mut bytes = whole.clone();
        let last = bytes.len() - 3;
        bytes[last] ^= 1;
        fs::write(&path, bytes).unwrap();
        for reader in readers {
            common::fail(at, reader, &[file, "changed or removed since"]);
        }
        fs::write(&path, whole).unwrap();
    };
    let maps: [&[&str]; 8] = [
        &["shortcuts", "list", "run"],
        &["shortcuts", "inspect", "run"],
        &["shortcuts", "export", "run", "--out", "x"],
        &["shortcuts", "import", "run/shortcuts/03.safetensors", "--out", "x"],
        &["lens", "a", "--run", "run"],
        &["lens", "a", "--shortcuts", "run"],
        &["lens", "a", "--shortcuts", "run/shortcuts"],
        &["r2", "--out", "states", "--shortcuts", "run"],
    ];
    flipped("run/shortcuts/03.safetensors", &maps);
    flipped(
        "run/results/r2.csv",
        &[
            &["shortcuts", "inspect", "run"],
            &["shortcuts", "export", "run", "--out", "x"],
            &["compare", "other", "run", "--out", "x"],
            &["plot", "--out", "run"],
        ],
    );
    flipped("run/results/predictions.parquet", &[&["compare", "other", "run", "--out", "x"]]);
    flipped(
        "run/samples/val.jsonl",
        &[&["lens", "a", "--run", "run"], &["compare", "other", "run", "--out", "x"]],
    );
    flipped(
        "fitted/shortcuts/03.safetensors",
        &[
            &["lens", "a", "--run", "fitted"],
            &["shortcuts", "export", "fitted", "--out", "x"],
            &["evaluate", "--out", "states", "--shortcuts", "fitted"],
        ],
    );
    flipped(
        "imported/03.safetensors",
        &[&["lens", "a", "--shortcuts", "imported"], &["shortcuts", "list", "imported"]],
    );
    flipped("exported/mat.safetensors", &[&["lens", "a", "--shortcuts", "exported/mat.safetensors"]]);
    flipped(
        "moments/moments.safetensors",
        &[
            &["fit", "--moments", "moments/moments.safetensors", "--out", "x"],
            &["merge", "moments/moments.safetensors", "--out", "x"],
        ],
    );
    assert!(!at.join("x").exists());
    // Maps of a fit that was stopped are not all of them.
    fs::remove_file(at.join("fit/shortcuts/07.safetensors")).unwrap();
    common::edit_manifest(&at.join("fit"), |manifest| {
        manifest["stages"].as_object_mut().unwrap().remove("fit");
    });
    common::fail(at, &["shortcuts", "export", "fit", "--out", "x"], &["`fit` has no finished stage `fit`"]);
}

#[test]
fn a_damaged_manifest_is_replaced_when_asked_and_not_before() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let run = [&["run"], &COUNTS[..], &["--out", "run"]].concat();
    succeed(at, &[&["-q"], &run[..]].concat());
    let manifest = at.join("run/manifest.json");
    let whole = fs::read_to_string(&manifest).unwrap();
    let newer = whole.replacen("\"format\": 1", "\"format\": 9", 1);
    let moment = whole.replacen("\"train\": 24", "\"train\": \"many\"", 1);
    for damaged in [&whole[..whole.len() / 2], "", "not JSON", "\0\0\0\0", &newer, &moment] {
        fs::write(&manifest, damaged).unwrap();
        let before = files(&at.join("run"));
        for args in [
            &run[..],
            &[&run[..], &["--resume"]].concat(),
            &["states", "--out", "run"],
            &["fit", "--out", "run", "--overwrite"],
            &["moments", "--out", "run"],
            &["plot", "--out", "run"],
            &["lens", "a", "--run", "run"],
            &["shortcuts", "export", "run", "--out", "x"],
            &["shortcuts", "export", "run", "--out", "run"],
            &["compare", "run", "run/../run", "--out", "run"],
        ] {
            let said = output(at, args);
            assert_eq!(said.status.code(), Some(1), "{args:?}");
            assert!(!stderr(&said).starts_with("error: internal"), "{args:?}");
            assert!(files(&at.join("run")) == before, "{args:?} changed the folder");
        }
        let said = output(at, &[&run[..], &["--overwrite"]].concat());
        assert!(said.status.success(), "{damaged:.30}: {}", stderr(&said));
        assert!(stderr(&said).contains("`run/manifest.json` is damaged"), "{}", stderr(&said));
        assert!(files(&at.join("run/results")) == before_results(&before));
    }
}

fn before_results(files: &BTreeMap<PathBuf, Vec<u8>>) -> BTreeMap<PathBuf, Vec<u8>> {
    let results = files
        .iter()
        .filter_map(|(path, bytes)| Some((path.strip_prefix("results").ok()?.to_owned(), bytes.clone())));
    results.collect()
}

#[test]
fn overwriting_leaves_nothing_old() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    make_folders(at);
    copy(&at.join("run"), &at.join("all"));
    succeed(at, &["moments", "--out", "all"]);
    let run = [&["samples"], &COUNTS[..], &["--out", "all", "--overwrite", "--seed", "3"]].concat();
    succeed(at, &run);
    let left: Vec<PathBuf> = files(&at.join("all")).into_keys().collect();
    let wanted = [".lock", "manifest.json", "samples/train.jsonl", "samples/val.jsonl"];
    assert_eq!(left, wanted.map(PathBuf::from));
}

#[test]
fn an_old_folder_of_maps_from_sums_is_known_as_one() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    make_folders(at);
    // As this program wrote it before it said what a folder is.
    common::edit_manifest(&at.join("fitted"), |manifest| {
        manifest.as_object_mut().unwrap().remove("kind");
        for stage in ["fit", "r2"] {
            manifest["stages"][stage].as_object_mut().unwrap().remove("files");
        }
    });
    common::fail(
        at,
        &["samples", "--out", "fitted", "--overwrite"],
        &["holds maps fitted from second-moment sums"],
    );
    succeed(at, &["lens", "a", "--run", "fitted"]);
    assert!(jumplens(at, &["shortcuts", "export", "fitted", "--out", "e"]).status().unwrap().success());
}

#[test]
fn an_unfinished_folder_is_read_by_nobody_and_made_again() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    make_folders(at);
    let import: &[&str] = &["shortcuts", "import", "exported/mat.safetensors", "--out", "imported"];
    let compare: &[&str] = &["compare", "run", "evaluate", "--out", "compared", "--format", "svg"];
    let fit: &[&str] = &["fit", "--moments", "moments/moments.safetensors", "--out", "fitted"];
    // As a kill leaves them.
    for (folder, lost, again) in [
        ("imported", "05.safetensors", import),
        ("compared", "differences.csv", compare),
        ("fitted", "shortcuts/05.safetensors", fit),
    ] {
        let whole = files(&at.join(folder));
        common::edit_manifest(&at.join(folder), |manifest| {
            if folder == "fitted" {
                manifest["stages"] = serde_json::json!({});
            } else {
                manifest["done"] = false.into();
                manifest["files"] = serde_json::json!({});
            }
        });
        fs::remove_file(at.join(folder).join(lost)).unwrap();
        if folder != "compared" {
            for reader in [
                &["shortcuts", "list", folder][..],
                &["shortcuts", "export", folder, "--out", "x"],
                &["evaluate", "--out", "states", "--shortcuts", folder],
            ] {
                common::fail(at, reader, &["was not finished", "again"]);
            }
        }
        common::fail(at, &["samples", "--out", folder, "--overwrite"], &[&format!("`{folder}` holds")]);
        succeed(at, again);
        let mut anew = files(&at.join(folder));
        anew.insert("manifest.json".into(), whole[Path::new("manifest.json")].clone());
        assert!(anew == whole, "{folder}");
    }
    common::fail(at, &["lens", "a", "--run", "imported"], &["imported maps, not a run"]);
    // What ended before its manifest was there.
    for (again, folder) in [(import, "imported"), (compare, "compared"), (fit, "fitted")] {
        fs::remove_dir_all(at.join(folder)).unwrap();
        fs::create_dir(at.join(folder)).unwrap();
        fs::write(at.join(folder).join("manifest.json.part"), "{").unwrap();
        succeed(at, again);
        common::assert_nothing_partial(&at.join(folder));
    }
}

#[test]
fn single_files_are_not_written_into_folders_that_have_a_manifest() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    make_folders(at);
    let before = files(&at.join("run"));
    for out in
        ["run/moments.safetensors", "run/manifest.json", "run/results/r2.csv", "fitted/new.safetensors"]
    {
        let merge = ["merge", "moments/moments.safetensors", "--overwrite", "--out", out];
        common::fail(at, &merge, &[&format!("`{out}` lies in `"), "choose a place outside of it"]);
        let sentences =
            ["sentences", "--corpus", "wikipedia-sample", "--num", "3", "--overwrite", "--out", out];
        common::fail(at, &sentences, &[&format!("`{out}` lies in `"), "choose a place outside of it"]);
    }
    assert!(files(&at.join("run")) == before);
}

#[test]
fn a_run_of_a_damaged_manifest_is_not_replaced_by_what_is_no_run() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    make_folders(at);
    fs::write(at.join("run/manifest.json"), r#"{"format": 2, "version": "9.9.9"}"#).unwrap();
    let before = files(&at.join("run"));
    let says = ["run/manifest.json` cannot be used: written by a newer version", "update jumplens"];
    for command in [
        &["compare", "fitted", "other", "--overwrite", "--out", "run"][..],
        &["shortcuts", "export", "fitted", "--overwrite", "--out", "run"],
        &["fit", "--moments", "moments/moments.safetensors", "--overwrite", "--out", "run"],
    ] {
        let output = common::output(at, command);
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        if command[0] != "compare" {
            let said = common::stderr(&output);
            assert!(says.iter().all(|says| said.contains(says)), "{said}");
        }
        assert!(files(&at.join("run")) == before, "{command:?}");
    }
}
