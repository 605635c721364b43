//! What is known of how good fitted maps are, and what has to be said of it wherever their results are shown. One place
//! words it, so that the lens, the tables, the report and comparisons say the same.

use crate::Result;
use crate::eval::Summary;
use crate::eval::tables::{LayerRow, R2Row};
use crate::results::{finished_tables, with_tables};
use crate::shortcut::Origin;
use crate::store::{Found, Manifest, Stage, look};
use crate::words::Cast;
use std::fmt;
use std::path::Path;

/// Maps fitted on fewer samples than this many for each coordinate of a state are warned of.
const FEWEST: usize = 2;

/// What is known of maps: figures on validation samples, and how many samples they were fitted on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Evidence {
    /// Samples that the maps were fitted on.
    samples: Option<usize>,
    /// Samples that the figures are measured on.
    val: Option<usize>,
    /// Width of a state, d.
    width: Option<usize>,
    /// r² to the last layer, which is `to`.
    r2: Vec<R2Row>,
    /// Predictions from the layers before the last.
    layers: Vec<LayerRow>,
}

/// The best of several casts, and by what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Best {
    /// Which.
    pub cast: Cast,
    /// All that were compared.
    pub of: Vec<Cast>,
    by: Measure,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Measure {
    Surprisal,
    R2,
}

/// Why it was chosen, to stand behind its name: `best of mat, mat_ridge, id by …`.
impl fmt::Display for Best {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let by = match self.by {
            Measure::Surprisal => "mean surprisal",
            Measure::R2 => "mean r² to the last layer",
        };
        let of: Vec<String> = self.of.iter().map(Cast::to_string).collect();
        write!(f, "best of {} by {by} on the validation samples", of.join(", "))
    }
}

impl Evidence {
    /// Of the results in the run folder `folder`, whichever maps they are of.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) or [`Error::Format`](crate::Error::Format) when a file of the run cannot be read,
    /// [`Error::ChangedFolder`](crate::Error::ChangedFolder) when its summary is not as it was written.
    pub fn of_results(folder: &Path) -> Result<Self> {
        let manifest = with_tables(folder)?;
        let summary = Summary::read(folder)?;
        let samples = match &manifest {
            // How many the maps of another folder were fitted on is not known here.
            Some(manifest)
                if are_of_others(manifest, Stage::R2) || are_of_others(manifest, Stage::Evaluate) =>
            {
                None
            }
            Some(manifest) => Some(manifest.train),
            None => summary.as_ref().map(|summary| summary.train),
        };
        let val = summary.as_ref().map(|summary| summary.val);
        let width = summary.map(|summary| summary.d_model);
        let tables = finished_tables(folder, manifest.as_ref())?;
        let last = tables.last_layer();
        Ok(Self { samples, val, width, ..Self::default() }.with(last, tables.r2, tables.layers))
    }

    /// Of the run's own maps in the run folder `folder`, which are of states of `width` coordinates. Figures that were
    /// measured of other maps are left out. `None` where it is no run's folder.
    ///
    /// # Errors
    /// As of [`of_results`](Self::of_results), and [`Error::ChangedFile`](crate::Error::ChangedFile) when a table is not as it was left.
    pub fn of_maps(folder: &Path, width: usize) -> Result<Option<Self>> {
        if !folder.is_dir() {
            return Ok(None);
        }
        let Found::Run(manifest) = look(folder)? else { return Ok(None) };
        for stage in [Stage::R2, Stage::Evaluate].into_iter().filter(|stage| manifest.is_done(*stage)) {
            manifest.check(folder, stage, "reading its tables")?;
        }
        let mut tables = finished_tables(folder, Some(&manifest))?;
        let last = tables.last_layer();
        if are_of_others(&manifest, Stage::R2) {
            tables.r2.clear();
        }
        if are_of_others(&manifest, Stage::Evaluate) {
            tables.layers.clear();
        }
        let known = Self { samples: Some(manifest.train), width: Some(width), ..Self::default() };
        Ok(Some(known.with(last, tables.r2, tables.layers)))
    }

    /// Of maps by what their file says of them.
    pub fn of_origin(origin: &Origin) -> Self {
        Self { samples: origin.train, width: origin.d_model, ..Self::default() }
    }

    fn with(self, last: usize, mut r2: Vec<R2Row>, mut layers: Vec<LayerRow>) -> Self {
        r2.retain(|row| row.to == last);
        layers.retain(|row| row.layer < last);
        Self { r2, layers, ..self }
    }

    /// What has to be said of results of these `casts` (`None`: of all there are): a sentence each, without a full stop.
    pub fn warnings(&self, casts: Option<&[Cast]>) -> Vec<String> {
        let shown = |cast: &Cast| casts.is_none_or(|casts| casts.contains(cast));
        let mut warnings = Vec::new();
        let any_maps = casts.is_none_or(|casts| casts.iter().any(|cast| *cast != Cast::Id));
        if let (Some(samples), Some(width)) = (self.samples, self.width)
            && samples < FEWEST * width
            && any_maps
        {
            warnings.push(format!(
                "the maps are fitted on {samples} sample{}, fewer than {FEWEST} for each of the {width} coordinates of a \
                 state ({}): they fit noise",
                if samples == 1 { "" } else { "s" },
                FEWEST * width
            ));
        }
        if self.val == Some(1) {
            warnings.push(
                "there is 1 validation sample, which has no spread to be explained: r² is 0 or 1 by convention, and no \
                 interval has a width"
                    .to_owned(),
            );
        }
        let mut bad: Vec<(&Cast, Vec<usize>)> = Vec::new();
        for row in self.r2.iter().filter(|row| is_fitted(&row.mapping) && shown(&row.mapping) && row.r2 < 0.0)
        {
            match bad.iter_mut().find(|(cast, _)| **cast == row.mapping) {
                Some((_, layers)) => layers.push(row.from),
                None => bad.push((&row.mapping, vec![row.from])),
            }
        }
        if let Some(last) = self.r2.first().map(|row| row.to).filter(|_| !bad.is_empty()) {
            let casts: Vec<String> =
                bad.into_iter().map(|(cast, layers)| format!("`{cast}` from {}", ranges(layers))).collect();
            warnings.push(format!(
                "r² to layer {last} is below 0 on the validation samples, where the mean would be a better guess: {}",
                casts.join("; ")
            ));
        }
        warnings
    }

    /// The best of the casts that are `there`, as far as they are maps of states or [`Cast::Id`]: that of the lowest surprisal,
    /// mean over all layers but the last, or where there are no predictions that of the highest r² to the last layer. Of
    /// equals the first, `id` the last. `None` where the figures of fewer than two are known.
    pub fn best(&self, there: &[Cast]) -> Option<Best> {
        let mut casts: Vec<&Cast> = there.iter().filter(|cast| !matches!(cast, Cast::Blocks(_))).collect();
        casts.sort_by_key(|cast| **cast == Cast::Id);
        let mean = |values: Vec<f64>| {
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            mean.is_finite().then_some(mean)
        };
        let surprisal = |cast: &Cast| {
            mean(self.layers.iter().filter(|row| row.mapping == *cast).map(|row| row.surprisal).collect())
        };
        let unexplained = |cast: &Cast| {
            mean(self.r2.iter().filter(|row| row.mapping == *cast).map(|row| 1.0 - row.r2).collect())
        };
        let by = if self.layers.is_empty() { Measure::R2 } else { Measure::Surprisal };
        let figure = |cast: &Cast| match by {
            Measure::Surprisal => surprisal(cast),
            Measure::R2 => unexplained(cast),
        };
        let known: Vec<(&Cast, f64)> =
            casts.into_iter().filter_map(|cast| Some((cast, figure(cast)?))).collect();
        let (cast, _) = known.iter().min_by(|(_, a), (_, b)| a.total_cmp(b)).filter(|_| known.len() > 1)?;
        Some(Best { cast: (*cast).clone(), of: known.iter().map(|(cast, _)| (*cast).clone()).collect(), by })
    }
}

/// False for what `r2.csv` has beside the fitted maps: `id`, and the baseline.
fn is_fitted(mapping: &Cast) -> bool {
    !matches!(mapping, Cast::Id | Cast::Mean)
}

/// True where the figures of `stage` are of maps that are not the run's own.
fn are_of_others(manifest: &Manifest, stage: Stage) -> bool {
    manifest.stages.get(&stage).is_some_and(|record| record.shortcuts.is_some())
}

/// Layers in as few words as can be: `layer 3`, `layers 0–4, 7`.
pub(crate) fn ranges(mut layers: Vec<usize>) -> String {
    layers.sort_unstable();
    layers.dedup();
    let ranges = layers.chunk_by(|a, b| a + 1 == *b).map(|range| match range {
        [one] => one.to_string(),
        [first, .., last] => format!("{first}–{last}"),
        [] => String::new(),
    });
    let ranges = ranges.collect::<Vec<_>>().join(", ");
    if layers.len() == 1 { format!("layer {ranges}") } else { format!("layers {ranges}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn r2(mapping: &str, values: &[f64]) -> Vec<R2Row> {
        let row = |(from, r2): (usize, &f64)| R2Row {
            mapping: mapping.into(),
            from,
            to: values.len(),
            r2: *r2,
            r2_train: 0.9,
        };
        values.iter().enumerate().map(row).collect()
    }

    fn layers(mapping: &str, values: &[f64]) -> Vec<LayerRow> {
        let row = |(layer, surprisal): (usize, &f64)| LayerRow {
            mapping: mapping.into(),
            layer,
            surprisal: *surprisal,
            precision_1: 0.0,
            precision_5: 0.0,
            precision_10: 0.0,
            kl: 0.0,
            loss: None,
            precision_1_lo: 0.0,
            precision_1_hi: 0.0,
            precision_5_lo: 0.0,
            precision_5_hi: 0.0,
            precision_10_lo: 0.0,
            precision_10_hi: 0.0,
            surprisal_lo: 0.0,
            surprisal_hi: 0.0,
            kl_lo: 0.0,
            kl_hi: 0.0,
            loss_lo: None,
            loss_hi: None,
        };
        values.iter().enumerate().map(row).collect()
    }

    fn names(names: &[&str]) -> Vec<Cast> {
        names.iter().map(|name| Cast::from(*name)).collect()
    }

    fn evidence(samples: usize) -> Evidence {
        let known = Evidence { samples: Some(samples), width: Some(64), ..Evidence::default() };
        let rows = [
            r2("mat", &[-0.5, -0.1, 0.2, -0.01, 0.9]),
            r2("mat_ridge", &[0.1, -0.1, 0.2, 0.3, 0.8]),
            r2("id", &[-9.0; 5]),
            r2("mean", &[-0.01; 5]),
        ];
        // Pairs to other layers do not count.
        let others = R2Row { mapping: "mat".into(), from: 2, to: 3, r2: -1.0, r2_train: 0.0 };
        known.with(5, rows.concat().into_iter().chain([others]).collect(), Vec::new())
    }

    #[test]
    fn too_few_samples_and_bad_layers_are_warned_of_where_their_maps_are_shown() {
        let bad = |casts: &str| {
            format!(
                "r² to layer 5 is below 0 on the validation samples, where the mean would be a better guess: {casts}"
            )
        };
        let few = "the maps are fitted on 127 samples, fewer than 2 for each of the 64 coordinates of a state (128): they \
                   fit noise";
        let all = bad("`mat` from layers 0–1, 3; `mat_ridge` from layer 1");
        assert_eq!(evidence(128).warnings(None), [&*all]);
        assert_eq!(evidence(127).warnings(None), [few, &*all]);
        let of = |casts: &[&str]| evidence(127).warnings(Some(&names(casts)));
        assert_eq!(of(&["mat_ridge", "id"]), [few.to_owned(), bad("`mat_ridge` from layer 1")]);
        assert_eq!(of(&["mat_attn"]), [few]);
        assert!(of(&["id"]).is_empty());
        assert!(Evidence::default().warnings(None).is_empty());
        let origin = Origin { train: Some(100), d_model: Some(64), ..Origin::default() };
        assert_eq!(Evidence::of_origin(&origin).warnings(None).len(), 1);
        let origin = Origin { train: Some(128), ..origin };
        assert!(Evidence::of_origin(&origin).warnings(None).is_empty());
    }

    #[test]
    fn layers_are_named_in_ranges() {
        for (layers, expected) in [
            (vec![3], "layer 3"),
            (vec![4, 3, 3], "layers 3–4"),
            (vec![0, 1, 2, 4, 6, 7], "layers 0–2, 4, 6–7"),
        ] {
            assert_eq!(ranges(layers), expected);
        }
    }

    #[test]
    fn the_best_cast_is_that_of_the_figures_that_are_known() {
        let there = names(&["id", "mat", "mat_ridge", "mat_attn"]);
        let by_r2 = evidence(9).best(&there).unwrap();
        assert_eq!(by_r2.cast.name(), "mat_ridge");
        let says = "best of mat, mat_ridge, id by mean r² to the last layer on the validation samples";
        assert_eq!(by_r2.to_string(), says);
        // Predictions come before r², and what runs blocks is not a map of states.
        let rows = [
            layers("id", &[9.0, 8.0, 7.0]),
            layers("mat", &[3.0, 2.0, 1.0]),
            layers("mat_ridge", &[4.0, 2.0, 1.0]),
            layers("mat_attn", &[0.0; 3]),
        ];
        let predicted = Evidence { layers: rows.concat(), ..evidence(9) };
        let best = predicted.best(&there).unwrap();
        assert_eq!((best.cast, best.by), (Cast::MAT, Measure::Surprisal));
        // Where maps are worse than none, none is best; where they are as good, they are.
        let poor = Evidence { layers: [layers("id", &[1.0]), layers("mat", &[2.0])].concat(), ..evidence(9) };
        assert_eq!(poor.best(&there).unwrap().cast, Cast::Id);
        let equal =
            Evidence { layers: [layers("id", &[1.0]), layers("mat", &[1.0])].concat(), ..evidence(9) };
        assert_eq!(equal.best(&there).unwrap().cast, Cast::MAT);
        // Nothing to compare.
        assert_eq!(evidence(9).best(&names(&["id"])), None);
        assert_eq!(Evidence::default().best(&there), None);
        let broken =
            Evidence { layers: [layers("id", &[f64::NAN]), layers("mat", &[1.0])].concat(), ..evidence(9) };
        assert_eq!(broken.best(&there), None);
    }
}
