//! What has to hold whatever the weights are.

mod common;

use candle_core::Tensor;
use common::{Checkpoint, HIDDEN, LAYERS, WIDTH, write_samples};
use jumplens::Error;
use jumplens::batch::PackedBatch;
use jumplens::eval::tables::{LayerRow, read_csv};
use jumplens::hub::{ModelFiles, Sources};
use jumplens::models::{Slot, Transformer, load};
use jumplens::nn::{Linear, Precision};
use jumplens::progress::{Observer, Silent};
use jumplens::run::{Existing, Run, SampleSource, Settings};
use jumplens::runner::{BlockRun, Context, Plan, Rows};
use jumplens::shortcut::{Fits, LinearMap, Pairs};
use jumplens::states::run_samples;
use jumplens::tokenize::read_samples;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn begin(folder: &Path, out: &str, existing: Existing) -> jumplens::Result<Run> {
    let samples = SampleSource::Files { train: folder.join("train.jsonl"), val: folder.join("val.jsonl") };
    let model = folder.join("model").to_str().unwrap().to_owned();
    let settings = Settings {
        model,
        samples,
        seed: 3,
        fits: Fits::plain(Pairs::All),
        dtype: Precision::F32,
        shard: None,
    };
    Run::begin(&folder.join(out), &settings, existing, &Sources::default(), &Silent)
}

fn layers(run: &Run) -> Vec<LayerRow> {
    read_csv(&run.folder().join("results/layers.csv")).unwrap()
}

/// The two families: pre-norm and causal, post-norm and masked.
const FAMILIES: [fn(u64) -> Checkpoint; 2] = [Checkpoint::random, Checkpoint::random_bert];

fn open(checkpoint: &Checkpoint, folder: &Path) -> Transformer {
    checkpoint.write(&folder.join("model"));
    let files =
        ModelFiles::find(folder.join("model").to_str().unwrap(), &Sources::default(), &Silent).unwrap();
    load(&files, Precision::F32).unwrap().model
}

#[test]
fn packed_equals_single() {
    let folder = tempfile::tempdir().unwrap();
    for family in FAMILIES {
        let model = open(&family(2), folder.path());
        write_samples(&folder.path().join("samples.jsonl"), 200, 5, false);
        let samples = read_samples(&folder.path().join("samples.jsonl"), model.spec()).unwrap();
        let packed = run_samples(&model, &samples, true).unwrap();
        for (i, sample) in samples.iter().enumerate() {
            let single = run_samples(&model, std::slice::from_ref(sample), true).unwrap();
            let layers = packed.layers.iter().zip(&single.layers);
            for (packed, single) in layers.chain(packed.attention.iter().zip(&single.attention)) {
                for (a, b) in packed[i * WIDTH..][..WIDTH].iter().zip(single) {
                    assert!((a - b).abs() <= 4e-6 * b.abs().max(1.0), "sample {i}: {a} against {b}");
                }
            }
        }
    }
}

/// A run on a model that has a linear part, so that its map can take its place exactly.
fn run_linear(checkpoint: &Checkpoint, single: bool) -> Vec<LayerRow> {
    let folder = tempfile::tempdir().unwrap();
    checkpoint.write(&folder.path().join("model"));
    write_samples(&folder.path().join("train.jsonl"), 300, 6, single);
    write_samples(&folder.path().join("val.jsonl"), 50, 7, single);
    let mut run = begin(folder.path(), "run", Existing::Refuse).unwrap();
    run.all(&Silent).unwrap();
    layers(&run)
}

#[track_caller]
fn assert_exact(rows: &[LayerRow], mapping: &str) {
    for layer in 0..=LAYERS {
        let row = rows.iter().find(|row| row.mapping.name() == mapping && row.layer == layer).unwrap();
        assert!(row.kl < 1e-6 && row.precision_1 == 1.0, "{mapping} from {layer}: KL {}", row.kl);
    }
    let other = rows.iter().find(|row| row.mapping.name() == "id" && row.layer == 0).unwrap();
    assert!(other.kl > 1e-3, "the test could not fail: id from 0 is as good");
}

#[test]
fn replacing_a_linear_feed_forward_by_its_map_changes_nothing() {
    assert_eq!(HIDDEN, 2 * WIDTH);
    let one = |a: usize, b: usize| if a % WIDTH == b % WIDTH { 1.0 } else { 0.0 };
    let sign = |hidden: usize| if hidden < WIDTH { 1.0 } else { -1.0 };
    // relu(x) − relu(−x) = x; the weights are [in, out] in GPT-2, [out, in] in BERT.
    let mut gpt2 = Checkpoint::random(4);
    let mut bert = Checkpoint::random_bert(4);
    for layer in 0..LAYERS {
        gpt2.set(&format!("h.{layer}.mlp.c_fc.weight"), |i, j| one(i, j) * sign(j));
        gpt2.set(&format!("h.{layer}.mlp.c_proj.weight"), |i, j| one(i, j) * sign(i));
        gpt2.set(&format!("h.{layer}.mlp.c_fc.bias"), |_, _| 0.0);
        gpt2.set(&format!("h.{layer}.mlp.c_proj.bias"), |_, _| 0.0);
        let at = format!("bert.encoder.layer.{layer}");
        bert.set(&format!("{at}.intermediate.dense.weight"), |i, j| one(i, j) * sign(i));
        bert.set(&format!("{at}.output.dense.weight"), |i, j| one(i, j) * sign(j));
        bert.set(&format!("{at}.intermediate.dense.bias"), |_, _| 0.0);
        bert.set(&format!("{at}.output.dense.bias"), |_, _| 0.0);
    }
    assert_exact(&run_linear(&gpt2, false), "mat_ffn");
    assert_exact(&run_linear(&bert, false), "mat_ffn");
}

#[test]
fn replacing_attention_over_single_tokens_by_its_map_changes_nothing() {
    // A token that sees only itself gets its own value, which is linear where there are no biases.
    let mut gpt2 = Checkpoint::random(4);
    let mut bert = Checkpoint::random_bert(4);
    for layer in 0..LAYERS {
        gpt2.set(&format!("h.{layer}.attn.c_attn.bias"), |_, _| 0.0);
        gpt2.set(&format!("h.{layer}.attn.c_proj.bias"), |_, _| 0.0);
        for name in ["self.value", "output.dense"] {
            bert.set(&format!("bert.encoder.layer.{layer}.attention.{name}.bias"), |_, _| 0.0);
        }
    }
    assert_exact(&run_linear(&gpt2, true), "mat_attn");
    assert_exact(&run_linear(&bert, true), "mat_attn");
}

/// A map from one part's input to its output that has nothing to do with it.
fn some_map(layer: usize, part: usize) -> LinearMap {
    let entry = |i: usize| ((i * 7 + layer * 3 + part) as f32).sin() / 4.0;
    LinearMap::from_rows((0..WIDTH * WIDTH).map(entry).collect(), WIDTH, WIDTH).unwrap()
}

#[test]
fn in_masked_models_a_map_takes_a_parts_place_at_the_chosen_position_alone() {
    let folder = tempfile::tempdir().unwrap();
    let model = open(&Checkpoint::random_bert(2), folder.path());
    let spec = model.spec();
    write_samples(&folder.path().join("samples.jsonl"), 9, 5, false);
    let samples = read_samples(&folder.path().join("samples.jsonl"), spec).unwrap();
    let batch = PackedBatch::pack(&samples, spec.kind, 1000).remove(0);
    let context = Context::new(&batch, spec.kind, 1);
    let every = batch.every_row(spec.kind);
    for replaced in [&["attn"][..], &["ffn"], &["ln1", "ln2"], &["res1", "attn"]] {
        let is_replaced = |part: usize| replaced.contains(&spec.parts[part].name);
        let plan =
            Plan::new(&model, &[], |layer, part| is_replaced(part).then(|| some_map(layer, part))).unwrap();
        let before = plan.rows_before(0);
        let x = model.embed(&batch).unwrap();
        let mut planned = if before == Rows::Every { x.clone() } else { context.select(&x).unwrap() };
        // Every part at every row, and then the map's rows written over the part's where a position is chosen.
        let mut plain = x;
        for layer in 0..LAYERS {
            planned = BlockRun::new(&model, layer, plan.block(layer), planned, &context).finish().unwrap();
            let mut outputs: Vec<Tensor> = Vec::new();
            for (index, part) in spec.parts.iter().enumerate() {
                let value = |slot: Slot| match slot {
                    Slot::BlockInput => plain.clone(),
                    Slot::Part(earlier) => outputs[earlier].clone(),
                };
                let inputs: Vec<Tensor> = part.inputs.iter().map(|slot| value(*slot)).collect();
                let module = model.module(layer, index);
                let output = match module.attention() {
                    Some(attention) => {
                        let (keys, values) = attention.keys_values(&inputs[0], &every).unwrap();
                        attention.attend(&inputs[0], &every, (&keys, &values)).unwrap()
                    }
                    None => module.forward(&inputs.iter().collect::<Vec<_>>()).unwrap(),
                };
                let mut rows = output.to_vec2::<f32>().unwrap();
                if is_replaced(index) {
                    let map = Linear::of_map(&some_map(layer, index));
                    let mapped = map.forward(&value(part.map_input())).unwrap().to_vec2::<f32>().unwrap();
                    batch.chosen.iter().for_each(|row| rows[*row as usize] = mapped[*row as usize].clone());
                }
                outputs.push(Tensor::new(rows, &candle_core::Device::Cpu).unwrap());
            }
            plain = outputs.pop().unwrap();
        }
        let plain = context.select(&plain).unwrap().to_vec2::<f32>().unwrap();
        let planned = planned.to_vec2::<f32>().unwrap();
        assert_eq!(planned.len(), samples.len());
        for (a, b) in planned.iter().flatten().zip(plain.iter().flatten()) {
            assert!((a - b).abs() <= 2e-5 * b.abs().max(1.0), "{replaced:?}: {a} against {b}");
        }
        // Attention that is replaced wherever its output counts leaves nothing that looks at other positions.
        assert_eq!(before, if is_replaced(0) { Rows::Chosen } else { Rows::Every });
    }
}

/// All files below a folder but the manifest, whose times differ.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            // The manifest has times in it, and the report has the manifest.
            } else if !["manifest.json", "report.html"].contains(&path.file_name().unwrap().to_str().unwrap())
            {
                files.insert(path.strip_prefix(folder).unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// Wants to stop once it was asked that often.
struct StopAfter(Cell<u32>);

impl Observer for StopAfter {
    fn cancelled(&self) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        left == 0
    }
}

#[test]
fn resume_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    Checkpoint::random(5).write(&folder.path().join("model"));
    // More than one chunk in both splits.
    write_samples(&folder.path().join("train.jsonl"), 2500, 8, false);
    write_samples(&folder.path().join("val.jsonl"), 1100, 9, false);
    let mut straight = begin(folder.path(), "straight", Existing::Refuse).unwrap();
    straight.all(&Silent).unwrap();
    let want = contents(straight.folder());
    assert!(want.keys().all(|path| path.extension().is_none_or(|e| e != "part")));

    let mut stops = 0;
    for patience in [0, 4, 9, 15, 20, 26, 31, 36, 41, 46] {
        let out = format!("stopped-{patience}");
        let mut run = begin(folder.path(), &out, Existing::Refuse).unwrap();
        match run.all(&StopAfter(Cell::new(patience))) {
            Err(Error::Interrupted) => stops += 1,
            other => other.unwrap(),
        }
        drop(run);
        begin(folder.path(), &out, Existing::Resume).unwrap().all(&Silent).unwrap();
        let got = contents(&folder.path().join(&out));
        assert_eq!(
            got.keys().collect::<Vec<_>>(),
            want.keys().collect::<Vec<_>>(),
            "stopped after {patience}"
        );
        for (path, bytes) in &got {
            assert!(bytes == &want[path], "{} differs after a stop at {patience}", path.display());
        }
    }
    assert!(stops >= 8, "only {stops} of the runs were stopped");
}

#[test]
fn a_run_is_not_overwritten_unasked_and_not_taken_for_another() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    Checkpoint::random(5).write(&model);
    write_samples(&folder.path().join("train.jsonl"), 60, 8, false);
    write_samples(&folder.path().join("val.jsonl"), 20, 9, false);
    begin(folder.path(), "run", Existing::Refuse).unwrap().all(&Silent).unwrap();
    let before = contents(&folder.path().join("run"));
    assert!(matches!(begin(folder.path(), "run", Existing::Refuse), Err(Error::Occupied { .. })));
    Checkpoint::random(6).write(&model);
    assert!(matches!(begin(folder.path(), "run", Existing::Resume), Err(Error::Changed { .. })));
    let out = folder.path().join("run");
    assert!(matches!(Run::open(&out, &Sources::default(), &Silent), Err(Error::Changed { .. })));
    assert_eq!(before, contents(&out));
    // A new run that cannot begin costs nothing either.
    std::fs::write(folder.path().join("val.jsonl"), "").unwrap();
    assert!(matches!(begin(folder.path(), "run", Existing::Overwrite), Err(Error::EmptyCorpus { .. })));
    assert_eq!(before, contents(&out));
    write_samples(&folder.path().join("val.jsonl"), 20, 9, false);
    begin(folder.path(), "run", Existing::Overwrite).unwrap();
    assert!(contents(&out).len() < before.len());
}

#[test]
fn a_state_that_is_not_finite_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut checkpoint = Checkpoint::random(5);
    // Each is finite, their sum is not.
    for layer in [0, 1] {
        checkpoint.set(&format!("h.{layer}.mlp.c_proj.bias"), |_, j| if j == 4 { 3e38 } else { 0.0 });
    }
    checkpoint.write(&folder.path().join("model"));
    write_samples(&folder.path().join("train.jsonl"), 60, 8, false);
    write_samples(&folder.path().join("val.jsonl"), 20, 9, false);
    let mut run = begin(folder.path(), "run", Existing::Refuse).unwrap();
    let Err(Error::NotFinite { split, layer, sample, coordinate, .. }) = run.states(&Silent) else {
        panic!("not found")
    };
    assert_eq!((split, layer, sample, coordinate), ("train", 2, 0, 4));
}

/// Samples of sentences with several positions each, those of one sentence next to one another, or as far apart as can be.
fn write_positions(path: &Path, n: usize, seed: u64, together: bool) {
    write_samples(path, n, seed, false);
    let text = std::fs::read_to_string(path).unwrap();
    let mut samples: Vec<(usize, serde_json::Value)> = Vec::new();
    for line in text.lines() {
        let sample: serde_json::Value = serde_json::from_str(line).unwrap();
        let length = sample["ids"].as_array().unwrap().len();
        for (round, position) in (0..length).step_by(2).enumerate() {
            samples.push((round, serde_json::json!({ "ids": sample["ids"], "position": position })));
        }
    }
    if !together {
        samples.sort_by_key(|(round, _)| *round);
    }
    std::fs::write(path, samples.iter().map(|(_, sample)| format!("{sample}\n")).collect::<String>())
        .unwrap();
}

#[test]
fn positions_of_one_sentence_share_a_pass_and_nothing_else_changes() {
    for family in FAMILIES {
        let folder = tempfile::tempdir().unwrap();
        let model = open(&family(2), folder.path());
        let path = folder.path().join("samples.jsonl");
        write_positions(&path, 40, 5, true);
        let samples = read_samples(&path, model.spec()).unwrap();
        let shared = run_samples(&model, &samples, true).unwrap();
        let mut alone = 0;
        for (i, sample) in samples.iter().enumerate() {
            let single = run_samples(&model, std::slice::from_ref(sample), true).unwrap();
            alone += single.tokens;
            let layers = shared.layers.iter().zip(&single.layers);
            for (shared, single) in layers.chain(shared.attention.iter().zip(&single.attention)) {
                for (a, b) in shared[i * WIDTH..][..WIDTH].iter().zip(single) {
                    assert!((a - b).abs() <= 4e-6 * b.abs().max(1.0), "sample {i}: {a} against {b}");
                }
            }
        }
        assert!(shared.tokens * 2 < alone, "{} of {alone} tokens", shared.tokens);
    }
}

#[test]
fn every_cast_predicts_the_same_whether_positions_share_a_pass_or_not() {
    for family in FAMILIES {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        family(2).write(&at.join("model"));
        write_samples(&at.join("train.jsonl"), 150, 7, false);
        let rows = [true, false].map(|together| {
            write_positions(&at.join("val.jsonl"), 30, 8, together);
            let out = if together { "together" } else { "apart" };
            let mut run = begin(at, out, Existing::Refuse).unwrap();
            run.all(&Silent).unwrap();
            layers(&run)
        });
        assert!(!rows[0].is_empty() && rows[0].len() == rows[1].len());
        for (together, apart) in rows[0].iter().zip(&rows[1]) {
            let figures =
                |row: &LayerRow| [row.precision_1, row.precision_5, row.precision_10, row.surprisal, row.kl];
            for (a, b) in figures(together).into_iter().zip(figures(apart)) {
                assert!((a - b).abs() < 1e-5, "{together:?}\n{apart:?}");
            }
        }
    }
}
