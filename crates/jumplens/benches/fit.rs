//! All maps between the layers of a model of GPT-2 small's size, from state files to map files, and the bare matrix
//! products that this takes.

mod common;

use common::{print_machine, tensor, values};
use criterion::{Criterion, criterion_group, criterion_main};
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, Mat, Par};
use jumplens::models::Sizes;
use jumplens::nn::{Linear, Precision, WeightLayout};
use jumplens::progress::Silent;
use jumplens::shortcut::{Fits, Pairs, Shortcuts, fit_pairs};
use jumplens::states::StateFiles;
use safetensors::tensor::{Dtype, TensorView};
use std::hint::black_box;
use std::path::Path;

const SAMPLES: usize = 9000;
const D: usize = 768;
const LAYERS: usize = 12;

/// States that go on from layer to layer as a residual stream does, with a few large coordinates.
fn save_states(run: &Path) {
    let folder = run.join("states/train");
    std::fs::create_dir_all(&folder).unwrap();
    let mut h = values(SAMPLES * D, 1);
    for (i, h) in h.iter_mut().enumerate() {
        *h *= if i % D % 97 == 5 { 100.0 } else { 1.0 };
    }
    for layer in 0..=LAYERS {
        let view = TensorView::new(Dtype::F32, vec![SAMPLES, D], bytemuck::cast_slice(&h)).unwrap();
        let path = folder.join(format!("{layer:02}.safetensors"));
        safetensors::serialize_to_file([("states", view)], None, &path).unwrap();
        for (h, change) in h.iter_mut().zip(values(SAMPLES * D, 2 + layer as u64)) {
            *h = 0.9 * *h + 0.5 * change;
        }
    }
}

fn fit(c: &mut Criterion) {
    print_machine();
    let mut group = c.benchmark_group("fit");
    group.sample_size(10);
    let run = tempfile::tempdir().unwrap();
    save_states(run.path());
    let sizes = Sizes { n_layers: LAYERS, d_model: D };
    let lenses = jumplens::lenses::chosen(&Fits::plain(Pairs::All)).unwrap();
    let (states, shortcuts) = (StateFiles::new(run.path(), "train"), Shortcuts::new(run.path().join("maps")));
    group.bench_function(format!("fit_all_pairs_{SAMPLES}x{D}"), |b| {
        b.iter(|| fit_pairs(sizes, &states, Pairs::All, &lenses, &shortcuts, &Silent).unwrap());
    });

    // A source layer: XᵀX and X·T, half of each, in f64. A pair: (X·T)ᵀ·Y in f32.
    let x = Mat::from_fn(SAMPLES, D, |i, j| ((i * 31 + j * 17) % 101) as f64 / 101.0);
    let t = Mat::from_fn(D, D, |i, j| if i <= j { 1.0 / (1.0 + (j - i) as f64) } else { 0.0 });
    let whole = BlockStructure::Rectangular;
    let basis = tensor(&[D, SAMPLES], 1);
    let targets = Linear::new(&tensor(&[SAMPLES, D], 2), None, WeightLayout::InOut, Precision::F32).unwrap();
    group.bench_function(format!("fit_bare_products_{SAMPLES}x{D}"), |b| {
        b.iter(|| {
            for _ in 0..LAYERS {
                let mut gram = Mat::<f64>::zeros(D, D);
                triangular::matmul(
                    gram.as_mut(),
                    BlockStructure::TriangularLower,
                    Accum::Replace,
                    x.transpose(),
                    whole,
                    x.as_ref(),
                    whole,
                    1.0,
                    Par::rayon(0),
                );
                let mut applied = Mat::<f64>::zeros(SAMPLES, D);
                triangular::matmul(
                    applied.as_mut(),
                    whole,
                    Accum::Replace,
                    x.as_ref(),
                    whole,
                    t.as_ref(),
                    BlockStructure::TriangularUpper,
                    1.0,
                    Par::rayon(0),
                );
                black_box((gram, applied));
            }
            for _ in 0..Pairs::All.count(LAYERS) {
                black_box(targets.forward(&basis).unwrap());
            }
        });
    });
    group.finish();
}

criterion_group!(benches, fit);
criterion_main!(benches);
