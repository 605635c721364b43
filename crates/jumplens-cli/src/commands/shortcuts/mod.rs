//! `jumplens shortcuts`: maps as files.

mod card;
mod export;
mod import;
mod inspect;
mod list;

use super::Failure;
use crate::args::ShortcutsCommand;
use crate::printer::Printer;
use jumplens::Error;
use jumplens::eval::tables::{R2Row, read_csv};
use jumplens::manifest::{Manifest, StageRecord};
use jumplens::shortcut::{Origin, Shortcuts};
use jumplens::store::Stage;
use std::path::Path;

pub fn shortcuts(command: &ShortcutsCommand, printer: &Printer) -> Result<(), Failure> {
    match command {
        ShortcutsCommand::List(args) => list::list(args, printer),
        ShortcutsCommand::Inspect(args) => inspect::inspect(args, printer),
        ShortcutsCommand::Export(args) => export::export(args, printer),
        ShortcutsCommand::Import(args) => import::import(args, printer),
    }
}

/// The casts that were asked for, or all that are there; [`Error::NoCast`] for one that is not.
fn casts(shortcuts: &Shortcuts, asked: &[String]) -> Result<Vec<String>, Error> {
    let there = shortcuts.casts()?;
    match asked.iter().find(|cast| !there.contains(cast)) {
        Some(cast) => Err(Error::NoCast { cast: cast.clone(), there }),
        None if asked.is_empty() => Ok(there),
        None => Ok(asked.to_vec()),
    }
}

/// What the maps' files say of where they come from; nothing where they say nothing. Files that say different things are
/// named.
fn origin(shortcuts: &Shortcuts) -> Result<Option<Origin>, Error> {
    let mut origins = shortcuts.origins()?.into_iter();
    let Some((_, first)) = origins.next() else { return Ok(None) };
    match origins.find(|(_, origin)| *origin != first) {
        Some((path, _)) => Err(Error::Format {
            path,
            message: "its maps are of another origin than those in the files before it".to_owned(),
        }),
        None => Ok(first),
    }
}

/// r² of the maps in a run folder, where they are known.
fn r2(path: &Path) -> Result<Vec<R2Row>, Error> {
    let manifest = if path.is_dir() { Manifest::read(path)? } else { None };
    // The run may have measured maps from elsewhere.
    let own = |record: &StageRecord| record.done && record.shortcuts.is_none();
    match manifest.is_some_and(|manifest| manifest.stages.get(&Stage::R2).is_some_and(own)) {
        true => read_csv(&path.join("results/r2.csv")),
        false => Ok(Vec::new()),
    }
}

/// [`Error::Option`] where `out` holds something already.
fn check_empty(out: &Path) -> Result<(), Error> {
    let count = match std::fs::read_dir(out) {
        Ok(entries) => entries.count(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(source) => return Err(Error::Io { action: "read", path: out.to_owned(), source }),
    };
    match count {
        0 => Ok(()),
        _ => Err(Error::Option(format!("`{}` is not empty: choose another `--out`", out.display()))),
    }
}
