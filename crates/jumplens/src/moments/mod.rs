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
mod fit;
mod folder;
mod merge;
mod section;
mod total;

pub use collect::collect;
pub use file::MomentsFile;
pub use fit::fit;
pub use folder::fit_folder;
pub use merge::merge;
pub(crate) use section::Section;

use crate::manifest::Manifest;
use crate::models::Spec;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::ops::Range;

/// One of so many shares of the samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "ClaimedShard")]
pub struct Shard {
    /// Which, from 1 on.
    pub index: usize,
    /// Of how many.
    pub of: usize,
}

/// A share as a file has it, which may not be one.
#[derive(Deserialize)]
struct ClaimedShard {
    index: usize,
    of: usize,
}

impl TryFrom<ClaimedShard> for Shard {
    type Error = String;

    fn try_from(ClaimedShard { index, of }: ClaimedShard) -> Result<Self, String> {
        if (1..=of).contains(&index) && of <= file::MOST_SHARES {
            return Ok(Self { index, of });
        }
        Err(format!(
            "there is no share {index}/{of}: shares are 1/n to n/n, with n up to {}",
            file::MOST_SHARES
        ))
    }
}

impl Shard {
    /// All there is.
    pub const WHOLE: Self = Self { index: 1, of: 1 };

    /// Its samples among `n` training samples: shares are consecutive, of whole [pieces](PIECES), and differ by one at most.
    pub fn of_train(self, n: usize) -> Range<usize> {
        self.of_segments(&std::array::from_fn::<_, VAL, _>(|number| segment(n, number)))
    }

    /// The same among `n` validation samples.
    pub fn of_val(self, n: usize) -> Range<usize> {
        self.of_segments(std::slice::from_ref(&(0..n)))
    }

    fn of_segments(self, segments: &[Range<usize>]) -> Range<usize> {
        let n = segments.last().map_or(0, |segment| segment.end);
        let size = piece(n);
        let pieces = |segment: &Range<usize>| segment.len().div_ceil(size);
        let start = |mut at: usize| {
            for segment in segments {
                if at < pieces(segment) {
                    return segment.start + at * size;
                }
                at -= pieces(segment);
            }
            n
        };
        let share = self.cut(segments.iter().map(pieces).sum());
        start(share.start)..start(share.end)
    }

    /// Its share of `n` things.
    fn cut(self, n: usize) -> Range<usize> {
        let start = |index: usize| (n as u128 * index as u128 / self.of as u128) as usize;
        start(self.index - 1)..start(self.index)
    }
}

/// `k/n`, as the command line has it.
impl std::str::FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (index, of) = text.split_once('/').unzip();
        let number = |text: Option<&str>| text.and_then(|text| text.parse::<usize>().ok());
        let claimed = number(index).zip(number(of)).map(|(index, of)| ClaimedShard { index, of });
        claimed
            .and_then(|claimed| claimed.try_into().ok())
            .ok_or_else(|| format!("give the share as `k/n`, 1/n to n/n, with n up to {}", file::MOST_SHARES))
    }
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

/// Shares of the training samples that r² is followed over: their ends are at n/8, n/4, n/2 and n.
pub(crate) const LEARNING_CURVE: [usize; 4] = [8, 4, 2, 1];

/// Training samples, and validation samples, are in so many pieces or more, as far as they go; each segment begins with one.
pub const PIECES: usize = 64;
/// Samples in the largest pieces.
const LARGEST_PIECE: usize = 512;

/// Samples in a piece of `n`: a power of two.
pub(crate) fn piece(n: usize) -> usize {
    (1 << (n / PIECES).max(1).ilog2()).min(LARGEST_PIECE)
}

/// A segment of `n` training samples.
pub(crate) fn segment(n: usize, number: usize) -> Range<usize> {
    let start = if number == 0 { 0 } else { n / LEARNING_CURVE[number - 1] };
    start..n / LEARNING_CURVE[number]
}

/// What a file of sums says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MomentsRecord {
    /// The experiment, without what any one machine did of it.
    pub manifest: Manifest,
    /// `model_type`.
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
    fn new(manifest: &Manifest, spec: &Spec, shard: Shard) -> Self {
        let mut record = Self {
            manifest: manifest.without_progress(),
            family: spec.family.to_owned(),
            n_layers: spec.n_layers,
            d_model: spec.d_model,
            of: shard.of,
            shards: BTreeSet::from([shard.index]),
            counts: [0; SECTIONS],
        };
        record.counts = record.expected_counts();
        record
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
/// The validation samples' section.
const VAL: usize = LEARNING_CURVE.len();

/// The samples of a section that are in a share, as rows of the share's state files.
fn section_of_share(manifest: &Manifest, shard: Shard, section: usize) -> Range<usize> {
    if section == VAL {
        return 0..shard.of_val(manifest.val).len();
    }
    let (share, segment) = (shard.of_train(manifest.train), segment(manifest.train, section));
    let clamp = |at: usize| at.clamp(share.start, share.end) - share.start;
    clamp(segment.start)..clamp(segment.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_consecutive_and_whole() {
        for (n, of) in [(10, 3), (2, 5), (63, 64), (9000, 7), (90_000, 64), (usize::MAX, 3)] {
            let shards = (1..=of).map(|index| Shard { index, of });
            for shares in [
                shards.clone().map(|shard| shard.of_val(n)).collect::<Vec<_>>(),
                shards.map(|shard| shard.of_train(n)).collect(),
            ] {
                assert_eq!((shares[0].start, shares[of - 1].end), (0, n));
                assert!(shares.windows(2).all(|pair| pair[0].end == pair[1].start));
                let sizes = shares.iter().map(Range::len);
                assert!(sizes.clone().max().unwrap() - sizes.min().unwrap() <= 2 * piece(n), "{n} in {of}");
                assert!(n < of || shares.iter().all(|share| !share.is_empty()), "{n} in {of}");
            }
        }
    }

    #[test]
    fn shares_are_cut_between_pieces() {
        let n = 1501;
        assert_eq!(piece(n), 16);
        for of in 1..=90 {
            for index in 1..=of {
                let start = Shard { index, of }.of_train(n).start;
                let segment = (0..VAL).map(|number| segment(n, number)).find(|s| s.contains(&start)).unwrap();
                assert_eq!((start - segment.start) % 16, 0);
            }
        }
    }
}
