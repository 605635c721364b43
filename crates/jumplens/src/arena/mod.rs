//! The arena: every lens on the same states, splits and figures. A lens is a map from a layer's state to the last one's, affine
//! at most, and a way to fit it; the head is the model's.
//!
//! ```text
//! run folder ─samples, states→ closed forms, lenses through the head ─┐
//!      └─training sentences→ prompts → mean derivatives (`lenses/`) ──┴─maps→ evaluation → arena tables
//! ```
//!
//! The folder is a run's, with all that one has; what is compared is in tables of its own.

mod geometry;
mod paired;
mod tables;

pub use paired::Third;
pub use tables::{CostRow, DifferenceRow, FigureRow, MapRow, ThirdRow};

use crate::eval::tables::{ExitRow, R2Row, read_csv, write_csv};
use crate::eval::{Evaluation, Places, early_exit, layers_saved};
use crate::files::write_atomically;
use crate::hub::{ModelFiles, Sources};
use crate::jacobian::{self, JacobiansFile, PromptSource, SHORTEST};
use crate::lenses;
use crate::models::{Kind, describe};
use crate::progress::{Observer, check};
use crate::run::{Asked, Existing, Run, Settings, remove_stale};
use crate::shortcut::{Fits, Pairs, Shortcuts};
use crate::store::Stage;
use crate::tokenize::{Sample, Tokenizer, read_samples};
use crate::words::{Cast, DerivativeCast, RESULTS, samples_file};
use crate::{Error, Result};
use jumplens_core::cast::Form;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The folder of lenses that are derivatives, in a run's.
const LENSES: &str = "lenses";
/// The prompts that they are taken on.
const PROMPTS: &str = "prompts.jsonl";
/// Seconds that each lens took, as far as they are fitted.
const TIMES: &str = "arena.json";

/// What is held against what.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The lenses; where none are named, [`usual`].
    pub lenses: Vec<Cast>,
    /// Prompts that derivatives are taken on, made of the training sentences.
    pub prompts: usize,
    /// Tokens of each.
    pub prompt_tokens: usize,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Means over each third of the depth, lens by lens.
    pub thirds: Vec<ThirdRow>,
    /// What each lens cost.
    pub costs: Vec<CostRow>,
}

/// The lenses of an arena where none are named.
pub fn usual(kind: Kind) -> Vec<Cast> {
    let map = |intercept, form| Cast::Map { intercept, form };
    let closed = [Cast::Id, Cast::MAT, map(true, Form::Plain), map(false, Form::Ridge)];
    let of_states = closed.into_iter().chain(lenses::through_head());
    let derivatives = DerivativeCast::ALL.into_iter().filter(|_| kind == Kind::Causal);
    of_states.chain(derivatives.map(Cast::Derivative)).collect()
}

/// Holds lenses against one another in the run folder `folder`. `asked` is what the run is made from, over `settings`.
///
/// # Errors
/// Those of [`Run::begin`] and [`Run::resume`], of [`jacobian::fit`] and of a run's stages; [`Error::NoHead`] where the model makes
/// no predictions; [`Error::Option`] for lenses that cannot be held against one another, or prompts that cannot be made.
pub fn arena(
    folder: &Path,
    asked: &Asked,
    settings: &Settings,
    request: &Request,
    existing: Existing,
    sources: &Sources,
    observer: &dyn Observer,
) -> Result<Outcome> {
    if let Some(cast) = request.lenses.iter().find(|cast| matches!(cast, Cast::Mean | Cast::Blocks(_))) {
        return Err(Error::Option(format!("`{cast}` is no map from a state to the last: name others")));
    }
    let name = asked.model.as_deref().unwrap_or(&settings.model);
    let kind = describe(&ModelFiles::find(name, sources, observer)?)?.spec.kind;
    let mut lenses = if request.lenses.is_empty() { usual(kind) } else { request.lenses.clone() };
    // The others are held against it.
    if !lenses.contains(&Cast::MAT) {
        lenses.push(Cast::MAT);
    }
    let derivatives: Vec<DerivativeCast> =
        DerivativeCast::ALL.into_iter().filter(|cast| lenses.contains(&Cast::Derivative(*cast))).collect();
    if let (Kind::Masked, Some(cast)) = (kind, derivatives.first()) {
        return Err(Error::Option(format!(
            "`{name}` is a masked language model, in which every position sees every other, and `{cast}` is taken of causal \
             models: name other lenses"
        )));
    }
    let own: Vec<Cast> = lenses.iter().filter(|cast| !matches!(cast, Cast::Derivative(_))).cloned().collect();
    let fits = Fits::only(&own, asked.ridge, Pairs::ToFinal);
    let asked = Asked { pairs: Some(Pairs::ToFinal), casts: Some(own), ..asked.clone() };
    let mut run = match existing {
        Existing::Resume => {
            Run::resume(folder, &asked, &Settings { fits, ..settings.clone() }, sources, observer)?
        }
        _ => Run::begin(folder, &asked.over(settings), existing, sources, observer)?,
    };
    if existing == Existing::Overwrite {
        remove_stale(folder, &[LENSES, PROMPTS, TIMES])?;
    }
    if run.manifest().headless {
        let model = run.manifest().model_name().to_owned();
        return Err(Error::NoHead { model });
    }
    // Before hours are spent.
    let prompts = match derivatives.is_empty() {
        true => Vec::new(),
        false => prompts(&run, request, observer)?,
    };
    let mut times = read_times(folder)?;
    if !run.manifest().is_done(Stage::States) {
        run.states(observer)?;
    }
    if !run.manifest().is_done(Stage::Fit) {
        times.extend(run.fit_timed(run.manifest().fits.clone(), observer)?);
        write_times(folder, &times)?;
    }
    let made = take_derivatives(&run, &derivatives, &prompts, &mut times, sources, observer)?;
    run.measure_with(&made, observer)?;
    run.r2(None, observer)?;
    let results = folder.join(RESULTS);
    let r2: Vec<R2Row> = read_csv(&results.join("r2.csv"))?;
    let maps = geometry::maps(run.sizes(), folder, &made, observer)?;
    let mut costs = costs(&run, &lenses, request, &times)?;
    let (n_layers, seed, mut thirds) = (run.sizes().n_layers, run.manifest().seed, Vec::new());
    let write = &mut |evaluation: &Evaluation, places: &Places| {
        let (mut figures, differences, means) = paired::tables(evaluation, &places.sentences(), seed);
        for row in &mut figures {
            let is_its = |r2: &&R2Row| r2.mapping == row.mapping && r2.from == row.layer && r2.to == n_layers;
            row.r2 = r2.iter().find(is_its).map(|row| row.r2);
        }
        let rule = places.exit_rule(kind);
        let exits: Vec<ExitRow> = evaluation.of_states().flat_map(|cast| early_exit(cast, &rule)).collect();
        for row in &mut costs {
            row.layers_saved = layers_saved(&exits, &row.mapping, n_layers);
        }
        thirds = means;
        write_csv(&results.join("arena.csv"), &figures)?;
        write_csv(&results.join("arena_differences.csv"), &differences)?;
        write_csv(&results.join("arena_thirds.csv"), &thirds)?;
        write_csv(&results.join("arena_cost.csv"), &costs)?;
        write_csv(&results.join("arena_maps.csv"), &maps)
    };
    run.evaluate_and(None, write, observer)?;
    run.plot(observer)?;
    Ok(Outcome { thirds, costs })
}

/// Takes the derivatives that are not there yet, each into a folder of its own; returns these.
fn take_derivatives(
    run: &Run,
    casts: &[DerivativeCast],
    prompts: &[Vec<u32>],
    times: &mut BTreeMap<Cast, f64>,
    sources: &Sources,
    observer: &dyn Observer,
) -> Result<Vec<PathBuf>> {
    if casts.is_empty() {
        return Ok(Vec::new());
    }
    let file = run.folder().join(PROMPTS);
    let text: Vec<String> = prompts.iter().map(line).collect::<Result<_>>()?;
    write_atomically(&file, text.concat().as_bytes())?;
    let model = run.manifest().model.as_ref().map(|model| model.name()).unwrap_or_default();
    let mut made = Vec::new();
    for cast in casts {
        let folder = run.folder().join(LENSES).join(cast.to_string());
        if Shortcuts::open(&folder).is_ok() {
            let there = JacobiansFile::find(&folder)?;
            if there.is_none_or(|file| file.record.prompts.sha256 != jacobian::digest_of(prompts)) {
                return Err(Error::Option(format!(
                    "`{}` is of other prompts than those that are asked for now: ask for as many of as many tokens, or begin \
                     elsewhere",
                    folder.display()
                )));
            }
        } else {
            let request = jacobian::Request {
                model: model.clone(),
                casts: vec![*cast],
                prompts: PromptSource::Ids(file.clone()),
                shard: None,
                trim: None,
                overwrite: false,
            };
            let began = Instant::now();
            jacobian::fit(&request, &folder, sources, observer)?;
            *times.entry(Cast::Derivative(*cast)).or_default() += began.elapsed().as_secs_f64();
            write_times(run.folder(), times)?;
        }
        made.push(folder);
    }
    Ok(made)
}

/// A line of a file of prompts.
fn line(ids: &Vec<u32>) -> Result<String> {
    #[derive(Serialize)]
    struct Line<'a> {
        ids: &'a [u32],
    }
    let line = serde_json::to_string(&Line { ids }).map_err(|error| Error::Internal(error.to_string()))?;
    Ok(line + "\n")
}

/// Prompts of the training sentences, one behind the other: none of what is measured on.
fn prompts(run: &Run, request: &Request, observer: &dyn Observer) -> Result<Vec<Vec<u32>>> {
    let spec = run.spec().ok_or_else(|| Error::Internal("a run of a model has none".into()))?;
    let (wanted, tokens) = (request.prompts, request.prompt_tokens);
    if wanted == 0 || !(SHORTEST..=spec.max_positions).contains(&tokens) {
        return Err(Error::Option(format!(
            "{wanted} prompts of {tokens} tokens: there has to be a prompt, and of {SHORTEST} to {} tokens",
            spec.max_positions
        )));
    }
    let samples = read_samples(&run.folder().join(samples_file("train")), Some(spec))?;
    let tokenizer =
        if samples.iter().all(|sample| sample.text.is_some()) { run.tokenizer().ok() } else { None };
    let (mut made, mut ids, mut text) = (Vec::new(), Vec::new(), String::new());
    for (at, sample) in samples.iter().enumerate() {
        check(observer)?;
        if at > 0 && samples[at - 1].is_of_the_same_sentence(sample, spec.kind) {
            continue;
        }
        join(sample, tokenizer.as_ref(), &mut text, &mut ids)?;
        if ids.len() >= tokens {
            ids.truncate(tokens);
            made.push(std::mem::take(&mut ids));
            text.clear();
        }
        if made.len() == wanted {
            return Ok(made);
        }
    }
    Err(Error::Option(format!(
        "the training sentences make {} prompts of {tokens} tokens, and {wanted} are asked for: ask for fewer or shorter ones, \
         or for more sentences",
        made.len()
    )))
}

/// Puts a sentence behind those before it: as a text, where that is known, else its tokens.
fn join(sample: &Sample, tokenizer: Option<&Tokenizer>, text: &mut String, ids: &mut Vec<u32>) -> Result<()> {
    match (tokenizer, &sample.text) {
        (Some(tokenizer), Some(own)) => {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(own.trim());
            *ids = tokenizer.encode(text)?;
        }
        _ => ids.extend(&sample.ids),
    }
    Ok(())
}

fn read_times(folder: &Path) -> Result<BTreeMap<Cast, f64>> {
    let path = folder.join(TIMES);
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(Error::format(&path)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(Error::io("read", &path)(error)),
    }
}

fn write_times(folder: &Path, times: &BTreeMap<Cast, f64>) -> Result<()> {
    let text = serde_json::to_vec_pretty(times).map_err(|error| Error::Internal(error.to_string()))?;
    write_atomically(&folder.join(TIMES), &text)
}

/// What each lens took.
fn costs(run: &Run, lenses: &[Cast], request: &Request, times: &BTreeMap<Cast, f64>) -> Result<Vec<CostRow>> {
    let samples = read_samples(&run.folder().join(samples_file("train")), run.spec())?;
    let sizes = run.sizes();
    let is_masked = run.spec().is_some_and(|spec| spec.kind == Kind::Masked);
    let prefix = |sample: &Sample| if is_masked { sample.ids.len() } else { sample.position + 1 };
    let tokens: usize = samples.iter().map(prefix).sum();
    let row = |cast: &Cast| {
        let (samples, prompts, tokens, backward) = match cast {
            Cast::Id => (0, 0, 0, 0),
            Cast::Derivative(_) => {
                let (prompts, tokens) = (request.prompts, request.prompt_tokens);
                (0, prompts, prompts * tokens, prompts * sizes.d_model)
            }
            _ => (samples.len(), 0, tokens, 0),
        };
        CostRow {
            mapping: cast.clone(),
            seconds: if *cast == Cast::Id { Some(0.0) } else { times.get(cast).copied() },
            samples,
            prompts,
            tokens,
            backward_passes: backward,
            layers_saved: None,
        }
    };
    Ok(lenses.iter().map(row).collect())
}
