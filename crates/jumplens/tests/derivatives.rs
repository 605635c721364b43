//! Lenses that are mean derivatives, from prompts to folders.

mod common;

use common::sources;
use jumplens::jacobian::{JACOBIANS, PromptSource, Request, fit};
use jumplens::progress::{Observer, Silent};
use jumplens::shortcut::Shortcuts;
use jumplens::words::{Cast, DerivativeCast};
use jumplens::{Error, Result};
use safetensors::SafeTensors;
use std::cell::Cell;
use std::path::Path;

/// The prompts of `fixtures/make_jacobians.py` for a model, as a file of token ids.
fn prompts_of(expected: &SafeTensors, name: &str, path: &Path) {
    let ids = expected.tensor(&format!("{name}.ids")).unwrap();
    let all: Vec<i64> = ids.data().as_chunks().0.iter().map(|id| i64::from_le_bytes(*id)).collect();
    let lines = all.chunks(ids.shape()[1]).map(|ids| format!("{{\"ids\": {ids:?}}}\n"));
    std::fs::write(path, lines.collect::<String>()).unwrap();
}

fn request(model: &str, prompts: PromptSource) -> Request {
    let casts = DerivativeCast::ALL.to_vec();
    Request { model: model.to_owned(), casts, prompts, shard: None, trim: None, overwrite: false }
}

#[test]
fn maps_in_a_folder_are_those_of_pytorch() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let bytes = std::fs::read(here.join("jacobians.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let at = tempfile::tempdir().unwrap();
    for name in ["tiny-gpt2", "llama", "gpt_neox"] {
        let (prompts, out) = (at.path().join(format!("{name}.jsonl")), at.path().join(name));
        prompts_of(&expected, name, &prompts);
        let family = here.join("families").join(name);
        let model = if family.exists() { family.display().to_string() } else { name.to_owned() };
        let outcome = fit(&request(&model, PromptSource::Ids(prompts)), &out, &sources(), &Silent).unwrap();
        assert!(outcome.has_maps && outcome.prompts == 4);
        let shortcuts = Shortcuts::open(&out).unwrap();
        let mut casts = DerivativeCast::ALL.map(Cast::Derivative);
        casts.sort();
        assert_eq!(shortcuts.casts().unwrap(), casts);
        for cast in casts {
            let maps = shortcuts.cast(&cast);
            let layers = maps.sources().unwrap();
            for layer in &layers {
                let d = maps.width(*layer).unwrap();
                let map = maps.load_pairs(*layer, &[layers.len()], d).unwrap().remove(&layers.len()).unwrap();
                let want = expected.tensor(&format!("{name}.{cast}.{layer}")).unwrap();
                let step = d / want.shape()[0];
                let want = want.data().as_chunks().0.iter().map(|v| f64::from(f32::from_le_bytes(*v)));
                let got = map.weight().chunks(d).step_by(step).flatten().map(|v| f64::from(*v));
                let (mut off, mut all) = (0.0, 0.0);
                got.zip(want).for_each(|(got, want)| {
                    off += (got - want).powi(2);
                    all += want.powi(2);
                });
                assert!((off / all).sqrt() <= 1e-4, "{name}, {cast}, layer {layer}");
            }
        }
    }
}

/// Wants to stop once so much is done.
struct StopsAfter(Cell<i64>);

impl Observer for StopsAfter {
    fn advance(&self, amount: u64) {
        self.0.set(self.0.get() - amount as i64);
    }

    fn cancelled(&self) -> bool {
        self.0.get() <= 0
    }
}

fn bytes_of(folder: &Path, cast: &str) -> Vec<Vec<u8>> {
    (0..12)
        .map(|layer| std::fs::read(folder.join(cast).join(format!("{layer:02}.safetensors"))).unwrap())
        .collect()
}

/// Stopped again and again, within a prompt or between two, it ends with the same bytes, and goes on from what was done.
#[test]
fn what_was_stopped_goes_on_to_the_same_bytes() {
    let at = tempfile::tempdir().unwrap();
    let prompts = PromptSource::Corpus {
        name: "wikipedia-sample".to_owned(),
        reading: Default::default(),
        prompts: 5,
        tokens: 24,
        seed: 0,
    };
    let request = Request {
        casts: vec![DerivativeCast::Jacobian, DerivativeCast::Tangent],
        ..request("tiny-gpt2", prompts)
    };
    let (whole, stopped) = (at.path().join("whole"), at.path().join("stopped"));
    fit(&request, &whole, &sources(), &Silent).unwrap();
    let prompt = 2 * 12 * 128;
    let mut stops = 0;
    loop {
        let observer = StopsAfter(Cell::new(prompt * 3 / 2));
        let found: Result<_> = fit(&request, &stopped, &sources(), &observer);
        match found {
            Ok(_) => break,
            Err(Error::Interrupted) => stops += 1,
            Err(error) => panic!("{error}"),
        }
        assert!(stopped.join(JACOBIANS).is_file());
        assert!(matches!(Shortcuts::open(&stopped), Err(Error::Unfinished { .. })));
        assert!(stops < 5, "nothing was kept");
    }
    assert!(stops >= 3);
    for cast in ["jacobian", "tangent"] {
        assert_eq!(bytes_of(&whole, cast), bytes_of(&stopped, cast));
    }
    for table in ["convergence.csv", "prompts.csv"] {
        let read = |folder: &Path| std::fs::read_to_string(folder.join("results").join(table)).unwrap();
        assert_eq!(read(&whole), read(&stopped));
    }
    // Of another experiment nothing is mixed in, nor replaced.
    let other = at.path().join("other");
    let observer = StopsAfter(Cell::new(prompt * 3 / 2));
    assert!(matches!(fit(&request, &other, &sources(), &observer), Err(Error::Interrupted)));
    let fewer = Request { casts: vec![DerivativeCast::Jacobian], ..request.clone() };
    assert!(matches!(fit(&fewer, &other, &sources(), &Silent), Err(Error::Differs { .. })));
    fit(&Request { overwrite: true, ..fewer.clone() }, &other, &sources(), &Silent).unwrap();
    assert_eq!(bytes_of(&whole, "jacobian"), bytes_of(&other, "jacobian"));
    assert!(matches!(fit(&fewer, &other, &sources(), &Silent), Err(Error::Occupied { .. })));
}

/// The running figures are those of the prompts' own Jacobians: with one prompt left out of three, the mean moves so much.
#[test]
fn convergence_is_what_prompts_change() {
    let at = tempfile::tempdir().unwrap();
    let ids = |seed: u32, n: u32| (0..n).map(|i| (i * 31 + seed) % 4000).collect::<Vec<u32>>();
    let lines: Vec<String> =
        [ids(1, 20), ids(5, 24), ids(9, 22)].iter().map(|ids| format!("{{\"ids\": {ids:?}}}\n")).collect();
    let maps = |lines: &[String], name: &str| -> Vec<Vec<f64>> {
        let path = at.path().join(format!("{name}.jsonl"));
        std::fs::write(&path, lines.concat()).unwrap();
        let out = at.path().join(name);
        let casts = vec![DerivativeCast::Jacobian];
        fit(&Request { casts, ..request("tiny-gpt2", PromptSource::Ids(path)) }, &out, &sources(), &Silent)
            .unwrap();
        let maps = Shortcuts::open(&out).unwrap().cast(&Cast::Derivative(DerivativeCast::Jacobian));
        let map = |layer| maps.load_pairs(layer, &[12], 128).unwrap().remove(&12).unwrap();
        (0..12).map(|layer| map(layer).weight().iter().map(|v| f64::from(*v)).collect()).collect()
    };
    let (two, three) = (maps(&lines[..2], "two"), maps(&lines, "three"));
    let each: Vec<_> = (0..3).map(|i| maps(&lines[i..=i], &format!("one{i}"))).collect();
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let table = std::fs::read_to_string(at.path().join("three/results/convergence.csv")).unwrap();
    for layer in [0, 5, 11] {
        let row = table.lines().find(|row| row.starts_with(&format!("jacobian,{layer},1,3,"))).unwrap();
        let cells: Vec<f64> = row.split(',').skip(4).map(|cell| cell.parse().unwrap()).collect();
        let mean = norm(&mut three[layer].iter().copied());
        let change = norm(&mut three[layer].iter().zip(&two[layer]).map(|(a, b)| a - b)) / mean;
        let spread: f64 = each
            .iter()
            .map(|one| norm(&mut one[layer].iter().zip(&three[layer]).map(|(a, b)| a - b)).powi(2))
            .sum();
        let error = (spread / 2.0 / 3.0).sqrt() / mean;
        for (got, want) in cells.iter().zip([norm(&mut each[2][layer].iter().copied()), change, error]) {
            assert!((got / want - 1.0).abs() < 1e-4, "layer {layer}: {got} against {want}");
        }
    }
}
