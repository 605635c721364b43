//! BERT (Devlin et al., arXiv 1810.04805): post-norm blocks, learnt positions, `torch.nn.Linear` weights, an MLM head
//! with a transform of its own. Agrees with `transformers/models/bert/modeling_bert.py`; every token is of type 0.

use super::config::{COMMON, ConfigFile};
use super::{
    Attention, Backbone, Head, Kind, Loaded, POST_NORM_PARTS, Spec, activation, linear, not_negative,
    note_unused, sizes_fit, unembedding,
};
use crate::batch::PackedBatch;
use crate::error::{Error, Result};
use crate::fields::{Class, Field};
use crate::nn::{self, Activation, FeedForward, LayerNorm, Linear, SelfAttention};
use crate::weights::{Scope, Weights};
use candle_core::Tensor;
use serde::Deserialize;

/// The fields of `BertConfig`.
pub(super) const CLASS: Class = Class {
    name: "BertConfig",
    fields: &[
        &[
            Field::read("vocab_size", "30522"),
            Field::read("hidden_size", "768"),
            Field::read("num_hidden_layers", "12"),
            Field::read("num_attention_heads", "12"),
            Field::read("intermediate_size", "3072"),
            Field::read("max_position_embeddings", "512"),
            Field::read("type_vocab_size", "2"),
            Field::read("hidden_act", "\"gelu\""),
            Field::read("layer_norm_eps", "1e-12"),
            Field::read("tie_word_embeddings", "true"),
            Field::no_effect("attention_probs_dropout_prob"),
            Field::no_effect("classifier_dropout"),
            Field::no_effect("hidden_dropout_prob"),
            // Of the pooler, and of the script, in Google's own.
            Field::no_effect("directionality"),
            Field::no_effect("pooler_fc_size"),
            Field::no_effect("pooler_num_attention_heads"),
            Field::no_effect("pooler_num_fc_layers"),
            Field::no_effect("pooler_size_per_head"),
            Field::no_effect("pooler_type"),
            Field::unread("add_cross_attention", "false"),
            Field::unread("is_causal", "false"),
            Field::unread("is_decoder", "false"),
            Field::unread("position_embedding_type", "\"absolute\""),
        ],
        COMMON,
    ],
    aliases: &[],
};

/// `config.json`, its field names kept.
#[derive(Debug, Clone, Deserialize)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    hidden_act: String,
    layer_norm_eps: f64,
    tie_word_embeddings: bool,
}

struct Bert {
    spec: Spec,
    embeddings: Embeddings,
    layer: Vec<Layer>,
    predictions: Option<LmPredictionHead>,
}

struct Embeddings {
    word_embeddings: Tensor,
    /// With the embedding of token type 0 added.
    position_embeddings: Tensor,
    layer_norm: LayerNorm,
}

struct Layer {
    attention: SelfAttention,
    attention_norm: LayerNorm,
    feed_forward: FeedForward,
    output_norm: LayerNorm,
}

struct LmPredictionHead {
    dense: Linear,
    activation: Activation,
    layer_norm: LayerNorm,
    decoder: Tensor,
    bias: Tensor,
}

pub(super) fn load(file: &ConfigFile, weights: &Weights) -> Result<Loaded> {
    let fail = |message: String| file.fault(message);
    let checked = file.check(&CLASS)?;
    let config: Config = checked.parse()?;
    let Config { hidden_size: d, num_attention_heads, num_hidden_layers, .. } = config;
    sizes_fit(
        ("num_hidden_layers", num_hidden_layers),
        ("num_attention_heads", num_attention_heads),
        ("hidden_size", d),
    )
    .map_err(fail)?;
    if config.type_vocab_size == 0 {
        return Err(fail("`type_vocab_size` is 0".to_owned()));
    }
    not_negative("layer_norm_eps", config.layer_norm_eps).map_err(fail)?;
    let activation = activation("hidden_act", &config.hidden_act).map_err(fail)?;

    // Checkpoints are saved from the model with its heads (`bert.embeddings…`) or from its trunk (`embeddings…`).
    let prefix = if weights.contains("bert.embeddings.word_embeddings.weight") { "bert." } else { "" };
    let root = weights.below(prefix);
    let embeddings = Embeddings::load(&config, &root.pp("embeddings"))?;
    let layer = (0..num_hidden_layers)
        .map(|layer| Layer::load(&config, activation, &root.pp(format!("encoder.layer.{layer}"))))
        .collect::<Result<_>>()?;
    let mut notes = checked.notes();
    let at = weights.below("cls.predictions.");
    // Encoders are published without the head they were trained with; a model that is said to have one must have it.
    let has_head = file.is_saved_as(&["ForMaskedLM", "ForPreTraining"])
        || weights.names().any(|name| name.starts_with("cls.predictions."));
    let predictions = has_head
        .then(|| LmPredictionHead::load(&config, activation, &embeddings.word_embeddings, &at, &mut notes))
        .transpose()?;
    // What the model was trained with besides, and a buffer of the numbers 0, 1, 2, ….
    let is_known = |name: &str| {
        let name = name.strip_prefix(prefix).unwrap_or(name);
        name.starts_with("pooler.")
            || name.starts_with("cls.seq_relationship.")
            || name == "embeddings.position_ids"
            || name.starts_with("cls.predictions.decoder.")
    };
    notes.extend(note_unused(weights, is_known));
    let spec = Spec {
        family: "bert",
        kind: Kind::Masked,
        n_layers: num_hidden_layers,
        d_model: d,
        n_heads: num_attention_heads,
        vocab_size: config.vocab_size,
        max_positions: config.max_position_embeddings,
        parts: POST_NORM_PARTS,
    };
    Ok(Loaded { model: Box::new(Bert { spec, embeddings, layer, predictions }), notes })
}

/// Called `gamma` and `beta` in checkpoints that were converted from TensorFlow.
fn layer_norm(config: &Config, at: &Scope) -> Result<LayerNorm> {
    let (weight, bias) = if at.contains("gamma") { ("gamma", "beta") } else { ("weight", "bias") };
    let shape = [config.hidden_size];
    Ok(LayerNorm::new(at.tensor(weight, &shape)?, at.tensor(bias, &shape)?, config.layer_norm_eps))
}

impl Embeddings {
    fn load(config: &Config, at: &Scope) -> Result<Self> {
        let d = config.hidden_size;
        let table = |name: &str, rows| at.pp(name).tensor("weight", &[rows, d]);
        let types = table("token_type_embeddings", config.type_vocab_size)?;
        let positions = table("position_embeddings", config.max_position_embeddings)?;
        Ok(Self {
            word_embeddings: table("word_embeddings", config.vocab_size)?,
            position_embeddings: positions.broadcast_add(&types.get(0)?)?,
            layer_norm: layer_norm(config, &at.pp("LayerNorm"))?,
        })
    }
}

impl Layer {
    fn load(config: &Config, activation: Activation, at: &Scope) -> Result<Self> {
        let d = config.hidden_size;
        let attention = at.pp("attention.self");
        Ok(Self {
            attention: SelfAttention::new(
                config.num_attention_heads,
                linear(&attention.pp("query"), d, d, true)?,
                linear(&attention.pp("key"), d, d, true)?,
                linear(&attention.pp("value"), d, d, true)?,
                linear(&at.pp("attention.output.dense"), d, d, true)?,
            ),
            attention_norm: layer_norm(config, &at.pp("attention.output.LayerNorm"))?,
            feed_forward: FeedForward {
                fc: linear(&at.pp("intermediate.dense"), d, config.intermediate_size, true)?,
                activation,
                proj: linear(&at.pp("output.dense"), config.intermediate_size, d, true)?,
            },
            output_norm: layer_norm(config, &at.pp("output.LayerNorm"))?,
        })
    }
}

impl LmPredictionHead {
    fn load(
        config: &Config,
        activation: Activation,
        word_embeddings: &Tensor,
        at: &Scope,
        notes: &mut Vec<String>,
    ) -> Result<Self> {
        let (d, vocab) = (config.hidden_size, config.vocab_size);
        let transform = at.pp("transform");
        Ok(Self {
            dense: linear(&transform.pp("dense"), d, d, true)?,
            activation,
            layer_norm: layer_norm(config, &transform.pp("LayerNorm"))?,
            decoder: unembedding(config.tie_word_embeddings, word_embeddings, at, "decoder.weight", notes)?,
            bias: decoder_bias(config.tie_word_embeddings, vocab, at, notes)?,
        })
    }
}

/// What is added to the logits. Checkpoints may have it twice: as `bias`, and as that of the decoder, which `transformers`
/// 5 ties to it where the embeddings are tied, and else reads in its place. Version 4.49 ties the two in any case.
fn decoder_bias(tied: bool, vocab: usize, at: &Scope, notes: &mut Vec<String>) -> Result<Tensor> {
    let names = if tied { ["bias", "decoder.bias"] } else { ["decoder.bias", "bias"] };
    let [used, other] = if at.contains(names[0]) { names } else { [names[1], names[0]] };
    let bias = at.tensor(used, &[vocab])?;
    if at.contains(other) {
        let other_bias = at.tensor(other, &[vocab])?;
        at.repeats(other);
        if other_bias.to_vec1::<f32>()? != bias.to_vec1::<f32>()? {
            let why = if tied {
                "the configuration ties the two"
            } else {
                "as transformers 5 does where nothing is tied"
            };
            notes.push(format!(
                "`cls.predictions.{other}` differs from `cls.predictions.{used}`: the latter is used, {why}"
            ));
        }
    }
    Ok(bias)
}

impl Backbone for Bert {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn embed(&self, batch: &PackedBatch) -> Result<Tensor> {
        let Embeddings { word_embeddings, position_embeddings, layer_norm } = &self.embeddings;
        let words = nn::look_up(word_embeddings, &batch.ids)?;
        let positions = nn::look_up(position_embeddings, &batch.positions)?;
        Ok(layer_norm.forward(&nn::add(&words, &positions)?)?)
    }

    fn part(&self, layer: usize, part: usize, inputs: &[&Tensor]) -> Result<Tensor> {
        let layer = &self.layer[layer];
        match (self.spec.parts[part].name, inputs) {
            ("ln1", [x]) => Ok(layer.attention_norm.forward(x)?),
            ("ffn", [x]) => Ok(layer.feed_forward.forward(x)?),
            ("ln2", [x]) => Ok(layer.output_norm.forward(x)?),
            ("res1" | "res2", [residual, x]) => Ok(nn::add(residual, x)?),
            (name, _) => Err(Error::Internal(format!("part `{name}` was given {} inputs", inputs.len()))),
        }
    }

    fn attention(&self, layer: usize) -> &dyn Attention {
        &self.layer[layer].attention
    }

    fn head(&self) -> Option<&dyn Head> {
        self.predictions.as_ref().map(|head| head as &dyn Head)
    }
}

impl Head for LmPredictionHead {
    fn prepare(&self, h: &Tensor) -> Result<Tensor> {
        Ok(self.layer_norm.forward(&self.activation.forward(&self.dense.forward(h)?)?)?)
    }

    fn unembedding(&self) -> &Tensor {
        &self.decoder
    }

    fn bias(&self) -> Option<&Tensor> {
        Some(&self.bias)
    }
}
