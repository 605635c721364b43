//! The commands that do one stage of a run that has begun.

use super::{Failure, begin, describe};
use crate::args::{BeginArgs, FitArgs, MapsArgs, StageArgs, StatesArgs};
use crate::bundled::bundled;
use crate::printer::Printer;
use crate::progress::Progress;
use jumplens::run::Run;
use std::path::Path;

fn open(folder: &Path, printer: &Printer) -> Result<Run, Failure> {
    let run = Run::open(folder, &bundled(), &Progress::new(printer))?;
    describe(&run, printer);
    Ok(run)
}

pub fn states(args: StatesArgs, printer: &Printer) -> Result<(), Failure> {
    let mut run = if args.input.train_samples.is_some() {
        begin(&BeginArgs { input: args.input, out: Some(args.out) }, printer)?
    } else {
        open(&args.out, printer)?
    };
    Ok(run.states(&Progress::new(printer))?)
}

pub fn fit(args: &FitArgs, printer: &Printer) -> Result<(), Failure> {
    let mut run = open(&args.out, printer)?;
    let pairs = args.pairs.map_or(run.manifest().pairs, Into::into);
    Ok(run.fit(pairs, &Progress::new(printer))?)
}

pub fn r2(args: &MapsArgs, printer: &Printer) -> Result<(), Failure> {
    Ok(open(&args.out, printer)?.r2(args.shortcuts.as_deref(), &Progress::new(printer))?)
}

pub fn evaluate(args: &MapsArgs, printer: &Printer) -> Result<(), Failure> {
    Ok(open(&args.out, printer)?.evaluate(args.shortcuts.as_deref(), &Progress::new(printer))?)
}

pub fn plot(args: &StageArgs, printer: &Printer) -> Result<(), Failure> {
    Ok(open(&args.out, printer)?.plot(&Progress::new(printer))?)
}
