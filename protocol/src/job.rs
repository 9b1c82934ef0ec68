//! Jobs: their states with the one table of legal moves, and how a job is
//! shown.
//!
//! ```text
//!            ┌───────────────── requeue (the run was lost) ──────────────┐
//!            ▼                                                           │
//!  submit  queued ──► leased ──► preparing ──► running ──► collecting ───┤
//!            │           │           │            │            │         │
//!            └── stop ───┴───────────┴── stop/fail┴── done ────┴─► final ┘
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::WireError;
use crate::id::{JobId, Lease, RunId, WorkerUuid};
use crate::name::{Commit, Label, RunnerName};
use crate::spec::Source;
use crate::text::quote;
use crate::trace::TraceSummary;
use crate::unit::Timestamp;

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for a runner.
    Queued,
    /// A runner has it, and has said nothing yet.
    Leased,
    /// The tree goes into the worker; set-up runs.
    Preparing,
    /// The command runs.
    Running,
    /// Traces and artefacts are brought in.
    Collecting,
    /// Final: the command exited 0.
    Done,
    /// Final: see the reason.
    Failed,
    /// Final: somebody stopped it.
    Stopped,
}

/// What may happen to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobEvent {
    /// A runner was given a lease.
    Lease,
    /// The runner began to prepare.
    Prepare,
    /// The command was started.
    Run,
    /// The command ended, results are gathered.
    Collect,
    /// The run was lost for a cause that is not the user's.
    Requeue,
    /// The command exited 0.
    Done,
    /// It failed for good.
    Fail,
    /// It was stopped.
    Stop,
}

/// A move that the table does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a {from} job cannot take {event:?}")]
pub struct IllegalJobMove {
    /// The state.
    pub from: JobState,
    /// What was to happen.
    pub event: JobEvent,
}

impl JobState {
    /// All states, in the order of a life.
    pub const ALL: [Self; 8] = [
        Self::Queued,
        Self::Leased,
        Self::Preparing,
        Self::Running,
        Self::Collecting,
        Self::Done,
        Self::Failed,
        Self::Stopped,
    ];

    /// The table of legal moves.
    ///
    /// # Errors
    /// The move is not in the table.
    pub fn next(self, event: JobEvent) -> Result<Self, IllegalJobMove> {
        use JobEvent as E;
        use JobState as S;
        match (self, event) {
            (S::Queued, E::Lease) => Ok(S::Leased),
            (S::Leased, E::Prepare) => Ok(S::Preparing),
            (S::Leased | S::Preparing, E::Run) => Ok(S::Running),
            (S::Preparing | S::Running, E::Collect) => Ok(S::Collecting),
            (
                S::Leased | S::Preparing | S::Running | S::Collecting,
                E::Requeue,
            ) => Ok(S::Queued),
            (S::Running | S::Collecting, E::Done) => Ok(S::Done),
            (
                S::Leased | S::Preparing | S::Running | S::Collecting,
                E::Fail,
            ) => Ok(S::Failed),
            (
                S::Queued
                | S::Leased
                | S::Preparing
                | S::Running
                | S::Collecting,
                E::Stop,
            ) => Ok(S::Stopped),
            (from, event) => Err(IllegalJobMove { from, event }),
        }
    }

    /// Whether nothing can happen any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Stopped)
    }

    /// Whether a run is under way.
    pub fn is_live(self) -> bool {
        !self.is_final() && self != Self::Queued
    }

    /// The state as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Leased => "leased",
            Self::Preparing => "preparing",
            Self::Running => "running",
            Self::Collecting => "collecting",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for JobState {
    type Err = WireError;
    fn from_str(text: &str) -> Result<Self, WireError> {
        let found = Self::ALL.into_iter().find(|s| s.as_str() == text);
        found.ok_or_else(|| {
            let all = Self::ALL.map(Self::as_str).join(", ");
            WireError::invalid(
                "state",
                format!("{} is no state; there are {all}", quote(text)),
            )
        })
    }
}

/// Why a job did not end well: a closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The command exited with another status than 0.
    Exit,
    /// A signal ended the command.
    Signal,
    /// It needed more memory than its limit.
    Oom,
    /// It ran longer than its limit.
    Timeout,
    /// It said nothing for longer than its limit.
    Silence,
    /// It wrote more to the disk than its limit.
    DiskFull,
    /// It wanted more processes than its limit.
    ProcessLimit,
    /// It wrote more output than its limit.
    OutputLimit,
    /// The repository's own set-up failed.
    Setup,
    /// The commit or the repository is not to be had.
    Source,
    /// Nothing to run was found, or a bad file.
    Recipe,
    /// The place failed.
    Zone,
    /// The runner was lost.
    RunnerLost,
    /// Somebody stopped it.
    Stopped,
    /// A fault of ntrace.
    Internal,
}

impl Reason {
    /// The reason as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exit => "exit",
            Self::Signal => "signal",
            Self::Oom => "oom",
            Self::Timeout => "timeout",
            Self::Silence => "silence",
            Self::DiskFull => "disk_full",
            Self::ProcessLimit => "process_limit",
            Self::OutputLimit => "output_limit",
            Self::Setup => "setup",
            Self::Source => "source",
            Self::Recipe => "recipe",
            Self::Zone => "zone",
            Self::RunnerLost => "runner_lost",
            Self::Stopped => "stopped",
            Self::Internal => "internal",
        }
    }

    /// Whether the cause is not the user's, so that the job may run again.
    pub fn is_ours(self) -> bool {
        matches!(self, Self::Zone | Self::RunnerLost)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a command ended: `{"code"}` or `{"signal", "core"?}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Exit {
    /// It exited with this status, 0 to 255.
    Code {
        /// The exit status.
        code: u8,
    },
    /// A signal ended it.
    Signal {
        /// The signal's name, like `SIGKILL`.
        signal: String,
        /// Whether it dumped core.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        core: bool,
    },
}

impl Exit {
    /// Whether the command said that all is well.
    pub fn is_success(&self) -> bool {
        *self == Self::Code { code: 0 }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code { code } => write!(f, "exit status {code}"),
            Self::Signal { signal, core: false } => {
                write!(f, "signal {signal}")
            }
            Self::Signal { signal, core: true } => {
                write!(f, "signal {signal}, core dumped")
            }
        }
    }
}

/// What a run used. Numbers that could not be had are absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time of the whole run, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_ms: Option<u64>,
    /// Wall time of the command, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall_ms: Option<u64>,
    /// The most memory held at once, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rss: Option<u64>,
    /// Bytes written to the streams, before any cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_bytes: Option<u64>,
    /// Wall time of each phase, in milliseconds: `source`, `unpack`, `setup`,
    /// `run`, `collect`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub phases_ms: BTreeMap<String, u64>,
}

/// One attempt at a job, as `status` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunView {
    /// Its identity.
    pub run_id: RunId,
    /// The runner; absent for a runner that never said hello.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner: Option<RunnerName>,
    /// The worker, once the runner has named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerUuid>,
    /// The fencing number.
    pub lease: Lease,
    /// `leased`, `preparing`, `running`, `collecting`, `done`, `failed`,
    /// `stopped`, `lost`.
    pub state: String,
    /// Why it ended so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The same in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentence: Option<String>,
    /// When it came into each state.
    #[serde(default)]
    pub times: BTreeMap<String, Timestamp>,
    /// How the command ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// What it used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// What became of its trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceSummary>,
    /// The commits before the one that it ran, as the repository has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<Commit>,
    /// What is to be known about this run: weaker limits, where the command
    /// came from, gaps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A job, as `status` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    /// Its identity.
    pub id: JobId,
    /// Where it is.
    pub state: JobState,
    /// Why it ended so; absent while it has not, and when it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The same in a sentence; for a queued job, what became of its last run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentence: Option<String>,
    /// What was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// The given command, of a submitted job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argv: Option<Vec<String>>,
    /// Words to find it by.
    #[serde(default)]
    pub labels: Vec<Label>,
    /// Higher goes first.
    #[serde(default)]
    pub priority: i64,
    /// When it was acknowledged.
    pub submitted: Timestamp,
    /// When it became final.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// While queued: 1 is next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// How the command ended, in the run that counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// All attempts, oldest first.
    #[serde(default)]
    pub runs: Vec<RunView>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [JobEvent; 8] = [
        JobEvent::Lease,
        JobEvent::Prepare,
        JobEvent::Run,
        JobEvent::Collect,
        JobEvent::Requeue,
        JobEvent::Done,
        JobEvent::Fail,
        JobEvent::Stop,
    ];

    #[test]
    fn every_pair_of_state_and_event_is_as_documented() {
        // One row a state, one column an event, as in EVENTS.
        let table = [
            (JobState::Queued, "leased - - - - - - stopped"),
            (JobState::Leased, "- preparing running - queued - failed stopped"),
            (
                JobState::Preparing,
                "- - running collecting queued - failed stopped",
            ),
            (JobState::Running, "- - - collecting queued done failed stopped"),
            (JobState::Collecting, "- - - - queued done failed stopped"),
            (JobState::Done, "- - - - - - - -"),
            (JobState::Failed, "- - - - - - - -"),
            (JobState::Stopped, "- - - - - - - -"),
        ];
        for (from, row) in table {
            for (event, expected) in EVENTS.iter().zip(row.split(' ')) {
                let to = from.next(*event).map_or("-", JobState::as_str);
                assert_eq!(to, expected, "{from} {event:?}");
            }
        }
    }

    #[test]
    fn exits_are_told_apart_on_the_wire() {
        for (exit, text) in [
            (Exit::Code { code: 3 }, r#"{"code":3}"#),
            (
                Exit::Signal { signal: "SIGKILL".into(), core: false },
                r#"{"signal":"SIGKILL"}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&exit).unwrap(), text);
            assert_eq!(serde_json::from_str::<Exit>(text).unwrap(), exit);
        }
        for bad in [r#"{"code":256}"#, r#"{"code":-1}"#, r#"{"code":"0"}"#] {
            assert!(serde_json::from_str::<Exit>(bad).is_err(), "{bad}");
        }
    }
}
