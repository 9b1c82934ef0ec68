//! What the scheduler is told, and what it wants done.

use std::time::Duration;

use ntrace_protocol::runner::Held;
use ntrace_protocol::{JobId, Lease, RunId, RunnerName, StopOrder, WorkerUuid};

/// A connection; numbers are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// A call of `next` that waits. Lower is older.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WaiterId(pub u64);

/// The rules' numbers.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long a lease lasts without a sign of life.
    pub lease: Duration,
    /// How long a worker in which a job's place failed does not get that
    /// job, if there is another worker.
    pub avoid: Duration,
    /// Calls of `next` that may wait on one connection. Fewer than a session
    /// runs at once, so that reports still get through.
    pub waiters_max: usize,
    /// Runs that one connection may hold.
    pub runs_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            avoid: Duration::from_secs(30),
            waiters_max: 128,
            runs_max: 1024,
        }
    }
}

/// What happened. Times are durations since any fixed moment.
#[derive(Clone, Debug)]
pub enum Event {
    /// Somebody waits for work.
    Next {
        /// Who.
        waiter: WaiterId,
        /// On which connection.
        conn: ConnId,
        /// Which worker the job is for, if it was said.
        worker: Option<WorkerUuid>,
        /// Until when.
        until: Option<Duration>,
    },
    /// Jobs were queued.
    Queued,
    /// The store leased a job for a waiter.
    Taken {
        /// For whom.
        waiter: WaiterId,
        /// The job.
        job: JobId,
        /// The run.
        run: RunId,
        /// Its fencing number.
        lease: Lease,
    },
    /// The store had no job for a waiter.
    NothingFor {
        /// For whom.
        waiter: WaiterId,
    },
    /// The answer could not be handed to the asker.
    Undelivered {
        /// The run in it.
        run: RunId,
    },
    /// A sign of life of runs.
    Sign {
        /// On which connection.
        conn: ConnId,
        /// Of which runs.
        runs: Vec<Held>,
    },
    /// A run is in this worker.
    Assigned {
        /// The run.
        run: RunId,
        /// The worker.
        worker: WorkerUuid,
    },
    /// A run is over, its verdict is written; the job is queued again if its
    /// place failed.
    Ended {
        /// The run.
        run: RunId,
        /// Whether the place failed and the job is queued again.
        place_failed: bool,
    },
    /// The loss of a run is written.
    Lost {
        /// The run.
        run: RunId,
    },
    /// Somebody asked to stop a live job.
    StopAsked {
        /// The job.
        job: JobId,
        /// How.
        order: StopOrder,
    },
    /// The runner has answered to `stop`, or not.
    StopTold {
        /// The run.
        run: RunId,
        /// Whether it heard.
        is_heard: bool,
    },
    /// A connection is gone.
    Closed(ConnId),
    /// Time has passed.
    Tick,
}

/// Why a run is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostBecause {
    /// No sign of life for the length of a lease.
    Expired,
    /// The anonymous runner's connection ended.
    Disconnected,
    /// The runner came back without it.
    NotHeld,
    /// The asker was gone before it had the answer.
    Undelivered,
}

impl LostBecause {
    /// The cause in a sentence.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Expired => {
                "the runner gave no sign of life for the length of a lease"
            }
            Self::Disconnected => {
                "the connection of the anonymous runner ended"
            }
            Self::NotHeld => "the runner came back without the run",
            Self::Undelivered => {
                "the runner was gone before the job reached it"
            }
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Lease the next job for a waiter, past those to be skipped.
    Take {
        /// For whom.
        waiter: WaiterId,
        /// The name under which it is leased; none for an anonymous one.
        runner: Option<RunnerName>,
        /// Jobs that it is not to get.
        skip: Vec<JobId>,
    },
    /// Answer a waiter with the job that was taken for it.
    Give {
        /// Whom.
        waiter: WaiterId,
        /// The run.
        run: RunId,
    },
    /// Answer a waiter that there is nothing.
    GiveNothing {
        /// Whom.
        waiter: WaiterId,
    },
    /// Refuse a waiter: its connection has too many.
    Refuse {
        /// Whom.
        waiter: WaiterId,
    },
    /// Write down that a run is lost; then say [`Event::Lost`].
    Lose {
        /// The run.
        run: RunId,
        /// Its fencing number.
        lease: Lease,
        /// The job.
        job: JobId,
        /// Why.
        because: LostBecause,
    },
    /// Ask a runner to stop a run.
    TellStop {
        /// On which connection.
        conn: ConnId,
        /// The run.
        run: RunId,
        /// How.
        order: StopOrder,
    },
    /// Close a connection: a newer one has the same name.
    Close {
        /// Which.
        conn: ConnId,
    },
}
