//! Hidden states at the chosen positions, on disk by layer.

use crate::batch::PackedBatch;
use crate::error::{Error, Result};
use crate::files::{create_folder, temporary};
use crate::models::{Backbone, Spec};
use crate::nn::with_values;
use crate::parallel;
use crate::progress::{Observer, check};
use crate::runner::{BlockRun, Context, Plan, Rows};
use crate::tokenize::Sample;
use candle_core::{Device, Tensor};
use safetensors::tensor::{Dtype, SafeTensors};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Samples that are run, and written, at one time: the state files grow by this many rows.
pub const CHUNK: usize = 1024;
/// Chunks whose batches are shared out among the threads at one time.
const ROUND: usize = 16;
/// Tokens in a packed batch.
pub const TOKEN_BUDGET: usize = 1024;

/// Bytes that the states of a run take on disk, but for the files' headers: every layer's of both splits, and of the
/// train samples the output of every attention.
pub fn disk_bytes(spec: &Spec, train: usize, val: usize) -> u64 {
    let rows = (2 * spec.n_layers + 1) * train + (spec.n_layers + 1) * val;
    4 * spec.d_model as u64 * rows as u64
}

/// The states of some consecutive samples.
#[derive(Debug, Clone, PartialEq)]
pub struct StateChunk {
    /// `h_0 … h_L`, each row-major `[samples, d]`.
    pub layers: Vec<Vec<f32>>,
    /// The attention part's output in every block, where it was asked for; each row-major `[samples, d]`.
    pub attention: Vec<Vec<f32>>,
    /// How many tokens were run for them.
    pub tokens: usize,
}

impl StateChunk {
    fn new(spec: &Spec, keep_attention: bool) -> Self {
        Self {
            layers: vec![Vec::new(); spec.n_layers + 1],
            attention: vec![Vec::new(); if keep_attention { spec.n_layers } else { 0 }],
            tokens: 0,
        }
    }

    fn append(&mut self, batch: &PackedBatch, states: &BatchStates) -> Result<()> {
        let all = self.layers.iter_mut().chain(&mut self.attention);
        for (all, rows) in all.zip(states.layers.iter().chain(&states.attention)) {
            with_values(&rows.contiguous()?, |values| all.extend_from_slice(values))?;
        }
        self.tokens += batch.tokens();
        Ok(())
    }
}

/// Runs the model over `samples`, batches side by side, and keeps the states at the chosen positions.
pub fn run_samples(model: &dyn Backbone, samples: &[Sample], keep_attention: bool) -> Result<StateChunk> {
    let mut chunk = StateChunk::new(model.spec(), keep_attention);
    let batches = PackedBatch::pack(samples, model.spec().kind, TOKEN_BUDGET);
    run_batches(model, &batches, keep_attention, |index, states| chunk.append(&batches[index], &states))?;
    Ok(chunk)
}

/// The states of the layers 0…L at every position of one sequence, `[tokens, d]` each.
pub(crate) fn run_sequence(model: &dyn Backbone, ids: &[u32]) -> Result<Vec<Tensor>> {
    let plan = Plan::new(model, &[], |_, _| None)?;
    Ok(run_batch(model, &plan, &[], &PackedBatch::whole(ids))?.layers)
}

/// Runs batches side by side. `take` gets the states of each with its number, in order, and may fail to stop the run.
fn run_batches(
    model: &dyn Backbone,
    batches: &[PackedBatch],
    keep_attention: bool,
    take: impl FnMut(usize, BatchStates) -> Result<()>,
) -> Result<()> {
    let kept: Vec<usize> = if keep_attention { vec![model.spec().attention_part()?] } else { vec![] };
    let plan = Plan::new(model, &kept, |_, _| None)?;
    parallel::for_each(batches, usize::MAX, |batch| run_batch(model, &plan, &kept, batch), take)
}

/// The states of one batch at the chosen rows, `[sequences, d]` each.
struct BatchStates {
    layers: Vec<Tensor>,
    attention: Vec<Tensor>,
}

fn run_batch(model: &dyn Backbone, plan: &Plan, kept: &[usize], batch: &PackedBatch) -> Result<BatchStates> {
    let spec = model.spec();
    let context = Context::new(batch, spec.kind, 1);
    let mut states = BatchStates { layers: Vec::new(), attention: Vec::new() };
    let mut x = batch.embed(model)?;
    for layer in 0..spec.n_layers {
        states.layers.push(match plan.rows_before(layer) {
            Rows::Every => context.select(&x)?,
            Rows::Chosen => x.clone(),
        });
        let mut run = BlockRun::new(model, layer, plan.block(layer), x, &context);
        run.run_to(spec.parts.len())?;
        for part in kept {
            states.attention.push(run.kept(*part)?);
        }
        x = run.finish()?;
    }
    states.layers.push(x);
    Ok(states)
}

/// `h_L` at the chosen rows of `batch`, `[chosen, d]`; `plan` keeps nothing and replaces nothing.
pub(crate) fn last_states(model: &dyn Backbone, plan: &Plan, batch: &PackedBatch) -> Result<Tensor> {
    let spec = model.spec();
    let context = Context::new(batch, spec.kind, 1);
    let blocks = 0..spec.n_layers;
    blocks.into_iter().try_fold(model.embed(batch)?, |x, layer| {
        BlockRun::new(model, layer, plan.block(layer), x, &context).finish()
    })
}

/// One split's state files in a run folder: `NN.safetensors` for each layer, and `attn/NN.safetensors` for each block
/// where the attention outputs are kept.
#[derive(Debug, Clone)]
pub struct StateFiles {
    folder: PathBuf,
    /// `train` or `val`.
    split: &'static str,
}

impl StateFiles {
    /// The files of `split` below the run folder `run`.
    pub fn new(run: &Path, split: &'static str) -> Self {
        Self { folder: run.join("states").join(split), split }
    }

    fn layer_path(&self, layer: usize) -> PathBuf {
        self.folder.join(format!("{layer:02}.safetensors"))
    }

    fn attention_path(&self, layer: usize) -> PathBuf {
        self.folder.join("attn").join(format!("{layer:02}.safetensors"))
    }

    /// Opens the states of `layer`.
    pub fn layer(&self, layer: usize) -> Result<StateFile> {
        StateFile::open(&self.layer_path(layer))
    }

    /// Opens the states of `layer`, which have to be those of `n` samples, of width `d`.
    pub(crate) fn layer_of(&self, layer: usize, n: usize, d: usize) -> Result<StateFile> {
        let (path, file) = (self.layer_path(layer), self.layer(layer)?);
        if (file.n, file.d) != (n, d) {
            let message = format!("{} states of width {}, where {n} of width {d} should be", file.n, file.d);
            return Err(Error::Format { path, message });
        }
        Ok(file)
    }

    /// Opens the attention outputs of block `layer`.
    pub fn attention(&self, layer: usize) -> Result<StateFile> {
        StateFile::open(&self.attention_path(layer))
    }

    /// Runs the model over `samples` from chunk `first_chunk` on (the chunks before it are in the unfinished files of
    /// an earlier run), and writes the files. `chunk_done` is called when a chunk is on disk, with the number of chunks
    /// that are. Returns the number of tokens run.
    pub fn collect(
        &self,
        model: &dyn Backbone,
        samples: &[Sample],
        keep_attention: bool,
        first_chunk: usize,
        observer: &dyn Observer,
        mut chunk_done: impl FnMut(usize) -> Result<()>,
    ) -> Result<usize> {
        let spec = model.spec();
        create_folder(&self.folder)?;
        let mut paths: Vec<PathBuf> = (0..=spec.n_layers).map(|layer| self.layer_path(layer)).collect();
        if keep_attention {
            create_folder(&self.folder.join("attn"))?;
            paths.extend((0..spec.n_layers).map(|layer| self.attention_path(layer)));
        }
        let writers =
            paths.iter().map(|path| StateWriter::open(path, samples.len(), spec.d_model, first_chunk > 0));
        let mut writers = writers.collect::<Result<Vec<_>>>()?;
        let mut tokens = 0;
        let chunks: Vec<&[Sample]> = samples.chunks(CHUNK).collect();
        let mut next = first_chunk.min(chunks.len());
        for round in chunks[next..].chunks(ROUND) {
            // No batch crosses a chunk, but threads go on to the next chunk while the last batches of one are run.
            let packed: Vec<Vec<PackedBatch>> =
                round.iter().map(|chunk| PackedBatch::pack(chunk, spec.kind, TOKEN_BUDGET)).collect();
            let ends: Vec<usize> =
                packed.iter().map(|batches| batches.last().map_or(0, |b| b.samples.end)).collect();
            let batches: Vec<PackedBatch> = packed.into_iter().flatten().collect();
            let mut chunk = StateChunk::new(spec, keep_attention);
            let mut at = 0;
            run_batches(model, &batches, keep_attention, |index, states| {
                let batch = &batches[index];
                chunk.append(batch, &states)?;
                observer.advance(batch.tokens() as u64);
                check(observer)?;
                if batch.samples.end < ends[at] {
                    return Ok(());
                }
                let whole = std::mem::replace(&mut chunk, StateChunk::new(spec, keep_attention));
                let first = next * CHUNK;
                for (layer, rows) in whole.layers.iter().enumerate() {
                    self.check_finite(rows, layer, first, spec.d_model)?;
                }
                for (writer, rows) in writers.iter_mut().zip(whole.layers.iter().chain(&whole.attention)) {
                    writer.write(first, rows)?;
                }
                tokens += whole.tokens;
                (at, next) = (at + 1, next + 1);
                chunk_done(next)
            })?;
        }
        writers.into_iter().try_for_each(StateWriter::finish)?;
        Ok(tokens)
    }

    fn check_finite(&self, rows: &[f32], layer: usize, first_sample: usize, d: usize) -> Result<()> {
        match rows.iter().position(|value| !value.is_finite()) {
            None => Ok(()),
            Some(at) => Err(Error::NotFinite {
                split: self.split,
                layer,
                sample: first_sample + at / d,
                coordinate: at % d,
                value: rows[at],
            }),
        }
    }
}

/// A state file that grows: written under its temporary name until it is whole.
struct StateWriter {
    path: PathBuf,
    file: File,
    data_start: u64,
    d: usize,
}

impl StateWriter {
    fn open(path: &Path, n: usize, d: usize, resume: bool) -> Result<Self> {
        let header =
            serde_json::json!({"states": {"dtype": "F32", "shape": [n, d], "data_offsets": [0, n * d * 4]}});
        let mut header = header.to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        let part = temporary(path);
        let data_start = 8 + header.len() as u64;
        let attempt = || -> std::io::Result<File> {
            if resume {
                // A split that was whole when the run was stopped has its final name already.
                let existing = if part.exists() { &part } else { path };
                if *existing != part {
                    std::fs::rename(existing, &part)?;
                }
                let mut file = File::options().read(true).write(true).open(&part)?;
                let mut found = vec![0; header.len()];
                file.seek(SeekFrom::Start(8))?;
                file.read_exact(&mut found)?;
                if found != header {
                    return Err(std::io::Error::other("not the unfinished state file of this run"));
                }
                return Ok(file);
            }
            let mut file = File::create(&part)?;
            file.write_all(&(header.len() as u64).to_le_bytes())?;
            file.write_all(&header)?;
            Ok(file)
        };
        let file = attempt().map_err(Error::io("write", &part))?;
        Ok(Self { path: path.to_owned(), file, data_start, d })
    }

    /// Writes rows from row `first` on.
    fn write(&mut self, first: usize, rows: &[f32]) -> Result<()> {
        let offset = self.data_start + (first * self.d * 4) as u64;
        self.file
            .seek(SeekFrom::Start(offset))
            .and_then(|_| self.file.write_all(bytemuck::cast_slice(rows)))
            .map_err(Error::io("write", &self.path))
    }

    fn finish(self) -> Result<()> {
        std::fs::rename(temporary(&self.path), &self.path).map_err(Error::io("write", &self.path))
    }
}

/// A state file opened for reading: tensor `states`, f32 `[n, d]`, mapped into memory.
#[derive(Debug)]
pub struct StateFile {
    map: memmap2::Mmap,
    data: std::ops::Range<usize>,
    /// Samples.
    pub n: usize,
    /// Width of a state.
    pub d: usize,
}

impl StateFile {
    /// Opens a safetensors file with an f32 tensor `states` of two dimensions.
    pub fn open(path: &Path) -> Result<Self> {
        let file = crate::files::open(path)?;
        // SAFETY: the map is read-only, and this crate never changes a state file in place once it has its final name.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io("read", path))?;
        let (data, n, d) = {
            let tensors = SafeTensors::deserialize(&map).map_err(Error::format(path))?;
            let view = tensors.tensor("states").map_err(Error::format(path))?;
            let &[n, d] = view.shape() else {
                return Err(Error::format(path)(format!("`states` has shape {:?}", view.shape())));
            };
            let start = view.data().as_ptr() as usize - map.as_ptr() as usize;
            if view.dtype() != Dtype::F32 || !start.is_multiple_of(4) {
                return Err(Error::format(path)(format!("`states` is {:?} at byte {start}", view.dtype())));
            }
            (start..start + view.data().len(), n, d)
        };
        Ok(Self { map, data, n, d })
    }

    /// All states, row-major `[n, d]`.
    pub fn values(&self) -> &[f32] {
        bytemuck::cast_slice(&self.map[self.data.clone()])
    }

    /// The states of some samples as a tensor `[rows, d]`.
    pub fn rows(&self, samples: std::ops::Range<usize>) -> Result<Tensor> {
        let values = &self.values()[samples.start * self.d..samples.end * self.d];
        Ok(Tensor::from_slice(values, (samples.len(), self.d), &Device::Cpu)?)
    }
}
