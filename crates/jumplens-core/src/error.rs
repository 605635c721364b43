//! What can go wrong.

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every way in which this crate fails. Messages have no final period: a caller may add what to do next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Values that are no matrix of so many rows.
    #[error("{values} values of {what} are not {rows} rows of the same width, one or more")]
    Shape {
        /// What they are: `x`, `y`, what is predicted.
        what: &'static str,
        /// How many there are.
        values: usize,
        /// How many rows they should be.
        rows: usize,
    },
    /// What is not as wide as it has to be.
    #[error("{what} is {width} wide, where {expected} is expected")]
    Width {
        /// What it is.
        what: &'static str,
        /// How wide it is.
        width: usize,
        /// How wide it should be.
        expected: usize,
    },
    /// A penalty that is negative, infinite or no number.
    #[error("λ is {lambda}, where a number of 0 or more is expected")]
    Lambda {
        /// What it is.
        lambda: String,
    },
    /// A value that is infinite or no number.
    #[error("row {row} of {what} holds a value that is not finite")]
    NotFinite {
        /// What it is in: `x` or `y`.
        what: &'static str,
        /// Its row, from 0.
        row: usize,
    },
    /// Vector instructions that there are no kernels for, or that this CPU lacks.
    #[error("{} `{asked}`: here it can be {here}", if *known { "this CPU has no" } else { "there is no instruction set" })]
    NoSuchIsa {
        /// What was asked for.
        asked: String,
        /// True where there are kernels for it.
        known: bool,
        /// Those that this CPU has, in words.
        here: String,
    },
    /// The system starts no more threads.
    #[error("cannot start threads: {reason}")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// What the system said.
        reason: String,
    },
    /// A decomposition that did not come to its end, as with values that are not finite.
    #[error("{what} did not converge: {reason}")]
    Decomposition {
        /// Which one.
        what: &'static str,
        /// What the library said.
        reason: String,
    },
    /// What was asked for is no longer wanted.
    #[error("interrupted")]
    Interrupted,
    /// A bias, or a λ that is to be found, of states whose spread was not given.
    #[error("no spread of the states to go by")]
    NoSpread,
}
