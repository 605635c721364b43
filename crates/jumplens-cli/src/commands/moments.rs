//! `jumplens moments` and `merge`, and `fit` from what they write.

use super::{Failure, begin_in};
use crate::args::{FitArgs, MergeArgs, MomentsArgs};
use crate::printer::Printer;
use crate::progress::Progress;
use crate::sources::sources;
use jumplens::Error;
use jumplens::jacobian::{self, JacobiansFile};
use jumplens::moments::{self, MomentsFile};
use jumplens::run::{Asked, Existing, Run};
use jumplens::shards;
use jumplens::shortcut::Fits;
use jumplens::store::Stage;
use std::path::Path;

pub fn moments(args: &MomentsArgs, printer: &Printer) -> Result<(), Failure> {
    let folder = args.folder();
    let asked = Asked { shard: args.shard, ..args.input.asked() };
    let progress = Progress::new(printer);
    if !args.overwrite
        && let Some(path) = Run::finished_moments(&folder, &asked, &sources())?
    {
        printer.note(&format!("The sums are in `{}` already: nothing is left to do", path.display()));
        return Ok(());
    }
    let existing = if args.overwrite { Existing::Overwrite } else { Existing::Resume };
    let mut run = begin_in(&folder, &asked, existing, &args.input.unread, printer)?;
    if !run.manifest().is_done(Stage::States) {
        run.states(&progress)?;
    }
    let path = run.moments(&progress)?;
    printer.note(&format!("The sums are in `{}`", path.display()));
    Ok(())
}

pub fn merge(args: &MergeArgs, printer: &Printer) -> Result<(), Failure> {
    let progress = Progress::new(printer);
    let (of, shares, missing) = match JacobiansFile::open(&args.files[0])? {
        Some(first) => {
            drop(first);
            jacobian::merge(&args.files, &args.out, args.overwrite, &progress)?;
            let record = JacobiansFile::open(&args.out)?.map(|file| file.record);
            let record =
                record.ok_or_else(|| Error::Internal("what was merged is no file of sums".to_owned()))?;
            (record.of, record.shards.len(), record.missing())
        }
        None => {
            moments::merge(&args.files, &args.out, args.overwrite, &progress)?;
            let record = MomentsFile::open(&args.out)?.record;
            (record.of, record.shards.len(), record.missing())
        }
    };
    let missing: Vec<String> = missing.iter().map(|index| format!("{index}/{of}")).collect();
    let shares = match missing.as_slice() {
        [] => format!("all {of} shares"),
        missing => format!("{shares} of {of} shares, and lacks {}", missing.join(", ")),
    };
    printer.note(&format!("`{}` holds {shares}", args.out.display()));
    Ok(())
}

/// `jumplens fit --moments`.
pub fn fit(args: &FitArgs, path: &Path, printer: &Printer) -> Result<(), Failure> {
    if let Some(sums) = JacobiansFile::find(path)? {
        return super::derivatives::fit_sums(args, &sums, printer);
    }
    let file = MomentsFile::open(path)?;
    let fits = args.fits(&Fits::plain(file.record.manifest.fits.pairs));
    shards::fit_folder(&file, &fits, &args.out, args.overwrite, &Progress::new(printer))?;
    printer.note(&format!("Maps, r² and learning curve are in `{}`", args.out.display()));
    Ok(())
}
