//! Maps with a bias, by ridge regression and of low rank, through the stages of a run.

mod common;

use common::sources;
use jumplens::eval::tables::{CurveRow, ExitRow, LayerRow, R2Row, SourceRow, read_csv};
use jumplens::nn::Precision;
use jumplens::progress::{Observer, Silent};
use jumplens::run::{Existing, Run, SampleSource, Settings};
use jumplens::shortcut::{Fits, Pairs, Ridge, Shortcuts};
use jumplens::states::{StateFiles, States};
use jumplens::store::Stage;
use jumplens::words::Cast;
use std::cell::RefCell;
use std::path::Path;

const CASTS: [&str; 6] = ["mat", "mat_ridge", "mat_r8", "mat+b", "mat+b_ridge", "mat+b_r8"];

#[derive(Default)]
struct Notes(RefCell<Vec<String>>);

impl Observer for Notes {
    fn note(&self, line: &str) {
        self.0.borrow_mut().push(line.to_owned());
    }
}

fn begin(folder: &Path, model: &str, train: usize, fits: Fits) -> Run {
    let samples = SampleSource::corpus("wikipedia-sample", train, 80);
    let settings =
        Settings { model: model.into(), samples, seed: 1, fits, dtype: Precision::F32, shard: None };
    Run::begin(folder, &settings, Existing::Refuse, &sources(), &Silent).unwrap()
}

fn table<T: serde::de::DeserializeOwned>(run: &Run, name: &str) -> Vec<T> {
    read_csv(&run.folder().join("results").join(name)).unwrap()
}

/// r² of a map computed here from what is on disk, in f64.
fn r2_from_files(run: &Run, split: &'static str, cast: &str, from: usize, to: usize) -> f64 {
    let states = StateFiles::new(run.folder(), split);
    let (x, y) = (states.layer(from).unwrap(), states.layer(to).unwrap());
    let shortcuts = Shortcuts::new(run.folder().join("shortcuts")).cast(&cast.into());
    let map = shortcuts.load_pairs(from, &[to], x.d).unwrap().remove(&to).unwrap();
    assert_eq!(map.bias().is_some(), cast.contains("+b"), "{cast}");
    let weight: Vec<&[f32]> = map.weight().chunks(map.d_in()).collect();
    let bias = map.bias().map_or(vec![0.0; x.d], <[f32]>::to_vec);
    let image = |x: &[f32]| -> Vec<f32> {
        let along = |(row, bias): (&&[f32], &f32)| {
            let along: f64 = row.iter().zip(x).map(|(a, x)| f64::from(*a) * f64::from(*x)).sum();
            (along + f64::from(*bias)) as f32
        };
        weight.iter().zip(&bias).map(along).collect()
    };
    let predicted: Vec<f32> = x.values().chunks(x.d).flat_map(image).collect();
    jumplens_core::r2(y.values(), &predicted, y.n).unwrap()
}

#[test]
fn every_kind_of_map_is_a_cast_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let fits =
        Fits { intercept: true, ridge: Some(Ridge::Auto), ranks: vec![8], ..Fits::plain(Pairs::ToFinal) };
    let mut run = begin(&folder.path().join("run"), "tiny-gpt2", 300, fits);
    run.all(&Silent).unwrap();

    let r2: Vec<R2Row> = table(&run, "r2.csv");
    for cast in CASTS {
        let rows: Vec<&R2Row> = r2.iter().filter(|row| row.mapping.name() == cast).collect();
        assert_eq!(rows.len(), 12, "{cast}");
        for row in [rows[0], rows[7]] {
            let expected = r2_from_files(&run, "val", cast, row.from, row.to);
            assert!(
                (row.r2 - expected).abs() < 1e-6,
                "{cast} from {}: {} against {expected}",
                row.from,
                row.r2
            );
        }
    }
    let of = |cast: &str, from: usize| {
        r2.iter().find(|row| row.mapping.name() == cast && row.from == from).unwrap()
    };
    for from in 0..12 {
        // On the samples they are fitted on, no map does better than least squares, and none with a bias than that with one.
        for (more, less) in
            [("mat", "mat_ridge"), ("mat_ridge", "mat_r8"), ("mat+b", "mat"), ("mat+b", "mat+b_r8")]
        {
            assert!(
                of(more, from).r2_train > of(less, from).r2_train - 1e-6,
                "{more} and {less} from {from}"
            );
        }
        // 300 samples are few for 128 coordinates, and λ is there to mend it.
        assert!(of("mat_ridge", from).r2 > of("mat", from).r2, "layer {from}");
    }

    let layers: Vec<LayerRow> = table(&run, "layers.csv");
    let exits: Vec<ExitRow> = table(&run, "early_exit.csv");
    for cast in CASTS {
        assert_eq!(layers.iter().filter(|row| row.mapping.name() == cast).count(), 13, "{cast}");
        assert_eq!(exits.iter().filter(|row| row.mapping.name() == cast).count(), 13, "{cast}");
    }

    let notes = Shortcuts::new(run.folder().join("shortcuts")).cast(&"mat_ridge".into()).notes(3).unwrap();
    assert!(notes["ridge_lambda"]["12"].as_f64().unwrap() > 0.0);

    // Fitted again without them, the others are gone, and so are their rows.
    run.fit(Fits::plain(Pairs::ToFinal), &Silent).unwrap();
    assert_eq!(Shortcuts::new(run.folder().join("shortcuts")).casts().unwrap(), [Cast::MAT]);
    run.r2(None, &Silent).unwrap();
    let r2: Vec<R2Row> = table(&run, "r2.csv");
    assert_eq!(r2.len(), 36);
}

#[test]
fn the_learning_curve_ends_at_the_maps_that_were_fitted() {
    // tiny-bert's layer 0 knows nothing but positions, so its states are of low rank.
    for model in ["tiny-gpt2", "tiny-bert"] {
        let folder = tempfile::tempdir().unwrap();
        let mut run = begin(&folder.path().join("run"), model, 250, Fits::plain(Pairs::ToFinal));
        let notes = Notes::default();
        for stage in [Stage::States, Stage::Fit, Stage::R2] {
            run.stage(stage, &notes).unwrap();
        }
        let curve: Vec<CurveRow> = table(&run, "learning_curve.csv");
        let sources: Vec<SourceRow> = table(&run, "sources.csv");
        let n_layers = run.sizes().n_layers;
        assert_eq!(sources.len(), n_layers);
        for (from, source) in sources.iter().enumerate() {
            let of_layer: Vec<&CurveRow> = curve.iter().filter(|row| row.from == from).collect();
            let samples: Vec<usize> = of_layer.iter().map(|row| row.samples).collect();
            assert_eq!(samples, [31, 62, 125, 250]);
            let last = of_layer[3];
            for (split, got) in [("val", last.r2), ("train", last.r2_train)] {
                let expected = r2_from_files(&run, split, "mat", from, n_layers);
                // Off the train samples, rounding a map to f32 is magnified by the condition of its source.
                let tolerance = if split == "val" { 1e-6f64.max(4e-11 * source.condition) } else { 1e-6 };
                assert!(
                    (got - expected).abs() < tolerance,
                    "{model}, {split}, layer {from}: {got} against {expected}"
                );
            }
            assert!(source.effective_rank <= source.rank as f64 + 1e-9);
        }
        let said = notes.0.borrow().join("\n");
        let few = format!("for each of the {} coordinates of a state", run.sizes().d_model);
        assert!(said.contains("`mat` fits noise") && said.contains(&few), "{model}: {said}");
    }
}
