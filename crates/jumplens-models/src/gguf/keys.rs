//! What becomes of the metadata keys that llama.cpp knows (its `llama-arch.cpp`): each is read, or known to be without
//! effect here, or refused by name where it would change what is computed.

use super::architecture::Architecture;
use super::header::Header;
use crate::error::{Error, Result};
use crate::fields::{AllowUnread, Class, Field};
use serde_json::Map;

/// The keys below an architecture's name: those that it reads, before those of every architecture.
macro_rules! class {
    ($architecture:literal, reads $($key:literal)*) => {
        Class {
            name: "llama.cpp",
            fields: &[
                &[$(Field::optional(concat!($architecture, ".", $key), "null")),*],
                &class!(@of_all $architecture),
            ],
            aliases: &[],
        }
    };
    (@of_all $architecture:literal) => {
        class!(@fields $architecture,
            reads
                "context_length" "embedding_length" "block_count" "feed_forward_length" "expert_count"
                "attention.head_count" "attention.head_count_kv" "attention.key_length" "attention.value_length"
                "attention.key_length_swa" "attention.value_length_swa"
                "attention.sliding_window" "attention.sliding_window_pattern"
                "rope.dimension_count" "rope.dimension_count_swa" "rope.freq_base" "rope.scale_linear"
                "rope.scaling.type" "rope.scaling.factor" "rope.scaling.original_context_length"
                "rope.scaling.yarn_beta_fast" "rope.scaling.yarn_beta_slow",
            // The embedding has as many rows as there are tokens; what pools and classifies states comes after them;
            // what experts do is nothing where there are none.
            no_effect
                "vocab_size" "tensor_data_layout" "pooling_type" "classifier.output_labels" "decoder_start_token_id"
                "attention.layer_norm_epsilon" "attention.layer_norm_rms_epsilon" "rope.scaling.finetuned"
                "leading_dense_block_count" "interleave_moe_layer_step" "moe_every_n_layers"
                "expert_used_count" "expert_feed_forward_length" "expert_shared_feed_forward_length"
                "expert_chunk_feed_forward_length" "expert_shared_count" "expert_group_count"
                "expert_group_used_count" "expert_weights_scale" "expert_weights_norm" "expert_gating_func"
                "expert_group_scale" "experts_per_group",
            unread
                "use_parallel_residual" = "false", "swin_norm" = "false", "rescale_every_n_layers" = "0",
                "embedding_length_out" = "0", "embedding_length_per_layer_input" = "0", "features_length" = "0",
                "full_attention_interval" = "0", "nextn_predict_layers" = "0", "n_deepstack_layers" = "0",
                "decoder_block_count" = "0", "moe_latent_size" = "0", "token_shift_count" = "0",
                "swiglu_clamp_exp" = "0", "swiglu_clamp_shexp" = "0", "hidden_activation" = "null",
                "activation_sparsity_scale" = "null", "altup.active_idx" = "null", "altup.num_inputs" = "null",
                "logit_scale" = "1", "residual_scale" = "1", "embedding_scale" = "1",
                "attn_logit_softcapping" = "0", "router_logit_softcapping" = "0", "final_logit_softcapping" = "0",
                "attention.causal" = "true", "attention.max_alibi_bias" = "0", "attention.clamp_kqv" = "0",
                "attention.scale" = "0", "attention.output_scale" = "1", "attention.value_scale" = "1",
                "attention.temperature_length" = "0", "attention.temperature_scale" = "0",
                "attention.group_norm_epsilon" = "0", "attention.group_norm_groups" = "0",
                "attention.q_lora_rank" = "0", "attention.kv_lora_rank" = "0", "attention.key_length_mla" = "0",
                "attention.value_length_mla" = "0", "attention.relative_buckets_count" = "0",
                "attention.shared_kv_layers" = "0", "attention.recurrent_layers" = "null",
                "attention.indexer.head_count" = "0", "attention.indexer.top_k" = "0",
                "rope.dimension_sections" = "null", "rope.freq_base_swa" = "null", "rope.scaling.alpha" = "0",
                "rope.scaling.attn_factor" = "1", "rope.scaling.yarn_log_multiplier" = "0",
                "rope.scaling.yarn_ext_factor" = "1", "rope.scaling.yarn_attn_factor" = "1",
                "ssm.conv_kernel" = "0", "ssm.inner_size" = "0", "ssm.state_size" = "0", "wkv.head_size" = "0",
                "shortconv.l_cache" = "0", "dense_2_feat_out" = "0", "dense_3_feat_out" = "0"
        )
    };
    (@fields $architecture:literal, reads $($read:literal)*, no_effect $($idle:literal)*,
        unread $($unread:literal = $default:literal),*) => {
        [
            $(Field::optional(concat!($architecture, ".", $read), "null"),)*
            $(Field::no_effect(concat!($architecture, ".", $idle)),)*
            $(Field::unread(concat!($architecture, ".", $unread), $default),)*
        ]
    };
}

const LLAMA: Class = class!("llama", reads "attention.layer_norm_rms_epsilon");
const DECI: Class = class!("deci", reads "attention.layer_norm_rms_epsilon");
const QWEN2: Class = class!("qwen2", reads "attention.layer_norm_rms_epsilon");
const QWEN3: Class = class!("qwen3", reads "attention.layer_norm_rms_epsilon");
const GPT2: Class = class!("gpt2", reads "attention.layer_norm_epsilon");
const GEMMA3: Class =
    class!("gemma3", reads "attention.layer_norm_rms_epsilon" "rope.freq_base_swa" "final_logit_softcapping");

/// The keys of a tokenizer.
const TOKENIZER: Class = Class {
    name: "llama.cpp",
    fields: &[&[
        Field::optional("tokenizer.ggml.model", "null"),
        Field::optional("tokenizer.ggml.pre", "null"),
        Field::optional("tokenizer.ggml.tokens", "null"),
        Field::optional("tokenizer.ggml.scores", "null"),
        Field::optional("tokenizer.ggml.merges", "null"),
        Field::optional("tokenizer.ggml.token_type", "null"),
        Field::optional("tokenizer.ggml.bos_token_id", "null"),
        Field::optional("tokenizer.ggml.eos_token_id", "null"),
        Field::optional("tokenizer.ggml.unknown_token_id", "null"),
        Field::optional("tokenizer.ggml.add_bos_token", "null"),
        Field::optional("tokenizer.ggml.add_eos_token", "null"),
        Field::optional("tokenizer.ggml.add_space_prefix", "null"),
        // What a text may hold, or a model put out, but nothing puts around one.
        Field::no_effect("tokenizer.ggml.eot_token_id"),
        Field::no_effect("tokenizer.ggml.eom_token_id"),
        Field::no_effect("tokenizer.ggml.seperator_token_id"),
        Field::no_effect("tokenizer.ggml.padding_token_id"),
        Field::no_effect("tokenizer.ggml.cls_token_id"),
        Field::no_effect("tokenizer.ggml.mask_token_id"),
        Field::no_effect("tokenizer.ggml.fim_pre_token_id"),
        Field::no_effect("tokenizer.ggml.fim_suf_token_id"),
        Field::no_effect("tokenizer.ggml.fim_mid_token_id"),
        Field::no_effect("tokenizer.ggml.fim_pad_token_id"),
        Field::no_effect("tokenizer.ggml.fim_rep_token_id"),
        Field::no_effect("tokenizer.ggml.fim_sep_token_id"),
        Field::no_effect("tokenizer.ggml.prefix_token_id"),
        Field::no_effect("tokenizer.ggml.suffix_token_id"),
        Field::no_effect("tokenizer.ggml.middle_token_id"),
        // Between the two texts of a pair, which there never is.
        Field::no_effect("tokenizer.ggml.add_sep_token"),
        Field::no_effect("tokenizer.ggml.token_type_count"),
        Field::no_effect("tokenizer.ggml.suppress_tokens"),
        // `null` stands for no table of characters.
        Field::unread("tokenizer.ggml.precompiled_charsmap", "null"),
        Field::unread("tokenizer.ggml.remove_extra_whitespaces", "false"),
        Field::unread("tokenizer.ggml.normalizer.lowercase", "false"),
        Field::unread("tokenizer.ggml.normalizer.strip_accents", "false"),
    ]],
    aliases: &[],
};

fn class_of(architecture: Architecture) -> &'static Class {
    match architecture {
        Architecture::Llama => &LLAMA,
        Architecture::Deci => &DECI,
        Architecture::Qwen2 => &QWEN2,
        Architecture::Qwen3 => &QWEN3,
        Architecture::Gpt2 => &GPT2,
        Architecture::Gemma3 => &GEMMA3,
    }
}

/// Holds the keys of the model against those that are read; returns what its user should know.
/// [`Error::Unread`](crate::Error::Unread) names the one that is in the way.
pub(super) fn check_model(
    header: &Header<'_>,
    architecture: Architecture,
    allowed: &AllowUnread,
) -> Result<Vec<String>> {
    let name = architecture.name();
    let mut notes = check(header, class_of(architecture), &format!("{name}."), allowed)?;
    if matches!(architecture, Architecture::Qwen2 | Architecture::Qwen3) {
        // A window without a word on which blocks have it: Qwen's have it from some block on.
        let key = format!("{name}.attention.sliding_window");
        let window = header.of_every_block(&key)?.unwrap_or(0);
        let longest = header.of_every_block(&format!("{name}.context_length"))?.unwrap_or(0);
        let says_where = header.naturals(&format!("{key}_pattern"))?.is_some();
        if (1..longest).contains(&window) && !says_where {
            notes.push(unread(header, &key, window.to_string(), "0", allowed)?);
        }
    }
    Ok(notes)
}

/// A key that no table can judge by itself and that is not read: as a note where that is allowed.
pub(super) fn unread(
    header: &Header<'_>,
    key: &str,
    value: String,
    default: &str,
    allowed: &AllowUnread,
) -> Result<String> {
    if allowed.allows(key) {
        return Ok(format!("not read, as allowed: `{key}` ({value})"));
    }
    Err(Error::Unread {
        path: header.path.to_owned(),
        field: key.to_owned(),
        value,
        default: default.to_owned(),
    })
}

/// The same of the tokenizer's keys.
pub(super) fn check_tokenizer(header: &Header<'_>, allowed: &AllowUnread) -> Result<Vec<String>> {
    check(header, &TOKENIZER, "tokenizer.ggml.", allowed)
}

fn check(header: &Header<'_>, class: &Class, prefix: &str, allowed: &AllowUnread) -> Result<Vec<String>> {
    let keys: Map<_, _> = header.below(prefix).map(|(key, value)| (key.to_owned(), value)).collect();
    Ok(class.check(header.path, keys, allowed)?.notes())
}
