//! PyTorch checkpoints, written by torch itself (`fixtures/make_pytorch_fixtures.py`): the tensors are those that torch
//! saved, and nothing but tensors is rebuilt.

use jumplens::hub::{ModelFiles, SourceFile, Sources};
use jumplens::models::{Loaded, load};
use jumplens::nn::Precision;
use jumplens::progress::Silent;
use jumplens::states::{StateChunk, run_samples};
use jumplens::tokenize::Sample;
use jumplens::weights::Weights;
use jumplens::{Error, Result};
use proptest::prelude::*;
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

const STATE_DICTS: [&str; 3] = ["state_dict.bin", "state_dict_protocol5.bin", "state_dict_legacy.bin"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pytorch").join(name)
}

fn values(weights: &Weights<'_>, name: &str, shape: &[usize]) -> Result<Vec<u32>> {
    let tensor = weights.read(&weights.below("").tensor(name, shape))?;
    Ok(tensor.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect())
}

fn error(name: &str) -> Error {
    let file = SourceFile::open(&fixture(name)).unwrap();
    Weights::open(std::slice::from_ref(&file)).map(|_| ()).unwrap_err()
}

#[test]
fn tensors_are_those_that_torch_saved() {
    let expected = std::fs::read(fixture("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&expected).unwrap();
    let unreadable =
        [("int64", 4, "I64"), ("uint16", 3, "U16"), ("negated", 2, "F32 with a mark (conj or neg)")];
    for name in STATE_DICTS {
        let file = SourceFile::open(&fixture(name)).unwrap();
        let weights = Weights::open(std::slice::from_ref(&file)).unwrap();
        let mut names: Vec<&str> = expected.names();
        names.extend(unreadable.map(|(tensor, _, _)| tensor));
        names.sort_unstable();
        assert_eq!(weights.names().collect::<Vec<_>>(), names, "{name}");
        for (tensor, view) in expected.iter() {
            let bits: Vec<u32> = view.data().as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
            assert_eq!(values(&weights, tensor, view.shape()).unwrap(), bits, "{tensor} of {name}");
        }
        for (tensor, n, dtype) in unreadable {
            let Err(Error::TensorDtype { got, .. }) = values(&weights, tensor, &[n]) else {
                panic!("{tensor} of {name} can be read")
            };
            assert_eq!(got, dtype);
        }
        let Err(Error::TensorShape { got, .. }) = values(&weights, "transposed", &[5, 4]) else {
            panic!("the storage's shape, not the view's")
        };
        assert_eq!(got, [4, 5]);
    }
}

#[test]
fn commands_are_refused_by_name_and_not_run() {
    for name in ["malicious.bin", "malicious_legacy.bin"] {
        let error = error(name);
        let Error::RefusedPickle { callable, path } = &error else { panic!("{error}") };
        assert_eq!((callable.as_str(), path), ("posix.system", &fixture(name)));
        assert!(error.to_string().contains("nothing in the file was run"), "{error}");
    }
    // The payload would write this file into the working directory.
    assert!(!Path::new("the_pickle_was_run").exists());
}

#[test]
fn whole_modules_are_refused_by_their_class() {
    let error = error("whole_module.bin");
    let Error::RefusedPickle { callable, .. } = &error else { panic!("{error}") };
    assert_eq!(callable, "torch.nn.modules.linear.Linear");
}

#[test]
fn files_without_tensors_at_their_top_level_say_what_they_hold() {
    for (name, says) in [
        ("nested.bin", "one level deeper, under `state_dict`"),
        ("no_tensor.bin", "which holds `epoch` (an integer), `name` (a string)"),
        ("bare_tensor.bin", "it holds a tensor, not a dict"),
        ("compressed.bin", "is compressed"),
        ("gpt2/config.json", "neither a zip file nor a stream of pickles"),
    ] {
        let error = error(name);
        assert!(matches!(error, Error::Format { .. }) && error.to_string().contains(says), "{error}");
    }
}

fn states(loaded: &Loaded) -> StateChunk {
    let sample = Sample { ids: vec![1, 9, 4, 4, 2, 7, 0], position: 6, target: None, text: None };
    run_samples(&loaded.model, &[sample], false).unwrap()
}

#[test]
fn a_model_gives_the_same_states_from_both_formats() {
    let folder = tempfile::tempdir().unwrap();
    let find = || ModelFiles::find(folder.path().to_str().unwrap(), &Sources::default(), &Silent);
    let copy = |name: &str| {
        std::fs::copy(fixture("gpt2").join(name), folder.path().join(name)).unwrap();
    };
    copy("config.json");
    let Err(Error::NoWeights { place: named }) = find() else { panic!("no weights are not missed") };
    assert_eq!(named, folder.path().display().to_string());

    copy("pytorch_model.bin");
    let pytorch = load(&find().unwrap(), Precision::F32).unwrap();
    copy("model.safetensors");
    let files = find().unwrap();
    assert!(files.weights[0].path.ends_with("model.safetensors"), "the safer of the two is not taken");
    let safetensors = load(&files, Precision::F32).unwrap();
    assert_eq!(states(&pytorch), states(&safetensors));
    assert_eq!((pytorch.notes, safetensors.notes), (vec![], vec![]));
}

/// Opens the bytes and reads every tensor that can be read. Whatever fails has to be the file's fault.
fn read_all(bytes: &'static [u8]) -> Result<()> {
    let file = SourceFile::bundled("pytorch_model.bin", bytes);
    let weights = Weights::open(std::slice::from_ref(&file))?;
    for name in weights.names() {
        // A shape that no tensor has says which one it has.
        let Err(Error::TensorShape { got, .. }) = weights.read(&weights.below("").tensor(name, &[77; 9]))
        else {
            panic!("{name} has an absurd shape")
        };
        match values(&weights, name, &got) {
            Ok(_) | Err(Error::TensorDtype { .. } | Error::WeightNotFinite { .. }) => {}
            Err(error) => panic!("{name}: {error}"),
        }
    }
    Ok(())
}

#[test]
fn files_that_are_cut_short_anywhere_are_refused() {
    for name in STATE_DICTS {
        let whole: &[u8] = std::fs::read(fixture(name)).unwrap().leak();
        for length in 0..whole.len() {
            let error = read_all(&whole[..length]).expect_err(&format!("{name} of {length} bytes"));
            assert!(matches!(error, Error::Format { .. }), "{name} of {length} bytes: {error}");
        }
        read_all(whole).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn damaged_files_are_read_or_refused(
        fixture_number in 0..STATE_DICTS.len(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 1..6),
        cut in prop::option::weighted(0.1, any::<prop::sample::Index>()),
    ) {
        let mut bytes = std::fs::read(fixture(STATE_DICTS[fixture_number])).unwrap();
        for (place, flip) in flips {
            let place = place.index(bytes.len());
            bytes[place] ^= flip;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Err(error) = read_all(bytes.leak()) {
            prop_assert!(
                matches!(error, Error::Format { .. } | Error::RefusedPickle { .. }),
                "{error}"
            );
        }
    }
}
