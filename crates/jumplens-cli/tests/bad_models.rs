//! Models that cannot be used are refused in one line, before anything is written.

mod common;

use common::{SMALL, edit, fail, model, output, overflow, stderr, succeed};
use std::fs;
use std::path::Path;

#[track_caller]
fn refused(at: &Path, name: &str, says: &[&str]) {
    fail(at, &[&SMALL[..], &["--model", name, "--out", "out"]].concat(), says);
    assert!(!at.join("out").exists(), "something was written");
}

#[test]
fn unknown_model_names_the_bundled_one_and_how_to_get_others() {
    let at = tempfile::tempdir().unwrap();
    refused(at.path(), "./no-such-model", &["`./no-such-model`", "`tiny-gpt2`", "folder", "Hub"]);
    refused(at.path(), "no-such-model", &["`no-such-model`", "cache", "HF_HUB_OFFLINE"]);
    refused(at.path(), "", &["no model", "`tiny-gpt2`"]);
}

#[test]
fn folder_that_lacks_a_file() {
    let at = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json"] {
        let name = format!("without-{file}");
        fs::remove_file(model(at.path(), &name).join(file)).unwrap();
        refused(at.path(), &name, &["cannot read", &format!("{name}/{file}"), "; "]);
    }
    refused(at.path(), "without-tokenizer.json", &["--train-samples"]);
    fs::remove_file(model(at.path(), "m").join("model.safetensors")).unwrap();
    refused(at.path(), "m", &["`m`", "`model.safetensors`", "`pytorch_model.bin`", "shards"]);
}

#[test]
fn weights_that_are_cut_short_or_empty() {
    let at = tempfile::tempdir().unwrap();
    let weights = model(at.path(), "m").join("model.safetensors");
    let whole = fs::read(&weights).unwrap();
    for length in [0, 5, 1000, whole.len() / 2, whole.len() - 1] {
        fs::write(&weights, &whole[..length]).unwrap();
        let bytes = format!("{length} bytes");
        refused(at.path(), "m", &["m/model.safetensors", "damaged", &bytes, "fetch"]);
    }
}

#[test]
fn pickled_weights_that_are_more_than_tensors() {
    let at = tempfile::tempdir().unwrap();
    let folder = model(at.path(), "m");
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    fs::write(
        folder.join("pytorch_model.bin"),
        b"\x80\x02cos\nsystem\nX\x0e\x00\x00\x00echo > was_run\x85R.",
    )
    .unwrap();
    refused(
        at.path(),
        "m",
        &["m/pytorch_model.bin", "`os.system`", "nothing in the file was run", "state_dict()"],
    );
    assert!(!at.path().join("was_run").exists());
}

#[test]
fn weights_that_do_not_fit_the_configuration() {
    let at = tempfile::tempdir().unwrap();
    let cases = [
        (r#""n_embd": 128"#, r#""n_embd": 64"#, "wte.weight", "[4096, 128], expected [4096, 64]"),
        (r#""n_layer": 12"#, r#""n_layer": 13"#, "h.12.ln_1.weight", "no tensor"),
        (r#""n_positions": 256"#, r#""n_positions": 512"#, "wpe.weight", "[256, 128], expected [512, 128]"),
        (r#""vocab_size": 4096"#, r#""vocab_size": 4000"#, "wte.weight", "[4096, 128], expected [4000, 128]"),
        (r#""n_inner": null"#, r#""n_inner": 100"#, "mlp.c_fc.weight", "[128, 512], expected [128, 100]"),
    ];
    for (number, (from, to, tensor, what)) in cases.into_iter().enumerate() {
        let name = format!("m{number}");
        edit(&model(at.path(), &name).join("config.json"), from, to);
        let file = format!("{name}/model.safetensors");
        refused(at.path(), &name, &[tensor, what, &file, "config.json"]);
    }
}

#[test]
fn a_token_without_an_embedding_fails_only_the_text_that_has_it() {
    let at = tempfile::tempdir().unwrap();
    let folder = model(at.path(), "m");
    let tokenizer = folder.join("tokenizer.json");
    fs::write(folder.join("tokenizer_config.json"), r#"{"pad_token": "[PAD]"}"#).unwrap();
    fs::write(at.path().join("t.txt"), "The river runs.\nThe sea is deep.\n").unwrap();
    let samples = ["samples", "--model", "m", "--corpus", "t.txt", "--train", "1", "--val", "1"];
    let done = output(at.path(), &[&samples[..], &["--out", "r"]].concat());
    assert!(done.status.success(), "{}", stderr(&done));
    for says in ["`[PAD]` (4096)", "up to 4096", "4096 rows"] {
        assert!(stderr(&done).contains(says), "{}", stderr(&done));
    }
    fs::write(at.path().join("t.txt"), "The river runs.\nThe [PAD] is deep.\n").unwrap();
    let says = ["m/tokenizer.json", "`[PAD]`", "4096 rows", "The [PAD] is deep", "leave the text out"];
    fail(at.path(), &[&samples[..], &["--out", "s"]].concat(), &says);
    fail(at.path(), &["lens", "--model", "m", "a[PAD]b"], &says[..3]);
    fs::write(at.path().join("s.jsonl"), r#"{"ids": [2, 4096, 3], "position": 1}"#).unwrap();
    let states =
        ["states", "--model", "m", "--train-samples", "s.jsonl", "--val-samples", "s.jsonl", "--out", "x"];
    fail(at.path(), &states, &["token id 4096"]);

    fs::write(&tokenizer, "not a tokenizer").unwrap();
    refused(at.path(), "m", &["m/tokenizer.json", "damaged", "replace"]);
}

#[test]
fn configuration_that_cannot_be_used() {
    let at = tempfile::tempdir().unwrap();
    let cases = [
        (r#""model_type": "gpt2""#, r#""model_type": "mamba""#, "`mamba` is not supported"),
        (r#""model_type": "gpt2","#, "", "model_type"),
        (
            r#""n_head": 4"#,
            r#""n_head": 3"#,
            "`n_embd` is 128: it has to be a multiple of `n_head`, which is 3",
        ),
        (r#""n_head": 4"#, r#""n_head": 0"#, "`n_head` is 0"),
        (r#""n_embd": 128"#, r#""n_embd": "wide""#, "wide"),
        (r#""n_layer": 12"#, r#""n_layer": "12""#, "`n_layer`"),
        (
            r#""n_layer": 12"#,
            r#""n_layer": -1"#,
            "`n_layer`: invalid value: integer `-1`, expected a whole number",
        ),
        (
            r#""gelu_new""#,
            r#""no_such_function""#,
            "`activation_function` is `no_such_function`, which is not",
        ),
        ("{", "{{", "damaged"),
    ];
    for (number, (from, to, what)) in cases.into_iter().enumerate() {
        let name = format!("m{number}");
        edit(&model(at.path(), &name).join("config.json"), from, to);
        let file = format!("{name}/config.json");
        refused(at.path(), &name, &[what, &file, "; fix"]);
    }
}

/// Refused by name; with leave it goes on, and manifest and report say so. What opens the run later needs no other leave.
#[test]
fn a_field_that_is_not_read_goes_unread_by_leave_alone() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    edit(&model(at, "m").join("config.json"), r#""n_head": 4"#, r#""is_causal": false, "n_head": 4"#);
    refused(
        at,
        "m",
        &["m/config.json", "`is_causal` is false", "true, its default", "--allow-unread is_causal"],
    );
    let run = [&SMALL[..], &["--model", "m", "--out", "out"]].concat();
    fail(at, &[&run[..], &["--allow-unread", "is_decoder"]].concat(), &["`is_causal`"]);

    let allowed = output(at, &[&run[..], &["--allow-unread", "is_causal"]].concat());
    let said = stderr(&allowed);
    assert!(allowed.status.success() && said.contains("not read, as allowed: `is_causal` (false)"), "{said}");
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(at.join("out/manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["unread"], serde_json::json!(["is_causal"]));
    assert!(fs::read_to_string(at.join("out/report.html")).unwrap().contains(r#""unread":["is_causal"]"#));
    succeed(at, &["fit", "--overwrite", "--out", "out"]);
    succeed(at, &["lens", "--run", "out", "a text"]);
    for command in [["info", "m"], ["doctor", "m"]] {
        fail(at, &command, &["`is_causal`"]);
    }
    succeed(at, &["info", "m", "--allow-unread", "is_causal"]);
}

/// What the class of the model does not have is a note; what is known to be without effect is nothing to speak of.
#[test]
fn fields_that_the_class_does_not_have_are_noted() {
    let at = tempfile::tempdir().unwrap();
    let config = model(at.path(), "m").join("config.json");
    edit(&config, r#""n_head": 4"#, r#""sliding": 7, "n_ctx": 9, "n_head": 4"#);
    let said = stderr(&output(at.path(), &["info", "m"]));
    assert!(
        said.contains("`GPT2Config` has no such fields, and nothing reads them: `sliding` (7)"),
        "{said}"
    );
    assert!(!said.contains("n_ctx"), "{said}");
}

#[test]
fn names_in_a_file_do_not_act_on_the_terminal() {
    let at = tempfile::tempdir().unwrap();
    let config = model(at.path(), "m").join("config.json");
    edit(&config, r#""model_type": "gpt2""#, r#""model_type": "ma\u001b[2J\rm\nba""#);
    refused(at.path(), "m", &[r"`ma\u{1b}[2J\rm ba` is not supported"]);
}

#[test]
fn states_that_are_not_finite_name_the_sample() {
    let at = tempfile::tempdir().unwrap();
    overflow(&model(at.path(), "m").join("model.safetensors"));
    fail(
        at.path(),
        &[&SMALL[..], &["--model", "m", "--out", "out"]].concat(),
        &["layer 1, train sample 0", "f32 overflowed", "every weight is finite", "checkpoint"],
    );
    let said = String::from_utf8(common::output(at.path(), &["doctor", "m"]).stdout).unwrap();
    assert!(said.contains("h.0.ln_1.weight` holds weights up to 3e38 in magnitude: states may"), "{said}");
    assert!(!at.path().join("out/results").exists());
}
