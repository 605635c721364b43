//! The commands that do one stage of a run that has begun.

use super::{Failure, begin_in, describe};
use crate::args::{FitArgs, MapsArgs, PlotArgs, StatesArgs};
use crate::printer::Printer;
use crate::progress::Progress;
use crate::sources::sources;
use jumplens::run::{Existing, Run};
use std::path::Path;

fn open(folder: &Path, printer: &Printer) -> Result<Run, Failure> {
    let run = Run::open(folder, &sources(), &Progress::new(printer))?;
    describe(&run, printer);
    Ok(run)
}

pub fn states(args: &StatesArgs, printer: &Printer) -> Result<(), Failure> {
    let existing = if args.overwrite { Existing::Overwrite } else { Existing::Refuse };
    let mut run = match args.settings() {
        Some(settings) => begin_in(&args.out, &settings, existing, &args.unread, printer)?,
        None => open(&args.out, printer)?,
    };
    Ok(run.states(&Progress::new(printer))?)
}

pub fn fit(args: &FitArgs, printer: &Printer) -> Result<(), Failure> {
    if let Some(moments) = &args.moments {
        return super::moments::fit(args, moments, printer);
    }
    let mut run = open(&args.out, printer)?;
    let fits = args.fits(&run.manifest().fits);
    Ok(run.fit(fits, &Progress::new(printer))?)
}

fn open_for(args: &MapsArgs, printer: &Printer) -> Result<Run, Failure> {
    let mut run = open(&args.out, printer)?;
    if args.force {
        run.force_shortcuts();
    }
    Ok(run)
}

pub fn r2(args: &MapsArgs, printer: &Printer) -> Result<(), Failure> {
    Ok(open_for(args, printer)?.r2(args.shortcuts.as_deref(), &Progress::new(printer))?)
}

pub fn evaluate(args: &MapsArgs, printer: &Printer) -> Result<(), Failure> {
    Ok(open_for(args, printer)?.evaluate(args.shortcuts.as_deref(), &Progress::new(printer))?)
}

pub fn plot(args: &PlotArgs, printer: &Printer) -> Result<(), Failure> {
    jumplens::run::draw(&args.out, &args.figures.style(), &Progress::new(printer))?;
    Ok(())
}
