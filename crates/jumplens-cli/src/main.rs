//! The `jumplens` command: arguments, progress, tables. All logic is in the library `jumplens`.

mod advice;
mod args;
mod commands;
mod memory;
mod printer;
mod progress;
mod sources;
mod table;

use clap::Parser;
use clap::error::ErrorKind;
use printer::Printer;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set by Ctrl-C: the library stops at the next place where nothing is lost.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// The user can mend it.
const USER: u8 = 1;
/// A bug.
const BUG: u8 = 2;
/// Stopped by Ctrl-C.
const INTERRUPT: u8 = 130;

fn main() -> ExitCode {
    memory::keep_freed_pages();
    std::panic::set_hook(Box::new(|panic| {
        if jumplens::panics_are_caught() {
            return;
        }
        Printer::default().error(&format!("internal: {panic}; this is a bug in jumplens, please report it"));
        std::process::exit(BUG.into());
    }));
    let args = match args::Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version go to stdout and are no errors; a bare `jumplens` gets the help as well.
            if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
                let _ = error.print();
            } else {
                Printer::default().error(&advice::usage(&error));
            }
            return if error.use_stderr() { ExitCode::from(USER) } else { ExitCode::SUCCESS };
        }
    };
    let printer = Printer::new(args.quiet, args.verbose);
    // Checked here, since clap overlooks it where one stands before the command and the other after.
    if args.quiet && args.verbose {
        printer.error("`--quiet` and `--verbose` cannot be used together; leave one out");
        return ExitCode::from(USER);
    }
    let handler = ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPT.into());
        }
    });
    if let Err(error) = handler {
        printer.note(&format!("Ctrl-C will stop at once, since no handler could be set: {error}"));
    }
    let threads = args.threads.map_or(0, usize::from);
    if let Err(error) = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global() {
        printer.error(&format!("cannot start threads: {error}; ask for fewer with `--threads`"));
        return ExitCode::from(USER);
    }
    match commands::dispatch(args.command, &printer) {
        Ok(()) => ExitCode::SUCCESS,
        Err(commands::Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(commands::Failure::Output(error)) => {
            printer.error(&format!("cannot write to standard output: {error}"));
            ExitCode::from(USER)
        }
        Err(commands::Failure::Unsound(what)) => {
            printer
                .error(&format!("{what}; compare its states with those of the program it was trained with"));
            ExitCode::from(USER)
        }
        Err(commands::Failure::Library(error)) => {
            printer.error(&advice::with_advice(&error));
            ExitCode::from(match error {
                jumplens::Error::Interrupted => INTERRUPT,
                error if error.is_bug() => BUG,
                _ => USER,
            })
        }
    }
}
