//! Names that may go into a command line: workers, snapshots, users.
//!
//! Text becomes one of these at the edge or is refused; past this module
//! nobody checks again. Must not know how commands are carried.
//! Invariant: no value here begins with `-` or holds a blank, a quote, a
//! control character or a path separator.

use std::fmt;
use std::str::FromStr;

pub use ntrace_protocol::WorkerUuid;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Not a snapshot name.
    #[error(
        "{given:?} is not a snapshot name: 1 to 64 of letters, digits and \
         _ . : % -, not starting with -"
    )]
    Snapshot {
        /// What was given, cut and escaped.
        given: String,
    },
    /// Not a user name.
    #[error(
        "{given:?} is not a user name: 1 to 32 of a-z, 0-9, _ and -, \
         starting with a letter or _"
    )]
    User {
        /// What was given, cut and escaped.
        given: String,
    },
}

/// Longest part of a refused name that an error repeats.
const SHOWN: usize = 80;

fn shown(given: &str) -> String {
    given.chars().take(SHOWN).collect()
}

/// The name of a snapshot, as vmadm takes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapshotName(String);

impl SnapshotName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SnapshotName {
    type Err = BadName;

    fn from_str(given: &str) -> Result<Self, BadName> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"_.:%-".contains(&b);
        let good = (1..=64).contains(&given.len())
            && given.bytes().all(legal)
            && !given.starts_with('-');
        if good {
            Ok(Self(given.to_owned()))
        } else {
            Err(BadName::Snapshot { given: shown(given) })
        }
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A user inside a zone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UserName(String);

impl UserName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserName {
    type Err = BadName;

    fn from_str(given: &str) -> Result<Self, BadName> {
        let legal = |b: u8| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b)
        };
        let good = (1..=32).contains(&given.len())
            && given.bytes().all(legal)
            && given.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
        if good {
            Ok(Self(given.to_owned()))
        } else {
            Err(BadName::User { given: shown(given) })
        }
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshot_names_follow_vmadm_but_never_look_like_an_option() {
        let long = "x".repeat(64);
        for good in ["clean", "A-z_0.9:%", "7", long.as_str()] {
            assert!(good.parse::<SnapshotName>().is_ok(), "{good:?}");
        }
        let longer = "x".repeat(65);
        for bad in
            ["", "a b", "a/b", "a@b", "a,b", "-F", "a\n", "ä", longer.as_str()]
        {
            assert!(bad.parse::<SnapshotName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn user_names_hold_nothing_a_shell_could_see() {
        assert!("job".parse::<UserName>().is_ok());
        for bad in ["", "-c", "0", "a b", "a;b", "$(id)", "Root", "a\n"] {
            assert!(bad.parse::<UserName>().is_err(), "{bad:?}");
        }
    }
}
