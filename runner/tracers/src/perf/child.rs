//! A child of this machine that never outlives us.
//!
//! The kernel ties a child's death to the thread that started it, so each
//! child has a thread of its own, which waits for it and then kills what it
//! left behind in its process group.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, Stdio};

use ntrace_zones::Exit;
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group,
    pidfd_open, pidfd_send_signal, waitid,
};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::{oneshot, watch};

/// A child. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Child {
    pidfd: OwnedFd,
    exit: watch::Receiver<Option<Exit>>,
}

/// A child that was started, and what it prints.
pub(super) struct Started {
    pub(super) child: Child,
    pub(super) stdout: Receiver,
    pub(super) stderr: Receiver,
}

/// What the thread tells at first.
type Told = (OwnedFd, OwnedFd, OwnedFd);

/// Starts a child in a process group of its own. What is given to `hold` is
/// dropped once the child is gone.
pub(super) async fn start(
    mut command: Command,
    hold: impl Send + 'static,
) -> io::Result<Started> {
    command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let (tell, told) = oneshot::channel();
    let (ended, exit) = watch::channel(None);
    std::thread::Builder::new().name("perf".to_owned()).spawn(move || {
        attend(command, tell, &ended);
        drop(hold);
    })?;
    let gone = |_| io::Error::other("the thread that starts it went away");
    let (pidfd, stdout, stderr) = told.await.map_err(gone)??;
    Ok(Started {
        child: Child { pidfd, exit },
        stdout: Receiver::from_owned_fd(stdout)?,
        stderr: Receiver::from_owned_fd(stderr)?,
    })
}

/// The thread: starts the child and waits for it.
fn attend(
    mut command: Command,
    tell: oneshot::Sender<io::Result<Told>>,
    ended: &watch::Sender<Option<Exit>>,
) {
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return drop(tell.send(Err(error))),
    };
    // With it go the descriptors that only the child is to have.
    drop(command);
    let stdout = child.stdout.take().expect("stdout was set to a pipe");
    let stderr = child.stderr.take().expect("stderr was set to a pipe");
    let pid = Pid::from_child(&child);
    let opened = pidfd_open(pid, PidfdFlags::empty());
    let told = opened.map(|fd| (fd, stdout.into(), stderr.into()));
    let is_refused = told.is_err();
    if tell.send(told.map_err(Into::into)).is_err() || is_refused {
        // Nobody knows of it. It is not waited for yet, so this hits it.
        let _ = child.kill();
    }
    // Not reaped yet: until then its number is nobody else's.
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while waitid(WaitId::Pid(pid), options).err() == Some(Errno::INTR) {}
    let _ = kill_process_group(pid, Signal::KILL);
    let exit = match child.wait() {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, Some(signal)) => Exit::Signal(signal),
            (None, None) => Exit::Unknown,
        },
        Err(_) => Exit::Unknown,
    };
    let _ = ended.send(Some(exit));
}

impl Child {
    /// How it ended, if it did.
    pub(super) fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Waits for its end. May be dropped and called again.
    pub(super) async fn ended(&mut self) -> Exit {
        match self.exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.unwrap_or(Exit::Unknown),
            Err(_) => Exit::Unknown,
        }
    }

    /// Asks it to end. False: it has ended already.
    pub(super) fn interrupt(&self) -> bool {
        pidfd_send_signal(&self.pidfd, Signal::INT).is_ok()
    }

    /// Kills it.
    pub(super) fn kill(&self) {
        // ESRCH: it ended by itself just now, which is as good.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn what_it_prints_and_how_it_ends_is_told() {
        let started = start(sh("echo out; echo err >&2; exit 7"), ());
        let mut started = started.await.unwrap();
        let (mut out, mut err) = (String::new(), String::new());
        started.stdout.read_to_string(&mut out).await.unwrap();
        started.stderr.read_to_string(&mut err).await.unwrap();
        assert_eq!((&*out, &*err), ("out\n", "err\n"));
        assert_eq!(started.child.ended().await, Exit::Code(7));
        assert_eq!(started.child.exit(), Some(Exit::Code(7)));
        assert!(start(Command::new("/nonexistent/perf"), ()).await.is_err());
    }

    #[tokio::test]
    async fn a_dropped_child_and_all_of_its_group_are_killed() {
        let script = "trap '' INT TERM; sleep 3599 & echo $!; wait";
        let (hold, held) = oneshot::channel::<()>();
        let started = start(sh(script), hold).await.unwrap();
        let mut line = [0_u8; 32];
        let mut stdout = started.stdout;
        let count = stdout.read(&mut line).await.unwrap();
        let pid = String::from_utf8_lossy(&line[..count]).trim().to_owned();
        assert!(started.child.interrupt());
        drop(started.child);
        // Dropped by the thread after the child's end.
        assert!(held.await.is_err());
        let status = format!("/proc/{pid}/status");
        let until =
            std::time::Instant::now() + std::time::Duration::from_secs(60);
        let lives = || {
            let status = std::fs::read_to_string(&status).unwrap_or_default();
            !status.is_empty() && !status.contains("State:\tZ")
        };
        while lives() {
            assert!(std::time::Instant::now() < until, "it lives on");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}
