//! Figures, report and comparison from what a run left on disk.

mod common;

use common::{SMALL, fail, files, model, succeed};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn names(folder: &Path) -> Vec<String> {
    files(folder).into_keys().map(|path| path.to_str().unwrap().to_owned()).collect()
}

/// The rows of a CSV file, by column.
fn rows(path: PathBuf) -> Vec<BTreeMap<String, String>> {
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut lines = text.lines();
    let head: Vec<&str> = lines.next().unwrap().split(',').collect();
    let row = |line: &str| {
        head.iter().map(|name| (*name).to_owned()).zip(line.split(',').map(str::to_owned)).collect()
    };
    lines.map(row).collect()
}

const FIGURES: [&str; 8] =
    ["agreement", "early_exit", "precision", "r2", "rank", "spectra", "submodules", "surprisal"];

#[test]
fn figures_and_report_are_made_again_without_the_model() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    model(at, "m");
    succeed(at, &[&SMALL[..], &["--model", "m", "--out", "out"]].concat());
    let out = at.join("out");
    let (plots, report) = (files(&out.join("plots")), fs::read(out.join("report.html")).unwrap());
    let all = FIGURES.iter().flat_map(|name| ["pdf", "png", "svg"].map(|format| format!("{name}.{format}")));
    assert_eq!(names(&out.join("plots")), all.collect::<Vec<_>>());
    fs::remove_dir_all(at.join("m")).unwrap();
    fs::remove_dir_all(out.join("plots")).unwrap();
    fs::remove_file(out.join("report.html")).unwrap();
    succeed(at, &["plot", "--out", "out"]);
    assert!(files(&out.join("plots")) == plots);
    assert!(fs::read(out.join("report.html")).unwrap() == report);
    // The tables alone do, where the rest of the run is gone.
    fs::create_dir(at.join("bare")).unwrap();
    fs::rename(out.join("results"), at.join("bare/results")).unwrap();
    succeed(at, &["plot", "--out", "bare"]);
    assert!(files(&at.join("bare/plots")) == plots);
}

#[test]
fn formats_resolution_and_title_are_what_was_asked_for() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    succeed(at, &[&SMALL[..], &["--out", "out"]].concat());
    let plots = at.join("out/plots");
    fs::remove_dir_all(&plots).unwrap();
    succeed(at, &["plot", "--out", "out", "--format", "png", "--dpi", "100"]);
    assert!(names(&plots).len() == FIGURES.len() && names(&plots).iter().all(|name| name.ends_with(".png")));
    // The width stands after the signature and the header's length and name.
    let png = fs::read(plots.join("precision.png")).unwrap();
    let width = u32::from_be_bytes(png[16..20].try_into().unwrap());
    assert!(width.abs_diff(315) <= 1, "80 mm at 100 dots an inch are {width} pixels");
    succeed(at, &["plot", "--out", "out", "--format", "svg,pdf", "--title"]);
    assert!(plots.join("precision.pdf").exists());
    let svg = fs::read_to_string(plots.join("precision.svg")).unwrap();
    assert!(svg.contains(">Precision@k by layer, tiny-gpt2</text>"));
    fail(at, &["plot", "--out", "out", "--format", "gif"], &["gif", "svg", "pdf", "png"]);
    fail(at, &["plot", "--out", "out", "--dpi", "1"], &["--dpi", "30..=2400"]);
}

#[test]
fn unfinished_runs_are_drawn_as_far_as_they_are() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    succeed(at, &["samples", "--train", "40", "--val", "10", "--out", "out"]);
    fail(at, &["plot", "--out", "out"], &["run `jumplens states --out out` first"]);
    for stage in ["states", "fit", "r2", "plot"] {
        succeed(at, &[stage, "--out", "out"]);
    }
    let of = |name: &str| ["pdf", "png", "svg"].map(|format| format!("{name}.{format}"));
    assert_eq!(names(&at.join("out/plots")), [of("r2"), of("spectra")].concat());
    let report = fs::read_to_string(at.join("out/report.html")).unwrap();
    assert!(report.contains("r2.csv") && !report.contains("results/layers.csv"));
    // Tables that are to be made again are of another run.
    succeed(at, &["fit", "--out", "out", "--pairs", "to-final", "--overwrite"]);
    fail(at, &["plot", "--out", "out"], &["run `jumplens r2 --out out` first"]);
}

#[test]
fn odd_tables_give_a_figure_or_one_clear_line() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    fs::create_dir_all(at.join("out/results")).unwrap();
    let write = |name: &str, text: &str| fs::write(at.join("out/results").join(name), text).unwrap();
    fail(at, &["plot", "--out", "out"], &["`out`", "run `jumplens samples --out out` first"]);
    let head = "mapping,from,to,r2,r2_train\n";
    write("r2.csv", &format!("{head}mat,0,1,-1000000.0,NaN\nid,0,1,NaN,NaN\n"));
    succeed(at, &["plot", "--out", "out", "--format", "svg"]);
    assert_eq!(names(&at.join("out/plots")), ["r2.svg"]);
    write("r2.csv", head);
    fail(at, &["plot", "--out", "out"], &["`out`"]);
    for damaged in ["mapping,from\n", "mapping,from,to,r2,r2_train\nmat,zero,1,0,0\n", "\u{0}\u{1}\n\"mat"] {
        write("r2.csv", damaged);
        if damaged.starts_with("mapping,from\n") {
            fail(at, &["plot", "--out", "out"], &["`out`"]);
        } else {
            fail(at, &["plot", "--out", "out"], &["r2.csv", "fix or replace"]);
        }
    }
}

#[test]
fn overwriting_a_run_takes_its_report_along() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    succeed(at, &[&SMALL[..], &["--out", "out"]].concat());
    assert!(at.join("out/report.html").exists());
    succeed(at, &["samples", "--train", "20", "--val", "10", "--out", "out", "--overwrite"]);
    assert!(!at.join("out/report.html").exists());
}

#[test]
fn differences_are_those_of_the_tables_and_say_how_they_were_found() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let run = |name: &str, train: &str, more: &[&str]| {
        let args = ["run", "--train", train, "--val", "60", "--pairs", "to-final", "--out", name];
        succeed(at, &[&args[..], more].concat());
    };
    // Runs b and c measure on the same samples: the validation sentences follow the training ones, so that they are given.
    run("a", "300", &[]);
    let samples = |split: &str| at.join("a/samples").join(split).to_str().unwrap().to_owned();
    let (train, val) = (samples("train.jsonl"), samples("val.jsonl"));
    let fewer: String =
        fs::read_to_string(&train).unwrap().lines().take(200).map(|line| format!("{line}\n")).collect();
    fs::write(at.join("fewer.jsonl"), fewer).unwrap();
    let args =
        ["run", "--train-samples", "fewer.jsonl", "--val-samples", &val, "--pairs", "to-final", "--out", "b"];
    succeed(at, &args);
    run("c", "300", &["--seed", "1"]);
    run("bert", "300", &["--model", "tiny-bert"]);
    let said = succeed(at, &["compare", "a", "b", "c", "bert", "--out", "compared"]);
    assert!(said.contains("`b` − `a`") && said.contains("same validation samples"), "{said}");
    assert!(said.contains("as of independent runs") && said.contains("Layers of `bert`"), "{said}");

    let tables: BTreeMap<&str, Vec<BTreeMap<String, String>>> =
        ["a", "b", "c", "bert"].map(|run| (run, rows(at.join(run).join("results/layers.csv")))).into();
    let value = |run: &str, mapping: &str, layer: &str, column: &str| -> f64 {
        let row = tables[run].iter().find(|row| row["mapping"] == mapping && row["layer"] == layer);
        row.unwrap()[column].parse().unwrap()
    };
    let differences = rows(at.join("compared/differences.csv"));
    // 5 casts, 13 layers, 4 measures, 3 runs
    assert_eq!(differences.len(), 5 * 13 * 4 * 3);
    let mut widths: BTreeMap<&str, f64> = BTreeMap::new();
    for row in &differences {
        let number = |name: &str| row[name].parse::<f64>().unwrap();
        let reference = value("a", &row["mapping"], &row["reference_layer"], &row["measure"]);
        let other = value(&row["run"], &row["mapping"], &row["layer"], &row["measure"]);
        assert_eq!((number("reference_value"), number("value")), (reference, other));
        assert_eq!(number("difference"), other - reference);
        assert!(
            number("lo") <= number("difference") + 1e-6 && number("difference") <= number("hi") + 1e-6,
            "{row:?}"
        );
        assert_eq!(row["method"], if row["run"] == "b" { "paired" } else { "independent" });
        if row["run"] == "bert" {
            assert_eq!(number("layer"), (number("reference_layer") / 2.0).round());
        } else {
            assert_eq!(row["layer"], row["reference_layer"]);
        }
        if ["b", "c"].contains(&row["run"].as_str()) && row["mapping"] == "id" {
            // What is the same is the same whatever the sample.
            assert!(row["run"] != "b" || (number("lo"), number("hi")) == (0.0, 0.0), "{row:?}");
        }
        *widths.entry(if row["run"] == "b" { "b" } else { "other" }).or_default() +=
            number("hi") - number("lo");
    }
    // The casts of b and a go up and down together, so that their differences are surer.
    assert!(2.0 * widths["b"] < 0.7 * widths["other"], "{widths:?}");
    let figures = ["early_exit", "precision", "r2", "rank", "spectra", "submodules", "surprisal"];
    let wanted =
        figures.iter().flat_map(|name| ["pdf", "png", "svg"].map(|format| format!("{name}.{format}")));
    let beside = ["differences.csv", "manifest.json"].map(str::to_owned);
    let mut wanted: Vec<String> = wanted.chain(beside).collect();
    wanted.sort();
    assert_eq!(names(&at.join("compared")), wanted);

    fail(at, &["compare", "a", "--out", "x"], &["2"]);
    fail(at, &["compare", "a", "b", "c", "d", "e", "f", "g", "h", "--out", "x"], &["8 runs", "2 to 7"]);
    fail(at, &["compare", "a", "./a", "--out", "x"], &["`./a` is given twice"]);
    fail(at, &["compare", "a", "nowhere", "--out", "x"], &["no folder `nowhere`", "check the path"]);
    fail(at, &["compare", "a", "b", "--out", "c"], &["`c` holds a run", "choose another"]);
    succeed(at, &["samples", "--train", "20", "--val", "10", "--out", "begun"]);
    fail(at, &["compare", "a", "begun", "--out", "x"], &["run `jumplens states --out begun` first"]);
    assert!(!at.join("x").exists());
    // Without the samples' own figures there is the tables'.
    fs::remove_file(at.join("b/results/predictions.parquet")).unwrap();
    assert!(succeed(at, &["compare", "a", "b", "--out", "again"]).contains("as of independent runs"));
    fs::write(at.join("b/results/predictions.parquet"), "PAR1").unwrap();
    fail(at, &["compare", "a", "b", "--out", "x"], &["b/results/predictions.parquet"]);
}
