//! A family that nobody has, as an example: all that one takes is in this file and in a line of [`super::FAMILIES`]. Its
//! checkpoints have one prefix and short names; blocks are pre-norm, positions learnt, the head is the embedding.

use super::config::{COMMON, ConfigFile};
use super::{Family, activation, sizes_fit};
use crate::error::Result;
use crate::fields::{Class, Field};
use crate::models::blueprint::{
    AttentionSpec, Blueprint, EmbeddingSpec, HeadSpec, LinearSpec, ModuleSpec, NormSpec, PositionsSpec,
};
use crate::weights::Weights;
use crate::words::{Kind, PRE_NORM_PARTS, Spec};
use serde::Deserialize;

pub(super) const FAMILY: Family = Family { model_types: &["made_up"], read };

/// All fields that a configuration may have, with their defaults, and what becomes of them.
const CLASS: Class = Class {
    name: "MadeUpConfig",
    fields: &[
        &[
            Field::read("vocab_size", "1000"),
            Field::read("width", "64"),
            Field::read("depth", "2"),
            Field::read("heads", "4"),
            Field::read("longest", "512"),
            Field::read("activation", "\"gelu_new\""),
            Field::no_effect("dropout"),
            Field::unread("mixture_of_experts", "false"),
        ],
        COMMON,
    ],
    aliases: &[],
};

/// Those that are read.
#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    width: usize,
    depth: usize,
    heads: usize,
    longest: usize,
    activation: String,
}

fn read<'a>(file: ConfigFile<'a>, weights: &'a Weights<'a>) -> Result<Blueprint<'a>> {
    let checked = file.check(&CLASS)?;
    let Config { vocab_size, width: d, depth, heads, longest, activation: name } = checked.parse()?;
    sizes_fit(("depth", depth), ("heads", heads), ("width", d)).map_err(|message| file.fault(message))?;
    let activation = activation("activation", &name).map_err(|message| file.fault(message))?;
    let root = weights.below("net.");
    let tokens = root.tensor("words", &[vocab_size, d]);
    let positions = PositionsSpec { table: root.tensor("places", &[longest, d]), offset: 0, types: None };
    Ok(Blueprint {
        spec: Spec {
            family: "made_up",
            kind: Kind::Causal,
            n_layers: depth,
            d_model: d,
            n_heads: heads,
            vocab_size,
            max_positions: longest,
            parts: PRE_NORM_PARTS,
        },
        notes: checked.notes(),
        final_norm: Some(NormSpec::layer(&root.pp("end"), d, 1e-5)),
        head: Some(HeadSpec::new(tokens.clone())),
        embedding: EmbeddingSpec { positions: Some(positions), ..EmbeddingSpec::of_tokens(tokens) },
        block: Box::new(move |layer| {
            let at = root.pp(layer);
            let norm = |name| ModuleSpec::Norm(NormSpec::layer(&at.pp(name), d, 1e-5));
            let linear = |name, n_in, n_out| LinearSpec::conv1d(&at.pp(name), n_in, n_out);
            let attention = ["q", "k", "v", "out"].map(|name| linear(name, d, d));
            Ok(vec![
                norm("before_attention"),
                ModuleSpec::Attention(AttentionSpec::new(heads, attention)),
                ModuleSpec::Add,
                norm("before_mlp"),
                ModuleSpec::FeedForward {
                    fc: linear("wide", d, 4 * d),
                    activation,
                    proj: linear("narrow", 4 * d, d),
                },
                ModuleSpec::Add,
            ])
        }),
        is_known: Box::new(|name| name.ends_with(".mask")),
    })
}

/// GPT-2's tensors under this family's names are the same model.
#[test]
fn a_made_up_family_runs() {
    use crate::models::testing::{logits, random_gpt2, save};
    let theirs =
        ["h.", "ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj", "attn.c_proj", "wte.weight", "wpe.weight", "ln_f"];
    let ours = ["", "before_attention", "before_mlp", "wide", "narrow", "out", "words", "places", "end"];
    let rename =
        |name: &str| theirs.iter().zip(ours).fold(name.to_owned(), |name, (a, b)| name.replace(a, b));
    let (config, tensors) = random_gpt2();
    let mut own = Vec::new();
    for (name, x) in &tensors {
        match name.split_once("attn.c_attn") {
            None => own.push((format!("net.{}", rename(name)), x.clone())),
            Some((block, kind)) => own.extend(["q", "k", "v"].iter().enumerate().map(|(third, q)| {
                let third = x.narrow(x.rank() - 1, 8 * third, 8).unwrap();
                (format!("net.{}{q}{kind}", rename(block)), third)
            })),
        }
    }
    let own_config = r#"{"model_type": "made_up", "vocab_size": 50, "width": 8, "heads": 2, "longest": 16}"#;
    let (own, gpt2) = (save(own_config, own), save(config, tensors));
    assert_eq!(logits(own.path(), &[3, 1, 4, 1, 5]), logits(gpt2.path(), &[3, 1, 4, 1, 5]));
}
