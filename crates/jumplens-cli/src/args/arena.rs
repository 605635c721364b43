//! The options of `jumplens arena`.

use super::{ExistingArgs, ModelArgs, SamplesArgs, UnreadArgs, ridge};
use clap::Args as ClapArgs;
use jumplens::arena::Request;
use jumplens::run::Asked;
use jumplens::shortcut::Ridge;
use jumplens::words::Cast;
use std::path::PathBuf;

const HEADING: &str = "Lenses";

#[derive(Debug, ClapArgs)]
pub struct ArenaArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Run folder to write
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    #[command(flatten)]
    pub existing: ExistingArgs,
    /// Lenses, separated by commas: `id`, `mat` (taken in any case), `mat+b`, `mat_ridge`, `mat_r64`, …, `mat_fisher`, `tuned`, and
    /// of causal models `jacobian`, `tangent`, `relevance` [default: all of these but those of low rank]
    #[arg(long, visible_alias = "casts", value_name = "LENS,…", value_delimiter = ',', help_heading = HEADING)]
    pub lenses: Vec<Cast>,
    /// Ridge regression's λ in the units of scikit-learn's `alpha`, or `auto` for generalised cross-validation [default: auto]
    #[arg(long, value_name = "LAMBDA", value_parser = ridge, help_heading = HEADING)]
    pub ridge: Option<Ridge>,
    /// Prompts that `jacobian`, `tangent` and `relevance` are taken on, made of the training sentences
    #[arg(long, value_name = "N", default_value_t = 200, help_heading = HEADING)]
    pub prompts: usize,
    /// Tokens of each
    #[arg(long, value_name = "N", default_value_t = 128, help_heading = HEADING)]
    pub prompt_tokens: usize,
    #[command(flatten)]
    pub samples: SamplesArgs,
    #[command(flatten)]
    pub unread: UnreadArgs,
}

impl ArenaArgs {
    /// What the run is made from.
    pub fn asked(&self) -> Asked {
        Asked { model: Some(self.model.name().to_owned()), ridge: self.ridge, ..self.samples.asked() }
    }

    /// What is held against what.
    pub fn request(&self) -> Request {
        let (prompts, prompt_tokens) = (self.prompts, self.prompt_tokens);
        Request { lenses: self.lenses.clone(), prompts, prompt_tokens }
    }
}
