//! A live lease: who holds it, since when it was heard of, and whether it is
//! to be stopped.

use std::time::Duration;

use ntrace_protocol::{JobId, Lease, RunId, RunnerName, StopOrder, WorkerUuid};

use crate::event::{ConnId, Effect};

/// A live lease.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) job: JobId,
    pub(crate) lease: Lease,
    pub(crate) holder: Holder,
    pub(crate) worker: Option<WorkerUuid>,
    pub(crate) sign: Duration,
    pub(crate) stop: Option<Stop>,
    /// The loss is being written.
    pub(crate) is_lost: bool,
}

/// A stop that was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop {
    order: StopOrder,
    telling: Telling,
}

/// Whether the runner knows. It may not know the run yet when it is told, so
/// it is told again at each sign of life until it has heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Telling {
    NotYet,
    Now,
    Heard,
}

impl Stop {
    pub(crate) fn new(order: StopOrder) -> Self {
        Self { order, telling: Telling::NotYet }
    }

    /// It is asked for again, so it is told again.
    pub(crate) fn then(self, later: StopOrder) -> Self {
        Self::new(self.order.then(later))
    }

    /// The runner has answered, or not.
    pub(crate) fn told(&mut self, is_heard: bool) {
        self.telling = if is_heard { Telling::Heard } else { Telling::NotYet };
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    Named(RunnerName),
    Anonymous(Option<ConnId>),
}

impl Hold {
    /// Tells the runner to stop the run, if that was asked for and it does
    /// not know it yet, or `is_new` and may have forgotten it.
    pub(crate) fn tell_stop(
        &mut self,
        conn: ConnId,
        run: RunId,
        is_new: bool,
        out: &mut Vec<Effect>,
    ) {
        let Some(stop) = &mut self.stop else {
            return;
        };
        if is_new || stop.telling == Telling::NotYet {
            stop.telling = Telling::Now;
            let order = stop.order;
            out.push(Effect::TellStop { conn, run, order });
        }
    }
}
