//! The same command gives the same bytes, in one go, stage by stage, and from a copy of the model.

mod common;

use common::{
    SMALL, assert_nothing_partial, assert_same_files, assert_same_run, fail, files, model, output, stderr,
    succeed,
};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn same_command_gives_same_bytes() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    for out in ["a", "b"] {
        succeed(at, &[&SMALL[..], &["--out", out]].concat());
    }
    assert_same_run(&at.join("a"), &at.join("b"));
    assert_nothing_partial(&at.join("a"));
    let results = files(&at.join("a/results"));
    let names: Vec<&str> = results.keys().map(|path| path.to_str().unwrap()).collect();
    let mut tables = vec![
        "early_exit.csv",
        "examples.json",
        "exits.csv",
        "layers.csv",
        "learning_curve.csv",
        "lens.json",
        "predictions.parquet",
    ];
    tables.extend(["r2.csv", "ranks.csv", "sources.csv", "spectra.csv", "summary.json"]);
    assert_eq!(names, tables);
    let parquet = &results[Path::new("predictions.parquet")];
    assert!(parquet.starts_with(b"PAR1") && parquet.ends_with(b"PAR1"));
}

#[test]
fn stage_by_stage_equals_run() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let run = [&SMALL[..], &["--out", "run"]].concat();
    succeed(at, &run);
    succeed(at, &[&["samples"], &run[1..run.len() - 1], &["staged"]].concat());
    for stage in ["states", "fit", "r2", "evaluate", "plot"] {
        succeed(at, &[stage, "--out", "staged"]);
    }
    assert_same_run(&at.join("run"), &at.join("staged"));
    // And from the samples that the run has written, without a corpus.
    let samples = ["--train-samples", "run/samples/train.jsonl", "--val-samples", "run/samples/val.jsonl"];
    succeed(at, &[&["run", "--pairs", "to-final", "--out", "given"], &samples[..]].concat());
    for part in ["samples", "states", "results", "plots"] {
        assert_same_files(&at.join("run").join(part), &at.join("given").join(part));
    }
    // The files of the maps say what they were fitted on, which is a corpus here and a file there.
    let maps = |run: &str| -> BTreeMap<_, _> {
        let files = files(&at.join(run).join("shortcuts")).into_iter();
        files.map(|(path, bytes)| (path, values(&bytes))).collect()
    };
    assert!(maps("run") == maps("given"));
}

/// The bytes of the tensors of a safetensors file, by name.
fn values(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let tensors = SafeTensors::deserialize(bytes).unwrap();
    tensors.iter().map(|(name, view)| (name.to_owned(), view.data().to_vec())).collect()
}

#[test]
fn bf16_is_near_f32_and_is_another_experiment() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let bf16 = ["--dtype", "bf16"];
    succeed(at, &[&SMALL[..], &["--out", "f32"]].concat());
    succeed(at, &[&SMALL[..], &["--out", "bf16"], &bf16].concat());
    let manifest = fs::read_to_string(at.join("bf16/manifest.json")).unwrap();
    assert!(manifest.contains("\"dtype\": \"bf16\""), "{manifest}");
    let surprisals = |run: &str| -> Vec<f64> {
        let text = fs::read_to_string(at.join(run).join("results/layers.csv")).unwrap();
        let (header, rows) = text.split_once('\n').unwrap();
        let column = header.split(',').position(|name| name == "surprisal").unwrap();
        rows.lines().map(|row| row.split(',').nth(column).unwrap().parse().unwrap()).collect()
    };
    let (exact, rounded) = (surprisals("f32"), surprisals("bf16"));
    assert!(exact != rounded && !exact.is_empty());
    // Of a few samples, one that was a near-tie moves a row by a tenth of a nat.
    let distance = exact.iter().zip(&rounded).map(|(a, b)| (a - b).abs()).sum::<f64>() / exact.len() as f64;
    assert!(distance < 0.05, "{distance}");
    // The stages go on in the precision that the run began with, and nothing mixes the two.
    let before = files(&at.join("bf16/results"));
    succeed(at, &["evaluate", "--out", "bf16", "--overwrite"]);
    assert!(files(&at.join("bf16/results")) == before);
    let other = [&SMALL[..], &["--out", "bf16", "--resume", "--dtype", "f32"]].concat();
    fail(at, &other, &["the number format is bf16 in the run in `bf16`, and f32 here"]);
}

#[test]
fn stages_can_be_done_again() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    succeed(at, &[&SMALL[..], &["--out", "run"]].concat());
    let before = files(&at.join("run/results"));
    for stage in ["states", "fit", "r2", "evaluate", "plot"] {
        let again: &[&str] = if stage == "states" { &["--overwrite"] } else { &[] };
        succeed(at, &[&[stage, "--out", "run"], again].concat());
    }
    succeed(at, &["r2", "--out", "run", "--overwrite"]);
    assert!(files(&at.join("run/results")) == before);
}

#[test]
fn folder_with_the_bundled_files_equals_the_bundled_model() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    // Of the same name, which the maps and the lens have of their model.
    fs::create_dir(at.join("copy")).unwrap();
    model(&at.join("copy"), "tiny-gpt2");
    succeed(at, &[&SMALL[..], &["--out", "bundled"]].concat());
    succeed(at, &[&SMALL[..], &["--model", "copy/tiny-gpt2", "--out", "folder"]].concat());
    assert_same_run(&at.join("bundled"), &at.join("folder"));
}

#[test]
fn seed_chooses_the_positions_and_nothing_else() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let samples = |seed: &str| -> Vec<serde_json::Value> {
        succeed(at, &["samples", "--train", "60", "--val", "20", "--seed", seed, "--out", seed]);
        let text = fs::read_to_string(at.join(seed).join("samples/train.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let (zero, one) = (samples("0"), samples("1"));
    assert_eq!(zero.len(), 60);
    for (a, b) in zero.iter().zip(&one) {
        assert_eq!((&a["ids"], &a["text"]), (&b["ids"], &b["text"]));
    }
    let moved = zero.iter().zip(&one).filter(|(a, b)| a["position"] != b["position"]).count();
    assert!(moved > 40, "only {moved} of 60 positions differ");
}

/// Every file of a run or of another folder, but for what differs with the clock and the threads: in the manifest, which the
/// report has inside.
fn timeless(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn strip(value: &mut serde_json::Value) {
        if let Some(fields) = value.as_object_mut() {
            ["seconds", "tokens_per_second", "threads", jumplens::seal::KEY]
                .iter()
                .for_each(|name| drop(fields.remove(*name)));
            fields.values_mut().for_each(strip);
        }
    }
    let stripped = |text: &str| {
        let mut value: serde_json::Value = serde_json::from_str(text).unwrap();
        strip(&mut value);
        if let Some(manifest) = value.get_mut("manifest") {
            strip(manifest);
        }
        value.to_string()
    };
    let mut all = files(folder);
    all.remove(Path::new(".lock"));
    for (path, bytes) in &mut all {
        let text = || String::from_utf8(bytes.clone()).unwrap();
        if path.ends_with("manifest.json") {
            *bytes = stripped(&text()).into_bytes();
        } else if path.ends_with("report.html") {
            let text = text();
            let (before, rest) = text.split_once("id=\"data\">").unwrap();
            let (data, after) = rest.split_once("</script>").unwrap();
            *bytes = [before, &stripped(data), after].concat().into_bytes();
        }
    }
    all
}

#[track_caller]
fn assert_same_folder(a: &Path, b: &Path) {
    let (left, right) = (timeless(a), timeless(b));
    assert!(left.contains_key(Path::new("manifest.json")), "{}", a.display());
    assert_eq!(left.keys().collect::<Vec<_>>(), right.keys().collect::<Vec<_>>());
    for (name, bytes) in &left {
        assert!(*bytes == right[name], "{} differs in {} and {}", name.display(), a.display(), b.display());
    }
}

#[test]
fn threads_change_no_byte() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let bert = ["--model", "tiny-bert"];
    let fits = ["--intercept", "--ridge", "auto", "--rank", "16"];
    let positions = ["--positions", "3", "--skip-first", "1"];
    for (name, options) in [
        ("causal", &fits[..]),
        ("positions", &positions),
        ("bf16", &["--dtype", "bf16"]),
        // Its normed states are next to singular, so that maps come from decompositions.
        ("masked", &bert),
        ("masked-biased", &[&bert[..], &["--intercept", "--ridge", "0.5", "--rank", "16"]].concat()),
        ("masked-bf16-positions", &[&bert[..], &positions, &["--dtype", "bf16", "--no-mask"]].concat()),
        // More rows than one piece of sums has.
        ("more", &["--train", "600", "--val", "130", "--pairs", "to-final", "--ridge", "auto"]),
    ] {
        let run = |threads: &str| {
            let out = format!("{name}-{threads}");
            let small = if name == "more" { &SMALL[..1] } else { &SMALL };
            succeed(at, &[small, options, &["--threads", threads, "--out", &out]].concat());
            at.join(out)
        };
        let one = run("1");
        let others = if ["causal", "masked"].contains(&name) { &["2", "3", "5"][..] } else { &["3"] };
        for threads in others {
            assert_same_folder(&one, &run(threads));
        }
    }
}

/// As for runs: shares, their sum, and what is fitted from it.
#[test]
fn threads_change_no_byte_of_sums() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    for (model, options) in [
        ("tiny-bert", &[][..]),
        ("tiny-gpt2", &["--pairs", "to-final", "--positions", "2", "--dtype", "bf16"]),
    ] {
        let made = |threads: &str| {
            let name = |part: &str| format!("{model}-{threads}-{part}");
            let begin =
                ["-q", "moments", "--model", model, "--train", "300", "--val", "60", "--threads", threads];
            for share in ["1/2", "2/2"] {
                let out = name(&share.replace('/', "of"));
                succeed(at, &[&begin[..], options, &["--shard", share, "--out", &out]].concat());
            }
            let shares = ["2of2", "1of2"].map(|share| format!("{}/moments.safetensors", name(share)));
            let sums = name("sums");
            succeed(at, &["-q", "merge", &shares[0], &shares[1], "--threads", threads, "--out", &sums]);
            let fit = ["-q", "fit", "--ridge", "auto", "--rank", "16", "--intercept", "--threads", threads];
            succeed(at, &[&fit[..], &["--moments", &sums, "--out", &name("fitted")]].concat());
            (["1of2", "2of2", "fitted"].map(|part| at.join(name(part))), at.join(sums))
        };
        let (folders, sums) = made("1");
        for threads in ["2", "5"] {
            let (others, other_sums) = made(threads);
            folders.iter().zip(&others).for_each(|(one, other)| assert_same_folder(one, other));
            let same = fs::read(&sums).unwrap() == fs::read(&other_sums).unwrap();
            assert!(same, "the sums of {model} differ on {threads} threads");
        }
    }
}

/// The tensors of a safetensors file.
fn tensors(path: &Path) -> Vec<String> {
    let bytes = fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    header.into_keys().filter(|name| name != "__metadata__").collect()
}

#[test]
fn pairs_say_which_maps_are_written() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let counts = ["--train", "60", "--val", "20", "--out", "out"];
    succeed(at, &[&["samples"], &counts[..]].concat());
    succeed(at, &["states", "--out", "out"]);
    let map = |from: usize| at.join(format!("out/shortcuts/{from:02}.safetensors"));
    succeed(at, &["fit", "--out", "out"]);
    for from in 0..12 {
        let all: Vec<String> = (from + 1..=12).map(|to| format!("{from:02}_{to:02}")).collect();
        assert_eq!(tensors(&map(from)), all);
    }
    succeed(at, &["fit", "--pairs", "to-final", "--out", "out", "--overwrite"]);
    for from in 0..12 {
        assert_eq!(tensors(&map(from)), [format!("{from:02}_12")]);
        let parts = at.join(format!("out/shortcuts/parts/{from:02}.safetensors"));
        assert_eq!(tensors(&parts), ["attn", "ffn", "ln1", "ln2", "res1", "res2"]);
    }
}

#[test]
fn a_cast_that_overflows_is_named_and_counts_as_a_miss() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    succeed(at, &[&SMALL[..], &["--out", "run"]].concat());
    // The map of the last block's first norm, 10³⁸ times as large: infinite before the block ends.
    fs::rename(at.join("run/shortcuts"), at.join("maps")).unwrap();
    let path = at.join("maps/parts/11.safetensors");
    let bytes = fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut data: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, view)| (name.to_owned(), view.shape().to_vec(), view.data().to_vec()))
        .collect();
    for (_, _, data) in data.iter_mut().filter(|(name, ..)| name == "ln1") {
        for value in data.as_chunks_mut::<4>().0 {
            *value = (f32::from_le_bytes(*value) * 1e38).to_le_bytes();
        }
    }
    let views = data
        .iter()
        .map(|(name, shape, data)| (name, TensorView::new(Dtype::F32, shape.clone(), data).unwrap()));
    fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();

    let output = output(at, &["evaluate", "--out", "run", "--shortcuts", "maps", "--overwrite"]);
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("`mat_ln1_ln2`") && said.contains("from layers 0 to 11"), "{said}");
    let layers = fs::read_to_string(at.join("run/results/layers.csv")).unwrap();
    let row = layers.lines().find(|row| row.starts_with("mat_ln1_ln2,0,")).unwrap();
    assert!(row.starts_with("mat_ln1_ln2,0,0.0,0.0,0.0,NaN,NaN,"), "{row}");
    assert!(layers.lines().filter(|row| !row.starts_with("mat_ln1_ln2")).all(|row| !row.contains("NaN")));
    succeed(at, &["plot", "--out", "run"]);
    // What is drawn has a place on the page; the values beside it are the table's.
    let figure = fs::read_to_string(at.join("run/plots/submodules.svg")).unwrap();
    let (values, drawn): (Vec<&str>, Vec<&str>) =
        figure.lines().partition(|line| line.starts_with("<g data-"));
    assert!(values.iter().any(|line| line.contains("NaN")) && !drawn.iter().any(|line| line.contains("NaN")));
}
