//! One connection's side of the dispatcher: finds the command and runs it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use ntrace_protocol::WireError;
use ntrace_protocol::command::{DISPATCHER, check};
use ntrace_scheduler::ConnId;
use ntrace_session::{Call, Peer, Service};
use ntrace_store::Store;
use serde_json::Value;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::command::{
    Answer, about, artefact, job, logs, report, runner, trace, why,
};
use crate::documents::Documents;
use crate::engine::{Engine, From};
use crate::stats::Stats;
use crate::watchers::Watchers;

/// So many beats are asked for in a lease.
pub(crate) const BEATS_PER_LEASE: u32 = 3;
/// So many missing ones end a connection.
const BEATS_MISSED: u32 = 2;
/// But no shorter silence: a busy machine is not a dead one.
const SILENCE_LEAST: Duration = Duration::from_secs(1);

/// What all connections work with.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) engine: Engine,
    pub(crate) watchers: Watchers,
    pub(crate) documents: Documents,
    pub(crate) stats: Arc<Stats>,
    /// What must be finished even if its asker leaves.
    pub(crate) tasks: TaskTracker,
    pub(crate) busy: Arc<Busy>,
    pub(crate) max_line: usize,
    pub(crate) max_queue: u64,
    pub(crate) lease: Duration,
    pub(crate) began: Instant,
}

/// Counts the commands that are under way and do not wait for others.
#[derive(Debug, Default)]
pub(crate) struct Busy {
    count: AtomicUsize,
    idle: tokio::sync::Notify,
}

/// One command that is under way.
struct Working(Arc<Busy>);

impl Busy {
    fn work(self: &Arc<Self>) -> Working {
        self.count.fetch_add(1, Ordering::AcqRel);
        Working(self.clone())
    }

    /// Waits until nothing is under way.
    pub(crate) async fn idle(&self) {
        loop {
            let idle = self.idle.notified();
            if self.count.load(Ordering::Acquire) == 0 {
                return;
            }
            idle.await;
        }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

/// One connection.
pub(crate) struct Connection {
    pub(crate) id: ConnId,
    pub(crate) peer: Peer,
    pub(crate) shared: Shared,
    /// It has beaten, and is let go when it stops.
    beats: AtomicBool,
}

impl Service for Connection {
    fn call(
        self: Arc<Self>,
        call: Call,
    ) -> BoxFuture<'static, Result<Vec<Value>, WireError>> {
        Box::pin(async move {
            let began = Instant::now();
            let Call { name, mut args } = call;
            let found = check(DISPATCHER, &name, &mut args);
            let (name, answer) = match found {
                Ok(command) => {
                    (command.name, self.run(command.name, args).await)
                }
                Err(error) => ("", Err(error)),
            };
            self.shared.stats.answered(name, began, answer.is_ok());
            answer
        })
    }
}

impl Connection {
    /// One that has said nothing yet.
    pub(crate) fn new(id: ConnId, peer: Peer, shared: Shared) -> Self {
        Self { id, peer, shared, beats: AtomicBool::new(false) }
    }

    /// It has beaten. Whoever does so once goes on; a link that is dead in
    /// its middle is seen by that alone, and its runner would be given work
    /// that never arrives. What it holds is kept until the lease is over.
    pub(crate) fn beaten(&self) {
        if self.beats.swap(true, Ordering::Relaxed) {
            return;
        }
        let beats = self.shared.lease / BEATS_PER_LEASE * BEATS_MISSED;
        let silence = beats.max(SILENCE_LEAST);
        let peer = self.peer.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = peer.closed() => {}
                () = peer.silent_for(silence) => {
                    warn!(peer = %peer.addr(), ?silence,
                        "a runner's beats stopped, its connection is closed");
                    peer.close();
                }
            }
        });
    }

    /// Itself, for the engine.
    pub(crate) fn as_runner(&self) -> From {
        From { conn: self.id, peer: self.peer.clone() }
    }

    async fn run(&self, name: &'static str, args: Vec<Value>) -> Answer {
        // These may wait as long as they like; a shutdown does not wait.
        match name {
            "next" => return runner::next(self, &args).await,
            "wait" => return job::wait(self, &args).await,
            "logs" => return logs::logs(self, &args).await,
            "ping" => return about::ping(self, &args).await,
            _ => {}
        }
        let _working = self.shared.busy.work();
        match name {
            "help" => about::help(&args),
            "push" => job::push(self, &args).await,
            "submit" => job::submit(self, &args).await,
            "status" => job::status(self, &args).await,
            "list" => job::list(self, &args).await,
            "stop" => job::stop(self, &args).await,
            "remove" => job::remove(self, &args).await,
            "artefacts" => artefact::artefacts(self, &args).await,
            "blob-get" => artefact::blob_get(self, &args).await,
            "blob-put" => artefact::blob_put(self, &args).await,
            "runners" => runner::runners(self).await,
            "workers" => runner::workers(self).await,
            "flame" => trace::flame(self, &args).await,
            "diff" => trace::diff(self, &args).await,
            "export" => trace::export(self, &args).await,
            "why" => why::why(self, &args).await,
            "stats" => about::stats(self).await,
            "hello" => runner::hello(self, args).await,
            "beat" => runner::beat(self, args).await,
            "result" => report::result(self, args).await,
            _ => unreachable!("the table of commands has no other name"),
        }
    }
}
