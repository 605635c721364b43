//! The command line.

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use jumplens::moments::Shard;
use jumplens::nn::Precision;
use jumplens::plot::{self, Style};
use jumplens::run::{Existing, SampleSource, Settings};
use jumplens::shortcut::{self, Fits, Ridge};
use std::path::PathBuf;

const DEFAULT_MODEL: &str = "tiny-gpt2";
/// Sentences to fit on and to measure on, where nothing else is said.
pub const TRAIN: usize = 9000;
pub const VAL: usize = 3000;
const GLOBAL: &str = "Global options";

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
    /// Threads to compute with, up to 1024 [default: all cores]
    #[arg(long, global = true, value_name = "N", help_heading = GLOBAL, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// No progress and no messages, only results and errors
    #[arg(short, long, global = true, help_heading = GLOBAL)]
    pub quiet: bool,
    /// More messages: the model's sizes and what the run was made from
    #[arg(short, long, global = true, help_heading = GLOBAL)]
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
    /// Second-moment sums of a run's states, or of a share of them: samples, states, then one file to fit from
    Moments(MomentsArgs),
    /// Add up files of second-moment sums
    Merge(MergeArgs),
    /// Coefficients of determination of the maps
    R2(MapsArgs),
    /// Predictions of every cast from every layer, and early exit
    Evaluate(MapsArgs),
    /// Figures and report from the result tables; the model need not be there
    Plot(PlotArgs),
    /// Several runs beside one another: figures, and the differences of each from the first
    Compare(CompareArgs),
    /// Say what a model is made of, and what a run of it takes on disk
    Info(InfoArgs),
    /// Look at a model for what has made lenses wrong: unused tensors, states, head, outliers, special tokens
    Doctor(DoctorArgs),
}

#[derive(Debug, ClapArgs)]
pub struct DoctorArgs {
    /// Bundled model, folder, `.gguf` file, or name on the Hugging Face Hub
    pub model: String,
    /// Corpus whose first sentences are run
    #[arg(long, default_value = "wikipedia-sample")]
    pub corpus: String,
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

/// Which maps are fitted beside `mat`.
#[derive(Debug, Default, ClapArgs)]
pub struct CastArgs {
    /// Fit every map with a bias too (casts `mat+b`, `mat+b_ridge`, …)
    #[arg(long)]
    pub intercept: bool,
    /// Fit ridge regression too (cast `mat_ridge`): λ in the units of scikit-learn's `alpha`, or `auto` for
    /// generalised cross-validation, pair by pair
    #[arg(long, value_name = "LAMBDA", value_parser = ridge)]
    pub ridge: Option<Ridge>,
    /// Fit the best maps of these ranks too (casts `mat_r64`, …), separated by commas
    #[arg(long, value_name = "RANK,…", value_delimiter = ',', value_parser = rank)]
    pub rank: Vec<usize>,
}

fn ridge(text: &str) -> Result<Ridge, String> {
    match text.parse::<f64>() {
        _ if text == "auto" => Ok(Ridge::Auto),
        Ok(lambda) if lambda > 0.0 && lambda.is_finite() => Ok(Ridge::Fixed(lambda)),
        _ => Err("give a number above 0, or `auto`".to_owned()),
    }
}

fn rank(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|rank| *rank > 0).ok_or_else(|| "give a whole number from 1 on".to_owned())
}

impl CastArgs {
    /// The maps that are asked for, between `pairs`.
    fn fits(&self, pairs: shortcut::Pairs) -> Fits {
        let mut ranks = self.rank.clone();
        ranks.sort_unstable();
        ranks.dedup();
        Fits { pairs, intercept: self.intercept, ridge: self.ridge, ranks }
    }
}

/// What products are done in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// Single precision
    F32,
    /// Factors rounded to bfloat16: on CPUs with AVX512-BF16 about twice as fast, and less exact
    Bf16,
}

impl From<Dtype> for Precision {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::Bf16 => Self::Bf16,
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
    #[command(flatten)]
    pub existing: ExistingArgs,
}

/// What a run is made from.
#[derive(Debug, ClapArgs)]
pub struct InputArgs {
    /// Bundled model (`tiny-gpt2`, `tiny-bert`), folder with config.json, weights and tokenizer, `.gguf` file, or name on
    /// the Hugging Face Hub (`gpt2`, `org/name`, `org/name@revision`)
    #[arg(long, default_value = DEFAULT_MODEL)]
    pub model: String,
    /// Bundled corpus (`wikipedia-sample`), or a `.txt` file with one sentence a line
    #[arg(long, default_value = "wikipedia-sample", value_name = "CORPUS")]
    pub corpus: String,
    /// Sentences to fit on
    #[arg(long, default_value_t = TRAIN, value_name = "N")]
    pub train: usize,
    /// Sentences to measure on; they follow the training sentences in the corpus
    #[arg(long, default_value_t = VAL, value_name = "N")]
    pub val: usize,
    /// Masked models: keep the token at the chosen position, where `[MASK]` would take its place
    #[arg(long, conflicts_with = "train_samples")]
    pub no_mask: bool,
    /// Seed of everything random
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Which pairs of layers to fit
    #[arg(long, value_enum, default_value_t = Pairs::All)]
    pub pairs: Pairs,
    #[command(flatten)]
    pub casts: CastArgs,
    /// What the model's products are done in; sums, states and maps are f32 either way
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    pub dtype: Dtype,
    /// Samples to fit on instead of a corpus: lines `{"ids": [...], "position": p}`
    #[arg(long, value_name = "FILE.jsonl", requires = "val_samples", conflicts_with_all = ["corpus", "train", "val"])]
    pub train_samples: Option<PathBuf>,
    /// Samples to measure on instead of a corpus
    #[arg(long, value_name = "FILE.jsonl", requires = "train_samples")]
    pub val_samples: Option<PathBuf>,
}

/// What is to become of a run that is in the folder already.
#[derive(Debug, ClapArgs)]
pub struct ExistingArgs {
    /// Go on with the run in the folder, from the last finished stage or chunk
    #[arg(long, conflicts_with = "overwrite")]
    pub resume: bool,
    /// Replace the run in the folder (a folder that is not a run is left alone)
    #[arg(long)]
    pub overwrite: bool,
}

impl From<&ExistingArgs> for Existing {
    fn from(args: &ExistingArgs) -> Self {
        match (args.resume, args.overwrite) {
            (true, _) => Self::Resume,
            (_, true) => Self::Overwrite,
            _ => Self::Refuse,
        }
    }
}

impl InputArgs {
    /// What the library begins a run with.
    pub fn settings(&self) -> Settings {
        let samples = match (&self.train_samples, &self.val_samples) {
            (Some(train), Some(val)) => SampleSource::Files { train: train.clone(), val: val.clone() },
            _ => SampleSource::Corpus {
                name: self.corpus.clone(),
                train: self.train,
                val: self.val,
                mask: !self.no_mask,
            },
        };
        Settings {
            model: self.model.clone(),
            samples,
            seed: self.seed,
            fits: self.casts.fits(self.pairs.into()),
            dtype: self.dtype.into(),
            shard: None,
        }
    }
}

impl InputArgs {
    /// Where a run of the model goes if nothing is said.
    pub fn default_folder(&self) -> PathBuf {
        let name = self.model.trim_end_matches('/');
        let last = name.rsplit('/').find(|part| !part.is_empty() && *part != "." && *part != "..");
        PathBuf::from("jumplens-runs").join(last.unwrap_or("model"))
    }
}

impl BeginArgs {
    /// The run folder.
    pub fn folder(&self) -> PathBuf {
        self.out.clone().unwrap_or_else(|| self.input.default_folder())
    }
}

#[derive(Debug, ClapArgs)]
pub struct PlotArgs {
    /// Run folder
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    #[command(flatten)]
    pub figures: FigureArgs,
}

#[derive(Debug, ClapArgs)]
pub struct CompareArgs {
    /// Run folders; the first is what the others are held against
    #[arg(required = true, num_args = 2.., value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// Folder to write figures and `differences.csv` to
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    #[command(flatten)]
    pub figures: FigureArgs,
}

/// A file format of figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FigureFormat {
    /// Vectors, for web pages
    Svg,
    /// Vectors, for papers
    Pdf,
    /// Pixels
    Png,
}

/// How figures are written.
#[derive(Debug, ClapArgs)]
pub struct FigureArgs {
    /// Formats to write, with commas between
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FORMAT", default_values_t = [FigureFormat::Svg, FigureFormat::Pdf, FigureFormat::Png])]
    pub format: Vec<FigureFormat>,
    /// Dots an inch of PNG files
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(30..=2400))]
    pub dpi: u32,
    /// Say above each figure what it shows, and of which model
    #[arg(long)]
    pub title: bool,
}

impl FigureArgs {
    /// How the library is to write them.
    pub fn style(&self) -> Style {
        let mut formats: Vec<plot::Format> = Vec::new();
        for format in &self.format {
            let format = match format {
                FigureFormat::Svg => plot::Format::Svg,
                FigureFormat::Pdf => plot::Format::Pdf,
                FigureFormat::Png => plot::Format::Png,
            };
            if !formats.contains(&format) {
                formats.push(format);
            }
        }
        Style { formats, dpi: self.dpi, title: self.title }
    }
}

#[derive(Debug, ClapArgs)]
pub struct StatesArgs {
    /// Run folder, begun by `samples`, or by this command where samples files are given
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Begin a run with these samples to fit on: lines `{"ids": [...], "position": p}`
    #[arg(long, value_name = "FILE.jsonl", requires = "val_samples")]
    pub train_samples: Option<PathBuf>,
    /// Samples to measure on
    #[arg(long, value_name = "FILE.jsonl", requires = "train_samples")]
    pub val_samples: Option<PathBuf>,
    /// Model of the run to begin [default: tiny-gpt2]
    #[arg(long, requires = "train_samples")]
    pub model: Option<String>,
    /// What the products of the run to begin are done in
    #[arg(long, value_enum, requires = "train_samples")]
    pub dtype: Option<Dtype>,
    /// Replace the run in the folder by the one to begin
    #[arg(long, requires = "train_samples")]
    pub overwrite: bool,
}

impl StatesArgs {
    /// What the library begins a run with, where samples files are given.
    pub fn settings(&self) -> Option<Settings> {
        let (train, val) = (self.train_samples.clone()?, self.val_samples.clone()?);
        let model = self.model.clone().unwrap_or_else(|| DEFAULT_MODEL.to_owned());
        let samples = SampleSource::Files { train, val };
        let dtype = self.dtype.map_or(Precision::F32, Into::into);
        Some(Settings {
            model,
            samples,
            seed: 0,
            fits: Fits::plain(shortcut::Pairs::All),
            dtype,
            shard: None,
        })
    }
}

#[derive(Debug, ClapArgs)]
pub struct FitArgs {
    /// Run folder; with `--moments`, the folder to write
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Fit from this file of second-moment sums of all shares, and take r² and the learning curve from it too
    #[arg(long, value_name = "FILE")]
    pub moments: Option<PathBuf>,
    /// With `--moments`: replace what was fitted from sums into the folder before
    #[arg(long, requires = "moments")]
    pub overwrite: bool,
    /// Which pairs of layers to fit [default: as the run began]
    #[arg(long, value_enum)]
    pub pairs: Option<Pairs>,
    /// Without `--intercept`, `--ridge` and `--rank`: the casts that the run began with
    #[command(flatten)]
    pub casts: CastArgs,
}

impl FitArgs {
    /// The maps to fit, in a run that began with `earlier`.
    pub fn fits(&self, earlier: &Fits) -> Fits {
        let pairs = self.pairs.map_or(earlier.pairs, Into::into);
        let asked = self.casts.fits(pairs);
        if asked == Fits::plain(pairs) { Fits { pairs, ..earlier.clone() } } else { asked }
    }
}

#[derive(Debug, ClapArgs)]
pub struct MomentsArgs {
    #[command(flatten)]
    pub input: InputArgs,
    /// Run folder to write, or to go on with; the sums will be in its `moments.safetensors` [default: jumplens-runs/MODEL]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// The share of the samples to take: 1/n to n/n, one a machine, with all other options the same
    #[arg(long, value_name = "K/N")]
    pub shard: Option<Shard>,
    /// Replace the run in the folder (a folder that is not a run is left alone)
    #[arg(long)]
    pub overwrite: bool,
}

#[derive(Debug, ClapArgs)]
pub struct MergeArgs {
    /// Files of sums, in any order
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// File to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
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

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Lines for people
    Text,
    /// One JSON object
    Json,
}

#[derive(Debug, ClapArgs)]
pub struct InfoArgs {
    /// Bundled model, folder, `.gguf` file, or name on the Hugging Face Hub, which is fetched if need be
    pub model: String,
    /// How to write it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}
