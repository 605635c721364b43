//! Rates of matrix products: a layer's, and those of the libraries that it could be made of.

mod common;

use common::{PRECISIONS, print_machine, tensor, values};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use jumplens::nn::{Linear, WeightLayout};
use std::hint::black_box;

const M: usize = 2048;
const K: usize = 768;
const N: usize = 3072;

fn matmul(c: &mut Criterion) {
    print_machine();
    let mut group = c.benchmark_group("matmul");
    // Operations, so that criterion's "elements by second" are those.
    group.throughput(Throughput::Elements(2 * (M * K * N) as u64)).sample_size(20);
    let (x, weight) = (tensor(&[M, K], 1), tensor(&[K, N], 2));
    for (name, precision) in PRECISIONS {
        let layer = Linear::new(&weight, None, WeightLayout::InOut, precision).unwrap();
        group.bench_function(format!("matmul_{name}_{M}x{K}x{N}"), |b| {
            b.iter(|| black_box(layer.forward(&x).unwrap()));
        });
    }
    let (a, b, mut out) = (values(M * K, 1), values(K * N, 2), vec![0f32; M * N]);
    let threads = rayon::current_num_threads();
    group.bench_function(format!("gemm_crate_f32_{M}x{K}x{N}"), |bench| {
        bench.iter(|| {
            // SAFETY: all three are row-major matrices of the sizes that are given.
            unsafe {
                gemm::gemm(
                    M,
                    N,
                    K,
                    out.as_mut_ptr(),
                    1,
                    N as isize,
                    false,
                    a.as_ptr(),
                    1,
                    K as isize,
                    b.as_ptr(),
                    1,
                    N as isize,
                    1.0,
                    1.0,
                    false,
                    false,
                    false,
                    gemm::Parallelism::Rayon(threads),
                );
            }
        });
    });
    let faer = |values: &[f32], rows, cols| faer::MatRef::from_row_major_slice(values, rows, cols).to_owned();
    let (a, b, mut out) = (faer(&a, M, K), faer(&b, K, N), faer::Mat::<f32>::zeros(M, N));
    group.bench_function(format!("faer_f32_{M}x{K}x{N}"), |bench| {
        bench.iter(|| {
            let accum = faer::Accum::Replace;
            faer::linalg::matmul::matmul(out.as_mut(), accum, &a, &b, 1.0, faer::Par::rayon(0));
        });
    });
    group.finish();
}

criterion_group!(benches, matmul);
criterion_main!(benches);
