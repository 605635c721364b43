//! What llama.cpp's `convert_hf_to_gguf.py` makes of a `tokenizer.json` and of tensors under Hugging Face's names, as far as
//! models are read here too.

use super::architecture::Architecture;
use super::tokenizer::{LLAMA3_SPLIT, QWEN2_SPLIT};
use super::write::Meta;
use serde_json::Value;

/// Types of tokens: `llama_token_type`.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// The metadata of a byte-level BPE tokenizer of `vocab` tokens, or why there are none.
pub(crate) fn tokenizer(json: &Value, vocab: usize) -> Result<Vec<(String, Meta)>, String> {
    let model = &json["model"];
    let levels = json["pre_tokenizer"].to_string() + &json["decoder"].to_string();
    if model["type"] != "BPE" || !levels.contains("ByteLevel") {
        return Err(format!(
            "its tokenizer is {} without the bytes of GPT-2's",
            model["type"].as_str().unwrap_or("of no type")
        ));
    }
    let pre = pre_tokenizer(&json["pre_tokenizer"])?;
    let mut tokens: Vec<Option<(String, i32)>> = vec![None; vocab];
    let mut put = |id: Option<u64>, token: &str, kind: i32| {
        let place = id.and_then(|id| tokens.get_mut(id as usize));
        let place =
            place.ok_or_else(|| format!("token {token:?} is beyond the {vocab} rows of the embedding"))?;
        *place = Some((token.to_owned(), kind));
        Ok::<(), String>(())
    };
    for (token, id) in model["vocab"].as_object().into_iter().flatten() {
        put(id.as_u64(), token, NORMAL)?;
    }
    for added in json["added_tokens"].as_array().into_iter().flatten() {
        let kind = if added["special"] == true { CONTROL } else { USER_DEFINED };
        put(added["id"].as_u64(), added["content"].as_str().unwrap_or_default(), kind)?;
    }
    let merge = |merge: &Value| match merge {
        Value::String(merge) => merge.clone(),
        pair => format!("{} {}", pair[0].as_str().unwrap_or_default(), pair[1].as_str().unwrap_or_default()),
    };
    let merges = model["merges"].as_array().into_iter().flatten().map(merge).collect();
    let unused = |id: usize| (format!("[PAD{id}]"), UNUSED);
    let tokens = tokens.into_iter().enumerate().map(|(id, token)| token.unwrap_or_else(|| unused(id)));
    let (tokens, types): (Vec<_>, Vec<_>) = tokens.unzip();
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    Ok(vec![
        (key("model"), Meta::Text("gpt2".to_owned())),
        (key("pre"), Meta::Text(pre.to_owned())),
        (key("tokens"), Meta::Texts(tokens)),
        (key("token_type"), Meta::I32s(types)),
        (key("merges"), Meta::Texts(merges)),
    ])
}

/// llama.cpp's name of how a text is split before the merges.
fn pre_tokenizer(json: &Value) -> Result<&'static str, String> {
    let parts = match json["pretokenizers"].as_array() {
        Some(parts) => parts.clone(),
        None => vec![json.clone()],
    };
    let kind = |part: &Value| part["type"].as_str().unwrap_or_default().to_owned();
    let kinds: Vec<String> = parts.iter().map(kind).collect();
    let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
    let splits_itself = |part: &Value| part["use_regex"] != false && part["add_prefix_space"] != true;
    let pattern = parts.first().and_then(|part| part["pattern"]["Regex"].as_str());
    match (&kinds[..], pattern) {
        (["ByteLevel"], _) if splits_itself(&parts[0]) => Ok("gpt-2"),
        (["Digits", "ByteLevel"], _) if parts[0]["individual_digits"] == true && splits_itself(&parts[1]) => {
            Ok("smollm")
        }
        (["Split", "ByteLevel"], Some(LLAMA3_SPLIT)) => Ok("llama-bpe"),
        (["Split", "ByteLevel"], Some(QWEN2_SPLIT)) => Ok("qwen2"),
        _ => Err("how its tokenizer splits texts has no name here among llama.cpp's".to_owned()),
    }
}

/// A tensor's name in llama.cpp, the part of it that says what it is, and how its values are turned.
pub(crate) struct Renamed {
    pub(crate) name: String,
    pub(crate) turn: Turn,
}

/// How the values of a tensor are put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    No,
    /// `[in, out]` → `[out, in]`.
    Transpose,
    /// The rows of the two halves of each head in turn: of the queries.
    Queries,
    /// Of the keys.
    Keys,
}

impl Turn {
    /// The values of a tensor of that shape, turned, and the shape that they then have.
    pub(crate) fn of(self, values: Vec<f32>, shape: &[usize], heads: usize) -> Vec<f32> {
        let rows = shape.first().copied().unwrap_or(0);
        let width = values.len() / rows.max(1);
        let row = |row: usize| values[row * width..][..width].iter().copied();
        match self {
            Self::No => values,
            Self::Transpose => (0..width)
                .flat_map(|j| (0..rows).map(move |i| (i, j)))
                .map(|(i, j)| values[i * width + j])
                .collect(),
            Self::Queries | Self::Keys => {
                let head = rows / heads.max(1);
                (0..rows).flat_map(|at| row(at / head * head + at % 2 * (head / 2) + at % head / 2)).collect()
            }
        }
    }

    /// The shape of what was of that shape.
    pub(crate) fn shape(self, shape: &[usize]) -> Vec<usize> {
        match self {
            Self::Transpose => shape.iter().rev().copied().collect(),
            _ => shape.to_vec(),
        }
    }
}

/// The architecture of that `model_type`, where models of it are written here.
pub(crate) fn architecture(model_type: &str) -> Option<Architecture> {
    match model_type {
        "gpt2" => Some(Architecture::Gpt2),
        "llama" => Some(Architecture::Llama),
        "qwen2" => Some(Architecture::Qwen2),
        "qwen3" => Some(Architecture::Qwen3),
        _ => None,
    }
}

/// llama.cpp's name for the tensor `name` of a checkpoint in Hugging Face layout.
pub(crate) fn renamed(architecture: Architecture, name: &str) -> Option<Renamed> {
    let (name, stem) = architecture.named(name)?;
    let is_weight = name.ends_with(".weight");
    let turn = match (architecture, stem) {
        (Architecture::Gpt2, stem) if is_weight && Architecture::is_transposed(stem) => Turn::Transpose,
        (Architecture::Llama | Architecture::Deci, "attn_q") => Turn::Queries,
        (Architecture::Llama | Architecture::Deci, "attn_k") => Turn::Keys,
        _ => Turn::No,
    };
    Some(Renamed { name, turn })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_llama_cpps() {
        let name = |architecture, name| renamed(architecture, name).map(|renamed| renamed.name);
        let llama = |theirs| name(Architecture::Llama, theirs);
        assert_eq!(llama("model.layers.3.mlp.down_proj.weight").as_deref(), Some("blk.3.ffn_down.weight"));
        assert_eq!(llama("layers.3.self_attn.q_proj.bias").as_deref(), Some("blk.3.attn_q.bias"));
        assert_eq!(llama("model.embed_tokens.weight").as_deref(), Some("token_embd.weight"));
        assert_eq!(llama("lm_head.weight").as_deref(), Some("output.weight"));
        assert_eq!(llama("norm.weight").as_deref(), Some("output_norm.weight"));
        let gpt2 = |theirs| name(Architecture::Gpt2, theirs);
        assert_eq!(gpt2("transformer.h.0.attn.c_attn.bias").as_deref(), Some("blk.0.attn_qkv.bias"));
        assert_eq!(gpt2("wpe.weight").as_deref(), Some("position_embd.weight"));
        assert_eq!(gpt2("transformer.ln_f.bias").as_deref(), Some("output_norm.bias"));
        assert_eq!(gpt2("something.weight"), None);
    }

    #[test]
    fn rows_of_halves_take_turns() {
        let values: Vec<f32> = (0..8).map(|x| x as f32).collect();
        assert_eq!(Turn::Keys.of(values.clone(), &[8, 1], 2), [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        assert_eq!(Turn::Transpose.of(values, &[2, 4], 1), [0.0, 4.0, 1.0, 5.0, 2.0, 6.0, 3.0, 7.0]);
    }
}
