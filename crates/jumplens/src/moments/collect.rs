//! The states of a share to a file of sums.

use super::file::{Sum, layout, row_major, write};
use super::{MomentsRecord, SECTIONS, Shard, VAL, section_of_share};
use crate::error::Result;
use crate::manifest::Manifest;
use crate::models::Spec;
use crate::progress::{Observer, check};
use crate::shortcut::{BLOCK, PairSums};
use crate::states::{StateFile, StateFiles};
use faer::Mat;
use std::path::Path;

/// Writes the sums of the states in `train` and `val`, which are those of the share `shard` of the experiment `manifest`.
/// Advances by one a sum. Goes through the states block by block, and holds the sums of one
/// source layer.
pub fn collect(
    manifest: &Manifest,
    spec: &Spec,
    shard: Shard,
    train: &StateFiles,
    val: &StateFiles,
    path: &Path,
    observer: &dyn Observer,
) -> Result<()> {
    let record = MomentsRecord::new(manifest, spec, shard);
    let open = |files: &StateFiles, n: usize| -> Result<Vec<StateFile>> {
        (0..=spec.n_layers).map(|layer| files.layer_of(layer, n, spec.d_model)).collect()
    };
    let states = [open(train, record.counts[..VAL].iter().sum())?, open(val, record.counts[VAL])?];
    let total = layout(&record).len();
    observer.begin("moments", total as u64, "sums");
    let mut section = Section { number: SECTIONS, from: 0, sums: PairSums::new(0, 0), others: Vec::new() };
    write(path, &record, |sum| {
        check(observer)?;
        let rows = |number: usize| section_of_share(manifest, shard, number);
        let targets = |from: usize| manifest.fits.pairs.targets(from, spec.n_layers);
        let values = match sum {
            Sum::States { section: number, layer } if layer < spec.n_layers => {
                let states = &states[usize::from(number == VAL)];
                section.enter(number, layer, states, &targets(layer), rows(number));
                section.sums.sum.clone()
            }
            Sum::States { .. } => section.last().sum.clone(),
            Sum::Squares { .. } => section.last().squares.clone(),
            Sum::Gram { .. } => row_major(&whole(&section.sums.gram)),
            Sum::CrossToLast { .. } => row_major(&section.last().cross),
            Sum::Cross { from, to, .. } => row_major(&section.others[to - from - 1]),
        };
        observer.advance(1);
        Ok(values)
    })?;
    observer.end();
    Ok(())
}

/// Both triangles of a symmetric matrix given by the lower one.
fn whole(lower: &Mat<f64>) -> Mat<f64> {
    Mat::from_fn(lower.nrows(), lower.ncols(), |i, j| lower[(i.max(j), i.min(j))])
}

/// The section that sums are taken of at the moment.
struct Section {
    number: usize,
    from: usize,
    sums: PairSums,
    /// Cross sums to the layers before the last: over the training samples so far, or the validation samples.
    others: Vec<Mat<f64>>,
}

impl Section {
    fn enter(
        &mut self,
        number: usize,
        from: usize,
        states: &[StateFile],
        targets: &[usize],
        rows: std::ops::Range<usize>,
    ) {
        let d = states[from].d;
        self.sums = PairSums::new(d, targets.len());
        for first in rows.clone().step_by(BLOCK) {
            let values = first * d..(first + BLOCK).min(rows.end) * d;
            let of = |layer: usize| &states[layer].values()[values.clone()];
            self.sums.add(of(from), targets.iter().map(|to| of(*to)));
        }
        let others = self.sums.targets[..targets.len() - 1].iter().map(|target| &target.cross);
        if number == 0 || number == VAL {
            self.others = others.cloned().collect();
        } else {
            self.others.iter_mut().zip(others).for_each(|(total, cross)| *total += cross);
        }
        (self.number, self.from) = (number, from);
    }

    /// The sums of the last layer.
    fn last(&self) -> &crate::shortcut::TargetSums {
        &self.sums.targets[self.sums.targets.len() - 1]
    }
}
