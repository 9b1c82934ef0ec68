//! A command for the global zone, and how it ended.
//!
//! Plain values. Must not know how a command gets there.

use std::fmt;

use crate::quote;

/// The programs that the driver may run in a global zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Program {
    /// Manages VMs.
    Vmadm,
    /// Runs a command in a zone.
    Zlogin,
    /// Watches from the global zone.
    Dtrace,
}

impl Program {
    /// The name by which it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vmadm => "vmadm",
            Self::Zlogin => "zlogin",
            Self::Dtrace => "dtrace",
        }
    }

    /// Where SmartOS keeps it.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Vmadm => "/usr/sbin/vmadm",
            Self::Zlogin => "/usr/sbin/zlogin",
            Self::Dtrace => "/usr/sbin/dtrace",
        }
    }
}

/// A program and its arguments. No shell is involved unless an argument is
/// documented to be read by one (the last of zlogin is, in the zone).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// What to run.
    pub program: Program,
    /// Its arguments, without the program's own name.
    pub args: Vec<String>,
}

impl Command {
    /// A command from its parts.
    pub fn new<I>(program: Program, args: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Self { program, args: args.into_iter().map(Into::into).collect() }
    }
}

/// Characters of a command line that a message shows.
const SHOWN: usize = 300;

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = std::iter::once(self.program.name())
            .chain(self.args.iter().map(String::as_str));
        f.write_str(&quote::for_eyes(words, SHOWN))
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exit {
    /// It exited with a status.
    Code(i32),
    /// It died of a signal.
    Signal(i32),
    /// The carrier cannot say (a lost link, for one).
    Unknown,
}

impl Exit {
    /// Whether it exited with 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }

    /// The exit status, if it exited.
    #[must_use]
    pub fn code(self) -> Option<i32> {
        match self {
            Self::Code(code) => Some(code),
            Self::Signal(_) | Self::Unknown => None,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(number) => write!(f, "signal {number}"),
            Self::Unknown => f.write_str("an unknown exit"),
        }
    }
}
