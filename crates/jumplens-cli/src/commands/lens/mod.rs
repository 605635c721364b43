//! `jumplens lens`: what casts predict at every position of a text.

mod table;

use super::Failure;
use crate::args::{LensArgs, LensFormat, Span};
use crate::printer::Printer;
use crate::progress::Progress;
use crate::sources::bundled_maps;
use jumplens::Error;
use jumplens::hub::ModelFiles;
use jumplens::lens::{Reading, View, html, svg};
use jumplens::run::Run;
use jumplens::session::{MapsFrom, Session};
use std::io::{IsTerminal, Read};

pub fn lens(args: &LensArgs, printer: &Printer) -> Result<(), Failure> {
    let text = match &args.text {
        Some(text) => text.clone(),
        None => from_standard_input()?,
    };
    let reading = read(args, &session(args, printer)?, text)?;
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

/// What the text is looked through.
fn session(args: &LensArgs, printer: &Printer) -> Result<Session, Failure> {
    let (sources, progress) = (args.unread.sources(), Progress::new(printer));
    let maps = MapsFrom { path: args.shortcuts.as_deref(), force: args.force, bundled: bundled_maps };
    Ok(match &args.run {
        Some(folder) => {
            let run = Run::open_to_read(folder, &sources, &progress)?;
            super::describe(&run, printer);
            super::loudest(run.manifest()).iter().for_each(|line| printer.warning(line));
            Session::of_run(run, maps, &progress)?
        }
        None => Session::of_model(&ModelFiles::find(&args.model, &sources, &progress)?, maps, &progress)?,
    })
}

fn read(args: &LensArgs, session: &Session, text: String) -> Result<Reading, Failure> {
    let text = session.text(text)?;
    let view = View {
        positions: Span::numbers(&args.position, text.input.ids.len()),
        layers: Span::numbers(&args.layers, session.model().spec().n_layers + 1),
        top: args.top,
        lambda: args.lambda,
        mean_run: session.mean_run(),
    };
    Ok(session.read(&text, &session.choose(&args.cast)?, &view)?)
}
