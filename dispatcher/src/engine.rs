//! The task that owns who waits, who holds what, and who is connected.
//!
//! It asks the scheduler what to do and has it done: by the store in tasks
//! of their own, by answering those who wait, by calling runners. It never
//! waits for any of them, so a slow disk or peer delays nobody else.

mod registry;
mod task;

use std::time::Duration;

use ntrace_protocol::runner::{Assignment, Held, Hello, RunnerView, Welcome};
use ntrace_protocol::worker::WorkerView;
use ntrace_protocol::{JobId, RunId, StopOrder, WireError, WorkerUuid};
use ntrace_scheduler::{ConnId, LostBecause, WaiterId};
use ntrace_session::Peer;
use ntrace_store::{Leased, Line};
use tokio::sync::oneshot;

pub(crate) use task::{Parts, start};

/// Requests that wait for the task. Past this, askers wait.
const WAITING_MAX: usize = 1024;

/// The engine has ended, and so will the process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopped;

/// How many runs are live, and how many calls of `next` wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) leases: usize,
    pub(crate) waiters: usize,
    pub(crate) runners: usize,
}

/// A connection that may belong to a runner.
#[derive(Clone)]
pub(crate) struct From {
    pub(crate) conn: ConnId,
    pub(crate) peer: Peer,
}

type NextReply = oneshot::Sender<Result<Option<Assignment>, WireError>>;

/// What the task can be asked or told.
pub(crate) enum Request {
    Closed(ConnId),
    Hello {
        from: From,
        hello: Box<Hello>,
        reply: oneshot::Sender<Welcome>,
    },
    Next {
        from: From,
        worker: Option<WorkerUuid>,
        wait: Option<Duration>,
        reply: NextReply,
    },
    Beat {
        from: From,
        runs: Vec<Held>,
        reply: oneshot::Sender<Vec<RunId>>,
    },
    Sign {
        from: From,
        runs: Vec<Held>,
    },
    Queued,
    Assigned {
        run: RunId,
        worker: WorkerUuid,
    },
    Ended {
        run: RunId,
        place_failed: bool,
    },
    StopAsked {
        job: JobId,
        order: StopOrder,
    },
    Runners(oneshot::Sender<Vec<RunnerView>>),
    Workers(oneshot::Sender<Vec<WorkerView>>),
    Load(oneshot::Sender<Load>),
    /// A runner has answered to `stop`, or not.
    StopTold {
        run: RunId,
        is_heard: bool,
    },
    /// The store has answered about a lease.
    Taken {
        waiter: WaiterId,
        leased: Option<Box<Leased>>,
        is_again: bool,
    },
    /// The store has written a loss.
    Lost {
        run: RunId,
        because: LostBecause,
    },
}

/// A handle to the task.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    requests: Line<Request>,
}

impl Engine {
    /// Tells the task something. If it has ended, the process is ending, and
    /// what is kept is in the store.
    pub(crate) async fn tell(&self, request: Request) {
        let _ = self.requests.send(request).await;
    }

    /// Asks the task something.
    pub(crate) async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        let sent = self.requests.send(request(reply)).await;
        sent.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }
}

impl std::convert::From<Stopped> for WireError {
    fn from(_: Stopped) -> Self {
        Self::new(
            ntrace_protocol::Code::Eagain,
            "the dispatcher is shutting down; try again",
        )
    }
}
