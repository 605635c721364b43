//! `jumplens info`, and models from a Hub on loopback as the command sees them.

mod common;
#[path = "../../jumplens/tests/common/hub_server.rs"]
mod hub_server;

use common::{fail, files, jumplens, model, stderr, succeed};
use hub_server::{Model, Server};
use std::fs;
use std::path::Path;
use std::process::Output;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The command in `at`, with its cache in `at/hf` and the Hub at `endpoint`.
fn online(at: &Path, endpoint: &str, token: Option<&str>, args: &[&str]) -> Output {
    let mut command = jumplens(at, args);
    command.env("HF_HUB_OFFLINE", "0").env("HF_ENDPOINT", endpoint);
    for proxy in ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "all_proxy", "https_proxy", "http_proxy"] {
        command.env_remove(proxy);
    }
    if let Some(token) = token {
        command.env("HF_TOKEN", token);
    }
    command.output().unwrap()
}

#[track_caller]
fn refused(output: &Output, says: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    says.iter().for_each(|say| assert!(text.contains(say), "no `{say}` in: {text}"));
}

#[test]
fn info_counts_what_the_checkpoint_holds() {
    let at = tempfile::tempdir().unwrap();
    let text = succeed(at.path(), &["info", "tiny-gpt2"]);
    let value = |what: &str| {
        let line =
            text.lines().find(|line| line.starts_with(what)).unwrap_or_else(|| panic!("no {what}: {text}"));
        line[what.len()..].trim().to_owned()
    };
    // 4096·128 + 256·128 + 12·(12·128² + 13·128) + 2·128
    assert_eq!(value("parameters"), "2936576");
    for (what, expected) in [
        ("model", "tiny-gpt2"),
        ("family", "gpt2"),
        ("kind", "causal"),
        ("layers", "12"),
        ("width", "128"),
        ("heads", "4"),
        ("vocabulary", "4096"),
        ("longest sequence", "256"),
    ] {
        assert_eq!(value(what), expected);
    }
    let json: serde_json::Value =
        serde_json::from_str(&succeed(at.path(), &["info", "tiny-gpt2", "--format", "json"])).unwrap();
    assert_eq!(json["parameters"], 2_936_576);
    assert_eq!(json["files"][1]["name"], "model.safetensors");
    assert_eq!(json["files"][1]["bytes"], 5_887_512);
    assert!(text.contains(json["files"][1]["sha256"].as_str().unwrap()));
}

#[test]
fn info_reckons_the_disk_space_that_a_run_takes() {
    let at = tempfile::tempdir().unwrap();
    let json: serde_json::Value =
        serde_json::from_str(&succeed(at.path(), &["info", "tiny-bert", "--format", "json"])).unwrap();
    let disk = |what: &str| json["disk_bytes"][what].as_u64().unwrap() as f64;
    assert_eq!((disk("train"), disk("val")), (9000.0, 3000.0));
    // The same proportion of samples, a fiftieth of them.
    succeed(at.path(), &["run", "--model", "tiny-bert", "--train", "180", "--val", "60", "--out", "out"]);
    let bytes = |folder: &str| {
        files(&at.path().join("out").join(folder)).values().map(Vec::len).sum::<usize>() as f64
    };
    for (folder, reckoned) in [("states", disk("states") / 50.0), ("shortcuts", disk("shortcuts_all"))] {
        let ratio = bytes(folder) / reckoned;
        assert!((1.0..1.01).contains(&ratio), "{folder}: {ratio}");
    }
}

#[test]
fn info_on_damaged_files_is_one_line() {
    let at = tempfile::tempdir().unwrap();
    let weights = model(at.path(), "m").join("model.safetensors");
    let whole = fs::read(&weights).unwrap();
    for length in [0, 7, whole.len() - 1] {
        fs::write(&weights, &whole[..length]).unwrap();
        fail(at.path(), &["info", "m"], &["m/model.safetensors", "damaged"]);
    }
    fs::write(at.path().join("m/config.json"), "{").unwrap();
    fail(at.path(), &["info", "m"], &["m/config.json", "damaged"]);
}

#[test]
fn each_refusal_of_the_hub_has_its_line_and_its_advice() {
    let at = tempfile::tempdir().unwrap();
    let tiny = Model::from_folder(&model(at.path(), "m"), COMMIT);
    let gated = Model { gate: Some("right".into()), ..tiny.clone() };
    let server = Server::start([("org/tiny", tiny), ("org/gated", gated)]);
    let info =
        |name: &str, token: Option<&str>| online(at.path(), &server.endpoint, token, &["info", "-q", name]);
    refused(&info("org/none", None), &["`org/none`", &server.endpoint, "check the name", "`tiny-gpt2`"]);
    refused(&info("org/tiny@v9", None), &["`org/tiny`", "`v9`", "branch"]);
    refused(&info("org/gated", None), &["`org/gated` is gated", "`HF_TOKEN`"]);
    refused(&info("org/gated", Some("wrong")), &["`org/gated` is gated", "accept its terms"]);
    assert!(info("org/gated", Some("right")).status.success());
    refused(
        &online(at.path(), "http://127.0.0.1:1", None, &["info", "-q", "org/tiny"]),
        &["network", "HF_ENDPOINT"],
    );
    fail(at.path(), &["info", "org/tiny"], &["`org/tiny`", "cache", "`HF_HUB_OFFLINE`", "HF_HOME"]);
    fail(at.path(), &["info", "./org/tiny"], &["no model `./org/tiny`", "check the path"]);
    server.set(|state| state.corrupt = true);
    refused(&info("org/tiny", None), &["model.safetensors", "damaged", "start again"]);
    server.set(|state| state.corrupt = false);

    // Fetched now, and there without the Hub.
    let said = info("org/tiny", None);
    assert!(String::from_utf8(said.stdout).unwrap().contains(COMMIT));
    succeed(at.path(), &["info", "org/tiny"]);
    let blobs = files(&at.path().join("hf/hub/models--org--tiny/blobs"));
    let (blob, bytes) = blobs.iter().max_by_key(|(_, bytes)| bytes.len()).unwrap();
    let blob = at.path().join("hf/hub/models--org--tiny/blobs").join(blob);
    fs::write(&blob, &bytes[..1000]).unwrap();
    fail(at.path(), &["info", "org/tiny"], &["cached file", &blob.display().to_string(), "delete it"]);
}

#[test]
fn a_run_of_a_model_from_the_hub_goes_on_without_it() {
    let at = tempfile::tempdir().unwrap();
    let server =
        Server::start([("openai-community/gpt2", Model::from_folder(&model(at.path(), "m"), COMMIT))]);
    let samples = ["samples", "--model", "gpt2", "--train", "40", "--val", "10", "--pairs", "to-final"];
    let begun = online(at.path(), &server.endpoint, None, &samples);
    assert!(begun.status.success(), "{}", stderr(&begun));
    assert!(stderr(&begun).lines().any(|line| line.starts_with("download") && line.contains("MB")));
    let manifest = fs::read_to_string(at.path().join("jumplens-runs/gpt2/manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(
        (&manifest["model"]["id"], &manifest["model"]["revision"]),
        (&"openai-community/gpt2".into(), &COMMIT.into())
    );
    succeed(at.path(), &["states", "--out", "jumplens-runs/gpt2"]);
    // Nor need its name be given again, or the branch be where it was.
    succeed(at.path(), &["run", "--resume", "--out", "jumplens-runs/gpt2"]);
    let again = ["run", "--resume", "--model", "gpt2", "--out", "jumplens-runs/gpt2"];
    assert!(succeed(at.path(), &again).contains("validation samples"));
    let other = "gpt2@00000123456789abcdef0123456789abcdef0123";
    fail(
        at.path(),
        &["run", "--resume", "--model", other, "--out", "jumplens-runs/gpt2"],
        &["the model is `openai-community/gpt2@0123456789", &format!("and `{other}` here")],
    );
}

#[test]
fn info_lists_a_gguf_file_once() {
    let at = tempfile::tempdir().unwrap();
    let file =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../jumplens/tests/fixtures/gguf/llama.gguf");
    let said = succeed(at.path(), &["info", file.to_str().unwrap()]);
    let listed = said.lines().filter(|line| line.starts_with("llama.gguf ")).count();
    assert!(listed == 1 && said.contains("llama"), "{said}");
}
