//! GPT-2 (Radford et al. 2019): pre-norm blocks, learnt positions, weights in `Conv1D` layout `[in, out]`, tied head.
//! Agrees with `transformers/models/gpt2/modeling_gpt2.py`, except that `h_L` is taken before `ln_f`.

use super::config::{COMMON, ConfigFile};
use super::{
    Attention, Backbone, Head, Kind, Loaded, PRE_NORM_PARTS, PartAfter, Spec, activation, after,
    not_negative, note_unused, sizes_fit, unembedding,
};
use crate::batch::PackedBatch;
use crate::error::{Error, Result};
use crate::fields::{Class, Field};
use crate::nn::{self, Activation, FeedForward, LayerNorm, Linear, SelfAttention, WeightLayout};
use crate::weights::{Scope, Weights};
use candle_core::Tensor;
use jumplens_core::LinearMap;
use serde::Deserialize;

/// The fields of `GPT2Config`.
pub(super) const CLASS: Class = Class {
    name: "GPT2Config",
    fields: &[
        &[
            Field::read("vocab_size", "50257"),
            Field::read("n_positions", "1024"),
            Field::read("n_embd", "768"),
            Field::read("n_layer", "12"),
            Field::read("n_head", "12"),
            Field::optional("n_inner", "null"),
            Field::read("activation_function", "\"gelu_new\""),
            Field::read("layer_norm_epsilon", "1e-5"),
            Field::read("scale_attn_weights", "true"),
            Field::read("scale_attn_by_inverse_layer_idx", "false"),
            Field::read("tie_word_embeddings", "true"),
            Field::no_effect("attn_pdrop"),
            Field::no_effect("embd_pdrop"),
            Field::no_effect("n_ctx"),
            Field::no_effect("predict_special_tokens"),
            Field::no_effect("resid_pdrop"),
            // The order of products in half precision.
            Field::no_effect("reorder_and_upcast_attn"),
            Field::no_effect("summary_activation"),
            Field::no_effect("summary_first_dropout"),
            Field::no_effect("summary_proj_to_labels"),
            Field::no_effect("summary_type"),
            Field::no_effect("summary_use_proj"),
            Field::unread("add_cross_attention", "false"),
        ],
        COMMON,
    ],
    aliases: &[
        ("hidden_size", "n_embd"),
        ("max_position_embeddings", "n_positions"),
        ("num_attention_heads", "n_head"),
        ("num_hidden_layers", "n_layer"),
    ],
};

/// `config.json`, its field names kept.
#[derive(Debug, Clone, Deserialize)]
struct Config {
    vocab_size: usize,
    n_positions: usize,
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    n_inner: Option<usize>,
    activation_function: String,
    layer_norm_epsilon: f64,
    scale_attn_weights: bool,
    scale_attn_by_inverse_layer_idx: bool,
    tie_word_embeddings: bool,
}

struct Gpt2 {
    spec: Spec,
    wte: Tensor,
    wpe: Tensor,
    h: Vec<Block>,
    head: Option<LmHead>,
}

struct Block {
    ln_1: LayerNorm,
    attn: SelfAttention,
    ln_2: LayerNorm,
    mlp: FeedForward,
}

struct LmHead {
    ln_f: LayerNorm,
    weight: Tensor,
}

pub(super) fn load(file: &ConfigFile, weights: &Weights) -> Result<Loaded> {
    let fail = |message: String| file.fault(message);
    let checked = file.check(&CLASS)?;
    let config: Config = checked.parse()?;
    sizes_fit(("n_layer", config.n_layer), ("n_head", config.n_head), ("n_embd", config.n_embd))
        .map_err(fail)?;
    not_negative("layer_norm_epsilon", config.layer_norm_epsilon).map_err(fail)?;
    let activation = activation("activation_function", &config.activation_function).map_err(fail)?;

    // Checkpoints are saved from the whole model (`transformer.h.0…`) or from its trunk (`h.0…`).
    let prefix = if weights.contains("transformer.wte.weight") { "transformer." } else { "" };
    let root = weights.below(prefix);
    let d = config.n_embd;
    let wte = root.tensor("wte.weight", &[config.vocab_size, d])?;
    let mut notes = checked.notes();
    let tied = config.tie_word_embeddings;
    let ln_f = layer_norm(&config, &root.pp("ln_f"))?;
    let head = match file.has_head(tied, weights, "lm_head.weight") {
        true => Some(LmHead {
            ln_f,
            weight: unembedding(tied, &wte, &weights.below(""), "lm_head.weight", &mut notes)?,
        }),
        false => None,
    };
    let model = Gpt2 {
        wpe: root.tensor("wpe.weight", &[config.n_positions, d])?,
        h: (0..config.n_layer)
            .map(|layer| Block::load(&config, activation, layer, &root.pp(format!("h.{layer}"))))
            .collect::<Result<_>>()?,
        head,
        wte,
        spec: Spec {
            family: "gpt2",
            kind: Kind::Causal,
            n_layers: config.n_layer,
            d_model: d,
            n_heads: config.n_head,
            vocab_size: config.vocab_size,
            max_positions: config.n_positions,
            parts: PRE_NORM_PARTS,
        },
    };
    // `attn.bias` and `attn.masked_bias` are the causal mask that older checkpoints carry.
    let is_mask = |name: &str| name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias");
    notes.extend(note_unused(weights, is_mask));
    Ok(Loaded { model: Box::new(model), notes })
}

fn layer_norm(config: &Config, at: &Scope) -> Result<LayerNorm> {
    let shape = [config.n_embd];
    Ok(LayerNorm::new(at.tensor("weight", &shape)?, at.tensor("bias", &shape)?, config.layer_norm_epsilon))
}

fn conv1d(at: &Scope, n_in: usize, n_out: usize) -> Result<Linear> {
    let weight = at.tensor("weight", &[n_in, n_out])?;
    let bias = at.tensor("bias", &[n_out])?;
    Ok(Linear::new(&weight, Some(&bias), WeightLayout::InOut, at.precision())?)
}

impl Block {
    fn load(config: &Config, activation: Activation, layer: usize, at: &Scope) -> Result<Self> {
        let d = config.n_embd;
        let d_inner = config.n_inner.unwrap_or(4 * d);
        Ok(Self {
            ln_1: layer_norm(config, &at.pp("ln_1"))?,
            attn: self_attention(config, layer, &at.pp("attn"))?,
            ln_2: layer_norm(config, &at.pp("ln_2"))?,
            mlp: FeedForward {
                fc: conv1d(&at.pp("mlp.c_fc"), d, d_inner)?,
                activation,
                proj: conv1d(&at.pp("mlp.c_proj"), d_inner, d)?,
            },
        })
    }
}

/// `c_attn` `[d, 3d]` is split into queries, keys and values, since fewer rows may ask than answer.
fn self_attention(config: &Config, layer: usize, at: &Scope) -> Result<SelfAttention> {
    let d = config.n_embd;
    let weight = at.pp("c_attn").tensor("weight", &[d, 3 * d])?;
    let bias = at.pp("c_attn").tensor("bias", &[3 * d])?;
    let third = |i: usize| -> Result<Linear> {
        let weight = weight.narrow(1, i * d, d)?.contiguous()?;
        let bias = bias.narrow(0, i * d, d)?.contiguous()?;
        Ok(Linear::new(&weight, Some(&bias), WeightLayout::InOut, at.precision())?)
    };
    let output = conv1d(&at.pp("c_proj"), d, d)?;
    let mut attention = SelfAttention::new(config.n_head, third(0)?, third(1)?, third(2)?, output);
    if !config.scale_attn_weights {
        attention.scale = 1.0;
    }
    if config.scale_attn_by_inverse_layer_idx {
        attention.scale /= (layer + 1) as f32;
    }
    Ok(attention)
}

impl Backbone for Gpt2 {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn embed(&self, batch: &PackedBatch) -> Result<Tensor> {
        Ok(nn::add(&nn::look_up(&self.wte, &batch.ids)?, &nn::look_up(&self.wpe, &batch.positions)?)?)
    }

    fn part(&self, layer: usize, part: usize, inputs: &[&Tensor]) -> Result<Tensor> {
        let block = &self.h[layer];
        match (self.spec.parts[part].name, inputs) {
            ("ln1", [x]) => Ok(block.ln_1.forward(x)?),
            ("ln2", [x]) => Ok(block.ln_2.forward(x)?),
            ("ffn", [x]) => Ok(block.mlp.forward(x)?),
            ("res1" | "res2", [residual, x]) => Ok(nn::add(residual, x)?),
            (name, _) => Err(Error::Internal(format!("part `{name}` was given {} inputs", inputs.len()))),
        }
    }

    fn attention(&self, layer: usize) -> &dyn Attention {
        &self.h[layer].attn
    }

    fn part_after(&self, layer: usize, part: usize, map: &LinearMap) -> Result<Option<PartAfter>> {
        let block = &self.h[layer];
        after(self.spec.parts[part].kind, &block.attn, &block.mlp, map)
    }

    fn head(&self) -> Option<&dyn Head> {
        self.head.as_ref().map(|head| head as &dyn Head)
    }
}

impl Head for LmHead {
    fn prepare(&self, h: &Tensor) -> Result<Tensor> {
        Ok(self.ln_f.forward(h)?)
    }

    fn unembedding(&self) -> &Tensor {
        &self.weight
    }
}
