//! The commands that do one stage of a run.

use super::{Failure, begin, begin_in, describe, warn};
use crate::args::{
    BeginArgs, EvaluateArgs, FitArgs, MapsArgs, PlotArgs, StatesArgs, StatesCommand, StatesImportArgs,
};
use crate::printer::Printer;
use crate::progress::Progress;
use crate::shell::quoted;
use crate::sources::sources;
use jumplens::run::{Existing, Run};
use jumplens::store::Stage;
use jumplens::words::LastState;
use std::path::Path;

pub fn samples(args: &BeginArgs, printer: &Printer) -> Result<(), Failure> {
    begin(args, printer).map(drop)
}

/// Opens a run to do `stage`, with maps from `elsewhere` where they are given. One that is done is done again with `again`.
fn open(
    folder: &Path,
    stage: Stage,
    elsewhere: Option<&Path>,
    again: bool,
    printer: &Printer,
) -> Result<Run, Failure> {
    let run = Run::open_for(folder, stage, elsewhere, again, &sources(), &Progress::new(printer))?;
    describe(&run, printer);
    Ok(run)
}

pub fn states(args: &StatesArgs, printer: &Printer) -> Result<(), Failure> {
    if let Some(StatesCommand::Import(args)) = &args.command {
        return import(args, printer);
    }
    let out = args.folder();
    let existing = if args.overwrite { Existing::Overwrite } else { Existing::Refuse };
    let mut run = match args.asked() {
        Some(asked) => begin_in(&out, &asked, existing, &args.unread, printer)?,
        None => open(&out, Stage::States, None, args.overwrite, printer)?,
    };
    Ok(run.states(&Progress::new(printer))?)
}

/// `jumplens states import`.
fn import(args: &StatesImportArgs, printer: &Printer) -> Result<(), Failure> {
    let (sources, progress) = (args.unread.sources(), Progress::new(printer));
    let manifest = Run::import(&args.out, &args.import(), args.overwrite, &sources, &progress)?;
    let Some(from) = manifest.samples.imported() else { return Ok(()) };
    let (last, out) = (from.n_layers, quoted(&args.out));
    let is = match from.last_state {
        LastState::BlockOutput => "is the last block's output",
        LastState::FinalNormOutput => "is after the final norm",
    };
    printer.note(&format!(
        "States of {} + {} samples, layers 0 to {last}, width {}, are in `{}`; layer {last} {is}",
        manifest.train,
        manifest.val,
        from.d_model,
        args.out.display()
    ));
    warn(&manifest, printer);
    let evaluate = if manifest.headless { "" } else { ", `evaluate`" };
    printer.note(&format!("`jumplens fit --out {out}` goes on, then `r2`{evaluate} and `plot`, or all of them by `jumplens run --resume --out {out}`"));
    Ok(())
}

pub fn fit(args: &FitArgs, printer: &Printer) -> Result<(), Failure> {
    if !args.derivatives.lens.is_empty() {
        return super::derivatives::fit(args, printer);
    }
    if let Some(moments) = &args.moments {
        return super::moments::fit(args, moments, printer);
    }
    let mut run = open(&args.out, Stage::Fit, None, args.overwrite, printer)?;
    let fits = args.fits(&run.manifest().fits);
    Ok(run.fit(fits, &Progress::new(printer))?)
}

fn open_for(args: &MapsArgs, stage: Stage, printer: &Printer) -> Result<Run, Failure> {
    let mut run = open(&args.out, stage, args.shortcuts.as_deref(), args.overwrite, printer)?;
    choose(&mut run, args);
    Ok(run)
}

fn choose(run: &mut Run, args: &MapsArgs) {
    if args.force {
        run.force_shortcuts();
    }
    if !args.casts.is_empty() {
        run.measure_only(args.casts.clone());
    }
}

pub fn r2(args: &MapsArgs, printer: &Printer) -> Result<(), Failure> {
    Ok(open_for(args, Stage::R2, printer)?.r2(args.shortcuts.as_deref(), &Progress::new(printer))?)
}

pub fn evaluate(args: &EvaluateArgs, printer: &Printer) -> Result<(), Failure> {
    let (maps, progress) = (&args.maps, Progress::new(printer));
    let shortcuts = maps.shortcuts.as_deref();
    if let Some(shard) = args.shard {
        let mut run = Run::open_to_read(&maps.out, &sources(), &progress)?;
        choose(&mut run, maps);
        let part = args.part(shard);
        run.evaluate_share(shard, shortcuts, &part, &progress)?;
        printer.note(&format!("The predictions of share {shard} are in `{}`", part.display()));
        return Ok(());
    }
    if args.merge.is_empty() {
        return Ok(open_for(maps, Stage::Evaluate, printer)?.evaluate(shortcuts, &progress)?);
    }
    let mut run = Run::open_to_merge(&maps.out, maps.overwrite, &sources(), &progress)?;
    choose(&mut run, maps);
    Ok(run.merge_evaluation(&args.merge, shortcuts, &progress)?)
}

pub fn plot(args: &PlotArgs, printer: &Printer) -> Result<(), Failure> {
    jumplens::run::draw(&args.out, &args.figures.style(), &Progress::new(printer))?;
    Ok(())
}
