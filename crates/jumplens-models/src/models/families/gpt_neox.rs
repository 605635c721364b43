//! GPT-NeoX (Black et al., arXiv 2204.06745), the family of Pythia: attention and feed-forward part side by side on the
//! block's input, rotary positions on a share of each head, an unembedding of its own. Agrees with
//! `transformers/models/gpt_neox/modeling_gpt_neox.py`, except that `h_L` is taken before `final_layer_norm`.

use super::config::{COMMON, ConfigFile};
use super::rotary::{Beside, Rotary};
use super::{Family, activation, not_negative, sizes_fit};
use crate::error::Result;
use crate::fields::{Class, Field};
use crate::models::blueprint::{
    AttentionSpec, Blueprint, EmbeddingSpec, HeadSpec, LinearSpec, ModuleSpec, NormSpec, unembedding,
};
use crate::weights::{Scope, Slice, Weights};
use crate::words::{Kind, PRE_NORM_PARTS, Part, PartKind, Slot, Spec};
use serde::Deserialize;
use serde_json::Value;

pub(super) const FAMILY: Family = Family { model_types: &["gpt_neox"], read };

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

fn read<'a>(file: ConfigFile<'a>, weights: &'a Weights<'a>) -> Result<Blueprint<'a>> {
    let fail = |message: String| file.fault(message);
    let checked = file.check(&CLASS)?;
    let config: Config = checked.parse()?;
    let Config { hidden_size: d, num_attention_heads: n_heads, num_hidden_layers: n_layers, .. } = config;
    let heads = ("num_attention_heads", n_heads);
    sizes_fit(("num_hidden_layers", n_layers), heads, ("hidden_size", d)).map_err(fail)?;
    not_negative("layer_norm_eps", config.layer_norm_eps).map_err(fail)?;
    let activation = activation("hidden_act", &config.hidden_act).map_err(fail)?;
    let rotary = config.rotary().map_err(fail)?;

    let prefix = if weights.contains("gpt_neox.embed_in.weight") { "gpt_neox." } else { "" };
    let root = weights.below(prefix);
    let tokens = root.tensor("embed_in.weight", &[config.vocab_size, d]);
    let tied = config.tie_word_embeddings;
    // What transformers 5 calls it once it is loaded, and files saved from there may have.
    let names = ["embed_out.weight", "lm_head.weight"];
    let name = names.into_iter().find(|name| weights.contains(name)).unwrap_or(names[0]);
    let head = file
        .has_head(tied, weights, name)
        .then(|| HeadSpec::new(unembedding(tied, &tokens, &weights.below(""), name)));
    let is_parallel = config.use_parallel_residual;
    Ok(Blueprint {
        spec: Spec {
            family: "gpt_neox",
            kind: Kind::Causal,
            n_layers,
            d_model: d,
            n_heads,
            vocab_size: config.vocab_size,
            max_positions: rotary.longest(),
            parts: if is_parallel { PARALLEL_PARTS } else { PRE_NORM_PARTS },
        },
        notes: checked.notes().into_iter().chain(rotary.notes.iter().cloned()).collect(),
        embedding: EmbeddingSpec::of_tokens(tokens),
        final_norm: Some(NormSpec::layer(&root.pp("final_layer_norm"), d, config.layer_norm_eps)),
        head,
        block: Box::new(move |layer| {
            let at = root.pp(format!("layers.{layer}"));
            let mut attention = self_attention(&config, &at.pp("attention"));
            attention.rope = Some(rotary.rope("", d / n_heads).map_err(|message| file.fault(message))?);
            let attention = ModuleSpec::Attention(attention);
            let norm = |name| ModuleSpec::Norm(NormSpec::layer(&at.pp(name), d, config.layer_norm_eps));
            let (norm_1, norm_2) = (norm("input_layernorm"), norm("post_attention_layernorm"));
            let d_inner = config.intermediate_size;
            let feed_forward = ModuleSpec::FeedForward {
                fc: LinearSpec::new(&at.pp("mlp.dense_h_to_4h"), d, d_inner, true),
                activation,
                proj: LinearSpec::new(&at.pp("mlp.dense_4h_to_h"), d_inner, d, true),
            };
            let add = || ModuleSpec::Add;
            Ok(match is_parallel {
                true => vec![norm_1, attention, norm_2, feed_forward, add()],
                false => vec![norm_1, attention, add(), norm_2, feed_forward, add()],
            })
        }),
        // The causal mask and the frequencies, which older checkpoints carry.
        is_known: Box::new(|name| {
            let buffers = [".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"];
            buffers.iter().any(|buffer| name.ends_with(buffer))
        }),
    })
}

/// `query_key_value` holds, head by head, a query, a key and a value `[heads · 3 · d_head, d]`.
fn self_attention(config: &Config, at: &Scope) -> AttentionSpec {
    let (d, n_heads) = (config.hidden_size, config.num_attention_heads);
    let third = |index| {
        let whole = LinearSpec::new(&at.pp("query_key_value"), d, 3 * d, config.attention_bias);
        let slice = |shape: &[usize]| Slice { outer: n_heads, count: 3, index, shape: shape.into() };
        LinearSpec {
            weight: whole.weight.sliced(slice(&[d, d])),
            bias: whole.bias.map(|bias| bias.sliced(slice(&[d]))),
            layout: whole.layout,
        }
    };
    let output = LinearSpec::new(&at.pp("dense"), d, d, config.attention_bias);
    AttentionSpec::new(n_heads, [third(0), third(1), third(2), output])
}
