//! Ctrl-C and `TERM`: a command stops at the next place where nothing is lost, and if it does not come to one in a moment,
//! wherever it is. That loses nothing either but what it was about, since files are whole or not there.

use crate::args::{Command, RunArgs};
use crate::printer::Printer;
use crate::shell::quoted;
use jumplens::Error;
use jumplens::files::remove_unfinished;
use jumplens::jacobian::JACOBIANS;
use jumplens::states::CHUNK;
use jumplens::store::{Manifest, Stage};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// How long the library has to come to a place where it can stop.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How long saying so may take: nobody may be reading standard error, and the run's disk may not answer.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// Set by the first signal.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// Set by whoever says how the command ended.
static CONCLUDED: AtomicBool = AtomicBool::new(false);
static BEGUN: OnceLock<Begun> = OnceLock::new();

/// How a command goes on that was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GoesOn {
    /// With its run folder, by `--resume`.
    ByResume,
    /// With the states in its run folder, where `jumplens states` is given by itself.
    AsStates,
    /// With its run folder, by itself.
    ByItself,
    /// It does not: it begins anew.
    Anew,
}

/// The command that is being done.
#[derive(Debug)]
pub struct Begun {
    goes_on: GoesOn,
    folder: PathBuf,
    /// What was in the folder before, where that is to be replaced.
    replaced: Option<Manifest>,
}

impl Begun {
    fn new(command: &Command) -> Self {
        let (goes_on, folder, overwrite) = match command {
            Command::Run(RunArgs { begin: args, .. }) | Command::Samples(args) => {
                (GoesOn::ByResume, args.folder(), args.existing.overwrite)
            }
            Command::States(args) if args.command.is_none() => {
                (GoesOn::AsStates, args.folder(), args.overwrite)
            }
            Command::Moments(args) => (GoesOn::ByItself, args.folder(), args.overwrite),
            Command::Fit(args) if !args.derivatives.lens.is_empty() => {
                (GoesOn::ByItself, args.out.clone(), args.overwrite)
            }
            Command::Arena(args) => (GoesOn::ByResume, args.out.clone(), args.existing.overwrite),
            Command::Maps(args) => (GoesOn::ByItself, args.folder(), args.existing.overwrite),
            _ => (GoesOn::Anew, PathBuf::new(), false),
        };
        let replaced = if overwrite { Manifest::read(&folder).ok().flatten() } else { None };
        Self { goes_on, folder, replaced }
    }

    /// How the command goes on.
    pub fn goes_on() -> GoesOn {
        BEGUN.get().map_or(GoesOn::Anew, |begun| begun.goes_on)
    }

    /// What of a run is on disk for good, once there are samples.
    fn kept(&self) -> Option<Manifest> {
        let manifest = (self.goes_on != GoesOn::Anew).then(|| Manifest::read(&self.folder).ok())??;
        manifest
            .filter(|manifest| manifest.is_done(Stage::Samples) && self.replaced.as_ref() != Some(manifest))
    }
}

/// Notes which command is being done.
pub fn begin(command: &Command) {
    let _ = BEGUN.set(Begun::new(command));
}

/// True once the user wants to stop.
pub fn is_wanted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Listens for signals from now on.
pub fn listen(printer: Printer) -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(move || {
        let again = INTERRUPTED.swap(true, Ordering::Relaxed);
        if again || thread::Builder::new().spawn(move || watch(&printer)).is_err() {
            remove_unfinished();
            end();
        }
    })
}

/// Ends the program in a moment, unless it has come to its end by then.
fn watch(printer: &Printer) {
    thread::sleep(PATIENCE);
    if CONCLUDED.swap(true, Ordering::Relaxed) {
        return;
    }
    let (sender, said) = mpsc::channel();
    let printer = *printer;
    let saying = thread::Builder::new().spawn(move || {
        remove_unfinished();
        // Over the progress bar, if there is one.
        if std::io::stderr().is_terminal() {
            let _ = write!(std::io::stderr(), "\r\x1b[2K");
        }
        say(&printer);
        let _ = sender.send(());
    });
    if saying.is_ok() {
        let _ = said.recv_timeout(LAST_WORDS);
    }
    end();
}

/// Ends the program without running anything else, which other threads may be in the middle of.
fn end() -> ! {
    // SAFETY: takes no memory of ours, and does not return.
    unsafe { libc::_exit(crate::INTERRUPT.into()) }
}

/// For a command that has come to its end, however that was, before it says so. Does not return where the program is being
/// ended.
pub fn conclude() {
    if CONCLUDED.swap(true, Ordering::Relaxed) {
        loop {
            thread::park();
        }
    }
}

/// Says what is kept, and how to go on.
pub fn say(printer: &Printer) {
    let begun = BEGUN.get();
    let advice = match begun.and_then(|begun| Some((begun, begun.kept()?))) {
        None if begun.is_none_or(|begun| begun.goes_on == GoesOn::Anew) => {
            "give the command again".to_owned()
        }
        None if begun.is_some_and(|begun| begun.folder.join(JACOBIANS).is_file()) => {
            "what is finished is kept: the same command goes on from there".to_owned()
        }
        None => "nothing is kept yet: give the command again".to_owned(),
        Some((Begun { goes_on, folder, .. }, manifest)) => {
            printer.note(&format!("Kept in `{}`: {}", folder.display(), kept(&manifest)));
            let by = match goes_on {
                GoesOn::ByResume => "`--resume`".to_owned(),
                GoesOn::AsStates => format!("`jumplens states --out {}`", quoted(folder)),
                GoesOn::ByItself | GoesOn::Anew => "the same command".to_owned(),
            };
            format!("what is finished is kept: {by} goes on from there")
        }
    };
    printer.error(&format!("{}; {advice}", Error::Interrupted));
}

/// What of a run is on disk for good.
fn kept(manifest: &Manifest) -> String {
    let done = Stage::ALL.into_iter().filter(|stage| manifest.is_done(*stage));
    let stages = done.map(|stage| stage.to_string());
    let begun = manifest.stages.get(&Stage::States).filter(|record| !record.done);
    let chunks = begun.into_iter().flat_map(|record| &record.chunks);
    let chunks = chunks.map(|(split, chunks)| format!("{chunks} chunks of {CHUNK} {split} states"));
    stages.chain(chunks).collect::<Vec<_>>().join(", ")
}
