//! `jumplens shortcuts import`: a folder of maps of what other programs wrote.

use super::Failure;
use crate::args::ImportArgs;
use crate::printer::Printer;
use crate::progress::Progress;
use jumplens::Error;
use jumplens::hub::{HubName, ModelFiles};
use jumplens::models::{PRE_NORM_PARTS, describe};
use jumplens::run::record_model;
use jumplens::shortcut::{Foreign, Origin};
use jumplens::store::{FolderKind, Room};
use jumplens::words::Cast;
use std::path::PathBuf;

/// What a file on the Hub begins with: `hf://ORG/NAME[@REVISION]/FILE`.
const HUB: &str = "hf://";

/// The path to what is to be read, fetched where it is on the Hub.
fn fetched(args: &ImportArgs, printer: &Printer) -> Result<PathBuf, Error> {
    let Some(whole) = args.path.to_str().filter(|path| path.starts_with(HUB)) else {
        return Ok(args.path.clone());
    };
    let mut parts = whole[HUB.len()..].splitn(3, '/');
    let named = || Some((HubName::parse(&format!("{}/{}", parts.next()?, parts.next()?))?, parts.next()?));
    let fail = |message: &str| Error::Option(format!("`{whole}` {message}"));
    let (name, file) = { named }().ok_or_else(|| {
        fail("names no file on the Hub: give `hf://ORG/NAME/FILE`, with `@REVISION` after the name")
    })?;
    let hub = args.unread.sources().hub.ok_or_else(|| fail("is on the Hub, which is left out"))?;
    hub.file(&name, file, &Progress::new(printer))
}

pub fn import(args: &ImportArgs, printer: &Printer) -> Result<(), Failure> {
    let path = fetched(args, printer)?;
    let from = [path.clone()];
    let room = Room::check(&args.out, FolderKind::ImportedMaps, &from, args.overwrite)?;
    let mut foreign = Foreign::read(&path)?;
    let files = match &args.model {
        Some(name) => Some(ModelFiles::find(name, &args.unread.sources(), &Progress::new(printer))?),
        None => None,
    };
    let spec = files.as_ref().map(describe).transpose()?.map(|it| it.spec);
    spec.iter().for_each(|spec| foreign.lead_to(spec.n_layers));
    let said = Origin {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        d_model: Some(foreign.width()),
        n_layers: foreign.n_layers(),
        last_state: foreign.origin.last_state.or(Some(args.last_state.into())),
        imported_from: foreign.origin.imported_from.clone().or(Some(foreign.format.to_owned())),
        ..foreign.origin.clone()
    };
    let (origin, parts, layers) = match files.as_ref().zip(spec) {
        Some((files, spec)) => {
            let own = Origin::of_model(&record_model(files), spec.n_layers, spec.d_model);
            if let Some(what) = said.difference(&own) {
                if !args.force {
                    return Err(Error::ForeignShortcuts { path: args.path.clone(), what }.into());
                }
                printer.note(&format!(
                    "the maps in `{}` are recorded for this model although {what}",
                    args.path.display()
                ));
            }
            let origin = Origin {
                model: own.model,
                revision: own.revision,
                weights_sha256: own.weights_sha256,
                ..said
            };
            (origin, spec.parts, Some(spec.n_layers))
        }
        None => {
            let layers = said.n_layers;
            (said, PRE_NORM_PARTS, layers)
        }
    };
    foreign.check_parts(parts)?;
    if let Some(layers) = layers.filter(|_| !args.force) {
        foreign.check_layers(&args.path, layers)?;
    }
    let filled = foreign.fill();
    let making = room.begin(&Progress::new(printer))?;
    let casts = foreign.save(&args.out, &origin, args.cast.as_ref(), parts)?;
    making.finish()?;
    let mut made: Vec<String> = casts.iter().map(|cast| format!("`{cast}`")).collect();
    if !foreign.parts.is_empty() {
        made.push(format!("{} maps of parts", foreign.parts.len()));
    }
    printer.note(&format!(
        "{} maps of width {} ({}) are in `{}`: {}",
        foreign.pairs.len() + foreign.parts.len(),
        foreign.width(),
        foreign.format,
        args.out.display(),
        made.join(", ")
    ));
    if !foreign.passed_over.is_empty() {
        let names: Vec<String> =
            foreign.passed_over.iter().take(5).map(|path| format!("`{}`", path.display())).collect();
        let more = if foreign.passed_over.len() > names.len() { " and others" } else { "" };
        printer.note(&format!("Not maps by their names, and skipped: {}{more}", names.join(", ")));
    }
    if !filled.is_empty() {
        let layers: Vec<String> = filled.iter().map(usize::to_string).collect();
        printer.note(&format!(
            "There is no matrix for the states of layer {}: they are used as they are, as by `{}`",
            layers.join(", "),
            Cast::Id
        ));
    }
    if origin.weights_sha256.is_none() {
        printer.note(
            "The files do not say which model these maps are for: with `--model` it is recorded and checked",
        );
    }
    Ok(())
}
