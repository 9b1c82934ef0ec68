//! Carriers: how a command reaches the global zone and its bytes come back.
//!
//! A command is a program and arguments; a process is three byte streams and
//! an exit. Must not know what the commands mean. Invariants: a dropped
//! process is killed with its process group; no carrier passes an argument
//! through a shell unquoted.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::command::{Command, Exit};

mod local;
mod ssh;
mod sys;

pub use local::{Local, Programs};
pub use ssh::{BadAddress, ConnectError, Ssh, SshAddress, SshOptions, Trouble};

/// Bytes to a process.
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;
/// Bytes from a process.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;

/// A way to the global zone.
#[derive(Debug)]
pub enum Carrier {
    /// Processes of this machine.
    Local(Local),
    /// Commands over one multiplexed ssh connection.
    Ssh(Ssh),
}

impl Carrier {
    /// Starts a command with pipes for its three streams.
    ///
    /// # Errors
    /// When the process or session cannot be started.
    pub async fn spawn(&self, command: &Command) -> io::Result<Process> {
        match self {
            Self::Local(local) => local.spawn(command),
            Self::Ssh(ssh) => ssh.spawn(command).await,
        }
    }
}

/// A started command.
pub struct Process {
    /// Its stdin.
    pub stdin: Writer,
    /// Its stdout.
    pub stdout: Reader,
    /// Its stderr.
    pub stderr: Reader,
    /// The process itself.
    pub handle: Handle,
}

/// The process behind the three streams. Dropped before it ended, it is
/// killed as far as the carrier can.
#[derive(Debug)]
pub enum Handle {
    /// A child of this process.
    Local(local::Child),
    /// A session of an ssh connection.
    Ssh(ssh::Remote),
}

impl Handle {
    /// Waits for the end. May be dropped and called again.
    ///
    /// # Errors
    /// When the operating system or the connection fails.
    pub async fn wait(&mut self) -> io::Result<Exit> {
        match self {
            Self::Local(child) => child.wait().await,
            Self::Ssh(remote) => remote.wait().await,
        }
    }

    /// Asks it to end as the interrupt key does, where a signal reaches it.
    /// Over ssh none does: there the closed stdin says the same.
    pub fn interrupt(&mut self) {
        match self {
            Self::Local(child) => child.interrupt(),
            Self::Ssh(_) => {}
        }
    }

    /// Kills it, with all of its process group where that is possible.
    pub fn kill(&mut self) {
        match self {
            Self::Local(child) => child.kill(),
            Self::Ssh(remote) => remote.kill(),
        }
    }
}
