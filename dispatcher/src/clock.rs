//! The clock and chance: the only place that reads either.

use std::time::SystemTime;

use ntrace_protocol::id::ArtefactId;
use ntrace_protocol::{JobId, RunId, Timestamp};

/// Now, as it is written down.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_system(SystemTime::now())
}

fn random() -> u128 {
    uuid::Uuid::new_v4().as_u128()
}

/// A new job's id.
pub(crate) fn job_id() -> JobId {
    JobId::generate(now().0, random())
}

/// A new run's id.
pub(crate) fn run_id() -> RunId {
    RunId::generate(now().0, random())
}

/// A new artefact's id.
pub(crate) fn artefact_id() -> ArtefactId {
    ArtefactId::generate(now().0, random())
}
