//! The stage `evaluate`: what every cast predicts from every layer, held against the model's own prediction.

use super::casts::BlockCasts;
use crate::batch::PackedBatch;
use crate::files::{hexadecimal, write_with};
use crate::models::{Head, Kind, Spec, Transformer};
use crate::nn::{Linear, Precision, with_values};
use crate::progress::{Observer, check};
use crate::shortcut::{LinearMap, MapStore};
use crate::states::{LayerStates, States};
use crate::tokenize::Sample;
use crate::words::{BlockCast, Cast};
use crate::{Error, Result};
use candle_core::Tensor;
use jumplens_core::linalg::parallel;
use jumplens_core::metrics::{RowScan, Unembedding, scan, scan_closely};
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, FloatType, Int32Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use sha2::{Digest, Sha256};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Tokens kept of each prediction.
pub const TOP_K: usize = 10;

/// Tokens in a batch: fewer than for the states, since up to L copies of it are in flight, one a starting layer.
pub(crate) const TOKEN_BUDGET: usize = 128;

/// What one cast predicts for one sample from one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// The cast's most probable tokens, best first; [`NO_TOKEN`] where it has none.
    pub top: [u32; TOP_K],
    /// −ln p_model(top token), nats; NaN where the cast has none.
    pub surprisal: f64,
    /// Difference of the cast's largest two probabilities; NaN where it has none.
    pub confidence: f64,
    /// KL(model ‖ cast), nats; NaN where the cast has no distribution.
    pub kl: f64,
    /// −ln p_cast(true token), nats, where the sample knows its true token; NaN where the cast has no distribution.
    pub loss: Option<f64>,
    /// Place of the cast's top token among the model's top [`TOP_K`], from 0; `None` where it is not one of them.
    pub model_rank: Option<usize>,
    /// Place of the model's top token in the order of the cast's logits, from 1; the last place where the cast has no
    /// distribution.
    pub rank: usize,
}

/// In the place of token ids where a cast's state is not finite, so that it predicts nothing: casts that replace norms can
/// grow from block to block until f32 ends. Written as −1.
pub const NO_TOKEN: u32 = u32::MAX;

impl Prediction {
    /// What comes of a state that is not finite.
    fn none(knows_target: bool, vocab: usize) -> Self {
        Self {
            top: [NO_TOKEN; TOP_K],
            surprisal: f64::NAN,
            confidence: f64::NAN,
            kl: f64::NAN,
            loss: knows_target.then_some(f64::NAN),
            model_rank: None,
            rank: vocab,
        }
    }

    /// True where the cast's state was finite.
    pub fn is_there(&self) -> bool {
        self.top[0] != NO_TOKEN
    }

    /// True where the cast's top token is among the model's top `k`.
    pub fn hit(&self, k: usize) -> bool {
        self.model_rank.is_some_and(|rank| rank < k)
    }
}

/// One cast's predictions.
#[derive(Debug, Clone, PartialEq)]
pub struct CastPredictions {
    /// The cast.
    pub mapping: Cast,
    /// `[layer][sample]`, layers 0…L.
    pub layers: Vec<Vec<Prediction>>,
}

/// All predictions on the validation samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// `id`, the casts that are maps of states, `mat` first, and those that run blocks, as far as they were asked for.
    pub casts: Vec<CastPredictions>,
}

impl Evaluation {
    /// The predictions of the cast `mapping`.
    pub fn cast(&self, mapping: &Cast) -> Option<&CastPredictions> {
        self.casts.iter().find(|cast| cast.mapping == *mapping)
    }

    /// Of no samples, in a model of `last` blocks.
    pub(crate) fn empty(casts: &[Cast], last: usize) -> Self {
        let of =
            |mapping: &Cast| CastPredictions { mapping: mapping.clone(), layers: vec![Vec::new(); last + 1] };
        Self { casts: casts.iter().map(of).collect() }
    }

    /// How many samples it is of.
    pub fn samples(&self) -> usize {
        self.casts.first().and_then(|cast| cast.layers.first()).map_or(0, Vec::len)
    }

    /// Puts those of the samples that follow behind, by the same casts.
    pub(crate) fn append(&mut self, next: Self) {
        for (cast, next) in self.casts.iter_mut().zip(next.casts) {
            for (all, layer) in cast.layers.iter_mut().zip(next.layers) {
                all.extend(layer);
            }
        }
    }

    /// Says which casts had no predictions, and from where.
    pub(crate) fn note_missing(&self, observer: &dyn Observer) {
        self.casts.iter().filter_map(missing).for_each(|note| observer.note(&note));
    }

    /// The casts that are made from the state alone: all but those that run blocks.
    pub fn of_states(&self) -> impl Iterator<Item = &CastPredictions> {
        self.casts.iter().filter(|cast| !matches!(cast.mapping, Cast::Blocks(_)))
    }
}

/// What evaluating a batch needs, whichever batch it is.
struct Evaluator<'a> {
    model: &'a Transformer,
    head: &'a Head,
    unembedding: Unembedding<'a>,
    samples: &'a [Sample],
    /// States of the layers 0…L.
    states: Vec<LayerStates<'a>>,
    /// Whether `id` is evaluated too.
    with_id: bool,
    /// Of each cast that is a map of states, the maps from the layers 0…L−1 to L.
    to_last: Vec<Vec<Linear>>,
    /// Where there are maps of parts.
    block_casts: Option<BlockCasts>,
}

impl Evaluator<'_> {
    /// The predictions for the batch's samples: the model's own, then each cast's from each layer 0…L−1.
    fn predictions(&self, batch: &PackedBatch) -> Result<Vec<Vec<Prediction>>> {
        let states =
            self.states.iter().map(|file| file.rows(batch.samples.clone())).collect::<Result<Vec<_>>>()?;
        let (last, earlier) =
            states.split_last().ok_or_else(|| Error::Internal("a model without states".into()))?;
        let mut lasts = vec![last.clone()];
        if self.with_id {
            lasts.extend_from_slice(earlier);
        }
        for (h, map) in self.to_last.iter().flat_map(|maps| earlier.iter().zip(maps)) {
            lasts.push(map.forward(h)?);
        }
        if let Some(casts) = &self.block_casts {
            lasts.extend(casts.run(self.model, batch)?);
        }
        let targets: Vec<Option<u32>> =
            self.samples[batch.samples.clone()].iter().map(|sample| sample.target).collect();
        predict(self.head, &self.unembedding, &lasts, TOP_K, &targets, None, |prediction, _| prediction)
    }
}

/// What the head makes of states of the last layer: `lasts` are the model's own, then those of one cast after another, a
/// state for each of `targets` in every one, `[n, d]` rows all in all. `take` gets each prediction with the scan of its logits, whose
/// `k` largest are kept; with `asked`, the scans are those of [`scan_closely`]. Returns what it made, as many of them to a list
/// as there are `targets`.
pub(crate) fn predict<T>(
    head: &Head,
    unembedding: &Unembedding,
    lasts: &[Tensor],
    k: usize,
    targets: &[Option<u32>],
    asked: Option<&[u32]>,
    take: impl Fn(Prediction, &RowScan) -> T,
) -> Result<Vec<Vec<T>>> {
    let (n, d) = (targets.len(), unembedding.d());
    let prepared = head.prepare(&Tensor::cat(lasts, 0)?)?;
    Ok(with_values(&prepared, |rows| {
        let scans = match asked {
            None => scan(rows, unembedding, k.max(TOP_K), targets),
            Some(asked) => scan_closely(rows, unembedding, k.max(TOP_K), targets, asked),
        };
        let state = |row: usize| &rows[row * d..][..d];
        let one = |row: usize| {
            let scan = &scans[row];
            let is_finite = state(row).iter().all(|value| value.is_finite()) && scan.log_sum_exp.is_finite();
            let prediction = match is_finite {
                true => prediction(unembedding, scan, &scans[row % n], state(row % n)),
                false => Prediction::none(targets[row % n].is_some(), unembedding.vocab()),
            };
            take(prediction, scan)
        };
        (0..scans.len()).step_by(n).map(|first| (first..first + n).map(one).collect()).collect()
    })?)
}

/// Calls `f` with the unembedding of `head`, for products in `precision`. [`Error::Option`] where the vocabulary is too small.
pub(crate) fn with_unembedding<R>(
    head: &Head,
    precision: Precision,
    f: impl FnOnce(Unembedding) -> Result<R>,
) -> Result<R> {
    let vocab = head.unembedding().dim(0)?;
    if vocab < TOP_K {
        let message = format!("the vocabulary has {vocab} tokens, fewer than the {TOP_K} that are kept");
        return Err(Error::Option(message));
    }
    let bias = head.bias().map(|bias| with_values(bias, <[f32]>::to_vec)).transpose()?;
    let packed = head.packed(precision)?;
    with_values(head.unembedding(), |weight| f(Unembedding::packed(weight, packed, bias, head.soft_cap())))?
}

/// The maps of `cast` from the layers 0…L−1 to L.
pub(crate) fn maps_to_last(spec: &Spec, shortcuts: &dyn MapStore, cast: &Cast) -> Result<Vec<Linear>> {
    let last = spec.n_layers;
    let map = |from| {
        let map = shortcuts.load(cast, from, &[last], spec.d_model)?.remove(&last);
        let map = map.ok_or_else(|| Error::Internal(format!("no map {from}_{last}")))?;
        Ok(Linear::of_map(&map))
    };
    (0..last).map(map).collect()
}

/// `own` is what the model's own row gave, `state` that row `[d]`.
fn prediction(unembedding: &Unembedding, scan: &RowScan, own: &RowScan, state: &[f32]) -> Prediction {
    let mut top = [0; TOP_K];
    top.iter_mut().zip(&scan.top).for_each(|(kept, (_, token))| *kept = *token);
    Prediction {
        top,
        surprisal: own.log_sum_exp - unembedding.logit(top[0], state),
        confidence: scan.confidence(),
        kl: scan.kl,
        loss: scan.target_logit.map(|logit| scan.log_sum_exp - f64::from(logit)),
        model_rank: own.top.iter().position(|(_, token)| *token == top[0]),
        rank: scan.rank,
    }
}

/// What is evaluated, and on what.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// The model.
    pub model: &'a Transformer,
    /// Its head.
    pub head: &'a Head,
    /// What the unembedding's products are done in.
    pub precision: Precision,
    /// The validation samples.
    pub samples: &'a [Sample],
    /// Their states.
    pub states: &'a dyn States,
    /// The maps.
    pub shortcuts: &'a dyn MapStore,
    /// The casts, none of them twice: `id`, those whose maps are in `shortcuts`, and those that run blocks.
    pub casts: &'a [Cast],
}

impl Subject<'_> {
    /// The casts that are maps of states.
    fn map_casts(&self) -> impl Iterator<Item = &Cast> {
        self.casts.iter().filter(|cast| !matches!(cast, Cast::Id | Cast::Blocks(_)))
    }

    fn block_casts(&self) -> Vec<BlockCast> {
        let block = |cast: &Cast| if let Cast::Blocks(cast) = cast { Some(*cast) } else { None };
        self.casts.iter().filter_map(block).collect()
    }

    /// True where the model is run: without such casts, all comes of the states.
    pub(crate) fn runs_blocks(&self) -> bool {
        self.casts.iter().any(|cast| matches!(cast, Cast::Blocks(_)))
    }

    /// The casts in the order in which they are evaluated.
    pub(super) fn mappings(&self) -> Vec<Cast> {
        let id = self.casts.iter().filter(|cast| **cast == Cast::Id);
        let blocks = self.block_casts().into_iter().map(Cast::Blocks);
        id.chain(self.map_casts()).cloned().chain(blocks).collect()
    }

    /// SHA-256 of the maps that the casts apply.
    pub(super) fn digest_of_maps(&self) -> Result<String> {
        let spec = self.model.spec();
        let (last, d) = (spec.n_layers, spec.d_model);
        let mut digest = Sha256::new();
        let mut add = |name: &str, map: &LinearMap| {
            digest.update(name);
            digest.update(bytemuck::cast_slice(map.weight()));
            digest.update(bytemuck::cast_slice(map.bias().unwrap_or_default()));
        };
        for cast in self.map_casts() {
            for from in 0..last {
                let maps = self.shortcuts.load(cast, from, &[last], d)?;
                maps.values().for_each(|map| add(&format!("{cast} {from}"), map));
            }
        }
        let parts: Vec<&str> = self.block_casts().iter().flat_map(|cast| cast.parts()).copied().collect();
        for layer in 0..last {
            for part in spec.parts.iter().filter(|part| parts.contains(&part.name)) {
                let map = self.shortcuts.load_part(layer, part.name, d)?;
                add(&format!("{} {layer}", part.name), &map);
            }
        }
        Ok(hexadecimal(&digest.finalize()))
    }
}

/// Evaluates every cast from every layer on all samples. Advances as a run's stage does. [`Error::Option`] where the vocabulary is
/// too small.
pub fn evaluate(subject: &Subject, observer: &dyn Observer) -> Result<Evaluation> {
    let mut all = Evaluation::empty(&subject.mappings(), subject.model.spec().n_layers);
    let take = &mut |piece: Evaluation| {
        all.append(piece);
        Ok(())
    };
    evaluate_pieces(subject, 0..subject.samples.len(), take, observer)?;
    all.note_missing(observer);
    Ok(all)
}

/// Evaluates the samples of `range`. `take` gets them in pieces, in order: one every few seconds, and the rest. A sample's
/// predictions do not depend on those that it is evaluated with, so that pieces, and ranges, are the same bits as the whole.
/// Advances by the tokens run, or, where no cast runs any, by the samples.
pub(crate) fn evaluate_pieces(
    subject: &Subject,
    range: Range<usize>,
    take: &mut dyn FnMut(Evaluation) -> Result<()>,
    observer: &dyn Observer,
) -> Result<()> {
    let Subject { model, head, samples, shortcuts, .. } = *subject;
    let spec = model.spec();
    let last = spec.n_layers;
    let to_last =
        subject.map_casts().map(|cast| maps_to_last(spec, shortcuts, cast)).collect::<Result<Vec<_>>>()?;
    let blocks = subject.block_casts();
    let block_casts = match blocks.is_empty() {
        true => None,
        false => Some(BlockCasts::load(model, shortcuts, &blocks)?),
    };
    let states = subject.states.layers(last)?;
    let mappings = subject.mappings();
    let with_id = mappings.contains(&Cast::Id);
    let mut batches = batches(&samples[range.clone()], spec.kind);
    for batch in &mut batches {
        batch.samples = batch.samples.start + range.start..batch.samples.end + range.start;
    }
    let by_tokens = subject.runs_blocks();
    let mut piece = Evaluation::empty(&mappings, last);
    let mut pace = Pace::new();
    let ended = with_unembedding(head, subject.precision, |unembedding| {
        let evaluator =
            Evaluator { model, head, unembedding, samples, states, with_id, to_last, block_casts };
        parallel::for_each(
            &batches,
            usize::MAX,
            |batch| evaluator.predictions(batch),
            |index, predictions| {
                let mut predictions = predictions.into_iter();
                let own = predictions.next().unwrap_or_default();
                for cast in &mut piece.casts {
                    for (kept, predictions) in cast.layers.iter_mut().zip(predictions.by_ref().take(last)) {
                        kept.extend(predictions);
                    }
                    cast.layers[last].extend_from_slice(&own);
                }
                if pace.is_due() || index + 1 == batches.len() {
                    pace.hand_on(|| take(std::mem::replace(&mut piece, Evaluation::empty(&mappings, last))))?;
                }
                let batch = &batches[index];
                observer.advance(if by_tokens { batch.tokens() } else { batch.samples.len() } as u64);
                check(observer)
            },
        )
    });
    // What was whole before it was stopped counts.
    let kept = if piece.samples() > 0 { take(piece) } else { Ok(()) };
    ended.and(kept)
}

/// When a piece of work is handed on: often enough that little is lost where it is stopped, and seldom enough that handing it
/// on, whatever that takes, is a small part of the work.
struct Pace {
    since: Instant,
    wait: Duration,
}

impl Pace {
    const SHORTEST: Duration = Duration::from_secs(5);
    const LONGEST: Duration = Duration::from_secs(45);
    /// The work takes so many times as long as handing it on.
    const TIMES: u32 = 50;

    fn new() -> Self {
        Self { since: Instant::now(), wait: Self::SHORTEST }
    }

    fn is_due(&self) -> bool {
        self.since.elapsed() >= self.wait
    }

    fn hand_on(&mut self, take: impl FnOnce() -> Result<()>) -> Result<()> {
        let began = Instant::now();
        take()?;
        self.since = Instant::now();
        self.wait = Self::after(began.elapsed());
        Ok(())
    }

    fn after(took: Duration) -> Duration {
        (took * Self::TIMES).clamp(Self::SHORTEST, Self::LONGEST)
    }
}

/// What is run for the casts. In masked models a cast replaces parts at the chosen position alone, and attention brings
/// that to the others: samples of one sentence do not share a sequence there.
pub(crate) fn batches(samples: &[Sample], kind: Kind) -> Vec<PackedBatch> {
    match kind {
        Kind::Causal => PackedBatch::pack(samples, kind, TOKEN_BUDGET),
        Kind::Masked => PackedBatch::pack_apart(samples, kind, TOKEN_BUDGET),
    }
}

/// From which layers a cast had no prediction for some samples, where it had none.
fn missing(cast: &CastPredictions) -> Option<String> {
    let missing = |layer: &Vec<Prediction>| layer.iter().filter(|prediction| !prediction.is_there()).count();
    let counts: Vec<usize> = cast.layers.iter().map(missing).collect();
    let first = counts.iter().position(|count| *count > 0)?;
    let last = counts.iter().rposition(|count| *count > 0)?;
    let most = counts.iter().max()?;
    Some(format!(
        "`{}` grows beyond what f32 holds when it starts from layers {first} to {last}, for up to {most} of {} samples: they \
         count as misses, and surprisal, KL and loss are NaN there",
        cast.mapping,
        cast.layers[first].len()
    ))
}

/// Writes `predictions.parquet`: sample, mapping, layer, top10, surprisal, confidence; a row a sample, cast and layer.
pub fn write_predictions(path: &Path, evaluation: &Evaluation) -> Result<()> {
    const SCHEMA: &str = "message predictions {
        required int32 sample;
        required binary mapping (UTF8);
        required int32 layer;
        required group top10 (LIST) { repeated group list { required int32 element; } }
        required float surprisal;
        required float confidence;
    }";
    let rows = || {
        evaluation.casts.iter().flat_map(|cast| {
            cast.layers.iter().enumerate().flat_map(move |(layer, predictions)| {
                predictions.iter().enumerate().map(move |(sample, p)| (&cast.mapping, layer, sample, p))
            })
        })
    };
    let schema = Arc::new(parse_message_type(SCHEMA).map_err(|error| Error::Internal(error.to_string()))?);
    let properties = Arc::new(WriterProperties::builder().set_compression(Compression::SNAPPY).build());
    let n = rows().count();
    let lists = vec![1i16; n * TOP_K];
    let repeats: Vec<i16> = (0..n * TOP_K).map(|i| i16::from(i % TOP_K != 0)).collect();
    write_with(path, |file| {
        let attempt = || -> parquet::errors::Result<()> {
            let mut writer = SerializedFileWriter::new(file, schema, properties)?;
            let mut group = writer.next_row_group()?;
            let mut number = 0;
            while let Some(mut column) = group.next_column()? {
                match number {
                    0 => {
                        let values: Vec<i32> = rows().map(|(_, _, sample, _)| sample as i32).collect();
                        column.typed::<Int32Type>().write_batch(&values, None, None)?;
                    }
                    1 => {
                        let values: Vec<ByteArray> =
                            rows().map(|(mapping, ..)| mapping.name().as_ref().into()).collect();
                        column.typed::<ByteArrayType>().write_batch(&values, None, None)?;
                    }
                    2 => {
                        let values: Vec<i32> = rows().map(|(_, layer, ..)| layer as i32).collect();
                        column.typed::<Int32Type>().write_batch(&values, None, None)?;
                    }
                    3 => {
                        let values: Vec<i32> =
                            rows().flat_map(|(.., p)| p.top.map(|token| token as i32)).collect();
                        column.typed::<Int32Type>().write_batch(&values, Some(&lists), Some(&repeats))?;
                    }
                    4 => {
                        let values: Vec<f32> = rows().map(|(.., p)| p.surprisal as f32).collect();
                        column.typed::<FloatType>().write_batch(&values, None, None)?;
                    }
                    _ => {
                        let values: Vec<f32> = rows().map(|(.., p)| p.confidence as f32).collect();
                        column.typed::<FloatType>().write_batch(&values, None, None)?;
                    }
                }
                column.close()?;
                number += 1;
            }
            group.close()?;
            writer.close()?;
            Ok(())
        };
        attempt().map_err(std::io::Error::other)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_a_minute_is_between_two_pieces_and_slow_disks_are_asked_less_often() {
        let after = |milliseconds| Pace::after(Duration::from_millis(milliseconds)).as_secs_f64();
        assert_eq!([0, 50, 200, 800, 60_000].map(after), [5.0, 5.0, 10.0, 40.0, 45.0]);
    }
}
