//! Text of other people, made safe to show.
//!
//! Whatever a caller, a job or another program wrote may hold escape
//! sequences; nothing of it reaches a terminal, a log or an error message
//! raw.

use std::fmt::Write as _;

/// How much of a foreign value an error message quotes, in characters.
const QUOTE_MAX: usize = 80;

/// True for characters that could steer a terminal or hide what is written:
/// C0 and C1 controls, DEL, bidirectional overrides and zero-width marks.
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{2069}'
            | '\u{feff}')
}

/// The text with every unsafe character but newline and tab written as an
/// escape (`\x1b`, `\u{202e}`).
pub fn escape_lines(text: &str) -> String {
    escape_where(text, |c| is_unsafe(c) && c != '\n' && c != '\t')
}

/// The text on one line: every unsafe character is written as an escape.
pub fn escape(text: &str) -> String {
    escape_where(text, is_unsafe)
}

/// A foreign value in quotes, escaped, cut to a length that fits a message.
pub fn quote(text: &str) -> String {
    let mut short: String = text.chars().take(QUOTE_MAX).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("\"{}\"", escape(&short))
}

fn escape_where(text: &str, mut is_bad: impl FnMut(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if !is_bad(c) {
            out.push(c);
            continue;
        }
        let code = u32::from(c);
        let written = match c {
            '\n' => out.write_str("\\n"),
            '\r' => out.write_str("\\r"),
            '\t' => out.write_str("\\t"),
            _ if code < 0x100 => write!(out, "\\x{code:02x}"),
            _ => write!(out, "\\u{{{code:x}}}"),
        };
        written.expect("writing to a string does not fail");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_do_not_survive() {
        let hostile = "a\u{1b}]0;x\u{7}b\u{9b}2J\r\nc\u{202e}d";
        assert_eq!(escape(hostile), "a\\x1b]0;x\\x07b\\x9b2J\\r\\nc\\u{202e}d");
        assert_eq!(escape_lines("a\n\tb\u{1b}"), "a\n\tb\\x1b");
    }

    #[test]
    fn quoting_cuts_long_values() {
        assert_eq!(quote(&"x".repeat(200)).chars().count(), 83);
    }
}
