//! Commands over one multiplexed ssh connection to a global zone.
//!
//! The native multiplexer of the `openssh` crate: one master process, a
//! session for each command, arguments quoted for the remote shell by the
//! crate. A lost master makes all sessions fail; the caller connects anew.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use openssh::{KnownHosts, Session, SessionBuilder, Stdio};

use super::{Handle, Process};
use crate::command::{Command, Exit};

/// How long a connection may take to come up.
const CONNECT: Duration = Duration::from_secs(10);
/// Pause between signs of life; four missing ones end the connection.
const ALIVE: Duration = Duration::from_secs(15);

/// `ssh://USER@HOST[:PORT]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshAddress {
    user: String,
    host: String,
    port: Option<u16>,
}

/// Why an address of a global zone was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not of the form ssh://user@host or ssh://user@host:port")]
pub struct BadAddress {
    given: String,
}

impl FromStr for SshAddress {
    type Err = BadAddress;

    fn from_str(given: &str) -> Result<Self, BadAddress> {
        parse(given).ok_or_else(|| BadAddress {
            given: given.chars().take(100).collect(),
        })
    }
}

fn parse(given: &str) -> Option<SshAddress> {
    let rest = given.strip_prefix("ssh://")?;
    let (user, place) = rest.split_once('@')?;
    let (host, port) = match place.strip_prefix('[') {
        Some(v6) => {
            let (host, after) = v6.split_once(']')?;
            (host, after.strip_prefix(':').map(str::to_owned))
        }
        None => match place.split_once(':') {
            Some((host, port)) => (host, Some(port.to_owned())),
            None => (place, None),
        },
    };
    let port = port
        .map(|port| port.parse::<u16>().ok())
        .map_or(Some(None), |port| port.filter(|port| *port != 0).map(Some))?;
    // Nothing that ssh could take for an option or a list of jumps.
    let legal = |text: &str, more: &[u8]| {
        !text.is_empty()
            && !text.starts_with('-')
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
    };
    let good = legal(user, b"._-") && legal(host, b"._-:%");
    good.then(|| SshAddress {
        user: user.to_owned(),
        host: host.to_owned(),
        port,
    })
}

impl fmt::Display for SshAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ssh://{}@", self.user)?;
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// What identifies the two sides.
#[derive(Debug, Clone, Default)]
pub struct SshOptions {
    /// The private key; ssh's own choice without one.
    pub identity: Option<PathBuf>,
    /// The file of known host keys; ssh's own without one.
    pub known_hosts: Option<PathBuf>,
    /// Where the control socket lives; a temporary directory without one.
    pub control_directory: Option<PathBuf>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to the global zone at {address}")]
pub struct ConnectError {
    address: SshAddress,
    source: openssh::Error,
}

/// A connection to a global zone.
#[derive(Debug)]
pub struct Ssh {
    session: Arc<Session>,
}

impl Ssh {
    /// Connects. Only known host keys are accepted, and nothing is asked.
    ///
    /// # Errors
    /// When the host cannot be reached or refuses us.
    pub async fn connect(
        address: &SshAddress,
        options: &SshOptions,
    ) -> Result<Self, ConnectError> {
        let mut builder = SessionBuilder::default();
        builder
            .user(address.user.clone())
            .known_hosts_check(KnownHosts::Strict)
            .connect_timeout(CONNECT)
            .server_alive_interval(ALIVE);
        if let Some(port) = address.port {
            builder.port(port);
        }
        if let Some(identity) = &options.identity {
            builder.keyfile(identity);
        }
        if let Some(known) = &options.known_hosts {
            builder.user_known_hosts_file(known);
        }
        if let Some(directory) = &options.control_directory {
            builder.control_directory(directory);
        }
        let session =
            builder.connect_mux(&address.host).await.map_err(|source| {
                ConnectError { address: address.clone(), source }
            })?;
        Ok(Self { session: Arc::new(session) })
    }

    /// Whether the master still answers.
    pub async fn alive(&self) -> bool {
        self.session.check().await.is_ok()
    }

    pub(super) async fn spawn(&self, command: &Command) -> io::Result<Process> {
        let mut child = Arc::clone(&self.session)
            .arc_command(command.program.path())
            .args(&command.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .await
            .map_err(io::Error::other)?;
        let stdin = child.stdin().take().expect("stdin was set to a pipe");
        let stdout = child.stdout().take().expect("stdout was set to a pipe");
        let stderr = child.stderr().take().expect("stderr was set to a pipe");
        let (end, ended) = tokio::sync::oneshot::channel();
        // `wait` of the session consumes it, so a task of its own waits.
        let task = tokio::spawn(async move {
            let exit = match child.wait().await {
                Ok(status) => {
                    Ok(status.code().map_or(Exit::Unknown, Exit::Code))
                }
                // ssh's own 255, or a remote command that died of a signal.
                Err(openssh::Error::RemoteProcessTerminated) => {
                    Ok(Exit::Unknown)
                }
                Err(error) => Err(io::Error::other(error)),
            };
            let _ = end.send(exit);
        });
        Ok(Process {
            stdin: Box::new(stdin),
            stdout: Box::new(stdout),
            stderr: Box::new(stderr),
            handle: Handle::Ssh(Remote {
                ended: Some(ended),
                exit: None,
                task,
            }),
        })
    }
}

/// A session on the connection.
#[derive(Debug)]
pub struct Remote {
    ended: Option<tokio::sync::oneshot::Receiver<io::Result<Exit>>>,
    exit: Option<Exit>,
    task: tokio::task::JoinHandle<()>,
}

impl Remote {
    pub(super) async fn wait(&mut self) -> io::Result<Exit> {
        if let Some(ended) = self.ended.as_mut() {
            let exit = ended.await.unwrap_or(Ok(Exit::Unknown));
            self.ended = None;
            self.exit = Some(exit?);
        }
        Ok(self.exit.unwrap_or(Exit::Unknown))
    }

    /// Leaves the session. The remote process is not signalled by ssh; it
    /// sees its pipes close.
    pub(super) fn kill(&mut self) {
        self.task.abort();
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_as_they_went() {
        for text in [
            "ssh://root@gz",
            "ssh://root@10.0.0.1:2222",
            "ssh://root@[fe80::1]:22",
            "ssh://root@[::1]",
        ] {
            let address: SshAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn nothing_that_ssh_could_misread_is_an_address() {
        for bad in [
            "",
            "root@gz",
            "ssh://gz",
            "ssh://root@",
            "ssh://@gz",
            "ssh://root@-oProxyCommand=x",
            "ssh://-l@gz",
            "ssh://root@gz:0",
            "ssh://root@gz:99999",
            "ssh://root@gz:x",
            "ssh://root@a,b",
            "ssh://root@gz/path",
            "ssh://root@g z",
        ] {
            assert!(bad.parse::<SshAddress>().is_err(), "{bad:?}");
        }
    }
}
