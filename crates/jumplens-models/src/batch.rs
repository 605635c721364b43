//! Sequences packed end to end, without padding; the positions of one sentence share a sequence.

use crate::nn::QueryRows;
use crate::words::{Kind, Sample};
use std::ops::Range;

/// Several samples' tokens in one row of rows. Token `t` of the batch is row `t` of every tensor that is run over it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedBatch {
    /// Token ids, `[tokens]`.
    pub ids: Vec<u32>,
    /// Place of each token in its own sequence, `[tokens]`.
    pub positions: Vec<u32>,
    /// First row of each sequence, and the number of rows at the end, `[sequences + 1]`.
    pub cu_seqlens: Vec<u32>,
    /// The row of each sample's chosen position, `[samples]`; sequences may have several.
    pub chosen: Vec<u32>,
    /// Which of the samples it was packed from these are, in order.
    pub samples: Range<usize>,
}

/// How many tokens are run for all of `batches`.
pub fn tokens(batches: &[PackedBatch]) -> usize {
    batches.iter().map(PackedBatch::tokens).sum()
}

impl PackedBatch {
    /// How many tokens are run.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Packs `samples` in order, each batch filled up to `budget` tokens (a sequence longer than that gets a batch to
    /// itself). Samples next to one another with the same ids, which are the positions of one sentence, share a sequence.
    /// For causal models only the tokens up to the last chosen position are run, since nothing after it matters.
    pub fn pack(samples: &[Sample], kind: Kind, budget: usize) -> Vec<Self> {
        Self::pack_sharing(samples, kind, budget, |one, other| one.ids == other.ids)
    }

    /// As [`PackedBatch::pack`], with a sequence for every sample.
    pub fn pack_apart(samples: &[Sample], kind: Kind, budget: usize) -> Vec<Self> {
        Self::pack_sharing(samples, kind, budget, |_, _| false)
    }

    fn pack_sharing(
        samples: &[Sample],
        kind: Kind,
        budget: usize,
        share: impl Fn(&Sample, &Sample) -> bool,
    ) -> Vec<Self> {
        let mut batches: Vec<Self> = Vec::new();
        let mut index = 0;
        for sharing in samples.chunk_by(share) {
            // No more chosen rows than tokens, even where a file has one position over and over.
            for sharing in sharing.chunks(budget.max(1)) {
                let last = sharing.iter().max_by_key(|sample| sample.position);
                let ids = last.map_or(&[][..], |sample| sample.ids_to_run(kind));
                let batch = match batches.last_mut() {
                    Some(batch) if batch.tokens() + ids.len() <= budget => batch,
                    _ => {
                        batches.push(Self {
                            ids: Vec::new(),
                            positions: Vec::new(),
                            cu_seqlens: vec![0],
                            chosen: Vec::new(),
                            samples: index..index,
                        });
                        batches.last_mut().expect("just pushed")
                    }
                };
                let start = batch.tokens();
                batch.chosen.extend(sharing.iter().map(|sample| (start + sample.position) as u32));
                batch.ids.extend_from_slice(ids);
                batch.positions.extend(0..ids.len() as u32);
                batch.cu_seqlens.push(batch.ids.len() as u32);
                index += sharing.len();
                batch.samples.end = index;
            }
        }
        batches
    }

    /// One sequence by itself, all of its positions chosen: `chosen` has an entry a token.
    pub fn whole(ids: &[u32]) -> Self {
        let rows = 0..ids.len() as u32;
        Self {
            ids: ids.to_vec(),
            positions: rows.clone().collect(),
            cu_seqlens: vec![0, rows.end],
            chosen: rows.collect(),
            samples: 0..1,
        }
    }

    /// For every row, which rows it may look at.
    pub fn every_row(&self, kind: Kind) -> QueryRows {
        let mut rows = QueryRows { positions: self.positions.clone(), ..QueryRows::default() };
        for sequence in self.cu_seqlens.windows(2) {
            for row in sequence[0]..sequence[1] {
                rows.starts.push(sequence[0]);
                rows.ends.push(if kind == Kind::Causal { row + 1 } else { sequence[1] });
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sentences with one to five of their positions, in any order, some of them twice.
    fn samples() -> impl Strategy<Value = Vec<Sample>> {
        let sentence = prop::collection::vec(0..100u32, 1..40).prop_flat_map(|ids| {
            let positions = prop::collection::vec(0..ids.len(), 1..6);
            positions.prop_map(move |positions| {
                let sample = |position| Sample { ids: ids.clone(), position, target: None, text: None };
                positions.into_iter().map(sample).collect::<Vec<_>>()
            })
        });
        prop::collection::vec(sentence, 0..20).prop_map(|sentences| sentences.concat())
    }

    proptest! {
        #[test]
        fn packing_keeps_every_sample_in_order_within_the_budget(samples in samples(), budget in 1..120usize) {
            for kind in [Kind::Causal, Kind::Masked] {
                for (batches, shared) in [
                    (PackedBatch::pack(&samples, kind, budget), true),
                    (PackedBatch::pack_apart(&samples, kind, budget), false),
                ] {
                    let mut next = 0;
                    let mut sequences = 0;
                    for batch in &batches {
                        prop_assert!(batch.tokens() <= budget || batch.cu_seqlens.len() == 2);
                        prop_assert_eq!(batch.samples.start, next);
                        next = batch.samples.end;
                        prop_assert_eq!(batch.chosen.len(), batch.samples.len());
                        sequences += batch.cu_seqlens.len() - 1;
                        let seen = batch.every_row(kind);
                        for (sample, chosen) in samples[batch.samples.clone()].iter().zip(&batch.chosen) {
                            let chosen = *chosen as usize;
                            let (start, end) = (seen.starts[chosen] as usize, seen.ends[chosen] as usize);
                            prop_assert_eq!(start + sample.position, chosen);
                            // What the chosen row sees is what it sees alone.
                            prop_assert_eq!(&batch.ids[start..end], sample.ids_to_run(kind));
                            for (at, row) in (start..end).enumerate() {
                                prop_assert_eq!(batch.positions[row] as usize, at);
                                prop_assert_eq!(seen.starts[row] as usize, start);
                                let last = if kind == Kind::Causal { row + 1 } else { end };
                                prop_assert_eq!(seen.ends[row] as usize, last);
                            }
                        }
                    }
                    prop_assert_eq!(next, samples.len());
                    let runs = samples.chunk_by(|a, b| shared && a.ids == b.ids);
                    prop_assert_eq!(sequences, runs.map(|run| run.len().div_ceil(budget)).sum::<usize>());
                }
            }
        }
    }
}
