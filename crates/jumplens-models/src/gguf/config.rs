//! The metadata of a GGUF file as the `config.json` of the same model.

use super::architecture::{Architecture, ROPE_FACTORS};
use super::header::{Header, Type};
use crate::error::{Error, Result};
use crate::files::SourceFile;
use serde_json::{Map, Value, json};

/// Of every so many blocks of Gemma 3 the last looks at the whole sequence, where the file does not say.
const GEMMA3_PERIOD: u64 = 6;

/// The blocks of Gemma 3 27B, whose scores are not scaled by the width of a head: the file does not say.
const GEMMA3_27B_LAYERS: u64 = 62;

/// The factors of a model for long texts and short ones, which are not read.
const LONG_ROPE_FACTORS: [&str; 2] = ["rope_factors_long.weight", "rope_factors_short.weight"];

/// `config.json` with Hugging Face's field names. [`Error::Config`](crate::Error::Config) where the file is
/// of a model that is not supported, [`Error::Format`](crate::Error::Format) where it is damaged or lacks
/// what no model goes without.
pub(crate) fn config(file: &SourceFile) -> Result<Value> {
    let header = Header::read(file)?;
    let architecture = Architecture::of(&header)?;
    let fields = Fields { header: &header, architecture, file };
    match architecture {
        Architecture::Gpt2 => fields.gpt2(),
        Architecture::Llama
        | Architecture::Deci
        | Architecture::Qwen2
        | Architecture::Qwen3
        | Architecture::Gemma3 => fields.decoder(),
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
        self.header.of_every_block(&self.key(name))
    }

    fn needed(&self, name: &str) -> Result<u64> {
        self.natural(name)?.ok_or_else(|| self.missing(name))
    }

    fn missing(&self, name: &str) -> Error {
        self.header.damaged(format!("no `{}` in its metadata", self.key(name)))
    }

    fn float(&self, name: &str) -> Result<Option<f64>> {
        self.header.float(&self.key(name))
    }

    /// Fails where the file gives another number than the one that can be run.
    fn has_to_be(&self, name: &str, expected: u64, what: &str) -> Result<()> {
        match self.natural(name)?.filter(|n| *n != expected) {
            Some(n) => Err(self.header.unsupported(format!(
                "`{}` is {n}: {what} is {expected}, and no other number is supported",
                self.key(name)
            ))),
            None => Ok(()),
        }
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
        let (d, n_heads) = (self.needed("embedding_length")?, self.needed("attention.head_count")?);
        self.has_to_be("attention.head_count_kv", n_heads, "the number of heads")?;
        if let Some(d_head) = d.checked_div(n_heads) {
            self.has_to_be("attention.key_length", d_head, "the width of a head")?;
            self.has_to_be("attention.value_length", d_head, "the width of a head")?;
        }
        Ok(json!({
            "model_type": "gpt2",
            "vocab_size": self.vocab_size()?,
            "n_positions": self.needed("context_length")?,
            "n_embd": d,
            "n_layer": self.needed("block_count")?,
            "n_head": n_heads,
            "n_inner": self.natural("feed_forward_length")?,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": self.float("attention.layer_norm_epsilon")?.unwrap_or(1e-5),
            "tie_word_embeddings": !self.has("output.weight"),
        }))
    }

    /// Llama, and what is built alike.
    fn decoder(&self) -> Result<Value> {
        if let Some(experts @ 1..) = self.natural("expert_count")? {
            return Err(self.header.unsupported(format!(
                "a mixture of {experts} experts (`{}`) is not supported",
                self.key("expert_count")
            )));
        }
        let hidden_size = self.needed("embedding_length")?;
        let heads = |name: &str| self.architecture.heads(self.header, &self.key(name));
        let n_heads = heads("attention.head_count")?.ok_or_else(|| self.missing("attention.head_count"))?;
        let n_layers = self.needed("block_count")?;
        let plain_head_dim = hidden_size.checked_div(n_heads).unwrap_or(0);
        let head_dim = self.natural("attention.key_length")?.unwrap_or(plain_head_dim);
        if let Some(value_dim) = self.natural("attention.value_length")?.filter(|dim| *dim != head_dim) {
            return Err(self.header.unsupported(format!(
                "heads with keys of {head_dim} and values of {value_dim} coordinates are not supported"
            )));
        }
        for name in [
            "rope.dimension_count",
            "rope.dimension_count_swa",
            "attention.key_length_swa",
            "attention.value_length_swa",
        ] {
            self.has_to_be(name, head_dim, "the width of a head")?;
        }
        let Some(rms_norm_eps) = self.float("attention.layer_norm_rms_epsilon")? else {
            return Err(self.missing("attention.layer_norm_rms_epsilon"));
        };
        let mut config = json!({
            "model_type": self.architecture.name(),
            "vocab_size": self.vocab_size()?,
            "hidden_size": hidden_size,
            "intermediate_size": self.widest()?,
            "num_hidden_layers": n_layers,
            "num_attention_heads": n_heads,
            "num_key_value_heads": heads("attention.head_count_kv")?.unwrap_or(n_heads),
            "max_position_embeddings": self.needed("context_length")?,
            "rms_norm_eps": rms_norm_eps,
            "tie_word_embeddings": !self.has("output.weight"),
            // Not a field of Hugging Face's: llama.cpp takes each bias where the file has it.
            "biases_where_stored": true,
        });
        if head_dim != plain_head_dim || self.architecture == Architecture::Gemma3 {
            config["head_dim"] = json!(head_dim);
        }
        if self.architecture == Architecture::Deci {
            config["model_type"] = json!("llama");
            self.blocks_that_differ(&mut config, n_layers)?;
        }
        let windows = self.windows(n_layers)?;
        let scaling = self.rope_scaling()?;
        if self.architecture == Architecture::Gemma3 {
            config["model_type"] = json!("gemma3_text");
            self.gemma3(&mut config, head_dim, plain_head_dim, scaling)?;
        } else {
            config["hidden_act"] = json!("silu");
            config["rope_theta"] = json!(self.float("rope.freq_base")?.unwrap_or(10000.0));
            if let Some(scaling) = scaling {
                config["rope_scaling"] = scaling;
            }
        }
        let Some((window, slides)) = windows else { return Ok(config) };
        config["sliding_window"] = json!(window);
        match self.architecture {
            // Of the models that are converted to `llama` Mistral has windows, and has them in every block.
            Architecture::Llama | Architecture::Deci => {
                if slides.contains(&false) {
                    let key = self.key("attention.sliding_window_pattern");
                    return Err(self
                        .header
                        .unsupported(format!("`{key}` is not supported where blocks differ")));
                }
                config["model_type"] = json!("mistral");
            }
            _ => {
                let kind = |slides: &bool| if *slides { "sliding_attention" } else { "full_attention" };
                config["layer_types"] = slides.iter().map(kind).collect();
                if self.architecture != Architecture::Gemma3 {
                    config["use_sliding_window"] = json!(true);
                }
            }
        }
        Ok(config)
    }

    /// The width of feed-forward parts: of blocks that differ, the largest.
    fn widest(&self) -> Result<u64> {
        if self.architecture != Architecture::Deci {
            return self.needed("feed_forward_length");
        }
        let widths = self.header.naturals(&self.key("feed_forward_length"))?;
        widths
            .and_then(|(widths, _)| widths.into_iter().max())
            .ok_or_else(|| self.missing("feed_forward_length"))
    }

    /// Which blocks have an attention, and how wide their feed-forward parts are: no fields of Hugging Face's.
    fn blocks_that_differ(&self, config: &mut Value, n_layers: u64) -> Result<()> {
        let by_block = |name: &str| -> Result<Option<Vec<u64>>> {
            let key = self.key(name);
            match self.header.naturals(&key)? {
                Some((values, true)) if values.len() as u64 != n_layers => Err(self
                    .header
                    .damaged(format!("`{key}` has {} values for {n_layers} blocks", values.len()))),
                Some((values, true)) => Ok(Some(values)),
                Some((_, false)) | None => Ok(None),
            }
        };
        let heads = by_block("attention.head_count")?;
        let kv_heads = by_block("attention.head_count_kv")?;
        if let Some(some) = heads.as_ref().or(kv_heads.as_ref()) {
            let kind = |block: usize| {
                let count = |of: &Option<Vec<u64>>| of.as_ref().map_or(1, |of| of[block]);
                match (count(&heads), count(&kv_heads)) {
                    (0, _) => "nothing",
                    (_, 0) => "linear",
                    _ => "heads",
                }
            };
            config["attention_of_blocks"] = (0..some.len()).map(kind).collect();
        }
        if let Some(widths) = by_block("feed_forward_length")? {
            if let Some(block) = widths.iter().position(|width| *width == 0) {
                return Err(self.header.unsupported(format!(
                    "block {} has no feed-forward part (`{}` is 0 there), and llama.cpp leaves out all of such a block: that \
                     is not supported",
                    block + 1,
                    self.key("feed_forward_length")
                )));
            }
            config["intermediate_sizes"] = widths.into();
        }
        Ok(())
    }

    /// What Gemma 3 has beside the others: blocks that look at the whole sequence and such that look at a window have
    /// frequencies of their own.
    fn gemma3(&self, config: &mut Value, head_dim: u64, plain: u64, scaling: Option<Value>) -> Result<()> {
        let theta = self.float("rope.freq_base")?.ok_or_else(|| self.missing("rope.freq_base"))?;
        let mut global = scaling.unwrap_or_else(|| json!({ "rope_type": "default" }));
        global["rope_theta"] = json!(theta);
        let local = self.float("rope.freq_base_swa")?.unwrap_or(10000.0);
        config["rope_parameters"] = json!({
            "full_attention": global,
            "sliding_attention": { "rope_type": "default", "rope_theta": local },
        });
        let n_layers = config["num_hidden_layers"].as_u64();
        let scalar = if n_layers == Some(GEMMA3_27B_LAYERS) { plain } else { head_dim };
        config["query_pre_attn_scalar"] = json!(scalar);
        config["hidden_activation"] = json!("gelu_pytorch_tanh");
        if let Some(cap) = self.float("final_logit_softcapping")?.filter(|cap| *cap != 0.0) {
            config["final_logit_softcapping"] = json!(cap);
        }
        // Where there are no windows: `layer_types` would be put in their place.
        config["layer_types"] = (0..n_layers.unwrap_or(0).min(self.header.tensors.len() as u64))
            .map(|_| "full_attention")
            .collect();
        Ok(())
    }

    /// How far back attention looks, and in which blocks.
    fn windows(&self, n_layers: u64) -> Result<Option<(u64, Vec<bool>)>> {
        let Some(window @ 1..) = self.natural("attention.sliding_window")? else { return Ok(None) };
        let key = self.key("attention.sliding_window_pattern");
        // There are not more blocks than tensors, whatever the file claims.
        let n_layers = n_layers.min(self.header.tensors.len() as u64);
        let every = |period: u64| -> Vec<bool> {
            (0..n_layers).map(|layer| period == 0 || layer % period < period - 1).collect()
        };
        let slides = match self.header.naturals(&key)? {
            Some((kinds, true)) if kinds.len() as u64 == n_layers => {
                kinds.iter().map(|kind| *kind != 0).collect()
            }
            Some((kinds, true)) => {
                return Err(self
                    .header
                    .damaged(format!("`{key}` has {} values for {n_layers} blocks", kinds.len())));
            }
            Some((period, false)) => every(period[0]),
            None if self.architecture == Architecture::Gemma3 => every(GEMMA3_PERIOD),
            None if matches!(self.architecture, Architecture::Llama | Architecture::Deci) => every(0),
            None => return Ok(None),
        };
        Ok(slides.contains(&true).then_some((window, slides)))
    }

    /// Llama 3's factors by which frequencies are divided (`{"rope_type": "factors"}`, not a name of Hugging
    /// Face's, who has the rule that they came from), or `linear`, or `yarn`.
    fn rope_scaling(&self) -> Result<Option<Value>> {
        if let Some(tensor) = LONG_ROPE_FACTORS.into_iter().find(|name| self.has(name)) {
            return Err(self.header.unsupported(format!("tensor `{tensor}` is not supported")));
        }
        // As llama.cpp has it: linear where there is no type, and the key of files from before there were types.
        let kind = self.header.text(&self.key("rope.scaling.type"))?.unwrap_or("linear");
        let factor = match self.float("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.float("rope.scale_linear")?,
        };
        let factor = factor.filter(|factor| *factor != 0.0).unwrap_or(1.0);
        let factors = self.rope_factors()?;
        Ok(match (kind, factors) {
            ("none", None) => None,
            ("linear", None) => (factor != 1.0).then(|| json!({ "rope_type": "linear", "factor": factor })),
            ("none", Some(factors)) => Some(json!({ "rope_type": "factors", "factors": factors })),
            ("linear", Some(factors)) => {
                let factors: Vec<f64> = factors.iter().map(|own| f64::from(*own) * factor).collect();
                Some(json!({ "rope_type": "factors", "factors": factors }))
            }
            ("yarn", None) => {
                let mut scaling = Map::new();
                scaling.insert("rope_type".to_owned(), json!("yarn"));
                scaling.insert("factor".to_owned(), json!(factor));
                for (field, key) in [
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
                Some(Value::Object(scaling))
            }
            ("yarn", Some(_)) => {
                return Err(self.header.unsupported(format!(
                    "`{ROPE_FACTORS}` together with another scaling of positions is not supported"
                )));
            }
            (kind, _) => {
                let key = self.key("rope.scaling.type");
                return Err(self.header.unsupported(format!("`{key}` `{kind}` is not supported")));
            }
        })
    }

    fn rope_factors(&self) -> Result<Option<Vec<f32>>> {
        let Some(tensor) = self.header.tensor(ROPE_FACTORS) else { return Ok(None) };
        if !matches!(self.architecture, Architecture::Llama | Architecture::Deci) {
            let name = self.architecture.name();
            return Err(self.header.unsupported(format!("tensor `{ROPE_FACTORS}` is not read of `{name}`")));
        }
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
