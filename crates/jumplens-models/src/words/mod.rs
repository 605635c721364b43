//! Plain data that the rooms above speak of: what a model is, what it is run on, what a run is made of. Nothing here reads
//! or writes.

mod folder;
mod how_many;
mod model;
mod note;
mod pointer;
mod refusal;
mod repo;
mod sample;
mod shard;
mod stage;
mod text_check;

pub use folder::FolderKind;
pub use how_many::{HowMany, in_random_order};
pub use jumplens_core::cast::{BlockCast, Cast, DerivativeCast};
pub use model::{Kind, LastState, POST_NORM_PARTS, PRE_NORM_PARTS, Part, PartKind, Seam, Sizes, Slot, Spec};
pub use note::Note;
pub use pointer::Pointer;
pub use refusal::{Measure, OfDocuments, Refusal};
pub use repo::RepoKind;
pub use sample::Sample;
#[doc(hidden)]
pub use shard::{LEARNING_CURVE, MOST_SHARES, VAL, piece, segment};
pub use shard::{PIECES, Shard};
pub use stage::Stage;
#[doc(hidden)]
pub use stage::{EVALUATING, EXAMPLES, LENS, MOMENTS, REPORT, RESULTS, SUMMARY, samples_file};
#[doc(hidden)]
pub use text_check::{CONTEXT_LENGTH, CONTEXT_MARGIN, CONTEXT_WINDOW};
pub use text_check::{Comparison, TextCheck};
