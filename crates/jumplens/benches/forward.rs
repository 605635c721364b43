//! Hidden states of all layers, at real sizes; tokens by second.

mod common;

use common::{PRECISIONS, model, print_machine, samples};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use jumplens::states::run_samples;
use std::hint::black_box;

fn forward(c: &mut Criterion) {
    print_machine();
    let mut group = c.benchmark_group("forward");
    group.sample_size(10);
    for name in ["gpt2", "bert-base-uncased", "SmolLM2-135M"] {
        for (dtype, precision) in PRECISIONS {
            let model = model(name, precision);
            let samples = samples(128, 30_000);
            let tokens: usize = samples.iter().map(|s| s.ids_to_run(model.spec().kind).len()).sum();
            group.throughput(Throughput::Elements(tokens as u64));
            group.bench_function(format!("forward_{name}_{dtype}"), |b| {
                b.iter(|| black_box(run_samples(&model, &samples, true).unwrap()));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, forward);
criterion_main!(benches);
