//! Workers: their states with the one table of legal moves, and how a worker
//! is shown.
//!
//! ```text
//!  new ──► dirty ──► halting ──► rolling_back ──► booting ──► probing
//!            ▲          ▲  │           │             │           │
//!            │          │  └───────────┴── a stage ──┴───────────┤
//!         ended or      │                  failed: again, or     │
//!         too old       ├───────────────────────── defunct ◄─────┤
//!            │                                                   ▼
//!            └────────── running ◄────────────────────────── available
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::{JobId, RunId, WorkerUuid};
use crate::name::Label;
use crate::unit::Timestamp;

/// Where a worker is on its way from dirty to clean and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// New, restarted or used: nothing is known about it.
    Dirty,
    /// It is being halted.
    Halting,
    /// Its disk goes back to the snapshot.
    RollingBack,
    /// It boots.
    Booting,
    /// It is asked whether it is ready.
    Probing,
    /// Clean and waiting; nothing has run in it.
    Available,
    /// A job is in it.
    Running,
    /// It could not be made clean; tried again later.
    Defunct,
    /// It was let go.
    Expelled,
}

/// What may happen to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerEvent {
    /// A reset begins.
    Reset,
    /// The VM is halted.
    Halted,
    /// The disk is rolled back.
    RolledBack,
    /// It runs again.
    Booted,
    /// It answers.
    Probed,
    /// A stage failed or passed its deadline, and is tried again.
    StageFailed,
    /// It failed too often.
    GaveUp,
    /// A job was put in it.
    Assign,
    /// The job's run is over.
    Ended,
    /// It waited too long, or somebody touched it.
    Stale,
    /// It is let go.
    Expel,
}

/// A move that the table does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a worker that is {from} cannot take {event:?}")]
pub struct IllegalWorkerMove {
    /// The state.
    pub from: WorkerState,
    /// What was to happen.
    pub event: WorkerEvent,
}

impl WorkerState {
    /// All states.
    pub const ALL: [Self; 9] = [
        Self::Dirty,
        Self::Halting,
        Self::RollingBack,
        Self::Booting,
        Self::Probing,
        Self::Available,
        Self::Running,
        Self::Defunct,
        Self::Expelled,
    ];

    /// The table of legal moves.
    ///
    /// # Errors
    /// The move is not in the table.
    pub fn next(self, event: WorkerEvent) -> Result<Self, IllegalWorkerMove> {
        use WorkerEvent as E;
        use WorkerState as S;
        match (self, event) {
            (S::Dirty | S::Defunct, E::Reset) => Ok(S::Halting),
            (S::Halting, E::Halted) => Ok(S::RollingBack),
            (S::RollingBack, E::RolledBack) => Ok(S::Booting),
            (S::Booting, E::Booted) => Ok(S::Probing),
            (S::Probing, E::Probed) => Ok(S::Available),
            (
                S::Halting | S::RollingBack | S::Booting | S::Probing,
                E::StageFailed,
            ) => Ok(S::Halting),
            (
                S::Halting | S::RollingBack | S::Booting | S::Probing,
                E::GaveUp,
            ) => Ok(S::Defunct),
            (S::Available, E::Assign) => Ok(S::Running),
            (S::Running, E::Ended) => Ok(S::Dirty),
            (S::Available, E::Stale) => Ok(S::Dirty),
            // A running job may finish first: then it is dirty, and goes.
            (
                S::Dirty
                | S::Halting
                | S::RollingBack
                | S::Booting
                | S::Probing
                | S::Available
                | S::Defunct,
                E::Expel,
            ) => Ok(S::Expelled),
            (from, event) => Err(IllegalWorkerMove { from, event }),
        }
    }

    /// The state as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dirty => "dirty",
            Self::Halting => "halting",
            Self::RollingBack => "rolling_back",
            Self::Booting => "booting",
            Self::Probing => "probing",
            Self::Available => "available",
            Self::Running => "running",
            Self::Defunct => "defunct",
            Self::Expelled => "expelled",
        }
    }
}

impl fmt::Display for WorkerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How often a worker was reset, and how long that took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resets {
    /// Resets that ended well.
    pub done: u64,
    /// Stages that failed.
    pub failed: u64,
    /// Wall time of the last good reset, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_ms: Option<u64>,
}

/// A worker, as `workers` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerView {
    /// The VM.
    pub uuid: WorkerUuid,
    /// The runner that has it; only the dispatcher's `workers` says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner: Option<String>,
    /// Where it is.
    pub state: WorkerState,
    /// Why, in a sentence, with stage, command and stderr where one failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when it is in this state.
    pub since: Timestamp,
    /// The job in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// That job's run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<RunId>,
    /// The snapshot to which it is rolled back.
    pub snapshot: String,
    /// Words that the operator attached.
    #[serde(default)]
    pub labels: Vec<Label>,
    /// How often it was reset.
    #[serde(default)]
    pub resets: Resets,
    /// Set when it goes as soon as its job has ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
    /// What the place can and cannot enforce, as the place says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [WorkerEvent; 11] = [
        WorkerEvent::Reset,
        WorkerEvent::Halted,
        WorkerEvent::RolledBack,
        WorkerEvent::Booted,
        WorkerEvent::Probed,
        WorkerEvent::StageFailed,
        WorkerEvent::GaveUp,
        WorkerEvent::Assign,
        WorkerEvent::Ended,
        WorkerEvent::Stale,
        WorkerEvent::Expel,
    ];

    #[test]
    fn every_pair_of_state_and_event_is_as_documented() {
        use WorkerState as S;
        let table = [
            (S::Dirty, "halting - - - - - - - - - expelled"),
            (S::Halting, "- rolling_back - - - halting defunct - - - expelled"),
            (S::RollingBack, "- - booting - - halting defunct - - - expelled"),
            (S::Booting, "- - - probing - halting defunct - - - expelled"),
            (S::Probing, "- - - - available halting defunct - - - expelled"),
            (S::Available, "- - - - - - - running - dirty expelled"),
            (S::Running, "- - - - - - - - dirty - -"),
            (S::Defunct, "halting - - - - - - - - - expelled"),
            (S::Expelled, "- - - - - - - - - - -"),
        ];
        for (from, row) in table {
            let cells: Vec<_> = row.split(' ').collect();
            assert_eq!(cells.len(), EVENTS.len());
            for (event, expected) in EVENTS.iter().zip(cells) {
                let to = from.next(*event).map_or("-", WorkerState::as_str);
                assert_eq!(to, expected, "{from} {event:?}");
            }
        }
    }

    #[test]
    fn no_way_leads_to_available_but_through_a_whole_reset() {
        for state in WorkerState::ALL {
            for event in EVENTS {
                if state.next(event) == Ok(WorkerState::Available) {
                    assert_eq!(state, WorkerState::Probing);
                }
            }
        }
    }
}
