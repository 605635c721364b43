//! `jumplens fit --lens`.

use super::{DEFAULT_CORPUS, ReadingArgs, UnreadArgs};
use clap::Args as ClapArgs;
use jumplens::jacobian::{PromptSource, Request, TIMES_MEDIAN};
use jumplens::moments::Shard;
use jumplens::words::DerivativeCast;
use std::path::{Path, PathBuf};

const HEADING: &str = "Lenses that go back through the model";

/// Prompts, where nothing else is said.
const PROMPTS: usize = 200;
/// Their tokens.
const TOKENS: usize = 128;

/// Lenses that are mean derivatives of the last layer's state.
#[derive(Debug, ClapArgs)]
pub struct DerivativeArgs {
    /// Take these lenses, separated by commas: `jacobian` (all effects on later positions), `tangent` (those on the same
    /// position), `relevance` (denominators of norms and activations of gates held)
    #[arg(long, value_name = "LENS,…", value_delimiter = ',', value_parser = derivative, group = "elsewhere", requires = "model", conflicts_with_all = ["pairs", "intercept", "ridge", "rank", "casts"], help_heading = HEADING)]
    pub lens: Vec<DerivativeCast>,
    /// Bundled model, folder, `.gguf` file, or name on the Hugging Face Hub
    #[arg(long, requires = "elsewhere", help_heading = HEADING)]
    pub model: Option<String>,
    #[command(flatten)]
    pub unread: UnreadArgs,
    /// Prompts to take, of sentences one behind the other [default: 200]
    #[arg(long, value_name = "N", requires = "lens", help_heading = HEADING)]
    pub prompts: Option<usize>,
    /// Tokens of each [default: 128]
    #[arg(long, value_name = "N", requires = "lens", help_heading = HEADING)]
    pub prompt_tokens: Option<usize>,
    /// Prompts as token ids, in place of a corpus: lines `{"ids": [...]}`; those of fewer than 18 tokens are skipped
    #[arg(long, value_name = "FILE.jsonl", requires = "lens", conflicts_with_all = ["prompts", "prompt_tokens", "corpus", "seed", "lines", "text_column", "shards"], help_heading = HEADING)]
    pub prompt_ids: Option<PathBuf>,
    /// Corpus whose sentences prompts are made of, as for `run` [default: wikipedia-sample]
    #[arg(long, value_name = "CORPUS", requires = "lens", help_heading = HEADING)]
    pub corpus: Option<String>,
    /// Seed of the draw, where sentences are drawn [default: 0]
    #[arg(long, requires = "lens", help_heading = HEADING)]
    pub seed: Option<u64>,
    #[command(flatten)]
    pub reading: ReadingArgs,
    /// The share of the prompts to take: 1/n to n/n, one a machine, with all other options the same; then there are sums alone,
    /// for `merge` and `fit --moments`
    #[arg(long, value_name = "K/N", requires = "lens", help_heading = HEADING)]
    pub shard: Option<Shard>,
    /// Leave out prompts whose Jacobian has more than so many times the median norm at some layer [default where no number is
    /// given: 4]; without it they are named alone
    #[arg(long, value_name = "TIMES", num_args = 0..=1, default_missing_value = "4", value_parser = times, requires = "elsewhere", help_heading = HEADING)]
    pub trim: Option<f64>,
}

fn derivative(text: &str) -> Result<DerivativeCast, String> {
    let names = DerivativeCast::ALL.map(|cast| format!("`{cast}`"));
    let found = DerivativeCast::ALL.into_iter().find(|cast| cast.to_string() == text);
    found.ok_or_else(|| format!("give some of {}", names.join(", ")))
}

fn times(text: &str) -> Result<f64, String> {
    let found = text.parse().ok().filter(|times: &f64| *times > 1.0 && times.is_finite());
    found.ok_or_else(|| format!("give a number above 1, such as {TIMES_MEDIAN}"))
}

impl DerivativeArgs {
    /// What the library does.
    pub fn request(&self, overwrite: bool) -> Request {
        let mut casts = self.lens.clone();
        casts.sort_unstable();
        casts.dedup();
        let prompts = match &self.prompt_ids {
            Some(path) => PromptSource::Ids(Path::new(path).to_owned()),
            None => PromptSource::Corpus {
                name: self.corpus.clone().unwrap_or_else(|| DEFAULT_CORPUS.to_owned()),
                reading: (&self.reading).into(),
                prompts: self.prompts.unwrap_or(PROMPTS),
                tokens: self.prompt_tokens.unwrap_or(TOKENS),
                seed: self.seed.unwrap_or(0),
            },
        };
        let model = self.model.clone().unwrap_or_default();
        Request { model, casts, prompts, shard: self.shard, trim: self.trim, overwrite }
    }
}
