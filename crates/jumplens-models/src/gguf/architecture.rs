//! The model families whose GGUF files are known: how llama.cpp's `convert_hf_to_gguf.py` names and stores
//! the tensors of each, turned round.

use super::header::{Header, TensorInfo};
use crate::error::Result;

/// A known `general.architecture`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Architecture {
    /// LLaMA, and what is built alike: Mistral, SmolLM2.
    Llama,
    /// The same with blocks that have no attention, and with feed-forward parts of several widths.
    Deci,
    Qwen2,
    Qwen3,
    Gemma3,
    Gpt2,
}

const KNOWN: [(&str, Architecture); 6] = [
    ("llama", Architecture::Llama),
    ("deci", Architecture::Deci),
    ("qwen2", Architecture::Qwen2),
    ("qwen3", Architecture::Qwen3),
    ("gemma3", Architecture::Gemma3),
    ("gpt2", Architecture::Gpt2),
];

/// What stands outside the blocks, and in a block: llama.cpp's name and Hugging Face's.
type Names = [(&'static str, &'static str)];

const LLAMA_ROOT: &Names =
    &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

const LLAMA_BLOCK: &Names = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// Gemma 3 normalises what its sub-modules put out as well.
const GEMMA3_BLOCK: &Names = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

const GPT2_ROOT: &Names =
    &[("token_embd", "wte"), ("position_embd", "wpe"), ("output_norm", "ln_f"), ("output", "lm_head")];

const GPT2_BLOCK: &Names = &[
    ("attn_norm", "ln_1"),
    ("attn_qkv", "attn.c_attn"),
    ("attn_output", "attn.c_proj"),
    ("ffn_norm", "ln_2"),
    ("ffn_up", "mlp.c_fc"),
    ("ffn_down", "mlp.c_proj"),
];

/// The projections that are `Conv1D` at Hugging Face, `[in, out]`: the converter transposes them.
const CONV1D: [&str; 4] = ["attn_qkv", "attn_output", "ffn_up", "ffn_down"];

/// The rotary factors of Llama 3: a tensor here, a rule in `config.json` there.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// How the weights of norms end. Gemma's are kept as their distance from 1 by Hugging Face, whole here.
const NORM: &str = "norm.weight";

/// A tensor as Hugging Face has it.
#[derive(Debug, PartialEq)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    /// How many values there are along an axis and how far apart, where they do not follow one another row by
    /// row.
    pub(crate) axes: Option<Vec<(usize, usize)>>,
    /// What is added to every value.
    pub(crate) offset: f32,
}

impl Architecture {
    /// The architecture that the file names.
    pub(crate) fn of(header: &Header<'_>) -> Result<Self> {
        let Some(name) = header.text("general.architecture")? else {
            return Err(header.damaged("no `general.architecture` in its metadata"));
        };
        KNOWN.iter().find(|(known, _)| *known == name).map(|(_, architecture)| *architecture).ok_or_else(
            || {
                let known = KNOWN.map(|(name, _)| format!("`{name}`")).join(", ");
                header
                    .unsupported(format!("architecture `{name}` is not supported in GGUF files; {known} are"))
            },
        )
    }

    /// The name it goes by in metadata keys.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Deci => "deci",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma3 => "gemma3",
            Self::Gpt2 => "gpt2",
        }
    }

    /// Where a tensor is in a Hugging Face checkpoint; `None` for one that is not in any.
    pub(crate) fn place(self, header: &Header<'_>, tensor: &TensorInfo<'_>) -> Result<Option<Place>> {
        if tensor.name == ROPE_FACTORS {
            return Ok(None);
        }
        let mut place =
            Place { name: tensor.name.to_owned(), shape: tensor.shape.clone(), axes: None, offset: 0.0 };
        let Some((path, stem, leaf)) = self.parts(tensor.name) else { return Ok(Some(place)) };
        place.name = format!("{path}.{leaf}");
        match (self, stem) {
            (Self::Gpt2, _) if CONV1D.contains(&stem) => {
                if let [n_out, n_in] = tensor.shape[..] {
                    place.shape = vec![n_in, n_out];
                    place.axes = Some(vec![(n_in, 1), (n_out, n_in)]);
                }
            }
            (Self::Gemma3, _) if tensor.name.ends_with(NORM) => place.offset = -1.0,
            (Self::Llama | Self::Deci, "attn_q") => {
                place.axes = Some(self.paired_rows(header, tensor, "head_count")?);
            }
            (Self::Llama | Self::Deci, "attn_k") => {
                place.axes = Some(self.paired_rows(header, tensor, "head_count_kv")?);
            }
            _ => {}
        }
        Ok(Some(place))
    }

    /// Whether the weights of that name are `Conv1D` at Hugging Face.
    pub(crate) fn is_transposed(stem: &str) -> bool {
        CONV1D.contains(&stem)
    }

    /// `model.layers.3.self_attn.q_proj.weight` → llama.cpp's `blk.3.attn_q.weight`, and `attn_q` of it; the trunk may have no name
    /// of its own.
    pub(crate) fn named(self, name: &str) -> Option<(String, &'static str)> {
        let (root, block, blocks) = self.names();
        let (path, leaf) = name.rsplit_once('.')?;
        let layers = blocks.rsplit('.').next()?;
        let in_block = path.split_once(&format!("{layers}.")).and_then(|(_, rest)| rest.split_once('.'));
        if let Some((number, path)) = in_block.filter(|(number, _)| number.parse::<usize>().is_ok()) {
            let (stem, _) = block.iter().find(|(_, theirs)| *theirs == path)?;
            return Some((format!("blk.{number}.{stem}.{leaf}"), stem));
        }
        let last = path.rsplit('.').next()?;
        let (stem, _) = root.iter().find(|(_, theirs)| theirs.rsplit('.').next() == Some(last))?;
        Some((format!("{stem}.{leaf}"), stem))
    }

    /// The names outside of blocks, those in them, and where blocks are at Hugging Face.
    fn names(self) -> (&'static Names, &'static Names, &'static str) {
        match self {
            Self::Gpt2 => (GPT2_ROOT, GPT2_BLOCK, "h"),
            Self::Llama | Self::Deci | Self::Qwen2 | Self::Qwen3 => (LLAMA_ROOT, LLAMA_BLOCK, "model.layers"),
            Self::Gemma3 => (LLAMA_ROOT, GEMMA3_BLOCK, "model.layers"),
        }
    }

    /// `blk.3.attn_q.weight` → Hugging Face's path `model.layers.3.self_attn.q_proj`, `attn_q`, `weight`.
    fn parts(self, name: &str) -> Option<(String, &str, &str)> {
        let (root, block, blocks) = self.names();
        let (stem, leaf) = name.rsplit_once('.')?;
        let find =
            |names: &Names, stem| names.iter().find(|(ours, _)| *ours == stem).map(|(_, theirs)| *theirs);
        if let Some((number, stem)) = stem.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
            let path = find(block, stem)?;
            return Some((format!("{blocks}.{number}.{path}"), stem, leaf));
        }
        Some((find(root, stem)?.to_owned(), stem, leaf))
    }

    /// llama.cpp turns neighbouring pairs of a head's coordinates, Hugging Face pairs from the head's two halves:
    /// the converter interleaves the halves' rows (`LlamaModel.permute`), and these axes read them one after the
    /// other.
    fn paired_rows(
        self,
        header: &Header<'_>,
        tensor: &TensorInfo<'_>,
        key: &str,
    ) -> Result<Vec<(usize, usize)>> {
        let name = self.name();
        let count = |key: &str| self.heads(header, &format!("{name}.attention.{key}"));
        let heads = match count(key)? {
            Some(heads) => Some(heads),
            None => count("head_count")?,
        };
        let rows = tensor.shape.first().copied().unwrap_or(0);
        let heads = heads.and_then(|heads| usize::try_from(heads).ok()).filter(|heads| {
            rows > 0 && *heads > 0 && rows.is_multiple_of(*heads) && (rows / heads).is_multiple_of(2)
        });
        let Some(heads) = heads else {
            return Err(header.damaged(format!(
                "tensor `{}` has {rows} rows, which `{name}.attention.{key}` does not divide into heads of pairs",
                tensor.name
            )));
        };
        let row: usize = tensor.shape[1..].iter().product();
        let head = rows / heads;
        Ok(vec![(heads, head * row), (2, row), (head / 2, 2 * row), (row, 1)])
    }

    /// How many heads there are at `key`: of blocks that differ, of those that have any.
    pub(super) fn heads(self, header: &Header<'_>, key: &str) -> Result<Option<u64>> {
        if self != Self::Deci {
            return header.of_every_block(key);
        }
        let Some((numbers, _)) = header.naturals(key)? else { return Ok(None) };
        let mut some = numbers.iter().filter(|heads| **heads > 0);
        let first = some.next().copied();
        match some.find(|heads| Some(**heads) != first) {
            Some(other) => Err(header.unsupported(format!(
                "`{key}` is {} in one block and {other} in another: blocks have that many or none, and no other number is \
                 supported",
                first.unwrap_or_default()
            ))),
            None => Ok(first),
        }
    }
}
