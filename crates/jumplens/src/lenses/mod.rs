//! Lenses: ways to fit the maps that cast a layer's states to later layers. Least squares, as [`Fits`] has it, is one in
//! several forms; any other is a file here, and a line in `LENSES`.

mod head;
#[cfg(test)]
mod made_up;
mod newton;
mod readout;

pub use readout::Readout;

use crate::progress::Observer;
use crate::words::Refusal;
use crate::{Error, Result};
use jumplens_core::cast::{Cast, Fits, Kind, MapCast, Pairs, Ridge};
use jumplens_core::solver::{Fitted, Maps, PairSums, Rows};
use jumplens_core::spread::Spread;
use std::cell::RefCell;
use std::rc::Rc;

/// A way to fit maps.
pub trait Fit: Send + Sync {
    /// What its maps are called, in tables, folders and figures.
    fn cast(&self) -> Cast;

    /// Whether it takes the states themselves, and not only what can be had of their sums.
    fn needs_states(&self) -> bool {
        self.needs_head()
    }

    /// Whether it takes what the head makes of states. Its maps then lead to the last layer alone.
    fn needs_head(&self) -> bool {
        false
    }

    /// Whether it asks for [`Source::spread`], which is then reckoned once for all layers.
    fn needs_spreads(&self) -> bool {
        true
    }

    /// The maps from a layer to each of its targets, in their order.
    fn fit(&self, source: &Source) -> Result<Maps>;
}

/// Least squares, plain, with a penalty or of low rank, through the origin or not.
impl Fit for MapCast {
    fn cast(&self) -> Cast {
        MapCast::cast(self)
    }

    /// The means that maps with a bias go through, and what λ is judged by.
    fn needs_spreads(&self) -> bool {
        self.intercept || self.kind == Kind::Ridge(Ridge::Auto)
    }

    fn fit(&self, source: &Source) -> Result<Maps> {
        Ok(source.least_squares(self.intercept)?.maps(self.kind)?)
    }
}

/// The lenses beside least squares.
const LENSES: &[fn() -> Box<dyn Fit>] = &[
    || Box::new(head::Fisher),
    || Box::new(head::Tuned),
    #[cfg(test)]
    || Box::new(made_up::Shift),
];

/// The lenses that `fits` asks for, least squares first, in the order of [`Fits::casts`]. [`Refusal::NoLens`] for a name that
/// none has, or that is there twice, [`Refusal::ToTheLast`] for one that leads to the last layer alone and is asked for between all,
/// [`Refusal::NoRidge`] where a penalty is given and no cast that is wanted has one.
pub fn chosen(fits: &Fits) -> Result<Vec<Box<dyn Fit>>> {
    let mut lenses: Vec<Box<dyn Fit>> = Vec::new();
    for cast in fits.least_squares() {
        lenses.push(Box::new(cast));
    }
    let has_penalty = |cast: MapCast| matches!(cast.kind, Kind::Ridge(_));
    if fits.ridge.is_some() && !fits.least_squares().into_iter().any(has_penalty) {
        return Err(Refusal::NoRidge.into());
    }
    let all: Vec<Box<dyn Fit>> = LENSES.iter().map(|make| make()).collect();
    let there: Vec<Cast> = all.iter().map(|lens| lens.cast()).collect();
    let mut all: Vec<Option<Box<dyn Fit>>> = all.into_iter().map(Some).collect();
    for name in &fits.lenses {
        if let Cast::Derivative(cast) = name {
            return Err(Refusal::IsADerivative { cast: *cast }.into());
        }
        let lens = there.iter().position(|cast| cast == name).and_then(|at| all[at].take());
        let lens = lens.ok_or_else(|| Refusal::NoLens { name: name.clone(), there: there.clone() })?;
        if lens.needs_head() && fits.pairs == Pairs::All {
            return Err(Refusal::ToTheLast { lens: name.clone() }.into());
        }
        lenses.push(lens);
    }
    Ok(lenses)
}

/// The casts of the lenses that are fitted through the head.
pub fn through_head() -> Vec<Cast> {
    let all = LENSES.iter().map(|make| make());
    all.filter(|lens| lens.needs_head()).map(|lens| lens.cast()).collect()
}

/// [`Error::Option`] where `fits` asks for maps of a rank that is no lower than that of any map of states that are `width` wide.
pub fn check_ranks(fits: &Fits, width: usize) -> Result<()> {
    match fits.ranks.iter().find(|rank| **rank >= width) {
        Some(rank) => Err(Error::Option(format!(
            "maps of rank {rank} are asked for, and a state has {width} coordinates: they would be those of `{}`; give \
             ranks from 1 to {}",
            Cast::MAT,
            width.saturating_sub(1)
        ))),
        None => Ok(()),
    }
}

/// The maps of `lens` from a layer, one for each of the source's targets. [`Error::Internal`] where it gives more or fewer.
pub fn fit(lens: &dyn Fit, source: &Source) -> Result<Maps> {
    let maps = lens.fit(source)?;
    match maps.maps.len() == source.targets() {
        true => Ok(maps),
        false => {
            let message = format!(
                "the lens `{}` gives {} maps to {} layers",
                lens.cast(),
                maps.maps.len(),
                source.targets()
            );
            Err(Error::Internal(message))
        }
    }
}

/// What a lens may look at: the training states of a layer and of its targets, or their sums alone.
pub struct Source<'a> {
    data: Data<'a>,
    /// For lenses that are fitted through the head.
    readout: Option<(&'a Readout<'a>, &'a dyn Observer)>,
    /// The factorisation that was asked for last, and whether it is about the means.
    factored: RefCell<Option<(bool, Rc<Fitted>)>>,
}

enum Data<'a> {
    Rows { source: Rows<'a>, targets: &'a [Rows<'a>] },
    Sums(&'a PairSums),
}

impl<'a> Source<'a> {
    /// States: as many of each target as of the source.
    pub fn of_rows(source: Rows<'a>, targets: &'a [Rows<'a>]) -> Self {
        Self { data: Data::Rows { source, targets }, readout: None, factored: RefCell::default() }
    }

    /// What has been added up.
    pub fn of_sums(sums: &'a PairSums) -> Self {
        Self { data: Data::Sums(sums), readout: None, factored: RefCell::default() }
    }

    /// The same with what the head makes of the states of the last layer, which is the one target.
    pub fn with_readout(self, readout: &'a Readout<'a>, observer: &'a dyn Observer) -> Self {
        Self { readout: Some((readout, observer)), ..self }
    }

    /// What was given for lenses with [`Fit::needs_head`], and who may want them to stop.
    pub fn readout(&self) -> Option<(&'a Readout<'a>, &'a dyn Observer)> {
        self.readout
    }

    /// The states of the source and of its targets; `None` where only their sums are there ([`Fit::needs_states`]).
    pub fn states(&self) -> Option<(Rows<'a>, &'a [Rows<'a>])> {
        match self.data {
            Data::Rows { source, targets } => Some((source, targets)),
            Data::Sums(_) => None,
        }
    }

    /// How many targets there are.
    pub fn targets(&self) -> usize {
        match self.data {
            Data::Rows { targets, .. } => targets.len(),
            Data::Sums(sums) => sums.targets.len(),
        }
    }

    /// Means and squares of the source's states.
    pub fn spread(&self) -> Spread {
        match self.data {
            Data::Rows { source, .. } => spread_of(source),
            Data::Sums(sums) => sums.source_spread(),
        }
    }

    /// Means and squares of a target's states.
    pub fn target_spread(&self, target: usize) -> Spread {
        match self.data {
            Data::Rows { targets, .. } => spread_of(targets[target]),
            Data::Sums(sums) => sums.target_spread(target),
        }
    }

    /// The source factored, about its mean where `intercept` says so. The last one is kept for the next lens.
    pub fn least_squares(&self, intercept: bool) -> Result<Rc<Fitted>> {
        let mut factored = self.factored.borrow_mut();
        if let Some((about_mean, fitted)) = &*factored
            && *about_mean == intercept
        {
            return Ok(Rc::clone(fitted));
        }
        // Before the next one takes as much.
        *factored = None;
        let fitted = Rc::new(match self.data {
            Data::Rows { source, targets } => Fitted::of_rows(source, targets, intercept)?,
            Data::Sums(sums) => Fitted::of_sums(sums, intercept)?,
        });
        *factored = Some((intercept, Rc::clone(&fitted)));
        Ok(fitted)
    }
}

fn spread_of(rows: Rows) -> Spread {
    rows.spread.cloned().unwrap_or_else(|| Spread::of(rows.values, rows.d))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_no_lens_has_or_that_is_there_twice_is_refused() {
        let fits = |names: &[&str]| Fits {
            lenses: names.iter().copied().map(Cast::from).collect(),
            ..Fits::plain(Pairs::ToFinal)
        };
        assert_eq!(chosen(&fits(&["shift"])).unwrap().len(), 2);
        for names in [&["none"][..], &["mat"], &["shift", "shift"]] {
            let message = chosen(&fits(names)).err().unwrap().to_string();
            assert!(
                message.contains("there are `id`, `mat`, `mat+b`, ") && message.contains("`shift`"),
                "{message}"
            );
        }
    }

    /// Each is a folder's name, and no part of another's.
    #[test]
    fn lenses_have_names_of_their_own() {
        let names: Vec<String> = LENSES.iter().map(|make| make().cast().to_string()).collect();
        for (at, name) in names.iter().enumerate() {
            assert!(crate::shortcut::Shortcuts::can_hold(&Cast::from(&**name)), "{name}");
            let is_own = matches!(Cast::from(&**name), Cast::Other(_) | Cast::Tuned);
            assert!(is_own && !names[..at].contains(name), "{name}");
        }
    }
}
