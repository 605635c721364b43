//! `jumplens completions` and `jumplens man`: what shells and manuals know of the command line.

use super::Failure;
use crate::args::{CompletionsArgs, ManArgs, program};
use crate::printer::Printer;
use jumplens::Error;
use jumplens::files::{create_folder, write_atomically};

pub fn completions(args: &CompletionsArgs, printer: &Printer) -> Result<(), Failure> {
    let mut program = program();
    let name = program.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program, name, &mut script);
    Ok(printer.result(&String::from_utf8_lossy(&script))?)
}

pub fn man(args: &ManArgs, printer: &Printer) -> Result<(), Failure> {
    let mut program = program();
    program.build();
    let Some(folder) = &args.out else {
        return Ok(printer.result(&page(program)?)?);
    };
    create_folder(folder)?;
    let mut left = vec![program];
    let mut written = 0;
    while let Some(command) = left.pop() {
        left.extend(command.get_subcommands().filter(|command| command.get_name() != "help").cloned());
        let path = folder.join(format!("{}.1", command.get_display_name().unwrap_or(command.get_name())));
        write_atomically(&path, page(command)?.as_bytes())?;
        written += 1;
    }
    printer.note(&format!("{written} pages are in `{}`", folder.display()));
    Ok(())
}

/// The manual page of a command.
fn page(command: clap::Command) -> Result<String, Failure> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command)
        .render(&mut page)
        .map_err(|error| Error::Internal(format!("manual page: {error}")))?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}
