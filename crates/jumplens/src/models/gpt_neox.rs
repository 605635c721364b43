//! GPT-NeoX (Black et al., arXiv 2204.06745), the family of Pythia: attention and feed-forward part side by side on the
//! block's input, rotary positions on a share of each head, an unembedding of its own. Agrees with
//! `transformers/models/gpt_neox/modeling_gpt_neox.py`, except that `h_L` is taken before `final_layer_norm`.

use super::config::{COMMON, ConfigFile};
use super::rotary::{Beside, Rotary};
use super::{
    Attention, Backbone, Head, Kind, Loaded, PRE_NORM_PARTS, Part, PartAfter, PartKind, Slot, Spec,
    activation, after, linear, not_negative, note_unused, sizes_fit, unembedding,
};
use crate::batch::PackedBatch;
use crate::error::{Error, Result};
use crate::fields::{Class, Field};
use crate::nn::{self, Activation, FeedForward, LayerNorm, Linear, Rope, SelfAttention, WeightLayout};
use crate::weights::{Scope, Weights};
use candle_core::Tensor;
use jumplens_core::LinearMap;
use serde::Deserialize;
use serde_json::Value;

/// The fields of `GPTNeoXConfig`.
pub(super) const CLASS: Class = Class {
    name: "GPTNeoXConfig",
    fields: &[
        &[
            Field::read("vocab_size", "50432"),
            Field::read("hidden_size", "6144"),
            Field::read("intermediate_size", "24576"),
            Field::read("num_hidden_layers", "44"),
            Field::read("num_attention_heads", "64"),
            Field::read("max_position_embeddings", "2048"),
            Field::read("hidden_act", "\"gelu\""),
            Field::read("layer_norm_eps", "1e-5"),
            Field::read("use_parallel_residual", "true"),
            Field::read("attention_bias", "true"),
            Field::read("tie_word_embeddings", "false"),
            Field::optional("rotary_pct", "null"),
            Field::optional("rotary_emb_base", "null"),
            // Version 4 writes these beside the two above, and reads those.
            Field::optional("partial_rotary_factor", "null"),
            Field::optional("rope_theta", "null"),
            Field::optional("rope_scaling", "null"),
            Field::optional("rope_parameters", "null"),
            Field::no_effect("attention_dropout"),
            Field::no_effect("classifier_dropout"),
            Field::no_effect("hidden_dropout"),
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
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    max_position_embeddings: usize,
    hidden_act: String,
    layer_norm_eps: f64,
    use_parallel_residual: bool,
    attention_bias: bool,
    tie_word_embeddings: bool,
    rotary_pct: Option<f64>,
    rotary_emb_base: Option<f64>,
    partial_rotary_factor: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<Value>,
    rope_parameters: Option<Value>,
}

impl Config {
    fn rotary(&self) -> Result<Rotary, String> {
        let share = self.rotary_pct.unwrap_or(0.25);
        for (name, value, twin, of_twin) in [
            ("partial_rotary_factor", self.partial_rotary_factor, "rotary_pct", share),
            ("rope_theta", self.rope_theta, "rotary_emb_base", self.rotary_emb_base.unwrap_or(10_000.0)),
        ] {
            if let Some(value) = value.filter(|value| *value != of_twin) {
                return Err(format!("`{name}` is {value} and `{twin}` {of_twin}: only the latter is read"));
            }
        }
        let beside = Beside {
            theta: self.rotary_emb_base,
            partial: Some(share),
            original: None,
            max_positions: self.max_position_embeddings,
        };
        Rotary::read(self.rope_parameters.as_ref(), self.rope_scaling.as_ref(), beside, false)
    }
}

const PARALLEL_PARTS: &[Part] = &[
    Part { name: "ln1", kind: PartKind::Norm, inputs: &[Slot::BlockInput] },
    Part { name: "attn", kind: PartKind::Attention, inputs: &[Slot::Part(0)] },
    Part { name: "ln2", kind: PartKind::Norm, inputs: &[Slot::BlockInput] },
    Part { name: "ffn", kind: PartKind::FeedForward, inputs: &[Slot::Part(2)] },
    Part { name: "res", kind: PartKind::Add, inputs: &[Slot::BlockInput, Slot::Part(1), Slot::Part(3)] },
];

struct GptNeoX {
    spec: Spec,
    embed_in: Tensor,
    layers: Vec<Layer>,
    head: Option<LmHead>,
}

struct Layer {
    input_layernorm: LayerNorm,
    attention: SelfAttention,
    post_attention_layernorm: LayerNorm,
    mlp: FeedForward,
}

struct LmHead {
    final_layer_norm: LayerNorm,
    embed_out: Tensor,
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
    not_negative("layer_norm_eps", config.layer_norm_eps).map_err(fail)?;
    let activation = activation("hidden_act", &config.hidden_act).map_err(fail)?;
    let rotary = config.rotary().map_err(fail)?;
    let prefix = if weights.contains("gpt_neox.embed_in.weight") { "gpt_neox." } else { "" };
    let root = weights.below(prefix);
    let embed_in = root.tensor("embed_in.weight", &[config.vocab_size, d])?;
    // Only now is the width known to be the checkpoint's: what is as large as it may be made.
    let rope = rotary.rope("", d / num_attention_heads).map_err(fail)?;

    let layers = (0..num_hidden_layers)
        .map(|layer| Layer::load(&config, activation, &rope, &root.pp(format!("layers.{layer}"))))
        .collect::<Result<_>>()?;
    let mut notes = checked.notes();
    notes.extend(rotary.notes.iter().cloned());
    let tied = config.tie_word_embeddings;
    let final_layer_norm = layer_norm(&config, &root.pp("final_layer_norm"))?;
    // What transformers 5 calls it once it is loaded, and files saved from there may have.
    let unembedding_name =
        ["embed_out.weight", "lm_head.weight"].into_iter().find(|name| weights.contains(name));
    let unembedding_name = unembedding_name.unwrap_or("embed_out.weight");
    let head = match file.has_head(tied, weights, unembedding_name) {
        true => Some(LmHead {
            final_layer_norm,
            embed_out: unembedding(tied, &embed_in, &weights.below(""), unembedding_name, &mut notes)?,
        }),
        false => None,
    };
    // The causal mask and the frequencies, which older checkpoints carry.
    let buffers = [".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"];
    notes.extend(note_unused(weights, |name| buffers.iter().any(|buffer| name.ends_with(buffer))));
    let spec = Spec {
        family: "gpt_neox",
        kind: Kind::Causal,
        n_layers: num_hidden_layers,
        d_model: d,
        n_heads: num_attention_heads,
        vocab_size: config.vocab_size,
        max_positions: rotary.longest(),
        parts: if config.use_parallel_residual { PARALLEL_PARTS } else { PRE_NORM_PARTS },
    };
    Ok(Loaded { model: Box::new(GptNeoX { spec, embed_in, layers, head }), notes })
}

fn layer_norm(config: &Config, at: &Scope) -> Result<LayerNorm> {
    let shape = [config.hidden_size];
    Ok(LayerNorm::new(at.tensor("weight", &shape)?, at.tensor("bias", &shape)?, config.layer_norm_eps))
}

impl Layer {
    fn load(config: &Config, activation: Activation, rope: &Rope, at: &Scope) -> Result<Self> {
        let (d, d_inner) = (config.hidden_size, config.intermediate_size);
        Ok(Self {
            input_layernorm: layer_norm(config, &at.pp("input_layernorm"))?,
            attention: self_attention(config, rope, &at.pp("attention"))?,
            post_attention_layernorm: layer_norm(config, &at.pp("post_attention_layernorm"))?,
            mlp: FeedForward {
                fc: linear(&at.pp("mlp.dense_h_to_4h"), d, d_inner, true)?,
                activation,
                proj: linear(&at.pp("mlp.dense_4h_to_h"), d_inner, d, true)?,
            },
        })
    }
}

/// `query_key_value` holds, head by head, a query, a key and a value `[heads · 3 · d_head, d]`.
fn self_attention(config: &Config, rope: &Rope, at: &Scope) -> Result<SelfAttention> {
    let (d, n_heads) = (config.hidden_size, config.num_attention_heads);
    let d_head = d / n_heads;
    let fused = at.pp("query_key_value");
    let weight = fused.tensor("weight", &[3 * d, d])?.reshape((n_heads, 3, d_head, d))?;
    let bias = config.attention_bias.then(|| fused.tensor("bias", &[3 * d])).transpose()?;
    let bias = bias.map(|bias| bias.reshape((n_heads, 3, d_head))).transpose()?;
    let third = |i: usize| -> Result<Linear> {
        let weight = weight.narrow(1, i, 1)?.contiguous()?.reshape((d, d))?;
        let bias = bias.as_ref().map(|bias| bias.narrow(1, i, 1)?.contiguous()?.reshape(d)).transpose()?;
        Ok(Linear::new(&weight, bias.as_ref(), WeightLayout::OutIn, at.precision())?)
    };
    let output = linear(&at.pp("dense"), d, d, config.attention_bias)?;
    let attention = SelfAttention::new(n_heads, third(0)?, third(1)?, third(2)?, output);
    Ok(SelfAttention { rope: Some(rope.clone()), ..attention })
}

impl Backbone for GptNeoX {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn embed(&self, batch: &PackedBatch) -> Result<Tensor> {
        Ok(nn::look_up(&self.embed_in, &batch.ids)?)
    }

    fn part(&self, layer: usize, part: usize, inputs: &[&Tensor]) -> Result<Tensor> {
        let layer = &self.layers[layer];
        match (self.spec.parts[part].name, inputs) {
            ("ln1", [x]) => Ok(layer.input_layernorm.forward(x)?),
            ("ln2", [x]) => Ok(layer.post_attention_layernorm.forward(x)?),
            ("ffn", [x]) => Ok(layer.mlp.forward(x)?),
            ("res", [residual, attention, x]) => Ok(nn::add(residual, &nn::add(attention, x)?)?),
            ("res1" | "res2", [residual, x]) => Ok(nn::add(residual, x)?),
            (name, _) => Err(Error::Internal(format!("part `{name}` was given {} inputs", inputs.len()))),
        }
    }

    fn attention(&self, layer: usize) -> &dyn Attention {
        &self.layers[layer].attention
    }

    fn part_after(&self, layer: usize, part: usize, map: &LinearMap) -> Result<Option<PartAfter>> {
        let layer = &self.layers[layer];
        after(self.spec.parts[part].kind, &layer.attention, &layer.mlp, map)
    }

    fn head(&self) -> Option<&dyn Head> {
        self.head.as_ref().map(|head| head as &dyn Head)
    }
}

impl Head for LmHead {
    fn prepare(&self, h: &Tensor) -> Result<Tensor> {
        Ok(self.final_layer_norm.forward(h)?)
    }

    fn unembedding(&self) -> &Tensor {
        &self.embed_out
    }
}
