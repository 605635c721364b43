//! Whether a model predicts the text it is run on at all. Wrong token ids, wrong weights and weights in another layout
//! give states that look like any others; what they do not give is predictions.

use crate::Result;
use crate::eval::{Losses, WORST, with_losses};
use crate::models::{Kind, Transformer};
use crate::nn::Precision;
use crate::words::{CONTEXT_LENGTH, CONTEXT_WINDOW, Sample};

pub use crate::words::{Comparison, TextCheck};

use std::collections::HashMap;

/// Such texts.
const TEXTS: usize = 4;
/// Samples of a masked model that are asked for what is at their chosen positions, and how many tokens they may have in
/// all.
const MASKED: usize = 512;
const MASKED_TOKENS: usize = 8192;

/// What is taken from each count of a token for those that were not seen: absolute discounting (Ney, Essen and Kneser
/// 1994) with the discount that is usual.
const DISCOUNT: f64 = 0.75;

/// How often each token occurs in some texts.
#[derive(Debug, Clone)]
pub struct Unigrams {
    counts: HashMap<u32, usize>,
    tokens: usize,
    vocab: usize,
}

impl Unigrams {
    /// Of `texts`, in a vocabulary of `vocab` tokens.
    pub fn of(texts: &[Vec<u32>], vocab: usize) -> Self {
        let mut counts = HashMap::new();
        texts.iter().flatten().for_each(|token| *counts.entry(*token).or_insert(0) += 1);
        Self { counts, tokens: texts.iter().map(Vec::len).sum(), vocab }
    }

    /// −ln p of each of `tokens` by its frequency in all texts but `text`, which is one of them, in nats. What is taken from
    /// the counts of tokens there is shared out among all tokens evenly.
    pub fn losses(&self, text: &[u32], tokens: &[u32]) -> Vec<f64> {
        let own = Self::of(&[text.to_vec()], self.vocab);
        let elsewhere = |token: &u32| {
            let count = |of: &Self| of.counts.get(token).copied().unwrap_or(0);
            count(self).saturating_sub(count(&own))
        };
        let only_here = own.counts.keys().filter(|token| elsewhere(token) == 0).count();
        let kinds = (self.counts.len() - only_here) as f64;
        let all = (self.tokens - text.len()) as f64;
        let even = 1.0 / self.vocab as f64;
        let p = |token: &u32| match all {
            0.0 => even,
            all => ((elsewhere(token) as f64 - DISCOUNT).max(0.0) + DISCOUNT * kinds * even) / all,
        };
        tokens.iter().map(|token| -p(token).ln()).collect()
    }
}

/// Asks the model for the tokens of the first of `samples`, its head's products done in `precision`. The frequencies are
/// those in all of them. `None` where the model has no head, and where the samples are too few to tell.
pub fn check_text(
    model: &Transformer,
    precision: Precision,
    samples: &[Sample],
) -> Result<Option<TextCheck>> {
    let check = with_losses(model, precision, |losses| match model.spec().kind {
        Kind::Causal => causal(model, losses, samples),
        Kind::Masked => masked(model, losses, samples),
    })?;
    // Where nothing is finite, the check of the states says more.
    Ok(check.flatten().filter(|check| check.unigrams.loss < WORST))
}

/// The text of each sentence, with the token that is behind a `[MASK]`, and the numbers of its samples.
fn sentences(samples: &[Sample], kind: Kind) -> Vec<(Vec<u32>, &[Sample])> {
    let text = |sample: &Sample| {
        let mut ids = sample.ids.clone();
        if let (Kind::Masked, Some(target)) = (kind, sample.target) {
            ids[sample.position] = target;
        }
        ids
    };
    let groups = samples.chunk_by(|one, other| one.is_of_the_same_sentence(other, kind));
    groups.map(|group| (text(&group[0]), group)).collect()
}

/// The token that every text begins with, which is then no word of theirs.
pub(crate) fn common_first(texts: &[Vec<u32>]) -> Option<u32> {
    let first = *texts.first()?.first()?;
    (texts.len() > 1 && texts.iter().all(|text| text.first() == Some(&first))).then_some(first)
}

/// `tokens` with `first` before them, where there is such a token.
pub(crate) fn beginning(first: Option<u32>, tokens: &[u32]) -> Vec<u32> {
    first.into_iter().chain(tokens.iter().copied()).collect()
}

/// The texts one after another, without the token that all begin with, in pieces of `length` tokens with that token:
/// which one it is, the pieces without it, and of each token its text's number.
pub(crate) fn joined(
    texts: &[Vec<u32>],
    length: usize,
    pieces: usize,
) -> (Option<u32>, Vec<Vec<u32>>, Vec<usize>) {
    let first = common_first(texts);
    let skip = usize::from(first.is_some());
    let length = length.saturating_sub(skip).max(1);
    let all = texts.iter().enumerate();
    let tokens = all.flat_map(|(number, text)| text[skip..].iter().map(move |token| (*token, number)));
    let (tokens, numbers): (Vec<u32>, Vec<usize>) = tokens.take(pieces * length).unzip();
    (first, tokens.chunks(length).map(<[u32]>::to_vec).collect(), numbers)
}

fn causal(model: &Transformer, losses: &Losses, samples: &[Sample]) -> Result<Option<TextCheck>> {
    let spec = model.spec();
    let texts: Vec<Vec<u32>> = sentences(samples, spec.kind).into_iter().map(|(text, _)| text).collect();
    let unigrams = Unigrams::of(&texts, spec.vocab_size);
    let (first, pieces, numbers) = joined(&texts, CONTEXT_LENGTH.min(spec.max_positions), TEXTS);
    // The first token of a text is not predicted.
    let unseen = usize::from(first.is_none());
    let begun: Vec<Vec<u32>> = pieces.iter().map(|piece| beginning(first, piece)).collect();
    let of_pieces = losses.of_texts(&begun)?;

    let mut by_text = vec![Vec::new(); texts.len()];
    let mut at = 0;
    for (piece, losses) in pieces.iter().zip(&of_pieces) {
        let numbers = &numbers[at..at + piece.len()];
        at += piece.len();
        for place in unseen..piece.len() {
            let text = numbers[place];
            let by_frequency = unigrams.losses(&texts[text], &piece[place..=place])[0];
            by_text[text].push([losses[place - unseen], by_frequency]);
        }
    }
    let Some(unigrams) = Comparison::of(&by_text) else { return Ok(None) };
    Ok(Some(TextCheck { unigrams, context: context(losses, first, &pieces, &of_pieces)? }))
}

/// The second half of every piece once more, each token from no more than what is directly before it.
fn context(
    losses: &Losses,
    first: Option<u32>,
    pieces: &[Vec<u32>],
    of_pieces: &[Vec<f64>],
) -> Result<Option<Comparison>> {
    let unseen = usize::from(first.is_none());
    let full = CONTEXT_LENGTH - 1 + unseen;
    let (mut windows, mut before) = (Vec::new(), Vec::new());
    for (piece, losses) in pieces.iter().zip(of_pieces).filter(|(piece, _)| piece.len() == full) {
        for start in (CONTEXT_LENGTH / 2..=full - CONTEXT_WINDOW).step_by(CONTEXT_WINDOW) {
            windows.push(beginning(first, &piece[start - CONTEXT_WINDOW..start + CONTEXT_WINDOW]));
            before.push(&losses[start - unseen..][..CONTEXT_WINDOW]);
        }
    }
    let of_windows = losses.of_texts(&windows)?;
    let pairs = before.iter().zip(&of_windows).map(|(all, last)| {
        let last = &last[last.len() - CONTEXT_WINDOW..];
        all.iter().zip(last).map(|(all, last)| [*all, *last]).collect()
    });
    Ok(Comparison::of(&pairs.collect::<Vec<_>>()))
}

fn masked(model: &Transformer, losses: &Losses, samples: &[Sample]) -> Result<Option<TextCheck>> {
    let spec = model.spec();
    let sentences = sentences(samples, spec.kind);
    let texts: Vec<Vec<u32>> = sentences.iter().map(|(text, _)| text.clone()).collect();
    let unigrams = Unigrams::of(&texts, spec.vocab_size);
    // What stands at the ends belongs to the tokenizer, and is never masked in training.
    let is_asked = |sample: &Sample| {
        sample.target.is_some() && (1..sample.ids.len().saturating_sub(1)).contains(&sample.position)
    };
    let (mut asked, mut targets, mut texts_of, mut tokens) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for (number, (_, samples)) in sentences.iter().enumerate() {
        for sample in samples.iter().filter(|sample| is_asked(sample)) {
            tokens += sample.ids.len();
            if asked.len() < MASKED && tokens <= MASKED_TOKENS {
                targets.extend(sample.target);
                texts_of.push(number);
                asked.push(sample.clone());
            }
        }
    }
    let of_model = losses.at_chosen(&asked, &targets)?;
    let mut by_text = vec![Vec::new(); texts.len()];
    for ((text, target), loss) in texts_of.into_iter().zip(&targets).zip(of_model) {
        by_text[text].push([loss, unigrams.losses(&texts[text], &[*target])[0]]);
    }
    Ok(Comparison::of(&by_text).map(|unigrams| TextCheck { unigrams, context: None }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comparison_is_the_mean_and_its_error_that_of_the_groups_means() {
        // Groups of one size: the error is that of the mean of their means.
        let differences = [0.5, 1.5, -0.25, 0.75, 2.0, 1.0, 0.0, 1.25, 0.25, 1.0];
        let groups: Vec<Vec<[f64; 2]>> = differences
            .iter()
            .map(|d| vec![[4.0 + d, 4.0], [5.0 + d + 0.1, 5.0], [3.0 + d - 0.1, 3.0]])
            .collect();
        let comparison = Comparison::of(&groups).unwrap();
        let mean = differences.iter().sum::<f64>() / 10.0;
        let variance = differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / 9.0;
        assert_eq!(comparison.predictions, 30);
        assert!((comparison.loss - comparison.other - mean).abs() < 1e-12);
        assert!((comparison.other - 4.0).abs() < 1e-12);
        assert!((comparison.standard_error - (variance / 10.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn few_predictions_and_small_differences_say_nothing() {
        let group = |difference: f64, n: usize| vec![[3.0 + difference, 3.0]; n];
        assert_eq!(Comparison::of(&vec![group(5.0, 2); 9]), None, "18 predictions");
        assert_eq!(Comparison::of(&vec![group(5.0, 100); 7]), None, "7 texts");
        let clear = Comparison::of(&vec![group(0.4, 3); 8]).unwrap();
        assert!(clear.is_worse(0.0) && !clear.is_worse(0.5) && !clear.is_better());
        // As far from zero as its error.
        let groups: Vec<_> = (0..16).map(|i| group(if i % 2 == 0 { 1.25 } else { -0.75 }, 2)).collect();
        let unclear = Comparison::of(&groups).unwrap();
        assert!((unclear.loss - unclear.other - 0.25).abs() < 1e-12 && !unclear.is_worse(0.0), "{unclear:?}");
    }

    #[test]
    fn frequencies_are_those_of_the_other_texts() {
        let texts = vec![vec![1, 1, 2], vec![1, 3], vec![1, 1, 1, 2, 2, 4]];
        let unigrams = Unigrams::of(&texts, 10);
        // Without the second text: 1 five times, 2 thrice, 4 once; three kinds of tokens give 0.75 each.
        let p = |count: f64| ((count - 0.75_f64).max(0.0) + 0.75 * 3.0 / 10.0) / 9.0;
        let want: Vec<f64> = [5.0, 0.0, 3.0, 1.0, 0.0].iter().map(|count| -p(*count).ln()).collect();
        let got = unigrams.losses(&texts[1], &[1, 3, 2, 4, 9]);
        assert!(got.iter().zip(&want).all(|(got, want)| (got - want).abs() < 1e-12), "{got:?} {want:?}");
        // All of it is shared out.
        let all: f64 =
            unigrams.losses(&texts[1], &(0..10).collect::<Vec<u32>>()).iter().map(|l| (-l).exp()).sum();
        assert!((all - 1.0).abs() < 1e-12, "{all}");
        // Nothing is known but the vocabulary.
        assert_eq!(Unigrams::of(&texts[..1], 10).losses(&texts[0], &[1]), [-(0.1f64.ln())]);
    }

    #[test]
    fn what_all_texts_begin_with_begins_every_piece() {
        let texts = vec![vec![0, 5, 6, 7], vec![0, 8], vec![0, 9, 9, 9]];
        let (first, pieces, numbers) = joined(&texts, 4, 2);
        assert_eq!((first, numbers), (Some(0), vec![0, 0, 0, 1, 2, 2]));
        assert_eq!(pieces, [[5, 6, 7], [8, 9, 9]]);
        let (first, pieces, _) = joined(&[vec![1, 2], vec![3, 4, 5]], 4, 9);
        assert_eq!((first, pieces), (None, vec![vec![1, 2, 3, 4], vec![5]]));
    }
}
