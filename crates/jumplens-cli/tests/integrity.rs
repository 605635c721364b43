//! A file that was changed since its stage wrote it is found before it is used, and what depends on it is done again.

mod common;

use common::{SMALL, assert_same_run, fail, files, stderr, succeed};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Every file of a run by path, with the number that a file written anew does not keep.
fn inodes(run: &Path) -> BTreeMap<PathBuf, u64> {
    files(run).into_keys().map(|path| (path.clone(), fs::metadata(run.join(path)).unwrap().ino())).collect()
}

fn flip_a_byte(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let last = bytes.len() - 3;
    bytes[last] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn cut_short(path: &Path) {
    let length = fs::metadata(path).unwrap().len();
    fs::File::options().write(true).open(path).unwrap().set_len(length / 2).unwrap();
}

fn remove(path: &Path) {
    fs::remove_file(path).unwrap();
}

#[test]
fn what_depends_on_a_changed_file_is_done_again_and_nothing_else() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let args = [&SMALL[..], &["--out", "run"]].concat();
    succeed(at, &args);
    succeed(at, &[&SMALL[..], &["--out", "straight"]].concat());
    let run = at.join("run");
    let resume = [&args[..], &["--resume"]].concat();
    // The file, what happens to it, the commands that would use it, and what is to be written anew.
    type Damage = fn(&Path);
    let cases: [(&str, Damage, &[&str], &[&str]); 7] = [
        ("samples/val.jsonl", flip_a_byte, &["evaluate", "states"], &["samples"]),
        (
            "states/train/03.safetensors",
            flip_a_byte,
            &["fit", "r2"],
            &["states", "shortcuts", "results", "plots"],
        ),
        (
            "states/val/12.safetensors",
            cut_short,
            &["r2", "evaluate"],
            &["states", "shortcuts", "results", "plots"],
        ),
        ("shortcuts/04.safetensors", flip_a_byte, &["r2", "evaluate"], &["shortcuts", "results", "plots"]),
        ("shortcuts/parts/00.safetensors", remove, &["evaluate"], &["shortcuts", "results", "plots"]),
        ("results/r2.csv", cut_short, &["plot"], &["results/r2.csv", "plots"]),
        ("results/layers.csv", flip_a_byte, &["plot"], &["results/layers.csv", "plots"]),
    ];
    for (file, damage, stages, anew) in cases {
        damage(&run.join(file));
        for stage in stages {
            fail(
                at,
                &[&[*stage, "--out", "run"][..], if *stage == "plot" { &[] } else { &["--overwrite"] }]
                    .concat(),
                &[&format!("`run/{file}` was changed or removed"), "--resume"],
            );
        }
        let before = inodes(&run);
        let output = common::output(at, &resume);
        assert!(output.status.success(), "{file}: {}", stderr(&output));
        assert!(
            stderr(&output).contains(&format!("{file}` was changed or removed since")),
            "{}",
            stderr(&output)
        );
        assert_same_run(&at.join("straight"), &run);
        let after = inodes(&run);
        for name in
            ["samples/train.jsonl", "states/train/00.safetensors", "shortcuts/11.safetensors", "plots/r2.svg"]
                .iter()
                .chain(["results/r2.csv", "results/layers.csv", "results/early_exit.csv"].iter())
        {
            let is_anew = anew.iter().any(|part| name.starts_with(part))
                || *name == "results/early_exit.csv" && anew.contains(&"results/layers.csv");
            let (old, new) = (before.get(Path::new(name)), after.get(Path::new(name)));
            assert_eq!(old != new, is_anew, "{file} was damaged: {name}");
        }
    }
}
