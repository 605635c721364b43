//! `jumplens lens`: what casts predict at every position of a text, and where a token stands in that.

mod table;
mod targets;

use super::Failure;
use crate::args::{LensArgs, LensFormat, Span};
use crate::printer::{Printer, json_spelled};
use crate::progress::Progress;
use crate::shell::quoted;
use crate::sources::bundled_maps;
use jumplens::Error;
use jumplens::files::write_with;
use jumplens::hub::ModelFiles;
use jumplens::lens::{
    Asked, CellTable, Measure, Page, Prompt, Reading, Target, View, figure, html, read_prompts, spelled,
};
use jumplens::plot;
use jumplens::progress::{Observer, check};
use jumplens::run::Run;
use jumplens::session::{Choice, MapsFrom, Session};
use jumplens::store::check_outside;
use jumplens::words::Cast;
use std::io::{IsTerminal, Read, Write};
use std::path::Path;

pub fn lens(args: &LensArgs, printer: &Printer) -> Result<(), Failure> {
    let format = format(args)?;
    if let Some(path) = &args.out {
        check_outside(path)?;
        if path.exists() && !args.overwrite {
            return Err(Error::FileExists { path: path.clone() }.into());
        }
    }
    let prompts = prompts(args)?;
    let drawn = matches!(format, LensFormat::Svg | LensFormat::Pdf | LensFormat::Png);
    if drawn && prompts.len() > if args.compare.is_some() { 2 } else { 1 } {
        return Err(option(format!(
            "{} texts are given, and a figure shows one: name a second with `--compare`, or write all of them as .html, \
             .jsonl or .parquet",
            prompts.len()
        )));
    }
    let session = session(args, printer)?;
    let targeted = !args.target.is_empty() || prompts.iter().any(|asked| !asked.targets.is_empty());
    let reader = Reader { args, choice: choice(args, &session, targeted)?, session: &session, printer };
    if session.casts()?.len() == 1 && args.cast.is_empty() && args.run.is_none() {
        let model = quoted(&args.model);
        printer.note(&format!(
            "no maps of this model are here, so that only `id` is shown: `jumplens maps {model} --out R` fits \
             `mat`, and `jumplens lens --run R` looks through it"
        ));
    }
    match (&args.out, format) {
        (Some(path), LensFormat::Json | LensFormat::Parquet) => to_file(&reader, &prompts, path, format)?,
        (None, LensFormat::Json) if args.compare.is_none() => {
            reader.each(&prompts, |_, reading| Ok(printer.json(&line(&reading)?)?))?;
        }
        (None, LensFormat::Table) if args.compare.is_none() => reader.each(&prompts, |number, reading| {
            Ok(printer.raw(&numbered(args, &reading, number, prompts.len()))?)
        })?,
        (out, _) => {
            let mut readings = Vec::new();
            reader.each(&prompts, |_, reading| {
                readings.push(reading);
                Ok(())
            })?;
            let bytes = whole(args, format, &readings, printer)?;
            match out {
                Some(path) => write_with(path, |file| file.write_all(&bytes))?,
                None => std::io::stdout().lock().write_all(&bytes)?,
            }
        }
    }
    if let Some(path) = &args.out {
        printer.note(&format!(
            "{} in `{}`",
            if prompts.len() == 1 { "1 text".to_owned() } else { format!("{} texts", prompts.len()) },
            path.display()
        ));
    }
    Ok(())
}

fn option(message: String) -> Failure {
    Error::Option(message).into()
}

/// How it is to be written.
fn format(args: &LensArgs) -> Result<LensFormat, Failure> {
    let by_name = args.out.as_deref().and_then(LensFormat::of);
    let format = match (args.format, &args.out, by_name) {
        (Some(format), Some(path), Some(by_name)) if format != by_name => {
            return Err(option(format!(
                "`--format` does not fit the extension of `{}`: give one of the two",
                path.display()
            )));
        }
        (Some(format), ..) => format,
        (None, Some(_), Some(by_name)) => by_name,
        (None, Some(path), None) => {
            return Err(option(format!(
                "the extension of `{}` says no format: give a name in .json, .jsonl, .parquet, .html, .svg, .pdf, .png or \
                 .txt, or `--format`",
                path.display()
            )));
        }
        (None, None, _) => LensFormat::Table,
    };
    let binary = matches!(format, LensFormat::Pdf | LensFormat::Png | LensFormat::Parquet);
    if binary && args.out.is_none() && (format == LensFormat::Parquet || std::io::stdout().is_terminal()) {
        return Err(option("that format is for files: name one with `--out`".to_owned()));
    }
    Ok(format)
}

/// What there is to read: texts, those of the file, ids, and last the text that is compared.
fn prompts(args: &LensArgs) -> Result<Vec<Asked>, Failure> {
    let plain = |prompt| Asked { prompt, targets: Vec::new() };
    let mut prompts: Vec<Asked> = args.text.iter().cloned().map(Prompt::Text).map(plain).collect();
    if let Some(path) = &args.texts {
        prompts.extend(read_prompts(path)?);
    }
    prompts.extend(args.ids.iter().map(|ids| plain(Prompt::Ids(ids.0.clone()))));
    if prompts.is_empty() {
        prompts.push(plain(Prompt::Text(from_standard_input()?)));
    }
    if let Some(text) = &args.compare {
        if prompts.len() != 1 {
            return Err(option(format!(
                "`--compare` is for one text next to its own, and {} are given",
                prompts.len()
            )));
        }
        // What is looked for in one is looked for in the other.
        let targets = prompts[0].targets.clone();
        prompts.push(Asked { prompt: Prompt::Text(text.clone()), targets });
    }
    for asked in &mut prompts {
        match (&asked.prompt, args.chat) {
            (Prompt::Text(text), true) => asked.prompt = Prompt::said(text),
            (Prompt::Ids(_), true) => {
                return Err(option(
                    "`--chat` makes tokens of what is said, and token ids are given".to_owned(),
                ));
            }
            (Prompt::Chat(_), false) => {
                return Err(option(
                    "`messages` are given: `--chat` puts the tokenizer's chat template around them"
                        .to_owned(),
                ));
            }
            _ => {}
        }
    }
    Ok(prompts)
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

/// What the texts are looked through.
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

/// The casts to look through: where tokens are looked for, all that are maps of states, and `id`.
fn choice(args: &LensArgs, session: &Session, targeted: bool) -> Result<Choice, Failure> {
    if !targeted || !args.cast.is_empty() {
        return Ok(session.choose(&args.cast)?);
    }
    let of_states = session.casts()?.into_iter().filter(|cast| !matches!(cast, Cast::Blocks(_)));
    let (id, mut casts): (Vec<Cast>, Vec<Cast>) = of_states.partition(|cast| *cast == Cast::Id);
    casts.extend(id);
    Ok(session.choose(&casts)?)
}

/// What reads one text after another.
struct Reader<'a> {
    args: &'a LensArgs,
    session: &'a Session,
    choice: Choice,
    printer: &'a Printer,
}

impl Reader<'_> {
    /// Reads each of `prompts` and hands it on with its number.
    fn each(
        &self,
        prompts: &[Asked],
        mut take: impl FnMut(usize, Reading) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let progress = Progress::new(self.printer);
        let common = self.args.target.iter().map(|text| self.target(text)).collect::<Result<Vec<_>, _>>()?;
        if prompts.len() > 2 && self.args.out.is_some() {
            progress.begin("lens", prompts.len() as u64, "texts");
        }
        for (number, asked) in prompts.iter().enumerate() {
            check(&progress)?;
            let mut targets = common.clone();
            for target in &asked.targets {
                targets.push(self.target(target)?);
            }
            take(number, self.read(asked, targets)?)?;
            progress.advance(1);
        }
        progress.end();
        Ok(())
    }

    /// The token to look for, and what has to be said of it.
    fn target(&self, text: &str) -> Result<Target, Failure> {
        let target = self.session.target(text)?;
        if !target.tokens.is_empty() && !text.starts_with(' ') {
            let spaced = self.session.target(&format!(" {text}"))?;
            if spaced.tokens.is_empty() {
                self.printer.note(&format!(
                    "`{text}` is several tokens, and one with a space before it, as behind another word: `--target \" {text}\"`"
                ));
            }
        }
        Ok(target)
    }

    fn read(&self, asked: &Asked, targets: Vec<Target>) -> Result<Reading, Failure> {
        let (args, session) = (self.args, self.session);
        let text = session.prompt(asked.prompt.clone())?;
        let n = text.input.ids.len();
        let positions = match targets.is_empty() || !args.position.is_empty() {
            true => Span::numbers(&args.position, n),
            false => session.asked_positions(&text)?,
        };
        let view = View {
            positions,
            layers: Span::numbers(&args.layers, session.model().spec().n_layers + 1),
            top: args.top,
            lambda: args.lambda,
            targets,
            mean_run: session.mean_run(),
        };
        Ok(session.read(&text, &self.choice, &view)?)
    }
}

fn table(args: &LensArgs, readings: &[Reading]) -> String {
    table::render(readings, args.width.map(usize::from), args.color_by.into())
}

/// The table of one text of `count`, under its number and what it is where there are several.
fn numbered(args: &LensArgs, reading: &Reading, number: usize, count: usize) -> String {
    let head = match count {
        1 => String::new(),
        _ => {
            let mark = if number == 0 { "" } else { "\n" };
            let text = spelled(reading.chat.as_ref().unwrap_or(&reading.text));
            format!("{mark}Text {} of {count}: {text}\n\n", number + 1)
        }
    };
    head + &table(args, std::slice::from_ref(reading))
}

/// A reading as a line of JSON.
fn line(reading: &Reading) -> Result<String, Failure> {
    let mut json = serde_json::to_string(reading)
        .map_err(|error| Error::Internal(format!("a reading as JSON: {error}")))?;
    json.push('\n');
    Ok(json)
}

/// What is written when all is read.
fn whole(
    args: &LensArgs,
    format: LensFormat,
    readings: &[Reading],
    printer: &Printer,
) -> Result<Vec<u8>, Failure> {
    let measure: Measure = args.color_by.into();
    let beside = args.compare.is_some();
    let drawn = |format| -> Result<Vec<u8>, Failure> {
        let drawn = figure(readings, measure, format, args.dpi, args.title)?;
        if drawn.replaced > 0 {
            printer.note(&format!(
                "{} characters are not in the figures' font and are shown as `?`; pages (.html), and grids as .svg, have all",
                drawn.replaced
            ));
        }
        Ok(drawn.bytes)
    };
    Ok(match format {
        LensFormat::Table if beside => table(args, readings).into_bytes(),
        LensFormat::Table => readings
            .iter()
            .enumerate()
            .map(|(number, reading)| numbered(args, reading, number, readings.len()))
            .collect::<String>()
            .into_bytes(),
        LensFormat::Json => {
            let lines = readings.iter().map(line).collect::<Result<Vec<_>, _>>()?;
            let both: Vec<&str> = lines.iter().map(|line| line.trim_end()).collect();
            json_spelled(&format!("{{\"compare\":[{}]}}\n", both.join(","))).into_bytes()
        }
        LensFormat::Html => html(&Page { readings, beside, measure }).into_bytes(),
        LensFormat::Svg => drawn(plot::Format::Svg)?,
        LensFormat::Pdf => drawn(plot::Format::Pdf)?,
        LensFormat::Png => drawn(plot::Format::Png)?,
        LensFormat::Parquet => {
            return Err(Error::Internal("cells are written as they are read".into()).into());
        }
    })
}

/// Writes JSON or cells as they are read, one text after another.
fn to_file(reader: &Reader, prompts: &[Asked], path: &Path, format: LensFormat) -> Result<(), Failure> {
    let is_lines = path.extension().is_some_and(|extension| extension == "jsonl");
    let mut failed = None;
    let written = write_with(path, |file| {
        let mut attempt = || -> Result<(), Failure> {
            if format == LensFormat::Parquet {
                let mut table = CellTable::new(&mut *file)?;
                reader.each(prompts, |_, reading| Ok(table.add(&reading)?))?;
                return Ok(table.finish()?);
            }
            if reader.args.compare.is_some() && !is_lines {
                let mut readings = Vec::new();
                reader.each(prompts, |_, reading| {
                    readings.push(reading);
                    Ok(())
                })?;
                return Ok(file.write_all(&whole(reader.args, format, &readings, reader.printer)?)?);
            }
            reader.each(prompts, |_, reading| Ok(file.write_all(json_spelled(&line(&reading)?).as_bytes())?))
        };
        attempt().map_err(|failure| match failure {
            Failure::Output(error) => error,
            other => {
                failed = Some(other);
                std::io::Error::other("not read")
            }
        })
    });
    match failed {
        Some(failure) => Err(failure),
        None => Ok(written?),
    }
}
