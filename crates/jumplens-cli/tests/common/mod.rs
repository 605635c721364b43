//! Runs the command, and compares what it leaves on disk.
#![allow(dead_code, reason = "each test file uses its own part of this")]

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// A run of about a second.
pub const SMALL: [&str; 7] = ["run", "--train", "60", "--val", "20", "--pairs", "to-final"];

/// `jumplens` in the folder `at`, offline, with the Hub's cache in `at/hf`.
pub fn jumplens(at: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jumplens"));
    command.current_dir(at).args(args).stdin(Stdio::null());
    command.env("HF_HOME", at.join("hf")).env("HF_HUB_OFFLINE", "1");
    for name in ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HF_ENDPOINT"] {
        command.env_remove(name);
    }
    command
}

/// What it says and how it ends.
pub fn output(at: &Path, args: &[&str]) -> Output {
    jumplens(at, args).output().unwrap()
}

/// It has to end well; gives its standard output.
pub fn succeed(at: &Path, args: &[&str]) -> String {
    let output = output(at, args);
    assert!(output.status.success(), "{args:?}: {:?} {}", output.status, stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// It has to end as a mistake of the user's does: exit code 1, and one line on standard error that begins with
/// `error: ` and holds every one of `says`.
#[track_caller]
pub fn fail(at: &Path, args: &[&str], says: &[&str]) {
    let output = output(at, &[&["-q"], args].concat());
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {text}");
    assert!(output.stdout.is_empty(), "{args:?}: {}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(text.lines().count(), 1, "{args:?}: {text}");
    assert!(text.starts_with("error: ") && !text.contains("internal"), "{args:?}: {text}");
    for say in says {
        assert!(text.contains(say), "{args:?}: no `{say}` in: {text}");
    }
}

/// Every file below `folder`, by its path from there.
pub fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(folder: &Path, root: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, root, found);
            } else {
                found.insert(path.strip_prefix(root).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    if folder.exists() {
        walk(folder, folder, &mut found);
    }
    found
}

/// Holds the runs `a` and `b` equal: all but the manifest, which has times in it.
#[track_caller]
pub fn assert_same_run(a: &Path, b: &Path) {
    for part in ["samples", "states", "shortcuts", "results", "plots"] {
        assert_same_files(&a.join(part), &b.join(part));
    }
}

#[track_caller]
pub fn assert_same_files(a: &Path, b: &Path) {
    let (left, right) = (files(a), files(b));
    assert!(!left.is_empty(), "nothing in {}", a.display());
    assert_eq!(left.keys().collect::<Vec<_>>(), right.keys().collect::<Vec<_>>());
    for (name, bytes) in &left {
        assert!(*bytes == right[name], "{} differs in {} and {}", name.display(), a.display(), b.display());
    }
}

/// No temporary name is left over.
#[track_caller]
pub fn assert_nothing_partial(run: &Path) {
    let partial: Vec<_> =
        files(run).into_keys().filter(|path| path.extension().is_some_and(|e| e == "part")).collect();
    assert!(partial.is_empty(), "{partial:?}");
}

/// A copy of `tiny-gpt2` in the folder `name`, its files as on disk.
pub fn model(at: &Path, name: &str) -> PathBuf {
    copy_of("tiny-gpt2", at, name)
}

/// A copy of a bundled model in the folder `name`.
pub fn copy_of(bundled: &str, at: &Path, name: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../jumplens-assets/assets").join(bundled);
    let folder = at.join(name);
    fs::create_dir(&folder).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        fs::copy(source.join(file), folder.join(file)).unwrap();
    }
    folder
}

/// Replaces `from` by `to` in a text file.
#[track_caller]
pub fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "no `{from}` in {}", path.display());
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

/// A samples file of `n` samples of three tokens, which are quickly run.
pub fn write_short_samples(path: &Path, n: usize) {
    let line =
        |i: usize| format!("{{\"ids\": [{}, {}, {}], \"position\": 1}}\n", i % 900, i * i % 900, i % 7);
    fs::write(path, (0..n).map(line).collect::<String>()).unwrap();
}

/// Changes the manifest of `folder`, which then has no digest of itself, as none of an earlier version has.
pub fn edit_manifest(folder: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let path = folder.join("manifest.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest.as_object_mut().unwrap().remove(jumplens::seal::KEY);
    change(&mut manifest);
    fs::write(path, manifest.to_string()).unwrap();
}

/// Takes the tensors whose names begin with `prefix` out of a safetensors file.
pub fn remove_tensors(path: &Path, prefix: &str) {
    let bytes = fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let kept = tensors.tensors().into_iter().filter(|(name, _)| !name.starts_with(prefix));
    let kept = safetensors::serialize(kept, None).unwrap();
    fs::write(path, kept).unwrap();
}

/// Makes the first norm's weights so large that the first block's states are no numbers any more.
pub fn overflow(path: &Path) {
    let bytes = fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let large = [3e38f32.to_le_bytes(); 128].concat();
    let changed = tensors.tensors().into_iter().map(|(name, view)| {
        let view = match name.ends_with("h.0.ln_1.weight") {
            true => TensorView::new(Dtype::F32, vec![128], &large).unwrap(),
            false => view,
        };
        (name, view)
    });
    let changed = safetensors::serialize(changed, None).unwrap();
    fs::write(path, changed).unwrap();
}

/// Starts it with its output kept.
pub fn start(at: &Path, args: &[&str]) -> Child {
    jumplens(at, args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Sends `signal`, such as `INT`, to a child.
pub fn signal(child: &Child, signal: &str) {
    let sent = Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}
