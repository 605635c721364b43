//! Manifests and sums that are damaged: each is read or refused, in bounded time and memory.

mod common;
#[path = "common/damage.rs"]
mod damage;

use common::{Checkpoint, sources, write_samples};
use damage::{allow_as_much_again, read_damaged, read_or_refused, write};
use jumplens::Result;
use jumplens::moments::{MomentsFile, Shard, merge};
use jumplens::nn::Precision;
use jumplens::progress::Silent;
use jumplens::run::{Existing, Run, SampleSource, Settings};
use jumplens::seal::seal;
use jumplens::shards::fit_folder;
use jumplens::shortcut::{Fits, Pairs, Ridge};
use jumplens::store::Stage;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// A run of a small random model in `folder`, with its states and their sums.
fn small_run(folder: &Path, pairs: Pairs, shard: Option<Shard>) -> Run {
    let model = folder.with_extension("model");
    if !model.exists() {
        Checkpoint::random(5).write(&model);
    }
    let samples = |name: &str, n: usize, seed: u64| {
        let path = folder.with_extension(name);
        write_samples(&path, n, seed, false);
        path
    };
    let settings = Settings {
        model: model.to_str().unwrap().to_owned(),
        samples: SampleSource::Files { train: samples("train", 48, 1), val: samples("val", 16, 2) },
        seed: 0,
        fits: Fits::plain(pairs),
        dtype: Precision::F32,
        shard,
    };
    let mut run = Run::begin(folder, &settings, Existing::Overwrite, &sources(), &Silent).unwrap();
    run.states(&Silent).unwrap();
    run.moments(&Silent).unwrap();
    allow_as_much_again();
    run
}

/// The same with a digest of itself that is right, so that it does not end at that.
fn sealed(file: &[u8]) -> Vec<u8> {
    let mut file = file.to_vec();
    seal(&mut file);
    file
}

/// Opens a run and does a stage of it again.
fn stage(folder: &Path, stage: Stage) -> Result<()> {
    Run::open(folder, &sources(), &Silent)?.stage(stage, &Silent)
}

#[test]
fn a_damaged_manifest_is_read_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    drop(small_run(&path, Pairs::ToFinal, Some(Shard { index: 1, of: 2 })));
    let manifest = path.join("manifest.json");
    let whole = fs::read(&manifest).unwrap();
    for (name, times) in [(Stage::States, 150), (Stage::Moments, 150), (Stage::Fit, 100)] {
        read_damaged(name.name(), &whole, times, |bytes| {
            write(&manifest, &sealed(bytes));
            stage(&path, name)
        });
        write(&manifest, &whole);
        stage(&path, Stage::States).unwrap();
    }
}

#[test]
fn what_a_manifest_alone_claims_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    drop(small_run(&path, Pairs::ToFinal, None));
    let manifest = path.join("manifest.json");
    let whole: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    let refused = |changes: Value, of: Stage, says: &str| {
        let mut changed = whole.clone();
        for (field, value) in changes.as_object().unwrap() {
            changed[field] = value.clone();
        }
        write(&manifest, &sealed(changed.to_string().as_bytes()));
        let result = stage(&path, of);
        assert!(!read_or_refused(&result, says), "{says}");
        let message = result.unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
    };
    refused(json!({ "shard": { "index": 0, "of": 0 } }), Stage::Moments, "there is no share 0/0");
    refused(json!({ "shard": { "index": 3, "of": 2 } }), Stage::Moments, "there is no share 3/2");
    refused(json!({ "train": 49 }), Stage::Moments, "48 states of width 16, where 49 of width 16 should be");
    refused(json!({ "val": u64::MAX }), Stage::Moments, "16 states of width 16, where");
    for elsewhere in ["/dev/zero", "../run/manifest.json"] {
        let states = json!({ "done": true, "seconds": 0.0, "files": { elsewhere: "0" } });
        refused(
            json!({ "stages": { "samples": whole["stages"]["samples"], "states": states } }),
            Stage::Moments,
            "not below",
        );
    }
    // More chunks than there can be are as good as all of them.
    let mut changed = whole.clone();
    changed["stages"]["states"] =
        json!({ "done": false, "seconds": 0.0, "chunks": { "train": 1_u64 << 60 } });
    write(&manifest, &sealed(changed.to_string().as_bytes()));
    stage(&path, Stage::States).unwrap();
}

/// The files of sums of a run in one share, and in two.
fn sums(folder: &Path, pairs: Pairs) -> [Vec<u8>; 3] {
    [(1, 1), (1, 2), (2, 2)].map(|(index, of)| {
        let path = folder.join("run");
        drop(small_run(&path, pairs, Some(Shard { index, of })));
        fs::read(path.join("moments.safetensors")).unwrap()
    })
}

#[test]
fn damaged_sums_are_read_or_refused() {
    for (pairs, times) in [(Pairs::All, 200), (Pairs::ToFinal, 200)] {
        let folder = tempfile::tempdir().unwrap();
        let [whole, first, second] = sums(folder.path(), pairs);
        let paths = [0, 1].map(|number| folder.path().join(format!("{number}.safetensors")));
        let (total, fitted) = (folder.path().join("total.safetensors"), folder.path().join("fitted"));
        let fit = |paths: &[PathBuf]| -> Result<()> {
            merge(paths, &total, true, &Silent)?;
            let file = MomentsFile::open(&total).expect("what was added up can be opened");
            let pairs = file.record.manifest.fits.pairs;
            let fits =
                Fits { intercept: true, ridge: Some(Ridge::Auto), ranks: vec![1], ..Fits::plain(pairs) };
            fit_folder(&file, &fits, &fitted, true, &Silent)
        };
        read_damaged("sums", &whole, times, |bytes| {
            write(&paths[0], &sealed(bytes));
            fit(&paths[..1])
        });
        read_damaged("sums of a share", &second, times, |bytes| {
            write(&paths[0], &first);
            write(&paths[1], &sealed(bytes));
            fit(&paths)
        });
    }
}

/// A safetensors file's header, and what follows it.
fn parts(file: &[u8]) -> (Value, &[u8]) {
    let length = u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
    (serde_json::from_slice(&file[8..8 + length]).unwrap(), &file[8 + length..])
}

/// No list of sums is made of more layers than the file's tensors can be of.
#[test]
fn layers_that_only_a_file_of_sums_claims_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, ..] = sums(folder.path(), Pairs::All);
    let (mut header, data) = parts(&whole);
    let path = folder.path().join("claims.safetensors");
    let record = header["__metadata__"]["jumplens_moments"].as_str().unwrap();
    let mut record: Value = serde_json::from_str(record).unwrap();
    for (field, value) in [
        ("n_layers", 0),
        ("n_layers", 4),
        ("n_layers", 1 << 20),
        ("n_layers", u64::MAX),
        ("d_model", u64::MAX),
    ] {
        let before = std::mem::replace(&mut record[field], value.into());
        header["__metadata__"]["jumplens_moments"] = record.to_string().into();
        record[field] = before;
        let header = header.to_string();
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat();
        write(&path, &sealed(&bytes));
        let result = MomentsFile::open(&path).map(drop);
        assert!(!read_or_refused(&result, field), "{field} of {value}");
    }
}

/// Products of such values overflow, and the decompositions behind the maps do not end well.
#[test]
fn values_that_no_sum_of_states_has_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, ..] = sums(folder.path(), Pairs::All);
    let (header, data) = parts(&whole);
    let path = folder.path().join("values.safetensors");
    let start = whole.len() - data.len();
    for (tensor, at, value) in [
        ("val.03.squares", 0, 1e300),
        ("train.2.01.gram", 17, -1.0),
        ("train.2.01.gram", 1, 1e10),
        ("train.1.00.sum", 3, f64::INFINITY),
        ("train.00_02.cross", 5, 1e9),
        ("val.02_03.cross", 5, f64::NAN),
    ] {
        let offset = start + header[tensor]["data_offsets"][0].as_u64().unwrap() as usize + 8 * at;
        let mut bytes = whole.clone();
        bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
        write(&path, &sealed(&bytes));
        let error = MomentsFile::open(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("value {at} of tensor `{tensor}` is {value}")), "{error}");
    }
}
