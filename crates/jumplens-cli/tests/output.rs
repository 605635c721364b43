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
