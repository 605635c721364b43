//! What `info` says that a run takes of memory, against what it takes.
#![cfg(target_os = "linux")]

mod common;

use common::{jumplens, succeed};
use std::path::Path;
use std::process::Stdio;

/// The largest resident size of a command that ends well, in bytes.
#[expect(clippy::zombie_processes, reason = "`wait4` waits, and tells what was used")]
fn peak(at: &Path, args: &[&str]) -> f64 {
    let child = jumplens(at, args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
    // SAFETY: waits for a child of this process that nothing else waits for, and fills both in.
    let usage = unsafe {
        assert_eq!(libc::wait4(child.id() as i32, &mut status, 0, usage.as_mut_ptr()), child.id() as i32);
        usage.assume_init()
    };
    assert_eq!(status, 0, "{args:?}");
    usage.ru_maxrss as f64 * 1024.0
}

/// How many times the one is the other, the larger by the smaller.
fn forecast_is_off_by(at: &Path, model: &str, train: &str, val: &str, dtype: &str) -> f64 {
    let of = ["--train", train, "--val", val, "--dtype", dtype, "--threads", "2"];
    let said = succeed(at, &[&["info", model, "--format", "json"], &of[..]].concat());
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let forecast = said["memory_bytes"].as_f64().unwrap();
    let out = tempfile::tempdir_in(at).unwrap();
    let out = out.path().join("out");
    let measured = peak(at, &[&["run", "--model", model, "--out", out.to_str().unwrap()], &of[..]].concat());
    let [mb, measured_mb] = [forecast, measured].map(|bytes| bytes / 1e6);
    eprintln!("{model} {train} + {val} {dtype}: {mb:.0} MB said, {measured_mb:.0} MB taken");
    forecast.max(measured) / forecast.min(measured)
}

#[test]
fn memory_of_a_run_is_forecast() {
    let at = tempfile::tempdir().unwrap();
    for (model, train, val) in
        [("tiny-gpt2", "300", "100"), ("tiny-gpt2", "2000", "40"), ("tiny-bert", "200", "60")]
    {
        let off = forecast_is_off_by(at.path(), model, train, val, "f32");
        assert!(off < 1.3, "{model}: off by {off:.2}");
    }
}

/// Of models that `tools/fetch_real_models.sh` fetches.
#[test]
#[ignore = "takes minutes"]
fn memory_of_a_run_of_a_real_model_is_forecast() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/real-models");
    let at = tempfile::tempdir().unwrap();
    for (name, dtype) in [
        ("minilm", "f32"),
        ("antiberty", "f32"),
        ("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "f32"),
        ("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "bf16"),
        ("gemma3/gemma-3-270m-q4_k_m.gguf", "f32"),
    ] {
        let path = models.join(name);
        if !path.exists() {
            eprintln!("SKIPPED: {} is not there", path.display());
            continue;
        }
        let off = forecast_is_off_by(at.path(), path.to_str().unwrap(), "60", "10", dtype);
        assert!(off < 1.3, "{name}: off by {off:.2}");
    }
}
