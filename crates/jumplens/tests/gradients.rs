//! Gradients of logits with respect to hidden states, through the plain operations of every family, against those of PyTorch
//! in double precision (`fixtures/make_gradients.py`).

use candle_core::{Device, Tensor};
use jumplens::batch::PackedBatch;
use jumplens::hub::{ModelFiles, Sources};
use jumplens::models::{Transformer, load};
use jumplens::nn::{Precision, tracked};
use jumplens::progress::Silent;
use safetensors::SafeTensors;
use std::collections::BTreeSet;
use std::path::Path;

/// The gradient of Σ c·logits with respect to h_l, `[tokens, d]`, row by row.
fn gradient(model: &Transformer, ids: &[u32], layer: usize) -> Vec<f32> {
    let spec = model.spec();
    let batch = PackedBatch::whole(ids);
    let rows = batch.every_row(spec.kind);
    let mut x = model.embed(&batch).unwrap();
    for block in 0..layer {
        x = model.block(block, &x, &rows).unwrap();
    }
    let h = tracked(&x).unwrap();
    let mut x = h.clone();
    for block in layer..spec.n_layers {
        x = model.block(block, &x, &rows).unwrap();
    }
    let logits = model.head().unwrap().logits(&x).unwrap();
    let c: Vec<f32> = (0..logits.elem_count()).map(|i| (0.37 * i as f64 + 0.1).cos() as f32).collect();
    let c = Tensor::from_vec(c, logits.shape(), &Device::Cpu).unwrap();
    let gradients = (logits * c).unwrap().sum_all().unwrap().backward().unwrap();
    gradients.get(&h).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn gradients_of_every_family_agree_with_pytorch() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(here.join("tests/fixtures/gradients.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let models: BTreeSet<&str> =
        expected.names().iter().map(|name| name.split_once('.').unwrap().0).collect();
    assert_eq!(models.len(), 20);
    for name in models {
        let fixtures = here.join("tests/fixtures/families").join(name);
        let bundled = here.join("../jumplens-assets/assets").join(name);
        let folder = if fixtures.exists() { fixtures } else { bundled };
        let files = ModelFiles::find(folder.to_str().unwrap(), &Sources::default(), &Silent).unwrap();
        let model = load(&files, Precision::F32).unwrap().model;
        let ids = expected.tensor(&format!("{name}.ids")).unwrap();
        let ids: Vec<u32> =
            ids.data().as_chunks().0.iter().map(|id| i64::from_le_bytes(*id) as u32).collect();
        let last = model.spec().n_layers;
        for layer in [0, last / 2, last] {
            let want = expected.tensor(&format!("{name}.{layer}")).unwrap();
            let want: Vec<f32> = want.data().as_chunks().0.iter().map(|v| f32::from_le_bytes(*v)).collect();
            let got = gradient(&model, &ids, layer);
            assert_eq!(got.len(), want.len());
            let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
            let difference = norm(&mut got.iter().zip(&want).map(|(a, b)| f64::from(a - b)));
            let relative = difference / norm(&mut want.iter().map(|x| f64::from(*x)));
            println!("{name}, layer {layer}: {relative:.1e}");
            assert!(relative <= 1e-4, "{name}, layer {layer}: relative error {relative:.1e}");
        }
    }
}
