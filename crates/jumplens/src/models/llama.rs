//! Llama (Touvron et al., arXiv 2302.13971) and the families that differ from it in details: pre-norm blocks with
//! RMSNorm, rotary positions, grouped-query attention and a gated feed-forward part. Agrees with
//! `transformers/models/{llama,mistral,qwen2,qwen3,gemma,gemma2}`, except that `h_L` is taken before the final norm.

use super::rotary::RopeParameters;
use super::{
    Attention, Backbone, Head, Kind, Loaded, PRE_NORM_PARTS, Part, PartAfter, PartKind, Slot, Spec, after,
    linear, note_unused, unembedding,
};
use crate::batch::PackedBatch;
use crate::error::{Error, Result};
use crate::nn::{self, Activation, GatedFeedForward, Linear, RmsNorm, Rope, SelfAttention};
use crate::weights::{Scope, Weights};
use candle_core::Tensor;
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;

/// The `model_type`s that are read here.
pub(super) const MODEL_TYPES: &[&str] =
    &["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "gemma3"];

/// `config.json`, its field names kept; what the families share, and what only some have.
#[derive(Debug, Clone, Deserialize)]
struct Config {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    hidden_act: Option<String>,
    /// Gemma's `hidden_act`: what its configurations say under that name is not what it was trained with.
    hidden_activation: Option<String>,
    #[serde(default = "default_epsilon")]
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<RopeParameters>,
    rope_parameters: Option<Value>,
    /// Gemma 3's, in the blocks that look at a window.
    rope_local_base_freq: Option<f64>,
    sliding_window_pattern: Option<usize>,
    /// Of GGUF files, not a field of Hugging Face's.
    #[serde(default)]
    biases_where_stored: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    tie_word_embeddings: Option<bool>,
    sliding_window: Option<u32>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    partial_rotary_factor: Option<f64>,
    query_pre_attn_scalar: Option<f64>,
    attn_logit_softcapping: Option<f32>,
    final_logit_softcapping: Option<f32>,
}

fn default_epsilon() -> f64 {
    1e-6
}

impl Config {
    fn is(&self, model_types: &[&str]) -> bool {
        model_types.contains(&self.model_type.as_str())
    }

    fn is_gemma(&self) -> bool {
        self.is(&["gemma", "gemma2"]) || self.is_gemma3()
    }

    fn is_gemma3(&self) -> bool {
        self.is(&["gemma3_text"])
    }

    /// Norms behind the sub-modules as well.
    fn is_sandwich(&self) -> bool {
        self.is(&["gemma2"]) || self.is_gemma3()
    }

    fn d_head(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    fn n_kv_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    fn activation(&self) -> &str {
        let (said, otherwise) = match self.is_gemma() {
            true => (&self.hidden_activation, "gelu_pytorch_tanh"),
            false => (&self.hidden_act, "silu"),
        };
        said.as_deref().unwrap_or(otherwise)
    }

    fn rope(&self, slides: bool) -> Result<RopeParameters, String> {
        let parse =
            |value: Value| serde_json::from_value::<RopeParameters>(value).map_err(|error| error.to_string());
        if !self.is_gemma3() {
            return match self.rope_parameters.clone() {
                Some(value) => parse(value),
                None => Ok(self.rope_scaling.clone().unwrap_or_default()),
            };
        }
        let kind = if slides { "sliding_attention" } else { "full_attention" };
        let mut own = match self.rope_parameters.as_ref().and_then(|parameters| parameters.get(kind)) {
            Some(value) => parse(value.clone())?,
            None if slides => RopeParameters::default(),
            None => self.rope_scaling.clone().unwrap_or_default(),
        };
        let theta = if slides {
            self.rope_local_base_freq.unwrap_or(10_000.0)
        } else {
            self.rope_theta.unwrap_or(1_000_000.0)
        };
        own.rope_theta = own.rope_theta.or(Some(theta));
        Ok(own)
    }

    /// True where block `layer` looks at a window.
    fn slides(&self, layer: usize) -> bool {
        match &self.layer_types {
            Some(types) => types.get(layer).is_some_and(|kind| kind == "sliding_attention"),
            None if self.is(&["mistral"]) => true,
            None if self.is(&["gemma2"]) => layer.is_multiple_of(2),
            None if self.is_gemma3() => !(layer + 1).is_multiple_of(self.sliding_window_pattern.unwrap_or(6)),
            None => {
                self.use_sliding_window == Some(true)
                    && layer >= self.max_window_layers.unwrap_or(self.num_hidden_layers)
            }
        }
    }

    /// A projection, with a bias where the configuration, or a GGUF file, has one.
    fn linear(&self, at: &Scope, n_in: usize, n_out: usize, has_bias: bool) -> Result<Linear> {
        linear(at, n_in, n_out, has_bias || (self.biases_where_stored && at.contains("bias")))
    }

    /// How far back attention looks in block `layer`.
    fn window(&self, layer: usize) -> Option<u32> {
        self.sliding_window.filter(|_| self.slides(layer))
    }

    /// The first thing about it that cannot be run.
    fn fault(&self) -> Option<String> {
        let Self { hidden_size, num_attention_heads: heads, num_hidden_layers, .. } = self;
        let (d_head, kv_heads) = (self.d_head(), self.n_kv_heads());
        let sizes = [*hidden_size, *heads, *num_hidden_layers, kv_heads, d_head, self.intermediate_size];
        if sizes.contains(&0)
            || !heads.is_multiple_of(kv_heads)
            || !d_head.is_multiple_of(2)
            || heads.checked_mul(d_head).is_none()
        {
            return Some(format!(
                "`hidden_size` {hidden_size}, `num_hidden_layers` {num_hidden_layers}, `num_attention_heads` {heads}, \
                 `num_key_value_heads` {kv_heads} and `head_dim` {d_head} do not fit together"
            ));
        }
        let rope = match self.rope(false) {
            Ok(rope) => rope,
            Err(message) => return Some(message),
        };
        let rotated = rope.partial_rotary_factor.or(self.partial_rotary_factor);
        if let Some(share) = rotated.filter(|share| *share != 1.0) {
            return Some(format!("`partial_rotary_factor` {share} is not supported; 1 is"));
        }
        let kinds = self.layer_types.iter().flatten();
        let odd = kinds.into_iter().find(|kind| *kind != "full_attention" && *kind != "sliding_attention");
        odd.map(|kind| format!("layer type `{kind}` is not supported"))
    }
}

/// Gemma 2 normalises what its sub-modules put out as well.
const SANDWICH_PARTS: &[Part] = &[
    Part { name: "ln1", kind: PartKind::Norm, inputs: &[Slot::BlockInput] },
    Part { name: "attn", kind: PartKind::Attention, inputs: &[Slot::Part(0)] },
    Part { name: "ln1_post", kind: PartKind::Norm, inputs: &[Slot::Part(1)] },
    Part { name: "res1", kind: PartKind::Add, inputs: &[Slot::BlockInput, Slot::Part(2)] },
    Part { name: "ln2", kind: PartKind::Norm, inputs: &[Slot::Part(3)] },
    Part { name: "ffn", kind: PartKind::FeedForward, inputs: &[Slot::Part(4)] },
    Part { name: "ln2_post", kind: PartKind::Norm, inputs: &[Slot::Part(5)] },
    Part { name: "res2", kind: PartKind::Add, inputs: &[Slot::Part(3), Slot::Part(6)] },
];

struct Llama {
    spec: Spec,
    embed_tokens: Tensor,
    /// What embeddings are multiplied by.
    embedding_scale: Option<f64>,
    layers: Vec<Layer>,
    head: LmHead,
}

struct Layer {
    input_layernorm: RmsNorm,
    self_attn: SelfAttention,
    /// Before the feed-forward part.
    feedforward_layernorm: RmsNorm,
    mlp: GatedFeedForward,
    /// Behind the attention and behind the feed-forward part.
    post_layernorms: Option<[RmsNorm; 2]>,
}

struct LmHead {
    norm: RmsNorm,
    weight: Tensor,
    soft_cap: Option<f32>,
}

pub(super) fn load(config: serde_json::Value, path: &Path, weights: &Weights) -> Result<Loaded> {
    let fail = |message: String| Error::Config { path: path.to_owned(), message };
    // A model of pictures and text: its text model.
    let text = (config["model_type"] == "gemma3").then(|| config["text_config"].clone());
    let config: Config =
        serde_json::from_value(text.unwrap_or(config)).map_err(|error| fail(error.to_string()))?;
    if let Some(fault) = config.fault() {
        return Err(fail(fault));
    }
    let activation = Activation::from_config(config.activation())
        .ok_or_else(|| fail(format!("`hidden_act` {} is not supported", config.activation())))?;

    let prefixes = ["model.", "language_model.model.", "model.language_model."];
    let prefix = prefixes
        .into_iter()
        .find(|prefix| weights.contains(&format!("{prefix}embed_tokens.weight")))
        .unwrap_or("");
    let root = weights.below(prefix);
    let d = config.hidden_size;
    let embed_tokens = root.tensor("embed_tokens.weight", &[config.vocab_size, d])?;
    // Only now is the width known to be the checkpoint's: what is as large as it may be made.
    if config.d_head() > d {
        return Err(fail(format!("`head_dim` {} is more than `hidden_size` {d}", config.d_head())));
    }
    let rope = |slides: bool| -> Result<Rope, String> {
        let frequencies = config.rope(slides)?.frequencies(config.rope_theta, config.d_head())?;
        Ok(Rope::new(frequencies, config.d_head()))
    };
    let ropes = [rope(false).map_err(fail)?, rope(true).map_err(fail)?];
    let layers = (0..config.num_hidden_layers)
        .map(|layer| {
            let rope = &ropes[usize::from(config.slides(layer))];
            Layer::load(&config, activation, rope, layer, &root.pp(format!("layers.{layer}")))
        })
        .collect::<Result<_>>()?;
    let mut notes = Vec::new();
    let tied = config.tie_word_embeddings.unwrap_or(config.is_gemma());
    let head = LmHead {
        norm: rms_norm(&config, d, &root.pp("norm"))?,
        weight: unembedding(tied, &embed_tokens, &weights.below(""), "lm_head.weight", &mut notes)?,
        soft_cap: config.final_logit_softcapping,
    };
    let pictures = weights.unused().into_iter().filter(|name| is_of_pictures(name)).count();
    if pictures > 0 && config.is_gemma3() {
        notes.push(format!("the text model alone is run: {pictures} tensors are for pictures"));
    }
    notes.extend(note_unused(weights, |name| {
        name.ends_with("rotary_emb.inv_freq") || (config.is_gemma3() && is_of_pictures(name))
    }));
    let family = MODEL_TYPES.iter().find(|name| config.is(&[name])).copied().unwrap_or("llama");
    let model = Llama {
        spec: Spec {
            family,
            kind: Kind::Causal,
            n_layers: config.num_hidden_layers,
            d_model: d,
            n_heads: config.num_attention_heads,
            vocab_size: config.vocab_size,
            max_positions: config.max_position_embeddings,
            parts: if config.is_sandwich() { SANDWICH_PARTS } else { PRE_NORM_PARTS },
        },
        embed_tokens,
        embedding_scale: config.is_gemma().then(|| (d as f64).sqrt()),
        layers,
        head,
    };
    Ok(Loaded { model: Box::new(model), notes })
}

/// The tensors of a model of pictures that its text model does without.
fn is_of_pictures(name: &str) -> bool {
    ["vision_tower.", "multi_modal_projector."].iter().any(|part| name.contains(part))
}

fn rms_norm(config: &Config, d: usize, at: &Scope) -> Result<RmsNorm> {
    let weight = at.tensor("weight", &[d])?;
    // Gemma keeps the weight's distance from 1.
    let weight = if config.is_gemma() { (weight + 1.0)? } else { weight };
    Ok(RmsNorm::new(weight, config.rms_norm_eps))
}

impl Layer {
    fn load(config: &Config, activation: Activation, rope: &Rope, layer: usize, at: &Scope) -> Result<Self> {
        let d = config.hidden_size;
        let d_inner = config.intermediate_size;
        let norm = |name: &str| rms_norm(config, d, &at.pp(name));
        let (feedforward_layernorm, post_layernorms) = match config.is_sandwich() {
            true => {
                let post = [norm("post_attention_layernorm")?, norm("post_feedforward_layernorm")?];
                (norm("pre_feedforward_layernorm")?, Some(post))
            }
            false => (norm("post_attention_layernorm")?, None),
        };
        let mlp = at.pp("mlp");
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            self_attn: self_attention(config, rope, layer, &at.pp("self_attn"))?,
            feedforward_layernorm,
            mlp: GatedFeedForward::new(
                &config.linear(&mlp.pp("gate_proj"), d, d_inner, config.mlp_bias)?,
                &config.linear(&mlp.pp("up_proj"), d, d_inner, config.mlp_bias)?,
                activation,
                config.linear(&mlp.pp("down_proj"), d_inner, d, config.mlp_bias)?,
            )?,
            post_layernorms,
        })
    }
}

fn self_attention(config: &Config, rope: &Rope, layer: usize, at: &Scope) -> Result<SelfAttention> {
    let (d, d_head, n_heads) = (config.hidden_size, config.d_head(), config.num_attention_heads);
    let n_kv_heads = config.n_kv_heads();
    let has_bias = config.attention_bias || config.is(&["qwen2"]);
    let project = |name: &str, heads: usize| config.linear(&at.pp(name), d, heads * d_head, has_bias);
    let output = config.linear(&at.pp("o_proj"), n_heads * d_head, d, config.attention_bias)?;
    let (query, key, value) =
        (project("q_proj", n_heads)?, project("k_proj", n_kv_heads)?, project("v_proj", n_kv_heads)?);
    let head_norm = |name: &str| -> Result<Option<RmsNorm>> {
        (config.is(&["qwen3"]) || config.is_gemma3())
            .then(|| rms_norm(config, d_head, &at.pp(name)))
            .transpose()
    };
    let mut attention = SelfAttention {
        n_kv_heads,
        query_norm: head_norm("q_norm")?,
        key_norm: head_norm("k_norm")?,
        rope: Some(rope.clone()),
        window: config.window(layer),
        soft_cap: config.attn_logit_softcapping,
        ..SelfAttention::new(n_heads, query, key, value, output)
    };
    if config.is_sandwich() {
        attention.scale = config.query_pre_attn_scalar.unwrap_or(256.0).powf(-0.5) as f32;
    }
    Ok(attention)
}

impl Backbone for Llama {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn embed(&self, batch: &PackedBatch) -> Result<Tensor> {
        let x = nn::look_up(&self.embed_tokens, &batch.ids)?;
        Ok(match self.embedding_scale {
            Some(scale) => (x * scale)?,
            None => x,
        })
    }

    fn part(&self, layer: usize, part: usize, inputs: &[&Tensor]) -> Result<Tensor> {
        let layer = &self.layers[layer];
        match (self.spec.parts[part].name, inputs, &layer.post_layernorms) {
            ("ln1", [x], _) => Ok(layer.input_layernorm.forward(x)?),
            ("ln1_post", [x], Some([norm, _])) => Ok(norm.forward(x)?),
            ("ln2", [x], _) => Ok(layer.feedforward_layernorm.forward(x)?),
            ("ffn", [x], _) => Ok(layer.mlp.forward(x)?),
            ("ln2_post", [x], Some([_, norm])) => Ok(norm.forward(x)?),
            ("res1" | "res2", [residual, x], _) => Ok(nn::add(residual, x)?),
            (name, ..) => Err(Error::Internal(format!("part `{name}` was given {} inputs", inputs.len()))),
        }
    }

    fn attention(&self, layer: usize) -> &dyn Attention {
        &self.layers[layer].self_attn
    }

    fn part_after(&self, layer: usize, part: usize, map: &Tensor) -> Result<Option<PartAfter>> {
        let layer = &self.layers[layer];
        after(self.spec.parts[part].kind, &layer.self_attn, &layer.mlp, map)
    }

    fn head(&self) -> Option<&dyn Head> {
        Some(&self.head)
    }
}

impl Head for LmHead {
    fn prepare(&self, h: &Tensor) -> Result<Tensor> {
        Ok(self.norm.forward(h)?)
    }

    fn unembedding(&self) -> &Tensor {
        &self.weight
    }

    fn soft_cap(&self) -> Option<f32> {
        self.soft_cap
    }
}
