//! OPT (Zhang et al., arXiv 2205.01068): learnt positions, biases everywhere, `relu`, a tied head. One of its sizes
//! (350m) normalises its sums instead of what sub-modules read, and has an embedding narrower than its states. Agrees
//! with `transformers/models/opt/modeling_opt.py`, except that `h_L` is taken before the decoder's final norm.

use super::config::{COMMON, ConfigFile};
use super::{Family, activation, sizes_fit};
use crate::error::Result;
use crate::fields::{Class, Field};
use crate::models::blueprint::{
    AttentionSpec, Blueprint, EmbeddingSpec, HeadSpec, LinearSpec, ModuleSpec, NormSpec, PositionsSpec,
    StepSpec, unembedding,
};
use crate::weights::{Scope, Weights};
use crate::words::{Kind, POST_NORM_PARTS, PRE_NORM_PARTS, Spec};
use serde::Deserialize;

pub(super) const FAMILY: Family = Family { model_types: &["opt"], read };

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

fn read<'a>(file: ConfigFile<'a>, weights: &'a Weights<'a>) -> Result<Blueprint<'a>> {
    let fail = |message: String| file.fault(message);
    let checked = file.check(&CLASS)?;
    let config: Config = checked.parse()?;
    let Config { hidden_size: d, num_attention_heads: n_heads, num_hidden_layers: n_layers, .. } = config;
    let heads = ("num_attention_heads", n_heads);
    sizes_fit(("num_hidden_layers", n_layers), heads, ("hidden_size", d)).map_err(fail)?;
    let activation = activation("activation_function", &config.activation_function).map_err(fail)?;

    let prefixes = ["model.decoder.", "decoder.", ""];
    let has = |prefix: &&str| weights.contains(&format!("{prefix}embed_tokens.weight"));
    let root = weights.below(prefixes.into_iter().find(has).unwrap_or_default());
    let d_embed = config.word_embed_proj_dim.unwrap_or(d);
    let tokens = root.tensor("embed_tokens.weight", &[config.vocab_size, d_embed]);
    let positions = config.max_position_embeddings.saturating_add(POSITION_OFFSET as usize);
    let table = root.pp("embed_positions").tensor("weight", &[positions, d]);
    let project =
        |name: &str, n_in, n_out| (d_embed != d).then(|| LinearSpec::new(&root.pp(name), n_in, n_out, false));
    let tied = config.tie_word_embeddings;
    let head = file.has_head(tied, weights, "lm_head.weight").then(|| HeadSpec {
        steps: project("project_out", d, d_embed).map(StepSpec::Linear).into_iter().collect(),
        ..HeadSpec::new(unembedding(tied, &tokens, &weights.below(""), "lm_head.weight"))
    });
    let has_final_norm = config.do_layer_norm_before && !config.remove_final_layer_norm;
    Ok(Blueprint {
        spec: Spec {
            family: "opt",
            kind: Kind::Causal,
            n_layers,
            d_model: d,
            n_heads,
            vocab_size: config.vocab_size,
            max_positions: config.max_position_embeddings,
            parts: if config.do_layer_norm_before { PRE_NORM_PARTS } else { POST_NORM_PARTS },
        },
        notes: checked.notes(),
        embedding: EmbeddingSpec {
            project: project("project_in", d_embed, d),
            positions: Some(PositionsSpec { table, offset: POSITION_OFFSET, types: None }),
            ..EmbeddingSpec::of_tokens(tokens)
        },
        final_norm: has_final_norm.then(|| layer_norm(&config, &root.pp("final_layer_norm"))),
        head,
        block: Box::new(move |layer| {
            let at = root.pp(format!("layers.{layer}"));
            let linear =
                |name: &str, n_in, n_out| LinearSpec::new(&at.pp(name), n_in, n_out, config.enable_bias);
            let attention = ["q_proj", "k_proj", "v_proj", "out_proj"]
                .map(|name| linear(&format!("self_attn.{name}"), d, d));
            let attention = ModuleSpec::Attention(AttentionSpec::new(n_heads, attention));
            let norm = |name| ModuleSpec::Norm(layer_norm(&config, &at.pp(name)));
            let (norm_1, norm_2) = (norm("self_attn_layer_norm"), norm("final_layer_norm"));
            let feed_forward = ModuleSpec::FeedForward {
                fc: linear("fc1", d, config.ffn_dim),
                activation,
                proj: linear("fc2", config.ffn_dim, d),
            };
            let add = || ModuleSpec::Add;
            Ok(match config.do_layer_norm_before {
                true => vec![norm_1, attention, add(), norm_2, feed_forward, add()],
                false => vec![attention, add(), norm_1, feed_forward, add(), norm_2],
            })
        }),
        is_known: Box::new(|_| false),
    })
}

fn layer_norm(config: &Config, at: &Scope) -> NormSpec {
    let norm = NormSpec::layer(at, config.hidden_size, LAYER_NORM_EPS);
    match config.layer_norm_elementwise_affine {
        true => norm,
        false => NormSpec { weight: None, bias: None, ..norm },
    }
}
