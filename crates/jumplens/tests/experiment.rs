//! The experiment in memory gives what a run writes.

mod common;

use jumplens::Experiment;
use jumplens::eval::tables::{LayerRow, R2Row, read_csv};
use jumplens::hub::ModelFiles;
use jumplens::lenses::chosen;
use jumplens::models::load;
use jumplens::nn::Precision;
use jumplens::progress::Silent;
use jumplens::run::{Existing, Run, SampleSource, Settings};
use jumplens::shortcut::{Fits, Pairs, Ridge};
use jumplens::tokenize::read_samples;
use jumplens::words::Cast;

#[test]
fn memory_and_files_give_the_same_figures() {
    for model in ["tiny-gpt2", "tiny-bert"] {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("run");
        let fits = Fits { intercept: true, ridge: Some(Ridge::Auto), ..Fits::plain(Pairs::ToFinal) };
        let settings = Settings {
            model: model.into(),
            samples: SampleSource::corpus("wikipedia-sample", 300, 40),
            seed: 5,
            fits: fits.clone(),
            dtype: Precision::F32,
            shard: None,
        };
        let mut run = Run::begin(&out, &settings, Existing::Refuse, &common::sources(), &Silent).unwrap();
        run.all(&Silent).unwrap();

        let files = ModelFiles::find(model, &common::sources(), &Silent).unwrap();
        let loaded = load(&files, Precision::F32).unwrap();
        let samples =
            |split: &str| read_samples(&out.join(format!("samples/{split}.jsonl")), run.spec()).unwrap();
        let (train, val) = (samples("train"), samples("val"));
        let experiment =
            Experiment::new(&loaded.model, &train, &val, fits.pairs, &chosen(&fits).unwrap(), &Silent)
                .unwrap();
        let r2 = experiment.r2(&Silent).unwrap();
        let written: Vec<R2Row> = read_csv(&out.join("results/r2.csv")).unwrap();
        assert_eq!(r2, written, "{model}");
        let evaluation = experiment.evaluate(Precision::F32, &Silent).unwrap();
        let layers = experiment.layers(&evaluation, settings.seed);
        let written: Vec<LayerRow> = read_csv(&out.join("results/layers.csv")).unwrap();
        assert_eq!(format!("{layers:?}"), format!("{written:?}"), "{model}");

        let last = run.sizes().n_layers;
        let map = experiment.map(&Cast::MAT, 1, last).unwrap();
        let saved = run.own_shortcuts().unwrap().unwrap().load_pairs(1, &[last], map.d_in()).unwrap();
        assert_eq!(map, saved[&last]);
        assert!(experiment.map(&Cast::Tuned, 1, last).unwrap_err().to_string().contains("`tuned`"));
    }
}
