//! What a lens is asked to read, and files of that.

use crate::files::{self, next_line};
use crate::{Error, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::BufReader;
use std::path::Path;

/// No line of a file may have more bytes.
const LONGEST: usize = 16 << 20;

/// One thing to read.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// A text.
    Text(String),
    /// Token ids, as they are.
    Ids(Vec<u32>),
    /// The messages of a chat, a list of objects with `role` and `content`.
    Chat(Value),
}

impl Prompt {
    /// What a user says in a chat, as its only message.
    pub fn said(text: &str) -> Self {
        Self::Chat(json!([{ "role": "user", "content": text }]))
    }
}

/// A prompt with the tokens that are to be looked for in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// What to read.
    pub prompt: Prompt,
    /// What to look for, beside what is looked for in all.
    pub targets: Vec<String>,
}

#[derive(Deserialize)]
struct Line {
    text: Option<String>,
    ids: Option<Vec<u32>>,
    messages: Option<Vec<Value>>,
    target: Option<Targets>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Targets {
    One(String),
    Several(Vec<String>),
}

/// Reads a file of prompts: of a `.jsonl` file each line is an object with `text`, `ids` or `messages`, and `target` where something
/// is to be looked for; of any other file each line is a text. Blank lines are passed over. [`Error::Sample`] names a line that is
/// none of these, [`Error::EmptyCorpus`] a file without any.
pub fn read_prompts(path: &Path) -> Result<Vec<Asked>> {
    let is_json = path.extension().is_some_and(|extension| extension == "jsonl" || extension == "json");
    let mut reader = BufReader::with_capacity(1 << 18, files::open(path)?);
    let (mut prompts, mut line, mut ended_by_cr) = (Vec::new(), Vec::new(), false);
    for number in 1.. {
        let fail = |message: String| Error::Sample { path: path.to_owned(), line: number, message };
        match next_line(&mut reader, &mut line, &mut ended_by_cr, LONGEST).map_err(Error::io("read", path))? {
            files::Found::Line => {}
            files::Found::End => break,
            files::Found::TooLong => return Err(fail(format!("longer than {} MB", LONGEST >> 20))),
        }
        let text = std::str::from_utf8(&line).map_err(|error| Error::NotUtf8 {
            path: path.to_owned(),
            place: format!("line {number}"),
            message: format!("not UTF-8 from byte {} of the line on", error.valid_up_to()),
        })?;
        if text.trim().is_empty() {
            continue;
        }
        prompts.push(match is_json {
            true => object(text).map_err(fail)?,
            false => Asked { prompt: Prompt::Text(text.to_owned()), targets: Vec::new() },
        });
    }
    if prompts.is_empty() {
        return Err(Error::EmptyCorpus { name: path.display().to_string() });
    }
    Ok(prompts)
}

fn object(line: &str) -> std::result::Result<Asked, String> {
    let Line { text, ids, messages, target } = serde_json::from_str(line)
        .map_err(|error| format!("not an object with `text`, `ids` or `messages`: {error}"))?;
    let prompt = match (text, ids, messages) {
        (Some(text), None, None) => Prompt::Text(text),
        (None, Some(ids), None) => Prompt::Ids(ids),
        (None, None, Some(messages)) => Prompt::Chat(messages.into()),
        _ => return Err("exactly one of `text`, `ids` and `messages` has to be there".to_owned()),
    };
    let targets = match target {
        None => Vec::new(),
        Some(Targets::One(target)) => vec![target],
        Some(Targets::Several(targets)) => targets,
    };
    Ok(Asked { prompt, targets })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_hold_texts_ids_and_chats() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompts.jsonl");
        let lines = "{\"text\": \" a \", \"target\": \" b\"}\n\n{\"ids\": [3, 4]}\r\n\
                     {\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"target\": [\"c\", \"d\"]}";
        std::fs::write(&path, lines).unwrap();
        let asked = read_prompts(&path).unwrap();
        let prompts: Vec<&Prompt> = asked.iter().map(|asked| &asked.prompt).collect();
        assert_eq!(prompts, [&Prompt::Text(" a ".into()), &Prompt::Ids(vec![3, 4]), &Prompt::said("x")]);
        assert_eq!(asked.iter().map(|asked| asked.targets.len()).collect::<Vec<_>>(), [1, 0, 2]);
        for (line, says) in [
            ("{}", "exactly one"),
            ("{\"text\": \"a\", \"ids\": [1]}", "exactly one"),
            ("[1]", "line 1"),
            ("{\"ids\": [-1]}", "not an object"),
            ("\n", "prompts.jsonl"),
        ] {
            std::fs::write(&path, line).unwrap();
            let message = read_prompts(&path).unwrap_err().to_string();
            assert!(message.contains(says), "{line}: {message}");
        }
        let path = folder.path().join("prompts.txt");
        std::fs::write(&path, "{\"text\": \"a\"}\r\n\n b \n").unwrap();
        let texts: Vec<Prompt> = read_prompts(&path).unwrap().into_iter().map(|asked| asked.prompt).collect();
        assert_eq!(texts, [Prompt::Text("{\"text\": \"a\"}".into()), Prompt::Text(" b ".into())]);
    }
}
