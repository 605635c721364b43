//! Names and texts from elsewhere are harmless in what is written for people to read, open and copy.
#![cfg(unix)]

mod common;

use common::{SMALL, fail, files, model, output, stderr, succeed};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// What a shell makes of `command` that begins with `jumplens`: the arguments that a program of that name would get.
fn arguments(at: &Path, command: &str) -> Vec<String> {
    let program = at.join("bin/jumplens");
    if !program.exists() {
        fs::create_dir(at.join("bin")).unwrap();
        fs::write(&program, "#!/bin/sh\nprintf '%s\\0' \"$@\"\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", at.join("bin").display(), std::env::var("PATH").unwrap());
    let shell = ["bash", "-c", command];
    let said = Command::new(shell[0]).args(&shell[1..]).current_dir(at).env("PATH", path).output().unwrap();
    assert!(said.status.success(), "{command}: {}", stderr(&said));
    let said = String::from_utf8(said.stdout).unwrap();
    said.trim_end_matches('\0').split('\0').map(str::to_owned).collect()
}

#[test]
fn commands_to_copy_hold_names_as_one_word() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let name = "x; touch PWNED #`$(y)` 'z'";
    model(at, name);
    succeed(at, &[&SMALL[..], &["--model", &format!("./{name}"), "--out", "run"]].concat());
    succeed(at, &["shortcuts", "export", "run", "--out", "exported"]);
    let card = fs::read_to_string(at.join("exported/README.md")).unwrap();
    let command = card.lines().find(|line| line.starts_with("jumplens lens")).unwrap();
    assert_eq!(
        arguments(at, command),
        ["lens", "--model", name, "--shortcuts", "mat.safetensors", "The capital of France is"]
    );
    // The same in what messages advise.
    let folder = "a b; touch PWNED #";
    fs::create_dir(at.join(folder)).unwrap();
    let said = stderr(&output(at, &["states", "--out", folder]));
    let command = said.split('`').find(|part| part.starts_with("jumplens samples")).unwrap();
    assert_eq!(arguments(at, command), ["samples", "--out", folder]);
    assert!(!at.join("PWNED").exists());
}

#[test]
fn no_cell_of_a_table_is_a_formula() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    succeed(at, &[&SMALL[..], &["--out", "=HYPERLINK(1)"]].concat());
    for (path, bytes) in files(&at.join("=HYPERLINK(1)")) {
        let path = at.join("@SUM(1)").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    succeed(at, &["compare", "=HYPERLINK(1)", "@SUM(1)", "--format", "svg", "--out", "compared"]);
    let table = fs::read_to_string(at.join("compared/differences.csv")).unwrap();
    let row = table.lines().nth(1).unwrap();
    assert!(row.starts_with("'=HYPERLINK(1),'@SUM(1),id,precision_1,"), "{row}");
    // Of maps in a folder that someone else has named.
    fs::rename(at.join("=HYPERLINK(1)/shortcuts"), at.join("maps")).unwrap();
    fs::create_dir(at.join("maps/+1-b")).unwrap();
    for from in 0..12 {
        let name = format!("{from:02}.safetensors");
        fs::copy(at.join("maps").join(&name), at.join("maps/+1-b").join(&name)).unwrap();
    }
    succeed(at, &["r2", "--out", "@SUM(1)", "--shortcuts", "maps", "--overwrite"]);
    let table = fs::read_to_string(at.join("@SUM(1)/results/r2.csv")).unwrap();
    let rows = |cast: &str| -> Vec<String> {
        let rows = table.lines().filter_map(|row| row.strip_prefix(&format!("{cast},")));
        rows.map(str::to_owned).collect()
    };
    assert_eq!(rows("'+1-b"), rows("mat"));
    assert_eq!(rows("mat").len(), 12);
    // What reads the table finds the name as it is.
    let shown = succeed(at, &["shortcuts", "inspect", "maps", "--cast", "+1-b"]);
    assert_eq!(shown.matches("+1-b").count(), 12, "{shown}");
    succeed(at, &["plot", "--out", "@SUM(1)", "--format", "svg"]);
}

/// What acts on a terminal: sequences, a change of direction, a line that goes over the one before.
#[test]
fn nothing_printed_acts_on_the_terminal() {
    const NAME: &str = "m\u{1b}[2J\u{9b}31m\u{202e}\r\u{7f}x";
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    fs::create_dir(at.join("models")).unwrap();
    model(&at.join("models"), NAME);
    let id = format!("models/{NAME}");
    let run = [&SMALL[..], &["-v", "--model", &id, "--out", NAME]].concat();
    let not_a_model = format!("{NAME}/none");
    let commands: Vec<Vec<&str>> = vec![
        run.clone(),
        vec!["run", "--resume", "--out", NAME],
        vec!["info", &id],
        vec!["info", &id, "--format", "json"],
        vec!["info", &not_a_model],
        vec!["doctor", &id],
        vec!["shortcuts", "list", NAME],
        vec!["shortcuts", "list", NAME, "--format", "json"],
        vec!["shortcuts", "inspect", NAME, "--cast", NAME],
        vec!["shortcuts", "export", NAME, "--out", "e\u{1b}[2J"],
        vec!["lens", NAME, "--run", NAME],
        vec!["lens", NAME, "--run", NAME, "--format", "json"],
        vec!["lens", NAME, "--run", NAME, "--format", "html"],
        vec!["lens", NAME, "--run", NAME, "--format", "svg"],
        vec!["lens", "a", "--cast", NAME],
        vec!["sentences", "--corpus", NAME, "--num", "2", "--out", "s"],
        vec!["states", "--out", "no\u{1b}[2J"],
        vec!["no\u{1b}[2J"],
        vec!["plot", "--out", NAME, "--format", "svg"],
        vec!["compare", NAME, "copy", "--format", "svg", "--out", "compared"],
    ];
    for command in commands {
        if command[0] == "compare" {
            for (path, bytes) in files(&at.join(NAME)) {
                let path = at.join("copy").join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            }
        }
        let said = output(at, &command);
        let fails = ["none", "--cast", "no\u{1b}[2J", "sentences"]
            .iter()
            .any(|word| command.iter().any(|arg| arg.ends_with(word)));
        assert_eq!(said.status.code(), Some(i32::from(fails)), "{command:?}: {}", stderr(&said));
        for text in [&said.stdout, &said.stderr] {
            let text = String::from_utf8(text.clone()).unwrap();
            let acts = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            let found: Vec<&str> = text.lines().filter(|line| line.contains(acts)).collect();
            assert!(found.is_empty(), "{command:?}: {found:?}");
        }
    }
    // The same values stand in JSON.
    let json = succeed(at, &["info", &id, "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json["model"].as_str().unwrap().ends_with(NAME), "{json}");
}

#[test]
fn no_file_of_maps_says_where_it_is_written() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let map: Vec<u8> = [1f32, 0.0, 0.0, 1.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    for cast in ["../evil", "/tmp/evil", "..", "", "a/b"] {
        let view = TensorView::new(Dtype::F32, vec![2, 2], &map).unwrap();
        let notes = serde_json::json!({ "cast": cast }).to_string();
        let blank = (jumplens::seal::KEY.to_owned(), "0".repeat(64));
        let metadata = Some(HashMap::from([("jumplens".to_owned(), notes), blank]));
        let mut bytes = safetensors::serialize([("00_01", view)], metadata).unwrap();
        jumplens::seal::seal(&mut bytes);
        assert!(SafeTensors::deserialize(&bytes).is_ok());
        fs::write(at.join("maps.safetensors"), bytes).unwrap();
        fail(
            at,
            &["shortcuts", "export", "maps.safetensors", "--out", "out"],
            &["maps.safetensors", "is no name"],
        );
        let left: Vec<_> = files(at).into_keys().collect();
        assert_eq!(left, [Path::new("maps.safetensors")], "{cast}");
    }
}
