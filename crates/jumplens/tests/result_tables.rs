//! `ranks.csv` and `spectra.csv` against what the run's other files say.

mod common;

use common::{Checkpoint, LAYERS, WIDTH, write_samples};
use jumplens::eval::tables::{RankRow, SpectrumRow, read_csv};
use jumplens::hub::Sources;
use jumplens::nn::Precision;
use jumplens::progress::Silent;
use jumplens::run::{Existing, Run, SampleSource, Settings};
use jumplens::shortcut::{Fits, Pairs, Shortcuts};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{ListAccessor, RowAccessor};
use std::collections::BTreeMap;
use std::path::Path;

const VAL: usize = 60;

fn run(folder: &Path, checkpoint: &Checkpoint, dtype: Precision) -> Run {
    checkpoint.write(&folder.join("model"));
    write_samples(&folder.join("train.jsonl"), 200, 6, false);
    write_samples(&folder.join("val.jsonl"), VAL, 7, false);
    let samples = SampleSource::Files { train: folder.join("train.jsonl"), val: folder.join("val.jsonl") };
    let model = folder.join("model").to_str().unwrap().to_owned();
    let settings = Settings { model, samples, seed: 3, fits: Fits::plain(Pairs::All), shard: None, dtype };
    let mut run =
        Run::begin(&folder.join("run"), &settings, Existing::Refuse, &Sources::default(), &Silent).unwrap();
    run.all(&Silent).unwrap();
    run
}

#[test]
fn ranks_are_places_in_the_lists_of_top_tokens() {
    for (family, dtype) in [
        (Checkpoint::random(4), Precision::F32),
        (Checkpoint::random_bert(4), Precision::F32),
        (Checkpoint::random(5), Precision::Bf16),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let run = run(folder.path(), &family, dtype);
        let results = run.folder().join("results");
        let ranks: Vec<RankRow> = read_csv(&results.join("ranks.csv")).unwrap();
        let file = std::fs::File::open(results.join("predictions.parquet")).unwrap();
        let mut lists: BTreeMap<(String, usize), Vec<Vec<i32>>> = BTreeMap::new();
        for row in SerializedFileReader::new(file).unwrap().get_row_iter(None).unwrap() {
            let row = row.unwrap();
            let list = row.get_list(3).unwrap();
            let top = (0..list.len()).map(|place| list.get_int(place).unwrap()).collect();
            let key = (row.get_string(1).unwrap().clone(), row.get_int(2).unwrap() as usize);
            lists.entry(key).or_default().push(top);
        }
        assert_eq!(ranks.len(), lists.len());
        let mut beyond = 0;
        for row in &ranks {
            let model = &lists[&(row.mapping.to_string(), LAYERS)];
            let tops = lists[&(row.mapping.to_string(), row.layer)].iter();
            let places = tops.zip(model).map(|(top, model)| top.iter().position(|token| *token == model[0]));
            let mut places: Vec<f64> =
                places.map(|place| place.map_or(f64::INFINITY, |place| place as f64 + 1.0)).collect();
            places.sort_by(f64::total_cmp);
            // The reciprocals of what the lists hold, and of eleven and more for the rest.
            let known: f64 = places.iter().map(|place| place.recip()).sum::<f64>() / VAL as f64;
            let unknown = places.iter().filter(|place| place.is_infinite()).count() as f64 / VAL as f64;
            let what = format!("{} from {}", row.mapping, row.layer);
            assert!(row.mean_reciprocal >= known - 1e-12, "{what}");
            assert!(row.mean_reciprocal <= known + unknown / 11.0 + 1e-12, "{what}");
            // Of 60 samples the median lies midway between the 30th and the 31st.
            let median = (places[29] + places[30]) / 2.0;
            let fits = if median.is_finite() {
                row.median == median
            } else {
                row.median >= (places[29].min(11.0) + 11.0) / 2.0
            };
            assert!(fits, "{what}: {}, not {median}", row.median);
            assert!(row.lower_quartile <= row.median && row.median <= row.upper_quartile);
            beyond += usize::from(unknown > 0.0);
        }
        assert!(beyond > 0, "the lists hold every rank, so that the count of others is not seen");
    }
}

#[test]
fn spectra_are_those_of_the_maps() {
    let folder = tempfile::tempdir().unwrap();
    let run = run(folder.path(), &Checkpoint::random(4), Precision::F32);
    let spectra: Vec<SpectrumRow> = read_csv(&run.folder().join("results/spectra.csv")).unwrap();
    assert_eq!(spectra.len(), LAYERS * WIDTH);
    let shortcuts = Shortcuts::new(run.folder().join("shortcuts"));
    for from in 0..LAYERS {
        let values: Vec<f64> =
            spectra.iter().filter(|row| row.from == from).map(|row| row.singular_value).collect();
        assert!(values.windows(2).all(|pair| pair[0] >= pair[1]) && values[WIDTH - 1] >= 0.0);
        let map = &shortcuts.load_pairs(from, &[LAYERS], WIDTH).unwrap()[&LAYERS];
        let a: Vec<&[f32]> = map.weight().chunks(map.d_in()).collect();
        let dot =
            |i: usize, j: usize| (0..WIDTH).map(|k| f64::from(a[i][k]) * f64::from(a[j][k])).sum::<f64>();
        // The trace of A·Aᵀ is the sum of the squares, that of its square the sum of the fourth powers.
        let squares: f64 = (0..WIDTH).map(|i| dot(i, i)).sum();
        let fourths: f64 = (0..WIDTH * WIDTH).map(|ij| dot(ij / WIDTH, ij % WIDTH).powi(2)).sum();
        let sum = |power: i32| values.iter().map(|value| value.powi(power)).sum::<f64>();
        assert!(
            (sum(2) / squares - 1.0).abs() < 1e-9 && (sum(4) / fourths - 1.0).abs() < 1e-9,
            "from {from}"
        );
    }
}
