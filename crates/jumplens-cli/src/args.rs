//! The command line.

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use jumplens::run::{Existing, SampleSource, Settings};
use jumplens::shortcut;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Linear shortcuts between the layers of transformer language models
///
/// Fits the linear maps that cast a hidden state of any layer to any later layer ("mat"), and holds them against using
/// the state as it is ("id", the logit lens): r², predictions, surprisal, early exit (Yom Din et al., arXiv 2303.09435).
#[derive(Debug, Parser)]
#[command(name = "jumplens", version, max_term_width = 100)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
    /// Threads to compute with [default: all cores]
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// No progress and no messages, only results and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// More messages: the model's sizes and what the run was made from
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Do everything: samples, states, fit, r2, evaluate, plot
    Run(BeginArgs),
    /// Begin a run: tokenise sentences and choose a position in each
    Samples(BeginArgs),
    /// Hidden states of every layer at the chosen positions
    States(StatesArgs),
    /// Linear maps between layers, and of the parts of every block
    Fit(FitArgs),
    /// Coefficients of determination of the maps
    R2(MapsArgs),
    /// Predictions of every cast from every layer, and early exit
    Evaluate(MapsArgs),
    /// Figures from the result tables
    Plot(StageArgs),
}

/// Which pairs of layers are fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pairs {
    /// Every layer to every later one
    All,
    /// Every layer to the last one
    ToFinal,
}

impl From<Pairs> for shortcut::Pairs {
    fn from(pairs: Pairs) -> Self {
        match pairs {
            Pairs::All => Self::All,
            Pairs::ToFinal => Self::ToFinal,
        }
    }
}

/// What begins a run.
#[derive(Debug, ClapArgs)]
pub struct BeginArgs {
    #[command(flatten)]
    pub input: InputArgs,
    /// Run folder to write [default: jumplens-runs/MODEL]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// What a run is made from.
#[derive(Debug, ClapArgs)]
pub struct InputArgs {
    /// Bundled model (`tiny-gpt2`), or folder with config.json, model.safetensors and tokenizer.json
    #[arg(long, default_value = "tiny-gpt2")]
    pub model: String,
    /// Bundled corpus (`wikipedia-sample`), or a `.txt` file with one sentence a line
    #[arg(long, default_value = "wikipedia-sample", value_name = "CORPUS")]
    pub corpus: String,
    /// Sentences to fit on
    #[arg(long, default_value_t = 9000, value_name = "N")]
    pub train: usize,
    /// Sentences to measure on; they follow the training sentences in the corpus
    #[arg(long, default_value_t = 3000, value_name = "N")]
    pub val: usize,
    /// Seed of everything random
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Which pairs of layers to fit
    #[arg(long, value_enum, default_value_t = Pairs::All)]
    pub pairs: Pairs,
    /// Samples to fit on instead of a corpus: lines `{"ids": [...], "position": p}`
    #[arg(long, value_name = "FILE.jsonl", requires = "val_samples", conflicts_with_all = ["corpus", "train", "val"])]
    pub train_samples: Option<PathBuf>,
    /// Samples to measure on instead of a corpus
    #[arg(long, value_name = "FILE.jsonl", requires = "train_samples")]
    pub val_samples: Option<PathBuf>,
    /// Go on with the run in the folder, from the last finished stage or chunk
    #[arg(long, conflicts_with = "overwrite")]
    pub resume: bool,
    /// Replace the run in the folder
    #[arg(long)]
    pub overwrite: bool,
}

impl InputArgs {
    /// What the library begins a run with.
    pub fn settings(&self) -> Settings {
        let samples = match (&self.train_samples, &self.val_samples) {
            (Some(train), Some(val)) => SampleSource::Files { train: train.clone(), val: val.clone() },
            _ => SampleSource::Corpus { name: self.corpus.clone(), train: self.train, val: self.val },
        };
        Settings { model: self.model.clone(), samples, seed: self.seed, pairs: self.pairs.into() }
    }

    /// What is to become of a run that is there already.
    pub fn existing(&self) -> Existing {
        match (self.resume, self.overwrite) {
            (true, _) => Existing::Resume,
            (_, true) => Existing::Overwrite,
            _ => Existing::Refuse,
        }
    }
}

impl BeginArgs {
    /// The run folder.
    pub fn folder(&self) -> PathBuf {
        self.out.clone().unwrap_or_else(|| {
            let name = self.input.model.trim_end_matches('/');
            let last = name.rsplit('/').find(|part| !part.is_empty() && *part != "." && *part != "..");
            PathBuf::from("jumplens-runs").join(last.unwrap_or("model"))
        })
    }
}

#[derive(Debug, ClapArgs)]
pub struct StageArgs {
    /// Run folder
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

#[derive(Debug, ClapArgs)]
pub struct StatesArgs {
    /// Run folder; with --train-samples and --val-samples it is begun, otherwise `samples` has begun it
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    #[command(flatten)]
    pub input: InputArgs,
}

#[derive(Debug, ClapArgs)]
pub struct FitArgs {
    /// Run folder
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Which pairs of layers to fit [default: as the run began]
    #[arg(long, value_enum)]
    pub pairs: Option<Pairs>,
}

#[derive(Debug, ClapArgs)]
pub struct MapsArgs {
    /// Run folder
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Folder of maps to use instead of the run's own
    #[arg(long, value_name = "DIR")]
    pub shortcuts: Option<PathBuf>,
}
