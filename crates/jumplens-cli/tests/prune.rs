//! Models with fewer blocks: what is written is whole, or nothing that loads, and the same in every form.

mod common;

use common::{copy_of, edit, fail, files, signal, start, succeed};
use jumplens::batch::PackedBatch;
use jumplens::hub::{ModelFiles, Sources};
use jumplens::models::load;
use jumplens::nn::Precision;
use jumplens::progress::Silent;
use std::fs;
use std::path::Path;
use std::time::Duration;

const SMALL: [&str; 4] = ["--train", "120", "--val", "20"];

fn prune(at: &Path, args: &[&str]) -> String {
    succeed(at, &[&["-q", "prune"], args, &SMALL[..]].concat())
}

/// The logits of the model at `path`, and how many blocks it has.
fn logits(path: &Path) -> (Vec<f32>, usize) {
    let files = ModelFiles::find(path.to_str().unwrap(), &Sources::default(), &Silent).unwrap();
    let loaded = load(&files, Precision::F32).unwrap();
    assert!(loaded.notes.is_empty(), "{:?}", loaded.notes);
    let model = loaded.model;
    let batch = PackedBatch::whole(&[5, 90, 17, 300, 44, 8, 21]);
    let rows = batch.every_row(model.spec().kind);
    let h = (0..model.spec().n_layers)
        .fold(model.embed(&batch).unwrap(), |h, layer| model.block(layer, &h, &rows).unwrap());
    let logits = model.head().unwrap().logits(&h).unwrap().flatten_all().unwrap();
    (logits.to_vec1().unwrap(), model.spec().n_layers)
}

#[track_caller]
fn assert_near(a: &Path, b: &Path, tolerance: f32) {
    let ((a, blocks), (b, others)) = (logits(a), logits(b));
    assert_eq!(blocks, others);
    let scale = a.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let off = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off <= tolerance * scale, "{off} of {scale}");
}

#[test]
fn every_form_of_a_file_is_the_same_model() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let three = |out: &str, more: &[&str]| {
        prune(at, &[&["tiny-gpt2", "--blocks", "3", "--out", out], more].concat());
    };
    three("folder", &["--weights", "f32"]);
    three("f32.gguf", &["--weights", "f32"]);
    three("f16.gguf", &[]);
    three("q8.gguf", &["--weights", "q8_0"]);
    three("bf16", &["--weights", "bf16"]);
    let of = |name: &str| at.join(name);
    assert_eq!(logits(&of("folder")).1, 9);
    assert_near(&of("folder"), &of("f32.gguf"), 1e-6);
    assert_near(&of("folder"), &of("f16.gguf"), 1e-2);
    assert_near(&of("folder"), &of("bf16"), 5e-2);
    assert_near(&of("folder"), &of("q8.gguf"), 1e-1);
    let size = |name: &str| fs::metadata(of(name)).unwrap().len();
    assert!(size("q8.gguf") < size("f16.gguf") && size("f16.gguf") < size("f32.gguf"));

    // What is written can be made smaller again, from either form into either, and is read by everything else.
    for (from, to) in [("f32.gguf", "again.gguf"), ("f32.gguf", "again-1"), ("folder", "again-2")] {
        prune(at, &[from, "--blocks", "1", "--out", to, "--corpus", "wikipedia-sample"]);
    }
    assert_near(&of("again.gguf"), &of("again-1"), 1e-5);
    assert_near(&of("again-1"), &of("again-2"), 1e-5);
    let lens = succeed(at, &["-q", "lens", "--model", "folder", "The capital of France is"]);
    assert!(lens.lines().count() > 9, "{lens}");
    succeed(at, &["-q", "run", "--model", "again.gguf", "--train", "60", "--val", "20", "--out", "run"]);
    assert!(
        of("f16.md").exists() && fs::read_to_string(of("folder/README.md")).unwrap().contains("perplexity")
    );
}

#[test]
fn masked_models_go_through_and_the_same_command_writes_the_same_weights() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    for (out, threads) in [("one", "1"), ("two", "2")] {
        prune(at, &["tiny-bert", "--blocks", "2", "--out", out, "--threads", threads]);
    }
    for file in ["model.safetensors", "config.json", "tokenizer.json"] {
        assert!(
            fs::read(at.join("one").join(file)).unwrap() == fs::read(at.join("two").join(file)).unwrap(),
            "{file}"
        );
    }
    assert_eq!(logits(&at.join("one")).1, 4);
    // As few blocks as hold what is asked for: fewer are asked of more.
    let blocks = |keep: &str| {
        prune(at, &["tiny-gpt2", "--keep", keep, "--out", keep]);
        logits(&at.join(keep)).1
    };
    let (much, little) = (blocks("0.85"), blocks("0.6"));
    assert!(little < much && much < 12, "{little} {much}");
}

#[test]
fn what_cannot_be_done_is_said() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let no = |args: &[&str], says: &[&str]| fail(at, &[&["prune"], args, &SMALL[..]].concat(), says);
    no(&["tiny-gpt2", "--blocks", "12", "--out", "a"], &["from 1 to 11"]);
    no(&["tiny-gpt2", "--out", "a"], &["--blocks"]);
    no(&["tiny-gpt2", "--blocks", "1", "--out", "a", "--weights", "q8_0"], &["GGUF"]);
    no(&["tiny-gpt2", "--keep", "0.9999", "--out", "a"], &["0.9999", "ask for less"]);
    no(&["tiny-bert", "--blocks", "1", "--objective", "fisher", "--out", "a"], &["another objective"]);
    assert!(!at.join("a/config.json").exists());
    fs::create_dir(at.join("mine")).unwrap();
    fs::write(at.join("mine/notes.txt"), "mine").unwrap();
    no(&["tiny-gpt2", "--blocks", "1", "--out", "mine"], &["mine"]);
    // Attention that is scaled by the number of its block.
    let scaled = copy_of("tiny-gpt2", at, "scaled");
    let inverse = "\"scale_attn_by_inverse_layer_idx\": ";
    edit(&scaled.join("config.json"), &format!("{inverse}false"), &format!("{inverse}true"));
    no(&["scaled", "--blocks", "2", "--out", "b"], &["scaled by the number of its block"]);
    no(&["tiny-bert", "--blocks", "1", "--out", "b.gguf"], &["convert_hf_to_gguf.py"]);
    assert!(!at.join("b.gguf").exists());
    prune(at, &["tiny-gpt2", "--blocks", "1", "--form", "drop", "--out", "c"]);
    no(&["tiny-gpt2", "--blocks", "1", "--out", "c"], &["--overwrite"]);
    let before = files(&at.join("c"));
    prune(at, &["tiny-gpt2", "--blocks", "2", "--form", "drop", "--out", "c", "--overwrite"]);
    assert_ne!(before, files(&at.join("c")));
}

#[test]
fn killed_at_any_moment_nothing_half_written_loads() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let args = |out: &'static str| {
        [
            "-q",
            "prune",
            "tiny-gpt2",
            "--blocks",
            "1",
            "--form",
            "drop",
            "--train",
            "40",
            "--val",
            "10",
            "--out",
            out,
        ]
    };
    let started = std::time::Instant::now();
    succeed(at, &args("whole"));
    let took = started.elapsed();
    let whole = files(&at.join("whole"));
    let mut hits = 0;
    for kill in 0..16u32 {
        let wait = took.mul_f64(0.25 + f64::from(kill) * 0.05);
        for out in ["killed", "killed.gguf"] {
            let mut child = start(at, &args(out));
            std::thread::sleep(wait);
            hits += usize::from(child.try_wait().unwrap().is_none());
            signal_if_alive(&mut child);
            let path = at.join(out);
            let files = ModelFiles::find(path.to_str().unwrap(), &Sources::default(), &Silent);
            if let Ok(files) = files {
                assert_eq!(load(&files, Precision::F32).unwrap().model.spec().n_layers, 11);
            }
            let _ = fs::remove_dir_all(&path);
            let _ = fs::remove_file(&path);
            let _ = fs::remove_file(at.join("killed.md"));
        }
    }
    assert!(hits > 2, "{hits} kills hit a process");
    // A folder that was not finished is made again without being asked for.
    let mut child = start(at, &args("killed"));
    std::thread::sleep(took.mul_f64(0.7));
    signal_if_alive(&mut child);
    std::thread::sleep(Duration::from_millis(10));
    let made = common::output(at, &[&args("killed")[..], &["--overwrite"]].concat());
    assert!(made.status.success(), "{}", common::stderr(&made));
    assert!(
        files(&at.join("killed"))[Path::new("model.safetensors")] == whole[Path::new("model.safetensors")]
    );
}

fn signal_if_alive(child: &mut std::process::Child) {
    if child.try_wait().unwrap().is_none() {
        signal(child, "KILL");
    }
    let _ = child.wait();
}
