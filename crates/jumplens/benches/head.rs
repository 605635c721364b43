//! The logits of many states over GPT-2's vocabulary, with what is read off them; states by second.

mod common;

use common::{PRECISIONS, print_machine, values};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use jumplens::eval::{TOP_K, Unembedding, scan};
use std::hint::black_box;

const D: usize = 768;
const VOCAB: usize = 50257;

fn head(c: &mut Criterion) {
    print_machine();
    let mut group = c.benchmark_group("head");
    // 8 sentences, the model's own state and 60 casts.
    let (sentences, variants) = (8, 61);
    let (rows, weight) = (values(variants * sentences * D, 1), values(VOCAB * D, 2));
    group.throughput(Throughput::Elements((variants * sentences) as u64)).sample_size(10);
    for (name, precision) in PRECISIONS {
        let unembedding = Unembedding::new(&weight, D, None, None, precision);
        group.bench_function(format!("head_{name}"), |b| {
            b.iter(|| black_box(scan(&rows, &unembedding, TOP_K, &vec![Some(7); sentences])));
        });
    }
    group.finish();
}

criterion_group!(benches, head);
criterion_main!(benches);
