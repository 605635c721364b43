//! How samples are shared out: shares for machines, segments for the learning curve, and the pieces that both are made of.

use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Shares that an experiment may be in.
pub const MOST_SHARES: usize = 1 << 16;

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
        if (1..=of).contains(&index) && of <= MOST_SHARES {
            return Ok(Self { index, of });
        }
        Err(format!("there is no share {index}/{of}: shares are 1/n to n/n, with n up to {}", MOST_SHARES))
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
            .ok_or_else(|| format!("give the share as `k/n`, 1/n to n/n, with n up to {}", MOST_SHARES))
    }
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

/// Shares of the training samples that r² is followed over: their ends are at n/8, n/4, n/2 and n.
pub const LEARNING_CURVE: [usize; 4] = [8, 4, 2, 1];
/// The validation samples' section, behind those of the training samples.
pub const VAL: usize = LEARNING_CURVE.len();

/// Training samples, and validation samples, are in so many pieces or more, as far as they go; each segment begins with one.
pub const PIECES: usize = 64;
/// Samples in the largest pieces.
const LARGEST_PIECE: usize = 512;

/// Samples in a piece of `n`: a power of two.
pub fn piece(n: usize) -> usize {
    (1 << (n / PIECES).max(1).ilog2()).min(LARGEST_PIECE)
}

/// A segment of `n` training samples.
pub fn segment(n: usize, number: usize) -> Range<usize> {
    let start = if number == 0 { 0 } else { n / LEARNING_CURVE[number - 1] };
    start..n / LEARNING_CURVE[number]
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
