//! What README, the documentation, the help and the messages say: plain words, and links that lead somewhere.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Words that a reader of this field stops at, and what to write instead.
const STRANGE: &[(&str, &str)] = &[
    ("reckon", "compute, count, include"),
    ("reckons", "computes"),
    ("reckoned", "computed, included"),
    ("for want of", "without, since there is no"),
    ("whither", "where to"),
    ("whence", "where from"),
    ("hither", "here"),
    ("thither", "there"),
    ("hitherto", "so far"),
    ("henceforth", "from now on"),
    ("thereof", "of it"),
    ("therein", "in it"),
    ("thereto", "to it"),
    ("thereupon", "then"),
    ("whereof", "of which"),
    ("wherein", "in which"),
    ("whereby", "by which"),
    ("whereupon", "then"),
    ("wherewith", "with which"),
    ("herein", "here"),
    ("hereof", "of this"),
    ("hereby", "by this"),
    ("lest", "so that … not"),
    ("anew", "again"),
    ("heed", "read, use"),
    ("heeds", "reads, uses"),
    ("heeded", "read, used"),
    ("mend", "fix"),
    ("mends", "fixes"),
    ("mended", "fixed"),
    ("amiss", "wrong"),
    ("aright", "rightly"),
    ("naught", "nothing"),
    ("nought", "nothing"),
    ("forthwith", "at once"),
    ("erstwhile", "former"),
    ("albeit", "though"),
    ("whilst", "while"),
    ("amongst", "among"),
    ("betwixt", "between"),
    ("withal", "with it"),
    ("unasked", "without being asked"),
    ("beside", "next to, compared with, in addition to, apart from"),
    ("but for", "except for, without"),
    ("save for", "except for"),
    ("need be", "have to be; where necessary"),
    ("in the place of", "instead of"),
    ("held against", "compared with, checked against"),
    ("holds against", "compares with"),
    ("hold against", "compare with"),
    ("passed over", "skipped, ignored"),
    ("gone on with", "continued, resumed"),
    ("shared out", "divided, spread"),
    ("by leave", "as allowed"),
    ("at home there", "meant for"),
    ("behind it", "after it"),
    ("behind the end", "after the end"),
    ("behind the name", "after the name"),
    ("behind the final norm", "after the final norm"),
    ("stands neither", "there is neither"),
    ("of today", "current"),
    ("dwarf", "be far larger than"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The strange words of `text`, each with the line that it is in.
fn strange(text: &str) -> Vec<String> {
    // Words with one space between, so that a phrase may go over the end of a line; the places where lines end are kept.
    let mut words: Vec<(String, usize)> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let parts = line.split(|c: char| !c.is_alphanumeric() && c != '\'' && c != '’' && c != '-');
        words.extend(parts.filter(|word| !word.is_empty()).map(|word| (word.to_lowercase(), number + 1)));
    }
    let mut found = Vec::new();
    for (phrase, instead) in STRANGE {
        let parts: Vec<&str> = phrase.split(' ').collect();
        for window in words
            .windows(parts.len())
            .filter(|window| window.iter().zip(&parts).all(|((word, _), part)| word == part))
        {
            found.push(format!("line {}: `{phrase}` (instead: {instead})", window[0].1));
        }
    }
    found
}

/// README and the pages of the documentation, by their paths.
fn pages() -> Vec<PathBuf> {
    let root = root();
    let mut pages = vec![root.join("README.md"), root.join("CHANGELOG.md")];
    for folder in ["docs", "tools", "crates/jumplens-core", "crates/jumplens-models", "crates/jumplens-data"]
    {
        let files = fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        pages.extend(files.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    assert!(pages.len() > 20, "{pages:?}");
    pages
}

#[test]
fn a_reader_of_the_field_stops_at_no_word_of_the_pages() {
    let strange: Vec<String> = pages()
        .iter()
        .flat_map(|page| {
            let text = fs::read_to_string(page).unwrap();
            strange(&text).into_iter().map(|found| format!("{}: {found}", page.display())).collect::<Vec<_>>()
        })
        .collect();
    assert!(strange.is_empty(), "{strange:#?}");
    // It can be found.
    assert_eq!(self::strange("for\nwant of samples, it fits anew").len(), 2);
}

#[test]
fn nor_of_the_help() {
    let at = tempfile::tempdir().unwrap();
    let help = |args: &[&str]| common::succeed(at.path(), &[args, &["--help"]].concat());
    let mut texts = vec![(String::new(), help(&[]))];
    let commands = |text: &str| -> Vec<String> {
        let list = text.split("Commands:\n").nth(1).unwrap_or_default();
        let lines = list.lines().take_while(|line| !line.trim().is_empty());
        let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
        names.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
    };
    for command in commands(&texts[0].1) {
        if command == "help" {
            continue;
        }
        let text = help(&[&command]);
        for part in commands(&text).iter().filter(|part| *part != "help") {
            texts.push((format!("{command} {part}"), help(&[&command, part])));
        }
        texts.push((command, text));
    }
    assert!(texts.len() > 15, "{}", texts.len());
    let strange: Vec<String> = texts
        .iter()
        .flat_map(|(command, text)| strange(text).into_iter().map(move |found| format!("{command}: {found}")))
        .collect();
    assert!(strange.is_empty(), "{strange:#?}");
}

/// The texts in quotes of the sources that programs are made of.
fn quoted(source: &str) -> String {
    let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let mut texts = String::new();
    let (mut is_text, mut chars) = (false, code.chars().peekable());
    let mut before = '\n';
    while let Some(c) = chars.next() {
        match c {
            '\\' if is_text => {
                // A line that is broken goes on behind the spaces of the next one.
                if chars.next() == Some('\n') {
                    while chars.peek().is_some_and(|c| c.is_whitespace()) {
                        chars.next();
                    }
                } else {
                    texts.push(' ');
                }
            }
            '"' if is_text => {
                is_text = false;
                texts.push('\n');
            }
            '"' if before != '\'' => is_text = true,
            '/' if !is_text && chars.peek() == Some(&'/') => {
                chars.by_ref().find(|c| *c == '\n');
            }
            c if is_text => texts.push(c),
            _ => {}
        }
        before = c;
    }
    texts
}

#[test]
fn nor_of_the_messages() {
    fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    for name in ["core", "models", "data", "cli", "python"] {
        sources(&root().join("crates").join(format!("jumplens-{name}")).join("src"), &mut found);
    }
    sources(&root().join("crates/jumplens/src"), &mut found);
    assert!(found.len() > 150, "{}", found.len());
    let strange: Vec<String> = found
        .iter()
        .flat_map(|path| {
            let texts = quoted(&fs::read_to_string(path).unwrap());
            strange(&texts)
                .into_iter()
                .map(|found| format!("{}: {found}", path.display()))
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(strange.is_empty(), "{strange:#?}");
    assert_eq!(quoted("f(\"a \\\n    b\"); // \"c\"\nlet d = '\"'; g(\"e\\\"f\")"), "a b\ne f\n");
}

/// As GitHub makes an anchor of a heading.
fn anchor(heading: &str) -> String {
    let text: String = heading.to_lowercase().replace(' ', "-");
    text.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
}

#[test]
fn links_of_the_pages_lead_somewhere() {
    let anchors = |text: &str| -> BTreeSet<String> {
        let mut is_code = false;
        let mut found = BTreeSet::new();
        for line in text.lines() {
            is_code ^= line.starts_with("```");
            if !is_code && line.starts_with('#') {
                // A link in a heading counts by its text.
                let heading = line.trim_start_matches('#').trim();
                found.insert(anchor(heading));
            }
        }
        found
    };
    let mut broken = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap();
            if target.contains("://") || target.starts_with("mailto:") || target.contains([' ', '`']) {
                continue;
            }
            let (file, part) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            let Ok(path) = path.canonicalize() else {
                broken.push(format!("{}: no `{target}`", page.display()));
                continue;
            };
            if !part.is_empty() && !anchors(&fs::read_to_string(&path).unwrap()).contains(part) {
                broken.push(format!("{}: no heading for `{target}`", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// What a reader of README has to come to first: how to install it, a run, and what it does not do.
#[test]
fn readme_has_the_tutorial_first_and_the_limits_near_the_top() {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    let line = |heading: &str| {
        let heading = format!("## {heading}");
        text.lines().position(|line| line == heading).unwrap_or_else(|| panic!("no `{heading}`"))
    };
    let order =
        ["Install", "A whole run", "Known limits", "The lens", "Your own model", "Documentation"].map(line);
    assert!(order.is_sorted(), "{order:?}");
    assert!(line("Known limits") < 80, "{}", line("Known limits"));
    assert!(text.lines().count() < 260, "the reference goes to docs/");
}
