//! `jumplens shortcuts export`: maps as files that others can use.

use super::card::{Card, File};
use super::{Failure, casts, origin, r2};
use crate::args::{ExportArgs, ExportFormat};
use crate::printer::Printer;
use crate::progress::Progress;
use jumplens::Error;
use jumplens::files::write_atomically;
use jumplens::shortcut::{self, Format, Shortcuts};
use jumplens::store::{FolderKind, Room, check_outside};
use jumplens::words::Cast;

pub fn export(args: &ExportArgs, printer: &Printer) -> Result<(), Failure> {
    let shortcuts = Shortcuts::open(&args.path)?;
    let casts = casts(&shortcuts, &args.cast)?;
    if casts.is_empty() {
        return Err(Error::Option(format!("no maps in `{}`: check the path", args.path.display())).into());
    }
    let format: Format = match args.format {
        ExportFormat::Safetensors => Format::Safetensors,
        ExportFormat::Npz => Format::Npz,
        ExportFormat::Jacobian => return jacobian_lens(args, &shortcuts.cast(&only(&casts)?), printer),
        ExportFormat::TunedLens => return tuned_lens(args, &shortcuts.cast(&only(&casts)?), printer),
    };
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

/// The one cast that a file of a lens holds.
fn only(casts: &[Cast]) -> Result<Cast, Error> {
    match casts {
        [cast] => Ok(cast.clone()),
        casts => {
            let names: Vec<String> = casts.iter().map(|cast| format!("`{cast}`")).collect();
            Err(Error::Option(format!(
                "a lens is of one cast: choose by `--cast` among {}",
                names.join(", ")
            )))
        }
    }
}

/// A file as Jacobian lenses are published.
fn jacobian_lens(args: &ExportArgs, maps: &Shortcuts, printer: &Printer) -> Result<(), Failure> {
    if args.out.exists() && !args.overwrite {
        return Err(Error::FileExists { path: args.out.clone() }.into());
    }
    check_outside(&args.out)?;
    let count = shortcut::export_jacobian_lens(maps, &args.out)?;
    printer.note(&format!(
        "`{}`: {count} matrices, of the outputs of blocks; that of the embedding has no place there",
        args.out.display()
    ));
    Ok(())
}

/// A folder as tuned lenses are kept.
fn tuned_lens(args: &ExportArgs, maps: &Shortcuts, printer: &Printer) -> Result<(), Failure> {
    let from = [args.path.clone()];
    let room = Room::check(&args.out, FolderKind::ExportedMaps, &from, args.overwrite)?;
    let making = room.begin(&Progress::new(printer))?;
    let count = shortcut::export_tuned_lens(maps, &args.out)?;
    making.finish()?;
    printer.note(&format!("`{}`: {count} translators, in `params.pt` and `config.json`", args.out.display()));
    Ok(())
}
