//! Models, from a configuration and a checkpoint to what a single runner ([`crate::runner`]) executes.
//!
//! A family (`families`, a file each) reads a configuration into a blueprint (`blueprint`): sizes, modules, and the names of
//! their tensors. That is enough to [`describe`] a model; [`load`] builds a [`Transformer`] of it, the same for all families.

mod back_head;
mod backward;
mod blueprint;
mod families;
mod head;
mod save;
mod transformer;

pub use back_head::{BackHead, HeadTrace};
pub use backward::{Backward, Prompt};
pub use head::{Head, Step};
pub use save::{Stored, part_parameters, save, save_gguf};
pub use transformer::{Embedding, KeptBlock, Module, PositionTable, Transformer, Without, value_of};

pub use crate::words::{Kind, POST_NORM_PARTS, PRE_NORM_PARTS, Part, PartKind, Seam, Sizes, Slot, Spec};

use crate::error::{Error, Result};
use crate::gguf;
use crate::hub::{ModelFiles, SourceFile};
use crate::nn::Precision;
use crate::weights::{Contents, Weights};
use blueprint::Blueprint;
use families::config::ConfigFile;
use serde_json::Value;

/// A loaded model, with what its user should know about the checkpoint.
#[derive(Debug)]
pub struct Loaded {
    /// The model.
    pub model: Transformer,
    /// One line each, such as the list of tensors that were not used.
    pub notes: Vec<String>,
    /// What it takes from its checkpoint.
    pub contents: Contents,
}

/// What is known of a model before its tensors are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Sizes and structure.
    pub spec: Spec,
    /// Whether it makes predictions.
    pub has_head: bool,
    /// Whether a norm stands between `h_L` and the head, which trunks without a head have too.
    pub has_final_norm: bool,
    /// As [`Loaded::notes`], but for what only the numbers tell.
    pub notes: Vec<String>,
    /// What it takes from its checkpoint.
    pub contents: Contents,
}

/// Loads a model of whichever family its configuration names, to do its products in `precision`.
///
/// # Errors
/// [`Error::Config`] and [`Error::Unread`] for a configuration that cannot be run, [`Error::MissingTensor`],
/// [`Error::TensorShape`], [`Error::TensorDtype`] and [`Error::WeightNotFinite`] for a checkpoint that is not that model's,
/// [`Error::Format`] for files that are damaged.
pub fn load(files: &ModelFiles, precision: Precision) -> Result<Loaded> {
    with_blueprint(files, precision, |blueprint, weights| {
        let of_gguf = of_gguf(files)?;
        let model = blueprint.build(weights)?;
        let mut notes = blueprint.notes.clone();
        notes.extend(weights.differences().into_iter().chain(unused(blueprint, weights)));
        notes.extend(of_gguf.into_iter().chain(weights.note_large()));
        Ok(Loaded { model, notes, contents: weights.contents() })
    })
}

/// What there is to know of a model by its configuration and the list of its checkpoint's tensors, of which none is read. Errors
/// are those of [`load`], but for what only the numbers tell.
pub fn describe(files: &ModelFiles) -> Result<Description> {
    with_blueprint(files, Precision::F32, |blueprint, weights| {
        blueprint.expect(weights)?;
        let mut notes = blueprint.notes.clone();
        notes.extend(unused(blueprint, weights).into_iter().chain(of_gguf(files)?));
        let (spec, has_head) = (blueprint.spec.clone(), blueprint.head.is_some());
        let has_final_norm = blueprint.final_norm.is_some();
        Ok(Description { spec, has_head, has_final_norm, notes, contents: weights.contents() })
    })
}

/// Calls `f` with what the configuration makes of the checkpoint.
fn with_blueprint<T>(
    files: &ModelFiles,
    precision: Precision,
    f: impl FnOnce(&Blueprint, &Weights) -> Result<T>,
) -> Result<T> {
    let path = &files.config.path;
    let Value::Object(object) = files.config_json()? else {
        return Err(Error::Config { path: path.clone(), message: "it is no JSON object".to_owned() });
    };
    let weights = Weights::open(&files.weights)?.for_products_in(precision);
    files.index.as_ref().map_or(Ok(()), |index| weights.check(index))?;
    let config = ConfigFile { path, object, allowed: &files.allow_unread };
    let value = f(&families::read(config, &weights)?, &weights)?;
    files.all().into_iter().try_for_each(SourceFile::check_unchanged)?;
    Ok(value)
}

/// What the metadata of a GGUF file leave to be said.
fn of_gguf(files: &ModelFiles) -> Result<Vec<String>> {
    match gguf::is_gguf(&files.config.path) {
        true => gguf::notes(&files.config, &files.allow_unread),
        false => Ok(Vec::new()),
    }
}

/// What the checkpoint holds and nothing has asked for, less what models do without.
fn unused(blueprint: &Blueprint, weights: &Weights) -> Option<String> {
    let unused: Vec<&str> = weights.unused().into_iter().filter(|name| !(blueprint.is_known)(name)).collect();
    (!unused.is_empty())
        .then(|| format!("tensors in the checkpoint that are not used: {}", unused.join(", ")))
}

#[cfg(test)]
pub(crate) mod testing {
    use super::load;
    use crate::batch::PackedBatch;
    use crate::hub::{ModelFiles, Sources};
    use crate::nn::Precision;
    use crate::nn::testing::random;
    use crate::progress::Silent;
    use candle_core::Tensor;
    use std::collections::HashMap;
    use std::path::Path;

    /// A folder with a model of that configuration and those tensors.
    pub fn save(config: &str, tensors: Vec<(String, Tensor)>) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let tensors: HashMap<_, _> =
            tensors.into_iter().map(|(name, tensor)| (name, tensor.contiguous().unwrap())).collect();
        candle_core::safetensors::save(&tensors, folder.path().join("model.safetensors")).unwrap();
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        folder
    }

    /// A configuration and random tensors of GPT-2: two blocks of width 8.
    pub fn random_gpt2() -> (&'static str, Vec<(String, Tensor)>) {
        let config = r#"{"model_type": "gpt2", "vocab_size": 50, "n_embd": 8, "n_layer": 2, "n_head": 2,
            "n_positions": 16}"#;
        let mut tensors = vec![("wte.weight".to_owned(), random(&[50, 8], 1))];
        tensors.push(("wpe.weight".to_owned(), random(&[16, 8], 2)));
        let mut add = |name: String, shape: &[usize]| {
            let seed = tensors.len() as u64;
            tensors.push((format!("{name}.weight"), random(shape, seed)));
            tensors.push((format!("{name}.bias"), random(&shape[shape.len() - 1..], seed + 1)));
        };
        for block in ["h.0", "h.1"] {
            ["ln_1", "ln_2"].iter().for_each(|name| add(format!("{block}.{name}"), &[8]));
            add(format!("{block}.attn.c_attn"), &[8, 24]);
            add(format!("{block}.attn.c_proj"), &[8, 8]);
            add(format!("{block}.mlp.c_fc"), &[8, 32]);
            add(format!("{block}.mlp.c_proj"), &[32, 8]);
        }
        add("ln_f".to_owned(), &[8]);
        (config, tensors)
    }

    /// The logits of the model in `folder` at every position of `ids`. Nothing may have to be said of the checkpoint.
    pub fn logits(folder: &Path, ids: &[u32]) -> Vec<Vec<f32>> {
        let files = ModelFiles::find(folder.to_str().unwrap(), &Sources::default(), &Silent).unwrap();
        let loaded = load(&files, Precision::F32).unwrap();
        assert!(loaded.notes.is_empty(), "{:?}", loaded.notes);
        let model = &loaded.model;
        let batch = PackedBatch::whole(ids);
        let rows = batch.every_row(model.spec().kind);
        let mut x = model.embed(&batch).unwrap();
        for layer in 0..model.spec().n_layers {
            x = model.block(layer, &x, &rows).unwrap();
        }
        model.head().unwrap().logits(&x).unwrap().to_vec2().unwrap()
    }
}
