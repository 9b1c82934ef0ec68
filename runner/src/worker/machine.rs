//! What a worker is, and what follows when a stage of its reset fails.
//!
//! Pure: time is an argument. The moves are those of
//! [`WorkerState::next`]; this adds why and since when, and how often a
//! stage is tried before the worker is given up for a while.
//! Invariant: `Available` is reached only by a whole reset in this process.

use std::time::Duration;

use ntrace_protocol::worker::{Resets, WorkerEvent, WorkerState};
use ntrace_protocol::{JobId, RunId, Timestamp};

/// How often a reset is tried in all before the worker is defunct.
const TRIES: u32 = 3;

/// The pause before the first repetition; each further one is four times as
/// long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// A defunct worker is tried again by itself after this long at first, and
/// after at most [`LAST_RETRIAL`] later.
const FIRST_RETRIAL: Duration = Duration::from_secs(30);

/// See [`FIRST_RETRIAL`].
const LAST_RETRIAL: Duration = Duration::from_secs(600);

/// Why a stage failed, and whether trying again can help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StageFailure {
    /// The whole story: command, exit status, stderr.
    pub(super) sentence: String,
    /// Somebody must act first: the VM is gone, the snapshot is missing.
    pub(super) is_lasting: bool,
}

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// Begin the reset anew after a pause.
    TryAgain(Duration),
    /// Leave it alone, and try by itself after this long.
    GiveUp(Duration),
}

/// A worker's state with its history.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    state: WorkerState,
    since: Timestamp,
    reason: Option<String>,
    /// What a stage that takes long waits for. Gone with the next move.
    waits: Option<String>,
    occupant: Option<(JobId, RunId)>,
    resets: Resets,
    reset_began: Option<Timestamp>,
    /// Failures since the last reset that ended well.
    failures: u32,
    /// Times given up since the last reset that ended well.
    given_up: u32,
}

impl Machine {
    /// A worker of which nothing is known: dirty.
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            state: WorkerState::Dirty,
            since: now,
            reason: None,
            waits: None,
            occupant: None,
            resets: Resets::default(),
            reset_began: None,
            failures: 0,
            given_up: 0,
        }
    }

    /// Where it is.
    pub(super) fn state(&self) -> WorkerState {
        self.state
    }

    /// Since when.
    pub(super) fn since(&self) -> Timestamp {
        self.since
    }

    /// Why; and what takes so long, if it does.
    pub(super) fn reason(&self) -> Option<String> {
        match (&self.waits, &self.reason) {
            (Some(now), Some(before)) => {
                Some(format!("{now}; before that, {before}"))
            }
            (one, other) => one.as_ref().or(other.as_ref()).cloned(),
        }
    }

    /// The job in it.
    pub(super) fn occupant(&self) -> Option<(JobId, RunId)> {
        self.occupant
    }

    /// How often it was reset.
    pub(super) fn resets(&self) -> &Resets {
        &self.resets
    }

    /// Moves on. A move that the table does not have is a fault of ours,
    /// and leaves the worker where it is.
    pub(super) fn apply(&mut self, now: Timestamp, event: WorkerEvent) -> bool {
        let Ok(next) = self.state.next(event) else {
            debug_assert!(false, "{} cannot take {event:?}", self.state);
            return false;
        };
        match event {
            WorkerEvent::Reset => self.reset_began = Some(now),
            WorkerEvent::Probed => {
                self.resets.done += 1;
                let began = self.reset_began.take().unwrap_or(now);
                self.resets.last_ms = Some(now.ms_since(began));
                self.failures = 0;
                self.given_up = 0;
                self.reason = None;
            }
            WorkerEvent::Ended => self.occupant = None,
            _ => {}
        }
        self.state = next;
        self.since = now;
        self.waits = None;
        true
    }

    /// Says why it is where it is.
    pub(super) fn explain(&mut self, sentence: impl Into<String>) {
        self.reason = Some(sentence.into());
    }

    /// It has been where it is for long; says what it waits for.
    pub(super) fn linger(&mut self, now: Timestamp, what: Option<String>) {
        let state = self.state;
        let seconds = now.ms_since(self.since) / 1000;
        let what = what.map_or_else(String::new, |what| format!("; {what}"));
        self.waits = Some(format!("{state} for {seconds} s{what}"));
    }

    /// A job moves in.
    pub(super) fn assign(&mut self, now: Timestamp, job: JobId, run: RunId) {
        if self.apply(now, WorkerEvent::Assign) {
            self.occupant = Some((job, run));
        }
    }

    /// A stage of the reset failed.
    pub(super) fn stage_failed(
        &mut self,
        now: Timestamp,
        failure: StageFailure,
    ) -> Then {
        let stage = self.state;
        self.resets.failed += 1;
        self.failures += 1;
        let gives_up = failure.is_lasting || self.failures >= TRIES;
        let event = match gives_up {
            true => WorkerEvent::GaveUp,
            false => WorkerEvent::StageFailed,
        };
        self.apply(now, event);
        self.reason = Some(format!("{stage}: {}", failure.sentence));
        if gives_up {
            self.failures = 0;
            let retrial = grown(FIRST_RETRIAL, 2, self.given_up);
            self.given_up += 1;
            return Then::GiveUp(retrial.min(LAST_RETRIAL));
        }
        Then::TryAgain(grown(FIRST_PAUSE, 4, self.failures - 1))
    }
}

fn grown(first: Duration, factor: u32, times: u32) -> Duration {
    first.saturating_mul(factor.saturating_pow(times.min(16)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1000);

    fn failing() -> StageFailure {
        StageFailure { sentence: "no".to_owned(), is_lasting: false }
    }

    fn reset(machine: &mut Machine) {
        use WorkerEvent as E;
        for event in [E::Reset, E::Halted, E::RolledBack, E::Booted, E::Probed]
        {
            assert!(machine.apply(NOW, event));
        }
    }

    #[test]
    fn a_new_worker_is_dirty_and_a_whole_reset_makes_it_available() {
        let mut machine = Machine::new(NOW);
        assert_eq!(machine.state(), WorkerState::Dirty);
        reset(&mut machine);
        assert_eq!(machine.state(), WorkerState::Available);
        assert_eq!(machine.resets().done, 1);
    }

    #[test]
    fn a_failing_stage_is_tried_three_times_with_growing_pauses() {
        let mut machine = Machine::new(NOW);
        machine.apply(NOW, WorkerEvent::Reset);
        let second = Duration::from_secs(1);
        let then: Vec<_> =
            (0..3).map(|_| machine.stage_failed(NOW, failing())).collect();
        assert_eq!(
            then,
            [
                Then::TryAgain(second),
                Then::TryAgain(4 * second),
                Then::GiveUp(30 * second),
            ]
        );
        assert_eq!(machine.state(), WorkerState::Defunct);
        assert_eq!(machine.reason().as_deref(), Some("halting: no"));
        assert_eq!(machine.resets().failed, 3);
    }

    #[test]
    fn a_long_stage_says_what_it_waits_for_and_the_next_move_forgets() {
        let mut machine = Machine::new(NOW);
        machine.apply(NOW, WorkerEvent::Reset);
        let later = Timestamp(NOW.0 + 40_900);
        machine.linger(later, Some("`vmadm stop` has not ended".to_owned()));
        let waits = "halting for 40 s; `vmadm stop` has not ended";
        assert_eq!(machine.reason().as_deref(), Some(waits));
        machine.stage_failed(later, failing());
        assert_eq!(machine.reason().as_deref(), Some("halting: no"));
        machine.linger(later, None);
        let both = "halting for 0 s; before that, halting: no";
        assert_eq!(machine.reason().as_deref(), Some(both));
        machine.apply(later, WorkerEvent::Halted);
        assert_eq!(machine.reason().as_deref(), Some("halting: no"));
    }

    #[test]
    fn what_cannot_mend_itself_is_given_up_at_once() {
        let mut machine = Machine::new(NOW);
        machine.apply(NOW, WorkerEvent::Reset);
        let lasting = StageFailure { is_lasting: true, ..failing() };
        assert!(matches!(machine.stage_failed(NOW, lasting), Then::GiveUp(_)));
    }

    #[test]
    fn retrials_of_a_defunct_worker_become_rare_and_success_forgets() {
        let mut machine = Machine::new(NOW);
        let lasting = StageFailure { is_lasting: true, ..failing() };
        let mut retrials = Vec::new();
        for _ in 0..8 {
            machine.apply(NOW, WorkerEvent::Reset);
            match machine.stage_failed(NOW, lasting.clone()) {
                Then::GiveUp(after) => retrials.push(after.as_secs()),
                Then::TryAgain(_) => panic!("it is lasting"),
            }
        }
        assert_eq!(retrials, [30, 60, 120, 240, 480, 600, 600, 600]);
        reset(&mut machine);
        assert_eq!(machine.reason(), None);
        machine.apply(NOW, WorkerEvent::Stale);
        machine.apply(NOW, WorkerEvent::Reset);
        assert_eq!(
            machine.stage_failed(NOW, lasting),
            Then::GiveUp(FIRST_RETRIAL)
        );
    }

    #[test]
    fn the_occupant_is_known_while_the_job_runs() {
        let mut machine = Machine::new(NOW);
        reset(&mut machine);
        let job = JobId::generate(1, 1);
        let run = RunId::generate(1, 2);
        machine.assign(NOW, job, run);
        assert_eq!(machine.occupant(), Some((job, run)));
        machine.apply(NOW, WorkerEvent::Ended);
        assert_eq!(machine.occupant(), None);
        assert_eq!(machine.state(), WorkerState::Dirty);
    }
}
