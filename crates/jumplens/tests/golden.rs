//! The bundled models against the method's reference implementation, on the reference's own samples.

mod common;

use jumplens::eval::tables::{ExitRow, LayerRow, R2Row, read_csv};
use jumplens::hub::ModelFiles;
use jumplens::models::load;
use jumplens::nn::{Isa, Precision};
use jumplens::progress::Silent;
use jumplens::run::{Existing, Run, SampleSource, Settings};
use jumplens::shortcut::{Fits, Pairs};
use jumplens::states::run_samples;
use jumplens::tokenize::read_samples;
use jumplens::words::Cast;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;
use safetensors::SafeTensors;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// What the reference computed for one model, and how near a run comes to it.
struct Golden {
    model: &'static str,
    n_layers: usize,
    /// Casts in `layers.csv`.
    casts: usize,
    /// Layers up to which `mat` has the higher Precision@1 of `mat` and `id`.
    mat_leads: usize,
    r2: f64,
    surprisal: f64,
    layers_processed: f64,
    /// Layers saved with `id` and with `mat`, from the reference's table.
    saved: [f64; 2],
}

const TINY_GPT2: Golden = Golden {
    model: "tiny-gpt2",
    n_layers: 12,
    casts: 5,
    mat_leads: 6,
    r2: 1e-6,
    surprisal: 1e-5,
    layers_processed: 0.01,
    saved: [1.015, 1.41],
};

// A state that a norm put out lies in a plane but for its rounding: σ_min/σ_max of layers 1 to 3 is 2e-6 to 5e-6, the
// maps from there have entries of 300, and casting in f32 moves r² by 2e-6 and a confidence by 1e-4. At λ = 0.2 the
// threshold is 3e-5 below one sample's confidence at layer 1 (in f64 too), which the reference takes to layer 6.
const TINY_BERT: Golden = Golden {
    model: "tiny-bert",
    n_layers: 6,
    casts: 2,
    mat_leads: 6,
    r2: 5e-6,
    surprisal: 1e-5,
    layers_processed: 5.0 / 400.0 + 1e-9,
    saved: [0.25, 0.375],
};

impl Golden {
    fn path(&self, name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(self.model).join(name)
    }
}

/// The columns that the reference has of `layers.csv`.
#[derive(Deserialize)]
struct ReferenceLayer {
    mapping: String,
    layer: usize,
    precision_1: f64,
    precision_5: f64,
    precision_10: f64,
    surprisal: f64,
}

/// The columns that the reference has of `r2.csv`.
#[derive(Deserialize)]
struct ReferenceR2 {
    mapping: String,
    from: usize,
    to: usize,
    r2: f64,
}

/// The columns that the reference has of `early_exit.csv`.
#[derive(Deserialize)]
struct ReferenceExit {
    mapping: String,
    lambda: f64,
    layers_processed: f64,
    precision_1: f64,
    precision_5: f64,
    precision_10: f64,
}

#[track_caller]
fn assert_near(what: &str, got: f64, want: f64, tolerance: f64) {
    assert!((got - want).abs() <= tolerance, "{what}: {got} against {want} of the reference");
}

/// Runs `test` with each of the instruction sets that this CPU has.
fn on_every_isa(test: impl Fn()) {
    static CHOOSING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = CHOOSING.lock().unwrap_or_else(PoisonError::into_inner);
    for isa in Isa::available() {
        isa.choose().unwrap();
        test();
    }
}

#[test]
fn a_run_on_gpt2_agrees_with_the_reference_implementation() {
    on_every_isa(|| assert_run_agrees(&TINY_GPT2));
}

#[test]
fn a_run_on_bert_agrees_with_the_reference_implementation() {
    on_every_isa(|| assert_run_agrees(&TINY_BERT));
}

#[track_caller]
fn assert_run_agrees(golden: &Golden) {
    let n_layers = golden.n_layers;
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let samples = SampleSource::Files {
        train: golden.path("train_samples.jsonl"),
        val: golden.path("val_samples.jsonl"),
    };
    let settings = Settings {
        model: golden.model.into(),
        samples,
        seed: 0,
        fits: Fits::plain(Pairs::All),
        dtype: Precision::F32,
        shard: None,
    };
    let mut run = Run::begin(&out, &settings, Existing::Refuse, &common::sources(), &Silent).unwrap();
    run.all(&Silent).unwrap();
    let results = out.join("results");

    let r2: Vec<R2Row> = read_csv(&results.join("r2.csv")).unwrap();
    let find = |mapping: &str, from, to| {
        r2.iter().find(|row| row.mapping.name() == mapping && row.from == from && row.to == to).unwrap()
    };
    let reference: Vec<ReferenceR2> = read_csv(&golden.path("r2.csv")).unwrap();
    assert_eq!(reference.len(), n_layers * (n_layers + 1));
    for row in &reference {
        let what = format!("r2 of {} {} to {}", row.mapping, row.from, row.to);
        assert_near(&what, find(&row.mapping, row.from, row.to).r2, row.r2, golden.r2);
    }
    for row in r2.iter().filter(|row| row.mapping.name() == "mat") {
        assert!(row.r2 > find("id", row.from, row.to).r2, "id beats mat from {} to {}", row.from, row.to);
        assert!(row.r2_train > row.r2, "{} to {} fits validation better than train", row.from, row.to);
        let mean = find("mean", row.from, row.to);
        assert!(mean.r2 <= 0.0 && mean.r2_train.abs() < 1e-9, "the mean explains {}", mean.r2);
    }

    // A cast's top token may flip where two are within rounding of one another: one of 400 samples, and up to some nats.
    const ONE_SAMPLE: f64 = 1.0 / 400.0 + 1e-6;
    let layers: Vec<LayerRow> = read_csv(&results.join("layers.csv")).unwrap();
    let find = |mapping: &str, layer| {
        layers.iter().find(|r| r.mapping.name() == mapping && r.layer == layer).unwrap()
    };
    let reference: Vec<ReferenceLayer> = read_csv(&golden.path("layers.csv")).unwrap();
    assert_eq!(reference.len(), golden.casts * (n_layers + 1));
    for row in &reference {
        let (got, what) = (find(&row.mapping, row.layer), format!("{} from {}", row.mapping, row.layer));
        assert_near(&what, got.precision_1, row.precision_1, ONE_SAMPLE);
        assert_near(&what, got.precision_5, row.precision_5, ONE_SAMPLE);
        assert_near(&what, got.precision_10, row.precision_10, ONE_SAMPLE);
        let state_cast = row.mapping == "id" || row.mapping == "mat";
        assert_near(&what, got.surprisal, row.surprisal, if state_cast { golden.surprisal } else { 0.01 });
        assert!(got.kl >= 0.0 && got.surprisal_lo < got.surprisal && got.surprisal < got.surprisal_hi);
    }
    for layer in 0..golden.mat_leads {
        assert!(
            find("mat", layer).precision_1 > find("id", layer).precision_1,
            "id beats mat at layer {layer}"
        );
    }
    assert_eq!(find("mat", n_layers).kl, 0.0);

    let exits: Vec<ExitRow> = read_csv(&results.join("early_exit.csv")).unwrap();
    let reference: Vec<ReferenceExit> = read_csv(&golden.path("early_exit.csv")).unwrap();
    assert_eq!(reference.len(), 13 + 22);
    for row in &reference {
        let near =
            |got: &&ExitRow| got.mapping.name() == row.mapping && (got.lambda - row.lambda).abs() < 1e-9;
        let (got, what) = (exits.iter().find(near).unwrap(), format!("{} at λ {}", row.mapping, row.lambda));
        assert_near(&what, got.layers_processed, row.layers_processed, golden.layers_processed);
        assert_near(&what, got.precision_1, row.precision_1, ONE_SAMPLE);
        assert_near(&what, got.precision_5, row.precision_5, ONE_SAMPLE);
        assert_near(&what, got.precision_10, row.precision_10, ONE_SAMPLE);
    }
    let saved = run.summary().unwrap().layers_saved;
    assert_near("layers saved, mat", saved[&Cast::MAT], golden.saved[1], 0.01);
    assert_near("layers saved, id", saved[&Cast::Id], golden.saved[0], 0.01);

    // The Parquet file has a row a sample, cast and layer, and averages to the table.
    let file = std::fs::File::open(results.join("predictions.parquet")).unwrap();
    let reader = SerializedFileReader::new(file).unwrap();
    let (mut rows, mut surprisal) = (0, 0.0);
    for row in reader.get_row_iter(None).unwrap() {
        let row = row.unwrap();
        rows += 1;
        assert_eq!(row.get_list(3).unwrap().len(), 10);
        if row.get_string(1).unwrap() == "mat" && row.get_int(2).unwrap() == 3 {
            surprisal += f64::from(row.get_float(4).unwrap()) / 400.0;
        }
    }
    assert_eq!(rows, 400 * 5 * (n_layers + 1));
    assert_near("mean surprisal in predictions.parquet", surprisal, find("mat", 3).surprisal, 1e-5);

    for figure in ["r2", "precision", "surprisal", "submodules", "early_exit"] {
        let text = std::fs::read_to_string(out.join(format!("plots/{figure}.svg"))).unwrap();
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"), "{figure}.svg");
    }
}

#[test]
fn states_and_logits_of_gpt2_agree_with_transformers_at_every_layer() {
    on_every_isa(|| assert_states_agree(&TINY_GPT2));
}

#[test]
fn states_and_logits_of_bert_agree_with_transformers_at_every_layer() {
    on_every_isa(|| assert_states_agree(&TINY_BERT));
}

fn assert_states_agree(golden: &Golden) {
    let files = ModelFiles::find(golden.model, &common::sources(), &Silent).unwrap();
    let model = load(&files, Precision::F32).unwrap().model;
    let d = model.spec().d_model;
    let samples = read_samples(&golden.path("val_samples.jsonl"), model.spec()).unwrap();
    let states = run_samples(&model, &samples[..16], false).unwrap();

    let bytes = std::fs::read(golden.path("states.safetensors")).unwrap();
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    let values = |name: &str| -> Vec<f32> {
        let view = reference.tensor(name).unwrap();
        view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    };
    // ‖a − b‖₂ / ‖b‖₂ of each row
    let compare = |what: &str, got: &[f32], want: &[f32], width: usize| {
        assert_eq!(got.len(), want.len());
        for (row, (a, b)) in got.chunks(width).zip(want.chunks(width)).enumerate() {
            let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
            let difference = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
            let relative = difference / norm(&mut b.iter().map(|b| f64::from(*b)));
            assert!(relative <= 1e-5, "{what}, sample {row}: relative error {relative:e}");
        }
    };
    let want = values("states");
    assert_eq!(states.layers.len(), golden.n_layers + 1);
    for (layer, (got, want)) in states.layers.iter().zip(want.chunks(16 * d)).enumerate() {
        compare(&format!("state of layer {layer}"), got, want, d);
    }
    let head = model.head().unwrap();
    let last =
        candle_core::Tensor::from_slice(&states.layers[golden.n_layers], (16, d), &candle_core::Device::Cpu)
            .unwrap();
    let logits = head.logits(&last).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    compare("logits", &logits, &values("logits"), model.spec().vocab_size);
}
