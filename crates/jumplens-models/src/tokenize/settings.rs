//! What `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` say of a tokenizer, put together as
//! `PreTrainedTokenizerBase._from_pretrained` of `transformers` 4.49 does.

use super::class::{self, BASE, MadeOf, NAMED, Strings, TokenizerClass};
use crate::error::{Error, Result};
use crate::fields::Checked;
use crate::hub::{SourceFile, TokenizerFiles, Vocabulary};
use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use tokenizers::{AddedToken, Tokenizer};

/// A token that is to be in the vocabulary, and how it is found in a text.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Token {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    /// Whether it is looked for in the normalized text; left out, in that of tokens that are not special.
    normalized: Option<bool>,
    #[serde(default)]
    special: bool,
}

impl Token {
    fn new(content: &str, special: bool, normalized: Option<bool>) -> Self {
        let content = content.to_owned();
        Self { content, single_word: false, lstrip: false, rstrip: false, normalized, special }
    }

    fn added(&self) -> AddedToken {
        AddedToken::from(self.content.as_str(), self.special)
            .single_word(self.single_word)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
            .normalized(self.normalized.unwrap_or(!self.special))
    }
}

impl From<&AddedToken> for Token {
    fn from(token: &AddedToken) -> Self {
        Self {
            content: token.content.clone(),
            single_word: token.single_word,
            lstrip: token.lstrip,
            rstrip: token.rstrip,
            normalized: Some(token.normalized),
            special: token.special,
        }
    }
}

/// A special token in either of its two spellings: as a mere string, or with how it is found.
#[derive(Debug, Clone)]
enum Special {
    Plain(String),
    Full(Token),
}

impl Special {
    /// `None` for null.
    fn read(value: &Value) -> Result<Option<Self>, String> {
        match value {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(Self::Plain(text.clone()))),
            _ => {
                let mut token: Token =
                    serde_json::from_value(value.clone()).map_err(|error| error.to_string())?;
                // Without this mark it is spelled as in special_tokens_map.json, where all are special.
                token.special |= value.get("__type").is_none();
                Ok(Some(Self::Full(token)))
            }
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Plain(text) => text,
            Self::Full(token) => &token.content,
        }
    }
}

/// The values of an object in the order of the file, which a parsed one has lost: it is that of new tokens' ids.
struct Values(Vec<Value>);

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Values;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Values, A::Error> {
                let mut values = Vec::new();
                while let Some((_, value)) = map.next_entry::<IgnoredAny, Value>()? {
                    values.push(value);
                }
                Ok(Values(values))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// `tokenizer_config.json`, for [`Values`].
#[derive(Deserialize)]
struct ExtraTokens {
    extra_special_tokens: Values,
}

/// What the files beside a vocabulary say of its tokenizer.
pub(super) struct Settings {
    /// The tokenizer's class.
    pub class: &'static TokenizerClass,
    /// The file to name in a message: `tokenizer_config.json`, or another where there is none.
    pub path: PathBuf,
    fields: Checked,
    notes: Vec<String>,
    /// `added_tokens_decoder`; where there is one, `added_tokens.json` and `special_tokens_map.json` are not read.
    decoder: Option<BTreeMap<u32, Token>>,
    /// The tokens of `added_tokens.json` with their ids.
    added: BTreeMap<u32, String>,
    /// Special tokens that have a name, in order, and those of `extra_special_tokens`.
    named: Vec<(&'static str, Special)>,
    additional: Vec<Special>,
    extra: Vec<Special>,
}

impl Settings {
    /// Reads the files beside a vocabulary, for a model of that family. [`Error::Format`] where one is damaged;
    /// [`Error::Unread`] where a field, or the tokenizer's class, would change the tokens and is not read.
    pub fn read(files: &TokenizerFiles, family: &str) -> Result<Self> {
        let beside = [&files.config, &files.special_tokens_map, &files.added_tokens].into_iter().flatten();
        let path = beside.map(|file| &*file.path).next().unwrap_or(files.path()).to_owned();
        let fail = |field: &str, message: String| Error::format(&path)(format!("`{field}`: {message}"));

        let mut object: Map<String, Value> = parse(files.config.as_ref())?.unwrap_or_default();
        let name = object.get("tokenizer_class").and_then(Value::as_str).map(str::to_owned);
        let mut by_leave = None;
        let class = match name.or_else(|| files.class.clone()) {
            None => class::of_family(family),
            Some(name) => match class::named(&name) {
                Some(class) => class,
                None if files.allow_unread.allows("tokenizer_class") => {
                    by_leave = Some(format!("not read, as allowed: `tokenizer_class` (\"{name}\")"));
                    &BASE
                }
                None => {
                    return Err(Error::Unread {
                        path,
                        field: "tokenizer_class".to_owned(),
                        value: format!("\"{name}\""),
                        default: format!("\"{}Fast\"", BASE.fields.name),
                    });
                }
            },
        };
        if !matches!(files.vocabulary, Vocabulary::Json(_)) {
            // They choose other files than tokenizer.json, which is not there.
            ["from_slow", "fast_tokenizer_files"].iter().for_each(|name| drop(object.remove(*name)));
        }
        // Where the configuration has them all, the older files do not count.
        let has_decoder = object.get("added_tokens_decoder").is_some_and(|value| !value.is_null());
        let mut added = BTreeMap::new();
        if !has_decoder {
            let map: Map<String, Value> = parse(files.special_tokens_map.as_ref())?.unwrap_or_default();
            for (name, value) in map {
                let value = match (&*name, value) {
                    ("additional_special_tokens" | "extra_special_tokens", Value::Array(more)) => {
                        let mut all =
                            object.get(&name).and_then(Value::as_array).cloned().unwrap_or_default();
                        all.extend(more);
                        Value::Array(all)
                    }
                    (_, value) => value,
                };
                object.insert(name, value);
            }
            let tokens: HashMap<String, u32> = parse(files.added_tokens.as_ref())?.unwrap_or_default();
            added = tokens.into_iter().map(|(token, id)| (id, token)).collect();
        }
        let fields = class.fields.check(&path, object, &files.allow_unread)?;
        let notes = fields.notes().into_iter().chain(by_leave).collect();

        let read = |name: &str| match fields.values.get(name) {
            Some(value) => Special::read(value).map_err(|message| fail(name, message)),
            None => Ok(None),
        };
        let mut named = Vec::new();
        for name in NAMED {
            if let Some(token) = read(name)? {
                named.push((name, token));
            }
        }
        let specials = |name: &str, values: &[Value]| -> Result<Vec<Special>> {
            let tokens = values.iter().map(|value| Special::read(value).map_err(|error| fail(name, error)));
            Ok(tokens.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
        };
        let mut additional = match fields.values.get("additional_special_tokens") {
            Some(Value::Array(values)) => specials("additional_special_tokens", values)?,
            _ => Vec::new(),
        };
        for name in class.more_special {
            additional.extend(read(name)?);
        }
        let extra = match fields.values.get("extra_special_tokens") {
            Some(Value::Object(_)) => {
                let values = parse::<ExtraTokens>(files.config.as_ref())?;
                let values = values.map_or_else(Vec::new, |file| file.extra_special_tokens.0);
                specials("extra_special_tokens", &values)?
            }
            Some(Value::Array(values)) => specials("extra_special_tokens", values)?,
            _ => Vec::new(),
        };
        let decoder = match fields.values.get("added_tokens_decoder") {
            Some(Value::Null) | None => None,
            Some(value) => Some(
                serde_json::from_value(value.clone())
                    .map_err(|error| fail("added_tokens_decoder", error.to_string()))?,
            ),
        };
        Ok(Self { class, path, fields, notes, decoder, added, named, additional, extra })
    }

    /// One line each: what went unread by leave, and which fields the class does not have.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// True where one of the files has a field of that name.
    pub fn says(&self, name: &str) -> bool {
        self.fields.says(name)
    }

    /// What is to be done about `name`; `None` where the class has no such field, or it is null.
    pub fn is(&self, name: &str) -> Option<bool> {
        self.fields.values.get(name).and_then(Value::as_bool)
    }

    /// The special token that is called `name`: `bos_token`, ….
    pub fn special(&self, name: &str) -> Option<&str> {
        self.named.iter().find(|(named, _)| *named == name).map(|(_, token)| token.text())
    }

    /// The special tokens that have a name, by it.
    pub fn specials(&self) -> BTreeMap<String, String> {
        self.named.iter().map(|(name, token)| ((*name).to_owned(), token.text().to_owned())).collect()
    }

    /// True where the files add `token` to the vocabulary under an id.
    pub fn adds(&self, token: &str) -> bool {
        let decoder = self.decoder.iter().flat_map(BTreeMap::values);
        decoder.map(|token| &token.content).chain(self.added.values()).any(|added| added == token)
    }

    /// The special tokens that the class adds to `inner` of itself: no file has them.
    pub fn unnamed(&self, inner: &Tokenizer) -> Vec<String> {
        let named = self.named.iter().filter(|(name, _)| !self.says(name)).map(|(_, token)| token.text());
        let named = named.filter(|token| inner.token_to_id(token).is_none() && !self.adds(token));
        named.map(str::to_owned).collect()
    }

    /// Fails where the class is not made of `file`.
    pub fn made_of(&self, file: &SourceFile, any: &[MadeOf]) -> Result<()> {
        if any.contains(&self.class.made_of) {
            return Ok(());
        }
        let name = self.class.fields.name;
        Err(Error::Config {
            path: file.path.clone(),
            message: format!(
                "`{name}`, the tokenizer's class, is not made of such a file, but of a tokenizer.json"
            ),
        })
    }

    /// The tokens that `PreTrainedTokenizerFast.__init__` adds to a tokenizer, in order. `own` are those that its
    /// tokenizer.json has added, with their ids; none where it is made of another file.
    pub fn tokens(&self, own: &BTreeMap<u32, AddedToken>) -> Vec<AddedToken> {
        // The ids order the tokens and do nothing else: each gets the one that the vocabulary has for it, or the next.
        let mut listed: BTreeMap<u32, Token> = BTreeMap::new();
        let mut full: HashMap<&str, Token> = HashMap::new();
        match &self.decoder {
            Some(decoder) => {
                full.extend(decoder.values().map(|token| (&*token.content, token.clone())));
                listed.extend(decoder.iter().map(|(id, token)| (*id, token.clone())));
            }
            None => {
                let named = self.named.iter().filter(|(name, _)| self.says(name)).map(|(_, token)| token);
                let special: HashSet<&str> = named.chain(&self.additional).map(Special::text).collect();
                for (id, token) in &self.added {
                    let special = special.contains(&**token);
                    listed.insert(*id, Token::new(token, special, Some(!special)));
                }
                full.extend(own.values().map(|token| (&*token.content, token.into())));
                listed.extend(own.iter().map(|(id, token)| (*id, token.into())));
            }
        }
        let named = self.named.iter().map(|(name, token)| match full.get(token.text()) {
            Some(full) if self.says(name) => Special::Full(full.clone()),
            _ => self.spelled_out(name, token),
        });
        let mut seen = HashSet::new();
        let special: Vec<Special> = named
            .chain(self.additional.iter().chain(&self.extra).cloned())
            .filter(|token| seen.insert(token.text().to_owned()))
            .collect();

        let mut tokens: Vec<Token> = listed.into_values().collect();
        let there: Vec<AddedToken> = tokens.iter().map(Token::added).collect();
        for token in &special {
            match token {
                Special::Plain(text) => {
                    let known = there.iter().chain(own.values()).any(|token| token.content == *text);
                    if !known {
                        tokens.push(Token::new(text, true, None));
                    }
                }
                // Such a one counts even where another of the same text is there.
                Special::Full(token) if !there.contains(&token.added()) => tokens.push(token.clone()),
                Special::Full(_) => {}
            }
        }
        let is_special = |token: &Token| special.iter().any(|special| special.text() == token.content);
        tokens.iter_mut().for_each(|token| token.special |= is_special(token));
        tokens.iter().map(Token::added).collect()
    }

    /// A named token as the class understands a mere string.
    fn spelled_out(&self, name: &str, token: &Special) -> Special {
        let Special::Plain(text) = token else { return token.clone() };
        match self.class.strings {
            Strings::BeforeNormalization
                if ["bos_token", "eos_token", "unk_token", "pad_token"].contains(&name) =>
            {
                Special::Full(Token::new(text, true, Some(false)))
            }
            Strings::MaskTakesSpace if name == "mask_token" => {
                Special::Full(Token { lstrip: true, ..Token::new(text, false, Some(false)) })
            }
            _ => token.clone(),
        }
    }
}

/// The JSON file, where there is one.
fn parse<T: DeserializeOwned>(file: Option<&SourceFile>) -> Result<Option<T>> {
    file.map(|file| serde_json::from_slice(file.bytes()).map_err(Error::format(&file.path))).transpose()
}
