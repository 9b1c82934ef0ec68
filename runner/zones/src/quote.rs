//! Quoting for a POSIX shell, and for the eyes of a person.
//!
//! Must not know what is quoted. Invariant: whatever bytes go into
//! [`single`], a shell reads exactly them back as one word.

use std::fmt::Write as _;

/// One shell word that means exactly `text`: no expansion, no command.
/// `text` must hold no NUL, which no argument can carry anyway.
#[must_use]
pub(crate) fn single(text: &str) -> String {
    let mut word = String::with_capacity(text.len() + 2);
    word.push('\'');
    for c in text.chars() {
        match c {
            // Close, an escaped quote, open again.
            '\'' => word.push_str("'\\''"),
            c => word.push(c),
        }
    }
    word.push('\'');
    word
}

/// Words as one line for messages and logs: quoted where a reader could be
/// misled, control characters escaped, cut at `most` characters.
#[must_use]
pub(crate) fn for_eyes<'a>(
    words: impl IntoIterator<Item = &'a str>,
    most: usize,
) -> String {
    let mut line = String::new();
    for word in words {
        if !line.is_empty() {
            line.push(' ');
        }
        let plain =
            |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            line.push_str(word);
        } else {
            let _ = write!(line, "'{}'", visible(word));
        }
        if line.len() > most {
            break;
        }
    }
    cut(line, most)
}

/// `text` with everything that could steer a terminal escaped; newlines and
/// tabs too.
#[must_use]
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_invisible(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Characters that reorder or hide text though they are no control codes.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}'
    )
}

fn cut(mut line: String, most: usize) -> String {
    if let Some((at, _)) = line.char_indices().nth(most) {
        line.truncate(at);
        line.push_str("...");
    }
    line
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    fn shells() -> Vec<&'static str> {
        ["/bin/sh", "/bin/bash", "/bin/dash", "/bin/ksh93"]
            .into_iter()
            .filter(|path| std::path::Path::new(path).exists())
            .collect()
    }

    fn check(word: &str) {
        for shell in shells() {
            let script = format!("printf %s {}", single(word));
            let output =
                Command::new(shell).arg("-c").arg(&script).output().unwrap();
            assert!(output.status.success(), "{shell}: {script:?}");
            assert_eq!(output.stdout, word.as_bytes(), "{shell}");
        }
    }

    #[test]
    fn hostile_words_stay_words() {
        for word in [
            "",
            "'",
            "''",
            "a'b",
            "$(id)",
            "`id`",
            "\\",
            "a\\'b",
            "a\nb",
            "-n",
            "%s",
            "!x",
            "*",
            "\u{1b}[2J",
            "ö\u{7f}",
            "'; rm -rf x; '",
        ] {
            check(word);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]
        #[test]
        fn any_text_comes_back_as_it_went(
            word in "[^\u{0}]{0,40}|['\\\\\"$`\n; a]{0,20}"
        ) {
            check(&word);
        }
    }

    #[test]
    fn nothing_steers_a_terminal() {
        let line = for_eyes(["a", "b c", "\u{1b}[31m", "\u{202e}x"], 100);
        assert_eq!(line, r"a 'b c' '\u{1b}[31m' '\u{202e}x'");
        assert_eq!(for_eyes(["abcdef"], 3), "abc...");
    }
}
