//! Names of repositories and commits, checked once.
//!
//! Must not know git. Invariant: no value here can be an option, climb out
//! of a directory or hold anything but plain ASCII.

use std::fmt;
use std::str::FromStr;

/// Longest owner or repository name.
const LONGEST: usize = 100;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Not an owner or a repository.
    #[error(
        "{given:?} is not a name of an owner or a repository: 1 to 100 of \
         letters, digits, - _ . and neither - nor . first"
    )]
    Part {
        /// What was given, cut.
        given: String,
    },
    /// Not a full commit id.
    #[error("{given:?} is not a full commit id of 40 or 64 hex digits")]
    Commit {
        /// What was given, cut.
        given: String,
    },
}

fn shown(given: &str) -> String {
    given.chars().take(120).collect()
}

/// A repository: `owner/repo`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository {
    owner: String,
    repo: String,
}

impl Repository {
    /// Checks the two parts.
    ///
    /// # Errors
    /// When one of them is not a name.
    pub fn new(owner: &str, repo: &str) -> Result<Self, BadName> {
        for given in [owner, repo] {
            let legal =
                |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
            let good = (1..=LONGEST).contains(&given.len())
                && given.bytes().all(legal)
                && !given.starts_with(['-', '.']);
            if !good {
                return Err(BadName::Part { given: shown(given) });
            }
        }
        Ok(Self { owner: owner.to_owned(), repo: repo.to_owned() })
    }

    /// The owner.
    #[must_use]
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// The repository's own name.
    #[must_use]
    pub fn repo(&self) -> &str {
        &self.repo
    }

    /// A relative directory that is this repository's alone, also where
    /// `A` and `a` are the same file.
    pub(crate) fn directory(&self) -> (String, String) {
        (folded(&self.owner), folded(&self.repo))
    }
}

/// Each capital as `!` and its small letter; `!` is in no name.
fn folded(name: &str) -> String {
    let mut folded = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            folded.push('!');
        }
        folded.push(c.to_ascii_lowercase());
    }
    folded
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.repo)
    }
}

/// How a repository names its objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Format {
    Sha1,
    Sha256,
}

/// A full commit id, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CommitId(String);

impl CommitId {
    /// The hex digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn format(&self) -> Format {
        if self.0.len() == 64 { Format::Sha256 } else { Format::Sha1 }
    }
}

impl FromStr for CommitId {
    type Err = BadName;

    fn from_str(given: &str) -> Result<Self, BadName> {
        let good = matches!(given.len(), 40 | 64)
            && given.bytes().all(|b| b.is_ascii_hexdigit());
        if good {
            Ok(Self(given.to_ascii_lowercase()))
        } else {
            Err(BadName::Commit { given: shown(given) })
        }
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_refused() {
        let long = "a".repeat(101);
        for bad in [
            "",
            ".",
            "..",
            "-x",
            ".git",
            "a/b",
            "a b",
            "a\n",
            "ä",
            "a\0",
            "a;b",
            "--upload-pack=x",
            "a:b",
            "a@b",
            long.as_str(),
        ] {
            assert!(Repository::new(bad, "r").is_err(), "{bad:?}");
            assert!(Repository::new("o", bad).is_err(), "{bad:?}");
        }
        for good in ["a", "A-b_c.d", "0", "a..b", "x.git", "a.lock"] {
            assert!(Repository::new(good, good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn names_that_differ_in_case_have_directories_that_differ_without() {
        let of =
            |owner, repo| Repository::new(owner, repo).unwrap().directory();
        assert_ne!(of("a", "b"), of("A", "b"));
        assert_ne!(of("a", "b"), of("a", "B"));
        let (owner, repo) = of("AbC", "r");
        assert_eq!(owner, owner.to_lowercase());
        assert_eq!((owner.as_str(), repo.as_str()), ("!ab!c", "r"));
    }

    #[test]
    fn only_full_commit_ids_are_taken() {
        let id = "0123456789ABCDEF0123456789abcdef01234567";
        let parsed: CommitId = id.parse().unwrap();
        assert_eq!(parsed.as_str(), id.to_lowercase());
        for bad in [
            "",
            "HEAD",
            "0123456",
            &id[..39],
            "-123456789ABCDEF0123456789abcdef01234567",
        ] {
            assert!(bad.parse::<CommitId>().is_err(), "{bad:?}");
        }
    }
}
