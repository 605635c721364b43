//! The metadata of a GGUF file as the `config.json` of the same model.

use super::architecture::{Architecture, ROPE_FACTORS};
use super::header::{Header, Type};
use crate::error::Result;
use crate::hub::SourceFile;
use serde_json::{Map, Value, json};

/// `config.json` with Hugging Face's field names. [`Error::Config`](crate::Error::Config) where the file is
/// of a model that is not supported, [`Error::Format`](crate::Error::Format) where it is damaged or lacks
/// what no model goes without.
pub(crate) fn config(file: &SourceFile) -> Result<Value> {
    let header = Header::read(file)?;
    let architecture = Architecture::of(&header)?;
    let fields = Fields { header: &header, architecture, file };
    match architecture {
        Architecture::Gpt2 => fields.gpt2(),
        Architecture::Llama | Architecture::Qwen2 | Architecture::Qwen3 => fields.llama(),
    }
}

/// The metadata below the architecture's name.
struct Fields<'a> {
    header: &'a Header<'a>,
    architecture: Architecture,
    file: &'a SourceFile,
}

impl Fields<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture.name())
    }

    fn natural(&self, name: &str) -> Result<Option<u64>> {
        self.header.natural(&self.key(name))
    }

    fn needed(&self, name: &str) -> Result<u64> {
        let missing = || self.header.damaged(format!("no `{}` in its metadata", self.key(name)));
        self.natural(name)?.ok_or_else(missing)
    }

    fn float(&self, name: &str) -> Result<Option<f64>> {
        self.header.float(&self.key(name))
    }

    /// The rows of the embedding: the metadata may count tokens instead.
    fn vocab_size(&self) -> Result<usize> {
        let rows = self.header.tensor("token_embd.weight").and_then(|tensor| tensor.shape.first());
        rows.copied().ok_or_else(|| self.header.damaged("no tensor `token_embd.weight`"))
    }

    fn has(&self, tensor: &str) -> bool {
        self.header.tensor(tensor).is_some()
    }

    fn gpt2(&self) -> Result<Value> {
        Ok(json!({
            "model_type": "gpt2",
            "vocab_size": self.vocab_size()?,
            "n_positions": self.needed("context_length")?,
            "n_embd": self.needed("embedding_length")?,
            "n_layer": self.needed("block_count")?,
            "n_head": self.needed("attention.head_count")?,
            "n_inner": self.natural("feed_forward_length")?,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": self.float("attention.layer_norm_epsilon")?.unwrap_or(1e-5),
            "tie_word_embeddings": !self.has("output.weight"),
        }))
    }

    fn llama(&self) -> Result<Value> {
        if let Some(experts @ 1..) = self.natural("expert_count")? {
            return Err(self.header.unsupported(format!(
                "a mixture of {experts} experts (`{}`) is not supported",
                self.key("expert_count")
            )));
        }
        let hidden_size = self.needed("embedding_length")?;
        let n_heads = self.needed("attention.head_count")?;
        let head_dim = match self.natural("attention.key_length")? {
            Some(head_dim) => head_dim,
            None => hidden_size.checked_div(n_heads).unwrap_or(0),
        };
        if let Some(value_dim) = self.natural("attention.value_length")?.filter(|dim| *dim != head_dim) {
            return Err(self.header.unsupported(format!(
                "heads with keys of {head_dim} and values of {value_dim} coordinates are not supported"
            )));
        }
        let Some(rms_norm_eps) = self.float("attention.layer_norm_rms_epsilon")? else {
            let key = self.key("attention.layer_norm_rms_epsilon");
            return Err(self.header.damaged(format!("no `{key}` in its metadata")));
        };
        let mut config = json!({
            "model_type": self.architecture.name(),
            "vocab_size": self.vocab_size()?,
            "hidden_size": hidden_size,
            "intermediate_size": self.needed("feed_forward_length")?,
            "num_hidden_layers": self.needed("block_count")?,
            "num_attention_heads": n_heads,
            "num_key_value_heads": self.natural("attention.head_count_kv")?.unwrap_or(n_heads),
            "head_dim": head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": self.needed("context_length")?,
            "rms_norm_eps": rms_norm_eps,
            "rope_theta": self.float("rope.freq_base")?.unwrap_or(10000.0),
            "attention_bias": self.has("blk.0.attn_q.bias"),
            "mlp_bias": self.has("blk.0.ffn_up.bias"),
            "tie_word_embeddings": !self.has("output.weight"),
        });
        if let Some(rotated) = self.natural("rope.dimension_count")?.filter(|n| *n != head_dim) {
            config["partial_rotary_factor"] = json!(rotated as f64 / head_dim as f64);
        }
        if let Some(scaling) = self.rope_scaling()? {
            config["rope_scaling"] = scaling;
        }
        if let Some(window @ 1..) = self.natural("attention.sliding_window")? {
            config["sliding_window"] = json!(window);
            config["use_sliding_window"] = json!(true);
        }
        Ok(config)
    }

    /// Llama 3's factors by which frequencies are divided (`{"rope_type": "factors"}`, not a name of Hugging
    /// Face's, who has the rule that they came from), or `linear`, or `yarn`.
    fn rope_scaling(&self) -> Result<Option<Value>> {
        let kind = self.header.text(&self.key("rope.scaling.type"))?.filter(|kind| *kind != "none");
        let factors = self.rope_factors()?;
        // The key of files from before there were kinds.
        let old = self.float("rope.scale_linear")?.filter(|factor| *factor != 1.0);
        let scaling = match (kind, factors, old) {
            (None, None, None) => return Ok(None),
            (None, Some(factors), None) => json!({ "rope_type": "factors", "factors": factors }),
            (None, None, Some(factor)) => json!({ "rope_type": "linear", "factor": factor }),
            (Some(kind @ ("linear" | "yarn")), None, None) => {
                let mut scaling = Map::new();
                scaling.insert("rope_type".to_owned(), json!(kind));
                for (field, key) in [
                    ("factor", "rope.scaling.factor"),
                    ("attention_factor", "rope.scaling.attn_factor"),
                    ("beta_fast", "rope.scaling.yarn_beta_fast"),
                    ("beta_slow", "rope.scaling.yarn_beta_slow"),
                ] {
                    if let Some(number) = self.float(key)? {
                        scaling.insert(field.to_owned(), json!(number));
                    }
                }
                if let Some(n) = self.natural("rope.scaling.original_context_length")? {
                    scaling.insert("original_max_position_embeddings".to_owned(), json!(n));
                }
                Value::Object(scaling)
            }
            (Some(kind), None, _) => {
                let key = self.key("rope.scaling.type");
                return Err(self.header.unsupported(format!("`{key}` `{kind}` is not supported")));
            }
            _ => {
                return Err(self.header.unsupported(format!(
                    "`{ROPE_FACTORS}` beside another scaling of positions is not supported"
                )));
            }
        };
        Ok(Some(scaling))
    }

    fn rope_factors(&self) -> Result<Option<Vec<f32>>> {
        let Some(tensor) = self.header.tensor(ROPE_FACTORS) else { return Ok(None) };
        if tensor.kind != Type::F32 {
            return Err(self.header.damaged(format!("tensor `{ROPE_FACTORS}` is not F32")));
        }
        let bytes = &self.file.bytes()[tensor.bytes.clone()];
        let factors: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        if !factors.iter().all(|factor| factor.is_finite() && *factor > 0.0) {
            return Err(self
                .header
                .damaged(format!("tensor `{ROPE_FACTORS}` has a factor that is not above 0")));
        }
        Ok(Some(factors))
    }
}
