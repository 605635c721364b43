//! Vector–Jacobian products of a prompt of 128 tokens, 64 cotangents, back to every layer, at real sizes;
//! `tools/bench_jacobian.py` does the same in PyTorch.

mod common;

use common::{model, print_machine};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use jumplens::models::Backward;
use jumplens::nn::{Precision, Rule};
use std::hint::black_box;
use std::time::Duration;

fn jacobian(c: &mut Criterion) {
    print_machine();
    let mut group = c.benchmark_group("jacobian");
    group.sample_size(10).measurement_time(Duration::from_secs(1));
    let model = model("SmolLM2-135M", Precision::F32);
    let ids: Vec<u32> = (0..128).map(|i| (i * 397 + 11) % model.spec().vocab_size as u32).collect();
    let backward = Backward::new(&model).unwrap();
    group.throughput(Throughput::Elements(64));
    for (name, rule) in
        [("jacobian", Rule::Whole), ("tangent", Rule::SamePosition), ("relevance", Rule::HeldScales)]
    {
        group.bench_function(format!("{name}_SmolLM2-135M"), |b| {
            b.iter(|| {
                let prompt = backward.run(&ids, 16..127).unwrap();
                backward
                    .jacobian(&prompt, 0..64, rule, |_, _, rows| {
                        black_box(rows);
                        Ok(())
                    })
                    .unwrap();
            });
        });
    }
    group.finish();
}

criterion_group!(benches, jacobian);
criterion_main!(benches);
