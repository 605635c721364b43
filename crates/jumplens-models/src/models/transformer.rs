//! The one transformer that all families are: an embedding, blocks made of modules, a head.

use super::head::Head;
use crate::batch::PackedBatch;
use crate::error::{Error, Result};
use crate::nn::{FeedForward, GatedFeedForward, Linear, Norm, QueryRows, SelfAttention, add, look_up};
use crate::words::{PartKind, Slot, Spec};
use candle_core::Tensor;
use jumplens_core::LinearMap;

/// A model. Tensors are f32, `[rows, d]`, on the CPU. Copies share their tensors.
#[derive(Debug, Clone)]
pub struct Transformer {
    spec: Spec,
    embedding: Embedding,
    /// By block, one module for each part of the spec.
    blocks: Vec<Vec<Module>>,
    head: Option<Head>,
}

/// From tokens to `h_0`.
#[derive(Debug, Clone)]
pub struct Embedding {
    /// `[vocab, width]`.
    pub tokens: Tensor,
    /// What rows of it are multiplied by.
    pub scale: Option<f64>,
    /// From its width to the states'.
    pub project: Option<Linear>,
    /// Added by position.
    pub positions: Option<PositionTable>,
    /// Applied at the end.
    pub norm: Option<Norm>,
}

/// Learnt positions.
#[derive(Debug, Clone)]
pub struct PositionTable {
    /// `[offset + positions, d]`.
    pub table: Tensor,
    /// The row of position 0.
    pub offset: u32,
}

/// A block of a shorter model, by those of the whole one, counted from 0.
#[derive(Debug, Clone, PartialEq)]
pub struct KeptBlock {
    /// The block that it is.
    pub block: usize,
    /// The last of those that it stands for, whose norm behind the sum it has; itself, where it stands for no other.
    pub until: usize,
    /// What its feed-forward part ends with in the place of its own layer.
    pub output: Option<LinearMap>,
    /// What it goes without.
    pub without: Without,
    /// What does an attention's work that it goes without, at each position for itself: `[d]` → `[d]`.
    pub attention: Option<LinearMap>,
}

/// The sub-modules that a block goes without: they add nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Without {
    /// Its attention.
    pub attention: bool,
    /// Its feed-forward part.
    pub feed_forward: bool,
}

impl Without {
    /// The kinds of parts that the block goes without.
    pub fn kinds(self) -> impl Iterator<Item = PartKind> {
        let attention = self.attention.then_some(PartKind::Attention);
        attention.into_iter().chain(self.feed_forward.then_some(PartKind::FeedForward))
    }

    /// True of a block that has all of its parts.
    pub fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

impl KeptBlock {
    /// The block as it is.
    pub fn of(block: usize) -> Self {
        Self { block, until: block, output: None, without: Without::default(), attention: None }
    }

    /// True of a block that has all that it had, and stands for no other.
    pub fn is_own(&self) -> bool {
        self.until == self.block && self.without.is_nothing()
    }
}

/// What does a part's work.
#[derive(Debug, Clone)]
pub enum Module {
    /// Normalises each row.
    Norm(Norm),
    /// Mixes rows.
    Attention(Box<SelfAttention>),
    /// Transforms each row.
    FeedForward(FeedForward),
    /// Transforms each row, with a gate.
    GatedFeedForward(GatedFeedForward),
    /// Adds its inputs.
    Add,
    /// Stands where a block has no part of that kind: 0 everywhere.
    Nothing(PartKind),
    /// Stands where a block has no attention: a map of each row.
    LinearAttention(Linear),
}

impl Module {
    /// What kind of part it is.
    pub fn kind(&self) -> PartKind {
        match self {
            Self::Norm(_) => PartKind::Norm,
            Self::Attention(_) => PartKind::Attention,
            Self::FeedForward(_) | Self::GatedFeedForward(_) => PartKind::FeedForward,
            Self::Add => PartKind::Add,
            Self::Nothing(kind) => *kind,
            Self::LinearAttention(_) => PartKind::Attention,
        }
    }

    /// The attention, where it is one.
    pub fn attention(&self) -> Option<&SelfAttention> {
        match self {
            Self::Attention(attention) => Some(attention),
            _ => None,
        }
    }

    /// The output for rows that do not see one another: of any module but an attention. `inputs` `[n, d]` each, as
    /// [`Part::inputs`](crate::words::Part::inputs) has them.
    pub fn forward(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        Ok(match (self, inputs) {
            (Self::Norm(norm), [x]) => norm.forward(x)?,
            (Self::FeedForward(feed_forward), [x]) => feed_forward.forward(x)?,
            (Self::GatedFeedForward(feed_forward), [x]) => feed_forward.forward(x)?,
            (Self::Nothing(_), [x]) => x.zeros_like()?,
            (Self::LinearAttention(map), [x]) => map.forward(x)?,
            // The residual stream last, which is the largest.
            (Self::Add, [inputs @ .., last]) => {
                let mut sum = (*last).clone();
                for input in inputs.iter().rev() {
                    sum = add(input, &sum)?;
                }
                sum
            }
            _ => {
                let message = format!("a part of kind {:?} was given {} inputs", self.kind(), inputs.len());
                return Err(Error::Internal(message));
            }
        })
    }

    /// The layer that a feed-forward part ends with, `[d_hidden]` → `[d]`; of others none.
    pub fn output_layer(&self) -> Option<&Linear> {
        match self {
            Self::FeedForward(part) => Some(&part.proj),
            Self::GatedFeedForward(part) => Some(part.down()),
            _ => None,
        }
    }

    /// This feed-forward part with `map` as the layer that it ends with. [`Error::Internal`] where it is none, or of another
    /// width.
    pub fn with_output_layer(&self, map: &LinearMap) -> Result<Self> {
        let own = self.output_layer();
        let Some(own) =
            own.filter(|own| (own.in_features(), own.out_features()) == (map.d_in(), map.d_out()))
        else {
            return Err(Error::Internal(format!(
                "a layer {} → {} ends no part of kind {:?}",
                map.d_in(),
                map.d_out(),
                self.kind()
            )));
        };
        let layer = own.replaced(map);
        Ok(match self {
            Self::FeedForward(part) => Self::FeedForward(FeedForward { proj: layer, ..part.clone() }),
            Self::GatedFeedForward(part) => Self::GatedFeedForward(part.with_down(layer)),
            other => other.clone(),
        })
    }

    /// What the layer reads that a feed-forward part ends with, for the rows `x` `[n, d]`: `[n, d_hidden]`. [`Error::Internal`]
    /// of others.
    pub fn hidden(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::FeedForward(part) => Ok(part.hidden(x)?),
            Self::GatedFeedForward(part) => Ok(part.hidden(x)?),
            _ => Err(Error::Internal(format!("a part of kind {:?} has no hidden units", self.kind()))),
        }
    }

    /// This module on `map·x` in the place of its one input x (`map` `[d, d]`, rows are outputs), in as many products as
    /// without the map; `None` where that cannot be done.
    pub fn after(&self, map: &LinearMap) -> Result<Option<Self>> {
        Ok(match self {
            Self::Attention(attention) => Some(Self::Attention(Box::new(attention.after(map)?))),
            Self::FeedForward(feed_forward) => Some(Self::FeedForward(feed_forward.after(map)?)),
            Self::GatedFeedForward(feed_forward) => Some(Self::GatedFeedForward(feed_forward.after(map)?)),
            Self::LinearAttention(attention) => Some(Self::LinearAttention(attention.after(map)?)),
            Self::Norm(_) | Self::Add | Self::Nothing(_) => None,
        })
    }
}

impl Transformer {
    /// A model of blocks of this one, in the order of `kept`. [`Error::Internal`] where one of them is none of its blocks, or an
    /// output layer fits none.
    pub fn shorter(&self, kept: &[KeptBlock]) -> Result<Self> {
        let block = |kept: &KeptBlock| -> Result<Vec<Module>> {
            let (Some(own), Some(last)) = (self.blocks.get(kept.block), self.blocks.get(kept.until)) else {
                return Err(Error::Internal(format!("there are no blocks {} to {}", kept.block, kept.until)));
            };
            let mut block = own.clone();
            for kind in kept.without.kinds() {
                let parts = block.iter_mut().filter(|module| module.kind() == kind);
                let in_place = match (&kept.attention, kind) {
                    (Some(map), PartKind::Attention) => Module::LinearAttention(Linear::of_map(map)),
                    _ => Module::Nothing(kind),
                };
                parts.for_each(|module| *module = in_place.clone());
            }
            let Some(seam) = self.spec.seam() else {
                return match (&kept.output, kept.block == kept.until) {
                    (None, true) => Ok(block),
                    _ => Err(Error::Internal("nothing can be folded into a block of this kind".into())),
                };
            };
            block[seam.sum + 1..].clone_from_slice(&last[seam.sum + 1..]);
            if let Some(output) = &kept.output {
                block[seam.output] = block[seam.output].with_output_layer(output)?;
            }
            Ok(block)
        };
        let blocks = kept.iter().map(block).collect::<Result<Vec<_>>>()?;
        let spec = Spec { n_layers: blocks.len(), ..self.spec.clone() };
        Self::new(spec, self.embedding.clone(), blocks, self.head.clone())
    }

    /// [`Error::Internal`] where the modules of a block are not those of the spec's parts.
    pub fn new(
        spec: Spec,
        embedding: Embedding,
        blocks: Vec<Vec<Module>>,
        head: Option<Head>,
    ) -> Result<Self> {
        let fits =
            |block: &Vec<Module>| block.iter().map(Module::kind).eq(spec.parts.iter().map(|it| it.kind));
        if blocks.len() != spec.n_layers || !blocks.iter().all(fits) {
            return Err(Error::Internal(format!(
                "the blocks of `{}` are not those of its parts",
                spec.family
            )));
        }
        Ok(Self { spec, embedding, blocks, head })
    }

    /// Sizes and structure.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// `h_0` of every token of `batch`, `[tokens, d]`. [`Error::NoSuchToken`] where there is no embedding for one of them.
    pub fn embed(&self, batch: &PackedBatch) -> Result<Tensor> {
        let vocab_size = self.spec.vocab_size;
        if let Some(&id) = batch.ids.iter().find(|id| **id as usize >= vocab_size) {
            return Err(Error::NoSuchToken { id, vocab_size });
        }
        let Embedding { tokens, scale, project, positions, norm } = &self.embedding;
        let mut x = look_up(tokens, &batch.ids)?;
        if let Some(scale) = scale {
            x = (x * *scale)?;
        }
        if let Some(project) = project {
            x = project.forward(&x)?;
        }
        if let Some(PositionTable { table, offset }) = positions {
            let rows: Vec<u32> = batch.positions.iter().map(|position| position + offset).collect();
            x = add(&x, &look_up(table, &rows)?)?;
        }
        Ok(match norm {
            Some(norm) => norm.forward(&x)?,
            None => x,
        })
    }

    /// What does the work of part `part` of block `layer` (both from 0).
    pub fn module(&self, layer: usize, part: usize) -> &Module {
        &self.blocks[layer][part]
    }

    /// The outputs of all parts of block `layer`, `[n, d]` each, for the rows `x` `[n, d]` of its input. `attend` gives the
    /// attention's output for its own input.
    pub fn walk(
        &self,
        layer: usize,
        x: &Tensor,
        attend: impl Fn(&SelfAttention, &Tensor) -> Result<Tensor>,
    ) -> Result<Vec<Tensor>> {
        let mut outputs: Vec<Tensor> = Vec::with_capacity(self.spec.parts.len());
        for (module, part) in self.blocks[layer].iter().zip(self.spec.parts) {
            let inputs: Vec<&Tensor> = part.inputs.iter().map(|slot| value_of(*slot, x, &outputs)).collect();
            let output = match module {
                Module::Attention(attention) => attend(attention, inputs[0])?,
                module => module.forward(&inputs)?,
            };
            outputs.push(output);
        }
        Ok(outputs)
    }

    /// The output of block `layer` for all rows of its input `x` `[tokens, d]`, which `rows` says who sees whom of. Where
    /// gradients are taken through `x`, in plain operations.
    pub fn block(&self, layer: usize, x: &Tensor, rows: &QueryRows) -> Result<Tensor> {
        let attend = |attention: &SelfAttention, x: &Tensor| -> Result<Tensor> {
            let (keys, values) = attention.keys_values(x, rows)?;
            Ok(attention.attend(x, rows, (&keys, &values))?)
        };
        let output = self.walk(layer, x, attend)?.pop();
        output.ok_or_else(|| Error::Internal("a block without parts".into()))
    }

    /// What turns `h_L` into logits, where the checkpoint has it.
    pub fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }
}

/// What `slot` stands for, among the outputs of a block's parts.
pub fn value_of<'a>(slot: Slot, block_input: &'a Tensor, outputs: &'a [Tensor]) -> &'a Tensor {
    match slot {
        Slot::BlockInput => block_input,
        Slot::Part(part) => &outputs[part],
    }
}
