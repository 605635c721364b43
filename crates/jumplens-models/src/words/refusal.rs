//! What is asked for and cannot be had. What to ask for instead is for programs to say, in the names that they have for it.

use jumplens_core::cast::{BlockCast, Cast, DerivativeCast, Form};
use std::path::PathBuf;

/// What sentences have bounds in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Characters.
    Chars,
    /// Tokens.
    Tokens,
}

/// What is about documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfDocuments {
    /// How many sentences are drawn from each.
    Number,
    /// That only sentences at the end of a paragraph are drawn.
    ParagraphFinal,
    /// That the splits share none.
    Split,
}

/// What is asked for and cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Imported states, of whose last layer nobody said what they are.
    #[error(
        "the states of the last layer in `{}` may be the last block's output, or come from after the final norm, as the last of \
         transformers' `hidden_states` is: which is not known", path.display()
    )]
    WhichLastState {
        /// Where the states are.
        path: PathBuf,
    },
    /// More or fewer shards than a data set has.
    #[error("`{corpus}` has {shards} shards, and {asked} were asked for")]
    NumberOfShards {
        /// The data set.
        corpus: String,
        /// How many it has.
        shards: usize,
        /// How many were asked for.
        asked: usize,
    },
    /// Shards of what is no data set on the Hub.
    #[error("`{corpus}` is no data set on the Hub, and has no shards")]
    NoShards {
        /// The corpus.
        corpus: String,
    },
    /// Sentences in order of what is not plain text.
    #[error("`{corpus}` is not plain text with one sentence a line, so its sentences are drawn")]
    NotInOrder {
        /// The corpus.
        corpus: String,
    },
    /// Pages of a dump as sentences.
    #[error("the pages of `{corpus}` are documents, not sentences")]
    PagesAreDocuments {
        /// The corpus.
        corpus: String,
    },
    /// No sentences at all.
    #[error("0 sentences were asked for")]
    NoSentences,
    /// Bounds on the number of tokens, and nobody to count them.
    #[error("the number of tokens has bounds, and no model is named whose tokens are counted")]
    NobodyCounts,
    /// Something about documents, of sentences that stand one a line.
    #[error("the sentences of `{corpus}` are taken one a line, in order, and belong to no documents")]
    NoDocuments {
        /// The corpus.
        corpus: String,
        /// What was asked for.
        asked: OfDocuments,
    },
    /// Bounds that nothing is within.
    #[error("no sentence has at least {min} and at most {max} {}", match measure { Measure::Chars => "chars", Measure::Tokens => "tokens" })]
    NothingBetween {
        /// What is counted.
        measure: Measure,
        /// The fewest.
        min: usize,
        /// The most.
        max: usize,
    },
    /// A causal model that is not to mask.
    #[error("`{model}` is a causal language model, and masks nothing")]
    NothingIsMasked {
        /// The model.
        model: String,
    },
    /// More first tokens left out than the model takes.
    #[error("the model takes {most} tokens at most: without the first {skipped} there is none left")]
    AllSkipped {
        /// The longest sequence.
        most: usize,
        /// How many are left out.
        skipped: usize,
    },
    /// No samples for training, or none for validation.
    #[error("{train} training and {val} validation sentences were asked for")]
    NoSamples {
        /// For training.
        train: usize,
        /// For validation.
        val: usize,
    },
    /// A cast, or a way to fit maps, that there is not.
    #[error("no cast `{name}` can be fitted, or it is asked for twice: there are {}", named(there))]
    NoLens {
        /// What was asked for.
        name: Cast,
        /// What there is, beside those that always are.
        there: Vec<Cast>,
    },
    /// A lens that is a derivative, where maps are fitted on states.
    #[error("`{cast}` is taken by going back through the model, on prompts, and not fitted on states")]
    IsADerivative {
        /// The lens.
        cast: DerivativeCast,
    },
    /// A penalty, and no cast that has one.
    #[error("λ is given, and none of the casts that are chosen has a penalty")]
    NoRidge,
    /// A cast that is to be measured, of which there are no maps.
    #[error("`{}` has no maps of the cast `{cast}`: {}", path.display(), held(there))]
    NoMapsOf {
        /// The run, or where the maps are.
        path: PathBuf,
        /// The cast.
        cast: Cast,
        /// The casts that can be measured.
        there: Vec<Cast>,
    },
    /// A cast that runs blocks, of states that were kept without the attention outputs.
    #[error("the run keeps no attention outputs, which `{cast}` is fitted on: it was begun for other casts")]
    NoAttention {
        /// The cast.
        cast: Cast,
    },
    /// A way to fit maps that takes states, where there are only their sums.
    #[error("`{lens}` is fitted on states, and only their sums are there")]
    NoStates {
        /// What was asked for.
        lens: Cast,
    },
    /// A way to fit maps through the head, for maps between all layers.
    #[error(
        "`{lens}` is fitted through the head, so that its maps lead to the last layer alone, and maps between all layers are asked for"
    )]
    ToTheLast {
        /// What was asked for.
        lens: Cast,
    },
    /// Maps between all layers, of sums that are to the last one alone.
    #[error("`{}` has the sums to the last layer alone", path.display())]
    SumsToTheLast {
        /// The file of sums.
        path: PathBuf,
    },
}

/// What can be measured, in words.
fn held(there: &[Cast]) -> String {
    let names: Vec<String> = there.iter().map(|cast| format!("`{cast}`")).collect();
    format!("there are {}", names.join(", "))
}

/// What casts there are, in words: those that always are, and `there`.
fn named(there: &[Cast]) -> String {
    let plain = |form: Form| [false, true].map(|intercept| Cast::Map { intercept, form });
    let always = [Cast::Id].into_iter().chain(plain(Form::Plain)).chain(plain(Form::Ridge));
    let ranks = plain(Form::Rank(64)).map(|cast| format!("`{cast}` (any rank)"));
    let blocks = BlockCast::ALL.map(Cast::Blocks);
    let quoted = |cast: &Cast| format!("`{cast}`");
    let names: Vec<String> = always
        .map(|cast| quoted(&cast))
        .chain(ranks)
        .chain(blocks.iter().map(quoted))
        .chain(there.iter().map(quoted))
        .collect();
    names.join(", ")
}
