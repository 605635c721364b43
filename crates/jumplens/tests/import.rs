//! Maps that other programs wrote (`fixtures/make_shortcut_fixtures.py`): what torch, NumPy, scikit-learn and tuned-lens
//! saved is what is read, and nothing in a pickle is run.

use candle_core::{Device, Tensor};
use jumplens::hub::{ModelFiles, SourceFile, Sources};
use jumplens::lens::{Input, Lens, View};
use jumplens::models::{PRE_NORM_PARTS, load};
use jumplens::nn::Precision;
use jumplens::progress::Silent;
use jumplens::shortcut::{Foreign, LinearMap, Origin, Shortcuts};
use jumplens::states::run_samples;
use jumplens::tokenize::Sample;
use jumplens::words::Cast;
use jumplens::{Error, Result};
use proptest::prelude::*;
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

const D: usize = 4;
const LAYERS: usize = 3;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/shortcuts").join(name)
}

fn read(name: &str) -> Foreign {
    Foreign::read(&fixture(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[track_caller]
fn refused(name: &str) -> Error {
    Foreign::read(&fixture(name)).expect_err(name)
}

/// What Python has of it.
fn expected(name: &str) -> Vec<f32> {
    let bytes = std::fs::read(fixture("expected.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    tensors.tensor(name).unwrap().data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// sin √k for n numbers k from `start` on, by which the fixtures are made.
fn by_rule(start: usize, n: usize) -> Vec<f32> {
    (start..start + n).map(|k| (k as f64).sqrt().sin() as f32).collect()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn bias(map: &LinearMap) -> Option<Vec<f32>> {
    map.bias().map(<[f32]>::to_vec)
}

#[test]
fn pickles_of_the_reference_are_the_matrices_that_torch_saved() {
    let foreign = read("reference");
    assert_eq!((foreign.format, foreign.width(), foreign.n_layers()), ("pickle", D, Some(LAYERS)));
    assert!(foreign.passed_over.is_empty());
    assert_eq!(foreign.pairs.len(), 6);
    for ((from, to), map) in &foreign.pairs {
        assert_eq!(map.weight(), by_rule(100 * from + 10 * to + 1, D * D), "{from} to {to}");
        assert_eq!(bias(map), None);
    }
    assert_eq!(foreign.parts.len(), 6 * LAYERS);
    for ((block, part), map) in &foreign.parts {
        assert_eq!(map.weight(), by_rule(1000 * block + 20 * part + 1, D * D), "{block}, {part}");
    }
    let out = tempfile::tempdir().unwrap();
    assert_eq!(foreign.save(out.path(), &Origin::default(), None, PRE_NORM_PARTS).unwrap(), [Cast::MAT]);
    let saved = Shortcuts::new(out.path());
    assert_eq!(saved.targets(0).unwrap(), [1, 2, 3]);
    let map = saved.load_pairs(1, &[2], D).unwrap().remove(&2).unwrap();
    assert_eq!(map.weight(), by_rule(121, D * D));
    // p2_4_5: the fifth part of a GPT-2 block is the feed-forward one.
    assert_eq!(saved.load_part(2, "ffn", D).unwrap().weight(), by_rule(2081, D * D));
}

#[test]
fn coefficients_of_scikit_learn_are_read_whatever_their_strides() {
    for folder in ["scikit", "scikit_intercept"] {
        let foreign = read(folder);
        assert_eq!(foreign.pairs.len(), LAYERS);
        for ((from, _), map) in &foreign.pairs {
            assert_eq!(map.weight(), expected(&format!("{folder}/{from}")));
            let intercept =
                (folder == "scikit_intercept").then(|| expected(&format!("{folder}/{from}.bias")));
            assert_eq!(bias(map), intercept);
        }
        let out = tempfile::tempdir().unwrap();
        let cast = if folder == "scikit" { "mat" } else { "mat+b" };
        assert_eq!(foreign.save(out.path(), &Origin::default(), None, &[]).unwrap(), [Cast::from(cast)]);
        assert_eq!(
            foreign.save(out.path(), &Origin::default(), Some(&"mine".into()), &[]).unwrap(),
            [Cast::from("mine")]
        );
        assert_eq!(Shortcuts::new(out.path()).casts().unwrap(), [cast, "mine"].map(Cast::from));
    }
}

/// `file` under a name that says what it maps.
fn as_map(file: &Path) -> Result<Foreign> {
    let folder = tempfile::tempdir().unwrap();
    let named = folder.path().join("0_3.pickle");
    std::fs::copy(file, &named).unwrap();
    Foreign::read(&named)
}

#[test]
fn every_layout_of_a_matrix_gives_the_same_bytes() {
    let mut read = 0;
    for file in std::fs::read_dir(fixture("layouts")).unwrap() {
        let file = file.unwrap().path();
        let foreign = as_map(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert_eq!(foreign.pairs[&(0, 3)].weight(), expected("matrix"), "{}", file.display());
        assert_eq!(bias(&foreign.pairs[&(0, 3)]), None, "{}", file.display());
        read += 1;
    }
    assert_eq!(read, 33);
    let half = as_map(&fixture("half.pickle")).unwrap();
    assert_eq!(half.pairs[&(0, 3)].weight(), expected("half"));
}

#[test]
fn arrays_of_numpy_and_tensors_of_safetensors_are_read() {
    for name in ["npy", "maps.npz", "maps.safetensors", "affine.npz"] {
        let foreign = read(name);
        assert_eq!(foreign.pairs.len(), LAYERS, "{name}");
        for ((from, to), map) in &foreign.pairs {
            assert_eq!(map.weight(), by_rule(100 * from + 10 * to + 1, D * D), "{name}, {from}");
            assert_eq!(bias(map), (name == "affine.npz").then(|| by_rule(7, D)), "{name}, {from}");
        }
    }
    let error = refused("compressed.npz").to_string();
    assert!(error.contains("compressed") && error.contains("numpy.savez"), "{error}");
}

#[test]
fn a_tuned_lens_adds_its_map_to_the_state() {
    let foreign = read("tuned_lens");
    assert_eq!(foreign.origin.model.as_deref(), Some("made-up"));
    let h = expected("tuned_lens/h");
    for layer in 0..2 {
        let got = foreign.pairs[&(layer, 2)].apply(&h);
        for (got, want) in got.iter().zip(expected(&format!("tuned_lens/{layer}"))) {
            assert!((got - want).abs() < 1e-6, "layer {layer}: {got}, torch has {want}");
        }
    }
}

#[test]
fn a_tuned_lens_gives_the_logits_of_its_formula() {
    let out = tempfile::tempdir().unwrap();
    read("tuned_lens").save(out.path(), &Origin::default(), None, &[]).unwrap();
    let folder = fixture("../pytorch/gpt2");
    let files = ModelFiles::find(folder.to_str().unwrap(), &Sources::default(), &Silent).unwrap();
    let model = load(&files, Precision::F32).unwrap().model;
    let head = model.head().unwrap();
    let ids = vec![1, 9, 4, 4, 2];
    let shortcuts = Shortcuts::new(out.path());
    let lens = Lens::new(&model, head, Precision::F32, Some(&shortcuts), &[Cast::Tuned]).unwrap();
    let input = Input { text: String::new(), ids: ids.clone() };
    let reading = lens.read("gpt2", &[input], None, &View { top: 10, ..View::default() }).unwrap();
    for position in 0..ids.len() {
        let sample = Sample { ids: ids.clone(), position, target: None, text: None };
        let states = run_samples(&model, &[sample], false).unwrap().layers;
        for (layer, h) in states[..2].iter().enumerate() {
            let (w, b) = (
                expected(&format!("tuned_lens/{layer}/weight")),
                expected(&format!("tuned_lens/{layer}/bias")),
            );
            let moved: Vec<f32> = (0..D)
                .map(|i| {
                    let product: f64 = (0..D).map(|j| f64::from(w[i * D + j]) * f64::from(h[j])).sum();
                    (f64::from(h[i]) + product + f64::from(b[i])) as f32
                })
                .collect();
            let logits =
                values(&head.logits(&Tensor::from_vec(moved, (1, D), &Device::Cpu).unwrap()).unwrap());
            let total: f64 = logits.iter().map(|z| f64::from(*z).exp()).sum();
            let cell = &reading[0].casts[0].cells[layer][position];
            assert_eq!(cell.top.len(), 10);
            for guess in &cell.top {
                let want = f64::from(logits[guess.id as usize]).exp() / total;
                let got = f64::from(guess.probability);
                assert!((got - want).abs() < 1e-6, "layer {layer}, {position}, {}: {got}, {want}", guess.id);
            }
        }
    }
}

#[test]
fn commands_are_refused_by_name_and_not_run() {
    let error = refused("malicious");
    let Error::RefusedPickle { callable, path } = &error else { panic!("{error}") };
    assert_eq!((callable.as_str(), path), ("posix.system", &fixture("malicious/0_3.pickle")));
    assert!(!Path::new("the_pickle_was_run").exists());
}

#[test]
fn a_folder_without_maps_says_what_is_read() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("results.pickle"), "x").unwrap();
    std::fs::write(folder.path().join("3_1.npy"), "x").unwrap();
    let error = Foreign::read(folder.path()).unwrap_err().to_string();
    assert!(error.contains("no maps") && error.contains("0_12.pickle"), "{error}");
    assert!(matches!(Foreign::read(&folder.path().join("none")), Err(Error::Io { .. })));
}

#[test]
fn maps_of_several_widths_or_shapes_are_refused_by_file() {
    let folder = tempfile::tempdir().unwrap();
    let npy = |name: &str, rows: usize, cols: usize| {
        let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {cols}), }}");
        header.push('\n');
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.bytes());
        bytes.resize(bytes.len() + 4 * rows * cols, 0);
        std::fs::write(folder.path().join(name), bytes).unwrap();
    };
    npy("0_1.npy", 2, 2);
    assert_eq!(Foreign::read(folder.path()).unwrap().width(), 2);
    for (rows, cols, says) in [(3, 3, "width 3"), (2, 3, "square"), (0, 0, "square")] {
        npy("1_2.npy", rows, cols);
        let error = Foreign::read(folder.path()).unwrap_err();
        assert!(matches!(error, Error::Format { .. }), "{error}");
        let error = error.to_string();
        assert!(error.contains("1_2.npy") && error.contains(says), "{error}");
    }
}

/// Files of every kind that is read, each with a name under which it is.
const SEEDS: [(&str, &str); 8] = [
    ("layouts/contiguous.pickle", "0_3.pickle"),
    ("layouts/rows_apart.5.pickle", "0_3.pickle"),
    ("layouts/array_columns.pickle", "0_3.pickle"),
    ("layouts/array.5.pickle", "0_3.pickle"),
    ("layouts/list_with_scalar.3.pickle", "0_3.pickle"),
    ("npy/1_3.npy", "1_3.npy"),
    ("affine.npz", "affine.npz"),
    ("maps.safetensors", "maps.safetensors"),
];

#[test]
fn files_that_are_cut_short_anywhere_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (seed, name) in SEEDS {
        let whole = std::fs::read(fixture(seed)).unwrap();
        let path = folder.path().join(name);
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let error = Foreign::read(&path).expect_err(&format!("{seed} of {length} bytes"));
            assert!(matches!(error, Error::Format { .. }), "{seed} of {length} bytes: {error}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    #[test]
    fn damaged_files_are_read_or_refused(
        number in 0..SEEDS.len(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 1..6),
    ) {
        let (seed, name) = SEEDS[number];
        let mut bytes = std::fs::read(fixture(seed)).unwrap();
        for (place, flip) in flips {
            let place = place.index(bytes.len());
            bytes[place] ^= flip;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        if let Err(error) = Foreign::read(&path) {
            prop_assert!(!error.is_bug(), "{error}");
        }
    }
}

#[test]
fn what_is_only_claimed_is_not_allocated() {
    // A NumPy array of 2^60 rows, and one whose bytes do not make its shape.
    for shape in [
        "(1152921504606846976, 1152921504606846976)",
        "(1152921504606846976, 4)",
        "(4, 5)",
        "(0, 1152921504606846976)",
    ] {
        let header = format!("{{'descr': '<f4', 'fortran_order': True, 'shape': {shape}, }}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.bytes());
        bytes.resize(bytes.len() + 64, 0);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0_1.npy");
        std::fs::write(&path, bytes).unwrap();
        let error = Foreign::read(&path).unwrap_err();
        assert!(matches!(error, Error::Format { .. }), "{shape}: {error}");
    }
}

#[test]
fn a_file_of_maps_stands_for_a_folder() {
    let shortcuts = Shortcuts::in_file(SourceFile::open(&fixture("maps.safetensors")).unwrap()).unwrap();
    assert_eq!((shortcuts.casts().unwrap(), shortcuts.sources().unwrap()), (vec![Cast::MAT], vec![0, 1, 2]));
    assert_eq!(shortcuts.targets(1).unwrap(), [3]);
    let map = shortcuts.load_pairs(1, &[3], D).unwrap().remove(&3).unwrap();
    assert_eq!(map.weight(), by_rule(131, D * D));
}

/// `numpy.load` gives the last of the two, other readers the first.
#[test]
fn an_archive_with_a_name_twice_is_refused_by_it() {
    let mut bytes = std::fs::read(fixture("maps.npz")).unwrap();
    let (from, to) = (b"0_3.npy", b"1_3.npy");
    let places: Vec<usize> =
        (0..bytes.len() - from.len()).filter(|at| bytes[*at..].starts_with(from)).collect();
    assert_eq!(places.len(), 2, "in front of the array, and in the list of all");
    places.into_iter().for_each(|at| bytes[at..at + to.len()].copy_from_slice(to));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("maps.npz");
    std::fs::write(&path, bytes).unwrap();
    let error = Foreign::read(&path).unwrap_err().to_string();
    assert!(error.contains("its record `1_3.npy` is in it twice"), "{error}");
}
