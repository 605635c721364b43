//! The files of a tokenizer: what has its vocabulary, and what `transformers` reads beside that.

use super::SourceFile;
use crate::error::Result;
use crate::fields::AllowUnread;
use crate::files::sha256;
use std::path::Path;

/// The file, or files, that have a tokenizer's vocabulary.
#[derive(Debug)]
pub enum Vocabulary {
    /// `tokenizer.json`.
    Json(SourceFile),
    /// GPT-2's own.
    BytePairs {
        /// `vocab.json`: the id of every token.
        vocabulary: SourceFile,
        /// `merges.txt`: one pair a line, the first to be merged first.
        merges: SourceFile,
    },
    /// BERT's own, `vocab.txt`: one token a line.
    WordPiece(SourceFile),
    /// A GGUF file, which has the tokenizer in its metadata.
    Gguf(SourceFile),
}

/// The files of a tokenizer.
#[derive(Debug)]
pub struct TokenizerFiles {
    /// What has the vocabulary.
    pub vocabulary: Vocabulary,
    /// `tokenizer_config.json`: what the tokenizer's class is to be told.
    pub config: Option<SourceFile>,
    /// `added_tokens.json`: tokens that were added to the vocabulary, with their ids.
    pub added_tokens: Option<SourceFile>,
    /// `special_tokens_map.json`: which tokens are special, and what for.
    pub special_tokens_map: Option<SourceFile>,
    /// `chat_template.jinja`: how a chat becomes a text. No token of a text depends on it, and [`files`](Self::files) leaves it out.
    pub chat_template: Option<SourceFile>,
    /// `tokenizer_class` of the model's `config.json`, which counts where `tokenizer_config.json` names none.
    pub class: Option<String>,
    /// Which fields of these files may go unread, and which did.
    pub allow_unread: AllowUnread,
}

/// What may lie beside a vocabulary, in the order of [`TokenizerFiles::files`].
pub(super) const COMPANIONS: [&str; 3] =
    ["tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"];

/// Lies beside a vocabulary where chats have a template of their own file.
pub(super) const CHAT_TEMPLATE: &str = "chat_template.jinja";

impl From<Vocabulary> for TokenizerFiles {
    /// A vocabulary with nothing beside it.
    fn from(vocabulary: Vocabulary) -> Self {
        Self {
            vocabulary,
            config: None,
            added_tokens: None,
            special_tokens_map: None,
            chat_template: None,
            class: None,
            allow_unread: AllowUnread::default(),
        }
    }
}

impl TokenizerFiles {
    /// The files in `folder`, where it has any.
    pub(super) fn find(folder: &Path) -> Result<Option<Self>> {
        let open = |name: &str| {
            let path = folder.join(name);
            path.exists().then(|| SourceFile::open(&path)).transpose()
        };
        let vocabulary = match &names(|name| folder.join(name).exists())[..] {
            ["vocab.txt"] => open("vocab.txt")?.map(Vocabulary::WordPiece),
            ["vocab.json", "merges.txt"] => open("vocab.json")?
                .zip(open("merges.txt")?)
                .map(|(vocabulary, merges)| Vocabulary::BytePairs { vocabulary, merges }),
            ["tokenizer.json"] => open("tokenizer.json")?.map(Vocabulary::Json),
            _ => None,
        };
        let Some(vocabulary) = vocabulary else { return Ok(None) };
        let [config, added_tokens, special_tokens_map] = COMPANIONS.map(open);
        Ok(Some(Self {
            config: config?,
            added_tokens: added_tokens?,
            special_tokens_map: special_tokens_map?,
            chat_template: open(CHAT_TEMPLATE)?,
            ..Self::from(vocabulary)
        }))
    }

    /// The path of the file that has the vocabulary.
    pub fn path(&self) -> &Path {
        &self.files()[0].path
    }

    /// The files, the one that has the vocabulary first.
    pub fn files(&self) -> Vec<&SourceFile> {
        let vocabulary = match &self.vocabulary {
            Vocabulary::Json(file) | Vocabulary::Gguf(file) | Vocabulary::WordPiece(file) => vec![file],
            Vocabulary::BytePairs { vocabulary, merges } => vec![vocabulary, merges],
        };
        let beside = [&self.config, &self.added_tokens, &self.special_tokens_map];
        vocabulary.into_iter().chain(beside.into_iter().flatten()).collect()
    }

    /// Lower-case hexadecimal SHA-256 of the file, or where there are several of all of them one behind the other.
    pub fn sha256(&self) -> String {
        match &self.files()[..] {
            [file] => file.sha256(),
            files => sha256(&files.iter().flat_map(|file| file.bytes()).copied().collect::<Vec<u8>>()),
        }
    }
}

/// The names of the files that have the vocabulary, those that are preferred among the ones that there are.
pub(super) fn names(is_there: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let kinds: [&[&str]; 3] = [&["tokenizer.json"], &["vocab.json", "merges.txt"], &["vocab.txt"]];
    let kind = kinds.into_iter().find(|names| names.iter().all(|name| is_there(name)));
    kind.unwrap_or_default().to_vec()
}
