//! Llama (Touvron et al., arXiv 2302.13971) and the families that differ from it in details: pre-norm blocks with
//! RMSNorm, rotary positions, grouped-query attention and a gated feed-forward part. Agrees with
//! `transformers/models/{llama,mistral,qwen2,qwen3,gemma,gemma2,gemma3}`, except that `h_L` is taken before the final norm.

use super::config::{COMMON, ConfigFile};
use super::gemma3::{self, GEMMA3_TEXT, GEMMA3_WHOLE};
use super::rotary::{Beside, Rotary};
use super::{Family, above_zero, activation, is_multiple, not_negative};
use crate::error::Result;
use crate::fields::{Class, Field};
use crate::models::blueprint::{
    AttentionSpec, Blueprint, EmbeddingSpec, HeadSpec, LinearSpec, ModuleSpec, NormSpec, unembedding,
};
use crate::nn::Activation;
use crate::weights::{Scope, Weights};
use crate::words::{Kind, PRE_NORM_PARTS, Part, PartKind, Slot, Spec};
use serde::Deserialize;
use serde_json::Value;

pub(super) const FAMILY: Family = Family { model_types: MODEL_TYPES, read };

/// The `model_type`s that are read here.
pub(super) const MODEL_TYPES: &[&str] =
    &["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", GEMMA3_TEXT, GEMMA3_WHOLE];

/// The fields that all configuration classes of these families have, or that their published files have.
pub(super) const SHARED: &[Field] = &[
    Field::read("rms_norm_eps", "1e-6"),
    Field::optional("rope_parameters", "null"),
    Field::optional("rope_scaling", "null"),
    Field::optional("rope_theta", "null"),
    Field::optional("partial_rotary_factor", "null"),
    Field::optional("original_max_position_embeddings", "null"),
    Field::no_effect("attention_dropout"),
    Field::no_effect("is_llama_config"),
    Field::no_effect("pretraining_tp"),
    Field::unread("rope_interleaved", "false"),
];

/// The fields of the class of that `model_type`.
fn class(model_type: &str) -> Option<&'static Class> {
    Some(match model_type {
        "llama" => &LLAMA,
        "mistral" => &MISTRAL,
        "qwen2" => &QWEN2,
        "qwen3" => &QWEN3,
        "gemma" => &GEMMA,
        "gemma2" => &GEMMA2,
        GEMMA3_TEXT => &gemma3::CLASS,
        _ => return None,
    })
}

const LLAMA: Class = Class {
    name: "LlamaConfig",
    fields: &[
        &[
            Field::read("vocab_size", "32000"),
            Field::read("hidden_size", "4096"),
            Field::read("intermediate_size", "11008"),
            Field::read("num_hidden_layers", "32"),
            Field::read("num_attention_heads", "32"),
            Field::optional("num_key_value_heads", "null"),
            Field::optional("head_dim", "null"),
            Field::read("max_position_embeddings", "2048"),
            Field::read("hidden_act", "\"silu\""),
            Field::read("attention_bias", "false"),
            Field::read("mlp_bias", "false"),
            Field::read("tie_word_embeddings", "false"),
        ],
        SHARED,
        COMMON,
    ],
    aliases: &[],
};

const MISTRAL: Class = Class {
    name: "MistralConfig",
    fields: &[
        &[
            Field::read("vocab_size", "32000"),
            Field::read("hidden_size", "4096"),
            Field::read("intermediate_size", "14336"),
            Field::read("num_hidden_layers", "32"),
            Field::read("num_attention_heads", "32"),
            Field::optional("num_key_value_heads", "8"),
            Field::optional("head_dim", "null"),
            Field::read("max_position_embeddings", "131072"),
            Field::read("hidden_act", "\"silu\""),
            Field::optional("sliding_window", "4096"),
            Field::read("tie_word_embeddings", "false"),
            // `transformers` warns of it, and lets every layer slide.
            Field::unread("layer_types", "null"),
        ],
        SHARED,
        COMMON,
    ],
    aliases: &[],
};

/// What the second and the third Qwen share.
const QWEN: &[Field] = &[
    Field::read("vocab_size", "151936"),
    Field::read("hidden_size", "4096"),
    Field::read("intermediate_size", "22016"),
    Field::read("num_hidden_layers", "32"),
    Field::read("num_attention_heads", "32"),
    Field::optional("num_key_value_heads", "32"),
    Field::read("max_position_embeddings", "32768"),
    Field::read("hidden_act", "\"silu\""),
    Field::read("use_sliding_window", "false"),
    Field::optional("sliding_window", "4096"),
    Field::read("max_window_layers", "28"),
    Field::optional("layer_types", "null"),
    Field::read("tie_word_embeddings", "false"),
    Field::unread("use_mrope", "false"),
];

const QWEN2: Class = Class {
    name: "Qwen2Config",
    // Not of the class, yet its model reads it.
    fields: &[&[Field::optional("head_dim", "null")], QWEN, SHARED, COMMON],
    aliases: &[],
};

const QWEN3: Class = Class {
    name: "Qwen3Config",
    fields: &[
        &[Field::read("head_dim", "128"), Field::read("attention_bias", "false")],
        QWEN,
        SHARED,
        COMMON,
    ],
    aliases: &[],
};

const GEMMA: Class = Class {
    name: "GemmaConfig",
    fields: &[
        &[
            Field::read("vocab_size", "256000"),
            Field::read("hidden_size", "3072"),
            Field::read("intermediate_size", "24576"),
            Field::read("num_hidden_layers", "28"),
            Field::read("num_attention_heads", "16"),
            Field::read("num_key_value_heads", "16"),
            Field::read("head_dim", "256"),
            Field::read("max_position_embeddings", "8192"),
            Field::read("hidden_act", "\"gelu_pytorch_tanh\""),
            Field::optional("hidden_activation", "null"),
            Field::read("attention_bias", "false"),
            Field::read("tie_word_embeddings", "true"),
            Field::unread("use_bidirectional_attention", "false"),
        ],
        SHARED,
        COMMON,
    ],
    aliases: &[],
};

const GEMMA2: Class = Class {
    name: "Gemma2Config",
    fields: &[
        &[
            Field::read("vocab_size", "256000"),
            Field::read("hidden_size", "2304"),
            Field::read("intermediate_size", "9216"),
            Field::read("num_hidden_layers", "26"),
            Field::read("num_attention_heads", "8"),
            Field::read("num_key_value_heads", "4"),
            Field::read("head_dim", "256"),
            Field::read("max_position_embeddings", "8192"),
            Field::read("hidden_activation", "\"gelu_pytorch_tanh\""),
            // Not of the class, yet in its published files.
            Field::optional("hidden_act", "null"),
            Field::read("attention_bias", "false"),
            Field::read("query_pre_attn_scalar", "256"),
            Field::optional("sliding_window", "4096"),
            Field::optional("layer_types", "null"),
            Field::optional("attn_logit_softcapping", "50.0"),
            Field::optional("final_logit_softcapping", "30.0"),
            Field::read("tie_word_embeddings", "true"),
            Field::unread("use_bidirectional_attention", "false"),
        ],
        SHARED,
        COMMON,
    ],
    aliases: &[],
};

/// `config.json`, its field names kept; what the families share, and what only some have.
#[derive(Debug, Clone, Deserialize)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    hidden_act: Option<String>,
    hidden_activation: Option<String>,
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<Value>,
    rope_parameters: Option<Value>,
    partial_rotary_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    tie_word_embeddings: bool,
    sliding_window: Option<u32>,
    #[serde(default)]
    use_sliding_window: bool,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    sliding_window_pattern: Option<usize>,
    query_pre_attn_scalar: Option<f64>,
    attn_logit_softcapping: Option<f32>,
    final_logit_softcapping: Option<f32>,
    /// Of GGUF files alone: what each block has in the way of an attention, where that is not said of all at once.
    attention_of_blocks: Option<Vec<Attends>>,
    /// The same of the widths of their feed-forward parts, where they differ.
    intermediate_sizes: Option<Vec<usize>>,
}

/// What a block has in the way of an attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Attends {
    Heads,
    /// A map of each position.
    Linear,
    Nothing,
}

pub(super) const FULL: &str = "full_attention";
pub(super) const SLIDING: &str = "sliding_attention";

/// A configuration that can be run, and what is derived from it.
pub(super) struct Model<'a> {
    /// `model_type`.
    family: &'static str,
    config: Config,
    rotary: Rotary,
    activation: Activation,
    /// Whether `metadata` of GGUF take the place of a configuration: biases are then wherever there are tensors of them.
    is_gguf: bool,
    file: ConfigFile<'a>,
}

impl<'a> Model<'a> {
    /// Reads the configuration, and adds to `notes` what its reader should know.
    pub fn read(file: ConfigFile<'a>, notes: &mut Vec<String>) -> Result<Self> {
        let fail = |message: String| file.fault(message);
        let named = file.object.get("model_type").and_then(Value::as_str);
        let family = MODEL_TYPES.iter().copied().find(|name| named == Some(*name));
        let class = family.and_then(|family| Some((family, class(family)?)));
        let (family, class) = class.ok_or_else(|| fail("no `model_type` of this family".to_owned()))?;
        let checked = file.check(class)?;
        notes.extend(checked.notes());
        let config: Config = checked.parse()?;
        let beside = Beside {
            theta: config.rope_theta,
            partial: config.partial_rotary_factor,
            original: config.original_max_position_embeddings,
            max_positions: config.max_position_embeddings,
        };
        let by_layer = checked.values.contains_key("layer_types");
        let rotary = if family == GEMMA3_TEXT {
            let by_type = gemma3::rope(&checked.values).map_err(fail)?;
            // Under the name that the file has, for messages.
            let (new, old) = match (&config.rope_parameters, &config.rope_scaling) {
                (None, Some(_)) => (None, Some(&by_type)),
                _ => (Some(&by_type), None),
            };
            Rotary::read(new, old, Beside { theta: None, ..beside }, true)
        } else {
            let (new, old) = (config.rope_parameters.as_ref(), config.rope_scaling.as_ref());
            Rotary::read(new, old, beside, by_layer)
        };
        let rotary = rotary.map_err(fail)?;
        notes.extend(rotary.notes.iter().cloned());
        let is_gguf = file.is_gguf();
        // Version 4.49 turns a share of the columns and fails, 5.24 turns them all: no one can have meant that. In GGUF files
        // the rows of Llama's heads are in another order, which a share would cut elsewhere.
        let can_turn_a_share = is_gguf && ["qwen2", "qwen3"].contains(&family);
        if let Some(share) = rotary.partial().filter(|_| !can_turn_a_share) {
            return Err(fail(format!(
                "`partial_rotary_factor` is {share}, which `{}` does not support: it has to be 1",
                class.name
            )));
        }
        let (field, name) = activation_name(family, &config, notes).map_err(fail)?;
        let activation = activation(field, name).map_err(fail)?;
        fits(&config).map_err(fail)?;
        let model = Self { family, config, rotary, activation, is_gguf, file };
        model.check_windows().map_err(|message| model.file.fault(message))?;
        if model.rotary.longest() < model.config.max_position_embeddings {
            notes.push(format!(
                "sequences of up to {} tokens can be run, not of `max_position_embeddings` {}: positions are turned in \
                 another way in longer ones (`rope_type` `longrope`)",
                model.rotary.longest(),
                model.config.max_position_embeddings
            ));
        }
        Ok(model)
    }

    fn is(&self, families: &[&str]) -> bool {
        families.contains(&self.family)
    }

    fn is_gemma(&self) -> bool {
        self.is(&["gemma", "gemma2", GEMMA3_TEXT])
    }

    /// Whether what sub-modules put out is normalised as well.
    fn is_sandwich(&self) -> bool {
        self.is(&["gemma2", GEMMA3_TEXT])
    }

    /// The type of block `layer`, as `layer_types` has it.
    fn layer_type(&self, layer: usize) -> &str {
        let slides = match &self.config.layer_types {
            Some(types) => return types.get(layer).map_or(FULL, String::as_str),
            None if self.is(&["mistral"]) => true,
            None if self.is(&["gemma2"]) => layer.is_multiple_of(2),
            None if self.is(&[GEMMA3_TEXT]) => {
                !(layer + 1).is_multiple_of(self.config.sliding_window_pattern.unwrap_or(6))
            }
            None => {
                self.config.use_sliding_window
                    && layer >= self.config.max_window_layers.unwrap_or(self.config.num_hidden_layers)
            }
        };
        if slides { SLIDING } else { FULL }
    }

    /// How far back attention looks in block `layer`.
    fn window(&self, layer: usize) -> Option<u32> {
        self.config.sliding_window.filter(|_| self.layer_type(layer) == SLIDING)
    }

    fn check_windows(&self) -> Result<(), String> {
        let Config { layer_types, num_hidden_layers, sliding_window, .. } = &self.config;
        if *sliding_window == Some(0) {
            return Err("`sliding_window` is 0: no row could look at itself".to_owned());
        }
        let Some(types) = layer_types else { return Ok(()) };
        if types.len() != *num_hidden_layers {
            return Err(format!(
                "`layer_types` names {} layers, and `num_hidden_layers` is {num_hidden_layers}",
                types.len()
            ));
        }
        if let Some(odd) = types.iter().find(|kind| ![FULL, SLIDING].contains(&kind.as_str())) {
            return Err(format!("`layer_types`: `{odd}` is not supported; `{FULL}` and `{SLIDING}` are"));
        }
        let no_window = sliding_window.is_none()
            || self.is(&["qwen2", "qwen3"]) && !self.config.use_sliding_window && !self.is_gguf;
        if no_window && types.iter().any(|kind| kind == SLIDING) {
            return Err(format!(
                "`layer_types` has `{SLIDING}`, but there is no window (`sliding_window`, `use_sliding_window`)"
            ));
        }
        Ok(())
    }

    /// Sees that heads wider than the states are the checkpoint's, of which `query` is the shape of a query projection: what
    /// positions need is as large as heads may be.
    fn check_heads(&self, query: Option<&[usize]>) -> Result<()> {
        let Config { hidden_size: d, num_attention_heads: n_heads, .. } = self.config;
        let d_head = self.config.d_head();
        match d_head > d && query.is_none_or(|shape| shape != [n_heads * d_head, d]) {
            true => Err(self
                .file
                .fault(format!("`head_dim` {d_head} of {n_heads} heads is not the checkpoint's"))),
            false => Ok(()),
        }
    }

    fn norm(&self, d: usize, at: &Scope) -> NormSpec {
        let norm = NormSpec::rms(at, d, self.config.rms_norm_eps);
        match self.is_gemma() {
            // Gemma keeps the weight's distance from 1.
            true => NormSpec { weight: norm.weight.map(|weight| weight.plus(1.0)), ..norm },
            false => norm,
        }
    }

    /// A projection, with a bias where the class says so, or where a GGUF file has one.
    fn linear(&self, at: &Scope, n_in: usize, n_out: usize, has_bias: bool) -> LinearSpec {
        LinearSpec::new(at, n_in, n_out, has_bias || self.is_gguf && at.contains("bias"))
    }
}

impl Config {
    fn d_head(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    fn n_kv_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }
}

/// The activation's field and name. Gemma's published files say `gelu` and mean its tanh form, as `transformers` 5 takes it; its
/// `hidden_activation` was read by versions before 4.49, and Gemma 2's is the only one.
fn activation_name<'a>(
    family: &str,
    config: &'a Config,
    notes: &mut Vec<String>,
) -> Result<(&'static str, &'a str), String> {
    let (said, beside) = (config.hidden_act.as_deref(), config.hidden_activation.as_deref());
    match family {
        "gemma" => {
            let read = said.filter(|name| *name != "gelu").unwrap_or("gelu_pytorch_tanh");
            match beside.filter(|name| *name != read && *name != "gelu") {
                Some(other) => Err(format!(
                    "`hidden_act` is `{read}` and `hidden_activation` is `{other}`: only one can count"
                )),
                None => Ok(("hidden_act", read)),
            }
        }
        "gemma2" | GEMMA3_TEXT => {
            let read = beside.unwrap_or("gelu_pytorch_tanh");
            if let Some(other) = said.filter(|name| *name != read) {
                notes
                    .push(format!("`hidden_act` (`{other}`) is not read: `hidden_activation` (`{read}`) is"));
            }
            Ok(("hidden_activation", read))
        }
        _ => Ok(("hidden_act", said.unwrap_or("silu"))),
    }
}

/// Says what of a configuration cannot be run.
fn fits(config: &Config) -> Result<(), String> {
    let Config { hidden_size, num_attention_heads: heads, num_hidden_layers, .. } = config;
    let (d_head, kv_heads) = (config.d_head(), config.n_kv_heads());
    above_zero(&[
        ("vocab_size", config.vocab_size),
        ("hidden_size", *hidden_size),
        ("intermediate_size", config.intermediate_size),
        ("num_hidden_layers", *num_hidden_layers),
        ("num_attention_heads", *heads),
        ("num_key_value_heads", kv_heads),
        ("head_dim", d_head),
        ("sliding_window_pattern", config.sliding_window_pattern.unwrap_or(1)),
    ])?;
    is_multiple(("num_attention_heads", *heads), ("num_key_value_heads", kv_heads))?;
    if !d_head.is_multiple_of(2) {
        let by = match config.head_dim {
            Some(_) => "",
            None => " (`hidden_size` by `num_attention_heads`)",
        };
        return Err(format!("`head_dim` is {d_head}{by}: it has to be even, since positions turn pairs"));
    }
    if heads.checked_mul(d_head).is_none() {
        return Err(format!("`num_attention_heads` {heads} of `head_dim` {d_head} are too large"));
    }
    not_negative("rms_norm_eps", config.rms_norm_eps)?;
    let positive = [
        ("query_pre_attn_scalar", config.query_pre_attn_scalar),
        ("attn_logit_softcapping", config.attn_logit_softcapping.map(f64::from)),
        ("final_logit_softcapping", config.final_logit_softcapping.map(f64::from)),
    ];
    match positive.into_iter().find(|(_, value)| value.is_some_and(|value| value <= 0.0)) {
        Some((name, value)) => {
            Err(format!("`{name}` is {}: it has to be above 0", value.unwrap_or_default()))
        }
        None => Ok(()),
    }
}

/// Gemma 2 and 3 normalise what their sub-modules put out as well.
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

fn read<'a>(file: ConfigFile<'a>, weights: &'a Weights<'a>) -> Result<Blueprint<'a>> {
    let mut notes = Vec::new();
    let text = gemma3::text_model(&file, &mut notes)?;
    let is_of_pictures = text.is_some();
    let model = Model::read(text.unwrap_or(file), &mut notes)?;
    let pictures = weights.names().filter(|name| is_of_pictures && gemma3::is_of_pictures(name)).count();
    if pictures > 0 {
        notes.push(format!("the text model alone is run: {pictures} tensors are for pictures"));
    }
    let config = &model.config;
    let d = config.hidden_size;
    let prefixes = ["model.", "language_model.model.", "model.language_model."];
    let has = |prefix: &&str| weights.contains(&format!("{prefix}embed_tokens.weight"));
    let root = weights.below(prefixes.into_iter().find(has).unwrap_or(""));
    let tokens = root.tensor("embed_tokens.weight", &[config.vocab_size, d]);
    let tied = config.tie_word_embeddings;
    let head = model.file.has_head(tied, weights, "lm_head.weight").then(|| HeadSpec {
        soft_cap: config.final_logit_softcapping,
        ..HeadSpec::new(unembedding(tied, &tokens, &weights.below(""), "lm_head.weight"))
    });
    Ok(Blueprint {
        spec: Spec {
            family: model.family,
            kind: Kind::Causal,
            n_layers: config.num_hidden_layers,
            d_model: d,
            n_heads: config.num_attention_heads,
            vocab_size: config.vocab_size,
            max_positions: model.rotary.longest(),
            parts: if model.is_sandwich() { SANDWICH_PARTS } else { PRE_NORM_PARTS },
        },
        notes,
        embedding: EmbeddingSpec {
            scale: model.is_gemma().then(|| (d as f64).sqrt()),
            ..EmbeddingSpec::of_tokens(tokens)
        },
        final_norm: Some(model.norm(d, &root.pp("norm"))),
        head,
        block: Box::new(move |layer| {
            if layer == 0 {
                model.check_heads(weights.shape(&root.name("layers.0.self_attn.q_proj.weight")))?;
            }
            block(&model, layer, &root.pp(format!("layers.{layer}")))
        }),
        is_known: Box::new(move |name| {
            name.ends_with("rotary_emb.inv_freq") || is_of_pictures && gemma3::is_of_pictures(name)
        }),
    })
}

fn block(model: &Model, layer: usize, at: &Scope) -> Result<Vec<ModuleSpec>> {
    let d = model.config.hidden_size;
    let has_bias = model.config.mlp_bias;
    let widths = model.config.intermediate_sizes.as_ref();
    let d_inner = widths.map_or(Some(model.config.intermediate_size), |widths| widths.get(layer).copied());
    let d_inner = d_inner.ok_or_else(|| model.file.fault("not every block has its `feed_forward_length`"))?;
    let attends = model.config.attention_of_blocks.as_ref();
    let attends = attends.and_then(|of_blocks| of_blocks.get(layer).copied()).unwrap_or(Attends::Heads);
    let norm = |name: &str| ModuleSpec::Norm(model.norm(d, &at.pp(name)));
    let mlp = at.pp("mlp");
    let attention = match attends {
        Attends::Heads => ModuleSpec::Attention(self_attention(model, layer, &at.pp("self_attn"))?),
        Attends::Linear => {
            ModuleSpec::LinearAttention(LinearSpec::new(&at.pp("self_attn.o_proj"), d, d, false))
        }
        Attends::Nothing => ModuleSpec::Nothing(PartKind::Attention),
    };
    let feed_forward = ModuleSpec::GatedFeedForward {
        gate: model.linear(&mlp.pp("gate_proj"), d, d_inner, has_bias),
        up: model.linear(&mlp.pp("up_proj"), d, d_inner, has_bias),
        activation: model.activation,
        down: model.linear(&mlp.pp("down_proj"), d_inner, d, has_bias),
    };
    let first = match attends {
        Attends::Nothing => ModuleSpec::Nothing(PartKind::Norm),
        _ => norm("input_layernorm"),
    };
    let after_attention = norm("post_attention_layernorm");
    let add = || ModuleSpec::Add;
    Ok(match model.is_sandwich() {
        false => vec![first, attention, add(), after_attention, feed_forward, add()],
        true => {
            let before = norm("pre_feedforward_layernorm");
            let after = norm("post_feedforward_layernorm");
            vec![first, attention, after_attention, add(), before, feed_forward, after, add()]
        }
    })
}

fn self_attention(model: &Model, layer: usize, at: &Scope) -> Result<AttentionSpec> {
    let config = &model.config;
    let (d, d_head, n_heads) = (config.hidden_size, config.d_head(), config.num_attention_heads);
    let n_kv_heads = config.n_kv_heads();
    // Qwen2 has them on these three alone, whatever its configuration says.
    let has_bias = config.attention_bias || model.is(&["qwen2"]);
    let project = |name: &str, heads: usize| model.linear(&at.pp(name), d, heads * d_head, has_bias);
    let output_has_bias = config.attention_bias && !model.is(&["qwen2"]);
    let output = model.linear(&at.pp("o_proj"), n_heads * d_head, d, output_has_bias);
    let [query, key, value] = [("q_proj", n_heads), ("k_proj", n_kv_heads), ("v_proj", n_kv_heads)]
        .map(|(name, n)| project(name, n));
    let head_norm = |name: &str| model.is(&["qwen3", GEMMA3_TEXT]).then(|| model.norm(d_head, &at.pp(name)));
    let rope = model.rotary.rope(model.layer_type(layer), d_head).map_err(|fault| model.file.fault(fault))?;
    Ok(AttentionSpec {
        n_kv_heads,
        scale: config.query_pre_attn_scalar.map(|scalar| scalar.powf(-0.5) as f32),
        query_norm: head_norm("q_norm"),
        key_norm: head_norm("k_norm"),
        rope: Some(rope),
        window: model.window(layer),
        soft_cap: config.attn_logit_softcapping,
        ..AttentionSpec::new(n_heads, [query, key, value, output])
    })
}
