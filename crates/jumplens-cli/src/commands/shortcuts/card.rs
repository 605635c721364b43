//! The model card beside exported maps, as the Hugging Face Hub shows it.

use jumplens::eval::tables::R2Row;
use jumplens::shortcut::{Format, LastState, Origin, pair_name};
use std::fmt::Write;

/// An exported file.
pub struct File {
    pub cast: String,
    pub name: String,
    /// How many maps are in it.
    pub maps: usize,
    /// The first of them, for the example.
    pub pair: (usize, usize),
}

/// What the card says.
pub struct Card<'a> {
    pub origin: Option<&'a Origin>,
    pub files: &'a [File],
    pub format: Format,
    pub r2: &'a [R2Row],
}

impl Card<'_> {
    pub fn render(&self) -> String {
        let unknown = Origin::default();
        let origin = self.origin.unwrap_or(&unknown);
        let model = origin.model.as_deref().unwrap_or("an unknown model");
        let mut card =
            "---\nlibrary_name: jumplens\ntags:\n- interpretability\n- logit-lens\n- early-exit\n".to_owned();
        if let Some(model) = origin.model.as_ref().filter(|_| origin.revision.is_some()) {
            let _ = writeln!(card, "base_model: {model}");
        }
        let _ = write!(
            card,
            "---\n\n# Linear shortcuts for {model}\n\nMatrices that cast a hidden state of one layer to a later one: \
             h_to ≈ A·h_from, plus b where there is a bias (*Jump to Conclusions*, Yom Din et al., \
             [arXiv 2303.09435](https://arxiv.org/abs/2303.09435)). Layer 0 is the embedding, layer l the output of \
             block l.{}\n\n",
            match origin.last_state {
                Some(LastState::BlockOutput) => {
                    " The last layer's state is the last block's output, **before** a final norm; the last entry of \
                     `hidden_states` in transformers is behind it."
                }
                Some(LastState::FinalNormOutput) =>
                    " The last layer's state is the one **behind** the final norm.",
                None => "",
            }
        );
        card += "| file | cast | maps |\n|---|---|---|\n";
        for File { cast, name, maps, .. } in self.files {
            let _ = writeln!(card, "| `{name}` | `{cast}` | {maps} |");
        }
        card += "\nEach map is an f32 array `FROM_TO` of shape [d, d], rows are outputs; its bias, where it has one, is `FROM_TO.bias`.\n";
        self.write_example(&mut card, origin);
        self.write_origin(&mut card, origin);
        self.write_r2(&mut card);
        card
    }

    fn write_example(&self, card: &mut String, origin: &Origin) {
        let Some(File { name, pair: (from, to), .. }) = self.files.first() else { return };
        let tensor = pair_name(*from, *to);
        card.push_str("\n## Use\n\n```python\n");
        match self.format {
            Format::Safetensors => {
                let _ = write!(
                    card,
                    "from safetensors.torch import load_file\n\nmaps = load_file(\"{name}\")\nh = ...  # [n, d], hidden_states[{from}]\n\
                     cast = h @ maps[\"{tensor}\"].T + maps.get(\"{tensor}.bias\", 0)\n```\n"
                );
                if let Some(model) = &origin.model {
                    let _ = write!(
                        card,
                        "\n```sh\njumplens lens --model {model} --shortcuts '{name}' \"The capital of France is\"\n```\n"
                    );
                }
            }
            Format::Npz => {
                let _ = write!(
                    card,
                    "import numpy as np\n\nmaps = np.load(\"{name}\")\nh = ...  # [n, d], hidden_states[{from}]\n\
                     cast = h @ maps[\"{tensor}\"].T + (maps[\"{tensor}.bias\"] if \"{tensor}.bias\" in maps else 0)\n```\n"
                );
            }
        }
    }

    fn write_origin(&self, card: &mut String, origin: &Origin) {
        if let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(origin)
            && self.origin.is_some()
        {
            card.push_str("\n## Where they come from\n\n| | |\n|---|---|\n");
            for (name, value) in fields {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                let _ = writeln!(card, "| {} | {value} |", name.replace('_', " "));
            }
        }
    }

    fn write_r2(&self, card: &mut String) {
        let Some(last) = self.r2.iter().map(|row| row.to).max() else { return };
        let casts: Vec<&str> = self.files.iter().map(|file| &file.cast[..]).chain(["id"]).collect();
        let _ = write!(card, "\n## r² to layer {last} on validation samples\n\n| layer |");
        casts.iter().for_each(|cast| {
            let _ = write!(card, " {cast} |");
        });
        let _ = writeln!(card, "\n|---|{}", "---|".repeat(casts.len()));
        for from in 0..last {
            let _ = write!(card, "| {from} |");
            for cast in &casts {
                let row =
                    self.r2.iter().find(|row| row.mapping == *cast && row.from == from && row.to == last);
                let _ = write!(card, " {} |", row.map_or(String::new(), |row| format!("{:.3}", row.r2)));
            }
            card.push('\n');
        }
    }
}
