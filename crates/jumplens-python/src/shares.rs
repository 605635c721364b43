//! What `jumplens.ray` does on the machines of a cluster: shares of a run to sums, sums to maps, shares to predictions.

use crate::call::{Stop, call};
use crate::error::of_library;
use crate::path::FilePath;
use crate::threads::detached;
use jumplens::hub::{ModelFiles, Sources};
use jumplens::manifest::Manifest;
use jumplens::models::describe;
use jumplens::moments::{self, MomentsFile, Shard};
use jumplens::nn::Isa;
use jumplens::progress::{Observer, Silent};
use jumplens::run::{self, ShareUse};
use jumplens::shards;
use jumplens::shortcut::Fits;
use jumplens::states;
use jumplens::words::Cast;
use jumplens_cli::sources;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often Python is told of progress.
const OFTEN: Duration = Duration::from_millis(300);

/// Tells Python how much is done, and of what, and keeps what is to be said.
struct Told<'a> {
    stop: &'a Stop,
    advance: Option<&'a Py<PyAny>>,
    unit: Cell<&'static str>,
    untold: Cell<u64>,
    told: Cell<Instant>,
    notes: RefCell<Vec<String>>,
}

impl<'a> Told<'a> {
    fn new(stop: &'a Stop, advance: Option<&'a Py<PyAny>>) -> Self {
        let (unit, untold, told) = (Cell::default(), Cell::default(), Cell::new(Instant::now()));
        Self { stop, advance, unit, untold, told, notes: RefCell::default() }
    }

    fn tell(&self) {
        let amount = self.untold.take();
        self.told.set(Instant::now());
        if let Some(advance) = self.advance.filter(|_| amount > 0) {
            // Whoever counts may have gone.
            let _ = Python::attach(|py| advance.call1(py, (amount, self.unit.get())).map(drop));
        }
    }

    /// What was to be said, in order.
    fn said(self) -> Vec<String> {
        self.tell();
        self.notes.into_inner()
    }
}

impl Observer for Told<'_> {
    fn begin(&self, _: &'static str, _: u64, unit: &'static str) {
        self.tell();
        self.unit.set(unit);
    }

    fn advance(&self, amount: u64) {
        self.untold.set(self.untold.get() + amount);
        if self.told.get().elapsed() > OFTEN {
            self.tell();
        }
    }

    fn note(&self, line: &str) {
        self.notes.borrow_mut().push(line.to_owned());
    }

    fn cancelled(&self) -> bool {
        self.stop.is_wanted()
    }
}

fn manifest_of(text: &str) -> PyResult<Manifest> {
    serde_json::from_str(text)
        .map_err(|error| PyValueError::new_err(format!("no manifest of a run: {error}")))
}

fn shard(index: usize, of: usize) -> PyResult<Shard> {
    format!("{index}/{of}").parse().map_err(PyValueError::new_err)
}

/// The model of a run, loaded to work on the run's shares: what `jumplens.ray` has on each node.
#[pyclass(frozen, module = "jumplens._jumplens")]
pub struct Worker {
    worker: Arc<run::Worker>,
}

#[pymethods]
impl Worker {
    /// Of the run whose `manifest.json` is `manifest`.
    #[new]
    fn new(py: Python, manifest: &str) -> PyResult<Self> {
        let manifest = manifest_of(manifest)?;
        let work = move |_: &Stop| run::Worker::new(&manifest, &sources(), &Silent).map_err(of_library);
        Ok(Self { worker: Arc::new(call(py, work)?) })
    }

    /// Runs the share's samples, lines of JSON, and writes their sums to `out`; calls `advance` with numbers and of what they are, tokens
    /// first. Gives what has to be said.
    #[pyo3(signature = (index, of, train, val, folder, out, advance = None))]
    fn sums(
        &self,
        py: Python,
        index: usize,
        of: usize,
        train: Vec<u8>,
        val: Vec<u8>,
        folder: FilePath,
        out: FilePath,
        advance: Option<Py<PyAny>>,
    ) -> PyResult<Vec<String>> {
        let (worker, shard) = (self.worker.clone(), shard(index, of)?);
        call(py, move |stop| {
            let told = Told::new(stop, advance.as_ref());
            let work = || {
                let train = worker.samples(&train, &folder.0, "train")?;
                let val = worker.samples(&val, &folder.0, "val")?;
                // That of one share is enough.
                if shard.index == 1 {
                    worker.warnings(&train)?.iter().for_each(|line| told.warning(line));
                }
                worker.sums(shard, [&train, &val], &folder.0, &out.0, &told)
            };
            work().map_err(of_library)?;
            Ok(told.said())
        })
    }

    /// Evaluates the share's validation samples with `maps`, and writes their predictions to `out`; calls `advance` as `sums` does.
    #[pyo3(signature = (index, of, val, folder, maps, out, advance = None))]
    fn evaluate(
        &self,
        py: Python,
        index: usize,
        of: usize,
        val: Vec<u8>,
        folder: FilePath,
        maps: FilePath,
        out: FilePath,
        advance: Option<Py<PyAny>>,
    ) -> PyResult<Vec<String>> {
        let (worker, shard) = (self.worker.clone(), shard(index, of)?);
        call(py, move |stop| {
            let told = Told::new(stop, advance.as_ref());
            let work = || {
                let val = worker.samples(&val, &folder.0, "val")?;
                worker.evaluate(shard, &val, &folder.0, &maps.0, &out.0, &told)
            };
            work().map_err(of_library)?;
            Ok(told.said())
        })
    }
}

/// A file of sums, looked through once.
#[pyclass(frozen, module = "jumplens._jumplens")]
pub struct SumsFile {
    file: Arc<MomentsFile>,
}

#[pymethods]
impl SumsFile {
    #[new]
    fn new(py: Python, path: FilePath) -> PyResult<Self> {
        let file = call(py, move |_| MomentsFile::open(&path.0).map_err(of_library))?;
        Ok(Self { file: Arc::new(file) })
    }

    /// Fits the maps that the run of `manifest` is for, from the layers `first` to before `end`, into `folder`.
    fn fit(&self, py: Python, manifest: &str, first: usize, end: usize, folder: FilePath) -> PyResult<()> {
        let (file, fits) = (self.file.clone(), manifest_of(manifest)?.fits);
        call(py, move |stop| {
            let told = Told::new(stop, None);
            shards::fit_sources(&file, &fits, first..end, &folder.0, &told).map_err(of_library)
        })
    }
}

/// Adds up files of sums.
#[pyfunction]
pub fn merge_sums(py: Python, files: Vec<PathBuf>, out: FilePath) -> PyResult<()> {
    call(py, move |stop| moments::merge(&files, &out.0, true, &Told::new(stop, None)).map_err(of_library))
}

/// Puts together the maps from all layers.
#[pyfunction]
pub fn join_fits(py: Python, parts: Vec<PathBuf>, folder: FilePath) -> PyResult<()> {
    call(py, move |stop| {
        shards::join_fits(&parts, &folder.0, false, &Told::new(stop, None)).map_err(of_library)
    })
}

/// Whether what a share was worked into, a file or a folder of maps, is there as it was written.
#[pyfunction]
pub fn is_whole(py: Python, path: FilePath) -> PyResult<bool> {
    detached(py, || if path.0.is_dir() { shards::is_whole_fit(&path.0) } else { run::is_whole(&path.0) })
}

/// Where samples begin and end.
type Ends = (usize, usize);

/// From where to where the shares have training and validation samples.
#[pyfunction]
pub fn samples_of_shares(manifest: &str, of: usize) -> PyResult<Vec<(Ends, Ends)>> {
    let shares = run::samples_of_shares(&manifest_of(manifest)?, of).map_err(of_library)?;
    let ends = |range: Range<usize>| (range.start, range.end);
    Ok(shares.into_iter().map(|[train, val]| (ends(train), ends(val))).collect())
}

/// What a run in shares is about, and what a share of it takes, in bytes.
#[pyclass(frozen, get_all, module = "jumplens._jumplens")]
pub struct ShareNeeds {
    n_layers: usize,
    d_model: usize,
    /// Bytes of a file of sums.
    sums: u64,
    /// Bytes of memory.
    memory: u64,
    /// Bytes of the states of a share.
    states: u64,
    /// Tokens that are run in all, and those of validation samples among them.
    tokens: usize,
    val_tokens: usize,
    has_head: bool,
    /// The casts that are measured, and those that run blocks, which are not.
    casts: Vec<String>,
    left_out: Vec<String>,
}

/// Of the run in `folder` whose `manifest.json` is `manifest`, in so many shares; no tensor is read for it.
#[pyfunction]
pub fn share_needs(
    py: Python,
    manifest: &str,
    folder: FilePath,
    of: usize,
    threads: usize,
) -> PyResult<ShareNeeds> {
    let manifest = manifest_of(manifest)?;
    call(py, move |_| {
        let name = manifest.model.as_ref().map(|model| model.name()).unwrap_or_default();
        let its = Sources { allow_unread: manifest.unread.clone(), ..sources() };
        let files = ModelFiles::find(&name, &its, &Silent).map_err(of_library)?;
        let model = describe(&files).map_err(of_library)?;
        let [train, val] = [manifest.train.div_ceil(of), manifest.val.div_ceil(of)];
        let fits: &Fits = &manifest.fits;
        let (n_layers, d_model) = (model.spec.n_layers, model.spec.d_model);
        let casts = run::measured_from_sums(fits);
        let [train_tokens, val_tokens] =
            run::tokens_of_samples(&folder.0, &model.spec).map_err(of_library)?;
        let of = ShareUse {
            dtype: manifest.dtype,
            train,
            val,
            fits: fits.clone(),
            threads,
            has_head: model.has_head,
            disk: files.all().iter().map(|file| file.bytes().len() as u64).sum(),
        };
        Ok(ShareNeeds {
            n_layers,
            d_model,
            sums: run::sums_bytes(n_layers, d_model, fits),
            memory: run::share_memory_bytes(&model.spec, &model.contents, &of),
            states: states::disk_bytes(&model.spec, 0, train + val),
            tokens: train_tokens + val_tokens,
            val_tokens,
            has_head: model.has_head,
            casts: casts.iter().map(ToString::to_string).collect(),
            left_out: fits.blocks().into_iter().map(|cast| Cast::Blocks(cast).to_string()).collect(),
        })
    })
}

/// The vector instructions that this process computes with.
#[pyfunction]
pub fn isa() -> String {
    Isa::current().to_string()
}
