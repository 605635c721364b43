//! The whole grid of λ from recorded predictions; samples by second.

mod common;

use common::{print_machine, samples, values};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use jumplens::eval::{CastPredictions, ExitRule, Prediction, TOP_K, early_exit};
use jumplens::models::Kind;
use jumplens::words::Cast;
use std::hint::black_box;

const SAMPLES: usize = 3000;
const LAYERS: usize = 12;

fn exits(c: &mut Criterion) {
    print_machine();
    let mut group = c.benchmark_group("early_exit");
    group.throughput(Throughput::Elements(SAMPLES as u64));
    let rule = ExitRule::new(&samples(SAMPLES, 100), Kind::Causal);
    let prediction = |confidence: f32| Prediction {
        top: [0; TOP_K],
        surprisal: 1.0,
        confidence: f64::from(confidence.abs()),
        kl: 0.0,
        loss: None,
        model_rank: Some(0),
        rank: 1,
    };
    let layers =
        (0..=LAYERS as u64).map(|layer| values(SAMPLES, layer).into_iter().map(prediction).collect());
    let cast = CastPredictions { mapping: Cast::Id, layers: layers.collect() };
    group.bench_function("early_exit_id", |b| b.iter(|| black_box(early_exit(&cast, &rule))));
    group.finish();
}

criterion_group!(benches, exits);
criterion_main!(benches);
