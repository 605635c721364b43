//! Maps, r² and learning curve from a file of sums.

use crate::eval::tables::{CurveRow, R2Row};
use crate::eval::{learning_curve, r2_of_sums};
use crate::lenses::{self, Fit, Source};
use crate::moments::MomentsFile;
use crate::progress::{Observer, check};
use crate::shortcut::{Fits, PairSums, Shortcuts, save_maps};
use crate::store::Stage;
use crate::words::{Cast, Refusal};
use crate::{Error, Result};
use jumplens_core::metrics::score;
use std::ops::Range;

/// Fits the maps `fits` from the layers `sources` by the sums of all shares, and writes them to `shortcuts`. Gives the rows of `r2.csv`
/// and `learning_curve.csv`, from the sums too. Advances by one a map. [`Error::Shards`] names the shares that are missing;
/// [`Error::Refused`] where the file has not the sums of all `fits.pairs`.
pub fn fit(
    file: &MomentsFile,
    fits: &Fits,
    sources: Range<usize>,
    shortcuts: &Shortcuts,
    observer: &dyn Observer,
) -> Result<(Vec<R2Row>, Vec<CurveRow>)> {
    check_fits(file, fits)?;
    let last = file.record.n_layers;
    let count = |from| fits.pairs.targets(from, last).len() * fits.casts().len();
    observer.begin(Stage::Fit.name(), sources.clone().map(count).sum::<usize>() as u64, "maps");
    let lenses = chosen(fits)?;
    let (mut rows, mut curve) = (Vec::new(), Vec::new());
    for from in sources {
        check(observer)?;
        let to = fits.pairs.targets(from, last);
        let (train, val) = (file.train(from, &to)?, file.val(from, &to)?);
        let source = Source::of_sums(&train);
        for lens in &lenses {
            let (cast, maps) = (lens.cast(), lenses::fit(&**lens, &source)?);
            for (target, (to, map)) in to.iter().zip(&maps.maps).enumerate() {
                let (r2, r2_train) = (r2_of_sums(&val, target, map), r2_of_sums(&train, target, map));
                rows.push(R2Row { mapping: cast.clone(), from, to: *to, r2, r2_train });
            }
            observer.advance(save_maps(shortcuts, &cast, from, &to, maps)? as u64);
        }
        // What is factored next takes as much.
        drop(source);
        let (mut id, mut mean) = (Vec::new(), Vec::new());
        for (target, to) in to.iter().enumerate() {
            let row = |mapping: Cast, score: &dyn Fn(&PairSums) -> f64| R2Row {
                mapping,
                from,
                to: *to,
                r2: score(&val),
                r2_train: score(&train),
            };
            let centre = train.target_spread(target).mean;
            let against =
                |sums: &PairSums, errors: Vec<f64>| score(&errors, &sums.target_spread(target).about_mean);
            id.push(row(Cast::Id, &|sums| against(sums, sums.squared_distances_to_source(target))));
            mean.push(row(Cast::Mean, &|sums| against(sums, sums.squared_distances_to(target, &centre))));
        }
        rows.extend(id.into_iter().chain(mean));
        let val = file.val(from, &[last])?;
        curve.extend(learning_curve([from, last], &val, |segment| file.segment(segment, from))?.0);
    }
    observer.end();
    Ok((by_cast(rows), curve))
}

/// Rows of source layers that follow one another, put together by cast.
pub(super) fn by_cast(rows: Vec<R2Row>) -> Vec<R2Row> {
    let mut all: Vec<(Cast, Vec<R2Row>)> = Vec::new();
    for row in rows {
        match all.iter_mut().find(|(cast, _)| *cast == row.mapping) {
            Some((_, its)) => its.push(row),
            None => all.push((row.mapping.clone(), vec![row])),
        }
    }
    all.into_iter().flat_map(|(_, rows)| rows).collect()
}

/// The lenses that `fits` asks for, none of which may need more than sums.
fn chosen(fits: &Fits) -> Result<Vec<Box<dyn Fit>>> {
    let lenses = lenses::chosen(fits)?;
    match lenses.iter().find(|lens| lens.needs_states()) {
        Some(lens) => Err(Refusal::NoStates { lens: lens.cast() }.into()),
        None => Ok(lenses),
    }
}

/// Sees that all shares are there, the sums of all pairs of layers, and the lenses.
pub(super) fn check_fits(file: &MomentsFile, fits: &Fits) -> Result<()> {
    chosen(fits)?;
    let record = &file.record;
    lenses::check_ranks(fits, record.d_model)?;
    let missing = record.missing();
    if !missing.is_empty() {
        let names: Vec<String> = missing.iter().map(|index| format!("{index}/{}", record.of)).collect();
        let message = format!("it lacks the shares {}", names.join(", "));
        return Err(Error::Shards { path: file.path().to_owned(), message });
    }
    let last = record.n_layers;
    let held = record.manifest.fits.pairs;
    if (0..last)
        .any(|from| fits.pairs.targets(from, last).iter().any(|to| !held.targets(from, last).contains(to)))
    {
        return Err(Refusal::SumsToTheLast { path: file.path().to_owned() }.into());
    }
    Ok(())
}
