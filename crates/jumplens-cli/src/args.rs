//! The command line.

mod arena;
mod derivatives;
mod lens;
mod prune;

pub use arena::ArenaArgs;
pub use derivatives::DerivativeArgs;
pub use lens::{LensArgs, LensFormat, Span};
pub use prune::PruneArgs;

use crate::sources::sources;
use clap::{Args as ClapArgs, CommandFactory, Parser, Subcommand, ValueEnum};
use jumplens::corpus::{self, DrawOptions, HowMany, Reading};
use jumplens::hub::Sources;
use jumplens::moments::Shard;
use jumplens::nn::Precision;
use jumplens::plot::{self, Style};
use jumplens::run::{Asked, Existing, Import, SampleSource, Settings};
use jumplens::shortcut::{self, Fits, Ridge, Shortcuts};
use jumplens::words::Cast;
use std::path::PathBuf;

const DEFAULT_MODEL: &str = "tiny-gpt2";
const DEFAULT_CORPUS: &str = "wikipedia-sample";
/// Sentences to fit on and to measure on, where nothing else is said.
pub const TRAIN: usize = 9000;
pub const VAL: usize = 3000;
const GLOBAL: &str = "Global options";
/// What says which sentences are taken, and how: of no use where there are samples.
const OF_SENTENCES: [&str; 10] = [
    "split_by",
    "lines",
    "text_column",
    "shards",
    "per_document",
    "paragraph_final",
    "min_chars",
    "max_chars",
    "min_tokens",
    "max_tokens",
];
const SENTENCES: &str = "Sentences and positions";

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
    /// Threads to compute with, up to 1024, and to 4 a core [default: all cores]
    #[arg(long, global = true, value_name = "N", help_heading = GLOBAL, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// No progress and no messages, only results, warnings and errors
    #[arg(short, long, global = true, help_heading = GLOBAL)]
    pub quiet: bool,
    /// More messages: the model's sizes and what the run was made from
    #[arg(short, long, global = true, help_heading = GLOBAL)]
    pub verbose: bool,
}

/// The command line as it is parsed: with every number that an option takes, below 0 or not, as its value.
pub fn program() -> clap::Command {
    fn with_negative_numbers(command: clap::Command) -> clap::Command {
        let command = command.mut_args(|arg| match arg.get_action().takes_values() {
            true if !arg.is_positional() => arg.allow_negative_numbers(true),
            _ => arg,
        });
        let names: Vec<String> =
            command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
        names.into_iter().fold(command, |command, name| command.mut_subcommand(name, with_negative_numbers))
    }
    with_negative_numbers(Args::command())
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Do everything: samples, states, fit, r2, evaluate, plot
    Run(RunArgs),
    /// From a model to a lens: only the maps to its last layer, and their r²
    Maps(BeginArgs),
    /// Draw sentences from a corpus and write them, one a line
    Sentences(SentencesArgs),
    /// Begin a run: tokenise sentences and choose a position in each
    Samples(BeginArgs),
    /// Hidden states of every layer at the chosen positions
    States(StatesArgs),
    /// Linear maps between layers, and of the parts of every block; with `--lens`, mean derivatives of a model on prompts
    Fit(FitArgs),
    /// Second-moment sums of a run's states, or of a share of them: samples, states, then one file to fit from
    Moments(MomentsArgs),
    /// Add up files of sums, of second moments or of Jacobians
    Merge(MergeArgs),
    /// Coefficients of determination of the maps
    R2(MapsArgs),
    /// Predictions of every cast from every layer, and early exit
    Evaluate(EvaluateArgs),
    /// Figures and report from the result tables, without the model
    Plot(PlotArgs),
    /// Several runs side by side: figures, and the differences of each from the first
    Compare(CompareArgs),
    /// What each cast predicts at every position of a text, layer by layer
    Lens(LensArgs),
    /// Maps as files: what there is, what they are like, and from and for other programs
    #[command(subcommand)]
    Shortcuts(ShortcutsCommand),
    /// Every lens on the same states, splits and figures, with paired differences and what each cost
    Arena(ArenaArgs),
    /// A smaller model: blocks that predictions can do without are taken out, what they add is folded into others
    Prune(PruneArgs),
    /// Say what a model is made of, and what a run of it takes on disk
    Info(InfoArgs),
    /// Look at a model for what has made lenses wrong: unused tensors, states, head, outliers, special tokens
    Doctor(DoctorArgs),
    /// Print the completions for a shell
    Completions(CompletionsArgs),
    /// Print the manual page, or write those of all commands
    Man(ManArgs),
}

impl Command {
    /// The model that is asked for, where one is.
    pub fn model(&self) -> Option<&str> {
        match self {
            Self::Run(args) => args.begin.input.model(),
            Self::Samples(args) | Self::Maps(args) => args.input.model(),
            Self::Moments(args) => args.input.model(),
            Self::States(args) => args.model.as_deref(),
            Self::Fit(args) => args.derivatives.model.as_deref(),
            Self::Sentences(args) => args.model.as_deref(),
            Self::Lens(args) => Some(&args.model),
            Self::Info(args) => Some(args.model.name()),
            Self::Doctor(args) => Some(args.model.name()),
            Self::Prune(args) => Some(args.model.name()),
            Self::Arena(args) => Some(args.model.name()),
            Self::Shortcuts(ShortcutsCommand::Import(args)) => args.model.as_deref(),
            _ => None,
        }
    }
}

/// The model to look at, by its place or by name.
#[derive(Debug, ClapArgs)]
#[group(required = true, multiple = false)]
pub struct ModelArgs {
    /// Bundled model, folder, `.gguf` file, or name on the Hugging Face Hub, which is fetched where necessary
    #[arg(value_name = "MODEL")]
    named: Option<String>,
    /// The same
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
}

impl ModelArgs {
    /// Its name. One of the two is there.
    pub fn name(&self) -> &str {
        self.named.as_deref().or(self.model.as_deref()).unwrap_or(DEFAULT_MODEL)
    }
}

#[derive(Debug, ClapArgs)]
pub struct CompletionsArgs {
    /// Which shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

#[derive(Debug, ClapArgs)]
pub struct ManArgs {
    /// Folder to write a page for every command to
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub unread: UnreadArgs,
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

/// Which maps are fitted in addition to `mat`.
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
    /// Only these casts, separated by commas, and nothing that none of them needs: `id`, `mat`, `mat+b`, `mat_ridge`, `mat_r64`, …,
    /// with `--pairs to-final` those that are fitted through the head, `mat_fisher` and `tuned`, and those that run blocks,
    /// `mat_attn`, `mat_ffn`, `mat_ln1_ln2` [default: id, mat, those of the options above, and those that run blocks]
    #[arg(long, visible_alias = "cast", value_name = "CAST,…", value_delimiter = ',', conflicts_with_all = ["intercept", "rank"])]
    pub casts: Vec<Cast>,
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
        if let Some(casts) = self.chosen() {
            return Fits::only(&casts, self.ridge, pairs);
        }
        Fits { intercept: self.intercept, ridge: self.ridge, ranks: self.ranks(), ..Fits::plain(pairs) }
    }

    /// The casts that are named, where any are.
    fn chosen(&self) -> Option<Vec<Cast>> {
        Some(self.casts.clone()).filter(|casts| !casts.is_empty())
    }

    fn ranks(&self) -> Vec<usize> {
        let mut ranks = self.rank.clone();
        ranks.sort_unstable();
        ranks.dedup();
        ranks
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

/// What of a model's files may be ignored.
#[derive(Debug, Default, ClapArgs)]
pub struct UnreadArgs {
    /// Go on where this field of the model's files changes what it computes and is not read (may be repeated)
    #[arg(long, value_name = "FIELD")]
    pub allow_unread: Vec<String>,
}

impl UnreadArgs {
    /// Where names are looked up, with leave for these fields.
    pub fn sources(&self) -> Sources {
        Sources { allow_unread: self.allow_unread.iter().cloned().collect(), ..sources() }
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

#[derive(Debug, ClapArgs)]
pub struct RunArgs {
    #[command(flatten)]
    pub begin: BeginArgs,
    /// How the results are written: tables, or the figures of `results/summary.json` with the folder and the warnings
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// What a run is made from.
#[derive(Debug, ClapArgs)]
pub struct InputArgs {
    /// The model, as for `--model`
    #[arg(value_name = "MODEL", conflicts_with = "model")]
    named: Option<String>,
    /// Bundled model (`tiny-gpt2`, `tiny-bert`), folder with config.json, weights and tokenizer, `.gguf` file, or name on
    /// the Hugging Face Hub (`gpt2`, `org/name`, `org/name@revision`) [default: tiny-gpt2]
    #[arg(long)]
    pub model: Option<String>,
    #[command(flatten)]
    pub unread: UnreadArgs,
    #[command(flatten)]
    pub samples: SamplesArgs,
    /// Which pairs of layers to fit [default: all]
    #[arg(long, value_enum)]
    pub pairs: Option<Pairs>,
    #[command(flatten)]
    pub casts: CastArgs,
    /// What the model's products are done in; sums, states and maps are f32 either way [default: f32]
    #[arg(long, value_enum)]
    pub dtype: Option<Dtype>,
    /// Positions of each sentence, at random: a number, or `all` [default: 1]
    #[arg(long, value_name = "K", help_heading = SENTENCES, conflicts_with = "train_samples")]
    pub positions: Option<HowMany>,
    /// Never choose one of the first N tokens, where many models park attention [default: 0]
    #[arg(long, value_name = "N", help_heading = SENTENCES, conflicts_with = "train_samples")]
    pub skip_first: Option<usize>,
}

/// Which sentences are fitted on, and which are measured on.
#[derive(Debug, ClapArgs)]
pub struct SamplesArgs {
    /// Bundled corpus (`wikipedia-sample`); Wikipedia dump (`.xml`, `.xml.bz2`, `.xml.gz`); `.parquet` file or folder of them;
    /// `.jsonl` (`.gz`, `.zst`); `.txt`; `hf://datasets/ORG/NAME[/CONFIG][@REVISION]` [default: wikipedia-sample]
    #[arg(long, value_name = "CORPUS")]
    pub corpus: Option<String>,
    /// Sentences to fit on [default: 9000]
    #[arg(long, value_name = "N")]
    pub train: Option<usize>,
    /// Sentences to measure on [default: 3000]
    #[arg(long, value_name = "N")]
    pub val: Option<usize>,
    /// Masked models: keep the token at the chosen position, where `[MASK]` would take its place
    #[arg(long, conflicts_with = "train_samples")]
    pub no_mask: bool,
    /// Seed of everything random [default: 0]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Samples to fit on instead of a corpus: lines `{"ids": [...], "position": p}`
    #[arg(long, value_name = "FILE.jsonl", requires = "val_samples", conflicts_with_all = ["corpus", "train", "val"], conflicts_with_all = OF_SENTENCES)]
    pub train_samples: Option<PathBuf>,
    /// Samples to measure on instead of a corpus
    #[arg(long, value_name = "FILE.jsonl", requires = "train_samples")]
    pub val_samples: Option<PathBuf>,
    #[command(flatten)]
    pub reading: ReadingArgs,
    #[command(flatten)]
    pub draw: DrawArgs,
    /// What training and validation may not share [default: document, where the corpus has documents]
    #[arg(long, value_enum, value_name = "WHAT", help_heading = SENTENCES)]
    pub split_by: Option<SplitBy>,
}

/// What a line or a row of a corpus is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Lines {
    /// A sentence, and the first ones are taken as they stand
    InOrder,
    /// A sentence, and they are drawn at random
    Sentences,
    /// A document, from which sentences are drawn
    Documents,
}

/// What training and validation may not share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SplitBy {
    /// A document
    Document,
    /// A sentence
    Sentence,
}

/// How a corpus is read.
#[derive(Debug, ClapArgs)]
pub struct ReadingArgs {
    /// What a line of `.txt` or `.jsonl`, or a row of Parquet is [default: in-order for `.txt`, documents for the others]
    #[arg(long, value_enum, value_name = "WHAT", help_heading = SENTENCES)]
    pub lines: Option<Lines>,
    /// Column or field that has the text [default: text]
    #[arg(long, value_name = "NAME", help_heading = SENTENCES)]
    pub text_column: Option<String>,
    /// Read only K of a Hub data set's shards, drawn at random [default: all of them]
    #[arg(long, value_name = "K", help_heading = SENTENCES)]
    pub shards: Option<usize>,
}

impl ReadingArgs {
    fn rows(&self) -> Option<corpus::Rows> {
        self.lines.map(|lines| match lines {
            Lines::InOrder => corpus::Rows::InOrder,
            Lines::Sentences => corpus::Rows::Sentences,
            Lines::Documents => corpus::Rows::Documents,
        })
    }
}

impl From<&ReadingArgs> for Reading {
    fn from(args: &ReadingArgs) -> Self {
        let usual = Self::default();
        let text_column = args.text_column.clone().unwrap_or(usual.text_column);
        Self { rows: args.rows(), text_column, shards: args.shards }
    }
}

/// Which sentences are drawn.
#[derive(Debug, ClapArgs)]
pub struct DrawArgs {
    /// Sentences of one document at most: a number, or `all` [default: 1]
    #[arg(long, value_name = "N", help_heading = SENTENCES)]
    pub per_document: Option<HowMany>,
    /// Draw only sentences that end a paragraph, and keep their newline
    #[arg(long, help_heading = SENTENCES)]
    pub paragraph_final: bool,
    /// Fewest characters of a sentence [default: 20 where sentences are drawn]
    #[arg(long, value_name = "N", help_heading = SENTENCES)]
    pub min_chars: Option<usize>,
    /// Most characters [default: 800 where sentences are drawn]
    #[arg(long, value_name = "N", help_heading = SENTENCES)]
    pub max_chars: Option<usize>,
    /// Fewest tokens, those that the tokenizer adds included
    #[arg(long, value_name = "N", help_heading = SENTENCES)]
    pub min_tokens: Option<usize>,
    /// Most tokens
    #[arg(long, value_name = "N", help_heading = SENTENCES)]
    pub max_tokens: Option<usize>,
}

impl DrawArgs {
    /// What the library draws by.
    pub fn options(&self, split_by: Option<SplitBy>) -> DrawOptions {
        DrawOptions {
            per_document: self.per_document,
            paragraph_final: self.paragraph_final,
            min_chars: self.min_chars,
            max_chars: self.max_chars,
            min_tokens: self.min_tokens,
            max_tokens: self.max_tokens,
            split_by: split_by.map(|split_by| match split_by {
                SplitBy::Document => corpus::SplitBy::Document,
                SplitBy::Sentence => corpus::SplitBy::Sentence,
            }),
        }
    }
}

#[derive(Debug, ClapArgs)]
pub struct SentencesArgs {
    /// Corpus to draw from, as for `run`
    #[arg(long, default_value = "wikipedia-sample")]
    pub corpus: String,
    /// How many sentences
    #[arg(long, value_name = "N")]
    pub num: usize,
    /// Seed of everything random
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// File to write, one sentence a line; FILE.jsonl says where each is from, FILE.json what was read
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Replace what is there
    #[arg(long)]
    pub overwrite: bool,
    /// Model whose tokens are counted, where their number has bounds
    #[arg(long)]
    pub model: Option<String>,
    #[command(flatten)]
    pub unread: UnreadArgs,
    #[command(flatten)]
    pub reading: ReadingArgs,
    #[command(flatten)]
    pub draw: DrawArgs,
}

/// What is to become of a run that is in the folder already.
#[derive(Debug, ClapArgs)]
pub struct ExistingArgs {
    /// Go on with the run in the folder, from the last finished stage or chunk, with the options that it began with
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

impl SamplesArgs {
    /// What is asked of the samples.
    pub fn asked(&self) -> Asked {
        let files = self.train_samples.clone().zip(self.val_samples.clone());
        Asked {
            corpus: self.corpus.clone(),
            train: self.train,
            val: self.val,
            files: files.map(|(train, val)| [train, val]),
            mask: self.no_mask.then_some(false),
            rows: self.reading.rows(),
            text_column: self.reading.text_column.clone(),
            shards: self.reading.shards,
            draw: self.draw.options(self.split_by),
            seed: self.seed,
            ..Asked::default()
        }
    }
}

impl InputArgs {
    /// What is asked of the run.
    pub fn asked(&self) -> Asked {
        Asked {
            model: self.model().map(str::to_owned),
            how_many: self.positions,
            skip_first: self.skip_first,
            pairs: self.pairs.map(Into::into),
            intercept: self.casts.intercept.then_some(true),
            ridge: self.casts.ridge,
            ranks: Some(self.casts.ranks()).filter(|ranks| !ranks.is_empty()),
            lenses: None,
            casts: self.casts.chosen(),
            dtype: self.dtype.map(Into::into),
            ..self.samples.asked()
        }
    }

    /// The model that is asked for.
    pub fn model(&self) -> Option<&str> {
        self.named.as_deref().or(self.model.as_deref())
    }

    /// The same of maps alone: `id` and the casts that are named, to the last layer where no pairs are.
    pub fn asked_of_maps(&self) -> Asked {
        let asked = self.asked();
        let pairs = asked.pairs.unwrap_or(shortcut::Pairs::ToFinal);
        let fits = self.casts.fits(pairs);
        let all = || [Cast::Id].into_iter().chain(fits.casts()).collect();
        let casts = self.casts.chosen().unwrap_or_else(all);
        Asked { pairs: Some(pairs), casts: Some(casts), ..asked }
    }

    /// Where a run of the model goes if nothing is said.
    pub fn default_folder(&self) -> PathBuf {
        let name = self.model().unwrap_or(DEFAULT_MODEL).trim_end_matches('/');
        let last = name.rsplit('/').find(|part| !part.is_empty() && *part != "." && *part != "..");
        PathBuf::from("jumplens-runs").join(last.unwrap_or("model"))
    }
}

/// What a run is made from where nothing is said.
pub fn usual() -> Settings {
    Settings {
        model: DEFAULT_MODEL.to_owned(),
        samples: SampleSource::corpus(DEFAULT_CORPUS, TRAIN, VAL),
        seed: 0,
        fits: Fits::plain(shortcut::Pairs::All),
        dtype: Precision::F32,
        shard: None,
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
    /// Run folders; the first is what the others are compared with
    #[arg(required = true, num_args = 2.., value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// Folder to write figures and `differences.csv` to; it has to be empty or new
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Replace the comparison in the folder
    #[arg(long)]
    pub overwrite: bool,
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
    /// Width of the figures in mm, or `one-column` (80 mm) or `two-column` (165 mm) of a paper
    #[arg(long, value_name = "MM", default_value = "one-column", value_parser = figure_width)]
    pub width: f64,
    /// Font size of labels, in points; that of ticks is 7/8 of it
    #[arg(long, value_name = "PT", default_value_t = 8.0)]
    pub font_size: f64,
    /// Only these figures, with commas between
    #[arg(long, value_name = "FIGURE,…", value_delimiter = ',', value_parser = clap::builder::PossibleValuesParser::new(plot::NAMES))]
    pub only: Vec<String>,
}

fn figure_width(text: &str) -> Result<f64, String> {
    match text {
        "one-column" => Ok(plot::Size::ONE_COLUMN),
        "two-column" => Ok(plot::Size::TWO_COLUMNS),
        _ => text.parse().map_err(|_| "give a number of mm, `one-column` or `two-column`".to_owned()),
    }
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
        let size = plot::Size { width: self.width, font: self.font_size };
        Style { formats, dpi: self.dpi, title: self.title, size, only: self.only.clone() }
    }
}

#[derive(Debug, ClapArgs)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct StatesArgs {
    #[command(subcommand)]
    pub command: Option<StatesCommand>,
    /// Run folder, begun by `samples`, or by this command where samples files are given
    #[arg(long, value_name = "DIR", required = true)]
    pub out: Option<PathBuf>,
    /// Begin a run with these samples to fit on: lines `{"ids": [...], "position": p}`
    #[arg(long, value_name = "FILE.jsonl", requires = "val_samples")]
    pub train_samples: Option<PathBuf>,
    /// Samples to measure on
    #[arg(long, value_name = "FILE.jsonl", requires = "train_samples")]
    pub val_samples: Option<PathBuf>,
    /// Model of the run to begin [default: tiny-gpt2]
    #[arg(long, requires = "train_samples")]
    pub model: Option<String>,
    #[command(flatten)]
    pub unread: UnreadArgs,
    /// What the products of the run to begin are done in
    #[arg(long, value_enum, requires = "train_samples")]
    pub dtype: Option<Dtype>,
    /// Do the stage again where it is done, and forget what came of it; where samples files are given, replace the run in the
    /// folder by the one to begin
    #[arg(long)]
    pub overwrite: bool,
}

#[derive(Debug, Subcommand)]
pub enum StatesCommand {
    /// Make a run of states that another program computed: `fit`, `r2` and `plot` go on from there
    Import(StatesImportArgs),
}

#[derive(Debug, ClapArgs)]
pub struct StatesImportArgs {
    /// States to fit on: a folder with a file a layer (`00.safetensors`, `00.npy`, …), or a `.safetensors`, `.npz` or `.parquet`
    /// file with an array or a column a layer; names end in the layer's number, from 0, the embedding
    #[arg(long, value_name = "PATH")]
    pub train: PathBuf,
    /// States to measure on
    #[arg(long, value_name = "PATH")]
    pub val: PathBuf,
    /// Run folder to write
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Replace the run in the folder
    #[arg(long)]
    pub overwrite: bool,
    /// Model that the states are of: layers and width are checked, and `evaluate` and `lens` can go on
    #[arg(long)]
    pub model: Option<String>,
    #[command(flatten)]
    pub unread: UnreadArgs,
    /// The samples that the training states are of, in their order: lines `{"ids": [...], "position": p}`
    #[arg(long, value_name = "FILE.jsonl", requires = "val_samples")]
    pub train_samples: Option<PathBuf>,
    /// The samples that the validation states are of
    #[arg(long, value_name = "FILE.jsonl", requires = "train_samples")]
    pub val_samples: Option<PathBuf>,
    /// What the states of the last layer are; with `--model` and samples it is seen
    #[arg(long, value_enum)]
    pub last_state: Option<LastState>,
}

impl StatesImportArgs {
    /// What the library takes in.
    pub fn import(&self) -> Import {
        let samples = self.train_samples.clone().zip(self.val_samples.clone());
        Import {
            states: [self.train.clone(), self.val.clone()],
            samples: samples.map(|(train, val)| [train, val]),
            model: self.model.clone(),
            last_state: self.last_state.map(Into::into),
        }
    }
}

impl StatesArgs {
    /// The run folder.
    pub fn folder(&self) -> PathBuf {
        self.out.clone().unwrap_or_default()
    }

    /// What is asked of the run to begin, where samples files are given.
    pub fn asked(&self) -> Option<Asked> {
        let files = [self.train_samples.clone()?, self.val_samples.clone()?];
        let dtype = self.dtype.map(Into::into);
        Some(Asked { files: Some(files), model: self.model.clone(), dtype, ..Asked::default() })
    }
}

#[derive(Debug, ClapArgs)]
pub struct FitArgs {
    /// Run folder; with `--moments` and `--lens`, the folder to write
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Fit from this file of sums of all shares: of second moments, from which r² and the learning curve are taken too, or of
    /// Jacobians
    #[arg(long, visible_alias = "sums", value_name = "FILE", group = "elsewhere")]
    pub moments: Option<PathBuf>,
    /// Fit again where that is done, and forget what came of it; with `--moments` and `--lens`, replace what was fitted into the
    /// folder before
    #[arg(long)]
    pub overwrite: bool,
    /// Which pairs of layers to fit [default: as the run began]
    #[arg(long, value_enum)]
    pub pairs: Option<Pairs>,
    /// Without `--intercept`, `--ridge` and `--rank`: the casts that the run began with
    #[command(flatten)]
    pub casts: CastArgs,
    #[command(flatten)]
    pub derivatives: DerivativeArgs,
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

impl MomentsArgs {
    /// The run folder.
    pub fn folder(&self) -> PathBuf {
        self.out.clone().unwrap_or_else(|| self.input.default_folder())
    }
}

#[derive(Debug, ClapArgs)]
pub struct MergeArgs {
    /// Files of sums, in any order: of second moments, or of Jacobians
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// File to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Replace the file
    #[arg(long)]
    pub overwrite: bool,
}

#[derive(Debug, ClapArgs)]
pub struct MapsArgs {
    /// Run folder
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Run folder, folder that `fit --moments` wrote, or folder or file of maps to use instead of the run's own
    #[arg(long, value_name = "PATH")]
    pub shortcuts: Option<PathBuf>,
    /// Use these maps even where they were fitted on another model
    #[arg(long, requires = "shortcuts")]
    pub force: bool,
    /// Measure these casts alone, separated by commas [default: all that the run was begun for, or that have maps]
    #[arg(long, visible_alias = "cast", value_name = "CAST,…", value_delimiter = ',')]
    pub casts: Vec<Cast>,
    /// Measure again where that is done, and replace the tables
    #[arg(long)]
    pub overwrite: bool,
}

#[derive(Debug, ClapArgs)]
pub struct EvaluateArgs {
    #[command(flatten)]
    pub maps: MapsArgs,
    /// Evaluate this share of the validation samples alone, 1/n to n/n, and write its predictions to a file, for `--merge`
    #[arg(long, value_name = "K/N", conflicts_with = "overwrite")]
    pub shard: Option<Shard>,
    /// File for the predictions of the share [default: evaluation-K-of-N.safetensors in the run folder]
    #[arg(long, value_name = "FILE", requires = "shard")]
    pub part: Option<PathBuf>,
    /// Write the tables from the predictions of all shares, in any order; `--out` may be what `fit --moments` wrote
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["shard", "casts"])]
    pub merge: Vec<PathBuf>,
}

impl EvaluateArgs {
    /// Where the predictions of a share go.
    pub fn part(&self, shard: Shard) -> PathBuf {
        let width = shard.of.to_string().len();
        let name = format!("evaluation-{:0width$}-of-{}.safetensors", shard.index, shard.of);
        self.part.clone().unwrap_or_else(|| self.maps.out.join(name))
    }
}

#[derive(Debug, Subcommand)]
pub enum ShortcutsCommand {
    /// Which maps there are, and where they come from
    List(ListArgs),
    /// Norms, singular values, effective rank, distance from the identity, and r² where a run knows it
    Inspect(InspectArgs),
    /// Write a run's maps as files that others can use, with a model card
    Export(ExportArgs),
    /// Make a folder of maps of what other programs wrote; nothing in a pickle is run
    Import(ImportArgs),
}

#[derive(Debug, ClapArgs)]
pub struct ListArgs {
    /// Run folder, or folder or file of maps
    pub path: PathBuf,
    /// How to write it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Debug, ClapArgs)]
pub struct InspectArgs {
    /// Run folder, or folder or file of maps
    pub path: PathBuf,
    /// Casts to look at [default: all that are there]
    #[arg(long, visible_alias = "casts", value_name = "CAST,…", value_delimiter = ',')]
    pub cast: Vec<Cast>,
    /// Which pairs of layers
    #[arg(long, value_enum, default_value_t = Pairs::ToFinal)]
    pub pairs: Pairs,
    /// How to write it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Debug, ClapArgs)]
pub struct ExportArgs {
    /// Run folder, folder that `fit --moments` wrote, or folder of maps
    pub path: PathBuf,
    /// Folder to write; it has to be empty or new. With `--format jacobian` the file
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Replace what the same command wrote into the folder before
    #[arg(long)]
    pub overwrite: bool,
    /// Format of the files
    #[arg(long, value_enum, default_value_t = ExportFormat::Safetensors)]
    pub format: ExportFormat,
    /// Casts to write, a file each [default: all that are there]
    #[arg(long, visible_alias = "casts", value_name = "CAST,…", value_delimiter = ',')]
    pub cast: Vec<Cast>,
    /// Which pairs of layers
    #[arg(long, value_enum, default_value_t = Pairs::ToFinal)]
    pub pairs: Pairs,
}

/// Formats of exported maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// With what is known of the maps in the file
    Safetensors,
    /// For NumPy
    Npz,
    /// One `.pt` file as Jacobian lenses are published: matrices of 16 bits by block, of one cast without a bias
    Jacobian,
    /// A folder as the `tuned-lens` package keeps one: `params.pt` and `config.json`, of one cast
    TunedLens,
}

#[derive(Debug, ClapArgs)]
pub struct ImportArgs {
    /// What other programs wrote: a folder of `I_J.pickle`, `pLAYER_A_B.pickle` or `I_J.npy`, a tuned lens (`params.pt` and
    /// `config.json`), a Jacobian lens (`.pt`), a `.npz` or `.safetensors` file of several maps, or a file of one; a
    /// file on the Hugging Face Hub as `hf://ORG/NAME[@REVISION]/FILE`
    pub path: PathBuf,
    /// Folder of maps to write; it has to be empty or new
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Replace what the same command wrote into the folder before
    #[arg(long)]
    pub overwrite: bool,
    /// Model that the maps are for: it is recorded with them, and they have to fit it
    #[arg(long)]
    pub model: Option<String>,
    #[command(flatten)]
    pub unread: UnreadArgs,
    /// Name of their cast [default: mat, mat+b where there is a bias, tuned for a tuned lens, jacobian for a Jacobian lens]
    #[arg(long, visible_alias = "casts", value_name = "NAME", value_parser = cast_name)]
    pub cast: Option<Cast>,
    /// What the maps to the last layer lead to
    #[arg(long, value_enum, default_value_t = LastState::BlockOutput)]
    pub last_state: LastState,
    /// Record `--model` even where the maps say that they are for another
    #[arg(long, requires = "model")]
    pub force: bool,
}

/// A name that folders, tables and figures can bear, and that no other cast has.
fn cast_name(text: &str) -> Result<Cast, String> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-_".contains(&byte));
    let cast = Cast::from(text);
    if text.is_empty() || !is_plain || !Shortcuts::can_hold(&cast) {
        return Err("give a name of letters, digits, `+`, `-` and `_` that is no other cast's".to_owned());
    }
    Ok(cast)
}

/// What maps to the last layer lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LastState {
    /// The last block's output, before a final norm
    BlockOutput,
    /// The state after the final norm, as the last of Hugging Face's `hidden_states`
    FinalNormOutput,
}

impl From<LastState> for shortcut::LastState {
    fn from(state: LastState) -> Self {
        match state {
            LastState::BlockOutput => Self::BlockOutput,
            LastState::FinalNormOutput => Self::FinalNormOutput,
        }
    }
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
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub unread: UnreadArgs,
    /// Training samples of the run whose disk space and memory are computed
    #[arg(long, value_name = "N", default_value_t = TRAIN as u32)]
    pub train: u32,
    /// Validation samples of that run
    #[arg(long, value_name = "N", default_value_t = VAL as u32)]
    pub val: u32,
    /// What products are done in there
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    pub dtype: Dtype,
    /// Leave out the SHA-256 of the files, which takes reading them
    #[arg(long)]
    pub no_digests: bool,
    /// How to write it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}
