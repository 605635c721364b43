//! Models with fewer blocks as checkpoints in Hugging Face layout, which `transformers` loads as any other of their family, and
//! as GGUF files for llama.cpp: the tensors of the blocks that are kept under their new numbers, the output layers that took
//! in what others added, and the configuration as it then has to be.

mod gguf_file;

pub use gguf_file::save_gguf;

use super::blueprint::{AttentionSpec, Blueprint, LinearSpec, ModuleSpec};
use super::transformer::KeptBlock;
use super::with_blueprint;
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::gguf;
use crate::hub::{ModelFiles, Vocabulary};
use crate::nn::{Precision, WeightLayout};
use crate::tensor_file;
use crate::weights::{TensorSpec, Weights};
use jumplens_core::LinearMap;
use safetensors::tensor::Dtype;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The number formats that weights are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// That of each tensor; f32 for those of formats that are not here.
    AsTheyAre,
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// ggml's blocks of 32 whole numbers of 8 bits with a scale: in GGUF files alone.
    Q8_0,
}

impl Stored {
    /// The format of a tensor that is stored as `dtype` says.
    fn of(self, dtype: Option<&str>) -> Dtype {
        match (self, dtype) {
            (Self::F16, _) | (Self::AsTheyAre, Some("F16")) => Dtype::F16,
            (Self::Bf16, _) | (Self::AsTheyAre, Some("BF16")) => Dtype::BF16,
            _ => Dtype::F32,
        }
    }
}

/// Bytes of tensors in one file, where there is more than one tensor: what `transformers` takes.
const SHARD: usize = 5_000_000_000;

/// A tensor to be written.
struct Written {
    /// Its name in the checkpoint that is written.
    name: String,
    /// Where its values come from.
    from: From,
    shape: Vec<usize>,
    dtype: Dtype,
}

/// Where values come from.
enum From {
    /// A tensor of the checkpoint, by its name.
    Checkpoint(String),
    /// The output layer of the kept block of that number.
    Weight(usize, WeightLayout),
    /// Its bias.
    Bias(usize),
    /// What stands for the attention of the kept block of that number.
    Attention(usize),
    /// 0 everywhere.
    Nothing,
}

/// Hidden units of what stands where a block has no feed-forward part, and adds nothing: llama.cpp leaves out all of a block
/// without one, and the rows of its formats are no shorter.
const STAND_IN: usize = 32;

/// Writes the model of the blocks `kept` of the model of `files` to `folder`, which is there and has none of these files:
/// `model.safetensors` or several of them with their index, the tokenizer's files, and `config.json` last, without which
/// nothing loads. Returns what was written.
///
/// # Errors
/// [`Error::Config`] where the configuration cannot say what is to be written, and those of [`load`](crate::models::load).
pub fn save(
    files: &ModelFiles,
    kept: &[KeptBlock],
    stored: Stored,
    folder: &Path,
    during: &dyn Fn() -> Result<()>,
) -> Result<Vec<PathBuf>> {
    if stored == Stored::Q8_0 {
        return Err(Error::Option(
            "8 bit weights are for GGUF files: choose f32, f16 or bf16 for a folder".to_owned(),
        ));
    }
    if kept.iter().any(|block| !block.without.is_nothing()) {
        return Err(Error::Option(
            "no configuration of `transformers` can say that a block has no attention or no feed-forward part: write a GGUF file"
                .to_owned(),
        ));
    }
    with_blueprint(files, Precision::F32, |blueprint, weights| {
        let config = configuration(files, (blueprint, weights), kept, stored)?;
        let tensors = tensors(blueprint, weights, kept, stored)?;
        let mut paths = write_tensors(weights, kept, &tensors, folder, during)?;
        paths.extend(write_tokenizer(files, folder)?);
        let path = folder.join("config.json");
        write_atomically(&path, &pretty(&config)?)?;
        paths.push(path);
        Ok(paths)
    })
}

/// How many numbers are in the tensors of each part of each block.
pub fn part_parameters(files: &ModelFiles) -> Result<Vec<Vec<u64>>> {
    with_blueprint(files, Precision::F32, |blueprint, _| {
        let of_block = |layer: usize| -> Result<Vec<u64>> {
            let of_part = |part: &ModuleSpec| -> Result<u64> {
                let tensors: BTreeMap<String, u64> = part
                    .tensors()?
                    .into_iter()
                    .map(|it| (it.name, it.shape.iter().map(|n| *n as u64).product()))
                    .collect();
                Ok(tensors.values().sum())
            };
            (blueprint.block)(layer)?.iter().map(of_part).collect()
        };
        (0..blueprint.spec.n_layers).map(of_block).collect()
    })
}

fn pretty(value: &Value) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|error| Error::Internal(error.to_string()))?;
    text.push(b'\n');
    Ok(text)
}

/// `config.json` of the shorter model.
fn configuration(
    files: &ModelFiles,
    (blueprint, weights): (&Blueprint, &Weights),
    kept: &[KeptBlock],
    stored: Stored,
) -> Result<Value> {
    let fault =
        |message: &str| Error::Config { path: files.config.path.clone(), message: message.to_owned() };
    let Value::Object(mut config) = files.config_json()? else {
        return Err(fault("it is no JSON object"));
    };
    if config.contains_key("text_config") {
        return Err(fault("models of pictures and text cannot be written with fewer blocks"));
    }
    if ["attention_of_blocks", "intermediate_sizes"].iter().any(|field| config.contains_key(*field)) {
        return Err(fault(
            "some of its blocks lack an attention or have another width, which no configuration of `transformers` can say: write \
             a GGUF file",
        ));
    }
    let attention = |layer: usize| attention(blueprint, layer);
    let mut windows = Vec::new();
    for (at, kept) in kept.iter().enumerate() {
        let (own, there) = (attention(kept.block)?, attention(at)?);
        if own.as_ref().map(|own| own.scale) != there.map(|there| there.scale) {
            return Err(fault(
                "attention is scaled by the number of its block, which no configuration of fewer blocks can say",
            ));
        }
        windows.push(own.and_then(|own| own.window));
    }
    let all: Vec<Option<u32>> = (0..blueprint.spec.n_layers)
        .map(|layer| Ok(attention(layer)?.and_then(|attention| attention.window)))
        .collect::<Result<_>>()?;
    match config.get("layer_types") {
        Some(Value::Array(types)) => {
            let types = kept.iter().map(|kept| types.get(kept.block).cloned().unwrap_or_default()).collect();
            config.insert("layer_types".to_owned(), Value::Array(types));
        }
        // The families whose layers differ by their number can all say it layer by layer.
        _ if all.iter().any(|window| *window != all[0]) => {
            let name = |window: &Option<u32>| match window {
                Some(_) => "sliding_attention",
                None => "full_attention",
            };
            config.insert("layer_types".to_owned(), windows.iter().map(name).collect());
        }
        _ => {}
    }
    let mut named = false;
    for name in ["num_hidden_layers", "n_layer"] {
        if let Some(layers) = config.get_mut(name) {
            *layers = json!(kept.len());
            named = true;
        }
    }
    if !named {
        config.insert("num_hidden_layers".to_owned(), json!(kept.len()));
    }
    if gguf::is_gguf(&files.config.path) {
        complete(&mut config, weights).map_err(|message| fault(&message))?;
    }
    name_dtype(&mut config, files, stored);
    Ok(Value::Object(config))
}

/// Says what a GGUF file's metadata leave to its tensors: which layers have biases, and the class of the model.
fn complete(config: &mut Map<String, Value>, weights: &Weights) -> Result<(), String> {
    config.remove("biases_where_stored");
    if config.get("rope_scaling").is_some_and(|scaling| scaling["rope_type"] == "factors") {
        return Err("the file has factors for its rotary frequencies, and no configuration can give them but by the rule that \
                    they came from: write a GGUF file"
            .to_owned());
    }
    let family = config.get("model_type").and_then(Value::as_str).unwrap_or_default().to_owned();
    let has = |layer: &str| weights.names().any(|name| name.ends_with(&format!("{layer}.bias")));
    if ["llama", "qwen3"].contains(&family.as_str()) {
        config.insert("attention_bias".to_owned(), has("o_proj").into());
        let some = has("q_proj") || has("k_proj") || has("v_proj") || has("o_proj");
        let all = has("q_proj") && has("k_proj") && has("v_proj") && has("o_proj");
        let mlp = has("gate_proj") && has("up_proj") && has("down_proj");
        let some_mlp = has("gate_proj") || has("up_proj") || has("down_proj");
        if some != all || some_mlp != mlp || mlp && family != "llama" {
            return Err("some of its layers have biases that no configuration can speak of".to_owned());
        }
        if family == "llama" {
            config.insert("mlp_bias".to_owned(), mlp.into());
        }
    }
    let class = match family.as_str() {
        "gpt2" => "GPT2LMHeadModel",
        "llama" => "LlamaForCausalLM",
        "mistral" => "MistralForCausalLM",
        "qwen2" => "Qwen2ForCausalLM",
        "qwen3" => "Qwen3ForCausalLM",
        "gemma3_text" => "Gemma3ForCausalLM",
        other => return Err(format!("`{other}` has no class that is known here")),
    };
    config.insert("architectures".to_owned(), json!([class]));
    Ok(())
}

/// Says in which format the weights are.
fn name_dtype(config: &mut Map<String, Value>, files: &ModelFiles, stored: Stored) {
    let name = match stored {
        // What was quantised is widened.
        Stored::AsTheyAre if gguf::is_gguf(&files.config.path) => "float32",
        Stored::AsTheyAre | Stored::Q8_0 => return,
        Stored::F32 => "float32",
        Stored::F16 => "float16",
        Stored::Bf16 => "bfloat16",
    };
    let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
    config.insert(key.to_owned(), name.into());
}

/// The tensors of the shorter model.
fn tensors(
    blueprint: &Blueprint,
    weights: &Weights,
    kept: &[KeptBlock],
    stored: Stored,
) -> Result<Vec<Written>> {
    let mut tensors: Vec<Written> = Vec::new();
    let mut names = BTreeSet::new();
    let mut add = |name: &str, from: From, shape: &[usize], dtype: Option<&str>| {
        if names.insert(name.to_owned()) {
            let dtype = stored.of(dtype);
            tensors.push(Written { name: name.to_owned(), from, shape: shape.to_vec(), dtype });
        }
    };
    blueprint.each_outside(&mut |tensor: &TensorSpec| {
        let from = From::Checkpoint(tensor.name.clone());
        add(&tensor.name, from, &tensor.shape, weights.dtype(&tensor.name).as_deref());
        Ok(())
    })?;
    let seam = blueprint.spec.seam();
    for (at, block) in kept.iter().enumerate() {
        let (own, last) = ((blueprint.block)(block.block)?, (blueprint.block)(block.until)?);
        let there = (blueprint.block)(at)?;
        for (part, there) in there.iter().enumerate() {
            if is_gone(&own, part, block) {
                for (name, shape) in stand_in(there)? {
                    add(&name, From::Nothing, &shape, None);
                }
                if let (ModuleSpec::Attention(attention), Some(map)) = (there, &block.attention) {
                    add(&attention.output.weight.name, From::Attention(at), &[map.d_out(), map.d_in()], None);
                }
                continue;
            }
            let from = if seam.is_some_and(|seam| part > seam.sum) { &last[part] } else { &own[part] };
            let output = block.output.as_ref().filter(|_| seam.is_some_and(|seam| part == seam.output));
            let replaced = there.output_layer().zip(output);
            for (from, to) in from.tensors()?.into_iter().zip(there.tensors()?) {
                let dtype = weights.dtype(&from.name);
                let source = match &replaced {
                    Some((layer, _)) if layer.weight.name == to.name => From::Weight(at, layer.layout),
                    Some((layer, _)) if layer.bias.as_ref().is_some_and(|bias| bias.name == to.name) => {
                        From::Bias(at)
                    }
                    _ => From::Checkpoint(from.name),
                };
                add(&to.name, source, &to.shape, dtype.as_deref());
            }
            let lacks_bias =
                |(layer, map): &(&LinearSpec, &LinearMap)| layer.bias.is_some() != map.bias().is_some();
            if replaced.as_ref().is_some_and(lacks_bias) {
                return Err(Error::Internal(
                    "an output layer with a bias where there is no place for one".into(),
                ));
            }
        }
    }
    Ok(tensors)
}

/// Whether the block `kept` has no part `part`: of an attention in whose place nothing stands its norm goes as well, that of a
/// feed-forward part stays for what stands in its place.
fn is_gone(block: &[ModuleSpec], part: usize, kept: &KeptBlock) -> bool {
    let without = kept.without;
    match &block[part] {
        ModuleSpec::Attention(_) | ModuleSpec::LinearAttention(_) => without.attention,
        ModuleSpec::FeedForward { .. } | ModuleSpec::GatedFeedForward { .. } => without.feed_forward,
        ModuleSpec::Norm(_) => {
            let is_before = matches!(
                block.get(part + 1),
                Some(ModuleSpec::Attention(_) | ModuleSpec::LinearAttention(_))
            );
            without.attention && kept.attention.is_none() && is_before
        }
        ModuleSpec::Add | ModuleSpec::Nothing(_) => false,
    }
}

/// What stands for the attention of the kept block `at`.
fn linear_attention(kept: &[KeptBlock], at: usize) -> Result<&LinearMap> {
    kept[at]
        .attention
        .as_ref()
        .ok_or_else(|| Error::Internal(format!("nothing stands for the attention of block {at}")))
}

/// The weights that stand where a block has no such part, by their names and shapes.
fn stand_in(part: &ModuleSpec) -> Result<Vec<(String, Vec<usize>)>> {
    let ModuleSpec::GatedFeedForward { gate, up, down, .. } = part else { return Ok(Vec::new()) };
    let d = gate.weight.shape.get(1).copied().unwrap_or_default();
    let of = |layer: &LinearSpec, shape: [usize; 2]| (layer.weight.name.clone(), shape.to_vec());
    Ok(vec![of(gate, [STAND_IN, d]), of(up, [STAND_IN, d]), of(down, [d, STAND_IN])])
}

impl Written {
    fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }

    /// Its values, row by row.
    fn values(&self, weights: &Weights, kept: &[KeptBlock]) -> Result<Vec<f32>> {
        let output = |at: usize| {
            let missing = || Error::Internal(format!("block {at} has no output layer of its own"));
            kept[at].output.as_ref().ok_or_else(missing)
        };
        Ok(match &self.from {
            From::Checkpoint(name) => weights.values(name)?,
            From::Weight(at, WeightLayout::OutIn) => output(*at)?.weight().to_vec(),
            From::Weight(at, WeightLayout::InOut) => {
                let map = output(*at)?;
                let (rows, cols) = (map.d_out(), map.d_in());
                (0..rows * cols).map(|i| map.weight()[i % rows * cols + i / rows]).collect()
            }
            From::Bias(at) => output(*at)?.bias().unwrap_or_default().to_vec(),
            From::Attention(at) => linear_attention(kept, *at)?.weight().to_vec(),
            From::Nothing => vec![0.0; self.shape.iter().product()],
        })
    }

    /// The same as they are stored.
    fn encoded(&self, weights: &Weights, kept: &[KeptBlock]) -> Result<Vec<u8>> {
        let values = self.values(weights, kept)?;
        Ok(match self.dtype {
            Dtype::F16 => values.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect(),
            Dtype::BF16 => values.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        })
    }
}

/// The tensors as one safetensors file, or as several with an index.
fn write_tensors(
    weights: &Weights,
    kept: &[KeptBlock],
    tensors: &[Written],
    folder: &Path,
    during: &dyn Fn() -> Result<()>,
) -> Result<Vec<PathBuf>> {
    let mut shards: Vec<Vec<&Written>> = vec![Vec::new()];
    let mut bytes = 0;
    for tensor in tensors {
        if bytes + tensor.bytes() > SHARD && bytes > 0 {
            shards.push(Vec::new());
            bytes = 0;
        }
        bytes += tensor.bytes();
        shards.last_mut().expect("there is one").push(tensor);
    }
    let count = shards.len();
    let name = |shard: usize| match count {
        1 => "model.safetensors".to_owned(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", shard + 1),
    };
    // `transformers` asks what program's tensors they are.
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut paths = Vec::new();
    for (shard, tensors) in shards.iter().enumerate() {
        let entry = |tensor: &&Written| tensor_file::Entry {
            name: tensor.name.clone(),
            dtype: tensor.dtype,
            shape: tensor.shape.clone(),
        };
        let entries: Vec<_> = tensors.iter().map(entry).collect();
        let path = folder.join(name(shard));
        tensor_file::write(&path, &metadata, &entries, |index| {
            during()?;
            tensors[index].encoded(weights, kept)
        })?;
        paths.push(path);
    }
    if count > 1 {
        let total: usize = tensors.iter().map(Written::bytes).sum();
        let places = shards.iter().enumerate().flat_map(|(shard, tensors)| {
            let name = name(shard);
            tensors.iter().map(move |tensor| (tensor.name.clone(), Value::from(name.clone())))
        });
        let index =
            json!({ "metadata": { "total_size": total }, "weight_map": places.collect::<Map<_, _>>() });
        let path = folder.join("model.safetensors.index.json");
        write_atomically(&path, &pretty(&index)?)?;
        paths.push(path);
    }
    Ok(paths)
}

/// The tokenizer's files as they are; that of a GGUF file as `tokenizer.json`.
fn write_tokenizer(files: &ModelFiles, folder: &Path) -> Result<Vec<PathBuf>> {
    let Some(tokenizer) = &files.tokenizer else { return Ok(Vec::new()) };
    let mut paths = Vec::new();
    let mut put = |name: &str, bytes: &[u8]| -> Result<()> {
        let path = folder.join(name);
        write_atomically(&path, bytes)?;
        paths.push(path);
        Ok(())
    };
    match &tokenizer.vocabulary {
        Vocabulary::Gguf(file) => {
            put("tokenizer.json", &gguf::tokenizer_json(file, &tokenizer.allow_unread)?)?;
            let (template, special) = gguf::chat(file)?;
            let mut config = json!({ "tokenizer_class": "PreTrainedTokenizerFast" });
            special.into_iter().for_each(|(name, token)| config[name] = token.into());
            template.into_iter().for_each(|template| config["chat_template"] = template.into());
            put("tokenizer_config.json", &pretty(&config)?)?;
        }
        // A bundled one has no name of its own.
        Vocabulary::Json(file) => put("tokenizer.json", file.bytes())?,
        _ => {}
    }
    for file in tokenizer.files().into_iter().chain(&tokenizer.chat_template) {
        let is_put = matches!(&tokenizer.vocabulary, Vocabulary::Gguf(own) | Vocabulary::Json(own) if own.path == file.path);
        if let Some(name) = file.path.file_name().and_then(|name| name.to_str()).filter(|_| !is_put) {
            put(name, file.bytes())?;
        }
    }
    Ok(paths)
}

/// The attention of a block.
fn attention(blueprint: &Blueprint, layer: usize) -> Result<Option<AttentionSpec>> {
    let modules = (blueprint.block)(layer)?;
    Ok(modules.into_iter().find_map(|module| match module {
        ModuleSpec::Attention(attention) => Some(attention),
        _ => None,
    }))
}
