//! Chats as texts: the template that comes with a tokenizer, rendered as `apply_chat_template` of transformers renders it
//! (`utils/chat_template_utils.py`): a Jinja template of `messages` with the names of special tokens, block tags without their
//! lines, `raise_exception`, `strftime_now` and a `tojson` that escapes nothing.

use crate::error::{Error, Result};
use crate::hub::SourceFile;
use minijinja::value::{Kwargs, ViaDeserialize};
use minijinja::{Environment, ErrorKind, Value};
use serde::Serialize;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Steps that a template may take: many times what long chats need, and an end to one that goes round in circles.
const STEPS: u64 = 5_000_000;

/// What chats are rendered by.
#[derive(Debug, Clone, Default)]
pub(super) struct Chat {
    /// The file that has the template, or would have it.
    pub path: PathBuf,
    pub template: Option<String>,
    /// `bos_token`, `eos_token`, …, by these names.
    pub special: BTreeMap<String, String>,
}

impl Chat {
    /// The template that a `tokenizer_config.json` has: a text, or among several the one called `default`.
    pub fn of_config(config: &SourceFile) -> Result<Option<String>> {
        let object: Json = serde_json::from_slice(config.bytes()).map_err(Error::format(&config.path))?;
        Ok(match &object["chat_template"] {
            Json::String(template) => Some(template.clone()),
            Json::Array(several) => {
                let default = several.iter().find(|named| named["name"] == "default");
                default.and_then(|named| named["template"].as_str()).map(str::to_owned)
            }
            _ => None,
        })
    }

    /// The text of `messages`, and what the model's answer begins with behind it. [`Error::Option`] where there is no template,
    /// [`Error::Config`] where it is wrong, or has something to say against the messages.
    pub fn render(&self, messages: &Json) -> Result<String> {
        let fail = |message: String| Error::Config { path: self.path.clone(), message };
        let Some(template) = &self.template else {
            return Err(Error::Option(format!(
                "no chat template comes with `{}`: neither `chat_template` in a tokenizer_config.json, nor a chat_template.jinja \
                 next to it, nor `tokenizer.chat_template` in a GGUF file",
                self.path.display()
            )));
        };
        let said = |error: minijinja::Error| {
            let line = error.line().map_or(String::new(), |line| format!(", line {line}"));
            match error.detail().filter(|_| error.kind() == ErrorKind::InvalidOperation) {
                Some(detail) => fail(format!("the chat template says: {detail}{line}")),
                None => fail(format!("the chat template: {error}{line}")),
            }
        };
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_fuel(Some(STEPS));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> std::result::Result<Value, _> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", to_json);
        let template = without_generation(template);
        let template = environment.template_from_str(&template).map_err(said)?;
        let mut names: BTreeMap<&str, Value> =
            self.special.iter().map(|(name, token)| (&**name, Value::from(token))).collect();
        names.insert("messages", Value::from_serialize(messages));
        names.insert("add_generation_prompt", Value::from(true));
        names.insert("tools", Value::from(()));
        names.insert("documents", Value::from(()));
        template.render(names).map_err(said)
    }
}

/// Today in the user's time zone, by Python's codes.
fn strftime_now(format: &str) -> std::result::Result<String, minijinja::Error> {
    use std::fmt::Write;
    let mut text = String::new();
    match write!(text, "{}", chrono::Local::now().format(format)) {
        Ok(()) => Ok(text),
        Err(_) => {
            let message = format!("`{format}` is no format of dates");
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        }
    }
}

/// As `json.dumps(value, ensure_ascii=False)` of Python writes it.
fn to_json(value: ViaDeserialize<Json>, options: Kwargs) -> std::result::Result<Value, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Other arguments are at their defaults in the templates that are known.
    let mut bytes = Vec::new();
    let written = match indent {
        Some(spaces) => {
            let spaces = vec![b' '; spaces.min(16)];
            let formatter = serde_json::ser::PrettyFormatter::with_indent(&spaces);
            value.0.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter))
        }
        None => value.0.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, Spaced)),
    };
    let bad = |message: String| minijinja::Error::new(ErrorKind::BadSerialization, message);
    written.map_err(|error| bad(error.to_string()))?;
    String::from_utf8(bytes).map(Value::from_safe_string).map_err(|error| bad(error.to_string()))
}

/// JSON in one line with Python's spaces.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

/// `template` with the tags `generation` and `endgeneration`, which mark an answer's tokens for training, as a block that is
/// always there.
fn without_generation(template: &str) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(start) = rest.find("{%") {
        let Some(end) = rest[start..].find("%}").map(|end| start + end) else { break };
        let inner = &rest[start + 2..end];
        let word = inner.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        let instead = match word {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        };
        text.push_str(&rest[..start + 2]);
        text.push_str(&instead.map_or(inner.to_owned(), |instead| inner.replacen(word, instead, 1)));
        text.push_str("%}");
        rest = &rest[end + 2..];
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rendered(template: &str) -> std::result::Result<String, String> {
        let special = [("bos_token".to_owned(), "<s>".to_owned())].into();
        let chat = Chat { path: "t".into(), template: Some(template.to_owned()), special };
        let messages = json!([{ "role": "user", "content": " Hi \"you\" <b> " }]);
        chat.render(&messages).map_err(|error| error.to_string())
    }

    /// What transformers 5 makes of the same, typed off.
    #[test]
    fn templates_mean_what_they_mean_in_python() {
        let cases = [
            (
                "{{ bos_token }}{% for m in messages %}\n  [{{ m['role'] }}] {{ m.content.strip() }}\n{% endfor %}",
                "<s>  [user] Hi \"you\" <b>\n",
            ),
            ("{{ messages[0] | tojson }}", "{\"content\": \" Hi \\\"you\\\" <b> \", \"role\": \"user\"}"),
            ("{{ [1, 'é'] | tojson(indent=2) }}", "[\n  1,\n  \"é\"\n]"),
            ("{% if tools is none and not documents %}x{% endif %}{{ eos_token }}", "x"),
            ("{%- if add_generation_prompt -%}\n  go\n{%- endif %}\n", "go"),
            (
                "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
                "1",
            ),
            ("a\n{%- generation -%}\n b\n{% endgeneration %}\nc", "ab\nc"),
            ("{% for i in range(5) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
            ("{{ messages[0]['content'].split('\"')[1].upper() }}", "YOU"),
            ("{{ messages[-1].content[1:3] }}", "Hi"),
        ];
        for (template, text) in cases {
            assert_eq!(rendered(template).as_deref(), Ok(text), "{template}");
        }
        let today = rendered("{{ strftime_now('%d %b %Y') }}").unwrap();
        assert_eq!(today, chrono::Local::now().format("%d %b %Y").to_string());
    }

    #[test]
    fn what_a_template_refuses_is_said_in_its_words() {
        let says = |template: &str, text: &str| {
            let message = rendered(template).unwrap_err();
            assert!(message.contains(text) && message.contains('t'), "{message}");
        };
        says("{{ raise_exception('Roles must alternate') }}", "says: Roles must alternate");
        says("{% if %}", "chat template");
        says("{{ strftime_now('%Q') }}", "no format of dates");
        says("{% for i in range(90000) %}{% for j in range(90000) %}x{% endfor %}{% endfor %}", "fuel");
        let none = Chat::default().render(&json!([])).unwrap_err().to_string();
        assert!(none.contains("no chat template"), "{none}");
    }
}
