//! Shares worked on away from the run's folder, with the model loaded once, and maps from some of the layers at a time.

mod common;

use common::{Checkpoint, LAYERS, sources, write_samples};
use jumplens::moments::{MomentsFile, Shard, merge};
use jumplens::nn::Precision;
use jumplens::progress::Silent;
use jumplens::run::{
    Existing, Run, SampleSource, Settings, Worker, is_whole, measured_from_sums, samples_of_shares,
    sums_bytes, tokens_of_samples,
};
use jumplens::shards::{fit_folder, fit_sources, is_whole_fit, join_fits};
use jumplens::shortcut::{Fits, Pairs, Ridge};
use jumplens::store::Manifest;
use std::fs;
use std::path::{Path, PathBuf};

/// Training and validation samples: neither is a multiple of the shares.
const COUNTS: [usize; 2] = [301, 70];

/// A run of which the samples are drawn, and no more.
fn drawn(at: &Path) -> Manifest {
    let model = at.join("model");
    fs::create_dir(&model).unwrap();
    Checkpoint::random(3).write(&model);
    let files = ["train.jsonl", "val.jsonl"].map(|name| at.join(name));
    for (path, (n, seed)) in files.iter().zip(COUNTS.into_iter().zip(1..)) {
        write_samples(path, n, seed, false);
    }
    let [train, val] = files;
    let settings = Settings {
        model: model.display().to_string(),
        samples: SampleSource::Files { train, val },
        seed: 0,
        fits: Fits { intercept: true, ridge: Some(Ridge::Auto), ..Fits::plain(Pairs::All) },
        dtype: Precision::F32,
        shard: None,
    };
    let run = Run::begin(&at.join("run"), &settings, Existing::Refuse, &sources(), &Silent).unwrap();
    run.manifest().clone()
}

/// The lines of the samples of a share, for training and validation.
fn lines(at: &Path, share: &[std::ops::Range<usize>; 2]) -> [Vec<u8>; 2] {
    let of = |split: &str, range: &std::ops::Range<usize>| {
        let text = fs::read_to_string(at.join("run/samples").join(format!("{split}.jsonl"))).unwrap();
        text.split_inclusive('\n').skip(range.start).take(range.len()).collect::<String>().into_bytes()
    };
    [of("train", &share[0]), of("val", &share[1])]
}

/// The sums of a share, whose states are below a folder of its own.
fn sums(worker: &Worker, at: &Path, manifest: &Manifest, index: usize, of: usize) -> PathBuf {
    let folder = at.join(format!("share-{index}-of-{of}"));
    let [train, val] = lines(at, &samples_of_shares(manifest, of).unwrap()[index - 1]);
    let train = worker.samples(&train, &folder, "train").unwrap();
    let val = worker.samples(&val, &folder, "val").unwrap();
    let out = at.join(format!("sums-{index}-of-{of}"));
    worker.sums(Shard { index, of }, [&train, &val], &folder, &out, &Silent).unwrap();
    assert!(is_whole(&out) && !folder.join("states/train").exists() && folder.join("states/val").exists());
    out
}

fn below(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for place in ["shortcuts", "results"] {
        let mut folders = vec![folder.join(place)];
        while let Some(at) = folders.pop() {
            for entry in fs::read_dir(&at).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => {
                        found.push((path.strip_prefix(folder).unwrap().to_owned(), fs::read(&path).unwrap()))
                    }
                }
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_worker_makes_what_a_run_in_shares_makes() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let manifest = drawn(at);
    let worker = Worker::new(&manifest, &sources(), &Silent).unwrap();
    let whole = sums(&worker, at, &manifest, 1, 1);
    let size = fs::metadata(&whole).unwrap().len();
    let reckoned = sums_bytes(LAYERS, common::WIDTH, &manifest.fits);
    assert!((reckoned..reckoned + reckoned / 4).contains(&size), "{size} bytes, and {reckoned} are reckoned");
    // More shares than there are pieces of validation samples: some have training samples alone.
    let of = 100;
    let shares: Vec<PathBuf> = (1..=of).map(|index| sums(&worker, at, &manifest, index, of)).collect();
    assert!(samples_of_shares(&manifest, of).unwrap().iter().any(|[_, val]| val.is_empty()));
    merge(&shares, &at.join("merged"), false, &Silent).unwrap();
    let [file, one] = ["merged", "sums-1-of-1"].map(|name| MomentsFile::open(&at.join(name)).unwrap());
    fit_folder(&one, &manifest.fits, &at.join("one"), false, &Silent).unwrap();
    fit_folder(&file, &manifest.fits, &at.join("many"), false, &Silent).unwrap();
    assert!(below(&at.join("one")) == below(&at.join("many")));

    let spec = jumplens::models::describe(
        &jumplens::hub::ModelFiles::find(&manifest.model.as_ref().unwrap().id, &sources(), &Silent).unwrap(),
    );
    let [train, val] = tokens_of_samples(&at.join("run"), &spec.unwrap().spec).unwrap();
    assert!(train > COUNTS[0] && val > COUNTS[1], "{train} and {val} tokens");
    let casts: Vec<String> = measured_from_sums(&manifest.fits).iter().map(ToString::to_string).collect();
    assert_eq!(casts, ["id", "mat", "mat_ridge", "mat+b", "mat+b_ridge"]);
}

#[test]
fn predictions_do_not_depend_on_whether_states_are_still_there() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let manifest = drawn(at);
    let worker = Worker::new(&manifest, &sources(), &Silent).unwrap();
    let parts = [1, 2].map(|index| sums(&worker, at, &manifest, index, 2));
    merge(&parts, &at.join("merged"), false, &Silent).unwrap();
    let file = MomentsFile::open(&at.join("merged")).unwrap();
    fit_folder(&file, &manifest.fits, &at.join("fitted"), false, &Silent).unwrap();
    let [_, val] = lines(at, &samples_of_shares(&manifest, 2).unwrap()[1]);
    let evaluate = |folder: &str, out: &str| {
        let folder = at.join(folder);
        let val = worker.samples(&val, &folder, "val").unwrap();
        let (shard, out) = (Shard { index: 2, of: 2 }, at.join(out));
        worker.evaluate(shard, &val, &folder, &at.join("fitted"), &out, &Silent).unwrap();
        assert!(is_whole(&out));
        fs::read(out).unwrap()
    };
    let state = at.join("share-2-of-2/states/val/01.safetensors");
    let made = fs::metadata(&state).unwrap().modified().unwrap();
    let there = evaluate("share-2-of-2", "there");
    assert_eq!(
        fs::metadata(&state).unwrap().modified().unwrap(),
        made,
        "states that were there were computed again"
    );
    assert!(evaluate("elsewhere", "gone") == there);
    let mut bytes = fs::read(&state).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&state, &bytes).unwrap();
    assert!(evaluate("share-2-of-2", "changed") == there);
    assert!(fs::read(&state).unwrap() != bytes);
    let mut bytes = there;
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(at.join("there"), bytes).unwrap();
    assert!(!is_whole(&at.join("there")) && !is_whole(&at.join("nowhere")));
}

#[test]
fn maps_from_some_of_the_layers_add_up_to_all() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let manifest = drawn(at);
    let worker = Worker::new(&manifest, &sources(), &Silent).unwrap();
    let file = MomentsFile::open(&sums(&worker, at, &manifest, 1, 1)).unwrap();
    fit_folder(&file, &manifest.fits, &at.join("whole"), false, &Silent).unwrap();
    let part = |first: usize, end: usize| {
        let folder = at.join(format!("from-{first}"));
        fit_sources(&file, &manifest.fits, first..end, &folder, &Silent).unwrap();
        assert!(is_whole_fit(&folder));
        folder
    };
    let (low, high) = (part(0, 1), part(1, LAYERS));
    let join = |parts: &[&PathBuf], out: &str| {
        let parts: Vec<PathBuf> = parts.iter().map(|part| (*part).clone()).collect();
        join_fits(&parts, &at.join(out), false, &Silent).map_err(|error| error.to_string())
    };
    join(&[&low, &high], "joined").unwrap();
    assert!(below(&at.join("whole")) == below(&at.join("joined")));
    // To others a part is not finished.
    let refused = Run::open_to_read(&low, &sources(), &Silent).map(drop).unwrap_err().to_string();
    assert!(refused.contains("finished") || refused.contains("stopped"), "{refused}");
    for (parts, says) in [
        (&[&high, &low][..], "from layer 0 on"),
        (&[&low], "from layer 1 are missing"),
        (&[&low, &low], "from layer 1 on"),
    ] {
        let error = join(parts, "never").unwrap_err();
        assert!(error.contains(says), "{error}");
    }
    let table = low.join("results/r2.csv");
    let text = fs::read_to_string(&table).unwrap();
    fs::write(&table, text.replace("0.", "1.")).unwrap();
    assert!(!is_whole_fit(&low));
    let error = join(&[&low, &high], "never").unwrap_err();
    assert!(error.contains("r2.csv"), "{error}");
    assert!(!at.join("never").exists() && !is_whole_fit(&at.join("never")));
}
