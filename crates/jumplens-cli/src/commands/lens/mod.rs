//! `jumplens lens`: what casts predict at every position of a text.

mod table;

use super::Failure;
use crate::args::{LensArgs, LensFormat, Span};
use crate::printer::Printer;
use crate::progress::Progress;
use crate::sources::bundled_maps;
use jumplens::Error;
use jumplens::evidence::Evidence;
use jumplens::hub::ModelFiles;
use jumplens::lens::{Input, Lens, Reading, View, available, html, svg};
use jumplens::models::{Spec, load};
use jumplens::nn::Precision;
use jumplens::run::{Run, record_model};
use jumplens::shortcut::{Origin, Shortcuts};
use jumplens::tokenize::Tokenizer;
use jumplens::words::Cast;
use std::io::{IsTerminal, Read};
use std::path::Path;

pub fn lens(args: &LensArgs, printer: &Printer) -> Result<(), Failure> {
    let text = match &args.text {
        Some(text) => text.clone(),
        None => from_standard_input()?,
    };
    let reading = match &args.run {
        Some(folder) => through_run(args, folder, text, printer)?,
        None => through_model(args, text, printer)?,
    };
    match args.format {
        LensFormat::Table => printer.raw(&table::render(&reading, args.width.map(usize::from)))?,
        LensFormat::Json => {
            let mut json = serde_json::to_string(&reading)
                .map_err(|error| Error::Internal(format!("a reading as JSON: {error}")))?;
            json.push('\n');
            printer.json(&json)?;
        }
        LensFormat::Html => printer.raw(&html(&reading))?,
        LensFormat::Svg => printer.raw(&svg(&reading))?,
    }
    Ok(())
}

/// All of it, without the line feed at its end.
fn from_standard_input() -> Result<String, Failure> {
    let mut stdin = std::io::stdin().lock();
    if stdin.is_terminal() {
        return Err(Error::Option(
            "no text: give one, as in `jumplens lens \"The capital of France is\"`".into(),
        )
        .into());
    }
    let mut text = String::new();
    stdin.read_to_string(&mut text).map_err(|source| Error::Io {
        action: "read",
        path: "standard input".into(),
        source,
    })?;
    Ok(text
        .strip_suffix('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line))
        .unwrap_or(&text)
        .to_owned())
}

fn through_run(args: &LensArgs, folder: &Path, text: String, printer: &Printer) -> Result<Reading, Failure> {
    let mut run = Run::open_to_read(folder, &args.unread.sources(), &Progress::new(printer))?;
    super::describe(&run, printer);
    super::loudest(run.manifest()).iter().for_each(|line| printer.warning(line));
    if args.force {
        run.force_shortcuts();
    }
    let shortcuts = match &args.shortcuts {
        Some(path) => {
            let shortcuts = run.foreign_shortcuts(path, &Progress::new(printer))?;
            has_maps(&shortcuts, path)?;
            Some(shortcuts)
        }
        None => run.own_shortcuts()?,
    };
    let evidence = match &shortcuts {
        Some(shortcuts) => evidence(args.shortcuts.as_deref().unwrap_or(folder), shortcuts, run.spec())?,
        None => Evidence::default(),
    };
    let chosen = Chosen::new(args, shortcuts.as_ref(), &evidence)?;
    let lens = run.lens(shortcuts.as_ref(), &chosen.casts)?;
    let name = run.manifest().model.short_name();
    let tokenizer = run.tokenizer()?;
    tokenizer.notes().iter().for_each(|note| printer.note(note));
    read(args, name, run.spec(), text, &tokenizer, &lens, &chosen, run.mean_run()?)
}

fn through_model(args: &LensArgs, text: String, printer: &Printer) -> Result<Reading, Failure> {
    let files = ModelFiles::find(&args.model, &args.unread.sources(), &Progress::new(printer))?;
    let loaded = load(&files, Precision::F32)?;
    loaded.notes.iter().for_each(|note| printer.note(&format!("`{}`: {note}", files.id)));
    let (model, spec) = (&loaded.model, loaded.model.spec());
    let head = model.head().ok_or_else(|| Error::NoHead { model: files.id.clone() })?;
    let tokenizer = Tokenizer::of_model(files.tokenizer.as_ref(), &files.id, spec, false)?;
    tokenizer.notes().iter().for_each(|note| printer.note(note));
    let own = Origin::of_model(&record_model(&files), spec.n_layers, spec.d_model);
    let shortcuts = match &args.shortcuts {
        Some(path) => {
            let shortcuts = Shortcuts::open(path)?;
            has_maps(&shortcuts, path)?;
            shortcuts.check(&own, args.force)?.iter().for_each(|note| printer.note(note));
            Some(shortcuts)
        }
        // A folder of that name is another model.
        None if files.is_bundled() => bundled_maps(&files.id).map(Shortcuts::in_file).transpose()?,
        None => None,
    };
    let mean_run = match &shortcuts {
        Some(shortcuts) => shortcuts.origins()?.into_iter().find_map(|(_, origin)| origin?.mean_run),
        None => None,
    };
    let evidence = match &shortcuts {
        Some(shortcuts) => evidence(args.shortcuts.as_deref().unwrap_or(Path::new("")), shortcuts, spec)?,
        None => Evidence::default(),
    };
    let chosen = Chosen::new(args, shortcuts.as_ref(), &evidence)?;
    let lens = Lens::new(model, head, Precision::F32, shortcuts.as_ref(), &chosen.casts)?;
    read(args, &files.id, spec, text, &tokenizer, &lens, &chosen, mean_run)
}

/// Maps that were asked for have to be there, of states or of parts.
fn has_maps(shortcuts: &Shortcuts, path: &Path) -> Result<(), Error> {
    match available(Some(shortcuts))?.len() {
        // `id` alone takes none.
        1 => Err(Error::Option(format!("no maps in `{}`: check the path", path.display()))),
        _ => Ok(()),
    }
}

/// What is known of the maps: where `path` is a run folder, by its results, else by what the files say of themselves.
fn evidence(path: &Path, shortcuts: &Shortcuts, spec: &Spec) -> Result<Evidence, Failure> {
    if let Some(evidence) = Evidence::of_maps(path, spec.d_model)? {
        return Ok(evidence);
    }
    let origin = shortcuts.origins()?.into_iter().find_map(|(_, origin)| origin);
    Ok(origin.map_or_else(Evidence::default, |origin| Evidence::of_origin(&origin)))
}

/// The casts that are looked through.
struct Chosen {
    casts: Vec<Cast>,
    /// Why, where none was asked for.
    why: Option<String>,
    /// What has to be said of their maps.
    warnings: Vec<String>,
}

impl Chosen {
    /// The casts that were asked for; where none was, the best one by the figures there are; where there are none, `mat`,
    /// or another one that there are maps for, or else `id`.
    fn new(args: &LensArgs, shortcuts: Option<&Shortcuts>, evidence: &Evidence) -> Result<Self, Failure> {
        let there = available(shortcuts)?;
        let best = evidence.best(&there).filter(|_| args.cast.is_empty());
        let casts = match &best {
            _ if !args.cast.is_empty() => args.cast.clone(),
            Some(best) => vec![best.cast.clone()],
            None => {
                let first = there.iter().find(|cast| **cast == Cast::MAT).or(there.get(1));
                vec![first.cloned().unwrap_or(Cast::Id)]
            }
        };
        let warnings = evidence.warnings(Some(&casts));
        Ok(Self { casts, why: best.map(|best| best.to_string()), warnings })
    }
}

fn read(
    args: &LensArgs,
    model: &str,
    spec: &Spec,
    text: String,
    tokenizer: &Tokenizer,
    lens: &Lens,
    chosen: &Chosen,
    mean_run: Option<f64>,
) -> Result<Reading, Failure> {
    let (ids, tokens_cut) = tokenizer.encode_cut(&text)?;
    let view = View {
        positions: Span::numbers(&args.position, ids.len()),
        layers: Span::numbers(&args.layers, spec.n_layers + 1),
        top: args.top,
        lambda: args.lambda,
        mean_run,
    };
    let reading = lens.read(model, &[Input { text, ids }], Some(tokenizer), &view)?.pop();
    let reading = reading.ok_or_else(|| Error::Internal("one text was read as none".into()))?;
    let (truncated, chosen, warnings) = (tokens_cut > 0, chosen.why.clone(), chosen.warnings.clone());
    Ok(Reading { truncated, tokens_cut, chosen, warnings, ..reading })
}
