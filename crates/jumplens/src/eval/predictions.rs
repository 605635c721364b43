//! The stage `evaluate`: what every cast predicts from every layer, held against the model's own prediction.

use super::casts::{BLOCK_CASTS, BlockCasts};
use super::scan::{Reference, RowScan, scan};
use crate::error::{Error, Result};
use crate::files::write_with;
use crate::models::{Backbone, Head};
use crate::nn::with_values;
use crate::progress::{Observer, check};
use crate::shortcut::Shortcuts;
use crate::states::StateFiles;
use crate::tokenize::Sample;
use candle_core::{Device, Tensor};
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, FloatType, Int32Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::path::Path;
use std::sync::Arc;

/// Tokens kept of each prediction.
pub const TOP_K: usize = 10;

/// Samples that are evaluated at one time: bounds what is held of all casts' last states.
const CHUNK: usize = 512;

/// What one cast predicts for one sample from one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// The cast's most probable tokens, best first.
    pub top: [u32; TOP_K],
    /// −ln p_model(top token), nats.
    pub surprisal: f64,
    /// Difference of the cast's largest two probabilities.
    pub confidence: f64,
    /// KL(model ‖ cast), nats.
    pub kl: f64,
    /// −ln p_cast(true token), nats, where the sample knows its true token.
    pub loss: Option<f64>,
    /// Place of the cast's top token among the model's top [`TOP_K`], from 0; `None` where it is not one of them.
    pub model_rank: Option<usize>,
}

impl Prediction {
    /// True where the cast's top token is among the model's top `k`.
    pub fn hit(&self, k: usize) -> bool {
        self.model_rank.is_some_and(|rank| rank < k)
    }
}

/// One cast's predictions.
#[derive(Debug, Clone, PartialEq)]
pub struct CastPredictions {
    /// The cast's name.
    pub mapping: &'static str,
    /// `[layer][sample]`, layers 0…L.
    pub layers: Vec<Vec<Prediction>>,
}

/// All predictions on the validation samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// `id`, `mat`, `mat_attn`, `mat_ffn`, `mat_ln1_ln2`.
    pub casts: Vec<CastPredictions>,
}

impl Evaluation {
    /// The predictions of the cast called `mapping`.
    pub fn cast(&self, mapping: &str) -> Option<&CastPredictions> {
        self.casts.iter().find(|cast| cast.mapping == mapping)
    }
}

/// The model's own predictions for some samples, which the casts' are held against.
struct Exact<'a> {
    head: &'a dyn Head,
    unembedding: &'a [f32],
    d: usize,
    /// Prepared last states, `[samples, d]`.
    rows: Vec<f32>,
    scans: Vec<RowScan>,
    targets: Vec<Option<u32>>,
}

impl<'a> Exact<'a> {
    fn new(head: &'a dyn Head, unembedding: &'a [f32], last: &Tensor, samples: &[Sample]) -> Result<Self> {
        let d = last.dim(1)?;
        let rows = with_values(&head.prepare(last)?, <[f32]>::to_vec)?;
        let targets: Vec<Option<u32>> = samples.iter().map(|sample| sample.target).collect();
        let scans = scan(&rows, unembedding, d, TOP_K, &targets, None);
        Ok(Self { head, unembedding, d, rows, scans, targets })
    }

    /// The predictions of the model itself.
    fn own(&self) -> Vec<Prediction> {
        self.scans.iter().enumerate().map(|(sample, scan)| self.prediction(sample, scan)).collect()
    }

    /// The predictions that the last states `h` `[samples, d]` give.
    fn of(&self, h: &Tensor) -> Result<Vec<Prediction>> {
        let reference = Reference { rows: &self.rows, scans: &self.scans };
        let scans = with_values(&self.head.prepare(h)?, |rows| {
            scan(rows, self.unembedding, self.d, TOP_K, &self.targets, Some(reference))
        })?;
        Ok(scans.iter().enumerate().map(|(sample, scan)| self.prediction(sample, scan)).collect())
    }

    fn prediction(&self, sample: usize, scan: &RowScan) -> Prediction {
        let mut top = [0; TOP_K];
        top.iter_mut().zip(&scan.top).for_each(|(kept, (_, token))| *kept = *token);
        let token = top[0] as usize;
        let embedding = &self.unembedding[token * self.d..][..self.d];
        let state = &self.rows[sample * self.d..][..self.d];
        let logit: f64 = embedding.iter().zip(state).map(|(w, h)| f64::from(*w) * f64::from(*h)).sum();
        let own = &self.scans[sample];
        Prediction {
            top,
            surprisal: own.log_sum_exp - logit,
            confidence: scan.confidence(),
            kl: scan.kl,
            loss: scan.target_logit.map(|logit| scan.log_sum_exp - f64::from(logit)),
            model_rank: own.top.iter().position(|(_, model)| *model as usize == token),
        }
    }
}

/// Evaluates every cast from every layer on the validation samples, whose states are in `states`. Advances by the
/// tokens run. [`Error::Option`] where the model has no head or too small a vocabulary.
pub fn evaluate(
    model: &dyn Backbone,
    samples: &[Sample],
    states: &StateFiles,
    shortcuts: &Shortcuts,
    observer: &dyn Observer,
) -> Result<Evaluation> {
    let spec = model.spec();
    let last = spec.n_layers;
    let head = model
        .head()
        .ok_or_else(|| Error::Option("the model has no head, so it makes no predictions".into()))?;
    if spec.vocab_size < TOP_K {
        let message =
            format!("the vocabulary has {} tokens, fewer than the {TOP_K} that are kept", spec.vocab_size);
        return Err(Error::Option(message));
    }
    let block_casts = BlockCasts::load(spec, shortcuts)?;
    let to_last = (0..last)
        .map(|from| {
            let map = shortcuts.load_pairs(from, &[last], spec.d_model)?.remove(&last);
            map.map(|map| map.layer()).ok_or_else(|| Error::Internal(format!("no map {from}_{last}")))
        })
        .collect::<Result<Vec<_>>>()?;
    let files = (0..=last).map(|layer| states.layer(layer)).collect::<Result<Vec<_>>>()?;
    let names = ["id", "mat"].into_iter().chain(BLOCK_CASTS.iter().map(|cast| cast.name));
    let mut casts: Vec<CastPredictions> =
        names.map(|mapping| CastPredictions { mapping, layers: vec![Vec::new(); last + 1] }).collect();
    let unembedding = with_values(head.unembedding(), <[f32]>::to_vec)?;
    for (index, chunk) in samples.chunks(CHUNK).enumerate() {
        let range = index * CHUNK..index * CHUNK + chunk.len();
        let exact = Exact::new(head, &unembedding, &files[last].rows(range.clone())?, chunk)?;
        let finals = block_casts.run(model, chunk, observer)?;
        for layer in 0..last {
            check(observer)?;
            let h = files[layer].rows(range.clone())?;
            casts[0].layers[layer].extend(exact.of(&h)?);
            casts[1].layers[layer].extend(exact.of(&to_last[layer].forward(&h)?)?);
            for (cast, finals) in casts[2..].iter_mut().zip(&finals) {
                let h = Tensor::from_slice(&finals[layer], (chunk.len(), spec.d_model), &Device::Cpu)?;
                cast.layers[layer].extend(exact.of(&h)?);
            }
        }
        let own = exact.own();
        casts.iter_mut().for_each(|cast| cast.layers[last].extend_from_slice(&own));
    }
    Ok(Evaluation { casts })
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
                predictions.iter().enumerate().map(move |(sample, p)| (cast.mapping, layer, sample, p))
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
                        let values: Vec<ByteArray> = rows().map(|(mapping, ..)| mapping.into()).collect();
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
