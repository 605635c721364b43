//! `arena`, and the casts that are fitted through the head.

mod common;

use common::{fail, jumplens, succeed};
use jumplens::eval::tables::read_csv;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

const COUNTS: [&str; 4] = ["--train", "1800", "--val", "300"];

/// The rows of a table, by column.
fn rows(path: &Path) -> Vec<BTreeMap<String, String>> {
    read_csv(path).unwrap()
}

fn number(row: &BTreeMap<String, String>, column: &str) -> f64 {
    row[column].parse().unwrap_or_else(|_| panic!("{column} of {row:?}"))
}

#[test]
fn lenses_are_held_against_one_another_on_the_same_samples() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let lenses = [
        "arena",
        "tiny-gpt2",
        "--lenses",
        "id,mat_fisher,tuned,tangent",
        "--prompts",
        "3",
        "--prompt-tokens",
        "40",
    ];
    let said = succeed(at, &[&["-q"], &lenses[..], &COUNTS, &["--out", "arena"]].concat());
    for lens in ["id", "mat", "mat_fisher", "tuned", "tangent"] {
        assert!(said.lines().any(|line| line.starts_with(&format!("{lens} "))), "{said}");
    }
    let results = at.join("arena/results");
    let figures = rows(&results.join("arena.csv"));
    let of = |lens: &str, layer: usize| {
        let found = figures.iter().find(|row| row["mapping"] == lens && row["layer"] == layer.to_string());
        found.unwrap_or_else(|| panic!("no {lens} of layer {layer}"))
    };
    // Layers 0 to 12 of five lenses; `mat` is there unasked.
    assert_eq!(figures.len(), 5 * 13);
    for layer in 0..12 {
        let kl = |lens: &str| number(of(lens, layer), "kl");
        assert!(kl("mat_fisher") < kl("mat") && kl("tuned") < kl("mat"), "layer {layer}");
        assert!(kl("mat") < kl("tangent") && kl("tuned") < kl("id"), "layer {layer}");
        let [r2, other] = ["mat", "tuned"].map(|lens| number(of(lens, layer), "r2"));
        assert!(r2 > other, "least squares is least: {r2} and {other} at layer {layer}");
    }
    // The same figures as the run's own table.
    for row in rows(&results.join("layers.csv")) {
        let own = of(&row["mapping"], row["layer"].parse().unwrap());
        for (column, value) in &row {
            assert_eq!(own[column], *value, "{column} of {} from {}", row["mapping"], row["layer"]);
        }
    }
    let differences = rows(&results.join("arena_differences.csv"));
    assert!(differences.iter().any(|row| row["against"] == "tuned" || row["against"] == "mat_fisher"));
    for row in &differences {
        let layer = row["layer"].parse().unwrap();
        let figure = |lens: &str| number(of(lens, layer), &row["figure"]);
        let expected = figure(&row["mapping"]) - figure(&row["against"]);
        assert!((number(row, "difference") - expected).abs() < 1e-9, "{row:?}");
        assert!(number(row, "lo") <= expected && expected <= number(row, "hi"), "{row:?}");
    }
    for row in rows(&results.join("arena_thirds.csv")) {
        let layers = row["first"].parse::<usize>().unwrap()..=row["last"].parse().unwrap();
        assert_eq!(layers.clone().count(), 4);
        let mean = layers.map(|layer| number(of(&row["mapping"], layer), "kl")).sum::<f64>() / 4.0;
        assert!((number(&row, "kl") - mean).abs() < 1e-9 && number(&row, "kl_beyond_best") >= 0.0);
    }
    let costs = rows(&results.join("arena_cost.csv"));
    assert_eq!(
        costs.iter().map(|row| &*row["mapping"]).collect::<Vec<_>>(),
        ["id", "mat_fisher", "tuned", "tangent", "mat"]
    );
    let tangent = &costs[3];
    assert_eq!(
        (&*tangent["prompts"], &*tangent["tokens"], &*tangent["backward_passes"]),
        ("3", "120", "384")
    );
    // Cosines are of both orders the same, and no map is its own opposite.
    let maps = rows(&results.join("arena_maps.csv"));
    assert_eq!(maps.len(), 12 * 4 * 3);
    for row in &maps {
        let other = maps.iter().find(|other| {
            (&other["mapping"], &other["against"], &other["layer"])
                == (&row["against"], &row["mapping"], &row["layer"])
        });
        assert!((number(other.unwrap(), "cosine") - number(row, "cosine")).abs() < 1e-12);
    }
    // Prompts are made of training sentences alone.
    let samples = fs::read_to_string(at.join("arena/samples/val.jsonl")).unwrap();
    let prompts = fs::read_to_string(at.join("arena/prompts.jsonl")).unwrap();
    let ids = |line: &str| -> Vec<u64> {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
    };
    for prompt in prompts.lines().map(ids) {
        assert_eq!(prompt.len(), 40);
        for sample in samples.lines().map(ids).filter(|sample| sample.len() > 8) {
            assert!(
                !prompt.windows(8).any(|run| *run == sample[1..9]),
                "a validation sentence is in a prompt"
            );
        }
    }
}

#[test]
fn it_goes_on_to_the_same_tables_after_a_kill() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let arena = |out: &str, more: &[&str]| {
        let args = [
            "-q",
            "arena",
            "tiny-gpt2",
            "--lenses",
            "mat,tuned,jacobian",
            "--prompts",
            "2",
            "--prompt-tokens",
            "30",
        ];
        jumplens(at, &[&args[..], &["--train", "600", "--val", "60", "--out", out], more].concat())
    };
    assert!(arena("whole", &["--threads", "1"]).status().unwrap().success());
    for millis in [300, 900, 1500, 2500] {
        let mut child = arena("killed", &["--resume"]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(millis));
        let _ = child.kill();
        child.wait().unwrap();
    }
    assert!(arena("killed", &["--resume"]).status().unwrap().success());
    let bytes = |out: &str, file: &str| fs::read(at.join(out).join(file)).unwrap();
    for file in [
        "results/arena.csv",
        "results/arena_differences.csv",
        "results/arena_thirds.csv",
        "results/arena_maps.csv",
        "shortcuts/tuned/05.safetensors",
        "lenses/jacobian/jacobian/05.safetensors",
    ] {
        assert!(bytes("whole", file) == bytes("killed", file), "{file}");
    }
    // One more lens, and the tables are whole for those who read them afterwards.
    let further = ["-q", "arena", "tiny-gpt2", "--lenses", "mat,tuned,jacobian,tangent", "--prompts", "2"];
    let further = [
        &further[..],
        &["--prompt-tokens", "30", "--train", "600", "--val", "60", "--out", "killed", "--resume"],
    ];
    succeed(at, &further.concat());
    assert_eq!(rows(&at.join("killed/results/arena.csv")).len(), 4 * 13);
    succeed(at, &["-q", "plot", "--out", "killed"]);
    // Other prompts than the lenses there were taken on are refused.
    let more =
        ["arena", "tiny-gpt2", "--lenses", "mat,tuned,jacobian", "--prompts", "3", "--prompt-tokens", "30"];
    let more = [&more[..], &["--train", "600", "--val", "60", "--out", "whole", "--resume"]].concat();
    fail(at, &more, &["lenses/jacobian` is of other prompts"]);
}

#[test]
fn what_cannot_be_held_against_one_another_is_refused() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let few = ["--train", "60", "--val", "20", "--out", "out"];
    let no = |args: &[&str], says: &[&str]| fail(at, &[args, &few[..]].concat(), says);
    no(&["arena", "tiny-gpt2", "--lenses", "mat_attn"], &["`mat_attn` is no map from a state to the last"]);
    no(&["arena", "tiny-gpt2", "--lenses", "tund"], &["no cast `tund` can be fitted", "`tuned`"]);
    no(&["run", "--casts", "tuned"], &["`tuned` is fitted through the head", "`--pairs to-final`"]);
    no(&["arena", "tiny-bert", "--lenses", "jacobian"], &["`tiny-bert` is a masked language model"]);
    assert!(!at.join("out").exists());
    let many = ["arena", "tiny-gpt2", "--lenses", "tangent", "--prompts", "900", "--overwrite"];
    no(&many, &["900 are asked for: ask for fewer or shorter ones, or for more sentences"]);
    // And those of sums.
    let moments = ["-q", "moments", "--train", "60", "--val", "20", "--pairs", "to-final", "--out", "sums"];
    succeed(at, &moments);
    let fit = [
        "fit",
        "--moments",
        "sums/moments.safetensors",
        "--casts",
        "tuned",
        "--pairs",
        "to-final",
        "--out",
        "o",
    ];
    fail(at, &fit, &["`tuned` is fitted on states, and only their sums are there"]);
}

/// Masked models, whose first states have the rank of the positions that there are.
#[test]
fn a_masked_model_is_tuned_through_its_whole_head() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let casts =
        ["-q", "run", "--model", "tiny-bert", "--casts", "mat,mat_fisher,tuned", "--pairs", "to-final"];
    succeed(at, &[&casts[..], &COUNTS, &["--out", "run"]].concat());
    let table = rows(&at.join("run/results/layers.csv"));
    for layer in 0..6 {
        let of = |cast: &str| {
            let row = table.iter().find(|row| row["mapping"] == cast && row["layer"] == layer.to_string());
            number(row.unwrap(), "kl")
        };
        assert!(of("mat_fisher") < 1.02 * of("mat") && of("tuned") < 1.02 * of("mat"), "layer {layer}");
    }
}
