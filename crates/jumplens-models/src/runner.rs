//! Runs blocks for every model family: part by part, each part only at the rows where something still needs it, and
//! with a linear map in the place of any part that a cast replaces. In causal models a map takes a part's place at
//! every row that is run; in masked ones at the chosen rows alone, for it was fitted on what stands at `[MASK]`.

use crate::batch::PackedBatch;
use crate::error::{Error, Result};
use crate::models::{Kind, Module, PartKind, Slot, Transformer};
use crate::nn::{Linear, QueryRows, SelfAttention, look_up, put_rows};
use candle_core::Tensor;
use jumplens_core::LinearMap;
use std::cell::OnceCell;

/// At which rows of a batch something is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rows {
    /// At the chosen position of each sequence.
    Chosen,
    /// At every token.
    Every,
}

/// A batch's rows as attention sees them.
pub struct Context {
    every: QueryRows,
    chosen: QueryRows,
    chosen_rows: Vec<u32>,
}

impl Context {
    /// The rows of `batch`, repeated `times` over (sequences of different repetitions do not see one another).
    pub fn new(batch: &PackedBatch, kind: Kind, times: usize) -> Self {
        let once = batch.every_row(kind);
        let tokens = batch.tokens() as u32;
        let shifted = |values: &[u32]| -> Vec<u32> {
            (0..times as u32).flat_map(|time| values.iter().map(move |value| value + time * tokens)).collect()
        };
        let chosen_rows = shifted(&batch.chosen);
        let every = QueryRows {
            positions: once.positions.repeat(times),
            starts: shifted(&once.starts),
            ends: shifted(&once.ends),
        };
        let pick = |values: &[u32]| chosen_rows.iter().map(|row| values[*row as usize]).collect();
        let chosen = QueryRows {
            positions: pick(&every.positions),
            starts: pick(&every.starts),
            ends: pick(&every.ends),
        };
        Self { chosen, every, chosen_rows }
    }

    /// The chosen rows of `x` `[tokens, d]`.
    pub fn select(&self, x: &Tensor) -> Result<Tensor> {
        Ok(look_up(x, &self.chosen_rows)?)
    }

    fn rows(&self, rows: Rows) -> &QueryRows {
        match rows {
            Rows::Chosen => &self.chosen,
            Rows::Every => &self.every,
        }
    }
}

/// How one part of a block is run.
enum Step {
    /// As the model has it.
    Own,
    /// By its linear map.
    Map(Linear),
    /// As the model has it, and by its linear map at the chosen rows.
    MapAtChosen(Linear),
    /// As the model has it, with the map of the part before it folded in; that part is not computed.
    After(Module),
}

/// How one block is run: which parts are replaced, and at which rows each slot is needed.
pub struct BlockPlan {
    steps: Vec<Step>,
    /// What each part reads.
    reads: Vec<Vec<Slot>>,
    input: Rows,
    /// At which rows each part's output is needed, if anywhere.
    needed: Vec<Option<Rows>>,
}

impl BlockPlan {
    fn new(
        model: &Transformer,
        layer: usize,
        maps: Vec<Option<LinearMap>>,
        kept: &[usize],
        output: Rows,
    ) -> Result<Self> {
        let parts = model.spec().parts;
        let mut steps: Vec<Step> = parts.iter().map(|_| Step::Own).collect();
        let mut reads: Vec<Vec<Slot>> = parts.iter().map(|part| part.inputs.to_vec()).collect();

        // From the last part back to the first: attention needs every row of its input, any other part (and a linear
        // map in attention's place) only the rows it is asked for.
        let mut needed: Vec<Option<Rows>> = vec![None; parts.len()];
        let mut input = None;
        needed[parts.len() - 1] = Some(output);
        for &part in kept {
            needed[part] = needed[part].max(Some(Rows::Chosen));
        }
        for (index, part) in parts.iter().enumerate().rev() {
            let Some(rows) = needed[index] else { continue };
            let mut mixes = part.kind == PartKind::Attention;
            if let Some(map) = &maps[index] {
                if rows == Rows::Chosen || model.spec().kind == Kind::Causal {
                    steps[index] = Step::Map(Linear::of_map(map));
                    reads[index] = vec![part.map_input()];
                    mixes = false;
                } else {
                    steps[index] = Step::MapAtChosen(Linear::of_map(map));
                }
            }
            let rows = if mixes { Rows::Every } else { rows };
            for slot in &reads[index] {
                match *slot {
                    Slot::BlockInput => input = input.max(Some(rows)),
                    Slot::Part(earlier) => needed[earlier] = needed[earlier].max(Some(rows)),
                }
            }
        }
        let mut plan = Self { steps, reads, input: input.unwrap_or(Rows::Chosen), needed };
        for (index, map) in maps.iter().enumerate() {
            let Some(map) = map.as_ref().filter(|_| !kept.contains(&index)) else { continue };
            plan.fold(model, layer, index, map)?;
        }
        Ok(plan)
    }

    /// Folds the map of part `index` into the part that reads it, where that is the only one, and reads nothing else.
    fn fold(&mut self, model: &Transformer, layer: usize, index: usize, map: &LinearMap) -> Result<()> {
        let reads_it = |reader: &usize| self.reads[*reader].contains(&Slot::Part(index));
        let readers: Vec<usize> = (0..self.steps.len()).filter(reads_it).collect();
        if let [reader] = readers[..]
            && matches!((&self.steps[index], &self.steps[reader]), (Step::Map(_), Step::Own))
            && self.reads[reader].len() == 1
            && map.bias().is_none()
            && let Some(after) = model.module(layer, reader).after(map)?
        {
            self.steps[reader] = Step::After(after);
            self.reads[reader] = self.reads[index].clone();
            self.needed[index] = None;
        }
        Ok(())
    }

    /// How many parts, from the first on, this plan runs as the model has them and at the same rows as `other`, which
    /// replaces nothing.
    pub fn same_until(&self, other: &Self) -> usize {
        let differs = |part: &usize| {
            !matches!(self.steps[*part], Step::Own) || self.needed[*part] != other.needed[*part]
        };
        if self.input != other.input {
            return 0;
        }
        (0..self.steps.len()).find(differs).unwrap_or(self.steps.len())
    }

    /// At which rows the block's input has to be given.
    pub fn input(&self) -> Rows {
        self.input
    }
}

/// How all blocks of a model are run, to get the last one's output at the chosen rows.
pub struct Plan {
    blocks: Vec<BlockPlan>,
}

impl Plan {
    /// `replacement(layer, part)` is the linear map `[d, d]` in that part's place, if any; the outputs of the parts in
    /// `kept` are wanted at the chosen rows of every block.
    pub fn new(
        model: &Transformer,
        kept: &[usize],
        replacement: impl Fn(usize, usize) -> Option<LinearMap>,
    ) -> Result<Self> {
        let spec = model.spec();
        let mut blocks = Vec::with_capacity(spec.n_layers);
        let mut output = Rows::Chosen;
        for layer in (0..spec.n_layers).rev() {
            let maps = (0..spec.parts.len()).map(|part| replacement(layer, part)).collect();
            let block = BlockPlan::new(model, layer, maps, kept, output)?;
            output = block.input();
            blocks.push(block);
        }
        blocks.reverse();
        Ok(Self { blocks })
    }

    /// The plan of block `layer`.
    pub fn block(&self, layer: usize) -> &BlockPlan {
        &self.blocks[layer]
    }

    /// At which rows the output of block `layer − 1` is there (for 0, the embedding is needed).
    pub fn rows_before(&self, layer: usize) -> Rows {
        self.blocks.get(layer).map_or(Rows::Chosen, BlockPlan::input)
    }
}

/// A slot's value, and its chosen rows once something asked for them.
#[derive(Clone)]
struct Value {
    tensor: Tensor,
    rows: Rows,
    chosen: OnceCell<Tensor>,
}

impl Value {
    fn new(tensor: Tensor, rows: Rows) -> Self {
        Self { tensor, rows, chosen: OnceCell::new() }
    }

    fn at(&self, rows: Rows, context: &Context) -> Result<&Tensor> {
        match (self.rows, rows) {
            (Rows::Every, Rows::Chosen) => {
                if self.chosen.get().is_none() {
                    let _ = self.chosen.set(context.select(&self.tensor)?);
                }
                self.chosen.get().ok_or_else(|| Error::Internal("chosen rows were not kept".into()))
            }
            (have, want) if have == want => Ok(&self.tensor),
            _ => Err(Error::Internal("every row was asked for where only chosen ones are there".into())),
        }
    }
}

/// A block that is being run, part by part.
pub struct BlockRun<'a> {
    model: &'a Transformer,
    layer: usize,
    plan: &'a BlockPlan,
    context: &'a Context,
    input: Value,
    /// Of the parts that have been run.
    values: Vec<Option<Value>>,
}

impl<'a> BlockRun<'a> {
    /// Of block `layer` on `x`, given at the plan's input rows.
    pub fn new(
        model: &'a Transformer,
        layer: usize,
        plan: &'a BlockPlan,
        x: Tensor,
        context: &'a Context,
    ) -> Self {
        let input = Value::new(x, plan.input);
        Self { model, layer, plan, context, input, values: Vec::with_capacity(plan.steps.len()) }
    }

    /// Runs the parts before part `end` that have not been run yet.
    pub fn run_to(&mut self, end: usize) -> Result<()> {
        for index in self.values.len()..end {
            let value = match self.plan.needed[index] {
                Some(rows) => Some(Value::new(self.run_part(index, rows)?, rows)),
                None => None,
            };
            self.values.push(value);
        }
        Ok(())
    }

    fn run_part(&self, index: usize, rows: Rows) -> Result<Tensor> {
        let (plan, context) = (self.plan, self.context);
        let part = &self.model.spec().parts[index];
        let reads = &plan.reads[index];
        let read = |slot: Slot, rows: Rows| self.value(slot)?.at(rows, context);
        let run = |module: &Module| match module.attention() {
            Some(attention) => self.attend(attention, reads[0], rows),
            None => {
                let inputs = reads.iter().map(|slot| read(*slot, rows)).collect::<Result<Vec<_>>>()?;
                module.forward(&inputs)
            }
        };
        let own = || run(self.model.module(self.layer, index));
        match &plan.steps[index] {
            Step::Own => own(),
            Step::Map(map) => Ok(map.forward(read(reads[0], rows)?)?),
            Step::MapAtChosen(map) => {
                let mapped = map.forward(read(part.map_input(), Rows::Chosen)?)?;
                Ok(put_rows(&own()?, &context.chosen_rows, &mapped)?)
            }
            Step::After(module) => run(module),
        }
    }

    /// What `rows` of the batch get by `attention` from all of `slot`.
    fn attend(&self, attention: &SelfAttention, slot: Slot, rows: Rows) -> Result<Tensor> {
        let (context, value) = (self.context, self.value(slot)?);
        let (keys, values) = attention.keys_values(value.at(Rows::Every, context)?, &context.every)?;
        Ok(attention.attend(value.at(rows, context)?, context.rows(rows), (&keys, &values))?)
    }

    fn value(&self, slot: Slot) -> Result<&Value> {
        let value = match slot {
            Slot::BlockInput => Some(&self.input),
            Slot::Part(part) => self.values.get(part).and_then(Option::as_ref),
        };
        value.ok_or_else(|| Error::Internal(format!("{slot:?} of block {} was not computed", self.layer)))
    }

    /// The output of part `part`, which the plan keeps, at the chosen rows.
    pub fn kept(&self, part: usize) -> Result<Tensor> {
        Ok(self.value(Slot::Part(part))?.at(Rows::Chosen, self.context)?.clone())
    }

    /// Runs what is left of the block, and returns its output.
    pub fn finish(mut self) -> Result<Tensor> {
        self.run_to(self.plan.steps.len())?;
        let missing = || Error::Internal(format!("block {} has no output", self.layer));
        Ok(self.values.pop().flatten().ok_or_else(missing)?.tensor)
    }

    /// This run, from part `at` on by another plan, which does the same up to there ([`BlockPlan::same_until`]).
    pub fn under(&self, plan: &'a BlockPlan, at: usize) -> Result<Self> {
        let input = Value::new(self.input.at(plan.input, self.context)?.clone(), plan.input);
        Ok(Self { plan, input, values: self.values[..at].to_vec(), ..*self })
    }

    /// This run with the rows of `other` behind its own, both run up to part `at`: up to there this plan does the same as
    /// the other one ([`BlockPlan::same_until`]). `context` is that of all the rows.
    pub fn join(self, other: &BlockRun, at: usize, context: &'a Context) -> Result<Self> {
        let plan = self.plan;
        let read_later = |slot: Slot| {
            (at..plan.steps.len()).any(|part| plan.needed[part].is_some() && plan.reads[part].contains(&slot))
        };
        let join = |slot: Slot| -> Result<Option<Value>> {
            if !read_later(slot) {
                return Ok(None);
            }
            let (own, theirs) = (self.value(slot)?, other.value(slot)?);
            let tensor = Tensor::cat(&[&own.tensor, theirs.at(own.rows, other.context)?], 0)?;
            Ok(Some(Value::new(tensor, own.rows)))
        };
        let values = (0..at).map(|part| join(Slot::Part(part))).collect::<Result<_>>()?;
        let input = join(Slot::BlockInput)?.unwrap_or_else(|| self.input.clone());
        Ok(Self { context, input, values, ..self })
    }
}
