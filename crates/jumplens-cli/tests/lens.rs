//! `jumplens lens` as a user sees it.

mod common;

use common::{fail, jumplens, succeed};
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

const TEXT: &str = "The capital of France is the city of Paris, which lies on the river Seine";

/// Standard output, with `variables` set and nothing else that colours.
fn shown(at: &Path, args: &[&str], variables: &[(&str, &str)]) -> String {
    let mut command = jumplens(at, args);
    for name in ["COLORTERM", "COLUMNS", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
        command.env_remove(name);
    }
    let output = command.envs(variables.iter().copied()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_bundled_models_come_with_their_maps() {
    let at = tempfile::tempdir().unwrap();
    let (run, run_args) = (at.path().join("run"), ["run", "--out", "run", "-q"]);
    succeed(at.path(), &[&run_args[..], &["--train", "2000", "--val", "50", "--pairs", "to-final"]].concat());
    let reading = |args: &[&str]| -> serde_json::Value {
        let args = [&["lens", TEXT, "--format", "json", "--layers", "11"], args].concat();
        serde_json::from_str(&succeed(at.path(), &args)).unwrap()
    };
    let (bundled, fitted) = (reading(&[]), reading(&["--run", run.to_str().unwrap()]));
    assert_eq!(bundled["casts"][0]["cast"], "mat");
    assert_eq!(bundled["tokens"], fitted["tokens"]);
    let best = |reading: &serde_json::Value| -> Vec<serde_json::Value> {
        let cells = reading["casts"][0]["cells"][0].as_array().unwrap().iter();
        cells.map(|cell| cell["top"][0]["id"].clone()).collect()
    };
    // Maps from the last layer but one, fitted on fewer samples of the same sentences.
    let (bundled, fitted) = (best(&bundled), best(&fitted));
    let same = bundled.iter().zip(&fitted).filter(|(a, b)| a == b).count();
    assert!(same * 10 >= 8 * bundled.len(), "{same} of {}", bundled.len());
}

#[test]
fn the_table_fits_the_width_and_has_every_position_once() {
    let at = tempfile::tempdir().unwrap();
    for (width, casts) in [("40", "mat"), ("61", "mat,id"), ("100", "mat"), ("300", "mat,id")] {
        let text = succeed(at.path(), &["lens", TEXT, "--width", width, "--cast", casts, "--lambda", "0.2"]);
        let limit: usize = width.parse().unwrap();
        for line in text.lines().filter(|line| line.contains('│')) {
            assert!(line.chars().count() <= limit, "{} in {limit}: {line}", line.chars().count());
        }
        let numbers = text.lines().filter(|line| {
            let cells: Vec<&str> = line.split_whitespace().filter(|cell| *cell != "│").collect();
            !cells.is_empty()
                && line.starts_with("      │")
                && cells.iter().all(|cell| cell.parse::<usize>().is_ok())
        });
        let mut positions: Vec<usize> = numbers
            .flat_map(|line| line.split('│').nth(1).unwrap().split_whitespace())
            .map(|n| n.parse().unwrap())
            .collect();
        positions.dedup();
        let json = succeed(at.path(), &["lens", TEXT, "--format", "json"]);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(positions, (0..json["tokens"].as_array().unwrap().len()).collect::<Vec<_>>(), "{text}");
    }
    let columns = shown(at.path(), &["lens", TEXT], &[("COLUMNS", "50")]);
    assert_eq!(columns, succeed(at.path(), &["lens", TEXT, "--width", "50"]));
}

#[test]
fn colours_are_for_terminals_and_for_those_who_ask() {
    let at = tempfile::tempdir().unwrap();
    let args = ["lens", "The capital of France"];
    let plain = shown(at.path(), &args, &[("COLORTERM", "truecolor"), ("TERM", "xterm")]);
    assert!(!plain.contains('\x1b') && plain.contains('▁'), "not a terminal");
    let forced = shown(at.path(), &args, &[("CLICOLOR_FORCE", "1"), ("COLORTERM", "truecolor")]);
    assert!(forced.contains("\x1b[48;2;") && !forced.contains('▁'));
    let palette = shown(at.path(), &args, &[("CLICOLOR_FORCE", "1"), ("TERM", "xterm-256color")]);
    assert!(palette.contains("\x1b[48;5;") && !palette.contains("\x1b[48;2;"));
    let refused = shown(at.path(), &args, &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]);
    assert!(!refused.contains('\x1b'));
}

#[test]
fn text_comes_from_standard_input_too() {
    let at = tempfile::tempdir().unwrap();
    let mut child =
        jumplens(at.path(), &["lens"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{TEXT}\r\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), succeed(at.path(), &["lens", TEXT]));
    fail(at.path(), &["lens"], &["0 tokens"]);
}

#[test]
fn a_masked_token_is_guessed_at_its_position() {
    let at = tempfile::tempdir().unwrap();
    let args = ["lens", "--model", "tiny-bert", "Paris is [MASK] capital of France.", "--format", "json"];
    let json: serde_json::Value = serde_json::from_str(&succeed(at.path(), &args)).unwrap();
    let tokens: Vec<&str> =
        json["tokens"].as_array().unwrap().iter().map(|t| t["text"].as_str().unwrap()).collect();
    let mask = tokens.iter().position(|token| *token == "[MASK]").unwrap();
    assert_eq!((tokens[0], tokens[tokens.len() - 1]), ("[CLS]", "[SEP]"));
    let cells = &json["casts"][0]["cells"];
    assert_eq!(cells[6][mask]["top"][0]["text"], "the");
    assert_eq!(cells.as_array().unwrap().len(), 7);
}

#[test]
fn pages_and_figures_load_nothing_and_act_on_nothing() {
    let at = tempfile::tempdir().unwrap();
    let text = "<script>alert(1)</script> & \u{1b}[31m \"'";
    for format in ["html", "svg"] {
        let out =
            succeed(at.path(), &["lens", text, "--format", format, "--cast", "mat,id", "--lambda", "0.2"]);
        assert!(!out.contains("<script") && !out.contains('\x1b'), "{format}");
        for loads in ["src=", "href=", "url(", "@import"] {
            assert!(!out.contains(loads), "{format}: {loads}");
        }
        assert!(out.contains("&lt;") && out.contains("&amp;"));
    }
}

#[test]
fn what_cannot_be_shown_is_said_in_one_line() {
    let at = tempfile::tempdir().unwrap();
    let lens = |args: &[&str], says: &[&str]| fail(at.path(), &[&["lens", "a b c"], args].concat(), says);
    lens(&["--cast", "mat_attn"], &["no cast `mat_attn`", "`id`, `mat`", "--run"]);
    lens(&["--position", "9"], &["position 9", "the last is"]);
    lens(&["--position", "-9"], &["position"]);
    lens(&["--layers", "13"], &["layer 13", "the last is 12"]);
    lens(&["--layers", "5-2"], &["ranges"]);
    lens(&["--top", "0"], &["top 0"]);
    lens(&["--run", "none"], &["none"]);
    lens(&["--shortcuts", "none"], &["`none`", "check the path"]);
    lens(&["--force"], &["--shortcuts"]);
}
