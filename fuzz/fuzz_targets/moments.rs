//! Files of second-moment sums, one behind the other with [`NEXT`](jumplens_fuzz::NEXT) between them: each is opened, they
//! are added up, and maps are fitted from the total.
#![no_main]

use jumplens::moments::{MomentsFile, Shard, merge};
use jumplens::progress::Silent;
use jumplens::shards::fit_folder;
use jumplens::shortcut::{Fits, Pairs, Ridge};
use jumplens_fuzz::{NEXT, begin, bound, folder, limit, parts, seed, sound};
use std::fs;
use std::path::PathBuf;

/// Sums of all samples, and of two shares, with all pairs of layers and without.
fn write_seeds() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    for (pairs, name) in [(Pairs::All, "all"), (Pairs::ToFinal, "to-final")] {
        let moments = |index, of| {
            let path = folder.path().join("run");
            let sums = begin(&path, pairs, Some(Shard { index, of })).moments(&Silent);
            fs::read(sums.expect("a run has sums")).expect("they are there")
        };
        seed("moments", name, &moments(1, 1));
        seed("moments", &format!("{name}-shares"), &[moments(2, 2), moments(1, 2)].join(NEXT));
    }
}

const NAMES: [&str; 3] = ["0", "1", "2"];

libfuzzer_sys::fuzz_target!(
    init: write_seeds(),
    |bytes: &[u8]| {
        limit(2 * bound(bytes.len()));
        let parts: Vec<(&str, &[u8])> = NAMES.into_iter().zip(parts(bytes)).collect();
        let folder = folder(&parts);
        let paths: Vec<PathBuf> = parts.iter().map(|(name, _)| folder.join(name)).collect();
        let sums = folder.join("sums");
        if sound(merge(&paths, &sums, true, &Silent)).is_none() {
            return;
        }
        let merged = MomentsFile::open(&sums).expect("what was added up can be opened");
        let pairs = merged.record.manifest.fits.pairs;
        let fits = Fits { intercept: true, ridge: Some(Ridge::Auto), ranks: vec![1], ..Fits::plain(pairs) };
        sound(fit_folder(&merged, &fits, &folder.join("fitted"), true, &Silent));
    }
);
