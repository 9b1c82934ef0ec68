//! How a run is told to end.

use std::time::Duration;

use tokio::sync::watch;

/// Why a run is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopWhy {
    /// Somebody asked for it; its end is reported.
    Asked,
    /// It is not ours any more; nothing of it is wanted.
    Dropped,
}

/// An order to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// How long the command has between TERM and KILL.
    pub grace: Duration,
    /// Why.
    pub why: StopWhy,
    /// Whether to see first what it is doing.
    pub evidence: bool,
}

impl Stop {
    /// Of a run that is not ours any more.
    pub(super) fn dropped() -> Self {
        let grace = Duration::ZERO;
        Self { grace, why: StopWhy::Dropped, evidence: false }
    }
}

/// Where the order to end arrives; cheap to clone.
#[derive(Clone, Debug)]
pub struct StopSignal {
    orders: watch::Receiver<Option<Stop>>,
}

impl StopSignal {
    pub(super) fn new(orders: watch::Receiver<Option<Stop>>) -> Self {
        Self { orders }
    }

    /// Waits until the run is to end. Once that is so it resolves at once.
    pub async fn stopped(&mut self) -> Stop {
        loop {
            let order = *self.orders.borrow_and_update();
            if let Some(stop) = order {
                return stop;
            }
            if self.orders.changed().await.is_err() {
                // Nobody is left who could say so.
                return std::future::pending().await;
            }
        }
    }

    /// Waits for an order that was not seen here before: the first one, or
    /// one that changes it.
    pub async fn changed(&mut self) -> Stop {
        loop {
            if self.orders.changed().await.is_err() {
                // Nobody is left who could say so.
                return std::future::pending().await;
            }
            if let Some(stop) = *self.orders.borrow_and_update() {
                return stop;
            }
        }
    }

    /// The order, if there is one by now.
    pub fn get(&self) -> Option<Stop> {
        *self.orders.borrow()
    }
}

/// Where orders are given.
#[derive(Debug)]
pub(super) struct StopSwitch(watch::Sender<Option<Stop>>);

impl StopSwitch {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    pub(super) fn signal(&self) -> StopSignal {
        StopSignal::new(self.0.subscribe())
    }

    /// Gives an order. Dropped is final: nothing overrides it. An order
    /// that is given again changes the grace, and takes no evidence away.
    pub(super) fn give(&self, stop: Stop) {
        self.0.send_if_modified(|now| {
            let is_final = now.is_some_and(|s| s.why == StopWhy::Dropped);
            let is_asked = stop.why == StopWhy::Asked;
            let earlier = now.is_some_and(|s| s.evidence && is_asked);
            let stop = Stop { evidence: stop.evidence || earlier, ..stop };
            if is_final || *now == Some(stop) {
                return false;
            }
            *now = Some(stop);
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn asked(seconds: u64) -> Stop {
        let grace = Duration::from_secs(seconds);
        Stop { grace, why: StopWhy::Asked, evidence: false }
    }

    #[tokio::test]
    async fn a_later_order_changes_the_grace_and_takes_no_evidence_away() {
        let switch = StopSwitch::new();
        let mut signal = switch.signal();
        switch.give(Stop { evidence: true, ..asked(3) });
        assert!(signal.stopped().await.evidence);
        switch.give(asked(1));
        let both = Stop { evidence: true, ..asked(1) };
        assert_eq!(signal.changed().await, both);
        // The same again is no news.
        switch.give(asked(1));
        assert!(signal.changed().now_or_never().is_none());
        switch.give(Stop::dropped());
        assert_eq!(signal.changed().await, Stop::dropped());
    }

    #[tokio::test]
    async fn dropped_is_final() {
        let switch = StopSwitch::new();
        let mut signal = switch.signal();
        assert_eq!(signal.get(), None);
        let (asked, dropped) = (asked(3), Stop::dropped());
        switch.give(asked);
        assert_eq!(signal.stopped().await, asked);
        assert_eq!(signal.clone().stopped().await, asked);
        switch.give(dropped);
        switch.give(asked);
        assert_eq!(signal.stopped().await, dropped);
    }
}
