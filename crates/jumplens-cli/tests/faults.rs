//! What a long run meets: one clear line, exit code 1, nothing half written, nothing lost.

mod common;

use common::{
    SMALL, assert_nothing_partial, assert_same_run, files, model, output, signal, start, stderr, succeed,
};
use rand::{RngExt, SeedableRng};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

#[test]
fn memory_that_runs_out_is_said_in_one_line() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    succeed(at, &[&SMALL[..], &["--out", "straight"]].concat());
    let mut failed = 0;
    // From too little to start with to enough, in KiB of address space.
    for limit in [60_000, 90_000, 120_000, 160_000, 220_000, 300_000, 8_000_000] {
        let program = env!("CARGO_BIN_EXE_jumplens");
        let command = format!(
            "ulimit -v {limit}; exec {program} -q --threads 2 {} --out out --resume",
            SMALL.join(" ")
        );
        let output = Command::new("sh").arg("-c").arg(command).current_dir(at).output().unwrap();
        let said = stderr(&output);
        if output.status.success() {
            continue;
        }
        failed += 1;
        // Below some size the system cannot even load the program.
        if output.status.code() == Some(127) || said.contains("error while loading shared libraries") {
            continue;
        }
        assert_eq!(output.status.code(), Some(1), "{limit} KiB: {:?} {said}", output.status);
        assert_eq!(said.lines().count(), 1, "{limit} KiB: {said}");
        let memory = ["out of memory", "Cannot allocate memory", "cannot start"];
        assert!(
            said.starts_with("error: ") && memory.iter().any(|says| said.contains(says)),
            "{limit} KiB: {said}"
        );
    }
    assert!(failed > 0, "no limit was too low");
    assert_same_run(&at.join("straight"), &at.join("out"));
    assert_nothing_partial(&at.join("out"));
}

#[test]
fn weights_that_vanish_are_missed_when_they_are_needed_again() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let weights = model(at, "model").join("model.safetensors");
    let args = ["run", "--model", "model", "--train", "1500", "--val", "40", "--pairs", "to-final"];
    succeed(at, &[&args[..], &["--out", "straight"]].concat());
    let mut child = start(at, &[&["-q"], &args[..], &["--out", "out"]].concat());
    let begun = at.join("out/samples/val.jsonl");
    while !begun.exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended too soon");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    // They are in memory by then.
    let kept = fs::read(&weights).unwrap();
    fs::File::options().write(true).open(&weights).unwrap().set_len(100).unwrap();
    fs::remove_file(&weights).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_same_run(&at.join("straight"), &at.join("out"));
    common::fail(at, &["evaluate", "--out", "out", "--overwrite"], &["model` has no weights"]);
    fs::write(&weights, &kept[..kept.len() - 4]).unwrap();
    common::fail(
        at,
        &["evaluate", "--out", "out", "--overwrite"],
        &["model`", "is not what the run in `out` began with"],
    );
    fs::write(&weights, kept).unwrap();
    succeed(at, &["evaluate", "--out", "out", "--overwrite"]);
}

#[cfg(unix)]
#[test]
fn weights_cut_short_while_they_are_read_are_named() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let weights = model(at, "m").join("model.safetensors");
    let whole = fs::read(&weights).unwrap();
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(0);
    let mut named = 0;
    for number in 0..50 {
        fs::write(&weights, &whole).unwrap();
        let out = format!("out{number}");
        let args = match number % 2 {
            0 => vec!["-q", "info", "m"],
            _ => vec!["-q", "samples", "--model", "m", "--train", "3", "--val", "1", "--out", &out],
        };
        let child = start(at, &args);
        std::thread::sleep(Duration::from_micros(rng.random_range(0..25_000)));
        fs::File::options().write(true).open(&weights).unwrap().set_len(20_000).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = stderr(&output);
        match output.status.code() {
            Some(0) => assert_eq!(said, ""),
            Some(1) => {
                assert_eq!(said.lines().count(), 1, "{said}");
                assert!(said.starts_with("error: ") && said.contains("`m/model.safetensors`"), "{said}");
                named += usize::from(said.contains("cut short") || said.contains("was changed while"));
            }
            _ => panic!("try {number}: {:?} {said}", output.status),
        }
    }
    eprintln!("{named} of 50 tries met it while it was read");
}

#[test]
fn more_threads_than_are_worth_while_cost_nothing() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let timed = |threads: &str, out: &str| {
        let begun = Instant::now();
        let output = output(at, &[&["--threads", threads], &SMALL[..], &["--out", out]].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        (begun.elapsed(), stderr(&output))
    };
    let (few, said) = timed("2", "few");
    assert!(!said.contains("threads do the work"), "{said}");
    let (many, said) = timed("512", "many");
    let cores = std::thread::available_parallelism().unwrap().get();
    let note = format!("{} threads do the work of 512: there ", 4 * cores);
    assert!(cores >= 128 || said.contains(&note), "{said}");
    assert!(many < 5 * few + Duration::from_secs(2), "{many:?} where 2 threads took {few:?}");
    assert_same_run(&at.join("few"), &at.join("many"));
}

/// A file system of a few megabytes that is taken away when this goes.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn a_read_only_folder_loses_nothing() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let disk = at.join("disk");
    fs::create_dir(&disk).unwrap();
    let mount = |options: &str| {
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&disk).output();
        output.is_ok_and(|output| output.status.success())
    };
    if !mount("size=30m") {
        eprintln!("SKIPPED: mounting a tmpfs is not permitted here, so no folder can be made read-only");
        return;
    }
    let _mounted = Mounted(&disk);
    let run = [&SMALL[..], &["--out", "disk/run"]].concat();
    succeed(at, &run);
    let before = files(&disk.join("run"));
    assert!(mount("remount,ro"));
    let says = ["cannot write `disk/run/", "Read-only file system", "another place"];
    for args in [
        &[&run[..], &["--overwrite"]].concat()[..],
        &["fit", "--out", "disk/run", "--overwrite"],
        &["plot", "--out", "disk/run"],
    ] {
        common::fail(at, args, &says);
    }
    common::fail(
        at,
        &[&SMALL[..], &["--out", "disk/other"]].concat(),
        &["`disk/other`", "Read-only file system"],
    );
    // What is finished needs no write.
    succeed(at, &["run", "--resume", "--out", "disk/run"]);
    assert!(mount("remount,rw"));
    assert!(files(&disk.join("run")) == before);
    succeed(at, &[&run[..], &["--resume"]].concat());
}

#[test]
fn an_interruption_says_what_is_kept() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let child = start(at, &["run", "--train", "4200", "--val", "20", "--pairs", "to-final", "--out", "out"]);
    let chunk = || {
        let manifest = fs::read_to_string(at.join("out/manifest.json")).unwrap_or_default();
        manifest.contains("\"train\": 1\n")
    };
    while !chunk() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    signal(&child, "INT");
    let output = child.wait_with_output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(130), "{said}");
    let kept = said.lines().find(|line| line.starts_with("Kept in `out`: samples, ")).expect(&said);
    assert!(kept.contains("chunks of 1024 train states"), "{kept}");
    assert!(said.lines().last().unwrap().contains("`--resume` goes on"), "{said}");
}

/// What `command` says, run by a shell that sets a limit first: it ends well, or with one line of error.
fn limited(at: &Path, limit: &str, args: &[&str]) -> Option<String> {
    let command = format!("ulimit {limit}; exec \"$0\" -q \"$@\"");
    let program = env!("CARGO_BIN_EXE_jumplens");
    let mut shell = Command::new("sh");
    shell.args(["-c", &command, program]).args(args).current_dir(at);
    let output = shell.env("HF_HOME", at.join("hf")).env("HF_HUB_OFFLINE", "1").output().unwrap();
    let said = stderr(&output);
    if output.status.success() {
        return None;
    }
    assert_eq!(output.status.code(), Some(1), "{limit}, {args:?}: {:?} {said}", output.status);
    assert_eq!(said.lines().count(), 1, "{limit}, {args:?}: {said}");
    assert!(said.starts_with("error: ") && !said.contains("internal"), "{limit}, {args:?}: {said}");
    Some(said)
}

#[test]
fn few_open_files_are_enough_or_said_not_to_be() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    succeed(at, &[&SMALL[..], &["-q", "--out", "straight"]].concat());
    let mut failed = 0;
    for limit in [8, 16, 32] {
        let limit = format!("-n {limit}");
        let run = [&SMALL[..], &["--out", "run", "--resume"]].concat();
        for args in [
            &run[..],
            &["lens", "--run", "straight", "some words"],
            &["sentences", "--num", "5", "--out", "sentences.txt", "--overwrite"],
            &["shortcuts", "list", "straight"],
        ] {
            let Some(said) = limited(at, &limit, args) else { continue };
            failed += 1;
            assert!(
                said.contains("Too many open files") && said.contains("`ulimit -n`"),
                "{limit}, {args:?}: {said}"
            );
        }
    }
    assert!(failed > 0, "no limit was too low");
    assert_same_run(&at.join("straight"), &at.join("run"));
    assert_nothing_partial(&at.join("run"));
}

#[test]
fn a_limit_on_the_size_of_files_is_an_error_that_names_the_file() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let run = [&SMALL[..], &["--out", "run"]].concat();
    let says = |said: Option<String>, what: &[&str]| {
        let said = said.expect("the limit was not too low");
        what.iter().for_each(|what| assert!(said.contains(what), "no `{what}` in {said}"));
    };
    says(limited(at, "-f 30", &run), &["`run/", "File too large", "`ulimit -f`", "`--resume`"]);
    says(
        limited(at, "-f 30", &["sentences", "--num", "2000", "--out", "drawn.txt"]),
        &["`drawn.txt", "File too large", "`ulimit -f`", "give the command again"],
    );
    assert!(!at.join("drawn.txt").exists());
    assert_nothing_partial(&at.join("run/samples"));
    succeed(at, &[&run[..], &["--resume"]].concat());
}
