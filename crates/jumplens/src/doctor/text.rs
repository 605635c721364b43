//! What the model makes of text: faults that states do not show, and loss does.

use super::{Finding, Outcome, finding};
use crate::eval::{Losses, with_losses};
use crate::models::{Kind, Transformer};
use crate::nn::Precision;
use crate::progress::{Observer, check};
use crate::sanity::{Comparison, TextCheck, beginning, check_text, common_first, joined};
use crate::tokenize::{Positions, Sample, Tokenizer};
use crate::words::CONTEXT_MARGIN;
use crate::words::in_random_order;
use crate::{Error, Result};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Tokens of a long text, where the model takes so many, and such texts.
const LONG: usize = 1024;
const LONG_TEXTS: usize = 2;
/// Where the ranges of positions begin whose losses are told apart; the first token is not predicted.
const RANGES: [usize; 7] = [1, 8, 32, 128, 256, 512, LONG];
/// How far back a text that is repeated is, as far as the model takes twice as much.
const DISTANCES: [usize; 3] = [64, 256, 1024];
/// Texts that are repeated.
const REPEATED: usize = 2;
/// Tokens of sentences that are predicted with BOS and without.
const BOS_TOKENS: usize = 1024;
/// Below so many nats a token, tokens tell next to nothing: most of them are one and the same, that for the unknown say.
/// Even the four bases of DNA take 1.39.
const MONOTONOUS: f64 = 1.0;
/// A difference that is worth a line, nats.
const NOTABLE: f64 = 0.1;

/// The sentences of a corpus as the model gets them.
pub(super) struct Texts<'a> {
    model: &'a Transformer,
    tokenizer: &'a Tokenizer,
    /// Token ids with what the tokenizer puts around them.
    ids: Vec<Vec<u32>>,
    samples: Vec<Sample>,
}

impl<'a> Texts<'a> {
    /// For masked models `tokenizer` has to mask.
    pub fn new(model: &'a Transformer, tokenizer: &'a Tokenizer, sentences: &[&str]) -> Result<Self> {
        let (mut ids, mut samples) = (Vec::new(), Vec::new());
        for (index, sentence) in sentences.iter().enumerate() {
            ids.push(tokenizer.encode(sentence)?);
            samples.extend(tokenizer.samples(sentence, index as u64, 0, Positions::default())?);
        }
        Ok(Self { model, tokenizer, ids, samples })
    }

    /// What there is to say; nothing of a model that makes no predictions. `bos` is the token that the model's configuration
    /// calls so.
    pub fn findings(&self, bos: Option<u32>, observer: &dyn Observer) -> Result<Vec<Finding>> {
        let text = check_text(self.model, Precision::F32, &self.samples)?;
        let mut findings: Vec<Finding> = text.iter().flat_map(prediction).collect();
        let of_kind = with_losses(self.model, Precision::F32, |losses| {
            check(observer)?;
            match self.model.spec().kind {
                Kind::Causal => self.causal(losses, bos, observer),
                Kind::Masked => Ok(self.masked_order(losses)?.into_iter().collect()),
            }
        })?;
        findings.extend(of_kind.into_iter().flatten());
        Ok(findings)
    }

    fn causal(&self, losses: &Losses, bos: Option<u32>, observer: &dyn Observer) -> Result<Vec<Finding>> {
        let longest = self.model.spec().max_positions;
        let (first, pieces, _) = joined(&self.ids, LONG.min(longest), LONG_TEXTS);
        let texts: Vec<Vec<u32>> = pieces.iter().map(|piece| beginning(first, piece)).collect();
        let in_order = losses.of_texts(&texts)?;
        check(observer)?;
        let late = late(losses, first, &pieces, &in_order)?;
        let mut findings: Vec<Finding> = by_position(&in_order, late).into_iter().collect();
        check(observer)?;
        findings.extend(self.order(losses, first, &pieces, &in_order)?);
        check(observer)?;
        findings.extend(self.copying(losses)?);
        check(observer)?;
        findings.extend(self.bos(losses, bos)?);
        Ok(findings)
    }

    /// The long texts against the same tokens in random order.
    fn order(
        &self,
        losses: &Losses,
        first: Option<u32>,
        pieces: &[Vec<u32>],
        in_order: &[Vec<f64>],
    ) -> Result<Option<Finding>> {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mut groups = Vec::new();
        for (piece, in_order) in pieces.iter().zip(in_order) {
            let mut places = Vec::with_capacity(piece.len());
            in_random_order(piece.len(), piece.len(), &mut rng, |place| {
                places.push(place);
                Ok::<_, Error>(true)
            })?;
            let shuffled: Vec<u32> = places.iter().map(|place| piece[*place]).collect();
            let of_shuffled = losses.of_texts(&[beginning(first, &shuffled)])?.remove(0);
            // Each token with itself, but those that come first, which are not predicted everywhere.
            let unseen = usize::from(first.is_none());
            let mut pairs: Vec<[f64; 2]> = Vec::new();
            for (at, place) in places.iter().enumerate() {
                if let (Some(at), Some(place)) = (at.checked_sub(unseen), place.checked_sub(unseen)) {
                    pairs.push([in_order[place], of_shuffled[at]]);
                }
            }
            groups.extend(pairs.chunks(16).map(<[[f64; 2]]>::to_vec));
        }
        Ok(Comparison::of(&groups).map(|order| order_finding(&order, "the same tokens in random order")))
    }

    /// Masked samples against the same with the words around the mask in random order.
    fn masked_order(&self, losses: &Losses) -> Result<Option<Finding>> {
        let is_asked = |sample: &&Sample| (1..sample.ids.len() - 1).contains(&sample.position);
        let asked: Vec<Sample> = self.samples.iter().filter(is_asked).take(256).cloned().collect();
        let targets: Vec<u32> = asked.iter().filter_map(|sample| sample.target).collect();
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mut shuffled = asked.clone();
        for sample in &mut shuffled {
            let around: Vec<usize> =
                (1..sample.ids.len() - 1).filter(|place| *place != sample.position).collect();
            let ids = sample.ids.clone();
            let mut to = around.iter();
            in_random_order(around.len(), around.len(), &mut rng, |from| {
                to.next().iter().for_each(|to| sample.ids[**to] = ids[around[from]]);
                Ok::<_, Error>(true)
            })?;
        }
        let pairs =
            losses.at_chosen(&asked, &targets)?.into_iter().zip(losses.at_chosen(&shuffled, &targets)?);
        let groups: Vec<Vec<[f64; 2]>> = pairs.map(|(own, other)| vec![[own, other]]).collect();
        Ok(Comparison::of(&groups).map(|order| order_finding(&order, "the words around it in random order")))
    }

    /// Texts that stand twice in a row: what the second time costs, by how far back the first is.
    fn copying(&self, losses: &Losses) -> Result<Option<Finding>> {
        let longest = self.model.spec().max_positions;
        let (mut said, mut once, mut copies) = (Vec::new(), 0.0, true);
        for distance in DISTANCES.into_iter().filter(|distance| 2 * distance <= longest) {
            let (first, pieces, _) = joined(&self.ids, distance, REPEATED);
            let whole = pieces.iter().filter(|piece| piece.len() + usize::from(first.is_some()) == distance);
            let texts: Vec<Vec<u32>> =
                whole.map(|piece| beginning(first, &[&piece[..], &piece[..]].concat())).collect();
            if texts.len() < REPEATED {
                break;
            }
            let all = losses.of_texts(&texts)?;
            let half = |second: bool| {
                let mut of_half = Vec::new();
                for losses in &all {
                    let (a, b) = losses.split_at(losses.len() - losses.len() / 2);
                    of_half.extend_from_slice(if second { b } else { a });
                }
                mean(&of_half)
            };
            once = half(false);
            copies &= half(true) < once / 2.0;
            said.push(format!("{:.2} after {distance}", half(true)));
        }
        let outcome = if copies { Outcome::Good } else { Outcome::Note };
        let say = |said: Vec<String>| {
            let not = if copies { "" } else { ": it does not copy from everywhere" };
            format!("a text again costs {} tokens, and {once:.2} the first time{not}", said.join(", "))
        };
        Ok((!said.is_empty()).then(|| finding("copying", outcome, say(said))))
    }

    /// Sentences with BOS and without; the first word, which nothing is before in one of the two, is left out.
    fn bos(&self, losses: &Losses, known: Option<u32>) -> Result<Option<Finding>> {
        let own = common_first(&self.ids);
        let Some(bos) = own.or(known) else { return Ok(None) };
        let skip = usize::from(own.is_some());
        let mut tokens = 0;
        let some = self.ids.iter().map(|ids| &ids[skip..]).filter(|ids| ids.len() > 1);
        let some: Vec<&[u32]> = some
            .take_while(|ids| {
                tokens += ids.len();
                tokens <= BOS_TOKENS
            })
            .collect();
        let longest = self.model.spec().max_positions;
        let cut = |ids: &[u32]| ids[..ids.len().min(longest - 1)].to_vec();
        let without: Vec<Vec<u32>> = some.iter().map(|ids| cut(ids)).collect();
        let with: Vec<Vec<u32>> = without.iter().map(|ids| beginning(Some(bos), ids)).collect();
        let (without, with) = (losses.of_texts(&without)?, losses.of_texts(&with)?);
        let pair = |(without, with): (&Vec<f64>, &Vec<f64>)| -> Vec<[f64; 2]> {
            without.iter().zip(&with[1..]).map(|(without, with)| [*without, *with]).collect()
        };
        let groups: Vec<Vec<[f64; 2]>> = without.iter().zip(&with).map(pair).collect();
        let Some(Comparison { loss, other, .. }) = Comparison::of(&groups) else { return Ok(None) };
        let name = self.tokenizer.text_of(bos);
        let detail = format!("{other:.2} nats a token with `{name}` before a sentence, {loss:.2} without");
        let better = if own.is_some() { loss - other } else { other - loss };
        Ok(Some(match (own, better > -NOTABLE) {
            (_, true) => finding("bos", Outcome::Good, detail),
            (Some(_), false) => {
                finding("bos", Outcome::Note, format!("{detail}: the tokenizer puts it there, for the worse"))
            }
            (None, false) => {
                finding("bos", Outcome::Note, format!("{detail}: the tokenizer does not put it there"))
            }
        }))
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// What a run's own check says.
fn prediction(text: &TextCheck) -> Vec<Finding> {
    let Comparison { loss, other, predictions, .. } = text.unigrams;
    let figures =
        format!("{loss:.2} nats a token, {other:.2} by the tokens' frequencies ({predictions} tokens)");
    let mut findings = vec![if other < MONOTONOUS {
        let detail =
            format!("{figures}: nearly all tokens are the same, so this is not text of the model's kind");
        finding("prediction", Outcome::Note, detail)
    } else if text.unigrams.is_worse(0.0) {
        finding("prediction", Outcome::Bad, format!("{figures}: it does not predict text of this kind"))
    } else if text.unigrams.is_better() {
        finding("prediction", Outcome::Good, figures)
    } else {
        finding("prediction", Outcome::Note, format!("{figures}: hardly better than those"))
    }];
    if let Some(context) = text.context {
        let outcome = match (text.context_hurts(), context.is_better()) {
            (true, _) => Outcome::Bad,
            (_, true) => Outcome::Good,
            _ => Outcome::Note,
        };
        let Comparison { loss, other, .. } = context;
        let detail = format!(
            "{loss:.2} nats a token from all before it (128 and more), {other:.2} from the last 8 to 15"
        );
        let hurts = if outcome == Outcome::Good { "" } else { ": more of a text does not help" };
        findings.push(finding("context", outcome, detail + hurts));
    }
    findings
}

/// The second halves of long texts, each token with the whole text before it, and with that half alone: at other positions,
/// and with less of the text. The first quarter of the half, which has little before it there, is left out.
fn late(
    losses: &Losses,
    first: Option<u32>,
    pieces: &[Vec<u32>],
    in_order: &[Vec<f64>],
) -> Result<Option<Comparison>> {
    let unseen = usize::from(first.is_none());
    let mut groups = Vec::new();
    for (piece, in_order) in pieces.iter().zip(in_order) {
        let half = piece.len() / 2;
        let skip = (piece.len() - half) / 4 + unseen;
        let alone = losses.of_texts(&[beginning(first, &piece[half..])])?.remove(0);
        let places = skip..piece.len() - half;
        let pairs: Vec<[f64; 2]> =
            places.map(|place| [in_order[half + place - unseen], alone[place - unseen]]).collect();
        groups.extend(pairs.chunks(16).map(<[[f64; 2]]>::to_vec));
    }
    Ok(Comparison::of(&groups))
}

/// Mean losses by ranges of positions; `losses` are those of the positions from 1 on. They differ by what stands there as
/// well, so that what is held against them is `late`.
fn by_position(losses: &[Vec<f64>], late: Option<Comparison>) -> Option<Finding> {
    let longest = losses.iter().map(Vec::len).max()? + 1;
    let mut said = Vec::new();
    for bounds in RANGES.windows(2) {
        let (start, end) = (bounds[0], bounds[1].min(longest));
        let within: Vec<f64> =
            losses.iter().flat_map(|of| of.iter().take(end - 1).skip(start - 1)).copied().collect();
        // What is left over of a range is little to go by.
        if end > start && (end - start) * 2 >= bounds[1] - start && !within.is_empty() {
            said.push(format!("{:.2} at {start} to {}", mean(&within), end - 1));
        }
    }
    if said.is_empty() {
        return None;
    }
    let mut detail = format!("nats a token by position: {}", said.join(", "));
    let Some(late) = late else { return Some(finding("by position", Outcome::Good, detail)) };
    let Comparison { loss, other, .. } = late;
    detail += &format!("; late tokens {loss:.2} with the whole text before them, {other:.2} with half of it");
    Some(match late.is_worse(CONTEXT_MARGIN) {
        false => finding("by position", Outcome::Good, detail),
        true => finding("by position", Outcome::Note, format!("{detail}: it loses its way in long texts")),
    })
}

fn order_finding(order: &Comparison, otherwise: &str) -> Finding {
    let Comparison { loss, other, .. } = *order;
    let detail = format!("{loss:.2} nats a token, {other:.2} with {otherwise}");
    match (order.is_better(), order.is_worse(0.0)) {
        (true, _) => finding("order", Outcome::Good, detail),
        (false, true) => {
            finding("order", Outcome::Bad, format!("{detail}: the right order is the worse one"))
        }
        (false, false) => finding("order", Outcome::Note, format!("{detail}: order makes no difference")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_that_cost_more_late_in_a_text_are_noted() {
        let falling: Vec<f64> = (1..1024).map(|position| 6.0 - 0.2 * f64::from(position).ln()).collect();
        let said = by_position(&[falling.clone(), falling.clone()], None).unwrap();
        assert_eq!(said.outcome, Outcome::Good, "{}", said.detail);
        let ranges = ["at 1 to 7", "at 8 to 31", "at 256 to 511", "at 512 to 1023"];
        assert!(ranges.iter().all(|range| said.detail.contains(range)), "{}", said.detail);
        let late = |more: f64| Comparison::of(&vec![vec![[4.0 + more, 4.0]; 16]; 40]);
        let said = by_position(std::slice::from_ref(&falling), late(0.4)).unwrap();
        assert_eq!(said.outcome, Outcome::Good, "{}", said.detail);
        let said = by_position(std::slice::from_ref(&falling), late(0.6)).unwrap();
        assert_eq!(said.outcome, Outcome::Note, "{}", said.detail);
        assert!(
            said.detail.contains("4.60 with the whole text before them, 4.00 with half"),
            "{}",
            said.detail
        );
        // A range of which less than half is there says nothing.
        for (positions, last) in [(190, "at 32 to 127"), (191, "at 128 to 191")] {
            let said = by_position(&[falling[..positions].to_vec()], None).unwrap();
            assert!(said.detail.ends_with(last), "{}", said.detail);
        }
        assert_eq!(by_position(&[vec![]], None), None);
    }
}
