//! What becomes of every field of a model's files. A field that changes what the model computes is read, or it is an
//! error that names it: nothing that matters passes in silence.
//!
//! A [`Class`] lists the fields that a kind of file may have: a configuration class of `transformers`, a tokenizer's, or
//! an architecture's keys in GGUF. [`Class::check`] holds a file against it and fills in the defaults of what is left out.

use crate::error::{Error, Result};
use serde::de::DeserializeOwned;
use serde::de::value::MapDeserializer;
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Becomes {
    /// It is read; null stands for the default.
    Read,
    /// It is read, and null is a value of its own.
    Optional,
    /// It is known to change nothing that is computed here.
    NoEffect,
    /// It is not read, so that only its default can be run.
    Unread,
}

/// A field of a [`Class`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    name: &'static str,
    /// What it is where it is left out, as JSON.
    default: &'static str,
    becomes: Becomes,
}

impl Field {
    /// A field that is read. Left out or null it is `default` (JSON).
    pub const fn read(name: &'static str, default: &'static str) -> Self {
        Self { name, default, becomes: Becomes::Read }
    }

    /// A field that is read, and may be null. Left out it is `default` (JSON), which need not be null.
    pub const fn optional(name: &'static str, default: &'static str) -> Self {
        Self { name, default, becomes: Becomes::Optional }
    }

    /// A field that changes nothing that is computed here, such as dropout.
    pub const fn no_effect(name: &'static str) -> Self {
        Self { name, default: "null", becomes: Becomes::NoEffect }
    }

    /// A field that is not read and would change what is computed, unless it is `default` (JSON).
    pub const fn unread(name: &'static str, default: &'static str) -> Self {
        Self { name, default, becomes: Becomes::Unread }
    }

    fn default(&self) -> Result<Value> {
        serde_json::from_str(self.default)
            .map_err(|error| Error::Internal(format!("default of `{}`: {error}", self.name)))
    }
}

/// The fields that files of a kind have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Class {
    /// What the class is called, for messages: `LlamaConfig`.
    pub name: &'static str,
    /// Its fields, in several lists so that classes can share some; where a name is in two, the first counts.
    pub fields: &'static [&'static [Field]],
    /// Other names of fields, the other name first.
    pub aliases: &'static [(&'static str, &'static str)],
}

impl Class {
    fn fields(&self) -> impl Iterator<Item = &'static Field> + use<> {
        self.fields.iter().copied().flatten()
    }

    fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields().find(|field| field.name == name)
    }

    /// Holds the `object` of the file `path` against the class.
    ///
    /// # Errors
    /// [`Error::Unread`] where a field that is not read is neither its default nor among those `allowed`;
    /// [`Error::Config`] where a field is given by two names and differs, or is null where that could mean either value.
    pub fn check(&self, path: &Path, object: Map<String, Value>, allowed: &AllowUnread) -> Result<Checked> {
        let fail = |message: String| Error::Config { path: path.to_owned(), message };
        let mut values = Map::new();
        let mut names: BTreeMap<&str, &str> = BTreeMap::new();
        let (mut by_leave, mut unknown) = (Vec::new(), Map::new());
        for (said, value) in &object {
            let alias = self.aliases.iter().find(|(alias, _)| alias == said);
            let name = alias.map_or(said.as_str(), |(_, name)| name);
            let Some(field) = self.field(name) else {
                unknown.insert(said.clone(), value.clone());
                continue;
            };
            let default = field.default()?;
            let value = match (field.becomes, value) {
                (Becomes::NoEffect, _) => continue,
                (Becomes::Read | Becomes::Unread, Value::Null) if default == Value::Bool(true) => {
                    return Err(fail(format!("`{said}` is null: it has to be true or false")));
                }
                (Becomes::Read | Becomes::Unread, Value::Null) => default,
                (Becomes::Unread, value) if !is_equal(value, &default) => {
                    if !allowed.allows(said) {
                        return Err(Error::Unread {
                            path: path.to_owned(),
                            field: said.clone(),
                            value: short(value).unwrap_or_else(|| "set".to_owned()),
                            default: field.default.to_owned(),
                        });
                    }
                    by_leave.push(with_short_value(said, value));
                    default
                }
                (_, value) => value.clone(),
            };
            if let Some(earlier) = values.get(name).filter(|earlier| !is_equal(earlier, &value)) {
                return Err(fail(format!(
                    "`{}` is {earlier} and `{said}`, which is another name of the same, is {value}",
                    names.get(name).unwrap_or(&name),
                )));
            }
            values.insert(name.to_owned(), value);
            names.insert(name, said);
        }
        for field in self.fields() {
            if matches!(field.becomes, Becomes::Read | Becomes::Optional) && !values.contains_key(field.name)
            {
                values.insert(field.name.to_owned(), field.default()?);
            }
        }
        let by_leave =
            (!by_leave.is_empty()).then(|| format!("not read, as allowed: {}", by_leave.join(", ")));
        let said = object.keys().cloned().collect();
        Ok(Checked { path: path.to_owned(), class: self.name, said, values, unknown, by_leave })
    }
}

/// A file that was held against its [`Class`].
#[derive(Debug)]
pub(crate) struct Checked {
    path: PathBuf,
    class: &'static str,
    said: BTreeSet<String>,
    /// The fields that are read, under the class's names, each with its default where it was left out.
    pub values: Map<String, Value>,
    /// What the class does not have.
    pub unknown: Map<String, Value>,
    by_leave: Option<String>,
}

impl Checked {
    /// True where the file has a field of exactly that name.
    pub fn says(&self, name: &str) -> bool {
        self.said.contains(name)
    }

    /// One line each: what went unread by leave, and what the class does not have.
    pub fn notes(&self) -> Vec<String> {
        let unknown: Vec<String> =
            self.unknown.iter().map(|(name, value)| with_short_value(name, value)).collect();
        let unknown = (!unknown.is_empty()).then(|| {
            format!("`{}` has no such fields, and nothing reads them: {}", self.class, unknown.join(", "))
        });
        self.by_leave.iter().cloned().chain(unknown).collect()
    }

    /// The fields as a value of `T`, whose fields are named as they are. [`Error::Config`] names the one that is wrong.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        parse_fields(&self.values).map_err(|message| Error::Config { path: self.path.clone(), message })
    }
}

/// The fields of `values` as a `T`; the message names the field that is wrong.
pub(crate) fn parse_fields<T: DeserializeOwned>(values: &Map<String, Value>) -> Result<T, String> {
    let at = RefCell::new(None);
    let fields = values.iter().map(|(name, value)| {
        *at.borrow_mut() = Some(name.as_str());
        (name.as_str(), value.clone())
    });
    let parsed = T::deserialize(MapDeserializer::<_, serde_json::Error>::new(fields));
    parsed.map_err(|error| match at.into_inner() {
        Some(name) => format!("`{name}`: {}", in_words(&error.to_string())),
        None => error.to_string(),
    })
}

/// An error of serde's, without the names of Rust's types.
fn in_words(message: &str) -> String {
    let Some((what, expected)) = message.rsplit_once(", expected ") else { return message.to_owned() };
    let expected = match expected {
        "usize" | "u64" | "u32" => "a whole number from 0",
        "f64" | "f32" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        other => other,
    };
    format!("{what}, expected {expected}")
}

/// The fields that the user has said may go unread, and which of them did.
#[derive(Debug, Clone, Default)]
pub struct AllowUnread {
    names: Arc<BTreeSet<String>>,
    used: Arc<Mutex<BTreeSet<String>>>,
}

impl AllowUnread {
    /// Leave for fields of these names.
    pub fn new(names: &BTreeSet<String>) -> Self {
        Self { names: Arc::new(names.clone()), used: Arc::default() }
    }

    /// The fields that went unread because of this, in whichever of the model's files have been read by now.
    pub fn used(&self) -> BTreeSet<String> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// True where `name` may go unread, which it then does.
    pub(crate) fn allows(&self, name: &str) -> bool {
        let allowed = self.names.contains(name);
        if allowed {
            self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        }
        allowed
    }
}

/// Equal as JSON, 1 and 1.0 as well.
fn is_equal(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// `value` where it is short enough for a message.
fn short(value: &Value) -> Option<String> {
    let text = value.to_string();
    (text.chars().count() <= 40).then_some(text)
}

fn with_short_value(name: &str, value: &Value) -> String {
    match short(value) {
        Some(value) => format!("`{name}` ({value})"),
        None => format!("`{name}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    const CLASS: Class = Class {
        name: "ToyConfig",
        fields: &[
            &[
                Field::read("width", "8"),
                Field::read("biased", "true"),
                Field::optional("cap", "50.0"),
                Field::no_effect("dropout"),
            ],
            &[Field::unread("depthwise", "false"), Field::unread("scale", "1"), Field::unread("width", "0")],
        ],
        aliases: &[("d_model", "width")],
    };

    #[derive(Debug, Deserialize, PartialEq)]
    struct Toy {
        width: usize,
        biased: bool,
        cap: Option<f64>,
    }

    fn check(object: Value, allowed: &[&str]) -> Result<Checked> {
        let Value::Object(object) = object else { panic!("no object") };
        let allowed = allowed.iter().map(|name| (*name).to_owned()).collect();
        CLASS.check(Path::new("config.json"), object, &AllowUnread::new(&allowed))
    }

    fn message(object: Value) -> String {
        check(object, &[]).and_then(|checked| checked.parse::<Toy>()).unwrap_err().to_string()
    }

    #[test]
    fn what_is_left_out_is_its_default_and_null_is_one_where_it_may_be() {
        let toy = |object| check(object, &[]).unwrap().parse::<Toy>().unwrap();
        assert_eq!(toy(json!({})), Toy { width: 8, biased: true, cap: Some(50.0) });
        assert_eq!(toy(json!({"width": null, "cap": null})), Toy { width: 8, biased: true, cap: None });
        assert_eq!(toy(json!({"biased": false, "d_model": 4})).width, 4);
    }

    #[test]
    fn a_field_that_is_not_read_is_refused_by_name_unless_it_is_its_default() {
        let refused = |object| match check(object, &[]) {
            Err(Error::Unread { field, value, default, .. }) => (field, value, default),
            other => panic!("{other:?}"),
        };
        let texts = |field: &str, value: &str, default: &str| {
            (field.to_owned(), value.to_owned(), default.to_owned())
        };
        assert_eq!(refused(json!({"depthwise": true})), texts("depthwise", "true", "false"));
        assert_eq!(refused(json!({"scale": vec![0; 99]})), texts("scale", "set", "1"));
        for same in [json!({"depthwise": false}), json!({"depthwise": null}), json!({"scale": 1.0})] {
            assert!(check(same, &[]).unwrap().notes().is_empty());
        }
    }

    #[test]
    fn what_goes_unread_by_leave_is_told_and_kept() {
        let allowed = AllowUnread::new(&["scale", "depthwise"].map(str::to_owned).into());
        let Value::Object(object) = json!({"scale": 2, "depthwise": false}) else { panic!() };
        let checked = CLASS.check(Path::new("config.json"), object, &allowed).unwrap();
        assert_eq!(checked.notes(), ["not read, as allowed: `scale` (2)"]);
        assert_eq!(allowed.used(), ["scale".to_owned()].into());
    }

    #[test]
    fn fields_that_the_class_lacks_are_one_note() {
        let checked = check(json!({"a": 1, "long": vec![0; 99], "dropout": 0.5}), &[]).unwrap();
        assert_eq!(
            checked.notes(),
            ["`ToyConfig` has no such fields, and nothing reads them: `a` (1), `long`"]
        );
    }

    #[test]
    fn errors_name_the_field() {
        let wrong = message(json!({"width": "x"}));
        assert!(
            wrong.contains("`width`: invalid type: string \"x\", expected a whole number from 0"),
            "{wrong}"
        );
        assert!(message(json!({"biased": null})).contains("`biased` is null"));
        let twice = message(json!({"width": 4, "d_model": 5}));
        assert!(twice.contains("`width`") && twice.contains("`d_model`"), "{twice}");
        assert!(check(json!({"width": 4, "d_model": 4.0}), &[]).is_ok());
    }
}
