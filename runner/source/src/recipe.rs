//! The recipe of a commit: what to set up and what to run.
//!
//! Pure over the few files of a tree's root that matter. In this order, for
//! each of set-up and run by itself: the push, `.ntrace.toml`,
//! `package.json`, `Cargo.toml`, `go.mod`, a makefile. Must not know git or
//! zones. Invariant: a recipe's commands are not empty and hold no NUL; each
//! is for `/bin/sh -c`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ntrace_protocol::TraceOptions;

use crate::tree::{Entry, Kind, ReadError, Tree};

mod file;
mod make;
mod package;

/// The longest file that is read for a recipe.
const LONGEST: usize = 1 << 20;

/// Files whose text matters.
const READ: &[&str] = &[
    file::NAME,
    package::NAME,
    make::NAMES[0],
    make::NAMES[1],
    make::NAMES[2],
];

/// What was pushed along with the commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// What to run instead.
    pub run: Option<String>,
    /// What to set up instead; an empty text: nothing.
    pub setup: Option<String>,
}

/// What to set up and run, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// For `/bin/sh -c`, before the run and not traced.
    pub setup: Option<String>,
    /// For `/bin/sh -c`.
    pub run: String,
    /// Variables for both.
    pub env: BTreeMap<String, String>,
    /// Of the run.
    pub timeout: Option<Duration>,
    /// Of the set-up.
    pub setup_timeout: Option<Duration>,
    /// How long a run may say nothing.
    pub silence: Option<Duration>,
    /// Globs of files to keep.
    pub artefacts: Vec<String>,
    /// How to trace the run.
    pub trace: TraceOptions,
    /// Where all of this comes from, as a sentence for people.
    pub origin: String,
}

/// Why there is no recipe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecipeError {
    /// Nothing to run was found.
    #[error(
        "nothing to run was found{hint}; push with a run command, or add a \
         .ntrace.toml with [job] run = \"...\", or a script \"benchmark\" or \
         \"test\" to package.json, or a Makefile with a target bench, test \
         or check"
    )]
    Nothing {
        /// What came close.
        hint: String,
    },
    /// A file that decides cannot be understood.
    #[error("{file}: {why}")]
    Bad {
        /// Which.
        file: &'static str,
        /// What is wrong and, if known, in which line.
        why: String,
    },
    /// What was pushed along cannot be run.
    #[error("the {which} command of the push is {why}")]
    Override {
        /// `run` or `setup`.
        which: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// Why the root of a tree could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RootError {
    /// The cache failed.
    #[error("cannot read the tree's root")]
    Read(#[from] ReadError),
    /// A file that decides is too long to be meant.
    #[error("{file} is longer than {limit} bytes")]
    TooLong {
        /// Which.
        file: &'static str,
        /// The most that is read.
        limit: usize,
    },
}

/// What of a tree's root a recipe depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Root {
    names: BTreeSet<String>,
    texts: BTreeMap<&'static str, Vec<u8>>,
}

impl Root {
    /// Reads it.
    ///
    /// # Errors
    /// When the cache fails or a file is too long.
    pub async fn read(tree: &Tree) -> Result<Self, RootError> {
        let entries = tree.list_root().await?;
        let mut root = Self::default();
        for entry in &entries {
            if let Some(name) = regular(entry) {
                root.names.insert(name.to_owned());
            }
        }
        for file in READ {
            let found =
                entries.iter().find(|entry| entry.name == file.as_bytes());
            let Some(entry) = found else { continue };
            match tree.read_entry(entry, LONGEST).await {
                Ok(Some(text)) => {
                    root.texts.insert(file, text);
                }
                Ok(None) => {}
                Err(ReadError::TooLong { limit, .. }) => {
                    return Err(RootError::TooLong { file, limit });
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(root)
    }

    /// A root with these regular files.
    #[must_use]
    pub fn with(files: &[(&str, &str)]) -> Self {
        let mut root = Self::default();
        for (name, text) in files {
            root.names.insert((*name).to_owned());
            if let Some(known) = READ.iter().find(|known| *known == name) {
                root.texts.insert(known, text.as_bytes().to_vec());
            }
        }
        root
    }

    fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    fn bytes(&self, name: &str) -> Option<(&'static str, &[u8])> {
        self.texts
            .get_key_value(name)
            .map(|(name, text)| (*name, text.as_slice()))
    }

    /// A file's text.
    fn text(&self, name: &str) -> Result<Option<&str>, RecipeError> {
        let Some((file, bytes)) = self.bytes(name) else { return Ok(None) };
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(error) => {
                let valid = &bytes[..error.valid_up_to()];
                let line = 1 + valid.iter().filter(|b| **b == b'\n').count();
                let why = format!("line {line} is not UTF-8");
                Err(RecipeError::Bad { file, why })
            }
        }
    }
}

fn regular(entry: &Entry) -> Option<&str> {
    matches!(entry.kind, Kind::File | Kind::Executable)
        .then(|| std::str::from_utf8(&entry.name).ok())
        .flatten()
}

/// What one kind of project says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    setup: Option<String>,
    run: String,
    origin: String,
}

/// What was detected: a recipe, or what came close to one.
enum Detected {
    Found(Found),
    Nothing { hint: String },
}

impl Recipe {
    /// Decides.
    ///
    /// # Errors
    /// When nothing to run is found, or a file that decides is bad.
    pub fn of(root: &Root, overrides: &Overrides) -> Result<Self, RecipeError> {
        let pushed_run = given("run", overrides.run.as_deref())?;
        let pushed_setup = given("setup", overrides.setup.as_deref())?;
        let file = match root.text(file::NAME)? {
            Some(text) => file::parse(text)?,
            None => file::File::default(),
        };
        if pushed_run == Some("") {
            let why = "empty";
            return Err(RecipeError::Override { which: "run", why });
        }
        let detected = if (pushed_run.is_some() || file.run.is_some())
            && (pushed_setup.is_some() || file.setup.is_some())
        {
            // Nothing is left to detect, so nothing else can be bad.
            Detected::Nothing { hint: String::new() }
        } else {
            detect(root)?
        };
        let (found, hint) = match detected {
            Detected::Found(found) => (Some(found), String::new()),
            Detected::Nothing { hint } => (None, hint),
        };
        let chosen = pushed_run
            .map(|run| (run, "the push".to_owned()))
            .or_else(|| Some((file.run.as_deref()?, file::NAME.to_owned())))
            .or_else(|| {
                let found = found.as_ref()?;
                Some((found.run.as_str(), found.origin.clone()))
            });
        let Some((run, run_from)) = chosen else {
            return Err(RecipeError::Nothing { hint });
        };
        let (setup, setup_from) =
            choose_setup(pushed_setup, &file, found.as_ref());
        let origin = origin(&run_from, setup.is_some(), &setup_from);
        Ok(Self {
            setup: setup.map(str::to_owned),
            run: run.to_owned(),
            origin,
            env: file.env,
            timeout: file.timeout,
            setup_timeout: file.setup_timeout,
            silence: file.silence,
            artefacts: file.artefacts,
            trace: file.trace,
        })
    }
}

fn choose_setup<'a>(
    pushed: Option<&'a str>,
    file: &'a file::File,
    found: Option<&'a Found>,
) -> (Option<&'a str>, String) {
    let (setup, from) = if let Some(setup) = pushed {
        (Some(setup), "the push".to_owned())
    } else if let Some(setup) = file.setup.as_deref() {
        (Some(setup), file::NAME.to_owned())
    } else if let Some(found) = found {
        (found.setup.as_deref(), found.origin.clone())
    } else {
        (None, String::new())
    };
    // An empty text is how one says: no set-up.
    (setup.filter(|text| !text.is_empty()), from)
}

fn origin(run_from: &str, has_setup: bool, setup_from: &str) -> String {
    if has_setup && run_from != setup_from {
        format!("run: {run_from}; set-up: {setup_from}")
    } else {
        run_from.to_owned()
    }
}

fn given<'a>(
    which: &'static str,
    text: Option<&'a str>,
) -> Result<Option<&'a str>, RecipeError> {
    match text {
        Some(text) if text.contains('\0') => {
            let why = "not a text: it holds a NUL byte";
            Err(RecipeError::Override { which, why })
        }
        Some(text) => Ok(Some(text.trim())),
        None => Ok(None),
    }
}

fn detect(root: &Root) -> Result<Detected, RecipeError> {
    let mut hints = Vec::new();
    for look in [package::detect, cargo, go, make::detect] {
        match look(root)? {
            Some(Detected::Found(found)) => {
                return Ok(Detected::Found(found));
            }
            Some(Detected::Nothing { hint }) => hints.push(hint),
            None => {}
        }
    }
    let hint = if hints.is_empty() {
        String::new()
    } else {
        format!(" ({})", hints.join("; "))
    };
    Ok(Detected::Nothing { hint })
}

/// What one kind of project has to say, if the tree is one.
type Look = Result<Option<Detected>, RecipeError>;

fn found(setup: Option<&str>, run: &str, origin: String) -> Look {
    Ok(Some(Detected::Found(Found {
        setup: setup.map(str::to_owned),
        run: run.to_owned(),
        origin,
    })))
}

fn cargo(root: &Root) -> Look {
    if !root.has("Cargo.toml") {
        return Ok(None);
    }
    let setup = if root.has("Cargo.lock") {
        "cargo fetch --locked"
    } else {
        "cargo fetch"
    };
    found(Some(setup), "cargo test", "Cargo.toml".to_owned())
}

fn go(root: &Root) -> Look {
    if !root.has("go.mod") {
        return Ok(None);
    }
    found(Some("go mod download"), "go test ./...", "go.mod".to_owned())
}

#[cfg(test)]
mod tests;
