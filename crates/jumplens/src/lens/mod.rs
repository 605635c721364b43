//! The lens: what each cast predicts at every position of a text, layer by layer, and how that is shown.

mod color;
mod html;
mod shown;
mod svg;

pub use color::{Rgb, color};
pub use html::html;
pub use shown::{clipped, is_hidden, shown, spelled, width};
pub use svg::svg;

use crate::batch::PackedBatch;
use crate::eval::{BlockCasts, ExitRule, Unembedding, maps_to_last, predict, with_unembedding};
use crate::models::{Head, Kind, Transformer};
use crate::nn::{Linear, Precision};
use crate::shortcut::MapStore;
use crate::states::run_sequence;
use crate::tokenize::{Sample, Tokenizer};
use crate::words::{BlockCast, Cast};
use crate::{Error, Result};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What casts predict at the positions of one text: the object that `jumplens lens --format json` writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// The model's name.
    pub model: String,
    /// The text.
    pub text: String,
    /// All of its tokens.
    pub tokens: Vec<Token>,
    /// The positions that were looked at, from 0: what `cells` has an entry for.
    pub positions: Vec<usize>,
    /// True where the text had more tokens than the model takes, and was cut.
    #[serde(default)]
    pub truncated: bool,
    /// How many tokens were cut off its end.
    #[serde(default)]
    pub tokens_cut: usize,
    /// λ of the exit rule, where one was given.
    pub lambda: Option<f64>,
    /// Why this cast was taken, where none was asked for and there were figures to go by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<String>,
    /// What has to be said of the maps, from [`Evidence`](crate::evidence::Evidence).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// One cast after another.
    pub casts: Vec<CastReading>,
}

/// What `lens.json` of a run holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sentences {
    /// Some of its validation sentences.
    pub sentences: Vec<Reading>,
}

impl Reading {
    /// What has to be said of the reading, a sentence each: that the text was cut, and what is known against the maps.
    pub fn notes(&self) -> Vec<String> {
        let tokens = |n: usize| if n == 1 { "1 token".to_owned() } else { format!("{n} tokens") };
        let cut = self.truncated.then(|| {
            format!(
                "the text is longer than the {} that the model takes: its last {} are cut off",
                tokens(self.tokens.len()),
                tokens(self.tokens_cut)
            )
        });
        cut.into_iter().chain(self.warnings.iter().cloned()).collect()
    }

    /// The cast's name and why it was taken, where none was asked for and there were figures to go by.
    pub fn choice(&self) -> Option<String> {
        let cast = self.casts.first()?;
        self.chosen.as_ref().map(|why| format!("{}: {why}", cast.cast))
    }
}

/// A token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its number in the vocabulary.
    pub id: u32,
    /// What it stands for; its number again where the model has no tokenizer.
    pub text: String,
}

/// What one cast predicts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CastReading {
    /// The cast.
    pub cast: Cast,
    /// The layers that were looked at, from 0, in rising order.
    pub layers: Vec<usize>,
    /// `[layer][position]`.
    pub cells: Vec<Vec<Cell>>,
    /// By position: the layer at which the exit rule stops, where a λ was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_layer: Option<Vec<usize>>,
}

/// What a cast predicts at one position from one layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// The most probable tokens, best first; none where the cast's state is not finite.
    pub top: Vec<Guess>,
    /// Difference of the largest two probabilities.
    pub confidence: Option<f32>,
    /// −ln p_model(most probable token), nats.
    pub surprisal: Option<f32>,
}

/// A token with its probability.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Guess {
    /// Its number in the vocabulary.
    pub id: u32,
    /// What it stands for.
    pub text: String,
    /// Its probability by the cast.
    pub probability: f32,
}

/// What is to be shown of the predictions.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// Positions from 0; all where none is given.
    pub positions: Vec<usize>,
    /// Layers from 0; all where none is given.
    pub layers: Vec<usize>,
    /// How many tokens of each prediction.
    pub top: usize,
    /// λ of the exit rule.
    pub lambda: Option<f64>,
    /// N of the exit rule ([`mean_run`](crate::eval::mean_run) of the validation samples); for `None` the mean over the
    /// text's own positions.
    pub mean_run: Option<f64>,
}

impl Default for View {
    /// The best token of every layer and position.
    fn default() -> Self {
        Self { positions: Vec::new(), layers: Vec::new(), top: 1, lambda: None, mean_run: None }
    }
}

/// A text as the model gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// The text, for the record.
    pub text: String,
    /// Its token ids.
    pub ids: Vec<u32>,
}

/// How a state becomes a state of the last layer, ready to be applied.
pub struct Way(How);

enum How {
    /// As it is.
    AsItIs,
    /// By a map from each of the layers 0…L−1.
    Maps(Vec<Linear>),
    /// By running blocks.
    Blocks(BlockCasts),
}

impl Way {
    /// That of `cast`, whose maps are in `shortcuts`. [`Error::NoCast`] where there are no maps for it.
    pub fn load(model: &Transformer, shortcuts: Option<&dyn MapStore>, cast: &Cast) -> Result<Self> {
        let there = available(shortcuts)?;
        if !there.contains(cast) {
            return Err(Error::NoCast { cast: cast.clone(), there });
        }
        Ok(Self(match (cast, shortcuts) {
            (Cast::Id, _) | (_, None) => How::AsItIs,
            (Cast::Blocks(block), Some(shortcuts)) => {
                How::Blocks(BlockCasts::load(model, shortcuts, &[*block])?)
            }
            (_, Some(shortcuts)) => How::Maps(maps_to_last(model.spec(), shortcuts, cast)?),
        }))
    }
}

/// A model with the casts to look through.
pub struct Lens<'a> {
    model: &'a Transformer,
    head: &'a Head,
    precision: Precision,
    casts: Vec<(Cast, Arc<Way>)>,
}

/// The casts that can be had with these maps: `id`, then those that are maps of states, then those that run blocks.
pub fn available(shortcuts: Option<&dyn MapStore>) -> Result<Vec<Cast>> {
    let mut casts = vec![Cast::Id];
    if let Some(shortcuts) = shortcuts {
        casts.extend(shortcuts.casts()?);
        casts.extend(BlockCast::ALL.into_iter().filter(|_| shortcuts.has_parts()).map(Cast::Blocks));
    }
    Ok(casts)
}

impl<'a> Lens<'a> {
    /// Looks through `casts`, whose maps are in `shortcuts`. The unembedding's products are done in `precision`.
    /// [`Error::NoCast`] for a cast that there are no maps for.
    pub fn new(
        model: &'a Transformer,
        head: &'a Head,
        precision: Precision,
        shortcuts: Option<&dyn MapStore>,
        casts: &[Cast],
    ) -> Result<Self> {
        let load = |cast: &Cast| Ok((cast.clone(), Arc::new(Way::load(model, shortcuts, cast)?)));
        Ok(Self::through(model, head, precision, casts.iter().map(load).collect::<Result<_>>()?))
    }

    /// Looks through casts that were loaded before.
    pub fn through(
        model: &'a Transformer,
        head: &'a Head,
        precision: Precision,
        casts: Vec<(Cast, Arc<Way>)>,
    ) -> Self {
        Self { model, head, precision, casts }
    }

    /// Reads `inputs`, one forward pass each. `model` is the model's name for the record; tokens are spelled by
    /// `tokenizer`, or as numbers where there is none. [`Error::Option`] where the text or the view cannot be had.
    pub fn read(
        &self,
        model: &str,
        inputs: &[Input],
        tokenizer: Option<&Tokenizer>,
        view: &View,
    ) -> Result<Vec<Reading>> {
        with_unembedding(self.head, self.precision, |unembedding| {
            inputs.iter().map(|input| self.read_one(model, input, tokenizer, view, &unembedding)).collect()
        })
    }

    fn read_one(
        &self,
        model: &str,
        input: &Input,
        tokenizer: Option<&Tokenizer>,
        view: &View,
        unembedding: &Unembedding,
    ) -> Result<Reading> {
        let spec = self.model.spec();
        let n = input.ids.len();
        if n == 0 || n > spec.max_positions {
            let message = format!("the text has {n} tokens, and the model takes 1 to {}", spec.max_positions);
            return Err(Error::Option(message));
        }
        if view.top == 0 || view.top > unembedding.vocab() {
            let vocab = unembedding.vocab();
            return Err(Error::Option(format!("the top {} of {vocab} tokens were asked for", view.top)));
        }
        let chosen = |what: &str, asked: &[usize], count: usize| match asked.iter().find(|i| **i >= count) {
            Some(beyond) => {
                Err(Error::Option(format!("{what} {beyond} was asked for, the last is {}", count - 1)))
            }
            None if asked.is_empty() => Ok((0..count).collect::<Vec<_>>()),
            None => Ok(asked.to_vec()),
        };
        let positions = chosen("position", &view.positions, n)?;
        let layers = chosen("layer", &view.layers, spec.n_layers + 1)?;

        let text_of = |id: u32| tokenizer.map_or_else(|| id.to_string(), |tokenizer| tokenizer.text_of(id));
        let finite = |value: f64| value.is_finite().then_some(value as f32);
        let mut cells = self
            .predictions(&input.ids, unembedding, view.top, |prediction, scan| {
                let guess = |&(logit, id): &(f32, u32)| Guess {
                    id,
                    text: text_of(id),
                    probability: (f64::from(logit) - scan.log_sum_exp).exp() as f32,
                };
                let shown = if prediction.is_there() { view.top } else { 0 };
                let cell = Cell {
                    top: scan.top.iter().take(shown).map(guess).collect(),
                    confidence: finite(prediction.confidence),
                    surprisal: finite(prediction.surprisal),
                };
                (cell, prediction.confidence)
            })?
            .into_iter();
        let own = cells.next().unwrap_or_default();

        let mean = view.mean_run.unwrap_or((n + 1) as f64 / 2.0);
        let rule = ExitRule::at(0..n, mean, spec.kind);
        let cast = |(cast, _): &(Cast, Arc<Way>)| {
            let mut rows: Vec<_> = cells.by_ref().take(spec.n_layers).collect();
            rows.push(own.clone());
            let exit = |&position: &usize, lambda| {
                rule.first_sure(position, lambda, spec.n_layers, |layer| rows[layer][position].1)
            };
            CastReading {
                cast: cast.clone(),
                layers: layers.clone(),
                cells: layers
                    .iter()
                    .map(|layer| positions.iter().map(|position| rows[*layer][*position].0.clone()).collect())
                    .collect(),
                exit_layer: view.lambda.map(|lambda| positions.iter().map(|p| exit(p, lambda)).collect()),
            }
        };
        let casts = self.casts.iter().map(cast).collect();
        Ok(Reading {
            model: model.to_owned(),
            text: input.text.clone(),
            tokens: input.ids.iter().map(|&id| Token { id, text: text_of(id) }).collect(),
            positions,
            truncated: false,
            tokens_cut: 0,
            lambda: view.lambda,
            chosen: None,
            warnings: Vec::new(),
            casts,
        })
    }

    /// The model's own predictions at every position of the sequence `ids`, then those of each cast from the layers
    /// 0…L−1: what `take` makes of them, a list a layer.
    fn predictions<T>(
        &self,
        ids: &[u32],
        unembedding: &Unembedding,
        k: usize,
        take: impl Fn(crate::eval::Prediction, &crate::eval::RowScan) -> T,
    ) -> Result<Vec<Vec<T>>> {
        let states = run_sequence(self.model, ids)?;
        let Some((last, earlier)) = states.split_last() else { return Ok(Vec::new()) };
        let mut lasts = vec![last.clone()];
        for (_, way) in &self.casts {
            match &way.0 {
                How::AsItIs => lasts.extend_from_slice(earlier),
                How::Maps(maps) => {
                    for (h, map) in earlier.iter().zip(maps) {
                        lasts.push(map.forward(h)?);
                    }
                }
                How::Blocks(casts) => lasts.push(self.run_blocks(casts, ids)?),
            }
        }
        predict(self.head, unembedding, &lasts, k, &vec![None; ids.len()], take)
    }

    /// What `casts` (of one kind of sub-module) bring to the last layer from the layers 0…L−1: `[L · tokens, d]`.
    fn run_blocks(&self, casts: &BlockCasts, ids: &[u32]) -> Result<Tensor> {
        let spec = self.model.spec();
        let batch = match spec.kind {
            Kind::Causal => PackedBatch::whole(ids),
            // A part is replaced at the chosen position alone, so that each position is a sequence of its own.
            Kind::Masked => {
                let sample = |position| Sample { ids: ids.to_vec(), position, target: None, text: None };
                let samples: Vec<Sample> = (0..ids.len()).map(sample).collect();
                let mut batches = PackedBatch::pack_apart(&samples, spec.kind, usize::MAX);
                batches.swap_remove(0)
            }
        };
        Ok(Tensor::cat(&casts.run(self.model, &batch)?, 0)?)
    }
}
