//! The way back through the layers: from cotangents of a layer's output to those of its input, many at one time. A cotangent
//! is a row `g`; what comes back is `g·∂y/∂x`. All of them are taken at the same states, so that what depends on the states
//! alone (slopes of activations, weights of attention) is worked out once, and kept in a trace.
//!
//! The plain twins of the layers carry gradients too, through candle's operations: tests hold the two equal.

mod attention;
mod feed_forward;
mod norm;

pub(crate) use attention::{AttentionTrace, BackAttention};
pub(crate) use feed_forward::{BackFeedForward, FeedForwardTrace, turned_linear};
pub(crate) use norm::{BackNorm, NormTrace};

use jumplens_core::linalg::matmul::{PackedRows, PackedWeights, Tiles};
use std::cell::RefCell;

/// What of a derivative is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// All of it.
    Whole,
    /// What stays at its position: as if each row saw the keys and values of the others as constants.
    SamePosition,
    /// The denominators of norms are constants, and so are the activations of gates: in a gated layer `activation(gate(x))`,
    /// in a plain one the ratio `activation(z) / z`.
    HeldScales,
}

/// Cotangents that go through a layer together, at one position.
pub(crate) const BATCH: usize = 96;

/// What a thread keeps from one product to the next.
#[derive(Default)]
pub(crate) struct Work {
    rows: PackedRows,
    next: PackedRows,
    panel: PackedWeights,
    tiles: Tiles,
}

thread_local! {
    static WORK: RefCell<Work> = RefCell::default();
}

/// Runs `f` with what this thread keeps. `f` spreads over no threads itself.
fn with_work<R>(f: impl FnOnce(&mut Work) -> R) -> R {
    WORK.with_borrow_mut(f)
}
