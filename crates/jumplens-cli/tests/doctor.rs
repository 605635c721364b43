//! `jumplens doctor` finds models sound that are, and says what is wrong with one that is not.

mod common;

use common::{fail, model, output, overflow, stderr, succeed};

#[test]
fn bundled_models_are_sound() {
    let at = tempfile::tempdir().unwrap();
    for (name, tokenizer) in [("tiny-gpt2", "nothing before a sentence"), ("tiny-bert", "[CLS] and [SEP]")] {
        let said = succeed(at.path(), &["doctor", name]);
        assert!(!said.contains("BAD") && said.contains(tokenizer), "{said}");
        let of_text: &[&str] = match name {
            "tiny-gpt2" => &["prediction", "context", "by position", "order", "copying", "bos"],
            _ => &["prediction", "order"],
        };
        for line in said.lines().filter(|line| line.contains("by position")) {
            assert!(line.starts_with("ok"), "{line}");
        }
        let of_states = ["tensors", "kernels", "head", "states", "identity", "coordinates", "positions"];
        for about in of_states.iter().chain(of_text) {
            assert!(said.lines().any(|line| line.contains(about)), "nothing about {about} in: {said}");
        }
    }
}

#[test]
fn a_model_whose_states_overflow_is_not() {
    let at = tempfile::tempdir().unwrap();
    overflow(&model(at.path(), "m").join("model.safetensors"));
    let said = output(at.path(), &["doctor", "m"]);
    assert_eq!(said.status.code(), Some(1));
    let text = String::from_utf8(said.stdout.clone()).unwrap();
    assert!(text.lines().any(|line| line.starts_with("BAD") && line.contains("not finite")), "{text}");
    assert!(stderr(&said).contains("error: `m` is not sound"), "{}", stderr(&said));
    fail(at.path(), &["doctor", "nowhere"], &["`nowhere`", "HF_HUB_OFFLINE"]);
}
