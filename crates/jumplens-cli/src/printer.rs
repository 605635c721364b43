//! Everything that is printed: results to stdout, messages to stderr.

use std::io::{self, IsTerminal, Write};

/// Knows how much is to be said.
#[derive(Debug, Clone, Copy, Default)]
pub struct Printer {
    quiet: bool,
    verbose: bool,
}

impl Printer {
    /// `quiet` leaves out all messages but warnings and errors, `verbose` adds more.
    pub fn new(quiet: bool, verbose: bool) -> Self {
        Self { quiet, verbose }
    }

    /// True where progress bars are welcome.
    pub fn shows_progress(&self) -> bool {
        !self.quiet && io::stderr().is_terminal()
    }

    /// Results, to stdout.
    pub fn result(&self, text: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }

    /// A message, to stderr.
    pub fn note(&self, line: &str) {
        if !self.quiet {
            say(line);
        }
    }

    /// A message for those who asked for more.
    pub fn detail(&self, line: &str) {
        if self.verbose {
            say(line);
        }
    }

    /// What makes results doubtful, to stderr, in one line: whoever asked for quiet has to know as well.
    pub fn warning(&self, line: &str) {
        let mark = if shows_color() { "\x1b[1;33mwarning:\x1b[0m" } else { "warning:" };
        let _ = writeln!(io::stderr().lock(), "{mark} {}", one_line(line));
    }

    /// An error, to stderr, in one line.
    pub fn error(&self, line: &str) {
        say(&format!("error: {line}"));
    }
}

/// `text` in one line. Names and messages may come from a model's files: nothing of them acts on the terminal.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => line.push(' '),
            c if c.is_control() => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
    line
}

/// Whether standard error takes colour, and the user wants to see it.
fn shows_color() -> bool {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let is = |name: &str, wanted: &str| variable(name).is_some_and(|value| value == wanted);
    if variable("NO_COLOR").is_some() {
        return false;
    }
    if variable("CLICOLOR_FORCE").is_some_and(|value| value != "0") {
        return true;
    }
    io::stderr().is_terminal() && !is("CLICOLOR", "0") && !is("TERM", "dumb")
}

/// A closed stderr is nothing to stop for.
fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", one_line(line));
}
