//! The modules of the library know one another in one direction, and nothing of the command line.

use jumplens::shortcut::{Fits, Pairs, Ridge};
use jumplens::store::Stage;
use jumplens::words::{BlockCast, Cast, DerivativeCast};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The files below `src` that programs are made of.
fn files(src: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(src).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    let is_code = |path: &PathBuf| {
        let own = path.file_name() != Some("tests.rs".as_ref())
            && !path.components().any(|part| part.as_os_str() == "uplot");
        own && path.extension().is_some_and(|extension| extension == "rs" || extension == "js")
    };
    found.into_iter().filter(is_code).collect()
}

const LIBRARIES: [&str; 4] = ["jumplens-core", "jumplens-models", "jumplens-data", "jumplens"];

/// The sources of a crate.
fn source_of(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(name).join("src")
}

/// The sources below `src`, each with the module at the top that it belongs to.
fn sources(src: &Path) -> Vec<(String, PathBuf)> {
    let room = |path: &PathBuf| {
        let top = path.strip_prefix(src).unwrap().iter().next().unwrap();
        Path::new(top).file_stem().unwrap().to_str().unwrap().to_owned()
    };
    let rust =
        files(src).into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    rust.map(|path| (room(&path), path)).filter(|(room, _)| room != "lib").collect()
}

/// What is compiled into the library: neither comments nor the tests at the end.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Which module uses which.
fn uses(src: &Path) -> BTreeMap<String, BTreeSet<String>> {
    // What stands at the top of the crate, and where it is from.
    let at_the_top =
        [("Error", "error"), ("Result", "error"), ("manifest", "store"), ("AllowUnread", "fields")];
    let sources = sources(src);
    let rooms: BTreeSet<String> = sources.iter().map(|(room, _)| room.clone()).collect();
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (room, path) in &sources {
        let code = code(path);
        for used in code.split("crate::").skip(1) {
            let word: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let word =
                at_the_top.iter().find(|(name, _)| *name == word).map_or(word, |(_, from)| (*from).into());
            if rooms.contains(&word) && word != *room {
                uses.entry(room.clone()).or_default().insert(word);
            }
        }
    }
    uses
}

#[test]
fn modules_use_one_another_in_one_direction() {
    for name in LIBRARIES.into_iter().chain(["jumplens-cli"]) {
        let src = source_of(name);
        let rooms: BTreeSet<String> = sources(&src).into_iter().map(|(room, _)| room).collect();
        assert!((1..=25).contains(&rooms.len()), "{name} has {} rooms", rooms.len());
        let mut uses = uses(&src);
        assert!(uses.len() > 2 || rooms.len() <= 2, "{name}: {uses:?}");
        // Whoever uses nobody that is left goes, until all have gone.
        loop {
            let done: Vec<String> = uses
                .iter()
                .filter(|(_, used)| used.iter().all(|used| !uses.contains_key(used)))
                .map(|(room, _)| room.clone())
                .collect();
            if done.is_empty() {
                break;
            }
            done.iter().for_each(|room| drop(uses.remove(room)));
        }
        assert!(uses.is_empty(), "{name}: these go in circles: {uses:#?}");
    }
}

/// What options are called is for programs to say: none is spelled out, as a word of its own or in a message.
#[test]
fn no_option_of_the_command_line_is_in_the_library() {
    for name in LIBRARIES {
        for (_, path) in sources(&source_of(name)) {
            let code = code(&path);
            for begin in ["\"--", "`--"] {
                let named = code.match_indices(begin).find(|(at, found)| {
                    code[at + found.len()..].starts_with(|next: char| next.is_ascii_alphabetic())
                });
                assert!(named.is_none(), "{}: {:?}", path.display(), named.map(|(at, _)| &code[at..][..20]));
            }
        }
    }
}

/// What casts and stages are called.
fn names() -> Vec<String> {
    let fits = Fits { intercept: true, ridge: Some(Ridge::Auto), ranks: vec![8], ..Fits::plain(Pairs::All) };
    let maps = fits.casts().into_iter();
    let casts = [Cast::Id, Cast::Mean, Cast::Tuned]
        .into_iter()
        .chain(maps)
        .chain(BlockCast::ALL.map(Cast::Blocks))
        .chain(DerivativeCast::ALL.map(Cast::Derivative));
    casts.map(|cast| cast.to_string()).chain(Stage::ALL.map(|stage| stage.to_string())).collect()
}

/// Where the same letters stand for something else.
const OTHERS: [(&str, &str, &str); 12] = [
    ("id", "jumplens-models/src/gguf/convert.rs", "a key of tokenizer.json"),
    ("id", "jumplens-models/src/gguf/tokenizer.rs", "a key of tokenizer.json"),
    ("id", "jumplens-models/src/tokenize/adapt.rs", "a key of tokenizer.json"),
    ("id", "jumplens-data/src/corpus/dump.rs", "an element of a dump"),
    ("r2", "jumplens/src/plot/mod.rs", "a figure"),
    ("r2", "jumplens/src/plot/overlay.rs", "a figure"),
    ("r2", "jumplens/src/plot/r2.rs", "a measure"),
    ("r2", "jumplens/src/report/page.js", "a column of the tables"),
    ("r2", "jumplens-cli/src/commands/shortcuts/inspect.rs", "a key of what it prints"),
    ("samples", "jumplens/src/run/evaluation.rs", "a unit of progress"),
    ("states", "jumplens/src/states/mod.rs", "the tensor of a state file"),
    ("states", "jumplens-cli/src/commands/info.rs", "what takes room on disk"),
];

#[test]
fn names_of_casts_and_stages_stand_in_one_place_each() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let homes = ["jumplens-core/src/cast.rs", "jumplens-models/src/words/stage.rs"].map(Path::new);
    let mut left: Vec<(&str, &str, &str)> = OTHERS.to_vec();
    let mut found = Vec::new();
    for name in LIBRARIES.into_iter().chain(["jumplens-cli"]) {
        for path in files(&source_of(name)) {
            let code = code(&path);
            let path = path.strip_prefix(crates).unwrap();
            let quotes = if path.extension().unwrap() == "js" { "\"'`" } else { "\"" };
            for name in names() {
                let is_there = quotes.chars().any(|quote| code.contains(&format!("{quote}{name}{quote}")));
                if !is_there || homes.contains(&path) {
                    continue;
                }
                let is_another =
                    |(other, at, _): &(&str, &str, &str)| *other == name && Path::new(at) == path;
                if !OTHERS.iter().any(is_another) {
                    found.push(format!("{}: {name}", path.display()));
                }
                left.retain(|other| !is_another(other));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
    assert!(left.is_empty(), "these are no more: {left:#?}");
}
