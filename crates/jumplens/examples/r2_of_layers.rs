//! How much of a model's last layer a linear map makes of each layer before.
//!
//! `cargo run --release --example r2_of_layers [MODEL] [FOLDER]`: a bundled name or a folder, and where the run goes.

#[path = "shared/bundled.rs"]
mod bundled;

use jumplens::eval::tables::{R2Row, read_csv};
use jumplens::nn::Precision;
use jumplens::progress::Silent;
use jumplens::run::{Existing, Run, SampleSource, Settings};
use jumplens::shortcut::{Fits, Pairs};
use jumplens::words::Cast;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let model = args.next().unwrap_or_else(|| "tiny-gpt2".to_owned());
    let folder = args.next().map_or_else(|| std::env::temp_dir().join("r2_of_layers"), Into::into);
    let settings = Settings {
        model,
        samples: SampleSource::corpus("wikipedia-sample", 1000, 200),
        seed: 0,
        fits: Fits::plain(Pairs::ToFinal),
        dtype: Precision::F32,
        shard: None,
    };
    let mut run = Run::begin(&folder, &settings, Existing::Overwrite, &bundled::sources(), &Silent)?;
    run.states(&Silent)?;
    run.fit(settings.fits.clone(), &Silent)?;
    run.r2(None, &Silent)?;
    for row in read_csv::<R2Row>(&folder.join("results/r2.csv"))? {
        if row.mapping == Cast::MAT {
            println!("layer {:2} to {}: r² {:.3}", row.from, row.to, row.r2);
        }
    }
    Ok(())
}
