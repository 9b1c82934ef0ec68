//! A run that is held: its spool, and the way to tell it to end.

use ntrace_spool::RunSpool;

use super::stop::{StopSwitch, StopWhy};

/// A run that is held.
#[derive(Debug)]
pub(super) struct HeldSpool {
    pub(super) spool: RunSpool,
    pub(super) stop: StopSwitch,
}

impl HeldSpool {
    pub(super) fn new(spool: RunSpool) -> Self {
        Self { spool, stop: StopSwitch::new() }
    }

    /// Whether nothing of it is wanted any more.
    pub(super) fn is_dropped(&self) -> bool {
        let order = self.stop.signal().get();
        order.is_some_and(|stop| stop.why == StopWhy::Dropped)
    }
}
