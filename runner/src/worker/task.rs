//! The life of one worker: reset, wait for work, run it, reset.
//!
//! One task a worker. It holds the worker's lock in the driver from the
//! first stage of a reset to the end of the job, so nobody else of this
//! runner acts on the VM meanwhile.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ntrace_protocol::report::{End, EndTag, Outcome};
use ntrace_protocol::worker::{WorkerEvent, WorkerState, WorkerView};
use ntrace_protocol::{Reason, Timestamp};
use ntrace_zones::{Boot, Driver, Inside, Remedy, SnapshotName, Worker};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{
    Instant, MissedTickBehavior, interval_at, sleep, sleep_until,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::enrolled::Enrolled;
use super::machine::{Machine, StageFailure, Then};
use crate::job::{self, Baseline, Context, Place};
use crate::uplink::{Job, Uplink};

/// The deadlines of the stages. vmadm itself has none.
const HALT: Duration = Duration::from_secs(120);
const ROLL_BACK: Duration = Duration::from_secs(600);
const BOOT: Duration = Duration::from_secs(300);
const PROBE: Duration = Duration::from_secs(300);

/// A stage that takes longer says what it waits for, again and again.
const LONG: Duration = Duration::from_secs(5);

/// Runs whose end is still being told while the worker goes on; with more,
/// it waits.
const FAREWELLS: usize = 4;

/// How long a look at the VM may take before a job.
const LOOK: Duration = Duration::from_secs(60);

/// How long other hands of this runner may have the VM.
const TAKE: Duration = Duration::from_secs(600);

/// What a worker can be told.
#[derive(Debug)]
pub(super) enum Order {
    /// Go, once no job is in it.
    Expel,
    /// If it is defunct, try now.
    Clean,
    /// What was enrolled has changed: be rolled back to it.
    Renew(Enrolled),
}

/// What a worker's task has.
pub(super) struct Task {
    pub(super) enrolled: Enrolled,
    pub(super) driver: Driver,
    pub(super) uplink: Uplink,
    pub(super) context: Arc<Context>,
    pub(super) reset_after: Duration,
    pub(super) orders: mpsc::Receiver<Order>,
    /// Takes no new work once cancelled.
    pub(super) drain: CancellationToken,
    /// Ends as soon as no job is in it.
    pub(super) stop: CancellationToken,
    /// Shows itself; and keeps the limits that it found.
    pub(super) shown: Box<dyn Shown>,
}

/// Where a worker's task shows what it does.
pub(super) trait Shown: Send {
    /// The view has changed.
    fn show(&mut self, view: WorkerView);
    /// The VM's own limits were seen for the first time.
    fn found(&mut self, baseline: Baseline);
}

/// A clean worker.
struct Clean {
    worker: Worker,
    inside: Inside,
    boot: Boot,
    since: Instant,
}

/// Why waiting for work ended.
enum Next {
    Job(Box<Job>),
    Stale,
    Leave,
}

/// The present moment.
pub(super) fn now() -> Timestamp {
    Timestamp::from_system(SystemTime::now())
}

/// A task with its state.
pub(super) struct Life {
    task: Task,
    machine: Machine,
    leaving: bool,
    place: Option<serde_json::Value>,
    pending: Option<Box<Job>>,
    /// Runs of which only the end is still to be told.
    farewells: JoinSet<()>,
}

impl Life {
    /// A worker of which nothing is known.
    pub(super) fn new(task: Task) -> Self {
        Self {
            task,
            machine: Machine::new(now()),
            leaving: false,
            place: None,
            pending: None,
            farewells: JoinSet::new(),
        }
    }

    /// Lives until it is expelled or the runner stops.
    pub(super) async fn run(mut self) {
        self.show();
        while !self.is_over() {
            let Some(clean) = self.reset().await else { continue };
            self.serve(clean).await;
        }
        if let Some(job) = self.pending.take() {
            give_back(*job, "the worker left").await;
        }
        while self.farewells.join_next().await.is_some() {}
        if self.leaving {
            self.apply(WorkerEvent::Expel);
        }
    }

    fn is_over(&self) -> bool {
        self.leaving || self.task.stop.is_cancelled()
    }

    fn show(&mut self) {
        let occupant = self.machine.occupant();
        let view = WorkerView {
            uuid: self.task.enrolled.uuid,
            runner: None,
            state: self.machine.state(),
            reason: self.machine.reason(),
            since: self.machine.since(),
            job: occupant.map(|(job, _)| job),
            run_id: occupant.map(|(_, run)| run),
            snapshot: self.task.enrolled.snapshot.clone(),
            labels: self.task.enrolled.labels.clone(),
            resets: self.machine.resets().clone(),
            leaving: self.leaving,
            place: self.place.clone(),
        };
        self.task.shown.show(view);
    }

    fn apply(&mut self, event: WorkerEvent) {
        let from = self.machine.state();
        self.machine.apply(now(), event);
        let to = self.machine.state();
        info!(worker = %self.task.enrolled.uuid, %from, %to, "worker moved");
        self.show();
    }

    /// Makes the worker clean. None: it failed, and the pause is over.
    async fn reset(&mut self) -> Option<Clean> {
        let deadline = Instant::now() + TAKE;
        let uuid = self.task.enrolled.uuid;
        self.apply_reset();
        let driver = self.task.driver.clone();
        let taken = self.watch(driver.take(uuid, deadline), || {
            Some("other hands of this runner have it".to_owned())
        });
        let Some(worker) = taken.await else {
            self.fail("other hands of this runner have it".into(), false).await;
            return None;
        };
        match self.stages(worker).await {
            Ok(clean) => Some(clean),
            Err(failure) => {
                self.fail(failure.sentence, failure.is_lasting).await;
                None
            }
        }
    }

    /// After a failed stage the worker is on its way already.
    fn apply_reset(&mut self) {
        if self.machine.state() != WorkerState::Halting {
            self.apply(WorkerEvent::Reset);
        }
    }

    async fn stages(&mut self, worker: Worker) -> Result<Clean, StageFailure> {
        let snapshot: SnapshotName =
            self.task.enrolled.snapshot.parse().map_err(|error| {
                StageFailure { sentence: job::chain(&error), is_lasting: true }
            })?;
        let waits_for = || worker.waits_for();
        let halting = worker.halt(Instant::now() + HALT);
        self.watch(halting, waits_for).await.map_err(lasting)?;
        self.apply(WorkerEvent::Halted);
        let deadline = Instant::now() + ROLL_BACK;
        let rolling = worker.roll_back(&snapshot, deadline);
        let rolled = self.watch(rolling, waits_for).await.map_err(lasting)?;
        self.apply(WorkerEvent::RolledBack);
        let deadline = Instant::now() + BOOT;
        let booting = worker.ensure_booted(rolled.before.as_ref(), deadline);
        let boot = self.watch(booting, waits_for).await.map_err(lasting)?;
        self.apply(WorkerEvent::Booted);
        let deadline = Instant::now() + PROBE;
        let probing = worker.probe(deadline);
        let probed = self.watch(probing, waits_for).await;
        let inside = probed.map_err(|error| StageFailure {
            sentence: job::chain(&error),
            is_lasting: false,
        })?;
        let vm = worker
            .verify_untouched(&boot, Instant::now() + LOOK)
            .await
            .map_err(lasting)?;
        self.place = vm.ntrace.as_ref().map(job::place_of);
        if self.task.enrolled.baseline.is_none() {
            let baseline = Baseline::of(&vm);
            self.task.enrolled.baseline = Some(baseline);
            self.task.shown.found(baseline);
        }
        self.apply(WorkerEvent::Probed);
        Ok(Clean { worker, inside, boot, since: Instant::now() })
    }

    /// Waits for a stage; one that takes long says what it waits for.
    async fn watch<T>(
        &mut self,
        stage: impl Future<Output = T>,
        waits_for: impl Fn() -> Option<String>,
    ) -> T {
        let mut stage = std::pin::pin!(stage);
        let mut ticks = interval_at(Instant::now() + LONG, LONG);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                done = &mut stage => return done,
                _ = ticks.tick() => {
                    self.machine.linger(now(), waits_for());
                    self.show();
                }
            }
        }
    }

    async fn fail(&mut self, sentence: String, is_lasting: bool) {
        let uuid = self.task.enrolled.uuid;
        warn!(worker = %uuid, stage = %self.machine.state(),
            error = sentence, "a stage of the reset failed");
        let failure = StageFailure { sentence, is_lasting };
        let then = self.machine.stage_failed(now(), failure);
        self.show();
        let pause = match then {
            Then::TryAgain(pause) => pause,
            Then::GiveUp(pause) => {
                warn!(worker = %uuid, again_in = ?pause, "worker is defunct");
                if let Some(job) = self.pending.take() {
                    give_back(*job, "its worker became defunct").await;
                }
                pause
            }
        };
        self.pause(pause).await;
    }

    /// Waits; an order may cut it short.
    async fn pause(&mut self, pause: Duration) {
        let stop = self.task.stop.clone();
        tokio::select! {
            () = sleep(pause) => {}
            () = stop.cancelled() => {}
            order = self.task.orders.recv() => self.obey(order),
        }
    }

    fn obey(&mut self, order: Option<Order>) {
        match order {
            // The roster is gone, so the runner is ending.
            None | Some(Order::Expel) => self.leaving = true,
            Some(Order::Clean) => {}
            Some(Order::Renew(enrolled)) => {
                let baseline = self.task.enrolled.baseline;
                self.task.enrolled = Enrolled { baseline, ..enrolled };
            }
        }
        self.show();
    }

    /// A clean worker: gives it to a job, or lets it go.
    async fn serve(&mut self, clean: Clean) {
        let next = match self.pending.take() {
            Some(job) => Next::Job(job),
            None => self.wait(&clean).await,
        };
        let job = match next {
            Next::Job(job) => job,
            Next::Stale => {
                self.machine.explain("it waited, and is made clean again");
                return self.apply(WorkerEvent::Stale);
            }
            Next::Leave => return,
        };
        let deadline = Instant::now() + LOOK;
        let seen = clean.worker.verify_untouched(&clean.boot, deadline).await;
        let vm = match seen {
            Ok(vm) => vm,
            Err(error) => {
                // Somebody was in it: it is made clean again, then the job
                // goes on.
                let sentence = job::chain(&error);
                warn!(worker = %self.task.enrolled.uuid, error = sentence,
                    "worker is not as it was left");
                self.machine.explain(sentence);
                self.pending = Some(job);
                return self.apply(WorkerEvent::Stale);
            }
        };
        let Job { assignment, .. } = &*job;
        self.machine.assign(now(), assignment.id, assignment.run_id);
        self.show();
        let place = Place {
            worker: &clean.worker,
            inside: &clean.inside,
            vm,
            baseline: self.task.enrolled.baseline.unwrap_or_default(),
        };
        let context = self.task.context.clone();
        let running = job::execute(place, *job, &context);
        let farewell = self.during(running).await;
        self.farewells.spawn(farewell.tell());
        while self.farewells.len() > FAREWELLS {
            self.farewells.join_next().await;
        }
        while self.farewells.try_join_next().is_some() {}
        self.apply(WorkerEvent::Ended);
    }

    /// Obeys orders while a job runs; none of them ends the job.
    async fn during<T>(&mut self, running: impl Future<Output = T>) -> T {
        let mut running = std::pin::pin!(running);
        let mut is_open = true;
        loop {
            tokio::select! {
                done = &mut running => return done,
                order = self.task.orders.recv(), if is_open => {
                    is_open = order.is_some();
                    self.obey(order);
                }
            }
        }
    }

    async fn wait(&mut self, clean: &Clean) -> Next {
        let uuid = self.task.enrolled.uuid;
        let uplink = self.task.uplink.clone();
        let drain = self.task.drain.clone();
        let stop = self.task.stop.clone();
        let stale = clean.since + self.task.reset_after;
        let work = async {
            tokio::select! {
                biased;
                () = drain.cancelled() => std::future::pending().await,
                job = uplink.next(uuid) => job,
            }
        };
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Next::Leave,
                job = &mut work => return Next::Job(Box::new(job)),
                () = sleep_until(stale) => return Next::Stale,
                order = self.task.orders.recv() => {
                    let is_renewed = matches!(order, Some(Order::Renew(_)));
                    self.obey(order);
                    if self.leaving {
                        return Next::Leave;
                    }
                    if is_renewed {
                        return Next::Stale;
                    }
                }
            }
        }
    }
}

/// Whether trying again can help.
fn lasting(error: ntrace_zones::StageError) -> StageFailure {
    let is_lasting = match error.remedy() {
        Remedy::Retry => false,
        Remedy::Permanent | Remedy::Operator | Remedy::Bug => true,
    };
    StageFailure { sentence: job::chain(&error), is_lasting }
}

/// A job that never began: it is to be run elsewhere.
async fn give_back(job: Job, why: &str) {
    let end = End {
        event: EndTag::End,
        outcome: Outcome::Lost,
        reason: Some(Reason::Zone),
        sentence: Some(why.to_owned()),
        exit: None,
        usage: None,
        trace: None,
        last: std::collections::BTreeMap::new(),
    };
    job.out.end(end).await;
}
