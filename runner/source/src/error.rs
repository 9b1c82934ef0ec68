//! Why a commit was not to be had, and what to do about it.
//!
//! Pure: git's words in, a class out. Must not run anything.

use crate::git::GitError;
use crate::name::{CommitId, Repository};

/// Why a commit is not in the cache.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SourceError {
    /// The repository does not exist or does not let us in.
    #[error("repository {repository} is not to be had")]
    NoRepository {
        /// Which.
        repository: Repository,
        /// git's own words.
        source: GitError,
    },
    /// The repository has no such commit.
    #[error("repository {repository} has no commit {commit}")]
    NoCommit {
        /// In which repository.
        repository: Repository,
        /// Which commit.
        commit: CommitId,
        /// git's own words, where it had any.
        source: Option<Box<GitError>>,
    },
    /// The network, the other side, or time failed. Worth another try.
    #[error("cannot reach repository {repository}")]
    Network {
        /// Which.
        repository: Repository,
        /// git's own words.
        source: GitError,
    },
    /// Somebody else's fetch of this repository took all of the time.
    #[error("another fetch of repository {repository} took too long")]
    Busy {
        /// Which.
        repository: Repository,
    },
    /// The disk of the cache is full.
    #[error("the disk of the source cache is full")]
    DiskFull {
        /// git's own words.
        source: GitError,
    },
    /// git is not installed or does not start.
    #[error("git cannot be used here")]
    NoGit {
        /// Why.
        source: GitError,
    },
    /// The mirror is damaged, and a new one was no better.
    #[error("the mirror of {repository} is damaged")]
    Damaged {
        /// Of which repository.
        repository: Repository,
        /// git's own words.
        source: GitError,
    },
    /// A directory of the cache cannot be made or read.
    #[error("cannot {what} the mirror of {repository}: {why}")]
    Disk {
        /// What was tried.
        what: &'static str,
        /// Of which repository.
        repository: Repository,
        /// What the operating system says.
        why: String,
    },
}

impl SourceError {
    /// Whether another try may help, without anybody doing anything.
    #[must_use]
    pub fn is_worth_another_try(&self) -> bool {
        matches!(self, Self::Network { .. } | Self::Busy { .. })
    }

    /// Whether it only says that one caller's time was up: others may have
    /// more of it.
    pub(crate) fn is_only_ours(&self) -> bool {
        let source = match self {
            Self::Network { source, .. } => source,
            _ => return false,
        };
        matches!(source, GitError::Deadline { .. })
    }
}

/// What git's words mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    NoRepository,
    NoCommit,
    /// The server wants to be asked for branches, not for an id.
    AskForAll,
    Network,
    DiskFull,
    NoGit,
    Damaged,
}

/// In this order, since later ones are less certain. Small letters.
const TABLE: &[(&[&str], Meaning)] = &[
    (
        &["no space left on device", "disk quota exceeded", "file too large"],
        Meaning::DiskFull,
    ),
    (
        &[
            "does not allow request for unadvertised",
            "dumb http transport",
            "does not support shallow",
            "server does not support exact",
        ],
        Meaning::AskForAll,
    ),
    (
        &["not our ref", "couldn't find remote ref", "no such remote ref"],
        Meaning::NoCommit,
    ),
    (
        &[
            "repository not found",
            "does not appear to be a git repository",
            "does not exist",
            "authentication failed",
            "could not read username",
            "could not read password",
            "terminal prompts disabled",
            "permission denied",
            "host key verification failed",
            "returned error: 401",
            "returned error: 403",
            "returned error: 404",
            "returned error: 410",
            "access denied",
            "transport '",
            "dubious ownership",
            "' not found",
        ],
        Meaning::NoRepository,
    ),
    (
        &[
            "could not resolve",
            "failed to connect",
            "couldn't connect",
            "connection refused",
            "connection reset",
            "connection timed out",
            "timed out",
            "unable to access",
            "early eof",
            "rpc failed",
            "hung up unexpectedly",
            "unexpected disconnect",
            "network is unreachable",
            "no route to host",
            "returned error: 429",
            "returned error: 5",
            "gnutls",
            "ssl",
            "too slow",
        ],
        Meaning::Network,
    ),
];

/// Reads what a failed fetch said.
pub(crate) fn meaning(error: &GitError) -> Meaning {
    let said = match error {
        GitError::Missing | GitError::Start { .. } => return Meaning::NoGit,
        GitError::Deadline { .. } => return Meaning::Network,
        GitError::TooMuch { .. } | GitError::Read { .. } => {
            return Meaning::Damaged;
        }
        GitError::Failed { said, .. } => said.to_lowercase(),
    };
    TABLE
        .iter()
        .find(|(parts, _)| parts.iter().any(|part| said.contains(part)))
        // What nobody foresaw is most often a mirror that is not whole.
        .map_or(Meaning::Damaged, |(_, meaning)| *meaning)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_git_says_is_understood() {
        for (said, expected) in [
            (
                "fatal: unable to access 'https://***@h/': Could not resolve \
                 host: h",
                Meaning::Network,
            ),
            (
                "fatal: unable to access 'https://h/x/': The requested URL \
                 returned error: 503",
                Meaning::Network,
            ),
            (
                "fatal: unable to access 'https://h/x/': The requested URL \
                 returned error: 403",
                Meaning::NoRepository,
            ),
            (
                "remote: Repository not found. | fatal: repository \
                 'https://h/x/' not found",
                Meaning::NoRepository,
            ),
            (
                "fatal: could not read Username for 'https://github.com': \
                 terminal prompts disabled",
                Meaning::NoRepository,
            ),
            (
                "fatal: '/x' does not appear to be a git repository | fatal: \
                 Could not read from remote repository.",
                Meaning::NoRepository,
            ),
            (
                "fatal: remote error: upload-pack: not our ref 00 | fatal: \
                 the remote end hung up unexpectedly",
                Meaning::NoCommit,
            ),
            (
                "error: Server does not allow request for unadvertised \
                 object 00",
                Meaning::AskForAll,
            ),
            (
                "fatal: write error: No space left on device | fatal: \
                 fetch-pack: invalid index-pack output",
                Meaning::DiskFull,
            ),
            ("fatal: early EOF", Meaning::Network),
            ("fatal: bad object 00", Meaning::Damaged),
            ("fatal: not a git repository: '/m'", Meaning::Damaged),
        ] {
            let error = GitError::Failed {
                verb: "fetch".to_owned(),
                status: "exit status 128".to_owned(),
                said: said.to_owned(),
            };
            assert_eq!(meaning(&error), expected, "{said}");
        }
    }
}
