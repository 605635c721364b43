//! Lenses: ways to fit the maps that cast a layer's states to later layers. Least squares, as [`Fits`] has it, is one in
//! several forms; any other is a file here, and a line in `LENSES`.

#[cfg(test)]
mod made_up;

use crate::Result;
use crate::words::Refusal;
use jumplens_core::cast::{Cast, Fits, MapCast};
use jumplens_core::solver::{Fitted, Maps, PairSums, Rows};
use jumplens_core::spread::Spread;
use std::cell::RefCell;
use std::rc::Rc;

/// A way to fit maps.
pub trait Fit: Send + Sync {
    /// What its maps are called, in tables, folders and figures.
    fn cast(&self) -> Cast;

    /// The maps from a layer to each of its targets, in their order.
    fn fit(&self, source: &Source) -> Result<Maps>;
}

/// Least squares, plain, with a penalty or of low rank, through the origin or not.
impl Fit for MapCast {
    fn cast(&self) -> Cast {
        MapCast::cast(self)
    }

    fn fit(&self, source: &Source) -> Result<Maps> {
        Ok(source.least_squares(self.intercept)?.maps(self.kind)?)
    }
}

/// The lenses beside least squares.
const LENSES: &[fn() -> Box<dyn Fit>] = &[
    #[cfg(test)]
    || Box::new(made_up::Shift),
];

/// The lenses that `fits` asks for, least squares first, in the order of [`Fits::casts`]. [`Refusal::NoLens`] for a name that
/// none has.
pub fn chosen(fits: &Fits) -> Result<Vec<Box<dyn Fit>>> {
    let mut lenses: Vec<Box<dyn Fit>> = Vec::new();
    for cast in fits.least_squares() {
        lenses.push(Box::new(cast));
    }
    for name in &fits.lenses {
        let lens = LENSES.iter().map(|make| make()).find(|lens| lens.cast() == *name);
        let there = || LENSES.iter().map(|make| make().cast()).collect();
        lenses.push(lens.ok_or_else(|| Refusal::NoLens { name: name.clone(), there: there() })?);
    }
    Ok(lenses)
}

/// What a lens may look at: the training states of a layer and of its targets, or their sums alone.
pub struct Source<'a> {
    data: Data<'a>,
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
        Self { data: Data::Rows { source, targets }, factored: RefCell::default() }
    }

    /// What has been added up.
    pub fn of_sums(sums: &'a PairSums) -> Self {
        Self { data: Data::Sums(sums), factored: RefCell::default() }
    }

    /// The states of the source and of its targets. [`Refusal::NoStates`] where only their sums are there.
    pub fn states(&self) -> Result<(Rows<'a>, &'a [Rows<'a>])> {
        match self.data {
            Data::Rows { source, targets } => Ok((source, targets)),
            Data::Sums(_) => Err(Refusal::NoStates.into()),
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
