//! Hidden states at the chosen positions, on disk by layer.

mod foreign;

pub use foreign::ForeignStates;
pub(crate) use foreign::refused;

use crate::batch::PackedBatch;
use crate::files::{
    Mapped, create_anew, create_folder, hexadecimal, open_unfinished, sync, sync_file, sync_names, temporary,
};
use crate::models::{Kind, Spec, Transformer};
use crate::nn::with_values;
use crate::progress::{Observer, check};
use crate::runner::{BlockRun, Context, Plan, Rows};
use crate::tokenize::Sample;
use crate::words::Stage;
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use jumplens_core::linalg::parallel;
use safetensors::tensor::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

/// The tensor of a state file.
const TENSOR: &str = "states";
/// Samples that are run, and written, at one time: the state files grow by this many rows.
pub const CHUNK: usize = 1024;
/// Chunks whose batches are shared out among the threads at one time.
const ROUND: usize = 16;
/// Tokens in a packed batch.
pub const TOKEN_BUDGET: usize = 1024;

/// The batches that `samples` are run in, from the beginning of a chunk on.
pub(crate) fn batches(samples: &[Sample], kind: Kind) -> Vec<PackedBatch> {
    samples.chunks(CHUNK).flat_map(|chunk| PackedBatch::pack(chunk, kind, TOKEN_BUDGET)).collect()
}

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
    /// Width of a state.
    pub d: usize,
    /// How many tokens were run for them.
    pub tokens: usize,
}

impl StateChunk {
    fn new(spec: &Spec, keep_attention: bool) -> Self {
        Self {
            layers: vec![Vec::new(); spec.n_layers + 1],
            attention: vec![Vec::new(); if keep_attention { spec.n_layers } else { 0 }],
            d: spec.d_model,
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
pub fn run_samples(model: &Transformer, samples: &[Sample], keep_attention: bool) -> Result<StateChunk> {
    let mut chunk = StateChunk::new(model.spec(), keep_attention);
    let batches = PackedBatch::pack(samples, model.spec().kind, TOKEN_BUDGET);
    run_batches(model, &batches, keep_attention, |index, states| chunk.append(&batches[index], &states))?;
    Ok(chunk)
}

/// The states of the layers 0…L at every position of one sequence, `[tokens, d]` each.
pub(crate) fn run_sequence(model: &Transformer, ids: &[u32]) -> Result<Vec<Tensor>> {
    let plan = Plan::new(model, &[], |_, _| None)?;
    Ok(run_batch(model, &plan, &[], &PackedBatch::whole(ids))?.layers)
}

/// Runs batches side by side. `take` gets the states of each with its number, in order, and may fail to stop the run.
fn run_batches(
    model: &Transformer,
    batches: &[PackedBatch],
    keep_attention: bool,
    take: impl FnMut(usize, BatchStates) -> Result<()>,
) -> Result<()> {
    let kept: Vec<usize> =
        if keep_attention { model.spec().attention_part().into_iter().collect() } else { vec![] };
    let plan = Plan::new(model, &kept, |_, _| None)?;
    parallel::for_each(batches, usize::MAX, |batch| run_batch(model, &plan, &kept, batch), take)
}

/// The states of one batch at the chosen rows, `[sequences, d]` each.
struct BatchStates {
    layers: Vec<Tensor>,
    attention: Vec<Tensor>,
}

fn run_batch(model: &Transformer, plan: &Plan, kept: &[usize], batch: &PackedBatch) -> Result<BatchStates> {
    let spec = model.spec();
    let context = Context::new(batch, spec.kind, 1);
    let mut states = BatchStates { layers: Vec::new(), attention: Vec::new() };
    let mut x = model.embed(batch)?;
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
pub(crate) fn last_states(model: &Transformer, plan: &Plan, batch: &PackedBatch) -> Result<Tensor> {
    let spec = model.spec();
    let context = Context::new(batch, spec.kind, 1);
    let blocks = 0..spec.n_layers;
    blocks.into_iter().try_fold(model.embed(batch)?, |x, layer| {
        BlockRun::new(model, layer, plan.block(layer), x, &context).finish()
    })
}

/// How far the state files of a split are.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// Whole chunks that are on disk.
    pub chunks: usize,
    /// SHA-256 of each file up to their end, by path below the run folder.
    pub digests: BTreeMap<String, String>,
}

/// What is certain of the state files of a split: chunks, and of each file the digest as far as it is.
#[derive(Default)]
pub struct Begun {
    /// Whole chunks that are there, as they were left.
    pub chunks: usize,
    /// In the order of the files.
    digests: Vec<Sha256>,
}

/// One split's state files in a run folder: `NN.safetensors` for each layer, and `attn/NN.safetensors` for each block
/// where the attention outputs are kept.
#[derive(Debug, Clone)]
pub struct StateFiles {
    run: PathBuf,
    /// `train` or `val`.
    split: &'static str,
}

impl StateFiles {
    /// The files of `split` below the run folder `run`.
    pub fn new(run: &Path, split: &'static str) -> Self {
        Self { run: run.to_owned(), split }
    }

    fn layer_name(&self, layer: usize) -> String {
        format!("{}/{}/{layer:02}.safetensors", Stage::States.place(), self.split)
    }

    fn attention_name(&self, layer: usize) -> String {
        format!("{}/{}/attn/{layer:02}.safetensors", Stage::States.place(), self.split)
    }

    /// The paths of all files, from the run folder on.
    fn names(&self, n_layers: usize, with_attention: bool) -> Vec<String> {
        let layers = (0..=n_layers).map(|layer| self.layer_name(layer));
        let attention = (0..n_layers).filter(|_| with_attention).map(|layer| self.attention_name(layer));
        layers.chain(attention).collect()
    }

    fn layer_path(&self, layer: usize) -> PathBuf {
        self.run.join(self.layer_name(layer))
    }

    /// True where the attention outputs are kept.
    pub(crate) fn has_attention(&self) -> bool {
        self.attention_path(0).exists()
    }

    fn attention_path(&self, layer: usize) -> PathBuf {
        self.run.join(self.attention_name(layer))
    }

    /// Opens the states of `layer`, which have to be those of `n` samples, of width `d`.
    pub(crate) fn layer_of(&self, layer: usize, n: usize, d: usize) -> Result<LayerStates<'static>> {
        let path = self.layer_path(layer);
        let file = LayerStates::open(&path)?;
        if (file.n, file.d) != (n, d) {
            let message = format!("{} states of width {}, where {n} of width {d} should be", file.n, file.d);
            return Err(Error::Format { path, message });
        }
        Ok(file)
    }

    /// What an earlier run left of the states of `n` samples, where all that it `kept` is there as it was left; none of it where
    /// a file is not, which is said.
    pub fn begun(
        &self,
        spec: &Spec,
        n: usize,
        with_attention: bool,
        kept: &Kept,
        observer: &dyn Observer,
    ) -> Result<Begun> {
        let rows = kept.chunks.saturating_mul(CHUNK).min(n);
        let mut digests = Vec::new();
        if rows == 0 {
            return Ok(Begun::default());
        }
        for name in self.names(spec.n_layers, with_attention) {
            check(observer)?;
            let path = self.run.join(&name);
            let whole = (header(n, spec.d_model).len() + 4 * rows * spec.d_model) as u64;
            match StateWriter::digest(&path, whole)? {
                Some(digest) if kept.digests.get(&name) == Some(&text_of(&digest)) => digests.push(digest),
                _ => {
                    observer.note(&format!(
                        "`{name}` is not as the manifest says: the {} samples are run from the first again",
                        self.split
                    ));
                    return Ok(Begun::default());
                }
            }
        }
        Ok(Begun { chunks: kept.chunks, digests })
    }

    /// Runs the model over `samples`, but for those of the chunks that have `begun`, and writes the files. `on_disk` is called
    /// when more chunks are on disk, with all that are, which is behind what is written: disks are waited for while the model
    /// runs. Returns the number of tokens run.
    pub fn collect(
        &self,
        model: &Transformer,
        samples: &[Sample],
        with_attention: bool,
        begun: Begun,
        observer: &dyn Observer,
        mut on_disk: impl FnMut(Kept) -> Result<()>,
    ) -> Result<usize> {
        let spec = model.spec();
        let names = self.names(spec.n_layers, with_attention);
        let paths: Vec<PathBuf> = names.iter().map(|name| self.run.join(name)).collect();
        paths.iter().filter_map(|path| path.parent()).try_for_each(create_folder)?;
        let rows = begun.chunks.saturating_mul(CHUNK).min(samples.len());
        let mut digests = begun.digests.into_iter();
        let writers = paths
            .iter()
            .map(|path| StateWriter::open(path, samples.len(), spec.d_model, rows, digests.next()));
        let mut writers = writers.collect::<Result<Vec<_>>>()?;
        sync_names(&paths)?;
        let mut syncing = Syncing::default();
        let mut tokens = 0;
        let chunks: Vec<&[Sample]> = samples.chunks(CHUNK).collect();
        let mut next = begun.chunks.min(chunks.len());
        let mut run = || -> Result<()> {
            for round in chunks[next..].chunks(ROUND) {
                // No batch crosses a chunk, but threads go on to the next chunk while the last batches of one are run.
                let packed: Vec<Vec<PackedBatch>> =
                    round.iter().map(|chunk| PackedBatch::pack(chunk, spec.kind, TOKEN_BUDGET)).collect();
                let ends: Vec<usize> =
                    packed.iter().map(|batches| batches.last().map_or(0, |b| b.samples.end)).collect();
                let batches: Vec<PackedBatch> = packed.into_iter().flatten().collect();
                let mut chunk = StateChunk::new(spec, with_attention);
                let mut at = 0;
                run_batches(model, &batches, with_attention, |index, states| {
                    let batch = &batches[index];
                    chunk.append(batch, &states)?;
                    observer.advance(batch.tokens() as u64);
                    check(observer)?;
                    if batch.samples.end < ends[at] {
                        return Ok(());
                    }
                    let whole = std::mem::replace(&mut chunk, StateChunk::new(spec, with_attention));
                    for (layer, rows) in whole.layers.iter().enumerate() {
                        self.check_finite(rows, layer, next * CHUNK, spec.d_model)?;
                    }
                    for (writer, rows) in writers.iter_mut().zip(whole.layers.iter().chain(&whole.attention))
                    {
                        writer.write(rows)?;
                    }
                    tokens += whole.tokens;
                    (at, next) = (at + 1, next + 1);
                    let digests = names.iter().cloned().zip(writers.iter().map(StateWriter::text)).collect();
                    syncing.written(Kept { chunks: next, digests }, &writers, &mut on_disk)
                })?;
            }
            Ok(())
        };
        let ended = run();
        // What was whole before it was stopped counts.
        let kept = syncing.finish(&mut on_disk);
        ended.and(kept)?;
        writers.into_iter().try_for_each(StateWriter::finish)?;
        sync(&paths)?;
        Ok(tokens)
    }

    /// Writes the file of `layer`, of `n` states of width `d`: the rows that `fill` calls with. Returns its path below the run folder,
    /// and its digest.
    pub(crate) fn write(
        &self,
        layer: usize,
        n: usize,
        d: usize,
        fill: impl FnOnce(&mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()>,
    ) -> Result<(String, String)> {
        let path = self.layer_path(layer);
        path.parent().map_or(Ok(()), create_folder)?;
        let mut writer = StateWriter::open(&path, n, d, 0, None)?;
        fill(&mut |rows| writer.write(rows))?;
        let digest = writer.text();
        writer.finish()?;
        sync(&[path])?;
        Ok((self.layer_name(layer), digest))
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

/// Where the states of a split are.
pub trait States: Sync {
    /// Those of `layer`, 0…L.
    fn layer(&self, layer: usize) -> Result<LayerStates<'_>>;

    /// The attention part's outputs in block `layer`.
    fn attention(&self, layer: usize) -> Result<LayerStates<'_>>;

    /// Those of the layers 0…`last`.
    fn layers(&self, last: usize) -> Result<Vec<LayerStates<'_>>> {
        (0..=last).map(|layer| self.layer(layer)).collect()
    }
}

impl States for StateFiles {
    fn layer(&self, layer: usize) -> Result<LayerStates<'_>> {
        LayerStates::open(&self.layer_path(layer))
    }

    fn attention(&self, layer: usize) -> Result<LayerStates<'_>> {
        LayerStates::open(&self.attention_path(layer))
    }
}

impl States for StateChunk {
    fn layer(&self, layer: usize) -> Result<LayerStates<'_>> {
        let states = self.layers.get(layer);
        let states = states.ok_or_else(|| Error::Internal(format!("there is no layer {layer}")))?;
        Ok(LayerStates::in_memory(states, self.d))
    }

    fn attention(&self, layer: usize) -> Result<LayerStates<'_>> {
        let kept = self.attention.get(layer);
        let kept = kept.ok_or_else(|| Error::Internal("the attention's outputs were not kept".into()))?;
        Ok(LayerStates::in_memory(kept, self.d))
    }
}

/// What a state file begins with.
fn header(n: usize, d: usize) -> Vec<u8> {
    let states =
        serde_json::json!({TENSOR: {"dtype": "F32", "shape": [n, d], "data_offsets": [0, n * d * 4]}});
    let states = states.to_string();
    // Tensors begin at a multiple of eight bytes.
    let length = states.len().next_multiple_of(8);
    let mut header = (length as u64).to_le_bytes().to_vec();
    header.extend(states.bytes());
    header.resize(8 + length, b' ');
    header
}

fn text_of(digest: &Sha256) -> String {
    hexadecimal(&digest.clone().finalize())
}

/// A state file that grows: written under its temporary name until it is whole.
struct StateWriter {
    path: PathBuf,
    file: Arc<File>,
    /// Of all that was written.
    digest: Sha256,
}

impl StateWriter {
    /// The file of `n` states of width `d`: a new one, or where it has a `digest` the one that is there, of whose rows the
    /// first `rows` count.
    fn open(path: &Path, n: usize, d: usize, rows: usize, digest: Option<Sha256>) -> Result<Self> {
        let part = temporary(path);
        let header = header(n, d);
        let attempt = || -> std::io::Result<(File, Sha256)> {
            let Some(digest) = digest else {
                let mut file = create_anew(&part)?;
                file.write_all(&header)?;
                return Ok((file, Sha256::new_with_prefix(&header)));
            };
            // A split that was whole when the run was stopped has its final name already.
            if !part.exists() {
                std::fs::rename(path, &part)?;
            }
            let file = open_unfinished(&part)?.ok_or(ErrorKind::NotFound)?;
            file.set_len((header.len() + 4 * rows * d) as u64)?;
            Ok((file, digest))
        };
        let (file, digest) = attempt().map_err(Error::io("write", &part))?;
        Ok(Self { path: path.to_owned(), file: Arc::new(file), digest })
    }

    /// The digest of the first `length` bytes of the file that becomes `path`, or has become it; `None` where there are not so
    /// many.
    fn digest(path: &Path, length: u64) -> Result<Option<Sha256>> {
        let part = temporary(path);
        let place = if part.exists() { &part } else { path };
        let read = || -> std::io::Result<Option<Sha256>> {
            let Some(file) = open_unfinished(place)? else { return Ok(None) };
            let (mut file, mut left) = (file.take(length), length);
            let mut digest = Sha256::new();
            let mut piece = vec![0; 1 << 20];
            while left > 0 {
                match file.read(&mut piece)? {
                    0 => return Ok(None),
                    n => {
                        digest.update(&piece[..n]);
                        left -= n as u64;
                    }
                }
            }
            Ok(Some(digest))
        };
        read().map_err(Error::io("read", place))
    }

    /// Writes rows behind those that are there.
    fn write(&mut self, rows: &[f32]) -> Result<()> {
        let bytes = bytemuck::cast_slice(rows);
        self.digest.update(bytes);
        (&*self.file).write_all(bytes).map_err(Error::io("write", &self.path))
    }

    /// The digest of all that was written.
    fn text(&self) -> String {
        text_of(&self.digest)
    }

    fn finish(self) -> Result<()> {
        std::fs::rename(temporary(&self.path), &self.path).map_err(Error::io("write", &self.path))
    }
}

/// State files that grow, and their names.
type Growing = Vec<(PathBuf, Arc<File>)>;

/// Waits for the disk beside the work that goes on, so that what a manifest counts is there, whatever happens to the machine.
#[derive(Default)]
struct Syncing {
    /// Waits for what it is given back with.
    thread: Option<(JoinHandle<Result<()>>, Kept)>,
    /// What was written since, and the files that it is in.
    written: Option<(Kept, Growing)>,
}

impl Syncing {
    /// Takes what is written by now. `on_disk` is called where more is on disk than before.
    fn written(
        &mut self,
        kept: Kept,
        writers: &[StateWriter],
        on_disk: &mut impl FnMut(Kept) -> Result<()>,
    ) -> Result<()> {
        self.written = Some((kept, writers.iter().map(|w| (w.path.clone(), w.file.clone())).collect()));
        if self.thread.as_ref().is_some_and(|(thread, _)| !thread.is_finished()) {
            return Ok(());
        }
        self.wait(on_disk)?;
        if let Some((kept, files)) = self.written.take() {
            let again = files.clone();
            match std::thread::Builder::new().spawn(move || sync_all(&files)) {
                Ok(thread) => self.thread = Some((thread, kept)),
                // No thread can be had: the work waits.
                Err(_) => {
                    sync_all(&again)?;
                    on_disk(kept)?;
                }
            }
        }
        Ok(())
    }

    /// Waits until all that was written is on disk.
    fn finish(mut self, on_disk: &mut impl FnMut(Kept) -> Result<()>) -> Result<()> {
        self.wait(on_disk)?;
        let Some((kept, files)) = self.written.take() else { return Ok(()) };
        sync_all(&files)?;
        on_disk(kept)
    }

    fn wait(&mut self, on_disk: &mut impl FnMut(Kept) -> Result<()>) -> Result<()> {
        let Some((thread, kept)) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_| Error::Internal("a thread that waits for the disk panicked".into()))??;
        on_disk(kept)
    }
}

fn sync_all(files: &[(PathBuf, Arc<File>)]) -> Result<()> {
    files.iter().try_for_each(|(path, file)| sync_file(file).map_err(Error::io("write", path)))
}

/// The states of one layer: in memory, or a file, tensor `states`, f32 `[n, d]`, mapped into it.
#[derive(Debug)]
pub struct LayerStates<'a> {
    values: Values<'a>,
    /// Samples.
    pub n: usize,
    /// Width of a state.
    pub d: usize,
}

#[derive(Debug)]
enum Values<'a> {
    /// Bytes of a file.
    Mapped(Mapped, std::ops::Range<usize>),
    InMemory(&'a [f32]),
}

impl<'a> LayerStates<'a> {
    /// Row-major `[n, d]`.
    pub fn in_memory(values: &'a [f32], d: usize) -> Self {
        Self { values: Values::InMemory(values), n: values.len() / d, d }
    }

    /// Opens a safetensors file with an f32 tensor `states` of two dimensions.
    pub fn open(path: &Path) -> Result<Self> {
        let map = Mapped::open(path)?;
        let (data, n, d) = {
            let tensors = SafeTensors::deserialize(&map).map_err(Error::format(path))?;
            let view = tensors.tensor(TENSOR).map_err(Error::format(path))?;
            let &[n, d] = view.shape() else {
                return Err(Error::format(path)(format!("`{TENSOR}` has shape {:?}", view.shape())));
            };
            let start = view.data().as_ptr() as usize - map.as_ptr() as usize;
            if view.dtype() != Dtype::F32 || !start.is_multiple_of(4) {
                return Err(Error::format(path)(format!("`{TENSOR}` is {:?} at byte {start}", view.dtype())));
            }
            (start..start + view.data().len(), n, d)
        };
        Ok(Self { values: Values::Mapped(map, data), n, d })
    }

    /// All states, row-major `[n, d]`.
    pub fn values(&self) -> &[f32] {
        match &self.values {
            Values::Mapped(map, data) => bytemuck::cast_slice(&map[data.clone()]),
            Values::InMemory(values) => values,
        }
    }

    /// The states of some samples as a tensor `[rows, d]`.
    pub fn rows(&self, samples: std::ops::Range<usize>) -> Result<Tensor> {
        let values = &self.values()[samples.start * self.d..samples.end * self.d];
        Ok(Tensor::from_slice(values, (samples.len(), self.d), &Device::Cpu)?)
    }
}
