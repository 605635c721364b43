//! The map between two matrices, and how much of the second it explains on rows that it was not fitted on.
//!
//! `cargo run --release --example fit_two_matrices`

use jumplens_core::cast::{Kind, Ridge};
use jumplens_core::{Options, fit, r2};

fn main() -> jumplens_core::Result<()> {
    // 600 rows of width 24, and a target of width 8 that depends on them and on something else.
    let (n, d_in, d_out) = (600, 24, 8);
    let noise = |i: usize| ((i * 7919 % 10_007) as f32 / 10_007.0 - 0.5) + ((i * 31) as f32).sin();
    let x: Vec<f32> = (0..n * d_in).map(noise).collect();
    let target = |row: &[f32], j: usize| row[j] - 2.0 * row[j + d_out] + 0.3 * row[j + 1].tanh() + 1.0;
    let y: Vec<f32> = x.chunks(d_in).flat_map(|row| (0..d_out).map(move |j| target(row, j))).collect();

    let train = 400;
    let ((x, x_val), (y, y_val)) = (x.split_at(train * d_in), y.split_at(train * d_out));
    for options in [
        Options::default(),
        Options { intercept: true, ..Options::default() },
        Options { intercept: true, kind: Kind::Ridge(Ridge::Auto) },
        Options { intercept: true, kind: Kind::Rank(4) },
    ] {
        let map = fit(x, y, train, &options)?;
        let explained = r2(y_val, &map.apply(x_val), n - train)?;
        println!("r² {explained:.4} with rank {} by {options:?}", map.rank(1e-6)?);
    }
    Ok(())
}
