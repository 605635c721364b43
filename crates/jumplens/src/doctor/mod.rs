//! Whether a model is what a lens takes it for: each check is about something that has made a lens wrong unnoticed.

mod text;

use self::text::Texts;
use crate::batch::PackedBatch;
use crate::hub::ModelFiles;
use crate::models::{Kind, Loaded, Transformer, load};
use crate::nn::{self, Linear, Precision, with_values};
use crate::progress::{Observer, check};
use crate::states::run_samples;
use crate::tokenize::{Sample, Tokenizer};
use crate::words::Stage;
use crate::{Error, Result};
use candle_core::{D, Device, Tensor};
use jumplens_core::solver::{Factoring, Solving};

/// Tokens that are run for what is said about states.
const TOKENS: usize = 1024;
/// Tokens that are run once more in plain operations, which are slow.
const PLAIN_TOKENS: usize = 192;
/// Largest distance of two ways of computing the same row, relative to the row.
const TOLERANCE: f64 = 1e-4;
/// A position or coordinate is an outlier above this many times the median one.
const OUTLIER: f32 = 8.0;
/// Outliers that are named.
const NAMED: usize = 5;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// As it should be.
    Good,
    /// Nothing is wrong, but whoever reads the results should know.
    Note,
    /// What the model gives cannot be trusted.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is about, a word or two.
    pub about: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// What was found, in one line.
    pub detail: String,
}

fn finding(about: &'static str, outcome: Outcome, detail: impl Into<String>) -> Finding {
    Finding { about, outcome, detail: detail.into() }
}

fn verdict(about: &'static str, good: bool, detail: String) -> Finding {
    finding(about, if good { Outcome::Good } else { Outcome::Bad }, detail)
}

/// Loads the model and looks at it on the first of `sentences`. Errors are those of loading and of the tokenizer.
pub fn examine<'a>(
    files: &ModelFiles,
    sentences: impl Iterator<Item = &'a str>,
    observer: &dyn Observer,
) -> Result<Vec<Finding>> {
    let Loaded { model, notes, .. } = load(files, Precision::F32)?;
    let model = &model;
    let mut findings = vec![match &notes[..] {
        [] => finding(
            "tensors",
            Outcome::Good,
            "every tensor of the checkpoint is used, or known to be of no use here",
        ),
        notes => finding("tensors", Outcome::Note, notes.join("; ")),
    }];
    let Some(tokenizer) = &files.tokenizer else {
        findings.push(finding(
            "tokenizer",
            Outcome::Note,
            "there is none: nothing more can be looked at without sentences",
        ));
        return Ok(findings);
    };
    // One that has no `[MASK]` cannot ask a masked model for anything.
    let masking = Tokenizer::open(tokenizer, model.spec(), true);
    let tokenizer = Tokenizer::open(tokenizer, model.spec(), false)?;
    findings.push(special_tokens(&tokenizer, model.spec().kind)?);
    findings.extend(tokenizer.notes().iter().map(|note| finding("tokenizer", Outcome::Note, &**note)));
    let sentences: Vec<&str> = sentences.collect();
    let samples = last_positions(&tokenizer, model.spec().kind, sentences.iter().copied())?;
    check(observer)?;

    let few = PackedBatch::pack(&samples, model.spec().kind, PLAIN_TOKENS).remove(0);
    let plain = every_state(model, &few, true)?;
    check(observer)?;
    let plain = plain.iter().map(|state| Ok(nn::look_up(state, &few.chosen)?)).collect::<Result<Vec<_>>>()?;
    let kept = kept_states(model, &samples[few.samples.clone()])?;
    findings.push(kernels(&kept, &plain)?);
    findings.push(head(model, &kept, &plain)?);
    check(observer)?;

    let batches = PackedBatch::pack(&samples, model.spec().kind, TOKENS);
    let batch = &batches[0];
    let states = every_state(model, batch, false)?;
    let finite = finite(&states)?;
    let usable = finite.outcome == Outcome::Good;
    findings.push(finite);
    if usable {
        check(observer)?;
        findings.push(identity(&states)?);
        findings.push(coordinates(&states)?);
        findings.push(sinks(&states, batch)?);
        check(observer)?;
        if let Ok(tokenizer) = &masking {
            let texts = Texts::new(model, tokenizer, &sentences)?;
            let bos = files.bos()?.filter(|id| (*id as usize) < model.spec().vocab_size);
            findings.extend(texts.findings(bos, observer)?);
        }
    }
    Ok(findings)
}

fn special_tokens(tokenizer: &Tokenizer, kind: Kind) -> Result<Finding> {
    let around = tokenizer.special_tokens()?;
    let detail = match (&around[..], kind) {
        ([], _) => "puts nothing before a sentence: position 0 is its first word".to_owned(),
        ([bos], Kind::Causal) => format!("puts `{bos}` before every sentence: position 0 is not a word"),
        (tokens, _) => format!("puts {} around every sentence", tokens.join(" and ")),
    };
    Ok(finding("tokenizer", Outcome::Note, detail))
}

/// Sentences up to [`TOKENS`] tokens, each with its last position chosen, so that all of it is run.
fn last_positions<'a>(
    tokenizer: &Tokenizer,
    kind: Kind,
    sentences: impl Iterator<Item = &'a str>,
) -> Result<Vec<Sample>> {
    let mut samples: Vec<Sample> = Vec::new();
    let mut tokens = 0;
    for sentence in sentences {
        let ids = tokenizer.encode(sentence)?;
        if ids.is_empty() {
            continue;
        }
        let sample = Sample { position: ids.len() - 1, ids, target: None, text: None };
        tokens += sample.ids_to_run(kind).len();
        samples.push(sample);
        if tokens >= TOKENS {
            break;
        }
    }
    if samples.is_empty() { Err(Error::EmptyCorpus { name: "the corpus".into() }) } else { Ok(samples) }
}

/// `h_0 … h_L` of every token, `[tokens, d]` each, part by part; `plain` in candle operations alone.
fn every_state(model: &Transformer, batch: &PackedBatch, plain: bool) -> Result<Vec<Tensor>> {
    let spec = model.spec();
    let rows = batch.every_row(spec.kind);
    let mut states = vec![model.embed(batch)?];
    for layer in 0..spec.n_layers {
        let mut x = states[layer].clone();
        if plain {
            x = nn::tracked(&x)?;
        }
        states.push(model.block(layer, &x, &rows)?.detach());
    }
    Ok(states)
}

/// The largest distance of a row of `a` from that of `b`, relative to the latter; NaN counts as infinite.
fn distance(a: &Tensor, b: &Tensor) -> Result<f64> {
    let norm = |x: &Tensor| -> Result<Vec<f32>> { Ok(x.sqr()?.sum(D::Minus1)?.sqrt()?.to_vec1()?) };
    let pairs = norm(&(a - b)?)?.into_iter().zip(norm(b)?);
    let relative = pairs.map(|(difference, size)| f64::from(difference) / f64::from(size).max(1e-30));
    Ok(relative.fold(0.0, |worst: f64, next| if next.is_nan() { f64::INFINITY } else { worst.max(next) }))
}

/// The states of every layer at the chosen positions, as a run keeps them: `[samples, d]` each.
fn kept_states(model: &Transformer, samples: &[Sample]) -> Result<Vec<Tensor>> {
    let shape = (samples.len(), model.spec().d_model);
    let layers = run_samples(model, samples, false)?.layers.into_iter();
    layers.map(|layer| Ok(Tensor::from_vec(layer, shape, &Device::Cpu)?)).collect()
}

/// The states that a run keeps against those of the plain operations.
fn kernels(kept: &[Tensor], plain: &[Tensor]) -> Result<Finding> {
    let mut worst = (0.0, 0);
    for (layer, (kept, plain)) in kept.iter().zip(plain).enumerate() {
        let distance = distance(kept, plain)?;
        if distance > worst.0 {
            worst = (distance, layer);
        }
    }
    let (distance, layer) = worst;
    Ok(verdict(
        "kernels",
        distance <= TOLERANCE,
        format!(
            "fast and plain operations differ by {distance:.1e} of a state at most (layer {layer}, {} sentences)",
            plain[0].dim(0)?
        ),
    ))
}

/// The last state that a run keeps, through the head, against the logits of the plain operations.
fn head(model: &Transformer, kept: &[Tensor], plain: &[Tensor]) -> Result<Finding> {
    let Some(head) = model.head() else {
        let detail = "there is none: the model gives states, maps and r², and no predictions";
        return Ok(finding("head", Outcome::Note, detail));
    };
    let (Some(kept), Some(plain)) = (kept.last(), plain.last()) else {
        return Err(Error::Internal("a model without states".into()));
    };
    let plain = head.logits(&nn::tracked(plain)?)?.detach();
    let distance = distance(&head.logits(kept)?, &plain)?;
    Ok(verdict(
        "head",
        distance <= TOLERANCE,
        format!("the last state through the head gives the model's logits to {distance:.1e}"),
    ))
}

fn finite(states: &[Tensor]) -> Result<Finding> {
    for (layer, state) in states.iter().enumerate() {
        let d = state.dim(1)?;
        let bad = with_values(state, |x| x.iter().position(|value| !value.is_finite()))?;
        if let Some(at) = bad {
            let detail = format!("token {}, coordinate {} of layer {layer} is not finite", at / d, at % d);
            return Ok(finding(Stage::States.name(), Outcome::Bad, detail));
        }
    }
    let tokens = states[0].dim(0)?;
    Ok(finding(
        Stage::States.name(),
        Outcome::Good,
        format!("finite in all {} layers, {tokens} tokens", states.len()),
    ))
}

/// The map from the last layer to itself.
fn identity(states: &[Tensor]) -> Result<Finding> {
    let last = &states[states.len() - 1];
    let d = last.dim(1)?;
    let (map, rank) = with_values(last, |x| -> Result<_> {
        let whitening = Factoring::of(x, d)?;
        let mut solving = Solving::new(&whitening, 1, d);
        solving.add(x, [x]);
        let coordinates =
            solving.finish().pop().ok_or_else(|| Error::Internal("no map was fitted".into()))?;
        Ok((whitening.map(coordinates.as_ref())?, whitening.rank()))
    })??;
    let distance = distance(&Linear::of_map(&map).forward(last)?, last)?;
    Ok(verdict(
        "identity",
        distance <= 1e-3,
        format!(
            "the map of the last layer to itself moves a state by {distance:.1e} at most (rank {rank} of {d}, {} tokens)",
            last.dim(0)?
        ),
    ))
}

fn median(values: &[f32]) -> f32 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f32::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

/// Places (coordinates or positions) that are outliers in some layer, each with its largest ratio to the median and the
/// layer of it.
#[derive(Default)]
struct Outliers {
    largest: Vec<(usize, f32, usize)>,
}

impl Outliers {
    fn add(&mut self, place: usize, ratio: f32, layer: usize) {
        if ratio <= OUTLIER {
            return;
        }
        match self.largest.iter_mut().find(|known| known.0 == place) {
            Some(known) if known.1 < ratio => (known.1, known.2) = (ratio, layer),
            Some(_) => {}
            None => self.largest.push((place, ratio, layer)),
        }
    }

    /// The first few, the largest first.
    fn named(mut self) -> String {
        self.largest.sort_by(|a, b| b.1.total_cmp(&a.1));
        let name = |(place, ratio, layer): &(usize, f32, usize)| {
            format!("{place} ({ratio:.0} times the median at layer {layer})")
        };
        let mut named: Vec<String> = self.largest.iter().take(NAMED).map(name).collect();
        if self.largest.len() > NAMED {
            named.push("…".to_owned());
        }
        named.join(", ")
    }
}

/// Coordinates that dwarf the others.
fn coordinates(states: &[Tensor]) -> Result<Finding> {
    let mut outliers = Outliers::default();
    for (layer, state) in states.iter().enumerate() {
        let sizes: Vec<f32> = state.sqr()?.mean(0)?.sqrt()?.to_vec1()?;
        let middle = median(&sizes);
        sizes
            .iter()
            .enumerate()
            .for_each(|(coordinate, size)| outliers.add(coordinate, size / middle, layer));
    }
    Ok(match outliers.largest.len() {
        0 => finding("coordinates", Outcome::Good, format!("none is above {OUTLIER} times the median one")),
        n => finding(
            "coordinates",
            Outcome::Note,
            format!("{n} of {} are larger than the others: {}", states[0].dim(1)?, outliers.named()),
        ),
    })
}

/// Positions whose states dwarf the others': where attention is parked.
fn sinks(states: &[Tensor], batch: &PackedBatch) -> Result<Finding> {
    let longest = batch.positions.iter().max().map_or(0, |position| *position as usize + 1);
    let mut outliers = Outliers::default();
    for (layer, state) in states.iter().enumerate() {
        let norms: Vec<f32> = state.sqr()?.sum(1)?.sqrt()?.to_vec1()?;
        let middle = median(&norms);
        let mut by_position = vec![Vec::new(); longest];
        norms.iter().zip(&batch.positions).for_each(|(norm, p)| by_position[*p as usize].push(*norm));
        for (position, norms) in by_position.iter().enumerate() {
            outliers.add(position, median(norms) / middle, layer);
        }
    }
    Ok(match outliers.largest.len() {
        0 => finding(
            "positions",
            Outcome::Good,
            format!("none has states above {OUTLIER} times the median norm"),
        ),
        _ => finding(
            "positions",
            Outcome::Note,
            format!(
                "states are far larger than the others, as at attention sinks, at position {}",
                outliers.named()
            ),
        ),
    })
}
