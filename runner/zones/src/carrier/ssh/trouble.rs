//! Why there is no connection: what ssh said, what it means, what to do.
//!
//! Pure: words in, errors out. Must not know how ssh is started.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::address::SshAddress;
use crate::quote::{self, single};

/// How much of what ssh says a message shows.
const SHOWN: usize = 500;

/// What ssh's words mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The host key is not among the known ones.
    UnknownHostKey,
    /// The host key is another one than the known one.
    ChangedHostKey,
    /// Others can read our private key.
    OpenKeyFile,
    /// The other side does not take our key.
    KeyRefused,
    /// Nothing that waiting could not mend.
    Other,
}

/// In this order: a changed host key also fails the verification. Small
/// letters.
const TABLE: &[(&[&str], Trouble)] = &[
    (&["identification has changed"], Trouble::ChangedHostKey),
    (
        &["host key is known for", "host key verification failed"],
        Trouble::UnknownHostKey,
    ),
    (&["unprotected private key"], Trouble::OpenKeyFile),
    (
        &["permission denied", "too many authentication failures"],
        Trouble::KeyRefused,
    ),
];

impl Trouble {
    fn of(said: &str) -> Self {
        let said = said.to_lowercase();
        TABLE
            .iter()
            .find(|(parts, _)| parts.iter().any(|part| said.contains(part)))
            .map_or(Self::Other, |(_, trouble)| *trouble)
    }

    /// What it is and what to do about it.
    fn advice(
        self,
        address: &SshAddress,
        identity: Option<&Path>,
        known_hosts: Option<&Path>,
    ) -> String {
        let host = &address.host;
        let port = address.port.unwrap_or(22);
        let known = known_hosts.map_or_else(
            || "~/.ssh/known_hosts".to_owned(),
            |path| single(&path.to_string_lossy()),
        );
        let key = identity.map_or_else(
            || "our key".to_owned(),
            |path| single(&path.to_string_lossy()),
        );
        match self {
            Self::UnknownHostKey => format!(
                "its host key is not known; add it after comparing its \
                 fingerprint on the host: ssh-keyscan -p {port} {host} >> \
                 {known}"
            ),
            Self::ChangedHostKey => format!(
                "its host key is not the known one: somebody stands in \
                 between, or it was set up anew; if you know that it was: \
                 ssh-keygen -R '{}' -f {known}, then add the new key",
                if port == 22 {
                    host.clone()
                } else {
                    format!("[{host}]:{port}")
                }
            ),
            Self::OpenKeyFile => {
                format!("others can read {key}; chmod 0600 it")
            }
            Self::KeyRefused => format!(
                "it does not take {key}; put its public half into the \
                 authorized_keys of {} there",
                address.user
            ),
            Self::Other => "it cannot be reached; see whether it is up and \
                            whether its sshd listens"
                .to_owned(),
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The control socket has no place.
    #[error("cannot make the directory {} for ssh's control socket", path.display())]
    NoDirectory {
        /// Which directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A path that ssh would read as something else.
    #[error("ssh cannot be given the path {0}; use one of plain characters")]
    BadPath(String),
    /// There is no ssh.
    #[error("cannot start ssh; install OpenSSH's client")]
    NoProgram(#[source] io::Error),
    /// ssh neither connected nor failed.
    #[error("no connection to the global zone at {address} within {after:?}")]
    Late {
        /// Where to.
        address: SshAddress,
        /// How long ssh was given.
        after: Duration,
    },
    /// ssh failed.
    #[error(
        "cannot connect to the global zone at {address}: {advice}; ssh said: {said}"
    )]
    Failed {
        /// Where to.
        address: SshAddress,
        /// What it means.
        trouble: Trouble,
        /// What to do.
        advice: String,
        /// What ssh said, escaped for display.
        said: String,
    },
    /// The connection was there and went at once.
    #[error("lost the connection to the global zone at {address} at once")]
    Gone {
        /// Where to.
        address: SshAddress,
        /// What the control socket said.
        source: io::Error,
    },
    /// All connections are in use, and none became free.
    #[error(
        "all {sessions} sessions to the global zone at {address} are in use"
    )]
    Full {
        /// Where to.
        address: SshAddress,
        /// How many there are.
        sessions: usize,
    },
}

impl ConnectError {
    /// What ssh's log means.
    pub(super) fn from_log(
        log: &str,
        address: &SshAddress,
        identity: Option<&Path>,
        known_hosts: Option<&Path>,
    ) -> Self {
        let trouble = Trouble::of(log);
        Self::Failed {
            address: address.clone(),
            trouble,
            advice: trouble.advice(address, identity, known_hosts),
            said: shown(log),
        }
    }

    /// Whether somebody must act before trying again can help.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::BadPath(_) | Self::NoProgram(_) => true,
            Self::Failed { trouble, .. } => *trouble != Trouble::Other,
            Self::NoDirectory { .. }
            | Self::Late { .. }
            | Self::Gone { .. }
            | Self::Full { .. } => false,
        }
    }

    /// As an error of a command that could not be started.
    pub(super) fn into_io(self) -> io::Error {
        let kind = match &self {
            Self::NoProgram(_) => io::ErrorKind::NotFound,
            Self::Late { .. } => io::ErrorKind::TimedOut,
            _ if self.is_lasting() => io::ErrorKind::PermissionDenied,
            _ => io::ErrorKind::NotConnected,
        };
        io::Error::new(kind, self)
    }
}

/// What ssh said, on one line and escaped; of a long text the end.
pub(super) fn shown(log: &str) -> String {
    let lines: Vec<&str> = log
        .lines()
        .map(|line| line.trim().trim_matches('@').trim())
        .filter(|line| !line.is_empty())
        .collect();
    if lines.is_empty() {
        return "nothing".to_owned();
    }
    let line = quote::visible(&lines.join(" | "));
    let skip = line.chars().count().saturating_sub(SHOWN);
    line.chars().skip(skip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(log: &str) -> ConnectError {
        let address = "ssh://root@gz:2222".parse().unwrap();
        let known = Path::new("/etc/nt/known hosts");
        ConnectError::from_log(
            log,
            &address,
            Some(Path::new("/etc/nt/key")),
            Some(known),
        )
    }

    #[track_caller]
    fn check(log: &str, is_lasting: bool, advice: &str) {
        let error = error(log);
        assert_eq!(error.is_lasting(), is_lasting, "{error}");
        assert!(error.to_string().contains(advice), "{error}");
    }

    #[test]
    fn what_waiting_cannot_mend_is_lasting_and_says_what_to_do() {
        check(
            "No ED25519 host key is known for [gz]:2222 and you have \
             requested strict checking.\nHost key verification failed.",
            true,
            "ssh-keyscan -p 2222 gz >> '/etc/nt/known hosts'",
        );
        check(
            "@@@\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\n\
             @@@\nHost key verification failed.",
            true,
            "ssh-keygen -R '[gz]:2222' -f '/etc/nt/known hosts'",
        );
        check(
            "root@gz: Permission denied (publickey).",
            true,
            "the authorized_keys of root",
        );
        check(
            "WARNING: UNPROTECTED PRIVATE KEY FILE!\nPermission denied",
            true,
            "chmod 0600",
        );
    }

    #[test]
    fn a_host_that_is_not_up_may_come_up() {
        for log in [
            "ssh: connect to host gz port 22: Connection refused",
            "kex_exchange_identification: read: Connection reset by peer",
            "Connection timed out during banner exchange",
            "",
        ] {
            check(log, false, "it cannot be reached");
        }
    }

    #[test]
    fn what_ssh_says_cannot_steer_a_terminal() {
        let text = error("\u{1b}[2Jboo\n\n@@@ x @@@\n").to_string();
        assert!(text.ends_with(r"\u{1b}[2Jboo | x"), "{text}");
        let long = error(&"y".repeat(9000)).to_string();
        assert!(long.len() < 1200, "{}", long.len());
    }
}
