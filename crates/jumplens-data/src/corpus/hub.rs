//! Data sets on the Hugging Face Hub: which of their Parquet shards a name stands for.

use crate::hub::{DataSetFiles, HubName, Sources};
use crate::progress::Observer;
use crate::words::{Refusal, in_random_order};
use crate::{Error, Result};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// How the names of data sets begin.
pub(super) const PREFIX: &str = "hf://datasets/";

/// What a data set is called: `ORG/NAME`, with `/CONFIG` and `@REVISION` behind it where they are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataSetName {
    /// Name and revision on the Hub.
    pub hub: HubName,
    /// One of the parts that a data set may come in: a language, a year.
    pub config: Option<String>,
}

impl DataSetName {
    /// Reads what stands behind `hf://datasets/`; `None` where that names no data set. The revision may stand behind the
    /// name, as in Hugging Face's own paths, or behind the configuration.
    pub fn parse(name: &str) -> Option<Self> {
        let (name, revision) = match name.split_once('@') {
            None => (name.to_owned(), None),
            Some((name, behind)) => match behind.split_once('/') {
                Some((revision, config)) => (format!("{name}/{config}"), Some(revision)),
                None => (name.to_owned(), Some(behind)),
            },
        };
        let parts: Vec<&str> = name.trim_end_matches('/').split('/').collect();
        let (id, config) = match parts[..] {
            [org, name] => (format!("{org}/{name}"), None),
            [org, name, config] => (format!("{org}/{name}"), Some(config)),
            _ => return None,
        };
        let config_fits = config
            .is_none_or(|config| !config.is_empty() && !config.starts_with('.') && !config.contains('\\'));
        let name = revision.map_or(id.clone(), |revision| format!("{id}@{revision}"));
        let hub = HubName::parse(&name).filter(|_| config_fits)?;
        Some(Self { hub, config: config.map(str::to_owned) })
    }
}

/// The shards of a data set that are to be read.
#[derive(Debug)]
pub(super) struct DataSet {
    /// As it was asked for, without the revision.
    pub id: String,
    /// The commit.
    pub revision: String,
    pub paths: Vec<PathBuf>,
    /// The shards' digests.
    pub files: Vec<String>,
}

/// Finds the data set `name`, what stands behind [`PREFIX`], and fetches its shards, or `shards` of them.
pub(super) fn find(
    name: &str,
    shards: Option<usize>,
    seed: u64,
    sources: &Sources,
    observer: &dyn Observer,
) -> Result<DataSet> {
    let whole_name = format!("{PREFIX}{name}");
    let Some(parsed) = DataSetName::parse(name) else {
        return Err(Error::Option(format!(
            "`{whole_name}` names no data set: give `{PREFIX}ORG/NAME`, `{PREFIX}ORG/NAME/CONFIG`, with `@REVISION` after \
             it where one is wanted"
        )));
    };
    let Some(hub) = &sources.hub else {
        return Err(Error::Option(format!("`{whole_name}` is on the Hub, which is left out")));
    };
    let config = parsed.config.as_deref();
    let choose = |names: &[String]| {
        let all =
            shards_of(names, config).map_err(|message| Error::Option(format!("`{whole_name}` {message}")))?;
        let Some(number) = shards else { return Ok(all) };
        if number == 0 || number > all.len() {
            let refusal =
                Refusal::NumberOfShards { corpus: whole_name.clone(), shards: all.len(), asked: number };
            return Err(refusal.into());
        }
        // A shard's number says how many there are, so that the same ones are drawn with and without the network.
        let mut drawn = Vec::new();
        in_random_order(all.len(), number, &mut ChaCha8Rng::seed_from_u64(seed), |index| {
            drawn.push(all[index].clone());
            Ok::<_, Error>(true)
        })?;
        drawn.sort();
        Ok(drawn)
    };
    let is_whole = |names: &[String]| shards_of(names, config).is_ok_and(|shards| is_whole(&shards));
    let DataSetFiles { revision, paths, digests, .. } =
        hub.data_set(&parsed.hub, choose, is_whole, observer)?;
    let id = match config {
        Some(config) => format!("{PREFIX}{}/{config}", parsed.hub.id),
        None => format!("{PREFIX}{}", parsed.hub.id),
    };
    Ok(DataSet { id, revision, paths, files: digests })
}

/// The Parquet files of a configuration, those for training where there are several splits. The message where there are
/// none, or of several configurations none was named.
fn shards_of(names: &[String], config: Option<&str>) -> Result<Vec<String>, String> {
    let parquet: Vec<&String> = names.iter().filter(|name| name.ends_with(".parquet")).collect();
    if parquet.is_empty() {
        return Err("has no Parquet files".to_owned());
    }
    let configs: BTreeSet<&str> = parquet.iter().map(|name| config_of(name)).collect();
    let chosen = match config {
        Some(config) => config,
        None => match configs.iter().copied().collect::<Vec<_>>()[..] {
            [only] => only,
            _ => return Err(format!("comes in several parts: name one after it: {}", list(&configs))),
        },
    };
    let mut shards: Vec<String> =
        parquet.iter().filter(|name| config_of(name) == chosen).map(|name| (*name).clone()).collect();
    if shards.is_empty() {
        return Err(format!("has no part `{chosen}`; it has {}", list(&configs)));
    }
    let is_training = |name: &String| {
        let mut parts = name.rsplit('/');
        let file = parts.next().unwrap_or_default();
        file.starts_with("train") || parts.next() == Some("train")
    };
    if shards.iter().any(is_training) {
        shards.retain(is_training);
    }
    Ok(shards)
}

fn list(configs: &BTreeSet<&str>) -> String {
    const MOST: usize = 8;
    let names: Vec<String> = configs.iter().take(MOST).map(|name| format!("`{name}`")).collect();
    format!("{}{}", names.join(", "), if configs.len() > MOST { ", …" } else { "" })
}

/// The configuration of a file: the folder it is in, but for those that are named after their split, or `data`.
fn config_of(name: &str) -> &str {
    name.split('/')
        .rev()
        .skip(1)
        .find(|folder| !["data", "train", "test", "validation"].contains(folder))
        .unwrap_or("default")
}

/// True where the numbers in the shards' names, `train-00003-of-00041.parquet`, say that they are all there.
fn is_whole(shards: &[String]) -> bool {
    shards.iter().all(|name| {
        let Some((_, behind)) = name.rsplit_once("-of-") else { return true };
        let digits = behind.bytes().take_while(u8::is_ascii_digit).count();
        behind[..digits].parse().is_ok_and(|all: usize| all == shards.len())
    })
}
