//! The model card beside exported maps, as the Hugging Face Hub shows it.

use crate::printer::json_spelled;
use crate::shell::quoted;
use jumplens::eval::tables::R2Row;
use jumplens::lens::spelled;
use jumplens::shortcut::{Format, LastState, Origin, pair_name};
use jumplens::words::Cast;
use std::fmt::Write;

/// An exported file.
pub struct File {
    pub cast: Cast,
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

/// Text of others as Markdown shows it, in one line: none of its characters is a mark.
fn markdown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in spelled(text).chars() {
        if "\\`*_[]<>#|~&$:@".contains(c) {
            shown.push('\\');
        }
        shown.push(c);
    }
    shown
}

/// The same as code, in a table.
fn code(text: &str) -> String {
    let text = spelled(text).replace('|', "\\|");
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let (fence, space) = ("`".repeat(longest + 1), if longest > 0 { " " } else { "" });
    format!("{fence}{space}{text}{space}{fence}")
}

/// The same as a string of JSON, which is one of YAML and of Python too.
fn string(text: &str) -> String {
    json_spelled(&serde_json::Value::from(text).to_string())
}

impl Card<'_> {
    pub fn render(&self) -> String {
        let unknown = Origin::default();
        let origin = self.origin.unwrap_or(&unknown);
        let model = markdown(origin.model.as_deref().unwrap_or("an unknown model"));
        let mut card =
            "---\nlibrary_name: jumplens\ntags:\n- interpretability\n- logit-lens\n- early-exit\n".to_owned();
        if let Some(model) = origin.model.as_ref().filter(|_| origin.revision.is_some()) {
            let _ = writeln!(card, "base_model: {}", string(model));
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
                     `hidden_states` in transformers comes after it."
                }
                Some(LastState::FinalNormOutput) =>
                    " The last layer's state is the one **after** the final norm.",
                None => "",
            }
        );
        card += "| file | cast | maps |\n|---|---|---|\n";
        for File { cast, name, maps, .. } in self.files {
            let _ = writeln!(card, "| {} | {} | {maps} |", code(name), code(&cast.name()));
        }
        card += "\nEach map is an f32 array `FROM_TO` of shape [d, d], rows are outputs; its bias, where it has one, is `FROM_TO.bias`.\n";
        self.write_example(&mut card, origin);
        self.write_origin(&mut card, origin);
        self.write_r2(&mut card);
        card
    }

    fn write_example(&self, card: &mut String, origin: &Origin) {
        let Some(File { name, pair: (from, to), .. }) = self.files.first() else { return };
        let (tensor, load) = (pair_name(*from, *to), string(name));
        card.push_str("\n## Use\n\n```python\n");
        match self.format {
            Format::Safetensors => {
                let _ = write!(
                    card,
                    "from safetensors.torch import load_file\n\nmaps = load_file({load})\nh = ...  # [n, d], hidden_states[{from}]\n\
                     cast = h @ maps[\"{tensor}\"].T + maps.get(\"{tensor}.bias\", 0)\n```\n"
                );
                if let Some(model) = &origin.model {
                    let _ = write!(
                        card,
                        "\n```sh\njumplens lens --model {} --shortcuts {} \"The capital of France is\"\n```\n",
                        quoted(model),
                        quoted(name)
                    );
                }
            }
            Format::Npz => {
                let _ = write!(
                    card,
                    "import numpy as np\n\nmaps = np.load({load})\nh = ...  # [n, d], hidden_states[{from}]\n\
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
                let _ = writeln!(card, "| {} | {} |", name.replace('_', " "), markdown(&value));
            }
        }
    }

    fn write_r2(&self, card: &mut String) {
        let Some(last) = self.r2.iter().map(|row| row.to).max() else { return };
        let casts: Vec<&Cast> = self.files.iter().map(|file| &file.cast).chain([&Cast::Id]).collect();
        let _ = write!(card, "\n## r² to layer {last} on validation samples\n\n| layer |");
        casts.iter().for_each(|cast| {
            let _ = write!(card, " {} |", markdown(&cast.name()));
        });
        let _ = writeln!(card, "\n|---|{}", "---|".repeat(casts.len()));
        for from in 0..last {
            let _ = write!(card, "| {from} |");
            for cast in &casts {
                let row =
                    self.r2.iter().find(|row| row.mapping == **cast && row.from == from && row.to == last);
                let _ = write!(card, " {} |", row.map_or(String::new(), |row| format!("{:.3}", row.r2)));
            }
            card.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVIL: &str = "x\"\n---\n# ```\n<img src=x>|`$(y)`\u{202e}'; z #";

    #[test]
    fn names_cannot_become_markup_or_commands() {
        let origin = Origin {
            model: Some(EVIL.to_owned()),
            revision: Some(EVIL.to_owned()),
            corpus: Some(EVIL.to_owned()),
            ..Origin::default()
        };
        let file = |cast: &str| File {
            cast: cast.into(),
            name: format!("{cast}.safetensors"),
            maps: 1,
            pair: (0, 1),
        };
        let r2 = [R2Row { mapping: EVIL.into(), from: 0, to: 1, r2: 0.5, r2_train: 0.5 }];
        let card = |model: &str, cast: &str, format| {
            let origin = Origin { model: Some(model.to_owned()), ..origin.clone() };
            Card { origin: Some(&origin), files: &[file(cast)], format, r2: &r2 }.render()
        };
        for format in [Format::Safetensors, Format::Npz] {
            let (plain, evil) = (card("gpt2", "mat", format), card(EVIL, EVIL, format));
            // Nothing has become a line, a heading, a fence, a column or an element.
            assert_eq!(evil.lines().count(), plain.lines().count(), "{evil}");
            let begins = |card: &str, with: &str| card.lines().filter(|line| line.starts_with(with)).count();
            for with in ["---", "#", "```", "| "] {
                assert_eq!(begins(&evil, with), begins(&plain, with), "{with} in {evil}");
            }
            assert!(!evil.contains('\u{202e}') && !evil.lines().any(|line| line.contains(" <img")));
        }
        let card = card(EVIL, EVIL, Format::Safetensors);
        let front = card.lines().find_map(|line| line.strip_prefix("base_model: ")).unwrap();
        assert_eq!(serde_json::from_str::<String>(front).unwrap(), EVIL);
        let command = card.lines().find(|line| line.starts_with("jumplens lens")).unwrap();
        assert!(command.starts_with("jumplens lens --model $'x\"\\012---"), "{command}");
    }

    #[test]
    fn plain_names_stay_as_they_are() {
        assert_eq!(
            (markdown("gpt2-xl 1.5"), code("mat+b"), string("gpt2")),
            ("gpt2-xl 1.5".into(), "`mat+b`".into(), "\"gpt2\"".into())
        );
        assert_eq!((markdown("a|`b`"), code("a`b|")), ("a\\|\\`b\\`".into(), "`` a`b\\| ``".into()));
    }
}
