//! The options of `jumplens lens`.

use super::{DEFAULT_MODEL, UnreadArgs};
use clap::{Args as ClapArgs, ValueEnum};
use jumplens::lens::Measure;
use jumplens::words::Cast;
use std::path::{Path, PathBuf};

const WHAT: &str = "What to read";
const HOW: &str = "How it is written";

#[derive(Debug, ClapArgs)]
pub struct LensArgs {
    /// Texts to look at; without any, standard input is read as one. For masked models `[MASK]` in it is a token to be guessed
    #[arg(value_name = "TEXT")]
    pub text: Vec<String>,
    /// Run folder, or folder that `fit --moments` wrote, whose model and maps to look through
    #[arg(long, value_name = "DIR", conflicts_with = "model")]
    pub run: Option<PathBuf>,
    /// Model to look through without a run; the bundled ones come with maps to their last layers
    #[arg(long, default_value = DEFAULT_MODEL)]
    pub model: String,
    #[command(flatten)]
    pub unread: UnreadArgs,
    /// Folder or file of maps to use instead of the run's own
    #[arg(long, value_name = "PATH")]
    pub shortcuts: Option<PathBuf>,
    /// Use these maps even where they were fitted on another model
    #[arg(long, requires = "shortcuts")]
    pub force: bool,
    /// Casts to look through, side by side [default: the best on the validation samples; mat where nothing is known, id
    /// without maps; with `--target` all that are maps of states]
    #[arg(long, visible_alias = "casts", value_name = "CAST,…", value_delimiter = ',')]
    pub cast: Vec<Cast>,
    /// Token to look for, such as " Paris" with the space before it: its probability and rank by layer, and from which layer on
    /// it is the most probable. Of a text of several tokens the first is taken. May be given more than once
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, help_heading = WHAT)]
    pub target: Vec<String>,
    /// A second text, next to the first one
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, help_heading = WHAT)]
    pub compare: Option<String>,
    /// File of texts: one a line, or of a `.jsonl` file objects with `text`, `ids` or `messages`, and `target` where there is one
    #[arg(long, value_name = "FILE", help_heading = WHAT)]
    pub texts: Option<PathBuf>,
    /// Token ids instead of a text, with commas between. May be given more than once
    #[arg(long, value_name = "ID,…", value_parser = ids, help_heading = WHAT)]
    pub ids: Vec<Ids>,
    /// Take each text as what a user says in a chat, and put the tokenizer's chat template around it
    #[arg(long, help_heading = WHAT)]
    pub chat: bool,
    /// Mark the layer of early exit at this λ
    #[arg(long, allow_negative_numbers = true)]
    pub lambda: Option<f64>,
    /// Positions to show, from 0: numbers, ranges such as `2-5`, `-1` for the last, or `all` [default: all; with `--target`
    /// the last, or those of `[MASK]`]
    #[arg(long, value_name = "P,…", value_delimiter = ',', allow_hyphen_values = true)]
    pub position: Vec<Span>,
    /// Layers to show, in the same way [default: all]
    #[arg(long, value_name = "L,…", value_delimiter = ',', allow_hyphen_values = true)]
    pub layers: Vec<Span>,
    /// Tokens of each prediction; the table shows them where there is one position
    #[arg(long, default_value_t = 5, value_name = "K")]
    pub top: usize,
    /// File to write instead of standard output; its extension says how: .json, .jsonl, .parquet, .html, .svg, .pdf, .png, .txt
    #[arg(long, value_name = "FILE", help_heading = HOW)]
    pub out: Option<PathBuf>,
    /// Replace the file
    #[arg(long, requires = "out", help_heading = HOW)]
    pub overwrite: bool,
    /// How to write it [default: by the extension of `--out`, else a table]
    #[arg(long, value_enum, help_heading = HOW)]
    pub format: Option<LensFormat>,
    /// What the colour of a cell says
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = ColorBy::Probability, help_heading = HOW)]
    pub color_by: ColorBy,
    /// Dots an inch of PNG files
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(30..=2400), help_heading = HOW)]
    pub dpi: u32,
    /// Say above the curves what they show, and of which model
    #[arg(long, help_heading = HOW)]
    pub title: bool,
    /// Columns of the table [default: the terminal's, or 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(20..), help_heading = HOW)]
    pub width: Option<u16>,
}

/// Token ids of one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids(pub Vec<u32>);

fn ids(text: &str) -> Result<Ids, String> {
    let ids: Option<Vec<u32>> =
        text.split([',', ' ']).filter(|id| !id.is_empty()).map(|id| id.parse().ok()).collect();
    let ids = ids.filter(|ids| !ids.is_empty());
    ids.map(Ids).ok_or_else(|| "give token ids with commas between, such as `464,3139,286`".to_owned())
}

/// What a cell's colour says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ColorBy {
    /// Probability of the token that is shown
    Probability,
    /// Entropy of the cast's distribution
    Entropy,
    /// KL(model ‖ cast)
    Kl,
    /// Rank of the first `--target`, or else of the model's own token
    Rank,
}

impl From<ColorBy> for Measure {
    fn from(color_by: ColorBy) -> Self {
        match color_by {
            ColorBy::Probability => Self::Probability,
            ColorBy::Entropy => Self::Entropy,
            ColorBy::Kl => Self::Kl,
            ColorBy::Rank => Self::Rank,
        }
    }
}

/// How what a lens shows is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LensFormat {
    /// Lines for people
    Table,
    /// A JSON object a text, one a line
    Json,
    /// A page that loads nothing
    Html,
    /// A figure: with `--target` curves, else the grid of predictions
    Svg,
    /// The figure as PDF
    Pdf,
    /// The figure as PNG
    Png,
    /// A row a text, cast, layer and position
    Parquet,
}

impl LensFormat {
    /// What the extension of a file says.
    pub fn of(path: &Path) -> Option<Self> {
        Some(match path.extension()?.to_str()? {
            "txt" => Self::Table,
            "json" | "jsonl" => Self::Json,
            "html" | "htm" => Self::Html,
            "svg" => Self::Svg,
            "pdf" => Self::Pdf,
            "png" => Self::Png,
            "parquet" => Self::Parquet,
            _ => return None,
        })
    }
}

/// Numbers from 0, one or several: `3`, `2-5`, `-1` for the last, or `all`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// From the first to the last of them.
    Range(usize, usize),
    /// Counted from the end, which is 1.
    FromEnd(usize),
    /// Every one.
    All,
}

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::All);
        }
        let number = |text: &str| text.parse::<usize>().ok();
        let span = match text.split_once('-') {
            Some(("", back)) => number(back).filter(|back| *back > 0).map(Self::FromEnd),
            Some((first, last)) => number(first).zip(number(last)).map(|(a, b)| Self::Range(a, b)),
            None => number(text).map(|only| Self::Range(only, only)),
        };
        let span =
            span.filter(|span| !matches!(span, Self::Range(first, last) if first > last || *last > 1 << 20));
        span.ok_or_else(|| {
            "give numbers from 0, ranges such as `2-5`, `-1` for the last, or `all`".to_owned()
        })
    }
}

impl Span {
    /// The numbers that `spans` stand for among `count` of them, sorted, each once; one that is beyond them is kept.
    pub fn numbers(spans: &[Self], count: usize) -> Vec<usize> {
        let mut numbers: Vec<usize> = spans
            .iter()
            .flat_map(|span| match *span {
                Self::Range(first, last) => first..=last,
                Self::FromEnd(back) if back <= count => count - back..=count - back,
                Self::FromEnd(_) => count..=count,
                Self::All => 0..=count.saturating_sub(1),
            })
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }
}
