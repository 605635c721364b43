//! The `jumplens` command: arguments, progress, tables. All logic is in the library `jumplens`.
//!
//! The program is [`main`] and no more, so that other packages can bring the command along. It is made for a process of its
//! own: it takes Ctrl-C and SIGTERM, sets what a panic says, and builds rayon's pool of threads.

mod advice;
mod args;
mod commands;
mod interrupt;
mod memory;
mod pace;
mod printer;
mod progress;
mod shell;
mod sources;
mod table;

use clap::FromArgMatches;
use clap::error::ErrorKind;
use jumplens::nn::Isa;
pub use memory::Allocator;
pub use sources::sources;

use printer::Printer;
use std::ffi::OsString;
use std::process::ExitCode;

/// The user can mend it.
const USER: u8 = 1;
/// A bug.
const BUG: u8 = 2;
/// Stopped by Ctrl-C.
const INTERRUPT: u8 = 130;

/// Does what `args` say, the program's name first, and gives the exit code: 0, 1 where the user can mend it, 2 for a bug, 130
/// when interrupted.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    memory::keep_freed_pages();
    #[cfg(unix)]
    report_large_files();
    #[cfg(unix)]
    memory::name_files_cut_short();
    std::panic::set_hook(Box::new(|panic| {
        if jumplens::panics_are_caught() {
            return;
        }
        Printer::default().error(&format!("internal: {panic}; this is a bug in jumplens, please report it"));
        std::process::exit(BUG.into());
    }));
    let parsed = args::program().try_get_matches_from(args);
    let args = match parsed.and_then(|matches| args::Args::from_arg_matches(&matches)) {
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
    if let Err(error) = choose_instructions() {
        printer.error(&advice::with_advice(&error));
        return ExitCode::from(USER);
    }
    interrupt::begin(&args.command);
    if let Err(error) = interrupt::listen(printer) {
        printer.note(&format!("Ctrl-C will stop at once, since no handler could be set: {error}"));
    }
    let (threads, note) = threads(args.threads);
    note.iter().for_each(|note| printer.note(note));
    if let Err(error) = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global() {
        printer.error(&format!("cannot start threads: {error}; ask for fewer with `--threads`"));
        return ExitCode::from(USER);
    }
    let model = args.command.model().map(str::to_owned);
    let done = commands::dispatch(args.command, &printer);
    interrupt::conclude();
    match done {
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
        Err(commands::Failure::Library(jumplens::Error::Interrupted)) => {
            interrupt::say(&printer);
            ExitCode::from(INTERRUPT)
        }
        Err(commands::Failure::Library(error)) => {
            printer.error(&advice::about(&error, model.as_deref()));
            ExitCode::from(if error.is_bug() { BUG } else { USER })
        }
    }
}

/// As the variable `JUMPLENS_ISA` has it, where it is set.
fn choose_instructions() -> Result<(), jumplens::Error> {
    match std::env::var_os("JUMPLENS_ISA").filter(|isa| !isa.is_empty()) {
        Some(isa) => Ok(isa.to_string_lossy().parse::<Isa>()?.choose()?),
        None => Ok(()),
    }
}

/// A file that would become larger than the limit that is set (`ulimit -f`) is an error like others, and does not end the
/// program.
#[cfg(unix)]
fn report_large_files() {
    // SAFETY: ignores a signal that nobody else handles, before there are other threads.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Threads that are worth while for each core. More of them only wait for one another, and have to be woken for each product.
const THREADS_A_CORE: usize = 4;

/// How many threads to start, and what to say of it. What was `asked` for goes before `RAYON_NUM_THREADS`.
fn threads(asked: Option<u16>) -> (usize, Option<String>) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let set =
        || std::env::var("RAYON_NUM_THREADS").ok()?.parse::<usize>().ok().filter(|threads| *threads > 0);
    let asked = asked.map(usize::from).or_else(set).unwrap_or(cores);
    let most = THREADS_A_CORE * cores;
    let note = (asked > most).then(|| {
        let cores = if cores == 1 { "1 core".to_owned() } else { format!("{cores} cores") };
        format!(
            "{most} threads do the work of {asked}: there are {cores} here, and results do not depend on it"
        )
    });
    (asked.min(most), note)
}
