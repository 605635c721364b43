//! Attention over packed sequences, beside its plain twin; query rows by second.

mod common;

use common::{print_machine, samples, tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use jumplens::batch::PackedBatch;
use jumplens::models::Kind;
use jumplens::nn::PackedAttention;
use std::hint::black_box;

fn attention(c: &mut Criterion) {
    print_machine();
    let mut group = c.benchmark_group("attention");
    group.sample_size(20);
    let batch = &PackedBatch::pack(&samples(200, 30_000), Kind::Causal, 1024)[0];
    let tokens = batch.tokens();
    group.throughput(Throughput::Elements(tokens as u64));
    let rows = batch.every_row(Kind::Causal);
    // GPT-2 small, SmolLM2-135M.
    for (name, n_heads, n_kv_heads, d) in [("12_heads", 12, 12, 768), ("9_heads_3_shared", 9, 3, 576)] {
        let d_kv = d / n_heads * n_kv_heads;
        let (q, k, v) = (tensor(&[tokens, d], 1), tensor(&[tokens, d_kv], 2), tensor(&[tokens, d_kv], 3));
        let attention = PackedAttention { n_heads, n_kv_heads, scale: 0.125, soft_cap: None, rows: &rows };
        group.bench_function(format!("attention_{name}"), |b| {
            b.iter(|| black_box(attention.forward(&q, &k, &v).unwrap()));
        });
        group.bench_function(format!("attention_{name}_plain"), |b| {
            b.iter(|| black_box(attention.forward_plain(&q, &k, &v).unwrap()));
        });
    }
    group.finish();
}

criterion_group!(benches, attention);
criterion_main!(benches);
