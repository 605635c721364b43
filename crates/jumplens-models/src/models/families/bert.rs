//! BERT (Devlin et al., arXiv 1810.04805): post-norm blocks, learnt positions, `torch.nn.Linear` weights, an MLM head
//! with a transform of its own. Agrees with `transformers/models/bert/modeling_bert.py`; every token is of type 0.

use super::config::{COMMON, ConfigFile};
use super::{Family, activation, not_negative, sizes_fit};
use crate::error::Result;
use crate::fields::{Class, Field};
use crate::models::blueprint::{
    AttentionSpec, Blueprint, EmbeddingSpec, HeadSpec, LinearSpec, ModuleSpec, NormKind, NormSpec,
    PositionsSpec, StepSpec, unembedding,
};
use crate::weights::{Scope, TensorSpec, Twin, Weights};
use crate::words::{Kind, POST_NORM_PARTS, Spec};
use serde::Deserialize;

pub(super) const FAMILY: Family = Family { model_types: &["bert"], read };

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

fn read<'a>(file: ConfigFile<'a>, weights: &'a Weights<'a>) -> Result<Blueprint<'a>> {
    let fail = |message: String| file.fault(message);
    let checked = file.check(&CLASS)?;
    let config: Config = checked.parse()?;
    let Config { hidden_size: d, num_attention_heads: n_heads, num_hidden_layers: n_layers, .. } = config;
    let heads = ("num_attention_heads", n_heads);
    sizes_fit(("num_hidden_layers", n_layers), heads, ("hidden_size", d)).map_err(fail)?;
    if config.type_vocab_size == 0 {
        return Err(fail("`type_vocab_size` is 0".to_owned()));
    }
    not_negative("layer_norm_eps", config.layer_norm_eps).map_err(fail)?;
    let activation = activation("hidden_act", &config.hidden_act).map_err(fail)?;

    // Checkpoints are saved from the model with its heads (`bert.embeddings…`) or from its trunk (`embeddings…`).
    let prefix = if weights.contains("bert.embeddings.word_embeddings.weight") { "bert." } else { "" };
    let root = weights.below(prefix);
    let embeddings = root.pp("embeddings");
    let table = |name: &str, rows| embeddings.pp(name).tensor("weight", &[rows, d]);
    let tokens = table("word_embeddings", config.vocab_size);
    // Encoders are published without the head they were trained with; a model that is said to have one must have it.
    let has_head = file.is_saved_as(&["ForMaskedLM", "ForPreTraining"])
        || weights.names().any(|name| name.starts_with("cls.predictions."));
    let head = has_head.then(|| {
        let at = weights.below("cls.predictions.");
        let tied = config.tie_word_embeddings;
        HeadSpec {
            steps: vec![
                StepSpec::Linear(LinearSpec::new(&at.pp("transform.dense"), d, d, true)),
                StepSpec::Activation(activation),
                StepSpec::Norm(layer_norm(&config, &at.pp("transform.LayerNorm"))),
            ],
            unembedding: unembedding(tied, &tokens, &at, "decoder.weight"),
            bias: Some(decoder_bias(tied, config.vocab_size, &at)),
            soft_cap: None,
        }
    });
    Ok(Blueprint {
        spec: Spec {
            family: "bert",
            kind: Kind::Masked,
            n_layers,
            d_model: d,
            n_heads,
            vocab_size: config.vocab_size,
            max_positions: config.max_position_embeddings,
            parts: POST_NORM_PARTS,
        },
        notes: checked.notes(),
        embedding: EmbeddingSpec {
            positions: Some(PositionsSpec {
                table: table("position_embeddings", config.max_position_embeddings),
                offset: 0,
                types: Some(table("token_type_embeddings", config.type_vocab_size)),
            }),
            norm: Some(layer_norm(&config, &embeddings.pp("LayerNorm"))),
            ..EmbeddingSpec::of_tokens(tokens)
        },
        final_norm: None,
        head,
        block: Box::new(move |layer| {
            let at = root.pp(format!("encoder.layer.{layer}"));
            let project = |name: &str| LinearSpec::new(&at.pp(name), d, d, true);
            let attention = ["self.query", "self.key", "self.value", "output.dense"]
                .map(|name| project(&format!("attention.{name}")));
            let norm = |name| ModuleSpec::Norm(layer_norm(&config, &at.pp(name)));
            let d_inner = config.intermediate_size;
            Ok(vec![
                ModuleSpec::Attention(AttentionSpec::new(n_heads, attention)),
                ModuleSpec::Add,
                norm("attention.output.LayerNorm"),
                ModuleSpec::FeedForward {
                    fc: LinearSpec::new(&at.pp("intermediate.dense"), d, d_inner, true),
                    activation,
                    proj: LinearSpec::new(&at.pp("output.dense"), d_inner, d, true),
                },
                ModuleSpec::Add,
                norm("output.LayerNorm"),
            ])
        }),
        // What the model was trained with besides, and a buffer of the numbers 0, 1, 2, ….
        is_known: Box::new(move |name| {
            let name = name.strip_prefix(prefix).unwrap_or(name);
            name.starts_with("pooler.")
                || name.starts_with("cls.seq_relationship.")
                || name == "embeddings.position_ids"
                || name.starts_with("cls.predictions.decoder.")
        }),
    })
}

/// Called `gamma` and `beta` in checkpoints that were converted from TensorFlow.
fn layer_norm(config: &Config, at: &Scope) -> NormSpec {
    let (weight, bias) = if at.contains("gamma") { ("gamma", "beta") } else { ("weight", "bias") };
    let d = config.hidden_size;
    let tensor = |name| Some(at.tensor(name, &[d]));
    NormSpec {
        kind: NormKind::Layer,
        d,
        weight: tensor(weight),
        bias: tensor(bias),
        eps: config.layer_norm_eps,
    }
}

/// What is added to the logits. Checkpoints may have it twice: as `bias`, and as that of the decoder, which `transformers`
/// 5 ties to it where the embeddings are tied, and else reads in its place. Version 4.49 ties the two in any case.
fn decoder_bias(tied: bool, vocab: usize, at: &Scope) -> TensorSpec {
    let names = if tied { ["bias", "decoder.bias"] } else { ["decoder.bias", "bias"] };
    let [used, other] = if at.contains(names[0]) { names } else { [names[1], names[0]] };
    let why = match tied {
        true => "the configuration ties the two",
        false => "as transformers 5 does where nothing is tied",
    };
    let (used_name, name) = (at.name(used), at.name(other));
    let difference = format!("`{name}` differs from `{used_name}`: the latter is used, {why}");
    TensorSpec { twin: Some(Twin { name, difference }), ..at.tensor(used, &[vocab]) }
}
