//! Results on standard output, everything else on standard error, and nothing but text where no terminal is.

mod common;

use common::{SMALL, output, start, stderr};
use std::process::Output;

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn table_on_standard_output_and_messages_on_standard_error() {
    let at = tempfile::tempdir().unwrap();
    let said = output(at.path(), &[&SMALL[..], &["--out", "a"]].concat());
    let quiet = output(at.path(), &[&SMALL[..], &["--out", "b", "-q"]].concat());
    let verbose = output(at.path(), &[&SMALL[..], &["--out", "c", "-v"]].concat());
    for run in [&said, &quiet, &verbose] {
        assert_eq!(run.status.code(), Some(0));
        assert!(!stdout(run).contains('\x1b') && !stderr(run).contains('\x1b'), "escape sequences");
        assert!(!stderr(run).contains('\r'), "a progress bar without a terminal");
    }
    assert_eq!(stderr(&quiet), "");
    for stage in ["samples", "states", "fit", "r2", "evaluate", "plot"] {
        assert!(stderr(&said).lines().any(|line| line.starts_with(stage)), "{stage}: {}", stderr(&said));
    }
    assert!(stderr(&said).contains("`a`"));
    assert!(stderr(&verbose).contains("12 layers, width 128"));
    // All three tables are the same, but for the times in the last line.
    let table = |run: &Output| {
        let text = stdout(run);
        let (table, times) = text.trim_end().rsplit_once('\n').unwrap();
        assert!(times.starts_with("Seconds: "), "{times}");
        table.to_owned()
    };
    assert_eq!(table(&said), table(&quiet));
    assert_eq!(table(&said), table(&verbose));
    let first = |line: &str| line.split('│').next()?.trim().parse().ok();
    let layers: Vec<usize> = table(&said).lines().filter_map(first).collect();
    // What the casts predict, then how far the maps can be trusted.
    assert_eq!(layers, (0..=12).chain(0..12).collect::<Vec<_>>());
}

#[test]
fn closed_standard_output_is_no_error() {
    let at = tempfile::tempdir().unwrap();
    for args in [&[&SMALL[..], &["--out", "out", "-q"]].concat()[..], &["--help"], &["--version"]] {
        let mut child = start(at.path(), args);
        drop(child.stdout.take());
        let ended = child.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(0), "{args:?}: {}", stderr(&ended));
        assert_eq!(stderr(&ended), "", "{args:?}");
    }
    assert!(at.path().join("out/results/summary.json").exists());
}

#[test]
fn help_and_version() {
    let at = tempfile::tempdir().unwrap();
    for args in [&["--help"][..], &["-h"], &["help"], &["run", "--help"], &["help", "fit"], &["--version"]] {
        let said = output(at.path(), args);
        assert_eq!(said.status.code(), Some(0), "{args:?}");
        assert_eq!(stderr(&said), "", "{args:?}");
        assert!(!stdout(&said).contains('\x1b'));
    }
    assert_eq!(stdout(&output(at.path(), &["-V"])), format!("jumplens {}\n", env!("CARGO_PKG_VERSION")));
    let bare = output(at.path(), &[]);
    assert_eq!((bare.status.code(), stdout(&bare)), (Some(1), String::new()));
    assert!(stderr(&bare).contains("Usage: jumplens"));
}

#[test]
fn without_out_the_run_is_named_after_the_model() {
    let at = tempfile::tempdir().unwrap();
    common::succeed(at.path(), &["samples", "--train", "5", "--val", "5"]);
    assert!(at.path().join("jumplens-runs/tiny-gpt2/manifest.json").exists());
}

#[test]
fn run_prints_its_summary_as_json_and_nothing_else() {
    let at = tempfile::tempdir().unwrap();
    let as_json = [&SMALL[..], &["--out", "out", "--format", "json"]].concat();
    let said = output(at.path(), &as_json);
    assert!(said.status.success(), "{}", stderr(&said));
    let parsed = |output: &Output| serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap();
    let shown = parsed(&said);
    // Sixty samples fit noise, which is said in the tables too.
    let warnings = shown["warnings"].as_array().unwrap();
    assert!(warnings.iter().any(|line| line.as_str().unwrap().contains("60 samples")), "{warnings:?}");
    let folder = at.path().canonicalize().unwrap().join("out");
    assert_eq!(shown["folder"], folder.to_str().unwrap());
    let written = std::fs::read(at.path().join("out/results/summary.json")).unwrap();
    let mut written: serde_json::Value = serde_json::from_slice(&written).unwrap();
    let fields = written.as_object_mut().unwrap();
    fields.remove(jumplens::seal::KEY);
    for (field, value) in &*fields {
        assert_eq!(&shown[field], value, "{field}");
    }
    assert_eq!(shown.as_object().unwrap().len(), fields.len() + 2);
    // Whatever is left to do.
    let resumed = ["run", "--resume", "--out", "out", "--format", "json"];
    let nothing_left = output(at.path(), &resumed);
    assert!(stderr(&nothing_left).contains("nothing is left to do"));
    assert_eq!(parsed(&nothing_left), shown);
    assert_eq!(parsed(&output(at.path(), &[&as_json[..], &["--resume"]].concat())), shown);
    std::fs::remove_dir_all(at.path().join("out/plots")).unwrap();
    assert_eq!(parsed(&output(at.path(), &resumed)), shown);
}

/// The program is held still for so long, which takes nobody's time.
#[cfg(unix)]
#[test]
fn without_a_terminal_a_line_every_half_minute_says_how_far_the_work_is() {
    let at = tempfile::tempdir().unwrap();
    let begun = |out: &'static str, flags: &[&str]| {
        let args = ["run", "--train", "4000", "--val", "20", "--pairs", "to-final", "--out", out];
        let child = start(at.path(), &[&args[..], flags].concat());
        while !at.path().join(out).join("states/train/00.safetensors.part").exists() {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        common::signal(&child, "STOP");
        child
    };
    let children = [begun("loud", &[]), begun("quiet", &["-q"])];
    std::thread::sleep(std::time::Duration::from_secs(31));
    let [loud, quiet] = children.map(|child| {
        common::signal(&child, "CONT");
        child.wait_with_output().unwrap()
    });
    assert!(loud.status.success() && quiet.status.success());
    assert_eq!(stderr(&quiet), "");
    let said = stderr(&loud);
    let lines: Vec<&str> = said.lines().filter(|line| line.contains(" % ")).collect();
    let [line] = lines[..] else { panic!("{said}") };
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["states", percent, "%", done, "/", all, "tokens", rate, .., "left"] = words[..] else {
        panic!("{line}")
    };
    let number = |text: &str| text.replace(',', "").parse::<u64>().unwrap();
    assert_eq!(number(percent), 100 * number(done) / number(all), "{line}");
    assert!(number(percent) < 100 && rate.ends_with("/s"), "{line}");
}
