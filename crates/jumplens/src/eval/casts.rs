//! The casts that run blocks: every block after the start, with one kind of sub-module replaced by its linear map.

use crate::batch::PackedBatch;
use crate::error::Result;
use crate::models::Backbone;
use crate::runner::{Context, Plan, Rows, run_block};
use crate::shortcut::Shortcuts;
use candle_core::Tensor;

/// A cast that replaces parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockCast {
    /// Its name in the result tables.
    pub name: &'static str,
    /// The names of the parts that their linear maps stand in for.
    pub parts: &'static [&'static str],
}

/// The three casts of section 6 of the paper.
pub const BLOCK_CASTS: [BlockCast; 3] = [
    BlockCast { name: "mat_attn", parts: &["attn"] },
    BlockCast { name: "mat_ffn", parts: &["ffn"] },
    BlockCast { name: "mat_ln1_ln2", parts: &["ln1", "ln2"] },
];

/// [`BLOCK_CASTS`] with their maps loaded.
pub(super) struct BlockCasts {
    /// Nothing replaced.
    exact: Plan,
    /// One a cast.
    plans: Vec<Plan>,
}

impl BlockCasts {
    pub(super) fn load(model: &dyn Backbone, shortcuts: &Shortcuts) -> Result<Self> {
        let spec = model.spec();
        let plan = |cast: &BlockCast| {
            let mut maps = vec![vec![None; spec.parts.len()]; spec.n_layers];
            for name in cast.parts {
                let Some(part) = spec.part(name) else { continue };
                for (layer, maps) in maps.iter_mut().enumerate() {
                    maps[part] = Some(shortcuts.load_part(layer, name, spec.d_model)?);
                }
            }
            Plan::new(model, &[], |layer, part| maps[layer][part].clone())
        };
        Ok(Self {
            exact: Plan::new(model, &[], |_, _| None)?,
            plans: BLOCK_CASTS.iter().map(plan).collect::<Result<_>>()?,
        })
    }

    /// For each cast, the last block's output at the chosen rows of `batch` from each layer `0…L−1` it may start from:
    /// `[L · sequences, d]`, the rows from layer 0 first.
    ///
    /// The model itself runs once. Before each block its states join those that each cast brings there from earlier
    /// layers, so that one product serves all starting layers.
    pub(super) fn run(&self, model: &dyn Backbone, batch: &PackedBatch) -> Result<Vec<Tensor>> {
        let spec = model.spec();
        let exact = &self.exact;
        let once = Context::new(batch, spec.kind, 1);
        let mut x = model.embed(batch)?;
        let mut stacks: Vec<Option<Tensor>> = vec![None; self.plans.len()];
        for layer in 0..spec.n_layers {
            let context = Context::new(batch, spec.kind, layer + 1);
            for (stack, plan) in stacks.iter_mut().zip(&self.plans) {
                let entering = match (exact.rows_before(layer), plan.rows_before(layer)) {
                    (Rows::Every, Rows::Chosen) => once.select(&x)?,
                    _ => x.clone(),
                };
                let joined = match stack.take() {
                    Some(stack) => Tensor::cat(&[&stack, &entering], 0)?,
                    None => entering,
                };
                *stack = Some(run_block(model, layer, plan.block(layer), &[], &joined, &context)?.0);
            }
            if layer + 1 < spec.n_layers {
                x = run_block(model, layer, exact.block(layer), &[], &x, &once)?.0;
            }
        }
        Ok(stacks.into_iter().flatten().collect())
    }
}
