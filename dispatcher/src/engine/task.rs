//! The engine's task: requests in, the scheduler's effects carried out.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ntrace_protocol::runner::{Assignment, Held, Hello, Welcome};
use ntrace_protocol::{
    Code, JobId, Lease, Reason, RunId, RunnerName, StopOrder, WireError,
};
use ntrace_scheduler::{
    ConnId, Effect, Event, LostBecause, Scheduler, WaiterId,
};
use ntrace_session::{CallError, Peer};
use ntrace_store::{Fault, Line, RunError, Store};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::registry::Registry;
use super::{Engine, Load, NextReply, Request, WAITING_MAX};
use crate::clock;
use crate::command::report::decide;
use crate::connection::BEATS_PER_LEASE;
use crate::refusal::chain;
use crate::stats::Stats;
use crate::watchers::Watchers;

/// How long a runner may take to say that it heard `stop`.
const STOP_HEARD: Duration = Duration::from_secs(10);
/// How long to wait before the disk is tried again.
const DISK_PAUSE: Duration = Duration::from_secs(1);

/// What the engine works with.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) store: Store,
    pub(crate) watchers: Watchers,
    pub(crate) stats: Arc<Stats>,
    pub(crate) lease: Duration,
}

/// Starts the task.
pub(crate) fn start(
    parts: Parts,
    scheduler: Scheduler,
    began: Instant,
    stop: CancellationToken,
) -> (Engine, tokio::task::JoinHandle<()>) {
    let (requests, rx) = mpsc::channel(WAITING_MAX);
    let engine = Engine { requests: Line::new(requests) };
    let task = Task {
        parts,
        scheduler,
        began,
        engine: engine.clone(),
        peers: HashMap::new(),
        waiting: HashMap::new(),
        taken: HashMap::new(),
        last_waiter: 0,
        registry: Registry::default(),
    };
    (engine, tokio::spawn(task.run(rx, stop)))
}

struct Task {
    parts: Parts,
    scheduler: Scheduler,
    began: Instant,
    engine: Engine,
    peers: HashMap<ConnId, Peer>,
    /// Who waits for a job.
    waiting: HashMap<WaiterId, NextReply>,
    /// Jobs that were leased and not yet given.
    taken: HashMap<RunId, Assignment>,
    last_waiter: u64,
    registry: Registry,
}

impl Task {
    async fn run(
        mut self,
        mut rx: mpsc::Receiver<Request>,
        stop: CancellationToken,
    ) {
        loop {
            let due = self.scheduler.due().map(|due| self.began + due);
            tokio::select! {
                () = stop.cancelled() => return,
                request = rx.recv() => match request {
                    Some(request) => self.take(request),
                    None => return,
                },
                () = sleep_until(due) => self.event(Event::Tick),
            }
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn take(&mut self, request: Request) {
        match request {
            Request::Closed(conn) => self.closed(conn),
            Request::Hello { from, hello, reply } => {
                let conn = self.known(from);
                // An asker that has gone will say hello again.
                let _ = reply.send(self.hello(conn, *hello));
            }
            Request::Next { from, worker, wait, reply } => {
                let conn = self.known(from);
                self.last_waiter += 1;
                let waiter = WaiterId(self.last_waiter);
                self.waiting.insert(waiter, reply);
                self.registry.seen(conn, clock::now());
                let until = wait.map(|wait| self.now() + wait);
                self.event(Event::Next { waiter, conn, worker, until });
            }
            Request::Beat { from, runs, reply } => {
                let conn = self.known(from);
                let _ = reply.send(self.scheduler.stale(&runs));
                self.sign(conn, runs);
            }
            Request::Sign { from, runs } => {
                let conn = self.known(from);
                self.sign(conn, runs);
            }
            Request::Queued => self.event(Event::Queued),
            Request::Assigned { run, worker } => {
                self.event(Event::Assigned { run, worker });
            }
            Request::Ended { run, place_failed } => {
                self.event(Event::Ended { run, place_failed });
            }
            Request::StopAsked { job, order } => {
                self.event(Event::StopAsked { job, order });
            }
            Request::StopTold { run, is_heard } => {
                self.event(Event::StopTold { run, is_heard });
            }
            Request::Runners(reply) => {
                let runs_of = |name: &RunnerName| self.scheduler.runs_of(name);
                let _ = reply.send(self.registry.runners(runs_of));
            }
            Request::Workers(reply) => {
                let _ = reply.send(self.registry.workers());
            }
            Request::Load(reply) => {
                let (leases, waiters) = self.scheduler.counts();
                let runners = self.registry.connected();
                let _ = reply.send(Load { leases, waiters, runners });
            }
            Request::Taken { waiter, leased, is_again } => {
                self.taken(waiter, leased.map(|l| *l), is_again);
            }
            Request::Lost { run, because } => {
                self.taken.remove(&run);
                info!(%run, because = because.sentence(), "run lost");
                self.event(Event::Lost { run });
            }
        }
    }

    fn known(&mut self, from: super::From) -> ConnId {
        self.peers.entry(from.conn).or_insert(from.peer);
        from.conn
    }

    fn sign(&mut self, conn: ConnId, runs: Vec<Held>) {
        self.registry.seen(conn, clock::now());
        self.event(Event::Sign { conn, runs });
    }

    fn closed(&mut self, conn: ConnId) {
        self.peers.remove(&conn);
        self.registry.closed(conn, clock::now());
        self.scheduler.set_workers(self.registry.usable());
        self.event(Event::Closed(conn));
        // Those who waited on it are gone with it.
        self.waiting.retain(|_, reply| !reply.is_closed());
    }

    fn hello(&mut self, conn: ConnId, hello: Hello) -> Welcome {
        let (name, runs) = (hello.name.clone(), hello.runs.clone());
        let peer = self.peers.get(&conn);
        let addr = peer.map(|p| p.addr().to_string()).unwrap_or_default();
        self.registry.hello(conn, addr, hello, clock::now());
        self.scheduler.set_workers(self.registry.usable());
        let now = self.now();
        let (welcomed, effects) = self.scheduler.hello(now, conn, &name, &runs);
        self.carry_out(effects);
        let lease_ms = u64::try_from(self.parts.lease.as_millis());
        let lease_ms = lease_ms.unwrap_or(u64::MAX);
        Welcome {
            lease_ms,
            beat_ms: (lease_ms / u64::from(BEATS_PER_LEASE)).max(1),
            keep: welcomed.keep,
            drop: welcomed.drop,
        }
    }

    fn taken(
        &mut self,
        waiter: WaiterId,
        leased: Option<ntrace_store::Leased>,
        is_again: bool,
    ) {
        let Some(leased) = leased else {
            self.event(Event::NothingFor { waiter });
            if is_again {
                self.event(Event::Queued);
            }
            return;
        };
        let ntrace_store::Leased { job, run, lease, attempt, .. } = leased;
        let stats = &self.parts.stats;
        stats.leased.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let waited = clock::now().ms_since(leased.submitted);
        stats.queue_wait.add(Duration::from_millis(waited));
        let held = Held { run_id: run, lease };
        let assignment = Assignment::new(job, held, attempt, leased.spec);
        self.taken.insert(run, assignment);
        info!(%job, %run, %lease, "job leased");
        self.event(Event::Taken { waiter, job, run, lease });
    }

    fn event(&mut self, event: Event) {
        let effects = self.scheduler.handle(self.now(), event);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        let mut effects = VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            if let Some(event) = self.effect(effect) {
                effects.extend(self.scheduler.handle(self.now(), event));
            }
        }
    }

    /// Carries out an effect; what came of it at once is an event again.
    fn effect(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Take { waiter, runner, skip } => {
                self.spawn_take(waiter, runner, skip);
            }
            Effect::Give { waiter, run } => return self.give(waiter, run),
            Effect::GiveNothing { waiter } => self.answer(waiter, Ok(None)),
            Effect::Refuse { waiter } => {
                let error = WireError::new(
                    Code::Eagain,
                    "this connection waits for or holds too many jobs",
                );
                self.answer(waiter, Err(error));
            }
            Effect::Lose { run, lease, job, because } => {
                self.spawn_lose(run, lease, job, because);
            }
            Effect::TellStop { conn, run, order } => {
                self.spawn_stop(conn, run, order);
            }
            Effect::Close { conn } => {
                if let Some(peer) = self.peers.get(&conn) {
                    info!(peer = %peer.addr(), "a newer connection took over");
                    peer.close();
                }
            }
        }
        None
    }

    fn answer(
        &mut self,
        waiter: WaiterId,
        answer: Result<Option<Assignment>, WireError>,
    ) {
        if let Some(reply) = self.waiting.remove(&waiter) {
            // Nothing is lost with an answer that holds no job.
            let _ = reply.send(answer);
        }
    }

    fn give(&mut self, waiter: WaiterId, run: RunId) -> Option<Event> {
        let reply = self.waiting.remove(&waiter);
        let assignment = self.taken.remove(&run);
        let is_given = match (reply, assignment) {
            (Some(reply), Some(job)) => reply.send(Ok(Some(job))).is_ok(),
            _ => false,
        };
        (!is_given).then_some(Event::Undelivered { run })
    }

    fn spawn_take(
        &self,
        waiter: WaiterId,
        runner: Option<RunnerName>,
        skip: Vec<JobId>,
    ) {
        let (store, engine) = (self.parts.store.clone(), self.engine.clone());
        let watchers = self.parts.watchers.clone();
        tokio::spawn(async move {
            let run = clock::run_id();
            let leased =
                store.lease_next(run, runner, skip, clock::now()).await;
            let (leased, is_again) = match leased {
                Ok(leased) => (leased, false),
                Err(fault) => {
                    warn!(error = chain(&fault), "cannot lease a job");
                    tokio::time::sleep(DISK_PAUSE).await;
                    (None, true)
                }
            };
            if let Some(leased) = &leased {
                watchers.changed(leased.job);
            }
            let leased = leased.map(Box::new);
            engine.tell(Request::Taken { waiter, leased, is_again }).await;
        });
    }

    fn spawn_lose(
        &self,
        run: RunId,
        lease: Lease,
        job: JobId,
        because: LostBecause,
    ) {
        let (parts, engine) = (self.parts.clone(), self.engine.clone());
        tokio::spawn(async move {
            write_loss(&parts, run, lease, because).await;
            parts.watchers.changed(job);
            engine.tell(Request::Lost { run, because }).await;
        });
    }

    fn spawn_stop(&self, conn: ConnId, run: RunId, order: StopOrder) {
        let (peer, engine) =
            (self.peers.get(&conn).cloned(), self.engine.clone());
        tokio::spawn(async move {
            let Some(peer) = peer else {
                engine.tell(Request::StopTold { run, is_heard: false }).await;
                return;
            };
            let heard = tell_stop(&peer, run, order).await;
            let is_heard = heard.is_ok();
            if let Err(error) = heard {
                // It is told again at its next sign of life.
                warn!(%run, peer = %peer.addr(), %error, "stop was not heard");
            }
            engine.tell(Request::StopTold { run, is_heard }).await;
        });
    }
}

/// Tells a runner to stop a run. One that is older than evidence refuses to
/// hear of it, and is then told the rest.
async fn tell_stop(
    peer: &Peer,
    run: RunId,
    order: StopOrder,
) -> Result<Vec<Value>, CallError> {
    let heard = peer.call("stop", &order.to_args(run), STOP_HEARD).await;
    match heard {
        Err(CallError::Refused(error))
            if order.evidence && error.code == Code::Einval =>
        {
            warn!(%run, peer = %peer.addr(), %error,
                "the runner knows of no evidence");
            let plain = StopOrder { evidence: false, ..order };
            peer.call("stop", &plain.to_args(run), STOP_HEARD).await
        }
        heard => heard,
    }
}

/// Writes down a loss, again and again while the disk is full.
async fn write_loss(
    parts: &Parts,
    run: RunId,
    lease: Lease,
    because: LostBecause,
) {
    loop {
        let why = (Reason::RunnerLost, because.sentence().to_owned());
        let at = clock::now();
        match parts.store.lose(run, lease, why, at, decide).await {
            Ok(state) => {
                let lost = &parts.stats.lost;
                lost.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if state.is_final() {
                    parts.stats.ended(state.as_str());
                }
                return;
            }
            // It has ended meanwhile, or the process is ending.
            Err(
                RunError::Fenced(_)
                | RunError::Illegal(_)
                | RunError::Fault(Fault::Closed),
            ) => return,
            Err(error) => {
                warn!(%run, error = chain(&error), "cannot write a loss");
                tokio::time::sleep(DISK_PAUSE).await;
            }
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
