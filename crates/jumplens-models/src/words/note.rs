//! What is to be said of a run that can be done better. How is for programs to say, in the names that they have for it.

use jumplens_core::cast::{Cast, Form};
use std::fmt;

/// What is to be said of a run, and can be fixed.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Note {
    /// Products in bf16 are asked for, and there are no instructions for them.
    NoBf16Products,
    /// The maps of `mat` to the last layer are much better on the training samples, which are few.
    FitsNoise {
        /// From how many layers.
        layers: usize,
        /// From which one it is worst.
        from: usize,
        /// The last layer.
        last: usize,
        /// r² from there on the training samples.
        r2_train: f64,
        /// r² from there on the validation samples.
        r2: f64,
        /// The same of ridge regression, where that was fitted too.
        ridge: Option<f64>,
        /// Training samples.
        samples: usize,
        /// Coordinates of a state.
        width: usize,
    },
    /// The samples at the first position hold most of the spread of the states.
    AttentionSink {
        /// How many they are.
        first_positions: usize,
        /// Of how many.
        samples: usize,
        /// The largest share of a layer's spread that they hold.
        share: f64,
        /// The first layer where they hold most of it, and the last.
        layers: [usize; 2],
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match *self {
            Self::NoBf16Products => f.write_str(
                "there are no instructions for bf16 products in use: factors are rounded to bf16 and multiplied as f32",
            ),
            Self::FitsNoise { layers, from, last, r2_train, r2, ridge, samples, width } => {
                let ratio = samples as f64 / width as f64;
                let are = if samples == 1 { "sample is" } else { "samples are" };
                write!(
                    f,
                    "`{}` fits noise from {layers} of {last} layers: from layer {from} to {last}, r² is {r2_train:.2} on the \
                     training samples and {r2:.2} on the validation samples; {samples} {are} {ratio:.1} for each of the \
                     {width} coordinates of a state",
                    Cast::MAT,
                )?;
                let mat_ridge = Cast::Map { intercept: false, form: Form::Ridge };
                ridge.map_or(Ok(()), |r2| write!(f, ": `{mat_ridge}` has {r2:.2}"))
            }
            Self::AttentionSink { first_positions, samples, share, layers: [from, to] } => write!(
                f,
                "the {first_positions} of {samples} training samples at the first position hold up to {:.0} % of the spread of \
                 the states of layers {from} to {to} (an attention sink), so that r² and the maps there are mostly about them",
                100.0 * share,
            ),
        }
    }
}
