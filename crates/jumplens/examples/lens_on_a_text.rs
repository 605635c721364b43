//! What the logit lens reads in each layer of a model at the end of a text.
//!
//! `cargo run --release --example lens_on_a_text [TEXT]`

#[path = "shared/bundled.rs"]
mod bundled;

use jumplens::hub::ModelFiles;
use jumplens::lens::{Input, Lens, View};
use jumplens::models::load;
use jumplens::nn::Precision;
use jumplens::progress::Silent;
use jumplens::tokenize::Tokenizer;
use jumplens::words::Cast;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let text = std::env::args().nth(1).unwrap_or_else(|| "The capital of France is".to_owned());
    let files = ModelFiles::find("tiny-gpt2", &bundled::sources(), &Silent)?;
    let model = load(&files, Precision::F32)?.model;
    let tokenizer = Tokenizer::of_model(files.tokenizer.as_ref(), &files.id, model.spec(), true)?;
    let head = model.head().ok_or("the model has no head")?;
    let lens = Lens::new(&model, head, Precision::F32, None, &[Cast::Id])?;

    let ids = tokenizer.encode(&text)?;
    let last = ids.len().checked_sub(1).ok_or("the text has no tokens")?;
    let view = View { positions: vec![last], top: 3, ..View::default() };
    let reading = lens.read(&files.id, &[Input { text, ids }], Some(&tokenizer), &view)?.remove(0);
    for (layer, cells) in reading.casts[0].layers.iter().zip(&reading.casts[0].cells) {
        let top: Vec<String> =
            cells[0].top.iter().map(|guess| format!("{:?} {:.2}", guess.text, guess.probability)).collect();
        println!("layer {layer:2}: {}", top.join(", "));
    }
    Ok(())
}
