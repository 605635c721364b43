//! `jumplens shortcuts export`: maps as files that others can use.

use super::card::{Card, File};
use super::{Failure, casts, origin, r2};
use crate::args::ExportArgs;
use crate::printer::Printer;
use crate::progress::Progress;
use jumplens::Error;
use jumplens::files::write_atomically;
use jumplens::shortcut::{self, Format, Shortcuts};
use jumplens::store::{FolderKind, Room};

pub fn export(args: &ExportArgs, printer: &Printer) -> Result<(), Failure> {
    let shortcuts = Shortcuts::open(&args.path)?;
    let format: Format = args.format.into();
    let casts = casts(&shortcuts, &args.cast)?;
    if casts.is_empty() {
        return Err(Error::Option(format!("no maps in `{}`: check the path", args.path.display())).into());
    }
    let from = [args.path.clone()];
    let room = Room::check(&args.out, FolderKind::ExportedMaps, &from, args.overwrite)?;
    let origin = origin(&shortcuts)?;
    let r2 = r2(&args.path)?;
    let making = room.begin(&Progress::new(printer))?;
    let mut files = Vec::new();
    for cast in casts {
        let maps = shortcuts.cast(&cast);
        let name = format!("{cast}.{}", format.ending());
        let count = shortcut::export(&maps, args.pairs.into(), format, &args.out.join(&name))?;
        let pair = shortcut::chosen_pairs(&maps, args.pairs.into())?.into_iter().next().unwrap_or_default();
        files.push(File { cast, name, maps: count, pair });
    }
    let card = Card { origin: origin.as_ref(), files: &files, format, r2: &r2 };
    write_atomically(&args.out.join("README.md"), card.render().as_bytes())?;
    making.finish()?;
    for File { name, maps, .. } in &files {
        printer.note(&format!("`{}`: {maps} maps", args.out.join(name).display()));
    }
    Ok(())
}
