//! Commands as processes of this machine: a global zone that we are in, or
//! the Linux stand-in.
//!
//! Absolute paths, a cleared environment but for a short list, `/` as
//! directory, a process group of its own. Holds the lifeline: a pipe whose
//! write end only this process has, so that zones started through it learn
//! of our death.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::Stdio;

use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, kill_process_group};

use super::{Handle, Process, sys};
use crate::command::{Command, Exit, Program};

/// What of our environment the programs get. All else is cleared.
const PASSED: &[&str] = &[
    "HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "TMPDIR",
    "NTRACE_ZONES",
    "NTRACE_CGROUP",
    "NTRACE_UID_BASE",
    "NTRACE_UPPER",
];

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:\
                    /bin";

/// Where the programs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Programs {
    /// In these files.
    Files {
        /// The absolute path of vmadm.
        vmadm: PathBuf,
        /// The absolute path of zlogin.
        zlogin: PathBuf,
    },
    /// In this very executable, chosen by its argument zero.
    Embedded,
}

/// Spawns processes of this machine.
#[derive(Debug)]
pub struct Local {
    programs: Programs,
    dtrace: PathBuf,
    env: Vec<(OsString, OsString)>,
    lifeline: Lifeline,
}

#[derive(Debug)]
struct Lifeline {
    read: OwnedFd,
    /// Closed by our death, whichever way it comes.
    _write: OwnedFd,
}

impl Local {
    /// A carrier to these programs, with the listed part of this process's
    /// environment.
    ///
    /// # Errors
    /// When no pipe can be made, or a path is not absolute.
    pub fn new(programs: Programs) -> io::Result<Self> {
        if let Programs::Files { vmadm, zlogin } = &programs {
            for path in [vmadm, zlogin] {
                if !path.is_absolute() {
                    let text =
                        format!("{} is not an absolute path", path.display());
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidInput,
                        text,
                    ));
                }
            }
        }
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let env = PASSED
            .iter()
            .filter_map(|name| Some(((*name).into(), std::env::var_os(name)?)))
            .collect();
        let lifeline = Lifeline { read, _write: write };
        let dtrace = PathBuf::from(Program::Dtrace.path());
        Ok(Self { programs, dtrace, env, lifeline })
    }

    /// Takes another dtrace than the system's.
    #[must_use]
    pub fn with_dtrace(mut self, dtrace: impl Into<PathBuf>) -> Self {
        self.dtrace = dtrace.into();
        self
    }

    /// Sets a variable of the programs' environment, for example
    /// `NTRACE_ZONES`.
    #[must_use]
    pub fn with_env(
        mut self,
        name: impl Into<OsString>,
        value: impl Into<OsString>,
    ) -> Self {
        let name = name.into();
        self.env.retain(|(known, _)| *known != name);
        self.env.push((name, value.into()));
        self
    }

    fn program(&self, program: Program) -> std::process::Command {
        use std::process::Command as Std;
        match (program, &self.programs) {
            (Program::Dtrace, _) => Std::new(&self.dtrace),
            (Program::Vmadm, Programs::Files { vmadm, .. }) => Std::new(vmadm),
            (Program::Zlogin, Programs::Files { zlogin, .. }) => {
                Std::new(zlogin)
            }
            (_, Programs::Embedded) => {
                let mut this = Std::new("/proc/self/exe");
                this.arg0(program.name());
                this
            }
        }
    }

    pub(super) fn spawn(&self, command: &Command) -> io::Result<Process> {
        let mut std_command = self.program(command.program);
        std_command
            .args(&command.args)
            .env_clear()
            .env("PATH", PATH)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // The others start no zone, and are cheaper to spawn without this.
        if command.program == Program::Vmadm {
            let fd = self.lifeline.read.as_raw_fd();
            std_command.env("NTRACE_LIFELINE", fd.to_string());
            sys::inherit(&mut std_command, fd);
        }
        let mut child = tokio::process::Command::from(std_command)
            .kill_on_drop(true)
            .spawn()?;
        let stdin = child.stdin.take().expect("stdin was set to a pipe");
        let stdout = child.stdout.take().expect("stdout was set to a pipe");
        let stderr = child.stderr.take().expect("stderr was set to a pipe");
        Ok(Process {
            stdin: Box::new(stdin),
            stdout: Box::new(stdout),
            stderr: Box::new(stderr),
            handle: Handle::Local(Child { child }),
        })
    }
}

/// A child with a process group of its own.
#[derive(Debug)]
pub struct Child {
    child: tokio::process::Child,
}

impl Child {
    pub(super) async fn wait(&mut self) -> io::Result<Exit> {
        let status = self.child.wait().await?;
        Ok(match (status.code(), status.signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, Some(signal)) => Exit::Signal(signal),
            (None, None) => Exit::Unknown,
        })
    }

    pub(super) fn interrupt(&mut self) {
        self.signal(Signal::INT);
    }

    pub(super) fn kill(&mut self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        // `id` is None once the child was waited for: then its number, and
        // that of its group, may belong to someone else.
        let pid = self
            .child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // ESRCH: it ended by itself just now, which is as good.
            let _ = kill_process_group(pid, signal);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}
