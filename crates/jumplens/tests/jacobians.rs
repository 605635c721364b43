//! Mean Jacobians of the last state by our way back, against those of PyTorch in double precision
//! (`fixtures/make_jacobians.py`), against the plain twins of the layers, and against what is known.

use candle_core::{Device, Tensor};
use jumplens::batch::PackedBatch;
use jumplens::hub::{ModelFiles, Sources};
use jumplens::models::{Backward, Embedding, Kind, Module, Part, PartKind, Slot, Spec, Transformer, load};
use jumplens::nn::{Activation, FeedForward, Isa, Linear, Precision, Rule, WeightLayout, tracked};
use jumplens::progress::Silent;
use safetensors::SafeTensors;
use std::collections::BTreeSet;
use std::path::Path;

fn open(name: &str) -> Transformer {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fixtures = here.join("tests/fixtures/families").join(name);
    let bundled = here.join("../jumplens-assets/assets").join(name);
    let folder = if fixtures.exists() { fixtures } else { bundled };
    let files = ModelFiles::find(folder.to_str().unwrap(), &Sources::default(), &Silent).unwrap();
    load(&files, Precision::F32).unwrap().model
}

/// By layer, with the last, the rows of the mean over `prompts`.
fn jacobians(model: &Transformer, prompts: &[Vec<u32>], rule: Rule) -> Vec<Vec<f64>> {
    let spec = model.spec();
    let d = spec.d_model;
    let backward = Backward::new(model).unwrap();
    let mut found = vec![vec![0f64; d * d]; spec.n_layers + 1];
    for ids in prompts {
        let targets = 16..ids.len() - 1;
        let weight = 1.0 / (targets.len() * prompts.len()) as f64;
        let prompt = backward.run(ids, targets).unwrap();
        let visit = |layer: usize, rows: std::ops::Range<usize>, values: &[f64]| {
            let to = &mut found[layer][rows.start * d..rows.end * d];
            to.iter_mut().zip(values).for_each(|(to, value)| *to += value * weight);
            Ok(())
        };
        backward.jacobian(&prompt, 0..d, rule, visit).unwrap();
    }
    found
}

fn relative(got: impl Iterator<Item = f64> + Clone, want: &[f64]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    assert_eq!(got.clone().count(), want.len());
    norm(&mut got.zip(want).map(|(a, b)| a - b)) / norm(&mut want.iter().copied())
}

#[test]
fn jacobians_of_every_family_agree_with_pytorch() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(here.join("tests/fixtures/jacobians.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let names = expected.names();
    let models: BTreeSet<&str> = names.iter().map(|name| name.split_once('.').unwrap().0).collect();
    assert_eq!(models.len(), 19);
    let mut compared = 0;
    for name in models {
        let model = open(name);
        let (last, d) = (model.spec().n_layers, model.spec().d_model);
        let ids = expected.tensor(&format!("{name}.ids")).unwrap();
        let tokens = ids.shape()[1];
        let ids: Vec<u32> =
            ids.data().as_chunks().0.iter().map(|id| i64::from_le_bytes(*id) as u32).collect();
        let prompts: Vec<Vec<u32>> = ids.chunks(tokens).map(<[u32]>::to_vec).collect();
        assert_eq!(prompts.len(), 4);
        for (lens, rule) in
            [("jacobian", Rule::Whole), ("tangent", Rule::SamePosition), ("relevance", Rule::HeldScales)]
        {
            let found = jacobians(&model, &prompts, rule);
            let identity = (0..d * d).map(|i| if i / d == i % d { 1.0 } else { 0.0 });
            assert!(found[last].iter().copied().eq(identity), "{name}: not the identity at the last layer");
            for (layer, found) in found.iter().take(last).enumerate() {
                let want = expected.tensor(&format!("{name}.{lens}.{layer}")).unwrap();
                let step = d / want.shape()[0];
                let want: Vec<f64> =
                    want.data().as_chunks().0.iter().map(|v| f64::from(f32::from_le_bytes(*v))).collect();
                let rows = found.chunks(d).step_by(step).flatten().copied();
                let relative = relative(rows, &want);
                println!("{name}, {lens}, layer {layer}: {relative:.1e}");
                assert!(relative <= 1e-4, "{name}, {lens}, layer {layer}: relative error {relative:.1e}");
                compared += 1;
            }
        }
    }
    assert!(compared > 100);
}

/// The plain twins carry gradients too.
#[test]
fn they_agree_with_the_plain_twins_on_any_instructions_and_threads() {
    for name in ["tiny-gpt2", "llama", "gpt_neox", "gemma2", "qwen3"] {
        let model = open(name);
        let (spec, d) = (model.spec(), model.spec().d_model);
        let ids: Vec<u32> = (0..30).map(|i| (i * 37 + 5) % spec.vocab_size as u32).collect();
        let rows = [0, 3, d - 1];
        let batch = PackedBatch::whole(&ids);
        let seen = batch.every_row(spec.kind);
        let at = spec.n_layers / 2;
        let mut x = model.embed(&batch).unwrap();
        for block in 0..at {
            x = model.block(block, &x, &seen).unwrap();
        }
        let h = tracked(&x).unwrap();
        let mut x = h.clone();
        for block in at..spec.n_layers {
            x = model.block(block, &x, &seen).unwrap();
        }
        let plain: Vec<f64> = rows
            .iter()
            .flat_map(|row| {
                let sum = x.narrow(0, 16, 13).unwrap().narrow(1, *row, 1).unwrap().sum_all().unwrap();
                let gradient = sum.backward().unwrap().get(&h).unwrap().narrow(0, 16, 13).unwrap();
                (gradient.sum(0).unwrap() / 13.0).unwrap().to_vec1::<f32>().unwrap()
            })
            .map(f64::from)
            .collect();
        let own = || jacobians(&model, std::slice::from_ref(&ids), Rule::Whole).swap_remove(at);
        for isa in Isa::available() {
            let [one, two] = [1, 2].map(|threads| isa.pool(threads).unwrap().install(own));
            assert!(one == two, "{name}: the number of threads changes the Jacobian");
            let got = rows.iter().flat_map(|row| &one[row * d..][..d]).copied();
            let relative = relative(got, &plain);
            assert!(relative < 1e-5, "{name} on {isa:?}: {relative:.1e}");
        }
    }
}

/// Of some coordinates they are the rows of all, and they do not depend on which others are taken along.
#[test]
fn some_rows_are_those_of_all_to_the_last_bit() {
    let model = open("llama");
    let backward = Backward::new(&model).unwrap();
    let ids: Vec<u32> = (0..33).collect();
    let prompt = backward.run(&ids, 16..32).unwrap();
    let rows = |range: std::ops::Range<usize>| {
        let mut found = Vec::new();
        backward
            .jacobian(&prompt, range, Rule::Whole, |layer, rows, values| {
                found.push((layer, rows, values.to_vec()));
                Ok(())
            })
            .unwrap();
        found
    };
    let (all, some) = (rows(0..16), rows(5..14));
    for ((layer, _, all), (other, rows, some)) in all.iter().zip(&some) {
        assert_eq!((layer, rows.clone()), (other, 5..14));
        assert_eq!(all[5 * 16..14 * 16], some[..]);
    }
}

const TOY: &[Part] = &[
    Part { name: "ffn", kind: PartKind::FeedForward, inputs: &[Slot::BlockInput] },
    Part { name: "res", kind: PartKind::Add, inputs: &[Slot::BlockInput, Slot::Part(0)] },
];

/// Blocks that are affine, since all of their units are far above 0, and see one position at a time: the Jacobian is the map.
#[test]
fn of_an_affine_model_it_is_the_map() {
    let (d, hidden, layers) = (24, 40, 3);
    let random = |rows: usize, cols: usize, seed: f64| -> Vec<f32> {
        (0..rows * cols).map(|i| ((i as f64 * 0.731 + seed).sin() * 0.3) as f32).collect()
    };
    let tensor = |values: &[f32], rows: usize, cols: usize| {
        Tensor::from_slice(values, (rows, cols), &Device::Cpu).unwrap()
    };
    let bias = Tensor::full(50f32, hidden, &Device::Cpu).unwrap();
    let mut map: Vec<f64> = (0..d * d).map(|i| if i / d == i % d { 1.0 } else { 0.0 }).collect();
    let mut maps = vec![map.clone()];
    let mut blocks = Vec::new();
    for layer in 0..layers {
        let (first, second) = (random(hidden, d, layer as f64), random(d, hidden, layer as f64 + 0.5));
        let fc = Linear::new(&tensor(&first, hidden, d), Some(&bias), WeightLayout::OutIn, Precision::F32);
        let proj = Linear::new(&tensor(&second, d, hidden), None, WeightLayout::OutIn, Precision::F32);
        let layer = FeedForward { fc: fc.unwrap(), activation: Activation::Relu, proj: proj.unwrap() };
        blocks.push((Module::FeedForward(layer), first, second));
    }
    // From the last block to the first: A ← A·(I + W₂·W₁).
    for (_, first, second) in blocks.iter().rev() {
        let mut block = vec![0f64; d * d];
        for (i, value) in block.iter_mut().enumerate() {
            let product =
                (0..hidden).map(|k| f64::from(second[i / d * hidden + k]) * f64::from(first[k * d + i % d]));
            *value = product.sum::<f64>() + if i / d == i % d { 1.0 } else { 0.0 };
        }
        map = (0..d * d).map(|i| (0..d).map(|k| map[i / d * d + k] * block[k * d + i % d]).sum()).collect();
        maps.push(map.clone());
    }
    maps.reverse();
    let spec = Spec {
        family: "toy",
        kind: Kind::Causal,
        n_layers: layers,
        d_model: d,
        n_heads: 1,
        vocab_size: 30,
        max_positions: 64,
        parts: TOY,
    };
    let embedding = Embedding {
        tokens: tensor(&random(30, d, 9.0), 30, d),
        scale: None,
        project: None,
        positions: None,
        norm: None,
    };
    let blocks = blocks.into_iter().map(|(module, ..)| vec![module, Module::Add]).collect();
    let model = Transformer::new(spec, embedding, blocks, None).unwrap();
    let prompts: Vec<Vec<u32>> = (0..4).map(|p| (0..25).map(|i| (i * 7 + p) % 30).collect()).collect();
    for rule in [Rule::Whole, Rule::SamePosition, Rule::HeldScales] {
        for (layer, (found, map)) in jacobians(&model, &prompts, rule).iter().zip(&maps).enumerate() {
            let relative = relative(found.iter().copied(), map);
            assert!(relative < 1e-6, "layer {layer}: {relative:.1e}");
        }
    }
}

#[test]
fn masked_models_are_refused() {
    let message = Backward::new(&open("tiny-bert")).err().unwrap().to_string();
    assert!(message.contains("masked language model"), "{message}");
}
