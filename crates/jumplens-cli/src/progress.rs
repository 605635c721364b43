//! Progress bars on a terminal, elsewhere a line now and then, and one line a finished stage anywhere.

use crate::advice::with_remedy;
use crate::pace::Pace;
use crate::printer::Printer;
use indicatif::{DecimalBytes, HumanCount, ProgressBar, ProgressState, ProgressStyle};
use jumplens::progress::Observer;
use jumplens::words::Note;
use std::cell::RefCell;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// From one line to the next where no terminal shows a bar.
const EVERY: Duration = Duration::from_secs(30);

/// Shows what the library reports.
pub struct Progress<'a> {
    printer: &'a Printer,
    stage: RefCell<Option<Stage>>,
}

struct Stage {
    work: Arc<Work>,
    bar: ProgressBar,
    lines: Option<Lines>,
}

/// What a stage does, and how far it is.
struct Work {
    name: &'static str,
    total: u64,
    unit: &'static str,
    started: Instant,
    pace: Mutex<Pace>,
}

impl Work {
    fn with_pace<T>(&self, look: impl FnOnce(&mut Pace, Duration) -> T) -> T {
        look(&mut self.pace.lock().unwrap_or_else(PoisonError::into_inner), self.started.elapsed())
    }

    /// How much is done, how fast that goes, and how long the rest takes.
    fn how_far(&self) -> String {
        let Self { total, unit, .. } = *self;
        let (done, percent, rate, left) =
            self.with_pace(|pace, now| (pace.done(), pace.percent(), pace.per_second(now), pace.left(now)));
        let Some(percent) = percent else { return amount(done, unit) };
        let (done, total) = (count(done, unit), amount(total, unit));
        let rate = rate.map_or("-".to_owned(), |rate| count(rate as u64, unit));
        let left = left.map_or("-".to_owned(), in_words);
        format!("{percent:>3} %  {done} / {total}  {rate}/s  {left} left")
    }
}

/// As much as an estimate says.
fn in_words(left: Duration) -> String {
    match left.as_secs_f64().round() as u64 {
        seconds @ ..100 => format!("about {seconds} s"),
        seconds @ ..6000 => format!("about {} min", (seconds + 30) / 60),
        seconds => {
            let minutes = (seconds + 30) / 60;
            format!("about {} h {} min", minutes / 60, minutes % 60)
        }
    }
}

/// Says how far the work is, now and then, until it is dropped.
struct Lines {
    ended: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Lines {
    /// `None` where the system has no thread for it.
    fn begin(work: Arc<Work>, printer: Printer) -> Option<Self> {
        let (ended, ends) = channel::<()>();
        let say = move || {
            while ends.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                printer.note(&format!("{:<9} {}", work.name, work.how_far()));
            }
        };
        let thread = std::thread::Builder::new().spawn(say).ok()?;
        Some(Self { ended: Some(ended), thread: Some(thread) })
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.ended.take();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The unit that is shown as kB, MB, GB.
const BYTES: &str = "bytes";

fn count(amount: u64, unit: &str) -> String {
    if unit == BYTES { DecimalBytes(amount).to_string() } else { HumanCount(amount).to_string() }
}

fn amount(amount: u64, unit: &str) -> String {
    if unit == BYTES { count(amount, unit) } else { format!("{} {unit}", count(amount, unit)) }
}

impl<'a> Progress<'a> {
    pub fn new(printer: &'a Printer) -> Self {
        Self { printer, stage: RefCell::new(None) }
    }
}

impl Observer for Progress<'_> {
    fn begin(&self, name: &'static str, total: u64, unit: &'static str) {
        let bar = if self.printer.shows_progress() { ProgressBar::new(total) } else { ProgressBar::hidden() };
        let pace = Mutex::new(Pace::new(total));
        let work = Arc::new(Work { name, total, unit, started: Instant::now(), pace });
        if let Ok(style) = ProgressStyle::with_template(&format!("{name:<9} {{bar:30}} {{how_far}}")) {
            let shown = Arc::clone(&work);
            let how_far = move |_: &ProgressState, text: &mut dyn std::fmt::Write| {
                let _ = text.write_str(&shown.how_far());
            };
            bar.set_style(style.with_key("how_far", how_far));
        }
        // The library panics where the system has no thread for it.
        if !bar.is_hidden()
            && std::thread::Builder::new().spawn(|| ()).is_ok_and(|tried| tried.join().is_ok())
        {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        let lines =
            self.printer.shows_lines().then(|| Lines::begin(Arc::clone(&work), *self.printer)).flatten();
        *self.stage.borrow_mut() = Some(Stage { work, bar, lines });
    }

    fn advance(&self, amount: u64) {
        if let Some(stage) = &*self.stage.borrow() {
            stage.work.with_pace(|pace, now| pace.advance(amount, now));
            stage.bar.inc(amount);
        }
    }

    fn end(&self) {
        if let Some(Stage { work, bar, lines }) = self.stage.take() {
            drop(lines);
            bar.finish_and_clear();
            let (done, seconds) = work.with_pace(|pace, now| (pace.done(), now.as_secs_f64()));
            let Work { name, unit, .. } = *work;
            // Only of tokens and bytes, of which there are many, does a rate tell something.
            let per_second = (done as f64 / seconds.max(1e-9)) as u64;
            let rate = match unit {
                "tokens" => format!(" ({} tokens/s)", HumanCount(per_second)),
                BYTES => format!(" ({}/s)", DecimalBytes(per_second)),
                _ => String::new(),
            };
            self.printer.note(&format!("{name:<9} {} in {seconds:.1} s{rate}", amount(done, unit)));
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
