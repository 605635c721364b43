//! The stages of a run: what they are called, what each needs, and which files it writes.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Component, Path};
use std::str::FromStr;

/// A stage of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "&'static str", try_from = "String")]
pub enum Stage {
    /// Token ids and chosen positions.
    Samples,
    /// Hidden states of every layer at those positions.
    States,
    /// Second-moment sums of the states; no other stage needs them.
    Moments,
    /// Maps between layers, and of the parts of every block.
    Fit,
    /// Coefficients of determination of the maps.
    R2,
    /// Predictions of every cast from every layer.
    Evaluate,
    /// Figures and report.
    Plot,
}

/// The folder of the tables.
pub const RESULTS: &str = "results";
/// Tables that [`Stage::R2`] writes; the others are of [`Stage::Evaluate`].
const OF_R2: [&str; 4] = ["r2.csv", "sources.csv", "learning_curve.csv", "spectra.csv"];
/// The folder in it that an evaluation is kept in while it goes on.
pub const EVALUATING: &str = "evaluating";
/// Written by both, and read by neither.
pub const SUMMARY: &str = "summary.json";

impl Stage {
    /// All of them, each behind those that it needs.
    pub const ALL: [Self; 7] =
        [Self::Samples, Self::States, Self::Moments, Self::Fit, Self::R2, Self::Evaluate, Self::Plot];

    /// Those that a run goes through, in order.
    pub const OF_RUN: [Self; 6] =
        [Self::Samples, Self::States, Self::Fit, Self::R2, Self::Evaluate, Self::Plot];

    /// What it is called on the command line and in the manifest.
    pub fn name(self) -> &'static str {
        match self {
            Self::Samples => "samples",
            Self::States => "states",
            Self::Moments => "moments",
            Self::Fit => "fit",
            Self::R2 => "r2",
            Self::Evaluate => "evaluate",
            Self::Plot => "plot",
        }
    }

    /// What its files lie in, below the run folder; for [`Stage::Moments`], its one file.
    pub fn place(self) -> &'static str {
        match self {
            Self::Samples | Self::States => self.name(),
            Self::Moments => MOMENTS,
            Self::Fit => "shortcuts",
            Self::R2 | Self::Evaluate => RESULTS,
            Self::Plot => "plots",
        }
    }

    /// The stages whose files it reads, with maps of the run's own. Of [`Stage::Plot`] one of the two is enough.
    pub fn needs(self) -> &'static [Self] {
        match self {
            Self::Samples => &[],
            Self::States => &[Self::Samples],
            Self::Moments | Self::Fit => &[Self::States],
            Self::R2 | Self::Evaluate => &[Self::Fit],
            Self::Plot => &[Self::R2, Self::Evaluate],
        }
    }

    /// The stage, behind all those that have to be done before it, in order.
    pub fn with_needs(self) -> Vec<Self> {
        let needed =
            |of: &Self| self == *of || self.needs().iter().any(|need| need.with_needs().contains(of));
        Self::ALL.into_iter().filter(needed).collect()
    }

    /// True where it writes the file `path`, from the run folder on, and the file is made something from.
    pub fn writes(self, path: &Path) -> bool {
        let mut parts = path.components().filter_map(|part| match part {
            Component::Normal(part) => part.to_str(),
            _ => None,
        });
        let (Some(top), rest) = (parts.next(), parts.next()) else { return false };
        if top != self.place() {
            return false;
        }
        match self {
            Self::Samples | Self::States | Self::Fit => true,
            Self::Moments => rest.is_none(),
            Self::R2 => rest.is_some_and(|name| OF_R2.contains(&name)),
            Self::Evaluate => {
                rest.is_some_and(|name| ![SUMMARY, EVALUATING].contains(&name) && !OF_R2.contains(&name))
            }
            Self::Plot => false,
        }
    }
}

/// The file of [`Stage::Evaluate`] with some sentences through the lens.
pub const LENS: &str = "lens.json";
/// The file of [`Stage::Evaluate`] with the predictions for the first samples.
pub const EXAMPLES: &str = "examples.json";
/// The file that [`Stage::Moments`] writes.
pub const MOMENTS: &str = "moments.safetensors";

/// The page that shows a run.
pub const REPORT: &str = "report.html";

/// The samples of `split`, from the run folder on.
pub fn samples_file(split: &str) -> String {
    format!("{}/{split}.jsonl", Stage::Samples.place())
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<Stage> for &'static str {
    fn from(stage: Stage) -> Self {
        stage.name()
    }
}

impl FromStr for Stage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let stage = Self::ALL.into_iter().find(|stage| stage.name() == text);
        stage.ok_or_else(|| format!("there is no stage `{}`", text.escape_debug()))
    }
}

impl TryFrom<String> for Stage {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for stage in Stage::ALL {
            assert_eq!(stage.to_string().parse(), Ok(stage));
            assert_eq!(serde_json::from_str::<Stage>(&format!("\"{stage}\"")).unwrap(), stage);
        }
        assert!("plots".parse::<Stage>().is_err());
    }

    #[test]
    fn a_stage_comes_after_what_it_needs() {
        for (at, stage) in Stage::ALL.into_iter().enumerate() {
            assert!(stage.needs().iter().all(|need| Stage::ALL[..at].contains(need)), "{stage}");
        }
        assert_eq!(
            Stage::Evaluate.with_needs(),
            [Stage::Samples, Stage::States, Stage::Fit, Stage::Evaluate]
        );
        assert_eq!(Stage::Moments.with_needs(), [Stage::Samples, Stage::States, Stage::Moments]);
    }

    #[test]
    fn a_file_is_of_one_stage() {
        for (path, stage) in [
            ("samples/val.jsonl", Stage::Samples),
            ("states/train/attn/00.safetensors", Stage::States),
            ("moments.safetensors", Stage::Moments),
            ("shortcuts/mat+b/00.safetensors", Stage::Fit),
            ("results/r2.csv", Stage::R2),
            ("results/layers.csv", Stage::Evaluate),
        ] {
            let of: Vec<Stage> =
                Stage::ALL.into_iter().filter(|stage| stage.writes(Path::new(path))).collect();
            assert_eq!(of, [stage], "{path}");
        }
        for path in [
            "results/summary.json",
            "results/evaluating/0.safetensors",
            "plots/r2.svg",
            "report.html",
            "manifest.json",
            "",
        ] {
            assert!(!Stage::ALL.iter().any(|stage| stage.writes(Path::new(path))), "{path}");
        }
    }
}
