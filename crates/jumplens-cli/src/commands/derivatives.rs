//! `jumplens fit --lens`, and `fit --moments` from sums of Jacobians.

use super::Failure;
use crate::args::FitArgs;
use crate::printer::Printer;
use crate::progress::Progress;
use crate::shell::quoted;
use jumplens::jacobian::{self, JACOBIANS, JacobiansFile, Outcome};

/// Outliers that are named.
const NAMED: usize = 5;

/// `jumplens fit --lens`.
pub fn fit(args: &FitArgs, printer: &Printer) -> Result<(), Failure> {
    let request = args.derivatives.request(args.overwrite);
    let (sources, progress) = (args.derivatives.unread.sources(), Progress::new(printer));
    let outcome = jacobian::fit(&request, &args.out, &sources, &progress)?;
    say(args, &outcome, printer);
    Ok(())
}

/// `jumplens fit --moments`, where the file has sums of Jacobians.
pub fn fit_sums(args: &FitArgs, sums: &JacobiansFile, printer: &Printer) -> Result<(), Failure> {
    let (sources, progress) = (args.derivatives.unread.sources(), Progress::new(printer));
    let (trim, model) = (args.derivatives.trim, args.derivatives.model.as_deref());
    let outcome = jacobian::fit_sums(sums, &args.out, trim, model, args.overwrite, &sources, &progress)?;
    say(args, &outcome, printer);
    Ok(())
}

fn say(args: &FitArgs, outcome: &Outcome, printer: &Printer) {
    let out = quoted(&args.out);
    if outcome.skipped > 0 {
        printer.note(&format!("{} prompts are too short, and were skipped", outcome.skipped));
    }
    for outlier in outcome.outliers.iter().take(NAMED) {
        printer.note(&format!(
            "prompt {} stands out: its `{}` of layer {} has {:.1} times the median norm, and {:.0} % of all squares",
            outlier.prompt,
            outlier.cast,
            outlier.layer,
            outlier.times_median,
            100.0 * outlier.share
        ));
    }
    let more = outcome.outliers.len().saturating_sub(NAMED);
    if more > 0 {
        printer.note(&format!("and {more} more, in `{out}/results/prompts.csv`"));
    }
    if outcome.is_trimmed {
        printer.note("They are left out");
    } else if !outcome.outliers.is_empty() && outcome.has_maps {
        printer.note("`--trim` leaves them out");
    }
    printer.note(&match outcome.has_maps {
        true => format!(
            "Lenses of {} prompts are in `{out}`: `--shortcuts {out}` of `lens` and `evaluate` looks through them",
            outcome.prompts
        ),
        false => format!("The sums of {} prompts are in `{out}/{JACOBIANS}`", outcome.prompts),
    });
}
