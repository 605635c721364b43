//! What the configurations of Gemma 3 have beside those of its family, which `llama.rs` runs: two types of layers, each
//! with rotary frequencies of its own, and files of models of pictures and text.

use super::config::{COMMON, ConfigFile};
use super::llama::{FULL, SHARED, SLIDING};
use crate::error::Result;
use crate::fields::{Class, Field};
use serde_json::{Map, Value, json};

/// Gemma 3 as a model of text, and as one of pictures and text, which holds the other.
pub(super) const GEMMA3_TEXT: &str = "gemma3_text";
pub(super) const GEMMA3_WHOLE: &str = "gemma3";

/// The fields of `Gemma3TextConfig`.
pub(super) const CLASS: Class = Class {
    name: "Gemma3TextConfig",
    fields: &[
        &[
            Field::read("vocab_size", "262208"),
            Field::read("hidden_size", "2304"),
            Field::read("intermediate_size", "9216"),
            Field::read("num_hidden_layers", "26"),
            Field::read("num_attention_heads", "8"),
            Field::read("num_key_value_heads", "4"),
            Field::read("head_dim", "256"),
            Field::read("max_position_embeddings", "131072"),
            Field::read("hidden_activation", "\"gelu_pytorch_tanh\""),
            Field::read("attention_bias", "false"),
            Field::read("query_pre_attn_scalar", "256"),
            Field::optional("sliding_window", "4096"),
            Field::optional("layer_types", "null"),
            Field::optional("final_logit_softcapping", "null"),
            Field::read("tie_word_embeddings", "true"),
            // Of files from before transformers 5.
            Field::read("sliding_window_pattern", "6"),
            Field::read("rope_local_base_freq", "10000.0"),
            // What transformers 5 writes of it, and passes over.
            Field::no_effect("_sliding_window_pattern"),
            Field::unread("attn_logit_softcapping", "null"),
            Field::unread("use_bidirectional_attention", "false"),
        ],
        SHARED,
        COMMON,
    ],
    aliases: &[],
};

/// Of a model of pictures and text the text model alone is run.
const GEMMA3_WITH_PICTURES: Class = Class {
    name: "Gemma3Config",
    fields: &[
        &[
            Field::optional("text_config", "null"),
            Field::no_effect("vision_config"),
            Field::no_effect("mm_tokens_per_image"),
            Field::no_effect("boi_token_index"),
            Field::no_effect("eoi_token_index"),
            Field::no_effect("image_token_index"),
            // Its text model says it too.
            Field::unread("tie_word_embeddings", "true"),
        ],
        COMMON,
    ],
    aliases: &[],
};

/// Gemma 3's `rope_parameters`, by type of layer, where an older file has them under several names: the scaling is that of
/// the layers that look at the whole sequence.
pub(super) fn rope(values: &Map<String, Value>) -> Result<Value, String> {
    let said = |name: &str| values.get(name).filter(|value| !value.is_null());
    let mut by_type = match said("rope_parameters") {
        None => Map::new(),
        Some(Value::Object(by_type)) if by_type.values().all(|set| set.is_object() || set.is_null()) => {
            by_type.clone()
        }
        Some(other) => return Err(format!("`rope_parameters` is {other}: it has to be by type of layer")),
    };
    let theta = said("rope_theta").cloned().unwrap_or(json!(1_000_000.0));
    let local = said("rope_local_base_freq").cloned().unwrap_or(json!(10_000.0));
    if !local.as_f64().is_some_and(|base| base > 0.0) {
        return Err(format!("`rope_local_base_freq` is {local}: it has to be a number above 0"));
    }
    for (kind, theta) in [(FULL, theta), (SLIDING, local)] {
        let set = by_type.entry(kind).or_insert(Value::Null);
        if set.is_null() {
            *set = json!({ "rope_type": "default" });
        }
        let Value::Object(set) = set else { continue };
        match said("rope_scaling") {
            Some(Value::Object(scaling)) if kind == FULL => {
                let old = scaling.get("type").filter(|old| !old.is_null() && **old != "default");
                if let (Some(old), None) = (old, scaling.get("rope_type")) {
                    return Err(format!(
                        "`rope_scaling` has `type` {old} and no `rope_type`: version 4 of transformers reads it, version 5 \
                         passes Gemma 3's over; call it `rope_type`"
                    ));
                }
                set.extend(scaling.clone());
            }
            Some(other) if kind == FULL => {
                return Err(format!("`rope_scaling` is {other}: it has to be an object"));
            }
            _ => {}
        }
        set.entry("rope_theta").or_insert(theta);
    }
    Ok(Value::Object(by_type))
}

/// True for the name of a tensor that a text model does without.
pub(super) fn is_of_pictures(name: &str) -> bool {
    ["vision_tower.", "multi_modal_projector."].iter().any(|part| name.contains(part))
}

/// The text model's configuration in that of a model of pictures and text.
pub(super) fn text_model<'a>(
    file: &ConfigFile<'a>,
    notes: &mut Vec<String>,
) -> Result<Option<ConfigFile<'a>>> {
    if file.object.get("model_type").and_then(Value::as_str) != Some(GEMMA3_WHOLE) {
        return Ok(None);
    }
    let mut checked = file.check(&GEMMA3_WITH_PICTURES)?;
    notes.extend(checked.notes());
    let mut object = match checked.values.remove("text_config") {
        Some(Value::Object(object)) => object,
        Some(Value::Null) | None => Map::new(),
        Some(other) => return Err(file.fault(format!("`text_config` is {other}: it has to be an object"))),
    };
    object.insert("model_type".to_owned(), GEMMA3_TEXT.into());
    Ok(Some(ConfigFile { path: file.path, object, allowed: file.allowed }))
}
