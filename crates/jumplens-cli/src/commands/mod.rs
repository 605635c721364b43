//! The commands, one file each where there is more to one than a call.

mod arena;
mod compare;
mod completions;
mod derivatives;
mod doctor;
mod info;
mod lens;
mod maps;
mod moments;
mod prune;
mod run;
mod sentences;
mod shortcuts;
mod stage;

use crate::args::{BeginArgs, Command, UnreadArgs, usual};
use crate::printer::Printer;
use crate::progress::Progress;
use crate::shell::quoted;
use jumplens::run::{Asked, Existing, Run};
use jumplens::store::Manifest;
use std::path::Path;

/// Why a command did not end well.
#[derive(Debug)]
pub enum Failure {
    /// The library said so.
    Library(jumplens::Error),
    /// A model that was looked at cannot be trusted.
    Unsound(String),
    /// Standard output could not be written.
    Output(std::io::Error),
}

impl From<jumplens::Error> for Failure {
    fn from(error: jumplens::Error) -> Self {
        Self::Library(error)
    }
}

impl From<jumplens_core::Error> for Failure {
    fn from(error: jumplens_core::Error) -> Self {
        Self::from(jumplens::Error::from(error))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Output(error)
    }
}

/// Does what was asked for.
pub fn dispatch(command: Command, printer: &Printer) -> Result<(), Failure> {
    match command {
        Command::Run(args) => run::run(&args, printer),
        Command::Maps(args) => maps::maps(&args, printer),
        Command::Sentences(args) => sentences::sentences(&args, printer),
        Command::Samples(args) => stage::samples(&args, printer),
        Command::States(args) => stage::states(&args, printer),
        Command::Fit(args) => stage::fit(&args, printer),
        Command::Moments(args) => moments::moments(&args, printer),
        Command::Merge(args) => moments::merge(&args, printer),
        Command::R2(args) => stage::r2(&args, printer),
        Command::Evaluate(args) => stage::evaluate(&args, printer),
        Command::Plot(args) => stage::plot(&args, printer),
        Command::Lens(args) => lens::lens(&args, printer),
        Command::Shortcuts(command) => shortcuts::shortcuts(&command, printer),
        Command::Compare(args) => compare::run(&args, printer),
        Command::Arena(args) => arena::run(&args, printer),
        Command::Prune(args) => prune::run(&args, printer),
        Command::Info(args) => info::info(&args, printer),
        Command::Doctor(args) => doctor::doctor(&args, printer),
        Command::Completions(args) => completions::completions(&args, printer),
        Command::Man(args) => completions::man(&args, printer),
    }
}

/// What has to be said of a run before anything else, and what looks closer.
fn loudest(manifest: &Manifest) -> Vec<String> {
    let advised = |line: String| match &manifest.model {
        Some(model) if manifest.samples.imported().is_none() => {
            format!("{line}; `jumplens doctor {}` looks closer", quoted(&model.id))
        }
        _ => line,
    };
    manifest.warnings().into_iter().map(advised).collect()
}

/// Says it.
fn warn(manifest: &Manifest, printer: &Printer) {
    loudest(manifest).iter().for_each(|line| printer.warning(line));
}

/// Begins a run, or goes on with one.
fn begin(args: &BeginArgs, printer: &Printer) -> Result<Run, Failure> {
    begin_in(&args.folder(), &args.input.asked(), (&args.existing).into(), &args.input.unread, printer)
}

fn begin_in(
    folder: &Path,
    asked: &Asked,
    existing: Existing,
    unread: &UnreadArgs,
    printer: &Printer,
) -> Result<Run, Failure> {
    let (sources, progress) = (unread.sources(), Progress::new(printer));
    let run = match existing {
        Existing::Resume => Run::resume(folder, asked, &usual(), &sources, &progress)?,
        _ => Run::begin(folder, &asked.over(&usual()), existing, &sources, &progress)?,
    };
    describe(&run, printer);
    Ok(run)
}

/// For `--verbose`: what the run is made from.
fn describe(run: &Run, printer: &Printer) {
    match (run.spec(), &run.manifest().model) {
        (Some(spec), Some(model)) => printer.detail(&format!(
            "{}: {} layers, width {}, {} heads, {} tokens, {} positions; weights sha256 {}",
            spec.family,
            spec.n_layers,
            spec.d_model,
            spec.n_heads,
            spec.vocab_size,
            spec.max_positions,
            model.weights_sha256
        )),
        _ => {
            let sizes = run.sizes();
            printer.detail(&format!("imported states: {} layers, width {}", sizes.n_layers, sizes.d_model));
        }
    }
    printer.detail(&format!("run folder `{}`: {}", run.folder().display(), run.manifest().describe()));
}
