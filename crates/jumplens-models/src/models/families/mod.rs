//! Model families, a file each: which fields a configuration has, what model they make, and where its tensors are in a
//! checkpoint. What all models share is in [`super::transformer`].

mod bert;
pub(super) mod config;
mod gemma3;
mod gpt2;
mod gpt_neox;
mod llama;
#[cfg(test)]
mod made_up;
mod opt;
#[cfg(test)]
mod published;
mod rotary;

use super::blueprint::Blueprint;
use crate::error::Result;
use crate::nn::Activation;
use crate::weights::Weights;
use config::ConfigFile;
use serde_json::Value;

/// A family of models.
pub(crate) struct Family {
    /// The `model_type`s of its configurations.
    pub model_types: &'static [&'static str],
    /// What such a configuration makes of such a checkpoint, of which the names and shapes are looked at.
    pub read: for<'a> fn(ConfigFile<'a>, &'a Weights<'a>) -> Result<Blueprint<'a>>,
}

/// The families that are known here.
const FAMILIES: &[Family] = &[
    gpt2::FAMILY,
    bert::FAMILY,
    gpt_neox::FAMILY,
    opt::FAMILY,
    llama::FAMILY,
    #[cfg(test)]
    made_up::FAMILY,
];

/// What the configuration `file` makes of `weights`, by the family that it names. [`Error::Config`](crate::Error::Config)
/// and [`Error::Unread`](crate::Error::Unread) where that is not known, or not all of it.
pub(super) fn read<'a>(file: ConfigFile<'a>, weights: &'a Weights<'a>) -> Result<Blueprint<'a>> {
    // An embedding without rows is as wide as a file likes to claim.
    if file.object.get("vocab_size") == Some(&Value::from(0)) {
        return Err(file.fault("`vocab_size` is 0"));
    }
    let model_type = match file.object.get("model_type") {
        Some(Value::String(name)) => name,
        None | Some(Value::Null) => return Err(file.fault("no `model_type`")),
        Some(_) => return Err(file.fault("`model_type` has to be a string")),
    };
    match FAMILIES.iter().find(|family| family.model_types.contains(&model_type.as_str())) {
        Some(family) => (family.read)(file, weights),
        None => {
            let known = FAMILIES.iter().flat_map(|family| family.model_types);
            let known = known.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            Err(file.fault(format!("`model_type` `{model_type}` is not supported; these are: {known}")))
        }
    }
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
