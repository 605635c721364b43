//! Models with fewer blocks: what is written is whole, or nothing that loads, and the same in every form.

mod common;

use common::{copy_of, edit, fail, files, signal, start, succeed};
use jumplens::batch::PackedBatch;
use jumplens::hub::{ModelFiles, Sources};
use jumplens::models::load;
use jumplens::nn::Precision;
use jumplens::progress::Silent;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::{Dtype, TensorView};
use std::fs;
use std::path::{Path, PathBuf};
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

/// A random Llama of four blocks in the folder `name`, what its feed-forward parts put out multiplied by `feed_forward`, and what
/// `zeroed` names, such as `2.attn`, by 0.
fn llama(at: &Path, name: &str, feed_forward: f32, zeroed: &str) -> PathBuf {
    let folder = copy_of("tiny-gpt2", at, name);
    let config = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 4128, "hidden_size": 32,
        "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "tie_word_embeddings": true}"#;
    fs::write(folder.join("config.json"), config).unwrap();
    let mut tensors =
        vec![("model.embed_tokens".to_owned(), vec![4128, 32]), ("model.norm".to_owned(), vec![32])];
    for block in 0..4 {
        let of_block: [(&str, &[usize]); 9] = [
            ("input_layernorm", &[32]),
            ("self_attn.q_proj", &[32, 32]),
            ("self_attn.k_proj", &[16, 32]),
            ("self_attn.v_proj", &[16, 32]),
            ("self_attn.o_proj", &[32, 32]),
            ("post_attention_layernorm", &[32]),
            ("mlp.gate_proj", &[48, 32]),
            ("mlp.up_proj", &[48, 32]),
            ("mlp.down_proj", &[32, 48]),
        ];
        let named =
            |(name, shape): (&str, &[usize])| (format!("model.layers.{block}.{name}"), shape.to_vec());
        tensors.extend(of_block.map(named));
    }
    let gone: Vec<String> = zeroed
        .split_whitespace()
        .flat_map(|what| {
            let (block, part) = what.split_once('.').unwrap_or((what, ""));
            let path = |layer: &str| format!("model.layers.{}.{layer}", block.parse::<usize>().unwrap() - 1);
            let (attention, feed_forward) = (path("self_attn.o_proj"), path("mlp.down_proj"));
            match part {
                "attn" => vec![attention],
                "ffn" => vec![feed_forward],
                _ => vec![attention, feed_forward],
            }
        })
        .collect();
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut bytes = Vec::new();
    for (name, shape) in &tensors {
        let count: usize = shape.iter().product();
        let center = if shape.len() == 1 { 1.0 } else { 0.0 };
        let factor = match name {
            _ if gone.contains(name) => 0.0,
            _ if name.ends_with("down_proj") => feed_forward,
            _ => 1.0,
        };
        let value = |_| (center + rng.random_range(-0.3f32..0.3)) * factor;
        bytes.push((0..count).map(value).flat_map(f32::to_le_bytes).collect::<Vec<u8>>());
    }
    let views = tensors.iter().zip(&bytes).map(|((name, shape), bytes)| {
        (format!("{name}.weight"), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    fs::write(folder.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    folder
}

/// The column of a table's lines that begin with `model`.
fn column(table: &Path, model: &str, name: &str) -> Vec<String> {
    let text = fs::read_to_string(table).unwrap();
    let at = text.lines().next().unwrap().split(',').position(|head| head == name).unwrap();
    let lines = text.lines().filter(|line| line.starts_with(&format!("{model},")));
    lines.map(|line| line.split(',').nth(at).unwrap().to_owned()).collect()
}

#[test]
fn sub_modules_are_left_out_as_if_they_added_nothing() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let mut kinds = String::new();
    for (feed_forward, count, out) in [(1.0, "2", "two"), (8.0, "2", "strong"), (1.0, "4", "four")] {
        let (file, whole) = (format!("{out}.gguf"), format!("{out}-whole"));
        llama(at, &whole, feed_forward, "");
        prune(at, &[&whole, "--parts", count, "--form", "drop", "--weights", "f32", "--out", &file]);
        let removed = column(&at.join(format!("{out}.csv")), "chosen", "removed").remove(0);
        kinds.push_str(&removed);
        let zeroed = llama(at, out, feed_forward, &removed);
        let ((a, _), (b, _)) = (logits(&at.join(&file)), logits(&zeroed));
        let scale = b.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        let off = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off <= 1e-5 * scale, "{removed}: {off} of {scale}");
    }
    assert!(kinds.contains("attn") && kinds.contains("ffn"), "{kinds}");
    // What stands behind is fitted again and makes up for it, and what is written can be made smaller again and is read by everything else.
    let fitted = ["strong-whole", "--parts", "3", "--compare", "--weights", "f32", "--out", "fitted.gguf"];
    prune(at, &fitted);
    let kl = |model: &str| column(&at.join("fitted.csv"), model, "kl")[0].parse::<f64>().unwrap();
    assert!(kl("chosen") < 0.95 * kl("dropped"), "{} {}", kl("chosen"), kl("dropped"));
    prune(at, &["strong.gguf", "--parts", "1", "--form", "drop", "--out", "five.gguf"]);
    // What is not there any more is not taken out again.
    let (first, second) = (
        column(&at.join("strong.csv"), "chosen", "removed"),
        column(&at.join("five.csv"), "chosen", "removed"),
    );
    assert!(
        !second[0].is_empty() && !first[0].split(' ').any(|part| part == second[0]),
        "{first:?} {second:?}"
    );
    prune(at, &["two.gguf", "--parts", "1", "--form", "drop", "--out", "two-less.gguf"]);
    let (first, second) = (
        column(&at.join("two.csv"), "chosen", "removed"),
        column(&at.join("two-less.csv"), "chosen", "removed"),
    );
    assert!(
        !second[0].is_empty() && !first[0].split(' ').any(|part| part == second[0]),
        "{first:?} {second:?}"
    );
    prune(at, &["strong.gguf", "--blocks", "1", "--form", "drop", "--out", "less.gguf"]);
    assert_eq!(logits(&at.join("less.gguf")).1 + 1, logits(&at.join("strong.gguf")).1);
    succeed(at, &["-q", "lens", "--model", "five.gguf", "The capital of France is"]);
    succeed(at, &["-q", "run", "--model", "strong.gguf", "--train", "80", "--val", "20", "--out", "run"]);
    let lenses = ["fit", "--lens", "jacobian", "--model", "strong.gguf", "--prompts", "2", "--out", "lenses"];
    fail(at, &lenses, &["without an attention"]);
    // A map in the place of an attention is better than nothing, and a file that has some is the model that was measured.
    let linear = ["strong-whole", "--parts", "2", "--form", "drop", "--linear-attention", "--compare"];
    common::write_short_samples(&at.join("ids.jsonl"), 300);
    let samples = ["--train-samples", "ids.jsonl", "--val-samples", "ids.jsonl", "--weights", "f32", "--out"];
    succeed(at, &[&["-q", "prune"], &linear[..], &samples, &["linear.gguf"]].concat());
    let of = |table: &str, model: &str, name: &str| {
        column(&at.join(table), model, name)[0].parse::<f64>().unwrap()
    };
    assert!(of("linear.csv", "chosen", "kl") < 0.95 * of("linear.csv", "dropped", "kl"));
    let more = of("linear.csv", "chosen", "parameters") - of("linear.csv", "dropped", "parameters");
    assert_eq!(more, 2.0 * (32.0 * 32.0 + 32.0));
    let less = ["-q", "prune", "linear.gguf", "--parts", "1"];
    succeed(at, &[&less[..], &samples, &["linear-less.gguf"]].concat());
    let (own, read) =
        (of("linear.csv", "chosen", "perplexity"), of("linear-less.csv", "whole", "perplexity"));
    assert!((own - read).abs() < 1e-5 * own, "{own} {read}");
    logits(&at.join("linear-less.gguf"));
    let folder = ["prune", "strong.gguf", "--blocks", "1", "--out", "folder"];
    fail(at, &[&folder[..], &SMALL].concat(), &["write a GGUF file"]);
}

#[test]
fn other_sizes_are_measured_beside_the_one_that_is_written() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    prune(at, &["tiny-gpt2", "--blocks", "2", "--out", "one"]);
    prune(at, &["tiny-gpt2", "--blocks", "2", "--sizes", "3,1", "--compare", "--out", "all"]);
    let chosen = |out: &str, name: &str| column(&at.join(out).join("prune.csv"), "chosen", name);
    assert_eq!(chosen("all", "blocks"), ["10", "11", "9"]);
    for name in ["removed", "perplexity", "kl_hi", "loss_beyond_whole"] {
        assert_eq!(chosen("all", name)[0], chosen("one", name)[0]);
    }
    assert_eq!(column(&at.join("all/prune.csv"), "whole", "blocks"), ["12"]);
    assert_eq!(fs::read_to_string(at.join("all/prune.csv")).unwrap().lines().count(), 1 + 1 + 3 * 5);
    assert_eq!(
        fs::read(at.join("one/model.safetensors")).unwrap(),
        fs::read(at.join("all/model.safetensors")).unwrap()
    );
    assert!(!at.join("one/figures").exists());
    let svg = fs::read_to_string(at.join("all/figures/prune.svg")).unwrap();
    assert_eq!(svg.matches("data-curve=\"chosen\"").count(), 2);
    assert!(at.join("all/figures/prune.pdf").exists() && at.join("all/figures/prune.png").exists());
    assert!(fs::read_to_string(at.join("all/README.md")).unwrap().contains("(figures/prune.png)"));
    prune(at, &["tiny-gpt2", "--blocks", "2", "--sizes", "1", "--form", "drop", "--out", "file.gguf"]);
    assert!(["csv", "svg", "pdf", "png", "md"].iter().all(|it| at.join(format!("file.{it}")).exists()));
}

#[test]
fn what_cannot_be_done_is_said() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let no = |args: &[&str], says: &[&str]| fail(at, &[&["prune"], args, &SMALL[..]].concat(), says);
    no(&["tiny-gpt2", "--blocks", "12", "--out", "a"], &["from 1 to 11"]);
    no(&["tiny-gpt2", "--out", "a"], &["--blocks"]);
    no(&["tiny-gpt2", "--blocks", "1", "--sizes", "2,12", "--out", "a"], &["12 blocks", "from 1 to 11"]);
    no(&["tiny-gpt2", "--parts", "1", "--out", "a"], &["--out NAME.gguf"]);
    no(&["tiny-gpt2", "--parts", "1", "--out", "a.gguf"], &["`deci`", "take out blocks"]);
    llama(at, "llama", 1.0, "");
    no(&["llama", "--parts", "7", "--out", "a.gguf"], &["from 1 to 6"]);
    no(&["llama", "--parts", "1", "--form", "fold", "--out", "a.gguf"], &["`refit` or `drop`"]);
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
