//! Products of matrices in f32 and bf16 on packed factors, decompositions in f64, and work spread over threads; all of it the
//! same bits on any number of threads.

pub mod dense;
pub mod isa;
pub mod matmul;
mod outer;
pub mod parallel;
pub mod simd;

pub use isa::Isa;
pub use matmul::Precision;
pub use outer::add_outer;
