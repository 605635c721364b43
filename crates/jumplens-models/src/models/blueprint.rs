//! What a model is made of, before a number of it is read: its modules, and where their tensors are in the checkpoint. A
//! family writes one from a configuration; it is then built, or counted by the names and shapes that the checkpoint lists.

use super::head::{Head, Step};
use super::transformer::{Embedding, Module, PositionTable, Transformer};
use crate::error::Result;
use crate::nn::{
    Activation, FeedForward, GatedFeedForward, LayerNorm, Linear, Norm, RmsNorm, Rope, SelfAttention,
    WeightLayout,
};
use crate::weights::{Scope, TensorSpec, Twin, Weights};
use crate::words::{PartKind, Spec};
use candle_core::{DType, Device, Tensor};

/// A model of a family.
pub(crate) struct Blueprint<'a> {
    /// Sizes and structure.
    pub spec: Spec,
    /// What the reader of the configuration should know, a line each.
    pub notes: Vec<String>,
    pub embedding: EmbeddingSpec,
    /// The modules of block l (from 0), one for each part of the spec. Asked for one after another, once the tensors before
    /// are known to be there: what sizes cost that no checkpoint has is not paid.
    pub block: Box<dyn Fn(usize) -> Result<Vec<ModuleSpec>> + 'a>,
    /// The norm between `h_L` and the head, which trunks without a head have too.
    pub final_norm: Option<NormSpec>,
    /// What turns `h_L`, normalised, into logits, where the checkpoint has it.
    pub head: Option<HeadSpec>,
    /// True for the name of a tensor that checkpoints have and models do without.
    pub is_known: Box<dyn Fn(&str) -> bool + 'a>,
}

/// From token ids to `h_0`: the rows of `tokens`, scaled, projected, with their positions' rows added, normalised; each where
/// the model does so.
#[derive(Debug, Clone)]
pub(crate) struct EmbeddingSpec {
    /// `[vocab, width]`.
    pub tokens: TensorSpec,
    pub scale: Option<f64>,
    /// From the embedding's width to the states'.
    pub project: Option<LinearSpec>,
    pub positions: Option<PositionsSpec>,
    pub norm: Option<NormSpec>,
}

impl EmbeddingSpec {
    /// The rows of `tokens`, and nothing else.
    pub fn of_tokens(tokens: TensorSpec) -> Self {
        Self { tokens, scale: None, project: None, positions: None, norm: None }
    }
}

/// Learnt positions.
#[derive(Debug, Clone)]
pub(crate) struct PositionsSpec {
    /// `[offset + positions, d]`.
    pub table: TensorSpec,
    /// The row of position 0.
    pub offset: u32,
    /// The embedding of the types of tokens `[types, d]`, of which the first is added everywhere.
    pub types: Option<TensorSpec>,
}

/// A normalisation of rows of width `d`.
#[derive(Debug, Clone)]
pub(crate) struct NormSpec {
    pub kind: NormKind,
    pub d: usize,
    /// 1 everywhere where there is none.
    pub weight: Option<TensorSpec>,
    /// 0 everywhere where there is none.
    pub bias: Option<TensorSpec>,
    pub eps: f64,
}

/// See [`Norm`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NormKind {
    Layer,
    Rms,
}

impl NormSpec {
    /// A `torch.nn.LayerNorm`.
    pub fn layer(at: &Scope, d: usize, eps: f64) -> Self {
        let tensor = |name| Some(at.tensor(name, &[d]));
        Self { kind: NormKind::Layer, d, weight: tensor("weight"), bias: tensor("bias"), eps }
    }

    /// RMSNorm.
    pub fn rms(at: &Scope, d: usize, eps: f64) -> Self {
        Self { kind: NormKind::Rms, d, weight: Some(at.tensor("weight", &[d])), bias: None, eps }
    }
}

/// A product with a bias or without.
#[derive(Debug, Clone)]
pub(crate) struct LinearSpec {
    /// As `layout` says.
    pub weight: TensorSpec,
    /// `[out]`.
    pub bias: Option<TensorSpec>,
    pub layout: WeightLayout,
}

impl LinearSpec {
    /// A `torch.nn.Linear`: `weight` `[n_out, n_in]` and, where it has one, `bias` `[n_out]`.
    pub fn new(at: &Scope, n_in: usize, n_out: usize, has_bias: bool) -> Self {
        let bias = has_bias.then(|| at.tensor("bias", &[n_out]));
        Self { weight: at.tensor("weight", &[n_out, n_in]), bias, layout: WeightLayout::OutIn }
    }

    /// GPT-2's `Conv1D`: `weight` `[n_in, n_out]` and `bias` `[n_out]`.
    pub fn conv1d(at: &Scope, n_in: usize, n_out: usize) -> Self {
        let bias = Some(at.tensor("bias", &[n_out]));
        Self { weight: at.tensor("weight", &[n_in, n_out]), bias, layout: WeightLayout::InOut }
    }
}

/// See [`SelfAttention`].
#[derive(Debug, Clone)]
pub(crate) struct AttentionSpec {
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub query: LinearSpec,
    pub key: LinearSpec,
    pub value: LinearSpec,
    pub output: LinearSpec,
    /// 1 / √d_head where it is not said.
    pub scale: Option<f32>,
    pub query_norm: Option<NormSpec>,
    pub key_norm: Option<NormSpec>,
    pub rope: Option<Rope>,
    pub window: Option<u32>,
    pub soft_cap: Option<f32>,
}

impl AttentionSpec {
    /// As many key heads as query heads, and nothing that is optional.
    pub fn new(n_heads: usize, [query, key, value, output]: [LinearSpec; 4]) -> Self {
        Self {
            n_heads,
            n_kv_heads: n_heads,
            query,
            key,
            value,
            output,
            scale: None,
            query_norm: None,
            key_norm: None,
            rope: None,
            window: None,
            soft_cap: None,
        }
    }
}

/// What does a part's work.
#[expect(clippy::large_enum_variant, reason = "a block has a few of them, and they go with it")]
#[derive(Debug, Clone)]
pub(crate) enum ModuleSpec {
    Norm(NormSpec),
    Attention(AttentionSpec),
    FeedForward { fc: LinearSpec, activation: Activation, proj: LinearSpec },
    GatedFeedForward { gate: LinearSpec, up: LinearSpec, activation: Activation, down: LinearSpec },
    Add,
    Nothing(PartKind),
    LinearAttention(LinearSpec),
}

/// From `h_L`, normalised, to logits: the steps, row by row, then the unembedding.
#[derive(Debug, Clone)]
pub(crate) struct HeadSpec {
    pub steps: Vec<StepSpec>,
    /// `[vocab, width]`.
    pub unembedding: TensorSpec,
    /// `[vocab]`.
    pub bias: Option<TensorSpec>,
    pub soft_cap: Option<f32>,
}

impl HeadSpec {
    /// The unembedding alone.
    pub fn new(unembedding: TensorSpec) -> Self {
        Self { steps: Vec::new(), unembedding, bias: None, soft_cap: None }
    }
}

/// A step before the unembedding.
#[derive(Debug, Clone)]
pub(crate) enum StepSpec {
    Norm(NormSpec),
    Linear(LinearSpec),
    Activation(Activation),
}

/// The unembedding `[vocab, width]`: the embedding where the configuration ties the two, else the tensor `name` at `at`.
pub(crate) fn unembedding(tied: bool, embedding: &TensorSpec, at: &Scope, name: &str) -> TensorSpec {
    if !tied {
        return at.tensor(name, &embedding.shape);
    }
    let difference = format!(
        "`{name}` differs from the embedding, but the configuration ties them: the embedding is used"
    );
    TensorSpec { twin: Some(Twin { name: at.name(name), difference }), ..embedding.clone() }
}

impl Blueprint<'_> {
    /// The model. Errors are those of [`Weights::read`].
    pub fn build(&self, weights: &Weights) -> Result<Transformer> {
        // Before any of them is read, which takes its time.
        self.expect(weights)?;
        let embedding = self.embedding.build(weights)?;
        let blocks = (0..self.spec.n_layers).map(|layer| {
            let modules = (self.block)(layer)?;
            modules.iter().map(|module| module.build(weights)).collect::<Result<Vec<_>>>()
        });
        let blocks = blocks.collect::<Result<Vec<_>>>()?;
        let norm = self.final_norm.as_ref().map(|norm| norm.build(weights)).transpose()?;
        let head = match &self.head {
            Some(head) => Some(head.build(weights, norm, &self.embedding.tokens, &embedding.tokens)?),
            None => None,
        };
        Transformer::new(self.spec.clone(), embedding, blocks, head)
    }

    /// Sees that all tensors are there, by their names, shapes and dtypes. [`Error::MissingTensor`](crate::Error::MissingTensor),
    /// [`Error::TensorShape`](crate::Error::TensorShape), [`Error::TensorDtype`](crate::Error::TensorDtype).
    pub fn expect(&self, weights: &Weights) -> Result<()> {
        let see = &mut |tensor: &TensorSpec| weights.expect(tensor);
        self.embedding.each(see)?;
        for layer in 0..self.spec.n_layers {
            (self.block)(layer)?.iter().try_for_each(|module| module.each(see))?;
        }
        self.each_behind(see)
    }

    /// Calls `see` with every tensor that belongs to no block.
    pub fn each_outside(&self, see: &mut Visit) -> Result<()> {
        self.embedding.each(see)?;
        self.each_behind(see)
    }

    fn each_behind(&self, see: &mut Visit) -> Result<()> {
        self.final_norm.iter().try_for_each(|norm| norm.each(see))?;
        self.head.iter().try_for_each(|head| head.each(see))
    }
}

/// What is called with every tensor.
type Visit<'a> = dyn FnMut(&TensorSpec) -> Result<()> + 'a;

impl EmbeddingSpec {
    fn build(&self, weights: &Weights) -> Result<Embedding> {
        let positions = |spec: &PositionsSpec| -> Result<PositionTable> {
            let table = weights.read(&spec.table)?;
            let table = match &spec.types {
                Some(types) => table.broadcast_add(&weights.read(types)?.get(0)?)?,
                None => table,
            };
            Ok(PositionTable { table, offset: spec.offset })
        };
        Ok(Embedding {
            tokens: weights.read(&self.tokens)?,
            scale: self.scale,
            project: self.project.as_ref().map(|project| project.build(weights)).transpose()?,
            positions: self.positions.as_ref().map(positions).transpose()?,
            norm: self.norm.as_ref().map(|norm| norm.build(weights)).transpose()?,
        })
    }

    fn each(&self, see: &mut Visit) -> Result<()> {
        see(&self.tokens)?;
        self.project.iter().try_for_each(|project| project.each(see))?;
        if let Some(positions) = &self.positions {
            see(&positions.table)?;
            positions.types.iter().try_for_each(&mut *see)?;
        }
        self.norm.iter().try_for_each(|norm| norm.each(see))
    }
}

impl NormSpec {
    fn build(&self, weights: &Weights) -> Result<Norm> {
        Ok(match self.kind {
            NormKind::Rms => Norm::Rms(RmsNorm::new(self.build_weight(weights)?, self.eps)),
            NormKind::Layer => {
                let weight = self.build_weight(weights)?;
                let bias = match &self.bias {
                    Some(bias) => weights.read(bias)?,
                    None => Tensor::zeros(self.d, DType::F32, &Device::Cpu)?,
                };
                Norm::Layer(LayerNorm::new(weight, bias, self.eps))
            }
        })
    }

    fn build_weight(&self, weights: &Weights) -> Result<Tensor> {
        match &self.weight {
            Some(weight) => weights.read(weight),
            None => Ok(Tensor::ones(self.d, DType::F32, &Device::Cpu)?),
        }
    }

    fn each(&self, see: &mut Visit) -> Result<()> {
        self.weight.iter().chain(&self.bias).try_for_each(see)
    }
}

impl LinearSpec {
    fn build(&self, weights: &Weights) -> Result<Linear> {
        let weight = weights.read(&self.weight)?;
        let bias = self.bias.as_ref().map(|bias| weights.read(bias)).transpose()?;
        Ok(Linear::new(&weight, bias.as_ref(), self.layout, weights.precision())?)
    }

    fn each(&self, see: &mut Visit) -> Result<()> {
        [&self.weight].into_iter().chain(&self.bias).try_for_each(see)
    }
}

impl AttentionSpec {
    fn build(&self, weights: &Weights) -> Result<SelfAttention> {
        let [query, key, value, output] = [&self.query, &self.key, &self.value, &self.output];
        let mut attention = SelfAttention::new(
            self.n_heads,
            query.build(weights)?,
            key.build(weights)?,
            value.build(weights)?,
            output.build(weights)?,
        );
        let norm = |norm: &Option<NormSpec>| norm.as_ref().map(|norm| norm.build(weights)).transpose();
        attention.query_norm = norm(&self.query_norm)?;
        attention.key_norm = norm(&self.key_norm)?;
        attention.n_kv_heads = self.n_kv_heads;
        attention.scale = self.scale.unwrap_or(attention.scale);
        attention.rope = self.rope.clone();
        attention.window = self.window;
        attention.soft_cap = self.soft_cap;
        Ok(attention)
    }

    fn each(&self, see: &mut Visit) -> Result<()> {
        [&self.query, &self.key, &self.value, &self.output].into_iter().try_for_each(|it| it.each(see))?;
        self.query_norm.iter().chain(&self.key_norm).try_for_each(|norm| norm.each(see))
    }
}

impl ModuleSpec {
    /// Its tensors, in an order that is the same in every block.
    pub fn tensors(&self) -> Result<Vec<TensorSpec>> {
        let mut tensors = Vec::new();
        self.each(&mut |tensor| {
            tensors.push(tensor.clone());
            Ok(())
        })?;
        Ok(tensors)
    }

    /// The layer that a feed-forward part ends with.
    pub fn output_layer(&self) -> Option<&LinearSpec> {
        match self {
            Self::FeedForward { proj, .. } => Some(proj),
            Self::GatedFeedForward { down, .. } => Some(down),
            _ => None,
        }
    }

    fn build(&self, weights: &Weights) -> Result<Module> {
        Ok(match self {
            Self::Norm(norm) => Module::Norm(norm.build(weights)?),
            Self::Attention(attention) => Module::Attention(Box::new(attention.build(weights)?)),
            Self::FeedForward { fc, activation, proj } => Module::FeedForward(FeedForward {
                fc: fc.build(weights)?,
                activation: *activation,
                proj: proj.build(weights)?,
            }),
            Self::GatedFeedForward { gate, up, activation, down } => {
                let (gate, up) = (gate.build(weights)?, up.build(weights)?);
                let down = down.build(weights)?;
                Module::GatedFeedForward(GatedFeedForward::new(&gate, &up, *activation, down)?)
            }
            Self::Add => Module::Add,
            Self::Nothing(kind) => Module::Nothing(*kind),
            Self::LinearAttention(map) => Module::LinearAttention(map.build(weights)?),
        })
    }

    fn each(&self, see: &mut Visit) -> Result<()> {
        match self {
            Self::Norm(norm) => norm.each(see),
            Self::Attention(attention) => attention.each(see),
            Self::FeedForward { fc, proj, .. } => [fc, proj].into_iter().try_for_each(|it| it.each(see)),
            Self::GatedFeedForward { gate, up, down, .. } => {
                [gate, up, down].into_iter().try_for_each(|it| it.each(see))
            }
            Self::LinearAttention(map) => map.each(see),
            Self::Add | Self::Nothing(_) => Ok(()),
        }
    }
}

impl HeadSpec {
    /// `embedding` is the one that has been read, as `tokens` says: where the two are tied, it is used a second time.
    fn build(
        &self,
        weights: &Weights,
        final_norm: Option<Norm>,
        tokens: &TensorSpec,
        embedding: &Tensor,
    ) -> Result<Head> {
        let mut steps: Vec<Step> = final_norm.map(Step::Norm).into_iter().collect();
        for step in &self.steps {
            steps.push(step.build(weights)?);
        }
        let unembedding = match self.unembedding.name == tokens.name {
            true => weights.reuse(&self.unembedding, embedding)?,
            false => weights.read(&self.unembedding)?,
        };
        let bias = self.bias.as_ref().map(|bias| weights.read(bias)).transpose()?;
        Ok(Head::new(steps, unembedding, bias, self.soft_cap))
    }

    fn each(&self, see: &mut Visit) -> Result<()> {
        for step in &self.steps {
            match step {
                StepSpec::Norm(norm) => norm.each(see)?,
                StepSpec::Linear(linear) => linear.each(see)?,
                StepSpec::Activation(_) => {}
            }
        }
        [&self.unembedding].into_iter().chain(&self.bias).try_for_each(see)
    }
}

impl StepSpec {
    fn build(&self, weights: &Weights) -> Result<Step> {
        Ok(match self {
            Self::Norm(norm) => Step::Norm(norm.build(weights)?),
            Self::Linear(linear) => Step::Linear(linear.build(weights)?),
            Self::Activation(activation) => Step::Activation(*activation),
        })
    }
}
