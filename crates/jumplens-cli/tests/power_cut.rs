//! A power cut costs no more than a kill: what was not synced is lost, and the run that goes on ends with the same bytes.
//! The disk is one that holds nothing but what was synced, `power_cut.c`, preloaded into the program. It takes a C compiler.

#![cfg(target_os = "linux")]

mod common;

use common::{
    assert_nothing_partial, assert_same_run, jumplens, output, stderr, succeed, write_short_samples,
};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

/// A quick run with two chunks of states.
const RUN: [&str; 9] = [
    "--threads",
    "2",
    "run",
    "--train-samples",
    "train.jsonl",
    "--val-samples",
    "val.jsonl",
    "--pairs",
    "to-final",
];

/// What becomes of the names of files, and of their folders, that were not synced. Contents that were not are lost.
#[derive(Clone, Copy, Debug)]
enum Names {
    Lost,
    Kept,
}

/// Puts what is left of `folder` after the power cut into `to`.
fn restore(disk: &Path, folder: &Path, names: Names, to: &Path) {
    fs::create_dir(to).unwrap();
    let entries: Vec<(u64, bool, String)> = match names {
        Names::Lost => {
            let list = folder.to_str().unwrap().replace('/', "%");
            let list = fs::read_to_string(disk.join(format!("names.{list}"))).unwrap_or_default();
            let entry = |line: &str| {
                let parts: Vec<&str> = line.splitn(3, ' ').collect();
                (parts[0].parse().unwrap(), parts[1] == "d", parts[2].to_owned())
            };
            list.lines().map(entry).collect()
        }
        Names::Kept => {
            let entry = |entry: std::io::Result<fs::DirEntry>| {
                let entry = entry.unwrap();
                let found = entry.metadata().unwrap();
                (found.ino(), found.is_dir(), entry.file_name().into_string().unwrap())
            };
            fs::read_dir(folder).unwrap().map(entry).collect()
        }
    };
    for (inode, is_folder, name) in entries {
        match is_folder {
            true => restore(disk, &folder.join(&name), names, &to.join(name)),
            false => {
                let data = fs::read(disk.join(format!("{inode}.data"))).unwrap_or_default();
                fs::write(to.join(name), data).unwrap();
            }
        }
    }
}

/// Stages that the manifest in `run` says are done, where there is one.
fn done(run: &Path) -> usize {
    let manifest = fs::read(run.join("manifest.json")).unwrap_or_default();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap_or_default();
    let stages = manifest["stages"].as_object().into_iter().flatten();
    stages.filter(|(_, record)| record["done"] == true).count()
}

#[test]
fn a_run_goes_on_after_a_power_cut_with_the_same_bytes() {
    const CUTS: usize = 10;
    let at = tempfile::tempdir().unwrap();
    let at = &fs::canonicalize(at.path()).unwrap();
    let shim = at.join("power_cut.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/power_cut.c");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-pthread", "-o"]).arg(&shim).arg(source);
    let compiled = compiler.status().expect("a C compiler `cc` is needed");
    assert!(compiled.success());
    write_short_samples(&at.join("train.jsonl"), 1100);
    write_short_samples(&at.join("val.jsonl"), 20);
    succeed(at, &[&RUN[..], &["--out", "straight"]].concat());
    // Until so many syncs were done; gives how many that were.
    let run_until = |cut: i64| {
        for name in ["disk", "root"] {
            let _ = fs::remove_dir_all(at.join(name));
            fs::create_dir(at.join(name)).unwrap();
        }
        let mut command = jumplens(at, &[&RUN[..], &["--out", "root/out"]].concat());
        command.env("LD_PRELOAD", &shim).env("CUT", cut.to_string());
        command.env("ROOT", at.join("root")).env("DISK", at.join("disk"));
        let said = command.output().unwrap();
        assert_eq!(said.status.code(), Some(if cut < 0 { 0 } else { 137 }), "{cut}: {}", stderr(&said));
        fs::metadata(at.join("disk/count")).map_or(0, |count| count.len() as usize)
    };
    let after = |name: &str, names: Names| {
        restore(&at.join("disk"), &at.join("root"), names, &at.join(name));
        done(&at.join(name).join("out"))
    };
    let resume = |name: &str| {
        let out = format!("{name}/out");
        let said = output(at, &[&RUN[..], &["--resume", "--out", &out]].concat());
        assert!(said.status.success(), "{name}: {}", stderr(&said));
        assert_same_run(&at.join("straight"), &at.join(&out));
        assert_nothing_partial(&at.join(&out));
        stderr(&said)
    };
    let syncs = run_until(-1);
    println!("{syncs} syncs");
    for names in [Names::Lost, Names::Kept] {
        let name = format!("whole-{names:?}");
        assert_eq!(after(&name, names), 6, "all was on disk when it ended");
        assert!(resume(&name).contains("nothing is left to do"));
    }
    let mut before = 0;
    for number in 0..CUTS {
        let cut = number * syncs / CUTS + number % 3;
        run_until(cut as i64);
        let names = if number % 2 == 0 { Names::Lost } else { Names::Kept };
        let name = format!("cut-{cut}");
        let stages = after(&name, names);
        println!("cut after {cut} syncs, names {names:?}: {stages} stages");
        assert!(stages >= before, "what was done is done");
        before = stages;
        resume(&name);
    }
    assert!(before >= 5, "the last cuts were before {before} stages");
}
