//! How many of what there is are drawn, and in which order.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

/// A number of at least one, or all there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "serde_json::Value", into = "serde_json::Value")]
pub enum HowMany {
    /// That many, or fewer where there are no more.
    Number(usize),
    /// All.
    All,
}

impl HowMany {
    /// As a number, which is never reached where it is all.
    pub fn limit(self) -> usize {
        match self {
            Self::Number(number) => number,
            Self::All => usize::MAX,
        }
    }
}

impl FromStr for HowMany {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(number) if number > 0 => Ok(Self::Number(number)),
            _ if text == "all" => Ok(Self::All),
            _ => Err("give a number of at least 1, or `all`".to_owned()),
        }
    }
}

impl fmt::Display for HowMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::All => write!(f, "all"),
        }
    }
}

impl From<HowMany> for serde_json::Value {
    fn from(how_many: HowMany) -> Self {
        match how_many {
            HowMany::Number(number) => number.into(),
            HowMany::All => "all".into(),
        }
    }
}

impl TryFrom<serde_json::Value> for HowMany {
    type Error = String;

    fn try_from(value: serde_json::Value) -> Result<Self, String> {
        value.as_str().map_or_else(|| value.to_string(), str::to_owned).parse()
    }
}

/// Calls `take` with the numbers below `n` in a random order, until it has taken `limit` of them.
pub fn in_random_order<E>(
    n: usize,
    limit: usize,
    rng: &mut ChaCha8Rng,
    mut take: impl FnMut(usize) -> Result<bool, E>,
) -> Result<(), E> {
    let mut taken = 0;
    let mut moved: HashMap<usize, usize> = HashMap::new();
    for at in 0..n {
        if taken == limit {
            break;
        }
        let other = at + rng.random_range(0..(n - at) as u64) as usize;
        let chosen = moved.get(&other).copied().unwrap_or(other);
        let here = moved.get(&at).copied().unwrap_or(at);
        moved.insert(other, here);
        taken += usize::from(take(chosen)?);
    }
    Ok(())
}
