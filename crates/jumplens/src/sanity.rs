//! Whether a model predicts the text it is run on at all. Wrong token ids, wrong weights and weights in another layout
//! give states that look like any others; what they do not give is predictions.

use crate::error::Result;
use crate::eval::{Losses, WORST, with_losses};
use crate::models::{Backbone, Kind};
use crate::nn::Precision;
use crate::tokenize::Sample;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;

/// Tokens of a text that texts are joined to for a causal model.
const LENGTH: usize = 256;
/// Such texts.
const TEXTS: usize = 4;
/// Tokens that are predicted once more from what is directly before them.
const WINDOW: usize = 8;
/// Samples of a masked model that are asked for what is at their chosen positions, and how many tokens they may have in
/// all.
const MASKED: usize = 512;
const MASKED_TOKENS: usize = 8192;

/// The fewest predictions, and the fewest groups of them, that anything is said about.
const FEWEST: [usize; 2] = [20, 8];
/// A difference is one beyond this many standard errors.
const FIRM: f64 = 3.0;
/// So many nats may a token cost more with all of its context: models that have seen nothing but short texts lose some
/// tenths on longer ones.
pub(crate) const CONTEXT_MARGIN: f64 = 0.5;
/// What is taken from each count of a token for those that were not seen: absolute discounting (Ney, Essen and Kneser
/// 1994) with the discount that is usual.
const DISCOUNT: f64 = 0.75;

/// Two ways to predict the same tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Tokens that were predicted.
    pub predictions: usize,
    /// Mean −ln p of a token in one way, nats.
    pub loss: f64,
    /// In the other.
    pub other: f64,
    /// Of the difference: tokens of one text go together.
    pub standard_error: f64,
}

impl Comparison {
    /// Of groups of tokens that go together, each with its losses in both ways. `None` where they are too few to tell.
    pub fn of(groups: &[Vec<[f64; 2]>]) -> Option<Self> {
        let groups: Vec<&Vec<[f64; 2]>> = groups.iter().filter(|group| !group.is_empty()).collect();
        let n = groups.iter().map(|group| group.len()).sum::<usize>();
        if n < FEWEST[0] || groups.len() < FEWEST[1] {
            return None;
        }
        let mean = |way: usize| groups.iter().flat_map(|g| g.iter()).map(|l| l[way]).sum::<f64>() / n as f64;
        let (loss, other) = (mean(0), mean(1));
        // A ratio of sums over groups, by the usual linearisation.
        let residual =
            |group: &&Vec<[f64; 2]>| group.iter().map(|l| l[0] - l[1] - (loss - other)).sum::<f64>();
        let squares = groups.iter().map(residual).map(|sum| sum * sum).sum::<f64>();
        let m = groups.len() as f64;
        let standard_error = (squares * m / (m - 1.0)).sqrt() / n as f64;
        Some(Self { predictions: n, loss, other, standard_error })
    }

    /// True where the first way costs more by over `margin` nats, beyond chance.
    pub fn is_worse(&self, margin: f64) -> bool {
        let difference = self.loss - self.other;
        difference > margin && difference > FIRM * self.standard_error
    }

    /// True where the first way costs less, beyond chance.
    pub fn is_better(&self) -> bool {
        self.other - self.loss > FIRM * self.standard_error
    }
}

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

/// What a model makes of the tokens of some samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TextCheck {
    /// The model's loss, against that of the tokens' frequencies in the other texts.
    pub unigrams: Comparison,
    /// For causal models: the loss with all tokens before, at least half of 256, against that with the last 8 to 15 alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<Comparison>,
}

impl TextCheck {
    /// True where more of a text makes the model worse, beyond what short training texts explain.
    pub fn context_hurts(&self) -> bool {
        self.context.is_some_and(|context| context.is_worse(CONTEXT_MARGIN))
    }

    /// What is wrong, a line each, with the model named `model`.
    pub fn warnings(&self, model: &str) -> Vec<String> {
        let mut lines = Vec::new();
        let Comparison { loss, other, predictions, .. } = self.unigrams;
        if self.unigrams.is_worse(0.0) {
            lines.push(format!(
                "`{model}` predicts the tokens of these samples worse than their frequencies do ({loss:.2} against \
                 {other:.2} nats a token, {predictions} tokens): wrong token ids, wrong weights or a wrong layout of them \
                 look just so, and so does text of a kind that the model was not made for"
            ));
        }
        if let Some(context) = self.context.filter(|_| self.context_hurts()) {
            let Comparison { loss, other, predictions, .. } = context;
            lines.push(format!(
                "`{model}` predicts the tokens of these samples worse from all {} and more before them than from the last \
                 {WINDOW} to {} ({loss:.2} against {other:.2} nats a token, {predictions} tokens): query and key weights in a \
                 wrong RoPE layout, or a wrong RoPE base, look just so",
                LENGTH / 2,
                2 * WINDOW - 1
            ));
        }
        lines
    }
}

impl fmt::Display for TextCheck {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Comparison { loss, other, predictions, .. } = self.unigrams;
        write!(f, "{loss:.2} nats a token, {other:.2} by the tokens' frequencies ({predictions} tokens)")?;
        match self.context {
            Some(Comparison { loss, other, predictions, .. }) => write!(
                f,
                "; {loss:.2} from all {} and more before it, {other:.2} from the last {WINDOW} to {} ({predictions} tokens)",
                LENGTH / 2,
                2 * WINDOW - 1
            ),
            None => Ok(()),
        }
    }
}

/// Asks the model for the tokens of the first of `samples`, its head's products done in `precision`. The frequencies are
/// those in all of them. `None` where the model has no head, and where the samples are too few to tell.
pub fn check_text(
    model: &dyn Backbone,
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

fn causal(model: &dyn Backbone, losses: &Losses, samples: &[Sample]) -> Result<Option<TextCheck>> {
    let spec = model.spec();
    let texts: Vec<Vec<u32>> = sentences(samples, spec.kind).into_iter().map(|(text, _)| text).collect();
    let unigrams = Unigrams::of(&texts, spec.vocab_size);
    let (first, pieces, numbers) = joined(&texts, LENGTH.min(spec.max_positions), TEXTS);
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
    let full = LENGTH - 1 + unseen;
    let (mut windows, mut before) = (Vec::new(), Vec::new());
    for (piece, losses) in pieces.iter().zip(of_pieces).filter(|(piece, _)| piece.len() == full) {
        for start in (LENGTH / 2..=full - WINDOW).step_by(WINDOW) {
            windows.push(beginning(first, &piece[start - WINDOW..start + WINDOW]));
            before.push(&losses[start - unseen..][..WINDOW]);
        }
    }
    let of_windows = losses.of_texts(&windows)?;
    let pairs = before.iter().zip(&of_windows).map(|(all, last)| {
        let last = &last[last.len() - WINDOW..];
        all.iter().zip(last).map(|(all, last)| [*all, *last]).collect()
    });
    Ok(Comparison::of(&pairs.collect::<Vec<_>>()))
}

fn masked(model: &dyn Backbone, losses: &Losses, samples: &[Sample]) -> Result<Option<TextCheck>> {
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
