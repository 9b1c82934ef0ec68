//! The scheduler, driven by events, with a store that is a plain list.
#![expect(clippy::unwrap_used, reason = "a test ends at what is wrong")]

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use ntrace_protocol::StopOrder;
use ntrace_protocol::runner::Held;
use ntrace_protocol::{JobId, Lease, RunId, RunnerName, WorkerUuid};
use ntrace_scheduler::{
    ConnId, Effect, Event, Known, LostBecause, Scheduler, Settings, WaiterId,
};
use proptest::prelude::*;

const LEASE: Duration = Duration::from_secs(30);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn order(grace_ms: u64) -> StopOrder {
    StopOrder { grace_ms, evidence: false }
}

fn with_evidence(grace_ms: u64) -> StopOrder {
    StopOrder { evidence: true, ..order(grace_ms) }
}

fn worker(n: u8) -> WorkerUuid {
    WorkerUuid::from_bytes([n; 16])
}

fn name(n: u64) -> RunnerName {
    format!("r{n}").parse().unwrap()
}

/// A scheduler with a queue beside it. Effects on the store are carried out
/// when the test says so.
struct World {
    scheduler: Scheduler,
    now: Duration,
    queue: Vec<JobId>,
    /// Takes and losses that the store has not answered yet.
    open: Vec<Effect>,
    /// What was given, refused or told.
    seen: Vec<Effect>,
    live: BTreeMap<RunId, (JobId, Lease)>,
    done: BTreeSet<JobId>,
    last: u64,
    /// Answers for each waiter.
    answers: BTreeMap<WaiterId, u32>,
}

impl World {
    fn new() -> Self {
        let settings = Settings { lease: LEASE, ..Settings::default() };
        Self {
            scheduler: Scheduler::new(settings, Duration::ZERO, []),
            now: Duration::ZERO,
            queue: Vec::new(),
            open: Vec::new(),
            seen: Vec::new(),
            live: BTreeMap::new(),
            done: BTreeSet::new(),
            last: 0,
            answers: BTreeMap::new(),
        }
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn event(&mut self, event: Event) {
        let effects = self.scheduler.handle(self.now, event);
        self.note(effects);
    }

    fn note(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Take { .. } | Effect::Lose { .. } => {
                    self.open.push(effect);
                }
                Effect::Give { waiter, .. }
                | Effect::GiveNothing { waiter }
                | Effect::Refuse { waiter } => {
                    *self.answers.entry(waiter).or_default() += 1;
                    self.seen.push(effect);
                }
                _ => self.seen.push(effect),
            }
        }
    }

    fn push(&mut self) -> JobId {
        let job = JobId::generate(self.number(), 0);
        self.queue.push(job);
        self.event(Event::Queued);
        job
    }

    fn next(&mut self, conn: u64, wait: Option<Duration>) -> WaiterId {
        self.next_for(conn, wait, None)
    }

    fn next_for(
        &mut self,
        conn: u64,
        wait: Option<Duration>,
        worker: Option<WorkerUuid>,
    ) -> WaiterId {
        let waiter = WaiterId(self.number());
        self.answers.insert(waiter, 0);
        let until = wait.map(|wait| self.now + wait);
        let conn = ConnId(conn);
        self.event(Event::Next { waiter, conn, worker, until });
        waiter
    }

    /// The store answers one effect.
    fn carry_out(&mut self, at: usize) {
        match self.open.remove(at) {
            Effect::Take { waiter, skip, .. } => {
                let found = self.queue.iter().position(|j| !skip.contains(j));
                let Some(found) = found else {
                    self.event(Event::NothingFor { waiter });
                    return;
                };
                let job = self.queue.remove(found);
                let lease = Lease(self.number());
                let run = RunId::generate(lease.0, 1);
                let is_free = self.live.values().all(|(j, _)| *j != job);
                assert!(is_free, "a second live lease of {job}");
                self.live.insert(run, (job, lease));
                self.event(Event::Taken { waiter, job, run, lease });
            }
            Effect::Lose { run, .. } => {
                // It may have ended meanwhile: then nothing is lost.
                if let Some((job, _)) = self.live.remove(&run) {
                    self.queue.push(job);
                }
                self.event(Event::Lost { run });
            }
            other => panic!("{other:?}"),
        }
    }

    fn settle(&mut self) {
        while !self.open.is_empty() {
            self.carry_out(0);
        }
    }

    fn end(&mut self, run: RunId) {
        if let Some((job, _)) = self.live.remove(&run) {
            assert!(self.done.insert(job), "{job} ended twice");
            self.event(Event::Ended { run, place_failed: false });
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.event(Event::Tick);
    }

    fn given(&self, waiter: WaiterId) -> Option<RunId> {
        self.seen.iter().find_map(|effect| match effect {
            Effect::Give { waiter: w, run } if *w == waiter => Some(*run),
            _ => None,
        })
    }

    fn was_told_nothing(&self, waiter: WaiterId) -> bool {
        self.seen.contains(&Effect::GiveNothing { waiter })
    }

    fn held(&self, run: RunId) -> Held {
        Held { run_id: run, lease: self.live[&run].1 }
    }

    fn lost(&self) -> Vec<LostBecause> {
        let lost = self.open.iter().filter_map(|effect| match effect {
            Effect::Lose { because, .. } => Some(*because),
            _ => None,
        });
        lost.collect()
    }

    fn hello(&mut self, conn: u64, runner: u64, runs: &[Held]) -> Vec<RunId> {
        let (welcomed, effects) =
            self.scheduler.hello(self.now, ConnId(conn), &name(runner), runs);
        self.note(effects);
        welcomed.keep
    }
}

#[test]
fn who_waits_longest_is_served_first() {
    let mut world = World::new();
    let waiters: Vec<_> = (1..=3).map(|conn| world.next(conn, None)).collect();
    world.settle();
    world.push();
    world.settle();
    assert!(world.given(waiters[0]).is_some());
    assert!(world.given(waiters[1]).is_none());
    world.push();
    world.settle();
    assert!(world.given(waiters[1]).is_some());
}

#[test]
fn one_push_wakes_one_of_many_who_wait() {
    let mut world = World::new();
    for conn in 0..1000 {
        world.next(conn, None);
    }
    world.settle();
    world.push();
    assert_eq!(world.open.len(), 1);
}

#[test]
fn a_push_during_a_fruitless_look_is_not_overlooked() {
    let mut world = World::new();
    let waiter = world.next(1, None);
    // The store has looked and found nothing; then comes the push.
    let Some(Effect::Take { .. }) = world.open.first() else {
        panic!("{:?}", world.open);
    };
    world.open.clear();
    world.push();
    assert!(world.open.is_empty(), "it is being looked for already");
    world.event(Event::NothingFor { waiter });
    world.settle();
    assert!(world.given(waiter).is_some());
}

#[test]
fn a_wait_ends_in_time_and_only_then() {
    let mut world = World::new();
    let waiter = world.next(1, Some(ms(100)));
    world.settle();
    world.pass(ms(99));
    assert!(!world.was_told_nothing(waiter));
    assert_eq!(world.scheduler.due(), Some(ms(100)));
    world.pass(ms(1));
    assert!(world.was_told_nothing(waiter));
    world.push();
    world.settle();
    assert!(world.given(waiter).is_none());
    assert_eq!(world.queue.len(), 1);
}

#[test]
fn no_wait_at_all_still_gets_a_job_that_is_there() {
    let mut world = World::new();
    world.push();
    let waiter = world.next(1, Some(ms(0)));
    world.settle();
    assert!(world.given(waiter).is_some());
    let second = world.next(1, Some(ms(0)));
    world.settle();
    assert!(world.was_told_nothing(second));
}

#[test]
fn a_lease_expires_after_its_length_without_a_sign() {
    let mut world = World::new();
    world.push();
    world.hello(1, 1, &[]);
    let waiter = world.next(1, None);
    world.settle();
    let run = world.given(waiter).unwrap();
    world.pass(LEASE - ms(1));
    let runs = vec![world.held(run)];
    world.event(Event::Sign { conn: ConnId(1), runs });
    world.pass(LEASE - ms(1));
    assert!(world.lost().is_empty());
    world.pass(ms(1));
    assert_eq!(world.lost(), [LostBecause::Expired]);
    // A late sign revives nothing.
    let runs = vec![world.held(run)];
    assert_eq!(world.scheduler.stale(&runs), [run]);
    world.settle();
    assert_eq!(world.queue.len(), 1);
}

#[test]
fn a_sign_under_an_old_lease_is_no_sign() {
    let mut world = World::new();
    world.push();
    world.hello(1, 1, &[]);
    let waiter = world.next(1, None);
    world.settle();
    let run = world.given(waiter).unwrap();
    world.pass(LEASE - ms(1));
    let mut held = world.held(run);
    held.lease.0 -= 1;
    world.event(Event::Sign { conn: ConnId(1), runs: vec![held] });
    world.pass(ms(1));
    assert_eq!(world.lost(), [LostBecause::Expired]);
}

#[test]
fn an_anonymous_lease_ends_with_its_connection_and_a_named_one_does_not() {
    let mut world = World::new();
    world.push();
    world.push();
    world.hello(1, 1, &[]);
    world.next(1, None);
    world.next(2, None);
    world.settle();
    world.event(Event::Closed(ConnId(1)));
    assert!(world.lost().is_empty());
    world.event(Event::Closed(ConnId(2)));
    assert_eq!(world.lost(), [LostBecause::Disconnected]);
}

#[test]
fn who_is_gone_before_the_answer_gives_the_lease_back_at_once() {
    let mut world = World::new();
    world.push();
    let waiter = world.next(1, None);
    world.event(Event::Closed(ConnId(1)));
    world.settle();
    assert!(world.given(waiter).is_none());
    assert_eq!(world.queue.len(), 1);
    // The same if the answer cannot be handed over.
    let waiter = world.next(2, None);
    world.carry_out(0);
    let run = world.given(waiter).unwrap();
    world.event(Event::Undelivered { run });
    assert_eq!(world.lost(), [LostBecause::Undelivered]);
    world.settle();
    assert_eq!(world.queue.len(), 1);
}

#[test]
fn a_runner_that_comes_back_loses_what_it_does_not_hold() {
    let mut world = World::new();
    world.push();
    world.push();
    world.hello(1, 1, &[]);
    let (one, two) = (world.next(1, None), world.next(1, None));
    world.settle();
    let (one, two) = (world.given(one).unwrap(), world.given(two).unwrap());
    let held = world.held(one);
    let wrong = Held { run_id: two, lease: Lease(0) };
    let keep = world.hello(2, 1, &[held, wrong]);
    assert_eq!(keep, [one]);
    assert!(world.seen.contains(&Effect::Close { conn: ConnId(1) }));
    assert_eq!(world.lost(), [LostBecause::NotHeld]);
    world.settle();
    // The end of the old connection takes nothing from the new one.
    world.event(Event::Closed(ConnId(1)));
    assert!(world.lost().is_empty());
    assert_eq!(world.scheduler.runs_of(&name(1)), [one]);
}

#[test]
fn a_repeated_hello_on_the_same_connection_gives_nothing_up() {
    let mut world = World::new();
    world.push();
    world.hello(1, 1, &[]);
    world.next(1, None);
    world.settle();
    world.hello(1, 1, &[]);
    assert!(world.lost().is_empty());
}

#[test]
fn after_a_restart_nothing_expires_for_one_lease() {
    let run = RunId::generate(1, 1);
    let known = Known {
        job: JobId::generate(1, 1),
        run,
        lease: Lease(7),
        runner: Some(name(1)),
        worker: None,
        stop: Some(order(5)),
    };
    let mut world = World::new();
    let settings = Settings { lease: LEASE, ..Settings::default() };
    world.now = ms(1_000_000);
    world.scheduler = Scheduler::new(settings, world.now, [known]);
    world.pass(LEASE - ms(1));
    assert!(world.lost().is_empty());
    let held = Held { run_id: run, lease: Lease(7) };
    assert_eq!(world.hello(1, 1, &[held]), [run]);
    let told = Effect::TellStop { conn: ConnId(1), run, order: order(5) };
    assert!(world.seen.contains(&told));
    world.pass(LEASE);
    assert_eq!(world.lost(), [LostBecause::Expired]);
}

#[test]
fn a_stop_is_told_to_whoever_holds_the_run() {
    let mut world = World::new();
    let job = world.push();
    let waiter = world.next(3, None);
    world.settle();
    let run = world.given(waiter).unwrap();
    world.event(Event::StopAsked { job, order: order(9) });
    let told = Effect::TellStop { conn: ConnId(3), run, order: order(9) };
    assert!(world.seen.contains(&told));
}

#[test]
fn a_stop_that_overtakes_its_lease_is_told_with_it() {
    let mut world = World::new();
    let job = world.push();
    let waiter = world.next(3, None);
    // The store has leased it, and we have not heard of it yet.
    world.event(Event::StopAsked { job, order: order(9) });
    world.settle();
    let run = world.given(waiter).unwrap();
    let told = Effect::TellStop { conn: ConnId(3), run, order: order(9) };
    assert!(world.seen.contains(&told));
}

#[test]
fn a_later_stop_is_told_with_the_evidence_of_the_earlier_one() {
    let mut world = World::new();
    let job = world.push();
    let waiter = world.next(3, None);
    // This one overtakes its lease.
    world.event(Event::StopAsked { job, order: with_evidence(9) });
    world.settle();
    let run = world.given(waiter).unwrap();
    let told = |order| Effect::TellStop { conn: ConnId(3), run, order };
    assert!(world.seen.contains(&told(with_evidence(9))));
    world.event(Event::StopTold { run, is_heard: true });
    // Told at once, though the runner has heard of one.
    world.event(Event::StopAsked { job, order: order(1) });
    assert!(world.seen.contains(&told(with_evidence(1))));
    assert!(!world.seen.contains(&told(order(1))));
}

#[test]
fn a_stop_that_outlived_a_restart_keeps_its_evidence() {
    let (job, run) = (JobId::generate(1, 1), RunId::generate(1, 1));
    let known = Known {
        job,
        run,
        lease: Lease(7),
        runner: Some(name(1)),
        worker: None,
        stop: Some(with_evidence(5)),
    };
    let mut world = World::new();
    let settings = Settings { lease: LEASE, ..Settings::default() };
    world.scheduler = Scheduler::new(settings, world.now, [known]);
    // Asked again before the runner is back, without evidence.
    world.event(Event::StopAsked { job, order: order(2) });
    world.hello(1, 1, &[Held { run_id: run, lease: Lease(7) }]);
    let order = with_evidence(2);
    let told = Effect::TellStop { conn: ConnId(1), run, order };
    assert!(world.seen.contains(&told));
}

#[test]
fn a_stop_is_told_again_until_it_is_heard() {
    let mut world = World::new();
    let job = world.push();
    let waiter = world.next(3, None);
    world.settle();
    let run = world.given(waiter).unwrap();
    let told = Effect::TellStop { conn: ConnId(3), run, order: order(9) };
    let times = |world: &World| {
        world.seen.iter().filter(|effect| **effect == told).count()
    };
    let sign = |world: &mut World| {
        let runs = vec![world.held(run)];
        world.event(Event::Sign { conn: ConnId(3), runs });
    };
    world.event(Event::StopAsked { job, order: order(9) });
    sign(&mut world);
    assert_eq!(times(&world), 1, "it is being told");
    world.event(Event::StopTold { run, is_heard: false });
    sign(&mut world);
    assert_eq!(times(&world), 2);
    world.event(Event::StopTold { run, is_heard: true });
    sign(&mut world);
    assert_eq!(times(&world), 2);
}

#[test]
fn a_job_whose_place_failed_waits_for_another_worker_but_not_for_ever() {
    let mut world = World::new();
    let both = HashSet::from([worker(1), worker(2)]);
    world.scheduler.set_workers(both);
    world.push();
    let first = world.next_for(1, None, Some(worker(1)));
    world.settle();
    let run = world.given(first).unwrap();
    let (job, _) = world.live.remove(&run).unwrap();
    world.queue.push(job);
    world.event(Event::Ended { run, place_failed: true });
    let same = world.next_for(1, None, Some(worker(1)));
    world.settle();
    assert!(world.given(same).is_none());
    let other = world.next_for(2, None, Some(worker(2)));
    world.settle();
    let run = world.given(other).expect("another worker may have it");
    let (job, _) = world.live.remove(&run).unwrap();
    world.queue.push(job);
    world.event(Event::Ended { run, place_failed: true });
    world.settle();
    assert!(world.given(same).is_none());
    world.pass(Settings::default().avoid);
    world.settle();
    assert!(world.given(same).is_some(), "30 s are over");
}

#[test]
fn the_only_worker_gets_the_job_again_at_once() {
    let mut world = World::new();
    world.scheduler.set_workers(HashSet::from([worker(1)]));
    world.push();
    let first = world.next_for(1, None, Some(worker(1)));
    world.settle();
    let run = world.given(first).unwrap();
    let (job, _) = world.live.remove(&run).unwrap();
    world.queue.push(job);
    world.event(Event::Ended { run, place_failed: true });
    let again = world.next_for(1, None, Some(worker(1)));
    world.settle();
    assert!(world.given(again).is_some());
}

#[test]
fn a_connection_cannot_hoard() {
    let mut world = World::new();
    let max = Settings::default().waiters_max;
    for _ in 0..max {
        world.next(1, None);
    }
    world.settle();
    let waiter = world.next(1, None);
    assert!(world.seen.contains(&Effect::Refuse { waiter }));
    let other = world.next(2, None);
    assert!(!world.seen.contains(&Effect::Refuse { waiter: other }));
}

#[derive(Clone, Debug)]
enum Step {
    Push,
    Next { conn: u64, wait: Option<u64> },
    CarryOut(usize),
    Hello { conn: u64, runner: u64, has_runs: bool },
    Close(u64),
    Beat(u64),
    End(usize),
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => Just(Step::Push),
        4 => (0..6_u64, prop::option::of(0..60_000_u64))
            .prop_map(|(conn, wait)| Step::Next { conn, wait }),
        8 => (0..8_usize).prop_map(Step::CarryOut),
        2 => (0..6_u64, 0..3_u64, any::<bool>()).prop_map(
            |(conn, runner, has_runs)| Step::Hello { conn, runner, has_runs }
        ),
        1 => (0..6_u64).prop_map(Step::Close),
        2 => (0..6_u64).prop_map(Step::Beat),
        3 => (0..8_usize).prop_map(Step::End),
        2 => (0..20_000_u64).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 0..200)
}

impl World {
    fn step(&mut self, step: Step, epochs: &mut [u64; 6]) {
        // A connection that was closed comes back as a new one.
        let conn = |n: u64, epochs: &[u64; 6]| n + 10 * epochs[n as usize];
        match step {
            Step::Push => {
                self.push();
            }
            Step::Next { conn: n, wait } => {
                self.next(conn(n, epochs), wait.map(ms));
            }
            Step::CarryOut(at) if at < self.open.len() => self.carry_out(at),
            Step::CarryOut(_) => {}
            Step::Hello { conn: n, runner, has_runs } => {
                let runs: Vec<_> = match has_runs {
                    true => self.live.keys().map(|r| self.held(*r)).collect(),
                    false => Vec::new(),
                };
                self.hello(conn(n, epochs), runner, &runs);
            }
            Step::Close(n) => {
                self.event(Event::Closed(ConnId(conn(n, epochs))));
                epochs[n as usize] += 1;
            }
            Step::Beat(n) => {
                let runs = self.live.keys().map(|r| self.held(*r)).collect();
                let conn = ConnId(conn(n, epochs));
                self.event(Event::Sign { conn, runs });
            }
            Step::End(at) => {
                if let Some(run) = self.live.keys().nth(at).copied() {
                    self.end(run);
                }
            }
            Step::Pass(time) => self.pass(ms(time)),
        }
    }
}

proptest! {
    /// Whatever happens: a job is queued, held by one run, or done, and never
    /// two of these; nobody gets two answers; and in the end, with a willing
    /// runner, all jobs are done.
    #[test]
    fn the_books_balance(steps in steps()) {
        let mut world = World::new();
        let mut epochs = [0; 6];
        let mut pushed = 0;
        for step in steps {
            pushed += usize::from(matches!(step, Step::Push));
            world.step(step, &mut epochs);
            let all = world.queue.len() + world.live.len() + world.done.len();
            prop_assert_eq!(all, pushed);
            prop_assert!(world.answers.values().all(|n| *n <= 1));
        }
        // All runners go; whatever they held comes back.
        world.settle();
        for n in 0..6 {
            let conn = ConnId(n + 10 * epochs[n as usize]);
            world.event(Event::Closed(conn));
        }
        world.settle();
        world.pass(LEASE);
        world.settle();
        prop_assert!(world.live.is_empty());
        prop_assert_eq!(world.scheduler.counts(), (0, 0));
        // A willing runner does all of it.
        while world.done.len() < pushed {
            let waiter = world.next(1000, Some(ms(0)));
            world.settle();
            let run = world.given(waiter);
            prop_assert!(run.is_some(), "a queued job is not given out");
            world.end(run.unwrap());
        }
    }
}
