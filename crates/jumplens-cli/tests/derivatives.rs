//! `fit --lens`: shares, kills, outliers, and who takes what it writes.

mod common;

use common::{SMALL, fail, jumplens, succeed};
use std::fs;
use std::path::Path;
use std::time::Duration;

const FIT: [&str; 10] = [
    "-q",
    "fit",
    "--lens",
    "jacobian,tangent",
    "--model",
    "tiny-gpt2",
    "--prompts",
    "7",
    "--prompt-tokens",
    "22",
];

fn fit(at: &Path, args: &[&str]) {
    succeed(at, &[&FIT[..], args].concat());
}

/// The files of a lens.
fn maps(folder: &Path, cast: &str) -> Vec<Vec<u8>> {
    (0..12)
        .map(|layer| fs::read(folder.join(cast).join(format!("{layer:02}.safetensors"))).unwrap())
        .collect()
}

#[test]
fn shares_add_up_to_the_whole_to_the_last_bit() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    fit(at, &["--out", "whole", "--threads", "1"]);
    for of in [2, 3] {
        for index in 1..=of {
            fit(at, &["--shard", &format!("{index}/{of}"), "--out", &format!("s{index}of{of}")]);
        }
    }
    let file = |index: usize, of: usize| format!("s{index}of{of}/jacobians.safetensors");
    succeed(at, &["-q", "merge", &file(2, 2), &file(1, 2), "--out", "two"]);
    succeed(at, &["-q", "merge", &file(3, 3), &file(1, 3), "--out", "some"]);
    fail(at, &["fit", "--moments", "some", "--out", "early"], &["lacks the shares 2/3"]);
    succeed(at, &["-q", "merge", &file(2, 3), "some", "--out", "three"]);
    for sums in ["two", "three"] {
        let out = format!("from-{sums}");
        succeed(at, &["-q", "fit", "--moments", sums, "--out", &out]);
        for cast in ["jacobian", "tangent"] {
            assert!(maps(&at.join("whole"), cast) == maps(&at.join(&out), cast), "{cast} from {sums}");
        }
    }
    // Of a file that was changed nothing is made, wherever it lies.
    let mut changed = fs::read(at.join("two")).unwrap();
    let middle = changed.len() / 2;
    changed[middle] ^= 4;
    fs::write(at.join("changed"), &changed).unwrap();
    fail(at, &["fit", "--moments", "changed", "--out", "of-changed"], &["changed", "since it was written"]);
    fail(at, &["merge", "changed", "--out", "merged"], &["since it was written"]);
    // A folder of sums alone has no maps, and says so.
    fail(at, &["shortcuts", "list", "s1of2"], &["no maps"]);
    fail(at, &["merge", &file(1, 2), &file(1, 2), "--out", "twice"], &["share 1/2 is in another"]);
    fail(at, &["merge", &file(1, 2), &file(1, 3), "--out", "mixed"], &["the number of shares is 3"]);
}

#[test]
fn a_kill_loses_nothing_that_was_kept() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    fit(at, &["--out", "whole"]);
    for wait in [20, 60, 120, 250, 500] {
        let mut child = jumplens(at, &[&FIT[..], &["--out", "killed"]].concat()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        let _ = child.kill();
        if child.wait().unwrap().success() {
            break;
        }
    }
    if !at.join("killed/results/prompts.csv").exists() {
        fit(at, &["--out", "killed"]);
    }
    for cast in ["jacobian", "tangent"] {
        assert!(maps(&at.join("whole"), cast) == maps(&at.join("killed"), cast));
    }
}

/// What is left out is taken away to the last bit: the lens is that of the other prompts.
#[test]
fn trimmed_prompts_are_as_if_they_had_not_been_there() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let ids =
        |seed: u32, n: u32| (0..n).map(|i| (i * i * 13 + i * 31 + seed * 97) % 4000).collect::<Vec<u32>>();
    let line = |ids: Vec<u32>| format!("{{\"ids\": {ids:?}}}\n");
    let lines: Vec<String> =
        (0..6).map(|seed| line(ids(seed, 20 + seed))).chain([line(vec![7; 40])]).collect();
    fs::write(at.join("all.jsonl"), lines.concat()).unwrap();
    let args = ["-q", "fit", "--lens", "jacobian", "--model", "tiny-gpt2", "--prompt-ids"];
    succeed(at, &[&args[..], &["all.jsonl", "--out", "all"]].concat());
    // A bound that some are above, and not all.
    let table = fs::read_to_string(at.join("all/results/prompts.csv")).unwrap();
    let mut times: Vec<(f64, usize)> = table
        .lines()
        .skip(1)
        .map(|row| row.split(',').collect::<Vec<_>>())
        .map(|cells| (cells[4].parse().unwrap(), cells[1].parse().unwrap()))
        .collect();
    times.sort_by(|a, b| b.0.total_cmp(&a.0));
    let bound = format!("{}", 0.5 * (times[1].0 + times[2].0));
    assert!(times[1].0 > times[2].0 * 1.000001 && bound.parse::<f64>().unwrap() > 1.0, "{times:?}");
    let kept: Vec<String> =
        (0..7).filter(|i| *i != times[0].1 && *i != times[1].1).map(|i| lines[i].clone()).collect();
    fs::write(at.join("kept.jsonl"), kept.concat()).unwrap();
    succeed(at, &[&args[..], &["kept.jsonl", "--out", "kept"]].concat());
    succeed(at, &[&args[..], &["all.jsonl", "--trim", &bound, "--out", "trimmed"]].concat());
    succeed(at, &["-q", "fit", "--moments", "all/jacobians.safetensors", "--trim", &bound, "--out", "later"]);
    let values = |folder: &str| -> Vec<Vec<u8>> {
        let tensor = |file: Vec<u8>| {
            let begin = 8 + u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
            file[begin..].to_vec()
        };
        maps(&at.join(folder), "jacobian").into_iter().map(tensor).collect()
    };
    assert!(values("kept") != values("all"));
    assert!(values("kept") == values("trimmed") && values("kept") == values("later"));
    let table = fs::read_to_string(at.join("trimmed/results/prompts.csv")).unwrap();
    assert_eq!(table.matches(",true").count(), 2);
}

#[test]
fn the_other_commands_take_it() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    fit(at, &["--out", "lenses"]);
    let list = succeed(at, &["shortcuts", "list", "lenses"]);
    assert!(list.contains("jacobian         12    0–11      12    128"), "{list}");
    assert!(list.contains("mean derivative over 7 prompts"), "{list}");
    let lens = succeed(
        at,
        &["-q", "lens", "--shortcuts", "lenses", "--cast", "jacobian", "The capital of France is"],
    );
    assert!(lens.contains("jacobian"), "{lens}");
    succeed(at, &[&["-q"], &SMALL[..], &["--out", "run"]].concat());
    let casts = ["--casts", "id,jacobian,tangent", "--shortcuts", "lenses"];
    succeed(at, &[&["-q", "evaluate", "--out", "run", "--overwrite"], &casts[..]].concat());
    let layers = fs::read_to_string(at.join("run/results/layers.csv")).unwrap();
    for cast in ["jacobian", "tangent"] {
        assert_eq!(layers.lines().filter(|row| row.starts_with(&format!("{cast},"))).count(), 13, "{layers}");
    }
    fail(at, &["run", "--casts", "jacobian", "--out", "r"], &["going back through the model", "fit --lens"]);
    fail(
        at,
        &["fit", "--lens", "jacobian", "--model", "tiny-bert", "--out", "b"],
        &["masked language model"],
    );
    fail(at, &["fit", "--lens", "jacobian", "--out", "b"], &["--model"]);
    fail(
        at,
        &["fit", "--lens", "mat", "--model", "tiny-gpt2", "--out", "b"],
        &["`jacobian`, `tangent`, `relevance`"],
    );
    fail(
        at,
        &["fit", "--lens", "jacobian", "--model", "tiny-gpt2", "--prompt-tokens", "17", "--out", "b"],
        &["of 18 to 256 tokens"],
    );
    assert!(!at.join("b").exists());
}

/// The values of a file of one map, as f32.
fn map_of(path: &Path) -> Vec<f32> {
    let file = fs::read(path).unwrap();
    let begin = 8 + u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
    file[begin..].as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect()
}

#[test]
fn exported_lenses_come_back_to_one_rounding() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    fit(at, &["--out", "lenses"]);
    let export = ["-q", "shortcuts", "export", "lenses", "--format"];
    fail(at, &[&export[1..], &["jacobian", "--out", "lens.pt"]].concat(), &["`jacobian`, `tangent`"]);
    succeed(at, &[&export[..], &["jacobian", "--cast", "jacobian", "--out", "lens.pt"]].concat());
    fail(
        at,
        &[&export[1..], &["jacobian", "--cast", "jacobian", "--out", "lens.pt"]].concat(),
        &["--overwrite"],
    );
    succeed(at, &["-q", "shortcuts", "import", "lens.pt", "--model", "tiny-gpt2", "--out", "back"]);
    succeed(at, &[&export[..], &["tuned-lens", "--cast", "jacobian", "--out", "tuned"]].concat());
    succeed(at, &["-q", "shortcuts", "import", "tuned", "--cast", "jacobian", "--out", "from-tuned"]);
    // The embedding has no place in the former, and its states are used as they are.
    let first = map_of(&at.join("back/jacobian/00.safetensors"));
    assert!(first.iter().enumerate().all(|(i, value)| *value == f32::from(u8::from(i / 128 == i % 128))));
    for layer in 0..12 {
        let file = format!("jacobian/{layer:02}.safetensors");
        let own = map_of(&at.join("lenses").join(&file));
        // Weight, then bias, of which there is none.
        let tuned = map_of(&at.join("from-tuned").join(&file));
        assert_eq!(tuned.len(), own.len());
        assert!(own.iter().zip(&tuned).all(|(a, b)| (a - b).abs() <= 1.2e-7 * (1.0 + a.abs())));
        if layer > 0 {
            let back = map_of(&at.join("back").join(&file));
            // Half of the last of eleven binary digits, or of the smallest number.
            let near = |(a, b): (&f32, &f32)| (a - b).abs() <= a.abs() * 0.5f32.powi(11) + 3e-8;
            assert!(own.len() == back.len() && own.iter().zip(&back).all(near), "layer {layer}");
        }
    }
    let lens = |folder: &str| {
        succeed(
            at,
            &["-q", "lens", "--shortcuts", folder, "--cast", "jacobian", "--format", "json", "The capital"],
        )
    };
    assert!(lens("from-tuned").contains("jacobian") && lens("back").contains("jacobian"));
    succeed(
        at,
        &[
            "-q", "run", "--train", "300", "--val", "20", "--casts", "mat+b", "--out", "run", "--pairs",
            "to-final",
        ],
    );
    fail(at, &["shortcuts", "export", "run", "--format", "jacobian", "--out", "biased.pt"], &["has a bias"]);
    succeed(at, &["-q", "shortcuts", "export", "run", "--format", "tuned-lens", "--out", "affine"]);
    let config = fs::read_to_string(at.join("affine/config.json")).unwrap();
    assert!(config.contains("\"num_hidden_layers\": 12") && config.contains("tiny-gpt2"), "{config}");
}
