//! A model's configuration, before a family has read it, and the fields that all configuration classes have.

use crate::error::{Error, Result};
use crate::fields::{AllowUnread, Checked, Class, Field};
use crate::gguf::is_gguf;
use crate::weights::Weights;
use serde_json::{Map, Value};
use std::path::Path;

/// `config.json`, or what a GGUF file says in its place.
pub(crate) struct ConfigFile<'a> {
    /// Where it is.
    pub path: &'a Path,
    /// What it says.
    pub object: Map<String, Value>,
    /// Fields that may go unread.
    pub allowed: &'a AllowUnread,
}

impl ConfigFile<'_> {
    /// Held against a configuration class.
    pub fn check(&self, class: &Class) -> Result<Checked> {
        let mut checked = class.check(self.path, self.object.clone(), self.allowed)?;
        if self.is_gguf() {
            // What GGUF's metadata say is put under names that not every class has, and is read all the same.
            checked.values.append(&mut checked.unknown);
        }
        Ok(checked)
    }

    /// True where this is what the metadata of a GGUF file say.
    pub fn is_gguf(&self) -> bool {
        is_gguf(self.path)
    }

    /// True where `architectures` names a model whose name ends in one of `endings`.
    pub fn is_saved_as(&self, endings: &[&str]) -> bool {
        let names = match self.object.get("architectures") {
            Some(Value::Array(names)) => names.as_slice(),
            // One name that stands by itself.
            Some(name) => std::slice::from_ref(name),
            None => &[],
        };
        let mut names = names.iter().filter_map(Value::as_str);
        names.any(|name| endings.iter().any(|ending| name.ends_with(ending)))
    }

    /// True where a causal model has its head: the embedding is its unembedding, or the checkpoint has another, or should
    /// have it, since it was saved from a model with a head. Else it is a trunk, such as models that embed texts are.
    pub fn has_head(&self, tied: bool, weights: &Weights, name: &str) -> bool {
        tied || weights.contains(name) || self.is_saved_as(&["ForCausalLM", "LMHeadModel"])
    }

    /// An [`Error::Config`] for this file.
    pub fn fault(&self, message: impl Into<String>) -> Error {
        Error::Config { path: self.path.to_owned(), message: message.into() }
    }
}

/// The fields of `transformers`' `PretrainedConfig`, which every configuration class has.
pub(super) const COMMON: &[Field] = &[
    Field::no_effect("_attn_implementation_autoset"),
    Field::no_effect("_name_or_path"),
    Field::no_effect("_num_labels"),
    Field::no_effect("architectures"),
    Field::no_effect("attn_implementation"),
    Field::no_effect("auto_map"),
    Field::no_effect("bos_token_id"),
    Field::no_effect("chunk_size_feed_forward"),
    Field::no_effect("cross_attention_hidden_size"),
    Field::no_effect("decoder_start_token_id"),
    Field::no_effect("dtype"),
    Field::no_effect("eos_token_id"),
    Field::no_effect("finetuning_task"),
    Field::no_effect("gradient_checkpointing"),
    Field::no_effect("id2label"),
    Field::no_effect("initializer_range"),
    Field::no_effect("label2id"),
    Field::no_effect("mask_token_id"),
    Field::no_effect("model_type"),
    Field::no_effect("num_labels"),
    Field::no_effect("output_attentions"),
    Field::no_effect("output_hidden_states"),
    Field::no_effect("output_past"),
    Field::no_effect("output_scores"),
    Field::no_effect("pad_token_id"),
    Field::no_effect("prefix"),
    Field::no_effect("problem_type"),
    Field::no_effect("return_dict"),
    Field::no_effect("return_dict_in_generate"),
    Field::no_effect("sep_token_id"),
    Field::no_effect("task_specific_params"),
    Field::no_effect("tf_legacy_loss"),
    Field::no_effect("tie_encoder_decoder"),
    Field::no_effect("tokenizer_class"),
    Field::no_effect("torch_dtype"),
    Field::no_effect("torchscript"),
    Field::no_effect("transformers_version"),
    Field::no_effect("use_bfloat16"),
    Field::no_effect("use_cache"),
    // What `generate` takes.
    Field::no_effect("bad_words_ids"),
    Field::no_effect("begin_suppress_tokens"),
    Field::no_effect("cache_implementation"),
    Field::no_effect("diversity_penalty"),
    Field::no_effect("do_sample"),
    Field::no_effect("early_stopping"),
    Field::no_effect("encoder_no_repeat_ngram_size"),
    Field::no_effect("exponential_decay_length_penalty"),
    Field::no_effect("forced_bos_token_id"),
    Field::no_effect("forced_eos_token_id"),
    Field::no_effect("length_penalty"),
    Field::no_effect("max_length"),
    Field::no_effect("min_length"),
    Field::no_effect("no_repeat_ngram_size"),
    Field::no_effect("num_beam_groups"),
    Field::no_effect("num_beams"),
    Field::no_effect("num_return_sequences"),
    Field::no_effect("remove_invalid_values"),
    Field::no_effect("repetition_penalty"),
    Field::no_effect("suppress_tokens"),
    Field::no_effect("temperature"),
    Field::no_effect("top_k"),
    Field::no_effect("top_p"),
    Field::no_effect("typical_p"),
    // What other programs put in, and read by themselves.
    Field::no_effect("transformers.js_config"),
    Field::no_effect("unsloth_fixed"),
    Field::no_effect("unsloth_version"),
    // These make it another model; those of them that some families do read stand in their own lists.
    Field::no_effect("add_cross_attention"),
    Field::no_effect("is_decoder"),
    Field::unread("is_causal", "true"),
    Field::unread("is_encoder_decoder", "false"),
    Field::unread("pruned_heads", "{}"),
    Field::unread("quantization_config", "null"),
];
