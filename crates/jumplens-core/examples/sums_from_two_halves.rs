//! Second-moment sums of two halves of the samples add up to the map of all: what two machines do, each with its own.
//!
//! `cargo run --release --example sums_from_two_halves`

use jumplens_core::Kind;
use jumplens_core::metrics::score;
use jumplens_core::solver::{Fitted, PairSums};

fn main() -> jumplens_core::Result<()> {
    let (n, d) = (1000, 16);
    let x: Vec<f32> = (0..n * d).map(|i| ((i * 7919 % 10_007) as f32 / 10_007.0 - 0.5) * 2.0).collect();
    let y: Vec<f32> =
        (0..n * d).map(|i| x[i] * 0.7 + x[i / d * d + (i + 3) % d] + (i as f32).sin() * 0.1).collect();

    let half = n / 2 * d;
    let sums_of = |x: &[f32], y: &[f32]| {
        let mut sums = PairSums::new(d, 1);
        sums.add(x, [y]);
        sums
    };
    let mut sums = sums_of(&x[..half], &y[..half]);
    sums.merge(&sums_of(&x[half..], &y[half..]));

    // Neither the map nor its r² needs the states any more.
    let map = Fitted::of_sums(&sums, false)?.maps(Kind::Plain)?.maps.remove(0);
    let r2 = score(&sums.squared_errors(0, &map), &sums.target_spread(0).about_mean);
    println!("r² {r2:.4} over {} samples", sums.n);

    let whole = jumplens_core::fit(&x, &y, n, &jumplens_core::Options::default())?;
    let apart = whole.weight().iter().zip(map.weight()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("off from the map of the states themselves by {apart:.1e} at most");
    Ok(())
}
