//! How the maps of the lenses lie to one another.

use super::tables::MapRow;
use crate::Result;
use crate::models::Sizes;
use crate::progress::{Observer, check};
use crate::shortcut::{LinearMap, Shortcuts};
use crate::store::Stage;
use crate::words::Cast;
use jumplens_core::metrics::effective_rank;
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// The rows of `arena_maps.csv`: each lens against each other, layer by layer. Advances by one a layer.
pub(super) fn maps(
    sizes: Sizes,
    folder: &Path,
    others: &[PathBuf],
    observer: &dyn Observer,
) -> Result<Vec<MapRow>> {
    let others = others.iter().map(|path| Shortcuts::open(path)).collect::<Result<Vec<_>>>()?;
    let all = Shortcuts::new(folder.join(Stage::Fit.place())).with_others(others);
    let casts = all.casts()?;
    let mut rows = Vec::new();
    observer.begin("compare", sizes.n_layers as u64, "layers");
    for layer in 0..sizes.n_layers {
        check(observer)?;
        let mut maps: Vec<(&Cast, LinearMap)> = Vec::new();
        for cast in &casts {
            let found = all.cast(cast).load_pairs(layer, &[sizes.n_layers], sizes.d_model)?;
            maps.extend(found.into_values().map(|map| (cast, map)));
        }
        let ranks: Vec<f64> = maps.par_iter().map(|(_, map)| rank(map)).collect::<Result<_>>()?;
        let norms: Vec<f64> = maps.iter().map(|(_, map)| dot(map, map).sqrt()).collect();
        for (at, (cast, map)) in maps.iter().enumerate() {
            for (to, (against, other)) in maps.iter().enumerate().filter(|(to, _)| *to != at) {
                rows.push(MapRow {
                    mapping: (*cast).clone(),
                    layer,
                    norm: norms[at],
                    effective_rank: ranks[at],
                    against: (*against).clone(),
                    cosine: dot(map, other) / (norms[at] * norms[to]),
                });
            }
        }
        observer.advance(1);
    }
    observer.end();
    Ok(rows)
}

fn dot(a: &LinearMap, b: &LinearMap) -> f64 {
    a.weight().iter().zip(b.weight()).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn rank(map: &LinearMap) -> Result<f64> {
    Ok(effective_rank(&map.singular_values()?))
}
