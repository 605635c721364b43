//! `jumplens doctor`: looks at a model before anything is measured with it.

use super::Failure;
use crate::args::DoctorArgs;
use crate::printer::{Printer, one_line};
use crate::progress::Progress;
use jumplens::corpus::{Corpus, Reading};
use jumplens::doctor::{Finding, Outcome, examine};
use jumplens::hub::ModelFiles;
use jumplens::nn::Isa;

/// More of them than `examine` runs, however short they are.
const SENTENCES: usize = 2000;

pub fn doctor(args: &DoctorArgs, printer: &Printer) -> Result<(), Failure> {
    let (sources, progress) = (args.unread.sources(), Progress::new(printer));
    let files = ModelFiles::find(args.model.name(), &sources, &progress)?;
    let corpus = Corpus::open(&args.corpus, &Reading::default(), 0, &sources, &progress)?;
    let sentences = corpus.first_sentences(SENTENCES, &progress)?;
    let mut findings = examine(&files, sentences.iter().map(String::as_str), &progress)?;
    let detail = format!("`{}` instructions, {} threads", Isa::current(), rayon::current_num_threads());
    findings.push(Finding { about: "machine", outcome: Outcome::Good, detail });
    let line = |Finding { about, outcome, detail }: &Finding| {
        let mark = match outcome {
            Outcome::Good => "ok",
            Outcome::Note => "note",
            Outcome::Bad => "BAD",
        };
        format!("{mark:<4}  {about:<11}  {}\n", one_line(detail))
    };
    printer.result(&findings.iter().map(line).collect::<String>())?;
    match findings.iter().find(|finding| finding.outcome == Outcome::Bad) {
        Some(bad) => Err(Failure::Unsound(format!("`{}` is not sound: {}", args.model.name(), bad.detail))),
        None => Ok(()),
    }
}
