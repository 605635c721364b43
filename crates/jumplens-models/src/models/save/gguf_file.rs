//! Models with fewer blocks as GGUF files: of a GGUF file, what it has with the blocks that are kept; of a folder, what
//! llama.cpp's converter would make of it.

use super::super::blueprint::{Blueprint, ModuleSpec};
use super::super::with_blueprint;
use super::{KeptBlock, STAND_IN, Stored, attention, configuration, linear_attention, tensors};
use crate::error::{Error, Result};
use crate::gguf::convert::Turn;
use crate::gguf::write::{self, Kind, Meta};
use crate::gguf::{self, Architecture};
use crate::hub::{ModelFiles, Vocabulary};
use crate::nn::{Activation, Precision};
use crate::weights::Weights;
use serde_json::Value;
use std::path::Path;

/// Writes the model of the blocks `kept` of the model of `files` to the file `path`, as GGUF. Of a GGUF file tensors are copied in
/// their formats where none is asked for; of a folder f16 is usual.
///
/// # Errors
/// [`Error::Config`] for what has no form there, and those of [`load`](crate::models::load).
pub fn save_gguf(
    files: &ModelFiles,
    kept: &[KeptBlock],
    stored: Stored,
    path: &Path,
    during: &dyn Fn() -> Result<()>,
) -> Result<()> {
    with_blueprint(files, Precision::F32, |blueprint, weights| {
        let config = configuration(files, (blueprint, weights), kept, Stored::AsTheyAre);
        match gguf::is_gguf(&files.config.path) {
            true => gguf_of_gguf(files, blueprint, kept, stored, path, during),
            false => gguf_of_folder(files, (blueprint, weights), (&config?, kept), stored, path, during),
        }
    })
}

/// The format of weights in a GGUF file.
fn kind_of(stored: Stored) -> Option<Kind> {
    match stored {
        Stored::AsTheyAre => None,
        Stored::F32 => Some(Kind::F32),
        Stored::F16 => Some(Kind::F16),
        Stored::Bf16 => Some(Kind::Bf16),
        Stored::Q8_0 => Some(Kind::Q8_0),
    }
}

/// What is written of a GGUF file's tensor.
enum OfFile {
    /// Its values, as another one's name has them.
    Values(usize),
    /// Its bytes.
    Bytes(usize),
    /// The output layer of a kept block, or its bias.
    Output(usize, bool),
    /// What stands for the attention of a kept block.
    Attention(usize),
    /// 0 everywhere.
    Nothing,
}

/// Makes `metadata` of a Llama those of llama.cpp's `deci`, whose blocks may be without an attention, and with feed-forward parts of
/// several widths: what it is, for those that `kept` goes without.
fn without_parts(
    metadata: &mut Vec<(String, Meta)>,
    blueprint: &Blueprint,
    kept: &[KeptBlock],
) -> Result<(), String> {
    if blueprint.spec.family != "llama" {
        return Err(format!(
            "llama.cpp's `deci` holds blocks without an attention or a feed-forward part, and is a Llama, which `{}` is not",
            blueprint.spec.family
        ));
    }
    let (mut heads, mut kv_heads, mut widths) = (Vec::new(), Vec::new(), Vec::new());
    for block in kept {
        let modules = (blueprint.block)(block.block).map_err(|error| error.to_string())?;
        let own = modules.iter().find_map(|module| match module {
            ModuleSpec::Attention(attention) => Some((attention.n_heads, attention.n_kv_heads)),
            ModuleSpec::LinearAttention(_) => Some((blueprint.spec.n_heads, 0)),
            _ => None,
        });
        let (n_heads, n_kv_heads) = match (own, block.without.attention, &block.attention) {
            (Some(own), false, _) => own,
            (_, true, Some(_)) => (blueprint.spec.n_heads, 0),
            _ => (0, 0),
        };
        heads.push(n_heads as i32);
        kv_heads.push(n_kv_heads as i32);
        let width =
            modules.iter().find_map(ModuleSpec::output_layer).map_or(0, |layer| layer.weight.shape[1]);
        widths.push(if block.without.feed_forward { STAND_IN } else { width } as i32);
    }
    let (llama, deci) = (Architecture::Llama.name(), Architecture::Deci.name());
    let by_block = ["attention.head_count", "attention.head_count_kv", "feed_forward_length"];
    metadata.retain(|(key, _)| {
        key.split_once('.')
            .is_none_or(|(below, key)| ![llama, deci].contains(&below) || !by_block.contains(&key))
    });
    for (key, value) in metadata.iter_mut() {
        if let Some(rest) = key.strip_prefix(&format!("{llama}.")) {
            *key = format!("{deci}.{rest}");
        } else if key == "general.architecture" {
            *value = Meta::Text(deci.to_owned());
        }
    }
    let values = by_block.into_iter().zip([heads, kv_heads, widths]);
    metadata.extend(values.map(|(key, values)| (format!("{deci}.{key}"), Meta::I32s(values))));
    Ok(())
}

/// Whether something is left out of a block that is kept.
fn lacks_parts(kept: &[KeptBlock]) -> bool {
    kept.iter().any(|block| !block.without.is_nothing())
}

fn gguf_of_gguf(
    files: &ModelFiles,
    blueprint: &Blueprint,
    kept: &[KeptBlock],
    stored: Stored,
    path: &Path,
    during: &dyn Fn() -> Result<()>,
) -> Result<()> {
    let header = gguf::Header::read(&files.config)?;
    let blocks: Vec<usize> = kept.iter().map(|kept| kept.block).collect();
    if blueprint.spec.family.starts_with("gemma3") {
        let message = "the pattern of Gemma 3's windows is by the number of a block, which GGUF files do not say otherwise: write a \
                       folder";
        return Err(header.unsupported(message));
    }
    let mut metadata = gguf::write::of_kept(&header, &blocks)?;
    if lacks_parts(kept) {
        if header.natural(&format!("{}.attention.sliding_window", Architecture::of(&header)?.name()))?
            > Some(0)
        {
            return Err(
                header.unsupported("llama.cpp's `deci` has no windows of attention, which this model has")
            );
        }
        without_parts(&mut metadata, blueprint, kept).map_err(|why| header.unsupported(why))?;
    }
    let wanted = kind_of(stored);
    if let Some(file_type) = wanted.and_then(Kind::file_type) {
        metadata.retain(|(key, _)| key != "general.file_type");
        metadata.push(("general.file_type".to_owned(), Meta::U32(file_type)));
    }
    let (mut tensors, mut sources) = (Vec::new(), Vec::new());
    let mut add = |name: String, at: usize, output: Option<(usize, bool)>| {
        let tensor = &header.tensors[at];
        let number = tensor.kind.number();
        match (output, wanted, number) {
            (Some((block, bias)), wanted, _) => {
                // What was quantised with effort is not quantised again.
                tensors.push(write::Tensor::new(
                    name,
                    tensor.shape.clone(),
                    wanted.unwrap_or(match tensor.kind {
                        gguf::Type::F32 | gguf::Type::F64 => Kind::F32,
                        gguf::Type::Bf16 => Kind::Bf16,
                        _ => Kind::F16,
                    }),
                ));
                sources.push(OfFile::Output(block, bias));
            }
            (None, Some(wanted), _) => {
                tensors.push(write::Tensor::new(name, tensor.shape.clone(), wanted));
                sources.push(OfFile::Values(at));
            }
            (None, None, Some(number)) => {
                let (shape, bytes) = (tensor.shape.clone(), tensor.bytes.len());
                tensors.push(write::Tensor { name, shape, kind: Kind::Raw(number), bytes });
                sources.push(OfFile::Bytes(at));
            }
            (None, None, None) => {}
        }
    };
    let in_block = |name: &str| -> Option<(usize, String)> {
        let (number, rest) = name.strip_prefix("blk.")?.split_once('.')?;
        Some((number.parse().ok()?, rest.to_owned()))
    };
    for (at, tensor) in header.tensors.iter().enumerate() {
        if in_block(tensor.name).is_none() {
            add(tensor.name.to_owned(), at, None);
        }
    }
    for (new, block) in kept.iter().enumerate() {
        for (at, tensor) in header.tensors.iter().enumerate() {
            let Some((_, rest)) = in_block(tensor.name).filter(|(number, _)| *number == block.block) else {
                continue;
            };
            let without = block.without;
            let keeps_norm = block.attention.is_some() && rest == "attn_norm.weight";
            if without.attention && rest.starts_with("attn_") && !keeps_norm
                || without.feed_forward && rest.starts_with("ffn_") && rest != "ffn_norm.weight"
            {
                continue;
            }
            let output = match rest.as_str() {
                "ffn_down.weight" => block.output.as_ref().map(|_| (new, false)),
                "ffn_down.bias" => block.output.as_ref().map(|_| (new, true)),
                _ => None,
            };
            add(format!("blk.{new}.{rest}"), at, output);
        }
    }
    let d = blueprint.spec.d_model;
    for (new, _) in kept.iter().enumerate().filter(|(_, block)| block.attention.is_some()) {
        let name = format!("blk.{new}.attn_output.weight");
        tensors.push(write::Tensor::new(name, vec![d, d], wanted.unwrap_or(Kind::F16)));
        sources.push(OfFile::Attention(new));
    }
    for (new, _) in kept.iter().enumerate().filter(|(_, block)| block.without.feed_forward) {
        for (stem, shape) in [("gate", [STAND_IN, d]), ("up", [STAND_IN, d]), ("down", [d, STAND_IN])] {
            let name = format!("blk.{new}.ffn_{stem}.weight");
            tensors.push(write::Tensor::new(name, shape.to_vec(), wanted.unwrap_or(Kind::F16)));
            sources.push(OfFile::Nothing);
        }
    }
    write::write(path, &metadata, &tensors, |index| {
        during()?;
        let kind = tensors[index].kind;
        Ok(match &sources[index] {
            OfFile::Bytes(at) => files.config.bytes()[header.tensors[*at].bytes.clone()].to_vec(),
            OfFile::Values(at) => kind.encode(&header.tensors[*at].values(&files.config)?),
            OfFile::Attention(block) => kind.encode(linear_attention(kept, *block)?.weight()),
            OfFile::Nothing => vec![0; tensors[index].bytes],
            OfFile::Output(block, bias) => kind.encode(&output_values(kept, *block, *bias)?),
        })
    })
}

/// The output layer of a kept block row by row, `[d, d_hidden]`, or its bias.
fn output_values(kept: &[KeptBlock], block: usize, bias: bool) -> Result<Vec<f32>> {
    let missing = || Error::Internal(format!("block {block} has no output layer of its own"));
    let output = kept[block].output.as_ref().ok_or_else(missing)?;
    Ok(if bias { output.bias().unwrap_or_default().to_vec() } else { output.weight().to_vec() })
}

fn gguf_of_folder(
    files: &ModelFiles,
    (blueprint, weights): (&Blueprint, &Weights),
    (config, kept): (&Value, &[KeptBlock]),
    stored: Stored,
    path: &Path,
    during: &dyn Fn() -> Result<()>,
) -> Result<()> {
    let spec = &blueprint.spec;
    let fault = |message: String| Error::Config { path: files.config.path.clone(), message };
    let Some(architecture) = gguf::convert::architecture(spec.family) else {
        return Err(fault(format!(
            "no GGUF file is written of `{}` in Hugging Face layout: write a folder, and convert it with llama.cpp's \
             convert_hf_to_gguf.py",
            spec.family
        )));
    };
    let wanted = kind_of(stored).unwrap_or(Kind::F16);
    let (hyper, factors) = hyperparameters(blueprint, architecture, config).map_err(fault)?;
    let mut metadata = vec![
        ("general.architecture".to_owned(), Meta::Text(architecture.name().to_owned())),
        ("general.name".to_owned(), Meta::Text(files.id.rsplit('/').next().unwrap_or(&files.id).to_owned())),
        ("general.quantization_version".to_owned(), Meta::U32(2)),
    ];
    metadata.extend(wanted.file_type().map(|number| ("general.file_type".to_owned(), Meta::U32(number))));
    metadata.extend(hyper);
    let blocks = format!("{}.block_count", architecture.name());
    metadata.push((blocks, Meta::U32(kept.len() as u32)));
    if lacks_parts(kept) {
        without_parts(&mut metadata, blueprint, kept).map_err(fault)?;
    }
    match files.tokenizer.as_ref().map(|tokenizer| &tokenizer.vocabulary) {
        Some(Vocabulary::Json(file)) => {
            let json: Value = serde_json::from_slice(file.bytes()).map_err(Error::format(&file.path))?;
            let tokenizer = gguf::convert::tokenizer(&json, spec.vocab_size);
            metadata.extend(tokenizer.map_err(|why| {
                fault(format!("{why}: write a folder, and convert it with llama.cpp's convert_hf_to_gguf.py"))
            })?);
            for name in ["bos", "eos"] {
                if let Some(id) =
                    config[format!("{name}_token_id")].as_u64().filter(|id| *id < spec.vocab_size as u64)
                {
                    metadata.push((format!("tokenizer.ggml.{name}_token_id"), Meta::U32(id as u32)));
                }
            }
            let begins = json["post_processor"].to_string().contains("TemplateProcessing")
                && json["post_processor"]["single"][0].get("SpecialToken").is_some();
            metadata.push(("tokenizer.ggml.add_bos_token".to_owned(), Meta::Bool(begins)));
        }
        _ => {
            return Err(fault(
                "a GGUF file has its tokenizer in it, and there is no tokenizer.json".to_owned(),
            ));
        }
    }
    let written = tensors(blueprint, weights, kept, Stored::F32)?;
    let (mut listed, mut turns) = (Vec::new(), Vec::new());
    for tensor in &written {
        let renamed = gguf::convert::renamed(architecture, &tensor.name)
            .ok_or_else(|| fault(format!("tensor `{}` has no name in llama.cpp", tensor.name)))?;
        listed.push(write::Tensor::new(renamed.name, renamed.turn.shape(&tensor.shape), wanted));
        turns.push(renamed.turn);
    }
    if let Some(factors) = &factors {
        listed.push(write::Tensor::new("rope_freqs.weight".to_owned(), vec![factors.len()], Kind::F32));
    }
    let heads = attention(blueprint, 0)?.map_or([1, 1], |it| [it.n_heads, it.n_kv_heads]);
    write::write(path, &metadata, &listed, |index| {
        during()?;
        let kind = listed[index].kind;
        let Some(tensor) = written.get(index) else {
            return Ok(kind.encode(factors.as_deref().unwrap_or_default()));
        };
        let values = tensor.values(weights, kept)?;
        let heads = if turns[index] == Turn::Queries { heads[0] } else { heads[1] };
        Ok(kind.encode(&turns[index].of(values, &tensor.shape, heads)))
    })
}

/// What llama.cpp is to know of a model's sizes and numbers, and the factors of its rotary frequencies where they are not a
/// geometric series.
type Hyper = (Vec<(String, Meta)>, Option<Vec<f32>>);

fn hyperparameters(
    blueprint: &Blueprint,
    architecture: Architecture,
    config: &Value,
) -> Result<Hyper, String> {
    let spec = &blueprint.spec;
    let name = |key: &str| format!("{}.{key}", architecture.name());
    let modules = (blueprint.block)(0).map_err(|error| error.to_string())?;
    let attention = attention(blueprint, 0).map_err(|error| error.to_string())?;
    let (Some(attention), Some(norm)) = (attention, &blueprint.final_norm) else {
        return Err("a model without attention or a final norm".to_owned());
    };
    let hidden = modules.iter().find_map(|module| match module {
        ModuleSpec::FeedForward { proj, activation, .. } => Some((proj, activation)),
        ModuleSpec::GatedFeedForward { down, activation, .. } => Some((down, activation)),
        _ => None,
    });
    let Some((layer, activation)) = hidden else {
        return Err("a model without feed-forward parts".to_owned());
    };
    let d_hidden = layer.weight.shape.iter().product::<usize>() / spec.d_model;
    let usual = if architecture == Architecture::Gpt2 { Activation::GeluNew } else { Activation::Silu };
    if *activation != usual {
        return Err("llama.cpp knows one activation of these models, and it is another".to_owned());
    }
    if attention.window.is_some() || attention.soft_cap.is_some() {
        return Err("windows of attention are not written to GGUF files: write a folder".to_owned());
    }
    let number = |key: &str, value: usize| (name(key), Meta::U32(value as u32));
    let mut all = vec![
        number("context_length", spec.max_positions),
        number("embedding_length", spec.d_model),
        number("feed_forward_length", d_hidden),
        number("attention.head_count", attention.n_heads),
        number("vocab_size", spec.vocab_size),
    ];
    let eps = norm.eps as f32;
    if architecture == Architecture::Gpt2 {
        let d_head = (spec.d_model / spec.n_heads) as f32;
        if attention.scale.is_some_and(|scale| (scale - 1.0 / d_head.sqrt()).abs() > 1e-6) {
            return Err(
                "llama.cpp scales the scores of GPT-2 by the width of a head, which this one does not"
                    .to_owned(),
            );
        }
        all.push((name("attention.layer_norm_epsilon"), Meta::F32(eps)));
        return Ok((all, None));
    }
    let rope = attention.rope.ok_or("a model without rotary positions")?;
    let pairs = rope.inv_freq().len();
    let theta = [&config["rope_theta"], &config["rope_parameters"]["rope_theta"]];
    let theta = theta.into_iter().find_map(Value::as_f64).unwrap_or(10_000.0);
    let d_head = attention.query.weight.shape[0] / attention.n_heads;
    all.extend([
        number("attention.head_count_kv", attention.n_kv_heads),
        number("attention.key_length", d_head),
        number("attention.value_length", d_head),
        number("rope.dimension_count", 2 * pairs),
        (name("attention.layer_norm_rms_epsilon"), Meta::F32(eps)),
        (name("rope.freq_base"), Meta::F32(theta as f32)),
    ]);
    let plain = |i: usize| theta.powf(-(i as f64) / pairs as f64);
    let factors: Vec<f32> =
        rope.inv_freq().iter().enumerate().map(|(i, own)| (plain(i) / f64::from(*own)) as f32).collect();
    let is_plain = factors.iter().all(|factor| (factor - 1.0).abs() < 1e-4);
    if 2 * pairs != d_head || rope.scale() != 1.0 || !is_plain && architecture != Architecture::Llama {
        return Err(
            "its rotary positions are scaled in a way that is not written to GGUF files: write a folder"
                .to_owned(),
        );
    }
    Ok((all, Some(factors).filter(|_| !is_plain)))
}
