//! The casts that are fitted maps of states: which there are, and what they are called.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Which pairs of layers are fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pairs {
    /// Every pair `from < to`.
    All,
    /// Every layer to the last.
    ToFinal,
}

/// As the command line and the manifest have it.
impl fmt::Display for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::All => "all",
            Self::ToFinal => "to-final",
        })
    }
}

impl Pairs {
    /// The target layers of maps from layer `from`, in a model of `n_layers` blocks.
    pub fn targets(self, from: usize, n_layers: usize) -> Vec<usize> {
        match self {
            Self::All => (from + 1..=n_layers).collect(),
            Self::ToFinal => vec![n_layers],
        }
    }

    /// How many pairs that makes.
    pub fn count(self, n_layers: usize) -> usize {
        (0..n_layers).map(|from| self.targets(from, n_layers).len()).sum()
    }
}

/// How strongly a map is held back: the λ of `‖X·Aᵀ − Y‖² + λ‖A‖²`, in the units of the squared states, as scikit-learn's
/// `Ridge(alpha=λ)` has it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ridge {
    /// For each pair of layers the λ that generalised cross-validation finds best for r².
    Auto,
    /// The same λ for every pair.
    Fixed(f64),
}

/// As the command line has it.
impl fmt::Display for Ridge {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Fixed(lambda) => lambda.fmt(f),
        }
    }
}

/// How the map of a cast is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Least squares.
    Plain,
    /// Least squares with a penalty on the map.
    Ridge(Ridge),
    /// The best map of that rank on the train states (reduced-rank regression).
    Rank(usize),
}

/// A cast that is a fitted map of states.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MapCast {
    /// With a bias, or through the origin.
    pub intercept: bool,
    /// How the map is chosen.
    pub kind: Kind,
}

/// The cast's name in tables and folders: `mat`, `mat+b`, `mat_ridge`, `mat+b_r64`.
impl fmt::Display for MapCast {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(if self.intercept { "mat+b" } else { "mat" })?;
        match self.kind {
            Kind::Plain => Ok(()),
            Kind::Ridge(_) => f.write_str("_ridge"),
            Kind::Rank(rank) => write!(f, "_r{rank}"),
        }
    }
}

/// Which maps between layers are fitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fits {
    /// Between which layers.
    pub pairs: Pairs,
    /// Every map with a bias too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub intercept: bool,
    /// Ridge regression too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ridge: Option<Ridge>,
    /// Maps of these ranks too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranks: Vec<usize>,
}

impl Fits {
    /// Plain least squares without intercept.
    pub fn plain(pairs: Pairs) -> Self {
        Self { pairs, intercept: false, ridge: None, ranks: Vec::new() }
    }

    /// The casts that come of it, `mat` first.
    pub fn casts(&self) -> Vec<MapCast> {
        let kinds = || {
            let ranks = self.ranks.iter().map(|rank| Kind::Rank(*rank));
            [Kind::Plain].into_iter().chain(self.ridge.map(Kind::Ridge)).chain(ranks)
        };
        let intercepts = if self.intercept { &[false, true][..] } else { &[false] };
        let with = |intercept: &bool| kinds().map(|kind| MapCast { intercept: *intercept, kind }).collect();
        intercepts.iter().flat_map(|intercept| -> Vec<MapCast> { with(intercept) }).collect()
    }

    /// How many maps that makes.
    pub fn count(&self, n_layers: usize) -> usize {
        self.casts().len() * self.pairs.count(n_layers)
    }
}
