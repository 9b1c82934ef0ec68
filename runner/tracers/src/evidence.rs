//! What a job that hangs is doing: its processes, where each waits, and one
//! sentence that names the place.
//!
//! The reading is bounded in time, in processes and in bytes; the judging is
//! pure. All text of a job is escaped before anybody sees it. Must not know
//! why a job is ended.

mod busy;
mod files;
mod open;
mod path;
mod proc;
mod report;
mod sentence;
mod words;

use ntrace_protocol::text::escape;
use serde::Serialize;

pub use proc::{Bounds, of_zone};

/// A process of a zone.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Process {
    /// Its number in the zone.
    pub pid: u64,
    /// Its number on this machine; 0 if it is not known.
    #[serde(skip)]
    pub host: u32,
    /// Its parent's number in the zone; none if the parent is outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ppid: Option<u64>,
    /// Its name.
    pub comm: String,
    /// Its command line.
    pub argv: Vec<String>,
    /// Its state, in the letters of ps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<char>,
    /// Where in the kernel it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wchan: Option<String>,
    /// Its resident memory in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rss: Option<u64>,
    /// Its processor time, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<f64>,
    /// Its threads, the first one first.
    pub threads: Vec<Thread>,
    /// Its open files.
    pub files: Vec<OpenFile>,
    /// Why its stacks are not to be had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// A thread of a process.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Thread {
    /// Its number in the zone.
    pub tid: u64,
    /// Its number on this machine; 0 if it is not known.
    #[serde(skip)]
    pub host: u32,
    /// Its name.
    pub comm: String,
    /// Its state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<char>,
    /// Where in the kernel it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wchan: Option<String>,
    /// The descriptor of the call that it waits in, if that call is of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<u32>,
    /// Which share of a processor it used while it was looked at, or would
    /// have used had it got it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub busy: Option<f64>,
    /// Its user stack, leaf first.
    pub frames: Vec<String>,
}

/// An open file of a process.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct OpenFile {
    /// Its number in the process.
    pub number: u32,
    /// Its name, or what it is.
    pub name: String,
    /// What the process may do with it.
    #[serde(skip)]
    pub direction: Direction,
    /// The descriptors whose events it gathers.
    #[serde(skip)]
    pub watches: Vec<u32>,
    /// The other end, of a pipe or a socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leads_to: Option<Lead>,
}

/// Where a pipe or a socket leads to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Lead {
    /// In words.
    pub text: String,
    /// The processes of the zone at the other end of a pipe.
    pub pids: Vec<u64>,
}

/// What a process may do with a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// It is not known.
    #[default]
    Unknown,
    /// Read it.
    Reads,
    /// Write it.
    Writes,
    /// Both.
    Both,
}

/// The user stacks of a process, from a tracer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stacks {
    /// Its number in the zone.
    pub pid: u64,
    /// Why they are not to be had.
    pub refused: Option<String>,
    /// Its threads.
    pub threads: Vec<Thread>,
}

/// All that was seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Evidence {
    /// The processes.
    pub processes: Vec<Process>,
    /// How many more there are that were not looked at.
    pub unseen: usize,
    /// What could not be seen, and why.
    pub notes: Vec<String>,
}

impl Evidence {
    /// Adds the stacks of a tracer to the processes that they are of.
    pub fn merge(&mut self, stacks: Vec<Stacks>) {
        for of in stacks {
            let known = self.processes.iter_mut().find(|p| p.pid == of.pid);
            let Some(process) = known else { continue };
            process.refused = of.refused.as_deref().map(shown);
            for mut thread in of.threads {
                // Names of functions and files are of the job's making.
                for frame in &mut thread.frames {
                    *frame = shown(frame);
                }
                let known =
                    process.threads.iter_mut().find(|t| t.host == thread.host);
                match known {
                    Some(known) => known.take(thread),
                    // It began just now.
                    None => {
                        thread.comm = shown(&thread.comm);
                        process.threads.push(thread);
                    }
                }
            }
        }
    }
}

/// The longest name of a function that is shown.
const NAME: usize = 400;

/// A name that anybody may read: cut, and without what steers a terminal.
fn shown(name: &str) -> String {
    let mut chars = name.chars();
    let cut: String = chars.by_ref().take(NAME).collect();
    let mark = if chars.next().is_some() { "…" } else { "" };
    escape(&cut) + mark
}

impl Thread {
    fn take(&mut self, other: Self) {
        self.frames = other.frames;
        self.state = self.state.or(other.state);
        if self.wchan.is_none() {
            self.wchan = other.wchan;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_job_named_its_functions_is_shown_harmless() {
        let thread = |tid, host| Thread { tid, host, ..Thread::default() };
        let known = Process {
            pid: 7,
            threads: vec![thread(7, 70)],
            ..Process::default()
        };
        let mut evidence =
            Evidence { processes: vec![known], ..Evidence::default() };
        let bad = "[x\u{1b}[2J]";
        let with = |host| Thread {
            comm: bad.to_owned(),
            frames: vec![bad.to_owned(), "f".repeat(1000)],
            ..thread(0, host)
        };
        let threads = vec![with(70), with(71)];
        let refused = Some(bad.to_owned());
        evidence.merge(vec![Stacks { pid: 7, refused, threads }]);
        let text = evidence.stacks() + &evidence.tree();
        assert!(text.contains("[x\\x1b[2J]"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
        assert!(!text.contains(&"f".repeat(401)), "{text}");
    }
}
