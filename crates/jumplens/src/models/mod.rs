//! Model families, one file each, behind a few traits that a single runner ([`crate::runner`]) executes.

mod bert;
mod config;
mod gemma3;
mod gpt2;
mod gpt_neox;
mod llama;
mod opt;
#[cfg(test)]
mod published;
mod rotary;

use crate::batch::PackedBatch;
use crate::error::{Error, Result};
use crate::gguf;
use crate::hub::{ModelFiles, SourceFile};
use crate::nn::{Activation, Linear, Precision, QueryRows, RowPart, SelfAttention, WeightLayout};
use crate::weights::{Contents, Scope, Weights};
use candle_core::Tensor;
use config::ConfigFile;
use jumplens_core::LinearMap;
use serde_json::Value;

pub use crate::words::{Kind, POST_NORM_PARTS, PRE_NORM_PARTS, Part, PartKind, Slot, Spec};

/// A model as the runner sees it. Tensors are f32, `[rows, d]`, on the model's device.
pub trait Backbone: Send + Sync {
    /// Sizes and structure.
    fn spec(&self) -> &Spec;

    /// `h_0` of every token, `[tokens, d]`.
    fn embed(&self, batch: &PackedBatch) -> Result<Tensor>;

    /// The output of part `part` of block `layer` (from 0) on rows that do not see one another: any part but attention.
    fn part(&self, layer: usize, part: usize, inputs: &[&Tensor]) -> Result<Tensor>;

    /// The attention of block `layer`.
    fn attention(&self, layer: usize) -> &dyn Attention;

    /// Part `part` of block `layer`, with one input, on `map·x` in the place of x (`map` `[d, d]`, rows are outputs), in
    /// as many products as without the map; `None` where that cannot be done.
    fn part_after(&self, _layer: usize, _part: usize, _map: &LinearMap) -> Result<Option<PartAfter>> {
        Ok(None)
    }

    /// What turns `h_L` into logits, where the checkpoint has it.
    fn head(&self) -> Option<&dyn Head>;
}

/// What a part does to rows that do not see one another, `[n, d]` → `[n, d]`.
pub type RowWise = Box<dyn Fn(&Tensor) -> Result<Tensor> + Send + Sync>;

/// A part with a linear map folded into its first products.
pub enum PartAfter {
    /// An attention.
    Attention(Box<dyn Attention>),
    /// A part that works on each row by itself.
    RowWise(RowWise),
}

/// Keys and values of a batch's rows, `[tokens, width of all key heads]` each.
#[derive(Debug, Clone)]
pub struct KeyValues {
    /// Keys.
    pub keys: Tensor,
    /// Values.
    pub values: Tensor,
}

/// Attention in two steps, so that fewer rows may ask than answer, and keys and values may come from elsewhere.
pub trait Attention: Send + Sync {
    /// Keys and values of the part's input rows `x` `[tokens, d]`; `rows` gives their positions.
    fn keys_values(&self, x: &Tensor, rows: &QueryRows) -> Result<KeyValues>;

    /// The part's output for the input rows `x` `[rows, d]`, after the output projection.
    fn attend(&self, x: &Tensor, rows: &QueryRows, keys_values: &KeyValues) -> Result<Tensor>;
}

impl Attention for SelfAttention {
    fn keys_values(&self, x: &Tensor, rows: &QueryRows) -> Result<KeyValues> {
        let (keys, values) = self.keys_values(x, rows)?;
        Ok(KeyValues { keys, values })
    }

    fn attend(&self, x: &Tensor, rows: &QueryRows, keys_values: &KeyValues) -> Result<Tensor> {
        Ok(self.attend(x, rows, &keys_values.keys, &keys_values.values)?)
    }
}

/// From `h_L` to logits: `prepare` (final norm, or MLM transform), then the unembedding.
pub trait Head: Send + Sync {
    /// What is done to `h_L` `[n, d]` before the unembedding, row by row.
    fn prepare(&self, h: &Tensor) -> Result<Tensor>;

    /// The unembedding W `[vocab, d]`: logits are `prepare(h)·Wᵀ`, plus the bias.
    fn unembedding(&self) -> &Tensor;

    /// What is added to the logits, `[vocab]`.
    fn bias(&self) -> Option<&Tensor> {
        None
    }

    /// Where given, a logit z becomes cap·tanh(z / cap).
    fn soft_cap(&self) -> Option<f32> {
        None
    }

    /// The logits `[n, vocab]` of `h_L` `[n, d]`, all at once and in plain operations: for a few rows.
    fn logits(&self, h: &Tensor) -> Result<Tensor> {
        let mut logits = self.prepare(h)?.matmul(&self.unembedding().t()?)?;
        if let Some(bias) = self.bias() {
            logits = logits.broadcast_add(bias)?;
        }
        Ok(match self.soft_cap().map(f64::from) {
            Some(cap) => ((logits / cap)?.tanh()? * cap)?,
            None => logits,
        })
    }
}

/// A loaded model, with what its user should know about the checkpoint.
pub struct Loaded {
    /// The model.
    pub model: Box<dyn Backbone>,
    /// One line each, such as the list of tensors that were not used.
    pub notes: Vec<String>,
}

/// Loads a model of whichever family its configuration names, to do its products in `precision`.
pub fn load(files: &ModelFiles, precision: Precision) -> Result<Loaded> {
    Ok(load_with_contents(files, precision)?.0)
}

/// Loads a model, and says what it takes from its checkpoint.
pub fn load_with_contents(files: &ModelFiles, precision: Precision) -> Result<(Loaded, Contents)> {
    let path = &files.config.path;
    let notes = match gguf::is_gguf(path) {
        true => gguf::notes(&files.config, &files.allow_unread)?,
        false => Vec::new(),
    };
    let Value::Object(object) = files.config_json()? else {
        return Err(Error::Config { path: path.clone(), message: "it is no JSON object".to_owned() });
    };
    let weights = Weights::open(&files.weights)?.for_products_in(precision);
    files.index.as_ref().map_or(Ok(()), |index| weights.check(index))?;
    let config = ConfigFile { path, object, allowed: &files.allow_unread };
    // An embedding without rows is as wide as a file likes to claim.
    if config.object.get("vocab_size") == Some(&Value::from(0)) {
        return Err(config.fault("`vocab_size` is 0"));
    }
    let model_type = config.object.get("model_type");
    let mut loaded = match model_type.and_then(Value::as_str) {
        Some("gpt2") => gpt2::load(&config, &weights),
        Some("bert") => bert::load(&config, &weights),
        Some("gpt_neox") => gpt_neox::load(&config, &weights),
        Some("opt") => opt::load(&config, &weights),
        Some(name) if llama::MODEL_TYPES.contains(&name) => llama::load(&config, &weights),
        None if model_type.is_some_and(|other| !other.is_null()) => {
            Err(config.fault("`model_type` has to be a string"))
        }
        Some(other) => {
            let known = ["gpt2", "bert", "gpt_neox", "opt"].iter().chain(llama::MODEL_TYPES);
            let known = known.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            Err(config.fault(format!("`model_type` `{other}` is not supported; these are: {known}")))
        }
        None => Err(config.fault("no `model_type`")),
    }?;
    files.all().into_iter().try_for_each(SourceFile::check_unchanged)?;
    loaded.notes.extend(notes.into_iter().chain(weights.note_large()));
    Ok((loaded, weights.contents()))
}

/// `h_0` of every token of `batch`, `[tokens, d]`. [`Error::NoSuchToken`] where the model has no embedding for one of them.
pub fn embed(model: &dyn Backbone, batch: &PackedBatch) -> Result<Tensor> {
    let vocab_size = model.spec().vocab_size;
    match batch.ids.iter().find(|id| **id as usize >= vocab_size) {
        Some(&id) => Err(Error::NoSuchToken { id, vocab_size }),
        None => model.embed(batch),
    }
}

/// A part of that kind with `map` folded into its first products: a block's attention or feed-forward part.
fn after(
    kind: PartKind,
    attention: &SelfAttention,
    feed_forward: &impl RowPart,
    map: &LinearMap,
) -> Result<Option<PartAfter>> {
    Ok(match kind {
        PartKind::Attention => Some(PartAfter::Attention(Box::new(attention.after(map)?))),
        PartKind::FeedForward => {
            let feed_forward = feed_forward.after(map)?;
            Some(PartAfter::RowWise(Box::new(move |x| Ok(feed_forward.forward(x)?))))
        }
        PartKind::Norm | PartKind::Add => None,
    })
}

/// A size in a configuration, with its field's name.
type Size = (&'static str, usize);

/// What is wrong with the sizes of a model: one of them is 0, or heads do not divide the width.
fn sizes_fit(layers: Size, heads: Size, width: Size) -> Result<(), String> {
    above_zero(&[layers, heads, width])?;
    is_multiple(width, heads)
}

fn above_zero(sizes: &[Size]) -> Result<(), String> {
    match sizes.iter().find(|(_, size)| *size == 0) {
        Some((name, _)) => Err(format!("`{name}` is 0: it has to be above 0")),
        None => Ok(()),
    }
}

/// What norms add to the variance.
fn not_negative(name: &str, value: f64) -> Result<(), String> {
    match value >= 0.0 {
        true => Ok(()),
        false => Err(format!("`{name}` is {value}: it has to be 0 or above")),
    }
}

fn is_multiple((of, whole): Size, (name, part): Size) -> Result<(), String> {
    match whole.is_multiple_of(part) {
        true => Ok(()),
        false => Err(format!("`{of}` is {whole}: it has to be a multiple of `{name}`, which is {part}")),
    }
}

/// The activation that the field `field` calls `name`.
fn activation(field: &str, name: &str) -> Result<Activation, String> {
    Activation::from_config(name).ok_or_else(|| {
        let known = Activation::NAMES.map(|(name, _)| format!("`{name}`")).join(", ");
        format!("`{field}` is `{name}`, which is not supported; these are: {known}")
    })
}

/// A `torch.nn.Linear`: `weight` `[n_out, n_in]` and, where it has one, `bias` `[n_out]`.
fn linear(at: &Scope, n_in: usize, n_out: usize, has_bias: bool) -> Result<Linear> {
    let bias = has_bias.then(|| at.tensor("bias", &[n_out])).transpose()?;
    let weight = at.tensor("weight", &[n_out, n_in])?;
    Ok(Linear::new(&weight, bias.as_ref(), WeightLayout::OutIn, at.precision())?)
}

/// What a checkpoint holds and nothing has asked for, less the tensors that `is_known`, as a note.
fn note_unused(weights: &Weights, is_known: impl Fn(&str) -> bool) -> Option<String> {
    let unused: Vec<&str> = weights.unused().into_iter().filter(|name| !is_known(name)).collect();
    (!unused.is_empty())
        .then(|| format!("tensors in the checkpoint that are not used: {}", unused.join(", ")))
}

/// The unembedding `[vocab, d]`: the embedding where the configuration ties the two, else the tensor `name` at `at`.
fn unembedding(
    tied: bool,
    embedding: &Tensor,
    at: &Scope,
    name: &str,
    notes: &mut Vec<String>,
) -> Result<Tensor> {
    if !tied {
        return at.tensor(name, embedding.dims());
    }
    if at.contains(name) {
        let own = at.tensor(name, embedding.dims())?;
        at.repeats(name);
        if own.flatten_all()?.to_vec1::<f32>()? != embedding.flatten_all()?.to_vec1::<f32>()? {
            notes.push(format!(
                "`{name}` differs from the embedding, but the configuration ties them: the embedding is used"
            ));
        }
    }
    Ok(embedding.clone())
}
