//! Tokens as they can be shown in a cell: in one line, without anything that acts on a terminal or a page.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Every character visible: a space as `·`, all else as [`spelled`] has it.
pub fn shown(text: &str) -> String {
    spelled(text).replace(' ', "·")
}

/// Line feeds and other controls, and what changes the direction of writing, as escapes.
pub fn spelled(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => shown.push_str("\\n"),
            '\t' => shown.push_str("\\t"),
            '\r' => shown.push_str("\\r"),
            c if is_hidden(c) => shown.extend(c.escape_unicode()),
            // A mark that joins the character before it needs one.
            c if c.width() == Some(0) && shown.is_empty() => shown.extend(['◌', c]),
            c => shown.push(c),
        }
    }
    shown
}

/// Controls, separators of lines, and characters that are not seen but change how others are.
pub fn is_hidden(c: char) -> bool {
    c.is_control() || acts(c)
}

fn acts(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Columns of a terminal that `text` takes.
pub fn width(text: &str) -> usize {
    UnicodeWidthStr::width(text)
}

/// `text` in at most `columns` columns, with `…` where something was cut off.
pub fn clipped(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut kept = String::new();
    for c in text.chars() {
        kept.push(c);
        if width(&kept) + 1 > columns {
            kept.pop();
            break;
        }
    }
    if columns > 0 {
        kept.push('…');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_would_act_is_spelled_out() {
        assert_eq!(shown(" the"), "·the");
        assert_eq!(shown("\n\x1b[31m"), "\\n\\u{1b}[31m");
        assert_eq!(shown("a\u{202e}b\u{200b}"), "a\\u{202e}b\\u{200b}");
        assert_eq!(shown("\u{301}x"), "◌\u{301}x");
        assert_eq!(shown("漢字 é"), "漢字·é");
    }

    #[test]
    fn wide_characters_count_twice() {
        assert_eq!(clipped("漢字漢字", 8), "漢字漢字");
        assert_eq!(clipped("漢字漢字", 7), "漢字漢…");
        assert_eq!(clipped("漢字漢字", 6), "漢字…");
        assert_eq!((clipped("abc", 1), clipped("abc", 0)), ("…".to_owned(), String::new()));
    }

    proptest! {
        #[test]
        fn any_text_fits_into_any_width(text in any::<String>(), columns in 0..20usize) {
            let text = shown(&text);
            prop_assert!(!text.chars().any(is_hidden));
            prop_assert!(width(&clipped(&text, columns)) <= columns);
        }
    }
}
