//! Text in HTML and XML.

/// `text` as it may stand in HTML and XML, in attributes too. What XML cannot hold is left out.
pub(crate) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\t' | '\n' | '\r' => safe.push(char),
            char if char.is_control() || matches!(char, '\u{fffe}' | '\u{ffff}') => {}
            char => safe.push(char),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    #[test]
    fn lines_stay_and_what_xml_cannot_hold_goes() {
        assert_eq!(super::escaped("a<b>\n'&\"\u{1b}\u{fffe}c"), "a&lt;b&gt;\n&#39;&amp;&quot;c");
    }
}
