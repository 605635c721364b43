//! A tokenizer with what its [`Settings`] say, as the `__init__` of its class in `transformers` 4.49 applies it.

use super::class::{MadeOf, PrefixSpace};
use super::growth::Growth;
use super::settings::Settings;
use crate::error::{Error, Result};
use crate::fields::AllowUnread;
use serde_json::{Map, Value, json};
use std::path::Path;
use tokenizers::normalizers::{BertNormalizer, NormalizerWrapper};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{PostProcessorWrapper, Tokenizer};

/// The fields that BERT's normalizer is set by.
const NORMALIZER: [&str; 3] = ["do_lower_case", "tokenize_chinese_chars", "strip_accents"];

/// Applies `settings` to the tokenizer of the file `path`. Gives what a user should know, a line each, about what a
/// tokenizer.json alone would have done otherwise.
pub(super) fn adapt(
    inner: &mut Tokenizer,
    settings: &Settings,
    path: &Path,
    is_json: bool,
    growth: &Growth,
    allowed: &AllowUnread,
) -> Result<Vec<String>> {
    let mut notes = settings.notes().to_vec();
    if is_json {
        notes.extend(set_normalizer(inner, settings, path)?);
        notes.extend(set_prefix_space(inner, settings, allowed)?);
    }
    let own =
        if is_json { inner.get_added_tokens_decoder().into_iter().collect() } else { Default::default() };
    let tokens = settings.tokens(&own);
    tokens.iter().try_for_each(|token| growth.check(&token.content))?;
    inner.add_tokens(tokens).map_err(Error::format(&settings.path))?;
    inner.set_encode_special_tokens(settings.is("split_special_tokens") == Some(true));

    let before = around(inner, path)?;
    if let Some((first, last)) = template(settings, is_json)? {
        let processor = processor(inner, first, last)?;
        inner.with_post_processor(Some(processor));
    }
    let after = around(inner, path)?;
    if is_json && before != after {
        let name = settings.class.fields.name;
        let says = |ids: &[u32]| match ids {
            [] => "nothing".to_owned(),
            ids => {
                let names = ids.iter().map(|id| inner.id_to_token(*id).unwrap_or_else(|| id.to_string()));
                format!("`{}`", names.collect::<Vec<_>>().join("` and `"))
            }
        };
        let switch = |name| if settings.is(name) == Some(true) { "true" } else { "false" };
        notes.push(format!(
            "`add_bos_token` is {} and `add_eos_token` {} for `{name}`: {} around every text, as in transformers 4. \
             `{}` by itself puts {} there; transformers 5 does not read the two next to it",
            switch("add_bos_token"),
            switch("add_eos_token"),
            says(&after),
            path.display(),
            says(&before),
        ));
    }
    if is_json && !settings.class.sets_template && settings.is("add_bos_token") == Some(true) {
        notes.push(format!(
            "`add_bos_token` is true, and `{}` leaves the tokens around a text to `{}`",
            settings.class.fields.name,
            path.display()
        ));
    }
    Ok(notes)
}

/// The ids around every text.
fn around(inner: &Tokenizer, path: &Path) -> Result<Vec<u32>> {
    let encoding = crate::caught::caught(path, || inner.encode_fast("", true))?;
    Ok(encoding.get_ids().to_vec())
}

/// BERT's classes set the normalizer to what their fields say, or to its defaults, whatever tokenizer.json has.
fn set_normalizer(inner: &mut Tokenizer, settings: &Settings, path: &Path) -> Result<Option<String>> {
    let (Some(lowercase), Some(chinese)) = (settings.is(NORMALIZER[0]), settings.is(NORMALIZER[1])) else {
        return Ok(None);
    };
    let accents = settings.is(NORMALIZER[2]);
    let said = || NORMALIZER.into_iter().filter(|name| settings.says(name)).map(|name| format!("`{name}`"));
    let said = said().collect::<Vec<_>>().join(", ");
    match inner.get_normalizer() {
        Some(NormalizerWrapper::BertNormalizer(own)) => {
            let had = [
                ("lowercase", Some(own.lowercase), Some(lowercase)),
                ("handle_chinese_chars", Some(own.handle_chinese_chars), Some(chinese)),
                ("strip_accents", own.strip_accents, accents),
            ];
            let word = |value: Option<bool>| value.map_or("null".to_owned(), |value| value.to_string());
            let changed: Vec<String> = had
                .into_iter()
                .filter(|(_, had, is)| had != is)
                .map(|(name, had, is)| {
                    format!("`{name}` of its normalizer is {} instead of {}", word(is), word(had))
                })
                .collect();
            if changed.is_empty() {
                return Ok(None);
            }
            let set = BertNormalizer::new(own.clean_text, chinese, accents, lowercase);
            inner.with_normalizer(Some(set)).map_err(Error::format(path))?;
            let why = if said.is_empty() {
                format!(
                    "the defaults of `{}`, since no tokenizer_config.json says otherwise",
                    settings.class.fields.name
                )
            } else {
                format!("{said} in `{}`", settings.path.display())
            };
            Ok(Some(format!("`{}`: {}, by {why}", path.display(), changed.join(", "))))
        }
        Some(_) if said.is_empty() => Ok(None),
        Some(_) => Ok(Some(format!(
            "`{}` has another normalizer than BERT's, which {said} cannot set",
            path.display()
        ))),
        None if said.is_empty() => Ok(Some(format!(
            "`{}` has no normalizer: texts are taken as they are, where transformers 5 lower-cases them",
            path.display()
        ))),
        None => Err(Error::Config {
            path: path.to_owned(),
            message: format!("there is no normalizer for {said} to set"),
        }),
    }
}

/// Most classes set what GPT-2's pre-tokenizer puts before a text; Llama's converts a SentencePiece model for it, so
/// that it can only be left as it is.
fn set_prefix_space(
    inner: &mut Tokenizer,
    settings: &Settings,
    allowed: &AllowUnread,
) -> Result<Option<String>> {
    const NAME: &str = "add_prefix_space";
    let Some(wanted) = settings.is(NAME) else { return Ok(None) };
    let place = settings.path.display();
    match (settings.class.prefix_space, inner.get_pre_tokenizer()) {
        (PrefixSpace::OfSentencePiece, _) => {
            let own = prepends(&json!([inner.get_normalizer(), inner.get_pre_tokenizer()]));
            if own == wanted {
                return Ok(None);
            }
            if allowed.allows(NAME) {
                return Ok(Some(format!("not read, as allowed: `{NAME}` ({wanted})")));
            }
            let (path, field) = (settings.path.clone(), NAME.to_owned());
            Err(Error::Unread { path, field, value: wanted.to_string(), default: own.to_string() })
        }
        (PrefixSpace::Set, Some(PreTokenizerWrapper::ByteLevel(own))) if own.add_prefix_space != wanted => {
            let set = ByteLevel::new(wanted, own.trim_offsets, own.use_regex);
            inner.with_pre_tokenizer(Some(set));
            let why = if settings.says(NAME) { format!("in `{place}`") } else { "by default".to_owned() };
            let (is, was) = if wanted { ("a", "none") } else { ("no", "one") };
            Ok(Some(format!(
                "`{NAME}` is {wanted} {why}: {is} space goes before every text, where tokenizer.json by itself puts {was}"
            )))
        }
        (PrefixSpace::Set, Some(PreTokenizerWrapper::ByteLevel(_))) => Ok(None),
        (PrefixSpace::Set, _) if wanted => Ok(Some(format!(
            "`{place}`: `{NAME}` is true, which `{}` cannot set in this tokenizer.json",
            settings.class.fields.name
        ))),
        (PrefixSpace::Set, _) => Ok(None),
    }
}

/// True where a normalizer or pre-tokenizer, or one within, puts a space before a text.
fn prepends(part: &Value) -> bool {
    let is = |part: &Map<String, Value>| match part.get("type").and_then(Value::as_str) {
        Some("Prepend") => true,
        Some("Metaspace") => part.get("prepend_scheme") != Some(&json!("never")),
        Some("ByteLevel") => part.get("add_prefix_space") == Some(&json!(true)),
        _ => part.values().any(prepends),
    };
    match part {
        Value::Object(part) => is(part),
        Value::Array(parts) => parts.iter().any(prepends),
        _ => false,
    }
}

/// The special tokens to put before a text and after it; `None` leaves what is there.
fn template(settings: &Settings, is_json: bool) -> Result<Option<(Option<&str>, Option<&str>)>> {
    let fail = |message: String| Error::Config { path: settings.path.clone(), message };
    let needed = |name: &str| settings.special(name).ok_or_else(|| fail(format!("there is no `{name}`")));
    if settings.class.sets_template {
        let switched = |switch: &str, name: &str| match (settings.is(switch), settings.special(name)) {
            (Some(true), None) => Err(fail(format!("`{switch}` is true, and there is no `{name}`"))),
            (Some(true), token) => Ok(token),
            _ => Ok(None),
        };
        // Without a token, and not asked for in so many words: transformers 4 gives up, and 5 takes what is there.
        if !settings.says("add_bos_token") && settings.special("bos_token").is_none() {
            return Ok(None);
        }
        let first = switched("add_bos_token", "bos_token")?;
        return Ok(Some((first, switched("add_eos_token", "eos_token")?)));
    }
    if is_json {
        return Ok(None);
    }
    Ok(match settings.class.made_of {
        MadeOf::WordPieces | MadeOf::RobertaBytePairs => {
            Some((Some(needed("cls_token")?), Some(needed("sep_token")?)))
        }
        MadeOf::BytePairs if settings.is("add_bos_token") == Some(true) => {
            Some((Some(needed("bos_token")?), None))
        }
        _ => None,
    })
}

/// What puts `first` before a text and `last` after it.
fn processor(inner: &Tokenizer, first: Option<&str>, last: Option<&str>) -> Result<PostProcessorWrapper> {
    let special = |token: &str| json!({ "SpecialToken": { "id": token, "type_id": 0 } });
    let text = |id: &str, type_id: u32| json!({ "Sequence": { "id": id, "type_id": type_id } });
    let round = |texts: &[Value]| -> Vec<Value> {
        first.map(special).into_iter().chain(texts.iter().cloned()).chain(last.map(special)).collect()
    };
    let mut tokens = Map::new();
    for token in [first, last].into_iter().flatten() {
        let id = inner.token_to_id(token);
        let id = id.ok_or_else(|| Error::Internal(format!("the special token `{token}` was not added")))?;
        tokens.insert(token.to_owned(), json!({ "id": token, "ids": [id], "tokens": [token] }));
    }
    let processor = json!({
        "type": "TemplateProcessing",
        "single": round(&[text("A", 0)]),
        "pair": round(&[text("A", 0), text("B", 1)]),
        "special_tokens": tokens,
    });
    serde_json::from_value(processor).map_err(|error| Error::Internal(error.to_string()))
}
