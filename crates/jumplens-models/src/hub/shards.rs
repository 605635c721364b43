//! Checkpoints in several files, and the index that says which tensor is in which.

use super::SourceFile;
use crate::error::{Error, Result};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

/// `model.safetensors.index.json` or `pytorch_model.bin.index.json`.
#[derive(Debug)]
pub struct ShardIndex {
    /// The file.
    pub file: SourceFile,
    /// The shard that each tensor is in, by the tensor's name; shards are paths from the index's folder.
    pub weight_map: BTreeMap<String, String>,
}

impl ShardIndex {
    /// Reads an index. [`Error::Format`] where it is damaged, names no shard, or names one outside its folder.
    pub fn open(path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let file = SourceFile::open(path)?;
        let Index { weight_map } = serde_json::from_slice(file.bytes()).map_err(Error::format(path))?;
        let fail = |message: String| Error::Format { path: path.to_owned(), message };
        // Backslashes and colons too: an index may be written on one system and read on another.
        let inside = |shard: &str| {
            let mut parts = Path::new(shard).components().peekable();
            parts.peek().is_some()
                && parts.all(|part| matches!(part, Component::Normal(_)))
                && !shard.contains(|c: char| c == '\\' || c == ':' || c.is_control())
        };
        if let Some((tensor, shard)) = weight_map.iter().find(|(_, shard)| !inside(shard)) {
            return Err(fail(format!(
                "the shard `{shard}` of tensor `{tensor}` is not a path inside the folder"
            )));
        }
        if weight_map.is_empty() {
            return Err(fail("its `weight_map` is empty".to_owned()));
        }
        Ok(Self { file, weight_map })
    }

    /// The shards, each once, sorted.
    pub fn shards(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }

    /// Opens the shards, in the order of [`ShardIndex::shards`]. [`Error::MissingShard`] names the first that is not
    /// there.
    pub fn open_shards(&self) -> Result<Vec<SourceFile>> {
        let index = &self.file.path;
        let open = |shard: &str| {
            let path = index.with_file_name(shard);
            if !path.exists() {
                return Err(Error::MissingShard { index: index.clone(), shard: shard.to_owned() });
            }
            SourceFile::open(&path)
        };
        self.shards().into_iter().map(open).collect()
    }
}
