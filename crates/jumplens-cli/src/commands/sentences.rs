//! `jumplens sentences`: draws sentences from a corpus and writes them.

use super::Failure;
use crate::args::SentencesArgs;
use crate::printer::Printer;
use crate::progress::Progress;
use jumplens::corpus::{Corpus, CountTokens, DrawnSentences};
use jumplens::samples::tokenizer_of;
use jumplens::sentences::{check_sentences, write_sentences};

pub fn sentences(args: &SentencesArgs, printer: &Printer) -> Result<(), Failure> {
    let (sources, progress) = (args.unread.sources(), Progress::new(printer));
    check_sentences(&args.out, args.overwrite)?;
    let corpus = Corpus::open(&args.corpus, &(&args.reading).into(), args.seed, &sources, &progress)?;
    let tokenizer = args.model.as_ref().map(|model| tokenizer_of(model, &sources, &progress)).transpose()?;
    let options = args.draw.options(None);
    let tokens = tokenizer.as_ref().map(|tokenizer| |text: &str| Ok(tokenizer.encode(text)?.len()));
    let tokens = tokens.as_ref().map(|count| count as CountTokens);
    let drawn = corpus.sentences(args.num, &options, args.seed, tokens, &progress)?;
    write_sentences(&args.out, &drawn, args.seed, args.overwrite)?;
    let DrawnSentences { train, record, .. } = drawn;
    let from = record.documents.map_or(String::new(), |documents| format!(" from {documents} documents"));
    printer.note(&format!("{} sentences{from} are in `{}`", train.len(), args.out.display()));
    Ok(())
}
