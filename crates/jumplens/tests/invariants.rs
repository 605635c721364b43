//! What has to hold whatever the weights are.

mod common;

use common::{Checkpoint, HIDDEN, LAYERS, WIDTH, write_samples};
use jumplens::Error;
use jumplens::eval::tables::{LayerRow, read_csv};
use jumplens::hub::{Bundled, ModelFiles};
use jumplens::models::load;
use jumplens::progress::{Observer, Silent};
use jumplens::run::{Existing, Run, SampleSource, Settings};
use jumplens::shortcut::Pairs;
use jumplens::states::run_samples;
use jumplens::tokenize::read_samples;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn begin(folder: &Path, out: &str, existing: Existing) -> jumplens::Result<Run> {
    let samples = SampleSource::Files { train: folder.join("train.jsonl"), val: folder.join("val.jsonl") };
    let model = folder.join("model").to_str().unwrap().to_owned();
    let settings = Settings { model, samples, seed: 3, pairs: Pairs::All };
    Run::begin(&folder.join(out), &settings, existing, &Bundled::default(), &Silent)
}

fn layers(run: &Run) -> Vec<LayerRow> {
    read_csv(&run.folder().join("results/layers.csv")).unwrap()
}

#[test]
fn packed_equals_single() {
    let folder = tempfile::tempdir().unwrap();
    Checkpoint::random(2).write(&folder.path().join("model"));
    let files = ModelFiles::find(folder.path().join("model").to_str().unwrap(), &Bundled::default()).unwrap();
    let model = load(&files).unwrap().model;
    write_samples(&folder.path().join("samples.jsonl"), 200, 5, false);
    let samples = read_samples(&folder.path().join("samples.jsonl"), model.spec()).unwrap();
    let packed = run_samples(&*model, &samples, true, |_| Ok(())).unwrap();
    for (i, sample) in samples.iter().enumerate() {
        let single = run_samples(&*model, std::slice::from_ref(sample), true, |_| Ok(())).unwrap();
        let pairs =
            packed.layers.iter().zip(&single.layers).chain(packed.attention.iter().zip(&single.attention));
        for (packed, single) in pairs {
            for (a, b) in packed[i * WIDTH..][..WIDTH].iter().zip(single) {
                assert!((a - b).abs() <= 2e-6 * b.abs().max(1.0), "sample {i}: {a} against {b}");
            }
        }
    }
}

/// A run on a model whose `shape` makes a part linear, so that its map can take its place exactly.
fn run_linear(shape: impl Fn(&mut Checkpoint), first_only: bool) -> Vec<LayerRow> {
    let folder = tempfile::tempdir().unwrap();
    let mut checkpoint = Checkpoint::random(4);
    shape(&mut checkpoint);
    checkpoint.write(&folder.path().join("model"));
    write_samples(&folder.path().join("train.jsonl"), 300, 6, first_only);
    write_samples(&folder.path().join("val.jsonl"), 50, 7, first_only);
    let mut run = begin(folder.path(), "run", Existing::Refuse).unwrap();
    run.all(&Silent).unwrap();
    layers(&run)
}

#[track_caller]
fn assert_exact(rows: &[LayerRow], mapping: &str) {
    for layer in 0..=LAYERS {
        let row = rows.iter().find(|row| row.mapping == mapping && row.layer == layer).unwrap();
        assert!(row.kl < 1e-6 && row.precision_1 == 1.0, "{mapping} from {layer}: KL {}", row.kl);
    }
    let other = rows.iter().find(|row| row.mapping == "id" && row.layer == 0).unwrap();
    assert!(other.kl > 1e-3, "the test could not fail: id from 0 is as good");
}

#[test]
fn replacing_a_linear_feed_forward_by_its_map_changes_nothing() {
    // relu(x) − relu(−x) = x
    let rows = run_linear(
        |checkpoint| {
            let sign = |hidden: usize| if hidden < WIDTH { 1.0 } else { -1.0 };
            for layer in 0..LAYERS {
                let one = |a: usize, b: usize| if a % WIDTH == b % WIDTH { 1.0 } else { 0.0 };
                checkpoint.set(&format!("h.{layer}.mlp.c_fc.weight"), |i, j| one(i, j) * sign(j));
                checkpoint.set(&format!("h.{layer}.mlp.c_proj.weight"), |i, j| one(i, j) * sign(i));
                checkpoint.set(&format!("h.{layer}.mlp.c_fc.bias"), |_, _| 0.0);
                checkpoint.set(&format!("h.{layer}.mlp.c_proj.bias"), |_, _| 0.0);
            }
            assert_eq!(HIDDEN, 2 * WIDTH);
        },
        false,
    );
    assert_exact(&rows, "mat_ffn");
}

#[test]
fn replacing_attention_over_single_tokens_by_its_map_changes_nothing() {
    // A token that sees only itself gets its own value, which is linear where there are no biases.
    let rows = run_linear(
        |checkpoint| {
            for layer in 0..LAYERS {
                checkpoint.set(&format!("h.{layer}.attn.c_attn.bias"), |_, _| 0.0);
                checkpoint.set(&format!("h.{layer}.attn.c_proj.bias"), |_, _| 0.0);
            }
        },
        true,
    );
    assert_exact(&rows, "mat_attn");
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
            } else if path.file_name().unwrap() != "manifest.json" {
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
    assert!(want.keys().all(|path| path.extension().is_some_and(|e| e != "part")));

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
    assert!(matches!(Run::open(&out, &Bundled::default(), &Silent), Err(Error::Changed { .. })));
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
    checkpoint.set("h.1.mlp.c_proj.bias", |_, j| if j == 4 { f32::INFINITY } else { 0.0 });
    checkpoint.write(&folder.path().join("model"));
    write_samples(&folder.path().join("train.jsonl"), 60, 8, false);
    write_samples(&folder.path().join("val.jsonl"), 20, 9, false);
    let mut run = begin(folder.path(), "run", Existing::Refuse).unwrap();
    let Err(Error::NotFinite { split, layer, sample, coordinate, .. }) = run.states(&Silent) else {
        panic!("not found")
    };
    assert_eq!((split, layer, sample, coordinate), ("train", 2, 0, 4));
}

#[test]
fn a_map_folded_into_the_part_behind_it_is_the_map_before_it() {
    use jumplens::batch::PackedBatch;
    use jumplens::runner::{Context, Plan, Rows, run_block};
    use jumplens::shortcut::LinearMap;
    let folder = tempfile::tempdir().unwrap();
    Checkpoint::random(2).write(&folder.path().join("model"));
    let files = ModelFiles::find(folder.path().join("model").to_str().unwrap(), &Bundled::default()).unwrap();
    let model = load(&files).unwrap().model;
    let spec = model.spec();
    write_samples(&folder.path().join("samples.jsonl"), 9, 5, false);
    let samples = read_samples(&folder.path().join("samples.jsonl"), spec).unwrap();
    let batch = PackedBatch::pack(&samples, spec.kind, 1000).remove(0);
    let context = Context::new(&batch, spec.kind, 1);
    let norms = [spec.part("ln1").unwrap(), spec.part("ln2").unwrap()];
    let map = |layer: usize, part: usize| {
        let entry = |i: usize| ((i * 7 + layer * 3 + part) as f32).sin() / 4.0;
        let map = LinearMap::from_rows((0..WIDTH * WIDTH).map(entry).collect(), WIDTH, WIDTH).unwrap();
        norms.contains(&part).then_some(map)
    };
    // A part whose output is kept cannot be folded away.
    let last = |kept: &[usize]| -> Vec<f32> {
        let plan = Plan::new(&*model, kept, map).unwrap();
        assert_eq!(plan.rows_before(0), Rows::Every);
        let mut x = model.embed(&batch).unwrap();
        for layer in 0..LAYERS {
            x = run_block(&*model, layer, plan.block(layer), kept, &x, &context).unwrap().0;
        }
        x.flatten_all().unwrap().to_vec1().unwrap()
    };
    let (folded, apart) = (last(&[]), last(&norms));
    assert_eq!(folded.len(), samples.len() * WIDTH);
    for (a, b) in folded.iter().zip(&apart) {
        assert!((a - b).abs() <= 2e-5 * b.abs().max(1.0), "{a} against {b}");
    }
}
