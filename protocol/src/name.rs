//! Names of callers: owner, repository, commit, runner, label.
//!
//! Each is checked against an allow-list when it arrives. What passes is safe
//! as one component of a path and never begins like an option; even so it is
//! handed on as data only.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::WireError;
use crate::text::quote;

/// The longest owner or repository name, in bytes.
pub const MAX_NAME: usize = 100;

/// The longest label or runner name, in bytes.
pub const MAX_LABEL: usize = 64;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $field:literal, $check:path) => {
        $(#[$doc])*
        #[derive(
            Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize,
            Deserialize,
        )]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = WireError;
            fn from_str(text: &str) -> Result<Self, WireError> {
                $check(text)
                    .map(Self)
                    .map_err(|message| WireError::invalid($field, message))
            }
        }

        impl TryFrom<String> for $name {
            type Error = WireError;
            fn try_from(text: String) -> Result<Self, WireError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// Whose repository it is.
    Owner, "owner", check_name
}
name! {
    /// A repository's name, without `.git`.
    Repo, "repo", check_name
}
name! {
    /// A commit: 40 (or 64) hex digits, kept in lower case.
    Commit, "commit", check_commit
}
name! {
    /// What a runner calls itself.
    RunnerName, "name", check_label
}
name! {
    /// A word that people attach to jobs and workers.
    Label, "labels", check_label
}

fn check_name(text: &str) -> Result<String, String> {
    let rule = "letters, digits, `-`, `_` and `.`, not starting with `-` or \
                `.`, at most 100 characters";
    if text.is_empty() {
        return Err(format!("it is empty: it takes {rule}"));
    }
    let fits = text.len() <= MAX_NAME
        && !text.starts_with(['-', '.'])
        && text.bytes().all(is_name_byte);
    if fits {
        Ok(text.to_owned())
    } else {
        Err(format!("{} is not a name: it takes {rule}", quote(text)))
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

fn check_commit(text: &str) -> Result<String, String> {
    let fits = matches!(text.len(), 40 | 64)
        && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if fits {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(format!(
            "{} is not a full commit id: it takes all 40 (or 64) hex digits; \
             `git rev-parse HEAD` prints them",
            quote(text)
        ))
    }
}

fn check_label(text: &str) -> Result<String, String> {
    let fits = (1..=MAX_LABEL).contains(&text.len())
        && !text.starts_with(['-', '.'])
        && text
            .bytes()
            .all(|b| is_name_byte(b) || matches!(b, b'=' | b':' | b'/' | b'@'));
    if fits {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "{} does not do: it takes letters, digits and `-_.=:/@`, not \
             starting with `-` or `.`, 1 to {MAX_LABEL} characters",
            quote(text)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_refused() {
        for bad in [
            "",
            "-h",
            "--upload-pack=touch /tmp/x",
            "-oProxyCommand=id",
            ".",
            "..",
            ".git",
            "a/b",
            "a/../../etc",
            "/etc/passwd",
            "C:\\x",
            "$(id)",
            "`id`",
            ";id",
            "|id",
            "a b",
            "a\nb",
            "'",
            "\"",
            "${IFS}",
            "%2e%2e%2f",
            "{a,b}",
            "ext::sh -c id",
            "git@host:x",
            "\u{430}bc",
            "a\u{202e}b",
            "a\0b",
        ] {
            assert!(bad.parse::<Owner>().is_err(), "{bad:?}");
            let error = bad.parse::<Repo>().unwrap_err();
            assert_eq!(error.field.as_deref(), Some("repo"));
        }
        assert!("x".repeat(101).parse::<Repo>().is_err());
        assert!("x".repeat(100).parse::<Repo>().is_ok());
        for good in ["nano", "a.b", "_x", "0-1", "Foo_Bar.js"] {
            assert!(good.parse::<Repo>().is_ok(), "{good}");
        }
    }

    #[test]
    fn a_commit_is_forty_or_sixty_four_hex_digits() {
        let good = "0F16CFE0d6a3b8e87229c91bee901fad5dae9878";
        let commit: Commit = good.parse().unwrap();
        assert_eq!(commit.as_str(), good.to_lowercase());
        assert!("a".repeat(64).parse::<Commit>().is_ok());
        for bad in ["", "HEAD", "refs/heads/x", "-n", &"a".repeat(39)] {
            assert!(bad.parse::<Commit>().is_err(), "{bad}");
        }
        assert!("\u{ff10}".repeat(40).parse::<Commit>().is_err());
        assert!(" ".repeat(40).parse::<Commit>().is_err());
    }
}
