//! The way to the dispatcher: work comes in, reports go out.
//!
//! One connection, made again whenever it breaks, for as long as the runner
//! lives. What a run reports is in the spool before it is anywhere else, and
//! is shipped from there until it is acknowledged; so neither a broken
//! connection nor a restart on either side loses a byte, and nobody inward
//! needs to know whether there is a connection at all. Must not know zones.
//!
//! Invariant: a run is held (announced, beaten for, shipped) from the moment
//! its spool is begun until its end is acknowledged or it is dropped.

mod artefact;
mod held;
mod link;
mod out;
mod seat;
mod service;
mod ship;
mod stop;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ntrace_client::Dispatcher;
use ntrace_protocol::report::{End, EndTag, Outcome};
use ntrace_protocol::runner::{Assignment, Held as HeldRun};
use ntrace_protocol::{Reason, RunId, RunnerName, Timestamp, WorkerUuid};
use ntrace_spool::{Opened, Spool, SpoolError};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

pub use artefact::ArtefactError;
use held::HeldSpool;
pub use out::RunOut;
use seat::Seats;
pub use stop::{Stop, StopSignal, StopWhy};

use crate::workers::Workers;

/// What the uplink needs to know.
#[derive(Clone, Debug)]
pub struct UplinkConfig {
    /// The dispatcher, `host:port`.
    pub dispatcher: String,
    /// What this runner calls itself.
    pub name: RunnerName,
    /// The runner's own zone or host, for people.
    pub zone: Option<String>,
    /// The waits; the default is good.
    pub waits: Waits,
}

/// How long the uplink waits for what.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    /// The first pause before connecting again.
    pub pause_least: Duration,
    /// The longest pause.
    pub pause_most: Duration,
    /// For the answer to `hello`.
    pub hello: Duration,
    /// For the answer to `result` and `blob-put`; after that it is sent
    /// again.
    pub answer: Duration,
    /// How long one request for work stays open.
    pub next: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            pause_least: Duration::from_millis(250),
            pause_most: Duration::from_secs(15),
            hello: Duration::from_secs(15),
            answer: Duration::from_secs(30),
            next: Duration::from_secs(30),
        }
    }
}

/// The way to the dispatcher; cheap to clone.
#[derive(Clone)]
pub struct Uplink {
    shared: Arc<Shared>,
}

/// A job that is to be run now.
pub struct Job {
    /// What is to be run.
    pub assignment: Assignment,
    /// Where its reports go. Dropping it without an end gives the job back.
    pub out: RunOut,
    /// Where the order to end it arrives.
    pub stop: StopSignal,
}

/// A live connection that has said hello.
#[derive(Clone)]
struct Link {
    dispatcher: Dispatcher,
    /// Counts connections, so that a broken one is not taken again.
    number: u64,
}

struct Shared {
    config: UplinkConfig,
    workers: Arc<dyn Workers>,
    spool: Spool,
    runs: Mutex<BTreeMap<RunId, Arc<HeldSpool>>>,
    seats: Seats,
    link: watch::Sender<Option<Link>>,
    /// There may be something to ship.
    wake: Notify,
    /// Counts what was freed, and runs that are no longer held.
    freed: watch::Sender<u64>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Uplink {
    /// Takes up the runs of a former life and begins to connect, until
    /// `stop`. Runs that have no end get one: they were cut off.
    ///
    /// # Errors
    /// The end of a former run cannot be written.
    pub fn start(
        config: UplinkConfig,
        opened: Opened,
        workers: Arc<dyn Workers>,
        stop: CancellationToken,
    ) -> Result<Self, SpoolError> {
        for path in &opened.strange {
            warn!(path = %path.display(), "left alone: not a run's spool");
        }
        let mut runs = BTreeMap::new();
        for left in opened.leftovers {
            if !left.ended {
                let sentence = "the runner was restarted while the job ran";
                left.run.end(now(), lost(Reason::RunnerLost, sentence))?;
            }
            let meta = left.run.meta();
            info!(job = %meta.job, run = %meta.run_id, cut = left.cut,
                ended = left.ended, "run of a former life taken up");
            runs.insert(meta.run_id, Arc::new(HeldSpool::new(left.run)));
        }
        let shared = Arc::new(Shared {
            config,
            workers,
            spool: opened.spool,
            runs: Mutex::new(runs),
            seats: Seats::default(),
            link: watch::Sender::new(None),
            wake: Notify::new(),
            freed: watch::Sender::new(0),
            stop,
            tasks: TaskTracker::new(),
        });
        shared.tasks.spawn(link::keep(shared.clone()));
        Ok(Self { shared })
    }

    /// Waits for work for this worker, through reconnects. Dropping the
    /// future takes the wish back; a job that is already on its way then
    /// goes to the next future for the same worker, or is given back at
    /// once.
    pub async fn next(&self, worker: WorkerUuid) -> Job {
        seat::next(&self.shared, worker).await
    }

    /// Whether there is a connection that has said hello.
    pub fn is_connected(&self) -> bool {
        self.shared.link.borrow().is_some()
    }

    /// The runs that are held: running, or not yet wholly acknowledged.
    pub fn held(&self) -> Vec<HeldRun> {
        self.shared.held()
    }

    /// Bytes of reports on disk.
    pub fn unacked_bytes(&self) -> u64 {
        self.shared.spool.unacked_bytes()
    }

    /// Waits until no run is held: the dispatcher has all of it.
    pub async fn settled(&self) {
        let mut freed = self.shared.freed.subscribe();
        while !self.shared.runs().is_empty() {
            if freed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Ends the connection and all tasks.
    pub async fn shut_down(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

impl Shared {
    fn runs(&self) -> MutexGuard<'_, BTreeMap<RunId, Arc<HeldSpool>>> {
        self.runs.lock().expect("no holder of this lock panics")
    }

    fn run(&self, run_id: RunId) -> Option<Arc<HeldSpool>> {
        self.runs().get(&run_id).cloned()
    }

    fn held(&self) -> Vec<HeldRun> {
        self.runs().values().map(|run| run.spool.meta().held()).collect()
    }

    /// The run is over: it is not held any more.
    fn forget(&self, run_id: RunId) {
        self.runs().remove(&run_id);
        self.freed.send_modify(|n| *n += 1);
    }

    /// The run is not ours any more: nothing of it is wanted.
    fn drop_run(&self, run_id: RunId, why: &str) {
        let Some(run) = self.run(run_id) else { return };
        let meta = run.spool.meta();
        info!(job = %meta.job, run = %run_id, why, "run dropped");
        run.stop.give(Stop::dropped());
        if let Err(error) = run.spool.discard() {
            warn!(run = %run_id, error = chain(&error), "spool not deleted");
        }
        self.forget(run_id);
    }

    /// Waits for a connection that is newer than the given one.
    async fn link_after(&self, number: u64) -> Option<Link> {
        let mut links = self.link.subscribe();
        let newer =
            |l: &Option<Link>| l.as_ref().is_some_and(|l| l.number > number);
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            link = links.wait_for(newer) => link.ok()?.clone(),
        }
    }
}

fn now() -> Timestamp {
    Timestamp::from_system(std::time::SystemTime::now())
}

/// The end of a run for a cause that is not the user's.
fn lost(reason: Reason, sentence: &str) -> End {
    End {
        event: EndTag::End,
        outcome: Outcome::Lost,
        reason: Some(reason),
        sentence: Some(sentence.to_owned()),
        exit: None,
        usage: None,
        trace: None,
        last: BTreeMap::new(),
    }
}

/// An error with all of its causes, on one line, safe to show.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<_> = causes.map(ToString::to_string).collect();
    ntrace_protocol::text::escape(&texts.join(": "))
}
