//! A bit that flips in a file is found by the first command that reads the file, or leaves all results as they are.

mod common;

use common::{SMALL, files, output, stderr, succeed};
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// What a file of the folder is read by, as `F`, and what comes of that, in `x` or in `F` itself.
struct Case {
    folder: &'static str,
    reader: &'static [&'static str],
    result: &'static str,
}

const CASES: [Case; 4] = [
    Case { folder: "run", reader: &["run", "--resume", "--out", "F"], result: "F" },
    Case {
        folder: "share",
        reader: &["merge", "F/a.safetensors", "F/b.safetensors", "--out", "x/sums"],
        result: "x",
    },
    Case { folder: "sums", reader: &["fit", "--moments", "F/sums.safetensors", "--out", "x"], result: "x" },
    Case { folder: "maps", reader: &["shortcuts", "import", "F/mat.safetensors", "--out", "x"], result: "x" },
];

/// Nothing is made from them.
const UNREAD: [&str; 3] = ["plots", "report.html", ".lock"];

fn put(folder: &Path, files: &Files) {
    let _ = fs::remove_dir_all(folder);
    for (path, bytes) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// What is compared of a result: not times, nor where it was made from.
fn results(folder: &Path) -> Files {
    let mut files = files(folder);
    files.retain(|path, _| {
        !path.ends_with("manifest.json") && !UNREAD.iter().any(|unread| path.starts_with(unread))
    });
    files
}

fn flip(times: usize) {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    succeed(at, &[&["-q"], &SMALL[..], &["--out", "run"]].concat());
    fs::create_dir_all(at.join("share")).unwrap();
    for (out, shard) in [("a", "1/2"), ("b", "2/2")] {
        let options = [&SMALL[1..], &["--shard", shard, "--out", out]].concat();
        succeed(at, &[&["-q", "moments"], &options[..]].concat());
        // As they travel: without their folders.
        fs::rename(
            at.join(out).join("moments.safetensors"),
            at.join("share").join(format!("{out}.safetensors")),
        )
        .unwrap();
    }
    for folder in ["sums", "maps"] {
        fs::create_dir(at.join(folder)).unwrap();
    }
    succeed(
        at,
        &["-q", "merge", "share/a.safetensors", "share/b.safetensors", "--out", "sums/sums.safetensors"],
    );
    succeed(at, &["-q", "shortcuts", "export", "run", "--out", "exported"]);
    fs::rename(at.join("exported/mat.safetensors"), at.join("maps/mat.safetensors")).unwrap();
    let folder = at.join("F");
    let whole: Vec<(&Case, Files, Files)> = CASES
        .iter()
        .map(|case| {
            let whole = files(&at.join(case.folder));
            put(&folder, &whole);
            let _ = fs::remove_dir_all(at.join("x"));
            fs::create_dir(at.join("x")).unwrap();
            succeed(at, &[&["-q"], case.reader].concat());
            (case, whole, results(&at.join(case.result)))
        })
        .collect();
    let mut rng = ChaCha8Rng::seed_from_u64(18);
    let (mut found, mut harmless) = (0, 0);
    for number in 0..times {
        let (case, whole, expected) = &whole[number % whole.len()];
        let mut flipped = whole.clone();
        let names: Vec<&PathBuf> =
            whole.iter().filter(|(_, bytes)| !bytes.is_empty()).map(|(path, _)| path).collect();
        let name = *names.choose(&mut rng).unwrap();
        let bytes = flipped.get_mut(name).unwrap();
        // Much of a file is in its header.
        let reach = if rng.random_bool(0.5) { bytes.len() } else { bytes.len().min(2000) };
        let bit = rng.random_range(0..8 * reach as u64) as usize;
        bytes[bit / 8] ^= 1 << (bit % 8);
        put(&folder, &flipped);
        let _ = fs::remove_dir_all(at.join("x"));
        fs::create_dir(at.join("x")).unwrap();
        let said = output(at, &[&["-q"], case.reader].concat());
        let what = format!("bit {bit} of `{}` in `{}`: {}", name.display(), case.folder, stderr(&said));
        match said.status.code() {
            Some(0) => {
                harmless += 1;
                assert!(results(&at.join(case.result)) == *expected, "{what}");
            }
            Some(1) => {
                found += 1;
                assert!(stderr(&said).contains(name.file_name().unwrap().to_str().unwrap()), "{what}");
            }
            code => panic!("{code:?}: {what}"),
        }
    }
    println!("{times} flips: {found} refused, {harmless} mended or without effect");
    assert!(found > 0 && harmless > 0);
}

#[test]
fn a_flip_is_found_or_changes_nothing() {
    flip(24);
}

/// Takes some ten minutes.
#[test]
#[ignore = "takes minutes"]
fn a_thousand_flips_are_found_or_change_nothing() {
    flip(1000);
}
