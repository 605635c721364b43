//! Maps from every layer to the last, on states that come from elsewhere: a slice a layer, row-major `[n, d]`.
//!
//! `cargo run --release --example own_states`

use jumplens_core::solver::Fitted;
use jumplens_core::{Kind, r2};

/// Stands for what was extracted: each layer turns the one before a little, and adds something of its own.
fn states(layers: usize, n: usize, d: usize, seed: usize) -> Vec<Vec<f32>> {
    let own = |layer: usize, i: usize| ((i * 7919 + layer * 104_729 + seed) % 10_007) as f32 / 10_007.0 - 0.5;
    let mut all = vec![(0..n * d).map(|i| own(0, i)).collect::<Vec<f32>>()];
    for layer in 1..layers {
        let before = &all[layer - 1];
        let turned = |i: usize| 0.9 * before[i] + 0.4 * before[i / d * d + (i + 1) % d];
        all.push((0..n * d).map(|i| turned(i) + 0.3 * own(layer, i)).collect());
    }
    all
}

fn main() -> jumplens_core::Result<()> {
    let (layers, d) = (6, 32);
    let (train, val) = (states(layers, 2000, d, 1), states(layers, 500, d, 2));
    let last = layers - 1;
    for from in 0..last {
        // One factorisation serves any number of targets and kinds of maps.
        let fitted = Fitted::of_states(&train[from], &[&train[last]], 2000, false)?;
        let map = fitted.maps(Kind::Plain)?.maps.remove(0);
        let as_it_is = r2(&val[last], &val[from], 500)?;
        let mapped = r2(&val[last], &map.apply(&val[from]), 500)?;
        println!("layer {from} to {last}: r² {as_it_is:6.3} as it is, {mapped:.3} by the map");
    }
    Ok(())
}
