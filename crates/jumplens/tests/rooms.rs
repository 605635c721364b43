//! The modules of the library know one another in one direction, and nothing of the command line.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The files below `src`, each with the module at the top that it belongs to.
fn sources(src: &Path) -> Vec<(String, PathBuf)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => walk(&path, found),
                false => found.push(path),
            }
        }
    }
    let mut found = Vec::new();
    walk(src, &mut found);
    let room = |path: &PathBuf| {
        let top = path.strip_prefix(src).unwrap().iter().next().unwrap();
        Path::new(top).file_stem().unwrap().to_str().unwrap().to_owned()
    };
    let rust = found.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    rust.map(|path| (room(&path), path)).filter(|(room, _)| room != "lib").collect()
}

/// What is compiled into the library: neither comments nor the tests at the end.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
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
    for src in ["src", "../jumplens-core/src"] {
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join(src);
        let mut uses = uses(&src);
        assert!(uses.len() > 3, "{}: {uses:?}", src.display());
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
        assert!(uses.is_empty(), "{}: these go in circles: {uses:#?}", src.display());
    }
}

/// What options are called is for programs to say: none is spelled out as a word of its own. (Some notes still mention one.)
#[test]
fn no_option_of_the_command_line_is_in_the_library() {
    for src in ["src", "../jumplens-core/src"] {
        for (_, path) in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(src)) {
            let code = code(&path);
            let named = code.match_indices("\"--").find(|(at, found)| {
                code[at + found.len()..].starts_with(|next: char| next.is_ascii_alphabetic())
            });
            assert!(named.is_none(), "{}: {:?}", path.display(), named.map(|(at, _)| &code[at..at + 20]));
        }
    }
}
