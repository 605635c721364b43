//! The casts that run blocks: every block after the start, with one kind of sub-module replaced by its linear map.

use crate::Result;
use crate::batch::PackedBatch;
use crate::models::Transformer;
use crate::runner::{BlockRun, Context, Plan};
use crate::shortcut::MapStore;
use crate::words::BlockCast;
use candle_core::Tensor;

/// Casts that run blocks, with their maps loaded.
pub(crate) struct BlockCasts {
    /// Nothing replaced.
    exact: Plan,
    /// One a cast.
    plans: Vec<Plan>,
}

impl BlockCasts {
    pub(crate) fn load(model: &Transformer, shortcuts: &dyn MapStore, casts: &[BlockCast]) -> Result<Self> {
        let spec = model.spec();
        let plan = |cast: &BlockCast| {
            let mut maps = vec![vec![None; spec.parts.len()]; spec.n_layers];
            for name in cast.parts() {
                let Some(part) = spec.part(name) else { continue };
                for (layer, maps) in maps.iter_mut().enumerate() {
                    maps[part] = Some(shortcuts.load_part(layer, name, spec.d_model)?);
                }
            }
            Plan::new(model, &[], |layer, part| maps[layer][part].clone())
        };
        Ok(Self {
            exact: Plan::new(model, &[], |_, _| None)?,
            plans: casts.iter().map(plan).collect::<Result<_>>()?,
        })
    }

    /// For each cast, the last block's output at the chosen rows of `batch` from each layer `0…L−1` it may start from:
    /// `[L · sequences, d]`, the rows from layer 0 first.
    ///
    /// The model itself runs once. Before each block its states join those that each cast brings there from earlier
    /// layers, so that one product serves all starting layers; where the cast's first parts are the model's own, they join
    /// after those, which are then not run again.
    pub(crate) fn run(&self, model: &Transformer, batch: &PackedBatch) -> Result<Vec<Tensor>> {
        let spec = model.spec();
        let contexts: Vec<Context> =
            (1..=spec.n_layers).map(|times| Context::new(batch, spec.kind, times)).collect();
        let once = &contexts[0];
        let mut x = model.embed(batch)?;
        let mut stacks: Vec<Option<Tensor>> = vec![None; self.plans.len()];
        for layer in 0..spec.n_layers {
            let exact = self.exact.block(layer);
            let mut own = BlockRun::new(model, layer, exact, x.clone(), once);
            for (stack, plan) in stacks.iter_mut().zip(&self.plans) {
                let plan = plan.block(layer);
                let same = plan.same_until(exact);
                own.run_to(same)?;
                let joined = match stack.take() {
                    Some(earlier) => {
                        let mut earlier = BlockRun::new(model, layer, plan, earlier, &contexts[layer - 1]);
                        earlier.run_to(same)?;
                        earlier.join(&own, same, &contexts[layer])?
                    }
                    None => own.under(plan, same)?,
                };
                *stack = Some(joined.finish()?);
            }
            if layer + 1 < spec.n_layers {
                x = own.finish()?;
            }
        }
        Ok(stacks.into_iter().flatten().collect())
    }
}
