//! The states of a share to a file of sums.

use super::file::{Sum, layout, write};
use super::section::Section;
use super::{MomentsRecord, section_of_share};
use crate::Result;
use crate::manifest::Manifest;
use crate::models::Sizes;
use crate::progress::{Observer, check};
use crate::states::{LayerStates, StateFiles};
use crate::store::Stage;
use crate::words::{Shard, VAL, piece};
use std::path::Path;

/// Writes the sums of the states in `train` and `val`, which are those of the share `shard` of the experiment `manifest`.
/// Advances by one a sum. Goes through the states piece by piece, and holds the sums of one source layer.
pub fn collect(
    manifest: &Manifest,
    family: &str,
    sizes: Sizes,
    shard: Shard,
    train: &StateFiles,
    val: &StateFiles,
    path: &Path,
    observer: &dyn Observer,
) -> Result<()> {
    let record = MomentsRecord::new(manifest, family, sizes, shard);
    let (d, last) = (sizes.d_model, sizes.n_layers);
    let open = |files: &StateFiles, n: usize| -> Result<Vec<LayerStates<'_>>> {
        (0..=last).map(|layer| files.layer_of(layer, n, d)).collect()
    };
    let states = [open(train, record.counts[..VAL].iter().sum())?, open(val, record.counts[VAL])?];
    observer.begin(Stage::Moments.name(), layout(&record).len() as u64, "sums");
    let mut section = Section::new(d, 0);
    write(path, &record, |sum| {
        check(observer)?;
        let values = match sum {
            Sum::States { section: number, layer } if layer < last => {
                let layers = [layer].into_iter().chain(manifest.fits.pairs.targets(layer, last));
                let states = &states[usize::from(number == VAL)];
                let layers: Vec<&LayerStates> = layers.map(|layer| &states[layer]).collect();
                if section.targets.len() + 1 != layers.len() {
                    section = Section::new(d, layers.len() - 1);
                }
                section.clear(number > 0 && number < VAL);
                let n = if number == VAL { manifest.val } else { manifest.train };
                section.add(&layers, section_of_share(manifest, shard, number), piece(n));
                section.sum.clone()
            }
            Sum::States { .. } => section.last().sum.clone(),
            Sum::Squares { .. } => section.last().squares.clone(),
            Sum::Gram { .. } => section.gram.symmetric(d),
            Sum::CrossToLast { .. } => section.last().cross.transposed(d),
            Sum::Cross { from, to, .. } => section.targets[to - from - 1].cross.transposed(d),
        };
        observer.advance(1);
        Ok(values)
    })?;
    observer.end();
    Ok(())
}
