//! The decision: waiters, leases and runners as one plain value.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use ntrace_protocol::runner::Held;
use ntrace_protocol::{JobId, Lease, RunId, RunnerName, StopOrder, WorkerUuid};

use crate::early::EarlyStops;
use crate::event::{ConnId, Effect, Event, LostBecause, Settings, WaiterId};
use crate::hold::{Hold, Holder, Stop};

/// Jobs whose place failed that are remembered. Past this the oldest are
/// forgotten, which costs at most a second try in the same worker.
const AVOIDED_MAX: usize = 1024;

/// A run that was under way when the last process ended.
#[derive(Clone, Debug)]
pub struct Known {
    /// The job.
    pub job: JobId,
    /// The run.
    pub run: RunId,
    /// Its fencing number.
    pub lease: Lease,
    /// Who has it.
    pub runner: Option<RunnerName>,
    /// In which worker.
    pub worker: Option<WorkerUuid>,
    /// Set if it is to be stopped.
    pub stop: Option<StopOrder>,
}

/// What a runner is told about the runs that it says it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Welcomed {
    /// These go on.
    pub keep: Vec<RunId>,
    /// These are to be stopped and forgotten.
    pub drop: Vec<RunId>,
}

/// The state. It lives as long as the process; what must outlive it is in
/// the store.
#[derive(Debug)]
pub struct Scheduler {
    settings: Settings,
    waiters: BTreeMap<WaiterId, Waiter>,
    leases: HashMap<RunId, Hold>,
    names: HashMap<RunnerName, ConnId>,
    conns: HashMap<ConnId, RunnerName>,
    avoided: Vec<Avoided>,
    workers: HashSet<WorkerUuid>,
    /// Jobs whose stop was asked for before we heard of their lease.
    early_stops: EarlyStops,
    /// Grows whenever jobs were queued.
    news: u64,
    /// Whether the queue may hold something.
    maybe_queued: bool,
    /// How many waiters are still to be asked for: one for each news, and
    /// one more whenever there was a job, since there may be another. So one
    /// push wakes one of ten thousand.
    credits: usize,
    /// Before this, time ends nothing. It may be too early, never too late.
    due: Option<Duration>,
}

#[derive(Debug)]
struct Waiter {
    conn: ConnId,
    worker: Option<WorkerUuid>,
    until: Option<Duration>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing is going on.
    Idle,
    /// There was nothing that it may have, when `news` was this.
    Passed { news: u64 },
    /// The store was asked, when `news` was this, maybe past some jobs.
    Taking { news: u64, has_skipped: bool },
    /// The store was asked, and the asker is gone meanwhile.
    Gone,
}

#[derive(Debug)]
struct Avoided {
    job: JobId,
    worker: WorkerUuid,
    until: Duration,
}

impl Scheduler {
    /// Begins with what was under way. Nothing of it expires for one whole
    /// lease: silence during our own absence is no evidence.
    pub fn new(
        settings: Settings,
        now: Duration,
        known: impl IntoIterator<Item = Known>,
    ) -> Self {
        let leases = known.into_iter().map(|run| {
            let held = Hold {
                job: run.job,
                lease: run.lease,
                holder: run
                    .runner
                    .map_or(Holder::Anonymous(None), Holder::Named),
                worker: run.worker,
                sign: now,
                stop: run.stop.map(Stop::new),
                is_lost: false,
            };
            (run.run, held)
        });
        Self {
            settings,
            waiters: BTreeMap::new(),
            leases: leases.collect(),
            names: HashMap::new(),
            conns: HashMap::new(),
            avoided: Vec::new(),
            workers: HashSet::new(),
            early_stops: EarlyStops::default(),
            news: 0,
            maybe_queued: true,
            credits: 0,
            due: Some(now),
        }
    }

    /// Takes an event; says what is to be done.
    pub fn handle(&mut self, now: Duration, event: Event) -> Vec<Effect> {
        let mut out = Vec::new();
        match event {
            Event::Next { waiter, conn, worker, until } => {
                self.wait(
                    waiter,
                    Waiter { conn, worker, until, stage: Stage::Idle },
                    &mut out,
                );
            }
            Event::Queued => self.queued(),
            Event::Taken { waiter, job, run, lease } => {
                self.taken(now, waiter, (job, run, lease), &mut out);
            }
            Event::NothingFor { waiter } => self.nothing_for(waiter),
            Event::Undelivered { run } => {
                self.lose(run, LostBecause::Undelivered, &mut out);
            }
            Event::Sign { conn, runs } => {
                self.sign(now, conn, &runs, &mut out);
            }
            Event::Assigned { run, worker } => {
                if let Some(held) = self.leases.get_mut(&run) {
                    held.worker = Some(worker);
                }
            }
            Event::Ended { run, place_failed } => {
                self.ended(now, run, place_failed);
            }
            Event::Lost { run } => {
                self.leases.remove(&run);
                self.queued();
            }
            Event::StopAsked { job, order } => {
                self.stop_asked(job, order, &mut out);
            }
            Event::StopTold { run, is_heard } => {
                self.stop_told(run, is_heard);
            }
            Event::Closed(conn) => self.closed(conn, &mut out),
            Event::Tick => {}
        }
        self.wake(now, &mut out);
        self.pass_time(now, &mut out);
        self.wake(now, &mut out);
        out
    }

    /// When [`Event::Tick`] is due next, if nothing happens before.
    pub fn due(&self) -> Option<Duration> {
        self.due
    }

    fn due_by(&mut self, at: Duration) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    fn first_due(&self) -> Option<Duration> {
        let waiters = self.waiters.values();
        let waiters = waiters
            .filter(|w| matches!(w.stage, Stage::Idle | Stage::Passed { .. }))
            .filter_map(|w| w.until);
        let leases = self.leases.values().filter(|held| !held.is_lost);
        let leases = leases.map(|held| held.sign + self.settings.lease);
        let avoided = self.avoided.iter().map(|a| a.until);
        waiters.chain(leases).chain(avoided).min()
    }

    /// A runner says who it is, and which runs it holds. The first time on a
    /// connection, what it does not hold is lost at once; later only its
    /// list is judged, since an answer to `next` may be on its way.
    pub fn hello(
        &mut self,
        now: Duration,
        conn: ConnId,
        name: &RunnerName,
        runs: &[Held],
    ) -> (Welcomed, Vec<Effect>) {
        let mut out = Vec::new();
        let is_first = self.conns.get(&conn) != Some(name);
        if is_first {
            self.take_name(conn, name, &mut out);
        }
        let mut welcomed = Welcomed::default();
        for held in runs {
            if self.is_current(*held) {
                welcomed.keep.push(held.run_id);
                self.kept(now, conn, name, held.run_id, &mut out);
            } else {
                welcomed.drop.push(held.run_id);
            }
        }
        if is_first {
            let named = Holder::Named(name.clone());
            let missing = self.leases.iter().filter(|(run, held)| {
                held.holder == named
                    && !held.is_lost
                    && !welcomed.keep.contains(run)
            });
            let missing: Vec<RunId> = missing.map(|(run, _)| *run).collect();
            for run in missing {
                self.lose(run, LostBecause::NotHeld, &mut out);
            }
            // What it got before it said its name is now under its name.
            for held in self.leases.values_mut() {
                if held.holder == Holder::Anonymous(Some(conn)) {
                    held.holder = named.clone();
                    held.sign = now;
                }
            }
        }
        self.wake(now, &mut out);
        self.pass_time(now, &mut out);
        self.wake(now, &mut out);
        (welcomed, out)
    }

    /// Which of these runs are no longer the caller's.
    pub fn stale(&self, runs: &[Held]) -> Vec<RunId> {
        let stale = runs.iter().filter(|held| !self.is_current(**held));
        stale.map(|held| held.run_id).collect()
    }

    /// Says which workers there are, so that a job can wait for another one.
    pub fn set_workers(&mut self, workers: HashSet<WorkerUuid>) {
        if self.workers != workers && !self.avoided.is_empty() {
            self.queued();
        }
        self.workers = workers;
    }

    /// The runs that a runner holds.
    pub fn runs_of(&self, name: &RunnerName) -> Vec<RunId> {
        let named = Holder::Named(name.clone());
        let held = self.leases.iter().filter(|(_, h)| h.holder == named);
        let mut runs: Vec<RunId> = held.map(|(run, _)| *run).collect();
        runs.sort();
        runs
    }

    /// How many leases are live, and how many calls of `next` wait.
    pub fn counts(&self) -> (usize, usize) {
        (self.leases.len(), self.waiters.len())
    }

    fn is_current(&self, held: Held) -> bool {
        let lease = self.leases.get(&held.run_id);
        lease.is_some_and(|l| l.lease == held.lease && !l.is_lost)
    }

    fn take_name(
        &mut self,
        conn: ConnId,
        name: &RunnerName,
        out: &mut Vec<Effect>,
    ) {
        if let Some(old) = self.conns.insert(conn, name.clone()) {
            self.names.remove(&old);
        }
        let older = self.names.insert(name.clone(), conn);
        if let Some(older) = older.filter(|older| *older != conn) {
            self.conns.remove(&older);
            self.forget_waiters(older);
            out.push(Effect::Close { conn: older });
        }
    }

    fn kept(
        &mut self,
        now: Duration,
        conn: ConnId,
        name: &RunnerName,
        run: RunId,
        out: &mut Vec<Effect>,
    ) {
        let Some(held) = self.leases.get_mut(&run) else {
            return;
        };
        held.holder = Holder::Named(name.clone());
        held.sign = now;
        // A new connection may be a new process: whatever the old one has
        // heard, this one is told.
        held.tell_stop(conn, run, true, out);
    }

    fn wait(&mut self, id: WaiterId, waiter: Waiter, out: &mut Vec<Effect>) {
        let conn = waiter.conn;
        let open = self.waiters.values().filter(|w| w.conn == conn).count();
        let holder = self.holder(conn);
        let runs = self.leases.values().filter(|h| h.holder == holder).count();
        if open >= self.settings.waiters_max
            || open + runs >= self.settings.runs_max
        {
            out.push(Effect::Refuse { waiter: id });
            return;
        }
        if let Some(until) = waiter.until {
            self.due_by(until);
        }
        self.waiters.insert(id, waiter);
        if self.maybe_queued {
            self.credits += 1;
        }
    }

    fn holder(&self, conn: ConnId) -> Holder {
        match self.conns.get(&conn) {
            Some(name) => Holder::Named(name.clone()),
            None => Holder::Anonymous(Some(conn)),
        }
    }

    fn queued(&mut self) {
        self.news += 1;
        self.maybe_queued = true;
        self.credits += 1;
    }

    fn taken(
        &mut self,
        now: Duration,
        waiter: WaiterId,
        (job, run, lease): (JobId, RunId, Lease),
        out: &mut Vec<Effect>,
    ) {
        self.credits += 1;
        self.due_by(now + self.settings.lease);
        let asker = self.waiters.remove(&waiter);
        let holder = asker.as_ref().map(|w| self.holder(w.conn));
        let held = Hold {
            job,
            lease,
            holder: holder.unwrap_or(Holder::Anonymous(None)),
            worker: asker.as_ref().and_then(|w| w.worker),
            sign: now,
            stop: self.early_stops.take(job).map(Stop::new),
            is_lost: false,
        };
        let held = self.leases.entry(run).insert_entry(held).into_mut();
        match asker {
            Some(w) if w.stage != Stage::Gone => {
                out.push(Effect::Give { waiter, run });
                held.tell_stop(w.conn, run, false, out);
            }
            _ => self.lose(run, LostBecause::Undelivered, out),
        }
    }

    fn nothing_for(&mut self, waiter: WaiterId) {
        let Some(asker) = self.waiters.get_mut(&waiter) else {
            return;
        };
        match asker.stage {
            Stage::Gone => {
                self.waiters.remove(&waiter);
            }
            Stage::Taking { news, has_skipped } => {
                asker.stage = Stage::Passed { news };
                let until = asker.until;
                if news < self.news || has_skipped {
                    self.credits += 1;
                } else {
                    self.maybe_queued = false;
                    self.credits = 0;
                }
                if let Some(until) = until {
                    self.due_by(until);
                }
            }
            Stage::Idle | Stage::Passed { .. } => {}
        }
    }

    fn sign(
        &mut self,
        now: Duration,
        conn: ConnId,
        runs: &[Held],
        out: &mut Vec<Effect>,
    ) {
        for held in runs {
            let Some(lease) = self.leases.get_mut(&held.run_id) else {
                continue;
            };
            if lease.lease != held.lease || lease.is_lost {
                continue;
            }
            lease.sign = now;
            if let Holder::Anonymous(holder) = &mut lease.holder {
                *holder = Some(conn);
            }
            lease.tell_stop(conn, held.run_id, false, out);
        }
    }

    fn ended(&mut self, now: Duration, run: RunId, place_failed: bool) {
        let Some(held) = self.leases.remove(&run) else {
            return;
        };
        if !place_failed {
            return;
        }
        if let Some(worker) = held.worker {
            if self.avoided.len() >= AVOIDED_MAX {
                self.avoided.remove(0);
            }
            let until = now + self.settings.avoid;
            self.due_by(until);
            self.avoided.push(Avoided { job: held.job, worker, until });
        }
        self.queued();
    }

    fn stop_asked(
        &mut self,
        job: JobId,
        order: StopOrder,
        out: &mut Vec<Effect>,
    ) {
        let found = self.leases.iter_mut().find(|(_, held)| held.job == job);
        let Some((run, held)) = found else {
            self.early_stops.add(job, order);
            return;
        };
        let stop = held.stop.map(|stop| stop.then(order));
        held.stop = Some(stop.unwrap_or_else(|| Stop::new(order)));
        let conn = match &held.holder {
            Holder::Named(name) => self.names.get(name).copied(),
            Holder::Anonymous(conn) => *conn,
        };
        if let Some(conn) = conn {
            held.tell_stop(conn, *run, false, out);
        }
    }

    fn stop_told(&mut self, run: RunId, is_heard: bool) {
        let held = self.leases.get_mut(&run);
        if let Some(stop) = held.and_then(|held| held.stop.as_mut()) {
            stop.told(is_heard);
        }
    }

    fn closed(&mut self, conn: ConnId, out: &mut Vec<Effect>) {
        self.forget_waiters(conn);
        if let Some(name) = self.conns.remove(&conn)
            && self.names.get(&name) == Some(&conn)
        {
            self.names.remove(&name);
        }
        let anonymous = Holder::Anonymous(Some(conn));
        let lost = self.leases.iter();
        let lost = lost.filter(|(_, h)| h.holder == anonymous && !h.is_lost);
        let lost: Vec<RunId> = lost.map(|(run, _)| *run).collect();
        for run in lost {
            self.lose(run, LostBecause::Disconnected, out);
        }
    }

    fn forget_waiters(&mut self, conn: ConnId) {
        self.waiters.retain(|_, waiter| {
            if waiter.conn != conn {
                return true;
            }
            let is_taking =
                matches!(waiter.stage, Stage::Taking { .. } | Stage::Gone);
            waiter.stage = Stage::Gone;
            is_taking
        });
    }

    fn lose(
        &mut self,
        run: RunId,
        because: LostBecause,
        out: &mut Vec<Effect>,
    ) {
        let Some(held) = self.leases.get_mut(&run) else {
            return;
        };
        if held.is_lost {
            return;
        }
        held.is_lost = true;
        let (lease, job) = (held.lease, held.job);
        out.push(Effect::Lose { run, lease, job, because });
    }

    /// Whatever the time has ended.
    fn pass_time(&mut self, now: Duration, out: &mut Vec<Effect>) {
        if self.due.is_none_or(|due| now < due) {
            return;
        }
        let length = self.settings.lease;
        let expired = self.leases.iter();
        let expired =
            expired.filter(|(_, h)| !h.is_lost && h.sign + length <= now);
        let expired: Vec<RunId> = expired.map(|(run, _)| *run).collect();
        for run in expired {
            self.lose(run, LostBecause::Expired, out);
        }
        let before = self.avoided.len();
        self.avoided.retain(|avoided| avoided.until > now);
        if self.avoided.len() != before {
            self.queued();
        }
        self.waiters.retain(|id, waiter| {
            let is_waiting =
                matches!(waiter.stage, Stage::Idle | Stage::Passed { .. });
            let is_late = waiter.until.is_some_and(|until| until <= now);
            let is_over = is_waiting && is_late;
            if is_over {
                out.push(Effect::GiveNothing { waiter: *id });
            }
            !is_over
        });
        self.due = self.first_due();
    }

    /// Asks the store for those who wait, the oldest first, as long as there
    /// may be work for them.
    fn wake(&mut self, now: Duration, out: &mut Vec<Effect>) {
        let news = self.news;
        let is_ready = |waiter: &Waiter| match waiter.stage {
            Stage::Idle => true,
            Stage::Passed { news: seen } => seen < news,
            Stage::Taking { .. } | Stage::Gone => false,
        };
        let ready = self.waiters.iter_mut().filter(|(_, w)| is_ready(w));
        for (id, waiter) in ready.take(self.credits) {
            self.credits -= 1;
            let runner = self.conns.get(&waiter.conn).cloned();
            let skip = skip(&self.avoided, &self.workers, waiter.worker, now);
            let has_skipped = !skip.is_empty();
            waiter.stage = Stage::Taking { news, has_skipped };
            out.push(Effect::Take { waiter: *id, runner, skip });
        }
        // Whoever comes later gets a credit of its own while there may be
        // work.
        self.credits = 0;
    }
}

/// The jobs that a worker is not to get: their place failed in it, and there
/// is another worker.
fn skip(
    avoided: &[Avoided],
    workers: &HashSet<WorkerUuid>,
    worker: Option<WorkerUuid>,
    now: Duration,
) -> Vec<JobId> {
    let Some(worker) = worker else {
        return Vec::new();
    };
    if !workers.iter().any(|other| *other != worker) {
        return Vec::new();
    }
    let jobs = avoided.iter();
    jobs.filter(|a| a.worker == worker && a.until > now)
        .map(|a| a.job)
        .collect()
}
