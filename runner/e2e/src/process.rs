//! One program that was started, with its log; ended by its pid.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::setup::Who;
use crate::wait::{DEADLINE, eventually};

/// A program of a stage.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    status: Option<ExitStatus>,
}

/// How to start one.
#[derive(Clone, Debug)]
pub struct Start {
    /// What to call it.
    pub name: String,
    /// The program's path.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// As whom.
    pub who: Who,
    /// Where its output goes.
    pub log: PathBuf,
}

/// A command as a user, with an environment of its own.
pub fn command(
    program: &Path,
    env: &[(OsString, OsString)],
    who: Who,
) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(env.iter().cloned()).current_dir("/");
    if let Who::Ordinary(id) = who {
        command.uid(id).gid(id);
    }
    command
}

impl Process {
    /// Starts it.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn start(start: &Start) -> Self {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&start.log)
            .expect("the stage's directory takes a log");
        let child = command(&start.program, &start.env, start.who)
            .args(&start.args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor can be copied"))
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("cannot start {}: {error}", start.program.display())
            });
        Self {
            name: start.name.clone(),
            child,
            log: start.log.clone(),
            status: None,
        }
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that it has said.
    pub fn said(&self) -> String {
        fs::read(&self.log).map_or_else(
            |error| format!("(no log: {error})"),
            |text| String::from_utf8_lossy(&text).into_owned(),
        )
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status =
                self.child.try_wait().expect("the child is ours to wait for");
        }
        self.status
    }

    /// The port that it listens on, once it says so after `from` bytes of its
    /// log; none if it ends first.
    pub fn port(&mut self, from: usize) -> Option<u16> {
        let what = format!("{} says on which port it listens", self.name);
        eventually(&what, DEADLINE, || {
            let said = self.said();
            if let Some(port) = port_in(said.get(from..).unwrap_or_default()) {
                return Some(Some(port));
            }
            self.ended().map(|_| None)
        })
    }

    fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
            let pid = pid.expect("a child has a pid");
            // It may just have ended, which is as good.
            let _ = kill_process(pid, signal);
        }
    }

    /// Ends it at once, as a power cut would.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait(DEADLINE);
    }

    /// Freezes it.
    pub fn freeze(&mut self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&mut self) {
        self.signal(Signal::CONT);
    }

    /// Asks it to end, and waits; killed if it does not.
    pub fn end(&mut self, patience: Duration) -> Option<ExitStatus> {
        self.signal(Signal::TERM);
        let began = std::time::Instant::now();
        while began.elapsed() < patience {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
        None
    }

    /// Waits for its end.
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        eventually(&what, deadline, || self.ended())
    }

    /// A figure of `/proc/PID/status`, in bytes or as it is.
    pub fn figure(&self, name: &str) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let words: Vec<_> = line.unwrap_or("0").split_whitespace().collect();
        let number: u64 =
            words.first().and_then(|n| n.parse().ok()).unwrap_or(0);
        if words.get(1) == Some(&"kB") { number * 1024 } else { number }
    }

    /// The most memory that it ever had, in bytes.
    pub fn peak_memory(&self) -> u64 {
        self.figure("VmHWM")
    }

    /// The memory that it has, in bytes.
    pub fn memory(&self) -> u64 {
        self.figure("VmRSS")
    }

    /// How many descriptors it has.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .map_or(0, |dir| dir.count())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// How a status reads.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "nothing known".to_owned(),
    }
}

fn port_in(said: &str) -> Option<u16> {
    let (_, rest) = said.split_once("listening on 127.0.0.1:")?;
    let end = rest.find(|c: char| !c.is_ascii_digit())?;
    rest.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_found_once_its_line_is_whole() {
        let said = "INFO x listening on 127.0.0.1:4711\n";
        assert_eq!(port_in(said), Some(4711));
        assert_eq!(port_in("listening on 127.0.0.1:47"), None);
        assert_eq!(port_in("listening"), None);
    }
}
