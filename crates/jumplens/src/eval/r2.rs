//! r² of every pair of layers.

use super::tables::R2Row;
use crate::Result;
use crate::models::Sizes;
use crate::progress::{Observer, check};
use crate::shortcut::{MapStore, Pairs};
use crate::states::{LayerStates, States};
use crate::words::Cast;
use jumplens_core::metrics::{Source, Target};
use jumplens_core::spread::squared_distances;
use std::collections::{BTreeMap, BTreeSet};

/// The rows of `r2.csv` for every pair that has a map, and for `pairs` without `casts`: those of `casts`, whose maps are in
/// `shortcuts`, then `id`, then the baseline `mean`. Advances by one a map.
pub fn r2_table(
    sizes: Sizes,
    train: &dyn States,
    val: &dyn States,
    shortcuts: &dyn MapStore,
    casts: &[Cast],
    pairs: Pairs,
    observer: &dyn Observer,
) -> Result<Vec<R2Row>> {
    let (train, val) = (train.layers(sizes.n_layers)?, val.layers(sizes.n_layers)?);
    // The targets' spread, and the baseline, are the same for every source layer.
    let mut targets: BTreeMap<usize, (Target, Target)> = BTreeMap::new();
    let mut measured = BTreeSet::new();
    let mut rows = Vec::new();
    let sources: Vec<[Source; 2]> = val
        .iter()
        .zip(&train)
        .map(|(val, train)| [val, train].map(|file| Source::of(file.values(), file.d)))
        .collect();
    let open = |to: usize| {
        let on_val = target(&val[to]);
        note_still_coordinates(&on_val, to, observer);
        (on_val, target(&train[to]))
    };
    for cast in casts {
        for (from, [source, train_source]) in sources[..sizes.n_layers].iter().enumerate() {
            for (to, map) in shortcuts.load(cast, from, &shortcuts.targets(cast, from)?, sizes.d_model)? {
                check(observer)?;
                let (on_val, on_train) = targets.entry(to).or_insert_with(|| open(to));
                let r2 = on_val.score_of_map(source, &map);
                let r2_train = on_train.score_of_map(train_source, &map);
                rows.push(R2Row { mapping: cast.clone(), from, to, r2, r2_train });
                measured.insert((from, to));
                observer.advance(1);
            }
        }
    }
    if casts.is_empty() {
        for from in 0..sizes.n_layers {
            for to in pairs.targets(from, sizes.n_layers) {
                targets.entry(to).or_insert_with(|| open(to));
                measured.insert((from, to));
            }
        }
    }
    for &(from, to) in &measured {
        check(observer)?;
        let (on_val, on_train) = &targets[&to];
        let r2 = on_val.score_of(val[from].values());
        let r2_train = on_train.score_of(train[from].values());
        rows.push(R2Row { mapping: Cast::Id, from, to, r2, r2_train });
    }
    let mut means: BTreeMap<usize, [f64; 2]> = BTreeMap::new();
    for (to, (on_val, on_train)) in &targets {
        let of_mean = on_val.score(&squared_distances(on_val.values(), &on_train.spread().mean));
        means.insert(*to, [of_mean, on_train.score(&on_train.spread().about_mean)]);
    }
    for &(from, to) in &measured {
        let [r2, r2_train] = means[&to];
        rows.push(R2Row { mapping: Cast::Mean, from, to, r2, r2_train });
    }
    Ok(rows)
}

fn target<'a>(file: &'a LayerStates) -> Target<'a> {
    Target::of(file.values(), file.d)
}

fn note_still_coordinates(target: &Target, layer: usize, observer: &dyn Observer) {
    let still = target.still_coordinates();
    if still.is_empty() {
        return;
    }
    let first: Vec<String> = still.iter().take(5).map(usize::to_string).collect();
    let more = if still.len() > 5 { ", …" } else { "" };
    observer.note(&format!(
        "{} of the {} coordinates of layer {layer} hardly vary ({}{more}): r² to it counts them like the others, as \
         scikit-learn does, which can make it a large negative number",
        still.len(),
        target.d(),
        first.join(", "),
    ));
}
