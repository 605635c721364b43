//! A run that was stopped, wherever that was, ends with the same bytes as one that was not.

mod common;

use common::{SMALL, assert_nothing_partial, assert_same_run, files, signal, start, stderr, succeed};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// More than two chunks of states.
const CHUNKS: [&str; 7] = ["run", "--train", "2100", "--val", "20", "--pairs", "to-final"];

/// Starts the run, and sends it `name` as soon as `when` holds; gives its exit code and standard error, or `None`
/// where it was done before.
fn stop(at: &Path, args: &[&str], name: &str, when: &dyn Fn() -> bool) -> Option<(Option<i32>, String)> {
    let mut child = start(at, &[&["-q"], args].concat());
    let started = Instant::now();
    while !when() {
        if child.try_wait().unwrap().is_some() {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", stderr(&output));
            return None;
        }
        assert!(started.elapsed() < Duration::from_secs(300), "it never came to where it is to be stopped");
        std::thread::sleep(Duration::from_millis(2));
    }
    signal(&child, name);
    let output = child.wait_with_output().unwrap();
    if output.status.success() { None } else { Some((output.status.code(), stderr(&output))) }
}

fn manifest(run: &Path) -> serde_json::Value {
    fs::read(run.join("manifest.json"))
        .map_or(serde_json::Value::Null, |bytes| serde_json::from_slice(&bytes).unwrap())
}

#[test]
fn stopped_and_resumed_equals_straight_through() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    succeed(at, &[&CHUNKS[..], &["--out", "straight"]].concat());
    for (out, name) in [("interrupted", "INT"), ("killed", "KILL")] {
        let run = at.join(out);
        let chunks = |n: u64| manifest(&run)["stages"]["states"]["chunks"]["train"].as_u64() >= Some(n);
        let done = |stage: &str| manifest(&run)["stages"][stage]["done"] == true;
        let there = |file: &str| run.join(file).exists();
        let moments: [(&str, &dyn Fn() -> bool); 8] = [
            ("begun", &|| there("manifest.json")),
            ("samples", &|| done("samples")),
            ("first chunk", &|| chunks(1)),
            ("second chunk", &|| chunks(2)),
            ("states", &|| done("states")),
            ("some maps", &|| there("shortcuts/04.safetensors")),
            ("fit", &|| done("fit")),
            ("r2", &|| done("r2")),
        ];
        let args = [&CHUNKS[..], &["--out", out, "--resume"]].concat();
        let mut stopped = 0;
        for (moment, when) in moments {
            // A moment that is past would be met before the program can take a signal.
            if when() {
                continue;
            }
            let Some((code, said)) = stop(at, &args, name, when) else { continue };
            stopped += 1;
            if name == "INT" {
                assert_eq!(code, Some(130), "{moment}: {said}");
                assert_eq!(said.lines().count(), 1, "{moment}: {said}");
                assert!(said.starts_with("error: interrupted") && said.contains("`--resume`"), "{said}");
            }
        }
        assert!(stopped >= 4, "{name}: only {stopped} moments were met");
        succeed(at, &args);
        assert_same_run(&at.join("straight"), &run);
        assert_nothing_partial(&run);
    }
}

/// Kills at seeded moments: in each folder once or more within every stage, as far into it as the seed says.
#[test]
fn killed_at_any_moment_equals_straight_through() {
    const KILLS: usize = 15;
    const STAGES: [&str; 6] = ["samples", "states", "fit", "r2", "evaluate", "plot"];
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let run = [&CHUNKS[..], &["--ridge", "auto"]].concat();
    succeed(at, &[&run[..], &["--out", "straight"]].concat());
    let seconds = |stage: &str| manifest(&at.join("straight"))["stages"][stage]["seconds"].as_f64().unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut killed: BTreeMap<&str, usize> = BTreeMap::new();
    for round in 0.. {
        let out = format!("killed{round}");
        let folder = at.join(&out);
        let args = [&run[..], &["--out", &out, "--resume"]].concat();
        for (index, stage) in STAGES.iter().enumerate() {
            let before = index.checked_sub(1).map(|before| STAGES[before]);
            let delay = Duration::from_secs_f64(rng.random_range(0.0..1.0) * seconds(stage));
            let reached = Cell::new(None);
            let when = || {
                let done = |stage: &str| manifest(&folder)["stages"][stage]["done"] == true;
                if reached.get().is_none() && before.is_none_or(done) {
                    reached.set(Some(Instant::now()));
                }
                reached.get().is_some_and(|since: Instant| since.elapsed() >= delay)
            };
            if stop(at, &args, "KILL", &when).is_some() {
                *killed.entry(stage).or_default() += 1;
            }
        }
        succeed(at, &args);
        assert_same_run(&at.join("straight"), &folder);
        assert_nothing_partial(&folder);
        fs::remove_dir_all(&folder).unwrap();
        if killed.values().sum::<usize>() >= KILLS {
            break;
        }
        assert!(round < 12, "the run is too quick to be killed: {killed:?}");
    }
    println!("killed in or after the stages: {killed:?}");
    assert!(killed.len() >= 5, "{killed:?}");
}

#[test]
fn termination_is_an_interruption() {
    let at = tempfile::tempdir().unwrap();
    let samples = at.path().join("out/samples/val.jsonl");
    let args = [&CHUNKS[..], &["--out", "out"]].concat();
    let (code, said) = stop(at.path(), &args, "TERM", &|| samples.exists()).unwrap();
    assert_eq!(code, Some(130), "{said}");
    assert!(said.starts_with("error: interrupted"), "{said}");
}

#[test]
fn resuming_a_finished_run_changes_nothing() {
    let at = tempfile::tempdir().unwrap();
    let args = [&SMALL[..], &["--out", "out", "--resume"]].concat();
    let first = succeed(at.path(), &args);
    let before = files(&at.path().join("out"));
    assert_eq!(succeed(at.path(), &args), first);
    assert!(files(&at.path().join("out")) == before);
}

#[test]
fn a_run_folder_is_one_process_s_at_a_time() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let run = at.join("out");
    let args = [&CHUNKS[..], &["--out", "out"]].concat();
    let resume = [&args[..], &["--resume"]].concat();
    let mut first = start(at, &[&["-q"], &args[..]].concat());
    while manifest(&run)["stages"]["samples"]["done"] != true {
        assert!(first.try_wait().unwrap().is_none(), "it ended too soon");
        std::thread::sleep(Duration::from_millis(2));
    }
    let in_use = ["`out` is in use by another jumplens process", "--out"];
    for second in [&resume[..], &["plot", "--out", "out"], &["states", "--out", "out"]] {
        common::fail(at, second, &in_use);
    }
    signal(&first, "KILL");
    first.wait().unwrap();
    // What a dead process held is free.
    succeed(at, &resume);
    succeed(at, &["-q", "plot", "--out", "out"]);
}

#[test]
fn other_folders_are_one_process_s_while_they_are_made() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let small = [&SMALL[..], &["--out", "run"]].concat();
    succeed(at, &[&["-q"], &small[..]].concat());
    succeed(at, &[&["-q", "moments"], &SMALL[1..], &["--out", "moments"]].concat());
    succeed(at, &["-q", "shortcuts", "export", "run", "--cast", "mat", "--out", "maps"]);
    succeed(at, &["-q", "run", "--train", "40", "--val", "20", "--pairs", "to-final", "--out", "other"]);
    let commands: [&[&str]; 4] = [
        &["shortcuts", "import", "maps/mat.safetensors", "--out", "F"],
        &["shortcuts", "export", "run", "--out", "F"],
        &["compare", "run", "other", "--format", "svg", "--out", "F"],
        &["fit", "--moments", "moments/moments.safetensors", "--out", "F"],
    ];
    let folder = at.join("F");
    for args in commands {
        fs::create_dir(&folder).unwrap();
        let held = fs::File::create(folder.join(".lock")).unwrap();
        held.lock().unwrap();
        common::fail(at, args, &["`F` is in use by another jumplens process", "--out"]);
        assert_eq!(files(&folder).len(), 1, "{args:?}");
        drop(held);
        succeed(at, args);
        // In a folder that is given away there is no lock left.
        assert_eq!(folder.join(".lock").exists(), args[0] == "fit", "{args:?}");
        let alone = files(&folder);
        fs::remove_dir_all(&folder).unwrap();
        for _ in 0..8 {
            let both = [start(at, args), start(at, args)].map(|child| child.wait_with_output().unwrap());
            let says = || both.each_ref().map(stderr);
            assert!(both.iter().any(|output| output.status.success()), "{args:?}: {:?}", says());
            for output in both.iter().filter(|output| !output.status.success()) {
                let said = stderr(output);
                assert!(
                    said.contains("is in use by another") || said.contains("already"),
                    "{args:?}: {said}"
                );
            }
            let timeless = |files: &BTreeMap<PathBuf, Vec<u8>>| {
                let mut files = files.clone();
                if args[0] == "fit" {
                    files.remove(Path::new("manifest.json"));
                }
                files
            };
            assert!(timeless(&files(&folder)) == timeless(&alone), "{args:?}");
            fs::remove_dir_all(&folder).unwrap();
        }
    }
}

/// Sentences and what is written beside them: a kill between them leaves nothing that the same command would not replace.
#[test]
fn sentences_that_were_not_finished_are_replaced() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let args = ["sentences", "--num", "30", "--out", "drawn.txt"];
    succeed(at, &args);
    let straight = files(at);
    assert_eq!(straight.len(), 3);
    common::fail(at, &args, &["`drawn.txt` is there already"]);
    fs::rename(at.join("drawn.txt"), at.join("drawn.txt.part")).unwrap();
    succeed(at, &args);
    assert!(files(at) == straight);
    for _ in 0..8 {
        at.read_dir().unwrap().for_each(|entry| fs::remove_file(entry.unwrap().path()).unwrap());
        let both = [start(at, &args), start(at, &args)].map(|child| child.wait_with_output().unwrap());
        assert!(both.iter().any(|output| output.status.success()));
        for output in both.iter().filter(|output| !output.status.success()) {
            let said = stderr(output);
            assert!(said.contains("is in use by another") || said.contains("is there already"), "{said}");
        }
        assert!(files(at) == straight);
    }
    // Without its temporary name beside it a file is anybody's.
    fs::remove_file(at.join("drawn.txt")).unwrap();
    common::fail(at, &args, &["`drawn.txt.jsonl` is there already"]);
}

/// What was kept of the states is looked at before it is gone on with.
#[test]
fn unfinished_states_that_were_changed_are_run_again() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    common::write_short_samples(&at.join("train.jsonl"), 3000);
    common::write_short_samples(&at.join("val.jsonl"), 20);
    let files_of = ["--train-samples", "train.jsonl", "--val-samples", "val.jsonl"];
    succeed(at, &[&["-q", "samples", "--out", "run"], &files_of[..]].concat());
    let run = at.join("run");
    let begun = files(&run);
    let put = |files: &BTreeMap<PathBuf, Vec<u8>>| {
        fs::remove_dir_all(&run).unwrap();
        for (path, bytes) in files {
            fs::create_dir_all(run.join(path).parent().unwrap()).unwrap();
            fs::write(run.join(path), bytes).unwrap();
        }
    };
    let states = ["states", "--out", "run"];
    succeed(at, &states);
    let straight = files(&run.join("states"));
    put(&begun);
    let chunks = |n: u64| manifest(&run)["stages"]["states"]["chunks"]["train"].as_u64() >= Some(n);
    stop(at, &states, "KILL", &|| chunks(1)).expect("it is stopped after a chunk");
    let stopped = files(&run);
    let part = Path::new("states/train/03.safetensors.part");
    let length = stopped[part].len();
    type Damage<'a> = (&'a str, &'a dyn Fn(&mut Vec<u8>));
    let kept: [Damage; 2] =
        [("as it was left", &|_| {}), ("with a chunk that is not whole", &|part| part.extend([7; 999]))];
    let changed: [Damage; 3] = [
        ("cut short", &|part| part.truncate(length / 9)),
        ("with a bit flipped", &|part| part[length / 9] ^= 1),
        ("empty", &|part| part.clear()),
    ];
    let says = "`states/train/03.safetensors` is not as the manifest says";
    for (is_changed, (what, damage)) in
        kept.map(|kept| (false, kept)).into_iter().chain(changed.map(|c| (true, c)))
    {
        let mut damaged = stopped.clone();
        damage(damaged.get_mut(part).unwrap());
        put(&damaged);
        let said = common::output(at, &states);
        assert!(
            said.status.success() && stderr(&said).contains(says) == is_changed,
            "{what}: {}",
            stderr(&said)
        );
        assert!(files(&run.join("states")) == straight, "{what}");
        assert_nothing_partial(&run);
    }
    // A link is another file, which may be precious, whatever is in it.
    put(&stopped);
    let precious = at.join("precious");
    fs::rename(run.join(part), &precious).unwrap();
    let before = fs::read(&precious).unwrap();
    std::os::unix::fs::symlink(&precious, run.join(part)).unwrap();
    let said = common::output(at, &states);
    assert!(said.status.success() && stderr(&said).contains(says), "{}", stderr(&said));
    assert!(files(&run.join("states")) == straight && fs::read(&precious).unwrap() == before);
}
