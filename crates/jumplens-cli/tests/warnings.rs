//! What has to be said of results is said wherever they are shown, in the same words: that a text was cut, that maps were
//! fitted on too few samples or are worse than the mean, and why a cast was chosen.

mod common;

use common::succeed;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// The width of a state of `tiny-gpt2`.
const WIDTH: usize = 128;

fn lens(at: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&succeed(at, &[&["-q", "lens", "--format", "json"], args].concat())).unwrap()
}

/// What is shown, where it is a figure the lines over it as one.
fn said(shown: &str, format: &str) -> String {
    if format != "svg" {
        return shown.to_owned();
    }
    let lines = shown.lines().filter(|line| line.starts_with("<text x=\"4\""));
    let texts = lines.map(|line| line.split_once('>').unwrap().1.trim_end_matches("</text>"));
    texts.collect::<Vec<_>>().join(" ")
}

/// A run of so many samples, with maps by ridge regression too.
fn run(at: &Path, out: &str, train: usize) -> String {
    let train = train.to_string();
    let args = [
        "-q", "run", "--train", &train, "--val", "60", "--pairs", "to-final", "--ridge", "auto", "--out", out,
    ];
    succeed(at, &args)
}

#[test]
fn a_text_that_was_cut_is_said_to_be() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    // Words of one token each.
    for (model, longest, around) in [("tiny-gpt2", 256, 0), ("tiny-bert", 256, 2)] {
        for words in [5, longest - around, longest - around + 1, longest + 44] {
            let text = vec!["the"; words].join(" ");
            let json = lens(at, &["--model", model, &text, "--cast", "id", "--layers", "0"]);
            let cut = (words + around).saturating_sub(longest);
            let tokens = json["tokens"].as_array().unwrap().len();
            assert_eq!(tokens, words + around - cut, "{model}, {words} words");
            assert_eq!(json["truncated"], cut > 0, "{model}, {words} words");
            assert_eq!(json["tokens_cut"], cut, "{model}, {words} words");
            let says = match cut {
                1 => format!("longer than the {longest} tokens that the model takes: its last 1 token"),
                cut => {
                    format!("longer than the {longest} tokens that the model takes: its last {cut} tokens")
                }
            };
            for format in ["table", "html", "svg"] {
                let args = [
                    "lens",
                    "--model",
                    model,
                    &text,
                    "--format",
                    format,
                    "--layers",
                    "0",
                    "--position",
                    "0,1",
                ];
                let shown = succeed(at, &[&["-q"], &args[..]].concat());
                let shown = said(&shown, format);
                assert_eq!(shown.contains(&says), cut > 0, "{model}, {words} words as {format}: {shown}");
            }
        }
    }
}

#[test]
fn poor_maps_are_warned_of_wherever_they_are_shown() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let few = format!(
        "fitted on 60 samples, fewer than 2 for each of the {WIDTH} coordinates of a state ({})",
        2 * WIDTH
    );
    let below = "r² to layer 12 is below 0 on the validation samples, where the mean would be a better guess: `mat` from layer";
    let table = run(at, "poor", 60);
    let lines: Vec<&str> = table.lines().filter_map(|line| line.strip_prefix("Warning: ")).collect();
    assert_eq!(lines.len(), 2, "{table}");
    assert!(lines[0].contains(&few) && lines[1].starts_with(below), "{table}");
    // The layers are those of the table of r².
    let r2 = fs::read_to_string(at.join("poor/results/r2.csv")).unwrap();
    for line in r2.lines().filter(|line| line.starts_with("mat,")) {
        let cells: Vec<&str> = line.split(',').collect();
        let is_named = {
            let of_mat =
                lines[1].split(below).nth(1).unwrap().trim_start_matches('s').split(';').next().unwrap();
            let layer: usize = cells[1].parse().unwrap();
            of_mat.split(", ").any(|range| match range.trim().split_once('–') {
                Some((first, last)) => (first.parse().unwrap()..=last.parse().unwrap()).contains(&layer),
                None => range.trim().parse() == Ok(layer),
            })
        };
        assert_eq!(is_named, cells[3].parse::<f64>().unwrap() < 0.0, "{line}: {}", lines[1]);
    }
    let page = fs::read_to_string(at.join("poor/report.html")).unwrap();
    assert!(lines.iter().all(|line| page.contains(line)), "not in the report");
    let json = lens(at, &["--run", "poor", "--cast", "mat", "a text"]);
    assert_eq!(json["warnings"][0], lines[0]);
    let of_mat = json["warnings"][1].as_str().unwrap();
    assert!(of_mat.starts_with(below) && lines[1].starts_with(of_mat), "{of_mat}");
    for format in ["table", "html", "svg"] {
        let shown =
            succeed(at, &["-q", "lens", "--run", "poor", "--cast", "mat", "a text", "--format", format]);
        assert!(said(&shown, format).contains("below 0 on the"), "{format}: {shown}");
    }
    assert!(lens(at, &["--run", "poor", "--cast", "id", "a text"])["warnings"].is_null());
    // Beside a run that has enough samples, which nothing is said of.
    let good = run(at, "good", 1500);
    assert!(!good.contains("fitted on"), "{good}");
    assert!(lens(at, &["--run", "good", "a text"])["warnings"].is_null());
    let compared = succeed(at, &["-q", "compare", "good", "poor", "--out", "both"]);
    for line in &lines {
        assert!(compared.contains(&format!("Warning, `poor`: {line}")), "{compared}");
    }
    assert!(!compared.contains("Warning, `good`"), "{compared}");
    // A file of maps says what they were fitted on.
    succeed(at, &["-q", "shortcuts", "export", "poor", "--cast", "mat", "--out", "maps"]);
    let json = lens(at, &["--shortcuts", "maps/mat.safetensors", "a text"]);
    assert_eq!(json["warnings"].as_array().unwrap().len(), 1);
    assert_eq!(json["warnings"][0], lines[0]);
    assert!(lens(at, &["a text"])["warnings"].is_null(), "the bundled maps");
    // Measured on the samples of a run, they are still the others'.
    succeed(at, &["-q", "r2", "--overwrite", "--out", "good", "--shortcuts", "poor"]);
    assert!(lens(at, &["--run", "good", "a text"])["warnings"].is_null());
}

#[test]
fn the_default_cast_is_the_best_on_the_validation_samples() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    for train in [60, 1500] {
        run(at, "out", train);
        let best = |table: &str, value: &str, is_counted: &dyn Fn(usize, usize) -> bool| {
            let text = fs::read_to_string(at.join("out/results").join(table)).unwrap();
            let head: Vec<&str> = text.lines().next().unwrap().split(',').collect();
            let column = |name: &str| head.iter().position(|other| *other == name).unwrap();
            let layer = head.iter().position(|name| ["from", "layer"].contains(name)).unwrap();
            let to = head.iter().position(|name| *name == "to");
            let mean = |cast: &str| {
                let rows = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
                let rows = rows.filter(|row| row[0] == cast);
                let rows = rows.filter(|row| {
                    is_counted(row[layer].parse().unwrap(), to.map_or(12, |to| row[to].parse().unwrap()))
                });
                let values: Vec<f64> = rows.map(|row| row[column(value)].parse().unwrap()).collect();
                assert_eq!(values.len(), 12);
                values.iter().sum::<f64>() / 12.0
            };
            let sign = if value == "r2" { -1.0 } else { 1.0 };
            let casts = ["mat", "mat_ridge", "id"];
            casts.into_iter().min_by(|a, b| (sign * mean(a)).total_cmp(&(sign * mean(b)))).unwrap()
        };
        let check = |cast: &str, by: &str| {
            let json = lens(at, &["--run", "out", "a text"]);
            assert_eq!(json["casts"][0]["cast"], cast, "{train}");
            let why = format!("best of mat, mat_ridge, id by {by} on the validation samples");
            assert_eq!(json["chosen"], why);
            for format in ["table", "html", "svg"] {
                let shown = succeed(at, &["-q", "lens", "--run", "out", "a text", "--format", format]);
                let why = format!("{cast}: best of mat, mat_ridge, id by");
                assert!(said(&shown, format).contains(&why), "{format}: {shown}");
            }
        };
        check(best("layers.csv", "surprisal", &|layer, _| layer < 12), "mean surprisal");
        assert!(lens(at, &["--run", "out", "--cast", "mat", "a text"])["chosen"].is_null());
        // Maps of a run elsewhere have the figures of that run.
        let elsewhere = lens(at, &["--shortcuts", "out", "a text"]);
        assert_eq!(elsewhere["casts"][0]["cast"], lens(at, &["--run", "out", "a text"])["casts"][0]["cast"]);
        // Without predictions, by r².
        forget(&at.join("out"), "evaluate");
        check(best("r2.csv", "r2", &|_, to| to == 12), "mean r² to the last layer");
        forget(&at.join("out"), "r2");
        let json = lens(at, &["--run", "out", "a text"]);
        assert!(json["casts"][0]["cast"] == "mat" && json["chosen"].is_null());
        fs::remove_dir_all(at.join("out")).unwrap();
    }
    let json = lens(at, &["a text"]);
    assert!(
        json["casts"][0]["cast"] == "mat" && json["chosen"].is_null(),
        "the bundled maps have no figures"
    );
}

/// Takes a stage out of the manifest.
fn forget(run: &Path, stage: &str) {
    common::edit_manifest(run, |manifest| {
        manifest["stages"].as_object_mut().unwrap().remove(stage).unwrap();
    });
}

/// What the stages note on standard error of the results, without what to do about it, is in the report too.
#[test]
fn the_report_has_the_notes_of_the_terminal() {
    let at = tempfile::tempdir().unwrap();
    let run = ["run", "--train", "300", "--val", "60", "--pairs", "to-final", "--out", "run"];
    let said = common::stderr(&common::output(at.path(), &run));
    let noise =
        said.lines().find(|line| line.starts_with("`mat` fits noise")).unwrap_or_else(|| panic!("{said}"));
    let noise = noise.split(": give more").next().unwrap();
    let page = fs::read_to_string(at.path().join("run/report.html")).unwrap();
    let data = page.split_once("id=\"data\">").unwrap().1.split_once("</script>").unwrap().0;
    let data: serde_json::Value = serde_json::from_str(data).unwrap();
    let notes: Vec<&str> =
        data["notes"].as_array().unwrap().iter().map(|note| note.as_str().unwrap()).collect();
    assert_eq!(notes, [noise]);
    // As the page is drawn again, without the stages.
    succeed(at.path(), &["-q", "plot", "--out", "run"]);
    assert_eq!(fs::read_to_string(at.path().join("run/report.html")).unwrap(), page);
}
