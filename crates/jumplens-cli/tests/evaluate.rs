//! `evaluate`: of chosen casts, in shares, and stopped again and again.

mod common;

use common::{assert_nothing_partial, assert_same_files, fail, files, signal, start, stderr, succeed};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Its tables, and what they are made from.
const OF_EVALUATE: [&str; 5] =
    ["layers.csv", "early_exit.csv", "exits.csv", "ranks.csv", "predictions.parquet"];

#[track_caller]
fn assert_same_tables(a: &Path, b: &Path) {
    for name in OF_EVALUATE {
        let [left, right] = [a, b].map(|run| fs::read(run.join("results").join(name)).unwrap());
        assert!(left == right, "{name} differs in {} and {}", a.display(), b.display());
    }
}

/// The lines of a table of a run whose cast is one of `casts`.
fn lines(run: &Path, table: &str, casts: &[&str]) -> Vec<String> {
    let text = fs::read_to_string(run.join("results").join(table)).unwrap();
    let is_of = |line: &&str| casts.contains(&line.split(',').next().unwrap());
    text.lines().filter(is_of).map(str::to_owned).collect()
}

#[test]
fn shares_of_one_run_give_the_bytes_of_the_whole() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    for model in ["tiny-gpt2", "tiny-bert"] {
        let options =
            ["--train", "300", "--val", "61", "--positions", "3", "--pairs", "to-final", "--intercept"];
        let whole = format!("whole-{model}");
        succeed(at, &[&["-q", "run", "--model", model, "--out", &whole], &options[..]].concat());
        let shared = format!("shared-{model}");
        succeed(
            at,
            &[&["-q", "run", "--model", model, "--out", &shared, "--casts", "id"], &options[..6]].concat(),
        );
        let mut parts = Vec::new();
        for share in ["3/3", "1/3", "2/3"] {
            succeed(at, &["-q", "evaluate", "--out", &whole, "--shard", share]);
            parts.push(format!("{whole}/evaluation-{}-of-3.safetensors", &share[..1]));
        }
        let before = files(&at.join(&whole));
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let merge = [&["-q", "evaluate", "--out", &whole, "--merge"], &parts[..]].concat();
        fail(at, &merge[1..], &["evaluate", "--overwrite"]);
        // What is not the evaluation of this experiment, or of these maps, is not taken for it.
        fn into<'a>(run: &'a str, parts: &[&'a str]) -> Vec<&'a str> {
            [&["evaluate", "--overwrite", "--out", run, "--merge"], parts].concat()
        }
        fail(at, &into(&shared, &parts), &["another experiment", "the choice of pairs of layers"]);
        let few = format!("few-{model}");
        let id = [&["-q", "run", "--model", model, "--out", &few, "--casts", "id"], &options[..8]].concat();
        succeed(at, &id);
        fail(at, &into(&few, &parts), &[&few, "no maps of the cast `mat`"]);
        let other = format!("other-{model}");
        succeed(at, &[&["-q", "run", "--model", model, "--out", &other], &options[..]].concat());
        let maps = at.join(&whole).join("shortcuts/mat+b");
        fs::remove_dir_all(at.join(&other).join("shortcuts/mat+b")).unwrap();
        assert!(maps.exists());
        fail(at, &into(&other, &parts), &["changed or removed"]);
        succeed(at, &[&merge[..], &["--overwrite"]].concat());
        let after = files(&at.join(&whole));
        for (name, bytes) in &before {
            let is_same = name == Path::new("manifest.json") || after.get(name) == Some(bytes);
            // Figures are drawn anew by whoever wants them.
            assert!(is_same, "{model}: {} differs", name.display());
        }
        fail(
            at,
            &[&["evaluate", "--overwrite", "--out", &whole, "--merge"], &parts[1..]].concat(),
            &["missing"],
        );
        fail(
            at,
            &[&["evaluate", "--overwrite", "--out", &whole, "--merge"], &parts[..2]].concat(),
            &["sample"],
        );
        let twice = [parts[0], parts[1], parts[1], parts[2]];
        fail(
            at,
            &[&["evaluate", "--overwrite", "--out", &whole, "--merge"], &twice[..]].concat(),
            &["sample"],
        );
        fail(at, &["evaluate", "--out", &whole, "--shard", "1/3"], &["evaluation-1-of-3.safetensors"]);
        fail(at, &["evaluate", "--out", &whole, "--shard", "1/200"], &["is empty"]);
        let flipped = at.join("flipped.safetensors");
        let mut bytes = fs::read(at.join(parts[0])).unwrap();
        let last = bytes.len() - 9;
        bytes[last] ^= 1;
        fs::write(&flipped, bytes).unwrap();
        let with = [parts[1], parts[2], "flipped.safetensors"];
        fail(
            at,
            &[&["evaluate", "--overwrite", "--out", &whole, "--merge"], &with[..]].concat(),
            &["flipped"],
        );
    }
}

/// What a cluster does: every machine has a share of the samples alone.
#[test]
fn shares_on_many_machines_give_the_bytes_of_one() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    for (model, pairs) in [("tiny-gpt2", "all"), ("tiny-bert", "to-final")] {
        let name = |what: &str| format!("{model}/{what}");
        let options = [
            "--model",
            model,
            "--train",
            "400",
            "--val",
            "90",
            "--pairs",
            pairs,
            "--casts",
            "id,mat,mat_ridge",
        ];
        let moments = |out: &str, more: &[&str]| {
            succeed(at, &[&["-q", "moments", "--out", &name(out)], &options[..], more].concat());
        };
        moments("one", &[]);
        let fit = |sums: &str, out: &str| {
            let casts = ["--casts", "mat,mat_ridge"];
            succeed(
                at,
                &[&["-q", "fit", "--moments", &name(sums), "--out", &name(out)], &casts[..]].concat(),
            );
        };
        fit("one/moments.safetensors", "one-fitted");
        succeed(
            at,
            &[
                "-q",
                "evaluate",
                "--out",
                &name("one"),
                "--shortcuts",
                &name("one-fitted"),
                "--casts",
                "id,mat,mat_ridge",
            ],
        );

        let shares = ["1/4", "2/4", "3/4", "4/4"];
        let sums: Vec<String> =
            shares.map(|share| name(&format!("share{}/moments.safetensors", &share[..1]))).into();
        for share in shares {
            moments(&format!("share{}", &share[..1]), &["--shard", share]);
        }
        let sums: Vec<&str> = sums.iter().map(String::as_str).collect();
        succeed(at, &[&["-q", "merge", "--out", &name("sums.safetensors")], &sums[..]].concat());
        fit("sums.safetensors", "fitted");
        let mut parts = Vec::new();
        for share in shares {
            let (run, part) =
                (name(&format!("share{}", &share[..1])), name(&format!("part{}.st", &share[..1])));
            let maps = ["--shortcuts", &name("fitted"), "--casts", "id,mat,mat_ridge"];
            let evaluate =
                [&["-q", "evaluate", "--out", &run, "--shard", share, "--part", &part], &maps[..]].concat();
            succeed(at, &evaluate);
            parts.push(part);
        }
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let share1 = name("share1");
        fail(
            at,
            &["evaluate", "--out", &share1, "--shard", "2/4", "--shortcuts", &name("fitted")],
            &["holds share 1/4"],
        );
        fail(at, &[&["evaluate", "--out", &share1, "--merge"], &parts[..]].concat(), &["holds share 1/4"]);
        succeed(at, &[&["-q", "evaluate", "--out", &name("fitted"), "--merge"], &parts[..]].concat());
        let [one, fitted] = ["one", "fitted"].map(|folder| at.join(name(folder)));
        assert_same_tables(&one, &fitted);
        assert_same_files(&at.join(name("one-fitted/shortcuts")), &fitted.join("shortcuts"));
        succeed(at, &["-q", "plot", "--out", &name("fitted")]);
        assert!(fitted.join("plots/precision.svg").exists() && fitted.join("report.html").exists());
    }
}

#[test]
fn what_no_chosen_cast_needs_is_not_made() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let options = ["--train", "300", "--val", "40", "--pairs", "to-final"];
    let run = |out: &str, more: &[&str]| {
        succeed(at, &[&["-q", "run", "--out", out], &options[..], more].concat());
        at.join(out)
    };
    let all = run("all", &["--intercept", "--ridge", "auto", "--rank", "8"]);
    for casts in
        [&["id", "mat"][..], &["id"], &["mat+b_r8", "mat_ridge"], &["id", "mat_ffn"], &["mat_attn", "mat"]]
    {
        let out = casts.join("-");
        let few = run(&out, &["--casts", &casts.join(",")]);
        for table in ["layers.csv", "early_exit.csv", "exits.csv", "ranks.csv"] {
            assert_eq!(lines(&few, table, casts), lines(&all, table, casts), "{casts:?}: {table}");
            let rows = fs::read_to_string(few.join("results").join(table)).unwrap().lines().count();
            assert_eq!(rows.saturating_sub(1), lines(&few, table, casts).len(), "{casts:?}: {table}");
        }
        // The baselines cost nothing, and are always there.
        let of_r2: Vec<&str> =
            casts.iter().copied().filter(|cast| !cast.contains("ffn") && !cast.contains("attn")).collect();
        for of in [&of_r2[..], &["id"], &["mean"]] {
            assert_eq!(lines(&few, "r2.csv", of), lines(&all, "r2.csv", of), "{casts:?}");
        }
        assert_eq!(lines(&few, "r2.csv", &["mean"]).len(), 12);
        let runs_blocks = casts.iter().any(|cast| cast.ends_with("attn") || cast.ends_with("ffn"));
        let made = files(&few);
        let is_below = |folder: &str| made.keys().any(|path| path.starts_with(folder));
        assert_eq!(is_below("states/train/attn"), runs_blocks, "{casts:?}");
        assert_eq!(is_below("shortcuts/parts"), runs_blocks, "{casts:?}");
        assert_eq!(is_below("shortcuts/00.safetensors"), casts.contains(&"mat"), "{casts:?}");
        for path in made.keys().filter(|path| path.starts_with("shortcuts")) {
            let whole = files(&all.join("shortcuts"));
            let name = path.strip_prefix("shortcuts").unwrap();
            // A file of parts has those alone that are needed.
            assert!(name.starts_with("parts") || made[path] == whole[name], "{casts:?}: {}", path.display());
        }
        let drawn = ["precision", "variants", "submodules"]
            .iter()
            .any(|name| few.join(format!("plots/{name}.svg")).exists());
        assert!(few.join("report.html").exists() && drawn, "{casts:?}");
        succeed(
            at,
            &[&["-q", "run", "--resume", "--out", &out], &options[..], &["--cast", &casts.join(",")]]
                .concat(),
        );
        fail(at, &["run", "--resume", "--out", &out, "--casts", "mat+b"], &["the choice of casts"]);
    }
    let before = fs::read(all.join("results/r2.csv")).unwrap();
    succeed(at, &["-q", "evaluate", "--out", "all", "--casts", "mat_ridge,id", "--overwrite"]);
    assert_same_tables(&all, &run("two", &["--casts", "id,mat_ridge"]));
    assert_eq!(fs::read(all.join("results/r2.csv")).unwrap(), before);
    succeed(at, &["-q", "fit", "--out", "all", "--casts", "mat_r4", "--overwrite"]);
    let kept: Vec<PathBuf> =
        files(&all.join("shortcuts")).into_keys().filter(|path| !path.starts_with("mat_r4")).collect();
    assert!(kept.is_empty(), "{kept:?}");

    fail(
        at,
        &["evaluate", "--out", "two", "--casts", "mat", "--overwrite"],
        &["no maps of the cast `mat`", "`mat_ridge`"],
    );
    fail(at, &["fit", "--out", "two", "--casts", "mat_attn", "--overwrite"], &["`mat_attn`", "attention"]);
    for (casts, says) in [("mean", "`mean`"), ("mat,nope", "`nope`"), ("mat_attn,Mat", "`Mat`")] {
        fail(at, &["run", "--out", "none", "--casts", casts], &[says, "`mat_ln1_ln2`"]);
    }
    fail(at, &["run", "--out", "none", "--casts", "id,mat", "--ridge", "2"], &["penalty", "`mat_ridge`"]);
    fail(at, &["run", "--out", "none", "--casts", "mat", "--intercept"], &["--casts", "--intercept"]);
}

#[test]
fn maps_are_the_short_way_from_a_model_to_a_lens() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let options = ["--train", "300", "--val", "40"];
    let said = common::output(at, &[&["maps", "tiny-gpt2"], &options[..]].concat());
    assert!(said.status.success() && said.stdout.is_empty(), "{}", stderr(&said));
    assert!(
        stderr(&said).contains("`jumplens lens --run jumplens-runs/tiny-gpt2 \"TEXT\"`"),
        "{}",
        stderr(&said)
    );
    let run = at.join("jumplens-runs/tiny-gpt2");
    let whole = [&["-q", "run", "--pairs", "to-final", "--out", "whole"], &options[..]].concat();
    succeed(at, &whole);
    let made = files(&run);
    for path in made.keys().filter(|path| path.starts_with("shortcuts") || path.starts_with("states")) {
        assert_eq!(made[path], fs::read(at.join("whole").join(path)).unwrap(), "{}", path.display());
    }
    assert!(
        made.contains_key(Path::new("results/r2.csv")) && !made.contains_key(Path::new("results/layers.csv"))
    );
    assert!(
        !made.keys().any(|path| path.starts_with("states/train/attn") || path.starts_with("shortcuts/parts"))
    );
    let text =
        succeed(at, &["lens", "--run", "jumplens-runs/tiny-gpt2", "--target", " the", "The capital of"]);
    assert!(text.contains("mat"), "{text}");
    for again in [&["maps", "tiny-gpt2"][..], &[&["maps", "tiny-gpt2"], &options[..]].concat()] {
        let said = common::output(at, again);
        assert!(said.status.success() && stderr(&said).contains("The maps are"), "{}", stderr(&said));
        assert!(!stderr(&said).contains("tokens"), "{}", stderr(&said));
    }
    assert_eq!(files(&run).len(), made.len());
    let ridge = ["-q", "maps", "--ridge", "auto", "--intercept", "--pairs", "all", "--out", "ridge"];
    succeed(at, &[&ridge, &options[..]].concat());
    let casts = ["mat+b", "mat_ridge", "mat+b_ridge"];
    assert!(casts.iter().all(|cast| at.join("ridge/shortcuts").join(cast).is_dir()));
}

/// Times it is killed.
fn kills() -> usize {
    std::env::var("JUMPLENS_TEST_KILLS").map_or(2, |number| number.parse().unwrap())
}

#[test]
fn killed_again_and_again_it_loses_seconds_and_ends_in_the_same_bytes() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let options = ["--train", "300", "--val", "1500", "--pairs", "to-final"];
    succeed(at, &[&["-q", "run", "--out", "straight"], &options[..]].concat());
    for stage in
        [&["samples", "--out", "killed"][..], &["states", "--out", "killed"], &["fit", "--out", "killed"]]
    {
        let options = if stage[0] == "samples" { &options[..] } else { &[] };
        succeed(at, &[&["-q"], stage, options].concat());
    }
    let pieces = at.join("killed/results/evaluating");
    let kept = || fs::read_dir(&pieces).map_or(0, |entries| entries.count());
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut done = 0;
    let mut kill = 0;
    while kill < kills() {
        let mut child = start(at, &["-q", "--threads", "1", "evaluate", "--out", "killed", "--overwrite"]);
        let started = Instant::now();
        // Some are killed while they load, and some after a piece or two.
        let wait = Duration::from_millis(rng.random_range(0..14_000));
        while started.elapsed() < wait && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(status) = child.try_wait().unwrap() {
            // Over, with what was kept of all sittings: from here on it is done again.
            assert!(status.success());
            assert_same_tables(&at.join("straight"), &at.join("killed"));
            assert!(!pieces.exists());
            done = 0;
            continue;
        }
        signal(&child, "KILL");
        child.wait().unwrap();
        kill += 1;
        assert!(kept() >= done, "kill {kill}: {} pieces, {done} before", kept());
        done = kept();
        let latest = fs::read_dir(&pieces)
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().metadata().unwrap().modified().unwrap());
        // A piece takes no longer than 45 s, and the first a while to load.
        if wait > Duration::from_secs(60) {
            let age = SystemTime::now().duration_since(latest.max().expect("a piece")).unwrap();
            assert!(age < Duration::from_secs(60), "kill {kill}: the last piece is {age:?} old");
        }
    }
    // What was interrupted goes on from where it was.
    let child = start(at, &["-q", "evaluate", "--out", "killed", "--overwrite"]);
    std::thread::sleep(Duration::from_millis(1500));
    signal(&child, "INT");
    let output = child.wait_with_output().unwrap();
    if !output.status.success() {
        assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
        assert!(kept() > done, "it was interrupted, and kept nothing");
    }
    let said = common::output(at, &["run", "--resume", "--out", "killed"]);
    assert!(said.status.success(), "{}", stderr(&said));
    common::assert_same_run(&at.join("straight"), &at.join("killed"));
    assert_nothing_partial(&at.join("killed"));
    assert!(!pieces.exists());
}
