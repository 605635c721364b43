//! The sums of one source layer and its targets over a section of the samples.

use super::total::Total;
use crate::states::LayerStates;
use faer::MatRef;
use jumplens_core::solver::{PairSums, TargetSums};
use std::ops::Range;

/// As [`PairSums`] has them, matrices column by column.
pub(crate) struct Section {
    n: usize,
    pub(super) sum: Total,
    pub(super) gram: Total,
    pub(super) targets: Vec<TargetTotals>,
    /// The sums of one piece.
    piece: PairSums,
}

pub(super) struct TargetTotals {
    pub sum: Total,
    pub squares: Total,
    pub cross: Total,
}

impl TargetTotals {
    fn clear(&mut self) {
        [&mut self.sum, &mut self.squares, &mut self.cross].into_iter().for_each(Total::clear);
    }

    fn add(&mut self, piece: &TargetSums) {
        self.sum.add(&piece.sum);
        self.squares.add(&piece.squares);
        self.cross.add_columns(&piece.cross);
    }
}

impl Section {
    /// Of no samples, for states of width `d` and so many targets.
    pub fn new(d: usize, targets: usize) -> Self {
        let (vector, matrix) = (|| Total::zeros(d), || Total::zeros(d * d));
        let target = |_| TargetTotals { sum: vector(), squares: vector(), cross: matrix() };
        Self {
            n: 0,
            sum: vector(),
            gram: matrix(),
            targets: (0..targets).map(target).collect(),
            piece: PairSums::new(d, targets),
        }
    }

    /// Begins again, but for the cross sums to the targets before the last where they are to go `on`.
    pub(super) fn clear(&mut self, on: bool) {
        self.n = 0;
        self.sum.clear();
        self.gram.clear();
        let kept = if on { self.targets.len() - 1 } else { 0 };
        self.targets[kept..].iter_mut().for_each(TargetTotals::clear);
    }

    /// Takes the samples `rows` of the source and target layers `layers`, in pieces of `size`.
    pub fn add(&mut self, layers: &[&LayerStates], rows: Range<usize>, size: usize) {
        let d = self.piece.d();
        for first in rows.clone().step_by(size) {
            let values = first * d..(first + size).min(rows.end) * d;
            let mut states = layers.iter().map(|file| &file.values()[values.clone()]);
            self.piece.replace(states.next().unwrap_or_default(), states);
            self.sum.add(&self.piece.sum);
            self.gram.add_columns(&self.piece.gram);
            self.targets.iter_mut().zip(&self.piece.targets).for_each(|(totals, piece)| totals.add(piece));
        }
        self.n += rows.len();
    }

    /// The sums of the last layer.
    pub(super) fn last(&self) -> &TargetTotals {
        &self.targets[self.targets.len() - 1]
    }

    /// The sums as their nearest f64.
    pub fn sums(&self) -> PairSums {
        let d = self.piece.d();
        let matrix = |total: &Total| MatRef::from_column_major_slice(&total.value, d, d).to_owned();
        let target = |target: &TargetTotals| TargetSums {
            sum: target.sum.value.clone(),
            squares: target.squares.value.clone(),
            cross: matrix(&target.cross),
        };
        PairSums {
            n: self.n,
            sum: self.sum.value.clone(),
            gram: matrix(&self.gram),
            targets: self.targets.iter().map(target).collect(),
        }
    }
}
