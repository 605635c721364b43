//! Sequences packed end to end, without padding.

use crate::models::Kind;
use crate::nn::QueryRows;
use crate::tokenize::Sample;
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
    /// The row of each sequence's chosen position, `[sequences]`.
    pub chosen: Vec<u32>,
    /// Which of the samples it was packed from these are, in order.
    pub samples: Range<usize>,
}

impl PackedBatch {
    /// How many tokens are run.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Packs `samples` in order, each batch filled up to `budget` tokens (a sample longer than that gets a batch to
    /// itself). For causal models only the tokens up to the chosen position are run, since nothing after it matters.
    pub fn pack(samples: &[Sample], kind: Kind, budget: usize) -> Vec<Self> {
        let mut batches: Vec<Self> = Vec::new();
        for (index, sample) in samples.iter().enumerate() {
            let ids = sample.ids_to_run(kind);
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
            batch.chosen.push((batch.tokens() + sample.position) as u32);
            batch.ids.extend_from_slice(ids);
            batch.positions.extend(0..ids.len() as u32);
            batch.cu_seqlens.push(batch.ids.len() as u32);
            batch.samples.end = index + 1;
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

    fn sample() -> impl Strategy<Value = Sample> {
        prop::collection::vec(0..100u32, 1..40)
            .prop_flat_map(|ids| (0..ids.len(), Just(ids)))
            .prop_map(|(position, ids)| Sample { ids, position, target: None, text: None })
    }

    proptest! {
        #[test]
        fn packing_keeps_every_sample_in_order_within_the_budget(
            samples in prop::collection::vec(sample(), 0..30), budget in 1..120usize,
        ) {
            for kind in [Kind::Causal, Kind::Masked] {
                let batches = PackedBatch::pack(&samples, kind, budget);
                let mut next = 0;
                for batch in &batches {
                    prop_assert!(batch.tokens() <= budget || batch.samples.len() == 1);
                    prop_assert_eq!(batch.samples.start, next);
                    next = batch.samples.end;
                    for (i, sample) in samples[batch.samples.clone()].iter().enumerate() {
                        let rows = batch.cu_seqlens[i] as usize..batch.cu_seqlens[i + 1] as usize;
                        prop_assert_eq!(&batch.ids[rows.clone()], sample.ids_to_run(kind));
                        prop_assert_eq!(batch.chosen[i] as usize, rows.start + sample.position);
                        prop_assert_eq!(batch.ids[batch.chosen[i] as usize], sample.ids[sample.position]);
                        let seen = batch.every_row(kind);
                        for row in rows.clone() {
                            prop_assert_eq!(seen.starts[row] as usize, rows.start);
                            let end = if kind == Kind::Causal { row + 1 } else { rows.end };
                            prop_assert_eq!(seen.ends[row] as usize, end);
                        }
                    }
                }
                prop_assert_eq!(next, samples.len());
            }
        }
    }
}
