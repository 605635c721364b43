//! Progress bars on a terminal, and one line a finished stage anywhere.

use crate::advice::with_remedy;
use crate::printer::Printer;
use indicatif::{DecimalBytes, HumanCount, ProgressBar, ProgressState, ProgressStyle};
use jumplens::progress::Observer;
use jumplens::words::Note;
use std::cell::RefCell;
use std::time::{Duration, Instant};

/// Shows what the library reports.
pub struct Progress<'a> {
    printer: &'a Printer,
    stage: RefCell<Option<Stage>>,
}

struct Stage {
    name: &'static str,
    unit: &'static str,
    started: Instant,
    bar: ProgressBar,
}

/// The unit that is shown as kB, MB, GB.
const BYTES: &str = "bytes";

fn count(amount: u64, unit: &str) -> String {
    if unit == BYTES { DecimalBytes(amount).to_string() } else { HumanCount(amount).to_string() }
}

impl<'a> Progress<'a> {
    pub fn new(printer: &'a Printer) -> Self {
        Self { printer, stage: RefCell::new(None) }
    }
}

impl Observer for Progress<'_> {
    fn begin(&self, name: &'static str, total: u64, unit: &'static str) {
        let bar = if self.printer.shows_progress() { ProgressBar::new(total) } else { ProgressBar::hidden() };
        let amount = match unit {
            BYTES => "{decimal_bytes} / {decimal_total_bytes}".to_owned(),
            unit => format!("{{human_pos}} / {{human_len}} {unit}"),
        };
        let template = format!("{name:<9} {{bar:30}} {{percent:>3}} %  {amount}  {{rate}}  {{eta}} left");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            let rate = move |state: &ProgressState, text: &mut dyn std::fmt::Write| {
                let _ = write!(text, "{}/s", count(state.per_sec() as u64, unit));
            };
            bar.set_style(style.with_key("rate", rate));
        }
        // The library panics where the system has no thread for it.
        if !bar.is_hidden()
            && std::thread::Builder::new().spawn(|| ()).is_ok_and(|tried| tried.join().is_ok())
        {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        *self.stage.borrow_mut() = Some(Stage { name, unit, started: Instant::now(), bar });
    }

    fn advance(&self, amount: u64) {
        if let Some(stage) = &*self.stage.borrow() {
            stage.bar.inc(amount);
        }
    }

    fn end(&self) {
        if let Some(stage) = self.stage.take() {
            let done = stage.bar.position();
            stage.bar.finish_and_clear();
            let seconds = stage.started.elapsed().as_secs_f64();
            let Stage { name, unit, .. } = stage;
            // Only of tokens and bytes, of which there are many, does a rate tell something.
            let per_second = (done as f64 / seconds.max(1e-9)) as u64;
            let rate = match unit {
                "tokens" => format!(" ({} tokens/s)", HumanCount(per_second)),
                BYTES => format!(" ({}/s)", DecimalBytes(per_second)),
                _ => String::new(),
            };
            let amount =
                if unit == BYTES { count(done, unit) } else { format!("{} {unit}", count(done, unit)) };
            self.printer.note(&format!("{name:<9} {amount} in {seconds:.1} s{rate}"));
        }
    }

    fn note(&self, line: &str) {
        match &*self.stage.borrow() {
            Some(stage) => stage.bar.suspend(|| self.printer.note(line)),
            None => self.printer.note(line),
        }
    }

    fn advise(&self, note: &Note) {
        self.note(&with_remedy(note));
    }

    fn warning(&self, line: &str) {
        match &*self.stage.borrow() {
            Some(stage) => stage.bar.suspend(|| self.printer.warning(line)),
            None => self.printer.warning(line),
        }
    }

    fn cancelled(&self) -> bool {
        crate::interrupt::is_wanted()
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if let Some(stage) = self.stage.take() {
            stage.bar.finish_and_clear();
        }
    }
}
