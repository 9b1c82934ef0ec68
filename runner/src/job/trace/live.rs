//! The trace of one repetition while the command runs.

use std::time::Duration;

use ntrace_tracers::{Cpu, Labels, Running, Window};
use tokio::time::{Instant, timeout_at};

use super::Got;
use crate::job::chain;

/// How long a tracer may take to end when the zone must be halted at once.
const BEFORE_HALT: Duration = Duration::from_secs(10);

/// A trace that is being made, or why there is none.
pub(in crate::job) struct Live {
    hz: Option<u32>,
    labels: Labels,
    state: State,
}

enum State {
    /// It is being made.
    Running(Box<dyn Running>),
    /// It was ended already, before its zone was halted.
    Over(Got),
}

impl Live {
    /// None was wanted.
    pub(in crate::job) fn none() -> Self {
        let why = "the run was ended before it was traced".to_owned();
        let labels = Labels::default();
        Self { hz: None, labels, state: State::Over(Err(why)) }
    }

    pub(super) fn of(running: Box<dyn Running>, labels: Labels) -> Self {
        let hz = Some(running.hz());
        Self { hz, labels, state: State::Running(running) }
    }

    pub(super) fn fail(&mut self, why: String) {
        self.state = State::Over(Err(why));
    }

    pub(super) fn hz(&self) -> Option<u32> {
        self.hz
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.state, State::Running(_))
    }

    /// The last seconds.
    pub(in crate::job) async fn window(
        &mut self,
        deadline: Instant,
    ) -> Result<Window, String> {
        let State::Running(running) = &mut self.state else {
            return Err("nothing is traced".to_owned());
        };
        match timeout_at(deadline, running.window()).await {
            Ok(Ok(window)) => Ok(window),
            Ok(Err(error)) => Err(chain(&error)),
            Err(_) => Err("the tracer did not answer in time".to_owned()),
        }
    }

    /// Ends the tracer because its zone is halted next; a tracer that holds
    /// a zone's process could keep the zone from going down.
    pub(in crate::job) async fn end_before_halt(&mut self) {
        let why = Err("it was cut off".to_owned());
        let state = std::mem::replace(&mut self.state, State::Over(why));
        let deadline = Instant::now() + BEFORE_HALT;
        let labels = self.labels.clone();
        let live = Self { hz: self.hz, labels, state };
        let got = live.finish(Cpu::default(), deadline).await;
        self.state = State::Over(got);
    }

    /// Ends the tracer at once; nobody wants what it saw.
    pub(in crate::job) fn drop_it(&mut self) {
        let why = "the run was dropped".to_owned();
        self.state = State::Over(Err(why));
    }

    pub(super) async fn finish(self, cpu: Cpu, deadline: Instant) -> Got {
        let running = match self.state {
            State::Over(got) => return got,
            State::Running(running) => running,
        };
        // The tracer has a deadline of its own; this is for one that does
        // not keep it.
        let grace = deadline + Duration::from_secs(10);
        let finishing = running.finish(self.labels, cpu, deadline);
        match timeout_at(grace, finishing).await {
            Ok(Ok(trace)) => Ok(trace),
            Ok(Err(error)) => Err(chain(&error)),
            Err(_) => Err("the tracer did not end in time".to_owned()),
        }
    }
}
