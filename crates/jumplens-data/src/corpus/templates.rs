//! The templates that stand for words in the middle of a sentence. All others are boxes, notes and formulas.

/// What becomes of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rendered {
    /// These words.
    Text(String),
    /// Nothing, and the sentence is whole without it: a note.
    Nothing,
    /// Nothing, and it may have been a part of the sentence.
    Hole,
}

/// Templates that show their first argument as it is.
const FIRST: [&str; 22] = [
    "abbr",
    "big",
    "flag",
    "flagcountry",
    "ill",
    "interlanguage link",
    "interlanguage link multi",
    "nobold",
    "nobr",
    "noitalic",
    "nowrap",
    "resize",
    "small",
    "smaller",
    "smallcaps",
    "sic",
    "sub",
    "sup",
    "tooltip",
    "nihongo",
    "nwr",
    "mvar",
];
/// Templates that show their second argument.
const SECOND: [&str; 5] = ["lang", "transl", "transliteration", "audio", "color"];
/// Templates without arguments, and what they show.
const CHARACTERS: [(&str, &str); 22] = [
    ("'", "'"),
    ("'s", "'s"),
    ("' \"", "' \""),
    ("\" '", "\" '"),
    ("-", ""),
    ("=", "="),
    ("–", "–"),
    ("—", "—"),
    ("clear", ""),
    ("dash", "–"),
    ("em dash", "—"),
    ("en dash", "–"),
    ("mdash", "—"),
    ("nbsp", " "),
    ("ndash", "–"),
    ("okina", "ʻ"),
    ("snd", " – "),
    ("snds", " – "),
    ("space", " "),
    ("spaced en dash", " – "),
    ("spaced ndash", " – "),
    ("spnd", " – "),
];
/// How the names of notes begin.
const NOTES: [&str; 33] = [
    "anchor",
    "better source",
    "by whom",
    "citation needed",
    "cite ",
    "clarify",
    "cn",
    "dead link",
    "dubious",
    "efn",
    "fact",
    "failed verification",
    "flagicon",
    "full citation",
    "harv",
    "notetag",
    "not in citation",
    "page needed",
    "r",
    "refn",
    "rp",
    "sfn",
    "specify",
    "update",
    "use ",
    "vague",
    "verif",
    "webarchive",
    "when",
    "which",
    "who",
    "why",
    "year needed",
];

/// `inside` is what stands between the braces, all markup within it done already.
pub(super) fn render(inside: &str) -> Rendered {
    let mut parts = inside.split('|');
    let name = parts.next().unwrap_or_default().trim().replace('_', " ").to_lowercase();
    if let Some(number) = name.strip_prefix("formatnum:") {
        return Rendered::Text(number.trim().to_owned());
    }
    let mut arguments: Vec<&str> = Vec::new();
    let mut named: Vec<(&str, &str)> = Vec::new();
    for part in parts {
        match part.split_once('=') {
            // Positional arguments may be numbered.
            Some((key, value)) if key.trim() == (arguments.len() + 1).to_string() => {
                arguments.push(value.trim())
            }
            Some((key, value)) if is_key(key.trim()) => named.push((key.trim(), value.trim())),
            _ => arguments.push(part.trim()),
        }
    }
    let text = |text: Option<&&str>| match text {
        Some(text) if !text.is_empty() => Rendered::Text((*text).to_owned()),
        _ => Rendered::Hole,
    };
    if let Some((_, shown)) = CHARACTERS.iter().find(|(character, _)| *character == name) {
        return Rendered::Text((*shown).to_owned());
    }
    match name.as_str() {
        first if FIRST.contains(&first) => text(arguments.first()),
        second if SECOND.contains(&second) => text(arguments.get(1)),
        "convert" | "cvt" => measure(&arguments).map_or(Rendered::Hole, Rendered::Text),
        "circa" | "c." | "ca." => {
            Rendered::Text(arguments.first().map_or("c.".to_owned(), |year| format!("c. {year}")))
        }
        "frac" | "fraction" | "sfrac" => match arguments[..] {
            [below] => Rendered::Text(format!("1/{below}")),
            [above, below] => Rendered::Text(format!("{above}/{below}")),
            [whole, above, below] => Rendered::Text(format!("{whole} {above}/{below}")),
            _ => Rendered::Hole,
        },
        "as of" => match arguments[..] {
            [year] => {
                let lower = named.iter().any(|(key, _)| *key == "lc");
                Rendered::Text(format!("{} of {year}", if lower { "as" } else { "As" }))
            }
            _ => Rendered::Hole,
        },
        _ if is_note(&name) => Rendered::Nothing,
        _ => Rendered::Hole,
    }
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

fn is_note(name: &str) -> bool {
    NOTES.iter().any(|note| match name.strip_prefix(note) {
        Some("") => true,
        // The shortest are whole names: `r`, `cn`, `who`.
        Some(_) => note.len() > 5 || matches!(*note, "cite " | "use " | "efn" | "sfn" | "harv" | "verif"),
        None => false,
    })
}

/// The measure that `{{convert|…}}` is given, without the one it is converted to.
fn measure(arguments: &[&str]) -> Option<String> {
    const JOINS: [(&str, &str); 13] = [
        ("-", "–"),
        ("–", "–"),
        ("to", " to "),
        ("to(-)", " to "),
        ("to about", " to about "),
        ("and", " and "),
        ("and(-)", " and "),
        ("or", " or "),
        ("x", " × "),
        ("×", " × "),
        ("by", " by "),
        ("by(x)", " by "),
        ("+/-", " ± "),
    ];
    let is_number = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_digit() || "+-−.".contains(c))
            && text.contains(|c: char| c.is_ascii_digit())
    };
    let mut rest = arguments.iter();
    let mut words = (*rest.next().filter(|number| is_number(number))?).to_owned();
    let mut unit = rest.next()?;
    while let Some((_, join)) = JOINS.iter().find(|(join, _)| join == unit) {
        words += join;
        words += rest.next().filter(|number| is_number(number))?;
        unit = rest.next()?;
    }
    let mut measure = format!("{words} {}", unit_name(unit));
    // Feet and inches.
    if let (Some(number), Some(unit)) = (rest.next().filter(|number| is_number(number)), rest.next()) {
        measure += &format!(" {number} {}", unit_name(unit));
    }
    Some(measure)
}

fn unit_name(unit: &str) -> &str {
    match unit {
        "C" | "°C" | "degC" => "°C",
        "F" | "°F" | "degF" => "°F",
        "km2" | "sqkm" => "km²",
        "m2" | "sqm" => "m²",
        "cm2" => "cm²",
        "m3" => "m³",
        "km3" => "km³",
        "sqmi" => "sq mi",
        "sqft" => "sq ft",
        "cuft" => "cu ft",
        other => other,
    }
}
