//! What a runner and the dispatcher say to each other, besides reports.

use serde::{Deserialize, Serialize};

use crate::id::{JobId, Lease, RunId, WorkerUuid};
use crate::name::RunnerName;
use crate::spec::JobSpec;
use crate::unit::Timestamp;
use crate::worker::WorkerView;

/// A run that a runner holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The run.
    pub run_id: RunId,
    /// Its fencing number.
    pub lease: Lease,
}

/// The argument of `hello`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// What the runner calls itself.
    pub name: RunnerName,
    /// Its version.
    pub version: String,
    /// The runner's own zone or host, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Its workers as they are now.
    #[serde(default)]
    pub workers: Vec<WorkerView>,
    /// The runs that it holds.
    #[serde(default)]
    pub runs: Vec<Held>,
}

/// The answer to `hello`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// How long a lease lasts without a sign of life, in milliseconds.
    pub lease_ms: u64,
    /// How often to give one, in milliseconds.
    pub beat_ms: u64,
    /// Runs that go on.
    pub keep: Vec<RunId>,
    /// Runs that are to be stopped and forgotten.
    pub drop: Vec<RunId>,
}

/// The argument of `next`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Next {
    /// How long to wait for work, in milliseconds; without it, for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
    /// The worker that waits, so that a job whose place failed gets another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerUuid>,
}

/// The result of `next`: a leased job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// The job.
    pub id: JobId,
    /// The run.
    pub run_id: RunId,
    /// Its fencing number.
    pub lease: Lease,
    /// Which attempt it is, from 1.
    pub attempt: u32,
    /// Whose repository; absent without a source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Which repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    /// Which commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The job as it was asked for.
    pub spec: JobSpec,
}

impl Assignment {
    /// A leased job; the names are repeated at the top for people and for
    /// simple runners.
    pub fn new(id: JobId, held: Held, attempt: u32, spec: JobSpec) -> Self {
        let source = spec.source.as_ref();
        Self {
            id,
            run_id: held.run_id,
            lease: held.lease,
            attempt,
            owner: source.map(|s| s.owner.to_string()),
            repo: source.map(|s| s.repo.to_string()),
            commit: source.map(|s| s.commit.to_string()),
            spec,
        }
    }

    /// The run as the dispatcher knows it.
    pub fn held(&self) -> Held {
        Held { run_id: self.run_id, lease: self.lease }
    }
}

/// A connected runner, as `runners` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunnerView {
    /// What it calls itself.
    pub name: RunnerName,
    /// Its version.
    pub version: String,
    /// Whether it is connected now.
    pub connected: bool,
    /// Since when it is connected, or not.
    pub since: Timestamp,
    /// When it last gave a sign of life.
    pub seen: Timestamp,
    /// Its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// How many workers it has.
    pub workers: usize,
    /// The runs that it holds.
    pub runs: Vec<RunId>,
}

/// An artefact, as `artefacts` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtefactView {
    /// Its identity, for `blob-get`.
    pub id: crate::id::ArtefactId,
    /// The run that left it.
    pub run_id: RunId,
    /// Its name: a relative path.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// The hash of its content, in hex.
    pub sha256: String,
}
