//! What the page shows as texts, in a form that takes little room: every text once, and numbers in flat lists.

use crate::eval::{Example, ExampleCell, Examples};
use crate::lens::{Cell, Reading, Sentences, shown, spelled};
use serde_json::{Value, json};
use std::collections::HashMap;

/// Tokens of a sample that are shown before its position, and after it.
const AROUND: [usize; 2] = [48, 16];
/// Tokens of a prediction for a single sample.
const TOP: usize = 3;

/// Texts as tiles show them, each with a number.
#[derive(Default)]
pub(super) struct Texts {
    numbers: HashMap<String, usize>,
    list: Vec<String>,
}

impl Texts {
    fn number(&mut self, text: &str) -> usize {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = self.list.len();
        self.list.push(tile(text));
        self.numbers.insert(text.to_owned(), number);
        number
    }

    /// All of them, by their numbers.
    pub fn list(self) -> Vec<String> {
        self.list
    }
}

/// A token as a tile shows it, which is never empty: a space as `·`, and every other white space spelled out.
fn tile(text: &str) -> String {
    let mut tile = String::new();
    for c in shown(text).chars() {
        if c.is_whitespace() { tile.extend(c.escape_unicode()) } else { tile.push(c) }
    }
    if tile.is_empty() { "∅".to_owned() } else { tile }
}

/// A share in thousandths; `null` where there is none.
fn thousandths(share: Option<f32>) -> Value {
    share.map_or(Value::Null, |share| json!((share * 1000.0).round() as i64))
}

/// A surprisal in hundredths of a nat; `null` where there is none.
fn hundredths(nats: Option<f32>) -> Value {
    nats.map_or(Value::Null, |nats| json!((nats * 100.0).round() as i64))
}

/// The sentences through the lens. Of a cell there are the tokens' numbers `t`, their probabilities `p` in thousandths, and the
/// surprisal `s` in hundredths; cells go along the positions, layer after layer.
pub(super) fn lens(read: &Sentences, texts: &mut Texts) -> Value {
    let sentence = |reading: &Reading, texts: &mut Texts| {
        let tokens: Vec<usize> = reading.tokens.iter().map(|token| texts.number(&token.text)).collect();
        let mut casts = Vec::new();
        for cast in &reading.casts {
            let cells: Vec<&Cell> = cast.cells.iter().flatten().collect();
            let tokens: Vec<Vec<usize>> = cells
                .iter()
                .map(|cell| cell.top.iter().map(|guess| texts.number(&guess.text)).collect())
                .collect();
            let shares: Vec<Vec<Value>> = cells
                .iter()
                .map(|cell| cell.top.iter().map(|guess| thousandths(Some(guess.probability))).collect())
                .collect();
            casts.push(json!({
                "cast": cast.cast,
                "layers": cast.layers,
                "exit": cast.exit_layer,
                "t": tokens,
                "p": shares,
                "s": cells.iter().map(|cell| hundredths(cell.surprisal)).collect::<Vec<_>>(),
            }));
        }
        json!({ "text": spelled(&reading.text), "tokens": tokens, "casts": casts })
    };
    read.sentences.iter().map(|reading| sentence(reading, texts)).collect()
}

/// The samples to browse: tokens around the position, then for every cast the cells of each sample along the layers, `t`, `s` and
/// `c` (confidence, in thousandths) as in [`lens`], and the rank `r`.
pub(super) fn examples(examples: &Examples, texts: &mut Texts) -> Value {
    let unknown = String::new();
    let mut number = |id: &u32| texts.number(examples.texts.get(id).unwrap_or(&unknown));
    let mut samples = Vec::new();
    for Example { ids, position, target } in &examples.samples {
        let position = (*position).min(ids.len().saturating_sub(1));
        let range = position.saturating_sub(AROUND[0])..ids.len().min(position + 1 + AROUND[1]);
        samples.push(json!({
            "from": range.start,
            "length": ids.len(),
            "tokens": ids[range].iter().map(&mut number).collect::<Vec<_>>(),
            "position": position,
            "target": target.as_ref().map(&mut number),
        }));
    }
    let mut casts = Vec::new();
    for cast in &examples.casts {
        let cells: Vec<&ExampleCell> = cast.cells.iter().flatten().collect();
        let tokens: Vec<Vec<usize>> =
            cells.iter().map(|cell| cell.top.iter().take(TOP).map(&mut number).collect()).collect();
        casts.push(json!({
            "cast": cast.cast,
            "layers": cast.cells.first().map_or(0, Vec::len),
            "t": tokens,
            "s": cells.iter().map(|cell| hundredths(cell.surprisal)).collect::<Vec<_>>(),
            "c": cells.iter().map(|cell| thousandths(cell.confidence)).collect::<Vec<_>>(),
            "r": cells.iter().map(|cell| cell.rank).collect::<Vec<_>>(),
        }));
    }
    json!({ "of": examples.of, "list": samples, "casts": casts })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_tile_is_empty() {
        for (text, expected) in [
            (" the", "·the"),
            (" ", "·"),
            ("", "∅"),
            ("\n", "\\n"),
            ("\u{a0}", "\\u{a0}"),
            ("\u{3000}", "\\u{3000}"),
        ] {
            assert_eq!(tile(text), expected);
        }
    }

    #[test]
    fn a_text_has_one_number() {
        let mut texts = Texts::default();
        assert_eq!(["a", " a", "a"].map(|text| texts.number(text)), [0, 1, 0]);
        assert_eq!(texts.list(), ["a", "·a"]);
    }
}
