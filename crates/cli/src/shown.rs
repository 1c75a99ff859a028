//! Everything that the command prints passes here: names come from files that others made, and a terminal obeys what is in them.

use std::borrow::Cow;
use std::fmt::Write;

/// Signs that steer a terminal rather than being seen: control characters, separators that break lines, and marks that turn the direction
/// of reading so that a name looks like another.
fn steers(sign: char) -> bool {
    sign.is_control()
        || matches!(sign, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// A line with such signs as they are written in Rust: `\u{1b}`, `\n`. Tabs stay.
pub(super) fn shown(line: &str) -> Cow<'_, str> {
    if !line.contains(|sign| sign != '\t' && steers(sign)) {
        return Cow::Borrowed(line);
    }
    let mut shown = String::with_capacity(line.len() + 16);
    for sign in line.chars() {
        match sign {
            '\t' => shown.push(sign),
            '\n' | '\r' => shown.extend(sign.escape_default()),
            _ if steers(sign) => shown.extend(sign.escape_unicode()),
            _ => shown.push(sign),
        }
    }
    Cow::Owned(shown)
}

/// JSON text with such signs inside its strings as JSON writes them: `\u001b`. The line feeds between its parts stay.
pub(super) fn shown_json(text: &str) -> Cow<'_, str> {
    if !text.contains(|sign| sign != '\n' && steers(sign)) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for sign in text.chars() {
        if sign != '\n' && steers(sign) {
            // All of them lie in the basic plane, so one unit of UTF-16 says them.
            write!(shown, "\\u{:04x}", u32::from(sign)).expect("writing into a string cannot fail");
        } else {
            shown.push(sign);
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_written_out() {
        assert!(matches!(shown("a red circle, 红 é \u{1f980}\tb"), Cow::Borrowed(_)));
        let cases = [
            ("\u{1b}[31mred\u{7}", "\\u{1b}[31mred\\u{7}"),
            ("a\nchiaro: all is well\r", "a\\nchiaro: all is well\\r"),
            ("\u{9b}2J\u{7f}\0", "\\u{9b}2J\\u{7f}\\u{0}"),
            ("a\u{202e}gnp.exe\u{2069}\u{2028}\u{feff}", "a\\u{202e}gnp.exe\\u{2069}\\u{2028}\\u{feff}"),
        ];
        for (line, want) in cases {
            assert_eq!(shown(line), want);
        }
    }

    #[test]
    fn json_stays_the_same_value() {
        let value = serde_json::json!({ "a\u{7f}\u{9b}": ["\u{1b}[0m", "\u{202e}", "line\nfeed"], "b": "红" });
        let text = format!("{value:#}");
        let shown = shown_json(&text);
        assert!(!shown.contains(|sign| sign != '\n' && steers(sign)), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).expect("JSON"), value);
    }
}
