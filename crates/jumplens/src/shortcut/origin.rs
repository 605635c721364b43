//! Which model maps belong to and what they were fitted on. It is kept in their files, so that maps of one model are not
//! taken for another's.

use super::files::Shortcuts;
use crate::manifest::{Manifest, ModelRecord, SamplesRecord};
use crate::nn::Precision;
use crate::store::{Found, look};
use crate::words::{LastState, Sizes};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What is known of where maps come from. What is not known is `None`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Origin {
    /// The version of jumplens that wrote the file.
    pub version: String,
    /// The model's name, without the folders above it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The commit of the model's files, where they are from the Hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// SHA-256 of the model's weights, as `manifest.json` has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights_sha256: Option<String>,
    /// Blocks, L.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_layers: Option<usize>,
    /// Width of a state, d.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub d_model: Option<usize>,
    /// What the maps to layer L lead to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_state: Option<LastState>,
    /// The corpus or samples file they were fitted on, without the folders above it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corpus: Option<String>,
    /// SHA-256 of that file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corpus_sha256: Option<String>,
    /// How positions were chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub positions: Option<String>,
    /// Training samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train: Option<usize>,
    /// The seed of the positions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// What the model's products were done in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<Precision>,
    /// How the maps were computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub solver: Option<String>,
    /// N of the exit rule ([`mean_run`](crate::eval::mean_run) of the validation samples).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_run: Option<f64>,
    /// For maps that another program wrote: in which format they came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imported_from: Option<String>,
}

impl Origin {
    /// Of a model alone.
    pub fn of_model(model: &ModelRecord, n_layers: usize, d_model: usize) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            model: Some(model.short_name().to_owned()),
            revision: model.revision.clone(),
            weights_sha256: Some(model.weights_sha256.clone()),
            n_layers: Some(n_layers),
            d_model: Some(d_model),
            last_state: Some(LastState::BlockOutput),
            ..Self::default()
        }
    }

    /// Of what a run is of: its model, where that is known.
    pub fn of_states(manifest: &Manifest, sizes: Sizes) -> Self {
        let Sizes { n_layers, d_model } = sizes;
        let own = match &manifest.model {
            Some(model) => Self::of_model(model, n_layers, d_model),
            None => Self {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                n_layers: Some(n_layers),
                d_model: Some(d_model),
                ..Self::default()
            },
        };
        let last_state = manifest.samples.imported().map_or(LastState::BlockOutput, |from| from.last_state);
        Self { last_state: Some(last_state), ..own }
    }

    /// Of the maps that are fitted on a run's samples; `mean_run` is N of its exit rule.
    pub fn of_run(manifest: &Manifest, sizes: Sizes, mean_run: Option<f64>) -> Self {
        let (id, sha256) = match &manifest.samples {
            SamplesRecord::Imported { imported } => {
                (&imported.train_states.id, &imported.train_states.sha256)
            }
            SamplesRecord::Corpus { corpus, .. } => (&corpus.id, &corpus.sha256),
            SamplesRecord::Files { train_samples, .. } => (&train_samples.id, &train_samples.sha256),
        };
        let mut positions = match &manifest.samples {
            SamplesRecord::Files { .. } => "as given in the samples file".to_owned(),
            SamplesRecord::Imported { .. } => "those of the imported states".to_owned(),
            SamplesRecord::Corpus { positions, .. } => positions.to_string(),
        };
        if manifest.mask == Some(true) {
            positions += ", the token there replaced by [MASK]";
        }
        Self {
            corpus: Some(short(id).to_owned()),
            corpus_sha256: Some(sha256.clone()),
            positions: Some(positions),
            train: Some(manifest.counts()[0]),
            seed: Some(manifest.seed),
            dtype: Some(manifest.dtype),
            solver: Some("least squares, singular values above 1e-6 of the largest".to_owned()),
            mean_run,
            ..Self::of_states(manifest, sizes)
        }
    }

    /// What makes maps of this origin unfit for the model of `own`, in words; `None` where nothing that is known does.
    pub fn difference(&self, own: &Self) -> Option<String> {
        fn differ<T: PartialEq>(a: &Option<T>, b: &Option<T>) -> bool {
            a.is_some() && b.is_some() && a != b
        }
        let name =
            |origin: &Self| origin.model.clone().unwrap_or_else(|| "a model without a name".to_owned());
        let number = |number: Option<usize>| number.unwrap_or_default();
        if differ(&self.d_model, &own.d_model) || differ(&self.n_layers, &own.n_layers) {
            return Some(format!(
                "they are for {} layers of width {} (`{}`), not {} of width {} (`{}`)",
                number(self.n_layers),
                number(self.d_model),
                name(self),
                number(own.n_layers),
                number(own.d_model),
                name(own)
            ));
        }
        if differ(&self.weights_sha256, &own.weights_sha256) {
            let digits = |origin: &Self| {
                origin.weights_sha256.iter().flat_map(|sha256| sha256.chars().take(12)).collect::<String>()
            };
            return Some(format!(
                "they are for `{}` with weights {}…, not `{}` with weights {}…",
                name(self),
                digits(self),
                name(own),
                digits(own)
            ));
        }
        if differ(&self.last_state, &own.last_state) {
            return Some(
                "they lead to the state after the final norm, and what is applied here are maps to the state before it"
                    .to_owned(),
            );
        }
        None
    }
}

/// Says that a map leads beyond the last of `last` layers.
pub(super) fn beyond_the_last(from: usize, to: usize, last: usize) -> String {
    format!("there is one from layer {from} to {to}, and the model has {last} layers")
}

/// A path or name without the folders above it.
fn short(id: &str) -> &str {
    let path = Path::new(id);
    path.file_name().filter(|_| path.is_absolute()).and_then(|name| name.to_str()).unwrap_or(id)
}

impl Shortcuts {
    /// Holds the maps against the model that they are to be applied to, file by file: [`Error::ForeignShortcuts`] where
    /// one was fitted on another, or, where that is `forced`, a note. A note too where nothing is recorded of any.
    ///
    /// Maps without a record in their files take it from the manifest beside their folder, as runs of older versions left
    /// it.
    pub fn check(&self, own: &Origin, forced: bool) -> Result<Option<String>> {
        let mut unknown = None;
        let mut forced_to = None;
        for (path, origin) in self.origins()? {
            let origin = match origin {
                Some(origin) => Some(origin),
                None => self.origin_of_run()?,
            };
            let Some(origin) = origin.filter(|origin| origin.weights_sha256.is_some()) else {
                unknown.get_or_insert(path);
                continue;
            };
            match origin.difference(own) {
                Some(what) if forced => {
                    forced_to.get_or_insert((path, what));
                }
                Some(what) => return Err(Error::ForeignShortcuts { path, what }),
                None => {}
            }
        }
        if let Some((path, what)) = own.n_layers.map(|last| self.beyond(last)).transpose()?.flatten() {
            if !forced {
                return Err(Error::ForeignShortcuts { path, what });
            }
            forced_to.get_or_insert((path, what));
        }
        Ok(match (forced_to, unknown) {
            (Some((path, what)), _) => {
                Some(format!("the maps in `{}` are applied although {what}", path.display()))
            }
            (None, Some(path)) => Some(format!(
                "`{}` does not say which model its maps were fitted on: nothing but their shapes was checked",
                path.display()
            )),
            (None, None) => None,
        })
    }

    /// A map that leads beyond the last of `last` layers, where there is one, in words.
    fn beyond(&self, last: usize) -> Result<Option<(PathBuf, String)>> {
        for cast in self.casts()? {
            let maps = self.cast(&cast);
            for from in maps.sources()? {
                if let Some(to) = maps.targets(from)?.into_iter().find(|to| *to > last) {
                    return Ok(Some((
                        maps.open_pairs(from)?.path().to_owned(),
                        beyond_the_last(from, to, last),
                    )));
                }
            }
        }
        Ok(None)
    }

    /// What the manifest beside the folder says of the model.
    fn origin_of_run(&self) -> Result<Option<Origin>> {
        let Some(run) = self.folder().and_then(Path::parent) else { return Ok(None) };
        // A manifest beside maps may be anyone's.
        let Found::Run(manifest) = look(run)? else { return Ok(None) };
        Ok(Some(Origin {
            model: manifest.model.as_ref().map(|model| model.short_name().to_owned()),
            weights_sha256: manifest.model.map(|model| model.weights_sha256),
            ..Origin::default()
        }))
    }
}
