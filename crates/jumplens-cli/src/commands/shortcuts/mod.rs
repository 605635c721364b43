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
use jumplens::eval::tables::R2Row;
use jumplens::run::own_r2;
use jumplens::shortcut::{Origin, Shortcuts};
use jumplens::words::Cast;
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
fn casts(shortcuts: &Shortcuts, asked: &[Cast]) -> Result<Vec<Cast>, Error> {
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

/// r² of the maps in a run folder, or of those that are fitted from sums, where they are known.
fn r2(path: &Path) -> Result<Vec<R2Row>, Error> {
    Ok(own_r2(path)?.unwrap_or_default())
}
