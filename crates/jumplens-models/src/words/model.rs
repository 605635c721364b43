//! What a model is, in sizes and names.

use serde::{Deserialize, Serialize};

/// How a model is trained, and so what its prediction at a position means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It predicts the token after the position, from the tokens up to it.
    Causal,
    /// It predicts the token at the position, from the whole sequence.
    Masked,
}

/// What a part does to rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartKind {
    /// Normalises each row.
    Norm,
    /// Mixes rows: the one kind that does.
    Attention,
    /// Transforms each row.
    FeedForward,
    /// Adds its inputs: the residual stream first, the sub-module's output last.
    Add,
}

/// What a part reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// The block's input.
    BlockInput,
    /// The output of the block's part of that number.
    Part(usize),
}

/// A sub-module of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Its name in file names and casts: `ln1`, `attn`, …
    pub name: &'static str,
    /// What it does.
    pub kind: PartKind,
    /// What it reads. The part's linear map is fitted on the last of these.
    pub inputs: &'static [Slot],
}

impl Part {
    /// The input that the part's linear map is fitted on, and reads when it takes the part's place.
    pub fn map_input(&self) -> Slot {
        *self.inputs.last().expect("a part has an input")
    }
}

/// The parts of a block that normalises what its sub-modules read: GPT-2, Llama, most of today's.
pub const PRE_NORM_PARTS: &[Part] = &[
    Part { name: "ln1", kind: PartKind::Norm, inputs: &[Slot::BlockInput] },
    Part { name: "attn", kind: PartKind::Attention, inputs: &[Slot::Part(0)] },
    Part { name: "res1", kind: PartKind::Add, inputs: &[Slot::BlockInput, Slot::Part(1)] },
    Part { name: "ln2", kind: PartKind::Norm, inputs: &[Slot::Part(2)] },
    Part { name: "ffn", kind: PartKind::FeedForward, inputs: &[Slot::Part(3)] },
    Part { name: "res2", kind: PartKind::Add, inputs: &[Slot::Part(2), Slot::Part(4)] },
];

/// The parts of a block that normalises its sums: BERT, the transformer of Vaswani et al.
pub const POST_NORM_PARTS: &[Part] = &[
    Part { name: "attn", kind: PartKind::Attention, inputs: &[Slot::BlockInput] },
    Part { name: "res1", kind: PartKind::Add, inputs: &[Slot::BlockInput, Slot::Part(0)] },
    Part { name: "ln1", kind: PartKind::Norm, inputs: &[Slot::Part(1)] },
    Part { name: "ffn", kind: PartKind::FeedForward, inputs: &[Slot::Part(2)] },
    Part { name: "res2", kind: PartKind::Add, inputs: &[Slot::Part(2), Slot::Part(3)] },
    Part { name: "ln2", kind: PartKind::Norm, inputs: &[Slot::Part(4)] },
];

/// The parts of a block that what later blocks add can be folded into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seam {
    /// The feed-forward part.
    pub output: usize,
    /// The sum that it is an addend of, before any norm.
    pub sum: usize,
}

/// A model's sizes and the structure of its blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// `model_type` in `config.json`.
    pub family: &'static str,
    /// Causal or masked.
    pub kind: Kind,
    /// Blocks, L.
    pub n_layers: usize,
    /// Width of a hidden state, d.
    pub d_model: usize,
    /// Attention heads.
    pub n_heads: usize,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Longest sequence.
    pub max_positions: usize,
    /// The parts of every block, in order; the last one's output is the block's.
    pub parts: &'static [Part],
}

/// What of a model its states alone show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Blocks, L: there are states of the layers 0…L.
    pub n_layers: usize,
    /// Width of a hidden state, d.
    pub d_model: usize,
}

/// What states of the last layer, and maps that lead there, are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LastState {
    /// `h_L` as the last block puts it out, before a final norm: what this program computes, fits and applies.
    BlockOutput,
    /// The state after the final norm, as in the last entry of `hidden_states` of Hugging Face's transformers.
    FinalNormOutput,
}

impl Spec {
    /// How many layers there are, and how wide.
    pub fn sizes(&self) -> Sizes {
        Sizes { n_layers: self.n_layers, d_model: self.d_model }
    }

    /// Where a block takes in what blocks after it add, if it has such a place: its feed-forward part's output is an addend of
    /// its last sum, and no more than norms of that sum follow.
    pub fn seam(&self) -> Option<Seam> {
        let output = self.parts.iter().position(|part| part.kind == PartKind::FeedForward)?;
        let adds_it = |part: &Part| part.kind == PartKind::Add && part.inputs.contains(&Slot::Part(output));
        let sum = self.parts.iter().position(adds_it)?;
        let norms = self.parts[sum + 1..].iter().enumerate();
        let mut norms = norms.map(|(at, part)| {
            part.kind == PartKind::Norm && part.inputs == [Slot::Part(sum + at)].as_slice()
        });
        norms.all(|is_norm| is_norm).then_some(Seam { output, sum })
    }

    /// The number of the part called `name`.
    pub fn part(&self, name: &str) -> Option<usize> {
        self.parts.iter().position(|part| part.name == name)
    }

    /// The number of the part that mixes rows, where there is one.
    pub fn attention_part(&self) -> Option<usize> {
        self.parts.iter().position(|part| part.kind == PartKind::Attention)
    }
}
