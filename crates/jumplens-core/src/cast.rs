//! Casts: which there are, what they are called, and which of them are to be fitted.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

/// How a state of one layer stands in for that of a later one. Its name is the same in tables, in folders and on the command
/// line; casts are in the order of their names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Cast {
    /// `id`: the state as it is.
    Id,
    /// `mean`: the mean of the train states at the later layer, a baseline.
    Mean,
    /// A fitted map: `mat`, `mat+b`, `mat_ridge`, `mat+b_r64`.
    Map {
        /// With a bias, or through the origin.
        intercept: bool,
        /// How it is chosen.
        form: Form,
    },
    /// The blocks between, with some of their parts replaced by linear maps.
    Blocks(BlockCast),
    /// The mean derivative of the last layer's state: `jacobian`, `tangent`, `relevance`.
    Derivative(DerivativeCast),
    /// `tuned`: the maps of a tuned lens.
    Tuned,
    /// Maps of another lens, or from elsewhere. [`Cast::from`] alone makes it, of a name that is none of those above.
    Other(OtherName),
}

/// A name that no other [`Cast`] has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherName(String);

/// How a [`Cast::Map`] is chosen: a [`Kind`] without its λ, which is no part of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Least squares.
    Plain,
    /// Least squares with a penalty on the map.
    Ridge,
    /// The best map of that rank.
    Rank(usize),
}

/// The casts of section 6 of the paper: every block is run with one kind of sub-module replaced by its linear map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockCast {
    /// Attention.
    Attn,
    /// The feed-forward network.
    Ffn,
    /// Both norms.
    Norms,
}

impl BlockCast {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::Attn, Self::Ffn, Self::Norms];

    fn name(self) -> &'static str {
        match self {
            Self::Attn => "mat_attn",
            Self::Ffn => "mat_ffn",
            Self::Norms => "mat_ln1_ln2",
        }
    }

    /// The names of the parts that their linear maps stand in for.
    pub fn parts(self) -> &'static [&'static str] {
        match self {
            Self::Attn => &["attn"],
            Self::Ffn => &["ffn"],
            Self::Norms => &["ln1", "ln2"],
        }
    }
}

/// Which mean derivative of the last layer's state it is that a state is multiplied with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DerivativeCast {
    /// With effects on all later positions (Gurnee et al., Transformer Circuits 2026).
    Jacobian,
    /// Of the same position alone.
    Tangent,
    /// As the first, with the denominators of norms and the activations of gates held as they are.
    Relevance,
}

impl DerivativeCast {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::Jacobian, Self::Tangent, Self::Relevance];

    fn name(self) -> &'static str {
        match self {
            Self::Jacobian => "jacobian",
            Self::Tangent => "tangent",
            Self::Relevance => "relevance",
        }
    }
}

impl fmt::Display for DerivativeCast {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Cast {
    /// `mat`, the map that the others are held against.
    pub const MAT: Self = Self::Map { intercept: false, form: Form::Plain };

    /// What it is called.
    pub fn name(&self) -> Cow<'_, str> {
        match self {
            Self::Id => "id".into(),
            Self::Mean => "mean".into(),
            Self::Map { intercept, form } => {
                let mat = if *intercept { "mat+b" } else { "mat" };
                match form {
                    Form::Plain => mat.into(),
                    Form::Ridge => format!("{mat}_ridge").into(),
                    Form::Rank(rank) => format!("{mat}_r{rank}").into(),
                }
            }
            Self::Blocks(cast) => cast.name().into(),
            Self::Derivative(cast) => cast.name().into(),
            Self::Tuned => "tuned".into(),
            Self::Other(OtherName(name)) => name.into(),
        }
    }
}

impl From<&str> for Cast {
    fn from(name: &str) -> Self {
        let form = match name.split_once('_') {
            None => Form::Plain,
            Some((_, form)) => {
                let rank = form.strip_prefix('r').and_then(|rank| rank.parse().ok());
                rank.map_or(Form::Ridge, Form::Rank)
            }
        };
        let map = Self::Map { intercept: name.starts_with("mat+b"), form };
        let named = [Self::Id, Self::Mean, map, Self::Tuned]
            .into_iter()
            .chain(BlockCast::ALL.map(Self::Blocks))
            .chain(DerivativeCast::ALL.map(Self::Derivative));
        named
            .into_iter()
            .find(|cast| cast.name() == name)
            .unwrap_or_else(|| Self::Other(OtherName(name.to_owned())))
    }
}

impl From<String> for Cast {
    fn from(name: String) -> Self {
        Self::from(&*name)
    }
}

impl From<Cast> for String {
    fn from(cast: Cast) -> Self {
        cast.name().into_owned()
    }
}

impl std::str::FromStr for Cast {
    type Err = std::convert::Infallible;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Ok(name.into())
    }
}

impl fmt::Display for Cast {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(&self.name())
    }
}

impl Ord for Cast {
    fn cmp(&self, other: &Self) -> Ordering {
        self.name().cmp(&other.name())
    }
}

impl PartialOrd for Cast {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

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

/// A [`Cast::Map`] that is to be fitted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MapCast {
    /// With a bias, or through the origin.
    pub intercept: bool,
    /// How the map is chosen.
    pub kind: Kind,
}

impl MapCast {
    /// The cast that comes of it.
    pub fn cast(&self) -> Cast {
        let form = match self.kind {
            Kind::Plain => Form::Plain,
            Kind::Ridge(_) => Form::Ridge,
            Kind::Rank(rank) => Form::Rank(rank),
        };
        Cast::Map { intercept: self.intercept, form }
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
    /// Other ways to fit maps, by the casts that come of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lenses: Vec<Cast>,
    /// The casts that are wanted, where it is not all of them: what none of these needs is not made.
    #[serde(default, rename = "casts", skip_serializing_if = "Option::is_none")]
    pub only: Option<Vec<Cast>>,
}

impl Fits {
    /// Plain least squares without intercept, and all casts that run blocks.
    pub fn plain(pairs: Pairs) -> Self {
        Self { pairs, intercept: false, ridge: None, ranks: Vec::new(), lenses: Vec::new(), only: None }
    }

    /// What is needed for `casts`, and nothing else. λ is chosen by itself for those with a penalty where no `ridge` is given.
    /// A name that is no cast's stands among the [`lenses`](Self::lenses).
    pub fn only(casts: &[Cast], ridge: Option<Ridge>, pairs: Pairs) -> Self {
        let mut fits = Self { ridge, ..Self::plain(pairs) };
        for cast in casts.iter().filter(|cast| **cast != Cast::Id) {
            match cast {
                Cast::Map { intercept, form } => {
                    fits.intercept |= intercept;
                    match form {
                        Form::Plain => {}
                        Form::Ridge => fits.ridge = Some(ridge.unwrap_or(Ridge::Auto)),
                        Form::Rank(rank) => fits.ranks.push(*rank),
                    }
                }
                Cast::Blocks(_) => {}
                other => fits.lenses.push(other.clone()),
            }
        }
        fits.ranks.sort_unstable();
        fits.ranks.dedup();
        fits.lenses.sort_unstable();
        fits.lenses.dedup();
        let mut only = casts.to_vec();
        only.sort_unstable();
        only.dedup();
        Self { only: Some(only), ..fits }
    }

    /// True for a cast that is wanted.
    pub fn wants(&self, cast: &Cast) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(cast))
    }

    /// The casts that are maps between layers, `mat` first, those of other lenses last.
    pub fn casts(&self) -> Vec<Cast> {
        self.least_squares().iter().map(MapCast::cast).chain(self.lenses.iter().cloned()).collect()
    }

    /// The casts that run blocks.
    pub fn blocks(&self) -> Vec<BlockCast> {
        BlockCast::ALL.into_iter().filter(|cast| self.wants(&Cast::Blocks(*cast))).collect()
    }

    /// Whether a map of a block's part of that name is needed.
    pub fn needs_part(&self, name: &str) -> bool {
        self.only.is_none() || self.blocks().iter().any(|cast| cast.parts().contains(&name))
    }

    /// Those that are fitted by least squares, `mat` first, those with a bias last.
    pub fn least_squares(&self) -> Vec<MapCast> {
        let mut all = self.all_least_squares();
        all.retain(|cast| self.wants(&cast.cast()));
        all
    }

    fn all_least_squares(&self) -> Vec<MapCast> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let map = |intercept, form| Cast::Map { intercept, form };
        for (cast, name) in [
            (Cast::Id, "id"),
            (Cast::Mean, "mean"),
            (Cast::MAT, "mat"),
            (map(true, Form::Plain), "mat+b"),
            (map(false, Form::Ridge), "mat_ridge"),
            (map(true, Form::Ridge), "mat+b_ridge"),
            (map(false, Form::Rank(8)), "mat_r8"),
            (map(true, Form::Rank(64)), "mat+b_r64"),
            (Cast::Blocks(BlockCast::Attn), "mat_attn"),
            (Cast::Blocks(BlockCast::Ffn), "mat_ffn"),
            (Cast::Blocks(BlockCast::Norms), "mat_ln1_ln2"),
            (Cast::Tuned, "tuned"),
            (Cast::Derivative(DerivativeCast::Jacobian), "jacobian"),
            (Cast::Derivative(DerivativeCast::Tangent), "tangent"),
            (Cast::Derivative(DerivativeCast::Relevance), "relevance"),
        ] {
            assert_eq!((cast.to_string(), Cast::from(name)), (name.to_owned(), cast));
        }
        for name in [
            "",
            "Mat",
            "mat_",
            "mat_r",
            "mat_r08",
            "mat_r+8",
            "mat+b_",
            "mat+",
            "mat_rridge",
            "mat_b",
            "mine",
        ] {
            assert!(matches!(Cast::from(name), Cast::Other(_)), "{name}");
            assert_eq!(Cast::from(name).name(), name);
        }
        let casts =
            Fits { intercept: true, ridge: Some(Ridge::Auto), ranks: vec![8], ..Fits::plain(Pairs::All) }
                .casts();
        let names: Vec<String> = casts.iter().map(Cast::to_string).collect();
        assert_eq!(names, ["mat", "mat_ridge", "mat_r8", "mat+b", "mat+b_ridge", "mat+b_r8"]);
    }

    #[test]
    fn what_no_wanted_cast_needs_is_not_made() {
        let fits = |names: &[&str]| {
            let casts: Vec<Cast> = names.iter().copied().map(Cast::from).collect();
            Fits::only(&casts, None, Pairs::ToFinal)
        };
        for names in [&["id"][..], &["id", "mat"], &["mat+b_r64", "mat_ridge"], &["mat", "mat_r8", "mat+b"]] {
            let fits = fits(names);
            let mut made: Vec<String> = fits.casts().iter().map(Cast::to_string).collect();
            made.sort();
            let mut wanted: Vec<&str> = names.iter().copied().filter(|name| *name != "id").collect();
            wanted.sort_unstable();
            assert_eq!(made, wanted);
            assert!(fits.blocks().is_empty() && !fits.needs_part("attn"));
            assert_eq!(fits.wants(&Cast::Id), names.contains(&"id"));
        }
        let blocks = fits(&["mat_ffn"]);
        assert_eq!((blocks.casts(), blocks.blocks()), (vec![], vec![BlockCast::Ffn]));
        assert!(blocks.needs_part("ffn") && !blocks.needs_part("ln1"));
        assert_eq!(fits(&["mine", "mat"]).lenses, [Cast::from("mine")]);
        let plain = Fits::plain(Pairs::All);
        assert_eq!(plain.blocks(), BlockCast::ALL);
        assert!(plain.needs_part("anything") && plain.wants(&Cast::Id));
        let json = serde_json::to_string(&fits(&["mat", "id"])).unwrap();
        assert_eq!(json, r#"{"pairs":"to-final","casts":["id","mat"]}"#);
    }

    proptest! {
        #[test]
        fn every_name_is_kept(name in "(id|mean|tuned|mat)?(\\+b)?(_attn|_ffn|_ln1_ln2|_ridge|_r[0-9]{0,22})?|.*", other in ".*") {
            let cast = Cast::from(&*name);
            prop_assert_eq!(&cast.name(), &name);
            prop_assert_eq!(format!("{cast:>9}"), format!("{name:>9}"));
            prop_assert_eq!(cast.cmp(&other.as_str().into()), name.cmp(&other));
            let json = serde_json::to_string(&cast).unwrap();
            prop_assert_eq!(&json, &serde_json::to_string(&name).unwrap());
            prop_assert_eq!(serde_json::from_str::<Cast>(&json).unwrap(), cast);
        }
    }
}
