//! What a stage is to be like.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// As whom the programs of a stage run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// As whoever runs the tests.
    Us,
    /// As a user without any right, by number.
    Ordinary(u32),
}

impl Who {
    /// A user that nobody else on the machine is, so that nothing of anybody
    /// is within reach.
    pub const NOBODY_ELSE: Self = Self::Ordinary(54_321);
}

/// What a stage is to be like.
#[derive(Clone, Debug)]
pub struct Setup {
    pub(crate) workers: usize,
    pub(crate) who: Who,
    pub(crate) dispatcher_args: Vec<String>,
    pub(crate) runner_args: Vec<String>,
    pub(crate) runner_path: Option<PathBuf>,
    pub(crate) manifest: Option<Value>,
    pub(crate) is_proxied: bool,
    pub(crate) via: Option<u16>,
    pub(crate) has_runner: bool,
    pub(crate) is_over_ssh: bool,
}

impl Setup {
    /// A dispatcher and a runner with so many workers.
    pub fn workers(workers: usize) -> Self {
        Self {
            workers,
            who: Who::Us,
            dispatcher_args: Vec::new(),
            runner_args: Vec::new(),
            runner_path: None,
            manifest: None,
            is_proxied: false,
            via: None,
            has_runner: true,
            is_over_ssh: crate::is_over_ssh(),
        }
    }

    /// A dispatcher alone.
    pub fn dispatcher() -> Self {
        Self { has_runner: false, ..Self::workers(0) }
    }

    /// Runs everything as this user.
    #[must_use]
    pub fn who(mut self, who: Who) -> Self {
        self.who = who;
        self
    }

    /// Arguments for the dispatcher.
    #[must_use]
    pub fn dispatcher_args(mut self, args: &[&str]) -> Self {
        self.dispatcher_args.extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }

    /// Arguments for the runner.
    #[must_use]
    pub fn runner_args(mut self, args: &[&str]) -> Self {
        self.runner_args.extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }

    /// Has the runner look for programs in this directory only.
    #[must_use]
    pub fn runner_path(mut self, dir: &Path) -> Self {
        self.runner_path = Some(dir.to_owned());
        self
    }

    /// Lets the runner reach its zones through a real sshd and the gate.
    #[must_use]
    pub fn over_ssh(mut self) -> Self {
        self.is_over_ssh = true;
        self
    }

    /// Another manifest for the workers.
    #[must_use]
    pub fn manifest(mut self, manifest: Value) -> Self {
        self.manifest = Some(manifest);
        self
    }

    /// Puts a way that can be frozen between runner and dispatcher.
    #[must_use]
    pub fn proxied(mut self) -> Self {
        self.is_proxied = true;
        self
    }

    /// Has the runner look for the dispatcher at this port of 127.0.0.1,
    /// which the test opens, for example with a tunnel.
    #[must_use]
    pub fn via(mut self, port: u16) -> Self {
        self.via = Some(port);
        self
    }
}
