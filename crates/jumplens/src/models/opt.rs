//! OPT (Zhang et al., arXiv 2205.01068): learnt positions, biases everywhere, `relu`, a tied head. One of its sizes
//! (350m) normalises its sums instead of what sub-modules read, and has an embedding narrower than its states. Agrees
//! with `transformers/models/opt/modeling_opt.py`, except that `h_L` is taken before the decoder's final norm.

use super::config::{COMMON, ConfigFile};
use super::{
    Attention, Backbone, Head, Kind, Loaded, POST_NORM_PARTS, PRE_NORM_PARTS, PartAfter, Spec, activation,
    after, linear, note_unused, sizes_fit, unembedding,
};
use crate::batch::PackedBatch;
use crate::error::{Error, Result};
use crate::fields::{Class, Field};
use crate::nn::{self, Activation, FeedForward, LayerNorm, Linear, SelfAttention};
use crate::weights::{Scope, Weights};
use candle_core::{DType, Device, Tensor};
use jumplens_core::LinearMap;
use serde::Deserialize;

/// The fields of `OPTConfig`.
pub(super) const CLASS: Class = Class {
    name: "OPTConfig",
    fields: &[
        &[
            Field::read("vocab_size", "50272"),
            Field::read("hidden_size", "768"),
            Field::read("ffn_dim", "3072"),
            Field::read("num_hidden_layers", "12"),
            Field::read("num_attention_heads", "12"),
            Field::read("max_position_embeddings", "2048"),
            Field::optional("word_embed_proj_dim", "null"),
            Field::read("activation_function", "\"relu\""),
            Field::read("do_layer_norm_before", "true"),
            Field::read("enable_bias", "true"),
            Field::read("layer_norm_elementwise_affine", "true"),
            Field::read("_remove_final_layer_norm", "false"),
            Field::read("tie_word_embeddings", "true"),
            Field::no_effect("activation_dropout"),
            Field::no_effect("attention_dropout"),
            Field::no_effect("dropout"),
            Field::no_effect("init_std"),
            Field::no_effect("layerdrop"),
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
    ffn_dim: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    max_position_embeddings: usize,
    word_embed_proj_dim: Option<usize>,
    activation_function: String,
    do_layer_norm_before: bool,
    enable_bias: bool,
    layer_norm_elementwise_affine: bool,
    #[serde(rename = "_remove_final_layer_norm")]
    remove_final_layer_norm: bool,
    tie_word_embeddings: bool,
}

/// Rows of the position table before that of position 0.
const POSITION_OFFSET: u32 = 2;
/// OPT leaves PyTorch's own.
const LAYER_NORM_EPS: f64 = 1e-5;

struct Opt {
    spec: Spec,
    embed_tokens: Tensor,
    embed_positions: Tensor,
    project_in: Option<Linear>,
    layers: Vec<Layer>,
    head: Option<LmHead>,
}

struct Layer {
    self_attn: SelfAttention,
    self_attn_layer_norm: LayerNorm,
    feed_forward: FeedForward,
    final_layer_norm: LayerNorm,
}

struct LmHead {
    final_layer_norm: Option<LayerNorm>,
    project_out: Option<Linear>,
    weight: Tensor,
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
    let activation = activation("activation_function", &config.activation_function).map_err(fail)?;

    let prefixes = ["model.decoder.", "decoder.", ""];
    let has = |prefix: &&str| weights.contains(&format!("{prefix}embed_tokens.weight"));
    let root = weights.below(prefixes.into_iter().find(has).unwrap_or_default());
    let d_embed = config.word_embed_proj_dim.unwrap_or(d);
    let embed_tokens = root.tensor("embed_tokens.weight", &[config.vocab_size, d_embed])?;
    let project = |name: &str, n_in, n_out| -> Result<Option<Linear>> {
        (d_embed != d).then(|| linear(&root.pp(name), n_in, n_out, false)).transpose()
    };
    let positions = config.max_position_embeddings.saturating_add(POSITION_OFFSET as usize);
    let layers = (0..num_hidden_layers)
        .map(|layer| Layer::load(&config, activation, &root.pp(format!("layers.{layer}"))))
        .collect::<Result<_>>()?;
    let mut notes = checked.notes();
    let has_final_norm = config.do_layer_norm_before && !config.remove_final_layer_norm;
    let tied = config.tie_word_embeddings;
    let final_layer_norm =
        has_final_norm.then(|| layer_norm(&config, &root.pp("final_layer_norm"))).transpose()?;
    let project_out = project("project_out", d, d_embed)?;
    let head = match file.has_head(tied, weights, "lm_head.weight") {
        true => Some(LmHead {
            final_layer_norm,
            project_out,
            weight: unembedding(tied, &embed_tokens, &weights.below(""), "lm_head.weight", &mut notes)?,
        }),
        false => None,
    };
    let model = Opt {
        embed_positions: root.pp("embed_positions").tensor("weight", &[positions, d])?,
        project_in: project("project_in", d_embed, d)?,
        embed_tokens,
        layers,
        head,
        spec: Spec {
            family: "opt",
            kind: Kind::Causal,
            n_layers: num_hidden_layers,
            d_model: d,
            n_heads: num_attention_heads,
            vocab_size: config.vocab_size,
            max_positions: config.max_position_embeddings,
            parts: if config.do_layer_norm_before { PRE_NORM_PARTS } else { POST_NORM_PARTS },
        },
    };
    notes.extend(note_unused(weights, |_| false));
    Ok(Loaded { model: Box::new(model), notes })
}

fn layer_norm(config: &Config, at: &Scope) -> Result<LayerNorm> {
    let shape = [config.hidden_size];
    let (weight, bias) = match config.layer_norm_elementwise_affine {
        true => (at.tensor("weight", &shape)?, at.tensor("bias", &shape)?),
        false => {
            let ones = Tensor::ones(&shape, DType::F32, &Device::Cpu)?;
            (ones.clone(), ones.zeros_like()?)
        }
    };
    Ok(LayerNorm::new(weight, bias, LAYER_NORM_EPS))
}

impl Layer {
    fn load(config: &Config, activation: Activation, at: &Scope) -> Result<Self> {
        let d = config.hidden_size;
        let project = |name: &str| linear(&at.pp("self_attn").pp(name), d, d, config.enable_bias);
        Ok(Self {
            self_attn: SelfAttention::new(
                config.num_attention_heads,
                project("q_proj")?,
                project("k_proj")?,
                project("v_proj")?,
                project("out_proj")?,
            ),
            self_attn_layer_norm: layer_norm(config, &at.pp("self_attn_layer_norm"))?,
            feed_forward: FeedForward {
                fc: linear(&at.pp("fc1"), d, config.ffn_dim, config.enable_bias)?,
                activation,
                proj: linear(&at.pp("fc2"), config.ffn_dim, d, config.enable_bias)?,
            },
            final_layer_norm: layer_norm(config, &at.pp("final_layer_norm"))?,
        })
    }
}

impl Backbone for Opt {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn embed(&self, batch: &PackedBatch) -> Result<Tensor> {
        let words = nn::look_up(&self.embed_tokens, &batch.ids)?;
        let words = match &self.project_in {
            Some(project) => project.forward(&words)?,
            None => words,
        };
        let positions: Vec<u32> = batch.positions.iter().map(|position| position + POSITION_OFFSET).collect();
        Ok(nn::add(&words, &nn::look_up(&self.embed_positions, &positions)?)?)
    }

    fn part(&self, layer: usize, part: usize, inputs: &[&Tensor]) -> Result<Tensor> {
        let layer = &self.layers[layer];
        match (self.spec.parts[part].name, inputs) {
            ("ln1", [x]) => Ok(layer.self_attn_layer_norm.forward(x)?),
            ("ln2", [x]) => Ok(layer.final_layer_norm.forward(x)?),
            ("ffn", [x]) => Ok(layer.feed_forward.forward(x)?),
            ("res1" | "res2", [residual, x]) => Ok(nn::add(residual, x)?),
            (name, _) => Err(Error::Internal(format!("part `{name}` was given {} inputs", inputs.len()))),
        }
    }

    fn attention(&self, layer: usize) -> &dyn Attention {
        &self.layers[layer].self_attn
    }

    fn part_after(&self, layer: usize, part: usize, map: &LinearMap) -> Result<Option<PartAfter>> {
        let layer = &self.layers[layer];
        after(self.spec.parts[part].kind, &layer.self_attn, &layer.feed_forward, map)
    }

    fn head(&self) -> Option<&dyn Head> {
        self.head.as_ref().map(|head| head as &dyn Head)
    }
}

impl Head for LmHead {
    fn prepare(&self, h: &Tensor) -> Result<Tensor> {
        let h = match &self.final_layer_norm {
            Some(norm) => norm.forward(h)?,
            None => h.clone(),
        };
        Ok(match &self.project_out {
            Some(project) => project.forward(&h)?,
            None => h,
        })
    }

    fn unembedding(&self) -> &Tensor {
        &self.weight
    }
}
