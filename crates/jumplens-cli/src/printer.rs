//! Everything that is printed: results to stdout, messages to stderr.

use jumplens::lens::{is_hidden, spelled};
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

    /// True where lines that say how far the work is take the place of bars.
    pub fn shows_lines(&self) -> bool {
        !self.quiet && !io::stderr().is_terminal()
    }

    /// Results as lines for people, to stdout. Names in them may be anyone's: nothing of them acts on the terminal.
    pub fn result(&self, text: &str) -> io::Result<()> {
        self.raw(&text.split('\n').map(spelled).collect::<Vec<_>>().join("\n"))
    }

    /// Results as JSON, to stdout: the same value, with what would act on a terminal as escapes.
    pub fn json(&self, text: &str) -> io::Result<()> {
        self.raw(&json_spelled(text))
    }

    /// Results to stdout as they are: colours, or what was made to be shown elsewhere.
    pub fn raw(&self, text: &str) -> io::Result<()> {
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
    spelled(&text.replace('\n', " "))
}

/// JSON with what hides in its strings as escapes. Outside of strings nothing does but line feeds.
pub fn json_spelled(text: &str) -> String {
    let mut json = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '\n' && is_hidden(c) {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| json += &format!("\\u{unit:04x}"));
        } else {
            json.push(c);
        }
    }
    json
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
