//! What is to be run inside a zone, checked once.
//!
//! Must not know how it is carried there. Invariant: whatever is in a
//! [`JobSpec`] can be an argument, a variable or a directory: no NUL, no
//! empty command, no variable without a name.

use serde::Serialize;

use crate::name::UserName;

/// A command for a zone, as a user of that zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSpec {
    pub(crate) user: UserName,
    pub(crate) cwd: Directory,
    pub(crate) argv: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) nofile: Option<u64>,
    pub(crate) pids: Option<u64>,
}

/// Why a command was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSpec {
    /// There is nothing to run.
    #[error("the command is empty")]
    Empty,
    /// A text cannot be passed to a process.
    #[error("{what} holds a NUL byte")]
    Nul {
        /// Which text.
        what: &'static str,
    },
    /// A variable has no usable name.
    #[error(
        "{name:?} is not the name of a variable: a letter or _ first, and \
         no = or control character"
    )]
    Variable {
        /// The name.
        name: String,
    },
    /// A directory is not one that is taken.
    #[error(
        "{given:?} is not a directory that is taken: it must be absolute, \
         without .. and control characters"
    )]
    Directory {
        /// What was given.
        given: String,
    },
}

/// An absolute directory inside a zone, in plain text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Directory(String);

impl Directory {
    /// Checks a path.
    ///
    /// # Errors
    /// When it is relative, climbs, or holds a control character.
    pub fn new(given: &str) -> Result<Self, BadSpec> {
        let good = given.starts_with('/')
            && !given.chars().any(char::is_control)
            && given.split('/').all(|part| part != "..")
            && given.len() < 1024;
        if good {
            Ok(Self(given.to_owned()))
        } else {
            Err(BadSpec::Directory { given: given.chars().take(200).collect() })
        }
    }

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl JobSpec {
    /// Checks a command.
    ///
    /// # Errors
    /// When something in it cannot be passed to a process.
    pub fn new(
        user: UserName,
        cwd: Directory,
        argv: Vec<String>,
        env: Vec<(String, String)>,
    ) -> Result<Self, BadSpec> {
        if argv.first().is_none_or(String::is_empty) {
            return Err(BadSpec::Empty);
        }
        if argv.iter().any(|word| word.contains('\0')) {
            return Err(BadSpec::Nul { what: "the command" });
        }
        for (name, value) in &env {
            check_variable(name)?;
            if value.contains('\0') {
                return Err(BadSpec::Nul { what: "a variable" });
            }
        }
        Ok(Self { user, cwd, argv, env, nofile: None, pids: None })
    }

    /// Limits open files, where the zone's helper can.
    #[must_use]
    pub fn with_nofile(mut self, limit: u64) -> Self {
        self.nofile = Some(limit);
        self
    }

    /// Limits processes, where the zone's helper can.
    #[must_use]
    pub fn with_pids(mut self, limit: u64) -> Self {
        self.pids = Some(limit);
        self
    }
}

fn check_variable(name: &str) -> Result<(), BadSpec> {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    let good = name.starts_with(first)
        && !name.contains(|c: char| c == '=' || c.is_control());
    if good {
        Ok(())
    } else {
        Err(BadSpec::Variable { name: name.chars().take(100).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(argv: &[&str], env: &[(&str, &str)]) -> Result<JobSpec, BadSpec> {
        let own = |s: &&str| (*s).to_owned();
        JobSpec::new(
            "job".parse().unwrap(),
            Directory::new("/home/job").unwrap(),
            argv.iter().map(own).collect(),
            env.iter().map(|(n, v)| (own(n), own(v))).collect(),
        )
    }

    #[test]
    fn what_no_process_can_get_is_refused() {
        assert_eq!(spec(&[], &[]), Err(BadSpec::Empty));
        assert_eq!(spec(&[""], &[]), Err(BadSpec::Empty));
        assert!(spec(&["a\0"], &[]).is_err());
        assert!(spec(&["a"], &[("A", "\0")]).is_err());
        for bad in ["", "=", "A=B", "-i", "1A", "A\n"] {
            assert!(spec(&["a"], &[(bad, "")]).is_err(), "{bad:?}");
        }
        assert!(spec(&["-a", "", "\n"], &[("_a.b", "\n")]).is_ok());
    }

    #[test]
    fn directories_are_absolute_and_do_not_climb() {
        for bad in ["", "a", "/a/../b", "/..", "/a\n", "-C"] {
            assert!(Directory::new(bad).is_err(), "{bad:?}");
        }
        assert!(Directory::new("/home/job/a..b/ c").is_ok());
    }
}
