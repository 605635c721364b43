//! Where maps are kept: the files of a folder ([`Shortcuts`]), or memory.

use super::{LinearMap, Notes, Shortcuts};
use crate::words::Cast;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Maps between layers by cast, and of the parts of blocks.
pub trait MapStore: Sync {
    /// The casts whose maps are there, `mat` first, the others in the order of their names.
    fn casts(&self) -> Result<Vec<Cast>>;

    /// The target layers of the maps of `cast` from layer `from`, in rising order.
    fn targets(&self, cast: &Cast, from: usize) -> Result<Vec<usize>>;

    /// The maps of `cast` from layer `from` to those of the layers `to`, of states of width `d`.
    fn load(&self, cast: &Cast, from: usize, to: &[usize], d: usize) -> Result<BTreeMap<usize, LinearMap>>;

    /// Keeps the maps of `cast` from layer `from`, by target layer, with what is to be known of them.
    fn save(&self, cast: &Cast, from: usize, maps: BTreeMap<usize, LinearMap>, notes: &Notes) -> Result<()>;

    /// True where there are maps of parts.
    fn has_parts(&self) -> bool;

    /// The map of part `part` of block `layer`, of states of width `d`.
    fn load_part(&self, layer: usize, part: &str, d: usize) -> Result<LinearMap>;

    /// Keeps the maps of the parts of block `layer`, by part name.
    fn save_parts(&self, layer: usize, maps: BTreeMap<&str, LinearMap>) -> Result<()>;
}

impl MapStore for Shortcuts {
    fn casts(&self) -> Result<Vec<Cast>> {
        self.casts()
    }

    fn targets(&self, cast: &Cast, from: usize) -> Result<Vec<usize>> {
        self.cast(cast).targets(from)
    }

    fn load(&self, cast: &Cast, from: usize, to: &[usize], d: usize) -> Result<BTreeMap<usize, LinearMap>> {
        self.cast(cast).load_pairs(from, to, d)
    }

    fn save(&self, cast: &Cast, from: usize, maps: BTreeMap<usize, LinearMap>, notes: &Notes) -> Result<()> {
        self.cast(cast).save_pairs(from, &maps, notes)
    }

    fn has_parts(&self) -> bool {
        self.has_parts()
    }

    fn load_part(&self, layer: usize, part: &str, d: usize) -> Result<LinearMap> {
        self.load_part(layer, part, d)
    }

    fn save_parts(&self, layer: usize, maps: BTreeMap<&str, LinearMap>) -> Result<()> {
        self.save_parts(layer, &maps)
    }
}

/// Maps in memory.
#[derive(Debug, Default)]
pub struct MapsInMemory {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// In the order of the casts' names, by source layer, by target.
    pairs: BTreeMap<Cast, BTreeMap<usize, BTreeMap<usize, LinearMap>>>,
    parts: BTreeMap<(usize, String), LinearMap>,
}

impl MapsInMemory {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MapStore for MapsInMemory {
    fn casts(&self) -> Result<Vec<Cast>> {
        let mut casts: Vec<Cast> = self.held().pairs.keys().cloned().collect();
        casts.sort_by_key(|cast| *cast != Cast::MAT);
        Ok(casts)
    }

    fn targets(&self, cast: &Cast, from: usize) -> Result<Vec<usize>> {
        let held = self.held();
        let maps = held.pairs.get(cast).and_then(|maps| maps.get(&from));
        Ok(maps.map_or_else(Vec::new, |maps| maps.keys().copied().collect()))
    }

    fn load(&self, cast: &Cast, from: usize, to: &[usize], _d: usize) -> Result<BTreeMap<usize, LinearMap>> {
        let held = self.held();
        let maps = held.pairs.get(cast).and_then(|maps| maps.get(&from));
        let map = |to: &usize| {
            let map = maps.and_then(|maps| maps.get(to)).cloned();
            Ok((*to, map.ok_or_else(|| missing(&format!("`{cast}` from layer {from} to {to}")))?))
        };
        to.iter().map(map).collect()
    }

    fn save(&self, cast: &Cast, from: usize, maps: BTreeMap<usize, LinearMap>, _: &Notes) -> Result<()> {
        self.held().pairs.entry(cast.clone()).or_default().insert(from, maps);
        Ok(())
    }

    fn has_parts(&self) -> bool {
        !self.held().parts.is_empty()
    }

    fn load_part(&self, layer: usize, part: &str, _d: usize) -> Result<LinearMap> {
        let map = self.held().parts.get(&(layer, part.to_owned())).cloned();
        map.ok_or_else(|| missing(&format!("part `{part}` of block {layer}")))
    }

    fn save_parts(&self, layer: usize, maps: BTreeMap<&str, LinearMap>) -> Result<()> {
        let named = maps.into_iter().map(|(part, map)| ((layer, part.to_owned()), map));
        self.held().parts.extend(named);
        Ok(())
    }
}

fn missing(what: &str) -> Error {
    Error::Option(format!("no map of {what} was fitted"))
}
