//! Second-moment sums of shares add up, and give what the states give.

mod common;

use common::{fail, files, succeed};
use jumplens::seal::{KEY, seal};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Neither count is a multiple of the shares, nor of the eighths of the learning curve.
const OPTIONS: [&str; 6] = ["--train", "1501", "--val", "203", "--pairs", "all"];

fn moments(at: &Path, args: &[&str]) {
    succeed(at, &[&["-q", "moments"], &OPTIONS[..], args].concat());
}

/// The numbers of a table's rows, by their other columns.
fn rows(path: &Path) -> BTreeMap<String, [f64; 2]> {
    let text = fs::read_to_string(path).unwrap();
    let row = |line: &str| {
        let mut cells = line.rsplitn(3, ',');
        let numbers = [cells.next().unwrap(), cells.next().unwrap()].map(|cell| cell.parse().unwrap());
        (cells.next().unwrap().to_owned(), numbers)
    };
    text.lines().skip(1).map(row).collect()
}

#[track_caller]
fn assert_near(a: &Path, b: &Path, rows_expected: usize, tolerance: f64) {
    let (left, right) = (rows(a), rows(b));
    assert_eq!(left.len(), rows_expected, "{}", a.display());
    for (key, numbers) in &left {
        let other = right.get(key).unwrap_or_else(|| panic!("no row {key} in {}", b.display()));
        for (x, y) in numbers.iter().zip(other) {
            assert!((x - y).abs() <= tolerance, "{key}: {x} in {}, {y} in {}", a.display(), b.display());
        }
    }
}

#[test]
fn shares_in_any_order_equal_the_whole_and_the_states() {
    shares_equal_the_whole_and_the_states("tiny-gpt2", 12, 1e-6);
}

/// Its states end in a norm: but for the constant that this adds, they lie in one dimension less, and the condition of the
/// sources is up to 5·10⁵, which sums square. Maps are kept in f32, and there are entries of hundreds that cancel: to round
/// the map of rank 8 from layer 3 to 6 at random, 200 times, moves its r² by up to 1.2·10⁻⁶, and here two maps are rounded.
#[test]
fn so_they_do_where_sources_are_next_to_singular() {
    shares_equal_the_whole_and_the_states("tiny-bert", 6, 2.5e-6);
}

fn shares_equal_the_whole_and_the_states(model: &str, n_layers: usize, tolerance: f64) {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let moments = |args: &[&str]| moments(at, &[&["--model", model], args].concat());
    let casts = ["--intercept", "--ridge", "auto", "--rank", "8"];
    let model = ["-q", "run", "--model", model];
    succeed(at, &[&model[..], &OPTIONS[..], &casts[..], &["--out", "run"]].concat());
    moments(&["--out", "whole"]);
    for of in [2, 5] {
        for index in 1..=of {
            moments(&["--shard", &format!("{index}/{of}"), "--out", &format!("s{index}of{of}")]);
        }
    }
    let file = |index: usize, of: usize| format!("s{index}of{of}/moments.safetensors");
    succeed(at, &["-q", "merge", &file(1, 2), &file(2, 2), "--out", "two"]);
    // In steps, and backwards.
    succeed(at, &["-q", "merge", &file(5, 5), &file(2, 5), "--out", "some"]);
    succeed(at, &["-q", "merge", &file(4, 5), "some", &file(1, 5), &file(3, 5), "--out", "five"]);
    succeed(at, &["-q", "merge", &file(2, 2), &file(1, 2), "--out", "two-backwards"]);
    assert!(fs::read(at.join("two")).unwrap() == fs::read(at.join("two-backwards")).unwrap());

    for (sums, out) in
        [("whole/moments.safetensors", "from-whole"), ("two", "from-two"), ("five", "from-five")]
    {
        succeed(at, &[&["-q", "fit", "--moments", sums, "--out", out], &casts[..]].concat());
    }
    // The same maps and numbers to the last bit, whatever the sharding.
    let fitted = |out: &str, folder: &str| files(&at.join(out).join(folder));
    for folder in ["shortcuts", "results"] {
        for out in ["from-two", "from-five"] {
            assert!(fitted(out, folder) == fitted("from-whole", folder), "{folder} of {out}");
        }
    }
    let table = |folder: &str, name: &str| at.join(folder).join("results").join(name);
    let n_pairs = n_layers * (n_layers + 1) / 2;
    for (name, n) in [("r2.csv", 8 * n_pairs), ("learning_curve.csv", 4 * n_layers)] {
        assert_near(&table("from-whole", name), &table("run", name), n, tolerance);
    }
    // The curve is made from sums in a run too.
    let curve = |folder: &str| fs::read(table(folder, "learning_curve.csv")).unwrap();
    assert!(curve("from-five") == curve("run"), "the learning curves differ");
    let (from_sums, from_states) = (fitted("from-five", "shortcuts"), fitted("run", "shortcuts"));
    let of_layers: Vec<_> = from_states.keys().filter(|path| !path.starts_with("parts")).collect();
    assert_eq!(from_sums.keys().collect::<Vec<_>>(), of_layers);
    // Maps from sums are used as any others are.
    succeed(at, &["-q", "r2", "--out", "run", "--shortcuts", "from-five/shortcuts", "--overwrite"]);
    assert_near(&table("run", "r2.csv"), &table("from-five", "r2.csv"), 8 * n_pairs, tolerance);
}

#[test]
fn shares_that_do_not_add_up_are_refused_by_name() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let moments = |out: &str, args: &[&str]| {
        let small = ["-q", "moments", "--train", "40", "--val", "8", "--pairs", "to-final"];
        succeed(at, &[&small[..], &["--out", out], args].concat());
    };
    moments("a", &["--shard", "1/3"]);
    moments("b", &["--shard", "2/3"]);
    moments("other-seed", &["--shard", "3/3", "--seed", "4"]);
    moments("halves", &["--shard", "2/2"]);
    let file = |folder: &str| format!("{folder}/moments.safetensors");
    let merge = |files: &[&str], says: &[&str]| {
        let files: Vec<String> = files.iter().map(|folder| file(folder)).collect();
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        fail(at, &[&["merge"], &files[..], &["--out", "merged"]].concat(), says);
        assert!(!at.join("merged").exists() && !at.join("merged.part").exists());
    };
    merge(&["a", "b", "a"], &["a/moments.safetensors", "share 1/3"]);
    merge(&["a", "other-seed"], &["other-seed/moments.safetensors", "the seed is 4 here and 0 there"]);
    merge(&["a", "halves"], &["halves/moments.safetensors", "2 shares, not in 3"]);
    succeed(at, &["-q", "merge", &file("b"), &file("a"), "--out", "most"]);
    fail(at, &["fit", "--moments", "most", "--out", "fitted"], &["`most`", "3/3"]);
    assert!(!at.join("fitted").exists());
    fail(at, &["moments", "--shard", "4/3"], &["1/n to n/n"]);
    fail(at, &["moments", "--train", "5", "--val", "2", "--shard", "1/4", "--out", "c"], &["share 1/4 of 2"]);

    moments("whole", &[]);
    let sums = file("whole");
    fail(at, &["fit", "--moments", &sums, "--pairs", "all", "--out", "fitted"], &["--pairs to-final"]);
    succeed(at, &["-q", "fit", "--moments", &sums, "--out", "fitted"]);
    fail(at, &["fit", "--moments", &sums, "--out", "fitted"], &["`fitted` holds", "--overwrite"]);
    succeed(at, &["-q", "fit", "--moments", &sums, "--out", "fitted", "--overwrite"]);
    // A run is never taken for it.
    fail(at, &["fit", "--moments", &sums, "--out", "whole", "--overwrite"], &["`whole` holds"]);

    let whole = fs::read(at.join(&sums)).unwrap();
    let damaged = |bytes: &[u8], says: &[&str]| {
        fs::write(at.join("damaged"), bytes).unwrap();
        fail(at, &["fit", "--moments", "damaged", "--out", "never"], &[&["`damaged`"], says].concat());
        assert!(!at.join("never").exists());
    };
    damaged(&whole[..whole.len() / 2], &[]);
    damaged(b"", &[]);
    let data = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    // The first is a sum, the last what rounding has left of one.
    for (place, says) in [(data, "no sum of states"), (whole.len() - 8, "rounding")] {
        for value in [f64::NAN, f64::INFINITY, 1e100] {
            let mut bytes = whole.clone();
            bytes[place..place + 8].copy_from_slice(&value.to_le_bytes());
            seal(&mut bytes);
            damaged(&bytes, &[&value.to_string(), says]);
        }
    }
    // A sum that another could be.
    for bit in [0, 63] {
        let mut bytes = whole.clone();
        bytes[data + bit / 8] ^= 1 << (bit % 8);
        damaged(&bytes, &["changed or removed since it was written", "get a copy"]);
    }
    let mut without = whole.clone();
    let key = without.windows(KEY.len()).position(|bytes| bytes == KEY.as_bytes()).unwrap();
    without[key] = b'k';
    damaged(&without, &["no digest of itself", "earlier version"]);
    fail(
        at,
        &["fit", "--moments", "whole/states/val/00.safetensors", "--out", "never"],
        &["no second-moment sums"],
    );
}
