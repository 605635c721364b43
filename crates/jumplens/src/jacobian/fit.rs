//! From prompts to sums.

use super::prompts::SKIPPED;
use super::rule;
use super::sums::{Sums, Taken};
use crate::models::Backward;
use crate::progress::{Observer, check};
use crate::words::DerivativeCast;
use crate::{Error, Result};

/// The Jacobians of a prompt: by lens, by layer below the last, row-major `[d, d]`. Advances by one a layer and a lens for
/// every run of coordinates that is taken at one time.
pub(super) fn of_prompt(
    backward: &Backward,
    prompt: &Taken,
    casts: &[DerivativeCast],
    [layers, d]: [usize; 2],
    observer: &dyn Observer,
) -> Result<Vec<Vec<Vec<f64>>>> {
    let targets = SKIPPED..prompt.ids.len() - 1;
    let positions = targets.len() as f64;
    let run = backward.run(&prompt.ids, targets)?;
    let of = |cast: &DerivativeCast| {
        let mut jacobians = vec![vec![0f64; d * d]; layers];
        backward.jacobian(&run, 0..d, rule(*cast), |layer, rows, values| {
            check(observer)?;
            let Some(jacobian) = jacobians.get_mut(layer) else { return Ok(()) };
            let first = rows.start * d;
            for (at, (to, value)) in jacobian[first..rows.end * d].iter_mut().zip(values).enumerate() {
                if !value.is_finite() {
                    return Err(Error::Option(format!(
                        "the Jacobian of layer {layer} by prompt {} is {value} in row {}, column {}: f32 overflowed; leave \
                         the prompt out",
                        prompt.number,
                        (first + at) / d,
                        at % d
                    )));
                }
                *to = value / positions;
            }
            observer.advance(rows.len() as u64);
            Ok(())
        })?;
        Ok(jacobians)
    };
    casts.iter().map(of).collect()
}

/// Adds the prompts that are not there yet, and calls `save` with the sums now and then: when `is_due` says so, where the
/// user wants to stop, and at the end.
pub(super) fn add(
    sums: &mut Sums,
    prompts: Vec<Taken>,
    backward: &Backward,
    mut is_due: impl FnMut() -> bool,
    save: impl Fn(&Sums) -> Result<()>,
    observer: &dyn Observer,
) -> Result<()> {
    let sizes = [sums.record.n_layers, sums.record.d_model];
    let casts = sums.record.casts.clone();
    let before = sums.prompts.len();
    let mut saved = before;
    for prompt in prompts.into_iter().skip(before) {
        match of_prompt(backward, &prompt, &casts, sizes, observer) {
            Ok(jacobians) => sums.add(prompt, &jacobians),
            Err(error) => {
                if sums.prompts.len() > saved {
                    save(sums)?;
                }
                return Err(error);
            }
        }
        if is_due() {
            save(sums)?;
            saved = sums.prompts.len();
        }
    }
    if sums.prompts.len() > saved || before == 0 {
        save(sums)?;
    }
    Ok(())
}
