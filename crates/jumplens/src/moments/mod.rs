//! Second-moment sums of a run's states, in shares that any number of machines can make and that add up: one file a
//! share, from which the maps, their r² and their learning curve come without the states.
//!
//! ```text
//! a share's states ─collect→ file ─merge, with those of the other shares→ file ─fit→ shortcuts, r² and learning curve
//! ```
//!
//! Each share's sums are written apart for the segments of the training samples that the learning curve is taken over, and
//! for the validation samples. The same samples are multiplied together whatever the share, in [pieces](PIECES),
//! and pieces are added up to twice an f64's digits, so that the sums, and the maps, are the same bits in any sharding.

mod collect;
mod file;
mod merge;
mod section;
mod total;

pub use collect::collect;
pub use file::MomentsFile;
pub use merge::merge;
pub(crate) use section::Section;
pub(crate) use total::Total;

pub use crate::words::{PIECES, Shard};

use crate::manifest::Manifest;
use crate::words::{LEARNING_CURVE, Sizes, VAL, segment};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::ops::Range;

/// What a file of sums says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MomentsRecord {
    /// The experiment, without what any one machine did of it.
    pub manifest: Manifest,
    /// `model_type`; `imported` where no model is known.
    pub family: String,
    /// Blocks, L.
    pub n_layers: usize,
    /// Width of a state.
    pub d_model: usize,
    /// How many shares the samples are in.
    pub of: usize,
    /// The shares that are in the file, from 1 on.
    pub shards: BTreeSet<usize>,
    /// Samples by section: the four segments of the training samples, then the validation samples.
    pub counts: [usize; SECTIONS],
}

impl MomentsRecord {
    /// Of the share `shard` of the experiment `manifest`.
    fn new(manifest: &Manifest, family: &str, sizes: Sizes, shard: Shard) -> Self {
        let mut record = Self {
            manifest: manifest.without_progress(),
            family: family.to_owned(),
            n_layers: sizes.n_layers,
            d_model: sizes.d_model,
            of: shard.of,
            shards: BTreeSet::from([shard.index]),
            counts: [0; SECTIONS],
        };
        record.counts = record.expected_counts();
        record
    }

    /// Layers and width.
    pub fn sizes(&self) -> Sizes {
        Sizes { n_layers: self.n_layers, d_model: self.d_model }
    }

    /// The samples of each section that the shares have.
    fn expected_counts(&self) -> [usize; SECTIONS] {
        let shards = self.shards.iter().map(|index| Shard { index: *index, of: self.of });
        let count = |section| {
            shards.clone().map(|shard| section_of_share(&self.manifest, shard, section).len()).sum()
        };
        std::array::from_fn(count)
    }

    /// The shares that are not in the file.
    pub fn missing(&self) -> Vec<usize> {
        (1..=self.of).filter(|shard| !self.shards.contains(shard)).collect()
    }
}

/// The segments of the training samples, and the validation samples.
const SECTIONS: usize = LEARNING_CURVE.len() + 1;
/// The samples of a section that are in a share, as rows of the share's state files.
fn section_of_share(manifest: &Manifest, shard: Shard, section: usize) -> Range<usize> {
    if section == VAL {
        return 0..shard.of_val(manifest.val).len();
    }
    let (share, segment) = (shard.of_train(manifest.train), segment(manifest.train, section));
    let clamp = |at: usize| at.clamp(share.start, share.end) - share.start;
    clamp(segment.start)..clamp(segment.end)
}
