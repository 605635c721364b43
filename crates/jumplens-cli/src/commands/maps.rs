//! `jumplens maps`: from a model to maps to its last layer, and nothing that they do not need.

use super::{Failure, begin_in};
use crate::args::BeginArgs;
use crate::printer::Printer;
use crate::progress::Progress;
use crate::shell::quoted;
use jumplens::run::{Asked, Existing};
use jumplens::store::{Manifest, Stage};
use std::path::Path;

/// The stages that it is made of, after `samples`.
const STAGES: [Stage; 3] = [Stage::States, Stage::Fit, Stage::R2];

pub fn maps(args: &BeginArgs, printer: &Printer) -> Result<(), Failure> {
    let folder = args.folder();
    let only_model = Asked { model: args.input.asked().model, ..Asked::default() };
    let is_fitted = |manifest: &Manifest| STAGES.iter().all(|stage| manifest.is_done(*stage));
    if args.input.asked() == only_model
        && !args.existing.overwrite
        && Manifest::read(&folder).is_ok_and(|manifest| manifest.as_ref().is_some_and(is_fitted))
    {
        say("are there already", &folder, printer);
        return Ok(());
    }
    let existing = if args.existing.overwrite { Existing::Overwrite } else { Existing::Resume };
    let mut run = begin_in(&folder, &args.input.asked_of_maps(), existing, &args.input.unread, printer)?;
    for stage in STAGES {
        if !run.manifest().is_done(stage) {
            run.stage(stage, &Progress::new(printer))?;
        }
    }
    say("are fitted", &folder, printer);
    Ok(())
}

fn say(what: &str, folder: &Path, printer: &Printer) {
    let run = quoted(folder.display().to_string());
    printer.note(&format!("The maps {what}; `jumplens lens --run {run} \"TEXT\"` looks through them"));
}
