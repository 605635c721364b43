//! GPT-2 (Radford et al. 2019): pre-norm blocks, learnt positions, weights in `Conv1D` layout `[in, out]`, tied head.
//! Agrees with `transformers/models/gpt2/modeling_gpt2.py`, except that `h_L` is taken before `ln_f`.

use super::config::{COMMON, ConfigFile};
use super::{Family, activation, not_negative, sizes_fit};
use crate::error::Result;
use crate::fields::{Class, Field};
use crate::models::blueprint::{
    AttentionSpec, Blueprint, EmbeddingSpec, HeadSpec, LinearSpec, ModuleSpec, NormSpec, PositionsSpec,
    unembedding,
};
use crate::weights::{Scope, Slice, Weights};
use crate::words::{Kind, PRE_NORM_PARTS, Spec};
use serde::Deserialize;

pub(super) const FAMILY: Family = Family { model_types: &["gpt2"], read };

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

fn read<'a>(file: ConfigFile<'a>, weights: &'a Weights<'a>) -> Result<Blueprint<'a>> {
    let fail = |message: String| file.fault(message);
    let checked = file.check(&CLASS)?;
    let config: Config = checked.parse()?;
    let d = config.n_embd;
    sizes_fit(("n_layer", config.n_layer), ("n_head", config.n_head), ("n_embd", d)).map_err(fail)?;
    not_negative("layer_norm_epsilon", config.layer_norm_epsilon).map_err(fail)?;
    let activation = activation("activation_function", &config.activation_function).map_err(fail)?;

    // Checkpoints are saved from the whole model (`transformer.h.0…`) or from its trunk (`h.0…`).
    let prefix = if weights.contains("transformer.wte.weight") { "transformer." } else { "" };
    let root = weights.below(prefix);
    let tokens = root.tensor("wte.weight", &[config.vocab_size, d]);
    let table = root.tensor("wpe.weight", &[config.n_positions, d]);
    let tied = config.tie_word_embeddings;
    let head = file
        .has_head(tied, weights, "lm_head.weight")
        .then(|| HeadSpec::new(unembedding(tied, &tokens, &weights.below(""), "lm_head.weight")));
    Ok(Blueprint {
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
        notes: checked.notes(),
        embedding: EmbeddingSpec {
            positions: Some(PositionsSpec { table, offset: 0, types: None }),
            ..EmbeddingSpec::of_tokens(tokens)
        },
        final_norm: Some(NormSpec::layer(&root.pp("ln_f"), d, config.layer_norm_epsilon)),
        head,
        block: Box::new(move |layer| {
            let at = root.pp(format!("h.{layer}"));
            let norm = |name| ModuleSpec::Norm(NormSpec::layer(&at.pp(name), d, config.layer_norm_epsilon));
            let d_inner = config.n_inner.unwrap_or(4 * d);
            Ok(vec![
                norm("ln_1"),
                ModuleSpec::Attention(self_attention(&config, layer, &at.pp("attn"))),
                ModuleSpec::Add,
                norm("ln_2"),
                ModuleSpec::FeedForward {
                    fc: LinearSpec::conv1d(&at.pp("mlp.c_fc"), d, d_inner),
                    activation,
                    proj: LinearSpec::conv1d(&at.pp("mlp.c_proj"), d_inner, d),
                },
                ModuleSpec::Add,
            ])
        }),
        // The causal mask that older checkpoints carry.
        is_known: Box::new(|name| name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias")),
    })
}

/// `c_attn` `[d, 3d]` is split into queries, keys and values, since fewer rows may ask than answer.
fn self_attention(config: &Config, layer: usize, at: &Scope) -> AttentionSpec {
    let d = config.n_embd;
    let third = |index| {
        let whole = LinearSpec::conv1d(&at.pp("c_attn"), d, 3 * d);
        let slice = |outer, shape: &[usize]| Slice { outer, count: 3, index, shape: shape.into() };
        LinearSpec {
            weight: whole.weight.sliced(slice(d, &[d, d])),
            bias: whole.bias.map(|bias| bias.sliced(slice(1, &[d]))),
            layout: whole.layout,
        }
    };
    let output = LinearSpec::conv1d(&at.pp("c_proj"), d, d);
    let mut attention = AttentionSpec::new(config.n_head, [third(0), third(1), third(2), output]);
    let mut scale = match config.scale_attn_weights {
        true => 1.0 / ((d / config.n_head) as f32).sqrt(),
        false => 1.0,
    };
    if config.scale_attn_by_inverse_layer_idx {
        scale /= (layer + 1) as f32;
    }
    attention.scale = Some(scale);
    attention
}
