//! A model that does not predict the text it is run on is said so in the loudest line; sound models are not.

mod common;

use common::{SMALL, assert_same_run, copy_of, output, stderr, succeed};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use std::fs;
use std::path::Path;

/// Changes the bytes of a tensor; `change` gets them and how many a row has.
fn change_tensor(weights: &Path, name: &str, change: impl Fn(&mut [u8], usize)) {
    let bytes = fs::read(weights).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = tensors.tensor(name).unwrap();
    let mut data = tensor.data().to_vec();
    let row = data.len() / tensor.shape()[0];
    change(&mut data, row);
    let changed = TensorView::new(tensor.dtype(), tensor.shape().to_vec(), &data).unwrap();
    let all = tensors.tensors().into_iter().map(|(this, view)| match this == name {
        true => (this, changed.clone()),
        false => (this, view),
    });
    fs::write(weights, safetensors::serialize(all, None).unwrap()).unwrap();
}

/// Gives every token the embedding of the one before it.
fn roll_embedding(weights: &Path, name: &str) {
    change_tensor(weights, name, <[u8]>::rotate_right);
}

fn text_of(run: &Path) -> serde_json::Value {
    let manifest = fs::read_to_string(run.join("manifest.json")).unwrap();
    serde_json::from_str::<serde_json::Value>(&manifest).unwrap()["stages"]["states"]["text"].clone()
}

/// What the report says at its top of the model; that few samples were fitted on is said there too.
fn warnings_of(run: &Path) -> Vec<String> {
    let page = fs::read_to_string(run.join("report.html")).unwrap();
    let data = page.split_once("id=\"data\">").unwrap().1.split_once("</script>").unwrap().0;
    let data: serde_json::Value = serde_json::from_str(data).unwrap();
    let warnings: Vec<String> = serde_json::from_value(data["warnings"].clone()).unwrap();
    warnings.into_iter().filter(|line| line.contains("predicts the tokens")).collect()
}

#[test]
fn bundled_models_predict_their_text() {
    let at = tempfile::tempdir().unwrap();
    for model in ["tiny-gpt2", "tiny-bert"] {
        let run = at.path().join(model);
        let said = output(at.path(), &[&SMALL[..], &["-v", "--model", model, "--out", model]].concat());
        assert!(said.status.success() && !stderr(&said).contains("warning"), "{}", stderr(&said));
        assert!(stderr(&said).contains("by the tokens' frequencies"), "{}", stderr(&said));
        let unigrams = &text_of(&run)["unigrams"];
        let (loss, other) = (unigrams["loss"].as_f64().unwrap(), unigrams["other"].as_f64().unwrap());
        assert!(loss < other - 1.0 && loss > 3.0, "{model}: {unigrams}");
        assert_eq!(warnings_of(&run), Vec::<String>::new());
    }
    // What few samples say is chance.
    succeed(at.path(), &["run", "--train", "6", "--val", "3", "--pairs", "to-final", "--out", "few"]);
    assert!(text_of(&at.path().join("few")).is_null());
}

#[test]
fn a_model_with_its_embedding_rolled_by_one_is_warned_of() {
    let at = tempfile::tempdir().unwrap();
    // So many that the one prediction a sentence of a masked model is firm.
    let run_of_300 = ["run", "--train", "300", "--val", "20", "--pairs", "to-final"];
    let embeddings =
        [("tiny-gpt2", "transformer.wte.weight"), ("tiny-bert", "bert.embeddings.word_embeddings.weight")];
    for (bundled, embedding) in embeddings {
        let (model, run) = (format!("rolled-{bundled}"), at.path().join(bundled));
        roll_embedding(&copy_of(bundled, at.path(), &model).join("model.safetensors"), embedding);
        let args = [&run_of_300[..], &["-q", "--model", &model, "--out", bundled]].concat();
        let said = output(at.path(), &args);
        assert!(said.status.success(), "{}", stderr(&said));
        // Where the states are made, and again below the table.
        let lines: Vec<String> = stderr(&said).lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        let begin = format!(
            "warning: `{model}` predicts the tokens of these samples worse than their frequencies do ("
        );
        assert!(lines.iter().all(|line| line.starts_with(&begin)), "{lines:?}");
        assert!(lines[1].contains("`jumplens doctor "), "{lines:?}");
        let warnings = warnings_of(&run);
        assert_eq!(warnings.len(), 1);
        assert_eq!(format!("warning: {}", warnings[0]), lines[0]);

        // It is known without asking the model again, and does not depend on the threads.
        let again = output(at.path(), &[&args[..], &["--resume"]].concat());
        assert_eq!(stderr(&again).lines().collect::<Vec<_>>(), lines[1..]);
        let other = format!("{bundled}-1");
        let args = [&run_of_300[..], &["-q", "--threads", "1", "--model", &model, "--out", &other]].concat();
        succeed(at.path(), &args);
        assert_eq!(text_of(&run), text_of(&at.path().join(&other)));
        assert_same_run(&run, &at.path().join(&other));
    }
}

#[test]
fn shares_and_bf16_are_warned_of_as_whole_runs_are() {
    let at = tempfile::tempdir().unwrap();
    roll_embedding(
        &copy_of("tiny-gpt2", at.path(), "rolled").join("model.safetensors"),
        "transformer.wte.weight",
    );
    let share = ["-q", "moments", "--train", "120", "--val", "40", "--pairs", "to-final", "--shard", "2/2"];
    let bf16 = [&["-q"], &SMALL[..], &["--dtype", "bf16"]].concat();
    for (number, args) in [&share[..], &bf16].into_iter().enumerate() {
        for (model, warnings) in [("tiny-gpt2", 0), ("rolled", 1)] {
            let out = format!("{model}-{number}");
            let said = output(at.path(), &[args, &["--model", model, "--out", &out]].concat());
            assert!(said.status.success(), "{}", stderr(&said));
            // A run says it once more below its table.
            let lines = stderr(&said).lines().count();
            assert_eq!(lines, warnings * (1 + number), "{}", stderr(&said));
            let unigrams = &text_of(&at.path().join(&out))["unigrams"];
            let (loss, other) = (unigrams["loss"].as_f64().unwrap(), unigrams["other"].as_f64().unwrap());
            assert_eq!(loss > other, warnings == 1, "{unigrams}");
        }
    }
}

#[test]
fn doctor_finds_what_a_run_warns_of() {
    let at = tempfile::tempdir().unwrap();
    let model = copy_of("tiny-gpt2", at.path(), "rolled");
    roll_embedding(&model.join("model.safetensors"), "transformer.wte.weight");
    let said = output(at.path(), &["doctor", "rolled"]);
    assert_eq!(said.status.code(), Some(1));
    let text = String::from_utf8(said.stdout.clone()).unwrap();
    let bad: Vec<&str> = text.lines().filter(|line| line.starts_with("BAD")).collect();
    assert!(bad.len() == 1 && bad[0].contains("prediction"), "{text}");
    assert!(stderr(&said).contains("`rolled` is not sound"), "{}", stderr(&said));
}
