//! The options of `jumplens prune`.

use super::{ModelArgs, SamplesArgs, UnreadArgs, usual};
use clap::{Args as ClapArgs, ValueEnum};
use jumplens::models::Stored;
use jumplens::prune::{Amount, Form, Objective, Options};
use jumplens::run::{Asked, Settings};
use std::path::PathBuf;

const TAKEN: &str = "What is taken out";

#[derive(Debug, ClapArgs)]
pub struct PruneArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Folder to write the smaller model to, in Hugging Face layout, or a file ending in `.gguf`
    #[arg(long, value_name = "DIR|FILE.gguf")]
    pub out: PathBuf,
    /// Replace the model that an earlier `prune` wrote there
    #[arg(long)]
    pub overwrite: bool,
    /// Take out so many blocks
    #[arg(long, value_name = "N", help_heading = TAKEN, required_unless_present_any = ["keep", "parts"], conflicts_with_all = ["keep", "parts"], value_parser = clap::value_parser!(u16).range(1..))]
    pub blocks: Option<u16>,
    /// Take out as many blocks as leave the model's top token what it was at this share of the positions, such as 0.9
    #[arg(long, value_name = "SHARE", help_heading = TAKEN, value_parser = share)]
    pub keep: Option<f64>,
    /// Take out so many sub-modules, attentions and feed-forward parts, of a Llama that is written to a `.gguf` file
    #[arg(long, value_name = "N", help_heading = TAKEN, conflicts_with_all = ["keep", "sizes"], value_parser = clap::value_parser!(u16).range(1..))]
    pub parts: Option<u16>,
    /// A linear map of its input, fitted at each position for itself, instead of an attention that `--parts` takes out
    #[arg(long, help_heading = TAKEN, requires = "parts")]
    pub linear_attention: bool,
    /// What becomes of what they add
    #[arg(long, value_enum, default_value_t = FormArg::Refit, help_heading = TAKEN)]
    pub form: FormArg,
    /// How much an error counts at each token
    #[arg(long, value_enum, default_value_t = ObjectiveArg::Cosine, help_heading = TAKEN)]
    pub objective: ObjectiveArg,
    /// λ of the fit, as a share of the mean square of a coordinate [default: what misses least on sentences that are not
    /// fitted on]
    #[arg(long, value_name = "SHARE", help_heading = TAKEN, value_parser = ridge)]
    pub ridge: Option<f64>,
    /// Measure other models of as many blocks too: blocks dropped, and those of least angle dropped and folded as ReplaceMe does
    #[arg(long, help_heading = TAKEN)]
    pub compare: bool,
    /// Measure models of so many blocks less too, made in the same way, and draw what is lost by how many are taken out
    #[arg(long, value_name = "N,…", help_heading = TAKEN, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    pub sizes: Vec<u16>,
    /// Number format of the weights that are written [default: that of the model's; f32 where it is quantised]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub weights: Option<WeightsArg>,
    #[command(flatten)]
    pub samples: SamplesArgs,
    #[command(flatten)]
    pub unread: UnreadArgs,
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share < 1.0 => Ok(share),
        _ => Err("give a share between 0 and 1".to_owned()),
    }
}

fn ridge(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share >= 0.0 && share.is_finite() => Ok(share),
        _ => Err("give a number from 0 on".to_owned()),
    }
}

/// See [`Form`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FormArg {
    /// The last layers of the feed-forward parts before the gaps and behind them are fitted again
    Refit,
    /// A map of what the feed-forward part before a gap puts out (ReplaceMe)
    Fold,
    /// Nothing: they are left out
    Drop,
}

/// See [`Objective`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ObjectiveArg {
    /// By the length of the state: the cosine distance, to first order
    Cosine,
    /// The same: the squared error
    Mse,
    /// By what it does to the model's next token
    Fisher,
}

/// Number formats of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WeightsArg {
    /// Single precision
    F32,
    /// Half precision
    F16,
    /// bfloat16
    Bf16,
    /// 8 bits with a scale for each 32 weights: for `.gguf` files
    #[value(name = "q8_0")]
    Q8_0,
}

impl PruneArgs {
    /// Where the sentences come from, and the seed.
    pub fn settings(&self) -> Settings {
        let asked = Asked { model: Some(self.model.name().to_owned()), ..self.samples.asked() };
        asked.over(&usual())
    }

    /// What is to be done.
    pub fn options(&self, seed: u64) -> Options {
        Options {
            amount: match (self.keep, self.parts, self.blocks) {
                (Some(share), _, _) => Amount::Keep(share),
                (None, Some(parts), _) => Amount::Parts(parts.into()),
                (None, None, blocks) => Amount::Blocks(blocks.unwrap_or(1).into()),
            },
            form: match self.form {
                FormArg::Refit => Form::Refit,
                FormArg::Fold => Form::Fold,
                FormArg::Drop => Form::Drop,
            },
            objective: match self.objective {
                ObjectiveArg::Cosine => Objective::Cosine,
                ObjectiveArg::Mse => Objective::Mse,
                ObjectiveArg::Fisher => Objective::Fisher,
            },
            ridge: self.ridge,
            compare: self.compare,
            linear_attention: self.linear_attention,
            sizes: self.sizes.iter().map(|size| usize::from(*size)).collect(),
            seed,
        }
    }

    /// Whether one file is written.
    pub fn is_gguf(&self) -> bool {
        self.out.extension().is_some_and(|extension| extension == "gguf")
    }

    /// How the weights are written.
    pub fn stored(&self) -> Stored {
        match self.weights {
            None => Stored::AsTheyAre,
            Some(WeightsArg::F32) => Stored::F32,
            Some(WeightsArg::F16) => Stored::F16,
            Some(WeightsArg::Bf16) => Stored::Bf16,
            Some(WeightsArg::Q8_0) => Stored::Q8_0,
        }
    }
}
