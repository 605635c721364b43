//! What a model makes of the text it is run on.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Tokens of a text that texts are joined to for a causal model.
pub const CONTEXT_LENGTH: usize = 256;
/// Tokens that are predicted once more from what is directly before them.
pub const CONTEXT_WINDOW: usize = 8;
/// The fewest predictions, and the fewest groups of them, that anything is said about.
const FEWEST: [usize; 2] = [20, 8];
/// A difference is one beyond this many standard errors.
const FIRM: f64 = 3.0;
/// So many nats may a token cost more with all of its context: models that have seen nothing but short texts lose some
/// tenths on longer ones.
pub const CONTEXT_MARGIN: f64 = 0.5;

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
                 {CONTEXT_WINDOW} to {} ({loss:.2} against {other:.2} nats a token, {predictions} tokens): query and key weights in a \
                 wrong RoPE layout, or a wrong RoPE base, look just so",
                CONTEXT_LENGTH / 2,
                2 * CONTEXT_WINDOW - 1
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
                "; {loss:.2} from all {} and more before it, {other:.2} from the last {CONTEXT_WINDOW} to {} ({predictions} tokens)",
                CONTEXT_LENGTH / 2,
                2 * CONTEXT_WINDOW - 1
            ),
            None => Ok(()),
        }
    }
}
