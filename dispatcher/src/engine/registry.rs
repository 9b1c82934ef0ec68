//! The runners that are or were connected, and what they say about their
//! workers.
//!
//! Must not decide anything: it is what `runners` and `workers` show.

use std::collections::{BTreeMap, HashSet};

use ntrace_protocol::runner::{Hello, RunnerView};
use ntrace_protocol::text::escape;
use ntrace_protocol::worker::WorkerView;
use ntrace_protocol::{RunId, RunnerName, Timestamp, WorkerState, WorkerUuid};
use ntrace_scheduler::ConnId;

/// Runners that are remembered. Past this the one that has been away for
/// longest is forgotten.
const RUNNERS_MAX: usize = 1024;
/// How much of a version or zone is kept, in characters.
const WORD_MAX: usize = 100;

/// What is known of a runner.
#[derive(Debug)]
struct Entry {
    version: String,
    conn: Option<ConnId>,
    since: Timestamp,
    seen: Timestamp,
    peer: String,
    workers: Vec<WorkerView>,
}

/// All runners by name.
#[derive(Debug, Default)]
pub(super) struct Registry {
    runners: BTreeMap<RunnerName, Entry>,
}

impl Registry {
    /// A runner has said who it is.
    pub(super) fn hello(
        &mut self,
        conn: ConnId,
        peer: String,
        hello: Hello,
        now: Timestamp,
    ) {
        let entry = self.runners.entry(hello.name).or_insert(Entry {
            version: String::new(),
            conn: None,
            since: now,
            seen: now,
            peer: String::new(),
            workers: Vec::new(),
        });
        if entry.conn != Some(conn) {
            entry.since = now;
        }
        entry.version = escape(&hello.version).chars().take(WORD_MAX).collect();
        entry.conn = Some(conn);
        entry.seen = now;
        entry.peer = peer;
        entry.workers = hello.workers;
        self.forget_some();
    }

    fn forget_some(&mut self) {
        if self.runners.len() <= RUNNERS_MAX {
            return;
        }
        let away = self.runners.iter().filter(|(_, e)| e.conn.is_none());
        let oldest = away.min_by_key(|(_, e)| e.since);
        if let Some(name) = oldest.map(|(name, _)| name.clone()) {
            self.runners.remove(&name);
        }
    }

    /// A connection has given a sign of life.
    pub(super) fn seen(&mut self, conn: ConnId, now: Timestamp) {
        let mut all = self.runners.values_mut();
        if let Some(entry) = all.find(|e| e.conn == Some(conn)) {
            entry.seen = now;
        }
    }

    /// A connection has ended. Its runner's workers are not to be had.
    pub(super) fn closed(&mut self, conn: ConnId, now: Timestamp) {
        let mut all = self.runners.values_mut();
        if let Some(entry) = all.find(|e| e.conn == Some(conn)) {
            entry.conn = None;
            entry.since = now;
        }
    }

    /// The workers that could take a job some time soon.
    pub(super) fn usable(&self) -> HashSet<WorkerUuid> {
        let connected = self.runners.values().filter(|e| e.conn.is_some());
        let workers = connected.flat_map(|e| &e.workers);
        let is_usable = |w: &&WorkerView| {
            !w.leaving
                && !matches!(
                    w.state,
                    WorkerState::Defunct | WorkerState::Expelled
                )
        };
        workers.filter(is_usable).map(|w| w.uuid).collect()
    }

    /// How many are connected.
    pub(super) fn connected(&self) -> usize {
        self.runners.values().filter(|e| e.conn.is_some()).count()
    }

    /// For `runners`.
    pub(super) fn runners(
        &self,
        runs_of: impl Fn(&RunnerName) -> Vec<RunId>,
    ) -> Vec<RunnerView> {
        let view = |(name, entry): (&RunnerName, &Entry)| RunnerView {
            name: name.clone(),
            version: entry.version.clone(),
            connected: entry.conn.is_some(),
            since: entry.since,
            seen: entry.seen,
            peer: entry.conn.map(|_| entry.peer.clone()),
            workers: entry.workers.len(),
            runs: runs_of(name),
        };
        self.runners.iter().map(view).collect()
    }

    /// For `workers`: those of connected runners.
    pub(super) fn workers(&self) -> Vec<WorkerView> {
        let connected = self.runners.iter().filter(|(_, e)| e.conn.is_some());
        let named = connected.flat_map(|(name, entry)| {
            entry.workers.iter().map(|worker| WorkerView {
                runner: Some(name.to_string()),
                ..worker.clone()
            })
        });
        named.collect()
    }
}
