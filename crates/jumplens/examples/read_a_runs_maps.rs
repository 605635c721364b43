//! What is in a folder of maps, and what one of them makes of a state.
//!
//! `cargo run --release --example read_a_runs_maps [RUN]`: a run folder; by default that of the example `r2_of_layers`.

use jumplens::eval::inspect;
use jumplens::shortcut::Shortcuts;
use jumplens::words::Cast;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let run =
        std::env::args().nth(1).map_or_else(|| std::env::temp_dir().join("r2_of_layers"), PathBuf::from);
    let shortcuts = Shortcuts::open(&run.join("shortcuts"))?;
    let casts: Vec<String> = shortcuts.casts()?.iter().map(Cast::to_string).collect();
    println!("casts: {}", casts.join(", "));
    let maps = shortcuts.cast(&Cast::MAT);
    for from in maps.sources()? {
        let d = maps.width(from)?;
        for (to, map) in maps.load_pairs(from, &maps.targets(from)?, d)? {
            let image = map.apply(&vec![1.0; d]);
            let found = inspect(&map)?;
            println!(
                "{from:2} to {to}: ‖A‖₂ {:.2}, effective rank {:.0} of {d}, A·1 begins with {:.3}",
                found.spectral_norm, found.effective_rank, image[0]
            );
        }
    }
    Ok(())
}
