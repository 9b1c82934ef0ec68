//! Waiting for work: one request on the wire for each waiting worker.
//!
//! A request for work cannot be taken back once it is sent. So it is asked
//! by a task of its own, one per worker, and the future that wants the job
//! only leaves its address at the worker's seat: one that is dropped and
//! made anew (a worker that was reset meanwhile) finds the same request
//! still open. A job for which nobody waits any more is given back at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ntrace_client::{Backoff, CallError};
use ntrace_protocol::report::{Data, Report};
use ntrace_protocol::runner::{Assignment, Next};
use ntrace_protocol::{Reason, Stream, WorkerUuid};
use ntrace_spool::RunMeta;
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::held::HeldSpool;
use super::out::RunOut;
use super::{Job, Link, Shared, chain, lost, now};

/// Pauses after a request for work was refused.
const PAUSE_LEAST: Duration = Duration::from_millis(250);
const PAUSE_MOST: Duration = Duration::from_secs(15);

/// Where jobs are to be handed over; a seat is there as long as its asking
/// task lives.
#[derive(Default)]
pub(super) struct Seats(Mutex<HashMap<WorkerUuid, oneshot::Sender<Job>>>);

impl Seats {
    fn seats(
        &self,
    ) -> MutexGuard<'_, HashMap<WorkerUuid, oneshot::Sender<Job>>> {
        self.0.lock().expect("no holder of this lock panics")
    }

    /// Leaves an address. True: nobody asks for this worker yet.
    fn wish(&self, worker: WorkerUuid, wish: oneshot::Sender<Job>) -> bool {
        self.seats().insert(worker, wish).is_none()
    }

    /// Whether somebody still waits; if not, the seat is given up.
    fn is_wanted(&self, worker: WorkerUuid) -> bool {
        let mut seats = self.seats();
        let wanted = seats.get(&worker).is_some_and(|w| !w.is_closed());
        if !wanted {
            seats.remove(&worker);
        }
        wanted
    }

    /// The address, and the seat with it.
    fn take(&self, worker: WorkerUuid) -> Option<oneshot::Sender<Job>> {
        self.seats().remove(&worker)
    }
}

/// Waits for work for this worker.
pub(super) async fn next(shared: &Arc<Shared>, worker: WorkerUuid) -> Job {
    loop {
        let (wish, job) = oneshot::channel();
        if shared.seats.wish(worker, wish) {
            let asking = ask(shared.clone(), worker);
            shared.tasks.spawn(asking);
        }
        match job.await {
            Ok(job) => return job,
            Err(_) if shared.stop.is_cancelled() => {
                return std::future::pending().await;
            }
            // A later future of the same worker took the seat, or the job
            // could not be begun.
            Err(_) => tokio::time::sleep(PAUSE_LEAST).await,
        }
    }
}

/// Asks for work until there is a job or nobody waits any more.
async fn ask(shared: Arc<Shared>, worker: WorkerUuid) {
    let mut seen = 0;
    let mut backoff = Backoff::new(PAUSE_LEAST, PAUSE_MOST);
    loop {
        let Some(link) = shared.link_after(seen).await else {
            shared.seats.take(worker);
            return;
        };
        if !shared.seats.is_wanted(worker) {
            return;
        }
        match ask_once(&shared, &link, worker).await {
            Ok(None) => {}
            Ok(Some(assignment)) => {
                return hand_over(&shared, &link, worker, assignment).await;
            }
            Err(CallError::Closed { .. }) => seen = link.number,
            Err(error) => {
                warn!(%worker, error = chain(&error), "cannot ask for work");
                tokio::time::sleep(backoff.pause()).await;
            }
        }
    }
}

async fn ask_once(
    shared: &Shared,
    link: &Link,
    worker: WorkerUuid,
) -> Result<Option<Assignment>, CallError> {
    let wait = shared.config.waits.next.as_millis();
    let next = Next {
        wait_ms: Some(u64::try_from(wait).unwrap_or(u64::MAX)),
        worker: Some(worker),
    };
    tokio::select! {
        answer = link.dispatcher.next(&next) => answer,
        () = shared.stop.cancelled() => Ok(None),
    }
}

async fn hand_over(
    shared: &Arc<Shared>,
    link: &Link,
    worker: WorkerUuid,
    assignment: Assignment,
) {
    let (job, run_id) = (assignment.id, assignment.run_id);
    let run = match begin(shared, &assignment).await {
        Ok(run) => run,
        Err(why) => {
            error!(%job, run = %run_id, why, "a job cannot be taken");
            refuse(shared, link, &assignment, &why).await;
            shared.seats.take(worker);
            return;
        }
    };
    info!(%job, run = %run_id, %worker, "job taken");
    let out = RunOut::new(shared.clone(), run.clone());
    let taken = Job { assignment, out, stop: run.stop.signal() };
    let unwanted = match shared.seats.take(worker) {
        Some(wish) => wish.send(taken).err(),
        None => Some(taken),
    };
    if let Some(job) = unwanted {
        info!(job = %job.assignment.id, run = %run_id, %worker,
            "nobody waits for the job any more, it is given back");
        let why = "the worker was no longer ready when the job came";
        job.out.end(lost(Reason::RunnerLost, why)).await;
    }
}

/// Writes down that the run is ours, before anything is done for it.
async fn begin(
    shared: &Arc<Shared>,
    assignment: &Assignment,
) -> Result<Arc<HeldSpool>, String> {
    let meta = RunMeta {
        job: assignment.id,
        run_id: assignment.run_id,
        lease: assignment.lease,
    };
    let spool = shared.spool.clone();
    let begun = tokio::task::spawn_blocking(move || spool.begin(meta)).await;
    let spool = match begun {
        Ok(Ok(spool)) => spool,
        Ok(Err(error)) => return Err(chain(&error)),
        Err(_) => return Err("the runner is ending".to_owned()),
    };
    let run = Arc::new(HeldSpool::new(spool));
    shared.runs().insert(meta.run_id, run.clone());
    Ok(run)
}

/// Gives a job back for which there is no spool. If that does not arrive,
/// the lease runs out, as nobody beats for it.
async fn refuse(
    shared: &Shared,
    link: &Link,
    assignment: &Assignment,
    why: &str,
) {
    let sentence = format!("the runner cannot keep its output: {why}");
    let report = Report {
        job: assignment.id,
        run_id: assignment.run_id,
        lease: assignment.lease,
        stream: Stream::Control,
        seq: 1,
        when: now(),
        data: Data::from_event(&lost(Reason::RunnerLost, &sentence)),
    };
    let answer = shared.config.waits.answer;
    if let Err(error) = link.dispatcher.result(&[report], answer).await {
        warn!(run = %assignment.run_id, error = chain(&error),
            "could not give a job back");
    }
}
