//! Lenses that are mean derivatives of the last layer's state, of a model run on prompts: `jacobian` (Gurnee et al., *Verbalizable
//! Representations Form a Global Workspace in Language Models*, Transformer Circuits 2026), `tangent` and `relevance`.
//!
//! ```text
//! corpus or file ─prompts→ one forward pass, d vector–Jacobian products ─sums→ file ─merge, with other shares'→ maps
//! ```
//!
//! With V the positions of a prompt after the first [`SKIPPED`] but the last, the Jacobian of layer l is
//!
//! ```text
//! J_l = mean over prompts of 1/|V| · Σ_{t ∈ V} Σ_{t′ ∈ V, t′ ≥ t} ∂h_{L,t′} / ∂h_{l,t}
//! ```
//!
//! and the tangent has the terms t′ = t alone. Sums are kept to twice an f64's digits, so that they, and the maps, are the same
//! bits in whatever shares the prompts were taken.

mod fit;
mod folder;
mod outliers;
mod prompts;
mod sums;

pub use folder::{Outcome, Request, fit, fit_sums};
pub use outliers::{Outlier, TIMES_MEDIAN};
pub(crate) use prompts::digest_of;
pub use prompts::{PromptSource, PromptsRecord, SHORTEST, SKIPPED};
pub use sums::{JACOBIANS, JacobiansFile, JacobiansRecord, merge};

use crate::nn::Rule;
use crate::words::DerivativeCast;

/// What of the derivative a lens is made of.
fn rule(cast: DerivativeCast) -> Rule {
    match cast {
        DerivativeCast::Jacobian => Rule::Whole,
        DerivativeCast::Tangent => Rule::SamePosition,
        DerivativeCast::Relevance => Rule::HeldScales,
    }
}
