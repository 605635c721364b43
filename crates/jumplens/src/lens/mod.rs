//! The lens: what each cast predicts at every position of a text, layer by layer, and how that is shown.

mod answer;
mod cells;
mod color;
mod figure;
mod html;
mod measure;
mod prompts;
mod shown;
mod svg;

pub use answer::{Answer, Target, TargetCell};
pub use cells::CellTable;
pub use color::{Rgb, color};
pub use figure::{Drawn, figure};
pub use html::{Page, html};
pub use measure::{Coloring, Measure};
pub use prompts::{Asked, Prompt, read_prompts};
pub use shown::{clipped, is_hidden, shown, spelled, width};

use crate::batch::PackedBatch;
use crate::eval::{BlockCasts, ExitRule, Standing, Unembedding, maps_to_last, predict, with_unembedding};
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
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// The model's name.
    pub model: String,
    /// How many tokens its vocabulary has.
    #[serde(default)]
    pub vocab_size: usize,
    /// The text that was run.
    pub text: String,
    /// What was said in the chat that the text was made of, where it was made of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat: Option<String>,
    /// All tokens of the text.
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
    /// The tokens that were looked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Target>,
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
    /// `[target][position]`: what becomes of each target over all layers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<Vec<Answer>>,
}

/// What a cast predicts at one position from one layer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// The most probable tokens, best first; none where the cast's state is not finite.
    pub top: Vec<Guess>,
    /// Difference of the largest two probabilities.
    pub confidence: Option<f32>,
    /// −ln p_model(most probable token), nats.
    pub surprisal: Option<f32>,
    /// Entropy of the cast's distribution, nats.
    #[serde(default)]
    pub entropy: Option<f32>,
    /// KL(model ‖ cast), nats.
    #[serde(default)]
    pub kl: Option<f32>,
    /// Place of the model's own token in the order of the cast's, from 1.
    #[serde(default)]
    pub rank: Option<usize>,
    /// Where each target stands.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<TargetCell>,
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
    /// Tokens to look for in every prediction.
    pub targets: Vec<Target>,
    /// N of the exit rule ([`mean_run`](crate::eval::mean_run) of the validation samples); for `None` the mean over the
    /// text's own positions.
    pub mean_run: Option<f64>,
}

impl Default for View {
    /// The best token of every layer and position.
    fn default() -> Self {
        Self {
            positions: Vec::new(),
            layers: Vec::new(),
            top: 1,
            lambda: None,
            targets: Vec::new(),
            mean_run: None,
        }
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
        let asked: Vec<u32> = view.targets.iter().map(|target| target.token.id).collect();
        if let Some(id) = asked.iter().find(|id| **id as usize >= unembedding.vocab()) {
            let last = unembedding.vocab() - 1;
            return Err(Error::Option(format!(
                "token {id} was asked for, the last that the model predicts is {last}"
            )));
        }

        let text_of = |id: u32| tokenizer.map_or_else(|| id.to_string(), |tokenizer| tokenizer.text_of(id));
        let finite = |value: f64| value.is_finite().then_some(value as f32);
        let mut cells = self
            .predictions(&input.ids, &positions, unembedding, view.top, &asked, |prediction, scan| {
                let probability = |logit: f32| (f64::from(logit) - scan.log_sum_exp).exp() as f32;
                let guess = |&(logit, id): &(f32, u32)| Guess {
                    id,
                    text: text_of(id),
                    probability: probability(logit),
                };
                let is_there = prediction.is_there();
                let shown = if is_there { view.top } else { 0 };
                let standing = |standing: &Standing| TargetCell {
                    probability: is_there.then(|| probability(standing.logit)),
                    rank: is_there.then_some(standing.rank),
                };
                let closer = scan.closer.as_ref();
                let cell = Cell {
                    top: scan.top.iter().take(shown).map(guess).collect(),
                    confidence: finite(prediction.confidence),
                    surprisal: finite(prediction.surprisal),
                    entropy: closer.filter(|_| is_there).and_then(|closer| finite(closer.entropy)),
                    kl: finite(prediction.kl),
                    rank: is_there.then_some(prediction.rank),
                    targets: closer
                        .map_or_else(Vec::new, |closer| closer.tokens.iter().map(standing).collect()),
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
            let exit = |(place, &position): (usize, &usize), lambda| {
                rule.first_sure(position, lambda, spec.n_layers, |layer| rows[layer][place].1)
            };
            let answer =
                |target: usize, place: usize| Answer::of(target, rows.iter().map(|row| &row[place].0));
            let answers = |target: usize| (0..positions.len()).map(|place| answer(target, place)).collect();
            CastReading {
                cast: cast.clone(),
                layers: layers.clone(),
                cells: layers
                    .iter()
                    .map(|layer| rows[*layer].iter().map(|(cell, _)| cell.clone()).collect())
                    .collect(),
                exit_layer: view
                    .lambda
                    .map(|lambda| positions.iter().enumerate().map(|at| exit(at, lambda)).collect()),
                answers: (0..asked.len()).map(answers).collect(),
            }
        };
        let casts = self.casts.iter().map(cast).collect();
        Ok(Reading {
            model: model.to_owned(),
            vocab_size: unembedding.vocab(),
            text: input.text.clone(),
            tokens: input.ids.iter().map(|&id| Token { id, text: text_of(id) }).collect(),
            positions,
            lambda: view.lambda,
            targets: view.targets.clone(),
            casts,
            ..Reading::default()
        })
    }

    /// The model's own predictions at `positions` of the sequence `ids`, then those of each cast from the layers
    /// 0…L−1: what `take` makes of them, a list a layer.
    fn predictions<T>(
        &self,
        ids: &[u32],
        positions: &[usize],
        unembedding: &Unembedding,
        k: usize,
        asked: &[u32],
        take: impl Fn(crate::eval::Prediction, &crate::eval::RowScan) -> T,
    ) -> Result<Vec<Vec<T>>> {
        // A row of each layer that is stacked in `states` for each position that is looked at.
        let at_positions = |states: &Tensor| -> Result<Tensor> {
            if positions.len() == ids.len() && positions.iter().copied().eq(0..ids.len()) {
                return Ok(states.clone());
            }
            let layers = states.dim(0)? / ids.len();
            let rows =
                (0..layers).flat_map(|layer| positions.iter().map(move |p| (layer * ids.len() + p) as u32));
            let rows = Tensor::from_iter(rows, states.device())?;
            Ok(states.index_select(&rows, 0)?)
        };
        let states = run_sequence(self.model, ids)?.iter().map(at_positions).collect::<Result<Vec<_>>>()?;
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
                How::Blocks(casts) => lasts.push(at_positions(&self.run_blocks(casts, ids)?)?),
            }
        }
        predict(self.head, unembedding, &lasts, k, &vec![None; positions.len()], Some(asked), take)
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
